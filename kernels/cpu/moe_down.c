#include "kernels/cpu/moe.h"

struct job {
    const struct kn_moe_down_args *a;
    const struct kn__isa *isa;
    struct kn__rows rows;
    const struct kn__segment *seg;
    int64_t row0;
};

static void columns(void *arg, int64_t task, void *scratch)
{
    const struct job *j = arg;
    const struct kn_moe_down_args *a = j->a;
    int n_group = a->d / KN__COL_GROUP;
    const struct kn__segment *seg = &j->seg[task / n_group];
    int64_t o = task % n_group * KN__COL_GROUP;

    for (int p = 0; p < seg->n; p += KN__PANEL) {
        int64_t row = seg->begin + p;
        kn__cols_bf16(j->isa, &a->expert[seg->expert].w2, o, KN__COL_GROUP,
                      j->rows.x + (size_t)(row - j->row0) * j->rows.stride, j->rows.stride,
                      seg->n - p < KN__PANEL ? seg->n - p : KN__PANEL, scratch, a->y + row * a->d + o, a->d);
    }
}

int kn__cpu_moe_down(struct kn_ctx *ctx, const struct kn_moe_down_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    struct job j = {.a = a, .isa = kn__cpu(ctx)->isa};
    int n_expert = a->offset ? a->n_expert : 1, n_row, n_seg;
    struct kn__segment *seg = kn__take(&s, (size_t)n_expert, sizeof *seg);

    KN__NEED(a->d % KN_ACT_GROUP == 0 && a->inter % KN_ACT_GROUP == 0 && seg);
    KN__NEED(kn__rows_init(&j.rows, &s, a->inter, 1) == 0);
    j.seg = seg;
    for (; (n_seg = kn__segments(a->offset, n_expert, a->n_row_max, j.row0, j.rows.n_max, seg, &n_row)) > 0;
         j.row0 += n_row) {
        kn__rows_load(ctx, &j.rows, a->w_dtype, &a->h, j.row0, n_row, a->inter);
        kn__pool_run(kn__cpu(ctx)->pool, (int64_t)n_seg * (a->d / KN__COL_GROUP), columns, &j);
    }
    return 0;
}
