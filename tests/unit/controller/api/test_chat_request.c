/* Proves: the table of spec/api.md 4.1 - what is accepted, ignored and refused, with the field named; null is
 * absence; unknown fields are ignored; values land where they belong. How: rows of request members around a valid
 * core. */
#include "controller/api/chat_request.h"
#include "common/base/check.h"
#include "tests/unit/test.h"

#include <string.h>

static struct tok *tok;
static struct chat_request_rules rules;

#define CORE "\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define TOOL "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}}]"

struct row {
    const char *body;
    const char *param; /* NULL: accepted; "": refused without a field */
    enum api_error_kind kind;
    const char *text; /* must be in the message */
};

#define OK(members)               {"{" CORE "," members "}", NULL, 0, NULL}
#define NO(members, param)        {"{" CORE "," members "}", param, API_ERROR_bad_request, NULL}
#define NOT_YET(members, param)   {"{" CORE "," members "}", param, API_ERROR_bad_request, "not supported yet"}

static const struct row rows[] = {
    {"{" CORE "}", NULL, 0, NULL},
    {"", "", API_ERROR_bad_request, "no JSON"},
    {"{", "", API_ERROR_bad_request, "no JSON"},
    {"[]", "", API_ERROR_bad_request, "object"},
    {"null", "", API_ERROR_bad_request, "object"},
    {"{\"a\":\"\\ud800\"}", "", API_ERROR_bad_request, "no JSON"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", "model", API_ERROR_bad_request, "missing"},
    {"{\"model\":null,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", "model", API_ERROR_bad_request,
     "missing"},
    {"{\"model\":\"m\"}", "messages", API_ERROR_bad_request, "missing"},
    {"{\"model\":\"m\",\"messages\":[]}", "messages", API_ERROR_bad_request, NULL},
    {"{\"model\":\"m\",\"messages\":[{\"role\":\"bot\",\"content\":\"x\"}]}", "messages[0].role",
     API_ERROR_bad_request, NULL},
    {"{\"model\":\"x\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", "model", API_ERROR_unknown_model,
     "'x'"},
    {"{\"model\":1,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", "model", API_ERROR_bad_request, "string"},
    OK("\"temperature\":0"),
    OK("\"temperature\":2.0"),
    OK("\"temperature\":null"),
    NO("\"temperature\":2.1", "temperature"),
    NO("\"temperature\":-0.1", "temperature"),
    NO("\"temperature\":\"1\"", "temperature"),
    NO("\"temperature\":1e400", "temperature"),
    NO("\"temperature\":[]", "temperature"),
    NO("\"temperature\":true", "temperature"),
    OK("\"top_p\":1"),
    OK("\"top_p\":0"),
    NO("\"top_p\":1.01", "top_p"),
    OK("\"presence_penalty\":-2"),
    NO("\"presence_penalty\":2.5", "presence_penalty"),
    OK("\"frequency_penalty\":2"),
    NO("\"frequency_penalty\":-3", "frequency_penalty"),
    OK("\"seed\":9223372036854775807"),
    OK("\"seed\":-1"),
    NO("\"seed\":1.5", "seed"),
    NO("\"seed\":\"1\"", "seed"),
    NO("\"seed\":99999999999999999999", "seed"),
    OK("\"n\":8"),
    NO("\"n\":0", "n"),
    NO("\"n\":-1", "n"),
    NO("\"n\":9", "n"),
    NO("\"n\":129", "n"),
    NO("\"n\":1.5", "n"),
    OK("\"max_tokens\":1"),
    NO("\"max_tokens\":0", "max_tokens"),
    NO("\"max_tokens\":-5", "max_tokens"),
    NO("\"max_completion_tokens\":0", "max_completion_tokens"),
    NO("\"max_tokens\":\"9\"", "max_tokens"),
    OK("\"stop\":\"x\""),
    OK("\"stop\":[]"),
    OK("\"stop\":[\"a\",\"b\"]"),
    OK("\"stop\":null"),
    NO("\"stop\":\"\"", "stop"),
    NO("\"stop\":[\"a\",1]", "stop"),
    NO("\"stop\":5", "stop"),
    OK("\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\"]"),
    NO("\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\","
       "\"h\"]",
       "stop"),
    OK("\"logprobs\":true,\"top_logprobs\":20"),
    NO("\"logprobs\":true,\"top_logprobs\":21", "top_logprobs"),
    NO("\"top_logprobs\":1", "top_logprobs"),
    NO("\"logprobs\":false,\"top_logprobs\":1", "top_logprobs"),
    OK("\"top_logprobs\":0"),
    NO("\"logprobs\":1", "logprobs"),
    OK("\"logit_bias\":{\"5\":-100,\"6\":1.5}"),
    OK("\"logit_bias\":{}"),
    NO("\"logit_bias\":{\"5\":101}", "logit_bias"),
    NO("\"logit_bias\":{\"x\":1}", "logit_bias"),
    NO("\"logit_bias\":{\"-1\":1}", "logit_bias"),
    NO("\"logit_bias\":{\"99999999\":1}", "logit_bias"),
    NO("\"logit_bias\":{\"5\":\"a\"}", "logit_bias"),
    NO("\"logit_bias\":[]", "logit_bias"),
    NO("\"logit_bias\":{\"5\":1,\"05\":1}", "logit_bias"),
    NO("\"logit_bias\":{\"\":1}", "logit_bias"),
    OK("\"response_format\":{\"type\":\"text\"}"),
    OK("\"response_format\":null"),
    NOT_YET("\"response_format\":{\"type\":\"json_object\"}", "response_format"),
    NOT_YET("\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"schema\":{}}}",
            "response_format"),
    NO("\"response_format\":{\"type\":\"xml\"}", "response_format.type"),
    NO("\"response_format\":\"text\"", "response_format.type"),
    OK(TOOL),
    OK(TOOL ",\"tool_choice\":\"auto\""),
    OK(TOOL ",\"tool_choice\":\"none\""),
    OK("\"tool_choice\":\"none\""),
    NOT_YET(TOOL ",\"tool_choice\":\"required\"", "tool_choice"),
    NOT_YET(TOOL ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}", "tool_choice"),
    NOT_YET(TOOL ",\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{}}", "tool_choice"),
    NO(TOOL ",\"tool_choice\":\"any\"", "tool_choice"),
    NO(TOOL ",\"tool_choice\":5", "tool_choice"),
    NO("\"tools\":[{\"type\":\"web_search\"}]", "tools[0].type"),
    NO("\"tools\":{}", "tools"),
    OK("\"parallel_tool_calls\":false"),
    NO("\"parallel_tool_calls\":1", "parallel_tool_calls"),
    OK("\"stream\":true,\"stream_options\":{\"include_usage\":true,\"include_obfuscation\":false}"),
    OK("\"stream\":null"),
    NO("\"stream_options\":{\"include_usage\":true}", "stream_options"),
    NO("\"stream\":\"yes\"", "stream"),
    NO("\"stream\":true,\"stream_options\":5", "stream_options"),
    NO("\"stream\":true,\"stream_options\":{\"include_usage\":1}", "stream_options.include_usage"),
    OK("\"service_tier\":\"auto\""),
    OK("\"service_tier\":\"flex\""),
    NO("\"service_tier\":\"gold\"", "service_tier"),
    OK("\"modalities\":[\"text\"]"),
    NO("\"modalities\":[\"text\",\"audio\"]", "modalities"),
    NO("\"audio\":{}", "audio"),
    OK("\"audio\":null"),
    NO("\"web_search_options\":{}", "web_search_options"),
    NO("\"functions\":[]", "functions"),
    NO("\"function_call\":\"auto\"", "function_call"),
    OK("\"metadata\":{\"a\":\"b\"},\"user\":\"u\",\"store\":true,\"prediction\":5,\"verbosity\":1,\"moderation\":[]"),
    OK("\"a_field_of_next_year\":{\"x\":[1,2,3]}"),
    OK("\"reasoning_effort\":\"none\""),
    NO("\"reasoning_effort\":\"huge\"", "reasoning_effort"),
    OK("\"thinking\":{\"type\":\"disabled\"}"),
    NO("\"thinking\":{\"type\":\"maybe\"}", "thinking.type"),
    OK("\"priority\":-5"),
    NO("\"priority\":\"high\"", "priority"),
    OK("\"deadline_ms\":100"),
    NO("\"deadline_ms\":0", "deadline_ms"),
    OK("\"ignore_eos\":true"),
    NO("\"ignore_eos\":1", "ignore_eos"),
    OK("\"min_tokens\":5"),
    NO("\"min_tokens\":-1", "min_tokens"),
    NO("\"min_tokens\":5,\"max_tokens\":4", "min_tokens"),
    OK("\"top_k\":-1"),
    OK("\"top_k\":40"),
    NO("\"top_k\":-2", "top_k"),
    OK("\"min_p\":0.1"),
    NO("\"min_p\":1.1", "min_p"),
    OK("\"repetition_penalty\":1.1"),
    NO("\"repetition_penalty\":0", "repetition_penalty"),
    OK("\"stop_token_ids\":[5,6]"),
    NO("\"stop_token_ids\":[-1]", "stop_token_ids"),
    NO("\"stop_token_ids\":5", "stop_token_ids"),
    NO("\"stop_token_ids\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]", "stop_token_ids"),
    NO("\"stop_token_ids\":[99999999]", "stop_token_ids"),
};

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        struct chat_request r;
        struct api_error e = {0};
        chat_request_init(&r);
        int rc = chat_request_read(&r, &rules, rows[i].body, strlen(rows[i].body), &e);
        if ((rc == 0) != (rows[i].param == NULL))
            fail_msg("%s: %s", rows[i].body, rc ? e.message : "was accepted");
        if (rows[i].param) {
            if (strcmp(e.param, rows[i].param) != 0 || e.kind != rows[i].kind ||
                (rows[i].text && !strstr(e.message, rows[i].text)))
                fail_msg("%s: param '%s' kind %d: %s", rows[i].body, e.param, (int)e.kind, e.message);
        } else {
            assert_true(r.prompt.n > 2);
        }
        chat_request_release(&r);
    }
}

