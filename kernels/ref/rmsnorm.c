#include "kernels/ref/ref.h"

int kn__ref_rmsnorm(struct kn_ctx *ctx, const struct kn_rmsnorm_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    uint16_t *y = kn__take(&s, (size_t)a->k, sizeof *y);

    KN__NEED(y && a->k >= 1 && (!a->y.q || a->k % KN_ACT_GROUP == 0));
    for (int64_t r = 0; r < a->n; r++) {
        kn__rmsnorm(a->x + r * a->k, a->weight, a->k, a->eps, y);
        kn__act_put(&a->y, r, a->k, y);
    }
    return 0;
}
