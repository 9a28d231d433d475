/* Proves: spec/api.md 4.2 and 4.3 - a stream joined is the whole answer byte for byte, chunk rules, n choices, stop
 * strings, tool calls, logprobs, usage, keep-alive, redispatch, every way of failing before and after the answer has
 * begun, a client that leaves or does not read. How: real HTTP against the front on a scripted back whose token
 * batches are random. */
#include "common/base/check.h"
#include "common/base/clock.h"
#include "tests/unit/controller/api/rig.h"
#include "tests/unit/test.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define D "\xEF\xBD\x9C" "DSML" "\xEF\xBD\x9C"
#define CALL(name, value)                                                                                          \
    "<" D "invoke name=\"" name "\">\n<" D "parameter name=\"x\" string=\"true\">" value "</" D "parameter>\n</" D \
    "invoke>\n"
#define CALLS(inside) "\n\n<" D "tool_calls>\n" inside "</" D "tool_calls>"

#define MODEL  "\"model\":\"org/tiny\""
#define HI     "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define TOOLS                                                                                             \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\"," \
    "\"properties\":{\"x\":"                                                                              \
    "{\"type\":\"string\"}}}}},{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]"
#define NO_THINK "\"thinking\":{\"type\":\"disabled\"}"

/* ---- a stream put together again ---- */

struct joined {
    struct buf reasoning, content, calls, logprobs, finish;
    bool role;
};

static void joined_release(struct joined *j)
{
    buf_release(&j->reasoning);
    buf_release(&j->content);
    buf_release(&j->calls);
    buf_release(&j->logprobs);
    buf_release(&j->finish);
}

static void add_array(struct buf *out, const struct json *list)
{
    for (const struct json *t = list ? list->child : NULL; t; t = t->next) {
        json_add(out, t);
        buf_add_char(out, '\n');
    }
}

static void add_str(struct buf *out, const struct json *s)
{
    if (s && s->kind == JSON_STRING)
        buf_add(out, s->text, s->len);
}

/* One choice of a chunk. */
static void join_choice(struct joined *j, const struct json *c)
{
    const struct json *d = json_get(c, "delta"), *finish = json_get(c, "finish_reason");
    const struct json *call = json_at(json_get(d, "tool_calls"), 0), *f = json_get(call, "function");

    assert_non_null(finish);
    assert_true(j->finish.len == 0); /* nothing of a choice after its last chunk */
    if (!j->role) {
        assert_true(json_is_str(json_get(d, "role"), "assistant") && json_is_str(json_get(d, "content"), ""));
        j->role = true;
    } else {
        assert_null(json_get(d, "role"));
    }
    assert_true(d->n <= 1 || json_get(d, "role"));
    add_str(&j->reasoning, json_get(d, "reasoning_content"));
    add_str(&j->content, json_get(d, "content"));
    if (json_get(call, "id")) {
        buf_addf(&j->calls, "%s[%s:%s:%s:", j->calls.len ? "]" : "", json_get(call, "index")->text,
                 json_get(call, "id")->text, json_get(f, "name")->text);
        assert_true(json_is_str(json_get(call, "type"), "function"));
    }
    add_str(&j->calls, json_get(f, "arguments"));
    add_array(&j->logprobs, json_get(json_get(c, "logprobs"), "content"));
    if (finish->kind != JSON_NULL) {
        assert_int_equal(d->n, 0);
        add_str(&j->finish, finish);
    }
}

/* What follows the data of event n_event: its id, and with the first one how long to wait. Returns 0 for an error
 * event, which has no id, else 1. */
static int check_event_id(const char *rest, const char *next, int n_event, int n_choice)
{
    char want[40];

    if (rest + 2 == next)
        return 0;
    assert_memory_equal(rest, "\nid: ", 5);
    rest += 5;
    assert_int_equal(strspn(rest, "0123456789abcdef"), 24);
    snprintf(want, sizeof want, "-%d\n%s\n", n_event + 1, n_event ? "" : "retry: 1000\n");
    if (n_choice == 1)
        assert_memory_equal(rest + 24, want, strlen(want));
    return 1;
}