static void test_values(void **state)
{
    const char *body =
        "{" CORE ",\"max_tokens\":7,\"max_completion_tokens\":9,\"temperature\":0.5,\"top_p\":0.25,\"seed\":-3,"
        "\"n\":4,\"stop\":[\"a\",\"bc\"],\"logprobs\":true,\"top_logprobs\":3,\"logit_bias\":{\"7\":-2.5},"
        "\"stream\":true,\"stream_options\":{\"include_usage\":true},\"service_tier\":\"priority\","
        "\"priority\":3,\"deadline_ms\":1234,\"ignore_eos\":true,\"min_tokens\":2,\"top_k\":-1,\"min_p\":0.5,"
        "\"repetition_penalty\":1.5,\"presence_penalty\":1,\"frequency_penalty\":-1,\"stop_token_ids\":[8,9],"
        "\"parallel_tool_calls\":false," TOOL "}";
    struct chat_request r;
    struct api_error e;
    (void)state;

    chat_request_init(&r);
    assert_int_equal(chat_request_max_tokens(&r), 0);
    assert_int_equal(chat_request_read(&r, &rules, body, strlen(body), &e), 0);
    assert_int_equal(chat_request_max_tokens(&r), 9); /* the first wins */
    assert_true(r.temperature == 0.5 && r.top_p == 0.25 && r.min_p == 0.5 && r.repetition_penalty == 1.5);
    assert_true(r.presence_penalty == 1 && r.frequency_penalty == -1 && r.top_k == 0);
    assert_true(r.has_seed && r.seed == -3 && r.n == 4 && r.logprobs && r.top_logprobs == 3);
    assert_true(r.stops.n == 2 && r.n_bias == 1 && r.bias[0].id == 7 && r.bias[0].bias == -2.5f);
    assert_true(r.stream && r.include_usage && r.priority == 3 && r.tier_priority < 0 && r.deadline_ms == 1234);
    assert_string_equal(r.service_tier, "priority");
    assert_true(r.ignore_eos && r.min_tokens == 2 && r.n_stop_id == 2 && r.stop_id[1] == 9 && !r.parallel_tool_calls);
    assert_true(r.in_reasoning && r.tools_on && r.tools && r.tools->n == 1);
    chat_request_release(&r);

    /* No thinking, no tools: the parser and the prompt come from one decision. */
    body = "{" CORE ",\"thinking\":{\"type\":\"disabled\"},\"tool_choice\":\"none\"," TOOL "}";
    chat_request_init(&r);
    assert_int_equal(chat_request_read(&r, &rules, body, strlen(body), &e), 0);
    assert_true(!r.in_reasoning && !r.tools_on && !r.tools && r.temperature == 1 && !r.has_seed);
    chat_request_release(&r);
}

static int open_tok(void **state)
{
    struct err err;
    (void)state;
    int rc = tok_open(TEST_DATA("tiny_tokenizer"), &tok, &err);
    rules = (struct chat_request_rules){tok, "m", CHAT_0731, 8};
    return rc;
}

static int close_tok(void **state)
{
    (void)state;
    tok_close(&tok);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_values)};
    return cmocka_run_group_tests(tests, open_tok, close_tok);
}
