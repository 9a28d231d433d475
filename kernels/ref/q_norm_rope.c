#include "kernels/ref/ref.h"

#include <math.h>

/* The published code normalises each head in BF16: every intermediate is rounded (spec section 5.1). */
static void normalise(uint16_t *q, int n, float eps)
{
    double sum = 0;

    for (int i = 0; i < n; i++) {
        float v = kn_bf16_f32(q[i]);
        sum += kn_round_bf16(v * v);
    }
    float mean = kn_round_bf16((float)(sum / n));
    float inv = kn_round_bf16(1.0f / sqrtf(kn_round_bf16(mean + eps)));
    for (int i = 0; i < n; i++)
        q[i] = kn_f32_bf16(kn_bf16_f32(q[i]) * inv);
}

int kn__ref_q_norm_rope(struct kn_ctx *ctx, const struct kn_q_norm_rope_args *a)
{
    (void)ctx;
    KN__NEED(a->rope % 2 == 0 && a->rope <= a->dim);
    for (int64_t r = 0; r < a->n_tok; r++)
        for (int64_t h = 0; h < a->n_head; h++) {
            uint16_t *q = a->q + (r * a->n_head + h) * a->dim;
            normalise(q, a->dim, a->eps);
            kn__rope(q + a->dim - a->rope, a->rope, a->cs + r * a->rope, 1);
        }
    return 0;
}
