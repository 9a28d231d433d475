/* Proves: decoding, replacement by maximal parts, and that a stream cut at every place (also into single bytes) gives
 * the bytes of the whole. */
#include "common/text/utf8.h"
#include "tests/unit/test.h"

#include <string.h>

static const struct {
    const char *in, *out;
} rows[] = {
    {"abc", "abc"},
    {"\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80", "\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80"},
    {"\xff", "\xef\xbf\xbd"},
    {"12345678abcdefg\xff", "12345678abcdefg\xef\xbf\xbd"}, /* behind a run of eight */
    {"12345678\xe4\xb8\xad" "abcdefgh", "12345678\xe4\xb8\xad" "abcdefgh"},
    {"a\xc3", "a\xef\xbf\xbd"},
    {"\xe4\xb8", "\xef\xbf\xbd"},
    {"\xf0\x9f\x98x", "\xef\xbf\xbdx"},
    {"\xf0\x9f\xc3\xa9", "\xef\xbf\xbd\xc3\xa9"},
    {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* surrogate: no byte of it begins a character */
    {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
    {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
    {"\x80\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd"},
};

static void test_replaced(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf b = {0};
        utf8_add_replaced(&b, rows[i].in, strlen(rows[i].in));
        assert_string_equal(b.data, rows[i].out);
        assert_int_equal(utf8_is_valid(rows[i].in, strlen(rows[i].in)), strcmp(rows[i].in, rows[i].out) == 0);
        buf_release(&b);
    }
}

static void test_stream_any_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t n = strlen(rows[i].in);
        for (size_t step = 1; step <= n; step++) {
            struct utf8_stream st = {0};
            struct buf b = {0};
            for (size_t at = 0; at < n; at += step)
                utf8_stream_feed(&st, rows[i].in + at, at + step < n ? step : n - at, &b);
            utf8_stream_end(&st, &b);
            assert_string_equal(b.data, rows[i].out);
            buf_release(&b);
        }
    }
}

static void test_holds_back(void **state)
{
    struct utf8_stream st = {0};
    struct buf b = {0};
    (void)state;
    utf8_stream_feed(&st, NULL, 0, &b);
    utf8_add_replaced(&b, NULL, 0);
    assert_int_equal(b.len, 0);
    utf8_stream_feed(&st, "a\xf0\x9f", 3, &b);
    assert_int_equal(b.len, 1);
    utf8_stream_feed(&st, "\x98", 1, &b);
    assert_int_equal(b.len, 1);
    utf8_stream_feed(&st, "\x80" "b", 2, &b);
    assert_string_equal(b.data, "a\xf0\x9f\x98\x80" "b");
    utf8_add(&b, 0x20AC);
    assert_string_equal(b.data + b.len - 3, "\xe2\x82\xac");
    buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replaced),
        cmocka_unit_test(test_stream_any_cut),
        cmocka_unit_test(test_holds_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
