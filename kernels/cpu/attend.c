#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* Online softmax of KN__HEADS heads of one row. */
struct state {
    _Alignas(64) float entry[KN_ATTN_GROUP * KN__K_BLOCK]; /* the entries of the group */
    _Alignas(64) float q[KN__HEADS * KN__K_BLOCK];
    _Alignas(64) float acc[KN__HEADS * KN__K_BLOCK]; /* weighted sums so far, relative to top */
    _Alignas(64) float dot[KN__HEADS * KN__TILE_COLS];
    _Alignas(64) float p[KN__HEADS * KN_ATTN_GROUP]; /* scores, then weights */
    float top[KN__HEADS], den[KN__HEADS], shrink[KN__HEADS];
};

_Static_assert(sizeof(struct state) <= KN__SCRATCH_BYTES, "a thread's scratch holds it");

struct job {
    const struct kn_attend_args *a;
    const struct kn__isa *isa;
    int heads, n_part; /* heads of a task, tasks of a row */
};

static int padded(int dim)
{
    return (dim + KN__GROUP - 1) / KN__GROUP * KN__GROUP;
}

/* Scores of the group's n entries with all heads; -infinity behind them. */
static void scores(const struct job *j, struct state *s, int n_head, int n)
{
    int dim = padded(j->a->kv.dim);
    float scale = 1.0f / sqrtf((float)j->a->kv.dim);

    for (int i = 0; i < n_head * KN_ATTN_GROUP; i++)
        s->p[i] = -INFINITY;
    for (int e = 0; e < n; e += KN__TILE_COLS) {
        struct kn__dot d = {.x = s->q,
                            .x_stride = (size_t)dim,
                            .w = s->entry + e * KN__K_BLOCK,
                            .n_row = n_head,
                            .n_col = KN__TILE_COLS,
                            .k = dim,
                            .is_first = true,
                            .y = s->dot,
                            .y_stride = KN__TILE_COLS};
        j->isa->mat->dot(&d); /* entries behind the last are old ones: their scores are not taken */
        for (int h = 0; h < n_head; h++)
            for (int c = 0; c < KN__TILE_COLS && e + c < n; c++)
                s->p[h * KN_ATTN_GROUP + e + c] = s->dot[h * KN__TILE_COLS + c] * scale;
    }
}

static void take_group(const struct job *j, struct state *s, int n_head, int n)
{
    scores(j, s, n_head, n);
    for (int h = 0; h < n_head; h++) {
        float top = s->top[h], *p = s->p + h * KN_ATTN_GROUP;
        for (int i = 0; i < n; i++)
            top = p[i] > top ? p[i] : top;
        s->shrink[h] = expf(s->top[h] - top); /* 0 for the first group: top was -infinity */
        s->den[h] = s->den[h] * s->shrink[h] + j->isa->vec->weights(p, top);
        s->top[h] = top;
    }
    j->isa->vec->add_entries(s->p, s->shrink, s->entry, n, n_head, padded(j->a->kv.dim), s->acc);
}

static void begin(const struct job *j, struct state *s, int64_t row, int head0, int n_head)
{
    int D = j->a->kv.dim, dim = padded(D);

    memset(s->acc, 0, (size_t)(n_head * dim) * sizeof *s->acc);
    memset(s->entry, 0, sizeof s->entry);
    for (int h = 0; h < n_head; h++) {
        const uint16_t *q = j->a->q + (row * j->a->n_head + head0 + h) * D;
        for (int i = 0; i < dim; i++)
            s->q[h * dim + i] = i < D ? kn_bf16_f32(q[i]) : 0;
        s->top[h] = -INFINITY;
        s->den[h] = 0;
    }
}

static void heads(void *arg, int64_t task, void *scratch)
{
    const struct job *j = arg;
    const struct kn_attend_args *a = j->a;
    struct state *s = scratch;
    int64_t row = task / j->n_part;
    int head0 = (int)(task % j->n_part) * j->heads,
        n_head = a->n_head - head0 < j->heads ? a->n_head - head0 : j->heads;
    int D = a->kv.dim, R = a->kv.rope;
    struct kn__list l = kn__list_of(a, row);
    int n_slot = a->window + l.n_entry;

    begin(j, s, row, head0, n_head);
    for (int i0 = 0; i0 < n_slot; i0 += KN_ATTN_GROUP) {
        int n = 0;
        for (int i = i0; i < n_slot && i < i0 + KN_ATTN_GROUP; i++) {
            const uint8_t *page;
            int64_t page_n, at;
            if (kn__list_at(&l, i, &page, &page_n, &at))
                j->isa->vec->kv_entry(page, a->kv, page_n, at, s->entry + n++ * KN__K_BLOCK);
        }
        if (n > 0)
            take_group(j, s, n_head, n);
    }
    for (int h = 0; h < n_head; h++) {
        uint16_t *o = a->o + (row * a->n_head + head0 + h) * D;
        j->isa->vec->divide(s->acc + h * padded(D), s->den[h] + expf(a->sink[head0 + h] - s->top[h]), D, o);
        kn__rope(o + D - R, R, a->cs + row * R, -1);
    }
}

int kn__cpu_attend(struct kn_ctx *ctx, const struct kn_attend_args *a)
{
    struct job j = {.a = a, .isa = kn__cpu(ctx)->isa};

    KN__NEED(a->window >= 1 && a->kv.rope % 2 == 0 && a->kv.rope <= a->kv.dim && a->kv.dim <= KN__DIM_MAX);
    KN__NEED(a->ratio == 0 || (a->ratio >= 2 && KN_BLOCK_TOK % a->ratio == 0));
    /* Few rows: more tasks a row, so that all threads have one. */
    j.heads = a->batch->n_tok >= 2 * kn__pool_threads(kn__cpu(ctx)->pool) ? KN__HEADS : KN__HEADS / 4;
    j.n_part = (a->n_head + j.heads - 1) / j.heads;
    kn__pool_run(kn__cpu(ctx)->pool, (int64_t)a->batch->n_tok * j.n_part, heads, &j);
    return 0;
}
