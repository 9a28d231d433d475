/* The lists of a run's steps: what may start, what a started step does next, when a list is settled or broken. */
#include "controller/agent/run_internal.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "common/text/jsonmake.h"
#include "controller/agent/plan/generate.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- leaves ---- */

/* The messages of a generate step: those of its templates, and behind an attempt that did not fit, what was wrong. */
static int messages_of(const struct agent_scope *scope, const struct pipeline_step *step, struct agent_node *node,
                       const struct json **messages, struct err *err)
{
    int rc = generate_messages(step, &scope->expr, scope->arena, messages, err);
    if (rc || !node || !node->n_invalid)
        return rc;
    /* The last row with a result is the one that did not fit, whatever came behind it. */
    const struct json *said = agent_node_value(node);
    if (!json_is(said, JSON_STRING))
        return 0;
    struct buf report = {0};
    buf_add_str(&report, node->error ? node->error : "");
    *messages = generate_repair(*messages, said->text, said->len, &report, scope->arena);
    buf_release(&report);
    return 0;
}

/* Begin, resume or try again a generate or tool step. True if something happened. */
static bool leaf(struct agent_run *run, struct agent_node *at, struct agent_node *node,
                 const struct pipeline_step *step, const char *path)
{
    struct agent_scope scope;
    struct arena arena = {0};
    struct err err;
    int rc = 0;

    if (run->n_effect >= run->plan->max_parallel)
        return false;
    agent__scope_init(&scope, run, at, &arena);
    struct agent_ask ask = {.kind = AGENT_ASK_tool, .path = path, .step = step, .scope = &scope.expr};
    if (step->kind == PIPELINE_generate) {
        ask.kind = AGENT_ASK_generate;
        rc = messages_of(&scope, step, node, &ask.messages, &err);
    } else {
        ask.tool = &step->u.tool;
    }
    if (rc)
        agent__fail(run, path, node ? node->attempt : 0, FAULT_template, err.text);
    else
        agent__begin(run, node, &ask);
    arena_release(&arena);
    return true;
}

static void join(struct agent_run *run, struct agent_node *at, const struct pipeline_step *step, const char *path)
{
    struct agent_scope scope;
    struct arena arena = {0};
    struct buf report = {0}, text = {0};
    const struct json *value;
    struct err err;

    agent__scope_init(&scope, run, at, &arena);
    if (template_render(step->u.join, &scope.expr, &arena, &value, &err) != 0) {
        agent__fail(run, path, 0, FAULT_template, err.text);
    } else if (!agent__fits(step, value, &report)) {
        agent__fail(run, path, 0, FAULT_schema, report.len ? report.data : "the value does not fit its schema");
    } else {
        json_add(&text, value);
        agent__done(run, path, 0, text.data);
    }
    arena_release(&arena);
    buf_release(&report);
    buf_release(&text);
}

/* ---- waits ---- */

static int add_timer(const struct agent_run *run, const struct agent_scope *scope, const struct pipeline_wait *wait,
                     struct buf *row, struct err *err)
{
    const struct json *value;
    int64_t ms;
    int rc = template_render(wait->timer_ms, &scope->expr, scope->arena, &value, err);

    if (rc)
        return rc;
    if (!json_to_i64(value, &ms) || ms < 0 || ms > PIPELINE_MS_MAX)
        return err_set(err, ERR_ARG, "the time to wait has to be a whole number of ms from 0 to %d", PIPELINE_MS_MAX);
    buf_addf(row, "{\"until_ms\":%" PRId64 "}", run->now_ms + ms);
    return 0;
}

static int add_approval(struct agent_run *run, const struct agent_scope *scope, const struct pipeline_step *step,
                        struct buf *row, struct err *err)
{
    char token[AGENT_TOKEN_MAX];
    struct buf text = {0};
    int rc = template_render_text(step->u.wait.approval, &scope->expr, &text, err);

    if (!rc) {
        run->io->token(run->arg, token);
        buf_addf(row, "{\"token\":\"%s\",\"approval\":", token);
        json_add_str(row, text.data ? text.data : "", text.len);
        if (step->u.wait.show) {
            buf_add_str(row, ",\"show\":");
            rc = agent__render(scope, step->u.wait.show, row, err);
        }
        if (step->timeout_ms)
            buf_addf(row, ",\"until_ms\":%" PRId64, run->now_ms + step->timeout_ms);
        buf_add_char(row, '}');
    }
    buf_release(&text);
    return rc;
}

static void wait(struct agent_run *run, struct agent_node *at, const struct pipeline_step *step, const char *path)
{
    struct agent_scope scope;
    struct arena arena = {0};
    struct buf row = {0};
    struct err err;

    agent__scope_init(&scope, run, at, &arena);
    int rc = step->u.wait.timer_ms ? add_timer(run, &scope, &step->u.wait, &row, &err)
                                   : add_approval(run, &scope, step, &row, &err);
    if (rc)
        agent__fail(run, path, 0, FAULT_template, err.text);
    else
        agent__put(run, &(struct agent_row){.path = path, .state = AGENT_waiting, .result = row.data})->step = step;
    arena_release(&arena);
    buf_release(&row);
}

