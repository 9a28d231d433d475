/* Proves: the parser gives the message that parse.jsonl expects, whatever way the text is cut: in one piece, in every
 * pair of pieces, character by character; that it is never ahead of what the vectors allow at their cuts, and
 * never behind it (eager); that rules without a vector hold; and that hostile text takes linear time. */
#include "controller/stream/parse.h"

#include "common/mem/arena.h"
#include "controller/stream/message.h"
#include "tests/unit/common/text/vectors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- vectors ------------------------------------------------------------------------------------------ */

struct row {
    const struct json *line;
    const char *id, *text;
    size_t len;
    bool at_eos;
    struct parse_opts opts;
};

/* {"bash": ["command"]} -> the tools of a request. */
static const struct json *make_tools(const struct json *schemas, struct arena *arena)
{
    struct buf b = {0};
    const struct json *tools;
    struct err err;

    buf_add_char(&b, '[');
    for (const struct json *t = schemas->child; t; t = t->next) {
        buf_add_str(&b, "{\"type\":\"function\",\"function\":{\"name\":");
        json_add_str(&b, t->key, t->key_len);
        buf_add_str(&b, ",\"parameters\":{\"type\":\"object\",\"properties\":{");
        for (const struct json *p = t->child; p; p = p->next) {
            json_add_str(&b, p->text, p->len);
            buf_add_str(&b, p->next ? ":{}," : ":{}");
        }
        buf_add_str(&b, t->next ? "}}}}," : "}}}}");
    }
    buf_add_char(&b, ']');
    assert_int_equal(json_parse(b.data, b.len, 0, arena, &tools, &err), 0);
    buf_release(&b);
    return tools;
}

static struct row read_row(const struct json *line, struct arena *arena)
{
    struct row row = {.line = line, .id = json_get(line, "id")->text};
    const struct json *schemas = json_get(line, "tools");

    row.text = vec_text(arena, line, &row.len);
    row.at_eos = json_is_str(json_get(line, "end"), "eos");
    row.opts.in_reasoning = json_is_str(json_get(line, "mode"), "thinking");
    row.opts.tools_on = !json_is(json_get(line, "no_tools"), JSON_TRUE);
    if (schemas)
        row.opts.tools = make_tools(schemas, arena);
    return row;
}

static bool starts_character(const struct row *row, size_t at)
{
    return at == row->len || (row->text[at] & 0xC0) != 0x80;
}

static void check_same(const struct row *row, const struct message *m, const char *how)
{
    struct arena arena = {0};
    struct buf out = {0};
    const struct json *got;
    struct err err;

    message_add(m, row->at_eos, &out);
    assert_int_equal(json_parse(out.data, out.len, 0, &arena, &got, &err), 0);
    if (!json_equal(got, json_get(row->line, "expect")))
        fail_msg("%s %s: %s", row->id, how, out.data);
    buf_release(&out);
    arena_release(&arena);
}

/* Feed exact-size copies, so that ASan sees a read past a piece. */
static void feed(struct parse *p, const char *text, size_t n)
{
    char *copy = malloc(n ? n : 1);
    memcpy(copy, text, n);
    parse_feed(p, copy, n);
    free(copy);
}

static void test_splits(void **state)
{
    struct arena arena = {0};
    size_t len, at = 0, n_line = 0;
    const char *file = vec_file(&arena, TEST_DATA("vectors/parse.jsonl"), &len);
    const struct json *line;
    (void)state;

    while ((line = vec_line(&arena, file, len, &at))) {
        struct row row = read_row(line, &arena);
        n_line++;
        for (size_t cut = 0; cut <= row.len; cut++) {
            struct message m = {0};
            if (!starts_character(&row, cut))
                continue;
            struct parse *p = parse_new(&row.opts, &message_events, &m);
            feed(p, row.text, cut);
            feed(p, row.text + cut, row.len - cut);
            parse_end(p);
            check_same(&row, &m, "in two pieces");
            parse_destroy(&p);
            message_release(&m);
        }
        struct message m = {0};
        struct parse *p = parse_new(&row.opts, &message_events, &m);
        for (size_t i = 0, next; i < row.len; i = next) {
            for (next = i + 1; !starts_character(&row, next);)
                next++;
            feed(p, row.text + i, next - i);
        }
        parse_end(p);
        int n_complete = 0;
        for (int i = 0; i < m.n_call; i++)
            n_complete += m.call[i].complete;
        assert_int_equal(parse_n_complete(p), n_complete);
        check_same(&row, &m, "character by character");
        parse_destroy(&p);
        message_release(&m);
    }
    assert_int_equal(n_line, 89);
    arena_release(&arena);
}

