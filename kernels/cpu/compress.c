#include "kernels/cpu/cpu.h"

#include <string.h>

enum { CHANNELS = 64 }; /* of one task; the tail of a channel is nobody else's */

struct job {
    const struct kn_compress_args *a;
    const struct kn__isa *isa;
    uint16_t *x;     /* [entries finished in this step, dim] pooled */
    int64_t *at;     /* [entries] row that finished it */
    int width, ring; /* values of a row of k; rows that the tail keeps */
};

/* k (part 0) or g+ape (part 1) of position p. */
static float *tail_row(const struct job *j, int32_t slot, int part, int32_t p)
{
    return j->a->tail + (((int64_t)slot * 2 + part) * j->ring + p % j->ring) * j->width;
}

/* Pool channels ch..ch+n over the block that ends at position p. With overlap the first-half channels of the block
 * before come first (absent for block 0), then the second-half channels of the own block. */
static void pool_block(const struct job *j, int32_t slot, int32_t p, int ch, int n, uint16_t *x)
{
    const struct kn_compress_args *a = j->a;
    const float *k[KN__POOL_MAX], *g[KN__POOL_MAX];
    int own = a->ratio == 4 ? a->dim : 0, m = 0;
    int32_t block0 = p + 1 - a->ratio, first = a->ratio == 4 && block0 > 0 ? block0 - a->ratio : block0;

    for (int32_t t = first; t <= p; t++, m++) {
        int from = t < block0 ? ch : own + ch;
        k[m] = tail_row(j, slot, 0, t) + from;
        g[m] = tail_row(j, slot, 1, t) + from;
    }
    j->isa->vec->pool(k, g, m, n, x);
}

/* All rows in order, for some channels: the tail holds all that the next entry needs. */
static void channels(void *arg, int64_t task, void *scratch)
{
    const struct job *j = arg;
    const struct kn_compress_args *a = j->a;
    const struct kn_batch *b = a->batch;
    int ch = (int)task * CHANNELS, n = a->dim - ch < CHANNELS ? a->dim - ch : CHANNELS;
    int64_t entry = 0;

    (void)scratch;
    for (int64_t r = 0; r < b->n_tok; r++) {
        int32_t p = b->row_pos[r], slot = b->seq_slot[b->row_seq[r]];
        for (int half = 0; half < j->width; half += a->dim) {
            float *k = tail_row(j, slot, 0, p) + half + ch, *g = tail_row(j, slot, 1, p) + half + ch;
            const float *ape = a->ape + (int64_t)(p % a->ratio) * j->width + half + ch;
            memcpy(k, a->k + r * j->width + half + ch, (size_t)n * sizeof *k);
            for (int i = 0; i < n; i++)
                g[i] = a->g[r * j->width + half + ch + i] + ape[i];
        }
        if ((p + 1) % a->ratio == 0)
            pool_block(j, slot, p, ch, n, j->x + entry++ * a->dim + ch);
    }
}

static void finish(void *arg, int64_t e, void *scratch)
{
    const struct job *j = arg;
    const struct kn_batch *b = j->a->batch;
    int64_t r = j->at[e];

    kn__compress_put(j->a, b->seq_slot[b->row_seq[r]], b->row_pos[r], j->x + e * j->a->dim, scratch);
}

int kn__cpu_compress(struct kn_ctx *ctx, const struct kn_compress_args *a)
{
    const struct kn_batch *b = a->batch;
    struct kn__scratch s = kn__scratch(ctx);
    struct job j = {.a = a, .isa = kn__cpu(ctx)->isa};
    int c = a->ratio == 4 ? 2 : 1;
    size_t n_entry = 0;

    KN__NEED(a->ratio >= 2 && KN_BLOCK_TOK % a->ratio == 0 && a->rope % 2 == 0 && a->rope <= a->dim);
    for (int64_t r = 0; r < b->n_tok; r++)
        n_entry += (b->row_pos[r] + 1) % a->ratio == 0;
    j.width = c * a->dim;
    j.ring = c * a->ratio;
    j.x = kn__take(&s, n_entry * (size_t)a->dim, sizeof *j.x);
    j.at = kn__take(&s, n_entry, sizeof *j.at);
    KN__NEED(j.x && j.at);
    n_entry = 0;
    for (int64_t r = 0; r < b->n_tok; r++)
        if ((b->row_pos[r] + 1) % a->ratio == 0)
            j.at[n_entry++] = r;
    kn__pool_run(kn__cpu(ctx)->pool, (a->dim + CHANNELS - 1) / CHANNELS, channels, &j);
    kn__pool_run(kn__cpu(ctx)->pool, (int64_t)n_entry, finish, &j);
    return 0;
}
