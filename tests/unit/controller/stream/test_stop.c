/* Proves: the search gives out everything but what may still be a stop string, finds the match that ends first (the
 * longest there), and does so for every way of cutting. How: rows, each at every split and byte by byte; random texts
 * over a small alphabet against a search that looks at the whole text. */
#include "controller/stream/stop.h"
#include "common/base/check.h"
#include "tests/unit/test.h"

#include <stdlib.h>
#include <string.h>

struct row {
    const char *stops[4];
    const char *text, *out;
    bool found;
};

static const struct row rows[] = {
    {{"END"}, "abcENDx", "abc", true},
    {{"END"}, "abcEN", "abcEN", false},
    {{"END"}, "ENENEND", "ENEN", true},
    {{"aab"}, "aaaab", "aa", true},
    {{"abcabd"}, "abcabcabd", "abc", true},
    {{"b", "abc"}, "xabc", "xa", true},     /* "b" ends first */
    {{"c", "abc"}, "xabc", "x", true},      /* both end there: the longest */
    {{"abcd", "bc"}, "abcd", "a", true},
    {{"x"}, "x", "", true},
    {{"\n\n"}, "a\nb\n\nc", "a\nb", true},
    {{"é"}, "caf\xC3\xA9!", "caf", true},
    {{NULL}, "anything", "anything", false},
};

static void check(const struct row *row, size_t step)
{
    struct stop_set set = {0};
    struct stop_search s = {0};
    struct buf out = {0};
    bool found = false;

    for (int i = 0; row->stops[i]; i++)
        stop_set_add(&set, row->stops[i], strlen(row->stops[i]));
    for (size_t i = 0, n = strlen(row->text); i < n && !found; i += step)
        found = stop_search_feed(&s, &set, row->text + i, n - i < step ? n - i : step, &out);
    if (!found)
        stop_search_flush(&s, &out);
    assert_int_equal(found, row->found);
    assert_string_equal(out.data ? out.data : "", row->out);
    stop_search_release(&s);
    stop_set_release(&set);
    buf_release(&out);
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEM(rows); i++)
        for (size_t step = 1; step < 12; step++)
            check(&rows[i], step);
}

static void test_eager(void **state)
{
    struct stop_set set = {0};
    struct stop_search s = {0};
    struct buf out = {0};
    (void)state;
    stop_set_add(&set, "abab!", 5);
    stop_search_feed(&s, &set, "xxabab", 6, &out);
    assert_string_equal(out.data, "xx"); /* "abab" may go on */
    stop_search_feed(&s, &set, "ab", 2, &out);
    assert_string_equal(out.data, "xxab"); /* the last four still may */
    stop_search_feed(&s, &set, "?", 1, &out);
    assert_string_equal(out.data, "xxababab?");
    stop_search_release(&s);
    stop_set_release(&set);
    buf_release(&out);
}

/* The definition, written to be read. */
static bool naive(char stops[3][8], int n_stop, const char *text, char *out)
{
    for (size_t end = 1; end <= strlen(text); end++) {
        size_t best = 0;
        for (int i = 0; i < n_stop; i++) {
            size_t n = strlen(stops[i]);
            if (n <= end && memcmp(text + end - n, stops[i], n) == 0 && n > best)
                best = n;
        }
        if (best) {
            memcpy(out, text, end - best);
            out[end - best] = 0;
            return true;
        }
    }
    strcpy(out, text);
    return false;
}

static void test_random(void **state)
{
    (void)state;
    srand(7);
    for (int round = 0; round < 20000; round++) {
        struct stop_set set = {0};
        struct stop_search s = {0};
        struct buf out = {0};
        char stops[3][8], text[40], want[40];
        int n_stop = 1 + rand() % 3, n = rand() % 39;
        for (int i = 0; i < n_stop; i++) {
            int len = 1 + rand() % 6;
            for (int k = 0; k < len; k++)
                stops[i][k] = (char)('a' + rand() % 2);
            stops[i][len] = 0;
            stop_set_add(&set, stops[i], (size_t)len);
        }
        for (int k = 0; k < n; k++)
            text[k] = (char)('a' + rand() % 3 % 2);
        text[n] = 0;
        bool want_found = naive(stops, n_stop, text, want), found = false;
        for (int i = 0; i < n && !found;) {
            int step = 1 + rand() % 5;
            step = step > n - i ? n - i : step;
            found = stop_search_feed(&s, &set, text + i, (size_t)step, &out);
            i += step;
        }
        if (!found)
            stop_search_flush(&s, &out);
        assert_int_equal(found, want_found);
        assert_string_equal(out.data ? out.data : "", want);
        stop_search_release(&s);
        stop_set_release(&set);
        buf_release(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_eager),
                                       cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
