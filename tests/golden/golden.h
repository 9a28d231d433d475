/* tests/golden/golden.h - a golden case: its numbers, its checkpoint, and engines on it.
 * Owns:     what golden_open took, until golden_close.
 * Thread:   the test's.
 * Limits:   names of tensors as tests/golden/README.md lists them.
 *
 * Every problem that makes a comparison impossible (no file, no tensor, another shape) fails the running test.
 */
#ifndef TESTS_GOLDEN_GOLDEN_H
#define TESTS_GOLDEN_GOLDEN_H

#include "worker/engine/engine.h"
#include "worker/engine/probe.h"
#include "worker/model/safetensors.h"

struct golden {
    const char *name; /* "tiny" */
    char dir[1024];   /* its checkpoint in the build folder */
    struct st_file *file;
    int32_t *prompt;
    int n_prompt;
    int32_t n_position;
    const int32_t *position; /* [n_position] rows of the [P, ...] tensors */
};

void golden_open(struct golden *g, const char *name);
void golden_close(struct golden *g);

/* Tensor by name of this dtype; it must be there. */
const struct mdl_tensor *golden_get(const struct golden *g, enum mdl_dtype dtype, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The same, or NULL if there is none of this name. */
const struct mdl_tensor *golden_find(const struct golden *g, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Elements of one row (all dimensions but the first). */
int64_t golden_row(const struct mdl_tensor *t);

/* An engine on the case with room for n_seq sequences of n_tok tokens and steps of step_max. */
struct eng *golden_engine(const struct golden *g, const char *backend, int n_seq, int64_t n_tok, int step_max);

/* The same with a number of ranks, and of threads for back ends that have them; 0: all cores. */
struct eng *golden_engine_ranks(const struct golden *g, const char *backend, int n_ranks, int n_threads, int n_seq,
                                int64_t n_tok, int step_max);

/* The back ends to test: those that are built in, NULL behind the last. */
const char *const *golden_backends(void);

/* Prefill `tok` in one step of a new sequence; logits [n_logit, vocab] of the last n_logit rows. */
void golden_prefill(struct eng *eng, struct eng_seq **seq, const int32_t *tok, int n, float *logits, int n_logit);
/* One more step of a sequence, room included. */
void golden_step(struct eng *eng, struct eng_seq *seq, const int32_t *tok, int n, float *logits, int n_logit);

int golden_argmax(const float *x, int n); /* the first of the largest */

#endif
