/* Vector kernels for AVX2, FMA and F16C: 8 lanes. Compiled with those flags; called only after kn__isa_find has seen
 * them. */
#include "kernels/cpu/isa.h"

#include <immintrin.h>
#include <math.h>

enum { LANES = 8 };

static void clear_behind(float *to, int n)
{
    for (int i = n; i % KN__GROUP; i++)
        to[i] = 0;
}

static float scale_of(uint8_t s)
{
    uint32_t u = (uint32_t)s << 23;
    u = s == 0 ? 0x00400000 : u;
    return kn_bits_f32(s == 255 ? 0x7fc00000 : u);
}

/* Lane sums of 4 vectors: ((0+1)+(2+3)) + ((4+5)+(6+7)) of each. */
static inline __m128 lane_sums(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

/* ---- vectors ---- */

static float sum_squares(const uint16_t *x, int n)
{
    __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    float rest = 0, sums[4];
    int i = 0;

    for (; i + 32 <= n; i += 32)
        for (int j = 0; j < 4; j++) {
            __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(x + i + 8 * j));
            __m256 v = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
            s[j] = _mm256_fmadd_ps(v, v, s[j]);
        }
    for (; i < n; i++)
        rest += kn_bf16_f32(x[i]) * kn_bf16_f32(x[i]);
    _mm_storeu_ps(sums, lane_sums(s[0], s[1], s[2], s[3]));
    return (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest;
}

/* 8 f32 of magnitude <= 448 (or NaN) -> E4M3 codes in dwords: kn_f32_e4m3 in lanes. */
static inline __m256i e4m3_of(__m256 v)
{
    const __m256i one = _mm256_set1_epi32(1);
    __m256i u = _mm256_castps_si256(v), sign = _mm256_and_si256(_mm256_srli_epi32(u, 24), _mm256_set1_epi32(0x80));
    __m256i mag = _mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff));
    __m256 magic = _mm256_set1_ps(16384.0f);
    __m256i small = _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(mag), magic)),
                                     _mm256_castps_si256(magic));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(mag, 20), one);
    __m256i r = _mm256_add_epi32(_mm256_add_epi32(mag, _mm256_set1_epi32(0x7ffff)), odd);
    __m256i normal = _mm256_sub_epi32(_mm256_srli_epi32(r, 20), _mm256_set1_epi32((127 - 7) << 3));
    __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x3c800000), mag);
    __m256i is_nan = _mm256_cmpgt_epi32(mag, _mm256_set1_epi32(0x7f800000));
    __m256i code = _mm256_blendv_epi8(normal, small, is_small);
    code = _mm256_blendv_epi8(code, _mm256_set1_epi32(0x7f), is_nan);
    return _mm256_or_si256(code, sign);
}

static void quantize(const uint16_t *x, int k, uint8_t *q, uint8_t *s)
{
    const __m256 top = _mm256_set1_ps(KN_E4M3_MAX), bottom = _mm256_set1_ps(-KN_E4M3_MAX);
    const __m256i abs_mask = _mm256_set1_epi16(0x7fff), inf = _mm256_set1_epi16(0x7f80);

    for (int g = 0; g < k; g += KN_ACT_GROUP) {
        __m256i most = _mm256_setzero_si256();
        for (int i = g; i < g + KN_ACT_GROUP; i += 16) { /* magnitudes order like integers; NaN does not count */
            __m256i m = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(const void *)(x + i)), abs_mask);
            most = _mm256_max_epi16(most, _mm256_andnot_si256(_mm256_cmpgt_epi16(m, inf), m));
        }
        uint16_t lane[16], amax = 0;
        _mm256_storeu_si256((__m256i *)(void *)lane, most);
        for (int i = 0; i < 16; i++)
            amax = lane[i] > amax ? lane[i] : amax;
        uint8_t code = kn_scale_e4m3(kn_bf16_f32(amax));
        __m256 scale = _mm256_set1_ps(kn_e8m0_f32(code));
        s[g / KN_ACT_GROUP] = code;
        for (int i = g; i < g + KN_ACT_GROUP; i += 8) {
            __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(x + i));
            __m256 v = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
            v = _mm256_div_ps(v, scale);
            v = _mm256_max_ps(bottom, _mm256_min_ps(top, v)); /* a NaN in the second operand stays */
            __m256i c = e4m3_of(v);
            c = _mm256_shuffle_epi8(c, _mm256_broadcastsi128_si256(_mm_set_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1,
                                                                                -1, -1, -1, 12, 8, 4, 0)));
            int32_t lo = _mm256_extract_epi32(c, 0), hi = _mm256_extract_epi32(c, 4);
            memcpy(q + i, &lo, 4);
            memcpy(q + i + 4, &hi, 4);
        }
    }
}

