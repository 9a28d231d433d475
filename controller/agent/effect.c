/* Effects of steps: prepared with their templates rendered, begun when their started row is committed, told once. */
#include "controller/agent/agent_internal.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/mem/mem.h"
#include "common/text/jsonmake.h"
#include "controller/agent/plan/generate.h"
#include "controller/agent/plan/items.h"
#include "controller/store/store.h"

#include <stdio.h>
#include <string.h>

#define TO(name) (1u << AGENT_EFFECT_##name)
static const unsigned legal[AGENT_EFFECT_STATE_N] = {
    [AGENT_EFFECT_ready] = TO(pool) | TO(running) | TO(ended) | TO(over),
    [AGENT_EFFECT_pool] = TO(ready) | TO(ended) | TO(over),
    [AGENT_EFFECT_running] = TO(ended) | TO(over),
    [AGENT_EFFECT_ended] = TO(over),
};

void agent__effect_move(struct agent_effect *e, enum agent_effect_state to)
{
    ASSERT(legal[e->state] >> to & 1);
    e->state = to;
}

bool agent__has_room(struct agent *a)
{
    struct store *s = ctl_store(a->ctl);
    return s && !store_is_full(s);
}

/* ---- the queue of those that may begin or be told ---- */

void agent__effect_queue(struct agent_effect *e)
{
    struct agent *a = e->agent;

    if (e->queued)
        return;
    e->queued = true;
    e->queue_next = NULL;
    *(a->queue_tail ? &a->queue_tail->queue_next : &a->queue) = e;
    a->queue_tail = e;
}

static void unqueue(struct agent_effect *e)
{
    struct agent *a = e->agent;
    struct agent_effect *prev = NULL;

    for (struct agent_effect *p = a->queue; e->queued && p; prev = p, p = p->queue_next) {
        if (p != e)
            continue;
        *(prev ? &prev->queue_next : &a->queue) = e->queue_next;
        if (a->queue_tail == e)
            a->queue_tail = prev;
        e->queued = false;
    }
}

void agent__effect_free(struct agent_effect *e)
{
    struct agent *a = e->agent;

    unqueue(e);
    *(e->prev ? &e->prev->next : &a->effects) = e->next;
    if (e->next)
        e->next->prev = e->prev;
    a->n_effect--;
    agent__generate_release(e);
    tool_request_release(&e->tool);
    mem_free(e->pattern);
    arena_release(&e->arena);
    mem_free(e);
    agent__maybe_closed(a);
}

/* ---- before ---- */

static int prepare_generate(struct agent_effect *e, const struct agent_ask *ask, struct err *err)
{
    struct buf body = {0};

    snprintf(e->request, sizeof e->request, "%s", ask->request);
    e->timeout_ms = ask->step->timeout_ms;
    chat_request_init(&e->chat);
    int rc = generate_body(ask->step, ask->scope, ask->messages, &body, err);
    if (!rc) { /* the body is an object: the name of the model goes in front */
        ASSERT(body.len > 2 && body.data[0] == '{');
        buf_add_str(&e->body, "{\"model\":");
        json_add_str(&e->body, e->agent->rules.model_name, strlen(e->agent->rules.model_name));
        buf_add_char(&e->body, ',');
        buf_add(&e->body, body.data + 1, body.len - 1);
    }
    buf_release(&body);
    return rc;
}

static int prepare_tool(struct agent_effect *e, const struct agent_run *run, const struct agent_ask *ask,
                        struct err *err)
{
    char token[STORE_ID_MAX + STORE_PATH_MAX];
    struct tool_who who = {run->id, ask->path, ask->attempt, agent_effect_token(run->id, ask->path, token)};

    return tool_request_make(&e->tool, ask->tool, ask->scope, run->plan->dir, ask->args, &who, err);
}

int agent__effect_prepare(void *arg, struct agent_run *run, const struct agent_ask *ask, void **effect,
                          struct err *err)
{
    struct agent_live *live = arg;
    struct agent *a = live->agent;
    struct agent_effect *e = mem_zalloc(sizeof *e);
    struct buf text = {0};
    int rc = 0;

    e->agent = a;
    e->kind = ask->kind;
    e->next = a->effects;
    if (a->effects)
        a->effects->prev = e;
    a->effects = e;
    a->n_effect++;
    switch (ask->kind) {
    case AGENT_ASK_generate:
        rc = prepare_generate(e, ask, err);
        break;
    case AGENT_ASK_tool:
        rc = prepare_tool(e, run, ask, err);
        break;
    case AGENT_ASK_items:
        json_add(&text, ask->value);
        e->pattern = buf_take(&text, NULL);
        e->source = ask->step->u.map.source;
        e->dir = run->plan->dir;
        break;
    }
    if (rc) {
        agent__effect_free(e);
        return rc;
    }
    *effect = e;
    return 0;
}

void agent__effect_begin(void *arg, struct agent_run *run, struct agent_node *node, void *effect)
{
    struct agent_effect *e = effect;
    struct agent *a = e->agent;

    (void)run;
    e->live = arg;
    e->node = node;
    /* A generation goes with its started row: the store has both or none of them. A tool waits for the commit. */
    e->after = e->kind == AGENT_ASK_generate ? 0 : a->last_seq;
    agent__effect_queue(e);
    ctl_wake(a->ctl);
}

