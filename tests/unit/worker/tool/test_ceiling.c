/* Proves: the ceilings are figures that a machine can have: between what the slowest and the fastest of today could
 * do, and there for one thread and for two. How right they are no test can say. */
#include "worker/tool/ceiling.h"
#include "tests/unit/test.h"

static void test_possible_figures(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= 2; n_threads++) {
        double read = wrk_ceiling_read(n_threads), fma = wrk_ceiling_fma(n_threads);
        assert_true(read > 1e7 && read < 1e13);
        assert_true(fma > 1e7 && fma < 1e14);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_possible_figures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