static bool waiting(struct agent_run *run, struct agent_node *node, const char *path)
{
    if (!node->until_ms)
        return false;
    if (node->until_ms > run->now_ms) {
        agent__due(run, node->until_ms);
        return false;
    }
    if (node->step->u.wait.timer_ms)
        agent__done(run, path, 0, "null");
    else
        agent__fail(run, path, 0, FAULT_timeout, "nobody answered in time");
    return true;
}

/* ---- one step ---- */

/* False: it could not start yet. */
static bool start(struct agent_run *run, struct agent_node *at, const struct pipeline_step *step, const char *path)
{
    bool yes = true;

    if (step->when) {
        struct agent_scope scope;
        struct arena arena = {0};
        struct err err;
        agent__scope_init(&scope, run, at, &arena);
        int rc = expr_test(step->when, &scope.expr, &yes, &err);
        arena_release(&arena);
        if (rc) {
            agent__fail(run, path, 0, FAULT_template, err.text);
            return true;
        }
    }
    if (!yes) {
        agent__put(run, &(struct agent_row){.path = path, .state = AGENT_skipped});
        return true;
    }
    switch (step->kind) {
    case PIPELINE_generate:
    case PIPELINE_tool:
        return leaf(run, at, NULL, step, path);
    case PIPELINE_join:
        join(run, at, step, path);
        return true;
    case PIPELINE_wait:
        wait(run, at, step, path);
        return true;
    case PIPELINE_map:
        return agent__map_start(run, at, step, path);
    case PIPELINE_agent:
        agent__put(run, &(struct agent_row){.path = path, .attempt = 1, .state = AGENT_started})->step = step;
        return true;
    default:
        BUG("a kind of step without a start");
    }
}

/* A step that has rows and is not over. True if something happened that may let others start. */
static bool go_on(struct agent_run *run, struct agent_node *at, struct agent_node *node,
                  const struct pipeline_step *step, const char *path)
{
    node->step = step;
    if (node->state == AGENT_waiting)
        return waiting(run, node, path);
    if (step->kind == PIPELINE_map)
        agent__map_advance(run, at, node);
    else if (step->kind == PIPELINE_agent)
        agent__loop_advance(run, at, node);
    else if (!node->effect && agent__attempt_is_due(run, node))
        leaf(run, at, node, step, path);
    return agent_step_state_is_over(node->state);
}

static bool needs_are_settled(const struct agent_node *at, const struct pipeline_steps *steps,
                              const struct pipeline_step *step)
{
    for (int i = 0; i < step->n_need; i++) {
        const struct pipeline_step *need = &steps->step[step->need[i]];
        if (!agent__is_settled(agent_node_child(at, need->id), need))
            return false;
    }
    return true;
}

/* One look at a step of a list. */
static enum agent_verdict look(struct agent_run *run, struct agent_node *at, const struct pipeline_steps *steps,
                               const struct pipeline_step *step, bool *changed)
{
    char path[STORE_PATH_MAX];
    struct agent_node *node = agent_node_child(at, step->id);

    if (!node || node->state == AGENT_none) {
        /* A map or agent whose first row was not taken over by a fork may have children already. */
        if (!needs_are_settled(at, steps, step))
            return AGENT_LIVE;
        *changed |= start(run, at, step, agent__child_path(at, step->id, -1, path));
        node = agent_node_child(at, step->id);
    }
    if (node && node->state != AGENT_none && !agent_step_state_is_over(node->state))
        *changed |= go_on(run, at, node, step, agent__child_path(at, step->id, -1, path));
    if (agent__is_settled(node, step))
        return AGENT_SETTLED;
    return node && agent_step_state_is_over(node->state) ? AGENT_BROKEN : AGENT_LIVE;
}

enum agent_verdict agent__steps_advance(struct agent_run *run, struct agent_node *at,
                                        const struct pipeline_steps *steps)
{
    bool changed = true, live = true;

    /* What a step needs may stand below it, so go through the list until nothing moves. */
    while (changed && live) {
        changed = live = false;
        for (int i = 0; i < steps->n; i++) {
            if (!agent__may_go_on(run))
                return AGENT_LIVE;
            enum agent_verdict v = look(run, at, steps, &steps->step[i], &changed);
            if (v == AGENT_BROKEN)
                return v;
            live |= v == AGENT_LIVE;
        }
    }
    return live ? AGENT_LIVE : AGENT_SETTLED;
}

const struct agent_node *agent__broken(const struct agent_node *at, const struct pipeline_steps *steps)
{
    for (int i = 0; i < steps->n; i++) {
        const struct agent_node *node = agent_node_child(at, steps->step[i].id);
        if (node && agent_step_state_is_over(node->state) && !agent__is_settled(node, &steps->step[i]))
            return node;
    }
    return at;
}
