#include "controller/agent/run.h"

#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/mem/mem.h"
#include "common/text/jsonmake.h"
#include "controller/agent/plan/generate.h"
#include "controller/agent/plan/items.h"
#include "controller/agent/run_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const state_names[] = {
#define X(name) #name,
    AGENT_RUN_STATE_LIST(X)
#undef X
};

const char *agent_run_state_name(enum agent_run_state state)
{
    return (size_t)state < N_ELEM(state_names) ? state_names[state] : "?";
}

enum agent_run_state agent_run_state_of(const char *name)
{
    int i = 0;

    while (i < AGENT_RUN_STATE_N && strcmp(state_names[i], name) != 0)
        i++;
    return (enum agent_run_state)i;
}

/* ---- names ---- */

const char *agent_effect_token(const char *run, const char *path, char out[STORE_ID_MAX + STORE_PATH_MAX])
{
    snprintf(out, STORE_ID_MAX + STORE_PATH_MAX, "%s:%s", run, path);
    return out;
}

/* The path is hashed (FNV-1a, 64 bits) because an id has room for 63 bytes and the index of a choice. */
const char *agent_request_id(const char *run, const char *path, int attempt, char out[STORE_ID_MAX])
{
    snprintf(out, STORE_ID_MAX, "%.32s-%016" PRIx64 "-%d", run, fnv1a_str(path), attempt);
    return out;
}

const char *agent__child_path(const struct agent_node *parent, const char *name, int64_t idx, char out[STORE_PATH_MAX])
{
    agent_node_path(parent, out);
    size_t n = strlen(out);
    int more = idx >= 0 ? snprintf(out + n, STORE_PATH_MAX - n, "[%" PRId64 "]", idx)
                        : snprintf(out + n, STORE_PATH_MAX - n, "%s%s", n ? "." : "", name);
    ASSERT(more > 0 && (size_t)more < STORE_PATH_MAX - n); /* agent_run_check */
    return out;
}

int agent_run_check(const struct pipeline *plan, struct err *err)
{
    static const char longest_index[] = "[1048575]", longest_call[] = ".turn100.call1048575";

    for (int i = 0; i < plan->n_step; i++) {
        size_t n = 0;
        for (const struct pipeline_step *s = plan->by_number[i]; s; s = s->parent)
            n += strlen(s->id) + 1 + (s->kind == PIPELINE_map ? sizeof longest_index : 0);
        if (plan->by_number[i]->kind == PIPELINE_agent)
            n += sizeof longest_call;
        if (n >= STORE_PATH_MAX)
            return err_set(err, ERR_LIMIT, "step %s: its id and those of the maps around it are too long together",
                           plan->by_number[i]->id);
    }
    return 0;
}

/* ---- life ---- */

void agent_run_init(struct agent_run *run, const char *id, const struct pipeline *plan, const struct json *inputs,
                    int64_t created_ms, const struct agent_io *io, void *arg)
{
    *run = (struct agent_run){
        .plan = plan,
        .inputs = inputs,
        .created_ms = created_ms,
        .deadline_ms = created_ms + plan->deadline_ms,
        .io = io,
        .arg = arg,
        .due_ms = INT64_MAX,
    };
    snprintf(run->id, sizeof run->id, "%s", id);
    agent_state_init(&run->state);
}

void agent_run_release(struct agent_run *run)
{
    agent_state_release(&run->state);
    mem_free(run->output);
    run->output = NULL;
}

int agent_run_fold(struct agent_run *run, const struct agent_row *row, struct err *err)
{
    return agent_state_apply(&run->state, row, NULL, err);
}

/* ---- rows ---- */

/* The text as it is kept: cut at a whole character. */
static const char *cut(const char *text, char out[AGENT_ERROR_MAX + 1])
{
    size_t n = strlen(text);

    if (n > AGENT_ERROR_MAX) {
        n = AGENT_ERROR_MAX;
        while (n && ((unsigned char)text[n] & 0xc0) == 0x80)
            n--;
    }
    memmove(out, text, n);
    out[n] = '\0';
    return out;
}

struct agent_node *agent__put(struct agent_run *run, struct agent_row *row)
{
    char error[AGENT_ERROR_MAX + 1];
    struct agent_node *node = NULL;
    struct err err;

