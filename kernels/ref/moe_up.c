#include "kernels/ref/ref.h"

/* The rows begin..end of one expert. act is scratch [inter]. */
static void expert_rows(const struct kn_moe_up_args *a, const struct kn_expert *e, int64_t begin, int64_t end,
                        struct kn__gemm *g, float *up, uint16_t *h)
{
    for (int64_t r0 = begin; r0 < end; r0 += KN__TILE) {
        int n_row = end - r0 < KN__TILE ? (int)(end - r0) : KN__TILE;
        kn__gemm_load(g, &a->x, a->w_dtype, r0, n_row, a->d);
        kn__gemm_run(g, &e->w3, 0, a->inter, n_row);
        for (int i = 0; i < n_row * a->inter; i++)
            up[i] = kn_round_bf16(g->y[i]);
        kn__gemm_run(g, &e->w1, 0, a->inter, n_row);
        for (int r = 0; r < n_row; r++) {
            for (int i = 0; i < a->inter; i++) {
                float gate = kn_round_bf16(g->y[r * a->inter + i]), u = up[r * a->inter + i];
                if (a->limit > 0) {
                    gate = gate > a->limit ? a->limit : gate;
                    u = kn_clamp(u, a->limit);
                }
                float v = gate * kn__sigmoid(gate) * u;
                h[i] = kn_f32_bf16(a->weight ? v * a->weight[r0 + r] : v);
            }
            kn__act_put(&a->h, r0 + r, a->inter, h);
        }
    }
}

int kn__ref_moe_up(struct kn_ctx *ctx, const struct kn_moe_up_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    struct kn__gemm g;

    KN__NEED(a->d % KN_ACT_GROUP == 0 && a->inter % KN_ACT_GROUP == 0);
    KN__NEED(kn__gemm_init(&g, &s, a->d, a->inter) == 0);
    float *up = kn__take(&s, (size_t)a->inter * KN__TILE, sizeof *up);
    uint16_t *h = kn__take(&s, (size_t)a->inter, sizeof *h);
    KN__NEED(up && h);
    if (!a->offset)
        expert_rows(a, &a->expert[0], 0, a->n_row_max, &g, up, h);
    for (int e = 0; a->offset && e < a->n_expert; e++)
        expert_rows(a, &a->expert[e], a->offset[e], a->offset[e + 1], &g, up, h);
    return 0;
}