/* Check the rules of 4.3 on the way. Returns the text of the usage, "" if there was none. `error`: out, the error
 * event. */
static void join(const struct answer *a, struct joined *j, int n_choice, bool include_usage, struct buf *usage,
                 struct buf *error)
{
    struct arena arena = {0};
    struct err err = {0};
    char *id = NULL;
    bool done = false;
    int n_event = 0;

    assert_int_equal(a->status, 200);
    assert_true(a->complete);
    assert_non_null(strstr(a->head.data, "Content-Type: text/event-stream; charset=utf-8\r\n"));
    assert_non_null(strstr(a->head.data, "Cache-Control: no-cache\r\n"));
    assert_non_null(strstr(a->head.data, "X-Accel-Buffering: no\r\n"));
    buf_add(usage, "", 0);
    for (const char *p = a->body.data; *p;) {
        const char *end = strstr(p, "\n\n");
        const struct json *root;
        assert_non_null(end);
        assert_false(done);
        while (*p == ':' && p < end) /* comments are lines, not events */
            p += strcspn(p, "\n") + 1;
        if (p > end) {
            p = end + 2;
            continue;
        }
        const char *next = end + 2;
        assert_memory_equal(p, "data: ", 6);
        end = strchr(p, '\n');
        n_event += check_event_id(end, next, n_event, n_choice);
        done = strncmp(p, "data: [DONE]\n", 13) == 0;
        if (!done) {
            if (json_parse(p + 6, (size_t)(end - p - 6), JSON_NO_REPEATED_KEYS, &arena, &root, &err) != 0)
                fail_msg("%s in %s", err.text, p);
            if (json_get(root, "error")) {
                assert_non_null(error);
                buf_add(error, p, (size_t)(end - p));
                assert_true(*next == 0); /* the last word */
            } else {
                const struct json *choices = json_get(root, "choices"), *u = json_get(root, "usage");
                id = id ? id : arena_strdup(&arena, json_get(root, "id")->text);
                assert_string_equal(json_get(root, "id")->text, id);
                assert_true(json_is_str(json_get(root, "object"), "chat.completion.chunk"));
                assert_true(json_is_str(json_get(root, "system_fingerprint"), "fp_123456789a"));
                assert_int_equal(u != NULL, include_usage);
                if (choices->n == 0)
                    json_add(usage, u);
                else
                    assert_true(!u || u->kind == JSON_NULL);
                if (choices->n) {
                    int i = atoi(json_get(choices->child, "index")->text);
                    assert_true(i < n_choice && usage->len == 0);
                    join_choice(&j[i], choices->child);
                }
            }
        }
        p = next;
    }
    assert_int_equal(done, !error || error->len == 0);
    arena_release(&arena);
}

/* The same form from a whole answer. */
static void split(const struct json *root, struct joined *j, int n_choice)
{
    assert_int_equal(json_get(root, "choices")->n, n_choice);
    for (int i = 0; i < n_choice; i++) {
        const struct json *c = json_at(json_get(root, "choices"), (uint32_t)i), *m = json_get(c, "message");
        add_str(&j[i].reasoning, json_get(m, "reasoning_content"));
        add_str(&j[i].content, json_get(m, "content"));
        add_str(&j[i].finish, json_get(c, "finish_reason"));
        assert_true(json_is(json_get(m, "refusal"), JSON_NULL) && json_get(c, "logprobs"));
        const struct json *calls = json_get(m, "tool_calls");
        int n = 0;
        for (const struct json *k = calls ? calls->child : NULL; k; k = k->next, n++) {
            buf_addf(&j[i].calls, "%s[%d:%s:%s:%s", n ? "]" : "", n, json_get(k, "id")->text,
                     json_get(json_get(k, "function"), "name")->text,
                     json_get(json_get(k, "function"), "arguments")->text);
        }
        add_array(&j[i].logprobs, json_get(json_get(c, "logprobs"), "content"));
    }
}

static void same(const struct buf *a, const struct buf *b, const char *what)
{
    const char *x = a->data ? a->data : "", *y = b->data ? b->data : "";
    if (a->len != b->len || memcmp(x, y, a->len) != 0)
        fail_msg("%s differs:\n%s\n---\n%s", what, x, y);
}

