/* kernels/cpu/cpu.h - what the ops of the cpu back end share: the device, rows split over threads, the matrix loop.
 * Owns:     struct kn__cpu, between open and close of the device; it hangs at ctx->stream.
 * Thread:   that of the ctx; tasks also on the pool's.
 * Limits:   KN__ROWS rows share one expansion of the weights; heads of at most KN__DIM_MAX values. FP8 weight scales
 * up to 2^119 (they are applied together with a factor of 2^8).
 *
 * Work is split over output columns or over rows, never over the inputs of a sum (isa.h says why).
 */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/pool.h"
#include "kernels/ref/ref.h"

enum {
    KN__ROWS = 256,
    KN__COL_GROUP = 128, /* outputs of one task where they are quantized together */
    KN__DIM_MAX = KN__K_BLOCK, /* values of an attention or indexer head */
    KN__HEADS = 32,            /* heads of one attention task */
};

struct kn__cpu {
    const struct kn__isa *isa;
    struct kn__pool *pool;
};

static inline const struct kn__cpu *kn__cpu(const struct kn_ctx *ctx)
{
    return ctx->stream;
}

/* Scratch of a thread while it runs a task of a matrix op. */
struct kn__tile_mem {
    _Alignas(64) float w[KN__TILE_COLS * KN__K_BLOCK];
    _Alignas(64) float acc[KN__ROWS * KN__TILE_COLS * KN__LANES_MAX];
    _Alignas(64) float y[KN__ROWS * KN__TILE_COLS];
    _Alignas(64) uint16_t col[3][KN__ROWS * KN__COL_GROUP];
};

#define X(name) int kn__cpu_##name(struct kn_ctx *ctx, const struct kn_##name##_args *a);
KN_OP_LIST(X)
#undef X

/* ---- expanded activations ---- */

/* Rows of activations as the dot kernel reads them. */
struct kn__rows {
    float *x;      /* [n_row, stride] in the workspace */
    size_t stride; /* k rounded up to KN__GROUP */
    int n_max;     /* rows that fit, at most KN__ROWS */
};

size_t kn__rows_bytes(int64_t k);
/* Take room for rows of n_part parts of k inputs. ERR_ARG if not even one row fits. */
int kn__rows_init(struct kn__rows *rows, struct kn__scratch *s, int64_t k, int64_t n_part);
/* Expand rows row0.. (n of them) of act, for a matrix of dtype. */
void kn__rows_load(const struct kn_ctx *ctx, const struct kn__rows *rows, enum kn_dtype dtype, const struct kn_act *act,
                   int64_t row0, int n, int k);

/* ---- the matrix loop (gemm.c) ---- */

/* mem->y[r][c] = sum of x[r] * w[o+c], r < n_row, c < n_col <= KN__TILE_COLS. x: expanded rows, stride apart. */
void kn__tile(const struct kn__isa *isa, const struct kn_mat *w, int64_t o, int n_col, const float *x, size_t stride,
              int n_row, struct kn__tile_mem *mem);

/* BF16 of n_col outputs from o on into y [n_row, y_stride]. */
void kn__cols_bf16(const struct kn__isa *isa, const struct kn_mat *w, int64_t o, int n_col, const float *x,
                   size_t stride, int n_row, struct kn__tile_mem *mem, uint16_t *y, int64_t y_stride);

/* ---- rows of one op split over the threads ---- */

/* fn(arg, first row, rows, scratch) over 0..n in runs of at least `least` rows. */
typedef void kn__row_task(void *arg, int64_t row, int n, void *scratch);
void kn__rows_run(const struct kn_ctx *ctx, int64_t n, int least, kn__row_task *fn, void *arg);

/* y.x, y.q, y.s of row r from x [k] (what is NULL is left out). */
void kn__put_act(const struct kn__isa *isa, const struct kn_act *y, int64_t r, int k, const uint16_t *x);
/* RMSNorm of one row, BF16 out. */
void kn__norm_row(const struct kn__isa *isa, const uint16_t *x, const float *weight, int n, float eps, uint16_t *y);
float kn__row_inv_rms(const struct kn__isa *isa, const uint16_t *x, int n, float eps);

#endif
