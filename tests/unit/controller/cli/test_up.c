/* Proves: the supervisor's list of final exit statuses is the worker's own (the two sides of the tree do not include
 * each other), and what a device failure or a crash gives is not on it. */
#include "controller/cli/up.h"
#include "tests/unit/test.h"
#include "worker/exit.h"

#define X(name, status) _Static_assert((int)WRK_EXIT_##name == status, "exit status of " #name);
UP_FINAL_LIST(X)
#undef X

static void test_final(void **state)
{
    (void)state;
    assert_true(up_is_final(WRK_EXIT_usage));
    assert_true(up_is_final(WRK_EXIT_checkpoint));
    assert_true(up_is_final(WRK_EXIT_refused));
    assert_false(up_is_final(WRK_EXIT_ok));
    assert_false(up_is_final(WRK_EXIT_failed));
    assert_false(up_is_final(WRK_EXIT_device));
    assert_false(up_is_final(134));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_final),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
