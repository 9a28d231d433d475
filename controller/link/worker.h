/* controller/link/worker.h - one stay of a worker with this controller: who it is, its state, what it said last.
 * Owns:     nothing but itself.
 * Lifetime: from its Hello to some time after its loss; made and freed by the link only, never inside a callback.
 *           Whoever keeps a pointer drops it in on_lost; a longer memory is the epoch.
 * Thread:   the loop.
 * Limits:   workers_max of them that are not lost, CTL_LOST_KEPT_MAX lost ones kept for `baton ps`.
 */
#ifndef CONTROLLER_LINK_WORKER_H
#define CONTROLLER_LINK_WORKER_H

#include "controller/link/prefixes.h"
#include "proto/codec/msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ctl_choice;

/* Life of a worker's stay. A process that is still loading has not said Hello yet and is not in the table. */
#define CTL_WORKER_STATE_LIST(X)                                                                   \
    X(ready)    /* takes work */                                                                   \
    X(draining) /* finishes what it has, takes nothing new */                                      \
    X(lost)     /* its epoch is over; whatever it still says is fenced */
enum ctl_worker_state {
#define X(name) CTL_WORKER_##name,
    CTL_WORKER_STATE_LIST(X)
#undef X
        CTL_WORKER_STATE_N
};

enum {
    CTL_ROUTE_BYTES_MAX = 255, /* ZeroMQ's own limit of a routing id */
    CTL_LOST_KEPT_MAX = 64,
};

struct ctl_worker {
    struct msg_hello hello;
    struct msg_heartbeat beat; /* the last one, without its news; zero before the first */
    struct ctl_prefixes prefixes; /* what its prefix cache has; freed with it */
    uint64_t epoch;
    enum ctl_worker_state state;
    unsigned char route[CTL_ROUTE_BYTES_MAX];
    size_t n_route;
    int fd;                    /* of its connection, -1 if the transport has none */
    int64_t heard_ms;          /* loop time of its last message, moved on while the loop itself was away */
    int64_t joined_ms, lost_at_ms;
    bool reclaimed;            /* its host said that it will take it away */
    const char *gone;          /* set: give it up at the end of this reading, with this reason (static text) */
    bool gone_orderly;         /* it said Bye, or hello again: the process did not die */
    struct ctl_choice *running; /* the scheduler's list of what it works on */
    int32_t n_running;
    struct ctl_worker *next;   /* in the order of joining */
};

/* Move to another state; ASSERTs that the move is legal. */
void ctl_worker_move(struct ctl_worker *w, enum ctl_worker_state to);
const char *ctl_worker_state_name(enum ctl_worker_state state);

#endif
