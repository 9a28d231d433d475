/* Proves: waits are uniform under a doubling ceiling, never past max_ms, never before Retry-After; class, count and
 * budget decide in that order and the budget goes down only with a retry. How: rows, and the mean of many random
 * waits. */
#include "controller/agent/plan/backoff.h"
#include "tests/unit/test.h"

static const struct backoff plain = {.max = 3, .base_ms = 100, .max_ms = 1000, .on = 1u << FAULT_busy};

static void test_ceiling(void **state)
{
    const struct backoff huge = {.max = 100, .base_ms = BACKOFF_MS_MAX, .max_ms = BACKOFF_MS_MAX};
    const struct backoff none = {.max = 100, .base_ms = 0, .max_ms = 1000};

    (void)state;
    assert_int_equal(backoff_ceiling_ms(&plain, 0), 100);
    assert_int_equal(backoff_ceiling_ms(&plain, 3), 800);
    assert_int_equal(backoff_ceiling_ms(&plain, 4), 1000);
    assert_int_equal(backoff_ceiling_ms(&plain, 1000000000), 1000);
    assert_int_equal(backoff_ceiling_ms(&huge, 99), BACKOFF_MS_MAX);
    assert_int_equal(backoff_ceiling_ms(&none, 99), 0);
}

static void test_verdicts(void **state)
{
    int64_t budget = 2, wait = -1;

    (void)state;
    assert_int_equal(backoff_decide(&plain, 0, FAULT_network, 0, 0, &budget, &wait), BACKOFF_NOT_THIS);
    assert_int_equal(backoff_decide(&plain, 0, FAULT_canceled, 0, 0, &budget, &wait), BACKOFF_NOT_THIS);
    assert_int_equal(backoff_decide(&plain, 3, FAULT_busy, 0, 0, &budget, &wait), BACKOFF_USED_UP);
    assert_int_equal(budget, 2);
    assert_int_equal(wait, -1);
    assert_int_equal(backoff_decide(&plain, 0, FAULT_busy, 0, 0, &budget, &wait), BACKOFF_RETRY);
    assert_int_equal(wait, 0);
    assert_int_equal(backoff_decide(&plain, 2, FAULT_busy, 50, 300, &budget, &wait), BACKOFF_RETRY);
    assert_int_equal(wait, 300); /* what the other side asked for */
    assert_int_equal(budget, 0);
    assert_int_equal(backoff_decide(&plain, 0, FAULT_busy, 0, 0, &budget, &wait), BACKOFF_NO_BUDGET);
    budget = 1;
    assert_int_equal(backoff_decide(&plain, 0, FAULT_busy, 0, 100000, &budget, &wait), BACKOFF_RETRY);
    assert_int_equal(wait, 1000); /* but not past max_ms */
}

static void test_jitter(void **state)
{
    uint64_t x = 88172645463325252u;
    int64_t sum = 0, least = 1 << 20, most = 0;
    enum { N = 20000 };

    (void)state;
    for (int i = 0; i < N; i++) {
        int64_t budget = 1, wait;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        assert_int_equal(backoff_decide(&plain, 2, FAULT_busy, x, 0, &budget, &wait), BACKOFF_RETRY);
        sum += wait;
        least = wait < least ? wait : least;
        most = wait > most ? wait : most;
    }
    assert_int_equal(least, 0);
    assert_int_equal(most, 400);
    assert_in_range(sum / N, 195, 205);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ceiling),
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_jitter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
