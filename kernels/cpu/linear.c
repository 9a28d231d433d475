#include "kernels/cpu/cpu.h"

#include <string.h>

struct job {
    const struct kn_linear_args *a;
    const struct kn__isa *isa;
    struct kn__rows rows;
    int64_t row0;
    int n_row, n_col; /* of the pass over the rows; outputs of a task */
};

/* n results of a row. */
static void put(const struct job *j, int64_t at, const float *v, int n)
{
    if (j->a->y_dtype == KN_F32) {
        memcpy((float *)j->a->y + at, v, (size_t)n * sizeof *v);
        return;
    }
    uint16_t *y = (uint16_t *)j->a->y + at;
    j->isa->vec->round(v, n, y);
    for (int i = 0; j->a->factor != 1 && i < n; i++)
        y[i] = kn_f32_bf16(kn_bf16_f32(y[i]) * j->a->factor);
}

static void columns(void *arg, int64_t task, void *scratch)
{
    const struct job *j = arg;
    struct kn__tile_mem *mem = scratch;
    int64_t n_out = j->a->w.n_out, o = task * j->n_col;
    int n_col = n_out - o < j->n_col ? (int)(n_out - o) : j->n_col;

    for (int64_t p = 0; p < j->n_row; p += KN__PANEL) {
        int n = j->n_row - p < KN__PANEL ? (int)(j->n_row - p) : KN__PANEL;
        kn__cols(j->isa, &j->a->w, o, n_col, j->rows.x + (size_t)p * j->rows.stride, j->rows.stride, n, mem);
        for (int64_t r = 0; r < n; r++)
            put(j, (j->row0 + p + r) * n_out + o, mem->y + r * KN__COL_GROUP, n_col);
    }
}

int kn__cpu_linear(struct kn_ctx *ctx, const struct kn_linear_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    struct job j = {.a = a, .isa = kn__cpu(ctx)->isa, .n_col = kn__task_cols(ctx, a->w.n_out)};

    KN__NEED(!kn__is_quantized(a->w.dtype) || a->w.n_in % KN_ACT_GROUP == 0);
    KN__NEED(a->y_dtype == KN_BF16 || (a->y_dtype == KN_F32 && a->factor == 1));
    KN__NEED(kn__rows_init(&j.rows, &s, a->w.n_in, 1) == 0);
    for (; j.row0 < a->n; j.row0 += j.n_row) {
        j.n_row = a->n - j.row0 < j.rows.n_max ? (int)(a->n - j.row0) : j.rows.n_max;
        kn__rows_load(ctx, &j.rows, a->w.dtype, &a->x, j.row0, j.n_row, a->w.n_in);
        kn__pool_run(kn__cpu(ctx)->pool, (a->w.n_out + j.n_col - 1) / j.n_col, columns, &j);
    }
    return 0;
}
