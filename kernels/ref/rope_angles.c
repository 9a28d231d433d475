#include "kernels/ref/ref.h"

int kn__ref_rope_angles(struct kn_ctx *ctx, const struct kn_rope_angles_args *a)
{
    (void)ctx;
    for (int64_t r = 0; r < a->n_tok; r++)
        for (int64_t i = 0; i < a->n_freq; i++)
            kn__cos_sin(a->pos[r], a->freq[i], a->cs + 2 * (r * a->n_freq + i));
    return 0;
}
