/* Proves: what the front keeps of a generation comes back as it was, with stop strings that hold anything and tools;
 * what is damaged or newer is refused. How: round trips; every truncation.
 */
#include "tests/unit/test.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "controller/api/state.h"

#include <string.h>

static void fill(struct api_state *s, struct chat_request *r, struct arena *arena)
{
    static const char tools[] = "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]";
    struct err err;
    *s = (struct api_state){
        .hex = "0123456789abcdef01234567", .fingerprint = "fp_1", .tier = "flex", .model = mem_strdup("a\"b"),
        .stream = true};
    chat_request_init(r);
    r->n = 3;
    r->logprobs = r->tools_on = r->in_reasoning = true;
    r->parallel_tool_calls = false;
    r->top_logprobs = 2;
    stop_set_add(&r->stops, "a\0b", 3);
    stop_set_add(&r->stops, "\"\n\xC3\xA9", 4);
    assert_int_equal(json_parse(tools, strlen(tools), 0, arena, &r->tools, &err), 0);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct api_state s, t = {0};
    struct chat_request r, q;
    struct arena arena = {0};
    struct buf once = {0}, twice = {0};
    struct err err;

    fill(&s, &r, &arena);
    api_state_add(&s, &r, &once);
    chat_request_init(&q);
    assert_int_equal(api_state_read(once.data, once.len, &t, &q, &err), 0);
    assert_string_equal(t.model, "a\"b");
    assert_true(t.stream && !t.include_usage && q.n == 3 && q.logprobs && !q.parallel_tool_calls && q.tools_on);
    assert_int_equal(q.stops.n, 2);
    assert_memory_equal(q.stops.string[0].text, "a\0b", 3);
    assert_non_null(q.tools);
    api_state_add(&t, &q, &twice);
    assert_string_equal(once.data, twice.data);
    api_state_release(&t);
    chat_request_release(&q);
    for (size_t n = 0; n < once.len; n++) {
        chat_request_init(&q);
        assert_int_equal(api_state_read(once.data, n, &t, &q, &err), ERR_FORMAT);
        api_state_release(&t);
        chat_request_release(&q);
    }
    r.tools = NULL;
    chat_request_release(&r);
    api_state_release(&s);
    arena_release(&arena);
    buf_release(&once);
    buf_release(&twice);
}

static void test_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int rc;
    } bad[] = {{"{}", ERR_FORMAT}, {"[]", ERR_FORMAT}, {"{\"v\":2}", ERR_VERSION}, {"{\"v\":1}", ERR_FORMAT},
               {"{\"v\":1,\"hex\":\"12\",\"fingerprint\":\"\",\"tier\":\"\",\"model\":\"\",\"n\":1,\"top_logprobs\":0}",
                ERR_FORMAT}};
    for (size_t i = 0; i < N_ELEM(bad); i++) {
        struct api_state t = {0};
        struct chat_request q;
        struct err err;
        chat_request_init(&q);
        assert_int_equal(api_state_read(bad[i].text, strlen(bad[i].text), &t, &q, &err), bad[i].rc);
        api_state_release(&t);
        chat_request_release(&q);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
