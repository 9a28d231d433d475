/* Proves: at level encoder wrong kinds are refused with the place, and the corners without a vector follow
 * spec/chat.md: roles that are dropped or refused, arguments that are no text, a task on a message that is merged. */
#include "controller/prompt/chat.h"

#include "tests/unit/test.h"

#include <string.h>

static int render(const char *text, enum chat_profile profile, struct chat_prompt *p, struct chat_fault *fault)
{
    struct arena arena = {0};
    const struct json *input;
    struct err err;

    if (json_parse(text, strlen(text), 0, &arena, &input, &err))
        fail_msg("%s: %s", text, err.text);
    int rc = chat_render_encoder(input, profile, p, fault);
    arena_release(&arena);
    return rc;
}

static void test_faults(void **state)
{
    static const struct {
        const char *text, *param;
    } rows[] = {
        {"1", ""},
        {"{}", "thinking"},
        {"{\"thinking\":\"chat\"}", "messages"},
        {"{\"thinking\":\"chat\",\"messages\":{}}", "messages"},
        {"{\"thinking\":\"chat\",\"messages\":[],\"context\":1}", "context"},
        {"{\"thinking\":\"chat\",\"messages\":[],\"context\":[1]}", "context[0]"},
        {"{\"thinking\":\"chat\",\"messages\":[],\"add_bos\":1}", "add_bos"},
        {"{\"thinking\":\"chat\",\"messages\":[],\"drop_thinking\":\"no\"}", "drop_thinking"},
        {"{\"thinking\":\"chat\",\"messages\":[],\"effort\":1}", "effort"},
        {"{\"thinking\":\"chat\",\"messages\":[{}]}", "messages[0].role"},
        {"{\"thinking\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":1}]}", "messages[0].content"},
        {"{\"thinking\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":\"\",\"wo_eos\":1}]}",
         "messages[0].wo_eos"},
        {"{\"thinking\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":\"\",\"task\":1}]}",
         "messages[0].task"},
        {"{\"thinking\":\"chat\",\"messages\":[{\"role\":\"system\",\"content\":\"\",\"tools\":[{}]}]}",
         "messages[0].tools[0].type"},
        {"{\"thinking\":\"chat\",\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}]}",
         "messages[0].tool_calls[0].function.name"},
        {"{\"thinking\":\"chat\",\"messages\":[{\"role\":\"critic\"}]}", "messages[0].role"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct chat_prompt p;
        struct chat_fault fault = {0};
        assert_int_equal(render(rows[i].text, CHAT_0731, &p, &fault), ERR_ARG);
        if (strcmp(fault.param, rows[i].param) != 0 || !fault.err.text[0])
            fail_msg("%s is refused at '%s', not at '%s'", rows[i].text, fault.param, rows[i].param);
        assert_null(p.text.data);
    }
}

static void check(const char *messages, const char *thinking, const char *want)
{
    struct buf text = {0};
    struct chat_prompt p;
    struct chat_fault fault = {0};

    buf_addf(&text, "{\"thinking\":\"%s\",\"messages\":[%s]}", thinking, messages);
    if (render(text.data, CHAT_0731, &p, &fault))
        fail_msg("%s: %s: %s", messages, fault.param, fault.err.text);
    assert_string_equal(p.text.data, want);
    assert_int_equal(p.n_guard, 0);
    chat_prompt_release(&p);
    buf_release(&text);
}

#define BOS  "<｜begin▁of▁sentence｜>"
#define EOS  "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define ASST "<｜Assistant｜>"
#define D    "｜DSML｜"

static void test_corners(void **state)
{
    (void)state;
    check("{\"role\":\"critic\",\"content\":\"x\"},{\"role\":\"user\",\"content\":null}", "thinking",
          BOS USER ASST "<think>");
    check("{\"role\":\"user\",\"content\":\"a\",\"task\":\"query\"},{\"role\":\"user\",\"content\":\"b\"}", "chat",
          BOS USER "a" USER "b" ASST "</think>");
    check("{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b\",\"task\":\"query\"}", "chat",
          BOS USER "a\n\nb" ASST "</think>");
    check("{\"role\":\"tool\",\"content\":null}", "chat", BOS USER "<tool_result></tool_result>" ASST "</think>");
    check("{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{"
          "\"a\":1.50}}}]}",
          "chat",
          BOS "\n\n<" D "tool_calls>\n<" D "invoke name=\"f\">\n<" D
              "parameter name=\"arguments\" string=\"false\">{\"a\": 1.5}</" D "parameter>\n</" D "invoke>\n</" D
              "tool_calls>" EOS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_faults), cmocka_unit_test(test_corners)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
