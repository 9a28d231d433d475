#include "worker/sched/sched.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/mem/mem.h"
#include "worker/engine/engine.h"
#include "worker/sample/sample.h"
#include "worker/sched/plan.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Who shares fairly with others; here as long as it has a sequence. */
struct tenant {
    char name[MSG_NAME_MAX];
    int n_seq;       /* 0: the place is free */
    uint64_t n_row;  /* rows it was given, from the least of the others on when it came */
};

struct seq {
    uint64_t epoch;
    char request[MSG_NAME_MAX];
    uint32_t attempt;
    struct msg_sampling how; /* bias is the sequence's own copy */
    int32_t stop_id[MSG_STOP_IDS_MAX + 1]; /* the request's and the model's */
    int n_stop_id;
    int64_t max_output, min_output;
    int32_t priority;
    uint64_t arrival;
    int64_t deadline_ns; /* INT64_MAX: none */
    int32_t *tok;        /* [cap], n_tok of them known */
    int64_t n_tok, cap, n_prompt;
    int64_t n_given;        /* tokens it came with */
    int64_t cut_at;         /* its last full block before their end, 0: none */
    struct tenant *tenant;
    struct eng_seq *es;     /* NULL while waiting */
    int64_t n_done;         /* tokens in the engine */
    struct wrk_plan_hit *hit; /* [n_ranks] while waiting: what the prefix caches have of it, as of hit_version */
    uint64_t hit_version;
    bool has_hit, has_run;
    int64_t n_cached;       /* prompt tokens that need not be computed at its first admission */
};

struct wrk_sched {
    struct wrk_sched_opts opts;
    int32_t n_vocab;
    int64_t context_max;
    struct seq **seq; /* [n_seq_max], in the order of arrival */
    int n_seq;
    uint64_t n_arrived;
    struct tenant *tenant; /* [n_seq_max] */
    /* scratch of a step */
    struct wrk_plan_seq *plan;
    int *order;
    struct eng_item *item;
    struct seq **item_seq;
    float *logits; /* [engine's n_seq_max, n_vocab] */
    void *sample_scratch;
    struct wrk_sched_stats stats;
};

_Static_assert((int)WRK_PLAN_RANKS_MAX >= (int)ENG_RANKS_MAX, "a plan has a place for every rank");

int64_t wrk_sched_context_max(const struct eng *eng)
{
    const struct eng_caps *caps = eng_caps(eng);
    int64_t pool = caps->rank_kv_blocks * WRK_BLOCK_TOK; /* a sequence lives on one rank */
    return pool < caps->context_max ? pool : caps->context_max;
}

int wrk_sched_new(const struct wrk_sched_opts *opts, struct wrk_sched **sched, struct err *err)
{
    ASSERT(opts->n_seq_max >= 1 && opts->emit);
    const struct eng_caps *caps = eng_caps(opts->eng);
    int32_t n_vocab = eng_config(opts->eng)->vocab_size;
    size_t n_logit = (size_t)caps->n_seq_max * (size_t)n_vocab;
    float *logits = calloc(n_logit, sizeof *logits);
    if (!logits)
        return err_set(err, ERR_MEM, "no memory for the logits of %d sequences of %d ids; lower --max-seqs",
                       caps->n_seq_max, n_vocab);
    struct wrk_sched *s = mem_zalloc(sizeof *s);
    size_t n = (size_t)opts->n_seq_max;
    s->opts = *opts;
    if (!s->opts.cut_tok)
        s->opts.cut_tok = WRK_SCHED_CUT_TOK;
    s->n_vocab = n_vocab;
    s->context_max = wrk_sched_context_max(opts->eng);
    s->logits = logits;
    s->seq = mem_array(n, sizeof *s->seq);
    s->tenant = mem_array(n, sizeof *s->tenant);
    s->plan = mem_array(n, sizeof *s->plan);
    s->order = mem_array(n, sizeof *s->order);
    s->item = mem_array(n, sizeof *s->item);
    s->item_seq = mem_array(n, sizeof *s->item_seq);
    s->sample_scratch = mem_alloc(wrk_sample_scratch_bytes(n_vocab));
    *sched = s;
    return 0;
}