/* BF16 of 8 f32, in dwords: kn_f32_bf16 in lanes. */
static inline void put_bf16(uint16_t *to, __m256 v)
{
    __m256i u = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
    __m256i nan = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
    r = _mm256_blendv_epi8(r, nan, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
    _mm_storeu_si128((__m128i *)(void *)to, _mm256_castsi256_si128(r));
}

static inline __m256 get_bf16(const uint16_t *x)
{
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)x);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

/* 8 f32 of magnitude <= 6 -> E2M1 codes in dwords: kn_f32_e2m1 in lanes. A NaN is above every midpoint, as there. */
static inline __m256i e2m1_of(__m256 v)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 a = _mm256_andnot_ps(sign, v);
    __m256i n = _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(v), 28), _mm256_set1_epi32(8));

#define ABOVE(midpoint, how) \
    n = _mm256_sub_epi32(n, _mm256_castps_si256(_mm256_cmp_ps(a, _mm256_set1_ps(midpoint), how)))
    ABOVE(0.25f, _CMP_NLE_UQ); /* a midpoint belongs to its even neighbour */
    ABOVE(0.75f, _CMP_NLT_UQ);
    ABOVE(1.25f, _CMP_NLE_UQ);
    ABOVE(1.75f, _CMP_NLT_UQ);
    ABOVE(2.5f, _CMP_NLE_UQ);
    ABOVE(3.5f, _CMP_NLT_UQ);
    ABOVE(5.0f, _CMP_NLE_UQ);
#undef ABOVE
    return n;
}

