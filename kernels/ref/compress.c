#include "kernels/ref/ref.h"

#include <math.h>

struct scratch {
    double *sum;   /* [dim] for the Hadamard transform */
    uint16_t *x;   /* [dim] the entry */
};

/* Where k or g+ape of position p lies in the tail of a slot: part 0 is k, part 1 is g+ape. */
static float *tail_row(const struct kn_compress_args *a, int32_t slot, int part, int32_t p)
{
    int c = a->ratio == 4 ? 2 : 1, rows = c * a->ratio, width = c * a->dim;
    return a->tail + ((((int64_t)slot * 2 + part) * rows) + p % rows) * width;
}

/* Softmax-weighted sum of one channel over the block that ends at position p. With overlap the first-half channels of
 * the block before come first (absent for block 0), then the second-half channels of the own block. */
static uint16_t pool_channel(const struct kn_compress_args *a, int32_t slot, int32_t p, int ch)
{
    int own = a->ratio == 4 ? a->dim : 0; /* where the channels of the own block begin */
    int32_t block0 = p + 1 - a->ratio;
    int32_t first = a->ratio == 4 && block0 > 0 ? block0 - a->ratio : block0;
    float k[KN_BLOCK_TOK + 4], g[KN_BLOCK_TOK + 4], top = -INFINITY;
    double e[KN_BLOCK_TOK + 4], den = 0, sum = 0;
    int n = 0;

    for (int32_t t = first; t <= p; t++, n++) {
        int at = t < block0 ? ch : own + ch;
        k[n] = tail_row(a, slot, 0, t)[at];
        g[n] = tail_row(a, slot, 1, t)[at];
        top = g[n] > top ? g[n] : top;
    }
    for (int i = 0; i < n; i++)
        den += e[i] = exp((double)(g[i] - top));
    for (int i = 0; i < n; i++)
        sum += e[i] / den * k[i];
    return kn_f32_bf16((float)sum);
}

void kn__compress_put(const struct kn_compress_args *a, int32_t slot, int32_t p, uint16_t *x, double *tmp)
{
    int32_t entry = p / a->ratio, per_page = KN_BLOCK_TOK / a->ratio;
    uint8_t *page = a->pool + kn__entry_page(a->batch, slot, a->ratio, entry, a->page_bytes);
    uint16_t *rotary = x + a->dim - a->rope;
    float cs[2];

    kn__rmsnorm(x, a->norm, a->dim, a->eps, x);
    for (int i = 0; i < a->rope / 2; i++) { /* rotated at the position of the block's first token */
        kn__cos_sin(entry * a->ratio, a->freq[i], cs);
        kn__rope(rotary + 2 * i, 2, cs, 1);
    }
    if (a->is_index) {
        kn__hadamard(x, a->dim, tmp);
        kn__index_put(page, a->dim, per_page, entry % per_page, x);
    } else {
        kn__kv_put(page, (struct kn_kv_shape){a->dim, a->rope}, per_page, entry % per_page, x);
    }
}

/* The entry of the block that ends at position p (spec section 6). */
static void finish_block(const struct kn_compress_args *a, int32_t slot, int32_t p, struct scratch *s)
{
    for (int ch = 0; ch < a->dim; ch++)
        s->x[ch] = pool_channel(a, slot, p, ch);
    kn__compress_put(a, slot, p, s->x, s->sum);
}

int kn__ref_compress(struct kn_ctx *ctx, const struct kn_compress_args *a)
{
    const struct kn_batch *b = a->batch;
    struct kn__scratch ws = kn__scratch(ctx);
    struct scratch s;
    int width = (a->ratio == 4 ? 2 : 1) * a->dim;

    KN__NEED(a->ratio >= 2 && KN_BLOCK_TOK % a->ratio == 0 && a->rope % 2 == 0 && a->rope <= a->dim);
    s.sum = kn__take(&ws, (size_t)a->dim, sizeof *s.sum);
    s.x = kn__take(&ws, (size_t)a->dim, sizeof *s.x);
    KN__NEED(s.sum && s.x);
    for (int64_t r = 0; r < b->n_tok; r++) { /* token by token: the tail holds all that the next entry needs */
        int32_t p = b->row_pos[r], slot = b->seq_slot[b->row_seq[r]];
        float *k = tail_row(a, slot, 0, p), *g = tail_row(a, slot, 1, p);
        for (int i = 0; i < width; i++) {
            k[i] = a->k[r * width + i];
            g[i] = a->g[r * width + i] + a->ape[(int64_t)(p % a->ratio) * width + i];
        }
        if ((p + 1) % a->ratio == 0)
            finish_block(a, slot, p, &s);
    }
    return 0;
}