    row->at_ms = run->now_ms;
    run->rows_left--;
    run->bytes_left -= row->result ? (int64_t)strlen(row->result) : 0;
    if (row->error)
        row->error = cut(row->error, error);
    run->io->row(run->arg, run, row); /* first: its texts may be those of nodes that go */
    int rc = agent_state_apply(&run->state, row, &node, &err);
    if (rc)
        BUG(err.text);
    return node;
}

void agent__fail(struct agent_run *run, const char *path, int attempt, enum fault fault, const char *text)
{
    char error[AGENT_ERROR_MAX + 64];

    snprintf(error, sizeof error, "%s: %s", fault_name(fault), text);
    agent__put(run, &(struct agent_row){.path = path, .attempt = attempt, .state = AGENT_failed, .error = error});
}

void agent__done(struct agent_run *run, const char *path, int attempt, const char *result)
{
    if (result && strlen(result) > AGENT_RESULT_BYTES_MAX)
        agent__fail(run, path, attempt, FAULT_output, "the result is larger than AGENT_RESULT_BYTES_MAX");
    else if (run->state.result_bytes + (result ? (int64_t)strlen(result) : 0) > AGENT_RUN_BYTES_MAX)
        agent__fail(run, path, attempt, FAULT_output,
                    "the results of the run are larger than AGENT_RUN_BYTES_MAX together");
    else
        agent__put(run, &(struct agent_row){.path = path, .attempt = attempt, .state = AGENT_done, .result = result});
}

bool agent__may_go_on(struct agent_run *run)
{
    if (run->rows_left > 0 && run->bytes_left > 0)
        return true;
    agent__due(run, run->now_ms);
    return false;
}

void agent__due(struct agent_run *run, int64_t at_ms)
{
    if (at_ms < run->due_ms)
        run->due_ms = at_ms;
}

bool agent__attempt_is_due(struct agent_run *run, const struct agent_node *node)
{
    if (node->state == AGENT_retry && node->until_ms > run->now_ms) {
        agent__due(run, node->until_ms);
        return false;
    }
    return true;
}

bool agent__is_settled(const struct agent_node *node, const struct pipeline_step *step)
{
    if (!node)
        return false;
    return node->state == AGENT_done || node->state == AGENT_skipped ||
           (node->state == AGENT_failed && step->on_error_continue);
}

bool agent__fits(const struct pipeline_step *step, const struct json *value, struct buf *report)
{
    return !step->output || schema_check(step->output, value, report) == 0;
}

/* ---- effects ---- */

bool agent__begin(struct agent_run *run, struct agent_node *node, struct agent_ask *ask)
{
    bool resumes = node && node->state == AGENT_started;
    char request[STORE_ID_MAX];
    void *effect = NULL;
    struct err err;

    if (run->n_effect >= run->plan->max_parallel)
        return false;
    ask->attempt = resumes ? node->attempt : node ? node->attempt + 1 : 1;
    ask->request = ask->kind == AGENT_ASK_generate ? agent_request_id(run->id, ask->path, ask->attempt, request) : NULL;
    int rc = run->io->prepare(run->arg, run, ask, &effect, &err);
    if (rc) {
        agent__fail(run, ask->path, ask->attempt, FAULT_template, err.text);
        return true;
    }
    if (!resumes)
        node = agent__put(run, &(struct agent_row){.path = ask->path, .attempt = ask->attempt,
                                                   .state = AGENT_started, .request = ask->request});
    node->step = ask->step;
    node->tool = ask->tool;
    node->effect = effect;
    run->n_effect++;
    run->io->begin(run->arg, run, node, effect);
    return true;
}

static void stop_effect(struct agent_run *run, struct agent_node *node)
{
    if (!node->effect)
        return;
    run->io->stop(run->arg, run, node->effect);
    node->effect = NULL;
    run->n_effect--;
}

static void stop_node(struct agent_run *run, struct agent_node *node);

/* `first` and what follows it in the list of named children. */
static void stop_children(struct agent_run *run, struct agent_node *node)
{
    for (struct agent_node *c = node->child; c; c = c->next)
        stop_node(run, c);
    for (int64_t i = 0; i < node->n_item; i++)
        if (node->item[i])
            stop_node(run, node->item[i]);
}