/* given has to be exactly the first `allowed` bytes of want. */
static void check_given(const struct row *row, int64_t cut, const char *what, const struct buf *given,
                        int64_t allowed, const struct json *want)
{
    if (given->len > want->len || (given->len && memcmp(given->data, want->text, given->len) != 0))
        fail_msg("%s cut %d: %s is no beginning of the whole", row->id, (int)cut, what);
    if ((int64_t)given->len != allowed)
        fail_msg("%s cut %d: %s is %s: %d bytes of %d", row->id, (int)cut, what,
                 (int64_t)given->len > allowed ? "ahead" : "behind", (int)given->len, (int)allowed);
}

static int64_t number_of(const struct json *obj, const char *name)
{
    int64_t n = -1;
    assert_true(json_to_i64(json_get(obj, name), &n));
    return n;
}

static void check_cut(const struct row *row, const struct json *at)
{
    const struct json *expect = json_get(row->line, "expect"), *calls = json_get(at, "calls");
    int64_t cut = number_of(at, "cut");
    struct message m = {0};

    struct parse *p = parse_new(&row->opts, &message_events, &m);
    feed(p, row->text, (size_t)cut);
    check_given(row, cut, "reasoning", &m.reasoning, number_of(at, "reasoning"),
                json_get(expect, "reasoning_content"));
    check_given(row, cut, "content", &m.content, number_of(at, "content"), json_get(expect, "content"));
    assert_int_equal(m.n_call, calls->n);
    for (int i = 0; i < m.n_call; i++) {
        const struct json *want = json_at(json_get(expect, "tool_calls"), (uint32_t)i);
        const struct json *call = json_at(calls, (uint32_t)i);
        check_given(row, cut, "name", &m.call[i].name,
                    json_is(json_get(call, "name"), JSON_TRUE) ? (int64_t)json_get(want, "name")->len : 0,
                    json_get(want, "name"));
        check_given(row, cut, "arguments", &m.call[i].arguments, number_of(call, "args"),
                    json_get(want, "arguments"));
    }
    parse_destroy(&p);
    message_release(&m);
}

static void test_eager(void **state)
{
    struct arena arena = {0};
    size_t len, at = 0, n_line = 0;
    const char *file = vec_file(&arena, TEST_DATA("vectors/parse.jsonl"), &len);
    const struct json *line;
    (void)state;

    while ((line = vec_line(&arena, file, len, &at))) {
        struct row row = read_row(line, &arena);
        n_line++;
        for (const struct json *cut = json_get(line, "stream")->child; cut; cut = cut->next)
            check_cut(&row, cut);
    }
    assert_int_equal(n_line, 89);
    arena_release(&arena);
}

/* ---- rules beyond the vectors ------------------------------------------------------------------------- */

#define D     "｜DSML｜"
#define OPEN  "<" D "tool_calls>\n"
#define CLOSE "</" D "tool_calls>"
#define CALL_F \
    "<" D "invoke name=\"f\">\n<" D "parameter name=\"a\" string=\"false\">1</" D "parameter>\n</" D "invoke>\n"

static void check_text(bool reasoning, bool tools, const char *text, const char *expect)
{
    struct parse_opts opts = {.in_reasoning = reasoning, .tools_on = tools};
    struct buf out = {0};

    assert_int_equal(parse_whole(&opts, text, strlen(text), true, &out), 0);
    if (strcmp(out.data, expect) != 0)
        fail_msg("%s\ngives    %s\nnot      %s", text, out.data, expect);
    buf_release(&out);
}

