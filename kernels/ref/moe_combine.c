#include "kernels/ref/ref.h"

/* The choices of a row by rising expert id. */
static void sort_ids(const int32_t *id, int n, int *order)
{
    for (int i = 0; i < n; i++) {
        int at = i;
        for (; at > 0 && id[order[at - 1]] > id[i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

int kn__ref_moe_combine(struct kn_ctx *ctx, const struct kn_moe_combine_args *a)
{
    int order[KN_TOPK_EXPERT_MAX];

    (void)ctx;
    KN__NEED(a->top_k >= 1 && a->top_k <= KN_TOPK_EXPERT_MAX);
    for (int64_t r = 0; r < a->n_tok; r++) {
        sort_ids(a->id + r * a->top_k, a->top_k, order);
        for (int i = 0; i < a->d; i++) {
            float sum = 0;
            for (int j = 0; j < a->top_k; j++)
                sum += kn_bf16_f32(a->y[(int64_t)a->place[r * a->top_k + order[j]] * a->d + i]);
            a->out[r * a->d + i] = kn_f32_bf16(sum + kn_bf16_f32(a->shared[r * a->d + i]));
        }
    }
    return 0;
}
