/* Matrix kernels for AVX2 and FMA: 8 lanes. Compiled with those flags; called only after kn__isa_find has seen them. */
#include "kernels/cpu/isa.h"

#include <immintrin.h>
#include <math.h>

typedef __m256 vec;
typedef __m256i bad_mask;

enum { LANES = 8, CHUNK = 64, DOT_ROWS = 3 };

#define FEW_COLS_3     2
#define FEW_COLS_4     2
#define BAD_NONE       _mm256_setzero_si256()
#define vec_zero       _mm256_setzero_ps
#define vec_load       _mm256_load_ps
#define vec_store      _mm256_store_ps
#define vec_fma        _mm256_fmadd_ps

/* For each scale code the BF16 of the 16 E2M1 values times the scale: 16 lower bytes, 16 upper bytes. */
static _Alignas(32) uint8_t fp4_bytes[256][2][16];
/* 2^120 times the scale, and the scale itself where that is too large for a float. */
static float e4m3_factor[256];

static void init(void)
{
    for (int s = 0; s < 256; s++) {
        for (int c = 0; c < 16; c++) {
            uint16_t b = kn_f32_bf16(kn_e2m1_f32[c] * kn_e8m0_f32((uint8_t)s));
            fp4_bytes[s][0][c] = (uint8_t)b;
            fp4_bytes[s][1][c] = (uint8_t)(b >> 8);
        }
        e4m3_factor[s] = kn_e8m0_f32((uint8_t)s) * (s < KN__E4M3_BIG ? 0x1p120f : 1);
    }
}

/* Half a chunk, 32 codes. */
struct code {
    const uint8_t *q;   /* of the chunk; FP8 and wider */
    __m256 factor;      /* FP8; lacks 2^120 from KN__E4M3_BIG on */
    __m256i low, high;  /* FP4: bytes of the values */
};

static inline __attribute__((always_inline)) struct code code_at(const enum kn_dtype dtype, const uint8_t *q,
                                                                  const uint8_t *s, const int half, bad_mask *bad)
{
    struct code c = {.q = q};

    if (dtype == KN_FP8) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(q + 8 * half));
        *bad = _mm256_max_epu8(*bad, _mm256_or_si256(v, _mm256_set1_epi8((char)0x80))); /* NaN: the largest */
        c.factor = _mm256_broadcast_ss(&e4m3_factor[*s]);
    } else if (dtype == KN_FP4) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)q);
        __m256i code = _mm256_and_si256(half ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
        const __m128i *t0 = (const __m128i *)(const void *)fp4_bytes[s[0]],
                      *t1 = (const __m128i *)(const void *)fp4_bytes[s[1]];
        c.low = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_load_si128(t0)), _mm_load_si128(t1), 1);
        c.high = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_load_si128(t0 + 1)), _mm_load_si128(t1 + 1), 1);
        c.low = _mm256_shuffle_epi8(c.low, code);
        c.high = _mm256_shuffle_epi8(c.high, code);
    }
    return c;
}

/* E4M3 shifted into the place of a float is, subnormals included, the value times 2^-120. */
static inline __m256 e4m3_vec(const uint8_t *q, const struct code *c)
{
    __m256i v = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)q));
    v = _mm256_and_si256(_mm256_slli_epi32(v, 20), _mm256_set1_epi32((int)0x87f00000));
    return _mm256_mul_ps(_mm256_castsi256_ps(v), c->factor);
}

/* Orders: FP8, F32 natural. BF16 per 32: even ones of the first 16, of the second, odd ones likewise. FP4: vector i
 * of a chunk holds elements a, a+4, a+8, a+12, and the same + 32, with a = 0, 2, 16, 18, 1, 3, 17, 19. */
static inline __attribute__((always_inline)) __m256 code_vec(const enum kn_dtype dtype, const struct code *c,
                                                              const int i)
{
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000);

    if (dtype == KN_FP8)
        return e4m3_vec(c->q + 8 * i, c);
    if (dtype == KN_F32)
        return _mm256_loadu_ps((const float *)(const void *)c->q + 8 * i);
    if (dtype == KN_BF16) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(c->q + 64 * (i / 4) + 32 * (i % 2)));
        return _mm256_castsi256_ps(i % 4 < 2 ? _mm256_slli_epi32(v, 16) : _mm256_and_si256(v, upper));
    }
    __m256i words = i % 4 < 2 ? _mm256_unpacklo_epi8(c->low, c->high) : _mm256_unpackhi_epi8(c->low, c->high);
    return _mm256_castsi256_ps(i % 2 == 0 ? _mm256_slli_epi32(words, 16) : _mm256_and_si256(words, upper));
}

static inline bool is_bad(bad_mask bad)
{
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(bad, _mm256_set1_epi8(-1))) != 0;
}

/* ((0+1)+(2+3)) + ((4+5)+(6+7)) of each. */
static inline void sums4(__m256 a, __m256 b, __m256 c, __m256 d, float to[4])
{
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

#include "kernels/cpu/mat_kernels.inc"

/* 64 codes into the order of FP4. */
static void fp4_order(const uint8_t *q, uint8_t *to)
{
    const __m256i by_4 = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15));
    __m256i a = _mm256_shuffle_epi8(_mm256_loadu_si256((const __m256i *)(const void *)q), by_4);
    __m256i b = _mm256_shuffle_epi8(_mm256_loadu_si256((const __m256i *)(const void *)(q + 32)), by_4);
    _mm256_store_si256((__m256i *)(void *)to, _mm256_unpacklo_epi32(a, b));
    _mm256_store_si256((__m256i *)(void *)(to + 32), _mm256_unpackhi_epi32(a, b));
}

static void x_codes(enum kn_dtype dtype, const uint8_t *q, const uint8_t *s, int n, float *to)
{
    _Alignas(32) uint8_t sorted[KN__GROUP];

    if (dtype == KN_FP8) {
        expand(KN_FP8, q, s, n, q, to);
        return;
    }
    for (int i = 0; i < n; i += KN__GROUP) {
        fp4_order(q + i, sorted);
        fp4_order(q + i + 64, sorted + 64);
        expand(KN_FP8, sorted, s + i / 128, KN__GROUP, sorted, to + i);
    }
}

static void x_bf16(enum kn_dtype dtype, const uint16_t *x, int n, float *to)
{
    int i = 0;

    if (dtype == KN_BF16) {
        expand(KN_BF16, (const uint8_t *)x, NULL, n, (const uint8_t *)x, to);
        return;
    }
    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(x + i));
        _mm256_store_ps(to + i, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)));
    }
    for (; i < n; i++)
        to[i] = kn_bf16_f32(x[i]);
    for (; i % KN__GROUP; i++)
        to[i] = 0;
}

const struct kn__mat kn__mat_avx2 = {
    .init = init, .w_row = w_row, .x_codes = x_codes, .x_bf16 = x_bf16, .few = few, .dot = dot};
