#include "kernels/ref/ref.h"

#include <math.h>

/* Online softmax of one query row; all in f64, per head. */
struct state {
    double *q;        /* [H, D] */
    double *acc;      /* [H, D] weighted sum so far, relative to top */
    double *top;      /* [H] largest score so far */
    double *den;      /* [H] */
    double *entry;    /* [KN_ATTN_GROUP, D] the entries of the group */
    double *entry_t;  /* the same as [KN_ATTN_GROUP/KN__COLS, D, KN__COLS], for the scores */
    double *sum;      /* [D] */
};

struct kn__list kn__list_of(const struct kn_attend_args *a, int64_t row)
{
    const struct kn_batch *b = a->batch;
    int32_t seq = b->row_seq[row], pos = b->row_pos[row];
    struct kn__list l = {.a = a, .row = row, .slot = b->seq_slot[seq], .pos = pos,
                         .seq_pos = b->seq_pos[seq], .seq_row = b->seq_row[seq]};

    l.n_window = pos + 1 < a->window ? pos + 1 : a->window;
    if (a->ratio == 0)
        return l;
    if (!a->choice) {
        l.n_entry = (pos + 1) / a->ratio;
        return l;
    }
    while (l.n_entry < a->top_k && a->choice[row * a->top_k + l.n_entry] >= 0)
        l.n_entry++;
    return l;
}

bool kn__list_at(const struct kn__list *l, int i, const uint8_t **page, int64_t *n, int64_t *at)
{
    const struct kn_attend_args *a = l->a;

    if (i < a->window) {
        int32_t p = l->pos + 1 - l->n_window + i;
        if (i >= l->n_window)
            return false;
        bool is_fresh = p >= l->seq_pos;
        *page = is_fresh ? a->fresh : a->ring + (size_t)l->slot * a->ring_bytes;
        *n = is_fresh ? a->batch->n_tok : a->window;
        *at = is_fresh ? l->seq_row + (p - l->seq_pos) : p % a->window;
        return true;
    }
    int32_t e = i - a->window, per_page = KN_BLOCK_TOK / a->ratio;
    if (a->choice)
        e = a->choice[l->row * a->top_k + e];
    *page = a->pool + kn__entry_page(a->batch, l->slot, a->ratio, e, a->page_bytes);
    *n = per_page;
    *at = e % per_page;
    return true;
}

/* Decode what list slot i holds; false: the slot is empty. */
static bool list_get(const struct kn__list *l, int i, double *x)
{
    const uint8_t *page;
    int64_t n, at;

    if (!kn__list_at(l, i, &page, &n, &at))
        return false;
    kn_kv_get(page, l->a->kv, n, at, x);
    return true;
}

/* Scores of the n entries of the group with head q [D]. */
static void scores(const struct state *s, const double *q, int dim, int n, double *score)
{
    double scale = 1.0 / sqrt(dim);

    for (int j0 = 0; j0 < n; j0 += KN__COLS) {
        const double *e = s->entry_t + (size_t)j0 * (size_t)dim;
        double acc[KN__COLS] = {0};
        for (int i = 0; i < dim; i++)
            for (int j = 0; j < KN__COLS; j++)
                acc[j] += q[i] * e[i * KN__COLS + j];
        for (int j = 0; j < KN__COLS && j0 + j < n; j++)
            score[j0 + j] = acc[j] * scale;
    }
}

/* Take the n entries of a group into head h. */
static void take_group(struct state *s, int h, int dim, int n)
{
    double score[KN_ATTN_GROUP], top = s->top[h], e_sum = 0;
    double *acc = s->acc + (size_t)h * (size_t)dim;

    scores(s, s->q + (size_t)h * (size_t)dim, dim, n, score);
    for (int j = 0; j < n; j++)
        top = score[j] > top ? score[j] : top;
    for (int i = 0; i < dim; i++)
        s->sum[i] = 0;
    for (int j = 0; j < n; j++) {
        double e = exp(score[j] - top), rounded = kn_round_bf16((float)e);
        const double *entry = s->entry + (size_t)j * (size_t)dim;
        e_sum += e;
        for (int i = 0; i < dim; i++)
            s->sum[i] += rounded * entry[i];
    }
    double shrink = exp(s->top[h] - top); /* 0 for the first group: top was -infinity */
    s->den[h] = s->den[h] * shrink + e_sum;
    for (int i = 0; i < dim; i++)
        acc[i] = acc[i] * shrink + s->sum[i];
    s->top[h] = top;
}

static void attend_row(const struct kn_attend_args *a, int64_t r, struct state *s)
{
    struct kn__list l = kn__list_of(a, r);
    int H = a->n_head, D = a->kv.dim, R = a->kv.rope, n_slot = a->window + l.n_entry;

    for (int i = 0; i < H * D; i++) {
        s->q[i] = kn_bf16_f32(a->q[r * H * D + i]);
        s->acc[i] = 0;
    }
    for (int h = 0; h < H; h++) {
        s->top[h] = -INFINITY;
        s->den[h] = 0;
    }
    for (int i0 = 0; i0 < n_slot; i0 += KN_ATTN_GROUP) {
        int n = 0;
        for (int i = i0; i < n_slot && i < i0 + KN_ATTN_GROUP; i++)
            n += list_get(&l, i, s->entry + (size_t)n * (size_t)D);
        for (int j = 0; j < n; j++)
            for (int i = 0; i < D; i++)
                s->entry_t[((size_t)(j / KN__COLS) * (size_t)D + (size_t)i) * KN__COLS + (size_t)(j % KN__COLS)] =
                    s->entry[(size_t)j * (size_t)D + (size_t)i];
        for (int h = 0; n > 0 && h < H; h++)
            take_group(s, h, D, n);
    }
    for (int h = 0; h < H; h++) {
        uint16_t *o = a->o + (r * H + h) * D;
        double den = s->den[h] + exp((double)a->sink[h] - s->top[h]);
        for (int i = 0; i < D; i++)
            o[i] = kn_f32_bf16((float)(s->acc[h * D + i] / den));
        kn__rope(o + D - R, R, a->cs + r * R, -1);
    }
}

int kn__ref_attend(struct kn_ctx *ctx, const struct kn_attend_args *a)
{
    struct kn__scratch ws = kn__scratch(ctx);
    struct state s;
    size_t H = (size_t)a->n_head, D = (size_t)a->kv.dim;

    KN__NEED(a->window >= 1 && a->kv.rope % 2 == 0 && a->kv.rope <= a->kv.dim);
    KN__NEED(a->ratio == 0 || (a->ratio >= 2 && KN_BLOCK_TOK % a->ratio == 0));
    s.q = kn__take(&ws, H * D, sizeof *s.q);
    s.acc = kn__take(&ws, H * D, sizeof *s.acc);
    s.top = kn__take(&ws, H, sizeof *s.top);
    s.den = kn__take(&ws, H, sizeof *s.den);
    s.entry = kn__take(&ws, KN_ATTN_GROUP * D, sizeof *s.entry);
    s.entry_t = kn__take(&ws, KN_ATTN_GROUP * D, sizeof *s.entry_t);
    s.sum = kn__take(&ws, D, sizeof *s.sum);
    KN__NEED(s.q && s.acc && s.top && s.den && s.entry && s.entry_t && s.sum);
    for (int64_t r = 0; r < a->batch->n_tok; r++)
        attend_row(a, r, &s);
    return 0;
}
