#include "controller/ledger/ledger.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/mem/mem.h"
#include "controller/ledger/extra.h"
#include "controller/ledger/params.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum entry_kind { ENTRY_ACCEPT, ENTRY_TOKENS, ENTRY_END };

/* Something that was put: what to tell when its batch is in. */
struct entry {
    uint64_t seq;
    enum entry_kind kind;
    int idx; /* of the choice */
    struct ctl_request *r;
    int64_t n; /* tokens: how many are in then */
};

struct ctl_ledger {
    struct ctl_ledger_opts opts;
    struct entry *entry; /* ring [cap], oldest at head */
    size_t head, n, cap;
    struct ctl_choice *dirty, **dirty_end; /* have something to put, oldest first */
    struct ctl_request *retell;
    uint64_t committed;
    enum store_state state;
    enum store_fault fault;
    bool tell_failures; /* the store has begun to fail: look once at all that waits */
    struct buf extra;   /* scratch */
};

const char *ctl_commit_name(enum ctl_commit commit)
{
    static const char *const name[] = {
#define X(id, text) text,
        CTL_COMMIT_LIST(X)
#undef X
    };
    return (size_t)commit < N_ELEM(name) ? name[commit] : "?";
}

int ctl_commit_of(const char *name, enum ctl_commit *commit)
{
    for (int i = 0; i < CTL_COMMIT_N; i++) {
        if (strcmp(name, ctl_commit_name((enum ctl_commit)i)) == 0) {
            *commit = (enum ctl_commit)i;
            return 0;
        }
    }
    return ERR_ARG;
}

/* ---- telling the front ---- */

static bool may_tell(const struct ctl_request *r)
{
    return r->events && !r->front_dropped && !r->retell;
}

static void show_tokens(struct ctl_choice *c, int64_t n)
{
    int64_t first = c->n_shown;

    if (n <= first)
        return;
    c->n_shown = n;
    if (may_tell(c->req) && !c->told) /* an error may have been told before the tokens were in */
        c->req->events->on_tokens(c->req->arg, c, first, n - first);
}

static void show_end(struct ctl_choice *c)
{
    if (c->told)
        return;
    c->told = true;
    if (!c->silent && may_tell(c->req))
        c->req->events->on_end(c->req->arg, c);
}

/* Everything there is, for who waits for no commit. */
static void show_all(struct ctl_choice *c)
{
    show_tokens(c, c->out.n);
    if (c->state == CTL_CHOICE_ended)
        show_end(c);
}

static void let_go(struct ctl_ledger *l, struct ctl_request *r)
{
    ASSERT(r->n_hold > 0);
    if (--r->n_hold == 0)
        l->opts.on_idle(l->opts.arg, r);
}

/* ---- the ring ---- */

static void push(struct ctl_ledger *l, uint64_t seq, enum entry_kind kind, struct ctl_request *r, int idx, int64_t n)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 256;
        struct entry *e = mem_array(cap, sizeof *e);
        for (size_t i = 0; i < l->n; i++)
            e[i] = l->entry[(l->head + i) % l->cap];
        mem_free(l->entry);
        l->entry = e;
        l->head = 0;
        l->cap = cap;
    }
    l->entry[(l->head + l->n++) % l->cap] = (struct entry){seq, kind, idx, r, n};
    r->n_hold++;
}

/* ---- what happens to requests ---- */

static bool is_durable(const struct ctl_ledger *l, const struct ctl_request *r)
{
    return l->opts.store && l->opts.commit != CTL_COMMIT_off && !r->off_record;
}

static bool keeps_tokens(const struct ctl_ledger *l)
{
    return l->opts.commit == CTL_COMMIT_token || l->opts.commit == CTL_COMMIT_token_fsync;
}

bool ctl_ledger_is_ready(const struct ctl_ledger *l)
{
    return !l->opts.store || (l->state == STORE_STATE_ready && !store_is_full(l->opts.store));
}

int ctl_ledger_accept(struct ctl_ledger *l, struct ctl_request *r, int64_t now_ms, struct err *err)
{
    struct buf params = {0};
    uint64_t seq;

    if (!r->created_ms)
        r->created_ms = clock_wall_ms();
    if (!r->tenant[0])
        strcpy(r->tenant, "-");
    if (!r->path[0])
        strcpy(r->path, "-");
    if (!is_durable(l, r)) {
        r->off_record = true;
        r->accepted = true;
        return 0;
    }
    if (l->state != STORE_STATE_ready)
        return err_set(err, ERR_STATE, "the store cannot commit (%s), nothing new is accepted",
                       store_fault_name(l->fault));
    if (store_is_full(l->opts.store))
        return err_set(err, ERR_STATE, "the store is behind, nothing new is accepted");
    params_encode(r, &params);
    struct store_request q = {
        .id = r->id,
        .tenant = r->tenant,
        .path = r->path,
        .key = r->key,
        .prompt = r->prompt,
        .n_prompt = r->n_prompt,
        .params_version = PARAMS_VERSION,
        .params = params.data,
        .params_bytes = params.len,
        .seed = r->sampling.seed,
        .created_ms = r->created_ms,
        .deadline_ms = clock_wall_ms() + (r->deadline_ms - now_ms),
        .n_choice = r->n_choice,
    };
    memcpy(q.body_hash, r->body_hash, sizeof q.body_hash);
    int rc = store_accept(l->opts.store, &q, &seq, err);
    buf_release(&params);
    if (rc)
        return rc == ERR_LIMIT ? err_set(err, ERR_STATE, "the store is behind, nothing new is accepted") : rc;
    push(l, seq, ENTRY_ACCEPT, r, 0, 0);
    return 0;
}