/* ---- files ---- */

static void list_items(struct agent_effect *e)
{
    const struct json *value;
    int rc = json_parse(e->pattern, strlen(e->pattern), 0, &e->arena, &value, &e->err);

    if (!rc)
        rc = items_make(e->source, value, e->dir, &e->arena, &e->list, &e->err);
    e->read_rc = rc;
}

/* ---- the thread pool ---- */

static void on_work(uv_work_t *work)
{
    struct agent_effect *e = work->data;

    if (e->kind == AGENT_ASK_items)
        list_items(e);
    else
        agent__generate_read(e);
}

static void on_worked(uv_work_t *work, int status)
{
    struct agent_effect *e = work->data;

    (void)status;
    e->agent->n_job--;
    if (!e->live) {
        agent__effect_free(e);
        return;
    }
    if (e->kind == AGENT_ASK_items) {
        e->outcome = (struct agent_outcome){.fault = e->read_rc ? FAULT_tool : FAULT_none, .text = e->err.text,
                                            .value = e->list};
        agent__effect_move(e, AGENT_EFFECT_ended);
    } else {
        e->has_read = true;
        agent__effect_move(e, AGENT_EFFECT_ready);
    }
    agent__effect_queue(e);
    ctl_wake(e->agent->ctl);
}

static void to_pool(struct agent_effect *e)
{
    e->work.data = e;
    if (uv_queue_work(ctl_loop(e->agent->ctl), &e->work, on_work, on_worked) != 0) {
        agent__effect_queue(e); /* no memory for it: later */
        return;
    }
    e->agent->n_job++;
    agent__effect_move(e, AGENT_EFFECT_pool);
}

/* ---- tools ---- */

static void on_tool_end(void *arg, const struct tool_result *r)
{
    struct agent_effect *e = arg;

    e->call = NULL;
    if (!e->live) {
        agent__effect_free(e);
        return;
    }
    e->outcome = (struct agent_outcome){
        .fault = r->ok ? FAULT_none : r->fault,
        .text = r->ok ? NULL : arena_strdup(&e->arena, r->text),
        .value = r->value ? jsonmake_copy(&e->arena, r->value) : NULL,
        .after_ms = r->after_ms,
    };
    agent__effect_move(e, AGENT_EFFECT_ended);
    agent__effect_queue(e);
    ctl_wake(e->agent->ctl);
}

static void start_tool(struct agent_effect *e)
{
    struct err err;

    if (e->agent->draining) {
        agent__effect_queue(e); /* the next process runs it */
        return;
    }
    if (tool_start(e->agent->tools, &e->tool, on_tool_end, e, &e->call, &err) != 0) {
        agent__effect_queue(e); /* TOOL_CALLS_MAX run: when one of them ends */
        return;
    }
    agent__effect_move(e, AGENT_EFFECT_running);
}

/* ---- in the turn ---- */

void agent__effect_tell(struct agent_effect *e, const struct agent_outcome *o)
{
    struct agent_live *live = e->live;
    struct agent_node *node = e->node;

    e->live = NULL;
    e->node = NULL;
    agent__effect_move(e, AGENT_EFFECT_over);
    agent_run_outcome(&live->run, node, o, clock_wall_ms());
    agent__mark(live);
}

static void start_one(struct agent_effect *e)
{
    if (e->state == AGENT_EFFECT_ended) {
        if (!agent__has_room(e->agent)) {
            agent__effect_queue(e);
            return;
        }
        agent__effect_tell(e, &e->outcome);
        agent__effect_free(e);
    } else if (e->kind == AGENT_ASK_tool) {
        start_tool(e);
    } else if (e->kind == AGENT_ASK_items) {
        to_pool(e);
    } else if (e->has_read || e->body.len <= (size_t)ctl_config_of(e->agent->ctl)->limit.tok_pool_bytes) {
        agent__generate_start(e);
    } else {
        to_pool(e);
    }
}

void agent__effects_start(struct agent *a)
{
    struct agent_effect *list = a->queue;

    a->queue = a->queue_tail = NULL;
    while (list) {
        struct agent_effect *e = list;
        list = e->queue_next;
        e->queued = false;
        e->queue_next = NULL;
        if (e->after > a->committed)
            agent__effect_queue(e);
        else
            start_one(e);
    }
}

void agent__effect_stop(void *arg, struct agent_run *run, void *effect)
{
    struct agent_effect *e = effect;

    (void)arg, (void)run;
    e->live = NULL;
    e->node = NULL;
    unqueue(e);
    if (e->state == AGENT_EFFECT_pool) /* freed when the job is back */
        return;
    if (e->call) { /* freed when it has ended */
        agent__effect_move(e, AGENT_EFFECT_over);
        tool_cancel(e->call);
        return;
    }
    if (e->req && e->agent->closing)
        ctl_request_leave(&e->req);
    ctl_request_drop(&e->req);
    agent__effect_free(e);
}

void agent__effects_leave(struct agent *a)
{
    for (struct agent_live *l = a->live; l; l = l->next)
        agent_run_stop(&l->run);
}
