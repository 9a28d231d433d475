/* Proves: words on the command line find their command (one word or two), help is 0 and unknown words are 2; sibling
 * programs are found in the program's own directory; input is read to its limit and not beyond. What the texts say is
 * tested end to end (tests/e2e/usage.py). */
#include "controller/cli/cli.h"
#include "tests/unit/test.h"

#include <string.h>

static int run(const char *a, const char *b, const char *c)
{
    char *argv[] = {(char *)"baton", (char *)a, (char *)b, (char *)c, NULL};
    int argc = 1;

    while (argv[argc])
        argc++;
    return cli_run(argc, argv);
}

static void test_help(void **state)
{
    (void)state;
    assert_int_equal(run("--help", NULL, NULL), CLI_GOOD);
    assert_int_equal(run("-h", NULL, NULL), CLI_GOOD);
    assert_int_equal(run("help", NULL, NULL), CLI_GOOD);
    assert_int_equal(run("help", "ps", NULL), CLI_GOOD);
    assert_int_equal(run("tokenize", "--help", NULL), CLI_GOOD);
    assert_int_equal(run("model", "--help", NULL), CLI_GOOD);
}

static void test_usage(void **state)
{
    (void)state;
    assert_int_equal(run(NULL, NULL, NULL), CLI_USAGE);
    assert_int_equal(run("", NULL, NULL), CLI_USAGE);
    assert_int_equal(run("tokenise", NULL, NULL), CLI_USAGE);
    assert_int_equal(run("model", NULL, NULL), CLI_USAGE);
    assert_int_equal(run("model", "inf", NULL), CLI_USAGE);
    assert_int_equal(run("help", "model", "inf"), CLI_USAGE);
    assert_int_equal(run("render", "--nonsense", NULL), CLI_USAGE);
    assert_int_equal(run("tokenize", NULL, NULL), CLI_USAGE);
    assert_int_equal(run("ps", "word", NULL), CLI_USAGE);
}

static void test_sibling(void **state)
{
    char path[CLI_PATH_MAX];
    struct err err = {0};

    (void)state;
    assert_int_equal(cli_sibling("no-such-program", path, &err), ERR_MISSING);
    assert_non_null(strstr(err.text, "no-such-program"));
    assert_int_equal(cli_sibling("test_controller_cli_cli", path, &err), 0); /* this very program */
}

static void test_read_all(void **state)
{
    char text[] = "0123456789";
    struct buf out = {0};
    FILE *f = fmemopen(text, 10, "r");

    (void)state;
    assert_int_equal(cli_read_all(f, 10, &out, NULL), 0);
    assert_int_equal(out.len, 10);
    rewind(f);
    buf_clear(&out);
    assert_int_equal(cli_read_all(f, 9, &out, NULL), ERR_LIMIT);
    fclose(f);
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_usage),
        cmocka_unit_test(test_sibling),
        cmocka_unit_test(test_read_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