static void mark(struct ctl_ledger *l, struct ctl_choice *c)
{
    if (c->dirty)
        return;
    c->dirty = true;
    c->dirty_next = NULL;
    *l->dirty_end = c;
    l->dirty_end = &c->dirty_next;
    c->req->n_hold++;
    l->opts.wake(l->opts.arg);
}

static bool is_good(enum ctl_end end)
{
    return end == CTL_END_stop || end == CTL_END_length;
}

void ctl_ledger_arrived(struct ctl_ledger *l, struct ctl_choice *c, int64_t first, int64_t n)
{
    struct ctl_request *r = c->req;

    if (may_tell(r) && r->events->on_arrived)
        r->events->on_arrived(r->arg, c, first, n);
    if (is_durable(l, r) && keeps_tokens(l))
        mark(l, c);
    else if (r->accepted)
        show_tokens(c, c->out.n);
}

void ctl_ledger_ended(struct ctl_ledger *l, struct ctl_choice *c, bool silent)
{
    c->silent |= silent;
    if (!is_durable(l, c->req)) {
        show_all(c);
        return;
    }
    mark(l, c);
    if (l->state != STORE_STATE_ready && !is_good(c->end))
        show_end(c);
}

void ctl_ledger_attach(struct ctl_ledger *l, struct ctl_request *r)
{
    ASSERT(!r->retell);
    r->retell = true;
    r->n_hold++;
    r->retell_next = l->retell;
    l->retell = r;
    l->opts.wake(l->opts.arg);
}

/* ---- what the store says ---- */

void ctl_ledger_on_progress(struct ctl_ledger *l, uint64_t committed)
{
    l->committed = committed;
    l->opts.wake(l->opts.arg);
}

void ctl_ledger_on_refused(struct ctl_ledger *l, const struct store_refusal *f)
{
    if (f->kind != STORE_accept)
        return;
    for (size_t i = 0; i < l->n; i++) {
        struct entry *e = &l->entry[(l->head + i) % l->cap];
        if (e->kind != ENTRY_ACCEPT || e->seq != f->seq || strcmp(e->r->id, f->request) != 0)
            continue;
        e->r->off_record = true;
        l->opts.on_refused(l->opts.arg, e->r, "the store has a request of this id or Idempotency-Key already");
        return;
    }
}

void ctl_ledger_on_state(struct ctl_ledger *l, enum store_state state, enum store_fault fault)
{
    l->tell_failures |= l->state == STORE_STATE_ready && state != STORE_STATE_ready;
    l->state = state;
    l->fault = fault;
    l->opts.wake(l->opts.arg);
}

/* ---- the turn ---- */

static void show_failures(struct ctl_ledger *l)
{
    l->tell_failures = false;
    for (size_t i = 0; i < l->n; i++) {
        struct entry *e = &l->entry[(l->head + i) % l->cap];
        struct ctl_choice *c = &e->r->choice[e->idx];
        if (e->kind == ENTRY_END && !is_good(c->end))
            show_end(c);
    }
    for (struct ctl_choice *c = l->dirty; c; c = c->dirty_next)
        if (c->state == CTL_CHOICE_ended && !is_good(c->end))
            show_end(c);
}

static void retell(struct ctl_request *r)
{
    r->retell = false;
    for (int i = 0; i < r->n_choice && may_tell(r); i++) {
        struct ctl_choice *c = &r->choice[i];
        if (c->n_shown)
            r->events->on_tokens(r->arg, c, 0, c->n_shown);
        if (c->told && !c->silent && may_tell(r))
            r->events->on_end(r->arg, c);
    }
}

static void tell(struct ctl_ledger *l, const struct entry *e)
{
    struct ctl_request *r = e->r;
    struct ctl_choice *c = &r->choice[e->idx];

    switch (e->kind) {
    case ENTRY_ACCEPT:
        if (r->off_record) /* refused; its choices were ended */
            return;
        r->accepted = true;
        if (may_tell(r) && r->events->on_accepted)
            r->events->on_accepted(r->arg, r);
        for (int i = 0; i < r->n_choice && !keeps_tokens(l); i++)
            show_tokens(&r->choice[i], r->choice[i].out.n);
        return;
    case ENTRY_TOKENS: show_tokens(c, e->n); return;
    case ENTRY_END: show_end(c); return;
    }
}

