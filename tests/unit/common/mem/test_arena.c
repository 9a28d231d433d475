/* Proves: alignment, that pieces do not overlap across chunk borders, and that a reset arena starts again. */
#include "common/mem/arena.h"
#include "tests/unit/test.h"

#include <string.h>

static void test_pieces(void **state)
{
    struct arena a = {0};
    unsigned char *p[400];
    (void)state;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 400; i++) {
            p[i] = arena_alloc(&a, (size_t)i * 7);
            assert_int_equal((uintptr_t)p[i] % 16, 0);
            memset(p[i], i & 255, (size_t)i * 7);
        }
        for (int i = 0; i < 400; i++)
            for (int k = 0; k < i * 7; k++)
                assert_int_equal(p[i][k], i & 255);
        arena_reset(&a);
        assert_int_equal(a.used_bytes, 0);
    }
    assert_string_equal(arena_dup(&a, "ab\0c", 2), "ab");
    assert_string_equal(arena_strdup(&a, "xyz"), "xyz");
    assert_memory_equal(arena_array(&a, 3, 2), "\0\0\0\0\0\0", 6);
    arena_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pieces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
