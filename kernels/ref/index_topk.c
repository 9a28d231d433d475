#include "kernels/ref/ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Is (score, entry) a of lower rank than b: lower score, or the same and a higher number. */
static bool is_worse(float score_a, int32_t a, float score_b, int32_t b)
{
    return score_a < score_b || (score_a == score_b && a > b);
}

static bool is_worse_at(const struct kn__best *b, int i, int j)
{
    return is_worse(b->score[i], b->entry[i], b->score[j], b->entry[j]);
}

static void swap(struct kn__best *b, int i, int j)
{
    float score = b->score[i];
    int32_t entry = b->entry[i];
    b->score[i] = b->score[j];
    b->entry[i] = b->entry[j];
    b->score[j] = score;
    b->entry[j] = entry;
}

/* Let i rise, or sink, to its place. */
static void rise(struct kn__best *b, int i)
{
    for (; i > 0 && is_worse_at(b, i, (i - 1) / 2); i = (i - 1) / 2)
        swap(b, i, (i - 1) / 2);
}

static void sink(struct kn__best *b, int i)
{
    for (;;) {
        int least = i;
        for (int c = 2 * i + 1; c <= 2 * i + 2 && c < b->n; c++)
            if (is_worse_at(b, c, least))
                least = c;
        if (least == i)
            return;
        swap(b, i, least);
        i = least;
    }
}

/* The first of n scores that is above the limit, or n; eight at a time, for most are not. */
static int32_t first_above(const float *score, int32_t n, float limit)
{
    int32_t i = 0;

    for (; i + 8 <= n; i += 8) {
        int found = 0;
        for (int k = 0; k < 8; k++)
            found |= score[i + k] > limit;
        if (found)
            break;
    }
    while (i < n && !(score[i] > limit))
        i++;
    return i;
}

/* Numbers rise from call to call: of equal scores the one that is there already is the better. */
void kn__best_add(struct kn__best *b, const float *score, int32_t i0, int32_t n)
{
    int32_t i = 0;

    for (; i < n && b->n < b->top_k; i++) {
        b->score[b->n] = score[i];
        b->entry[b->n] = i0 + i;
        rise(b, b->n++);
    }
    while (i < n && (i += first_above(score + i, n - i, b->score[0])) < n) {
        b->score[0] = score[i];
        b->entry[0] = i0 + i++;
        sink(b, 0);
    }
}

static int by_number(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

void kn__best_take(struct kn__best *b, int32_t *choice)
{
    memcpy(choice, b->entry, (size_t)b->n * sizeof *choice);
    qsort(choice, (size_t)b->n, sizeof *choice, by_number);
    for (int i = b->n; i < b->top_k; i++)
        choice[i] = -1;
    b->n = 0;
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
    float *score = kn__take(&s, n_max < KN_INDEX_CHUNK ? (size_t)n_max : KN_INDEX_CHUNK, sizeof *score);
    double *q = kn__take(&s, (size_t)(a->n_head * a->dim), sizeof *q);
    double *key = kn__take(&s, (size_t)a->dim, sizeof *key);
    struct kn__best best = {.top_k = a->top_k};
    best.score = kn__take(&s, (size_t)a->top_k, sizeof *best.score);
    best.entry = kn__take(&s, (size_t)a->top_k, sizeof *best.entry);

    KN__NEED(score && q && key && best.score && best.entry && a->top_k >= 1 && a->dim >= KN_INDEX_GROUP);
    KN__NEED(!a->score || a->score_stride >= n_max);
    for (int64_t r = 0; r < b->n_tok; r++) {
        int32_t n = (b->row_pos[r] + 1) / a->ratio, slot = b->seq_slot[b->row_seq[r]];
        for (int h = 0; h < a->n_head; h++)
            kn_index_get(a->q_page, a->dim, (int64_t)b->n_tok * a->n_head, r * a->n_head + h, q + h * a->dim);
        for (int32_t i = 0; a->score && i < a->score_stride; i++)
            a->score[r * a->score_stride + i] = -INFINITY;
        for (int32_t i0 = 0; i0 < n; i0 += KN_INDEX_CHUNK) {
            int32_t n_part = n - i0 < KN_INDEX_CHUNK ? n - i0 : KN_INDEX_CHUNK;
            for (int32_t i = i0; i < i0 + n_part; i++) {
                const uint8_t *page = a->pool + kn__entry_page(b, slot, a->ratio, i, a->page_bytes);
                kn_index_get(page, a->dim, per_page, i % per_page, key);
                score[i - i0] = score_entry(a, q, a->w + r * a->n_head, key);
            }
            kn__best_add(&best, score, i0, n_part);
            if (a->score)
                memcpy(a->score + r * a->score_stride + i0, score, (size_t)n_part * sizeof *score);
        }
        kn__best_take(&best, a->choice + r * a->top_k);
    }
    return 0;
}
