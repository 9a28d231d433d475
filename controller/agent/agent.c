#include "controller/agent/agent.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/rand.h"
#include "common/mem/mem.h"
#include "common/text/jsonmake.h"
#include "controller/agent/agent_internal.h"
#include "controller/agent/show.h"
#include "controller/store/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int64_t loop_ms(const struct agent *a)
{
    return (int64_t)uv_now(ctl_loop(a->ctl));
}

/* ---- plans ---- */

static void plan_free(struct agent_plan *p)
{
    pipeline_destroy(&p->pipeline);
    mem_free(p->text);
    mem_free(p->dir);
    mem_free(p);
}

void agent_plan_drop(struct agent *a, struct agent_plan **plan)
{
    struct agent_plan *p = *plan;

    (void)a;
    *plan = NULL;
    if (p && --p->n_ref == 0)
        plan_free(p);
}

/* The place of the plan that was not used for the longest time. */
static struct agent_plan **oldest(struct agent *a)
{
    struct agent_plan **at = &a->plan[0];

    for (int i = 0; i < AGENT_PLANS_KEPT; i++) {
        if (!a->plan[i])
            return &a->plan[i];
        if (a->plan[i]->used < (*at)->used)
            at = &a->plan[i];
    }
    return at;
}

int agent_plan_get(struct agent *a, const char *text, size_t n, const char *dir, struct agent_plan **plan,
                   struct buf *report, struct err *err)
{
    for (int i = 0; i < AGENT_PLANS_KEPT; i++) {
        struct agent_plan *p = a->plan[i];
        if (!p || p->n != n || memcmp(p->text, text, n) != 0 || strcmp(p->dir, dir) != 0)
            continue;
        p->used = ++a->plan_clock;
        p->n_ref++;
        *plan = p;
        return 0;
    }
    struct pipeline *pipeline;
    int rc = pipeline_parse(text, n, "", dir, &pipeline, report, err);
    if (!rc && (rc = agent_run_check(pipeline, err)))
        pipeline_destroy(&pipeline);
    if (rc)
        return rc;
    struct agent_plan *p = mem_zalloc(sizeof *p), **at = oldest(a);
    *p = (struct agent_plan){.pipeline = pipeline, .text = mem_dup(text, n), .dir = mem_strdup(dir), .n = n,
                             .n_ref = 2, .used = ++a->plan_clock};
    agent_plan_drop(a, at);
    *at = p;
    *plan = p;
    return 0;
}

/* ---- calls that wait for a commit ---- */

void agent_after(struct agent *a, agent_after_fn fn, void *arg)
{
    struct agent_after *f = mem_zalloc(sizeof *f);

    *f = (struct agent_after){.seq = a->last_seq, .fn = fn, .arg = arg};
    *(a->after_tail ? &a->after_tail->next : &a->after) = f;
    a->after_tail = f;
    ctl_wake(a->ctl);
}

void agent_on_end(struct agent *a, struct agent_live *live, agent_after_fn fn, void *arg)
{
    struct agent_after *f = mem_zalloc(sizeof *f);

    (void)a;
    *f = (struct agent_after){.next = live->on_end, .fn = fn, .arg = arg};
    live->on_end = f;
}

void agent_forget(struct agent *a, void *arg)
{
    for (struct agent_after *f = a->after; f; f = f->next)
        if (f->arg == arg)
            f->fn = NULL;
    for (struct agent_live *l = a->live; l; l = l->next)
        for (struct agent_after *f = l->on_end; f; f = f->next)
            if (f->arg == arg)
                f->fn = NULL;
}

static void call_all(struct agent_after *list, int rc)
{
    for (struct agent_after *f = list, *next; f; f = next) {
        next = f->next;
        if (f->fn)
            f->fn(f->arg, rc);
        mem_free(f);
    }
}

static void call_committed(struct agent *a)
{
    while (a->after && a->after->seq <= a->committed) {
        struct agent_after *f = a->after;
        a->after = f->next;
        if (!a->after)
            a->after_tail = NULL;
        f->next = NULL;
        call_all(f, 0);
    }
}

