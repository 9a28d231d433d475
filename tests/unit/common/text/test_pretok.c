/* Proves: every line of vectors/pretok.jsonl is cut into its pieces, and pieces cover any text without a gap.
 * How: the vectors, and then every short text over an alphabet with one character of each class. */
#include "common/text/pretok.h"
#include "common/text/utf8.h"
#include "tests/unit/common/text/vectors.h"

static void test_vectors(void **state)
{
    struct arena a = {0};
    size_t len, at = 0, n_line = 0, text_len, text_at = 0;
    const char *file = vec_file(&a, TEST_DATA("vectors/pretok.jsonl"), &len);
    const char *texts = vec_file(&a, TEST_DATA("vectors/tokenizer.jsonl"), &text_len);
    const struct json *line, *source;

    (void)state;
    while ((line = vec_line(&a, file, len, &at))) {
        const struct json *id = json_get(line, "id"), *pieces = json_get(line, "pieces");
        bool b64 = !pieces;
        if (b64)
            pieces = json_get(line, "pieces_b64");
        assert_true(json_is(pieces, JSON_ARRAY));
        do { /* both files are in the same order */
            source = vec_line(&a, texts, text_len, &text_at);
            if (!source)
                fail_msg("%s is not in tokenizer.jsonl", id->text);
        } while (!json_is_str(json_get(source, "id"), id->text));
        size_t n, pos = 0, n_want;
        const char *text = vec_text(&a, source, &n);
        for (const struct json *p = pieces->child; p; p = p->next) {
            const char *want = b64 ? vec_base64(&a, p->text, p->len, &n_want) : p->text;
            if (!b64)
                n_want = p->len;
            if (pos >= n)
                fail_msg("%s: too few pieces", id->text);
            size_t end = pretok_next(text, n, pos);
            if (end - pos != n_want || memcmp(text + pos, want, n_want) != 0)
                fail_msg("%s: piece at byte %zu is \"%.*s\", not \"%.*s\"", id->text, pos, (int)(end - pos), text + pos,
                         (int)n_want, want);
            pos = end;
        }
        if (pos != n)
            fail_msg("%s: too many pieces", id->text);
        n_line++;
    }
    assert_int_equal(n_line, 368);
    arena_release(&a);
}

/* One text of the rows: pieces with '|' between them. */
static const char *const rows[] = {
    "123|456|7",
    "a|12|b",
    "  |12",
    " | ab",
    " \t|12", /* the digit ends the stretch, so the look-ahead sees nothing behind the tab */
    ".na|ïve",
    "->|b",
    "ア|・|イ",
    "x|中文|y",
    "中文|龦", /* U+9FA6 is not in the CJK set */
    ".\n\n|a",
    " \n \n| a",
    "\u200B\u200B|\u200Ba", /* the last one goes with the letter */
    "\u0378\u0379",         /* unassigned */
    " .|\u0301a",
};

static void join(struct buf *out, const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t end = pretok_next(text, n, i);
        assert_true(end > i && end <= n);
        if (i)
            buf_add_char(out, '|');
        buf_add(out, text + i, end - i);
        i = end;
    }
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf text = {0}, got = {0};
        for (const char *s = rows[i]; *s; s++)
            if (*s != '|')
                buf_add_char(&text, *s);
        join(&got, text.data, text.len);
        assert_string_equal(got.data, rows[i]);
        buf_release(&text);
        buf_release(&got);
    }
}

static void test_covers_all(void **state)
{
    static const char *const letter[] = {"a", "\u00E9", "\u0301", "1", "\u4E00", "\u3099", "\u30FB", "\u3040",
                                         ".", "+", "\u2014", " ", "\t", "\n", "\u3000", "\u200B", "\U0001F600"};
    enum { N = sizeof letter / sizeof letter[0], DEPTH = 5 };
    size_t idx[DEPTH] = {0};

    (void)state;
    for (size_t round = 0; round < (size_t)N * N * N * N * N; round++) {
        char text[DEPTH * 4];
        size_t n = 0, r = round;
        for (int i = 0; i < DEPTH; i++, r /= N) {
            idx[i] = r % N;
            memcpy(text + n, letter[idx[i]], strlen(letter[idx[i]]));
            n += strlen(letter[idx[i]]);
        }
        for (size_t i = 0; i < n;) {
            size_t end = pretok_next(text, n, i);
            if (end <= i || end > n || (end < n && ((unsigned char)text[end] & 0xC0) == 0x80))
                fail_msg("round %zu: piece %zu..%zu of %zu", round, i, end, n);
            i = end;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_covers_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
