#include "kernels/cpu/cpu.h"

#include <string.h>

struct job {
    const struct kn_linear_group_args *a;
    const struct kn__isa *isa;
    struct kn__rows rows;
    size_t part_stride; /* from one group's inputs to the next, in a row */
    int64_t row0;
    int n_row;
};

/* The groups' inputs side by side, each expanded for itself. */
static void load(void *arg, int64_t row, int n, void *scratch)
{
    const struct job *j = arg;
    int64_t k = j->a->w.n_in;

    (void)scratch;
    for (int64_t r = row; r < row + n; r++)
        for (int64_t g = 0; g < j->a->n_group; g++)
            j->isa->mat->x_bf16(j->a->w.dtype, j->a->x + ((j->row0 + r) * j->a->n_group + g) * k, (int)k,
                           j->rows.x + (size_t)r * j->rows.stride + (size_t)g * j->part_stride);
}

/* Rows p..p+n_row of 128 outputs, which share one scale; a run of columns stays within its group. */
static void panel(const struct job *j, int64_t task, int64_t p, int n_row, struct kn__tile_mem *mem)
{
    const struct kn_linear_group_args *a = j->a;
    int64_t n_out = a->w.n_out, part = n_out / a->n_group, o0 = task * KN__COL_GROUP;
    int64_t end = o0 + KN__COL_GROUP < n_out ? o0 + KN__COL_GROUP : n_out;

    for (int64_t o = o0, n; o < end; o += n) {
        int64_t g = o / part, to = (g + 1) * part < end ? (g + 1) * part : end;
        const float *x = j->rows.x + (size_t)p * j->rows.stride + (size_t)g * j->part_stride;
        n = to - o;
        kn__cols_bf16(j->isa, &a->w, o, (int)n, x, j->rows.stride, n_row, mem, mem->col[0] + (o - o0), KN__COL_GROUP);
    }
    for (int64_t r = 0; r < n_row; r++) {
        const uint16_t *y = mem->col[0] + r * KN__COL_GROUP;
        int64_t row = j->row0 + p + r;
        if (a->y.x)
            memcpy(a->y.x + row * n_out + o0, y, (size_t)(end - o0) * sizeof *y);
        if (a->y.q)
            j->isa->vec->quantize(y, KN__COL_GROUP, a->y.q + row * n_out + o0,
                                  a->y.s + row * (n_out / KN_ACT_GROUP) + task);
    }
}

static void columns(void *arg, int64_t task, void *scratch)
{
    const struct job *j = arg;
    for (int64_t p = 0; p < j->n_row; p += KN__PANEL)
        panel(j, task, p, j->n_row - p < KN__PANEL ? (int)(j->n_row - p) : KN__PANEL, scratch);
}

int kn__cpu_linear_group(struct kn_ctx *ctx, const struct kn_linear_group_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    struct job j = {.a = a, .isa = kn__cpu(ctx)->isa};

    KN__NEED(a->n_group >= 1 && a->w.n_out % a->n_group == 0 && (!a->y.q || a->w.n_out % KN_ACT_GROUP == 0));
    KN__NEED(kn__rows_init(&j.rows, &s, a->w.n_in, a->n_group) == 0);
    j.part_stride = (size_t)(a->w.n_in + KN__GROUP - 1) / KN__GROUP * KN__GROUP;
    for (; j.row0 < a->n; j.row0 += j.n_row) {
        j.n_row = a->n - j.row0 < j.rows.n_max ? (int)(a->n - j.row0) : j.rows.n_max;
        kn__rows_run(ctx, j.n_row, 1, load, &j);
        kn__pool_run(kn__cpu(ctx)->pool, (a->w.n_out + KN__COL_GROUP - 1) / KN__COL_GROUP, columns, &j);
    }
    return 0;
}
