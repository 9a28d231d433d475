/* Proves: what was accepted goes on after the controller's end, from the committed tokens, in the same order and with
 * the same numbers; its worker epochs are above all earlier ones; a store that is in use or fails is named. How:
 * controllers one after the other on one SQLite file, scripted workers; the first one leaves its requests as a death
 * would.
 */
#include "tests/unit/controller/rig.h"

#include "controller/store/store.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>

static struct rig rig, next;

static void test_goes_on_after_a_restart(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_store(&rig, NULL);
    rig_open(&rig);
    struct rig_worker *w = rig_worker_init(&rig, 0);
    rig_worker_join(w);
    uint64_t epoch = w->epoch;
    struct rig_req *r = rig_start(&rig, 2, 40), *late = rig_start(&rig, 1, 400);
    rig_until(&rig, r->n_ended == 2 && late->heard[0].n_tok >= 50);
    assert_true(r->accepted && late->accepted);
    assert_int_equal(r->n_ending, 2);
    int64_t shown = late->heard[0].n_tok;
    uint64_t seed = late->req->choice[0].seed;
    rig.leave = true;
    rig_close(&rig);

    rig_init(&next);
    rig_store(&next, &rig);
    rig_open(&next);
    assert_int_equal(next.n_req, 1); /* the ended one is not read back */
    struct rig_req *again = &next.reqs[0];
    assert_string_equal(again->req->id, "req-2");
    assert_true(again->req->recovered && again->req->accepted);
    assert_true(again->req->choice[0].seed == seed);
    assert_ptr_equal(ctl_request_find(next.ctl, "req-2"), again->req);
    assert_null(ctl_request_find(next.ctl, "req-1"));
    /* Whoever attaches is told all that is committed, before a worker is there. */
    rig_until(&next, again->heard[0].n_tok > 0);
    assert_true(again->heard[0].n_tok >= shown);
    int64_t committed = again->heard[0].n_tok;
    w = rig_worker_init(&next, 0);
    rig_worker_join(w);
    assert_true(w->epoch > epoch + 1000);
    rig_until(&next, again->n_ended == 1);
    rig_assert_output(again, CTL_END_length, 400);
    assert_int_equal(w->last.n_committed, committed);
    assert_int_equal(again->req->choice[0].n_dispatch, 2);
    rig_close(&next);

    rig_init(&next);
    rig_store(&next, &rig);
    rig_open(&next);
    assert_int_equal(next.n_req, 0);
    rig_close(&next);
    rig_unlink(&rig);
}

static void test_all_tokens_are_there_and_no_end(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_store(&rig, NULL);
    rig_open(&rig);
    struct rig_worker *w = rig_worker_init(&rig, 0);
    w->manual = true;
    rig_worker_join(w);
    struct rig_req *r = rig_start(&rig, 1, 3);
    rig_until(&rig, w->n_generate == 1);
    rig_worker_tokens(w, w->epoch, "req-1.0", 1, r->req->choice[0].seed, 0, 3);
    rig_until(&rig, r->heard[0].n_tok == 3);
    rig.leave = true;
    rig_close(&rig);
    /* No worker has to come: the length is reached. */
    rig_init(&next);
    rig_store(&next, &rig);
    rig_open(&next);
    rig_until(&next, next.n_req == 1 && next.reqs[0].n_ended == 1);
    rig_assert_output(&next.reqs[0], CTL_END_length, 3);
    rig_close(&next);
    rig_unlink(&rig);
}

static void test_a_deadline_outlives_the_process(void **state)
{
    (void)state;
    struct err err;
    rig_init(&rig);
    rig_store(&rig, NULL);
    rig_open(&rig);
    struct rig_req *r = rig_request(&rig, 1, 5, 500);
    assert_int_equal(rig_submit(r, &err), 0);
    rig_until(&rig, r->accepted);
    rig.leave = true;
    rig_close(&rig);
    rig_init(&next);
    rig_store(&next, &rig);
    rig_open(&next);
    assert_int_equal(next.n_req, 1);
    rig_until(&next, next.reqs[0].n_ended == 1);
    assert_int_equal(next.reqs[0].heard[0].end, CTL_END_deadline);
    rig_close(&next);
    rig_unlink(&rig);
}

static void test_in_use(void **state)
{
    (void)state;
    struct err err;
    struct ctl *ctl = NULL;
    static const struct ctl_front_ops none = {0};
    const struct ctl_parts parts = {.front = &none};
    rig_init(&rig);
    rig_store(&rig, NULL);
    rig_open(&rig);
    assert_int_equal(ctl_open_with(&rig.loop, &rig.config, &parts, &ctl, &err), ERR_BUSY);
    assert_memory_equal(err.text, "locked", 6);
    rig_close(&rig);
    rig_unlink(&rig);
}

/* A file that may not grow: nothing new, nothing shown but an error; all is well when it may again. */
static void test_a_store_that_fails(void **state)
{
    (void)state;
    struct rlimit old, small;
    struct err err;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    rig_init(&rig);
    rig_store(&rig, NULL);
    rig_open(&rig);
    struct rig_worker *w = rig_worker_init(&rig, 0);
    rig_worker_join(w);
    struct rig_req *r = rig_start(&rig, 1, 4000);
    struct rig_req *brief = rig_request(&rig, 1, 4000, 900);
    assert_int_equal(rig_submit(brief, &err), 0);
    rig_until(&rig, r->heard[0].n_tok > 20 && brief->heard[0].n_tok > 20);
    assert_true(ctl_is_ready(rig.ctl));
    small = old;
    small.rlim_cur = 1;
    setrlimit(RLIMIT_FSIZE, &small);
    rig_until(&rig, ctl_store_fault(rig.ctl));
    assert_string_equal(ctl_store_fault(rig.ctl), "disk_full");
    assert_false(ctl_is_ready(rig.ctl));
    struct rig_req *refused = rig_request(&rig, 1, 5, 0);
    assert_int_equal(rig_submit(refused, &err), ERR_STATE);
    assert_non_null(strstr(err.text, "disk_full"));
    int64_t shown = r->heard[0].n_tok;
    rig_until(&rig, brief->n_ended == 1);
    assert_int_equal(brief->heard[0].end, CTL_END_deadline);
    assert_int_equal(r->heard[0].n_tok, shown);
    assert_true(r->req->choice[0].out.n > shown); /* they arrive, and wait */
    setrlimit(RLIMIT_FSIZE, &old);
    rig_until(&rig, r->heard[0].n_tok > shown + 20);
    assert_null(ctl_store_fault(rig.ctl));
    rig_close(&rig);
    rig_unlink(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goes_on_after_a_restart),
        cmocka_unit_test(test_all_tokens_are_there_and_no_end),
        cmocka_unit_test(test_a_deadline_outlives_the_process),
        cmocka_unit_test(test_in_use),
        cmocka_unit_test(test_a_store_that_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
