#include "kernels/cpu/cpu.h"

#include <string.h>

enum { COLS = 4 }; /* fn has few rows: small tasks, so that all threads have one */

struct job {
    const struct kn_hc_pre_args *a;
    const struct kn__isa *isa;
    struct kn__rows rows;
    float *m; /* [rows, n_mix] fn . X, not normalised */
    int64_t row0;
    int n_row;
};

static void columns(void *arg, int64_t task, void *scratch)
{
    const struct job *j = arg;
    struct kn__tile_mem *mem = scratch;
    int64_t n_mix = j->a->fn.n_out, o = task * COLS;
    int n = n_mix - o < COLS ? (int)(n_mix - o) : COLS;

    for (int64_t p = 0; p < j->n_row; p += KN__PANEL) {
        int m = j->n_row - p < KN__PANEL ? (int)(j->n_row - p) : KN__PANEL;
        kn__cols(j->isa, &j->a->fn, o, n, j->rows.x + (size_t)p * j->rows.stride, j->rows.stride, m, mem);
        for (int64_t r = 0; r < m; r++)
            memcpy(j->m + (p + r) * n_mix + o, mem->y + r * KN__COL_GROUP, (size_t)n * sizeof *mem->y);
    }
}

static void mix_rows(void *arg, int64_t row, int n, void *scratch)
{
    const struct job *j = arg;
    const struct kn_hc_pre_args *a = j->a;
    uint16_t *u = scratch, *y = u + a->d;

    for (int64_t r = row; r < row + n; r++) {
        int64_t at = j->row0 + r;
        const uint16_t *X = a->X + at * a->hc * a->d;
        kn__hc_weights(a, at, j->m + r * a->fn.n_out, kn__row_inv_rms(j->isa, X, a->hc * a->d, a->rms_eps));
        j->isa->vec->hc_in(X, a->pre + at * a->hc, a->hc, a->d, u);
        kn__norm_row(j->isa, u, a->norm, a->d, a->rms_eps, y);
        kn__put_act(j->isa, &a->y, at, a->d, y);
    }
}

int kn__cpu_hc_pre(struct kn_ctx *ctx, const struct kn_hc_pre_args *a)
{
    struct kn__scratch s = kn__scratch(ctx);
    struct job j = {.a = a, .isa = kn__cpu(ctx)->isa};
    struct kn_act X = {.x = (uint16_t *)(uintptr_t)a->X}; /* read only */
    int n_mix = (2 + a->hc) * a->hc;

    KN__NEED(a->hc >= 1 && a->hc <= KN_HC_MAX && a->sinkhorn_iters >= 1 && a->d % KN_ACT_GROUP == 0);
    KN__NEED(a->fn.n_in == a->hc * a->d && a->fn.n_out == n_mix && !kn__is_quantized(a->fn.dtype));
    KN__NEED(2 * (size_t)a->d * sizeof(uint16_t) <= KN__SCRATCH_BYTES);
    j.m = kn__take(&s, (size_t)KN__ROWS * (size_t)n_mix, sizeof *j.m);
    KN__NEED(j.m && kn__rows_init(&j.rows, &s, a->fn.n_in, 1) == 0);
    for (; j.row0 < a->n_tok; j.row0 += j.n_row) {
        j.n_row = a->n_tok - j.row0 < j.rows.n_max ? (int)(a->n_tok - j.row0) : j.rows.n_max;
        kn__rows_load(ctx, &j.rows, a->fn.dtype, &X, j.row0, j.n_row, a->fn.n_in);
        kn__pool_run(kn__cpu(ctx)->pool, (n_mix + COLS - 1) / COLS, columns, &j);
        kn__rows_run(ctx, j.n_row, 1, mix_rows, &j);
    }
    return 0;
}
