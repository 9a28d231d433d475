#include "kernels/ref/ref.h"

int kn__ref_kv_norm_rope(struct kn_ctx *ctx, const struct kn_kv_norm_rope_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    int dim = a->kv.dim, rope = a->kv.rope;
    uint16_t *x = kn__take(&s, (size_t)dim, sizeof *x);

    KN__NEED(x && rope % 2 == 0 && rope <= dim);
    for (int64_t r = 0; r < a->n_tok; r++) {
        kn__rmsnorm(a->x + r * dim, a->weight, dim, a->eps, x);
        kn__rope(x + dim - rope, rope, a->cs + r * rope, 1);
        kn__kv_put(a->page, a->kv, a->n_tok, r, x);
    }
    return 0;
}
