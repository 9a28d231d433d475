#include "controller/sched/sched.h"

#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/mem/mem.h"
#include "controller/sched/choose.h"
#include "controller/sched/queue.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { NAME_BUCKETS = 4096 };

/* A worker must hear that an attempt is over. The choice itself may be gone by the time it is sent. */
struct cancel {
    uint64_t epoch;
    uint32_t attempt;
    char name[MSG_NAME_MAX];
};

struct ctl_sched {
    struct ctl_sched_opts opts;
    struct ctl_link *link;
    struct ctl_request *req;  /* submitted and not yet dead */
    struct ctl_request *dead; /* to be freed at the end of the turn; through next */
    struct ctl_queue queue;
    int64_t n_running;
    struct ctl_choice *bucket[NAME_BUCKETS]; /* choices that have not ended, by name */
    struct ctl_suspects suspects;
    struct ctl_prefix_keys keys; /* scratch */
    struct cancel *cancel; /* bounded by what was running */
    size_t n_cancel, cap_cancel;
    int32_t *tok; /* scratch: prompt and committed tokens of one Generate */
    int64_t cap_tok;
    struct ctl_request **due; /* scratch of ctl_sched_expire */
    size_t cap_due;
    uint64_t order;    /* last one given */
    uint64_t random;   /* state of the jitter */
    int64_t now_ms;
    int64_t deadline_ms; /* no deadline is earlier */
    int64_t retry_ms;    /* no back-off ends earlier */
    bool dirty;          /* something has changed that a pass over the queue could use */
};

/* ---- names ---- */

static struct ctl_choice **bucket_of(struct ctl_sched *s, const char *name)
{
    uint64_t h = fnv1a_str(name);
    return &s->bucket[(h ^ h >> 32) % NAME_BUCKETS];
}

static struct ctl_choice *find_choice(struct ctl_sched *s, const char *name)
{
    struct ctl_choice *c = *bucket_of(s, name);
    while (c && strcmp(c->name, name) != 0)
        c = c->name_next;
    return c;
}

static void name_add(struct ctl_sched *s, struct ctl_choice *c)
{
    struct ctl_choice **b = bucket_of(s, c->name);
    c->name_next = *b;
    *b = c;
}

static void name_remove(struct ctl_sched *s, struct ctl_choice *c)
{
    struct ctl_choice **p = bucket_of(s, c->name);
    while (*p != c) {
        ASSERT(*p);
        p = &(*p)->name_next;
    }
    *p = c->name_next;
    c->name_next = NULL;
}

/* ---- moves ---- */

static void add_cancel(struct ctl_sched *s, const struct ctl_choice *c)
{
    if (s->n_cancel == s->cap_cancel) {
        s->cap_cancel = s->cap_cancel ? 2 * s->cap_cancel : 32;
        s->cancel = mem_realloc(s->cancel, s->cap_cancel * sizeof *s->cancel);
    }
    struct cancel *k = &s->cancel[s->n_cancel++];
    k->epoch = c->worker->epoch;
    k->attempt = c->attempt;
    snprintf(k->name, sizeof k->name, "%s", c->name);
}

/* Off its worker: the credit is free again. tell: the worker does not know yet that the attempt is over. */
static void leave_worker(struct ctl_sched *s, struct ctl_choice *c, bool tell)
{
    if (tell)
        add_cancel(s, c);
    ctl_list_remove(&c->worker->running, c);
    c->worker->n_running--;
    c->worker = NULL;
    s->n_running--;
    s->dirty = true;
    s->opts.wake(s->opts.arg);
}

/* Nobody listens any more, or nobody ever came for a recovered one. */
static bool is_left(const struct ctl_request *r)
{
    return r->front_dropped || !r->events;
}

static void bury_if_done(struct ctl_sched *s, struct ctl_request *r)
{
    if (!is_left(r) || r->n_live > 0 || r->n_hold > 0)
        return;
    *(r->prev ? &r->prev->next : &s->req) = r->next;
    if (r->next)
        r->next->prev = r->prev;
    r->prev = NULL;
    r->next = s->dead;
    s->dead = r;
    s->opts.wake(s->opts.arg);
}

