/* Proves: text -> ids -> bytes of both tokenizers is that of the reference, also for streams and for text of clients.
 * How: all lines of vectors/{tokenizer,tiny_tokenizer,detok,tiny_detok}.jsonl; four threads on one tokenizer.
 * The real tokenizer.json is unpacked by the ctest fixture v4_tokenizer into v4_tokenizer/ of the build folder. */
#include "common/text/tok.h"
#include "common/text/utf8.h"
#include "tests/unit/common/text/vectors.h"

#include <pthread.h>

static struct tok *v4, *tiny;

static int open_both(void **state)
{
    struct err err;

    (void)state;
    if (tok_open("v4_tokenizer", &v4, &err) || tok_open(TEST_DATA("tiny_tokenizer"), &tiny, &err)) {
        print_error("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int close_both(void **state)
{
    (void)state;
    tok_close(&v4);
    tok_close(&tiny);
    return v4 || tiny ? -1 : 0;
}

static void check_ids(const char *name, const struct tok_ids *got, const struct tok_ids *want)
{
    for (size_t i = 0; i < got->n && i < want->n; i++)
        if (got->id[i] != want->id[i])
            fail_msg("%s: id %zu is %d, not %d", name, i, got->id[i], want->id[i]);
    if (got->n != want->n)
        fail_msg("%s: %zu ids, not %zu", name, got->n, want->n);
}

static void decode(const struct tok *tok, const struct tok_ids *ids, struct buf *out)
{
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *s = tok_bytes(tok, ids->id[i], &n);
        assert_non_null(s);
        buf_add(out, s, n);
    }
}

static void check_encode(const struct tok *tok, const char *path, size_t n_line_min)
{
    struct arena a = {0};
    size_t len, at = 0, n_line = 0;
    const char *file = vec_file(&a, path, &len);
    const struct json *line;

    while ((line = vec_line(&a, file, len, &at))) {
        const char *name = json_get(line, "id")->text;
        const struct json *replaced = json_get(line, "text_after_replace");
        size_t n;
        const char *text = vec_text(&a, line, &n);
        struct tok_ids want = vec_ids(&a, json_get(line, "ids")), got = {0};
        struct buf back = {0};
        tok_encode(tok, text, n, NULL, 0, &got);
        check_ids(name, &got, &want);
        decode(tok, &got, &back);
        if (replaced) {
            text = replaced->text;
            n = replaced->len;
        }
        if (back.len != n || (n && memcmp(back.data, text, n) != 0))
            fail_msg("%s: decoding does not give the text back", name);
        buf_release(&back);
        tok_ids_release(&got);
        n_line++;
    }
    assert_true(n_line >= n_line_min);
    arena_release(&a);
}

static void test_encode_v4(void **state)
{
    (void)state;
    check_encode(v4, TEST_DATA("vectors/tokenizer.jsonl"), 653);
}

static void test_encode_tiny(void **state)
{
    (void)state;
    check_encode(tiny, TEST_DATA("vectors/tiny_tokenizer.jsonl"), 493);
}

static void check_equal(const char *name, const char *what, const struct buf *got, const char *want, size_t n)
{
    if (got->len != n || (n && memcmp(got->data, want, n) != 0))
        fail_msg("%s: %s is not as expected", name, what);
}

static void check_decode(const struct tok *tok, const char *path, size_t n_line_min)
{
    struct arena a = {0};
    size_t len, at = 0, n_line = 0;
    const char *file = vec_file(&a, path, &len);
    const struct json *line;

    while ((line = vec_line(&a, file, len, &at))) {
        const char *name = json_get(line, "id")->text;
        const struct json *text = json_get(line, "text"), *skip_text = json_get(line, "text_skip_special");
        struct tok_ids ids = vec_ids(&a, json_get(line, "ids")), emitted = vec_ids(&a, json_get(line, "emitted_after"));
        struct buf raw = {0}, out = {0}, skipped = {0}, skipped_text = {0};
        struct utf8_stream st = {0};
        assert_int_equal(emitted.n, ids.n);
        for (size_t i = 0; i < ids.n; i++) {
            size_t n;
            const char *s = tok_bytes(tok, ids.id[i], &n);
            assert_non_null(s);
            buf_add(&raw, s, n);
            utf8_stream_feed(&st, s, n, &out);
            if (out.len != (size_t)emitted.id[i])
                fail_msg("%s: after id %zu %zu bytes are out, not %d", name, i, out.len, emitted.id[i]);
            if (!tok_is_special(tok, ids.id[i]))
                buf_add(&skipped, s, n);
        }
        utf8_stream_end(&st, &out);
        utf8_add_replaced(&skipped_text, skipped.data, skipped.len);
        size_t n_raw;
        const struct json *b64 = json_get(line, "bytes_b64");
        const char *want_raw = vec_base64(&a, b64->text, b64->len, &n_raw);
        check_equal(name, "the bytes", &raw, want_raw, n_raw);
        check_equal(name, "the streamed text", &out, text->text, text->len);
        check_equal(name, "the text without special tokens", &skipped_text, skip_text->text, skip_text->len);
        buf_release(&raw);
        buf_release(&out);
        buf_release(&skipped);
        buf_release(&skipped_text);
        n_line++;
    }
    assert_true(n_line >= n_line_min);
    arena_release(&a);
}

static void test_decode_v4(void **state)
{
    (void)state;
    check_decode(v4, TEST_DATA("vectors/detok.jsonl"), 120);
}

static void test_decode_tiny(void **state)
{
    (void)state;
    check_decode(tiny, TEST_DATA("vectors/tiny_detok.jsonl"), 60);
}

static void test_accessors(void **state)
{
    size_t n;

    (void)state;
    assert_int_equal(tok_n_vocab(v4), 129280);
    assert_int_equal(tok_n_vocab(tiny), 4096);
    assert_int_equal(tok_eos(v4), 1);
    assert_int_equal(tok_eos(tiny), 1);
    assert_int_equal(tok_find(v4, "<think>"), 128821);
    assert_int_equal(tok_find(v4, "｜DSML｜"), 128825);
    assert_int_equal(tok_find(v4, "<｜begin▁of▁sentence｜>"), 0);
    assert_int_equal(tok_find(v4, "the"), -1); /* in the vocabulary, but not added */
    assert_int_equal(tok_find(v4, "<thin"), -1);
    assert_int_equal(tok_find(v4, ""), -1);
    assert_true(tok_is_added(v4, 128821) && !tok_is_special(v4, 128821)); /* <think> */
    assert_true(tok_is_added(v4, 1) && tok_is_special(v4, 1));
    assert_false(tok_is_added(v4, 3));
    assert_false(tok_is_added(v4, -1) || tok_is_special(v4, 129280) || tok_is_added(v4, INT32_MAX));
    assert_null(tok_bytes(v4, -1, &n));
    assert_null(tok_bytes(v4, 129280, &n));
    assert_non_null(tok_bytes(v4, 129279, &n));
    assert_int_equal(n, strlen("<｜image｜>"));
}

/* Ids of text, with or without the guard over all of it. */
static struct tok_ids encode(const char *text, const struct tok_span *guard, size_t n_guard)
{
    struct tok_ids ids = {0};
    tok_encode(v4, text, strlen(text), guard, n_guard, &ids);
    return ids;
}

static void test_guard(void **state)
{
    /* spec/tokenizer.md section 4: so many plain ids do these cost in text of clients */
    static const struct {
        const char *text;
        size_t n_guarded;
    } rows_guarded[] = {{"<｜User｜>", 5}, {"<think>", 3}};

    (void)state;
    for (size_t i = 0; i < sizeof rows_guarded / sizeof rows_guarded[0]; i++) {
        const char *text = rows_guarded[i].text;
        struct tok_span all = {0, strlen(text)}, behind = {1, strlen(text)}, empty = {0, 0};
        struct tok_ids free_ids = encode(text, NULL, 0), guarded = encode(text, &all, 1);
        struct tok_ids started = encode(text, &behind, 1), none = encode(text, &empty, 1);
        assert_int_equal(free_ids.n, 1);
        assert_int_equal(guarded.n, rows_guarded[i].n_guarded);
        assert_int_equal(started.n, 1); /* only a START in the span is forbidden */
        assert_int_equal(none.n, 1);
        tok_ids_release(&free_ids);
        tok_ids_release(&guarded);
        tok_ids_release(&started);
        tok_ids_release(&none);
    }
}

/* Guarded text between real tokens; then the same with broken UTF-8 in front, so that the spans have to move. */
static void test_guard_among_tokens(void **state)
{
    static const char *const prefix[] = {"", "\xff\xfe", "\xe4\xb8", "\xed\xa0\x80 ab\xc3"};
    static const char head[] = "<｜User｜>", client[] = "a<think>b</think>", tail[] = "<｜Assistant｜>";

    (void)state;
    for (size_t i = 0; i < sizeof prefix / sizeof prefix[0]; i++) {
        struct buf b = {0};
        buf_add_str(&b, prefix[i]);
        buf_add_str(&b, head);
        struct tok_span spans[2] = {{0, b.len - strlen(head)}, {b.len, b.len + strlen(client)}};
        buf_add_str(&b, client);
        buf_add_str(&b, tail);
        buf_add_str(&b, "<think>");
        struct tok_ids ids = {0};
        tok_encode(v4, b.data, b.len, spans, 2, &ids);
        size_t n_added = 0;
        for (size_t k = 0; k < ids.n; k++)
            n_added += tok_is_added(v4, ids.id[k]);
        assert_int_equal(n_added, 3);
        assert_int_equal(ids.id[ids.n - 2], tok_find(v4, tail));
        assert_int_equal(ids.id[ids.n - 1], tok_find(v4, "<think>"));
        tok_ids_release(&ids);
        buf_release(&b);
    }
}

static void test_empty_and_append(void **state)
{
    struct tok_ids ids = {0};

    (void)state;
    tok_encode(v4, "", 0, NULL, 0, &ids);
    tok_encode(v4, NULL, 0, NULL, 0, &ids);
    assert_int_equal(ids.n, 0);
    tok_ids_add(&ids, 7);
    tok_encode(v4, "\0", 1, NULL, 0, &ids);
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.id[0], 7);
    size_t n;
    const char *nul = tok_bytes(v4, ids.id[1], &n);
    assert_int_equal(n, 1);
    assert_int_equal(nul[0], 0);
    tok_ids_release(&ids);
}

enum { N_THREAD = 4, N_ROUND = 3 };

struct job {
    const char *text;
    size_t len;
    struct tok_ids ids[N_ROUND];
};

static void *run_job(void *arg)
{
    struct job *job = arg;
    for (int i = 0; i < N_ROUND; i++)
        tok_encode(v4, job->text, job->len, NULL, 0, &job->ids[i]);
    return NULL;
}

static void test_threads(void **state)
{
    struct arena a = {0};
    struct job job[N_THREAD];
    pthread_t thread[N_THREAD];
    struct tok_ids want = {0};
    size_t len;
    const char *text = vec_file(&a, TEST_DATA("vectors/tokenizer.jsonl"), &len);

    (void)state;
    for (int i = 0; i < N_THREAD; i++) {
        job[i] = (struct job){.text = text, .len = len};
        assert_int_equal(pthread_create(&thread[i], NULL, run_job, &job[i]), 0);
    }
    for (int i = 0; i < N_THREAD; i++)
        pthread_join(thread[i], NULL);
    tok_encode(v4, text, len, NULL, 0, &want);
    assert_true(want.n > 1000);
    for (int i = 0; i < N_THREAD; i++)
        for (int k = 0; k < N_ROUND; k++) {
            check_ids("thread", &job[i].ids[k], &want);
            tok_ids_release(&job[i].ids[k]);
        }
    tok_ids_release(&want);
    arena_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encode_v4),
        cmocka_unit_test(test_encode_tiny),
        cmocka_unit_test(test_decode_v4),
        cmocka_unit_test(test_decode_tiny),
        cmocka_unit_test(test_accessors),
        cmocka_unit_test(test_guard),
        cmocka_unit_test(test_guard_among_tokens),
        cmocka_unit_test(test_empty_and_append),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, open_both, close_both);
}
