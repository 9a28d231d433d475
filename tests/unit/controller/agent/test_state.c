/* Proves: the state of a run is what its rows say: every move of a step is legal or refused as the table has it, a
 * refused row changes nothing, paths of all forms lead to the same node again, a map's result is the list of its
 * items', and usage and budgets are sums over rows. How: rows by hand. */
#include "controller/agent/state.h"
#include "tests/unit/test.h"

#include <string.h>

static int apply(struct agent_state *s, const char *path, enum agent_step_state state, int attempt, const char *result)
{
    struct err err;
    return agent_state_apply(s, &(struct agent_row){.path = path, .state = state, .attempt = attempt,
                                                    .result = result, .at_ms = 1000, .usage = {1, 2, 3, 4}},
                             NULL, &err);
}

static void test_moves(void **unused)
{
    (void)unused;
    for (int from = 0; from < AGENT_STEP_STATE_N; from++) {
        for (int to = 0; to < AGENT_STEP_STATE_N; to++) {
            if (agent_step_state_is_over((enum agent_step_state)from))
                assert_false(agent_step_move_is_legal((enum agent_step_state)from, (enum agent_step_state)to));
            if (to == AGENT_none)
                assert_false(agent_step_move_is_legal((enum agent_step_state)from, (enum agent_step_state)to));
        }
        if (from != AGENT_none && !agent_step_state_is_over((enum agent_step_state)from))
            assert_true(agent_step_move_is_legal((enum agent_step_state)from, AGENT_canceled));
    }
    for (int i = 0; i < AGENT_STEP_STATE_N; i++)
        assert_int_equal(agent_step_state_of(agent_step_state_name((enum agent_step_state)i)), i);
    assert_int_equal(agent_step_state_of("nonsense"), AGENT_STEP_STATE_N);
}

static void test_refused_rows_change_nothing(void **unused)
{
    static const char *const bad[] = {"", ".", "a.", "a..b", "[1]", "a[", "a[]", "a[x]", "a[1", "a[-1]", "a b",
                                      "a[99999999]", "\xc3\xa9"};
    struct agent_state s;

    (void)unused;
    agent_state_init(&s);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(apply(&s, bad[i], AGENT_started, 1, NULL), ERR_FORMAT);
    assert_null(s.root.child);
    assert_int_equal(apply(&s, "a", AGENT_retry, 1, NULL), ERR_FORMAT);
    assert_null(s.root.child);
    assert_int_equal(apply(&s, "a", AGENT_started, 2, NULL), 0);
    assert_int_equal(apply(&s, "a", AGENT_retry, 1, "{}"), ERR_FORMAT); /* of an attempt before */
    assert_int_equal(apply(&s, "a", AGENT_retry, 2, "{\"until_ms\":\"soon\"}"), ERR_FORMAT);
    assert_int_equal(apply(&s, "a", AGENT_retry, 2, "no json"), ERR_FORMAT);
    assert_int_equal(agent_state_find(&s, "a")->state, AGENT_started);
    assert_int_equal(s.n_row, 1);
    assert_int_equal(apply(&s, "a", AGENT_retry, 2, "{\"until_ms\":77}"), 0);
    assert_int_equal(agent_state_find(&s, "a")->until_ms, 77);
    assert_int_equal(s.n_retry, 1);
    assert_int_equal(apply(&s, "a", AGENT_started, 3, NULL), 0);
    assert_int_equal(apply(&s, "a", AGENT_done, 3, "1"), 0);
    assert_int_equal(apply(&s, "a", AGENT_done, 3, "2"), ERR_FORMAT);
    assert_string_equal(agent_state_find(&s, "a")->result, "1");
    assert_int_equal(s.usage.output_tok, 4 * 2);
    agent_state_release(&s);
}

static void test_paths(void **unused)
{
    static const char *const path[] = {"a", "m[3].x", "m[3].in[0].y-z", "ask.turn2", "ask.turn2.call0", "m[70].x"};
    struct agent_state s;
    char text[STORE_PATH_MAX];

    (void)unused;
    agent_state_init(&s);
    for (size_t i = 0; i < sizeof path / sizeof *path; i++)
        assert_int_equal(apply(&s, path[i], AGENT_started, 1, NULL), 0);
    for (size_t i = 0; i < sizeof path / sizeof *path; i++) {
        struct agent_node *node = agent_state_find(&s, path[i]);
        assert_non_null(node);
        assert_string_equal(agent_node_path(node, text), path[i]);
    }
    assert_null(agent_state_find(&s, "m[4]"));
    assert_int_equal(agent_state_find(&s, "m[3]")->state, AGENT_none);
    agent_state_release(&s);
}

static void test_map_result_is_the_list(void **unused)
{
    struct agent_state s;

    (void)unused;
    agent_state_init(&s);
    assert_int_equal(apply(&s, "m", AGENT_started, 1, "{\"items\":3}"), 0);
    assert_int_equal(apply(&s, "m[2]", AGENT_done, 0, "{\"b\":2}"), 0);
    assert_int_equal(apply(&s, "m[0].x", AGENT_done, 1, "1"), 0);
    assert_int_equal(apply(&s, "m[0]", AGENT_done, 0, "\"a\""), 0);
    assert_null(agent_state_find(&s, "m[0].x")); /* over: what was below is gone */
    assert_int_equal(apply(&s, "m", AGENT_done, 1, NULL), 0);
    assert_string_equal(agent_state_find(&s, "m")->result, "[\"a\",null,{\"b\":2}]");
    assert_null(agent_state_find(&s, "m[2]"));
    assert_int_equal(s.result_bytes, (int64_t)strlen("[\"a\",null,{\"b\":2}]"));
    assert_int_equal(agent_node_value(agent_state_find(&s, "m"))->n, 3);
    agent_state_release(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moves),
        cmocka_unit_test(test_refused_rows_change_nothing),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_map_result_is_the_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