static void quantize_e2m1(const uint16_t *x, int n, uint8_t *q, uint8_t *s)
{
    const __m256 top = _mm256_set1_ps(KN_E2M1_MAX), bottom = _mm256_set1_ps(-KN_E2M1_MAX), sign = _mm256_set1_ps(-0.0f);

    for (int g = 0; g < n; g += KN_INDEX_GROUP) {
        __m256 v[4], most = _mm256_setzero_ps();
        float lane[LANES], amax = 0;
        __m256i c[4];
        for (int i = 0; i < 4; i++) {
            v[i] = get_bf16(x + g + 8 * i);
            most = _mm256_max_ps(_mm256_andnot_ps(sign, v[i]), most); /* a NaN does not count */
        }
        _mm256_storeu_ps(lane, most);
        for (int i = 0; i < LANES; i++)
            amax = lane[i] > amax ? lane[i] : amax;
        s[g / KN_INDEX_GROUP] = kn_scale_e2m1(amax);
        __m256 by = _mm256_set1_ps(kn_e8m0_f32(s[g / KN_INDEX_GROUP]));
        for (int i = 0; i < 4; i++)
            c[i] = e2m1_of(_mm256_max_ps(bottom, _mm256_min_ps(top, _mm256_div_ps(v[i], by))));
        __m256i b = _mm256_packus_epi16(_mm256_packus_epi32(c[0], c[1]), _mm256_packus_epi32(c[2], c[3]));
        b = _mm256_permutevar8x32_epi32(b, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        b = _mm256_maddubs_epi16(b, _mm256_set1_epi16(0x1001)); /* two codes a byte, the first below */
        b = _mm256_permute4x64_epi64(_mm256_packus_epi16(b, b), 0x08);
        _mm_storeu_si128((__m128i *)(void *)(q + g / 2), _mm256_castsi256_si128(b));
    }
}

static void round_bf16(const float *v, int n, uint16_t *y)
{
    int i = 0;

    for (; i + LANES <= n; i += LANES)
        put_bf16(y + i, _mm256_loadu_ps(v + i));
    for (; i < n; i++)
        y[i] = kn_f32_bf16(v[i]);
}

/* In f64, as ref does: with f32 the sum would meet other roundings to BF16 than the model's. */
static float sum_rounded_squares(const uint16_t *x, int n)
{
    __m256d s[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    double lane[4], rest = 0;
    int i = 0;

    for (; i + LANES <= n; i += LANES) {
        uint16_t h[LANES];
        __m256 v = get_bf16(x + i);
        put_bf16(h, _mm256_mul_ps(v, v));
        v = get_bf16(h);
        s[0] = _mm256_add_pd(s[0], _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
        s[1] = _mm256_add_pd(s[1], _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
    }
    for (; i < n; i++)
        rest += kn_round_bf16(kn_bf16_f32(x[i]) * kn_bf16_f32(x[i]));
    _mm256_storeu_pd(lane, _mm256_add_pd(s[0], s[1]));
    return (float)((lane[0] + lane[1]) + (lane[2] + lane[3]) + rest);
}

static void times(uint16_t *x, float factor, int n)
{
    int i = 0;

    for (; i + LANES <= n; i += LANES)
        put_bf16(x + i, _mm256_mul_ps(get_bf16(x + i), _mm256_set1_ps(factor)));
    for (; i < n; i++)
        x[i] = kn_f32_bf16(kn_bf16_f32(x[i]) * factor);
}

static void scale(const uint16_t *x, float inv, const float *weight, int n, uint16_t *y)
{
    int i = 0;

    for (; i + LANES <= n; i += LANES)
        put_bf16(y + i,
                 _mm256_mul_ps(_mm256_mul_ps(get_bf16(x + i), _mm256_set1_ps(inv)), _mm256_loadu_ps(weight + i)));
    for (; i < n; i++)
        y[i] = kn_f32_bf16(kn_bf16_f32(x[i]) * inv * weight[i]);
}

static void hc_in(const uint16_t *X, const float *pre, int hc, int d, uint16_t *u)
{
    int i = 0;

    for (; i + LANES <= d; i += LANES) {
        __m256 sum = _mm256_setzero_ps();
        for (int j = 0; j < hc; j++)
            sum = _mm256_add_ps(sum, _mm256_mul_ps(_mm256_set1_ps(pre[j]), get_bf16(X + j * d + i)));
        put_bf16(u + i, sum);
    }
    for (; i < d; i++) {
        float sum = 0;
        for (int j = 0; j < hc; j++)
            sum += pre[j] * kn_bf16_f32(X[j * d + i]);
        u[i] = kn_f32_bf16(sum);
    }
}

static void hc_out(const uint16_t *y, const float *post, const float *comb, int hc, int d, uint16_t *X)
{
    int i = 0;

    for (; i + LANES <= d; i += LANES) {
        __m256 in[KN_HC_MAX], v = get_bf16(y + i);
        for (int j = 0; j < hc; j++)
            in[j] = get_bf16(X + j * d + i);
        for (int k = 0; k < hc; k++) {
            __m256 sum = _mm256_setzero_ps();
            for (int j = 0; j < hc; j++)
                sum = _mm256_add_ps(sum, _mm256_mul_ps(_mm256_set1_ps(comb[j * hc + k]), in[j]));
            put_bf16(X + k * d + i, _mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(post[k]), v), sum));
        }
    }
    for (; i < d; i++) {
        float in[KN_HC_MAX];
        for (int j = 0; j < hc; j++)
            in[j] = kn_bf16_f32(X[j * d + i]);
        for (int k = 0; k < hc; k++) {
            float sum = 0;
            for (int j = 0; j < hc; j++)
                sum += comb[j * hc + k] * in[j];
            X[k * d + i] = kn_f32_bf16(post[k] * kn_bf16_f32(y[i]) + sum);
        }
    }
}

/* e^x of 8 f32 within 2 units in the last place: 2^k * p(r), r = x - k ln 2. Below -87 it is 0; NaN stays. */
static inline __m256 exp8(__m256 x)
{
    const __m256 low = _mm256_set1_ps(-87.0f), high = _mm256_set1_ps(88.0f);
    __m256 is_zero = _mm256_cmp_ps(x, low, _CMP_LT_OQ), is_inf = _mm256_cmp_ps(x, high, _CMP_GT_OQ);
    __m256 v = _mm256_max_ps(low, _mm256_min_ps(high, x));
    __m256 k = _mm256_round_ps(_mm256_mul_ps(v, _mm256_set1_ps(1.44269504f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(k, _mm256_set1_ps(0.693359375f), v);
    r = _mm256_fnmadd_ps(k, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1));
    __m256i two_k = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127)), 23);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(two_k));
    p = _mm256_andnot_ps(is_zero, p);
    p = _mm256_blendv_ps(p, _mm256_set1_ps(INFINITY), is_inf);
    return _mm256_blendv_ps(p, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

/* n a multiple of LANES. */
static void swiglu(const uint16_t *gate, const uint16_t *up, float limit, float weight, int n, uint16_t *h)
{
    const __m256 top = _mm256_set1_ps(limit > 0 ? limit : INFINITY),
                 bottom = _mm256_set1_ps(limit > 0 ? -limit : -INFINITY);
    const __m256 one = _mm256_set1_ps(1), sign = _mm256_set1_ps(-0.0f);

    for (int i = 0; i < n; i += LANES) {
        __m256 g = _mm256_min_ps(top, get_bf16(gate + i)); /* a NaN in the second operand stays */
        __m256 u = _mm256_max_ps(bottom, _mm256_min_ps(top, get_bf16(up + i)));
        __m256 sigmoid = _mm256_div_ps(one, _mm256_add_ps(one, exp8(_mm256_xor_ps(g, sign))));
        __m256 v = _mm256_mul_ps(_mm256_mul_ps(g, sigmoid), u);
        put_bf16(h + i, _mm256_mul_ps(v, _mm256_set1_ps(weight)));
    }
}

/* ---- compressor ---- */

static void pool8(const float *const *k, const float *const *g, int n, int ch, uint16_t x[LANES])
{
    __m256 top = _mm256_loadu_ps(g[0] + ch), den = _mm256_setzero_ps(), sum = _mm256_setzero_ps();

    for (int t = 1; t < n; t++)
        top = _mm256_max_ps(top, _mm256_loadu_ps(g[t] + ch));
    for (int t = 0; t < n; t++) {
        __m256 e = exp8(_mm256_sub_ps(_mm256_loadu_ps(g[t] + ch), top));
        den = _mm256_add_ps(den, e);
        sum = _mm256_fmadd_ps(e, _mm256_loadu_ps(k[t] + ch), sum);
    }
    put_bf16(x, _mm256_div_ps(sum, den));
}

static void pool(const float *const *k, const float *const *g, int n, int n_ch, uint16_t *x)
{
    int ch = 0;

    for (; ch + LANES <= n_ch; ch += LANES)
        pool8(k, g, n, ch, x + ch);
    for (; ch < n_ch; ch++) {
        float top = g[0][ch], den = 0, sum = 0;
        for (int t = 1; t < n; t++)
            top = g[t][ch] > top ? g[t][ch] : top;
        for (int t = 0; t < n; t++) {
            float e = expf(g[t][ch] - top);
            den += e;
            sum += e * k[t][ch];
        }
        x[ch] = kn_f32_bf16(sum / den);
    }
}

/* ---- attention ---- */

static void kv_entry(const uint8_t *page, struct kn_kv_shape kv, int64_t n, int64_t i, float *to)
{
    int nope = kv.dim - kv.rope, j = 0;
    const uint8_t *q = page + i * nope;
    const uint16_t *rope = (const uint16_t *)(const void *)(page + kn_kv_rope_offset(kv, n)) + i * kv.rope;
    const uint8_t *s = page + kn_kv_scale_offset(kv, n) + (size_t)i * kn_kv_scale_stride(kv);
    __m256i bad = _mm256_setzero_si256();
    const __m256i mag = _mm256_set1_epi16(0x7f00);

    for (; j + 16 <= nope; j += 16) {
        __m256i w = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(q + j)));
        w = _mm256_slli_epi16(w, 8);
        __m256i h = _mm256_and_si256(_mm256_srai_epi16(w, 1), _mm256_set1_epi16((short)0xbf80));
        __m256 scale = _mm256_set1_ps(scale_of(s[j / KN_KV_GROUP]) * 256);
        _mm256_storeu_ps(to + j, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(h)), scale));
        _mm256_storeu_ps(to + j + 8, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)), scale));
        bad = _mm256_or_si256(bad, _mm256_cmpeq_epi16(_mm256_and_si256(w, mag), mag));
    }
    for (; j < nope; j++)
        to[j] = kn_e4m3_f32[q[j]] * scale_of(s[j / KN_KV_GROUP]);
    if (_mm256_movemask_epi8(bad))
        for (j = 0; j < nope; j++)
            to[j] = kn_e4m3_f32[q[j]] * scale_of(s[j / KN_KV_GROUP]);
    for (j = 0; j < kv.rope; j++)
        to[nope + j] = kn_bf16_f32(rope[j]);
    clear_behind(to, kv.dim);
}

