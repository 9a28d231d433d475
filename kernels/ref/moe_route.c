#include "kernels/ref/ref.h"

#include <math.h>

static bool is_taken(const int32_t *id, int n, int32_t e)
{
    for (int i = 0; i < n; i++)
        if (id[i] == e)
            return true;
    return false;
}

/* sqrt(softplus(x)), in f64 without overflow. */
static float score_of(float x)
{
    double v = x;
    return (float)sqrt((v > 0 ? v : 0) + log1p(exp(-fabs(v))));
}

int kn__ref_moe_route(struct kn_ctx *ctx, const struct kn_moe_route_args *a)
{
    struct kn__scratch ws = kn__scratch(ctx);
    float *score = kn__take(&ws, (size_t)a->n_expert, sizeof *score);

    KN__NEED(score && a->top_k >= 1 && a->top_k <= KN_TOPK_EXPERT_MAX && a->top_k <= a->n_expert);
    for (int64_t r = 0; r < a->n_tok; r++) {
        int32_t *id = a->id + r * a->top_k;
        float *weight = a->weight + r * a->top_k, sum = 0;
        for (int e = 0; e < a->n_expert; e++)
            score[e] = score_of(a->logit[r * a->n_expert + e]);
        for (int i = 0; i < a->top_k; i++) {
            if (a->tid2eid) {
                id[i] = a->tid2eid[(int64_t)a->tok[r] * a->top_k + i];
                continue;
            }
            int32_t best = -1;
            float best_v = 0;
            for (int32_t e = 0; e < a->n_expert; e++) {
                float v = score[e] + (a->bias ? a->bias[e] : 0);
                if (!is_taken(id, i, e) && (best < 0 || v > best_v)) {
                    best = e;
                    best_v = v;
                }
            }
            id[i] = best;
        }
        for (int i = 0; i < a->top_k; i++)
            sum += score[id[i]];
        for (int i = 0; i < a->top_k; i++)
            weight[i] = score[id[i]] / sum * a->scale;
    }
    return 0;
}