#define NO_CALLS(content) \
    "{\"reasoning_content\": \"\", \"content\": \"" content "\", \"tool_calls\": [], \"finish_reason\": \"stop\"}"
#define ONE_CALL(content, arguments)                                     \
    "{\"reasoning_content\": \"\", \"content\": \"" content              \
    "\", \"tool_calls\": [{\"name\": \"f\", \"arguments\": \"" arguments \
    "\", \"complete\": true}], \"finish_reason\": \"tool_calls\"}"

static void test_rules(void **state)
{
    (void)state;
    /* 2: only at the very start, behind white space, once. */
    check_text(false, false, " \n<think>a</think>b",
               "{\"reasoning_content\": \"a\", \"content\": \"b\", \"tool_calls\": [], \"finish_reason\": \"stop\"}");
    check_text(false, false, "x<think>a", NO_CALLS("x<think>a"));
    check_text(false, false, " \n x", NO_CALLS(" \\n x"));
    /* 4: the newlines of a marker that does not come are text. */
    check_text(false, true, "a\n\n<" D "tool_callz>", NO_CALLS("a\\n\\n<" D "tool_callz>"));
    check_text(false, true, "a\n" OPEN CALL_F CLOSE, ONE_CALL("a\\n", "{\\\"a\\\": 1}"));
    /* 6: what is no tag leaves the block; junk between parameters is skipped. */
    check_text(false, true, OPEN CALL_F "so.", ONE_CALL("\\nso.", "{\\\"a\\\": 1}"));
    check_text(false, true, "<" D "invoke name=\"f\">junk < \n</" D "invoke>" CLOSE, ONE_CALL("", "{}"));
    /* 7: no end tag but the parameter's own ends a value. */
    check_text(false, true,
               OPEN "<" D "invoke name=\"f\"><" D "parameter name=\"a\" string=\"true\"></" D "invoke>" CLOSE "</" D
                    "parameter></" D "invoke>" CLOSE,
               ONE_CALL("", "{\\\"a\\\": \\\"</" D "invoke></" D "tool_calls>\\\"}"));
    /* 8: a body that is no JSON. */
    check_text(false, true, OPEN "<" D "invoke name=\"f\">\n{oops\n</" D "invoke>" CLOSE,
               ONE_CALL("", "{\\\"arguments\\\": \\\"{oops\\\"}"));
    /* 10: closers behind a block never become content, not even after text. */
    check_text(false, true, OPEN CALL_F CLOSE "\n</" D "invoke>\nDone.</" D "tool_calls>",
               ONE_CALL("\\n\\nDone.", "{\\\"a\\\": 1}"));
    /* 11: at the end, half a marker is text, a whole "<D" is not. */
    check_text(false, true, "2 <", NO_CALLS("2 <"));
    check_text(false, true, "a\n\n<｜DSML", NO_CALLS("a\\n\\n<｜DSML"));
    check_text(false, true, "a\n\n<" D, NO_CALLS("a"));
    check_text(false, true, OPEN CALL_F CLOSE "\n<", ONE_CALL("\\n<", "{\\\"a\\\": 1}"));
    /* 13: without tools there are no closers and no blocks. */
    check_text(false, false, CLOSE "</think>" OPEN, NO_CALLS("</" D "tool_calls><" D "tool_calls>\\n"));
}

static void test_not_utf8(void **state)
{
    struct parse_opts opts = {0};
    struct buf out = {0};
    (void)state;
    assert_int_equal(parse_whole(&opts, "\xff", 1, true, &out), ERR_FORMAT);
    assert_int_equal(out.len, 0);
    buf_release(&out);
}

/* ---- time --------------------------------------------------------------------------------------------- */

enum { HOSTILE_BYTES = 1 << 20, SLACK_MS = 200 };