void wrk_sched_destroy(struct wrk_sched **sched)
{
    struct wrk_sched *s = *sched;
    if (!s)
        return;
    wrk_sched_drop(s);
    free(s->logits);
    mem_free(s->seq);
    mem_free(s->tenant);
    mem_free(s->plan);
    mem_free(s->order);
    mem_free(s->item);
    mem_free(s->item_seq);
    mem_free(s->sample_scratch);
    mem_free(s);
    *sched = NULL;
}

/* ---- sequences ---- */

static struct tenant *tenant_join(struct wrk_sched *s, const char *name)
{
    struct tenant *mine = NULL, *empty = NULL;
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < s->opts.n_seq_max; i++) {
        struct tenant *t = &s->tenant[i];
        if (t->n_seq == 0)
            empty = t;
        else if (strcmp(t->name, name) == 0)
            mine = t;
        if (t->n_seq > 0 && t->n_row < least)
            least = t->n_row;
    }
    if (!mine) { /* there is a place: n_seq_max sequences have at most as many tenants */
        ASSERT(empty);
        mine = empty;
        *mine = (struct tenant){.n_row = least == UINT64_MAX ? 0 : least};
        snprintf(mine->name, sizeof mine->name, "%s", name);
    }
    mine->n_seq++;
    return mine;
}

/* Out of the engine; what was computed stays in the prefix cache. A state that cannot be saved breaks the engine,
 * which the next step will say. */
static void put_back(struct wrk_sched *s, struct seq *q)
{
    struct err why;
    if (!q->es)
        return;
    if (eng_seq_save(s->opts.eng, q->es, q->tok, false, &why))
        log_error(sched, "request=%s %s", q->request, why.text);
    eng_seq_close(s->opts.eng, &q->es);
    q->n_done = 0;
    q->has_hit = false;
}

static void seq_free(struct wrk_sched *s, struct seq *q)
{
    put_back(s, q);
    q->tenant->n_seq--;
    mem_free(q->hit);
    mem_free((void *)(uintptr_t)q->how.bias);
    mem_free(q->tok);
    mem_free(q);
}

static void seq_remove(struct wrk_sched *s, struct seq *q)
{
    int at = 0;
    while (at < s->n_seq && s->seq[at] != q)
        at++;
    ASSERT(at < s->n_seq);
    s->n_seq--;
    memmove(&s->seq[at], &s->seq[at + 1], (size_t)(s->n_seq - at) * sizeof *s->seq);
    seq_free(s, q);
}

static struct seq *seq_find(struct wrk_sched *s, const char *request, uint32_t attempt)
{
    for (int i = 0; i < s->n_seq; i++)
        if (s->seq[i]->attempt == attempt && strcmp(s->seq[i]->request, request) == 0)
            return s->seq[i];
    return NULL;
}

static int64_t n_output(const struct seq *q)
{
    return q->n_tok - q->n_prompt;
}

static void copy_name(char to[MSG_NAME_MAX], const char *from)
{
    snprintf(to, MSG_NAME_MAX, "%s", from);
}

/* ---- what goes out ---- */

static int emit_failed(struct wrk_sched *s, const struct msg_generate *g, enum msg_fail cls, struct err *err,
                       const char *fmt, ...) __attribute__((format(printf, 5, 6)));

static int emit_failed(struct wrk_sched *s, const struct msg_generate *g, enum msg_fail cls, struct err *err,
                       const char *fmt, ...)
{
    struct msg m = {.kind = MSG_failed, .failed = {.epoch = g->epoch, .attempt = g->attempt, .cls = cls}};
    va_list ap;
    copy_name(m.failed.request, g->request);
    va_start(ap, fmt);
    vsnprintf(m.failed.text, sizeof m.failed.text, fmt, ap);
    va_end(ap);
    return s->opts.emit(s->opts.arg, &m, err);
}

