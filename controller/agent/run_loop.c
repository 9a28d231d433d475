/* The agent step: turns of generation and the calls of tools between them, until an answer without a call. Each turn
 * and each call is a step of its own with rows of its own; the conversation is made again from their results. */
#include "controller/agent/run_internal.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "common/text/jsonmake.h"
#include "controller/agent/plan/generate.h"

#include <stdio.h>
#include <string.h>

enum { NAME_MAX_BYTES = 24, CALLS_MAX = 128 };

struct loop {
    struct agent_run *run;
    struct agent_node *at, *node;
    const struct pipeline_step *step;
    char path[STORE_PATH_MAX];
    struct agent_scope scope;
    struct arena arena;
};

static struct agent_node *turn_of(const struct loop *l, int k)
{
    char name[NAME_MAX_BYTES];
    snprintf(name, sizeof name, "turn%d", k);
    return agent_node_child(l->node, name);
}

static struct agent_node *call_of(const struct agent_node *turn, int k)
{
    char name[NAME_MAX_BYTES];
    snprintf(name, sizeof name, "call%d", k);
    return agent_node_child(turn, name);
}

/* The calls that a turn's message asks for; NULL if it is an answer. */
static const struct json *calls_of(struct agent_node *turn)
{
    const struct json *calls = json_get(agent_node_value(turn), "tool_calls");
    return json_is(calls, JSON_ARRAY) && calls->n ? calls : NULL;
}

static void fail(struct loop *l, enum fault fault, const char *text)
{
    char error[ERR_TEXT_MAX];

    snprintf(error, sizeof error, "%.*s", AGENT_ERROR_MAX, text); /* a copy: the text may be of a node that goes */
    agent__stop_below(l->run, l->node);
    agent__fail(l->run, l->path, l->node->attempt, fault, error);
}

/* ---- calls ---- */

/* A call that cannot be made: the model is told why. */
static void refuse(struct loop *l, const char *path, const char *why)
{
    struct buf result = {0};

    buf_add_str(&result, "{\"error\":");
    json_add_str(&result, why, strlen(why));
    buf_add_char(&result, '}');
    agent__done(l->run, path, 0, result.data);
    buf_release(&result);
}

static const struct pipeline_tool *tool_of(const struct loop *l, const struct json *call)
{
    const struct json *name = json_get(json_get(call, "function"), "name");
    const struct pipeline_agent *agent = &l->step->u.agent;

    for (int i = 0; i < agent->n_tool; i++)
        if (json_is_str(name, agent->tool[i].name))
            return &agent->tool[i];
    return NULL;
}

/* The arguments, checked; NULL: report says what is wrong. */
static const struct json *args_of(struct loop *l, const struct pipeline_tool *tool, const struct json *call,
                                  struct buf *report)
{
    const struct json *text = json_get(json_get(call, "function"), "arguments"), *args;
    struct err err;

    if (!json_is(text, JSON_STRING) || json_parse(text->text, text->len, 0, &l->arena, &args, &err) != 0 ||
        args->kind != JSON_OBJECT) {
        buf_add_str(report, "the arguments are no JSON object");
        return NULL;
    }
    return !tool->parameters || schema_check(tool->parameters, args, report) == 0 ? args : NULL;
}

/* True when the call has its result. */
static bool call_advance(struct loop *l, struct agent_node *turn, int k, const struct json *call)
{
    struct agent_node *node = call_of(turn, k);
    const struct pipeline_tool *tool = tool_of(l, call);
    char path[STORE_PATH_MAX], name[NAME_MAX_BYTES];
    struct buf report = {0};

    if (node)
        node->step = l->step;
    if (node && (agent_step_state_is_over(node->state) || node->effect || !agent__attempt_is_due(l->run, node)))
        return agent_step_state_is_over(node->state);
    snprintf(name, sizeof name, "call%d", k);
    agent__child_path(turn, name, -1, path);
    const struct json *args = tool ? args_of(l, tool, call, &report) : NULL;
    if (!args) {
        refuse(l, path, tool ? report.data : "there is no tool of this name");
    } else {
        l->scope.args = args;
        agent__begin(l->run, node,
                     &(struct agent_ask){.kind = AGENT_ASK_tool, .path = path, .step = l->step, .tool = tool,
                                         .args = args, .scope = &l->scope.expr});
        l->scope.args = NULL;
    }
    buf_release(&report);
    node = call_of(turn, k);
    return node && agent_step_state_is_over(node->state);
}

/* ---- turns ---- */

