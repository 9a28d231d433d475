/* Proves the promise "no token twice, none lost" at its one place: tokens are taken only from the current attempt of a
 * running choice and exactly at the next index, all or none; and that an illegal move of a choice aborts. How: each
 * wrong kind of message once, looking that nothing has changed; the illegal move in a child process.
 */
#include "tests/unit/test.h"

#include "common/base/check.h"
#include "controller/ledger/request.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { VOCAB = 100 };

static struct ctl_request *running_request(int32_t n_top)
{
    struct ctl_request *r = ctl_request_new(2);
    r->max_output = 200;
    r->sampling.n_top = n_top;
    ctl_choice_move(&r->choice[0], CTL_CHOICE_running);
    r->choice[0].attempt = 3;
    return r;
}

static void test_takes_the_next_index(void **state)
{
    (void)state;
    struct ctl_request *r = running_request(0);
    struct ctl_choice *c = &r->choice[0];

    for (int64_t i = 0; i < 150; i += 3) {
        struct msg_token t[3] = {{.id = (int32_t)i % VOCAB, .logprob = -1}, {.id = 1}, {.id = 2}};
        assert_int_equal(ledger_commit(c, 3, i, 3, t, VOCAB), LEDGER_committed);
        assert_int_equal(c->out.n, i + 3);
    }
    for (int64_t i = 0; i < 150; i += 3) {
        assert_int_equal(c->out.id[i], i % VOCAB);
        assert_int_equal(c->out.id[i + 2], 2);
        assert_true(c->out.logprob[i] == -1.0f);
    }
    assert_null(c->out.top);
    ctl_request_destroy(&r);
    assert_null(r);
}

static void test_refuses_everything_else(void **state)
{
    (void)state;
    struct ctl_request *r = running_request(0);
    struct ctl_choice *c = &r->choice[0];
    struct msg_token t[201] = {{.id = 5}, {.id = 6}, {.id = 7}}, bad[] = {{.id = 1}, {.id = VOCAB}},
                     negative = {.id = -1};

    assert_int_equal(ledger_commit(c, 3, 0, 2, t, VOCAB), LEDGER_committed);
    assert_int_equal(ledger_commit(c, 2, 2, 1, t, VOCAB), LEDGER_stale);
    assert_int_equal(ledger_commit(c, 4, 2, 1, t, VOCAB), LEDGER_stale);
    assert_int_equal(ledger_commit(c, 3, 0, 2, t, VOCAB), LEDGER_repeat);
    assert_int_equal(ledger_commit(c, 3, 1, 3, t, VOCAB), LEDGER_repeat); /* overlaps: not even its new part */
    assert_int_equal(ledger_commit(c, 3, 3, 1, t, VOCAB), LEDGER_gap);
    assert_int_equal(ledger_commit(c, 3, 2, 199, t, VOCAB), LEDGER_excess);
    assert_int_equal(ledger_commit(c, 3, 2, 2, bad, VOCAB), LEDGER_excess);
    assert_int_equal(ledger_commit(c, 3, 2, 1, &negative, VOCAB), LEDGER_excess);
    assert_int_equal(ledger_commit(&r->choice[1], 0, 0, 1, t, VOCAB), LEDGER_stale); /* queued */
    assert_int_equal(c->out.n, 2);
    assert_int_equal(c->out.id[0], 5);
    assert_int_equal(c->out.id[1], 6);
    assert_int_equal(ledger_commit(c, 3, 2, 198, t, VOCAB), LEDGER_committed); /* up to the limit */
    ctl_choice_move(c, CTL_CHOICE_ended);
    assert_int_equal(ledger_commit(c, 3, 200, 1, t, VOCAB), LEDGER_stale);
    ctl_request_destroy(&r);
}

static void test_alternatives(void **state)
{
    (void)state;
    struct ctl_request *r = running_request(3);
    struct ctl_choice *c = &r->choice[0];
    struct msg_token t[] = {{.id = 5, .n_top = 2, .top = {{.id = 5, .logprob = -1}, {.id = 9, .logprob = -2}}},
                            {.id = 6, .n_top = 4, .top = {{.id = 1}, {.id = 2}, {.id = 3}, {.id = 4}}}};

    assert_int_equal(ledger_commit(c, 3, 0, 2, t, VOCAB), LEDGER_committed);
    assert_int_equal(c->out.top[0].id, 5);
    assert_int_equal(c->out.top[1].id, 9);
    assert_int_equal(c->out.top[2].id, -1); /* the worker had fewer than were asked for */
    assert_int_equal(c->out.top[3].id, 1);
    assert_int_equal(c->out.top[5].id, 3); /* the fourth is not kept */
    ctl_request_destroy(&r);
}

static void test_end_must_match(void **state)
{
    (void)state;
    struct ctl_request *r = running_request(0);
    struct ctl_choice *c = &r->choice[0];
    struct msg_token t[2] = {{.id = 5}, {.id = 6}};

    assert_int_equal(ledger_commit(c, 3, 0, 2, t, VOCAB), LEDGER_committed);
    assert_int_equal(ledger_check_end(c, 2, 2), LEDGER_stale);
    assert_int_equal(ledger_check_end(c, 3, 3), LEDGER_gap);
    assert_int_equal(ledger_check_end(c, 3, 1), LEDGER_excess);
    assert_int_equal(ledger_check_end(c, 3, 2), LEDGER_committed);
    assert_int_equal(c->state, CTL_CHOICE_running);
    ctl_request_destroy(&r);
}

/* True if moving from `from` to `to` aborts the process. */
static bool move_aborts(enum ctl_choice_state from, enum ctl_choice_state to)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        struct ctl_choice c = {.state = from};
        signal(SIGABRT, SIG_DFL); /* cmocka's and the sanitizer's handlers are not wanted here */
        close(STDERR_FILENO);
        ctl_choice_move(&c, to);
        _exit(0);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_moves(void **state)
{
    (void)state;
    for (int from = 0; from < CTL_CHOICE_STATE_N; from++)
        for (int to = 0; to < CTL_CHOICE_STATE_N; to++) {
            bool legal = from != CTL_CHOICE_ended && from != to;
            assert_int_equal(move_aborts((enum ctl_choice_state)from, (enum ctl_choice_state)to), !legal);
        }
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(ctl_end_name(CTL_END_quarantined), "quarantined");
    assert_string_equal(ctl_end_name((enum ctl_end)99), "?");
    assert_string_equal(ctl_choice_state_name(CTL_CHOICE_running), "running");
    assert_string_equal(ledger_verdict_name(LEDGER_gap), "gap");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takes_the_next_index), cmocka_unit_test(test_refuses_everything_else),
        cmocka_unit_test(test_alternatives),         cmocka_unit_test(test_end_must_match),
        cmocka_unit_test(test_moves),                cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