/* CPU time in ms for `head` and then `unit` up to so many bytes, fed in pieces. */
static double time_hostile(const char *head, const char *unit, size_t bytes, size_t piece)
{
    struct parse_opts opts = {.in_reasoning = false, .tools_on = true};
    struct buf text = {0};
    struct message m = {0};

    buf_add_str(&text, head);
    while (text.len < bytes)
        buf_add_str(&text, unit);
    clock_t start = clock();
    struct parse *p = parse_new(&opts, &message_events, &m);
    for (size_t i = 0; i < text.len; i += piece)
        parse_feed(p, text.data + i, text.len - i < piece ? text.len - i : piece);
    parse_end(p);
    double took = (double)(clock() - start) * 1000 / CLOCKS_PER_SEC;
    parse_destroy(&p);
    message_release(&m);
    buf_release(&text);
    return took;
}

/* Four times the text may take four times as long, with room for noise; a quadratic parser takes sixteen times. The
 * parser itself does not care for UTF-8, so pieces may cut a character here. */
static void run_hostile(const char *head, const char *unit, size_t piece)
{
    size_t bytes = piece < 64 ? HOSTILE_BYTES / 4 : HOSTILE_BYTES;
    double quarter = time_hostile(head, unit, bytes / 4, piece), whole = time_hostile(head, unit, bytes, piece);

    if (whole > 9 * quarter + SLACK_MS)
        fail_msg("\"%s\" in pieces of %zu bytes: %zu bytes took %.0f ms, a quarter of them %.0f ms", unit, piece,
                 bytes, whole, quarter);
}

static void test_hostile(void **state)
{
    static const char head[] = OPEN "<" D "invoke name=\"f\"><" D "parameter name=\"a\" string=\"";
    static const char *const rows[][2] = {
        {"", "<"},
        {"", "\n"},
        {"", " "},
        {"", "\n\n<" D},
        {"", "\n\n<" D "tool_call"},
        {"", "</think"},
        {OPEN CLOSE, " "},
        {OPEN CLOSE, "</" D "invoke>"},
        {OPEN, CALL_F},
        {OPEN "<" D "invoke name=\"", "\""},
        {OPEN "<" D "invoke name=\"f\" ", "x"},
        {OPEN "<" D "invoke name=\"f\">{", "[</" D "invoke"},
        {head, "<"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        run_hostile(rows[i][0], rows[i][1], 1);
        run_hostile(rows[i][0], rows[i][1], 4096);
        run_hostile(rows[i][0], rows[i][1], HOSTILE_BYTES * 2);
    }
    struct buf value = {0};
    buf_addf(&value, "%sfalse\">[", head);
    run_hostile(value.data, "1,", 1);
    run_hostile(value.data, "</" D "paramete", 7);
    buf_clear(&value);
    buf_addf(&value, "%strue\">", head);
    run_hostile(value.data, "</" D "parameter", 1);
    run_hostile(value.data, "\"\n", 1);
    buf_release(&value);
}

/* Many names in one call, each of which is looked up once. Returns CPU time in ms. */
static double time_params(int n)
{
    struct parse_opts opts = {.tools_on = true};
    struct buf text = {0};
    struct message m = {0};

    buf_add_str(&text, OPEN "<" D "invoke name=\"f\">");
    for (int i = 0; i < n; i++)
        buf_addf(&text, "<" D "parameter name=\"p%d\" string=\"false\">%d</" D "parameter>", i, i);
    buf_add_str(&text, CLOSE);
    clock_t start = clock();
    struct parse *p = parse_new(&opts, &message_events, &m);
    parse_feed(p, text.data, text.len);
    parse_end(p);
    double took = (double)(clock() - start) * 1000 / CLOCKS_PER_SEC;
    assert_int_equal(m.n_call, 1);
    assert_true(m.call[0].complete);
    parse_destroy(&p);
    message_release(&m);
    buf_release(&text);
    return took;
}

static void test_many_params(void **state)
{
    (void)state;
    double quarter = time_params(5000);
    assert_true(time_params(20000) < 9 * quarter + SLACK_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_splits),   cmocka_unit_test(test_eager),   cmocka_unit_test(test_rules),
        cmocka_unit_test(test_not_utf8), cmocka_unit_test(test_hostile), cmocka_unit_test(test_many_params),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
