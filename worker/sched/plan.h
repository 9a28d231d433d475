/* worker/sched/plan.h - who takes part in the next step, with how many tokens: a pure function over plain data.
 * Owns:     nothing.
 * Thread:   any.
 * Limits:   the budgets in struct wrk_plan_room.
 *
 * Order of service: higher priority first, then the tenant that was served least (share), then who came first. Order of
 * loss is by priority and arrival alone, so that the oldest of the highest priority is never thrown out. The rules, in
 * the order they are applied:
 *   1. A waiting sequence of higher priority than a running one takes its place if there is no other room.
 *   2. Decode rows of running sequences. When the pool has no block for one, the last running sequence in the order of
 *      loss is preempted: it gives everything back and will be computed again from its tokens.
 *   3. Prefill chunks of running sequences, up to the budget of rows. A chunk ends at a border of cut_tok tokens rather
 *      than behind it, so that the state can be saved there.
 *   4. Admission of waiting ones, strictly in the order of service, while there is a slot, a row, and blocks for all
 *      their tokens and a block to grow for each sequence. Not in a step that preempted for want of blocks.
 *
 * With several ranks a sequence lives on one, whose slots and blocks it uses: a preemption helps only those of the same
 * rank. A waiting sequence goes, among the ranks that have room for it, to the one whose prefix cache has most of it,
 * then to the one with most free blocks, then to the one with the fewest sequences. Rows are the step's, of all ranks
 * together; prefill rows are shared evenly among the ranks that have any to do: the slowest rank ends the step.
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

/* What the prefix cache of one rank will bring. */
struct wrk_plan_hit {
    int64_t n_tok, n_block_busy;
};

struct wrk_plan_seq {
    bool is_running;  /* has a slot */
    int rank;         /* running: where; out: where it is admitted */
    int32_t priority; /* higher first */
    uint64_t share;   /* rows that its tenant has had: lower first */
    uint64_t arrival; /* lower first; unique */
    int64_t n_tok;    /* known tokens: prompt and output */
    int64_t n_done;   /* of those, in the engine; waiting: what the prefix cache will bring; below n_tok */
    int64_t n_block;  /* blocks it holds */
    int64_t n_block_own;  /* of those, free again without it */
    int64_t n_block_busy; /* waiting: blocks that the prefix cache will bring and a running sequence holds */
    const struct wrk_plan_hit *hit; /* waiting: [n_rank] n_done and n_block_busy by rank; NULL: those on every rank */
    /* out */
    enum wrk_plan_act act;
    int n_row;           /* its next tokens in this step */
    int64_t n_block_new; /* blocks to take before the step, out of the free ones */
};

struct wrk_plan_room {
    int n_row;       /* rows of one step */
    int64_t cut_tok; /* 0: chunks end anywhere */
    int n_rank;      /* 1..WRK_PLAN_RANKS_MAX */
    struct {
        int n_slot_free;
        int64_t n_block_free;
    } rank[WRK_PLAN_RANKS_MAX];
};

/* Fill the out fields of seq[n]; of those admitted n_done becomes that of their rank. order[n] is scratch. Returns
 * the sum of n_row. */
int wrk_plan_make(const struct wrk_plan_room *room, struct wrk_plan_seq *seq, int n, int *order);

/* Blocks that n_tok tokens need. */
int64_t wrk_plan_blocks(int64_t n_tok);

#endif
