#include "worker/kv/kv.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "worker/kv/prefix.h"

#include <inttypes.h>

/* Bytes of one slot's tail of a compressor: k and g of 1 or 2 blocks in f32 (a multiple of KN_PAGE_ALIGN, as
 * 2*ratio*c*c is one of 16). */
static size_t tail_bytes(enum mdl_layer_kind kind, int32_t dim)
{
    size_t c = kind == MDL_CSA ? 2 : 1;
    return 2 * c * (size_t)kind * c * (size_t)dim * sizeof(float);
}

/* Lay the layers' parts out one behind the other and sum them up; with pools (not NULL) the pointers are set, too. */
static void lay_out(struct wrk_kv *kv, const struct mdl_config *cfg, uint8_t *pool, uint8_t *state)
{
    struct kn_kv_shape shape = {cfg->head_dim, cfg->qk_rope_head_dim};
    uint64_t pool_at = 0, state_at = 0;

    for (int32_t i = 0; i < kv->n_layer; i++) {
        struct wrk_kv_layer *l = &kv->layer[i];
        enum mdl_layer_kind kind = cfg->layer_kind[i];
        int64_t per_block = kind ? KN_BLOCK_TOK / (int64_t)kind : 0;

        l->ring_bytes = kn_kv_page_bytes(shape, cfg->sliding_window);
        l->ring = state ? state + state_at : NULL;
        state_at += (uint64_t)kv->n_slot * l->ring_bytes;
        if (kind) {
            l->page_bytes = kn_kv_page_bytes(shape, per_block);
            l->pool = pool ? pool + pool_at : NULL;
            pool_at += (uint64_t)kv->n_block * l->page_bytes;
            l->tail = state ? (float *)(void *)(state + state_at) : NULL;
            l->tail_bytes = tail_bytes(kind, cfg->head_dim);
            state_at += (uint64_t)kv->n_slot * l->tail_bytes;
        }
        if (kind == MDL_CSA) {
            l->index_page_bytes = kn_index_page_bytes(cfg->index_head_dim, per_block);
            l->index_pool = pool ? pool + pool_at : NULL;
            pool_at += (uint64_t)kv->n_block * l->index_page_bytes;
            l->index_tail = state ? (float *)(void *)(state + state_at) : NULL;
            l->index_tail_bytes = tail_bytes(kind, cfg->index_head_dim);
            state_at += (uint64_t)kv->n_slot * l->index_tail_bytes;
        }
    }
    kv->pool_bytes = pool_at;
    kv->state_bytes = state_at;
    kv->block_bytes = pool_at / (uint64_t)kv->n_block;
    kv->slot_bytes = state_at / (uint64_t)kv->n_slot;
}

int wrk_kv_init(struct wrk_kv *kv, const struct kn_backend *backend, struct kn_ctx *ctx, const struct mdl_config *cfg,
                int32_t n_slot, int32_t n_block, int32_t block_stride, struct err *err)
{
    const struct kn_device *dev = backend->device;
    void *table = NULL;
    int rc;

    ASSERT(n_slot >= 1);
    ASSERT(n_block >= 1 && block_stride >= 1 && block_stride <= n_block);
    *kv = (struct wrk_kv){.backend = backend, .ctx = ctx, .n_slot = n_slot, .n_block = n_block,
                          .block_stride = block_stride, .n_layer = cfg->num_hidden_layers};
    kv->layer = mem_array((size_t)kv->n_layer, sizeof *kv->layer);
    lay_out(kv, cfg, NULL, NULL);
    kv->table_bytes = (uint64_t)n_slot * (uint64_t)block_stride * sizeof *kv->block;
    if ((rc = dev->alloc(ctx, kv->pool_bytes, &kv->pool_mem)) ||
        (rc = dev->alloc(ctx, kv->state_bytes, &kv->state_mem)) || (rc = dev->alloc(ctx, kv->table_bytes, &table))) {
        err_set(err, rc,
                "KV cache: no memory for %" PRIu64 " MiB of blocks, %" PRIu64 " MiB of state slots and %" PRIu64
                " MiB of block tables; give it fewer tokens or sequences",
                kv->pool_bytes >> 20, kv->state_bytes >> 20, kv->table_bytes >> 20);
        wrk_kv_release(kv);
        return rc;
    }
    kv->block = table;
    kv->slot_n_block = mem_array((size_t)n_slot, sizeof *kv->slot_n_block);
    kv->free_slot = mem_array((size_t)n_slot, sizeof *kv->free_slot);
    kv->free_block = mem_array((size_t)n_block, sizeof *kv->free_block);
    kv->block_n_list = mem_array((size_t)n_block, sizeof *kv->block_n_list);
    kv->host_block = mem_array((size_t)n_slot * (size_t)block_stride, sizeof *kv->host_block);
    lay_out(kv, cfg, kv->pool_mem, kv->state_mem);
    for (int32_t i = n_block - 1; i >= 0; i--)
        kv->free_block[kv->n_free_block++] = i;
    for (int32_t i = n_slot - 1; i >= 0; i--)
        kv->free_slot[kv->n_free_slot++] = i;
    return 0;
}