static void stop_node(struct agent_run *run, struct agent_node *node)
{
    char path[STORE_PATH_MAX];

    stop_effect(run, node);
    stop_children(run, node);
    if (node->state != AGENT_none && !agent_step_state_is_over(node->state))
        agent__put(run, &(struct agent_row){.path = agent_node_path(node, path), .attempt = node->attempt,
                                            .state = AGENT_canceled});
}

void agent__stop_below(struct agent_run *run, struct agent_node *node)
{
    stop_effect(run, node);
    stop_children(run, node);
}

static void forget_effects(struct agent_run *run, struct agent_node *node)
{
    stop_effect(run, node);
    for (struct agent_node *c = node->child; c; c = c->next)
        forget_effects(run, c);
    for (int64_t i = 0; i < node->n_item; i++)
        if (node->item[i])
            forget_effects(run, node->item[i]);
}

void agent_run_stop(struct agent_run *run)
{
    forget_effects(run, &run->state.root);
}

/* ---- outcomes ---- */

static bool is_call(const struct agent_node *node)
{
    return node->parent && node->parent->parent && node->parent->step == node->step &&
           node->parent->parent->step == node->step && node->step->kind == PIPELINE_agent;
}

static bool is_turn(const struct agent_node *node)
{
    return node->parent && node->parent->step == node->step && node->step->kind == PIPELINE_agent && !is_call(node);
}

/* An attempt failed: another one, or the end of the step. A call of an agent ends well: the model is told. */
static void attempt_failed(struct agent_run *run, struct agent_node *node, enum fault fault, const char *text,
                           int64_t after_ms, const struct store_usage *usage)
{
    int64_t budget = run->plan->max_retries - run->state.n_retry, wait_ms = 0;
    char path[STORE_PATH_MAX], error[AGENT_ERROR_MAX + 64], until[64];
    struct agent_row row = {.path = agent_node_path(node, path), .attempt = node->attempt, .error = error};
    enum backoff_verdict v = backoff_decide(&node->step->retry, node->n_retry, fault, run->io->random(run->arg),
                                            after_ms, &budget, &wait_ms);

    snprintf(error, sizeof error, "%s: %s", fault_name(v == BACKOFF_NO_BUDGET ? FAULT_budget : fault), text);
    if (usage)
        row.usage = *usage;
    if (v == BACKOFF_RETRY) {
        snprintf(until, sizeof until, "{\"until_ms\":%" PRId64 "}", run->now_ms + wait_ms);
        row.state = AGENT_retry;
        row.result = until;
        agent__put(run, &row);
    } else if (is_call(node)) {
        struct buf result = {0};
        buf_add_str(&result, "{\"error\":");
        cut(error, error);
        json_add_str(&result, error, strlen(error));
        buf_add_char(&result, '}');
        row.state = AGENT_done;
        row.result = result.data;
        row.error = NULL;
        agent__put(run, &row);
        buf_release(&result);
    } else {
        row.state = AGENT_failed;
        agent__put(run, &row);
    }
}

/* The result of a good attempt, within the limits. */
static void attempt_done(struct agent_run *run, struct agent_node *node, const char *result, size_t n,
                         const struct agent_outcome *o)
{
    char path[STORE_PATH_MAX];

    if (n > AGENT_RESULT_BYTES_MAX || run->state.result_bytes + (int64_t)n > AGENT_RUN_BYTES_MAX) {
        attempt_failed(run, node, FAULT_output, "the results of the run would be larger than allowed", 0, &o->usage);
        return;
    }
    agent__put(run, &(struct agent_row){.path = agent_node_path(node, path), .attempt = node->attempt,
                                        .state = AGENT_done, .result = result, .request = node->request,
                                        .usage = o->usage});
}

static void take_text(struct agent_run *run, struct agent_node *node, const struct agent_outcome *o)
{
    int64_t budget = run->plan->max_retries - run->state.n_retry;
    char path[STORE_PATH_MAX];
    const struct json *value = NULL;
    struct arena arena = {0};
    struct buf report = {0}, text = {0};
    int rc = generate_output(node->step, o->content, o->n_content, &arena, &value, &report);

    if (rc == 0) {
        json_add(&text, value);
        attempt_done(run, node, text.data, text.len, o);
    } else if (node->n_invalid < node->step->repair && budget > 0) {
        json_add_str(&text, o->content, o->n_content);
        agent__put(run, &(struct agent_row){.path = agent_node_path(node, path), .attempt = node->attempt,
                                            .state = AGENT_invalid, .result = text.data, .request = node->request,
                                            .error = report.len ? report.data : "the output is not what was asked for",
                                            .usage = o->usage});
    } else {
        attempt_failed(run, node, rc == ERR_FORMAT ? FAULT_output : FAULT_schema,
                       report.len ? report.data : "the output is not what was asked for", 0, &o->usage);
    }
    arena_release(&arena);
    buf_release(&report);
    buf_release(&text);
}