/* ---- events ---- */

/* The ring grows to AGENT_EVENTS_KEPT; then the oldest event makes room. */
static void make_room(struct agent_live *live)
{
    int64_t n = live->n_event - live->first_event, cap = live->cap_event ? 2 * live->cap_event : 16;

    if (n < live->cap_event)
        return;
    if (live->cap_event == AGENT_EVENTS_KEPT) {
        mem_free(live->event[live->first_event++ % live->cap_event].json);
        return;
    }
    struct agent_event *more = mem_array((size_t)cap, sizeof *more);
    for (int64_t i = live->first_event; i < live->n_event; i++)
        more[i % cap] = live->event[i % live->cap_event];
    mem_free(live->event);
    live->event = more;
    live->cap_event = cap;
}

/* Nobody has asked for events of this run yet: it is only counted, the store has it. True then. */
static bool count_event(struct agent_live *live)
{
    if (live->watched)
        return false;
    live->first_event = ++live->n_event;
    return true;
}

static void add_event(struct agent_live *live, struct buf *json)
{
    make_room(live);
    struct agent_event *e = &live->event[live->n_event++ % live->cap_event];
    e->batch = live->agent->last_seq;
    e->json = buf_take(json, &e->n);
}

void agent_event_frame(const char *run, int64_t seq, const char *json, size_t n, struct buf *out)
{
    buf_addf(out, "id: %s-%" PRId64 "\ndata: ", run, seq);
    buf_add(out, json, n);
    buf_add_str(out, "\n\n");
}

int agent_events(struct agent_live *live, int64_t *seq, size_t max, struct buf *out, bool *ended)
{
    size_t from = out->len;

    *ended = false;
    live->watched = true;
    if (*seq < live->first_event)
        return ERR_MISSING;
    while (*seq < live->n_shown && out->len - from <= max) {
        const struct agent_event *e = &live->event[*seq % live->cap_event];
        agent_event_frame(live->run.id, *seq, e->json, e->n, out);
        ++*seq;
        *ended = live->end_seq && *seq == live->n_event;
    }
    return 0;
}

void agent_listen(struct agent *a, void (*fn)(void *arg, struct agent_live *live), void *arg)
{
    a->listener = fn;
    a->listener_arg = arg;
}

/* Events whose rows are committed become visible. */
static void show_committed(struct agent *a, struct agent_live *live)
{
    int64_t before = live->n_shown;

    if (live->n_shown < live->first_event)
        live->n_shown = live->first_event;
    while (live->n_shown < live->n_event && live->event[live->n_shown % live->cap_event].batch <= a->committed)
        live->n_shown++;
    if (live->n_shown > before && a->listener)
        a->listener(a->listener_arg, live);
}

/* ---- rows to the store ---- */

/* Steps whose loss a power cut may not cost. What the others say is found again: the effect token is the same. */
static enum store_class class_of(enum agent_step_state state)
{
    return state == AGENT_started || state == AGENT_skipped || state == AGENT_canceled ? STORE_LAZY : STORE_FULL;
}

/* The store did not take a row: this process cannot go on with the run; the next one goes on with what is committed. */
static void give_up(struct agent_live *live, const struct err *err)
{
    log_error(agent, "run %s stands still until the next start: %s", live->run.id, err->text);
    live->broken = true;
}

static void on_row(void *arg, struct agent_run *run, const struct agent_row *row)
{
    struct agent_live *live = arg;
    struct store_step step;
    struct buf json = {0};
    struct err err;

    agent_row_to(row, run->id, &step);
    if (!live->broken &&
        store_step(ctl_store(live->agent->ctl), &step, class_of(row->state), &live->agent->last_seq, &err) != 0)
        give_up(live, &err);
    if (count_event(live))
        return;
    agent_show_step(run->id, live->n_event, &step, &json);
    add_event(live, &json);
}

