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

/* Row o of w, decoded, into column j of wt [n_in, KN__COLS]. */
static void decode_row(const struct kn_mat *w, int o, int j, double *wt)
{
    int n = w->n_in;
    size_t row = (size_t)o * (size_t)n;

    wt += j;
    if (w->dtype == KN_FP8) {
        const uint8_t *q = (const uint8_t *)w->data + row;
        const uint8_t *s = w->scale + (size_t)(o / 128) * (size_t)((n + 127) / 128);
        for (int i0 = 0; i0 < n; i0 += 128) {
            double scale = kn_e8m0_f32(s[i0 / 128]);
            for (int i = i0; i < i0 + 128 && i < n; i++)
                wt[(size_t)i * KN__COLS] = kn_e4m3_f32[q[i]] * scale;
        }
    } else if (w->dtype == KN_FP4) {
        const uint8_t *q = (const uint8_t *)w->data + row / 2;
        const uint8_t *s = w->scale + (size_t)o * (size_t)(n / 32);
        for (int i = 0; i < n; i += 2) {
            double scale = kn_e8m0_f32(s[i / 32]);
            wt[(size_t)i * KN__COLS] = kn_e2m1_f32[q[i / 2] & 15] * scale;
            wt[(size_t)(i + 1) * KN__COLS] = kn_e2m1_f32[q[i / 2] >> 4] * scale;
        }
    } else if (w->dtype == KN_BF16) {
        const uint16_t *x = (const uint16_t *)w->data + row;
        for (int i = 0; i < n; i++)
            wt[(size_t)i * KN__COLS] = kn_bf16_f32(x[i]);
    } else {
        const float *x = (const float *)w->data + row;
        for (int i = 0; i < n; i++)
            wt[(size_t)i * KN__COLS] = x[i];
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
        for (int j = 0; j < n_col; j++)
            decode_row(w, o0 + o + j, j, g->w);
        if (n_col < KN__COLS) /* the missing rows count as zero; their sums are dropped */
            for (int i = 0; i < w->n_in; i++)
                for (int j = n_col; j < KN__COLS; j++)
                    g->w[(size_t)i * KN__COLS + (size_t)j] = 0;
        for (int r = 0; r < n_row; r += 2) {
            int two = r + 1 < n_row; /* an odd last row goes with itself */
            const double *x = g->x + (size_t)r * (size_t)w->n_in;
            dot_cols(x, x + (two ? w->n_in : 0), g->w, w->n_in, acc);
            for (int j = 0; j < n_col * (1 + two); j++)
                g->y[(size_t)(r + j / n_col) * (size_t)n_out + (size_t)(o + j % n_col)] = (float)acc[j / n_col][j % n_col];
        }
    }
}
