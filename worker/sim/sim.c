#include "worker/sim/sim.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/hash.h"
#include "common/mem/buf.h"
#include "common/mem/mem.h"
#include "common/text/tok_sim.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK_TOK = 128, BUCKETS = 1024, LOG_BYTES = 1 << 16, STEP_MAX = 1024 };

static const char numerics[] = "sim/1";

struct seq {
    uint64_t epoch;
    char request[MSG_NAME_MAX];
    uint32_t attempt;
    int64_t id;            /* of [[id=]] */
    int64_t n, next;       /* tokens of output in all; index of the next one */
    int64_t n_prompt;
    int64_t max_output;
    bool after_think;      /* the prompt ends in <think>: the first token leaves it */
    int64_t cut_at, stall_at, bad_at, die_at;
    int64_t due_ns, itl_ns, deadline_ns;
    struct tok_ids rest;   /* ids of a number that has no token of its own, not sent yet */
    size_t rest_at;
    int64_t number, n_out; /* the number being said; ids of output so far, committed ones included */
    int at;                /* in the heap */
    struct seq *bucket_next;
};

struct sim {
    const struct wrk_sim_opts *o;
    int n_seq_max;
    wrk_emit_fn emit;
    void *arg;
    struct seq **heap; /* by due_ns: [0] is the next */
    int n;
    struct seq *bucket[BUCKETS]; /* by request */
    int64_t kv_blocks, kv_used;
    int64_t step_us;
    uint64_t n_generated, n_prefilled;
    struct buf text; /* scratch: bytes of a prompt */
    FILE *log;
};

/* ---- the heap ---- */

static bool is_before(const struct seq *a, const struct seq *b)
{
    return a->due_ns < b->due_ns;
}

static void heap_put(struct sim *s, struct seq *q, int at)
{
    s->heap[at] = q;
    q->at = at;
}