/* End q with Failed. */
static int seq_fail(struct wrk_sched *s, struct seq *q, enum msg_fail cls, const char *text, struct err *err)
{
    struct msg_generate g = {.epoch = q->epoch, .attempt = q->attempt};
    copy_name(g.request, q->request);
    int64_t n = n_output(q);
    seq_remove(s, q);
    return emit_failed(s, &g, cls, err, "%s after %" PRId64 " tokens of output", text, n);
}

/* End q with Finished. stop_id -1: length. */
static int seq_finish(struct wrk_sched *s, struct seq *q, int32_t stop_id, struct err *err)
{
    struct msg m = {.kind = MSG_finished,
                    .finished = {.epoch = q->epoch,
                                 .attempt = q->attempt,
                                 .reason = stop_id < 0 ? MSG_FINISH_length : MSG_FINISH_stop,
                                 .stop_id = stop_id,
                                 .n_output = n_output(q),
                                 .cached_tok = q->n_cached}};
    copy_name(m.finished.request, q->request);
    seq_remove(s, q);
    return s->opts.emit(s->opts.arg, &m, err);
}

static int emit_token(struct wrk_sched *s, const struct seq *q, const struct msg_token *t, struct err *err)
{
    struct msg m = {.kind = MSG_tokens,
                    .tokens = {.epoch = q->epoch,
                               .attempt = q->attempt,
                               .first_index = n_output(q) - 1,
                               .n = 1,
                               .token = t}};
    copy_name(m.tokens.request, q->request);
    return s->opts.emit(s->opts.arg, &m, err);
}

/* ---- admission ---- */

static bool has_foreign_id(const struct wrk_sched *s, const struct msg_generate *g, int32_t *id)
{
    for (int64_t i = 0; i < g->n_tok; i++)
        if (g->tok[i] < 0 || g->tok[i] >= s->n_vocab)
            return *id = g->tok[i], true;
    for (int32_t i = 0; i < g->sampling.n_bias; i++)
        if (g->sampling.bias[i].id < 0 || g->sampling.bias[i].id >= s->n_vocab)
            return *id = g->sampling.bias[i].id, true;
    for (int32_t i = 0; i < g->n_stop_id; i++)
        if (g->stop_id[i] < 0 || g->stop_id[i] >= s->n_vocab)
            return *id = g->stop_id[i], true;
    return false;
}

/* The model's end of text stops unless ignore_eos, which also takes it out of the request's own list. */
static void fill_stop_ids(struct wrk_sched *s, const struct msg_generate *g, struct seq *q)
{
    const int32_t eos = eng_config(s->opts.eng)->eos_token_id;
    for (int32_t i = 0; i < g->n_stop_id; i++)
        if (!(g->ignore_eos && g->stop_id[i] == eos))
            q->stop_id[q->n_stop_id++] = g->stop_id[i];
    if (!g->ignore_eos && eos >= 0 && eos < s->n_vocab)
        q->stop_id[q->n_stop_id++] = eos;
}

static struct seq *seq_new(struct wrk_sched *s, const struct msg_generate *g, int64_t now_ns)
{
    struct seq *q = mem_zalloc(sizeof *q);
    q->epoch = g->epoch;
    copy_name(q->request, g->request);
    q->attempt = g->attempt;
    q->how = g->sampling;
    q->how.bias = mem_dup(g->sampling.bias, (size_t)g->sampling.n_bias * sizeof *g->sampling.bias);
    fill_stop_ids(s, g, q);
    q->n_prompt = g->n_tok - g->n_committed;
    q->max_output = g->max_output;
    if (q->max_output > s->context_max - q->n_prompt)
        q->max_output = s->context_max - q->n_prompt;
    q->min_output = g->min_output;
    q->priority = g->priority;
    q->arrival = s->n_arrived++;
    q->deadline_ns = g->deadline_ms > 0 ? now_ns + g->deadline_ms * 1000000 : INT64_MAX;
    q->tenant = tenant_join(s, g->tenant);
    q->hit = mem_array((size_t)eng_caps(s->opts.eng)->n_ranks, sizeof *q->hit);
    q->n_tok = q->n_given = g->n_tok;
    if (g->n_tok >= WRK_SCHED_CUT_TOK_MIN)
        q->cut_at = (g->n_tok - 1) / WRK_BLOCK_TOK * WRK_BLOCK_TOK;
    q->cap = g->n_tok + 64;
    q->tok = mem_array((size_t)q->cap, sizeof *q->tok);
    memcpy(q->tok, g->tok, (size_t)g->n_tok * sizeof *q->tok);
    return q;
}

