#include "kernels/ref/ref.h"

int kn__ref_linear(struct kn_ctx *ctx, const struct kn_linear_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    struct kn__gemm g;
    int n_in = a->w.n_in, n_out = a->w.n_out;

    KN__NEED(!kn__is_quantized(a->w.dtype) || n_in % KN_ACT_GROUP == 0);
    KN__NEED(a->y_dtype == KN_BF16 || (a->y_dtype == KN_F32 && a->factor == 1));
    KN__NEED(kn__gemm_init(&g, &s, n_in, n_out) == 0);
    for (int64_t r0 = 0; r0 < a->n; r0 += KN__TILE) {
        int n_row = a->n - r0 < KN__TILE ? (int)(a->n - r0) : KN__TILE;
        size_t n = (size_t)n_row * (size_t)n_out;
        kn__gemm_load(&g, &a->x, a->w.dtype, r0, n_row, n_in);
        kn__gemm_run(&g, &a->w, 0, n_out, n_row);
        for (size_t i = 0; i < n; i++) {
            if (a->y_dtype == KN_F32)
                ((float *)a->y + r0 * n_out)[i] = g.y[i];
            else if (a->factor == 1)
                ((uint16_t *)a->y + r0 * n_out)[i] = kn_f32_bf16(g.y[i]);
            else
                ((uint16_t *)a->y + r0 * n_out)[i] = kn_f32_bf16(kn_round_bf16(g.y[i]) * a->factor);
        }
    }
    return 0;
}
