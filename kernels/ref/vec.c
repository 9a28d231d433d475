#include "kernels/ref/ref.h"

#include <math.h>

float kn__inv_rms(const uint16_t *x, int n, float eps)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        double v = kn_bf16_f32(x[i]);
        sum += v * v;
    }
    return (float)(1.0 / sqrt(sum / n + (double)eps));
}

void kn__rmsnorm(const uint16_t *x, const float *weight, int n, float eps, uint16_t *y)
{
    float inv = kn__inv_rms(x, n, eps);
    for (int i = 0; i < n; i++)
        y[i] = kn_f32_bf16(kn_bf16_f32(x[i]) * inv * weight[i]);
}

static float amax_of(const uint16_t *x, int n)
{
    float amax = 0;
    for (int i = 0; i < n; i++) {
        float v = fabsf(kn_bf16_f32(x[i]));
        if (v > amax)
            amax = v;
    }
    return amax;
}

/* E4M3 codes of x [n] under one scale; returns the scale's code. Dividing by a power of two is exact. */
static uint8_t quantize_e4m3(const uint16_t *x, int n, uint8_t *q)
{
    uint8_t s = kn_scale_e4m3(amax_of(x, n));
    float scale = kn_e8m0_f32(s);
    for (int i = 0; i < n; i++)
        q[i] = kn_f32_e4m3(kn_clamp(kn_bf16_f32(x[i]) / scale, KN_E4M3_MAX));
    return s;
}

void kn__act_put(const struct kn_act *to, int64_t r, int k, const uint16_t *x)
{
    if (to->x)
        for (int i = 0; i < k; i++)
            to->x[r * k + i] = x[i];
    if (!to->q)
        return;
    int n_group = k / KN_ACT_GROUP;
    for (int g = 0; g < n_group; g++)
        to->s[r * n_group + g] =
            quantize_e4m3(x + g * KN_ACT_GROUP, KN_ACT_GROUP, to->q + r * k + g * KN_ACT_GROUP);
}

void kn__rope(uint16_t *x, int n, const float *cs, float sign)
{
    for (int i = 0; i < n / 2; i++) {
        float a = kn_bf16_f32(x[2 * i]), b = kn_bf16_f32(x[2 * i + 1]);
        float c = cs[2 * i], s = sign * cs[2 * i + 1];
        x[2 * i] = kn_f32_bf16(a * c - b * s);
        x[2 * i + 1] = kn_f32_bf16(a * s + b * c);
    }
}

void kn__cos_sin(int32_t pos, float freq, float cs[2])
{
    float angle = (float)pos * freq;
    cs[0] = (float)cos((double)angle);
    cs[1] = (float)sin((double)angle);
}

void kn__hadamard(uint16_t *x, int n, double *tmp)
{
    for (int i = 0; i < n; i++)
        tmp[i] = kn_bf16_f32(x[i]);
    for (int h = 1; h < n; h *= 2)
        for (int i = 0; i < n; i += 2 * h)
            for (int j = i; j < i + h; j++) {
                double a = tmp[j], b = tmp[j + h];
                tmp[j] = a + b;
                tmp[j + h] = a - b;
            }
    double scale = 1.0 / sqrt(n);
    for (int i = 0; i < n; i++)
        x[i] = kn_f32_bf16((float)(tmp[i] * scale));
}

void kn__kv_put(uint8_t *page, struct kn_kv_shape kv, int64_t n, int64_t i, const uint16_t *x)
{
    int nope = kv.dim - kv.rope;
    uint8_t *q = page + i * nope;
    uint16_t *rope = (uint16_t *)(void *)(page + kn_kv_rope_offset(kv, n)) + i * kv.rope;
    uint8_t *s = page + kn_kv_scale_offset(kv, n) + (size_t)i * kn_kv_scale_stride(kv);

    for (int g = 0; g < nope; g += KN_KV_GROUP) {
        int len = nope - g < KN_KV_GROUP ? nope - g : KN_KV_GROUP;
        s[g / KN_KV_GROUP] = quantize_e4m3(x + g, len, q + g);
    }
    for (int j = 0; j < kv.rope; j++)
        rope[j] = x[nope + j];
}

void kn__index_put(uint8_t *page, int dim, int64_t n, int64_t i, const uint16_t *x)
{
    int n_scale = (dim + KN_INDEX_GROUP - 1) / KN_INDEX_GROUP;
    uint8_t *q = page + i * (dim / 2);
    uint8_t *s = page + kn_index_scale_offset(dim, n) + i * n_scale;

    for (int g = 0; g < dim; g += KN_INDEX_GROUP) {
        int len = dim - g < KN_INDEX_GROUP ? dim - g : KN_INDEX_GROUP;
        uint8_t code = kn_scale_e2m1(amax_of(x + g, len));
        float scale = kn_e8m0_f32(code);
        s[g / KN_INDEX_GROUP] = code;
        for (int j = g; j < g + len; j += 2) {
            uint8_t lo = kn_f32_e2m1(kn_clamp(kn_bf16_f32(x[j]) / scale, KN_E2M1_MAX));
            uint8_t hi = kn_f32_e2m1(kn_clamp(kn_bf16_f32(x[j + 1]) / scale, KN_E2M1_MAX));
            q[j / 2] = (uint8_t)(lo | hi << 4);
        }
    }
}

float kn__sigmoid(float x)
{
    return (float)(1.0 / (1.0 + exp(-(double)x)));
}
