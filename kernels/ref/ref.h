/* kernels/ref/ref.h - what the reference ops share: decoding of matrices and activations, dot products, vectors.
 * Owns:     nothing; scratch is carved out of ctx->workspace.
 * Thread:   that of the ctx.
 * Limits:   KN__TILE rows at a time.
 *
 * `ref` is the oracle: every sum runs in f64 over its terms in rising index and is rounded to f32 once. E4M3, E2M1 and
 * BF16 values with power-of-two scales are exact in f64, so a quantized linear is "decode both sides, dot".
 */
#ifndef KERNELS_REF_REF_H
#define KERNELS_REF_REF_H

#include "kernels/include/num.h"
#include "kernels/include/ops.h"
#include "kernels/include/page.h"

enum {
    KN__TILE = 64, /* rows that share one decoding of the weights */
    KN__COLS = 8,  /* outputs that are summed side by side, each in its own order */
};

/* Leave the op with ERR_ARG if a shape is outside its limits. */
#define KN__NEED(cond)                                                                              \
    do {                                                                                            \
        if (!(cond))                                                                                \
            return ERR_ARG;                                                                         \
    } while (0)

#define X(name) int kn__ref_##name(struct kn_ctx *ctx, const struct kn_##name##_args *a);
KN_OP_LIST(X)
#undef X

/* ---- workspace ---- */

/* Hand out scratch from the front of the workspace; NULL if it does not fit. */
struct kn__scratch {
    char *at, *end;
};
struct kn__scratch kn__scratch(const struct kn_ctx *ctx);
void *kn__take(struct kn__scratch *s, size_t n, size_t elem_bytes);

/* ---- dot products (dot.c) ---- */

/* Scratch of one gemm: x f64 [KN__TILE, n_in], 8 decoded rows of w, y f32 [KN__TILE, n_out]. */
struct kn__gemm {
    double *x;
    double *w;
    float *y;
};
size_t kn__gemm_bytes(int64_t n_in, int64_t n_out);
int kn__gemm_init(struct kn__gemm *g, struct kn__scratch *s, int64_t n_in, int64_t n_out);

/* g->x[r] = rows row0.. of act (n_row of them, k inputs each), in the form that a matrix of dtype reads. */
void kn__gemm_load(struct kn__gemm *g, const struct kn_act *act, enum kn_dtype dtype, int64_t row0, int n_row, int k);

/* g->y[r][o] = sum over i of x[r][i] * w[o0+o][i], o < n_out, rounded to f32. */
void kn__gemm_run(struct kn__gemm *g, const struct kn_mat *w, int o0, int n_out, int n_row);

bool kn__is_quantized(enum kn_dtype dtype);

/* ---- vectors of one row (vec.c) ---- */

/* rsqrt(mean(x^2) + eps), x bf16 [n]. */
float kn__inv_rms(const uint16_t *x, int n, float eps);

/* y = x * inv_rms * weight in f32, rounded to BF16. */
void kn__rmsnorm(const uint16_t *x, const float *weight, int n, float eps, uint16_t *y);

/* Quantize one row (spec section 3): x bf16 [k] -> q [k], s [k/128]; row r of the act. */
void kn__act_put(const struct kn_act *to, int64_t r, int k, const uint16_t *x);

/* Rotate the last n values of x (n = 2*n_freq; interleaved pairs); sign -1: back. BF16 out. */
void kn__rope(uint16_t *x, int n, const float *cs, float sign);

/* cos and sin of the f32 product pos * freq. */
void kn__cos_sin(int32_t pos, float freq, float cs[2]);

/* Walsh-Hadamard in natural order, scaled n^-1/2; BF16 out. tmp f64 [n]. */
void kn__hadamard(uint16_t *x, int n, double *tmp);

/* Entry i of a page of n: rounded to the stored form (kernels/include/page.h). */
void kn__kv_put(uint8_t *page, struct kn_kv_shape kv, int64_t n, int64_t i, const uint16_t *x);
void kn__index_put(uint8_t *page, int dim, int64_t n, int64_t i, const uint16_t *x);

/* Sigmoid, the exponential in f64, the result f32. */
float kn__sigmoid(float x);

/* ---- parts of ops that other host back ends use as they are ---- */

/* The list of one row of attend: its window in position order, then its compressed entries. */
struct kn__list {
    const struct kn_attend_args *a;
    int64_t row;
    int32_t slot, pos, seq_pos, seq_row; /* of the row; where the step's own rows begin */
    int32_t n_window, n_entry;
};
struct kn__list kn__list_of(const struct kn_attend_args *a, int64_t row);
/* Where slot i of the list lies: entry *at of a page of *n. false: the slot is empty. */
bool kn__list_at(const struct kn__list *l, int i, const uint8_t **page, int64_t *n, int64_t *at);

/* The best top_k of entries that come piece by piece: a heap whose top is the worst. Higher scores are better, equal
 * ones by lower number, so that what is kept does not depend on the pieces. */
struct kn__best {
    int n, top_k;
    float *score;   /* [top_k] */
    int32_t *entry; /* [top_k] */
};
/* Entries i0 .. i0+n, all behind those added before; no score is NaN. */
void kn__best_add(struct kn__best *b, const float *score, int32_t i0, int32_t n);
/* choice [top_k]: ascending by number, -1 behind the last. The heap is no more. */
void kn__best_take(struct kn__best *b, int32_t *choice);

/* pre, post and comb of row r (spec section 4, steps 1 and 2) from m = fn . X and inv = rsqrt(mean(X^2) + eps). */
void kn__hc_weights(const struct kn_hc_pre_args *a, int64_t r, const float *m, float inv);

/* The finished entry of a block of compress: x bf16 [dim] pooled -> norm, rope, stored in the pool. p: last position
 * of the block. x is changed; tmp f64 [dim]. */
void kn__compress_put(const struct kn_compress_args *a, int32_t slot, int32_t p, uint16_t *x, double *tmp);

/* KV page of entry i of the sequence in slot: pool, 128/ratio entries a block. */
static inline size_t kn__entry_page(const struct kn_batch *b, int32_t slot, int32_t ratio, int32_t i, size_t page_bytes)
{
    int64_t block = b->block[(int64_t)slot * b->block_stride + (int64_t)i * ratio / KN_BLOCK_TOK];
    return (size_t)block * page_bytes;
}

#endif
