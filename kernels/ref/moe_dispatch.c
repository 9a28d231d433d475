#include "kernels/ref/ref.h"

#include <string.h>

/* Copy row i of from to row j of to, in the forms that both have. */
static void copy_row(const struct kn_act *from, int64_t i, const struct kn_act *to, int64_t j, int64_t d)
{
    if (from->x && to->x)
        memcpy(to->x + j * d, from->x + i * d, (size_t)d * sizeof *to->x);
    if (from->q && to->q) {
        int64_t n_group = d / KN_ACT_GROUP;
        memcpy(to->q + j * d, from->q + i * d, (size_t)d);
        memcpy(to->s + j * n_group, from->s + i * n_group, (size_t)n_group);
    }
}

int kn__ref_moe_dispatch(struct kn_ctx *ctx, const struct kn_moe_dispatch_args *a)
{
    int64_t n_pair = (int64_t)a->n_tok * a->top_k;
    int32_t at = 0;

    (void)ctx;
    KN__NEED(a->top_k >= 1 && a->n_local >= 0 && a->d % KN_ACT_GROUP == 0);
    for (int64_t i = 0; i < n_pair; i++)
        a->place[i] = -1;
    for (int32_t e = 0; e < a->n_local; e++) {
        a->offset[e] = at;
        for (int64_t i = 0; i < n_pair; i++) {
            if (a->id[i] != a->first + e)
                continue;
            copy_row(&a->x, i / a->top_k, &a->gx, at, a->d);
            a->gw[at] = a->weight[i];
            a->place[i] = at++;
        }
    }
    a->offset[a->n_local] = at;
    return 0;
}