/* The conversation before turn k. */
static int messages_before(struct loop *l, int k, const struct json **messages, struct err *err)
{
    const struct json *result[CALLS_MAX];
    int rc = generate_messages(l->step, &l->scope.expr, &l->arena, messages, err);

    for (int i = 1; i < k && !rc; i++) {
        struct agent_node *turn = turn_of(l, i);
        const struct json *message = agent_node_value(turn), *calls = calls_of(turn);
        if (calls) {
            for (uint32_t c = 0; c < calls->n; c++) {
                struct agent_node *node = call_of(turn, (int)c);
                const struct json *value = node ? agent_node_value(node) : NULL;
                result[c] = value ? value : &jsonmake_null;
            }
            *messages = generate_append_calls(*messages, message, result, (int)calls->n, &l->arena);
            continue;
        }
        const struct json *content = json_get(message, "content"), *value;
        struct buf report = {0};
        const char *text = json_is(content, JSON_STRING) ? content->text : "";
        size_t n = json_is(content, JSON_STRING) ? content->len : 0;
        generate_output(l->step, text, n, &l->arena, &value, &report);
        *messages = generate_repair(*messages, text, n, &report, &l->arena);
        buf_release(&report);
    }
    return rc;
}

static void turn_begin(struct loop *l, int k, struct agent_node *turn)
{
    char path[STORE_PATH_MAX], name[NAME_MAX_BYTES];
    const struct json *messages;
    struct err err;

    if (l->run->n_effect >= l->run->plan->max_parallel)
        return;
    if (messages_before(l, k, &messages, &err) != 0) {
        fail(l, FAULT_template, err.text);
        return;
    }
    snprintf(name, sizeof name, "turn%d", k);
    agent__begin(l->run, turn,
                 &(struct agent_ask){.kind = AGENT_ASK_generate, .path = agent__child_path(l->node, name, -1, path),
                                     .step = l->step, .messages = messages, .scope = &l->scope.expr});
}

/* A turn without calls: the answer, or one more to be repaired. True if the loop goes on behind it. */
static bool answer(struct loop *l, struct agent_node *turn, int *n_repair)
{
    const struct json *content = json_get(agent_node_value(turn), "content"), *value;
    struct buf report = {0}, text = {0};
    const char *s = json_is(content, JSON_STRING) ? content->text : "";
    size_t n = json_is(content, JSON_STRING) ? content->len : 0;
    int rc = generate_output(l->step, s, n, &l->arena, &value, &report);
    bool again = rc && *n_repair < l->step->repair;

    if (!rc) {
        json_add(&text, value);
        agent__stop_below(l->run, l->node);
        agent__done(l->run, l->path, l->node->attempt, text.data);
    } else if (!again) {
        fail(l, rc == ERR_FORMAT ? FAULT_output : FAULT_schema,
             report.len ? report.data : "the answer is not what was asked for");
    }
    *n_repair += again;
    buf_release(&report);
    buf_release(&text);
    return again;
}

/* True if turn k is behind us and the next one may be looked at. */
static bool turn_advance(struct loop *l, int k, struct agent_node *turn, int *n_repair)
{
    turn->step = l->step;
    if (turn->state == AGENT_failed || turn->state == AGENT_canceled) {
        const char *error = turn->error ? turn->error : "generate: the turn failed";
        const char *colon = strstr(error, ": ");
        char name[NAME_MAX_BYTES];
        snprintf(name, sizeof name, "%.*s", colon ? (int)(colon - error) : 0, error);
        enum fault fault = fault_by_name(name);
        fail(l, fault < FAULT_N ? fault : FAULT_generate, fault < FAULT_N ? colon + 2 : error);
        return false;
    }
    if (turn->state != AGENT_done) {
        if (!turn->effect && agent__attempt_is_due(l->run, turn))
            turn_begin(l, k, turn);
        return false;
    }
    const struct json *calls = calls_of(turn);
    if (!calls)
        return answer(l, turn, n_repair);
    if (calls->n > CALLS_MAX) {
        fail(l, FAULT_output, "the model made too many calls in one turn");
        return false;
    }
    bool all = true;
    int c = 0;
    for (const struct json *call = calls->child; call; call = call->next)
        all &= call_advance(l, turn, c++, call);
    return all;
}

void agent__loop_advance(struct agent_run *run, struct agent_node *at, struct agent_node *node)
{
    struct loop l = {.run = run, .at = at, .node = node, .step = node->step};
    int n_repair = 0;

    agent_node_path(node, l.path);
    if (l.step->timeout_ms) {
        agent__due(run, node->started_ms + l.step->timeout_ms);
        if (run->now_ms >= node->started_ms + l.step->timeout_ms) {
            fail(&l, FAULT_timeout, "the agent took longer than its timeout_ms");
            return;
        }
    }
    agent__scope_init(&l.scope, run, at, &l.arena);
    for (int k = 1;; k++) {
        struct agent_node *turn = turn_of(&l, k);
        if (turn) {
            if (!turn_advance(&l, k, turn, &n_repair))
                break;
        } else if (k > l.step->u.agent.max_turns) {
            fail(&l, FAULT_turns, "no final answer within max_turns");
            break;
        } else {
            turn_begin(&l, k, NULL);
            turn = turn_of(&l, k); /* failed at once: say so now */
            if (!turn || agent_step_state_is_over(node->state) || turn->state != AGENT_failed)
                break;
            turn_advance(&l, k, turn, &n_repair);
            break;
        }
    }
    arena_release(&l.arena);
}