static float weights(float *score, float top)
{
    __m256 sum = _mm256_setzero_ps();
    float s[LANES];

    for (int i = 0; i < KN_ATTN_GROUP; i += LANES) {
        __m256 e = exp8(_mm256_sub_ps(_mm256_loadu_ps(score + i), _mm256_set1_ps(top)));
        uint16_t h[LANES];
        sum = _mm256_add_ps(sum, e);
        put_bf16(h, e);
        _mm256_storeu_ps(score + i, get_bf16(h));
    }
    _mm256_storeu_ps(s, sum);
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

/* 32 values of two heads (or of one, twice) in registers over all entries. */
static void add_32(const float *p0, const float *p1, float shrink0, float shrink1, const float *e, int n, float *a0,
                   float *a1)
{
    __m256 s0[4], s1[4];

    for (int i = 0; i < 4; i++) {
        s0[i] = _mm256_mul_ps(_mm256_loadu_ps(a0 + 8 * i), _mm256_set1_ps(shrink0));
        s1[i] = _mm256_mul_ps(_mm256_loadu_ps(a1 + 8 * i), _mm256_set1_ps(shrink1));
    }
    for (int j = 0; j < n; j++) {
        __m256 w0 = _mm256_set1_ps(p0[j]), w1 = _mm256_set1_ps(p1[j]);
        for (int i = 0; i < 4; i++) {
            __m256 v = _mm256_loadu_ps(e + j * KN__K_BLOCK + 8 * i);
            s0[i] = _mm256_fmadd_ps(w0, v, s0[i]);
            s1[i] = _mm256_fmadd_ps(w1, v, s1[i]);
        }
    }
    for (int i = 0; i < 4; i++) { /* one head given twice: both sums are the same */
        _mm256_storeu_ps(a0 + 8 * i, s0[i]);
        _mm256_storeu_ps(a1 + 8 * i, s1[i]);
    }
}

static void add_entries(const float *p, const float *shrink, const float *e, int n, int n_head, int dim, float *acc)
{
    for (int i = 0; i < dim; i += 32)
        for (int h = 0; h < n_head; h += 2) {
            int g = h + 1 < n_head ? h + 1 : h;
            add_32(p + h * KN_ATTN_GROUP, p + g * KN_ATTN_GROUP, shrink[h], shrink[g], e + i, n, acc + h * dim + i,
                   acc + g * dim + i);
        }
}

static void divide(const float *acc, float den, int n, uint16_t *o)
{
    int i = 0;

    for (; i + LANES <= n; i += LANES)
        put_bf16(o + i, _mm256_div_ps(_mm256_loadu_ps(acc + i), _mm256_set1_ps(den)));
    for (; i < n; i++)
        o[i] = kn_f32_bf16(acc[i] / den);
}

/* ---- indexer ---- */

static void index_entry(const uint8_t *page, int dim, int64_t n, int64_t i, int8_t *v, float *s)
{
    const __m128i twice = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12),
                  nibble = _mm_set1_epi8(15);
    const uint8_t *q = page + i * (dim / 2), *scale = page + kn_index_scale_offset(dim, n) + i * (dim / KN_INDEX_GROUP);

    for (int g = 0; g < dim; g += KN_INDEX_GROUP) {
        __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(q + g / 2));
        __m128i lo = _mm_shuffle_epi8(twice, _mm_and_si128(b, nibble));
        __m128i hi = _mm_shuffle_epi8(twice, _mm_and_si128(_mm_srli_epi16(b, 4), nibble));
        _mm_storeu_si128((__m128i *)(void *)(v + g), _mm_unpacklo_epi8(lo, hi));
        _mm_storeu_si128((__m128i *)(void *)(v + g + 16), _mm_unpackhi_epi8(lo, hi));
        s[g / KN_INDEX_GROUP] = scale_of(scale[g / KN_INDEX_GROUP]) * 0.5f;
    }
}

