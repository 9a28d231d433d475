/* Proves: a run can be cut off behind any of its rows and goes on from the rows alone to the same end: no step with a
 * result is begun again, a step that was begun is begun again under the same attempt and the same effect token, no
 * path is done twice, and the output is that of the undisturbed run. Also: retries, repairs, back-off, waits,
 * approvals, limits, cancel, deadline, forks.
 * How: a world in memory that answers effects as a function of their path and attempt, in an order by a seeded
 * generator; the log of an undisturbed run is cut at every prefix and each prefix is run to its end. */
#include "controller/agent/run.h"
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "common/text/jsonmake.h"

#include <stdio.h>
#include <string.h>

enum { ROWS_MAX = 4096, EFFECTS_MAX = 512 };

struct kept_row {
    struct agent_row row; /* texts owned */
};

struct effect {
    struct agent_node *node;
    enum agent_ask_kind kind;
    char path[STORE_PATH_MAX];
    int attempt;
    bool begun, stopped;
    char *messages; /* JSON */
    char *args;
};

struct world {
    struct arena arena;
    struct pipeline *plan;
    const struct json *inputs;
    struct agent_run run;
    struct kept_row log[ROWS_MAX];
    int n_row, n_old; /* rows in all; those given before */
    struct effect *effect[EFFECTS_MAX];
    int n_effect;
    int n_effect_max;
    int64_t now_ms;
    uint64_t rng;
    int n_token;
    int n_begun, n_end;
    bool never_approve;
    const char *tool_fault; /* a path whose tool always fails */
    char *last_messages;
};

static uint64_t next_random(struct world *w)
{
    w->rng ^= w->rng << 13;
    w->rng ^= w->rng >> 7;
    w->rng ^= w->rng << 17;
    return w->rng;
}

static char *dup(const char *s)
{
    return s ? mem_strdup(s) : NULL;
}

static void keep(struct world *w, const struct agent_row *row)
{
    assert_true(w->n_row < ROWS_MAX);
    if (row->state == AGENT_done)
        for (int i = 0; i < w->n_row; i++)
            assert_false(w->log[i].row.state == AGENT_done && strcmp(w->log[i].row.path, row->path) == 0);
    struct agent_row *k = &w->log[w->n_row++].row;
    *k = *row;
    k->path = dup(row->path);
    k->result = dup(row->result);
    k->request = dup(row->request);
    k->error = dup(row->error);
}

/* ---- io ---- */

static int prepare(void *arg, struct agent_run *run, const struct agent_ask *ask, void **effect, struct err *err)
{
    struct world *w = arg;
    struct effect *e = mem_zalloc(sizeof *e);
    char id[STORE_ID_MAX];

    (void)run, (void)err;
    e->kind = ask->kind;
    e->attempt = ask->attempt;
    snprintf(e->path, sizeof e->path, "%s", ask->path);
    if (ask->kind == AGENT_ASK_generate)
        assert_string_equal(ask->request, agent_request_id("run_1", ask->path, ask->attempt, id));
    struct buf text = {0};
    if (ask->messages) {
        json_add(&text, ask->messages);
        mem_free(w->last_messages);
        w->last_messages = dup(text.data);
    }
    buf_release(&text);
    if (ask->args) {
        json_add(&text, ask->args);
        e->args = buf_take(&text, NULL);
    }
    *effect = e;
    return 0;
}

static void on_row(void *arg, struct agent_run *run, const struct agent_row *row)
{
    (void)run;
    keep(arg, row);
}

static void begin(void *arg, struct agent_run *run, struct agent_node *node, void *effect)
{
    struct world *w = arg;
    struct effect *e = effect;
    bool started = false;

    (void)run;
    e->node = node;
    e->begun = true;
    w->n_begun++;
    /* Its started row is there, and no result. */
    for (int i = 0; i < w->n_row; i++) {
        const struct agent_row *r = &w->log[i].row;
        if (strcmp(r->path, e->path) != 0)
            continue;
        assert_int_not_equal(r->state, AGENT_done);
        started |= r->state == AGENT_started && r->attempt == e->attempt;
    }
    assert_true(started);
    assert_true(w->n_effect < EFFECTS_MAX);
    w->effect[w->n_effect++] = e;
    if (w->n_effect > w->n_effect_max)
        w->n_effect_max = w->n_effect;
}

static void effect_free(struct effect *e)
{
    mem_free(e->args);
    mem_free(e);
}

