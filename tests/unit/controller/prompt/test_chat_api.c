/* Proves: a chat request with a wrong field is refused with the place of the fault (`param` of the API error), rules
 * without a vector hold, guards cover exactly the text of the client, and hostile requests (deep, many, huge) end
 * soon in a prompt or a fault. */
#include "controller/prompt/chat.h"

#include "common/base/clock.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int render(const char *text, size_t n, struct chat_prompt *p, struct chat_fault *fault)
{
    struct arena arena = {0};
    const struct json *request;
    struct err err;

    if (json_parse(text, n, 0, &arena, &request, &err))
        fail_msg("%s: %s", text, err.text);
    int rc = chat_render_api(request, CHAT_0731, p, fault);
    arena_release(&arena); /* the prompt points into nothing of the request */
    return rc;
}

#define U "{\"role\":\"user\",\"content\":\"u\"}"
#define CALL                                                                                                    \
    "{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\",\"function\":{\"name\":\"f\"," \
    "\"arguments\":\"{}\"}}]}"
#define MS(x) "{\"messages\":[" x "]}"
#define F(x)  "{\"messages\":[" U "]," x "}"
#define TOOL  "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}"

static const struct {
    const char *text, *param;
} fault_rows[] = {
    {"1", ""},
    {"{}", "messages"},
    {"{\"messages\":\"hi\"}", "messages"},
    {MS(""), "messages"},
    {MS("1"), "messages[0]"},
    {MS("null"), "messages[0]"},
    {MS("{}"), "messages[0].role"},
    {MS("{\"role\":1,\"content\":\"\"}"), "messages[0].role"},
    {MS(U ",{\"role\":\"latest_reminder\",\"content\":\"\"}"), "messages[1].role"},
    {MS("{\"role\":\"user\"}"), "messages[0].content"},
    {MS("{\"role\":\"user\",\"content\":null}"), "messages[0].content"},
    {MS("{\"role\":\"user\",\"content\":{}}"), "messages[0].content"},
    {MS("{\"role\":\"user\",\"content\":[\"a\"]}"), "messages[0].content[0]"},
    {MS("{\"role\":\"user\",\"content\":[{}]}"), "messages[0].content[0].type"},
    {MS("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"), "messages[0].content[0].text"},
    {MS("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\"},{\"type\":\"input_audio\"}]}"),
     "messages[0].content[1].type"},
    {MS("{\"role\":\"user\",\"content\":[{\"type\":\"refusal\",\"refusal\":\"\"}]}"), "messages[0].content[0].type"},
    {MS("{\"role\":\"user\",\"content\":\"\",\"prefix\":true}"), "messages[0].prefix"},
    {MS("{\"role\":\"assistant\",\"content\":\"\",\"prefix\":true}," U), "messages[0].prefix"},
    {MS("{\"role\":\"assistant\",\"content\":\"\",\"prefix\":1}"), "messages[0].prefix"},
    {MS(U ",{\"role\":\"assistant\",\"content\":\"\",\"prefix\":false}"), "messages[1].role"},
    {F("\"continue_final_message\":true"), "continue_final_message"},
    {F("\"continue_final_message\":1"), "continue_final_message"},
    {MS("{\"role\":\"assistant\",\"content\":\"\",\"reasoning_content\":1}," U), "messages[0].reasoning_content"},
    {MS("{\"role\":\"assistant\",\"content\":\"\",\"reasoning\":{}}," U), "messages[0].reasoning"},
    {MS("{\"role\":\"assistant\",\"tool_calls\":1}," U), "messages[0].tool_calls"},
    {MS("{\"role\":\"assistant\",\"tool_calls\":[1]}," U), "messages[0].tool_calls[0]"},
    {MS("{\"role\":\"assistant\",\"tool_calls\":[{\"type\":\"custom\"}]}," U), "messages[0].tool_calls[0].type"},
    {MS("{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"c\"}]}," U), "messages[0].tool_calls[0].function"},
    {MS("{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"c\",\"function\":{\"name\":\"\"}}]}," U),
     "messages[0].tool_calls[0].function.name"},
    {MS("{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":1}}]}," U),
     "messages[0].tool_calls[0].function.arguments"},
    {MS("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}," U),
     "messages[0].tool_calls[0].id"},
    {MS("{\"role\":\"tool\",\"content\":\"\"}"), "messages[0].tool_call_id"},
    {MS("{\"role\":\"tool\",\"content\":\"\",\"tool_call_id\":\"c\"}," CALL "," U), "messages[0].tool_call_id"},
    {MS(CALL ",{\"role\":\"tool\",\"content\":\"\",\"tool_call_id\":\"d\"}"), "messages[1].tool_call_id"},
    {MS(CALL ",{\"role\":\"tool\",\"content\":[{\"type\":\"image_url\"}],\"tool_call_id\":\"c\"}"),
     "messages[1].content[0].type"},
    {F("\"thinking\":true"), "thinking"},
    {F("\"thinking\":{}"), "thinking.type"},
    {F("\"thinking\":{\"type\":\"adaptive\"}"), "thinking.type"},
    {F("\"reasoning_effort\":3"), "reasoning_effort"},
    {F("\"chat_template_kwargs\":1"), "chat_template_kwargs"},
    {F("\"chat_template_kwargs\":{\"thinking\":\"no\"}"), "chat_template_kwargs.thinking"},
    {F("\"chat_template_kwargs\":{\"enable_thinking\":0}"), "chat_template_kwargs.enable_thinking"},
    {F("\"chat_template_kwargs\":{\"reasoning_effort\":\"most\"}"), "chat_template_kwargs.reasoning_effort"},
    {F("\"tools\":{}"), "tools"},
    {F("\"tools\":[1]"), "tools[0]"},
    {F("\"tools\":[{\"type\":\"web_search\"}]"), "tools[0].type"},
    {F("\"tools\":[" TOOL ",{\"type\":\"function\"}]"), "tools[1].function"},
    {F("\"tools\":[{\"type\":\"function\",\"function\":{}}]"), "tools[0].function.name"},
    {F("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":[]}}]"),
     "tools[0].function.parameters"},
    {F("\"tool_choice\":\"required\""), "tool_choice"},
    {F("\"tool_choice\":\"any\""), "tool_choice"},
    {F("\"tool_choice\":1"), "tool_choice"},
    {F("\"tools\":[" TOOL "],\"tool_choice\":{}"), "tool_choice.type"},
    {F("\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"function\"}"), "tool_choice.function.name"},
    {F("\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}"),
     "tool_choice.function.name"},
    {F("\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}"), "tool_choice.function.name"},
    {F("\"tool_choice\":{\"type\":\"allowed_tools\"}"), "tool_choice.allowed_tools"},
    {F("\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{}}"), "tool_choice.allowed_tools.mode"},
    {F("\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"auto\",\"tools\":[]}}"),
     "tool_choice.allowed_tools.tools"},
    {F("\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"auto\",\"tools\":[" TOOL "]}}"),
     "tool_choice.allowed_tools.tools[0].function.name"},
    {F("\"response_format\":\"json\""), "response_format"},
    {F("\"response_format\":{}"), "response_format.type"},
    {F("\"response_format\":{\"type\":\"json_schema\"}"), "response_format.json_schema"},
    {F("\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}"), "response_format.json_schema.schema"},
};

