/* Proves: keys depend on every token, on order, on length and on all that came before; a written-down key never
 * changes (worker and controller may be of different builds); many keys are all different. */
#include "tests/unit/test.h"

#include "common/ds/prefix_key.h"

#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void test_chain(void **state)
{
    int32_t tok[256];
    (void)state;
    for (int i = 0; i < 256; i++)
        tok[i] = i * 37 % 1000;
    struct prefix_key a = prefix_key_next(PREFIX_KEY_EMPTY, tok, 128), b = prefix_key_next(a, tok + 128, 128);
    assert_true(a.lo == 0xe14b269695805017u && a.hi == 0x8ce6af2fa2d85913u);
    assert_true(b.lo != a.lo && b.hi != a.hi);
    struct prefix_key other = prefix_key_next(PREFIX_KEY_EMPTY, tok + 128, 128);
    assert_true(other.lo != b.lo); /* the same block after something else */
    for (int i = 0; i < 128; i++) {
        tok[i] ^= 1;
        assert_true(prefix_key_next(PREFIX_KEY_EMPTY, tok, 128).lo != a.lo);
        tok[i] ^= 1;
    }
    tok[5] = tok[4];
    tok[4] = 5 * 37;
    assert_true(prefix_key_next(PREFIX_KEY_EMPTY, tok, 128).lo != a.lo);
}

static void test_length(void **state)
{
    const int32_t zero[128] = {0};
    (void)state;
    for (int n = 1; n < 128; n++)
        assert_true(prefix_key_next(PREFIX_KEY_EMPTY, zero, n).lo != prefix_key_next(PREFIX_KEY_EMPTY, zero, n + 1).lo);
    assert_true(prefix_key_next(PREFIX_KEY_EMPTY, zero, 0).lo != 0);
}

static void test_many_differ(void **state)
{
    enum { N = 200000 };
    uint64_t *key = malloc(N * sizeof *key);
    struct prefix_key k = PREFIX_KEY_EMPTY;
    (void)state;
    assert_non_null(key);
    for (int32_t i = 0; i < N; i++) { /* a long chain of one token, which is as little entropy as there is */
        int32_t tok[4] = {7, 7, 7, i % 2};
        k = prefix_key_next(k, tok, 4);
        key[i] = k.lo;
    }
    qsort(key, N, sizeof *key, by_value);
    for (int i = 1; i < N; i++)
        assert_true(key[i] != key[i - 1]);
    free(key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_chain), cmocka_unit_test(test_length),
                                       cmocka_unit_test(test_many_differ)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
