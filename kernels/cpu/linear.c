#include "kernels/cpu/cpu.h"

enum { COLS = 32 }; /* outputs of one task */

struct job {
    const struct kn_linear_args *a;
    const struct kn__isa *isa;
    struct kn__rows rows;
    int64_t row0;
    int n_row;
};

static void put(const struct kn_linear_args *a, int64_t at, float v)
{
    if (a->y_dtype == KN_F32)
        ((float *)a->y)[at] = v;
    else if (a->factor == 1)
        ((uint16_t *)a->y)[at] = kn_f32_bf16(v);
    else
        ((uint16_t *)a->y)[at] = kn_f32_bf16(kn_round_bf16(v) * a->factor);
}

static void columns(void *arg, int64_t task, void *scratch)
{
    const struct job *j = arg;
    struct kn__tile_mem *mem = scratch;
    int64_t n_out = j->a->w.n_out, end = (task + 1) * COLS < n_out ? (task + 1) * COLS : n_out;

    for (int64_t o = task * COLS; o < end; o += KN__TILE_COLS) {
        int n = end - o < KN__TILE_COLS ? (int)(end - o) : KN__TILE_COLS;
        kn__tile(j->isa, &j->a->w, o, n, j->rows.x, j->rows.stride, j->n_row, mem);
        for (int64_t r = 0; r < j->n_row; r++)
            for (int c = 0; c < n; c++)
                put(j->a, (j->row0 + r) * n_out + o + c, mem->y[r * KN__TILE_COLS + c]);
    }
}

int kn__cpu_linear(struct kn_ctx *ctx, const struct kn_linear_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    struct job j = {.a = a, .isa = kn__cpu(ctx)->isa};

    KN__NEED(!kn__is_quantized(a->w.dtype) || a->w.n_in % KN_ACT_GROUP == 0);
    KN__NEED(a->y_dtype == KN_BF16 || (a->y_dtype == KN_F32 && a->factor == 1));
    KN__NEED(kn__rows_init(&j.rows, &s, a->w.n_in, 1) == 0);
    for (; j.row0 < a->n; j.row0 += j.n_row) {
        j.n_row = a->n - j.row0 < j.rows.n_max ? (int)(a->n - j.row0) : j.rows.n_max;
        kn__rows_load(ctx, &j.rows, a->w.dtype, &a->x, j.row0, j.n_row, a->w.n_in);
        kn__pool_run(kn__cpu(ctx)->pool, (a->w.n_out + COLS - 1) / COLS, columns, &j);
    }
    return 0;
}
