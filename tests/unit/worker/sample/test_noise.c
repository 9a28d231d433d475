/* Proves: the cipher is Philox4x32-10 (known answers of Random123), and the uniform numbers lie in [0, 1), are
 * spread evenly and depend on every bit of seed and position. */
#include "tests/unit/test.h"
#include "worker/sample/noise.h"

static void test_known_answers(void **state)
{
    static const struct {
        uint32_t ctr[4], key[2], out[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof kat / sizeof kat[0]; i++) {
        uint32_t out[4];
        wrk_noise_philox(kat[i].ctr, kat[i].key, out);
        assert_memory_equal(out, kat[i].out, sizeof out);
    }
}

static void test_uniform(void **state)
{
    enum { N = 100000, BIN = 100 };
    static int bin[BIN];
    double sum = 0, chi2 = 0;
    (void)state;
    for (int i = 0; i < N; i++) {
        double u = wrk_noise_uniform(7, (uint64_t)i);
        assert_true(u >= 0 && u < 1);
        bin[(int)(u * BIN)]++;
        sum += u;
    }
    for (int b = 0; b < BIN; b++)
        chi2 += (bin[b] - N / BIN) * (double)(bin[b] - N / BIN) / (N / BIN);
    assert_true(sum / N > 0.497 && sum / N < 0.503); /* 3 standard errors */
    assert_true(chi2 > 60 && chi2 < 149);            /* 99 degrees of freedom, 0.999 both sides */
}

static void test_every_bit(void **state)
{
    double u = wrk_noise_uniform(123, 456);
    (void)state;
    assert_true(u == wrk_noise_uniform(123, 456));
    for (int bit = 0; bit < 64; bit++) {
        assert_true(u != wrk_noise_uniform(123 ^ (uint64_t)1 << bit, 456));
        assert_true(u != wrk_noise_uniform(123, 456 ^ (uint64_t)1 << bit));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_every_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
