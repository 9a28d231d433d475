/* Proves: built trees are written as they were built, numbers read back to the same value, and a copy needs its own
 * arena only. How: rows, and a copy that is used after the original's memory was overwritten. */
#include "common/text/jsonmake.h"
#include "tests/unit/test.h"

#include <stdlib.h>
#include <string.h>

static void assert_text(const struct json *j, const char *text)
{
    struct buf b = {0};

    json_add(&b, j);
    assert_string_equal(b.data, text);
    buf_release(&b);
}

static void test_build(void **state)
{
    struct arena arena = {0};
    struct jsonmake list, object;

    (void)state;
    jsonmake_begin(&list, &arena, JSON_ARRAY);
    assert_text(jsonmake_end(&list), "[]");
    jsonmake_add(&list, &jsonmake_null);
    jsonmake_add(&list, jsonmake_bool(true));
    jsonmake_add(&list, jsonmake_bool(false));
    jsonmake_add(&list, jsonmake_str(&arena, "a\0\"", 3));
    jsonmake_add(&list, jsonmake_i64(&arena, INT64_MIN));
    jsonmake_begin(&object, &arena, JSON_OBJECT);
    jsonmake_put(&object, "l", jsonmake_end(&list));
    jsonmake_put_n(&object, "mmm", 1, jsonmake_cstr(&arena, ""));
    assert_text(jsonmake_end(&object), "{\"l\":[null,true,false,\"a\\u0000\\\"\",-9223372036854775808],\"m\":\"\"}");
    assert_ptr_equal(json_get(jsonmake_end(&object), "l")->child, jsonmake_end(&list)->child); /* shared */
    assert_null(jsonmake_null.next); /* putting a value in does not touch it */
    arena_release(&arena);
}

static void test_doubles(void **state)
{
    static const struct {
        double v;
        const char *text;
    } rows[] = {{0, "0"}, {-3, "-3"}, {0.1, "0.1"}, {1e300, "1e+300"}, {9007199254740992.0, "9007199254740992"},
                {0.1 + 0.2, "0.30000000000000004"}, {-0.5, "-0.5"}, {5e-324, "4.94065645841247e-324"}};
    struct arena arena = {0};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct json *j = jsonmake_double(&arena, rows[i].v);
        assert_string_equal(j->text, rows[i].text);
        assert_true(strtod(j->text, NULL) == rows[i].v);
    }
    arena_release(&arena);
}

static void test_copy(void **state)
{
    char text[] =
        "{\"a\":1,\"b\":[\"x\",{}],\"c\":null,\"d\":1,\"e\":1,\"f\":1,\"g\":1,\"h\":1,\"i\":1,\"j\":\"last\"}";
    struct arena first = {0}, second = {0};
    const struct json *root, *copy;
    struct err err;

    (void)state;
    assert_int_equal(json_parse(text, sizeof text - 1, 0, &first, &root, &err), 0);
    copy = jsonmake_copy(&second, root);
    arena_release(&first);
    assert_text(copy, text);
    assert_true(json_is_str(json_get(copy, "j"), "last"));
    arena_release(&second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_build),
        cmocka_unit_test(test_doubles),
        cmocka_unit_test(test_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
