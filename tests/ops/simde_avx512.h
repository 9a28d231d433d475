/* tests/ops/simde_avx512.h - AVX-512 intrinsics on processors without them: SIMDe's, and the two that its release in
 * Debian 12 lacks. For builds of kernels/cpu/avx512.c that tests run; never for the product.
 * Owns:     nothing.
 * Thread:   any.
 */
#ifndef TESTS_OPS_SIMDE_AVX512_H
#define TESTS_OPS_SIMDE_AVX512_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wpointer-arith"
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
#pragma GCC diagnostic pop

#include <stdint.h>
#include <string.h>

static inline simde__m512i test_cvtepi8_epi32(simde__m128i a)
{
    int8_t b[16];
    int32_t w[16];
    memcpy(b, &a, sizeof b);
    for (int i = 0; i < 16; i++)
        w[i] = b[i];
    return simde_mm512_loadu_si512(w);
}

static inline simde__m512i test_cvtepu8_epi32(simde__m128i a)
{
    uint8_t b[16];
    int32_t w[16];
    memcpy(b, &a, sizeof b);
    for (int i = 0; i < 16; i++)
        w[i] = b[i];
    return simde_mm512_loadu_si512(w);
}

#define _mm512_cvtepi8_epi32 test_cvtepi8_epi32
#define _mm512_cvtepu8_epi32 test_cvtepu8_epi32
#define _MM_HINT_T0          3
#ifndef _mm_prefetch
#define _mm_prefetch(p, hint) __builtin_prefetch(p)
#endif

#endif
