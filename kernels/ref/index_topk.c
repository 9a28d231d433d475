#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>

/* Is entry a of lower rank than b: lower score, or the same and a higher number. */
static bool is_worse(const float *score, int32_t a, int32_t b)
{
    return score[a] < score[b] || (score[a] == score[b] && a > b);
}

/* Let heap[i] sink to its place in a heap of n whose top is the worst. */
static void sink(int32_t *heap, int n, int i, const float *score)
{
    for (;;) {
        int least = i;
        for (int c = 2 * i + 1; c <= 2 * i + 2 && c < n; c++)
            if (is_worse(score, heap[c], heap[least]))
                least = c;
        if (least == i)
            return;
        int32_t t = heap[i];
        heap[i] = heap[least];
        heap[least] = t;
        i = least;
    }
}

static int by_number(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

void kn__choose(const float *score, int n, int top_k, int32_t *choice)
{
    int k = n < top_k ? n : top_k;

    for (int i = 0; i < k; i++)
        choice[i] = i;
    for (int i = k / 2 - 1; i >= 0; i--)
        sink(choice, k, i, score);
    for (int i = k; i < n; i++)
        if (k > 0 && is_worse(score, choice[0], i)) {
            choice[0] = i;
            sink(choice, k, 0, score);
        }
    qsort(choice, (size_t)k, sizeof *choice, by_number);
    for (int i = k; i < top_k; i++)
        choice[i] = -1;
}

/* sum_h w[h] * relu(q[h] . key), q f64 [n_head, dim]. */
static float score_entry(const struct kn_index_topk_args *a, const double *q, const uint16_t *w, const double *key)
{
    double sum = 0;

    for (int h = 0; h < a->n_head; h++) {
        double part[4] = {0}; /* products of 4-bit values: every partial sum is exact, so their order is free */
        for (int i = 0; i < a->dim; i += 4)
            for (int j = 0; j < 4; j++)
                part[j] += q[h * a->dim + i + j] * key[i + j];
        double dot = part[0] + part[1] + part[2] + part[3];
        if (!(dot < 0))
            sum += kn_bf16_f32(w[h]) * dot;
    }
    return isnan(sum) ? -INFINITY : (float)sum;
}

int kn__ref_index_topk(struct kn_ctx *ctx, const struct kn_index_topk_args *a)
{
    const struct kn_batch *b = a->batch;
    struct kn__scratch s = kn__scratch(ctx);
    int32_t n_max = b->n_tok ? (b->pos_max + 1) / a->ratio : 0, per_page = KN_BLOCK_TOK / a->ratio;
    float *score = kn__take(&s, (size_t)n_max, sizeof *score);
    double *q = kn__take(&s, (size_t)(a->n_head * a->dim), sizeof *q);
    double *key = kn__take(&s, (size_t)a->dim, sizeof *key);

    KN__NEED(score && q && key && a->top_k >= 1 && a->dim >= KN_INDEX_GROUP);
    KN__NEED(!a->score || a->score_stride >= n_max);
    for (int64_t r = 0; r < b->n_tok; r++) {
        int32_t n = (b->row_pos[r] + 1) / a->ratio, slot = b->seq_slot[b->row_seq[r]];
        for (int h = 0; h < a->n_head; h++)
            kn_index_get(a->q_page, a->dim, (int64_t)b->n_tok * a->n_head, r * a->n_head + h, q + h * a->dim);
        for (int32_t i = 0; i < n; i++) {
            const uint8_t *page = a->pool + kn__entry_page(b, slot, a->ratio, i, a->page_bytes);
            kn_index_get(page, a->dim, per_page, i % per_page, key);
            score[i] = score_entry(a, q, a->w + r * a->n_head, key);
        }
        kn__choose(score, n, a->top_k, a->choice + r * a->top_k);
        for (int32_t i = 0; a->score && i < a->score_stride; i++)
            a->score[r * a->score_stride + i] = i < n ? score[i] : -INFINITY;
    }
    return 0;
}
