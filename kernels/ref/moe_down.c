#include "kernels/ref/ref.h"

static void expert_rows(const struct kn_moe_down_args *a, const struct kn_mat *w2, int64_t begin, int64_t end,
                        struct kn__gemm *g)
{
    for (int64_t r0 = begin; r0 < end; r0 += KN__TILE) {
        int n_row = end - r0 < KN__TILE ? (int)(end - r0) : KN__TILE;
        kn__gemm_load(g, &a->h, a->w_dtype, r0, n_row, a->inter);
        kn__gemm_run(g, w2, 0, a->d, n_row);
        for (int64_t i = 0; i < (int64_t)n_row * a->d; i++)
            a->y[r0 * a->d + i] = kn_f32_bf16(g->y[i]);
    }
}

int kn__ref_moe_down(struct kn_ctx *ctx, const struct kn_moe_down_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    struct kn__gemm g;

    KN__NEED(a->d % KN_ACT_GROUP == 0 && a->inter % KN_ACT_GROUP == 0);
    KN__NEED(kn__gemm_init(&g, &s, a->inter, a->d) == 0);
    if (!a->offset)
        expert_rows(a, &a->expert[0].w2, 0, a->n_row_max, &g);
    for (int e = 0; a->offset && e < a->n_expert; e++)
        expert_rows(a, &a->expert[e].w2, a->offset[e], a->offset[e + 1], &g);
    return 0;
}