static void on_run_end(void *arg, struct agent_run *run)
{
    struct agent_live *live = arg;
    struct store_run_end end = {
        .run = run->id,
        .state = agent_run_state_name(run->end),
        .output = run->output,
        .error = run->error[0] ? run->error : NULL,
        .usage = run->state.usage,
        .ended_ms = run->now_ms,
    };
    struct buf json = {0};
    struct err err;

    if (!live->broken && store_run_end(ctl_store(live->agent->ctl), &end, &live->agent->last_seq, &err) != 0)
        give_up(live, &err);
    if (!count_event(live)) {
        agent_show_end(&end, live->n_event, &json);
        add_event(live, &json);
    }
    live->end_seq = live->agent->last_seq;
    live->ended_ms = run->now_ms;
}

static uint64_t io_random(void *arg)
{
    uint64_t v;

    (void)arg;
    rand_bytes(&v, sizeof v);
    return v;
}

static void io_token(void *arg, char out[AGENT_TOKEN_MAX])
{
    (void)arg;
    rand_hex(out, (AGENT_TOKEN_MAX - 1) / 2);
}

static const struct agent_io io = {
    .prepare = agent__effect_prepare,
    .row = on_row,
    .begin = agent__effect_begin,
    .stop = agent__effect_stop,
    .end = on_run_end,
    .random = io_random,
    .token = io_token,
};

/* ---- live runs ---- */

void agent__mark(struct agent_live *live)
{
    struct agent *a = live->agent;

    if (live->dirty)
        return;
    live->dirty = true;
    live->dirty_next = NULL;
    *(a->dirty_tail ? &a->dirty_tail->dirty_next : &a->dirty) = live;
    a->dirty_tail = live;
    ctl_wake(a->ctl);
}

static struct agent_live *live_new(struct agent *a, const char *id, struct agent_plan *plan, const struct json *inputs,
                                   int64_t created_ms)
{
    struct agent_live *live = mem_zalloc(sizeof *live);

    live->agent = a;
    live->plan = plan;
    live->plan->n_ref++;
    agent_run_init(&live->run, id, plan->pipeline, jsonmake_copy(&live->arena, inputs), created_ms, &io, live);
    live->prev = a->live_tail;
    *(a->live_tail ? &a->live_tail->next : &a->live) = live;
    a->live_tail = live;
    a->n_live++;
    return live;
}

static void live_free(struct agent_live *live)
{
    struct agent *a = live->agent;

    ASSERT(!live->dirty);
    *(live->prev ? &live->prev->next : &a->live) = live->next;
    *(live->next ? &live->next->prev : &a->live_tail) = live->prev;
    a->n_live--;
    for (int64_t i = live->first_event; i < live->n_event; i++)
        mem_free(live->event[i % live->cap_event].json);
    mem_free(live->event);
    agent_run_release(&live->run);
    agent_plan_drop(a, &live->plan);
    arena_release(&live->arena);
    mem_free(live->key);
    mem_free(live->parent);
    mem_free(live);
}

struct agent_live *agent_find(struct agent *a, const char *id)
{
    for (struct agent_live *l = a->live; l; l = l->next)
        if (strcmp(l->run.id, id) == 0)
            return l;
    return NULL;
}

struct agent_live *agent_find_key(struct agent *a, const char *tenant, const char *key)
{
    for (struct agent_live *l = a->live; l; l = l->next)
        if (l->key && strcmp(l->key, key) == 0 && strcmp(l->tenant, tenant) == 0)
            return l;
    return NULL;
}

struct agent_live *agent_next(struct agent *a, struct agent_live *after)
{
    return after ? after->next : a->live;
}

const char *agent_live_id(const struct agent_live *live)
{
    return live->run.id;
}

const char *agent_live_tenant(const struct agent_live *live)
{
    return live->tenant;
}

const uint8_t *agent_live_hash(const struct agent_live *live)
{
    return live->hash;
}

