/* Proves: events and counts do not depend on how tokens are cut into feeds; each event is whole UTF-8; stop strings
 * across token borders; hidden ids; tool calls do not leak markup; usage counts. How: rows of texts through the tiny
 * tokenizer, and thousands of random token sequences (markup, broken UTF-8, hidden ids among them), each fed at once
 * and in random batches. */
#include "controller/stream/text.h"
#include "common/base/check.h"
#include "common/mem/arena.h"
#include "common/text/utf8.h"
#include "controller/stream/message.h"
#include "tests/unit/test.h"

#include <stdlib.h>
#include <string.h>

#define D "\xEF\xBD\x9C" "DSML" "\xEF\xBD\x9C"

static struct tok *tok;

struct rec {
    struct message m;
    struct stream_text *t;
};

static void check_utf8(const char *text, size_t n)
{
    assert_true(n > 0 && utf8_is_valid(text, n));
}

static void on_reasoning(void *arg, const char *text, size_t n)
{
    check_utf8(text, n);
    message_events.on_reasoning(&((struct rec *)arg)->m, text, n);
}

static void on_content(void *arg, const char *text, size_t n)
{
    check_utf8(text, n);
    message_events.on_content(&((struct rec *)arg)->m, text, n);
}

static void on_call(void *arg, int call, const char *name, size_t n)
{
    message_events.on_call(&((struct rec *)arg)->m, call, name, n);
}

static void on_arguments(void *arg, int call, const char *json, size_t n)
{
    check_utf8(json, n);
    message_events.on_arguments(&((struct rec *)arg)->m, call, json, n);
}

static void on_call_end(void *arg, int call, bool complete)
{
    message_events.on_call_end(&((struct rec *)arg)->m, call, complete);
}

static const struct parse_events events = {on_reasoning, on_content, on_call, on_arguments, on_call_end};

struct result {
    struct buf json;
    enum stream_text_end end;
    int64_t n_tok, n_reasoning;
    int n_complete;
};

/* batch 0: all at once; else random batches of up to that size. */
static void run(const struct stream_text_opts *opts, const int32_t *id, int64_t n, int batch, struct result *r)
{
    struct rec rec = {0};

    *r = (struct result){0};
    rec.t = stream_text_new(opts, &events, &rec);
    for (int64_t i = 0; i < n;) {
        int64_t k = batch ? 1 + rand() % batch : n;
        k = k > n - i ? n - i : k;
        r->end = stream_text_feed(rec.t, id + i, k);
        i += k;
    }
    stream_text_finish(rec.t);
    r->n_tok = stream_text_n_tok(rec.t);
    r->n_reasoning = stream_text_n_reasoning(rec.t);
    r->n_complete = stream_text_n_call_complete(rec.t);
    message_add(&rec.m, true, &r->json);
    stream_text_destroy(&rec.t);
    assert_null(rec.t);
    message_release(&rec.m);
}

static void same(const struct result *a, const struct result *b)
{
    assert_string_equal(a->json.data, b->json.data);
    assert_int_equal(a->end, b->end);
    assert_int_equal(a->n_tok, b->n_tok);
    assert_int_equal(a->n_reasoning, b->n_reasoning);
    assert_int_equal(a->n_complete, b->n_complete);
}

struct row {
    bool in_reasoning, tools_on;
    const char *stops[3];
    const char *text;
    const char *reasoning, *content;
    enum stream_text_end end;
    int n_complete;
};

#define CALL                                                                                       \
    "<" D "tool_calls>\n<" D "invoke name=\"f\">\n<" D "parameter name=\"x\" string=\"true\">a STOP b</" D            \
    "parameter>\n</" D "invoke>\n</" D "tool_calls>"

static const struct row rows[] = {
    {false, false, {0}, "Hello, world!", "", "Hello, world!", STREAM_TEXT_OPEN, 0},
    {true, false, {0}, "think</think>answer", "think", "answer", STREAM_TEXT_OPEN, 0},
    {false, false, {"wor"}, "Hello, world!", "", "Hello, ", STREAM_TEXT_STOP, 0},
    {false, false, {"worm", "xyz"}, "Hello, world!", "", "Hello, world!", STREAM_TEXT_OPEN, 0},
    {false, false, {"ld!"}, "Hello, world!", "", "Hello, wor", STREAM_TEXT_STOP, 0},
    {true, false, {"nk"}, "think</think>answer", "thi", "", STREAM_TEXT_STOP, 0},
    {true, false, {"ka"}, "think</think>answer", "think", "answer", STREAM_TEXT_OPEN, 0}, /* no match across */
    {false, true, {"STOP"}, "yes\n\n" CALL, "", "yes", STREAM_TEXT_OPEN, 1}, /* arguments are not searched */
    {false, true, {"\n"}, "yes\n\n" CALL, "", "yes", STREAM_TEXT_OPEN, 1},   /* nor is markup */
    {false, true, {"s"}, "yes\n\n" CALL, "", "ye", STREAM_TEXT_STOP, 0},
    {false, false, {0}, "caf\xC3\xA9 \xF0\x9F\x98\x80 \xE4\xBD\xA0", "", "caf\xC3\xA9 \xF0\x9F\x98\x80 \xE4\xBD\xA0",
     STREAM_TEXT_OPEN, 0},
};

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        const struct row *row = &rows[i];
        struct stop_set stops = {0};
        struct tok_ids ids = {0};
        struct buf want_json = {0};
        for (int k = 0; k < 3 && row->stops[k]; k++)
            stop_set_add(&stops, row->stops[k], strlen(row->stops[k]));
        struct stream_text_opts o = {tok, &stops, {row->in_reasoning, row->tools_on, NULL}, false, 0};
        tok_encode(tok, row->text, strlen(row->text), NULL, 0, &ids);
        for (int batch = 0; batch < 4; batch++) {
            struct result r;
            run(&o, ids.id, (int64_t)ids.n, batch, &r);
            buf_clear(&want_json);
            buf_addf(&want_json, "{\"reasoning_content\": \"%s\", \"content\": \"%s\"", row->reasoning, row->content);
            if (strncmp(r.json.data, want_json.data, want_json.len) != 0)
                fail_msg("row %zu: %s", i, r.json.data);
            assert_int_equal(r.end, row->end);
            assert_int_equal(r.n_complete, row->n_complete);
            assert_null(strstr(r.json.data, "DSML"));
            buf_release(&r.json);
        }
        buf_release(&want_json);
        tok_ids_release(&ids);
        stop_set_release(&stops);
    }
}

