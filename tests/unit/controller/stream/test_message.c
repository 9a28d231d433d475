/* Proves: the two JSON forms of a message and the finish reason of each kind of ending (parse.jsonl's `expect` form is
 * proved in test_parse.c on every vector). */
#include "controller/stream/message.h"
#include "tests/unit/test.h"

#include <string.h>

static void fill(struct message *m, const char *reasoning, const char *content, const char *name, bool complete)
{
    *m = (struct message){0};
    message_events.on_reasoning(m, reasoning, strlen(reasoning));
    message_events.on_content(m, content, strlen(content));
    for (int i = 0; name && i < 6; i++) {
        message_events.on_call(m, i, name, strlen(name));
        message_events.on_arguments(m, i, "{", 1);
        message_events.on_arguments(m, i, "}", complete);
        message_events.on_call_end(m, i, complete);
    }
}

static void check_openai(const char *reasoning, const char *content, const char *expect)
{
    struct message m;
    struct buf out = {0};

    fill(&m, reasoning, content, NULL, false);
    message_add_openai(&m, "call_x_", &out);
    assert_string_equal(out.data, expect);
    buf_release(&out);
    message_release(&m);
}

static void test_openai(void **state)
{
    (void)state;
    check_openai("", "a\"b", "{\"role\": \"assistant\", \"content\": \"a\\\"b\", \"refusal\": null}");
    check_openai("", "", "{\"role\": \"assistant\", \"content\": \"\", \"refusal\": null}");
    check_openai("r", "",
                 "{\"role\": \"assistant\", \"content\": null, \"refusal\": null, \"reasoning_content\": \"r\"}");
}

static void test_openai_calls(void **state)
{
    struct message m;
    struct buf out = {0};
    (void)state;

    fill(&m, "", "", "f", true);
    message_add_openai(&m, "call_x_", &out);
    static const char head[] =
        "{\"role\": \"assistant\", \"content\": null, \"refusal\": null, \"tool_calls\": [{\"id\": "
        "\"call_x_0\", \"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": \"{}\"}}, "
        "{\"id\": \"call_x_1\", ";
    assert_memory_equal(out.data, head, sizeof head - 1);
    assert_non_null(strstr(out.data, "\"call_x_5\""));
    assert_string_equal(out.data + out.len - 5, "\"}}]}");
    buf_release(&out);
    message_release(&m);
}

static void test_finish_reason(void **state)
{
    struct message m;
    (void)state;

    fill(&m, "", "x", NULL, false);
    assert_string_equal(message_finish_reason(&m, true), "stop");
    assert_string_equal(message_finish_reason(&m, false), "length");
    message_release(&m);
    fill(&m, "", "x", "f", false);
    assert_string_equal(message_finish_reason(&m, true), "stop");
    message_release(&m);
    fill(&m, "", "x", "f", true);
    assert_string_equal(message_finish_reason(&m, true), "tool_calls");
    assert_string_equal(message_finish_reason(&m, false), "length");
    message_release(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_openai),
        cmocka_unit_test(test_openai_calls),
        cmocka_unit_test(test_finish_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
