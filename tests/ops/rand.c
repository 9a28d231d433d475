#include "tests/ops/op.h"

#include <math.h>

uint64_t op_rand(uint64_t *rng)
{
    uint64_t z = (*rng += 0x9e3779b97f4a7c15u); /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

float op_uniform(uint64_t *rng)
{
    return (float)((double)(op_rand(rng) >> 11) * 0x1p-52 - 1.0);
}

float op_normal(uint64_t *rng)
{
    float sum = 0;
    for (int i = 0; i < 12; i++)
        sum += op_uniform(rng);
    return sum / 2;
}

void op_fill_f32(float *x, size_t n, float scale, uint64_t *rng)
{
    for (size_t i = 0; i < n; i++)
        x[i] = scale * op_normal(rng);
}

void op_fill_bf16(uint16_t *x, size_t n, float scale, uint64_t *rng)
{
    for (size_t i = 0; i < n; i++)
        x[i] = kn_f32_bf16(scale * op_normal(rng));
}

void op_fill_e4m3(uint8_t *x, size_t n, uint64_t *rng)
{
    for (size_t i = 0; i < n; i++)
        do
            x[i] = (uint8_t)op_rand(rng);
        while ((x[i] & 127) == 127);
}

void op_fill_e8m0(uint8_t *x, size_t n, int lo, int hi, uint64_t *rng)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (uint8_t)(lo + (int)(op_rand(rng) % (uint64_t)(hi - lo + 1)));
}

size_t op_mat_bytes(enum kn_dtype dtype, int64_t n_out, int64_t n_in)
{
    size_t n = (size_t)(n_out * n_in);
    return dtype == KN_F32 ? 4 * n : dtype == KN_BF16 ? 2 * n : dtype == KN_FP8 ? n : n / 2;
}

size_t op_scale_bytes(enum kn_dtype dtype, int64_t n_out, int64_t n_in)
{
    if (dtype == KN_FP8)
        return (size_t)((n_out + 127) / 128 * ((n_in + 127) / 128));
    return dtype == KN_FP4 ? (size_t)(n_out * (n_in / 32)) : 1;
}

void op_fill_mat(enum kn_dtype dtype, int64_t n_out, int64_t n_in, void *data, uint8_t *scale, uint64_t *rng)
{
    size_t n = (size_t)(n_out * n_in);
    float deviation = 1 / sqrtf((float)(n_in > 0 ? n_in : 1));

    op_fill_e8m0(scale, op_scale_bytes(dtype, n_out, n_in), 115, 123, rng);
    switch (dtype) {
    case KN_F32:
        op_fill_f32(data, n, deviation, rng);
        break;
    case KN_BF16:
        op_fill_bf16(data, n, deviation, rng);
        break;
    case KN_FP8:
        op_fill_e4m3(data, n, rng);
        break;
    default:
        for (size_t i = 0; i < n / 2; i++)
            ((uint8_t *)data)[i] = (uint8_t)op_rand(rng);
    }
}

struct kn_mat op_mat(enum kn_dtype dtype, int32_t n_out, int32_t n_in, const void *data, const uint8_t *scale)
{
    bool has_scale = dtype == KN_FP8 || dtype == KN_FP4;
    return (struct kn_mat){dtype, n_out, n_in, data, has_scale ? scale : NULL};
}

double op_e4m3(uint8_t code)
{
    int e = code >> 3 & 15, m = code & 7;
    double v = e ? ldexp(1 + m / 8.0, e - 7) : ldexp(m / 8.0, -6);
    if ((code & 127) == 127)
        return NAN;
    return code & 128 ? -v : v;
}

double op_mat_at(const struct kn_mat *m, int64_t o, int64_t i)
{
    static const double e2m1[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    int64_t at = o * m->n_in + i;

    if (m->dtype == KN_F32)
        return ((const float *)m->data)[at];
    if (m->dtype == KN_BF16)
        return kn_bf16_f32(((const uint16_t *)m->data)[at]);
    if (m->dtype == KN_FP8) {
        uint8_t s = m->scale[o / 128 * ((m->n_in + 127) / 128) + i / 128];
        return op_e4m3(((const uint8_t *)m->data)[at]) * ldexp(1, s - 127);
    }
    uint8_t byte = ((const uint8_t *)m->data)[at / 2], code = i % 2 ? byte >> 4 : byte & 15;
    double v = e2m1[code & 7] * kn_e8m0_f32(m->scale[o * (m->n_in / 32) + i / 32]);
    return code & 8 ? -v : v;
}