int wrk_sched_add(struct wrk_sched *s, const struct msg_generate *g, int64_t now_ns, struct err *err)
{
    int32_t id = 0;
    if (seq_find(s, g->request, g->attempt)) {
        log_warn(sched, "request=%s attempt=%u came twice: the second is ignored", g->request, (unsigned)g->attempt);
        return 0;
    }
    if (s->n_seq == s->opts.n_seq_max)
        return emit_failed(s, g, MSG_FAIL_overload, err, "this worker has its %d sequences", s->opts.n_seq_max);
    if (has_foreign_id(s, g, &id))
        return emit_failed(s, g, MSG_FAIL_client, err, "token id %d is outside the vocabulary of %d", id, s->n_vocab);
    if (g->n_tok - g->n_committed >= s->context_max)
        return emit_failed(s, g, MSG_FAIL_client, err,
                           "a prompt of %" PRId64 " tokens leaves no room in a context of %" PRId64,
                           g->n_tok - g->n_committed, s->context_max);
    if (g->n_tok > s->context_max) /* it began on a larger worker */
        return emit_failed(s, g, MSG_FAIL_worker, err,
                           "%" PRId64 " tokens do not fit the context of this worker, %" PRId64, g->n_tok,
                           s->context_max);
    struct seq *q = seq_new(s, g, now_ns);
    s->seq[s->n_seq++] = q;
    if (n_output(q) >= q->max_output)
        return seq_finish(s, q, -1, err);
    return 0;
}

int wrk_sched_cancel(struct wrk_sched *s, const char *request, uint32_t attempt, struct err *err)
{
    struct seq *q = seq_find(s, request, attempt);
    return q ? seq_fail(s, q, MSG_FAIL_canceled, "canceled", err) : 0;
}

void wrk_sched_drop(struct wrk_sched *s)
{
    while (s->n_seq > 0)
        seq_remove(s, s->seq[s->n_seq - 1]);
    s->stats.n_running = s->stats.n_waiting = 0;
}

/* ---- the step ---- */

static int expire(struct wrk_sched *s, int64_t now_ns, struct err *err)
{
    for (int i = 0; i < s->n_seq;) {
        struct seq *q = s->seq[i];
        if (q->deadline_ns > now_ns) {
            i++;
            continue;
        }
        int rc = seq_fail(s, q, MSG_FAIL_deadline, "the deadline passed", err);
        if (rc)
            return rc;
    }
    return 0;
}

/* What the prefix cache has of a waiting sequence; looked up again only when the cache has changed. */
static void look_up(struct wrk_sched *s, struct seq *q)
{
    uint64_t version = eng_prefix_version(s->opts.eng);
    if (q->has_hit && q->hit_version == version)
        return;
    for (int i = 0; i < eng_caps(s->opts.eng)->n_ranks; i++) {
        struct eng_hit h = eng_rank_prefix_find(s->opts.eng, i, q->tok, q->n_tok);
        q->hit[i] = (struct wrk_plan_hit){h.n_tok, h.n_block_busy};
    }
    q->hit_version = version;
    q->has_hit = true;
}

