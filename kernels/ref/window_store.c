#include "kernels/ref/ref.h"

#include <string.h>

/* Copy entry i of a page of n to entry j of a page of m: three planes. */
static void copy_entry(struct kn_kv_shape kv, const uint8_t *from, int64_t n, int64_t i, uint8_t *to, int64_t m,
                       int64_t j)
{
    size_t nope = (size_t)(kv.dim - kv.rope), rope = 2 * (size_t)kv.rope, scale = kn_kv_scale_stride(kv);

    memcpy(to + (size_t)j * nope, from + (size_t)i * nope, nope);
    memcpy(to + kn_kv_rope_offset(kv, m) + (size_t)j * rope, from + kn_kv_rope_offset(kv, n) + (size_t)i * rope, rope);
    memcpy(to + kn_kv_scale_offset(kv, m) + (size_t)j * scale, from + kn_kv_scale_offset(kv, n) + (size_t)i * scale,
           scale);
}

int kn__ref_window_store(struct kn_ctx *ctx, const struct kn_window_store_args *a)
{
    const struct kn_batch *b = a->batch;

    (void)ctx;
    KN__NEED(a->window >= 1);
    for (int32_t s = 0; s < b->n_seq; s++) {
        int32_t n = b->seq_n_tok[s], keep = n < a->window ? n : a->window;
        uint8_t *ring = a->ring + (size_t)b->seq_slot[s] * a->ring_bytes;
        for (int32_t i = n - keep; i < n; i++)
            copy_entry(a->kv, a->fresh, b->n_tok, b->seq_row[s] + i, ring, a->window, (b->seq_pos[s] + i) % a->window);
    }
    return 0;
}
