/* Proves: what a generate or agent step asks is the chat request that its file says, the answer becomes text or checked
 * JSON, and repairs and tool results are told as messages. How: a small plan, texts compared. */
#include "controller/agent/plan/generate.h"
#include "common/base/check.h"
#include "common/text/jsonmake.h"
#include "tests/unit/test.h"

#include <string.h>

static const char text[] =
    "pipeline: t\n"
    "inputs: {who: string, n: integer}\n"
    "steps:\n"
    "  - id: plain\n"
    "    generate: {system: Be brief., prompt: 'Hi {{ inputs.who }}', max_tokens: '{{ inputs.n }}', "
    "thinking: false, stop: [x], seed: '{{ null }}'}\n"
    "  - id: checked\n"
    "    generate: {prompt: '{{ inputs.n }}', reasoning_effort: high}\n"
    "    output: {type: object, required: [a]}\n"
    "  - id: loop\n"
    "    agent:\n"
    "      messages: [{role: user, content: '{{ inputs.who }}!'}]\n"
    "      tools:\n"
    "        - {name: look, description: looks, parameters: {type: object}, command: [cat]}\n";

static struct pipeline *plan;
static struct arena arena;
static const struct json *inputs;

static const struct json *get(void *arg, const char *root, const char *step)
{
    (void)arg, (void)step;
    return strcmp(root, "inputs") == 0 ? inputs : NULL;
}

static const struct expr_scope scope = {.get = get};

static int setup(void **state)
{
    struct err err = {0};
    struct jsonmake m;

    (void)state;
    if (pipeline_parse(text, sizeof text - 1, "t", "/", &plan, NULL, &err) != 0)
        fail_msg("%s", err.text);
    jsonmake_begin(&m, &arena, JSON_OBJECT);
    jsonmake_put(&m, "who", jsonmake_cstr(&arena, "Ada"));
    jsonmake_put(&m, "n", jsonmake_i64(&arena, 7));
    inputs = jsonmake_end(&m);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pipeline_destroy(&plan);
    arena_release(&arena);
    return 0;
}

static void assert_json(const struct json *j, const char *want)
{
    struct buf b = {0};

    json_add(&b, j);
    assert_string_equal(b.data, want);
    buf_release(&b);
}

static void test_body(void **state)
{
    const struct json *messages;
    struct buf body = {0};
    struct err err = {0};

    (void)state;
    assert_int_equal(generate_messages(pipeline_step(plan, "plain"), &scope, &arena, &messages, &err), 0);
    assert_int_equal(generate_body(pipeline_step(plan, "plain"), &scope, messages, &body, &err), 0);
    assert_string_equal(body.data, "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\","
                                   "\"content\":\"Hi Ada\"}],\"max_tokens\":7,\"stop\":[\"x\"],\"thinking\":{\"type\":"
                                   "\"disabled\"}}");
    buf_clear(&body);
    assert_int_equal(generate_messages(pipeline_step(plan, "checked"), &scope, &arena, &messages, &err), 0);
    assert_int_equal(generate_body(pipeline_step(plan, "checked"), &scope, messages, &body, &err), 0);
    assert_string_equal(
        body.data,
        "{\"messages\":[{\"role\":\"user\",\"content\":\"7\\n\\nAnswer with JSON only, without any other "
        "text. It has to fit this JSON schema:\\n{\\\"type\\\":\\\"object\\\",\\\"required\\\":[\\\"a\\\"]}\"}],"
        "\"reasoning_effort\":\"high\"}");
    buf_clear(&body);
    assert_int_equal(generate_messages(pipeline_step(plan, "loop"), &scope, &arena, &messages, &err), 0);
    assert_int_equal(generate_body(pipeline_step(plan, "loop"), &scope, messages, &body, &err), 0);
    assert_string_equal(body.data,
                        "{\"messages\":[{\"role\":\"user\",\"content\":\"Ada!\"}],\"tools\":[{\"type\":\"function\","
                        "\"function\":{\"name\":\"look\",\"description\":\"looks\",\"parameters\":{\"type\":"
                        "\"object\"}}}]}");
    buf_release(&body);
}

static void test_messages(void **state)
{
    static const char call[] =
        "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\","
        "\"function\":{\"name\":\"look\",\"arguments\":\"{}\"}},{\"id\":\"c2\"}]}";
    const struct json *m0, *message, *m1, *m2, *results[2];
    struct buf report = {0};
    struct err err;

    (void)state;
    assert_int_equal(json_parse("[{\"role\":\"user\",\"content\":\"q\"}]", 31, 0, &arena, &m0, &err), 0);
    assert_int_equal(json_parse(call, sizeof call - 1, 0, &arena, &message, &err), 0);
    results[0] = jsonmake_cstr(&arena, "text");
    results[1] = inputs;
    m1 = generate_append_calls(m0, message, results, 2, &arena);
    assert_int_equal(m1->n, 4);
    assert_json(json_at(m1, 1), call);
    assert_json(json_at(m1, 2), "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"text\"}");
    assert_json(json_at(m1, 3),
                "{\"role\":\"tool\",\"tool_call_id\":\"c2\",\"content\":\"{\\\"who\\\":\\\"Ada\\\",\\\"n\\\":7}\"}");
    buf_add_str(&report, "/a: must be a number\n");
    m2 = generate_repair(m0, "{}", 2, &report, &arena);
    assert_json(
        m2, "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"{}\"},{\"role\":\"user\","
            "\"content\":\"This answer does not fit:\\n/a: must be a number\\nGive the whole answer again, "
            "corrected: JSON only, without any other text.\"}]");
    assert_json(generate_append(m0, "user", "more", 4, &arena),
                "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"user\",\"content\":\"more\"}]");
    assert_int_equal(m0->n, 1); /* the list before stays as it was */
    buf_release(&report);
}

static void test_output(void **state)
{
    static const struct {
        const char *content;
        int code;
        const char *result; /* value, or report */
    } rows[] = {
        {"{\"a\": 1}", 0, "{\"a\":1}"},
        {"\n  {\"a\":1}\n", 0, "{\"a\":1}"},
        {"```json\n{\"a\":1}\n```\n", 0, "{\"a\":1}"},
        {"```\n{\"a\":1}```", 0, "{\"a\":1}"},
        {"Here: {\"a\":1}", ERR_FORMAT, "the answer is no JSON: JSON line 1 column 1: "},
        {"", ERR_FORMAT, "no JSON"},
        {"``````", ERR_FORMAT, "no JSON"},
        {"```", ERR_FORMAT, "no JSON"},
        {"{}", ERR_RANGE, "(root): the member 'a' is missing\n"},
        {"[1]", ERR_RANGE, "(root): must be an object, is a list of 1\n"},
    };
    const struct json *v;

    (void)state;
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        struct buf report = {0};
        int rc = generate_output(pipeline_step(plan, "checked"), rows[i].content, strlen(rows[i].content), &arena, &v,
                                 &report);
        assert_int_equal(rc, rows[i].code);
        if (rc == 0)
            assert_json(v, rows[i].result);
        else if (!strstr(report.data, rows[i].result))
            fail_msg("%s: %s", rows[i].content, report.data);
        buf_release(&report);
    }
    assert_int_equal(generate_output(pipeline_step(plan, "plain"), " a\xff", 3, &arena, &v, NULL), 0);
    assert_json(v, "\" a\xEF\xBF\xBD\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_body),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_output),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
