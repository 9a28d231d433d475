#include "kernels/ref/ref.h"

int kn__ref_hc_post(struct kn_ctx *ctx, const struct kn_hc_post_args *a)
{
    int hc = a->hc, d = a->d;
    float in[KN_HC_MAX];

    (void)ctx;
    KN__NEED(hc >= 1 && hc <= KN_HC_MAX);
    for (int64_t r = 0; r < a->n_tok; r++) {
        uint16_t *X = a->X + r * hc * d;
        const float *post = a->post + r * hc, *comb = a->comb + r * hc * hc;
        for (int i = 0; i < d; i++) {
            float y = kn_bf16_f32(a->y[r * d + i]);
            for (int j = 0; j < hc; j++)
                in[j] = kn_bf16_f32(X[j * d + i]);
            for (int k = 0; k < hc; k++) {
                float sum = 0;
                for (int j = 0; j < hc; j++)
                    sum += comb[j * hc + k] * in[j];
                X[k * d + i] = kn_f32_bf16(post[k] * y + sum);
            }
        }
    }
    return 0;
}
