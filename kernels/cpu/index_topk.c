#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum {
    HEADS_MAX = 128, /* indexer heads */
    ENTRIES = 256,   /* entries of one task */
    ROWS = 16,       /* rows of one task at most: an entry is expanded once for all of them */
};

/* A chunk of entries for a group of rows: scores first, then each row's best. */
struct job {
    const struct kn_index_topk_args *a;
    const struct kn__isa *isa;
    char *mem; /* [rows] of row_bytes: scores of a chunk, then the best scores so far, then their entries */
    size_t row_bytes;
    int32_t n_chunk; /* scores there is room for */
    int64_t row0, n_row; /* the group */
    int32_t i0, n;       /* the chunk */
    int32_t n_part, rows; /* tasks of ENTRIES entries; rows of a task */
};

size_t kn__topk_bytes(int32_t n_chunk, int32_t top_k)
{
    return (size_t)n_chunk * sizeof(float) + (size_t)top_k * (sizeof(float) + sizeof(int32_t));
}

static int32_t visible(const struct kn_index_topk_args *a, int64_t row)
{
    return (a->batch->row_pos[row] + 1) / a->ratio;
}

static int32_t slot_of(const struct kn_index_topk_args *a, int64_t row)
{
    return a->batch->seq_slot[a->batch->row_seq[row]];
}

static float *scores_of(const struct job *j, int64_t row)
{
    return (float *)(void *)(j->mem + (size_t)(row - j->row0) * j->row_bytes);
}

/* A row's query, expanded: q [n_head, dim], its scales, the heads' weights. */
static size_t query_bytes(const struct kn_index_topk_args *a)
{
    size_t n_scale = (size_t)(a->dim / KN_INDEX_GROUP) + 1;
    return (size_t)a->n_head * ((size_t)a->dim + n_scale * sizeof(float));
}

struct query {
    int8_t *q;
    float *q_s, *w;
};

static struct query query_at(const struct kn_index_topk_args *a, char *mem)
{
    struct query x = {.q = (int8_t *)mem};
    x.q_s = (float *)(void *)(mem + a->n_head * a->dim);
    x.w = x.q_s + a->n_head * (a->dim / KN_INDEX_GROUP);
    return x;
}

static void expand(const struct job *j, int64_t row, struct query x)
{
    const struct kn_index_topk_args *a = j->a;
    int n_group = a->dim / KN_INDEX_GROUP;

    for (int h = 0; h < a->n_head; h++) {
        j->isa->vec->index_entry(a->q_page, a->dim, (int64_t)a->batch->n_tok * a->n_head, row * a->n_head + h,
                                 x.q + h * a->dim, x.q_s + h * n_group);
        x.w[h] = kn_bf16_f32(a->w[row * a->n_head + h]);
    }
}

/* Entries i0 .. end with rows row .. row+n of one sequence. */
static void score(const struct job *j, int64_t row, int n, int32_t i0, int32_t end, char *query)
{
    const struct kn_index_topk_args *a = j->a;
    int32_t per_page = KN_BLOCK_TOK / a->ratio, slot = slot_of(a, row);
    int8_t key[KN__DIM_MAX];
    float key_s[KN__DIM_MAX / KN_INDEX_GROUP];
    size_t stride = query_bytes(a);
    int first = 0; /* later rows see more */

    for (int k = 0; k < n; k++)
        expand(j, row + k, query_at(a, query + (size_t)k * stride));
    end = end < visible(a, row + n - 1) ? end : visible(a, row + n - 1);
    for (int32_t i = i0; i < end; i++) {
        const uint8_t *page = a->pool + kn__entry_page(a->batch, slot, a->ratio, i, a->page_bytes);
        j->isa->vec->index_entry(page, a->dim, per_page, i % per_page, key, key_s);
        while (visible(a, row + first) <= i)
            first++;
        for (int k = first; k < n; k++) {
            struct query x = query_at(a, query + (size_t)k * stride);
            scores_of(j, row + k)[i - j->i0] =
                j->isa->vec->index_score(x.q, x.q_s, x.w, a->n_head, key, key_s, a->dim);
        }
    }
}