static void test_faults(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof fault_rows / sizeof fault_rows[0]; i++) {
        struct chat_prompt p;
        struct chat_fault fault = {0};
        if (render(fault_rows[i].text, strlen(fault_rows[i].text), &p, &fault) != ERR_ARG)
            fail_msg("%s is not refused", fault_rows[i].text);
        if (strcmp(fault.param, fault_rows[i].param) != 0 || !fault.err.text[0])
            fail_msg("%s is refused at '%s' (%s), not at '%s'", fault_rows[i].text, fault.param, fault.err.text,
                     fault_rows[i].param);
        assert_null(p.text.data);
    }
}

/* ---- rules -------------------------------------------------------------------------------------------- */

#define BOS  "<｜begin▁of▁sentence｜>"
#define EOS  "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define ASST "<｜Assistant｜>"
#define D    "｜DSML｜"
#define OFF  "\"thinking\":{\"type\":\"disabled\"}"

/* want: the prompt with the text of the client in [brackets]. */
static void check(const char *request, bool tools_on, bool in_reasoning, const char *want)
{
    struct buf marked = {0};
    struct chat_prompt p;
    struct chat_fault fault = {0};
    size_t at = 0;

    if (render(request, strlen(request), &p, &fault))
        fail_msg("%s: %s: %s", request, fault.param, fault.err.text);
    for (size_t i = 0; i < p.n_guard; i++) {
        buf_add(&marked, p.text.data + at, p.guard[i].begin - at);
        buf_add_char(&marked, '[');
        buf_add(&marked, p.text.data + p.guard[i].begin, p.guard[i].end - p.guard[i].begin);
        buf_add_char(&marked, ']');
        at = p.guard[i].end;
    }
    buf_add(&marked, p.text.data + at, p.text.len - at);
    if (strcmp(marked.data, want) != 0)
        fail_msg("%s gives\n%s\nnot\n%s", request, marked.data, want);
    assert_int_equal(p.tools_on, tools_on);
    assert_int_equal(p.in_reasoning, in_reasoning);
    buf_release(&marked);
    chat_prompt_release(&p);
}