static void stop(void *arg, struct agent_run *run, void *effect)
{
    struct world *w = arg;

    (void)run;
    for (int i = 0; i < w->n_effect; i++) {
        if (w->effect[i] != effect)
            continue;
        w->effect[i] = w->effect[--w->n_effect];
        break;
    }
    effect_free(effect);
}

static void on_end(void *arg, struct agent_run *run)
{
    struct world *w = arg;
    assert_int_not_equal(run->end, AGENT_RUN_running);
    w->n_end++;
}

static uint64_t io_random(void *arg)
{
    return next_random(arg);
}

static void io_token(void *arg, char out[AGENT_TOKEN_MAX])
{
    struct world *w = arg;
    snprintf(out, AGENT_TOKEN_MAX, "token%d", w->n_token++);
}

static const struct agent_io io = {prepare, on_row, begin, stop, on_end, io_random, io_token};

/* ---- the world ---- */

static void world_open(struct world *w, const char *text, const char *inputs, uint64_t seed)
{
    const struct json *given;
    struct err err = {0};

    *w = (struct world){.now_ms = 1000000, .rng = seed * 0x9e3779b97f4a7c15u + 1};
    if (pipeline_parse(text, strlen(text), "test.yaml", "/tmp", &w->plan, NULL, &err))
        fail_msg("%s", err.text);
    assert_int_equal(json_parse(inputs, strlen(inputs), 0, &w->arena, &given, &err), 0);
    if (pipeline_inputs(w->plan, given, &w->arena, &w->inputs, &err))
        fail_msg("%s", err.text);
    assert_int_equal(agent_run_check(w->plan, &err), 0);
    agent_run_init(&w->run, "run_1", w->plan, w->inputs, w->now_ms, &io, w);
}

static void world_close(struct world *w)
{
    agent_run_stop(&w->run);
    assert_int_equal(w->n_effect, 0);
    agent_run_release(&w->run);
    for (int i = 0; i < w->n_row; i++) {
        mem_free((void *)(uintptr_t)w->log[i].row.path);
        mem_free((void *)(uintptr_t)w->log[i].row.result);
        mem_free((void *)(uintptr_t)w->log[i].row.request);
        mem_free((void *)(uintptr_t)w->log[i].row.error);
    }
    mem_free(w->last_messages);
    pipeline_destroy(&w->plan);
    arena_release(&w->arena);
}

static bool has(const char *s, const char *part)
{
    return strstr(s, part) != NULL;
}

/* What a tool or generation gives is a function of its path and attempt. */
static void answer(struct world *w, struct effect *e)
{
    char text[512], message[512];
    struct arena arena = {0};
    struct err err;
    struct agent_outcome o = {.usage = {10, 5, 0, 1}};
    struct agent_node *node = e->node;

    if (e->kind == AGENT_ASK_generate) {
        bool calls = has(e->path, ".turn1") && !has(e->path, ".turn1.");
        snprintf(text, sizeof text, has(e->path, "strict") ? (e->attempt == 1 ? "not json" : "{\"n\": %d}") : "text %d",
                 (int)strlen(e->path));
        snprintf(message, sizeof message,
                 calls ? "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c0\","
                         "\"type\":\"function\",\"function\":"
                         "{\"name\":\"look\",\"arguments\":\"{\\\"q\\\":\\\"x\\\"}\"}},{\"id\":\"c1\","
                         "\"type\":\"function\",\"function\":{\"name\":\"none\",\"arguments\":\"{}\"}}]}"
                       : "{\"role\":\"assistant\",\"content\":\"final %s\"}",
                 e->path);
        o.content = text;
        o.n_content = strlen(text);
        o.message = message;
    } else if ((has(e->path, "flaky") && e->attempt < 3) || (w->tool_fault && has(e->path, w->tool_fault))) {
        o.fault = FAULT_busy;
        o.text = "come back later";
    } else {
        snprintf(text, sizeof text, "{\"from\":\"%s\"}", e->path);
        json_parse(text, strlen(text), 0, &arena, &o.value, &err);
    }
    stop(w, &w->run, e); /* takes it off the list */
    agent_run_outcome(&w->run, node, &o, w->now_ms);
    arena_release(&arena);
}

/* The token of a step that waits, or NULL. */
static const char *waiting_token(struct world *w, char out[AGENT_TOKEN_MAX])
{
    for (int i = w->n_row - 1; i >= 0; i--) {
        const struct agent_row *r = &w->log[i].row;
        const char *at = r->state == AGENT_waiting ? strstr(r->result, "\"token\":\"") : NULL;
        struct agent_node *node = at ? agent_state_find(&w->run.state, r->path) : NULL;
        if (!node || node->state != AGENT_waiting)
            continue;
        snprintf(out, AGENT_TOKEN_MAX, "%.*s", (int)strcspn(at + 9, "\""), at + 9);
        return out;
    }
    return NULL;
}

