/* Proves: a run and its events as JSON: every form parses, has what the rows say, a map's result is the list of
 * its items, usage is summed over what is below, a long result is told by its size, and rows that contradict each
 * other are an error. How: records as the store gives them. */
#include "controller/agent/show.h"
#include "tests/unit/test.h"

#include "common/text/json.h"

#include <string.h>

static const struct store_run run = {.id = "run_1", .tenant = "-", .name = "demo", .input = "{\"n\":1}",
                                     .created_ms = 5, .deadline_ms = 99};

static struct store_record step(const char *path, const char *state, int attempt, const char *result)
{
    return (struct store_record){.kind = STORE_step, .u.step = {.run = "run_1", .path = path, .state = state,
                                                                .attempt = attempt, .result = result, .at_ms = 7,
                                                                .usage = {1, 2, 0, 0}}};
}

static const struct json *parse(struct arena *arena, const struct buf *text)
{
    const struct json *root;
    struct err err = {0};

    if (json_parse(text->data, text->len, JSON_NO_REPEATED_KEYS, arena, &root, &err))
        fail_msg("%s: %s", err.text, text->data);
    return root;
}

static int64_t number(const struct json *j, const char *name)
{
    int64_t v = -1;
    assert_true(json_to_i64(json_get(j, name), &v));
    return v;
}

static void test_run(void **unused)
{
    struct store_record r[] = {
        {.kind = STORE_run, .u.run = run},
        step("m", "started", 1, "{\"items\":2}"),
        step("m[0].x", "started", 1, NULL),
        step("m[0].x", "done", 1, "\"a\""),
        step("m[0]", "done", 0, "\"a\""),
        step("m[1]", "done", 0, "2"),
        step("m", "done", 1, NULL),
        {.kind = STORE_run_end, .u.run_end = {.run = "run_1", .state = "done", .output = "[1]", .ended_ms = 9,
                                              .usage = {6, 12, 0, 0}}},
    };
    struct arena arena = {0};
    struct buf out = {0};
    struct err err = {0};

    (void)unused;
    assert_int_equal(agent_show_run(r, 8, AGENT_SHOW_top, &out, &err), 0);
    const struct json *root = parse(&arena, &out), *steps = json_get(root, "steps");
    assert_true(json_is_str(json_get(root, "state"), "done"));
    assert_int_equal(number(root, "ended_ms"), 9);
    assert_int_equal(number(root, "events"), 8);
    assert_int_equal(steps->n, 1);
    assert_int_equal(json_get(json_at(steps, 0), "result")->n, 2);
    assert_int_equal(number(json_get(json_at(steps, 0), "usage"), "completion_tokens"), 12);
    assert_int_equal(number(json_get(json_at(steps, 0), "items"), "done"), 2);
    buf_clear(&out);
    assert_int_equal(agent_show_run(r, 8, AGENT_SHOW_all, &out, &err), 0);
    assert_int_equal(json_get(parse(&arena, &out), "steps")->n, 4);
    buf_clear(&out);
    assert_int_equal(agent_show_run(r, 3, AGENT_SHOW_none, &out, &err), 0);
    assert_true(json_is_str(json_get(parse(&arena, &out), "state"), "running"));
    buf_clear(&out);
    r[2].u.step.state = "retry"; /* of a step that was never begun */
    assert_int_equal(agent_show_run(r, 8, AGENT_SHOW_top, &out, &err), ERR_FORMAT);
    r[2].u.step.state = "levitating";
    assert_int_equal(agent_show_run(r, 8, AGENT_SHOW_top, &out, &err), ERR_FORMAT);
    assert_int_equal(agent_show_run(r + 1, 1, AGENT_SHOW_top, &out, &err), ERR_MISSING);
    buf_release(&out);
    arena_release(&arena);
}

static void test_list(void **unused)
{
    const struct store_record r[] = {
        {.kind = STORE_run, .u.run = run},
        {.kind = STORE_run_end, .u.run_end = {.run = "run_1", .state = "failed", .error = "say \"no\"", .ended_ms = 9}},
        {.kind = STORE_run, .u.run = run},
        {.kind = STORE_run, .u.run = run},
    };
    struct arena arena = {0};
    struct buf out = {0};

    (void)unused;
    agent_show_list(r, 4, 2, &out);
    const struct json *root = parse(&arena, &out), *data = json_get(root, "data");
    assert_int_equal(data->n, 2);
    assert_true(json_is(json_get(root, "has_more"), JSON_TRUE));
    assert_true(json_is_str(json_get(json_at(data, 0), "error"), "say \"no\""));
    assert_true(json_is_str(json_get(json_at(data, 1), "state"), "running"));
    buf_clear(&out);
    agent_show_list(r, 0, 2, &out);
    assert_int_equal(json_get(parse(&arena, &out), "data")->n, 0);
    buf_release(&out);
    arena_release(&arena);
}

static void test_events(void **unused)
{
    static char text[AGENT_EVENT_RESULT_MAX + 2];
    struct store_step s = step("a", "done", 1, text).u.step;
    struct arena arena = {0};
    struct buf out = {0};

    (void)unused;
    memset(text, '1', AGENT_EVENT_RESULT_MAX);
    agent_show_step("run_1", 3, &s, &out);
    const struct json *root = parse(&arena, &out);
    assert_int_equal(json_get(root, "result")->len, AGENT_EVENT_RESULT_MAX);
    assert_int_equal(number(root, "seq"), 3);
    buf_clear(&out);
    text[AGENT_EVENT_RESULT_MAX] = '1';
    agent_show_step("run_1", 3, &s, &out);
    root = parse(&arena, &out);
    assert_null(json_get(root, "result"));
    assert_int_equal(number(root, "result_bytes"), AGENT_EVENT_RESULT_MAX + 1);
    buf_clear(&out);
    agent_show_begin(&run, &out);
    assert_true(json_is_str(json_get(parse(&arena, &out), "type"), "run"));
    buf_clear(&out);
    agent_show_end(&(struct store_run_end){.run = "run_1", .state = "done"}, 4, &out);
    assert_true(json_is(json_get(parse(&arena, &out), "output"), JSON_NULL));
    buf_release(&out);
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
