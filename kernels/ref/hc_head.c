#include "kernels/ref/ref.h"

int kn__ref_hc_head(struct kn_ctx *ctx, const struct kn_hc_head_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    struct kn__gemm g;
    struct kn_act X = {.x = (uint16_t *)(uintptr_t)a->X}; /* read only */
    int hc = a->hc, d = a->d;
    float pre[KN_HC_MAX];

    KN__NEED(hc >= 1 && hc <= KN_HC_MAX);
    KN__NEED(a->fn.n_in == hc * d && a->fn.n_out == hc && !kn__is_quantized(a->fn.dtype));
    KN__NEED(kn__gemm_init(&g, &s, a->fn.n_in, hc) == 0);
    uint16_t *u = kn__take(&s, (size_t)d, sizeof *u);
    KN__NEED(u);
    for (int64_t r = 0; r < a->n; r++) {
        const uint16_t *x = a->X + (int64_t)a->row[r] * hc * d;
        kn__gemm_load(&g, &X, a->fn.dtype, a->row[r], 1, hc * d);
        kn__gemm_run(&g, &a->fn, 0, hc, 1);
        float inv = kn__inv_rms(x, hc * d, a->rms_eps);
        for (int j = 0; j < hc; j++)
            pre[j] = kn__sigmoid(g.y[j] * inv * a->scale[0] + a->base[j]) + a->hc_eps;
        for (int i = 0; i < d; i++) {
            float sum = 0;
            for (int j = 0; j < hc; j++)
                sum += pre[j] * kn_bf16_f32(x[j * d + i]);
            u[i] = kn_f32_bf16(sum);
        }
        kn__rmsnorm(u, a->norm, d, a->rms_eps, a->y + r * d);
    }
    return 0;
}