static void entries(void *arg, int64_t task, void *scratch)
{
    const struct job *j = arg;
    int64_t row = j->row0 + task / j->n_part * j->rows, end_row = row + j->rows;
    int32_t i0 = j->i0 + (int32_t)(task % j->n_part) * ENTRIES, end = i0 + ENTRIES;

    end = end < j->i0 + j->n ? end : j->i0 + j->n;
    end_row = end_row < j->row0 + j->n_row ? end_row : j->row0 + j->n_row;
    for (int n; row < end_row; row += n) {
        for (n = 1; row + n < end_row && slot_of(j->a, row + n) == slot_of(j->a, row); n++)
            ;
        score(j, row, n, i0, end, scratch);
    }
}

static void choose(void *arg, int64_t r, void *scratch)
{
    const struct job *j = arg;
    const struct kn_index_topk_args *a = j->a;
    int64_t row = j->row0 + r;
    int32_t n = visible(a, row) - j->i0, had = visible(a, row) < j->i0 ? visible(a, row) : j->i0;
    float *s = scores_of(j, row), *to = a->score ? a->score + row * a->score_stride : NULL;
    struct kn__best best = {.n = had < a->top_k ? had : a->top_k, .top_k = a->top_k, .score = s + j->n_chunk};

    (void)scratch;
    best.entry = (int32_t *)(void *)(best.score + a->top_k);
    n = n < 0 ? 0 : n < j->n ? n : j->n;
    kn__best_add(&best, s, j->i0, n);
    if (to && n > 0)
        memcpy(to + j->i0, s, (size_t)n * sizeof *s);
    for (int32_t i = j->i0 + n; to && i < a->score_stride; i++)
        to[i] = -INFINITY;
    if (j->i0 + j->n >= visible(a, row))
        kn__best_take(&best, a->choice + row * a->top_k);
}

/* As many as possible, but so that all threads have some tasks. */
static int32_t rows_of_task(const struct job *j, int64_t rows_max, int n_threads)
{
    int64_t rows = j->n_row * j->n_part / (4 * (int64_t)n_threads);

    rows = rows < rows_max ? rows : rows_max;
    rows = rows < ROWS ? rows : ROWS;
    return rows > 1 ? (int32_t)rows : 1;
}

int kn__cpu_index_topk(struct kn_ctx *ctx, const struct kn_index_topk_args *a)
{
    const struct kn_batch *b = a->batch;
    struct kn__pool *pool = kn__cpu(ctx)->pool;
    int32_t n_max = b->n_tok ? (b->pos_max + 1) / a->ratio : 0;
    struct job j = {.a = a, .isa = kn__cpu(ctx)->isa, .mem = ctx->workspace};

    KN__NEED(a->top_k >= 1 && a->dim >= KN_INDEX_GROUP && a->dim <= KN__DIM_MAX && a->dim % KN_INDEX_GROUP == 0);
    KN__NEED(a->n_head >= 1 && a->n_head <= HEADS_MAX && (!a->score || a->score_stride >= n_max));
    j.n_chunk = n_max < KN_INDEX_CHUNK ? n_max : KN_INDEX_CHUNK;
    j.row_bytes = kn__topk_bytes(j.n_chunk, a->top_k);
    int64_t n_group = (int64_t)(ctx->workspace_bytes / j.row_bytes), rows = KN__SCRATCH_BYTES / query_bytes(a);
    KN__NEED(n_group >= 1 && rows >= 1);
    for (; j.row0 < b->n_tok; j.row0 += j.n_row) {
        j.n_row = b->n_tok - j.row0 < n_group ? b->n_tok - j.row0 : n_group;
        j.i0 = 0;
        do { /* once at least: rows without entries get their -1, too */
            j.n = n_max - j.i0 < j.n_chunk ? n_max - j.i0 : j.n_chunk;
            j.n_part = (j.n + ENTRIES - 1) / ENTRIES;
            j.rows = rows_of_task(&j, rows, kn__pool_threads(pool));
            kn__pool_run(pool, (j.n_row + j.rows - 1) / j.rows * j.n_part, entries, &j);
            kn__pool_run(pool, j.n_row, choose, &j);
        } while ((j.i0 += j.n) < n_max);
    }
    return 0;
}