/* To the end of the run. False: it waits for somebody who never comes. */
static bool go(struct world *w)
{
    char token[AGENT_TOKEN_MAX];
    struct err err;

    for (int guard = 0; guard < 100000; guard++) {
        agent_run_advance(&w->run, w->now_ms);
        if (w->run.end != AGENT_RUN_running) {
            assert_int_equal(w->n_end, 1);
            return true;
        }
        if (w->run.due_ms <= w->now_ms)
            continue;
        if (w->n_effect) {
            answer(w, w->effect[next_random(w) % (uint64_t)w->n_effect]);
        } else if (!w->never_approve && waiting_token(w, token)) {
            assert_int_equal(agent_run_approve(&w->run, NULL, token, true, "fine", w->now_ms, &err), 0);
        } else {
            if (w->run.due_ms == w->run.deadline_ms && w->never_approve)
                return false;
            w->now_ms = w->run.due_ms;
        }
    }
    fail_msg("the run does not end");
    return false;
}

static const char big[] =
    "pipeline: big\n"
    "inputs:\n  docs: {type: array}\n"
    "limits: {max_parallel: 5}\n"
    "steps:\n"
    "- id: read\n  tool: {command: [cat, x]}\n  retry: {max: 3, base_ms: 10, max_ms: 100}\n"
    "- id: flaky\n  needs: []\n  tool: {command: [a]}\n  retry: {max: 5, base_ms: 10, max_ms: 1000}\n"
    "- id: each\n  needs: [read]\n  map:\n    over: '{{ inputs.docs }}'\n    max_parallel: 3\n    as: doc\n"
    "    steps:\n"
    "    - id: one\n      tool: {command: [b, '{{ doc }}']}\n"
    "    - id: ask\n      when: doc != 'skip'\n      generate: {prompt: 'say {{ steps.one.output.from }}'}\n"
    "    result: {doc: '{{ doc }}', said: '{{ steps.ask.output | default(\"nothing\") }}', i: '{{ index }}'}\n"
    "- id: strict\n  generate: {prompt: 'give json'}\n  output: {type: object, required: [n]}\n  repair: 2\n"
    "- id: pause\n  wait: {ms: 5000}\n"
    "- id: may\n  wait: {approval: 'go on?'}\n"
    "- id: agent\n  agent:\n    prompt: 'find it'\n    tools:\n"
    "    - {name: look, description: d, parameters: {type: object}, command: [look]}\n"
    "- id: never\n  when: false\n  tool: {command: [c]}\n"
    "- id: sum\n  join: {all: '{{ steps.each.output }}', a: '{{ steps.agent.output }}',\n"
    "    f: '{{ steps.flaky.output }}'}\n"
    "  needs: [never, flaky]\n"
    "result: {sum: '{{ steps.sum.output }}', strict: '{{ steps.strict.output.n }}'}\n";
static const char docs[] = "{\"docs\":[\"a\",\"b\",\"skip\",\"d\",\"e\",\"f\",\"g\"]}";

static void test_cut_at_every_row(void **unused)
{
    static struct world whole, cut;

    (void)unused;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        world_open(&whole, big, docs, seed);
        assert_true(go(&whole));
        assert_int_equal(whole.run.end, AGENT_RUN_done);
        assert_true(whole.n_effect_max <= 5 && whole.n_effect_max >= 3);
        assert_non_null(strstr(whole.run.output, "\"doc\":\"g\""));
        for (int n = 0; n <= whole.n_row; n++) {
            struct err err = {0};
            world_open(&cut, big, docs, seed * 1000 + (uint64_t)n);
            for (int i = 0; i < n; i++) {
                keep(&cut, &whole.log[i].row);
                if (agent_run_fold(&cut.run, &whole.log[i].row, &err))
                    fail_msg("row %d: %s", i, err.text);
                cut.now_ms = whole.log[i].row.at_ms;
            }
            cut.n_token = 100;
            assert_true(go(&cut));
            assert_int_equal(cut.run.end, AGENT_RUN_done);
            assert_string_equal(cut.run.output, whole.run.output);
            assert_int_equal(cut.n_row, whole.n_row);
            assert_int_equal(cut.run.state.usage.output_tok, whole.run.state.usage.output_tok);
            world_close(&cut);
        }
        world_close(&whole);
    }
}

