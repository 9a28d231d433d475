/* The ops that work row by row and are small beside the matrices: rows over the threads. Where the body of `ref` is
 * already the right one (it rounds where the spec says, and its time does not matter), it is called as it is, per run
 * of rows: rope_angles, embed, moe_route, moe_combine. That is a choice, op by op, here and at the top
 * of backend.c (window_store, moe_dispatch); no other op of this back end falls back to `ref`. */
#include "kernels/cpu/cpu.h"

#include <math.h>

/* A ref body reads its scratch from a ctx: the thread's. */
static struct kn_ctx thread_ctx(void *scratch)
{
    return (struct kn_ctx){.workspace = scratch, .workspace_bytes = KN__SCRATCH_BYTES, .n_ranks = 1};
}

struct job {
    const struct kn__isa *isa;
    const void *a;
};

/* Shape errors must be found before the threads start: call ref's body with no rows. */
#define BY_ROWS(op, n_field, ...)                                                                   \
    static void op##_rows(void *arg, int64_t row, int n, void *scratch)                             \
    {                                                                                               \
        struct kn_##op##_args b = *(const struct kn_##op##_args *)((const struct job *)arg)->a, *a = &b; \
        struct kn_ctx ctx = thread_ctx(scratch);                                                    \
        a->n_field = n;                                                                             \
        __VA_ARGS__                                                                                 \
        kn__ref_##op(&ctx, a);                                                                      \
    }                                                                                               \
    int kn__cpu_##op(struct kn_ctx *ctx, const struct kn_##op##_args *a)                            \
    {                                                                                               \
        struct kn_##op##_args none = *a;                                                            \
        struct job j = {kn__cpu(ctx)->isa, a};                                                      \
        none.n_field = 0;                                                                           \
        int rc = kn__ref_##op(ctx, &none);                                                          \
        if (rc == 0)                                                                                \
            kn__rows_run(ctx, a->n_field, 1, op##_rows, &j);                                        \
        return rc;                                                                                  \
    }

BY_ROWS(rope_angles, n_tok, a->pos += row; a->cs += row * a->n_freq * 2;)
BY_ROWS(embed, n_tok, a->tok += row; a->X += row * a->hc * a->d;)
BY_ROWS(moe_route, n_tok, a->logit += row * a->n_expert; a->tok = a->tok ? a->tok + row : NULL; a->id += row * a->top_k;
        a->weight += row * a->top_k;)
BY_ROWS(moe_combine, n_tok, a->id += row * a->top_k; a->place += row * a->top_k; a->shared += row * a->d;
        a->out += row * a->d;)

/* ---- norms and quantization ---- */

static void act_quant_rows(void *arg, int64_t row, int n, void *scratch)
{
    const struct job *j = arg;
    const struct kn_act_quant_args *a = j->a;

    (void)scratch;
    for (int64_t r = row; r < row + n; r++)
        j->isa->vec->quantize(a->y.x + r * a->k, a->k, a->y.q + r * a->k, a->y.s + r * (a->k / KN_ACT_GROUP));
}

int kn__cpu_act_quant(struct kn_ctx *ctx, const struct kn_act_quant_args *a)
{
    struct job j = {kn__cpu(ctx)->isa, a};

    KN__NEED(a->k % KN_ACT_GROUP == 0);
    kn__rows_run(ctx, a->n, 4, act_quant_rows, &j);
    return 0;
}

enum { NORM_MAX = KN__SCRATCH_BYTES / sizeof(uint16_t) };

static void rmsnorm_rows(void *arg, int64_t row, int n, void *scratch)
{
    const struct job *j = arg;
    const struct kn_rmsnorm_args *a = j->a;

    for (int64_t r = row; r < row + n; r++) {
        kn__norm_row(j->isa, a->x + r * a->k, a->weight, a->k, a->eps, scratch);
        kn__put_act(j->isa, &a->y, r, a->k, scratch);
    }
}

int kn__cpu_rmsnorm(struct kn_ctx *ctx, const struct kn_rmsnorm_args *a)
{
    struct job j = {kn__cpu(ctx)->isa, a};

    KN__NEED(a->k >= 1 && a->k <= NORM_MAX && (!a->y.q || a->k % KN_ACT_GROUP == 0));
    kn__rows_run(ctx, a->n, 4, rmsnorm_rows, &j);
    return 0;
}

static void kv_norm_rope_rows(void *arg, int64_t row, int n, void *scratch)
{
    const struct job *j = arg;
    const struct kn_kv_norm_rope_args *a = j->a;
    int dim = a->kv.dim, rope = a->kv.rope;
    uint16_t *x = scratch;

    for (int64_t r = row; r < row + n; r++) {
        kn__norm_row(j->isa, a->x + r * dim, a->weight, dim, a->eps, x);
        kn__rope(x + dim - rope, rope, a->cs + r * rope, 1);
        kn__kv_put(a->page, a->kv, a->n_tok, r, x);
    }
}

int kn__cpu_kv_norm_rope(struct kn_ctx *ctx, const struct kn_kv_norm_rope_args *a)
{
    struct job j = {kn__cpu(ctx)->isa, a};

    KN__NEED(a->kv.dim <= KN__DIM_MAX && a->kv.rope % 2 == 0 && a->kv.rope <= a->kv.dim);
    kn__rows_run(ctx, a->n_tok, 2, kv_norm_rope_rows, &j);
    return 0;
}

/* RMS normalisation in BF16 throughout (spec section 5.1), then RoPE. */
static void q_norm_rope_rows(void *arg, int64_t row, int n, void *scratch)
{
    const struct job *j = arg;
    const struct kn_q_norm_rope_args *a = j->a;

    (void)scratch;
    for (int64_t i = row * a->n_head; i < (row + n) * a->n_head; i++) {
        uint16_t *q = a->q + i * a->dim;
        float mean = kn_round_bf16(j->isa->vec->sum_rounded_squares(q, a->dim) / (float)a->dim);
        float inv = kn_round_bf16(1.0f / sqrtf(kn_round_bf16(mean + a->eps)));
        j->isa->vec->times(q, inv, a->dim);
        kn__rope(q + a->dim - a->rope, a->rope, a->cs + i / a->n_head * a->rope, 1);
    }
}

int kn__cpu_q_norm_rope(struct kn_ctx *ctx, const struct kn_q_norm_rope_args *a)
{
    struct job j = {kn__cpu(ctx)->isa, a};

    KN__NEED(a->rope % 2 == 0 && a->rope <= a->dim);
    kn__rows_run(ctx, a->n_tok, 1, q_norm_rope_rows, &j);
    return 0;
}

static void index_query_rows(void *arg, int64_t row, int n, void *scratch)
{
    const struct job *j = arg;
    const struct kn_index_query_args *a = j->a;
    int dim = a->dim, rope = a->rope;
    uint8_t *scale = a->page + kn_index_scale_offset(dim, (int64_t)a->n_tok * a->n_head);
    double *tmp = scratch;
    uint16_t *x = (uint16_t *)(void *)(tmp + dim);

    for (int64_t i = row * a->n_head; i < (row + n) * a->n_head; i++) {
        for (int k = 0; k < dim; k++)
            x[k] = a->q[i * dim + k];
        kn__rope(x + dim - rope, rope, a->cs + i / a->n_head * rope, 1);
        kn__hadamard(x, dim, tmp);
        j->isa->vec->quantize_e2m1(x, dim, a->page + i * (dim / 2), scale + i * (dim / KN_INDEX_GROUP));
    }
}

int kn__cpu_index_query(struct kn_ctx *ctx, const struct kn_index_query_args *a)
{
    struct job j = {kn__cpu(ctx)->isa, a};
    int dim = a->dim;

    KN__NEED(dim >= KN_INDEX_GROUP && dim <= KN__DIM_MAX && (dim & (dim - 1)) == 0 && a->rope % 2 == 0 &&
             a->rope <= dim);
    kn__rows_run(ctx, a->n_tok, 1, index_query_rows, &j);
    return 0;
}

static void hc_post_rows(void *arg, int64_t row, int n, void *scratch)
{
    const struct job *j = arg;
    const struct kn_hc_post_args *a = j->a;
    int64_t hc = a->hc, d = a->d;

    (void)scratch;
    for (int64_t r = row; r < row + n; r++)
        j->isa->vec->hc_out(a->y + r * d, a->post + r * hc, a->comb + r * hc * hc, a->hc, a->d, a->X + r * hc * d);
}

int kn__cpu_hc_post(struct kn_ctx *ctx, const struct kn_hc_post_args *a)
{
    struct job j = {kn__cpu(ctx)->isa, a};

    KN__NEED(a->hc >= 1 && a->hc <= KN_HC_MAX);
    kn__rows_run(ctx, a->n_tok, 1, hc_post_rows, &j);
    return 0;
}
