/* Proves what a client may see when, by policy: with token and token-fsync nothing before its row is committed, with
 * request nothing before the accept is, with off at once; that tokens and end are in the store in that order; and
 * that a front which finds the end in arrived tokens is told of it once. How: a controller on an SQLite file whose
 * commits are counted at each event; what is there afterwards is read back.
 */
#include "tests/unit/controller/rig.h"

#include "controller/store/store.h"

#include <string.h>

static struct rig rig;

static uint64_t commits(void)
{
    struct store_status st;
    store_status(ctl_store(rig.ctl), &st);
    return st.n_commit;
}

struct kept {
    int64_t n_tok, n_row, n_end, n_request;
    bool there;
};

static int on_request(void *arg, const struct store_request *q)
{
    (void)q;
    ((struct kept *)arg)->n_request++;
    return 0;
}

static int on_row(void *arg, const struct store_tokens *t)
{
    struct kept *k = arg;
    k->n_tok += t->n;
    k->n_row++;
    return 0;
}

static int on_stored_end(void *arg, const struct store_end *e)
{
    struct kept *k = arg;
    assert_int_equal(e->n_tok, k->n_tok);
    k->n_end++;
    return 0;
}

static void on_fetched(void *arg, const struct store_fetched *f)
{
    static const struct store_visitor v = {.on_request = on_request, .on_tokens = on_row, .on_end = on_stored_end};
    struct kept *k = arg;
    assert_int_equal(f->rc, 0);
    assert_int_equal(store_fetched_visit(f, &v, k), 0);
    k->there = true;
}

static struct kept kept_of(const char *id)
{
    struct kept k = {0};
    struct err err;
    const struct store_query q = {.kind = STORE_QUERY_request, .id = id};
    assert_int_equal(store_fetch(ctl_store(rig.ctl), &q, on_fetched, &k, &err), 0);
    rig_until(&rig, k.there);
    return k;
}

static struct rig_worker *open_with(enum ctl_commit commit)
{
    rig_init(&rig);
    rig.config.commit = commit;
    rig_store(&rig, NULL);
    rig_open(&rig);
    struct rig_worker *w = rig_worker_init(&rig, 0);
    w->manual = true;
    rig_worker_join(w);
    return w;
}

static void end(void)
{
    rig_close(&rig);
    rig_unlink(&rig);
}

static void test_token(void **state)
{
    (void)state;
    static const enum ctl_commit policy[] = {CTL_COMMIT_token, CTL_COMMIT_token_fsync};
    for (size_t i = 0; i < N_ELEM(policy); i++) {
        struct rig_worker *w = open_with(policy[i]);
        struct rig_req *r = rig_start(&rig, 1, 8);
        assert_false(r->req->accepted);
        rig_until(&rig, w->n_generate == 1 && r->accepted);
        for (int k = 0; k < 4; k++) {
            uint64_t before = commits();
            rig_worker_tokens(w, w->epoch, "req-1.0", 1, r->req->choice[0].seed, 2 * k, 2);
            rig_until(&rig, r->heard[0].n_tok == 2 * k + 2);
            assert_true(commits() > before);
        }
        rig_worker_finished(w, "req-1.0", 1, 8);
        rig_until(&rig, r->n_ended == 1);
        rig_assert_output(r, CTL_END_length, 8);
        struct kept k = kept_of("req-1");
        assert_true(k.n_request == 1 && k.n_tok == 8 && k.n_row == 4 && k.n_end == 1);
        assert_int_equal(r->n_ending, 1);
        end();
    }
}

static void test_request(void **state)
{
    (void)state;
    struct rig_worker *w = open_with(CTL_COMMIT_request);
    struct rig_req *r = rig_start(&rig, 1, 8);
    rig_until(&rig, w->n_generate == 1 && r->accepted);
    uint64_t before = commits();
    for (int k = 0; k < 4; k++)
        rig_worker_tokens(w, w->epoch, "req-1.0", 1, r->req->choice[0].seed, 2 * k, 2);
    rig_until(&rig, r->heard[0].n_tok == 8);
    assert_int_equal(commits(), before);
    rig_worker_finished(w, "req-1.0", 1, 8);
    rig_until(&rig, r->n_ended == 1);
    struct kept k = kept_of("req-1");
    assert_true(k.n_tok == 8 && k.n_row == 1 && k.n_end == 1);
    end();
}

static void test_off(void **state)
{
    (void)state;
    struct rig_worker *w = open_with(CTL_COMMIT_off);
    struct rig_req *r = rig_start(&rig, 1, 8);
    assert_true(r->req->accepted && r->req->off_record);
    rig_until(&rig, w->n_generate == 1);
    rig_worker_tokens(w, w->epoch, "req-1.0", 1, r->req->choice[0].seed, 0, 8);
    rig_worker_finished(w, "req-1.0", 1, 8);
    rig_until(&rig, r->n_ended == 1);
    assert_int_equal(kept_of("req-1").n_request, 0);
    end();
}

/* Two requests of one id in one store: the second is refused by the store, and says so. */
static void test_refused(void **state)
{
    (void)state;
    struct rig_worker *w = open_with(CTL_COMMIT_token);
    struct rig_req *r = rig_start(&rig, 1, 8);
    rig_until(&rig, w->n_generate == 1);
    rig_worker_tokens(w, w->epoch, "req-1.0", 1, r->req->choice[0].seed, 0, 8);
    rig_worker_finished(w, "req-1.0", 1, 8);
    rig_until(&rig, r->n_ended == 1);
    struct rig_req *twin = rig_request(&rig, 1, 8, 0);
    struct err err;
    snprintf(twin->req->id, sizeof twin->req->id, "req-1");
    assert_int_equal(rig_submit(twin, &err), 0);
    rig_until(&rig, twin->n_ended == 1);
    assert_int_equal(twin->heard[0].end, CTL_END_failed);
    assert_non_null(strstr(twin->req->choice[0].fail_text, "already"));
    assert_false(twin->accepted);
    assert_int_equal(kept_of("req-1").n_tok, 8);
    end();
}

static void test_names(void **state)
{
    (void)state;
    enum ctl_commit c;
    assert_int_equal(ctl_commit_of("token-fsync", &c), 0);
    assert_int_equal(c, CTL_COMMIT_token_fsync);
    assert_string_equal(ctl_commit_name(CTL_COMMIT_request), "request");
    assert_int_equal(ctl_commit_of("never", &c), ERR_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token),   cmocka_unit_test(test_request), cmocka_unit_test(test_off),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
