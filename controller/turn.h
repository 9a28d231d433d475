/* controller/turn.h - the state of a controller, and the one written order of work before each sleep.
 * Owns:     everything of the controller, see struct ctl.
 * Lifetime: ctl_open .. the on_closed of ctl_close.
 * Thread:   the loop.
 * Limits:   LINK_RECV_MAX messages and SCHED_DISPATCH_MAX dispatches a turn; what is left keeps the loop awake.
 *
 * For ctl.c and turn.c only; everyone else has ctl_internal.h.
 */
#ifndef CONTROLLER_TURN_H
#define CONTROLLER_TURN_H

#include "controller/ctl_internal.h"
#include "controller/link/link.h"
#include "controller/retain.h"
#include "controller/sched/sched.h"

enum {
    CTL_NAME_MAX = 256,      /* bytes of the model's name */
    CTL_STOP_FLUSH_MS = 1000, /* after stop_ms: how long clients may take to read why their stream ended */
};

struct ctl {
    uv_loop_t *loop;
    struct ctl_config config;
    struct ctl_parts parts;
    char model_name[CTL_NAME_MAX];
    char endpoint[LINK_ENDPOINT_MAX];
    struct ctl_counts counts;
    struct store *store;      /* NULL: none */
    enum store_state store_state;
    enum store_fault store_fault;
    char store_text[ERR_TEXT_MAX];
    struct ctl_ledger *ledger;
    struct ctl_request **recovered; /* read back, until their front has them */
    size_t n_recovered, cap_recovered;
    bool restored;            /* the scheduler has them */
    struct ctl_retain retain;
    uint64_t epoch_base;      /* worker epochs of this life are above */
    ctl_fatal_fn on_fatal;
    void *fatal_arg;
    struct ctl_sched *sched;
    struct ctl_link *link;
    struct ctl_front *front;
    struct agent *agent;      /* NULL: no pipelines */
    uv_prepare_t prepare; /* the only one on the loop: it calls ctl_turn */
    uv_idle_t idle;       /* started: a turn is wanted, so the loop may not sleep */
    uv_timer_t timer;     /* wakes the loop for the next deadline, back-off or silence */
    int n_handle;         /* of these three, not yet closed */
    bool before_dispatch; /* the part of the turn whose wishes of the scheduler are met later in the same turn */
    int64_t timer_due_ms; /* what the timer is set to; INT64_MAX: not set */
    int64_t start_ms;
    bool draining, drain_ended;
    int64_t drain_until_ms;
    ctl_closed_fn on_drained;
    void *drained_arg;
    bool closing;
    ctl_closed_fn on_closed;
    void *closed_arg;
};

void ctl__turn(struct ctl *ctl);

#endif
