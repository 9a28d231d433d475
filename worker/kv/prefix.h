/* worker/kv/prefix.h - the prefix cache: what was computed once is taken over by the next sequence that begins alike.
 * Owns:     the tree of cached blocks, the saved states (host memory, taken in wrk_prefix_init).
 * Lifetime: inside that of the wrk_kv it belongs to (kv->prefix).
 * Thread:   the engine thread only.
 * Limits:   n_saved cut points; blocks of the pool. The least recently used cut point gives way.
 *
 * A *cut point* is a prefix at whose end a sequence's state was saved: its window, its compressors' tails, and the last
 * block if that is not full. The full blocks before it are nodes of a tree, found by the chained key of their tokens
 * (common/ds/prefix_key.h) and confirmed by the tokens themselves. A node lives as long as a cut point lies at or
 * below it; its block then goes back to the pool, unless a sequence still has it in its list.
 *
 * Invariant: a list that has a node's block has the blocks of all nodes above it. So below an idle block everything is
 * idle, and giving up cut points from the leaves on always frees blocks.
 *
 * Stepping back: a state after n tokens serves token n-1 again, too. The window holds n-1's predecessors that it may
 * see, the tails hold the whole block that it completes, and what it writes is what is there already. So a prompt
 * that is known to its end needs one row. Not so when n-1 is the last of a full block, which is not written to.
 */
#ifndef WORKER_KV_PREFIX_H
#define WORKER_KV_PREFIX_H

#include "common/ds/prefix_key.h"
#include "worker/kv/kv.h"

#include <stdbool.h>

enum {
    WRK_PREFIX_SAVED_MAX = 65536, /* saved states of one rank */
    WRK_PREFIX_NEWS_MAX = 4096,   /* changes not yet told; then everything is told anew */
};

/* What a new sequence would find. */
struct wrk_prefix_hit {
    int64_t n_tok;  /* tokens that need not be computed */
    int64_t n_busy; /* of its blocks, those that lists have now: they cost nothing */
};

struct wrk_prefix_stats {
    uint64_t n_saved, n_restored, n_restored_tok, n_given_up; /* since the start */
    uint64_t saved_bytes;                                     /* memory of all saved states */
};

/* Take the memory for n_saved cut points; 0: no cache. ERR_MEM, with the sum in err. */
int wrk_prefix_init(struct wrk_kv *kv, int32_t n_saved, struct err *err);
void wrk_prefix_release(struct wrk_kv *kv); /* repeatable */

/* The longest cut point that serves tok[n_tok]: at most n_tok-1 tokens, because the last one's logits are wanted. */
struct wrk_prefix_hit wrk_prefix_find(const struct wrk_kv *kv, const int32_t *tok, int64_t n_tok);

/* Take that cut point over into a slot that has no blocks. Returns its tokens, 0 if there is none or the pool has
 * no block for the copy of its last one, ERR_GPU. */
int64_t wrk_prefix_restore(struct wrk_kv *kv, int32_t slot, const int32_t *tok, int64_t n_tok);

/* Keep the state of a slot whose sequence has exactly the tokens tok[n_tok] as a cut point; n_tok >= 1. A block of
 * the slot's list that the cache has already is replaced by the cache's. is_step: one of many on the way through a long
 * prompt; these take at most half of the saved states from the others. 0 (nothing kept without a cache), ERR_GPU. */
int wrk_prefix_save(struct wrk_kv *kv, int32_t slot, const int32_t *tok, int64_t n_tok, bool is_step);

/* Give up every cut point. */
void wrk_prefix_clear(struct wrk_kv *kv);

/* Move up to n changes since the last call into news and return their number; call again until it is less than n. */
int wrk_prefix_take_news(struct wrk_kv *kv, struct prefix_news *news, int n);
void wrk_prefix_tell_all(struct wrk_kv *kv); /* the news from here on are a list of everything */
bool wrk_prefix_has_lost_news(const struct wrk_kv *kv); /* nobody took them: only telling all makes them true again */

const struct wrk_prefix_stats *wrk_prefix_stats(const struct wrk_kv *kv); /* zeros without a cache */

/* ---- between kv.c and prefix.c ---- */

bool wrk__prefix_has(const struct wrk_kv *kv, int32_t block);
/* Give up cut points until an idle block is free. False: there is none to give up. */
bool wrk__prefix_give_block(struct wrk_kv *kv);
void wrk__kv_list_add(struct wrk_kv *kv, int32_t block);
void wrk__kv_list_remove(struct wrk_kv *kv, int32_t block);

#endif
