#include "kernels/ref/ref.h"

int kn__ref_index_query(struct kn_ctx *ctx, const struct kn_index_query_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    int dim = a->dim, rope = a->rope;
    double *tmp = kn__take(&s, (size_t)dim, sizeof *tmp);
    uint16_t *x = kn__take(&s, (size_t)dim, sizeof *x);
    int64_t n = (int64_t)a->n_tok * a->n_head;

    KN__NEED(tmp && x && dim >= KN_INDEX_GROUP && (dim & (dim - 1)) == 0 && rope % 2 == 0 && rope <= dim);
    for (int64_t i = 0; i < n; i++) {
        for (int j = 0; j < dim; j++)
            x[j] = a->q[i * dim + j];
        kn__rope(x + dim - rope, rope, a->cs + i / a->n_head * rope, 1);
        kn__hadamard(x, dim, tmp);
        kn__index_put(a->page, dim, n, i, x);
    }
    return 0;
}
