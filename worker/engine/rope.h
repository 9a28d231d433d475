/* worker/engine/rope.h - rotary frequencies.
 * Owns:     nothing.
 * Thread:   any.
 * Source:   spec/model.md section 5, last paragraph.
 */
#ifndef WORKER_ENGINE_ROPE_H
#define WORKER_ENGINE_ROPE_H

#include "worker/model/config.h"

#include <stdbool.h>

/* Angle per position of each of the qk_rope_head_dim/2 pairs.
 *   compressed  CSA and HCA layers (compress_rope_theta, YaRN), else window-only layers (rope_theta, plain)
 *   freq        [qk_rope_head_dim/2] f32 out
 * Numerics: exponent, power and reciprocal are each rounded to f32, as published. */
void eng__rope_freqs(const struct mdl_config *cfg, bool compressed, float *freq);

#endif