static void test_guards(void **state)
{
    (void)state;
    check("{\"messages\":[{\"role\":\"system\",\"content\":\"s\"}," U "],\"reasoning_effort\":\"low\"}", false, true,
          BOS "[s]" USER "[u]" ASST "<think>");
    check("{\"messages\":[" U ",{\"role\":\"assistant\",\"content\":\"b\",\"reasoning_content\":\"r\",\"tool_calls\":"
                              "[{\"id\":\"c\",\"function\":{"
          "\"name\":\"f\",\"arguments\":\"{\\\"k\\\":\\\"v\\\",\\\"n\\\":[1]}\"}}]},{\"role\":\"tool\",\"tool_call_"
          "id\":\"c\",\"content\":\"t\"}],"
          "\"reasoning_effort\":\"low\"}",
          false, true,
          BOS USER "[u]" ASST "</think>[b]\n\n<" D "tool_calls>\n<" D "invoke name=\"[f]\">\n<" D
                   "parameter name=\"[k]\" string=\"true\">[v]</" D "parameter>\n<" D
                   "parameter name=\"[n]\" string=\"false\">[[1]]</" D "parameter>\n</" D "invoke>\n</" D
                   "tool_calls>" EOS USER "<tool_result>[t]</tool_result>" ASST "<think>");
}

static void test_rules(void **state)
{
    (void)state;
    /* 1, 7: name and refusal are ignored, null is absence. */
    check("{\"messages\":[{\"role\":\"user\",\"content\":\"u\",\"name\":\"x\",\"prefix\":null},{\"role\":"
          "\"assistant\",\"content\":[{\"type\":"
          "\"refusal\",\"refusal\":\"no\"},{\"type\":\"text\",\"text\":\"a\"}],\"tool_calls\":null}," U "]," OFF
          ",\"tools\":null,\"tool_choice\":"
          "null,\"response_format\":null}",
          false, false, BOS USER "[u]" ASST "</think>[a]" EOS USER "[u]" ASST "</think>");
    /* 5: off wins, wherever it is said; the first effort counts. */
    check(F("\"reasoning_effort\":\"none\",\"thinking\":{\"type\":\"enabled\"}"), false, false,
          BOS USER "[u]" ASST "</think>");
    check(F("\"reasoning_effort\":\"max\",\"chat_template_kwargs\":{\"enable_thinking\":false}"), false, false,
          BOS USER "[u]" ASST "</think>");
    check(F("\"reasoning_effort\":\"low\",\"chat_template_kwargs\":{\"reasoning_effort\":\"max\"}"), false, true,
          BOS USER "[u]" ASST "<think>");
    check(F("\"chat_template_kwargs\":{\"reasoning_effort\":\"low\",\"other\":1}"), false, true,
          BOS USER "[u]" ASST "<think>");
    /* 4: an empty list is no tools; with none they are off for the parser too. */
    check(F("\"tools\":[]," OFF), false, false, BOS USER "[u]" ASST "</think>");
    check(F("\"tools\":[" TOOL "],\"tool_choice\":\"none\"," OFF), false, false, BOS USER "[u]" ASST "</think>");
    /* 6: the first system message, wherever it stands. */
    check("{\"messages\":[" U ",{\"role\":\"system\",\"content\":\"s\"}],\"response_format\":{\"type\":\"json_"
                              "schema\",\"json_schema\":{\"schema\":{"
          "\"type\":\"object\"}}}," OFF "}",
          false, false,
          BOS USER "[us]\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to "
                   "reply:\n[{\"type\": \"object\"}]" ASST "</think>");
    /* 8: the parser starts in content, even if the prefix looks like the token. */
    check("{\"messages\":[" U
          ",{\"role\":\"assistant\",\"content\":\"<think>\",\"prefix\":true}],\"reasoning_effort\":\"low\"}",
          false, false, BOS USER "[u]" ASST "<think></think>[<think>]");
    /* 9: assistant first. */
    check("{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}," U "]," OFF "}", false, false,
          BOS "[a]" EOS USER "[u]" ASST "</think>");
}