void wrk_kv_release(struct wrk_kv *kv)
{
    if (!kv->backend)
        return;
    const struct kn_device *dev = kv->backend->device;
    wrk_prefix_release(kv);
    dev->release(kv->ctx, kv->block);
    dev->release(kv->ctx, kv->state_mem);
    dev->release(kv->ctx, kv->pool_mem);
    mem_free(kv->host_block);
    mem_free(kv->block_n_list);
    mem_free(kv->free_block);
    mem_free(kv->free_slot);
    mem_free(kv->slot_n_block);
    mem_free(kv->layer);
    *kv = (struct wrk_kv){0};
}

int32_t wrk_kv_slot_take(struct wrk_kv *kv)
{
    if (kv->n_free_slot == 0)
        return ERR_LIMIT;
    int32_t slot = kv->free_slot[--kv->n_free_slot];
    ASSERT(kv->slot_n_block[slot] == 0);
    return slot;
}

void wrk__kv_list_add(struct wrk_kv *kv, int32_t block)
{
    if (kv->block_n_list[block]++ == 0 && wrk__prefix_has(kv, block)) {
        kv->n_idle_block--;
        kv->version++;
    }
}

void wrk__kv_list_remove(struct wrk_kv *kv, int32_t block)
{
    ASSERT(kv->block_n_list[block] > 0);
    if (--kv->block_n_list[block] > 0)
        return;
    if (!wrk__prefix_has(kv, block)) {
        kv->free_block[kv->n_free_block++] = block;
        return;
    }
    kv->n_idle_block++;
    kv->version++;
}

void wrk_kv_slot_give(struct wrk_kv *kv, int32_t slot)
{
    ASSERT(slot >= 0 && slot < kv->n_slot);
    ASSERT(kv->n_free_slot < kv->n_slot);
    const int32_t *list = kv->host_block + (size_t)slot * (size_t)kv->block_stride;
    while (kv->slot_n_block[slot] > 0)
        wrk__kv_list_remove(kv, list[--kv->slot_n_block[slot]]);
    kv->free_slot[kv->n_free_slot++] = slot;
}

int32_t wrk_kv_blocks_own(const struct wrk_kv *kv, int32_t slot)
{
    const int32_t *list = kv->host_block + (size_t)slot * (size_t)kv->block_stride;
    int32_t n = 0;
    for (int32_t i = 0; i < kv->slot_n_block[slot]; i++)
        n += kv->block_n_list[list[i]] == 1;
    return n;
}

int wrk_kv_reserve(struct wrk_kv *kv, int32_t slot, int64_t n_tok)
{
    int64_t need = wrk_kv_blocks_of(n_tok);
    int32_t have = kv->slot_n_block[slot];
    int32_t *list = kv->host_block + (size_t)slot * (size_t)kv->block_stride;

    ASSERT(slot >= 0 && slot < kv->n_slot);
    if (need <= have)
        return 0;
    if (need > kv->block_stride || need - have > wrk_kv_blocks_left(kv))
        return ERR_LIMIT;
    while (kv->n_free_block < need - have)
        if (!wrk__prefix_give_block(kv))
            return ERR_LIMIT; /* a cut point that is just being restored holds the last ones */
    for (int64_t i = have; i < need; i++)
        list[i] = kv->free_block[kv->n_free_block - 1 - (i - have)];
    int rc = kv->backend->device->copy_in(kv->ctx, kv->block + (list - kv->host_block) + have, list + have,
                                          (size_t)(need - have) * sizeof *list);
    if (rc)
        return rc;
    for (int64_t i = have; i < need; i++)
        kv->block_n_list[list[i]] = 1;
    kv->n_free_block -= (int32_t)(need - have);
    kv->slot_n_block[slot] = (int32_t)need;
    return 0;
}
