/* Proves: a child's lines arrive whole, also what it wrote last and without a newline; exit status and signal are
 * told once; a missing program is an error, not an end; a child can be started again; a grandchild that keeps the
 * pipes open does not hold up the end; back-off doubles to its limit and begins anew after a healthy life. How:
 * /bin/sh on a real loop, which must close clean. */
#include "controller/cli/child.h"
#include "common/mem/buf.h"
#include "tests/unit/test.h"

#include <signal.h>
#include <string.h>

struct seen {
    struct buf lines;
    size_t longest;
    int n_end, exit_status, signal;
};

static void on_line(struct child *c, int fd, const char *line, size_t n)
{
    struct seen *s = c->arg;

    assert_int_equal(line[n], 0);
    if (n > s->longest)
        s->longest = n;
    if (n < 100)
        buf_addf(&s->lines, "%d:%s;", fd, line);
}

static void on_end(struct child *c, int exit_status, int signal)
{
    struct seen *s = c->arg;

    assert_true(child_is_idle(c));
    s->n_end++;
    s->exit_status = exit_status;
    s->signal = signal;
}

/* Run a shell command to its end on a fresh loop. */
static void run(const char *script, int kill_with, struct seen *s)
{
    char *argv[] = {(char *)"/bin/sh", (char *)"-c", (char *)script, NULL};
    struct child c;
    uv_loop_t loop;

    memset(s, 0, sizeof *s);
    assert_int_equal(uv_loop_init(&loop), 0);
    child_init(&c, &loop, "sh", on_line, on_end, s);
    assert_int_equal(child_start(&c, argv, NULL), 0);
    assert_true(child_pid(&c) > 0);
    if (kill_with)
        child_kill(&c, kill_with);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(child_pid(&c), 0);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void test_lines(void **state)
{
    struct seen s;

    (void)state;
    run("echo one; echo two >&2; printf three; exit 7", 0, &s);
    assert_non_null(strstr(s.lines.data, "1:one;"));
    assert_non_null(strstr(s.lines.data, "2:two;"));
    assert_non_null(strstr(s.lines.data, "1:three;"));
    assert_int_equal(s.n_end, 1);
    assert_int_equal(s.exit_status, 7);
    assert_int_equal(s.signal, 0);
    buf_release(&s.lines);
}

static void test_long_line(void **state)
{
    struct seen s;

    (void)state;
    run("printf '%0*d' 10000 1; echo; echo end", 0, &s);
    assert_int_equal(s.longest, CHILD_LINE_MAX);
    assert_non_null(strstr(s.lines.data, "1:end;"));
    buf_release(&s.lines);
}

static void test_signal(void **state)
{
    struct seen s;

    (void)state;
    run("sleep 60", SIGKILL, &s);
    assert_int_equal(s.n_end, 1);
    assert_int_equal(s.signal, SIGKILL);
    buf_release(&s.lines);
}

static void test_grandchild(void **state)
{
    struct seen s;
    uint64_t before = uv_hrtime();

    (void)state;
    run("sleep 3 & echo gone", 0, &s);
    assert_non_null(strstr(s.lines.data, "1:gone;"));
    assert_true(uv_hrtime() - before < 2000000000u);
    buf_release(&s.lines);
}

static void test_missing_then_again(void **state)
{
    char *missing[] = {(char *)"/nonexistent/program", NULL};
    char *good[] = {(char *)"/bin/sh", (char *)"-c", (char *)"exit 3", NULL};
    struct seen s = {0};
    struct err err = {0};
    struct child c;
    uv_loop_t loop;

    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    child_init(&c, &loop, "x", on_line, on_end, &s);
    assert_int_equal(child_start(&c, missing, &err), ERR_IO);
    assert_non_null(strstr(err.text, "/nonexistent/program"));
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(s.n_end, 0);
    for (int i = 1; i <= 3; i++) {
        assert_true(child_is_idle(&c));
        assert_int_equal(child_start(&c, good, &err), 0);
        uv_run(&loop, UV_RUN_DEFAULT);
        assert_int_equal(s.n_end, i);
        assert_int_equal(s.exit_status, 3);
    }
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void test_backoff(void **state)
{
    struct child c = {0};
    int64_t expect = CHILD_BACKOFF_MS;

    (void)state;
    for (int i = 0; i < 70; i++) {
        assert_int_equal(child_backoff_ms(&c, 5), expect);
        expect = expect * 2 < CHILD_BACKOFF_MS_MAX ? expect * 2 : CHILD_BACKOFF_MS_MAX;
    }
    assert_int_equal(child_backoff_ms(&c, CHILD_HEALTHY_MS), CHILD_BACKOFF_MS);
    assert_int_equal(child_backoff_ms(&c, 0), 2 * CHILD_BACKOFF_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),      cmocka_unit_test(test_long_line),
        cmocka_unit_test(test_signal),     cmocka_unit_test(test_grandchild),
        cmocka_unit_test(test_missing_then_again), cmocka_unit_test(test_backoff),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
