/* Proves that the comparator of all numeric tests cannot be fooled by NaN, infinity or an output nobody wrote.
 * How: each kind of bad output is fed in; it must fail, and the good one must pass. */
#include "tests/unit/test.h"

#include "tests/ops/compare.h"

#include <math.h>
#include <string.h>

static bool rel(float got, float want, double tol)
{
    float a[3] = {1, got, 2}, b[3] = {1, want, 2};
    struct compare c = compare_f32(a, b, 3);
    return compare_rel_ok(&c, tol) && compare_abs_ok(&c, 1e30);
}

static void test_nan_and_inf(void **state)
{
    (void)state;
    assert_true(rel(3, 3, 0));
    assert_false(rel(NAN, 3, 1e9));
    assert_false(rel(3, NAN, 1e9));
    assert_true(rel(NAN, NAN, 0));
    assert_false(rel(INFINITY, 3, 1e9));
    assert_false(rel(3, INFINITY, 1e9));
    assert_true(rel(INFINITY, INFINITY, 0));
    assert_false(rel(-INFINITY, INFINITY, 1e9));
    assert_false(rel(NAN, INFINITY, 1e9));
    assert_true(rel(-0.0f, 0.0f, 0));
}

static void test_all_nan_output(void **state)
{
    float got[4] = {NAN, NAN, NAN, NAN}, want[4] = {1, 2, 3, 4};
    struct compare c = compare_f32(got, want, 4);

    (void)state;
    assert_int_equal(c.n_mask, 4);
    assert_int_equal(c.worst, 0);
    assert_false(compare_rel_ok(&c, 1e30));
    assert_false(compare_abs_ok(&c, 1e30));
}

static void test_tolerance(void **state)
{
    float got[2] = {3, 4.5f}, want[2] = {3, 4};
    struct compare c = compare_f32(got, want, 2);

    (void)state;
    assert_true(compare_rel_ok(&c, 0.1));
    assert_false(compare_rel_ok(&c, 0.0999));
    assert_true(compare_abs_ok(&c, 0.5));
    assert_false(compare_abs_ok(&c, 0.499));
    assert_false(compare_rel_ok(&c, NAN));
    assert_false(compare_rel_ok(&c, INFINITY));
    assert_int_equal(c.worst, 1);
    assert_int_equal(c.n_equal, 1);
    float zero[2] = {0, 0};
    c = compare_f32(got, zero, 2);
    assert_false(compare_rel_ok(&c, 1e30));
    c = compare_f32(got, want, 0);
    assert_true(compare_rel_ok(&c, 0));
}

static void test_bf16(void **state)
{
    uint16_t got[2] = {0x3f80, 0x7fc0}, want[2] = {0x3f80, 0x4000}; /* 1, NaN; 1, 2 */
    struct compare c = compare_bf16(got, want, 2);

    (void)state;
    assert_int_equal(c.n_mask, 1);
    assert_false(compare_rel_ok(&c, 1e30));
    got[1] = 0x4000;
    c = compare_bf16(got, want, 2);
    assert_true(compare_rel_ok(&c, 0));
}

static void test_poison_fails(void **state)
{
    float got[2], want[2] = {1, 2};

    (void)state;
    memset(got, 0xff, sizeof got); /* an op that wrote nothing */
    struct compare c = compare_f32(got, want, 2);
    assert_int_equal(c.n_mask, 2);
    assert_false(compare_rel_ok(&c, 1e30));
}

static void test_bits(void **state)
{
    (void)state;
    assert_int_equal(compare_bits("abc", "abd", 3), 2);
    assert_int_equal(compare_bits("abc", "abc", 3), 3);
    float a = 0.0f, b = -0.0f;
    assert_int_not_equal(compare_bits(&a, &b, sizeof a), sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nan_and_inf), cmocka_unit_test(test_all_nan_output), cmocka_unit_test(test_tolerance),
        cmocka_unit_test(test_bf16),        cmocka_unit_test(test_poison_fails),   cmocka_unit_test(test_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
