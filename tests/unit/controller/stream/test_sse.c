/* Proves: every chunk is one event of one line of valid JSON with the keys of spec/api.md 4.3, texts come back byte
 * for byte, `usage` is there as asked. How: each writer once, parsed again. */
#include "controller/stream/sse.h"
#include "common/base/check.h"
#include "common/text/json.h"
#include "tests/unit/test.h"

#include <string.h>

static const struct json *chunk(const struct buf *out, struct arena *arena)
{
    const struct json *j;
    struct err err = {0};

    assert_memory_equal(out->data, "data: ", 6);
    assert_memory_equal(out->data + out->len - 2, "\n\n", 2);
    assert_null(memchr(out->data, '\n', out->len - 2));
    if (json_parse(out->data + 6, out->len - 8, JSON_NO_REPEATED_KEYS, arena, &j, &err) != 0)
        fail_msg("%s: %s", err.text, out->data);
    return j;
}

static const struct json *delta(const struct json *j)
{
    return json_get(json_at(json_get(j, "choices"), 0), "delta");
}

static void test_chunks(void **state)
{
    static const char text[] = "a\"\\\n\r\t\x01\xC3\xA9\xE2\x82\xAC</x>";
    struct sse s;
    struct arena arena = {0};
    struct buf out = {0}, lp = {0};
    (void)state;

    for (int usage = 0; usage < 2; usage++) {
        struct sse_names names = {"chatcmpl-1", "a\"b", usage ? "fp_1" : NULL, usage ? "default" : NULL, 77, usage};
        sse_init(&s, &names);
        for (int kind = 0; kind < 6; kind++) {
            buf_clear(&out);
            buf_clear(&lp);
            if (kind == 3)
                buf_add_str(&lp, "{\"content\":[],\"refusal\":null}");
            switch (kind) {
            case 0: sse_role(&s, &out, 2); break;
            case 1: sse_reasoning(&s, &out, 2, text, sizeof text - 1, NULL); break;
            case 2: sse_content(&s, &out, 2, text, sizeof text - 1, &lp); break;
            case 3: sse_call(&s, &out, 2, 1, "call_x", text, sizeof text - 1, &lp); break;
            case 4: sse_arguments(&s, &out, 2, 1, text, sizeof text - 1, NULL); break;
            case 5: sse_finish(&s, &out, 2, "stop", NULL); break;
            }
            const struct json *j = chunk(&out, &arena), *c = json_at(json_get(j, "choices"), 0), *d = delta(j);
            assert_true(json_is_str(json_get(j, "id"), "chatcmpl-1"));
            assert_true(json_is_str(json_get(j, "object"), "chat.completion.chunk"));
            assert_true(json_is_str(json_get(j, "model"), "a\"b"));
            assert_int_equal(json_get(j, "system_fingerprint") != NULL, usage);
            assert_int_equal(json_is(json_get(j, "usage"), JSON_NULL), usage);
            assert_string_equal(json_get(c, "index")->text, "2");
            assert_int_equal(json_is(json_get(c, "logprobs"), JSON_NULL), kind != 3);
            const struct json *call = json_at(json_get(d, "tool_calls"), 0), *f = json_get(call, "function");
            if (kind == 0)
                assert_true(json_is_str(json_get(d, "role"), "assistant") && json_is_str(json_get(d, "content"), ""));
            if (kind == 1)
                assert_string_equal(json_get(d, "reasoning_content")->text, text);
            if (kind == 2)
                assert_string_equal(json_get(d, "content")->text, text);
            if (kind == 3)
                assert_true(json_is_str(json_get(call, "id"), "call_x") && json_is_str(json_get(f, "arguments"), "") &&
                            json_is_str(json_get(f, "name"), text));
            if (kind == 4)
                assert_true(!json_get(call, "id") && json_is_str(json_get(f, "arguments"), text));
            if (kind == 5)
                assert_true(d->n == 0 && json_is_str(json_get(c, "finish_reason"), "stop"));
            else
                assert_true(json_is(json_get(c, "finish_reason"), JSON_NULL));
        }
        sse_release(&s);
    }
    arena_release(&arena);
    buf_release(&out);
    buf_release(&lp);
}

static void test_others(void **state)
{
    struct sse s;
    struct arena arena = {0};
    struct buf out = {0};
    (void)state;

    sse_init(&s, &(struct sse_names){"i", "m", NULL, NULL, 1, true});
    sse_usage(&s, &out, "{\"total_tokens\":3}", 18);
    const struct json *j = chunk(&out, &arena);
    assert_int_equal(json_get(j, "choices")->n, 0);
    assert_true(json_is(json_get(j, "usage"), JSON_OBJECT));
    buf_clear(&out);
    sse_error(&out, "{\"error\":{}}", 12);
    assert_true(json_is(json_get(chunk(&out, &arena), "error"), JSON_OBJECT));
    buf_clear(&out);
    sse_comment(&out, "keep-alive");
    sse_done(&s, &out);
    assert_string_equal(out.data, ": keep-alive\ndata: [DONE]\n\n");
    buf_clear(&out);
    s.id = "abc-7";
    s.retry_ms = 1000;
    sse_done(&s, &out);
    sse_done(&s, &out);
    assert_string_equal(out.data, "data: [DONE]\nid: abc-7\nretry: 1000\n\ndata: [DONE]\nid: abc-7\n\n");
    sse_release(&s);
    arena_release(&arena);
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_chunks), cmocka_unit_test(test_others)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
