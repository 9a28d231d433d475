/* tests/ops/compare.h - the one comparator of numeric tests.
 * Owns:     nothing.
 * Thread:   the test's.
 * Source:   docs/STYLE.md finding 1: a comparison with NaN is false, so NaN and infinity are compared as masks FIRST,
 *           and a value passes only if `<=` holds. Never built with -ffast-math.
 */
#ifndef TESTS_OPS_COMPARE_H
#define TESTS_OPS_COMPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a comparison found. */
struct compare {
    size_t n, n_equal;   /* elements; equal as values (+0 and -0 are equal) */
    size_t n_mask;       /* elements where one is NaN or infinite and the other is not the same */
    size_t worst;        /* index of the first mask fault, else of the largest difference */
    double rel;          /* |got-want|_2 / |want|_2 over the finite elements; infinity if want is 0 and got is not */
    double max_abs, mean_abs; /* over the finite elements */
};

/* Compare n values. The result says all; the verdicts are below. */
struct compare compare_f32(const float *got, const float *want, size_t n);
struct compare compare_bf16(const uint16_t *got, const uint16_t *want, size_t n);

/* Pass only if the masks agree and the measure is <= tol (tol itself finite and not negative). n = 0 passes. */
bool compare_rel_ok(const struct compare *c, double tol);
bool compare_abs_ok(const struct compare *c, double tol);

/* Index of the first byte that differs, or n. For results that must have the same bits. */
size_t compare_bits(const void *got, const void *want, size_t n_bytes);

#endif
