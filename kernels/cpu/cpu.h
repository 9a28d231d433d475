/* kernels/cpu/cpu.h - what the ops of the cpu back end share: the device, rows split over threads, the matrix loop.
 * Owns:     struct kn__cpu, between open and close of the device; it hangs at ctx->stream.
 * Thread:   that of the ctx; tasks also on the pool's.
 * Limits:   KN__ROWS rows are expanded at a time, KN__PANEL of them go through a matrix together; heads of at most
 * KN__DIM_MAX values.
 *
 * Work is split over output columns or over rows, never over the inputs of a sum (isa.h says why).
 */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/pool.h"
#include "kernels/ref/ref.h"

enum {
    KN__ROWS = 512,
    KN__PANEL = 96,        /* rows whose block of inputs stays in the second-level cache */
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
    _Alignas(64) float y[KN__PANEL * KN__COL_GROUP]; /* sums, KN__COL_GROUP a row */
    _Alignas(64) uint16_t col[3][KN__PANEL * KN__COL_GROUP];
};

/* Scratch of a thread, whatever the op. */
enum { KN__SCRATCH_BYTES = 320 * 1024 };
_Static_assert(sizeof(struct kn__tile_mem) <= KN__SCRATCH_BYTES, "a thread's scratch holds it");

#define X(name) int kn__cpu_##name(struct kn_ctx *ctx, const struct kn_##name##_args *a);
KN_OP_LIST(X)
#undef X

/* ---- expanded activations ---- */

/* Rows of activations as the dot kernel reads them. */
struct kn__rows {
    float *x;      /* [n_row, stride] in the workspace */
    size_t stride; /* k rounded up to KN__GROUP, and a gap */
    int n_max;     /* rows that fit, at most KN__ROWS */
};

size_t kn__rows_bytes(int64_t k);
/* Take room for rows of n_part parts of k inputs. ERR_ARG if not even one row fits. */
int kn__rows_init(struct kn__rows *rows, struct kn__scratch *s, int64_t k, int64_t n_part);
/* Expand rows row0.. (n of them) of act, for a matrix of dtype. */
void kn__rows_load(const struct kn_ctx *ctx, const struct kn__rows *rows, enum kn_dtype dtype, const struct kn_act *act,
                   int64_t row0, int n, int k);

/* ---- the matrix loop (gemm.c) ---- */

/* mem->y[r][c] = sum of x[r] * w[o+c], r < n_row <= KN__PANEL, c < n_col <= KN__COL_GROUP; a row of y is KN__COL_GROUP
 * long. x: expanded rows, stride apart. */
void kn__cols(const struct kn__isa *isa, const struct kn_mat *w, int64_t o, int n_col, const float *x, size_t stride,
              int n_row, struct kn__tile_mem *mem);

/* The same, rounded to BF16, into y [n_row, y_stride]. */
void kn__cols_bf16(const struct kn__isa *isa, const struct kn_mat *w, int64_t o, int n_col, const float *x,
                   size_t stride, int n_row, struct kn__tile_mem *mem, uint16_t *y, int64_t y_stride);

/* Columns of a task, a multiple of KN__TILE_COLS up to KN__COL_GROUP: enough tasks for all threads. */
int kn__task_cols(const struct kn_ctx *ctx, int64_t n_out);

/* ---- the choice of entries (index_topk.c) ---- */

/* Workspace of one row of index_topk. */
size_t kn__topk_bytes(int32_t n_chunk, int32_t top_k);

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