static void plan(struct wrk_sched *s)
{
    struct eng *eng = s->opts.eng;
    struct wrk_plan_room room = {.n_row = eng_caps(eng)->step_tok_max, .cut_tok = s->opts.cut_tok,
                                 .n_rank = eng_caps(eng)->n_ranks};
    for (int i = 0; i < room.n_rank; i++) {
        room.rank[i].n_slot_free = eng_caps(eng)->rank_seq_max;
        room.rank[i].n_block_free = eng_rank_blocks_free(eng, i);
    }
    for (int i = 0; i < s->n_seq; i++) {
        struct seq *q = s->seq[i];
        s->plan[i] = (struct wrk_plan_seq){.is_running = q->es != NULL,
                                           .priority = q->priority,
                                           .share = q->tenant->n_row,
                                           .arrival = q->arrival,
                                           .n_tok = q->n_tok,
                                           .cut_at = q->cut_at};
        if (q->es) {
            struct eng_blocks b = eng_seq_blocks(eng, q->es);
            s->plan[i].n_done = q->n_done;
            s->plan[i].n_block = b.n;
            s->plan[i].n_block_own = b.n_own;
            s->plan[i].rank = eng_seq_rank(q->es);
            room.rank[s->plan[i].rank].n_slot_free--;
        } else {
            look_up(s, q);
            s->plan[i].hit = q->hit;
        }
    }
    wrk_plan_make(&room, s->plan, s->n_seq, s->order);
}

/* A slot for q on this rank, with all that its prefix cache has of it. */
static int admit(struct wrk_sched *s, struct seq *q, int rank, struct err *err)
{
    int rc = eng_seq_open_on(s->opts.eng, rank, &q->es, err);
    if (!rc)
        rc = eng_seq_restore(s->opts.eng, q->es, q->tok, q->n_tok, err);
    if (rc)
        return rc;
    q->n_done = eng_seq_len(q->es);
    if (!q->has_run) {
        q->n_cached = q->n_done < q->n_prompt ? q->n_done : q->n_prompt;
        s->stats.n_cached += (uint64_t)q->n_cached;
    }
    return 0;
}

/* Blocks for all that the plan wants of q, up to the end of the last one. */
static int reserve(struct wrk_sched *s, struct seq *q, const struct wrk_plan_seq *p, struct err *err)
{
    struct eng *eng = s->opts.eng;
    int64_t n_want = p->act == WRK_PLAN_ADMIT ? q->n_tok : q->n_done + p->n_row;
    n_want = wrk_plan_blocks(n_want) * WRK_BLOCK_TOK;
    if (n_want > eng_caps(eng)->context_max)
        n_want = eng_caps(eng)->context_max;
    return p->act == WRK_PLAN_ADMIT || p->n_block_new ? eng_seq_reserve(eng, q->es, n_want - q->n_done, err) : 0;
}

/* Give back first, then take. A sequence that the engine has no room for after all sits this step out. Returns the
 * number of sequences that were put back. */
static int apply_plan(struct wrk_sched *s)
{
    struct err why;
    int n_back = 0;
    for (int i = 0; i < s->n_seq; i++)
        if (s->plan[i].act == WRK_PLAN_PREEMPT) {
            put_back(s, s->seq[i]);
            n_back++;
            s->stats.n_preempted++;
            log_info(sched, "request=%s preempted at %" PRId64 " tokens", s->seq[i]->request, s->seq[i]->n_tok);
        }
    for (int k = 0; k < s->n_seq; k++) {
        int i = s->order[k]; /* in the order in which the plan counted */
        struct wrk_plan_seq *p = &s->plan[i];
        struct seq *q = s->seq[i];
        if (p->n_row == 0)
            continue;
        int rc = p->act == WRK_PLAN_ADMIT ? admit(s, q, p->rank, &why) : 0;
        if (!rc)
            rc = reserve(s, q, p, &why);
        if (!rc) {
            if (p->n_row > q->n_tok - q->n_done)
                p->n_row = (int)(q->n_tok - q->n_done);
            q->has_run = true;
            continue;
        }
        log_warn(sched, "request=%s waits: %s", q->request, why.text);
        p->n_row = 0;
        if (p->act == WRK_PLAN_ADMIT)
            put_back(s, q);
    }
    return n_back;
}

static int build_items(struct wrk_sched *s, int *n_row)
{
    int n = 0, n_logit = 0;
    *n_row = 0;
    for (int i = 0; i < s->n_seq; i++) {
        struct seq *q = s->seq[i];
        int rows = s->plan[i].n_row;
        if (rows == 0)
            continue;
        bool is_last = q->n_done + rows == q->n_tok; /* its next token will be drawn */
        s->item[n] = (struct eng_item){.seq = q->es, .tok = q->tok + q->n_done, .n_tok = rows, .n_logit = is_last};
        if (is_last)
            s->item[n].logits = s->logits + (size_t)n_logit++ * (size_t)s->n_vocab;
        s->item_seq[n++] = q;
        *n_row += rows;
    }
    return n;
}