/* call ids hold the request's id: compare with it blanked */
static void blank_ids(struct buf *calls)
{
    for (char *p = calls->data; p && (p = strstr(p, "call_")); p += 5)
        memset(p + 5, 'x', 24);
}

/* ---- whole and stream are the same ---- */

struct row {
    const char *text[2];
    int n;
    const char *members; /* of the request */
    enum ctl_end end;
    /* of choice 0 */
    const char *reasoning, *content, *calls, *finish;
};

static const struct row rows[] = {
    {{"thought</think>answer"}, 1, "\"n\":1", CTL_END_stop, "thought", "answer", "", "stop"},
    {{"thought</think>answer"}, 1, "\"max_tokens\":2", CTL_END_stop, NULL, NULL, "", "length"},
    {{"answer"}, 1, NO_THINK, CTL_END_stop, "", "answer", "", "stop"},
    {{"one two", "other words caf\xC3\xA9 \xF0\x9F\x98\x80"},
     2,
     NO_THINK ",\"n\":2",
     CTL_END_stop,
     "",
     "one two",
     "",
     "stop"},
    {{"one two", "three"}, 5, NO_THINK ",\"n\":5,\"logprobs\":true", CTL_END_length, "", "one two", "", "length"},
    {{"Hello, world! Goodbye."}, 1, NO_THINK ",\"stop\":\"world\"", CTL_END_stop, "", "Hello, ", "", "stop"},
    {{"Hello, world! Goodbye."},
     1,
     NO_THINK ",\"stop\":[\"xyz\",\"o, wor\",\"d! G\"]",
     CTL_END_stop,
     "",
     "Hell",
     "",
     "stop"},
    {{"Hello, world! Goodbye."},
     1,
     NO_THINK ",\"stop\":[\"bye.!\"]",
     CTL_END_stop,
     "",
     "Hello, world! Goodbye.",
     "",
     "stop"},
    {{"a <b </think x < y"}, 1, NO_THINK, CTL_END_stop, "", "a <b </think x < y", "", "stop"},
    {{"so</think>" CALLS(CALL("f", "1 < 2 \"q\"\\") CALL("g", "z"))},
     1,
     TOOLS,
     CTL_END_stop,
     "so",
     "",
     "[0:call_xxxxxxxxxxxxxxxxxxxxxxxx_0_0:f:{\"x\": \"1 < 2 "
     "\\\"q\\\"\\\\\"}][1:call_xxxxxxxxxxxxxxxxxxxxxxxx_0_1:g:{\"x\": \"z\"}",
     "tool_calls"},
    {{"say" CALLS(CALL("f", "a") CALL("g", "z"))},
     1,
     NO_THINK ",\"parallel_tool_calls\":false," TOOLS,
     CTL_END_stop,
     "",
     "say",
     "[0:call_xxxxxxxxxxxxxxxxxxxxxxxx_0_0:f:{\"x\": \"a\"}",
     "tool_calls"},
    {{"say" CALLS(CALL("f", "a"))},
     1,
     NO_THINK ",\"stop\":[\"\\n\",\"a\\\"\",\"DSML\"]," TOOLS,
     CTL_END_stop,
     "",
     "say",
     "[0:call_xxxxxxxxxxxxxxxxxxxxxxxx_0_0:f:{\"x\": \"a\"}",
     "tool_calls"},
    {{"say" CALLS(CALL("f", "a"))}, 1, NO_THINK ",\"max_tokens\":9," TOOLS, CTL_END_stop, NULL, NULL, NULL, "length"},
    {{"quote" CALLS(CALL("f", "a"))}, 1, NO_THINK, CTL_END_stop, "", "quote" CALLS(CALL("f", "a")), "", "stop"},
    {{""}, 1, NO_THINK, CTL_END_stop, "", "", "", "stop"},
    {{"partial"}, 1, NO_THINK, CTL_END_canceled, "", "partial", "", "insufficient_system_resource"},
    {{"lp \xF0\x9F\x98\x80 <x"},
     1,
     NO_THINK ",\"logprobs\":true,\"top_logprobs\":3",
     CTL_END_stop,
     "",
     "lp \xF0\x9F\x98\x80 <x",
     "",
     "stop"},
};

