/* Proves: every class of error has a name that leads back to it, and only those that may pass are tried again. */
#include "controller/agent/plan/fault.h"
#include "tests/unit/test.h"

static void test_names(void **state)
{
    (void)state;
    for (int f = FAULT_none + 1; f < FAULT_N; f++)
        assert_int_equal(fault_by_name(fault_name((enum fault)f)), f);
    assert_int_equal(fault_by_name("nothing"), FAULT_N);
    assert_int_equal(fault_by_name("none"), FAULT_N);
    assert_string_equal(fault_name(FAULT_N), "?");
}

static void test_retryable(void **state)
{
    (void)state;
    assert_true(fault_is_retryable(FAULT_busy));
    assert_true(fault_is_retryable(FAULT_schema));
    assert_false(fault_is_retryable(FAULT_none));
    assert_false(fault_is_retryable(FAULT_canceled));
    assert_false(fault_is_retryable(FAULT_template));
    assert_false(fault_is_retryable(FAULT_N));
    for (int f = FAULT_none; f < FAULT_N; f++)
        if (fault_in(FAULT_SET_DEFAULT, (enum fault)f))
            assert_true(fault_is_retryable((enum fault)f));
    assert_false(fault_in(~0u, FAULT_none));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names), cmocka_unit_test(test_retryable)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