/* Plan until somebody advances: blocks that several preempted sequences shared are free only when all have gone,
 * which the plan cannot see. Returns the items, 0: the engine has room for none. */
static int make_step(struct wrk_sched *s, int *n_row)
{
    for (;;) {
        plan(s);
        int n_back = apply_plan(s), n = build_items(s, n_row);
        if (n > 0 || n_back == 0)
            return n;
    }
}

static bool is_stop(const struct seq *q, int32_t id)
{
    for (int i = 0; i < q->n_stop_id; i++)
        if (q->stop_id[i] == id)
            return true;
    return false;
}

static void append(struct seq *q, int32_t id)
{
    if (q->n_tok == q->cap) {
        q->cap *= 2;
        q->tok = mem_realloc(q->tok, (size_t)q->cap * sizeof *q->tok);
    }
    q->tok[q->n_tok++] = id;
}

/* Draw the next token of q from its logits; ends q when that was the last. */
static int advance(struct wrk_sched *s, struct seq *q, float *logits, struct err *err)
{
    struct msg_token t;
    /* No stop before min_output: its ids have no chance at all. */
    for (int i = 0; n_output(q) < q->min_output && i < q->n_stop_id; i++)
        logits[q->stop_id[i]] = -INFINITY;
    struct wrk_sample_in in = {.logits = logits,
                               .n_vocab = s->n_vocab,
                               .how = &q->how,
                               .tok = q->tok,
                               .n_tok = q->n_tok,
                               .n_prompt = q->n_prompt};
    int rc = wrk_sample(&in, s->sample_scratch, &t, err);
    if (rc)
        return err_wrap(err, "request %s, position %" PRId64, q->request, q->n_tok);
    if (is_stop(q, t.id))
        return seq_finish(s, q, t.id, err);
    append(q, t.id);
    s->stats.n_generated++;
    rc = emit_token(s, q, &t, err);
    if (!rc && n_output(q) >= q->max_output)
        rc = seq_finish(s, q, -1, err);
    return rc;
}

static void count(struct wrk_sched *s)
{
    s->stats.n_running = 0;
    for (int i = 0; i < s->n_seq; i++)
        s->stats.n_running += s->seq[i]->es != NULL;
    s->stats.n_waiting = s->n_seq - s->stats.n_running;
}

int wrk_sched_step(struct wrk_sched *s, int64_t now_ns, struct err *err)
{
    int n_row = 0;
    int rc = expire(s, now_ns, err);
    if (rc || s->n_seq == 0) {
        count(s);
        return rc;
    }
    int n = make_step(s, &n_row);
    if (n == 0) /* a plan for at least one sequence always exists, unless the engine broke its word on blocks */
        return err_set(err, ERR_STATE, "%d sequences, and the engine has room for none", s->n_seq);
    int64_t t0 = clock_mono_ns();
    rc = eng_step(s->opts.eng, &(struct eng_plan){.item = s->item, .n_item = n}, err);
    if (rc)
        return rc;
    s->stats.step_us = (clock_mono_ns() - t0) / 1000;
    s->stats.n_step++;
    for (int i = 0; i < n && !rc; i++) {
        struct seq *q = s->item_seq[i];
        if (s->item[i].n_tok > 1 || !s->item[i].n_logit)
            s->stats.n_prefilled += (uint64_t)s->item[i].n_tok;
        q->n_done += s->item[i].n_tok;
        q->tenant->n_row += (uint64_t)s->item[i].n_tok;
        bool is_step = q->n_done != q->n_given && q->n_done != q->cut_at;
        if (!is_step || q->n_done % s->opts.cut_tok == 0)
            rc = eng_seq_save(s->opts.eng, q->es, q->tok, is_step, err);
        if (!rc && s->item[i].n_logit)
            rc = advance(s, q, s->item[i].logits, err);
    }
    count(s);
    return rc ? rc : n_row;
}