static void check_row(struct rig *rig, const struct row *row, int batch)
{
    struct script s = {
        .text = {row->text[0], row->text[1]}, .n_text = row->text[1] ? 2 : 1, .batch = batch, .end = row->end};
    struct joined w[5] = {0}, j[5] = {0};
    struct buf body = {0}, usage_a = {0}, usage_b = {0};
    struct arena arena = {0};
    const struct json *root;
    struct answer a;
    struct err err = {0};

    rig_script(rig, &s);
    buf_addf(&body, "{" MODEL "," HI ",%s}", row->members);
    rig_ask(rig, "POST", "/v1/chat/completions", body.data, &a);
    if (a.status != 200 || json_parse(a.body.data, a.body.len, JSON_NO_REPEATED_KEYS, &arena, &root, &err) != 0)
        fail_msg("%s: %s %s", body.data, a.body.data, err.text);
    split(root, w, row->n);
    json_add(&usage_a, json_get(root, "usage"));
    answer_release(&a);
    buf_clear(&body);
    buf_addf(&body, "{" MODEL "," HI ",\"stream\":true,\"stream_options\":{\"include_usage\":true},%s}", row->members);
    rig_ask(rig, "POST", "/chat/completions", body.data, &a);
    join(&a, j, row->n, true, &usage_b, NULL);
    for (int i = 0; i < row->n; i++) {
        blank_ids(&w[i].calls);
        blank_ids(&j[i].calls);
        same(&w[i].reasoning, &j[i].reasoning, "reasoning");
        same(&w[i].content, &j[i].content, "content");
        same(&w[i].calls, &j[i].calls, "calls");
        same(&w[i].logprobs, &j[i].logprobs, "logprobs");
        same(&w[i].finish, &j[i].finish, "finish_reason");
    }
    same(&usage_a, &usage_b, "usage");
    const char *const want[] = {row->reasoning, row->content, row->calls, row->finish};
    const struct buf *const got[] = {&w[0].reasoning, &w[0].content, &w[0].calls, &w[0].finish};
    for (int i = 0; i < 4; i++)
        if (want[i] && strcmp(got[i]->data ? got[i]->data : "", want[i]) != 0)
            fail_msg("%s: not \"%s\" but \"%s\"", body.data, want[i], got[i]->data);
    if (row->calls) /* rule 13 apart, no markup reaches a client */
        assert_true(row->calls[0] == 0 || !strstr(a.body.data, "DSML"));
    answer_release(&a);
    for (int i = 0; i < 5; i++) {
        joined_release(&w[i]);
        joined_release(&j[i]);
    }
    buf_release(&body);
    buf_release(&usage_a);
    buf_release(&usage_b);
    arena_release(&arena);
}

static void test_rows(void **state)
{
    static const int batches[] = {1, 2, 1000, 0, 0};
    struct rig *rig = rig_open(NULL);
    (void)state;
    for (size_t i = 0; i < N_ELEM(rows); i++)
        for (size_t b = 0; b < N_ELEM(batches); b++)
            check_row(rig, &rows[i], batches[b]);
    rig_close(&rig);
}

static void ask(struct rig *rig, const char *members, struct answer *a)
{
    struct buf body = {0};
    buf_addf(&body, "{" MODEL "," HI ",%s}", members);
    rig_ask(rig, "POST", "/v1/chat/completions", body.data, a);
    buf_release(&body);
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (; (text = strstr(text, what)); text += strlen(what))
        n++;
    return n;
}

static void test_events_are_a_function_of_tokens(void **state)
{
    struct rig *rig = rig_open(NULL);
    struct script s = {
        .text = {"many words in one turn make as many events"}, .n_text = 1, .batch = 1000, .end = CTL_END_stop};
    struct answer a;
    (void)state;
    rig_script(rig, &s);
    ask(rig, "\"stream\":true," NO_THINK, &a);
    int n = count(a.body.data, "data: {");
    assert_true(n > 3); /* role, a text for each token that makes one, end */
    assert_null(strstr(a.body.data, "usage"));
    answer_release(&a);
    s.batch = 1;
    rig_script(rig, &s);
    ask(rig, "\"stream\":true," NO_THINK, &a);
    assert_int_equal(count(a.body.data, "data: {"), n);
    answer_release(&a);
    rig_close(&rig);
}

