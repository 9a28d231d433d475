/* worker/sim/sim.h - `--engine sim`: a worker's machine without a model. Output and times are known in advance.
 * Owns:     its sequences; no token of a prompt is kept.
 * Lifetime: through wrk_sim_machine (worker/sched/machine.h); struct wrk_sim_opts must outlive it.
 * Thread:   the engine thread.
 * Limits:   n_seq_max sequences (one more: Failed{overload}); numbers below TOK_SIM_NUMBERS are one token each.
 *
 * Output token i of every request is the number i: the text "i " in the vocabulary of common/text/tok_sim.h. So a
 * client sees at once whether a token is missing, doubled or out of place, whatever died in between. How many and how
 * fast is told by flags and, for one request, by the last [[key=value,...]] in its prompt:
 *   id        of the request in the worker's log      n         tokens of output (bounded by the request's max_output)
 *   ttft_us   to the first token of each attempt      itl_us    between tokens; 0: as fast as it goes
 *   cut_at    this index fails the attempt (Failed{worker})      stall_at  from this index on nothing comes
 *   bad_at    this index is left out once (the worker breaks the protocol)
 *   die_at    at this index the process kills itself  fw        only on the worker of this name (for the four faults)
 * A sequence that goes on (n_committed > 0) begins at the index after the last committed one.
 */
#ifndef WORKER_SIM_SIM_H
#define WORKER_SIM_SIM_H

#include "worker/sched/machine.h"

enum { WRK_SIM_OPT_MAX = 256 }; /* bytes of one [[...]] that are read */

struct tok;

struct wrk_sim_opts {
    const struct tok *tok;   /* of tok_sim_open */
    const char *name;        /* of this worker, for fw= */
    int64_t n_tok;           /* tokens of output where the prompt names none; at least 1 */
    int64_t ttft_us, itl_us;
    int64_t kv_tokens, context_max;
    const char *log_path;    /* "id index us" of every token handed to the link (CLOCK_MONOTONIC), index -1: it
                              was canceled; NULL: none */
};

/* from: struct wrk_sim_opts. open: ERR_IO when the log cannot be written. */
extern const struct wrk_machine_ops wrk_sim_machine;

#endif
