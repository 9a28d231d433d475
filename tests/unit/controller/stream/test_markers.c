/* Proves: marker_find says "here", "may begin here" or "nothing", at the first possible place, for every cut of every
 * marker, with the two newlines only where they belong. */
#include "controller/stream/markers.h"
#include "tests/unit/test.h"

#include <string.h>

#define D "｜DSML｜"

enum { ALL = (MARK_NEWLINES << 1) - 1 };

static void check(const char *text, size_t len, int set, enum marker_found found, size_t at, enum marker which,
                  size_t n)
{
    enum marker got = 0;
    size_t got_at = 999, got_n = 0;

    enum marker_found f = marker_find(text, len, set, &got_at, &got, &got_n);
    if (f != found || got_at != at || (f == MARK_FOUND && (got != which || got_n != n)))
        fail_msg("%.*s: found %d at %zu, marker %#x, %zu bytes", (int)len, text, f, got_at, (unsigned)got, got_n);
}

static void test_every_cut(void **state)
{
    static const struct {
        const char *text;
        enum marker which;
    } rows[] = {
        {"<think>", MARK_THINK},
        {"</think>", MARK_THINK_END},
        {"<" D "tool_calls>", MARK_BLOCK},
        {"\n\n<" D "tool_calls>", MARK_BLOCK},
        {"\n\n<" D "function_calls>", MARK_BLOCK},
        {"\n\n<" D "invoke name=\"", MARK_INVOKE},
        {"<" D "parameter name=\"", MARK_PARAM},
        {"</" D "tool_calls>", MARK_BLOCK_END},
        {"</" D "function_calls>", MARK_BLOCK_END},
        {"</" D "invoke>", MARK_INVOKE_END},
        {"</" D "parameter>", MARK_PARAM_END},
    };
    char text[96];
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t len = strlen(rows[i].text);
        assert_true(len <= MARK_BYTES_MAX);
        strcpy(text, "a<");
        strcat(text, rows[i].text);
        check(text, 2 + len, ALL, MARK_FOUND, 2, rows[i].which, len);
        for (size_t n = 1; n < len; n++)
            check(text, 2 + n, ALL, MARK_MAYBE, 2, 0, 0);
    }
}

static void test_not_in_set(void **state)
{
    (void)state;
    check("a<think>b", 9, MARK_THINK_END, MARK_NONE, 9, 0, 0);
    check("a\n\n", 3, MARK_BLOCK, MARK_NONE, 3, 0, 0);
    check("a\n\n\n", 4, MARK_BLOCK | MARK_NEWLINES, MARK_MAYBE, 2, 0, 0);
    check("a\n\n</", 5, MARK_BLOCK | MARK_THINK_END | MARK_NEWLINES, MARK_MAYBE, 3, 0, 0);
    check("", 0, ALL, MARK_NONE, 0, 0, 0);
}

static void test_is_dsml(void **state)
{
    (void)state;
    assert_true(marker_is_dsml("\n\n<" D, strlen("\n\n<" D)));
    assert_true(marker_is_dsml("</" D "i", strlen("</" D "i")));
    assert_false(marker_is_dsml("<｜DSML", strlen("<｜DSML")));
    assert_false(marker_is_dsml(D, strlen(D)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_not_in_set),
        cmocka_unit_test(test_is_dsml),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
