/* Proves: values, bounds, missing and unknown flags, and that a mistyped one is told what was meant. */
#include "common/base/flags.h"
#include "tests/unit/test.h"

#include <string.h>

static const char *model;
static int64_t n;
static double t;
static bool json;
static const struct flag table[] = {
    {"model", FLAG_STR, &model, "DIR", "checkpoint", 0, 0, true},
    {"max-tokens", FLAG_I64, &n, "N", "limit", 1, 100, false},
    {"temperature", FLAG_F64, &t, "T", "heat", 0, 2, false},
    {"json", FLAG_BOOL, &json, NULL, "as JSON", 0, 0, false},
};

static int run(const char *const *argv, struct flags *f, struct err *err)
{
    int argc = 0;
    while (argv[argc])
        argc++;
    *f = (struct flags){.usage = "x", .flag = table, .n_flag = 4, .n_word_max = 1};
    model = NULL, n = 7, t = 0.5, json = false;
    return flags_parse(f, argc, (char **)(uintptr_t)argv, err);
}

static void test_good(void **state)
{
    struct flags f;
    struct err err;
    (void)state;
    assert_int_equal(run((const char *[]){"p", "--model", "m", "--max-tokens=3", "word", "--json", NULL}, &f, &err), 0);
    assert_string_equal(model, "m");
    assert_int_equal(n, 3);
    assert_true(json && t == 0.5);
    assert_int_equal(f.n_word, 1);
    assert_string_equal(f.word[0], "word");
    assert_int_equal(run((const char *[]){"p", "--model=", "--", "--json", NULL}, &f, &err), 0);
    assert_string_equal(f.word[0], "--json");
    assert_false(json);
}

static void test_bad(void **state)
{
    static const struct {
        const char *argv[6], *text;
    } rows[] = {
        {{"p", "--modle", "m"}, "did you mean --model?"},
        {{"p", "--max_tokens", "3"}, "did you mean --max-tokens?"},
        {{"p", "--zzzzzzzz"}, "see --help"},
        {{"p", "--model"}, "--model needs a value: DIR"},
        {{"p", "--json"}, "--model DIR is missing"},
        {{"p", "--model", "m", "--max-tokens", "0"}, "1..100"},
        {{"p", "--model", "m", "--max-tokens", "3x"}, "whole number"},
        {{"p", "--model", "m", "--temperature", "nan"}, "needs a number"},
        {{"p", "--model", "m", "--json=1"}, "takes no value"},
        {{"p", "--model", "m", "a", "b"}, "unexpected word 'b'"},
        {{"p", "-m", "m"}, "two dashes"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct flags f;
        struct err err = {0};
        assert_int_equal(run(rows[i].argv, &f, &err), ERR_ARG);
        if (!strstr(err.text, rows[i].text))
            fail_msg("row %zu: '%s' lacks '%s'", i, err.text, rows[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_good), cmocka_unit_test(test_bad)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