static void take_value(struct agent_run *run, struct agent_node *node, const struct agent_outcome *o)
{
    struct buf report = {0}, text = {0};

    if (!is_call(node) && !agent__fits(node->step, o->value, &report)) {
        attempt_failed(run, node, FAULT_schema, report.len ? report.data : "the output does not fit its schema", 0,
                       &o->usage);
    } else {
        json_add(&text, o->value);
        attempt_done(run, node, text.data, text.len, o);
    }
    buf_release(&report);
    buf_release(&text);
}

void agent_run_outcome(struct agent_run *run, struct agent_node *node, const struct agent_outcome *o, int64_t now_ms)
{
    ASSERT(run->end == AGENT_RUN_running && node->effect);
    run->now_ms = now_ms;
    node->effect = NULL;
    run->n_effect--;
    run->due_ms = now_ms;
    if (node->step->kind == PIPELINE_map) {
        if (o->fault == FAULT_none) {
            agent__map_listed(run, node, o->value);
        } else {
            char path[STORE_PATH_MAX];
            agent__fail(run, agent_node_path(node, path), 1, o->fault, o->text);
        }
    } else if (o->fault != FAULT_none) {
        attempt_failed(run, node, o->fault, o->text, o->after_ms, &o->usage);
    } else if (is_turn(node)) {
        attempt_done(run, node, o->message, strlen(o->message), o);
    } else if (node->step->kind == PIPELINE_generate) {
        take_text(run, node, o);
    } else {
        take_value(run, node, o);
    }
}

/* ---- the end ---- */

static void end_run(struct agent_run *run, enum agent_run_state state, const char *output, const char *error)
{
    agent__stop_below(run, &run->state.root);
    run->end = state;
    run->due_ms = INT64_MAX;
    run->output = output ? mem_strdup(output) : NULL;
    cut(error ? error : "", run->error);
    run->io->end(run->arg, run);
}

void agent_run_cancel(struct agent_run *run, const char *why, int64_t now_ms)
{
    if (run->end != AGENT_RUN_running)
        return;
    run->now_ms = now_ms;
    end_run(run, AGENT_RUN_canceled, NULL, why);
}

/* Everything is settled: the output of the whole. */
static void finish(struct agent_run *run)
{
    const struct pipeline *plan = run->plan;
    struct agent_scope scope;
    struct arena arena = {0};
    struct buf out = {0}, text = {0};
    struct err err;

    if (plan->result) {
        agent__scope_init(&scope, run, &run->state.root, &arena);
        if (agent__render(&scope, plan->result, &out, &err) != 0) {
            buf_addf(&text, "%s: the result of the run: %s", fault_name(FAULT_template), err.text);
            end_run(run, AGENT_RUN_failed, NULL, text.data);
        } else {
            end_run(run, AGENT_RUN_done, out.data, NULL);
        }
    } else {
        const char *id = plan->steps.n ? plan->steps.step[plan->steps.n - 1].id : "";
        const struct agent_node *last = agent_node_child(&run->state.root, id);
        end_run(run, AGENT_RUN_done, last && last->state == AGENT_done ? last->result : NULL, NULL);
    }
    arena_release(&arena);
    buf_release(&out);
    buf_release(&text);
}

void agent_run_advance(struct agent_run *run, int64_t now_ms)
{
    char error[AGENT_ERROR_MAX + STORE_PATH_MAX], path[STORE_PATH_MAX];

    if (run->end != AGENT_RUN_running)
        return;
    run->now_ms = now_ms;
    run->due_ms = INT64_MAX;
    if (now_ms >= run->deadline_ms) {
        snprintf(error, sizeof error, "%s: the deadline of the run passed", fault_name(FAULT_budget));
        end_run(run, AGENT_RUN_failed, NULL, error);
        return;
    }
    agent__due(run, run->deadline_ms);
    run->rows_left = AGENT_ADVANCE_ROWS_MAX;
    run->bytes_left = AGENT_ADVANCE_BYTES_MAX;
    enum agent_verdict v = agent__steps_advance(run, &run->state.root, &run->plan->steps);
    if (v == AGENT_SETTLED) {
        finish(run);
    } else if (v == AGENT_BROKEN) {
        const struct agent_node *at = agent__broken(&run->state.root, &run->plan->steps);
        snprintf(error, sizeof error, "step %s: %s", agent_node_path(at, path), at->error ? at->error : "failed");
        end_run(run, AGENT_RUN_failed, NULL, error);
    }
}