struct agent_run *agent_live_run(struct agent_live *live)
{
    return &live->run;
}

int64_t agent_n_live(const struct agent *a)
{
    return a->n_live;
}

int64_t agent_n_effect(const struct agent *a)
{
    return a->n_effect;
}

static void record_of(const struct agent_live *live, struct store_run *run)
{
    *run = (struct store_run){
        .id = live->run.id,
        .tenant = live->tenant,
        .key = live->key,
        .name = live->plan->pipeline->name,
        .pipeline = live->plan->pipeline->canonical,
        .parent = live->parent,
        .created_ms = live->run.created_ms,
        .deadline_ms = live->run.deadline_ms,
    };
    memcpy(run->body_hash, live->hash, sizeof run->body_hash);
}

void agent_live_show(const struct agent_live *live, struct buf *out)
{
    struct store_record record[2] = {{.kind = STORE_run}, {.kind = STORE_run_end}};
    struct buf input = {0};
    struct err err;

    record_of(live, &record[0].u.run);
    json_add(&input, live->run.inputs);
    record[0].u.run.input = input.data;
    record[1].u.run_end = (struct store_run_end){
        .run = live->run.id,
        .state = agent_run_state_name(live->run.end),
        .output = live->run.output,
        .error = live->run.error[0] ? live->run.error : NULL,
        .usage = live->run.state.usage,
        .ended_ms = live->ended_ms,
    };
    agent_show_run(record, live->end_seq ? 2 : 1, AGENT_SHOW_none, out, &err);
    buf_release(&input);
}

/* ---- making one ---- */

/* Rows of the parent become rows of the new run; what they cost was paid there. */
static int take_over(struct agent_live *live, const struct agent_new *n, struct err *err)
{
    int rc = 0;

    for (size_t i = 0; i < n->n_record && !rc; i++) {
        struct agent_row row;
        if (n->record[i].kind != STORE_step)
            continue;
        rc = agent_row_of(&n->record[i].u.step, &row, err);
        if (rc || !agent_run_keeps(live->run.plan, &row, n->from))
            continue;
        row.usage = (struct store_usage){0};
        rc = agent_run_fold(&live->run, &row, err);
        if (!rc)
            on_row(live, &live->run, &row);
    }
    return rc;
}

static int check_new(struct agent *a, struct err *err)
{
    const char *fault = ctl_store_fault(a->ctl);

    if (!ctl_store(a->ctl))
        return err_set(err, ERR_STATE, "pipelines need a store; start the controller with --store PATH");
    if (fault)
        return err_set(err, ERR_STATE, "the store cannot commit now: %s", fault);
    if (a->draining || ctl_is_draining(a->ctl))
        return err_set(err, ERR_STATE, "the server is stopping");
    if (a->n_live >= ctl_config_of(a->ctl)->limit.run_live_max)
        return err_set(err, ERR_LIMIT, "%" PRId64 " runs are under way, the limit run_live_max", a->n_live);
    if (!agent__has_room(a))
        return err_set(err, ERR_LIMIT, "the store is behind; try again soon");
    return 0;
}

static int put_run(struct agent_live *live, struct err *err)
{
    struct store_run run;
    struct buf input = {0};

    record_of(live, &run);
    json_add(&input, live->run.inputs);
    run.input = input.data;
    int rc = store_run(ctl_store(live->agent->ctl), &run, &live->agent->last_seq, err);
    if (!rc)
        count_event(live);
    buf_release(&input);
    return rc;
}

