/* Proves: bytes of any count come, across refills, and none twice: 4096 ids of 12 bytes are all different and no
 * longer run of one call is in another; a thread has a store of its own. */
#include "common/base/rand.h"
#include "tests/unit/test.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { N_ID = 4096, ID_BYTES = 12 };

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, ID_BYTES);
}

static void ids_differ(void **state)
{
    static unsigned char id[N_ID][ID_BYTES];
    (void)state;
    for (int i = 0; i < N_ID; i++)
        rand_bytes(id[i], ID_BYTES);
    qsort(id, N_ID, ID_BYTES, compare);
    for (int i = 1; i < N_ID; i++)
        assert_memory_not_equal(id[i - 1], id[i], ID_BYTES);
}

static void long_runs_are_filled(void **state)
{
    unsigned char a[1000] = {0}, b[1000] = {0};
    int n_zero = 0;
    (void)state;
    rand_bytes(a, sizeof a);
    rand_bytes(b, sizeof b);
    rand_bytes(b, 0);
    assert_memory_not_equal(a, b, sizeof a);
    for (size_t i = 0; i < sizeof a; i++)
        n_zero += a[i] == 0;
    assert_in_range(n_zero, 0, 40); /* 4 are expected; 40 would be a miracle, or a part that was not filled */
}

static void hex_is_hex(void **state)
{
    char a[2 * 300 + 1], b[2 * 12 + 1], again[2 * 12 + 1], none[1] = {'x'};
    bool seen[16] = {0};
    (void)state;
    memset(a, '?', sizeof a);
    rand_hex(a, 300);
    assert_int_equal(strlen(a), 600);
    assert_int_equal(strspn(a, "0123456789abcdef"), 600);
    for (int i = 0; i < 600; i++)
        seen[a[i] <= '9' ? a[i] - '0' : a[i] - 'a' + 10] = true;
    for (int i = 0; i < 16; i++)
        assert_true(seen[i]);
    rand_hex(b, 12);
    rand_hex(again, 12);
    assert_string_not_equal(b, again);
    rand_hex(none, 0);
    assert_string_equal(none, "");
}

static void *other(void *arg)
{
    rand_bytes(arg, 64);
    return NULL;
}

static void threads_have_their_own(void **state)
{
    unsigned char a[64], b[64];
    pthread_t thread;
    (void)state;
    rand_bytes(a, sizeof a);
    assert_int_equal(pthread_create(&thread, NULL, other, b), 0);
    pthread_join(thread, NULL);
    assert_memory_not_equal(a, b, sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_differ),
        cmocka_unit_test(long_runs_are_filled), cmocka_unit_test(hex_is_hex),
        cmocka_unit_test(threads_have_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
