#include "kernels/cpu/moe.h"

#include <string.h>

int kn__segments(const int32_t *offset, int n_expert, int64_t n_row_max, int64_t row, int n_max,
                 struct kn__segment *list, int *n)
{
    int n_seg = 0;

    *n = 0;
    for (int e = 0; e < n_expert && *n < n_max; e++) {
        int64_t begin = offset ? offset[e] : 0, end = offset ? offset[e + 1] : n_row_max;
        if (end <= row)
            continue;
        begin = begin < row ? row : begin;
        int64_t m = end - begin < n_max - *n ? end - begin : n_max - *n;
        if (m <= 0)
            continue;
        list[n_seg++] = (struct kn__segment){begin, (int)m, e};
        *n += (int)m;
    }
    return n_seg;
}

struct job {
    const struct kn_moe_up_args *a;
    const struct kn__isa *isa;
    struct kn__rows rows;
    const struct kn__segment *seg;
    int64_t row0;
};

/* 128 values of h for n rows of one expert: gate and up side by side, so that h is quantized where it is made. */
static void panel(const struct job *j, const struct kn_expert *e, int group, int64_t begin, int n,
                  struct kn__tile_mem *mem)
{
    const struct kn_moe_up_args *a = j->a;
    const float *x = j->rows.x + (size_t)(begin - j->row0) * j->rows.stride;
    int64_t o = (int64_t)group * KN__COL_GROUP;

    kn__cols_bf16(j->isa, &e->w1, o, KN__COL_GROUP, x, j->rows.stride, n, mem, mem->col[0], KN__COL_GROUP);
    kn__cols_bf16(j->isa, &e->w3, o, KN__COL_GROUP, x, j->rows.stride, n, mem, mem->col[1], KN__COL_GROUP);
    for (int64_t r = 0; r < n; r++) {
        int64_t row = begin + r;
        uint16_t *h = mem->col[2];
        j->isa->vec->swiglu(mem->col[0] + r * KN__COL_GROUP, mem->col[1] + r * KN__COL_GROUP, a->limit,
                            a->weight ? a->weight[row] : 1, KN__COL_GROUP, h);
        if (a->h.x)
            memcpy(a->h.x + row * a->inter + o, h, KN__COL_GROUP * sizeof *h);
        if (a->h.q)
            j->isa->vec->quantize(h, KN__COL_GROUP, a->h.q + row * a->inter + o,
                                  a->h.s + row * (a->inter / KN_ACT_GROUP) + group);
    }
}

static void columns(void *arg, int64_t task, void *scratch)
{
    const struct job *j = arg;
    int n_group = j->a->inter / KN__COL_GROUP;
    const struct kn__segment *seg = &j->seg[task / n_group];

    for (int p = 0; p < seg->n; p += KN__PANEL)
        panel(j, &j->a->expert[seg->expert], (int)(task % n_group), seg->begin + p,
              seg->n - p < KN__PANEL ? seg->n - p : KN__PANEL, scratch);
}

int kn__cpu_moe_up(struct kn_ctx *ctx, const struct kn_moe_up_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    struct job j = {.a = a, .isa = kn__cpu(ctx)->isa};
    int n_expert = a->offset ? a->n_expert : 1, n_row, n_seg;
    struct kn__segment *seg = kn__take(&s, (size_t)n_expert, sizeof *seg);

    KN__NEED(a->d % KN_ACT_GROUP == 0 && a->inter % KN_ACT_GROUP == 0 && seg);
    KN__NEED(kn__rows_init(&j.rows, &s, a->d, 1) == 0);
    j.seg = seg;
    for (; (n_seg = kn__segments(a->offset, n_expert, a->n_row_max, j.row0, j.rows.n_max, seg, &n_row)) > 0;
         j.row0 += n_row) {
        kn__rows_load(ctx, &j.rows, a->w_dtype, &a->x, j.row0, n_row, a->d);
        kn__pool_run(kn__cpu(ctx)->pool, (int64_t)n_seg * (a->inter / KN__COL_GROUP), columns, &j);
    }
    return 0;
}
