/* worker/sample/sample.h - logits -> one token, from (logits, settings, tokens so far, position) alone.
 * Owns:     nothing; scratch is the caller's (wrk_sample_scratch_bytes).
 * Thread:   any.
 * Limits:   SAMPLE_BIAS_MAX biases, SAMPLE_STOP_MAX stop ids, SAMPLE_TOP_MAX reported alternatives.
 *
 * Exactness: the noise of position p is a counter-based generator keyed by (seed, p); there is no generator
 * state, so a sequence that moves to another worker draws the same tokens. Penalties come from the tokens.
 */
#ifndef WORKER_SAMPLE_SAMPLE_H
#define WORKER_SAMPLE_SAMPLE_H

#include "proto/codec/msg.h"

#include <stddef.h>
#include <stdint.h>

struct wrk_sample_in {
    const float *logits; /* [n_vocab] f32, not changed */
    int32_t n_vocab;
    const struct msg_sampling *how;
    const int32_t *tok; /* [n_tok]: prompt and everything generated so far, for penalties */
    int64_t n_tok;      /* the new token gets position n_tok */
    int64_t n_prompt;   /* of those, how many are prompt: presence/frequency penalties count generated ones only */
};

size_t wrk_sample_scratch_bytes(int32_t n_vocab);

/* Choose the token for position n_tok. temperature 0 (or top_k 1): argmax, ties to the lower id. Else: bias,
 * penalties, temperature, top_k, min_p, top_p (all ties broken by lower id), then Gumbel or inverse-CDF with the
 * noise of (seed, n_tok). *out gets id, natural log probability of the raw distribution (before temperature, as
 * OpenAI) and how->n_top alternatives. NaN logits: ERR_STATE (the engine is broken), never a token. */
int wrk_sample(const struct wrk_sample_in *in, void *scratch, struct msg_token *out, struct err *err);

#endif
