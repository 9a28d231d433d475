/* Proves: json_parse takes exactly RFC 8259, keeps order, number spelling and NUL, applies "last value at the first
 * place", refuses deep nesting, and never reads past the text (each input is an exact-size heap copy for ASan). */
#include "common/text/json.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int parse(const char *text, size_t len, int flags, struct arena *a, const struct json **j, struct err *err)
{
    char *copy = malloc(len ? len : 1);
    memcpy(copy, text, len);
    int rc = json_parse(copy, len, flags, a, j, err);
    free(copy);
    return rc;
}

static void check_round_trip(const char *in, const char *out)
{
    struct arena a = {0};
    struct buf b = {0};
    struct err err;
    const struct json *j = NULL;

    assert_int_equal(parse(in, strlen(in), 0, &a, &j, &err), 0);
    json_add(&b, j);
    assert_string_equal(b.data, out);
    buf_release(&b);
    arena_release(&a);
}

static void test_round_trip(void **state)
{
    (void)state;
    check_round_trip(" [1 , -0, 1.50e+3, 123456789012345678901234567890] ",
                     "[1,-0,1.50e+3,123456789012345678901234567890]");
    check_round_trip("{\"b\":1,\"a\":{\"c\":[]},\"b\":2}", "{\"b\":2,\"a\":{\"c\":[]}}");
    check_round_trip("\"\\u00e9\\ud83d\\ude00\\/\\u0000\"", "\"\xc3\xa9\xf0\x9f\x98\x80/\\u0000\"");
    check_round_trip("[true,false,null,{}]", "[true,false,null,{}]");
}

static void test_refused(void **state)
{
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "-",
        "nul",
        "NaN",
        "[1 2]",
        "\"a",
        "\"\\x\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\t\"",
        "1 2",
        "{\"a\" 1}",
        "\"\xff\"",
        "[\"\xed\xa0\x80\"]",
        "\xef\xbb\xbf{}",
        "{\"a\":}",
        "\"\\u12\"",
        "'a'",
        "[1]]",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct arena a = {0};
        struct err err = {0};
        const struct json *j = NULL;
        if (parse(bad[i], strlen(bad[i]), 0, &a, &j, &err) != ERR_FORMAT)
            fail_msg("accepted: %s", bad[i]);
        assert_null(j);
        assert_non_null(strstr(err.text, "JSON line 1 column"));
        arena_release(&a);
    }
}

static void test_depth(void **state)
{
    char text[2 * JSON_DEPTH_MAX + 2];
    struct arena a = {0};
    struct err err;
    const struct json *j;
    (void)state;

    memset(text, '[', JSON_DEPTH_MAX);
    memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
    assert_int_equal(parse(text, 2 * JSON_DEPTH_MAX, 0, &a, &j, &err), 0);
    memset(text, '[', JSON_DEPTH_MAX + 1);
    memset(text + JSON_DEPTH_MAX + 1, ']', JSON_DEPTH_MAX + 1);
    assert_int_equal(parse(text, 2 * JSON_DEPTH_MAX + 2, 0, &a, &j, &err), ERR_FORMAT);
    arena_release(&a);
}

static void test_large_object(void **state)
{
    struct arena a = {0};
    struct buf b = {0};
    struct err err;
    const struct json *j;
    char key[32];
    int64_t v;
    (void)state;

    buf_add_char(&b, '{');
    for (int i = 0; i < 5000; i++)
        buf_addf(&b, "%s\"key%d\":%d", i ? "," : "", i, i);
    buf_add_str(&b, ",\"key77\":-1}");
    assert_int_equal(json_parse(b.data, b.len, 0, &a, &j, &err), 0);
    assert_int_equal(j->n, 5000);
    for (int i = 0; i < 5000; i++) {
        snprintf(key, sizeof key, "key%d", i);
        assert_true(json_to_i64(json_get(j, key), &v));
        assert_int_equal(v, i == 77 ? -1 : i);
    }
    assert_null(json_get(j, "key5000"));
    assert_int_equal(json_parse(b.data, b.len, JSON_NO_REPEATED_KEYS, &a, &j, &err), ERR_FORMAT);
    buf_release(&b);
    arena_release(&a);
}

static void test_numbers(void **state)
{
    static const struct {
        const char *text;
        int ok;
        int64_t v;
    } rows[] = {{"1", 1, 1},
                {"-0", 1, 0},
                {"1e3", 1, 1000},
                {"10.0", 1, 10},
                {"1.5", 0, 0},
                {"9223372036854775807", 1, INT64_MAX},
                {"9223372036854775808", 0, 0},
                {"1e300", 0, 0},
                {"\"1\"", 0, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct arena a = {0};
        struct err err;
        const struct json *j;
        int64_t v = 0;
        double d;
        assert_int_equal(parse(rows[i].text, strlen(rows[i].text), 0, &a, &j, &err), 0);
        assert_int_equal(json_to_i64(j, &v), rows[i].ok);
        assert_int_equal(v, rows[i].v);
        assert_int_equal(json_to_double(j, &d), rows[i].text[0] != '"');
        arena_release(&a);
    }
}

static void test_equal(void **state)
{
    struct arena a = {0};
    struct err err;
    const struct json *x, *y, *z;
    (void)state;
    assert_int_equal(json_parse("{\"a\":[1,{}],\"b\":\"x\"}", 20, 0, &a, &x, &err), 0);
    assert_int_equal(json_parse("{\"b\":\"x\",\"a\":[1,{}]}", 20, 0, &a, &y, &err), 0);
    assert_int_equal(json_parse("{\"b\":\"x\",\"a\":[1,[]]}", 20, 0, &a, &z, &err), 0);
    assert_true(json_equal(x, y));
    assert_false(json_equal(x, z));
    arena_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refused), cmocka_unit_test(test_depth),
        cmocka_unit_test(test_large_object), cmocka_unit_test(test_numbers), cmocka_unit_test(test_equal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
