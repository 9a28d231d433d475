/* controller/ledger/count.h - what the controller has counted since it started; shown by `baton ps`.
 * Owns:     nothing; a plain value inside struct ctl.
 * Thread:   the loop.
 */
#ifndef CONTROLLER_LEDGER_COUNT_H
#define CONTROLLER_LEDGER_COUNT_H

#include <stdint.h>

#define CTL_COUNT_LIST(X)                                                                          \
    X(requests)             /* accepted */                                                         \
    X(tokens)               /* committed */                                                        \
    X(failovers)            /* worker losses that had work to move */                              \
    X(redispatched)         /* choices queued again after a loss or a worker's failure */          \
    X(recomputed_tokens)    /* committed tokens sent to a worker again */                          \
    X(stale_tokens_dropped) /* tokens of an old epoch or attempt, repeats, gaps */                 \
    X(violations)           /* messages that broke the protocol: gap, too many tokens, bad id */   \
    X(fenced)               /* messages of an epoch that is over */                                \
    X(lost)                 /* workers given up */                                                 \
    X(refused)              /* hellos refused */                                                   \
    X(malformed)            /* messages that could not be decoded */                               \
    X(quarantined)          /* choices ended because workers kept dying under them */              \
    X(loop_stalls)          /* times the loop itself was away; workers were given more time */

struct ctl_counts {
#define X(name) uint64_t name;
    CTL_COUNT_LIST(X)
#undef X
};

#endif
