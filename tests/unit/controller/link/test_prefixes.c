/* Proves the set of a worker's prefixes: it equals a plain list over random news, counts what comes several times,
 * forgets when it must, keeps to its limit, and finds the border of a prefix. */
#include "tests/unit/test.h"

#include "controller/link/prefixes.h"

#include <string.h>

static uint64_t lcg = 9;
static int rnd(int n)
{
    lcg = lcg * 6364136223846793005u + 1442695040888963407u;
    return (int)((lcg >> 33) % (uint64_t)n);
}

static void say(struct ctl_prefixes *p, uint64_t key, bool is_stored)
{
    ctl_prefixes_apply(p, &(struct prefix_news){key, is_stored}, 1, false);
}

static void test_random(void **state)
{
    enum { KEYS = 600 };
    struct ctl_prefixes p = {0};
    int count[KEYS] = {0};
    (void)state;
    assert_false(ctl_prefixes_has(&p, 5));
    for (int i = 0; i < 100000; i++) {
        int k = rnd(KEYS);
        bool is_stored = rnd(100) < (i / 10000 % 2 ? 30 : 70);
        if (!is_stored && count[k] == 0)
            say(&p, (uint64_t)(k + 1) * 64, false); /* what is not there cannot go */
        else
            count[k] += is_stored ? 1 : -1, say(&p, (uint64_t)(k + 1) * 64, is_stored);
        k = rnd(KEYS);
        assert_int_equal(ctl_prefixes_has(&p, (uint64_t)(k + 1) * 64), count[k] > 0);
    }
    size_t n = 0;
    for (int k = 0; k < KEYS; k++)
        n += count[k] > 0;
    assert_int_equal(p.n, n);
    ctl_prefixes_apply(&p, &(struct prefix_news){7, true}, 1, true); /* a new list: all of the old one is void */
    assert_int_equal(p.n, 1);
    assert_true(ctl_prefixes_has(&p, 7));
    say(&p, 0, true);
    assert_int_equal(p.n, 1);
    ctl_prefixes_release(&p);
    ctl_prefixes_release(&p);
}

static void test_limit(void **state)
{
    struct ctl_prefixes p = {0};
    (void)state;
    for (uint64_t k = 1; k <= CTL_PREFIXES_MAX + 10; k++)
        say(&p, k, true);
    assert_int_equal(p.n, CTL_PREFIXES_MAX);
    assert_false(ctl_prefixes_has(&p, CTL_PREFIXES_MAX + 1));
    say(&p, 3, true); /* known ones are counted still */
    say(&p, 3, false);
    assert_true(ctl_prefixes_has(&p, 3));
    say(&p, 3, false);
    assert_false(ctl_prefixes_has(&p, 3));
    say(&p, CTL_PREFIXES_MAX + 1, true);
    assert_true(ctl_prefixes_has(&p, CTL_PREFIXES_MAX + 1));
    ctl_prefixes_release(&p);
}

static void test_match(void **state)
{
    struct ctl_prefixes p = {0};
    uint64_t key[40];
    (void)state;
    for (int i = 0; i < 40; i++)
        key[i] = 1000 + (uint64_t)i;
    assert_int_equal(ctl_prefixes_match(&p, key, 40), 0);
    say(&p, 1, true);
    assert_int_equal(ctl_prefixes_match(&p, key, 40), 0);
    for (int has = 1; has <= 40; has++) {
        say(&p, key[has - 1], true);
        for (int n = 0; n <= 40; n++)
            assert_int_equal(ctl_prefixes_match(&p, key, n), n < has ? n : has);
    }
    ctl_prefixes_release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_limit),
                                       cmocka_unit_test(test_match)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