/* The exact form of a small whole answer: keys, order, numbers. */
static void test_form(void **state)
{
    struct rig *rig = rig_open(NULL);
    struct script s = {.text = {"a</think>b"}, .n_text = 1, .batch = 1, .end = CTL_END_stop, .redispatch_at = 2};
    struct answer a;
    char value[80];
    (void)state;
    rig_script(rig, &s);
    ask(rig, "\"logprobs\":true,\"top_logprobs\":2,\"service_tier\":\"flex\"", &a);
    assert_int_equal(a.status, 200);
    assert_true(strncmp(a.body.data, "{\"id\":\"chatcmpl-", 16) == 0);
    const char *const parts[] = {"\"object\":\"chat.completion\",\"created\":",
                                 "\"model\":\"org/tiny\"",
                                 "\"system_fingerprint\":\"fp_123456789a\"",
                                 "\"service_tier\":\"flex\"",
                                 "\"choices\":[{\"index\":0,\"message\":{\"role\": \"assistant\", \"content\": \"b\"",
                                 "\"reasoning_content\": \"a\"",
                                 "{\"token\":\"a\",\"logprob\":0,\"bytes\":[97],\"top_logprobs\":[{\"token\":\"a\"",
                                 "{\"token\":\"</think>\",\"logprob\":-0.5,",
                                 "\"finish_reason\":\"stop\"}]",
                                 "\"completion_tokens\":3,",
                                 "\"prompt_tokens_details\":{\"cached_tokens\":3}",
                                 "\"completion_tokens_details\":{\"reasoning_tokens\":1}",
                                 "\"prompt_cache_hit_tokens\":3,\"prompt_cache_miss_tokens\":",
                                 "\"baton\":{\"exact\":true,\"redispatched\":1,\"recomputed_tokens\":2}}}"};
    for (size_t i = 0; i < N_ELEM(parts); i++)
        if (!strstr(a.body.data, parts[i]))
            fail_msg("%s is missing in %s", parts[i], a.body.data);
    assert_non_null(answer_header(&a, "openai-processing-ms", value, sizeof value));
    answer_release(&a);
    struct ctl_request *last = rig_last(rig);
    assert_int_equal(last->priority, -100); /* flex */
    assert_true(last->deadline_ms > 0 && last->max_output + last->n_prompt == 4096 && last->sampling.n_top == 2);
    rig_close(&rig);
}

/* Rule 14, and the hidden id is told to the back as the end. */
static void test_hidden(void **state)
{
    struct rig *rig = rig_open(NULL);
    struct answer a;
    (void)state;
    struct script s = {.text = {"visible"}, .n_text = 1, .end = CTL_END_none, .raw_id = 2};
    rig_script(rig, &s);
    ask(rig, NO_THINK, &a);
    assert_non_null(strstr(a.body.data, "\"content\": \"visible\""));
    assert_non_null(strstr(a.body.data, "\"finish_reason\":\"stop\""));
    assert_int_equal(rig_n_finished(rig), 1);
    answer_release(&a);
    rig_close(&rig);
}

/* ---- failures ---- */

struct failure {
    struct script script;
    int status;
    const char *code;
};

static const struct failure failures[] = {
    {{.submit_rc = ERR_LIMIT}, 429, "\"type\":\"rate_limit_error\",\"param\":null,\"code\":\"slow_down\""},
    {{.submit_rc = ERR_STATE}, 503, "\"code\":\"server_is_overloaded\""},
    {{.submit_rc = ERR_ARG}, 400, "\"code\":\"context_length_exceeded\""},
    {{.submit_rc = ERR_IO}, 500, "\"type\":\"server_error\""},
    {{.end = CTL_END_deadline, .fail_text = "no worker"}, 504, "\"code\":\"deadline_exceeded\""},
    {{.end = CTL_END_failed, .fail_text = "x"}, 503, "\"code\":\"server_is_overloaded\""},
    {{.end = CTL_END_quarantined, .fail_text = "x"}, 500, "\"code\":\"quarantined\""},
    {{.end = CTL_END_invalid, .fail_text = "x"}, 400, "invalid_request_error"},
    {{.end = CTL_END_canceled, .fail_text = "stopping"}, 503, "stopping"},
};

