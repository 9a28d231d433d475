/* Proves: a line has stamp, level, program and area; control characters of foreign text cannot break it; a line too
 * long is cut and still ends; levels filter. The test reads stderr back through a pipe. */
#include "common/base/log.h"
#include "common/base/err.h"
#include "tests/unit/test.h"

#include <string.h>
#include <unistd.h>

static char got[8192];

/* Run what stands between with stderr in a pipe; its output lands in `got`. */
static int saved, pipe_fd[2];

static void capture_begin(void)
{
    assert_int_equal(pipe(pipe_fd), 0);
    saved = dup(STDERR_FILENO);
    assert_true(saved >= 0);
    dup2(pipe_fd[1], STDERR_FILENO);
}

static void capture_end(void)
{
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(pipe_fd[1]);
    ssize_t n = read(pipe_fd[0], got, sizeof got - 1);
    got[n > 0 ? n : 0] = 0;
    close(pipe_fd[0]);
}

static void test_line(void **state)
{
    (void)state;
    assert_int_equal(log_init("controller", NULL), 0);
    capture_begin();
    log_info(link, "worker=%s joined", "w\n1\x1b[0m");
    log_debug(link, "not shown at level info");
    capture_end();
    assert_non_null(strstr(got, "Z info  controller link: worker=w?1?[0m joined\n"));
    assert_int_equal(got[4], '-');
    assert_int_equal(got[10], 'T');
    assert_null(strstr(got, "not shown"));
}

static void test_long_line_is_cut(void **state)
{
    char text[2 * LOG_LINE_MAX];
    (void)state;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    capture_begin();
    log_error(main, "%s", text);
    capture_end();
    assert_int_equal(strlen(got), LOG_LINE_MAX - 1);
    assert_int_equal(got[LOG_LINE_MAX - 2], '\n');
}

static void test_levels(void **state)
{
    (void)state;
    assert_int_equal(log_init("x", "loud"), ERR_ARG);
    assert_int_equal(log_init("x", "error"), 0);
    assert_true(log_is_on(LOG_error));
    assert_false(log_is_on(LOG_warn));
    assert_int_equal(log_init("x", "debug"), 0);
    assert_true(log_is_on(LOG_debug));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_long_line_is_cut),
        cmocka_unit_test(test_levels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
