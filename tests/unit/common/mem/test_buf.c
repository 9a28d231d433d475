/* Proves: contents, the NUL behind them, growth, numbers at their edges, dropping and taking. */
#include "common/mem/buf.h"
#include "common/mem/mem.h"
#include "tests/unit/test.h"

#include <string.h>

static void test_add(void **state)
{
    struct buf b = {0};
    (void)state;
    buf_add(&b, NULL, 0);
    assert_string_equal(b.data, "");
    for (int i = 0; i < 1000; i++)
        buf_add_char(&b, (char)('a' + i % 26));
    assert_int_equal(b.len, 1000);
    assert_int_equal(b.data[1000], 0);
    buf_clear(&b);
    buf_add_i64(&b, INT64_MIN);
    buf_add_char(&b, ' ');
    buf_add_i64(&b, 0);
    buf_addf(&b, " %s-%d", "x", 5);
    assert_string_equal(b.data, "-9223372036854775808 0 x-5");
    buf_drop(&b, 21);
    assert_string_equal(b.data, "0 x-5");
    buf_release(&b);
    assert_null(b.data);
}

static void test_take(void **state)
{
    struct buf b = {0};
    size_t len;
    (void)state;
    char *s = buf_take(&b, &len);
    assert_string_equal(s, "");
    mem_free(s);
    buf_add(&b, "a\0b", 3);
    s = buf_take(&b, &len);
    assert_int_equal(len, 3);
    assert_memory_equal(s, "a\0b", 4);
    assert_null(b.data);
    mem_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_add), cmocka_unit_test(test_take)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