static void test_failures(void **state)
{
    struct rig *rig = rig_open(NULL);
    struct answer a;
    char value[40];
    (void)state;
    for (size_t i = 0; i < N_ELEM(failures); i++) {
        const struct failure *f = &failures[i];
        struct script s = f->script;
        rig_script(rig, &s);
        for (int stream = 0; stream < 2; stream++) { /* before the first token: the HTTP status, streamed or not */
            ask(rig, stream ? "\"n\":2,\"stream\":true" : "\"n\":2", &a);
            if (a.status != f->status || !strstr(a.body.data, f->code))
                fail_msg("failure %zu: %d %s", i, a.status, a.body.data);
            assert_int_equal(answer_header(&a, "Retry-After", value, sizeof value) != NULL,
                             a.status == 429 || a.status == 503);
            assert_int_equal(answer_header(&a, "x-should-retry", value, sizeof value) != NULL,
                             f->script.end == CTL_END_quarantined);
            answer_release(&a);
        }
        if (s.submit_rc || s.end == CTL_END_canceled)
            continue;
        /* after it: an error event without [DONE]; the tokens before it are not lost */
        struct joined j[2] = {0};
        struct buf usage = {0}, error = {0};
        s.text[0] = "some text";
        s.n_text = s.batch = 1; /* so that the answer has begun when the end comes */
        rig_script(rig, &s);
        ask(rig, "\"stream\":true," NO_THINK, &a);
        join(&a, j, 1, false, &usage, &error);
        assert_string_equal(j[0].content.data, "some text");
        assert_non_null(strstr(error.data, f->code));
        assert_null(strstr(a.body.data, "[DONE]"));
        assert_true(j[0].finish.len == 0);
        answer_release(&a);
        ask(rig, NO_THINK, &a); /* whole: the status */
        assert_int_equal(a.status, f->status);
        answer_release(&a);
        joined_release(&j[0]);
        buf_release(&usage);
        buf_release(&error);
    }
    rig_close(&rig);
}

static void test_context(void **state)
{
    struct rig *rig = rig_open(NULL);
    struct script s = {.text = {"ok"}, .n_text = 1, .end = CTL_END_stop};
    struct answer a;
    (void)state;
    rig_script(rig, &s);
    rig_set_context(rig, 500);
    ask(rig, "\"max_tokens\":500", &a);
    assert_int_equal(a.status, 400);
    assert_non_null(strstr(a.body.data, "context_length_exceeded"));
    answer_release(&a);
    ask(rig, "\"max_tokens\":10", &a);
    assert_int_equal(a.status, 200);
    answer_release(&a);
    rig_set_context(rig, 3);
    ask(rig, "\"n\":1", &a);
    assert_int_equal(a.status, 400);
    assert_non_null(strstr(a.body.data, "prompt is too long: "));
    answer_release(&a);
    assert_int_equal(rig_n_submitted(rig), 1);
    /* No worker ever: what needs to know the context waits; its deadline ends the wait. */
    rig_set_context(rig, 0);
    int64_t t0 = clock_mono_ns();
    ask(rig, "\"deadline_ms\":60", &a);
    assert_int_equal(a.status, 504);
    assert_true(clock_mono_ns() - t0 > 50000000);
    answer_release(&a);
    int fd = rig_dial(rig);
    rig_send(fd, "POST", "/v1/chat/completions", NULL, "{" MODEL "," HI "," NO_THINK "}");
    usleep(30000);
    rig_set_context(rig, 4096);
    rig_read(fd, &a);
    assert_int_equal(a.status, 200);
    assert_non_null(strstr(a.body.data, "\"content\": \"ok\""));
    answer_release(&a);
    close(fd);
    rig_close(&rig);
}

/* ---- waiting ---- */