int agent_create(struct agent *a, const struct agent_new *n, struct agent_live **live_p, struct err *err)
{
    char id[STORE_ID_MAX] = "run_";
    struct arena arena = {0};
    const struct json *inputs;
    int rc = check_new(a, err);

    if (!rc)
        rc = pipeline_inputs(n->plan->pipeline, n->inputs, &arena, &inputs, err);
    if (!rc) {
        /* Time in front: new rows lie side by side in the store's indexes. */
        snprintf(id + 4, sizeof id - 4, "%011" PRIx64, (uint64_t)clock_wall_ms() & 0xfffffffffff);
        rand_hex(id + 15, 7);
        struct agent_live *live = live_new(a, id, n->plan, inputs, clock_wall_ms());
        snprintf(live->tenant, sizeof live->tenant, "%s", n->tenant);
        live->key = n->key ? mem_strdup(n->key) : NULL;
        live->parent = n->parent ? mem_strdup(n->parent) : NULL;
        memcpy(live->hash, n->body_hash, sizeof live->hash);
        rc = put_run(live, err);
        if (!rc)
            rc = take_over(live, n, err);
        if (rc) {
            live_free(live);
        } else {
            /* What needs no effect is done now: it comes into the same transaction. */
            agent_run_advance(&live->run, live->run.created_ms);
            agent__mark(live);
            *live_p = live;
        }
    }
    arena_release(&arena);
    return rc;
}

void agent_cancel(struct agent *a, struct agent_live *live, const char *why)
{
    (void)a;
    agent_run_cancel(&live->run, why, clock_wall_ms());
    agent__mark(live);
}

int agent_approve(struct agent *a, struct agent_live *live, const char *path, const char *token, bool approved,
                  const char *comment, struct err *err)
{
    (void)a;
    int rc = agent_run_approve(&live->run, path, token, approved, comment, clock_wall_ms(), err);
    if (!rc)
        agent__mark(live);
    return rc;
}

/* ---- reading back ---- */

static int on_stored_run(struct agent *a, const struct store_run *r, struct err *err)
{
    struct agent_plan *plan = mem_zalloc(sizeof *plan);
    struct arena arena = {0};
    const struct json *inputs;
    int rc = pipeline_parse(r->pipeline, strlen(r->pipeline), "", "/", &plan->pipeline, NULL, err);

    if (!rc)
        rc = json_parse(r->input, strlen(r->input), 0, &arena, &inputs, err);
    if (rc) {
        err_wrap(err, "run %s", r->id);
        plan_free(plan);
    } else {
        struct agent_live *live = live_new(a, r->id, plan, inputs, r->created_ms);
        live->run.deadline_ms = r->deadline_ms;
        snprintf(live->tenant, sizeof live->tenant, "%s", r->tenant);
        live->key = r->key ? mem_strdup(r->key) : NULL;
        live->parent = r->parent ? mem_strdup(r->parent) : NULL;
        memcpy(live->hash, r->body_hash, sizeof live->hash);
        live->n_event = live->first_event = live->n_shown = 1;
    }
    arena_release(&arena);
    return rc;
}

static int on_stored_step(struct agent *a, const struct store_step *s, struct err *err)
{
    struct agent_row row;
    struct agent_live *live = a->live_tail;

    ASSERT(live && strcmp(live->run.id, s->run) == 0); /* store_load's order */
    int rc = agent_row_of(s, &row, err);
    if (!rc)
        rc = agent_run_fold(&live->run, &row, err);
    live->first_event = live->n_shown = ++live->n_event;
    return rc ? err_wrap(err, "run %s", s->run) : 0;
}

/* ---- the turn ---- */

static void advance_dirty(struct agent *a)
{
    struct agent_live *list = a->dirty;

    a->dirty = a->dirty_tail = NULL;
    while (list) {
        struct agent_live *live = list;
        list = live->dirty_next;
        live->dirty = false;
        if (live->run.end != AGENT_RUN_running || live->broken)
            continue;
        if (!agent__has_room(a)) { /* the commit wakes us */
            live->dirty = true;
            live->dirty_next = NULL;
            *(a->dirty_tail ? &a->dirty_tail->dirty_next : &a->dirty) = live;
            a->dirty_tail = live;
            continue;
        }
        int64_t now_ms = clock_wall_ms();
        agent_run_advance(&live->run, now_ms);
        if (live->run.due_ms <= now_ms)
            agent__mark(live);
        else if (live->run.due_ms < a->due_ms)
            a->due_ms = live->run.due_ms;
    }
}

