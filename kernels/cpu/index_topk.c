#include "kernels/cpu/cpu.h"

#include <math.h>

enum { HEADS_MAX = 128, ENTRIES = 256 }; /* indexer heads; entries of one task */

struct job {
    const struct kn_index_topk_args *a;
    const struct kn__isa *isa;
    float *score;  /* [rows, n_max] */
    int64_t row0;
    int32_t n_max, n_part;
};

static int32_t visible(const struct kn_index_topk_args *a, int64_t row)
{
    return (a->batch->row_pos[row] + 1) / a->ratio;
}

/* Scores of ENTRIES entries of one row. */
static void entries(void *arg, int64_t task, void *scratch)
{
    const struct job *j = arg;
    const struct kn_index_topk_args *a = j->a;
    const struct kn_batch *b = a->batch;
    int64_t r = task / j->n_part, row = j->row0 + r;
    int32_t i0 = (int32_t)(task % j->n_part) * ENTRIES, n = visible(a, row), per_page = KN_BLOCK_TOK / a->ratio;
    int32_t end = i0 + ENTRIES < n ? i0 + ENTRIES : n, slot = b->seq_slot[b->row_seq[row]];
    int n_group = a->dim / KN_INDEX_GROUP;
    int8_t *q = scratch, *key = q + a->n_head * a->dim;
    float *q_s = (float *)(void *)(key + KN__DIM_MAX), *w = q_s + a->n_head * n_group,
          key_s[KN__DIM_MAX / KN_INDEX_GROUP];

    if (i0 >= end)
        return;
    for (int h = 0; h < a->n_head; h++) {
        j->isa->vec->index_entry(a->q_page, a->dim, (int64_t)b->n_tok * a->n_head, row * a->n_head + h, q + h * a->dim,
                            q_s + h * n_group);
        w[h] = kn_bf16_f32(a->w[row * a->n_head + h]);
    }
    for (int32_t i = i0; i < end; i++) {
        const uint8_t *page = a->pool + kn__entry_page(b, slot, a->ratio, i, a->page_bytes);
        j->isa->vec->index_entry(page, a->dim, per_page, i % per_page, key, key_s);
        j->score[r * j->n_max + i] = j->isa->vec->index_score(q, q_s, w, a->n_head, key, key_s, a->dim);
    }
}

static void choose(void *arg, int64_t r, void *scratch)
{
    const struct job *j = arg;
    const struct kn_index_topk_args *a = j->a;
    int64_t row = j->row0 + r;
    int32_t n = visible(a, row);
    const float *score = j->score + r * j->n_max;

    (void)scratch;
    kn__choose(score, n, a->top_k, a->choice + row * a->top_k);
    for (int32_t i = 0; a->score && i < a->score_stride; i++)
        a->score[row * a->score_stride + i] = i < n ? score[i] : -INFINITY;
}

int kn__cpu_index_topk(struct kn_ctx *ctx, const struct kn_index_topk_args *a)
{
    const struct kn_batch *b = a->batch;
    struct job j = {.a = a, .isa = kn__cpu(ctx)->isa, .n_max = b->n_tok ? (b->pos_max + 1) / a->ratio : 0};
    size_t row_bytes = ((size_t)j.n_max + 1) * sizeof *j.score;
    int64_t n_row = (int64_t)(ctx->workspace_bytes / row_bytes);

    KN__NEED(a->top_k >= 1 && a->dim >= KN_INDEX_GROUP && a->dim <= KN__DIM_MAX && a->dim % KN_INDEX_GROUP == 0);
    KN__NEED(a->n_head >= 1 && a->n_head <= HEADS_MAX && (!a->score || a->score_stride >= j.n_max) && n_row >= 1);
    j.score = ctx->workspace;
    j.n_part = (j.n_max + ENTRIES - 1) / ENTRIES;
    for (; j.row0 < b->n_tok; j.row0 += n_row) {
        n_row = b->n_tok - j.row0 < n_row ? b->n_tok - j.row0 : n_row;
        kn__pool_run(kn__cpu(ctx)->pool, n_row * j.n_part, entries, &j);
        kn__pool_run(kn__cpu(ctx)->pool, n_row, choose, &j);
    }
    return 0;
}
