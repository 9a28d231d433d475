/* worker/engine/ep/ep.h - the seam between the ranks of one engine: rows to the experts' owners and results back.
 * Owns:     nothing itself; a provider makes the ends of a group and takes them back.
 * Lifetime: provider->open .. provider->close, inside the engine's; no rank may be in a call at close.
 * Thread:   each end belongs to its rank's thread; give_up, state and reading `beat` are allowed from any.
 * Limits:   ENG_RANKS_MAX ranks; every wait ends after deadline_ms.
 * Source:   spec/model.md section 8 (experts add in ascending id).
 *
 * Rank q of n owns the experts eng_ep_first(q) .. eng_ep_first(q+1). A step of a layer's experts, on every rank:
 *     moe_dispatch op      the rank's own (row, choice) pairs, sorted by expert of the whole model
 *     dispatch             pairs to their owners; an owner gets those of all ranks, sorted by its experts
 *     moe_up, moe_down     the owner's experts over all these rows
 *     combine              results back to where the pairs came from, in the places they had there
 *     moe_combine op       adds them in ascending expert id
 * A row's result depends on the row alone, so neither the number of ranks nor who came first changes a bit: the seam
 * moves bytes and adds nothing.
 *
 * dispatch, combine and barrier are COLLECTIVE: all ranks make the same calls in the same order, a rank without rows
 * too (its offset is all 0). Who waits for a rank that shows no sign of life for deadline_ms (it neither arrives nor
 * beats) ends the group: from then on every rank's calls return ERR_TIMEOUT with one text, "rank 2 did not arrive at
 * dispatch of layer 3 within 2000 ms". A rank that fails by itself calls give_up, and all others get its reason at
 * once. A group that has ended stays so; the process should end with WRK_EXIT_rank. Nothing waits for ever.
 */
#ifndef WORKER_ENGINE_EP_EP_H
#define WORKER_ENGINE_EP_EP_H

#include "common/base/err.h"
#include "kernels/include/ops.h"
#include "worker/engine/engine.h"

#include <stdatomic.h>
#include <stdint.h>

struct eng_ep;

/* All pointers are memory of the rank's device. d is the same on all ranks. */
struct eng_ep_dispatch_args {
    int32_t layer; /* for messages, and to notice ranks that are out of step */
    int32_t d;
    /* The rank's own pairs, as moe_dispatch with first = 0, n_local = n_expert made them. They and offset must stay as
     * they are until combine has returned. */
    const int32_t *offset; /* [n_expert+1] pairs of expert e: offset[e]..offset[e+1] */
    struct kn_act x;       /* [n_pair, d], the forms that are not NULL */
    const float *weight;   /* [n_pair] */
    /* Out: the pairs of all ranks that this rank's experts serve, by expert, then by rank, then as they were there.
     * Room for the pairs of all ranks of the step is needed. */
    int32_t *own_offset; /* [n_own+1] of the rank's experts */
    struct kn_act own_x; /* the same forms as x */
    float *own_weight;
};

struct eng_ep_combine_args {
    int32_t layer;
    int32_t d;
    const uint16_t *own_y; /* bf16, in the order of own_x; must stay until the next dispatch or barrier has returned */
    uint16_t *y;           /* bf16 [n_pair, d] out, in the order of x */
};

struct eng_ep_ops {
    /* 0; ERR_TIMEOUT: a rank did not come; ERR_STATE: a rank failed or is out of step. err always has the reason, the
     * same on all ranks. */
    int (*dispatch)(struct eng_ep *ep, const struct eng_ep_dispatch_args *a, struct err *err);
    int (*combine)(struct eng_ep *ep, const struct eng_ep_combine_args *a, struct err *err);
    int (*barrier)(struct eng_ep *ep, struct err *err);
    /* End the group ("abort"); the first reason given stays. Any thread, never waits. */
    void (*give_up)(struct eng_ep *ep, const struct err *why);
    /* 0, or the code and reason that the group ended with. Any thread. */
    int (*state)(struct eng_ep *ep, struct err *why);
};

/* One rank's end. A provider has it as the first member of its own. */
struct eng_ep {
    const struct eng_ep_ops *ops;
    int rank, n_ranks;
    _Atomic uint64_t beat; /* the rank's thread counts up whenever it gets on: who waits for it is patient so long */
};

struct eng_ep_opts {
    int n_ranks;      /* 1..ENG_RANKS_MAX */
    int32_t n_expert; /* of the whole model, at least n_ranks; need not be a multiple: shares differ by one then */
    int deadline_ms;
};

/* Who fills the seam: threads of one process (threads.h). One whose ranks are processes fills only its own end. */
struct eng_ep_provider {
    const char *name;
    int (*open)(const struct eng_ep_opts *opts, struct eng_ep *end[ENG_RANKS_MAX], struct err *err); /* ERR_MEM */
    void (*close)(struct eng_ep *end[ENG_RANKS_MAX]);
};

static inline int32_t eng_ep_first(int32_t n_expert, int n_ranks, int rank)
{
    return (int32_t)((int64_t)n_expert * rank / n_ranks);
}

static inline int eng_ep_owner(int32_t n_expert, int n_ranks, int32_t expert)
{
    return (int)((((int64_t)expert + 1) * n_ranks - 1) / n_expert);
}

#endif
