#include "kernels/ref/ref.h"

int kn__ref_embed(struct kn_ctx *ctx, const struct kn_embed_args *a)
{
    (void)ctx;
    KN__NEED(a->hc >= 1 && a->d >= 1);
    for (int64_t r = 0; r < a->n_tok; r++)
        for (int64_t j = 0; j < a->hc; j++)
            for (int64_t i = 0; i < a->d; i++)
                a->X[(r * a->hc + j) * a->d + i] = a->table[(int64_t)a->tok[r] * a->d + i];
    return 0;
}