/* Runs whose time has come are marked; the next time is found. */
static void look_at_clock(struct agent *a)
{
    int64_t now_ms = clock_wall_ms();

    if (now_ms < a->due_ms)
        return;
    a->due_ms = INT64_MAX;
    for (struct agent_live *l = a->live; l; l = l->next) {
        if (l->run.due_ms <= now_ms)
            agent__mark(l);
        else if (l->run.due_ms < a->due_ms)
            a->due_ms = l->run.due_ms;
    }
}

static void reap(struct agent *a)
{
    for (struct agent_live *l = a->live, *next; l; l = next) {
        next = l->next;
        show_committed(a, l);
        if (!l->end_seq || l->end_seq > a->committed || l->dirty || l->broken)
            continue;
        struct agent_after *list = l->on_end;
        l->on_end = NULL;
        call_all(list, 0);
        log_info(agent, "run ended: id=%s name=%s state=%s rows=%" PRId64 " ms=%" PRId64, l->run.id,
                 l->plan->pipeline->name, agent_run_state_name(l->run.end), l->run.state.n_row,
                 l->ended_ms - l->run.created_ms);
        live_free(l);
    }
}

/* ---- forgetting old runs ---- */

static void on_old(void *arg, const struct store_fetched *f)
{
    struct agent_prune *p = arg;
    struct agent *a = p->agent;
    struct err err;

    mem_free(p);
    if (!a) /* closed meanwhile */
        return;
    a->pruning = NULL;
    for (size_t i = 0; i < f->n; i++)
        if (f->record[i].kind == STORE_prune_run && agent__has_room(a))
            store_prune_run(ctl_store(a->ctl), f->record[i].u.prune_run, NULL, &err);
    if (f->n == AGENT_PRUNE_MAX)
        a->prune_at_ms = loop_ms(a); /* there may be more */
    ctl_wake(a->ctl);
}

static void prune(struct agent *a)
{
    const struct ctl_limits *limit = &ctl_config_of(a->ctl)->limit;
    struct err err;

    if (a->pruning || a->draining || loop_ms(a) < a->prune_at_ms || !agent__has_room(a))
        return;
    a->prune_at_ms = loop_ms(a) + AGENT_PRUNE_MS;
    struct store_query q = {
        .kind = STORE_QUERY_old_runs,
        .limit = AGENT_PRUNE_MAX,
        .ended_before_ms = clock_wall_ms() - limit->run_keep_ms,
        .keep = limit->run_keep_max,
    };
    a->pruning = mem_zalloc(sizeof *a->pruning);
    a->pruning->agent = a;
    if (store_fetch(ctl_store(a->ctl), &q, on_old, a->pruning, &err) != 0) {
        mem_free(a->pruning);
        a->pruning = NULL;
    }
}

static void on_release(struct agent *a)
{
    if (!a->started)
        return;
    call_committed(a);
    if (a->seen_committed != a->committed) {
        a->seen_committed = a->committed;
        reap(a);
    }
}

static void on_turn(struct agent *a)
{
    if (!a->started || !ctl_store(a->ctl))
        return;
    if (a->held_at_ms && loop_ms(a) >= a->held_at_ms)
        a->held_at_ms = 0;
    agent__effects_start(a);
    look_at_clock(a);
    advance_dirty(a);
    agent__effects_start(a); /* generations of this turn go with their rows */
    prune(a);
}

/* Loop time of the next turn that is wanted. */
static int64_t on_due_ms(struct agent *a)
{
    int64_t due = a->held_at_ms ? a->held_at_ms : INT64_MAX;

    if (a->due_ms != INT64_MAX) {
        int64_t left = a->due_ms - clock_wall_ms(), at = loop_ms(a) + (left > 0 ? left : 0);
        if (at < due)
            due = at;
    }
    if (a->started && ctl_store(a->ctl) && !a->pruning && a->prune_at_ms < due)
        due = a->prune_at_ms;
    return due;
}

