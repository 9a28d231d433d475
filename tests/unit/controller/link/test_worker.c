/* Proves the table of legal moves of a worker: lost is for ever, everything else aborts. How: each move in a child.
 */
#include "tests/unit/test.h"

#include "controller/link/worker.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static bool move_aborts(int from, int to)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        struct ctl_worker w = {.state = (enum ctl_worker_state)from};
        signal(SIGABRT, SIG_DFL);
        close(STDERR_FILENO);
        ctl_worker_move(&w, (enum ctl_worker_state)to);
        _exit(0);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_moves(void **state)
{
    (void)state;
    for (int from = 0; from < CTL_WORKER_STATE_N; from++)
        for (int to = 0; to < CTL_WORKER_STATE_N; to++)
            assert_int_equal(move_aborts(from, to), from == CTL_WORKER_lost || from == to);
    assert_string_equal(ctl_worker_state_name(CTL_WORKER_draining), "draining");
    assert_string_equal(ctl_worker_state_name((enum ctl_worker_state)9), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_moves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