/* The conversation of the agent has the calls' results, an unknown tool's too. */
static void test_conversation(void **unused)
{
    static const char text[] = "pipeline: p\nsteps:\n- id: agent\n  agent:\n    prompt: 'find it'\n    tools:\n"
                               "    - {name: look, description: d, parameters: {type: object}, command: [look]}\n";
    static struct world w;

    (void)unused;
    world_open(&w, text, "{}", 1);
    assert_true(go(&w));
    assert_int_equal(w.run.end, AGENT_RUN_done);
    assert_string_equal(w.run.output, "\"final agent.turn2\"");
    assert_true(has(w.last_messages, "\"tool_call_id\":\"c0\""));
    assert_true(has(w.last_messages, "agent.turn1.call0"));
    assert_true(has(w.last_messages, "there is no tool of this name"));
    world_close(&w);
}

static void test_failures(void **unused)
{
    static const char text[] =
        "pipeline: p\nsteps:\n"
        "- id: a\n  tool: {command: [a]}\n  retry: {max: 2, base_ms: 1, max_ms: 1}\n  on_error: %s\n"
        "- id: b\n  join: '{{ steps.a.error | default(\"none\") }}'\n";
    static struct world w;
    char yaml[512];

    (void)unused;
    snprintf(yaml, sizeof yaml, text, "fail");
    world_open(&w, yaml, "{}", 3);
    w.tool_fault = "a";
    assert_true(go(&w));
    assert_int_equal(w.run.end, AGENT_RUN_failed);
    assert_string_equal(w.run.error, "step a: busy: come back later");
    assert_int_equal(w.n_begun, 3);
    world_close(&w);

    snprintf(yaml, sizeof yaml, text, "continue");
    world_open(&w, yaml, "{}", 3);
    w.tool_fault = "a";
    assert_true(go(&w));
    assert_int_equal(w.run.end, AGENT_RUN_done);
    assert_string_equal(w.run.output, "\"busy: come back later\"");
    world_close(&w);
}

/* One item fails: the others are stopped, the run fails with the way to it. */
static void test_map_fails_fast(void **unused)
{
    static const char text[] = "pipeline: p\nsteps:\n- id: m\n  map:\n    over: [1, 2, 3, 4, 5, 6]\n"
                               "    max_parallel: 4\n"
                               "    steps:\n    - id: x\n      tool: {command: [x]}\n      retry: {max: 0}\n";
    static struct world w;

    (void)unused;
    world_open(&w, text, "{}", 9);
    w.tool_fault = "m[1]";
    assert_true(go(&w));
    assert_int_equal(w.run.end, AGENT_RUN_failed);
    assert_true(has(w.run.error, "step m: items: "));
    assert_true(has(w.run.error, "m[1].x: busy: come back later"));
    assert_int_equal(w.n_effect, 0);
    world_close(&w);
}

static void test_cancel_and_deadline(void **unused)
{
    static struct world w;

    (void)unused;
    world_open(&w, big, docs, 4);
    agent_run_advance(&w.run, w.now_ms);
    assert_int_equal(w.n_effect, 2);
    agent_run_cancel(&w.run, "no more", w.now_ms);
    assert_int_equal(w.run.end, AGENT_RUN_canceled);
    assert_int_equal(w.n_effect, 0);
    assert_int_equal(w.log[w.n_row - 1].row.state, AGENT_canceled);
    agent_run_cancel(&w.run, "again", w.now_ms);
    assert_int_equal(w.n_end, 1);
    world_close(&w);

    world_open(&w, "pipeline: p\nlimits: {deadline_ms: 500}\nsteps:\n- id: a\n  tool: {command: [a]}\n", "{}", 4);
    agent_run_advance(&w.run, w.now_ms);
    assert_int_equal(w.run.due_ms, w.now_ms + 500);
    agent_run_advance(&w.run, w.now_ms + 500);
    assert_int_equal(w.run.end, AGENT_RUN_failed);
    assert_true(has(w.run.error, "deadline"));
    assert_int_equal(w.n_effect, 0);
    world_close(&w);
}

