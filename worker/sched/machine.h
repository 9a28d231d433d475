/* worker/sched/machine.h - what the engine thread of a worker drives: the scheduler over an engine, or the simulator.
 * Owns:     nothing; a table of calls.
 * Lifetime: open .. destroy.
 * Thread:   the engine thread, or the link's (is_light); info and open: main, before that thread starts.
 * Limits:   those of the implementation: worker/sched/sched.h, worker/sim/sim.h.
 */
#ifndef WORKER_SCHED_MACHINE_H
#define WORKER_SCHED_MACHINE_H

#include "common/base/err.h"
#include "common/ds/prefix_key.h"
#include "proto/codec/msg.h"

#include <stdbool.h>
#include <stdint.h>

/* Takes tokens, finished and failed messages; m is lent for the call. An error stops the step and is handed on. */
typedef int (*wrk_emit_fn)(void *arg, const struct msg *m, struct err *err);

/* What Hello says of it. */
struct wrk_machine_info {
    uint64_t fingerprint; /* of the model */
    int32_t n_vocab, n_ranks;
    int64_t kv_blocks, context_max;
    const char *numerics; /* lives as long as `from` */
};

struct wrk_machine_ops {
    bool is_light; /* a step takes microseconds: the link's thread runs it, there is no engine thread */
    void (*info)(void *from, struct wrk_machine_info *info);
    /* `from` is the caller's and outlives the machine: struct eng, or struct wrk_sim_opts. */
    int (*open)(void *from, int n_seq_max, wrk_emit_fn emit, void *arg, void **machine, struct err *err);
    void (*destroy)(void **machine);
    int (*add)(void *machine, const struct msg_generate *g, int64_t now_ns, struct err *err);
    int (*cancel)(void *machine, const char *request, uint32_t attempt, struct err *err);
    void (*drop)(void *machine); /* forget all sequences without a word */
    int (*step)(void *machine, int64_t now_ns, struct err *err); /* do what is due; negative: see wrk_sched_step */
    int (*n)(const void *machine);                               /* sequences, waiting ones included */
    int64_t (*due_ns)(const void *machine); /* when the next step has something to do; 0: now; INT64_MAX: never */
    void (*beat)(const void *machine, struct msg_heartbeat *beat); /* load and KV of the next heartbeats */
    /* The prefix cache, as eng_prefix_news and eng_prefix_tell_all. Both NULL: there is none. */
    int (*news)(void *machine, struct prefix_news *news, int n, bool *is_all);
    void (*tell_all)(void *machine);
    bool (*is_rank_lost)(const void *machine); /* why step failed; NULL: there are no ranks */
};

/* The scheduler over an engine; from: struct eng. */
extern const struct wrk_machine_ops wrk_sched_machine;

#endif