void ctl_ledger_release(struct ctl_ledger *l)
{
    while (l->retell) {
        struct ctl_request *r = l->retell;
        l->retell = r->retell_next;
        retell(r);
        let_go(l, r);
    }
    if (l->tell_failures)
        show_failures(l);
    while (l->n && l->entry[l->head].seq <= l->committed) {
        struct entry e = l->entry[l->head]; /* an event may push more */
        l->head = (l->head + 1) % l->cap;
        l->n--;
        tell(l, &e);
        let_go(l, e.r);
    }
}

/* How the output came about, kept where an end that failed has its reason. */
static void note(const struct ctl_choice *c, char text[MSG_TEXT_MAX])
{
    if (is_good(c->end))
        snprintf(text, MSG_TEXT_MAX, "attempts=%d recomputed=%" PRId64 " exact=%d", c->n_dispatch, c->recomputed_tok,
                 c->exact);
    else
        snprintf(text, MSG_TEXT_MAX, "%s", c->fail_text);
}

static int put_tokens(struct ctl_ledger *l, struct ctl_choice *c, struct err *err)
{
    enum store_class cls = l->opts.commit == CTL_COMMIT_token_fsync ? STORE_FULL : STORE_LAZY;
    uint64_t seq;

    while (c->n_put < c->out.n) {
        int64_t n = c->out.n - c->n_put;
        if (n > STORE_TOKENS_MAX)
            n = STORE_TOKENS_MAX;
        bool moved = strcmp(c->numerics, c->numerics_put) != 0;
        buf_clear(&l->extra);
        extra_encode(&c->out, c->req->sampling.n_top, moved ? c->numerics : "", c->n_put, n, &l->extra);
        struct store_tokens t = {
            .request = c->req->id,
            .choice = c->idx,
            .first = c->n_put,
            .n = (int32_t)n,
            .id = c->out.id + c->n_put,
            .extra = l->extra.data,
            .extra_bytes = l->extra.len,
        };
        int rc = store_tokens(l->opts.store, &t, cls, &seq, err);
        if (rc)
            return rc;
        memcpy(c->numerics_put, c->numerics, sizeof c->numerics_put);
        c->n_put += n;
        push(l, seq, ENTRY_TOKENS, c->req, c->idx, c->n_put);
    }
    return 0;
}

static int put_end(struct ctl_ledger *l, struct ctl_choice *c, struct err *err)
{
    struct ctl_request *r = c->req;
    char text[MSG_TEXT_MAX];
    uint64_t seq;

    if (r->events && !r->front_dropped && r->events->on_ending)
        r->events->on_ending(r->arg, c);
    note(c, text);
    struct store_end e = {
        .request = r->id,
        .choice = c->idx,
        .finish = ctl_end_name(c->end),
        .text = text[0] ? text : NULL,
        .n_tok = c->out.n,
        .usage = {c->idx ? 0 : r->n_prompt, c->out.n, c->idx ? 0 : c->cached_tok, c->reasoning_tok},
        .ended_ms = clock_wall_ms(),
    };
    int rc = store_end(l->opts.store, &e, &seq, err);
    if (rc)
        return rc;
    c->end_put = true;
    push(l, seq, ENTRY_END, r, c->idx, 0);
    return 0;
}

static int put(struct ctl_ledger *l, struct ctl_choice *c, struct err *err)
{
    bool ended = c->state == CTL_CHOICE_ended;
    int rc = 0;

    if (c->req->off_record)
        return 0;
    if (keeps_tokens(l) || ended)
        rc = put_tokens(l, c, err);
    if (!rc && ended && !c->end_put)
        rc = put_end(l, c, err);
    return rc;
}

void ctl_ledger_put(struct ctl_ledger *l)
{
    struct err err;

    while (l->dirty && !store_is_full(l->opts.store)) {
        struct ctl_choice *c = l->dirty;
        if (put(l, c, &err) != 0) {
            log_debug(ledger, "choice=%s waits for the store: %s", c->name, err.text);
            return; /* in order: nothing overtakes it */
        }
        l->dirty = c->dirty_next;
        if (!l->dirty)
            l->dirty_end = &l->dirty;
        c->dirty = false;
        let_go(l, c->req);
    }
}

/* ---- life ---- */

struct ctl_ledger *ctl_ledger_new(const struct ctl_ledger_opts *opts)
{
    struct ctl_ledger *l = mem_zalloc(sizeof *l);

    l->opts = *opts;
    l->dirty_end = &l->dirty;
    l->state = STORE_STATE_ready;
    return l;
}

void ctl_ledger_destroy(struct ctl_ledger **l_p)
{
    struct ctl_ledger *l = *l_p;

    if (!l)
        return;
    *l_p = NULL;
    mem_free(l->entry);
    buf_release(&l->extra);
    mem_free(l);
}

int64_t ctl_ledger_n_waiting(const struct ctl_ledger *l)
{
    return (int64_t)l->n;
}
