/* Proves the rotary frequencies: the published Flash values (YaRN between pairs 15 and 25), plain layers untouched,
 * and the rounding of exponent, power and reciprocal one by one. */
#include "tests/unit/test.h"

#include "worker/engine/rope.h"

#include <math.h>

static struct mdl_config flash(void)
{
    struct mdl_config c = {.qk_rope_head_dim = 64, .rope_theta = 10000, .compress_rope_theta = 160000};
    c.yarn.on = true;
    c.yarn.factor = 16;
    c.yarn.beta_fast = 32;
    c.yarn.beta_slow = 1;
    c.yarn.original_max_position_embeddings = 65536;
    return c;
}

static void test_plain(void **state)
{
    struct mdl_config c = flash();
    float f[32];

    (void)state;
    eng__rope_freqs(&c, false, f);
    assert_true(f[0] == 1);
    for (int i = 1; i < 32; i++)
        assert_true(f[i] == 1.0f / (float)pow(10000, (float)(2 * i) / 64.0f));
    c.yarn.on = false;
    eng__rope_freqs(&c, true, f);
    assert_true(f[31] == 1.0f / (float)pow(160000, 62.0f / 64.0f));
}

static void test_yarn(void **state)
{
    struct mdl_config c = flash(), off = flash();
    float f[32], plain[32];

    (void)state;
    off.yarn.on = false;
    eng__rope_freqs(&c, true, f);
    eng__rope_freqs(&off, true, plain);
    for (int i = 0; i <= 15; i++)
        assert_true(f[i] == plain[i]);
    for (int i = 16; i < 25; i++)
        assert_true(f[i] < plain[i] && f[i] > plain[i] / 16);
    for (int i = 25; i < 32; i++)
        assert_true(f[i] == plain[i] / 16);
    /* Halfway: the mean of both. */
    assert_true(fabsf(f[20] - (plain[20] + plain[20] / 16) / 2) <= plain[20] * 1e-6f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain), cmocka_unit_test(test_yarn)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