static void test_approvals(void **unused)
{
    static const char text[] = "pipeline: p\nsteps:\n- id: may\n  wait: {approval: 'well?'}\n  timeout_ms: 1000\n"
                               "- id: b\n  join: '{{ steps.may.output.comment }}'\n";
    static struct world w;
    struct err err;

    (void)unused;
    world_open(&w, text, "{}", 1);
    w.never_approve = true;
    agent_run_advance(&w.run, w.now_ms);
    assert_int_equal(agent_run_approve(&w.run, NULL, "token1", true, NULL, w.now_ms, &err), ERR_ARG);
    assert_int_equal(agent_run_approve(&w.run, "may", "", true, NULL, w.now_ms, &err), ERR_ARG);
    assert_int_equal(agent_run_approve(&w.run, "b", "token0", true, NULL, w.now_ms, &err), ERR_MISSING);
    assert_int_equal(agent_run_approve(&w.run, "may", "token0", true, "ok \"x\"", w.now_ms, &err), 0);
    assert_int_equal(agent_run_approve(&w.run, NULL, "token0", true, NULL, w.now_ms, &err), ERR_MISSING);
    assert_true(go(&w));
    assert_string_equal(w.run.output, "\"ok \\\"x\\\"\"");
    world_close(&w);

    world_open(&w, text, "{}", 1); /* a no */
    agent_run_advance(&w.run, w.now_ms);
    assert_int_equal(agent_run_approve(&w.run, NULL, "token0", false, NULL, w.now_ms, &err), 0);
    assert_true(go(&w));
    assert_int_equal(w.run.end, AGENT_RUN_failed);
    assert_string_equal(w.run.error, "step may: rejected: a human said no");
    world_close(&w);

    world_open(&w, text, "{}", 1); /* nobody */
    w.never_approve = true;
    agent_run_advance(&w.run, w.now_ms);
    assert_int_equal(w.run.due_ms, w.now_ms + 1000);
    agent_run_advance(&w.run, w.now_ms + 1000);
    assert_string_equal(w.run.error, "step may: timeout: nobody answered in time");
    world_close(&w);
}

/* A long map in one advance: rows come in portions, and the nodes of items that are over hold nothing. */
static void test_portions(void **unused)
{
    static const char text[] = "pipeline: p\ninputs: {l: {type: array}}\nsteps:\n- id: m\n  map:\n"
                               "    over: '{{ inputs.l }}'\n    steps:\n    - id: x\n      join: '{{ item }}'\n";
    static struct world w;
    struct buf list = {0};

    (void)unused;
    buf_add_str(&list, "{\"l\":[0");
    for (int i = 1; i < 1500; i++)
        buf_addf(&list, ",%d", i);
    buf_add_str(&list, "]}");
    world_open(&w, text, list.data, 1);
    agent_run_advance(&w.run, w.now_ms);
    assert_in_range(w.n_row, AGENT_ADVANCE_ROWS_MAX, AGENT_ADVANCE_ROWS_MAX + 4);
    assert_int_equal(w.run.due_ms, w.now_ms);
    assert_null(agent_state_find(&w.run.state, "m[0].x"));
    assert_true(go(&w));
    assert_int_equal(w.n_row, 2 * 1500 + 2);
    assert_memory_equal(w.run.output, list.data + 5, strlen(w.run.output));
    buf_release(&list);
    world_close(&w);
}

/* A fork takes over what stands before the step, and what it made of it is never run again. */
static void test_forks(void **unused)
{
    static struct world whole, fork;
    struct err err = {0};

    (void)unused;
    world_open(&whole, big, docs, 2);
    assert_true(go(&whole));
    world_open(&fork, big, docs, 3);
    for (int i = 0; i < whole.n_row; i++) {
        if (!agent_run_keeps(fork.plan, &whole.log[i].row, "strict"))
            continue;
        keep(&fork, &whole.log[i].row);
        if (agent_run_fold(&fork.run, &whole.log[i].row, &err))
            fail_msg("%s", err.text);
    }
    assert_int_equal(agent_state_find(&fork.run.state, "each")->state, AGENT_done);
    assert_null(agent_state_find(&fork.run.state, "strict"));
    assert_true(go(&fork));
    assert_int_equal(fork.run.end, AGENT_RUN_done);
    assert_string_equal(fork.run.output, whole.run.output);
    assert_int_equal(fork.n_begun, 2 + 2 + 1); /* strict twice, the agent's two turns and its call */
    world_close(&fork);
    world_close(&whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_at_every_row), cmocka_unit_test(test_conversation),
        cmocka_unit_test(test_failures),         cmocka_unit_test(test_map_fails_fast),
        cmocka_unit_test(test_cancel_and_deadline), cmocka_unit_test(test_approvals),
        cmocka_unit_test(test_portions),         cmocka_unit_test(test_forks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
