/* Matrix kernels for AVX-512 (F, BW, DQ, VL): 16 lanes, f32 throughout. Compiled with those flags; called only after
 * kn__isa_find has seen them. Where a build defines KN_AVX512_HEADER, that has the intrinsics (a test's emulation). */
#include "kernels/cpu/isa.h"

#ifdef KN_AVX512_HEADER
#include KN_AVX512_HEADER
#else
#include <immintrin.h>
#endif
#include <math.h>

typedef __m512 vec;
typedef __m512i bad_mask;

enum { LANES = 16, CHUNK = 128, DOT_ROWS = 6 };

#define FEW_COLS_3   4
#define FEW_COLS_4   4
#define BAD_NONE     _mm512_setzero_si512()
#define vec_zero     _mm512_setzero_ps
#define vec_load     _mm512_load_ps
#define vec_store    _mm512_store_ps
#define vec_fma      _mm512_fmadd_ps

/* 2^120 times the scale, and the scale itself where that is too large for a float. */
static float e4m3_factor[256];

static void init(void)
{
    for (int s = 0; s < 256; s++)
        e4m3_factor[s] = kn_e8m0_f32((uint8_t)s) * (s < KN__E4M3_BIG ? 0x1p120f : 1);
}

/* Half a chunk, 64 codes. */
struct code {
    const uint8_t *q; /* of the chunk */
    __m512 factor;    /* FP8: lacks 2^120 from KN__E4M3_BIG on; FP4: lane i's scale is that of elements 8i.. */
};

static inline __m512 fp4_scales(const uint8_t *s)
{
    int32_t four;
    memcpy(&four, s, sizeof four);
    const __m128i by_4 = _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    __m128i each = _mm_shuffle_epi8(_mm_set1_epi32(four), by_4);
    __m512i v = _mm512_cvtepu8_epi32(each), f = _mm512_slli_epi32(v, 23);
    f = _mm512_mask_blend_epi32(_mm512_cmpeq_epi32_mask(v, _mm512_setzero_si512()), f, _mm512_set1_epi32(0x00400000));
    f = _mm512_mask_blend_epi32(_mm512_cmpeq_epi32_mask(v, _mm512_set1_epi32(255)), f, _mm512_set1_epi32(0x7fc00000));
    return _mm512_castsi512_ps(f);
}

static inline __attribute__((always_inline)) struct code code_at(const enum kn_dtype dtype, const uint8_t *q,
                                                                  const uint8_t *s, const int half, bad_mask *bad)
{
    struct code c = {.q = q};

    if (dtype == KN_FP8) {
        __m512i v = _mm512_loadu_si512(q + 16 * half);
        *bad = _mm512_max_epu8(*bad, _mm512_or_si512(v, _mm512_set1_epi8((char)0x80))); /* NaN: the largest */
        c.factor = _mm512_set1_ps(e4m3_factor[*s]);
    } else if (dtype == KN_FP4) {
        c.factor = fp4_scales(s);
    }
    return c;
}

/* Orders: FP8, F32 natural. BF16 per 32: even ones, odd ones. FP4: lane i of vector j of a chunk holds element 8i+j. */
static inline __attribute__((always_inline)) __m512 code_vec(const enum kn_dtype dtype, const struct code *c,
                                                              const int i)
{
    const __m512 e2m1 = _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);

    if (dtype == KN_FP8) { /* E4M3 shifted into the place of a float is, subnormals included, the value * 2^-120 */
        __m512i v = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(c->q + 16 * i)));
        v = _mm512_and_si512(_mm512_slli_epi32(v, 20), _mm512_set1_epi32((int)0x87f00000));
        return _mm512_mul_ps(_mm512_castsi512_ps(v), c->factor);
    }
    if (dtype == KN_F32)
        return _mm512_loadu_ps(c->q + 64 * i);
    if (dtype == KN_BF16) {
        __m512i v = _mm512_loadu_si512(c->q + 64 * (i / 2));
        return _mm512_castsi512_ps(i % 2 == 0 ? _mm512_slli_epi32(v, 16)
                                              : _mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000)));
    }
    __m512i code = _mm512_srli_epi32(_mm512_loadu_si512(c->q), 4 * i); /* the lookup sees the lowest nibble only */
    return _mm512_mul_ps(_mm512_permutexvar_ps(code, e2m1), c->factor);
}

static inline bool is_bad(bad_mask bad)
{
    return _mm512_cmpeq_epi8_mask(bad, _mm512_set1_epi8(-1)) != 0;
}

/* Lanes l and l+8 of each, then ((0+1)+(2+3)) + ((4+5)+(6+7)). */
static inline __m256 halves(__m512 v)
{
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
}

static inline void sums4(__m512 a, __m512 b, __m512 c, __m512 d, float to[4])
{
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(halves(a), halves(b)), _mm256_hadd_ps(halves(c), halves(d)));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

#include "kernels/cpu/mat_kernels.inc"

static void x_codes(enum kn_dtype dtype, const uint8_t *q, const uint8_t *s, int n, float *to)
{
    uint8_t sorted[CHUNK];

    if (dtype == KN_FP8) {
        expand(KN_FP8, q, s, n, q, to);
        return;
    }
    for (int i = 0; i < n; i += CHUNK) {
        for (int j = 0; j < 8; j++)
            for (int l = 0; l < LANES; l++)
                sorted[j * LANES + l] = q[i + 8 * l + j];
        expand(KN_FP8, sorted, s + i / 128, CHUNK, sorted, to + i);
    }
}

static void x_bf16(enum kn_dtype dtype, const uint16_t *x, int n, float *to)
{
    if (dtype == KN_BF16) {
        expand(KN_BF16, (const uint8_t *)x, NULL, n, (const uint8_t *)x, to);
        return;
    }
    for (int i = 0; i < n; i++)
        to[i] = kn_bf16_f32(x[i]);
    for (int i = n; i % KN__GROUP; i++)
        to[i] = 0;
}

const struct kn__mat kn__mat_avx512 = {
    .init = init, .w_row = w_row, .x_codes = x_codes, .x_bf16 = x_bf16, .few = few, .dot = dot};
