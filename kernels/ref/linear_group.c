#include "kernels/ref/ref.h"

int kn__ref_linear_group(struct kn_ctx *ctx, const struct kn_linear_group_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    struct kn__gemm g;
    int k = a->w.n_in, n_out = a->w.n_out;

    KN__NEED(a->n_group >= 1 && n_out % a->n_group == 0 && (!a->y.q || n_out % KN_ACT_GROUP == 0));
    KN__NEED(kn__gemm_init(&g, &s, k, n_out / a->n_group) == 0);
    uint16_t *y = kn__take(&s, (size_t)n_out * KN__TILE, sizeof *y);
    KN__NEED(y);
    int part = n_out / a->n_group;
    for (int64_t r0 = 0; r0 < a->n; r0 += KN__TILE) {
        int n_row = a->n - r0 < KN__TILE ? (int)(a->n - r0) : KN__TILE;
        for (int grp = 0; grp < a->n_group; grp++) {
            for (int r = 0; r < n_row; r++)
                for (int i = 0; i < k; i++)
                    g.x[(size_t)r * (size_t)k + (size_t)i] = kn_bf16_f32(a->x[((r0 + r) * a->n_group + grp) * k + i]);
            kn__gemm_run(&g, &a->w, grp * part, part, n_row);
            for (int r = 0; r < n_row; r++)
                for (int o = 0; o < part; o++)
                    y[(int64_t)r * n_out + grp * part + o] = kn_f32_bf16(g.y[(int64_t)r * part + o]);
        }
        for (int r = 0; r < n_row; r++)
            kn__act_put(&a->y, r0 + r, n_out, y + (int64_t)r * n_out);
    }
    return 0;
}
