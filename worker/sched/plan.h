/* worker/sched/plan.h - who takes part in the next step, with how many tokens: a pure function over plain data.
 * Owns:     nothing.
 * Thread:   any.
 * Limits:   the budgets in struct wrk_plan_room.
 *
 * Order of service: higher priority first, then the tenant that was served least (share), then who came first. Order of
 * loss is by priority and arrival alone, so that the oldest of the highest priority is never thrown out. The rules, in
 * the order they are applied:
 *   1. A waiting sequence of higher priority than running ones takes their place if there is no other room, on the rank
 *      where that costs the fewest.
 *   2. Decode rows of running sequences. When the rank's pool has no block for one, the rank's last running sequence in
 *      the order of loss is preempted: it gives everything back and will be computed again from its tokens.
 *   3. Prefill chunks of running sequences, up to the budget of rows. A chunk ends at a border of cut_tok tokens rather
 *      than behind it, so that the state can be saved there.
 *   4. Admission of waiting ones, strictly in the order of service, while a rank has a slot, blocks for all their tokens
 *      and a block to grow for each of its sequences, and the step has a row. Not in a step that preempted for want of
 *      blocks. Among such ranks: the one whose prefix cache has most of it, then the one with the most free blocks.
 *
 * A sequence lives on one rank until it is put back; rows are counted over all ranks.
 */
#ifndef WORKER_SCHED_PLAN_H
#define WORKER_SCHED_PLAN_H

#include <stdbool.h>
#include <stdint.h>

enum { WRK_BLOCK_TOK = 128, WRK_PLAN_RANKS_MAX = 64 };

enum wrk_plan_act {
    WRK_PLAN_KEEP,    /* stays where it is */
    WRK_PLAN_ADMIT,   /* takes a slot and blocks for all its tokens */
    WRK_PLAN_PREEMPT, /* gives slot and blocks back */
};

/* What a rank's prefix cache has of a waiting sequence: tokens, and of their blocks those that a running one holds. */
struct wrk_plan_hit {
    int64_t n_tok, n_block_busy;
};

struct wrk_plan_seq {
    bool is_running;  /* has a slot */
    int32_t priority; /* higher first */
    uint64_t share;   /* rows that its tenant has had: lower first */
    uint64_t arrival; /* lower first; unique */
    int64_t n_tok;    /* known tokens: prompt and output */
    int rank;         /* running: where; waiting: out, where it is admitted */
    int64_t n_done;   /* running: of its tokens, those in the engine; below n_tok */
    int64_t n_block, n_block_own; /* running: blocks it holds; of those, free again without it */
    const struct wrk_plan_hit *hit; /* waiting: [n_rank]; NULL: no cache has anything */
    /* out */
    enum wrk_plan_act act;
    int n_row;           /* its next tokens in this step */
    int64_t n_block_new; /* blocks to take before the step, out of the free ones */
};

struct wrk_plan_rank {
    int n_slot_free;
    int64_t n_block_free;
};

struct wrk_plan_room {
    int n_row;       /* rows of one step */
    int n_seq_free;  /* sequences that may be admitted over all ranks */
    int64_t cut_tok; /* 0: chunks end anywhere */
    int n_rank;
    struct wrk_plan_rank rank[WRK_PLAN_RANKS_MAX];
};

/* Fill the out fields of seq[n]. order[n] is scratch. Returns the sum of n_row. */
int wrk_plan_make(const struct wrk_plan_room *room, struct wrk_plan_seq *seq, int n, int *order);

/* Blocks that n_tok tokens need. */
int64_t wrk_plan_blocks(int64_t n_tok);

#endif
