#include "kernels/cpu/cpu.h"

struct job {
    const struct kn_hc_head_args *a;
    const struct kn__isa *isa;
    struct kn__rows rows; /* an expanded row for each row of a part */
};

/* A row at a time: hc outputs only, and few rows are asked for. */
static void head_row(void *arg, int64_t r, void *scratch)
{
    const struct job *j = arg;
    const struct kn_hc_head_args *a = j->a;
    struct kn__tile_mem *mem = scratch;
    int hc = a->hc, d = a->d;
    const uint16_t *X = a->X + (int64_t)a->row[r] * hc * d;
    float *x = j->rows.x + (size_t)(r % j->rows.n_max) * j->rows.stride, pre[KN_HC_MAX];
    float inv = kn__row_inv_rms(j->isa, X, hc * d, a->rms_eps);
    uint16_t *u = (uint16_t *)(void *)x; /* once the dots are done */

    j->isa->mat->x_bf16(a->fn.dtype, X, hc * d, x);
    kn__cols(j->isa, &a->fn, 0, hc, x, j->rows.stride, 1, mem);
    for (int c = 0; c < hc; c++)
        pre[c] = kn__sigmoid(mem->y[c] * inv * a->scale[0] + a->base[c]) + a->hc_eps;
    j->isa->vec->hc_in(X, pre, hc, d, u);
    kn__norm_row(j->isa, u, a->norm, d, a->rms_eps, a->y + r * d);
}

struct part {
    struct job *job;
    int64_t row0;
};

static void part_row(void *arg, int64_t r, void *scratch)
{
    const struct part *p = arg;
    head_row(p->job, p->row0 + r, scratch);
}

int kn__cpu_hc_head(struct kn_ctx *ctx, const struct kn_hc_head_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    struct job j = {.a = a, .isa = kn__cpu(ctx)->isa};

    KN__NEED(a->hc >= 1 && a->hc <= KN_HC_MAX);
    KN__NEED(a->fn.n_in == a->hc * a->d && a->fn.n_out == a->hc && !kn__is_quantized(a->fn.dtype));
    KN__NEED(kn__rows_init(&j.rows, &s, a->fn.n_in, 1) == 0);
    for (int64_t r0 = 0; r0 < a->n; r0 += j.rows.n_max) { /* every row of a part has its own expanded row */
        struct part p = {&j, r0};
        kn__pool_run(kn__cpu(ctx)->pool, a->n - r0 < j.rows.n_max ? a->n - r0 : j.rows.n_max, part_row, &p);
    }
    return 0;
}