int wrk_sched_n(const struct wrk_sched *s)
{
    return s->n_seq;
}

const struct wrk_sched_stats *wrk_sched_stats(const struct wrk_sched *s)
{
    return &s->stats;
}

/* ---- as a machine of the engine thread ---- */

static void machine_info(void *from, struct wrk_machine_info *info)
{
    const struct eng *eng = from;
    const struct eng_caps *caps = eng_caps(eng);
    *info = (struct wrk_machine_info){.fingerprint = caps->fingerprint,
                                      .n_vocab = eng_config(eng)->vocab_size,
                                      .n_ranks = caps->n_ranks,
                                      .kv_blocks = caps->kv_blocks,
                                      .context_max = wrk_sched_context_max(eng),
                                      .numerics = caps->numerics};
}

static int machine_open(void *from, int n_seq_max, wrk_emit_fn emit, void *arg, void **machine, struct err *err)
{
    const struct wrk_sched_opts opts = {.eng = from, .n_seq_max = n_seq_max, .emit = emit, .arg = arg};
    struct wrk_sched *s = NULL;
    int rc = wrk_sched_new(&opts, &s, err);
    *machine = s;
    return rc;
}

static void machine_destroy(void **machine)
{
    struct wrk_sched *s = *machine;
    wrk_sched_destroy(&s);
    *machine = NULL;
}

static int machine_add(void *machine, const struct msg_generate *g, int64_t now_ns, struct err *err)
{
    return wrk_sched_add(machine, g, now_ns, err);
}

static int machine_cancel(void *machine, const char *request, uint32_t attempt, struct err *err)
{
    return wrk_sched_cancel(machine, request, attempt, err);
}

static void machine_drop(void *machine)
{
    wrk_sched_drop(machine);
}

static int machine_step(void *machine, int64_t now_ns, struct err *err)
{
    return wrk_sched_step(machine, now_ns, err);
}

static int machine_n(const void *machine)
{
    return wrk_sched_n(machine);
}

static int64_t machine_due_ns(const void *machine)
{
    return wrk_sched_n(machine) ? 0 : INT64_MAX;
}

static void machine_beat(const void *machine, struct msg_heartbeat *beat)
{
    const struct wrk_sched *s = machine;
    *beat = (struct msg_heartbeat){.running = s->stats.n_running,
                                   .waiting = s->n_seq - s->stats.n_running,
                                   .kv_blocks_free = eng_kv_blocks_free(s->opts.eng),
                                   .kv_blocks = eng_caps(s->opts.eng)->kv_blocks,
                                   .step_us = s->stats.step_us,
                                   .tokens_total = s->stats.n_generated,
                                   .prefill_total = s->stats.n_prefilled,
                                   .kv_block_bytes = (int64_t)eng_caps(s->opts.eng)->block_bytes,
                                   .seq_bytes = (int64_t)eng_caps(s->opts.eng)->slot_bytes,
                                   .cached_total = s->stats.n_cached};
}

static int machine_news(void *machine, struct prefix_news *news, int n, bool *is_all)
{
    struct wrk_sched *s = machine;
    return eng_prefix_news(s->opts.eng, news, n, is_all);
}

static void machine_tell_all(void *machine)
{
    struct wrk_sched *s = machine;
    eng_prefix_tell_all(s->opts.eng);
}

static bool machine_is_rank_lost(const void *machine)
{
    const struct wrk_sched *s = machine;
    return eng_is_rank_lost(s->opts.eng);
}

const struct wrk_machine_ops wrk_sched_machine = {
    .info = machine_info,
    .open = machine_open,
    .destroy = machine_destroy,
    .add = machine_add,
    .cancel = machine_cancel,
    .drop = machine_drop,
    .step = machine_step,
    .n = machine_n,
    .due_ns = machine_due_ns,
    .beat = machine_beat,
    .news = machine_news,
    .tell_all = machine_tell_all,
    .is_rank_lost = machine_is_rank_lost,
};