/* Move the sequence at `at` to where its time belongs. */
static void heap_settle(struct sim *s, int at)
{
    struct seq *q = s->heap[at];
    for (; at > 0 && is_before(q, s->heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap_put(s, s->heap[(at - 1) / 2], at);
    for (;;) {
        int child = 2 * at + 1;
        if (child + 1 < s->n && is_before(s->heap[child + 1], s->heap[child]))
            child++;
        if (child >= s->n || !is_before(s->heap[child], q))
            break;
        heap_put(s, s->heap[child], at);
        at = child;
    }
    heap_put(s, q, at);
}

static void heap_remove(struct sim *s, const struct seq *q)
{
    int at = q->at;
    struct seq *last = s->heap[--s->n];
    if (last == q)
        return;
    heap_put(s, last, at);
    heap_settle(s, at);
}

/* ---- sequences ---- */

static struct seq **bucket_of(struct sim *s, const char *request)
{
    uint64_t h = fnv1a_str(request);
    return &s->bucket[(h ^ h >> 32) % BUCKETS];
}

static struct seq *seq_find(struct sim *s, const char *request, uint32_t attempt)
{
    struct seq *q = *bucket_of(s, request);
    while (q && (q->attempt != attempt || strcmp(q->request, request) != 0))
        q = q->bucket_next;
    return q;
}

static int64_t blocks_of(const struct seq *q)
{
    return (q->n_prompt + q->n_out + BLOCK_TOK - 1) / BLOCK_TOK;
}

static void seq_remove(struct sim *s, struct seq *q)
{
    struct seq **p = bucket_of(s, q->request);
    while (*p != q)
        p = &(*p)->bucket_next;
    *p = q->bucket_next;
    heap_remove(s, q);
    s->kv_used -= blocks_of(q);
    tok_ids_release(&q->rest);
    mem_free(q);
}

/* ---- what goes out ---- */

static int emit_failed(struct sim *s, const char *request, uint64_t epoch, uint32_t attempt, enum msg_fail cls,
                       const char *text, struct err *err)
{
    struct msg m = {.kind = MSG_failed, .failed = {.epoch = epoch, .attempt = attempt, .cls = cls}};
    snprintf(m.failed.request, sizeof m.failed.request, "%s", request);
    snprintf(m.failed.text, sizeof m.failed.text, "%s", text);
    return s->emit(s->arg, &m, err);
}

static int seq_fail(struct sim *s, struct seq *q, enum msg_fail cls, const char *text, struct err *err)
{
    char request[MSG_NAME_MAX];
    uint64_t epoch = q->epoch;
    uint32_t attempt = q->attempt;
    memcpy(request, q->request, sizeof request);
    seq_remove(s, q);
    return emit_failed(s, request, epoch, attempt, cls, text, err);
}

static int seq_finish(struct sim *s, struct seq *q, struct err *err)
{
    bool is_length = q->n_out >= q->max_output;
    struct msg m = {.kind = MSG_finished,
                    .finished = {.epoch = q->epoch,
                                 .attempt = q->attempt,
                                 .reason = is_length ? MSG_FINISH_length : MSG_FINISH_stop,
                                 .stop_id = is_length ? -1 : TOK_SIM_EOS,
                                 .n_output = q->n_out}};
    memcpy(m.finished.request, q->request, sizeof m.finished.request);
    seq_remove(s, q);
    return s->emit(s->arg, &m, err);
}

static int emit_id(struct sim *s, struct seq *q, int32_t id, struct err *err)
{
    struct msg_token t = {.id = id};
    struct msg m = {.kind = MSG_tokens,
                    .tokens = {.epoch = q->epoch, .attempt = q->attempt, .first_index = q->n_out, .n = 1, .token = &t}};
    memcpy(m.tokens.request, q->request, sizeof m.tokens.request);
    if (q->n_out == q->bad_at) {
        m.tokens.first_index++;
        q->bad_at = -1;
    }
    if (s->log)
        fprintf(s->log, "%" PRId64 " %" PRId64 " %" PRId64 "\n", q->id, q->number, clock_mono_ns() / 1000);
    s->kv_used -= blocks_of(q);
    q->n_out++;
    s->kv_used += blocks_of(q);
    s->n_generated++;
    return s->emit(s->arg, &m, err);
}

/* Whoever reads the log while the worker is idle finds all of it. */
static void flush_log(struct sim *s)
{
    if (s->log && s->n == 0)
        fflush(s->log);
}

/* ---- options in the prompt ---- */

/* The last [[...]] of the prompt as ",key=value,key=value,", or "". Text of clients: nothing in it is trusted. */
static void find_options(struct sim *s, const struct msg_generate *g, char out[WRK_SIM_OPT_MAX])
{
    const char *open = NULL, *close;
    int64_t n_prompt = g->n_tok - g->n_committed;

    out[0] = 0;
    buf_clear(&s->text);
    for (int64_t i = 0; i < n_prompt; i++) {
        size_t n = 0;
        const char *bytes = tok_bytes(s->o->tok, g->tok[i], &n);
        buf_add(&s->text, bytes, n);
    }
    const char *p = s->text.data, *end = s->text.data + s->text.len;
    while ((p = memmem(p, (size_t)(end - p), "[[", 2))) {
        open = p + 2;
        p += 2;
    }
    close = open ? memmem(open, (size_t)(end - open), "]]", 2) : NULL;
    if (close && close - open < WRK_SIM_OPT_MAX - 3)
        snprintf(out, WRK_SIM_OPT_MAX, ",%.*s,", (int)(close - open), open);
}

static int64_t option(const char *opts, const char *key, int64_t otherwise)
{
    char *end;
    const char *at = strstr(opts, key);
    if (!at)
        return otherwise;
    at += strlen(key);
    errno = 0;
    long long v = strtoll(at, &end, 10);
    return end == at || errno || v < 0 ? otherwise : v;
}

/* Is the fault of these options meant for this worker? */
static bool is_for_us(const struct sim *s, const char *opts)
{
    const char *at = strstr(opts, ",fw=");
    size_t n = strlen(s->o->name);
    return !at || (strncmp(at + 4, s->o->name, n) == 0 && at[4 + n] == ',');
}

/* Microseconds of an option as nanoseconds; an hour is more than any test waits. */
static int64_t us_to_ns(int64_t us)
{
    const int64_t max_us = INT64_C(3600) * 1000000;
    return (us < max_us ? us : max_us) * 1000;
}

static void read_options(struct sim *s, const struct msg_generate *g, struct seq *q, int64_t now_ns)
{
    char opts[WRK_SIM_OPT_MAX];

    find_options(s, g, opts);
    bool ours = is_for_us(s, opts);
    q->id = option(opts, ",id=", 0);
    q->n = option(opts, ",n=", g->ignore_eos ? g->max_output : s->o->n_tok);
    if (q->n < g->min_output)
        q->n = g->min_output;
    q->itl_ns = us_to_ns(option(opts, ",itl_us=", s->o->itl_us));
    q->due_ns = now_ns + us_to_ns(option(opts, ",ttft_us=", s->o->ttft_us));
    q->cut_at = ours ? option(opts, ",cut_at=", -1) : -1;
    q->stall_at = ours ? option(opts, ",stall_at=", -1) : -1;
    q->bad_at = ours ? option(opts, ",bad_at=", -1) : -1;
    q->die_at = ours ? option(opts, ",die_at=", -1) : -1;
}

/* Where a sequence that comes with committed tokens goes on: after as many numbers as have tokens of their own, then
 * by their spelling. */
static void skip_committed(struct seq *q, int64_t n_committed)
{
    for (q->number = 0, q->n_out = n_committed; n_committed > 0; q->number++) {
        struct tok_ids ids = {0};
        if (q->number < TOK_SIM_NUMBERS) {
            int64_t n = TOK_SIM_NUMBERS - q->number < n_committed ? TOK_SIM_NUMBERS - q->number : n_committed;
            q->number += n - 1;
            n_committed -= n;
            continue;
        }
        tok_sim_add_number(q->number, &ids);
        if ((int64_t)ids.n > n_committed) { /* in the middle of one */
            q->rest = ids;
            q->rest_at = (size_t)n_committed;
            return;
        }
        n_committed -= (int64_t)ids.n;
        tok_ids_release(&ids);
    }
}

/* ---- the machine ---- */

static void sim_info(void *from, struct wrk_machine_info *info)
{
    const struct wrk_sim_opts *o = from;
    *info = (struct wrk_machine_info){.fingerprint = UINT64_C(0x73696d2f31), /* "sim/1" */
                                      .n_vocab = tok_n_vocab(o->tok),
                                      .n_ranks = 1,
                                      .kv_blocks = o->kv_tokens / BLOCK_TOK,
                                      .context_max = o->context_max,
                                      .numerics = numerics};
}

static int sim_open(void *from, int n_seq_max, wrk_emit_fn emit, void *arg, void **machine, struct err *err)
{
    const struct wrk_sim_opts *o = from;
    FILE *log = NULL;

    ASSERT(n_seq_max >= 1 && emit && o->n_tok >= 1);
    if (o->log_path) {
        log = fopen(o->log_path, "we");
        if (!log)
            return err_set(err, ERR_IO, "--sim-log %s: %s", o->log_path, strerror(errno));
        setvbuf(log, NULL, _IOFBF, LOG_BYTES);
    }
    struct sim *s = mem_zalloc(sizeof *s);
    s->o = o;
    s->n_seq_max = n_seq_max;
    s->emit = emit;
    s->arg = arg;
    s->heap = mem_array((size_t)n_seq_max, sizeof *s->heap);
    s->kv_blocks = o->kv_tokens / BLOCK_TOK;
    s->log = log;
    *machine = s;
    return 0;
}

static void sim_drop(void *machine)
{
    struct sim *s = machine;
    while (s->n > 0)
        seq_remove(s, s->heap[s->n - 1]);
    if (s->log)
        fflush(s->log);
}

static void sim_destroy(void **machine)
{
    struct sim *s = *machine;
    if (!s)
        return;
    sim_drop(s);
    if (s->log)
        fclose(s->log);
    buf_release(&s->text);
    mem_free(s->heap);
    mem_free(s);
    *machine = NULL;
}

/* NULL, or why this worker does not take it. */
static const char *refusal_of(const struct sim *s, const struct msg_generate *g, enum msg_fail *cls)
{
    *cls = MSG_FAIL_client;
    for (int64_t i = 0; i < g->n_tok; i++)
        if (g->tok[i] < 0 || g->tok[i] >= tok_n_vocab(s->o->tok))
            return "a token id is outside the vocabulary of the simulator";
    if (g->n_tok - g->n_committed >= s->o->context_max)
        return "the prompt leaves no room in the context";
    *cls = MSG_FAIL_overload;
    return s->n == s->n_seq_max ? "this worker has all its sequences" : NULL;
}

static int sim_add(void *machine, const struct msg_generate *g, int64_t now_ns, struct err *err)
{
    struct sim *s = machine;
    enum msg_fail cls;

    if (seq_find(s, g->request, g->attempt))
        return 0;
    const char *why = refusal_of(s, g, &cls);
    if (why)
        return emit_failed(s, g->request, g->epoch, g->attempt, cls, why, err);
    struct seq *q = mem_zalloc(sizeof *q), **bucket = bucket_of(s, g->request);
    q->epoch = g->epoch;
    memcpy(q->request, g->request, sizeof q->request);
    q->attempt = g->attempt;
    q->n_prompt = g->n_tok - g->n_committed;
    q->max_output = g->max_output;
    if (q->max_output > s->o->context_max - q->n_prompt)
        q->max_output = s->o->context_max - q->n_prompt;
    q->deadline_ns = g->deadline_ms > 0 ? now_ns + g->deadline_ms * 1000000 : INT64_MAX;
    read_options(s, g, q, now_ns);
    skip_committed(q, g->n_committed);
    q->after_think = tok_find(s->o->tok, "<think>") == g->tok[q->n_prompt - 1];
    q->bucket_next = *bucket;
    *bucket = q;
    s->heap[s->n] = q;
    q->at = s->n++;
    heap_settle(s, q->at);
    s->kv_used += blocks_of(q);
    s->n_prefilled += (uint64_t)g->n_tok;
    return q->n_out >= q->max_output || q->number >= q->n ? seq_finish(s, q, err) : 0;
}

static int sim_cancel(void *machine, const char *request, uint32_t attempt, struct err *err)
{
    struct sim *s = machine;
    struct seq *q = seq_find(s, request, attempt);
    if (!q)
        return 0;
    if (s->log)
        fprintf(s->log, "%" PRId64 " -1 %" PRId64 "\n", q->id, clock_mono_ns() / 1000);
    int rc = seq_fail(s, q, MSG_FAIL_canceled, "canceled", err);
    flush_log(s);
    return rc;
}

/* The next id of q is due. */
static int advance(struct sim *s, struct seq *q, int64_t now_ns, struct err *err)
{
    if (q->deadline_ns <= now_ns)
        return seq_fail(s, q, MSG_FAIL_deadline, "the deadline passed", err);
    if (q->n_out == q->die_at)
        kill(getpid(), SIGKILL);
    if (q->n_out == q->cut_at)
        return seq_fail(s, q, MSG_FAIL_worker, "cut_at", err);
    if (q->n_out == q->stall_at) {
        q->due_ns = q->deadline_ns;
        heap_settle(s, q->at);
        return 0;
    }
    if (q->rest_at == q->rest.n) {
        q->rest.n = q->rest_at = 0;
        tok_sim_add_number(q->number, &q->rest);
        if (q->n_out == 0 && q->after_think)
            q->rest.id[0] = TOK_SIM_FIRST;
    }
    int rc = emit_id(s, q, q->rest.id[q->rest_at++], err);
    if (rc)
        return rc;
    q->number += q->rest_at == q->rest.n;
    if (q->n_out >= q->max_output || q->number >= q->n)
        return seq_finish(s, q, err);
    /* Kept to the plan, so that many small delays do not add up; but what was slept through is not made up for. In a
     * flood everybody has one token a step. */
    q->due_ns += q->itl_ns;
    if (q->itl_ns == 0 || q->due_ns < now_ns - q->itl_ns)
        q->due_ns = now_ns + 1;
    heap_settle(s, q->at);
    return 0;
}

static int sim_step(void *machine, int64_t now_ns, struct err *err)
{
    struct sim *s = machine;
    int n_row = 0, max = s->n < STEP_MAX ? s->n : STEP_MAX, rc = 0;

    /* At most one token a sequence, so that commands are looked at between the tokens of a flood. */
    while (rc == 0 && n_row < max && s->n > 0 && s->heap[0]->due_ns <= now_ns) {
        rc = advance(s, s->heap[0], now_ns, err);
        n_row++;
    }
    flush_log(s);
    if (n_row)
        s->step_us = (clock_mono_ns() - now_ns) / 1000;
    return rc ? rc : n_row;
}

static int sim_n(const void *machine)
{
    const struct sim *s = machine;
    return s->n;
}

static int64_t sim_due_ns(const void *machine)
{
    const struct sim *s = machine;
    return s->n ? s->heap[0]->due_ns : INT64_MAX;
}

static void sim_beat(const void *machine, struct msg_heartbeat *beat)
{
    const struct sim *s = machine;
    int64_t kv_free = s->kv_blocks - s->kv_used;
    *beat = (struct msg_heartbeat){.running = s->n,
                                   .kv_blocks = s->kv_blocks,
                                   .kv_blocks_free = kv_free > 0 ? kv_free : 0,
                                   .step_us = s->step_us,
                                   .tokens_total = s->n_generated,
                                   .prefill_total = s->n_prefilled};
}

const struct wrk_machine_ops wrk_sim_machine = {
    .is_light = true,
    .info = sim_info,
    .open = sim_open,
    .destroy = sim_destroy,
    .add = sim_add,
    .cancel = sim_cancel,
    .drop = sim_drop,
    .step = sim_step,
    .n = sim_n,
    .due_ns = sim_due_ns,
    .beat = sim_beat,
};
