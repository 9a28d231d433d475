/* kernels/cpu/isa.h - what an instruction set gives to the cpu back end: matrix kernels and vector kernels.
 * Owns:     nothing; static tables.
 * Thread:   any.
 *
 * A file per instruction set fills these tables; everything else of the back end is written once. An expanded row is
 * f32 in the order that suits the decoding of the weights' dtype (the same order on both sides of a dot product), a
 * reordering within groups of KN__GROUP values, zeros behind the last.
 *
 * Numerics: inputs come in blocks of KN__K_BLOCK. In a block, lane l sums x*w over the positions l, l+lanes, .. in
 * rising order, each one FMA in f32; the lanes are added in one fixed tree; the blocks' sums are added in rising order.
 * Nothing else enters: not the other rows, nor how many there are, nor which of the two kernels did it, nor the thread.
 * That is what makes batches and chunks exact.
 */
#ifndef KERNELS_CPU_ISA_H
#define KERNELS_CPU_ISA_H

#include "kernels/include/ops.h"

enum {
    KN__GROUP = 128,    /* values that a decoding may reorder among themselves */
    KN__K_BLOCK = 512,  /* inputs summed and expanded at a time: a tile of weights stays in L1 */
    KN__TILE_COLS = 8,  /* outputs of a tile of weights */
    KN__FEW_MAX = 12,   /* rows up to which weights are expanded in registers, again for every few rows */
    KN__E4M3_BIG = 134, /* weight scales from this code on: only the kernel for many rows */
    KN__POOL_MAX = 128, /* tokens of one compressed entry, 8 at ratio 4 */
};

/* Few rows, no scale of KN__E4M3_BIG or more: weights go from their stored form into registers and from there into the
 * sums. y[r][c] = sum of x[r] * w[o+c], c < n_col. */
struct kn__few {
    const struct kn_mat *w;
    int64_t o;
    int n_col;
    const float *x;  /* n_row <= KN__FEW_MAX expanded rows, x_stride apart */
    size_t x_stride;
    int n_row;
    float *y;        /* [n_row, y_stride], y_stride >= n_col rounded up to KN__TILE_COLS */
    size_t y_stride;
};

/* Many rows: one block of inputs of a tile of expanded weights against all of them; y is set by the first block and
 * added to by the others. */
struct kn__dot {
    const float *x;      /* n_row rows, x_stride apart */
    size_t x_stride;
    const float *w;      /* n_col rows (a multiple of 4, at most KN__TILE_COLS), KN__K_BLOCK apart */
    int n_row, n_col, k; /* k a multiple of KN__GROUP, at most KN__K_BLOCK */
    bool is_first;
    float *y;            /* [n_row, y_stride], n_col of them */
    size_t y_stride;
};

struct kn__mat {
    /* Fill tables; called once, before any other. */
    void (*init)(void);
    /* Expand inputs k0.. (n of them) of row o of w. k0 a multiple of KN__K_BLOCK. to has room for n rounded up to
     * KN__GROUP; what lies behind n is set to 0. ahead: row to prefetch. */
    void (*w_row)(const struct kn_mat *w, int64_t o, int k0, int n, int64_t ahead, float *to);
    /* Expand activations for a matrix of dtype: e4m3 with scales, and bf16. The same order as w_row. */
    void (*x_codes)(enum kn_dtype dtype, const uint8_t *q, const uint8_t *s, int n, float *to);
    void (*x_bf16)(enum kn_dtype dtype, const uint16_t *x, int n, float *to);

    void (*few)(const struct kn__few *f);
    void (*dot)(const struct kn__dot *d);
};

struct kn__vec {
    /* sum of x^2, x bf16 [n]. */
    float (*sum_squares)(const uint16_t *x, int n);
    /* sum of x^2, each square rounded to BF16 first, and x = BF16 of x * factor. */
    float (*sum_rounded_squares)(const uint16_t *x, int n);
    void (*times)(uint16_t *x, float factor, int n);
    /* Quantize one row (spec section 3): the bits of kn__act_put. */
    void (*quantize)(const uint16_t *x, int k, uint8_t *q, uint8_t *s);
    /* Quantize one indexer entry, n a multiple of KN_INDEX_GROUP: the bits of kn__index_put. */
    void (*quantize_e2m1)(const uint16_t *x, int n, uint8_t *q, uint8_t *s);
    /* y = BF16 of v [n]. */
    void (*round)(const float *v, int n, uint16_t *y);
    /* y = x * inv * weight, BF16 out. */
    void (*scale)(const uint16_t *x, float inv, const float *weight, int n, uint16_t *y);
    /* u = sum_j pre[j] X[j], and X[k] = post[k] y + sum_j comb[j][k] X[j] of one row (spec section 4, steps 3 and 4).
     */
    void (*hc_in)(const uint16_t *X, const float *pre, int hc, int d, uint16_t *u);
    void (*hc_out)(const uint16_t *y, const float *post, const float *comb, int hc, int d, uint16_t *X);
    /* h = silu(gate) * up * weight with the clamps of spec section 8, BF16 out; limit 0: no clamp. */
    void (*swiglu)(const uint16_t *gate, const uint16_t *up, float limit, float weight, int n, uint16_t *h);

    /* Softmax-weighted sums over n <= KN__POOL_MAX tokens for n_ch channels side by side, BF16 out: token t has its k
     * and g at k[t], g[t]. */
    void (*pool)(const float *const *k, const float *const *g, int n, int n_ch, uint16_t *x);

    /* Attention (spec section 5.4). Decode entry i of a page of n in natural order, zeros up to KN__GROUP. */
    void (*kv_entry)(const uint8_t *page, struct kn_kv_shape kv, int64_t n, int64_t i, float *to);
    /* score [KN_ATTN_GROUP], -infinity where there is nothing -> its weights relative to top, rounded to BF16; returns
     * their sum before rounding. */
    float (*weights)(float *score, float top);
    /* acc[h] = acc[h]*shrink[h] + sum over j < n of p[h][j] * e[j], dim values (a multiple of KN__GROUP); p rows are
     * KN_ATTN_GROUP apart, e rows KN__K_BLOCK. */
    void (*add_entries)(const float *p, const float *shrink, const float *e, int n, int n_head, int dim, float *acc);
    /* o = bf16(acc / den). */
    void (*divide)(const float *acc, float den, int n, uint16_t *o);

    /* Indexer (spec section 7). One page entry -> twice its E2M1 values [dim] and its scales / 2 [dim/32]. */
    void (*index_entry)(const uint8_t *page, int dim, int64_t n, int64_t i, int8_t *v, float *s);
    /* sum over heads of w[h] * relu(q[h] . key); NaN gives -infinity. */
    float (*index_score)(const int8_t *q, const float *q_s, const float *w, int n_head, const int8_t *key,
                         const float *key_s, int dim);
};

struct kn__isa {
    const struct kn__mat *mat;
    const struct kn__vec *vec;
};

/* The best that this machine runs, or NULL; *missing then names what it lacks. */
const struct kn__isa *kn__isa_find(const char **missing);

extern const struct kn__mat kn__mat_avx2, kn__mat_avx512;
extern const struct kn__vec kn__vec_avx2;

#endif