static void test_counts(void **state)
{
    struct stop_set none = {0};
    struct stream_text_opts o = {tok, &none, {true, false, NULL}, false, 0};
    struct tok_ids a = {0}, b = {0}, all = {0};
    struct result r;
    (void)state;

    tok_encode(tok, "some thoughts", 13, NULL, 0, &a);
    tok_encode(tok, "the answer", 10, NULL, 0, &b);
    for (size_t i = 0; i < a.n; i++)
        tok_ids_add(&all, a.id[i]);
    tok_ids_add(&all, tok_find(tok, "</think>"));
    for (size_t i = 0; i < b.n; i++)
        tok_ids_add(&all, b.id[i]);
    run(&o, all.id, (int64_t)all.n, 0, &r);
    assert_int_equal(r.n_tok, a.n + 1 + b.n); /* spec/chat.md section 7, Usage */
    assert_int_equal(r.n_reasoning, a.n);
    buf_release(&r.json);

    /* Rule 14: hidden ids end the output and do not count; with ignore_eos they make no text and do. */
    const int32_t hidden[] = {tok_eos(tok), tok_find(tok, "<｜User｜>"), tok_find(tok, "<｜Assistant｜>"), 2};
    for (size_t k = 0; k < N_ELEM(hidden); k++) {
        int32_t ids[] = {a.id[0], hidden[k], a.id[1]};
        o.ignore_eos = false;
        run(&o, ids, 3, 0, &r);
        assert_int_equal(r.end, STREAM_TEXT_SPECIAL);
        assert_int_equal(r.n_tok, 1);
        buf_release(&r.json);
        o.ignore_eos = true;
        run(&o, ids, 3, 0, &r);
        assert_int_equal(r.end, STREAM_TEXT_OPEN);
        assert_int_equal(r.n_tok, 3);
        assert_null(strstr(r.json.data, "｜"));
        buf_release(&r.json);
    }
    tok_ids_release(&a);
    tok_ids_release(&b);
    tok_ids_release(&all);
}

static void add_piece(struct tok_ids *ids, const char *text)
{
    tok_encode(tok, text, strlen(text), NULL, 0, ids);
}

/* The property: same events and counts for every way of cutting, whatever the tokens are. */
static void test_random(void **state)
{
    static const char *const pieces[] = {"<" D "tool_calls>",
                                         "<" D "invoke name=\"f\">",
                                         "</" D "invoke>",
                                         "</think>",
                                         "<think>",
                                         "\n\n",
                                         "</" D "tool_calls>",
                                         "STOP",
                                         "ST",
                                         "{\"a\": 1}",
                                         "<" D "parameter name=\"x\" string=\"true\">",
                                         "</" D "parameter>",
                                         "é",
                                         "😀",
                                         CALL,
                                         "<" D "tool_calls><" D "invoke name=\"g\">"};
    struct stop_set stops = {0};
    struct tok_ids ids = {0};
    int n_stopped = 0, n_special = 0, n_call = 0;
    (void)state;
    srand(11);
    stop_set_add(&stops, "STOP", 4);
    stop_set_add(&stops, "\xF0\x9F\x98\x80!", 5);
    for (int round = 0; round < 3000; round++) {
        struct stream_text_opts o = {tok, &stops, {rand() % 2, rand() % 4 > 0, NULL}, rand() % 8 == 0,
                                      rand() % 3};
        struct result a, b;
        ids.n = 0;
        for (int i = 0, n = rand() % 40; i < n; i++) {
            if (rand() % 3)
                tok_ids_add(&ids, rand() % 60  ? 3 + rand() % 4028
                                  : rand() % 2 ? rand() % 3
                                               : rand() % tok_n_vocab(tok));
            else
                add_piece(&ids, pieces[(size_t)rand() % N_ELEM(pieces)]);
        }
        run(&o, ids.id, (int64_t)ids.n, 0, &a);
        for (int batch = 1; batch < 20; batch += 6) {
            run(&o, ids.id, (int64_t)ids.n, batch, &b);
            same(&a, &b);
            buf_release(&b.json);
        }
        n_stopped += a.end == STREAM_TEXT_STOP;
        n_special += a.end == STREAM_TEXT_SPECIAL;
        n_call += a.n_complete > 0 || strstr(a.json.data, "\"name\"") != NULL;
        buf_release(&a.json);
    }
    assert_true(n_stopped > 50 && n_special > 50 && n_call > 50); /* the generator reaches what it is for */
    stop_set_release(&stops);
    tok_ids_release(&ids);
}

static int open_tok(void **state)
{
    struct err err;
    (void)state;
    return tok_open(TEST_DATA("tiny_tokenizer"), &tok, &err);
}

static int close_tok(void **state)
{
    (void)state;
    tok_close(&tok);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_counts),
                                       cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, open_tok, close_tok);
}