static void soon(struct ctl_config *c)
{
    c->limit.keepalive_ms = 40;
    c->limit.reader_ms = 200;
}

static void test_keepalive(void **state)
{
    struct rig *rig = rig_open(soon);
    struct script s = {.text = {"late"}, .n_text = 1, .end = CTL_END_stop, .stall_ms = 250};
    struct joined j = {0};
    struct buf usage = {0};
    struct answer a;
    (void)state;
    rig_script(rig, &s);
    ask(rig, "\"stream\":true," NO_THINK, &a);
    int n = count(a.body.data, ": keep-alive\n\n");
    assert_in_range(n, 2, 7);
    join(&a, &j, 1, false, &usage, NULL);
    assert_string_equal(j.content.data, "late");
    joined_release(&j);
    answer_release(&a);
    /* whole: blank lines before the body */
    ask(rig, NO_THINK, &a);
    assert_int_equal(a.status, 200);
    assert_non_null(strstr(a.head.data, "application/json"));
    n = (int)strspn(a.body.data, "\n");
    assert_in_range(n, 1, 6);
    assert_non_null(strstr(a.body.data, "\n{\"id\":"));
    assert_true(a.complete);
    answer_release(&a);
    /* a failure after that: the error object under 200; the stream has its event */
    s = (struct script){.end = CTL_END_deadline, .stall_ms = 150};
    rig_script(rig, &s);
    ask(rig, NO_THINK, &a);
    assert_int_equal(a.status, 200);
    assert_non_null(strstr(a.body.data, "\n{\"error\":{"));
    answer_release(&a);
    ask(rig, "\"stream\":true," NO_THINK, &a);
    assert_non_null(strstr(a.body.data, ": keep-alive\n\ndata: {\"error\":{"));
    assert_null(strstr(a.body.data, "[DONE]"));
    answer_release(&a);
    /* quick ones get no blank line and their own status */
    s.stall_ms = 20;
    rig_script(rig, &s);
    ask(rig, NO_THINK, &a);
    assert_int_equal(a.status, 504);
    answer_release(&a);
    buf_release(&usage);
    rig_close(&rig);
}

static void test_redispatch(void **state)
{
    struct rig *rig = rig_open(NULL);
    struct script s = {
        .text = {"one two three four"}, .n_text = 1, .batch = 1, .end = CTL_END_stop, .redispatch_at = 2};
    struct joined j = {0};
    struct buf usage = {0};
    struct answer a;
    (void)state;
    rig_script(rig, &s);
    ask(rig, "\"stream\":true,\"stream_options\":{\"include_usage\":true}," NO_THINK, &a);
    assert_int_equal(count(a.body.data, ": redispatch "), 1);
    join(&a, &j, 1, true, &usage, NULL);
    assert_string_equal(j.content.data, "one two three four");
    assert_non_null(strstr(usage.data, "\"redispatched\":1,\"recomputed_tokens\":2"));
    joined_release(&j);
    answer_release(&a);
    buf_release(&usage);
    rig_close(&rig);
}

/* ---- clients that leave ---- */

static void wait_dropped(struct rig *rig, int64_t n)
{
    for (int i = 0; i < 5000 && rig_n_dropped(rig) != n; i++)
        usleep(2000);
    assert_int_equal(rig_n_dropped(rig), n);
}

static void test_gone(void **state)
{
    struct rig *rig = rig_open(soon);
    struct script s = {.text = {"one two"}, .n_text = 1, .end = CTL_END_none};
    struct buf raw = {0};
    (void)state;
    rig_script(rig, &s);
    /* in the middle of a stream */
    int fd = rig_dial(rig);
    rig_send(fd, "POST", "/v1/chat/completions", NULL, "{" MODEL "," HI ",\"stream\":true}");
    assert_true(rig_read_until(fd, &raw, "two"));
    close(fd);
    wait_dropped(rig, 1);
    /* a whole answer that does not come; before any token */
    s.stall_ms = 60000;
    rig_script(rig, &s);
    fd = rig_dial(rig);
    rig_send(fd, "POST", "/v1/chat/completions", NULL, "{" MODEL "," HI "}");
    while (rig_n_submitted(rig) < 2)
        usleep(1000);
    close(fd);
    wait_dropped(rig, 2);
    /* one that does not read: cut off after reader_ms */
    s = (struct script){
        .text = {"some words that go on and on "}, .n_text = 1, .end = CTL_END_none, .batch = 2000, .repeat = 200000};
    rig_script(rig, &s);
    rig_set_context(rig, 1 << 24);
    fd = rig_dial(rig);
    int small = 4096;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    rig_send(fd, "POST", "/v1/chat/completions", NULL, "{" MODEL "," HI ",\"stream\":true," NO_THINK "}");
    wait_dropped(rig, 3);
    close(fd);
    buf_release(&raw);
    rig_close(&rig);
}