/* ---- what the store tells ---- */

static void on_stored(struct agent *a, uint64_t committed)
{
    a->committed = committed;
}

static void on_refused(struct agent *a, const struct store_refusal *r)
{
    if (r->kind != STORE_run && r->kind != STORE_step && r->kind != STORE_run_end)
        return;
    struct agent_live *live = agent_find(a, r->request);
    log_error(agent, "the store refused a row: run=%s kind=%s path=%s state=%s", r->request, store_kind_name(r->kind),
              r->path, r->state);
    if (live)
        live->broken = true;
}

/* ---- life ---- */

static int on_open(struct ctl *ctl, struct agent **agent, struct err *err)
{
    const struct ctl_config *c = ctl_config_of(ctl);
    struct agent *a = mem_zalloc(sizeof *a);

    a->ctl = ctl;
    a->rules = (struct chat_request_rules){ctl_tok(ctl), c->model_name, c->profile, 1};
    a->due_ms = INT64_MAX;
    int rc = tool_runner_open(&a->tools, ctl_loop(ctl), NULL, err);
    if (rc) {
        mem_free(a);
        return rc;
    }
    *agent = a;
    return 0;
}

static void on_start(struct agent *a)
{
    struct store_status st;

    a->started = true;
    if (!ctl_store(a->ctl))
        return;
    store_status(ctl_store(a->ctl), &st);
    a->committed = a->last_seq = a->seen_committed = st.committed;
    a->prune_at_ms = loop_ms(a) + AGENT_PRUNE_MS / 10;
    if (a->n_live)
        log_info(agent, "%" PRId64 " runs go on from the store", a->n_live);
    for (struct agent_live *l = a->live; l; l = l->next) {
        agent_run_advance(&l->run, clock_wall_ms());
        agent__mark(l);
    }
    agent__effects_start(a);
}

static void on_drain(struct agent *a)
{
    a->draining = true;
}

/* Tools that run may end; nothing new begins. Generations are left to the store. */
static bool is_idle(const struct agent *a)
{
    return tool_runner_n(a->tools) == 0;
}

void agent__maybe_closed(struct agent *a)
{
    if (!a->closing || !a->tools_closed || a->n_job > 0 || a->n_effect > 0)
        return;
    void (*on_closed)(void *) = a->on_closed;
    void *arg = a->closed_arg;

    a->closing = false;
    while (a->live) {
        a->live->dirty = false;
        live_free(a->live);
    }
    for (int i = 0; i < AGENT_PLANS_KEPT; i++)
        agent_plan_drop(a, &a->plan[i]);
    mem_free(a);
    on_closed(arg);
}

static void on_tools_closed(void *arg)
{
    struct agent *a = arg;
    a->tools_closed = true;
    agent__maybe_closed(a);
}

static void on_close(struct agent **agent, void (*on_closed)(void *arg), void *arg)
{
    struct agent *a = *agent;
    struct agent_after *list = a->after;

    *agent = NULL;
    a->closing = a->draining = true;
    a->on_closed = on_closed;
    a->closed_arg = arg;
    a->after = a->after_tail = NULL;
    call_all(list, ERR_CANCELED);
    for (struct agent_live *l = a->live; l; l = l->next) {
        list = l->on_end;
        l->on_end = NULL;
        call_all(list, ERR_CANCELED);
    }
    if (a->pruning)
        a->pruning->agent = NULL;
    agent__effects_leave(a);
    tool_runner_close(&a->tools, on_tools_closed, a);
}

const struct ctl_agent_ops agent_ops = {
    .open = on_open,
    .on_run = on_stored_run,
    .on_step = on_stored_step,
    .start = on_start,
    .release = on_release,
    .turn = on_turn,
    .due_ms = on_due_ms,
    .stored = on_stored,
    .refused = on_refused,
    .drain = on_drain,
    .is_idle = is_idle,
    .close = on_close,
};
