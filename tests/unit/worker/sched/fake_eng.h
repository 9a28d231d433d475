/* tests/unit/worker/sched/fake_eng.h - a stand-in for worker/engine in tests of what lies above it: the same functions,
 * linked instead. Its logits are a hash of the sequence's tokens; slots and blocks are counted as in the real one,
 * and a plan that breaks the contract of engine.h aborts the test.
 * Thread: as engine.h; the knobs may be turned by any.
 */
#ifndef TESTS_UNIT_WORKER_SCHED_FAKE_ENG_H
#define TESTS_UNIT_WORKER_SCHED_FAKE_ENG_H

#include "proto/codec/msg.h"
#include "worker/engine/engine.h"

#include <stdatomic.h>

enum { FAKE_VOCAB = 64, FAKE_EOS = 1, FAKE_OUT_MAX = 4096 };

struct fake_knobs {
    atomic_int step_ms;    /* a step lasts so long */
    atomic_int fail_after; /* eng_step fails once so many steps were done; -1: never */
    atomic_int nan_after;  /* the same, but the logits are NaN */
    atomic_bool is_rank_lost; /* what eng_is_rank_lost says */
    atomic_int n_step;     /* out */
    atomic_int n_open;     /* out: sequences open now */
};
extern struct fake_knobs fake;

/* What an undisturbed engine makes of g: ids of the output (committed ones included), n of them returned; *finish. */
int fake_expect(const struct msg_generate *g, int64_t context_max, int32_t out[FAKE_OUT_MAX], enum msg_finish *finish);

#endif