/* ---- approvals ---- */

static bool same_secret(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    unsigned diff = na != nb;

    for (size_t i = 0; i < nb; i++) /* as many steps for every wrong token of this length */
        diff |= (unsigned char)a[na ? i % na : 0] ^ (unsigned char)b[i];
    return diff == 0 && na > 0;
}

static const char *token_of(struct agent_node *node)
{
    if (node->state != AGENT_waiting)
        return NULL;
    const struct json *token = json_get(agent_node_value(node), "token");
    return json_is(token, JSON_STRING) ? token->text : NULL;
}

/* A node that waits for an approval, with this token if one is given. */
static struct agent_node *find_waiting(struct agent_node *node, const char *token)
{
    struct agent_node *found = NULL;
    const char *mine = token_of(node);

    if (mine && (!token || same_secret(token, mine)))
        return node;
    for (struct agent_node *c = node->child; c && !found; c = c->next)
        found = find_waiting(c, token);
    for (int64_t i = 0; i < node->n_item && !found; i++)
        if (node->item[i])
            found = find_waiting(node->item[i], token);
    return found;
}

static void answer(struct agent_run *run, struct agent_node *node, bool approved, const char *comment)
{
    const struct pipeline_step *step = pipeline_step(run->plan, node->name);
    char path[STORE_PATH_MAX], error[AGENT_ERROR_MAX + 1];
    struct buf result = {0};
    struct agent_row row = {.path = agent_node_path(node, path), .attempt = node->attempt, .state = AGENT_done};

    buf_addf(&result, "{\"approved\":%s,\"comment\":", approved ? "true" : "false");
    if (comment)
        json_add_str(&result, comment, strlen(comment));
    else
        buf_add_str(&result, "null");
    buf_add_char(&result, '}');
    row.result = result.data;
    if (!approved && !step->u.wait.reject_continues) {
        snprintf(error, sizeof error, "%s: %.400s", fault_name(FAULT_rejected),
                 comment && *comment ? comment : "a human said no");
        row.state = AGENT_failed;
        row.error = error;
    }
    agent__put(run, &row);
    buf_release(&result);
    run->due_ms = run->now_ms;
}

int agent_run_approve(struct agent_run *run, const char *path, const char *token, bool approved, const char *comment,
                      int64_t now_ms, struct err *err)
{
    struct agent_node *node = path ? agent_state_find(&run->state, path) : find_waiting(&run->state.root, token);

    run->now_ms = now_ms;
    if (!node && !path && find_waiting(&run->state.root, NULL))
        return err_set(err, ERR_ARG, "no step waits with this token");
    if (!node || !token_of(node))
        return err_set(err, ERR_MISSING, "%s%s", path ? "this step does not wait for an approval: " : "",
                       path ? path : "no step waits for an approval");
    if (!same_secret(token, token_of(node)))
        return err_set(err, ERR_ARG, "the token is not that of step %s", path ? path : node->name);
    answer(run, node, approved, comment);
    return 0;
}

/* ---- forks ---- */

bool agent_run_keeps(const struct pipeline *plan, const struct agent_row *row, const char *from)
{
    char id[STORE_PATH_MAX];
    size_t n = strcspn(row->path, ".[");

    /* The started row of a map says what it goes over: its result is made of that. */
    bool is_list = (row->state == AGENT_started || row->state == AGENT_listed) && row->result;

    if (row->state != AGENT_done && row->state != AGENT_skipped && !is_list)
        return false;
    snprintf(id, sizeof id, "%.*s", (int)n, row->path);
    const struct pipeline_step *step = pipeline_step(plan, id), *first = from ? pipeline_step(plan, from) : NULL;
    if (!step || step->parent)
        return false;
    return !first || (step->idx < first->idx && !pipeline_comes_before(plan, first, step));
}