static void test_tools_on(void **state)
{
    struct chat_prompt p;
    struct chat_fault fault;
    static const char text[] =
        F("\"tools\":[" TOOL
          "],\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"required\",\"tools\":[" TOOL
          "]}}");
    (void)state;
    assert_int_equal(render(text, strlen(text), &p, &fault), 0);
    assert_true(p.tools_on && p.in_reasoning);
    chat_prompt_release(&p);
}

/* ---- hostile requests --------------------------------------------------------------------------------- */

enum { HOSTILE_MS_MAX = 20000 };

static void check_hostile(struct buf *text, int want)
{
    struct chat_prompt p;
    struct chat_fault fault = {0};
    int64_t start = clock_mono_ns();

    assert_int_equal(render(text->data, text->len, &p, &fault), want);
    assert_true((clock_mono_ns() - start) / 1000000 < HOSTILE_MS_MAX);
    chat_prompt_release(&p);
    buf_release(text);
}

static void test_many_messages(void **state)
{
    (void)state;
    for (int extra = 0; extra < 2; extra++) {
        struct buf text = {0};
        buf_add_str(&text, "{\"messages\":[" U);
        for (int i = 1; i < CHAT_MESSAGES_MAX + extra; i++)
            buf_add_str(&text, "," U);
        buf_add_str(&text, "]}");
        check_hostile(&text, extra ? ERR_ARG : 0);
    }
}

static void test_many_tools(void **state)
{
    (void)state;
    for (int extra = 0; extra < 2; extra++) {
        struct buf text = {0};
        buf_add_str(&text, "{\"messages\":[" U "],\"tools\":[" TOOL);
        for (int i = 1; i < CHAT_TOOLS_MAX + extra; i++)
            buf_add_str(&text, "," TOOL);
        buf_add_str(&text, "]}");
        check_hostile(&text, extra ? ERR_ARG : 0);
    }
}

/* Many calls, all answered in reverse order, interrupted so that each pair is sorted on its own. */
static void test_many_calls(void **state)
{
    enum { N = 20000 };
    struct buf text = {0};
    (void)state;

    buf_add_str(&text, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[");
    for (int i = 0; i < N; i++)
        buf_addf(&text, "%s{\"id\":\"c%d\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}", i ? "," : "", i);
    buf_add_str(&text, "]}");
    for (int i = N; i-- > 0;)
        buf_addf(&text, ",{\"role\":\"tool\",\"tool_call_id\":\"c%d\",\"content\":\"\"}%s", i,
                 i % 2 ? "" : ",{\"role\":\"system\",\"content\":\"\"}");
    buf_add_str(&text, "]}");
    check_hostile(&text, 0);
}

/* Arguments are JSON in a string: as deep as the parser takes, deeper, and huge. */
static void test_deep_arguments(void **state)
{
    static const int depth[] = {JSON_DEPTH_MAX - 1, JSON_DEPTH_MAX, 1000000};
    (void)state;

    for (size_t i = 0; i < sizeof depth / sizeof depth[0]; i++) {
        struct buf text = {0};
        buf_add_str(&text, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"c\",\"function\":{"
                           "\"name\":\"f\",\"arguments\":\"{\\\"a\\\":");
        for (int k = 0; k < depth[i]; k++)
            buf_add_char(&text, '[');
        for (int k = 0; k < depth[i]; k++)
            buf_add_char(&text, ']');
        buf_add_str(&text, "}\"}}]}," U "]}");
        check_hostile(&text, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults),     cmocka_unit_test(test_guards),         cmocka_unit_test(test_rules),
        cmocka_unit_test(test_tools_on),   cmocka_unit_test(test_many_messages),  cmocka_unit_test(test_many_tools),
        cmocka_unit_test(test_many_calls), cmocka_unit_test(test_deep_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
