/* Proves: values are compared as values whatever their spelling, and comparing stops when the budget is used up. */
#include "controller/agent/plan/value.h"
#include "tests/unit/test.h"

#include <string.h>

static struct arena arena;

static const struct json *parse(const char *text)
{
    const struct json *j = NULL;
    struct err err = {0};

    if (json_parse(text, strlen(text), 0, &arena, &j, &err) != 0)
        fail_msg("%s", err.text);
    return j;
}

static void test_equal(void **state)
{
    static const struct {
        const char *a, *b;
        int same;
    } rows[] = {
        {"1", "1.0", 1},
        {"1e2", "100", 1},
        {"9007199254740993", "9007199254740992", 0}, /* equal as doubles */
        {"\"1\"", "1", 0},
        {"{\"a\":1,\"b\":[2]}", "{\"b\":[2.0],\"a\":1}", 1},
        {"{\"a\":1}", "{\"b\":1}", 0},
        {"[1,2]", "[2,1]", 0},
        {"null", "false", 0},
        {"\"a\\u0000b\"", "\"a\\u0000c\"", 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int64_t budget = 100;
        assert_int_equal(value_equal(parse(rows[i].a), parse(rows[i].b), &budget), rows[i].same);
        budget = 100;
        assert_int_equal(value_equal(parse(rows[i].b), parse(rows[i].a), &budget), rows[i].same);
    }
    int64_t budget = 2;
    assert_int_equal(value_equal(parse("[1,2,3]"), parse("[1,2,3]"), &budget), -1);
    arena_release(&arena);
}

static void test_numbers(void **state)
{
    (void)state;
    assert_true(value_compare_numbers(parse("-1"), parse("0.5")) < 0);
    assert_true(value_compare_numbers(parse("9223372036854775807"), parse("9223372036854775806")) > 0);
    assert_int_equal(value_compare_numbers(parse("1e400"), parse("1e500")), 0); /* both past the range */
    assert_true(value_is_integer(parse("1.0")));
    assert_true(value_is_integer(parse("1e30")));
    assert_false(value_is_integer(parse("1.5")));
    assert_false(value_is_integer(parse("\"1\"")));
    arena_release(&arena);
}

static void test_describe(void **state)
{
    static const struct {
        const char *value, *text;
    } rows[] = {
        {"null", "null"},       {"true", "true"},
        {"12.50", "the number 12.50"}, {"[1,2]", "a list of 2"},
        {"{}", "an object"},    {"\"a\\n\"", "the string \"a\\n\""},
        {"\"1234567890123456789012345678901234567890123456789012345678\xC3\xA9\xC3\xA9\"",
         "the string \"1234567890123456789012345678901234567890123456789012345678\xC3\xA9\"..."},
        {"\"12345678901234567890123456789012345678901234567890123456789\xC3\xA9\"",
         "the string \"12345678901234567890123456789012345678901234567890123456789\"..."},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf b = {0};
        value_describe(&b, parse(rows[i].value));
        assert_string_equal(b.data, rows[i].text);
        buf_release(&b);
    }
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_describe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
