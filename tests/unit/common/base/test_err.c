/* Proves: texts stay one line and inside the struct, context goes in front and the reason survives. */
#include "common/base/err.h"
#include "tests/unit/test.h"

#include <string.h>

static void test_one_line(void **state)
{
    struct err err;
    (void)state;
    assert_int_equal(err_set(&err, ERR_IO, "file %s", "a\nb\x1b[31m"), ERR_IO);
    assert_string_equal(err.text, "file a?b?[31m");
    assert_int_equal(err_set(NULL, ERR_IO, "x"), ERR_IO);
}

static void test_wrap_keeps_the_reason(void **state)
{
    struct err err;
    char longer[ERR_TEXT_MAX * 2];
    (void)state;
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    err_set(&err, ERR_FORMAT, "the reason");
    assert_int_equal(err_wrap(&err, "%s", longer), ERR_FORMAT);
    assert_int_equal(strlen(err.text), ERR_TEXT_MAX - 1);
    assert_string_equal(err.text + strlen(err.text) - 12, ": the reason");
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(err_name(ERR_LIMIT), "ERR_LIMIT");
    assert_string_equal(err_name(0), "ERR_OK");
    assert_string_equal(err_name(-1000), "?");
    assert_string_equal(err_name(7), "?");
    assert_string_equal(err_general(ERR_MISSING), "not found");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_line),
        cmocka_unit_test(test_wrap_keeps_the_reason),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
