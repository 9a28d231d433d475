/* kernels/include/page.h - the stored form of cache entries: where the parts lie, and reading one back on the host.
 * Owns:     nothing.
 * Thread:   any.
 * Limits:   dim - rope a multiple of KN_KV_GROUP (else the last group is short).
 * Source:   spec/model.md sections 5.2 (448 E4M3 + 7 scales + 64 BF16), 6 and 7 (indexer: FP4 per 32).
 */
#ifndef KERNELS_INCLUDE_PAGE_H
#define KERNELS_INCLUDE_PAGE_H

#include "kernels/include/num.h"

#include <stddef.h>
#include <stdint.h>

/* Cache entries (raw and compressed) lie in pages of n entries, three planes one behind the other:
 *   e4m3 [n, dim-rope], bf16 [n, rope], e8m0 [n, n_scale] with n_scale = (dim-rope)/64 rounded up to 8
 * A state slot holds one page of `window` entries per layer (position p at index p mod window), a KV block one page of
 * 128/ratio entries per compressed layer. Pages are KN_PAGE_ALIGN-aligned. */
enum {
    KN_PAGE_ALIGN = 64,
    KN_KV_GROUP = 64,    /* values of a cache entry that share one scale */
    KN_INDEX_GROUP = 32, /* values of an indexer entry that share one scale */
};

struct kn_kv_shape {
    int32_t dim, rope;
};

static inline size_t kn_page_align(size_t bytes)
{
    return (bytes + KN_PAGE_ALIGN - 1) / KN_PAGE_ALIGN * KN_PAGE_ALIGN;
}
static inline size_t kn_kv_scale_stride(struct kn_kv_shape s)
{
    return (size_t)((s.dim - s.rope + KN_KV_GROUP - 1) / KN_KV_GROUP + 7) / 8 * 8;
}
static inline size_t kn_kv_page_bytes(struct kn_kv_shape s, int64_t n)
{
    return kn_page_align((size_t)n * ((size_t)(s.dim - s.rope) + 2 * (size_t)s.rope + kn_kv_scale_stride(s)));
}
static inline size_t kn_kv_rope_offset(struct kn_kv_shape s, int64_t n)
{
    return (size_t)n * (size_t)(s.dim - s.rope);
}
static inline size_t kn_kv_scale_offset(struct kn_kv_shape s, int64_t n)
{
    return kn_kv_rope_offset(s, n) + 2 * (size_t)n * (size_t)s.rope;
}

/* Indexer entries: pages of n, two planes: 2 x e2m1 [n, dim/2] (low nibble first), e8m0 [n, dim/32]. */
static inline size_t kn_index_page_bytes(int32_t dim, int64_t n)
{
    return kn_page_align((size_t)n * (size_t)(dim / 2 + (dim + KN_INDEX_GROUP - 1) / KN_INDEX_GROUP));
}
static inline size_t kn_index_scale_offset(int32_t dim, int64_t n)
{
    return (size_t)n * (size_t)(dim / 2);
}

/* Decode entry i of a page of n: the BF16 values that the model sees, exact in f64.  x [dim] out */
static inline void kn_kv_get(const uint8_t *page, struct kn_kv_shape kv, int64_t n, int64_t i, double *x)
{
    int nope = kv.dim - kv.rope;
    const uint8_t *q = page + i * nope;
    const uint16_t *rope = (const uint16_t *)(const void *)(page + kn_kv_rope_offset(kv, n)) + i * kv.rope;
    const uint8_t *s = page + kn_kv_scale_offset(kv, n) + (size_t)i * kn_kv_scale_stride(kv);

    for (int g = 0; g < nope; g += KN_KV_GROUP) {
        float scale = kn_e8m0_f32(s[g / KN_KV_GROUP]);
        for (int j = g; j < nope && j < g + KN_KV_GROUP; j++) /* the entry is a BF16 value to the model */
            x[j] = kn_round_bf16(kn_e4m3_f32[q[j]] * scale);
    }
    for (int j = 0; j < kv.rope; j++)
        x[nope + j] = kn_bf16_f32(rope[j]);
}

static inline void kn_index_get(const uint8_t *page, int dim, int64_t n, int64_t i, double *x)
{
    int n_scale = (dim + KN_INDEX_GROUP - 1) / KN_INDEX_GROUP;
    const uint8_t *q = page + i * (dim / 2);
    const uint8_t *s = page + kn_index_scale_offset(dim, n) + i * n_scale;

    for (int j = 0; j < dim; j += 2) {
        float scale = kn_e8m0_f32(s[j / KN_INDEX_GROUP]);
        x[j] = kn_round_bf16(kn_e2m1_f32[q[j / 2] & 15] * scale);
        x[j + 1] = kn_round_bf16(kn_e2m1_f32[q[j / 2] >> 4] * scale);
    }
}

#endif