/* The one way to the end. text may be NULL; notify: the front hears of it. */
static void end_choice(struct ctl_sched *s, struct ctl_choice *c, enum ctl_end end, const char *text, bool tell_worker,
                       bool notify)
{
    if (c->state == CTL_CHOICE_running)
        leave_worker(s, c, tell_worker);
    else
        ctl_queue_remove(&s->queue, c);
    ctl_choice_move(c, CTL_CHOICE_ended);
    c->end = end;
    if (text)
        snprintf(c->fail_text, sizeof c->fail_text, "%s", text);
    name_remove(s, c);
    c->req->n_live--;
    if (end == CTL_END_quarantined)
        s->opts.counts->quarantined++;
    if (end != CTL_END_stop && end != CTL_END_length)
        log_info(sched, "choice=%s %s after %" PRId64 " tokens, %d attempts: %s", c->name, ctl_end_name(end), c->out.n,
                 c->n_dispatch, c->fail_text);
    ctl_ledger_ended(s->opts.ledger, c, !notify);
    s->opts.wake(s->opts.arg); /* the front's output may have been flushed already in this turn */
    bury_if_done(s, c->req);
}

static uint64_t next_random(struct ctl_sched *s)
{
    uint64_t z = s->random += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Full jitter: anything from nothing to a wait that doubles with each try. */
static int64_t back_off_ms(struct ctl_sched *s, int n_try)
{
    int64_t wait = s->opts.limit->retry_ms;
    for (int i = 1; i < n_try && wait < s->opts.limit->retry_ms_max; i++)
        wait *= 2;
    if (wait > s->opts.limit->retry_ms_max)
        wait = s->opts.limit->retry_ms_max;
    return (int64_t)(next_random(s) % (uint64_t)(wait + 1));
}

/* From a worker back into the queue, before everything that has not run yet; or to the end, if there is no more to
 * generate or the budget is used up. wait: with back-off (a worker said no), else at once (a worker was lost). */
static void queue_again(struct ctl_sched *s, struct ctl_choice *c, const char *why, bool tell_worker, bool wait)
{
    char text[MSG_TEXT_MAX];

    if (c->out.n >= c->req->max_output) {
        end_choice(s, c, CTL_END_length, NULL, tell_worker, true);
        return;
    }
    if (c->n_try >= s->opts.limit->dispatch_max) {
        snprintf(text, sizeof text, "given up after %d attempts without a new token; the last: %.300s", c->n_try, why);
        end_choice(s, c, CTL_END_failed, text, tell_worker, true);
        return;
    }
    c->avoid_epoch = c->worker->epoch;
    leave_worker(s, c, tell_worker);
    ctl_choice_move(c, CTL_CHOICE_queued);
    c->resumed = true;
    c->not_before_ms = wait ? s->now_ms + back_off_ms(s, c->n_try) : 0;
    ctl_queue_add(&s->queue, c);
    s->opts.counts->redispatched++;
    log_debug(sched, "choice=%s queued again at %" PRId64 " tokens: %s", c->name, c->out.n, why);
    if (!is_left(c->req) && c->req->events->on_redispatch)
        c->req->events->on_redispatch(c->req->arg, c);
}

/* ---- what workers say ---- */

/* The choice that a message of worker w is about, or NULL: it is with nobody or with another one. */
static struct ctl_choice *choice_of(struct ctl_sched *s, const struct ctl_worker *w, const char *name)
{
    struct ctl_choice *c = find_choice(s, name);
    return c && c->worker == w ? c : NULL;
}

static void broke_protocol(struct ctl_sched *s, struct ctl_choice *c, const char *what, enum ledger_verdict v)
{
    char text[MSG_TEXT_MAX];

    s->opts.counts->violations++;
    snprintf(text, sizeof text, "worker %s broke the protocol: %s at index %" PRId64 " (%s)", c->worker->hello.worker,
             what, c->out.n, ledger_verdict_name(v));
    log_warn(sched, "choice=%s %s", c->name, text);
    queue_again(s, c, text, true, true);
}

static void on_tokens(void *arg, struct ctl_worker *w, const struct msg_tokens *m)
{
    struct ctl_sched *s = arg;
    struct ctl_choice *c = choice_of(s, w, m->request);
    enum ledger_verdict v = LEDGER_stale;
    int64_t first = m->first_index;

    if (c)
        v = ledger_commit(c, m->attempt, first, m->n, m->token, w->hello.n_vocab);
    if (v != LEDGER_committed)
        s->opts.counts->stale_tokens_dropped += (uint64_t)m->n;
    if (v == LEDGER_gap || v == LEDGER_excess)
        broke_protocol(s, c, "tokens", v);
    if (v != LEDGER_committed)
        return;
    s->opts.counts->tokens += (uint64_t)m->n;
    s->dirty |= c->n_try > 0; /* the first token of an attempt: one on probation may join now */
    /* A new token acquits it of the deaths before, and its budget starts again. */
    c->n_try = 0;
    c->n_death = 0;
    c->probation = false;
    c->avoid_epoch = 0;
    ctl_ledger_arrived(s->opts.ledger, c, first, m->n);
}

static void on_finished(void *arg, struct ctl_worker *w, const struct msg_finished *m)
{
    struct ctl_sched *s = arg;
    struct ctl_choice *c = choice_of(s, w, m->request);
    enum ledger_verdict v = c ? ledger_check_end(c, m->attempt, m->n_output) : LEDGER_stale;

    if (v == LEDGER_stale)
        return;
    if (v != LEDGER_committed) {
        broke_protocol(s, c, "an end", v);
        return;
    }
    c->cached_tok = m->cached_tok;
    end_choice(s, c, m->reason == MSG_FINISH_stop ? CTL_END_stop : CTL_END_length, NULL, false, true);
}

static void on_failed(void *arg, struct ctl_worker *w, const struct msg_failed *m)
{
    struct ctl_sched *s = arg;
    struct ctl_choice *c = choice_of(s, w, m->request);

    if (!c || ledger_check_end(c, m->attempt, c->out.n) != LEDGER_committed)
        return;
    switch (m->cls) {
    case MSG_FAIL_client: end_choice(s, c, CTL_END_invalid, m->text, false, true); return;
    case MSG_FAIL_deadline: end_choice(s, c, CTL_END_deadline, m->text, false, true); return;
    default: queue_again(s, c, m->text, false, true); return;
    }
}

/* Blame for a death goes to who was there, see sched.h. True: it is not fed to another worker. */
static bool is_quarantined(struct ctl_sched *s, struct ctl_choice *c, bool alone)
{
    c->n_death++;
    if (c->n_death < s->opts.limit->deaths_max)
        return false;
    if (alone || c->probation)
        return true;
    c->probation = true;
    return false;
}

static void on_lost(void *arg, struct ctl_worker *w, bool orderly)
{
    struct ctl_sched *s = arg;
    struct ctl_choice *c;
    char text[MSG_TEXT_MAX], verdict[MSG_TEXT_MAX];
    /* A host that said it would be taken away needs no culprit either. */
    bool blame = !orderly && !w->reclaimed, alone = w->n_running == 1;

    if (!orderly)
        ctl_suspects_add(&s->suspects, w->hello.domain, s->now_ms + s->opts.limit->suspect_ms);
    if (w->running)
        s->opts.counts->failovers++;
    s->dirty = true;
    snprintf(text, sizeof text, "worker %s was lost: %s", w->hello.worker, w->gone);
    while ((c = w->running)) {
        if (blame && c->out.n < c->req->max_output && is_quarantined(s, c, alone)) {
            snprintf(verdict, sizeof verdict,
                     "%d workers died one after the other while they worked on it, the last was %s", c->n_death,
                     w->hello.worker);
            end_choice(s, c, CTL_END_quarantined, verdict, false, true);
        } else {
            queue_again(s, c, text, false, false);
        }
    }
}

static void on_ready(void *arg, struct ctl_worker *w)
{
    struct ctl_sched *s = arg;
    (void)w;
    s->dirty = true;
}

static void on_reclaim(void *arg, struct ctl_worker *w)
{
    struct ctl_sched *s = arg;
    ctl_suspects_add(&s->suspects, w->hello.domain, s->now_ms + s->opts.limit->suspect_ms);
}

const struct ctl_link_events ctl_sched_link_events = {
    .on_tokens = on_tokens,
    .on_finished = on_finished,
    .on_failed = on_failed,
    .on_ready = on_ready,
    .on_reclaim = on_reclaim,
    .on_lost = on_lost,
};

/* ---- dispatch ---- */

/* It can never run: remember why; it ends when the pass is over, because an event may change the queue. */
static void doom(struct ctl_choice *c, enum ctl_end end, const char *text)
{
    c->doomed = true;
    c->end = end;
    snprintf(c->fail_text, sizeof c->fail_text, "%s", text);
}

static void fill_generate(struct ctl_sched *s, const struct ctl_choice *c, struct msg_generate *g)
{
    const struct ctl_request *r = c->req;
    int64_t n = r->n_prompt + c->out.n;

    if (n > s->cap_tok) {
        s->cap_tok = n + n / 2;
        s->tok = mem_realloc(s->tok, (size_t)s->cap_tok * sizeof *s->tok);
    }
    memcpy(s->tok, r->prompt, (size_t)r->n_prompt * sizeof *s->tok);
    if (c->out.n)
        memcpy(s->tok + r->n_prompt, c->out.id, (size_t)c->out.n * sizeof *s->tok);
    *g = (struct msg_generate){
        .attempt = c->attempt + 1,
        .n_tok = n,
        .n_committed = c->out.n,
        .tok = s->tok,
        .sampling = r->sampling,
        .max_output = r->max_output,
        .min_output = r->min_output,
        .ignore_eos = r->ignore_eos,
        .n_stop_id = r->n_stop_id,
        .priority = r->priority,
        .deadline_ms = r->deadline_ms > s->now_ms ? r->deadline_ms - s->now_ms : 1,
    };
    if (g->deadline_ms > MSG_DEADLINE_MS_MAX)
        g->deadline_ms = MSG_DEADLINE_MS_MAX;
    g->sampling.seed = c->seed;
    memcpy(g->request, c->name, sizeof g->request);
    memcpy(g->stop_id, r->stop_id, sizeof g->stop_id);
}

/* Send c, which is queued, to w. Returns the tokens sent; 0: it stays in the queue. */
static int64_t dispatch_to(struct ctl_sched *s, struct ctl_choice *c, struct ctl_worker *w)
{
    struct msg_generate g;
    struct err err;

    fill_generate(s, c, &g);
    int rc = ctl_link_generate(s->link, w, &g, &err);
    if (rc == ERR_BUSY)
        c->not_before_ms = s->now_ms + back_off_ms(s, 1) + 1;
    else if (rc == ERR_RANGE)
        doom(c, CTL_END_invalid, err.text);
    if (rc) {
        log_debug(sched, "choice=%s not sent to %s: %s", c->name, w->hello.worker, err.text);
        return 0;
    }
    ctl_queue_remove(&s->queue, c);
    ctl_choice_move(c, CTL_CHOICE_running);
    c->attempt = g.attempt;
    c->worker = w;
    c->n_try++;
    if (c->n_dispatch++ > 0) {
        c->recomputed_tok += c->out.n;
        s->opts.counts->recomputed_tokens += (uint64_t)c->out.n;
    }
    if (c->out.n && strcmp(c->numerics, w->hello.numerics) != 0)
        c->exact = false;
    memcpy(c->numerics, w->hello.numerics, sizeof c->numerics);
    ctl_list_add(&w->running, c);
    w->n_running++;
    s->n_running++;
    log_debug(sched, "choice=%s attempt=%u to worker=%s epoch=%" PRIu64 " with %" PRId64 "+%" PRId64 " tokens", c->name,
              c->attempt, w->hello.worker, w->epoch, c->req->n_prompt, c->out.n);
    return g.n_tok;
}

static void end_doomed(struct ctl_sched *s)
{
    /* Each end may change the queue through its event: look again from the front. There are hardly ever any. */
    for (struct ctl_choice *c = s->queue.head; c;) {
        if (!c->doomed) {
            c = c->next;
            continue;
        }
        end_choice(s, c, c->end, NULL, false, true);
        c = s->queue.head;
    }
}

/* True if c can go now, false if it stays where it is; *stop: nobody can go now. */
static bool find_worker(struct ctl_sched *s, struct ctl_choice *c, struct ctl_worker **w, bool *stop)
{
    char text[MSG_TEXT_MAX];

    if (c->doomed)
        return false;
    if (c->not_before_ms > s->now_ms) {
        if (c->not_before_ms < s->retry_ms)
            s->retry_ms = c->not_before_ms;
        return false;
    }
    switch (ctl_choose(ctl_link_first(s->link), c, &s->suspects, &s->keys, s->now_ms, w)) {
    case CTL_CHOOSE_found: return true;
    case CTL_CHOOSE_no_credit: *stop = true; return false;
    case CTL_CHOOSE_wait: return false;
    case CTL_CHOOSE_too_long:
        /* Who has run once was not too long: the worker that could take it may come back. */
        if (c->n_dispatch == 0) {
            snprintf(text, sizeof text,
                     "a prompt of %" PRId64 " tokens and up to %" PRId64
                     " of output need more context than the %" PRId64 " tokens that the workers have",
                     c->req->n_prompt, c->req->max_output, ctl_link_context_max(s->link));
            doom(c, CTL_END_invalid, text);
        }
        return false;
    }
    return false;
}

bool ctl_sched_dispatch(struct ctl_sched *s)
{
    int64_t n_sent = 0, n_tok = 0;
    bool stop = false, any_doomed = false;
    struct ctl_choice *next;

    if (!s->queue.head || (!s->dirty && s->now_ms < s->retry_ms))
        return false;
    s->dirty = false;
    s->retry_ms = INT64_MAX;
    for (struct ctl_choice *c = s->queue.head; c && !stop; c = next) {
        struct ctl_worker *w = NULL;
        next = c->next; /* no event is sent in this loop, so the queue changes only by what it does itself */
        if (find_worker(s, c, &w, &stop)) {
            int64_t sent = dispatch_to(s, c, w);
            n_tok += sent;
            n_sent += sent > 0;
            if (!sent && !c->doomed && c->not_before_ms <= s->now_ms)
                s->dirty = true; /* that worker was gone: another one in the next pass */
            else if (!sent && c->not_before_ms > s->now_ms && c->not_before_ms < s->retry_ms)
                s->retry_ms = c->not_before_ms;
            if (n_sent >= SCHED_DISPATCH_MAX || n_tok >= SCHED_DISPATCH_TOK_MAX) {
                s->dirty = true;
                stop = true;
            }
        }
        any_doomed |= c->doomed;
    }
    if (any_doomed)
        end_doomed(s);
    return s->dirty && s->queue.head;
}

void ctl_sched_send_cancels(struct ctl_sched *s)
{
    for (size_t i = 0; i < s->n_cancel; i++) {
        const struct cancel *k = &s->cancel[i];
        struct ctl_worker *w = ctl_link_find(s->link, k->epoch);
        if (w)
            ctl_link_cancel(s->link, w, k->name, k->attempt);
    }
    s->n_cancel = 0;
}

/* ---- deadlines ---- */

static size_t collect(struct ctl_sched *s, int64_t until_ms)
{
    size_t n = 0;

    s->deadline_ms = INT64_MAX;
    for (struct ctl_request *r = s->req; r; r = r->next) {
        if (r->n_live == 0)
            continue; /* what it waits for is a commit */
        if (r->deadline_ms > until_ms) {
            if (r->deadline_ms < s->deadline_ms)
                s->deadline_ms = r->deadline_ms;
            continue;
        }
        if (n == s->cap_due) {
            s->cap_due = s->cap_due ? 2 * s->cap_due : 64;
            s->due = mem_realloc(s->due, s->cap_due * sizeof(struct ctl_request *));
        }
        s->due[n++] = r;
    }
    return n;
}

/* End all live choices of all requests due until until_ms. They are collected first: an event may drop any request,
 * but none is freed before the end of the turn. */
static void end_due(struct ctl_sched *s, int64_t until_ms, enum ctl_end end, const char *text)
{
    size_t n = collect(s, until_ms);

    for (size_t i = 0; i < n; i++) {
        struct ctl_request *r = s->due[i];
        if (end == CTL_END_canceled && r->keep && !r->off_record)
            continue; /* a stop of the server: the next process goes on with it */
        for (int k = 0; k < r->n_choice && r->n_live > 0; k++) {
            struct ctl_choice *c = &r->choice[k];
            if (c->state != CTL_CHOICE_ended)
                end_choice(s, c, end, text, true, true);
        }
    }
}

void ctl_sched_expire(struct ctl_sched *s)
{
    const char *text = "its deadline passed";

    if (s->now_ms < s->deadline_ms)
        return;
    if (s->link && ctl_link_n_ready(s->link) == 0)
        text = "its deadline passed while no worker was there";
    end_due(s, s->now_ms, CTL_END_deadline, text);
}

void ctl_sched_end_all(struct ctl_sched *s, enum ctl_end end, const char *text)
{
    end_due(s, INT64_MAX, end, text);
}

/* ---- the wall ---- */

/* The name of choice i on the wire; returns its length, which may be too much for the wire. */
static int wire_name(const struct ctl_request *r, int i, char name[2 * MSG_NAME_MAX])
{
    memset(name, 0, 2 * MSG_NAME_MAX);
    return snprintf(name, 2 * MSG_NAME_MAX, "%s.%d", r->id, i);
}

/* Names and limits of a request before anything is changed. */
static int check_request(struct ctl_sched *s, const struct ctl_request *r, struct err *err)
{
    char name[2 * MSG_NAME_MAX];
    int64_t context = s->link ? ctl_link_context_max(s->link) : 0;

    ASSERT(r->events && r->n_live == r->n_choice);
    if (r->n_prompt < 1 || r->max_output < 1)
        return err_set(err, ERR_ARG, "a request needs at least one prompt token and one of output");
    if (r->n_prompt > MSG_TOKENS_MAX - r->max_output || (context && r->n_prompt > context - r->max_output))
        return err_set(err, ERR_ARG,
                       "a prompt of %" PRId64 " tokens and up to %" PRId64
                       " of output need more context than the %" PRId64 " tokens that the workers have",
                       r->n_prompt, r->max_output, context ? context : MSG_TOKENS_MAX);
    if (s->queue.n_fresh + r->n_choice > s->opts.limit->queue_max)
        return err_set(err, ERR_LIMIT, "%" PRId64 " choices wait for a worker already, queue_max is %" PRId64,
                       s->queue.n_fresh, s->opts.limit->queue_max);
    for (int i = 0; i < r->n_choice; i++) {
        if (!r->id[0] || wire_name(r, i, name) >= MSG_NAME_MAX)
            return err_set(err, ERR_ARG, "request id '%s' is empty or too long", r->id);
        if (find_choice(s, name))
            return err_set(err, ERR_ARG, "request id '%s' is in use", r->id);
    }
    return 0;
}

/* Into the queue and the list, with what is common to new and recovered ones. */
static void enter(struct ctl_sched *s, struct ctl_request *r)
{
    char name[2 * MSG_NAME_MAX];

    if (r->deadline_ms < s->deadline_ms)
        s->deadline_ms = r->deadline_ms;
    for (int i = 0; i < r->n_choice; i++) {
        struct ctl_choice *c = &r->choice[i];
        wire_name(r, i, name);
        memcpy(c->name, name, sizeof c->name); /* check_request has seen that it fits */
        if (c->state == CTL_CHOICE_ended)
            continue;
        c->order = ++s->order;
        name_add(s, c);
        ctl_queue_add(&s->queue, c);
    }
    r->prev = NULL;
    r->next = s->req;
    if (s->req)
        s->req->prev = r;
    s->req = r;
    s->dirty = true;
    s->opts.wake(s->opts.arg);
}

int ctl_sched_submit(struct ctl_sched *s, struct ctl_request **req_p, int64_t now_ms, struct err *err)
{
    struct ctl_request *r = *req_p;
    int rc = check_request(s, r, err);

    if (rc)
        return rc;
    if (r->deadline_ms == 0)
        r->deadline_ms = now_ms + s->opts.limit->request_ms;
    if (r->min_output > r->max_output)
        r->min_output = r->max_output;
    for (int i = 0; i < r->n_choice; i++)
        r->choice[i].seed = r->sampling.seed + (uint64_t)i;
    rc = ctl_ledger_accept(s->opts.ledger, r, now_ms, err);
    if (rc)
        return rc;
    *req_p = NULL;
    enter(s, r);
    s->opts.counts->requests++;
    return 0;
}

void ctl_sched_restore(struct ctl_sched *s, struct ctl_request *r)
{
    for (int i = 0; i < r->n_choice; i++)
        r->choice[i].resumed = true;
    enter(s, r);
}

void ctl_sched_settle(struct ctl_sched *s)
{
    struct ctl_choice *next;

    for (struct ctl_choice *c = s->queue.head; c; c = next) {
        next = c->next;
        if (c->out.n >= c->req->max_output)
            end_choice(s, c, CTL_END_length, NULL, false, true);
    }
}

void ctl_sched_refused(struct ctl_sched *s, struct ctl_request *r, const char *text)
{
    for (int i = 0; i < r->n_choice; i++)
        if (r->choice[i].state != CTL_CHOICE_ended)
            end_choice(s, &r->choice[i], CTL_END_failed, text, true, true);
}

void ctl_sched_idle(struct ctl_sched *s, struct ctl_request *r)
{
    bury_if_done(s, r);
}

struct ctl_request *ctl_sched_find(struct ctl_sched *s, const char *id)
{
    struct ctl_request *r = s->req;
    while (r && (r->front_dropped || strcmp(r->id, id) != 0))
        r = r->next;
    return r;
}

void ctl_sched_stop(struct ctl_sched *s, struct ctl_choice *c)
{
    if (c->state != CTL_CHOICE_ended)
        end_choice(s, c, CTL_END_stop, NULL, true, true);
}

void ctl_sched_leave(struct ctl_sched *s, struct ctl_request **req_p)
{
    struct ctl_request *r = *req_p;

    if (!r || r->off_record) {
        ctl_sched_drop(s, req_p);
        return;
    }
    *req_p = NULL;
    ASSERT(!r->front_dropped);
    r->front_dropped = true;
    bury_if_done(s, r);
}

void ctl_sched_finish(struct ctl_sched *s, struct ctl_choice *c, enum ctl_end end)
{
    ASSERT(end != CTL_END_none);
    if (c->state != CTL_CHOICE_ended)
        end_choice(s, c, end, NULL, true, false);
}

void ctl_sched_drop(struct ctl_sched *s, struct ctl_request **req_p)
{
    struct ctl_request *r = *req_p;

    if (!r)
        return;
    *req_p = NULL;
    ASSERT(!r->front_dropped);
    for (int i = 0; i < r->n_choice; i++)
        if (r->choice[i].state != CTL_CHOICE_ended)
            end_choice(s, &r->choice[i], CTL_END_canceled, "the client is gone", true, false);
    r->front_dropped = true;
    bury_if_done(s, r);
}

/* ---- life, and the turn's small steps ---- */

struct ctl_sched *ctl_sched_new(const struct ctl_sched_opts *opts)
{
    struct ctl_sched *s = mem_zalloc(sizeof *s);
    s->opts = *opts;
    s->random = opts->seed;
    s->deadline_ms = s->retry_ms = INT64_MAX;
    return s;
}

void ctl_sched_attach(struct ctl_sched *s, struct ctl_link *link)
{
    s->link = link;
}

void ctl_sched_begin(struct ctl_sched *s, int64_t now_ms)
{
    s->now_ms = now_ms;
}

void ctl_sched_free_dead(struct ctl_sched *s)
{
    while (s->dead) {
        struct ctl_request *r = s->dead;
        s->dead = r->next;
        ctl_request_destroy(&r);
    }
}

void ctl_sched_destroy(struct ctl_sched **s_p)
{
    struct ctl_sched *s = *s_p;

    if (!s)
        return;
    *s_p = NULL;
    ctl_sched_free_dead(s);
    while (s->req) {
        struct ctl_request *r = s->req;
        s->req = r->next;
        ctl_request_destroy(&r);
    }
    ctl_prefix_keys_release(&s->keys);
    mem_free(s->cancel);
    mem_free(s->tok);
    mem_free(s->due);
    mem_free(s);
}

int64_t ctl_sched_due_ms(const struct ctl_sched *s)
{
    int64_t due = s->deadline_ms;
    if (s->queue.head && s->retry_ms < due)
        due = s->retry_ms;
    return due;
}

int64_t ctl_sched_n_queued(const struct ctl_sched *s)
{
    return s->queue.n;
}

int64_t ctl_sched_n_running(const struct ctl_sched *s)
{
    return s->n_running;
}