static float index_score(const int8_t *q, const float *q_s, const float *w, int n_head, const int8_t *key,
                         const float *key_s, int dim)
{
    const __m256i ones = _mm256_set1_epi16(1);
    int n_group = dim / KN_INDEX_GROUP;
    float sum = 0;

    for (int h = 0; h < n_head; h++) {
        __m256 acc = _mm256_setzero_ps();
        for (int g = 0; g < n_group; g++) { /* a group's products are small integers: exact */
            __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(q + h * dim + g * KN_INDEX_GROUP));
            __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(key + g * KN_INDEX_GROUP));
            __m256i ab = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a)), ones);
            acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(ab), _mm256_set1_ps(q_s[h * n_group + g] * key_s[g]), acc);
        }
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps(acc, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        s = _mm_add_ss(s, _mm_shuffle_ps(s, s, 1));
        float dot = _mm_cvtss_f32(s);
        if (!(dot < 0))
            sum += w[h] * dot;
    }
    return isnan(sum) ? -INFINITY : sum;
}

const struct kn__vec kn__vec_avx2 = {
    .sum_squares = sum_squares,
    .sum_rounded_squares = sum_rounded_squares,
    .times = times,
    .quantize = quantize,
    .quantize_e2m1 = quantize_e2m1,
    .round = round_bf16,
    .scale = scale,
    .hc_in = hc_in,
    .hc_out = hc_out,
    .swiglu = swiglu,
    .pool = pool,
    .kv_entry = kv_entry,
    .weights = weights,
    .add_entries = add_entries,
    .divide = divide,
    .index_entry = index_entry,
    .index_score = index_score,
};
