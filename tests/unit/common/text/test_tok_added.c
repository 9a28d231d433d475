/* Proves: the trie finds the leftmost and, there, the longest token, starts none inside a guard span, and the two
 * passes of tokenizer.json keep their order. How: a small trie with tokens that are prefixes of each other, compared
 * with a naive search over every text of a small alphabet; the two examples of spec/tokenizer.md section 4. */
#include "common/text/tok_impl.h"
#include "tests/unit/common/text/vectors.h"

static const char *const token[] = {"ab", "abab", "ba", "c", "bcc", "aaaa"};
enum { N_TOKEN = sizeof token / sizeof token[0] };

static bool is_guarded(const struct tok_span *span, size_t n, size_t at)
{
    for (size_t i = 0; i < n; i++)
        if (at >= span[i].begin && at < span[i].end)
            return true;
    return false;
}

static bool naive_next(const struct tok_span *span, size_t n_span, const char *text, size_t from, size_t to,
                       struct tok_match *m)
{
    for (size_t at = from; at < to; at++) {
        size_t best = 0;
        for (int i = 0; i < N_TOKEN && !is_guarded(span, n_span, at); i++) {
            size_t n = strlen(token[i]);
            if (n > best && at + n <= to && memcmp(text + at, token[i], n) == 0) {
                best = n;
                *m = (struct tok_match){at, at + n, i};
            }
        }
        if (best)
            return true;
    }
    return false;
}

static void compare(const struct tok_trie *t, const struct tok_span *span, size_t n_span, const char *text, size_t from,
                    size_t to)
{
    struct tok_guard g = {.span = span, .n = n_span};

    for (;;) {
        struct tok_match got = {0}, want = {0};
        bool found = tok__trie_next(t, &g, text, from, to, &got);
        assert_int_equal(found, naive_next(span, n_span, text, from, to, &want));
        if (!found)
            return;
        if (got.begin != want.begin || got.end != want.end || got.id != want.id)
            fail_msg("%s: token %d at %zu..%zu, not %d at %zu..%zu", text, got.id, got.begin, got.end, want.id,
                     want.begin, want.end);
        from = got.end;
    }
}

static void test_all_texts(void **state)
{
    static const struct tok_span span[] = {{0, 1}, {2, 2}, {3, 5}, {5, 6}, {7, 100}};
    enum { LEN = 8 };
    struct tok_trie t = {0};

    (void)state;
    for (int i = 0; i < N_TOKEN; i++)
        assert_int_equal(tok__trie_add(&t, token[i], strlen(token[i]), i), -1);
    for (unsigned round = 0; round < 6561; round++) { /* 3^8 */
        char text[LEN + 1] = {0};
        unsigned r = round;
        for (int i = 0; i < LEN; i++, r /= 3)
            text[i] = (char)('a' + r % 3);
        compare(&t, NULL, 0, text, 0, LEN);
        compare(&t, NULL, 0, text, 1, LEN - 1);
        for (size_t n = 1; n <= sizeof span / sizeof span[0]; n++)
            compare(&t, span, n, text, 0, LEN);
    }
    tok__trie_release(&t);
}

static void test_add_twice(void **state)
{
    struct tok_trie t = {0};

    (void)state;
    assert_int_equal(tok__trie_add(&t, "abc", 3, 5), -1);
    assert_int_equal(tok__trie_add(&t, "ab", 2, 6), -1);
    assert_int_equal(tok__trie_add(&t, "abc", 3, 7), 5);
    assert_int_equal(tok__trie_find(&t, "abc", 3), 7);
    assert_int_equal(tok__trie_find(&t, "a", 1), -1);
    assert_int_equal(tok__trie_find(&t, "abcd", 4), -1);
    tok__trie_release(&t);
}

static void test_two_passes(void **state)
{
    static const struct {
        const char *text, *only; /* the one added token that must be found */
    } rows[] = {{"<｜/table>｜DSML｜", "<｜/table>｜"}, {"<｜User<｜image｜>｜>", "<｜image｜>"}};
    struct tok *tok = NULL;
    struct err err;

    (void)state;
    if (tok_open(TEST_DATA("tiny_tokenizer"), &tok, &err))
        fail_msg("%s", err.text);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tok_ids ids = {0};
        size_t n_added = 0;
        tok_encode(tok, rows[i].text, strlen(rows[i].text), NULL, 0, &ids);
        for (size_t k = 0; k < ids.n; k++)
            if (tok_is_added(tok, ids.id[k])) {
                n_added++;
                assert_int_equal(ids.id[k], tok_find(tok, rows[i].only));
            }
        assert_int_equal(n_added, 1);
        tok_ids_release(&ids);
    }
    tok_close(&tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_texts),
        cmocka_unit_test(test_add_twice),
        cmocka_unit_test(test_two_passes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
