/* Proves the number formats over all their codes: decoding against the definition (ldexp), encoding of every value, of
 * every midpoint between neighbours (ties to even) and of the floats just beside it, both signs. */
#include "tests/unit/test.h"

#include "kernels/include/num.h"

#include <math.h>

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t b = 0; b < 0x10000; b++) {
        float v = kn_bf16_f32((uint16_t)b);
        uint16_t back = kn_f32_bf16(v);
        if (isnan(v))
            assert_true(isnan(kn_bf16_f32(back)));
        else
            assert_int_equal(back, b);
    }
    for (uint32_t b = 0; b < 0x7f80; b++) /* up to the largest finite value; its upper midpoint rounds to infinity */
        for (uint32_t sign = 0; sign <= 0x8000; sign += 0x8000) {
            uint32_t mid = (b | sign) << 16 | 0x8000;
            assert_int_equal(kn_f32_bf16(kn_bits_f32(mid)), (b | sign) + (b & 1));
            assert_int_equal(kn_f32_bf16(kn_bits_f32(mid - 1)), b | sign);
            assert_int_equal(kn_f32_bf16(kn_bits_f32(mid + 1)), (b | sign) + 1);
        }
    assert_true(isnan(kn_bf16_f32(kn_f32_bf16(kn_bits_f32(0x7f800001))))); /* a NaN whose upper half is infinity */
}

static double e4m3(int c)
{
    int e = c >> 3 & 15, m = c & 7;
    double v = e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
    return c & 128 ? -v : v;
}

static void test_e4m3(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        if ((c & 127) == 127) {
            assert_true(isnan(kn_e4m3_f32[c]));
            continue;
        }
        assert_true(kn_e4m3_f32[c] == e4m3(c));
        assert_int_equal(kn_f32_e4m3(kn_e4m3_f32[c]), c);
        assert_int_equal(signbit(kn_e4m3_f32[c]) != 0, c >> 7);
    }
    for (int c = 0; c < 126; c++)
        for (int sign = 0; sign <= 128; sign += 128) {
            float s = sign ? -1 : 1, mid = (float)((e4m3(c) + e4m3(c + 1)) / 2);
            assert_int_equal(kn_f32_e4m3(s * mid), (c + (c & 1)) | sign);
            assert_int_equal(kn_f32_e4m3(s * nextafterf(mid, 0)), c | sign);
            assert_int_equal(kn_f32_e4m3(s * nextafterf(mid, 1000)), (c + 1) | sign);
        }
    assert_int_equal(kn_f32_e4m3(NAN) & 127, 127);
    assert_int_equal(kn_f32_e4m3(448), 126);
    assert_int_equal(kn_f32_e4m3(0x1p-149f), 0);
}

static void test_e2m1(void **state)
{
    static const double value[8] = {0, .5, 1, 1.5, 2, 3, 4, 6};

    (void)state;
    for (int c = 0; c < 16; c++) {
        assert_true(kn_e2m1_f32[c] == (c & 8 ? -value[c & 7] : value[c & 7]));
        assert_int_equal(kn_f32_e2m1(kn_e2m1_f32[c]), c);
    }
    for (int c = 0; c < 7; c++)
        for (int sign = 0; sign <= 8; sign += 8) {
            float s = sign ? -1 : 1, mid = (float)((value[c] + value[c + 1]) / 2);
            assert_int_equal(kn_f32_e2m1(s * mid), (c + (c & 1)) | sign);
            assert_int_equal(kn_f32_e2m1(s * nextafterf(mid, 0)), c | sign);
            assert_int_equal(kn_f32_e2m1(s * nextafterf(mid, 10)), (c + 1) | sign);
        }
    assert_int_equal(kn_f32_e2m1(NAN) & 7, 7);
}

static void test_e8m0(void **state)
{
    (void)state;
    for (int b = 0; b < 255; b++)
        assert_true((double)kn_e8m0_f32((uint8_t)b) == ldexp(1, b - 127));
    assert_true(isnan(kn_e8m0_f32(255)));
    for (int b = 1; b < 254; b++) {
        float v = kn_e8m0_f32((uint8_t)b);
        assert_int_equal(kn_e8m0_ceil(v), b);
        assert_int_equal(kn_e8m0_ceil(nextafterf(v, INFINITY)), b + 1);
        if (b > 1)
            assert_int_equal(kn_e8m0_ceil(nextafterf(v, 0)), b);
    }
    assert_int_equal(kn_e8m0_ceil(INFINITY), 255);
}

/* The scale is the smallest power of two under which the largest magnitude fits. */
static void test_scales(void **state)
{
    (void)state;
    for (float amax = 1e-3f; amax < 1e6f; amax *= 1.07f) {
        float s = kn_e8m0_f32(kn_scale_e4m3(amax)), f = kn_e8m0_f32(kn_scale_e2m1(amax));
        assert_true(amax / s <= KN_E4M3_MAX && amax / (s / 2) > KN_E4M3_MAX);
        assert_true(amax / f <= KN_E2M1_MAX && amax / (f / 2) > KN_E2M1_MAX);
    }
    assert_int_equal(kn_scale_e4m3(0), kn_scale_e4m3(1e-4f));
    assert_int_equal(kn_scale_e4m3(448), 127);
    assert_int_equal(kn_scale_e4m3(nextafterf(448, 1000)), 128);
    assert_int_equal(kn_scale_e2m1(6), 127);
    assert_int_equal(kn_scale_e2m1(0), 1);
    assert_true(kn_clamp(500, 448) == 448 && kn_clamp(-500, 448) == -448 && isnan(kn_clamp(NAN, 448)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16), cmocka_unit_test(test_e4m3),   cmocka_unit_test(test_e2m1),
        cmocka_unit_test(test_e8m0), cmocka_unit_test(test_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