/* Large bodies go over the thread pool; the client may leave while they are there, and the server may close. */
static void test_pool(void **state)
{
    struct rig *rig = rig_open(NULL);
    struct script s = {.text = {"ok"}, .n_text = 1, .end = CTL_END_stop};
    struct buf body = {0};
    struct answer a;
    (void)state;
    rig_script(rig, &s);
    rig_set_context(rig, 1 << 24);
    buf_add_str(&body, "{" MODEL "," NO_THINK ",\"messages\":[{\"role\":\"user\",\"content\":\"");
    while (body.len < 3000000)
        buf_add_str(&body, "A sentence of some length, caf\xC3\xA9. ");
    buf_add_str(&body, "\"}]}");
    rig_ask(rig, "POST", "/v1/chat/completions", body.data, &a);
    assert_int_equal(a.status, 200);
    assert_non_null(strstr(a.body.data, "\"content\": \"ok\""));
    answer_release(&a);
    assert_true(rig_last(rig)->n_prompt > 400000);
    for (int i = 0; i < 6; i++) { /* more than the pool has threads: some jobs are canceled in the queue */
        int fd = rig_dial(rig);
        rig_send(fd, "POST", "/v1/chat/completions", NULL, body.data);
        usleep((useconds_t)(i * 2000));
        close(fd);
    }
    body.data[body.len - 2] = ' '; /* broken JSON, found on the pool */
    rig_ask(rig, "POST", "/v1/chat/completions", body.data, &a);
    assert_int_equal(a.status, 400);
    answer_release(&a);
    body.data[body.len - 2] = ']';
    int fd[3];
    for (int i = 0; i < 3; i++) {
        fd[i] = rig_dial(rig);
        rig_send(fd[i], "POST", "/v1/chat/completions", NULL, body.data);
    }
    rig_close(&rig); /* with jobs on the pool */
    for (int i = 0; i < 3; i++)
        close(fd[i]);
    buf_release(&body);
}

/* Many at once on few connections' worth of time: nothing mixes. */
static void test_many(void **state)
{
    enum { N = 64 };
    struct rig *rig = rig_open(NULL);
    struct script s = {.text = {"alpha beta gamma delta epsilon"}, .n_text = 1, .batch = 1, .end = CTL_END_stop};
    int fd[N];
    (void)state;
    rig_script(rig, &s);
    for (int i = 0; i < N; i++) {
        fd[i] = rig_dial(rig);
        rig_send(fd[i], "POST", "/v1/chat/completions", NULL, "{" MODEL "," HI ",\"stream\":true," NO_THINK "}");
    }
    for (int i = 0; i < N; i++) {
        struct joined j = {0};
        struct buf usage = {0};
        struct answer a;
        rig_read(fd[i], &a);
        join(&a, &j, 1, false, &usage, NULL);
        assert_string_equal(j.content.data, s.text[0]);
        answer_release(&a);
        joined_release(&j);
        buf_release(&usage);
        close(fd[i]);
    }
    wait_dropped(rig, N);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),      cmocka_unit_test(test_events_are_a_function_of_tokens),
        cmocka_unit_test(test_form),      cmocka_unit_test(test_hidden),
        cmocka_unit_test(test_failures),  cmocka_unit_test(test_context),
        cmocka_unit_test(test_keepalive), cmocka_unit_test(test_redispatch),
        cmocka_unit_test(test_gone),      cmocka_unit_test(test_pool),
        cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
