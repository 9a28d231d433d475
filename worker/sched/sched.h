/* worker/sched/sched.h - continuous batching: generations in, one engine step at a time, tokens out.
 * Owns:     its sequences (copies of their tokens), the logits of one step; the engine stays the caller's.
 * Lifetime: wrk_sched_new .. wrk_sched_destroy, inside the engine's.
 * Thread:   the engine thread only.
 * Limits:   n_seq_max sequences, waiting ones included: one more is answered with Failed{overload}. A sequence holds at
 *           most wrk_sched_context_max() tokens: its output ends there with `length`.
 *
 * Tenants share the rows fairly: each has a counter of the rows it was given, and who has had least comes first among
 * equal priorities (worker/sched/plan.h). One that comes anew starts at the least of the others, so that having been
 * away is no credit.
 *
 * States go into the engine's prefix cache at the end of what a sequence came with, at its last full block before (the
 * next turn of a conversation differs in the very last tokens: where this one opened its reasoning, that one closes
 * it), every WRK_SCHED_CUT_TOK tokens, and when it leaves the engine, for whatever reason. What comes next with the
 * same beginning computes only the rest.
 *
 * A token depends on the sequence's tokens, its settings and its position alone. Whatever happens here (chunks,
 * neighbours, preemption) changes when it comes, never which one.
 */
#ifndef WORKER_SCHED_SCHED_H
#define WORKER_SCHED_SCHED_H

#include "worker/sched/machine.h"

#include <stddef.h>

struct eng;
struct wrk_sched;

enum {
    WRK_SCHED_CUT_TOK = 8 * 128, /* tokens between two saved states on the way through a sequence */
    WRK_SCHED_CUT_TOK_MIN = 256, /* what begins with fewer gets no state of its own at its last full block */
};

struct wrk_sched_opts {
    struct eng *eng;
    int n_seq_max;   /* 1.. */
    int64_t cut_tok; /* 0: WRK_SCHED_CUT_TOK */
    wrk_emit_fn emit;
    void *arg;
};

struct wrk_sched_stats {
    int n_running, n_waiting;
    int64_t step_us;        /* last step */
    uint64_t n_generated, n_prefilled, n_preempted, n_step; /* since the start */
    uint64_t n_cached; /* prompt tokens that the prefix cache had */
};

/* ERR_MEM when the logits of one step do not fit into memory. */
int wrk_sched_new(const struct wrk_sched_opts *opts, struct wrk_sched **s, struct err *err);
void wrk_sched_destroy(struct wrk_sched **s);

/* Take a generation (everything is copied). What cannot be served is answered by emit at once: Failed{client} (ids
 * outside the vocabulary, too long for this worker), Failed{overload} (n_seq_max), Finished{length} (nothing left
 * to do). The same request and attempt twice is ignored. Returns 0 or the error of emit. */
int wrk_sched_add(struct wrk_sched *s, const struct msg_generate *g, int64_t now_ns, struct err *err);

/* End a sequence with Failed{canceled}; unknown ones are ignored (it may have finished meanwhile). */
int wrk_sched_cancel(struct wrk_sched *s, const char *request, uint32_t attempt, struct err *err);

/* Forget all sequences without a word: their epoch is over. */
void wrk_sched_drop(struct wrk_sched *s);

/* End what is past its deadline, run one step, sample, emit. Returns the number of rows computed, 0 when there is
 * nothing to do; ERR_GPU or ERR_STATE: the engine cannot be trusted any more; or the error of emit. */
int wrk_sched_step(struct wrk_sched *s, int64_t now_ns, struct err *err);

int wrk_sched_n(const struct wrk_sched *s); /* sequences, waiting ones included */
const struct wrk_sched_stats *wrk_sched_stats(const struct wrk_sched *s);

/* Tokens that one sequence may have on this engine: the context, or the whole pool if that is smaller. */
int64_t wrk_sched_context_max(const struct eng *eng);

#endif
