#include "kernels/ref/ref.h"

#include <string.h>

struct kn__scratch kn__scratch(const struct kn_ctx *ctx)
{
    char *at = ctx->workspace;
    return (struct kn__scratch){at, at + ctx->workspace_bytes};
}

void *kn__take(struct kn__scratch *s, size_t n, size_t elem_bytes)
{
    size_t bytes = kn_page_align(n * elem_bytes);
    if (bytes > (size_t)(s->end - s->at))
        return NULL;
    void *p = s->at;
    s->at += bytes;
    return p;
}

bool kn__is_quantized(enum kn_dtype dtype)
{
    return dtype == KN_FP8 || dtype == KN_FP4;
}

size_t kn__gemm_bytes(int64_t n_in, int64_t n_out)
{
    return kn_page_align((size_t)n_in * KN__TILE * sizeof(double)) +
           kn_page_align((size_t)n_in * KN__COLS * sizeof(double)) +
           kn_page_align((size_t)n_out * KN__TILE * sizeof(float));
}

int kn__gemm_init(struct kn__gemm *g, struct kn__scratch *s, int64_t n_in, int64_t n_out)
{
    g->x = kn__take(s, (size_t)n_in * KN__TILE, sizeof *g->x);
    g->w = kn__take(s, (size_t)n_in * KN__COLS, sizeof *g->w);
    g->y = kn__take(s, (size_t)n_out * KN__TILE, sizeof *g->y);
    return g->x && g->w && g->y ? 0 : ERR_ARG;
}

void kn__gemm_load(struct kn__gemm *g, const struct kn_act *act, enum kn_dtype dtype, int64_t row0, int n_row, int k)
{
    for (int r = 0; r < n_row; r++) {
        double *to = g->x + (size_t)r * (size_t)k;
        if (kn__is_quantized(dtype)) {
            const uint8_t *q = act->q + (row0 + r) * k, *s = act->s + (row0 + r) * (k / KN_ACT_GROUP);
            for (int i = 0; i < k; i++)
                to[i] = (double)kn_e4m3_f32[q[i]] * kn_e8m0_f32(s[i / KN_ACT_GROUP]);
        } else {
            const uint16_t *x = act->x + (row0 + r) * k;
            for (int i = 0; i < k; i++)
                to[i] = kn_bf16_f32(x[i]);
        }
    }
}

/* Rows o.. of w, KN__COLS of them, decoded side by side into wt [n_in, KN__COLS]. Rows past the last are read as the
 * last: their sums are dropped. One function per dtype, so that the inner loop has no branch. */
static void decode_fp8(const struct kn_mat *w, const size_t row[KN__COLS], double *wt)
{
    int n = w->n_in;
    double scale[KN__COLS];

    for (int i0 = 0; i0 < n; i0 += 128) {
        int end = i0 + 128 < n ? i0 + 128 : n;
        for (int j = 0; j < KN__COLS; j++)
            scale[j] = kn_e8m0_f32(w->scale[row[j] / 128 * (size_t)((n + 127) / 128) + (size_t)(i0 / 128)]);
        for (int i = i0; i < end; i++)
            for (int j = 0; j < KN__COLS; j++)
                wt[i * KN__COLS + j] = kn_e4m3_f32[((const uint8_t *)w->data)[row[j] * (size_t)n + (size_t)i]] *
                                       scale[j];
    }
}

static void decode_fp4(const struct kn_mat *w, const size_t row[KN__COLS], double *wt)
{
    size_t n_byte = (size_t)w->n_in / 2, n_scale = (size_t)w->n_in / 32;

    for (size_t j = 0; j < KN__COLS; j++) {
        const uint8_t *q = (const uint8_t *)w->data + row[j] * n_byte;
        for (size_t i = 0; i < n_byte; i++) {
            double scale = kn_e8m0_f32(w->scale[row[j] * n_scale + i / 16]);
            wt[2 * i * KN__COLS + j] = kn_e2m1_f32[q[i] & 15] * scale;
            wt[(2 * i + 1) * KN__COLS + j] = kn_e2m1_f32[q[i] >> 4] * scale;
        }
    }
}

static void decode_bf16(const struct kn_mat *w, const size_t row[KN__COLS], double *wt)
{
    for (int i = 0; i < w->n_in; i++)
        for (int j = 0; j < KN__COLS; j++)
            wt[i * KN__COLS + j] = kn_bf16_f32(((const uint16_t *)w->data)[row[j] * (size_t)w->n_in + (size_t)i]);
}

static void decode_f32(const struct kn_mat *w, const size_t row[KN__COLS], double *wt)
{
    for (int i = 0; i < w->n_in; i++)
        for (int j = 0; j < KN__COLS; j++)
            wt[i * KN__COLS + j] = ((const float *)w->data)[row[j] * (size_t)w->n_in + (size_t)i];
}

static void decode_rows(const struct kn_mat *w, int o, double *wt)
{
    size_t row[KN__COLS];

    for (int j = 0; j < KN__COLS; j++)
        row[j] = (size_t)(o + j < w->n_out ? o + j : w->n_out - 1);
    switch (w->dtype) {
    case KN_FP8:
        decode_fp8(w, row, wt);
        break;
    case KN_FP4:
        decode_fp4(w, row, wt);
        break;
    case KN_BF16:
        decode_bf16(w, row, wt);
        break;
    default:
        decode_f32(w, row, wt);
    }
}

/* KN__COLS sums side by side, each an ordinary sum in rising i: the compiler keeps them in vector registers. Two rows
 * at a time, because one alone waits for its additions. */
static void dot_cols(const double *x0, const double *x1, const double *wt, int n, double acc[2][KN__COLS])
{
    double s0[KN__COLS] = {0}, s1[KN__COLS] = {0};

    for (int i = 0; i < n; i++) {
        for (int j = 0; j < KN__COLS; j++)
            s0[j] += x0[i] * wt[(size_t)i * KN__COLS + (size_t)j];
        for (int j = 0; j < KN__COLS; j++)
            s1[j] += x1[i] * wt[(size_t)i * KN__COLS + (size_t)j];
    }
    memcpy(acc[0], s0, sizeof s0);
    memcpy(acc[1], s1, sizeof s1);
}

void kn__gemm_run(struct kn__gemm *g, const struct kn_mat *w, int o0, int n_out, int n_row)
{
    double acc[2][KN__COLS];

    for (int o = 0; o < n_out; o += KN__COLS) {
        int n_col = n_out - o < KN__COLS ? n_out - o : KN__COLS;
        decode_rows(w, o0 + o, g->w);
        for (int r = 0; r < n_row; r += 2) {
            int two = r + 1 < n_row; /* an odd last row goes with itself */
            const double *x = g->x + (size_t)r * (size_t)w->n_in;
            dot_cols(x, x + (two ? w->n_in : 0), g->w, w->n_in, acc);
            for (int j = 0; j < n_col * (1 + two); j++)
                g->y[(size_t)(r + j / n_col) * (size_t)n_out + (size_t)(o + j % n_col)] = (float)
                    acc[j / n_col][j % n_col];
        }
    }
}
