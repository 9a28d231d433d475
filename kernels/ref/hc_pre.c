#include "kernels/ref/ref.h"

#include <math.h>

/* C of one row: softmax over k with eps, then Sinkhorn (spec section 4.2). c is [hc, hc], the sums run in rising
 * index. */
static void sinkhorn(float *c, int hc, int iters, float eps)
{
    for (int j = 0; j < hc; j++) {
        float top = c[j * hc], sum = 0;
        for (int k = 1; k < hc; k++)
            top = c[j * hc + k] > top ? c[j * hc + k] : top;
        for (int k = 0; k < hc; k++)
            sum += c[j * hc + k] = (float)exp((double)(c[j * hc + k] - top));
        for (int k = 0; k < hc; k++)
            c[j * hc + k] = c[j * hc + k] / sum + eps;
    }
    for (int it = 0; it < iters; it++) {
        for (int j = 0; it > 0 && j < hc; j++) { /* the softmax was the first division by row sums */
            float sum = 0;
            for (int k = 0; k < hc; k++)
                sum += c[j * hc + k];
            for (int k = 0; k < hc; k++)
                c[j * hc + k] /= sum + eps;
        }
        for (int k = 0; k < hc; k++) {
            float sum = 0;
            for (int j = 0; j < hc; j++)
                sum += c[j * hc + k];
            for (int j = 0; j < hc; j++)
                c[j * hc + k] /= sum + eps;
        }
    }
}

void kn__hc_weights(const struct kn_hc_pre_args *a, int64_t r, const float *m, float inv)
{
    int hc = a->hc;
    float *pre = a->pre + r * hc, *post = a->post + r * hc, *comb = a->comb + r * hc * hc;

    for (int j = 0; j < hc; j++) {
        pre[j] = kn__sigmoid(m[j] * inv * a->scale[0] + a->base[j]) + a->hc_eps;
        post[j] = 2 * kn__sigmoid(m[hc + j] * inv * a->scale[1] + a->base[hc + j]);
    }
    for (int i = 0; i < hc * hc; i++)
        comb[i] = m[2 * hc + i] * inv * a->scale[2] + a->base[2 * hc + i];
    sinkhorn(comb, hc, a->sinkhorn_iters, a->hc_eps);
}

/* One row: X [hc, d], m = fn . X [(2+hc)*hc] not yet normalised. u, y are scratch [d]. */
static void mix_row(const struct kn_hc_pre_args *a, int64_t r, const float *m, uint16_t *u, uint16_t *y)
{
    int hc = a->hc, d = a->d;
    const uint16_t *X = a->X + r * hc * d;
    const float *pre = a->pre + r * hc;

    kn__hc_weights(a, r, m, kn__inv_rms(X, hc * d, a->rms_eps));
    for (int i = 0; i < d; i++) {
        float sum = 0;
        for (int j = 0; j < hc; j++)
            sum += pre[j] * kn_bf16_f32(X[j * d + i]);
        u[i] = kn_f32_bf16(sum);
    }
    kn__rmsnorm(u, a->norm, d, a->rms_eps, y);
    kn__act_put(&a->y, r, d, y);
}

int kn__ref_hc_pre(struct kn_ctx *ctx, const struct kn_hc_pre_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    struct kn__gemm g;
    struct kn_act X = {.x = (uint16_t *)(uintptr_t)a->X}; /* read only */
    int n_mix = (2 + a->hc) * a->hc;

    KN__NEED(a->hc >= 1 && a->hc <= KN_HC_MAX && a->sinkhorn_iters >= 1 && a->d % KN_ACT_GROUP == 0);
    KN__NEED(a->fn.n_in == a->hc * a->d && a->fn.n_out == n_mix && !kn__is_quantized(a->fn.dtype));
    KN__NEED(kn__gemm_init(&g, &s, a->fn.n_in, n_mix) == 0);
    uint16_t *u = kn__take(&s, (size_t)a->d, sizeof *u), *y = kn__take(&s, (size_t)a->d, sizeof *y);
    KN__NEED(u && y);
    for (int64_t r0 = 0; r0 < a->n_tok; r0 += KN__TILE) {
        int n_row = a->n_tok - r0 < KN__TILE ? (int)(a->n_tok - r0) : KN__TILE;
        kn__gemm_load(&g, &X, a->fn.dtype, r0, n_row, a->fn.n_in);
        kn__gemm_run(&g, &a->fn, 0, n_mix, n_row);
        for (int r = 0; r < n_row; r++)
            mix_row(a, r0 + r, g.y + r * n_mix, u, y);
    }
    return 0;
}
