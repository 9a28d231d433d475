/* worker/sample/noise.h - random numbers that are a pure function of (seed, position): Philox4x32-10.
 * Owns:     nothing; there is no state.
 * Thread:   any.
 * Source:   Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC'11); vectors of Random123's kat_vectors.
 */
#ifndef WORKER_SAMPLE_NOISE_H
#define WORKER_SAMPLE_NOISE_H

#include <stdint.h>

/* The block cipher itself: 10 rounds over ctr under key. */
void wrk_noise_philox(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4]);

/* Uniform in [0, 1) with 53 bits for the token at `position` under `seed`. */
double wrk_noise_uniform(uint64_t seed, uint64_t position);

#endif
