/* Proves: pyjson_add writes what Python's json.dumps(x, ensure_ascii=False) writes: all lines of pyjson.jsonl, and
 * floats at the places where shortest digits are hard (powers of two, where the closest decimal of the fewest digits
 * does not read back; expected texts are Python's repr). */
#include "common/text/pyjson.h"
#include "tests/unit/common/text/vectors.h"

#include <string.h>

static void check(const char *in, size_t n, const char *expect)
{
    struct arena a = {0};
    struct buf out = {0};
    const struct json *j;
    struct err err;

    if (json_parse(in, n, 0, &a, &j, &err))
        fail_msg("%s: %s", in, err.text);
    pyjson_add(&out, j);
    assert_string_equal(out.data, expect);
    assert_int_equal(out.len, strlen(expect));
    buf_release(&out);
    arena_release(&a);
}

static void test_vectors(void **state)
{
    struct arena a = {0};
    size_t len, at = 0, n_line = 0;
    const char *file = vec_file(&a, TEST_DATA("vectors/pyjson.jsonl"), &len);
    const struct json *line;
    (void)state;

    while ((line = vec_line(&a, file, len, &at))) {
        const struct json *in = json_get(line, "in");
        check(in->text, in->len, json_get(line, "out")->text);
        n_line++;
    }
    assert_int_equal(n_line, 65);
    arena_release(&a);
}

static void test_hard_floats(void **state)
{
    static const char *const rows[][2] = {
        {"5.684341886080801486968994140625e-14", "5.684341886080802e-14"}, /* 2**-44 */
        {"9.5367431640625e-7", "9.5367431640625e-07"},
        {"9007199254740992.0", "9007199254740992.0"},
        {"9007199254740993.0", "9007199254740992.0"},
        {"9999999999999998.0", "9999999999999998.0"},
        {"9999999999999999.0", "1e+16"},
        {"2.2250738585072014e-308", "2.2250738585072014e-308"},
        {"2.2250738585072011e-308", "2.225073858507201e-308"},
        {"1e400", "Infinity"},
        {"-1e400", "-Infinity"},
        {"1e-400", "0.0"},
        {"-0e5", "-0.0"},
        {"0.00012345", "0.00012345"},
        {"99999.5e-10", "9.99995e-06"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        check(rows[i][0], strlen(rows[i][0]), rows[i][1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors), cmocka_unit_test(test_hard_floats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
