/* Proves: ended requests go when they are too many or too old, a few in one transaction, until enough are gone; those
 * that live stay whatever their age. How: a controller with small limits on an SQLite file, asked by store_fetch.
 */
#include "tests/unit/controller/rig.h"

#include "controller/store/store.h"

#include <string.h>

static struct rig rig;

struct answer {
    bool there, known;
};

static void on_fetched(void *arg, const struct store_fetched *f)
{
    struct answer *a = arg;
    assert_int_equal(f->rc, 0);
    a->known = f->n > 0;
    a->there = true;
}

static bool is_known(int i)
{
    struct answer a = {0};
    struct err err;
    char id[32];
    snprintf(id, sizeof id, "req-%d", i);
    const struct store_query q = {.kind = STORE_QUERY_request, .id = id};
    assert_int_equal(store_fetch(ctl_store(rig.ctl), &q, on_fetched, &a, &err), 0);
    rig_until(&rig, a.there);
    return a.known;
}

static void open_with(int64_t kept_max, int64_t idempotency_ms)
{
    rig_init(&rig);
    rig.config.limit.kept_max = kept_max;
    rig.config.limit.idempotency_ms = idempotency_ms;
    rig.config.limit.prune_ms = 50;
    rig.config.limit.prune_max = 2;
    rig_store(&rig, NULL);
    rig_open(&rig);
    rig_worker_join(rig_worker_init(&rig, 0));
}

static void test_by_number(void **state)
{
    (void)state;
    open_with(3, 1000000);
    struct rig_req *lives = rig_start(&rig, 1, 4000); /* the oldest */
    for (int i = 0; i < 9; i++) {
        struct rig_req *r = rig_start(&rig, 1, 2);
        rig_until(&rig, r->n_ended == 1);
    }
    rig_until(&rig, !is_known(7));
    assert_true(is_known(1) && is_known(8) && is_known(9) && is_known(10));
    for (int i = 2; i < 8; i++)
        assert_false(is_known(i));
    assert_int_equal(lives->n_ended, 0);
    rig_close(&rig);
    rig_unlink(&rig);
}

static void test_by_age(void **state)
{
    (void)state;
    open_with(1000, 300);
    struct rig_req *lives = rig_start(&rig, 1, 4000), *r = rig_start(&rig, 1, 2);
    rig_until(&rig, r->n_ended == 1);
    assert_true(is_known(2));
    rig_until(&rig, !is_known(2));
    assert_true(is_known(1));
    assert_int_equal(lives->n_ended, 0);
    rig_close(&rig);
    rig_unlink(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_by_number), cmocka_unit_test(test_by_age)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
