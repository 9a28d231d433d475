/* kernels/include/num.h - the number formats of the model: BF16, E4M3, E2M1, E8M0 to and from float.
 * Owns:     nothing; all inline, no state.
 * Thread:   any.
 * Limits:   every rounding is to nearest, ties to even. NaN stays NaN where the format has one.
 * Source:   spec/model.md section 2 (formats) and 3 (scales); tested over all codes in tests/unit/kernels/include.
 */
#ifndef KERNELS_INCLUDE_NUM_H
#define KERNELS_INCLUDE_NUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KN_E4M3_MAX 448.0f
#define KN_E2M1_MAX 6.0f

static inline uint32_t kn_f32_bits(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return u;
}

static inline float kn_bits_f32(uint32_t u)
{
    float v;
    memcpy(&v, &u, sizeof v);
    return v;
}

/* ---- BF16: the upper half of a float ---- */

static inline float kn_bf16_f32(uint16_t b)
{
    return kn_bits_f32((uint32_t)b << 16);
}

static inline uint16_t kn_f32_bf16(float v)
{
    uint32_t u = kn_f32_bits(v);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40); /* NaN: keep it one, whatever its low bits were */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Round to BF16, keep as float. */
static inline float kn_round_bf16(float v)
{
    return kn_bf16_f32(kn_f32_bf16(v));
}

/* ---- E4M3: sign, 4 exponent bits (bias 7), 3 fraction bits; 0x7f and 0xff are NaN, there is no infinity ---- */

/* Magnitude of code c in units of 2^-9, an integer. */
#define KN__E4M3_INT(c) (((c) >> 3 & 15) ? (8 + ((c) & 7)) << ((((c) >> 3 & 15) + 15) & 15) : ((c) & 7))
#define KN__E4M3(c)                                                                                 \
    (((c) & 127) == 127 ? __builtin_nanf("") : ((c) & 128 ? -1.0f : 1.0f) * (float)KN__E4M3_INT(c) / 512.0f)
#define KN__E4M3_4(c)  KN__E4M3(c), KN__E4M3((c) + 1), KN__E4M3((c) + 2), KN__E4M3((c) + 3)
#define KN__E4M3_16(c) KN__E4M3_4(c), KN__E4M3_4((c) + 4), KN__E4M3_4((c) + 8), KN__E4M3_4((c) + 12)
#define KN__E4M3_64(c) KN__E4M3_16(c), KN__E4M3_16((c) + 16), KN__E4M3_16((c) + 32), KN__E4M3_16((c) + 48)

static const float kn_e4m3_f32[256] = {KN__E4M3_64(0), KN__E4M3_64(64), KN__E4M3_64(128), KN__E4M3_64(192)};

/* Nearest code; the caller has clamped to +-448. */
static inline uint8_t kn_f32_e4m3(float v)
{
    uint32_t u = kn_f32_bits(v);
    uint8_t sign = (uint8_t)(u >> 24 & 0x80);
    uint32_t mag = u & 0x7fffffff;

    if (mag > 0x7f800000)
        return sign | 0x7f;
    if (mag < 0x3c800000) { /* below 2^-6: subnormal, units of 2^-9; adding 2^14 leaves just those bits, rounded */
        float shifted = kn_bits_f32(mag) + 16384.0f;
        return sign | (uint8_t)(kn_f32_bits(shifted) - kn_f32_bits(16384.0f));
    }
    uint32_t r = mag + 0x7ffff + (mag >> 20 & 1); /* keep 3 fraction bits */
    return sign | (uint8_t)((r >> 20) - ((127 - 7) << 3));
}

/* ---- E2M1 (FP4): codes 0..7 = 0 .5 1 1.5 2 3 4 6, bit 3 is the sign ---- */

static const float kn_e2m1_f32[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                      -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

/* Nearest code; ties to the even code; the caller has clamped to +-6. NaN gives the code of 6. */
static inline uint8_t kn_f32_e2m1(float v)
{
    uint8_t sign = (uint8_t)(kn_f32_bits(v) >> 28 & 8);
    float a = v < 0 ? -v : v;
    /* A midpoint belongs to its even neighbour: 0.25 to 0, 0.75 to 1.0 (code 2), 1.25 to code 2, 1.75 to code 4 ... */
    uint8_t mag = a <= 0.25f ? 0 : a < 0.75f ? 1 : a <= 1.25f ? 2 : a < 1.75f ? 3
                : a <= 2.5f  ? 4 : a < 3.5f  ? 5 : a <= 5.0f  ? 6 : 7;
    return sign | mag;
}

/* ---- E8M0: 2^(b-127); 255 is NaN ---- */

static inline float kn_e8m0_f32(uint8_t b)
{
    if (b == 255)
        return __builtin_nanf("");
    return kn_bits_f32(b ? (uint32_t)b << 23 : 0x00400000); /* 2^-127 is a subnormal float */
}

/* Code of the smallest power of two >= v, for normal v > 0 (spec section 3: 2^ceil(log2 v)); infinity gives NaN. */
static inline uint8_t kn_e8m0_ceil(float v)
{
    uint32_t u = kn_f32_bits(v);
    uint32_t e = (u >> 23 & 255) + ((u & 0x7fffff) != 0);
    return (uint8_t)(e > 255 ? 255 : e);
}

/* Scale code of a group whose largest magnitude is amax: E4M3 (spec section 3) and E2M1 (section 6). */
static inline uint8_t kn_scale_e4m3(float amax)
{
    return kn_e8m0_ceil((amax > 1e-4f ? amax : 1e-4f) / KN_E4M3_MAX);
}

static inline uint8_t kn_scale_e2m1(float amax)
{
    float least = KN_E2M1_MAX * 0x1p-126f;
    return kn_e8m0_ceil((amax > least ? amax : least) / KN_E2M1_MAX);
}

/* v limited to +-top; NaN stays. */
static inline float kn_clamp(float v, float top)
{
    return v > top ? top : v < -top ? -top : v;
}

#endif
