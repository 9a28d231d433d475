/* worker/kv/kv.h - the cache: KV blocks of 128 tokens, state slots, and the block list of each slot.
 * Owns:     all cache memory of a rank, taken in wrk_kv_init: one pool of blocks, one of slots, the block table.
 * Lifetime: from engine open to engine close; nothing is allocated in between.
 * Thread:   the engine thread only.
 * Limits:   n_block blocks and n_slot slots in all; a sequence has at most block_stride blocks.
 * Source:   spec/model.md sections 5.3, 6 and 10.
 *
 * A block holds, per CSA layer, 32 compressed entries and 32 indexer entries, and per HCA layer one compressed entry.
 * A slot holds, per layer, the window of raw entries and the compressors' tails. Both are a pure function of the
 * sequence's tokens. What a block or slot held before is never read: entries are written before they become visible.
 *
 * A full block may be in the lists of several slots and in the prefix cache (worker/kv/prefix.h) at once; nobody writes
 * into it then. A block that only the cache holds is *idle*: it is given up when a list needs it.
 */
#ifndef WORKER_KV_KV_H
#define WORKER_KV_KV_H

#include "common/base/err.h"
#include "kernels/include/ops.h"
#include "worker/model/config.h"

#include <stddef.h>
#include <stdint.h>

struct wrk_prefix;

/* Where one layer's part of the cache lies, on the device. Absent parts are NULL. */
struct wrk_kv_layer {
    uint8_t *pool;           /* block b at b*page_bytes: compressed entries */
    size_t page_bytes;
    uint8_t *index_pool;     /* CSA: block b at b*index_page_bytes */
    size_t index_page_bytes;
    uint8_t *ring;           /* slot s at s*ring_bytes: a page of sliding_window raw entries */
    size_t ring_bytes;
    float *tail, *index_tail; /* compress.tail of the attention and the indexer compressor */
    size_t tail_bytes, index_tail_bytes; /* of one slot */
};

struct wrk_kv {
    const struct kn_backend *backend;
    struct kn_ctx *ctx;
    int32_t n_slot, n_block, block_stride;
    uint64_t pool_bytes, state_bytes, table_bytes; /* the addends of the memory plan */
    uint64_t block_bytes, slot_bytes; /* of one block, of one slot, over all layers */

    int32_t n_layer;
    struct wrk_kv_layer *layer; /* [n_layer] */
    int32_t *block;             /* device: [n_slot, block_stride], kn_batch.block */

    void *pool_mem, *state_mem;
    int32_t *host_block;             /* the same on the host */
    int32_t *slot_n_block;           /* [n_slot] blocks that the slot's sequence holds */
    int32_t *free_block, *free_slot; /* stacks: the last given is the first taken */
    int32_t n_free_block, n_free_slot;

    int32_t *block_n_list;     /* [n_block] slots whose list the block is in */
    struct wrk_prefix *prefix; /* NULL: no prefix cache */
    int32_t n_idle_block;      /* blocks that only the prefix cache holds */
    uint64_t version;          /* changes whenever the prefix cache may answer differently */
};

/* Take all memory. ctx and backend must outlive kv. ERR_MEM or ERR_GPU with the sizes in err; then nothing is held. */
int wrk_kv_init(struct wrk_kv *kv, const struct kn_backend *backend, struct kn_ctx *ctx, const struct mdl_config *cfg,
                int32_t n_slot, int32_t n_block, int32_t block_stride, struct err *err);
void wrk_kv_release(struct wrk_kv *kv); /* repeatable; {0} allowed */

/* Take a state slot without blocks: its number, or ERR_LIMIT. */
int32_t wrk_kv_slot_take(struct wrk_kv *kv);
void wrk_kv_slot_give(struct wrk_kv *kv, int32_t slot); /* with its blocks */

/* Make the slot's block list long enough for n_tok tokens; idle blocks are given up for it. 0; ERR_LIMIT (nothing
 * taken); ERR_GPU. */
int wrk_kv_reserve(struct wrk_kv *kv, int32_t slot, int64_t n_tok);

/* Blocks that lists can still take: free and idle ones. */
static inline int32_t wrk_kv_blocks_left(const struct wrk_kv *kv)
{
    return kv->n_free_block + kv->n_idle_block;
}

/* Blocks of the slot's list that would be left, too, if the slot were given back. */
int32_t wrk_kv_blocks_own(const struct wrk_kv *kv, int32_t slot);

static inline int64_t wrk_kv_blocks_of(int64_t n_tok)
{
    return n_tok / KN_BLOCK_TOK + (n_tok % KN_BLOCK_TOK != 0);
}

#endif
