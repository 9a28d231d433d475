/* worker/engine/probe.h - looking into the model: an observer of the layer loop, and parts of the model run alone.
 * Owns:     nothing that outlives a call.
 * Lifetime: between eng_open and eng_close.
 * Thread:   the engine thread. For tools and tests, not for serving: a probe allocates and waits.
 * Limits:   n_tok 1..step_tok_max; a free state slot and its blocks are needed.
 * Source:   golden/README.md (names and shapes of the intermediates), spec/model.md sections 4-8.
 */
#ifndef WORKER_ENGINE_PROBE_H
#define WORKER_ENGINE_PROBE_H

#include "worker/engine/engine.h"
#include "worker/model/tensor.h"

/* One intermediate, on the host. */
struct eng_tensor {
    const char *name;     /* "attn.q": without the layer */
    enum mdl_dtype dtype; /* BF16, F32 or I32 */
    int n_dim;
    int64_t dim[3]; /* the rows of the step first */
    const void *data;
};

struct eng_tap {
    void *arg;
    void (*on_tensor)(void *arg, int layer, const struct eng_tensor *t); /* t is valid during the call */
};

/* Observe every layer of every step from now on; NULL: no more. tap must stay until then. */
void eng_tap_set(struct eng *eng, const struct eng_tap *tap);

/* One layer alone, on a new sequence whose cache is empty.
 *   x     bf16 [n_tok, hc, d] host, in: the residual before the layer, out: after it
 *   tok   [n_tok] i32 host (hash layers route by it), 0 <= id < vocab_size
 * With a tap, every named intermediate is shown, index.scores too. ERR_LIMIT, ERR_MEM, ERR_GPU. */
int eng_layer_alone(struct eng *eng, int layer, uint16_t *x, const int32_t *tok, int n_tok, struct err *err);

/* The FFN of a layer alone: x bf16 [n_tok, d] in (after ffn_norm), out (ffn.out). The tap shows router.* and ffn.*. */
int eng_ffn_alone(struct eng *eng, int layer, uint16_t *x, const int32_t *tok, int n_tok, struct err *err);

/* The attention output projection alone: o bf16 [n_tok, H, D] -> y bf16 [n_tok, d] (attn.out). */
int eng_attn_output_alone(struct eng *eng, int layer, const uint16_t *o, int n_tok, uint16_t *y, struct err *err);

#endif
