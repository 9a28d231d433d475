/* controller/sched/sched.h - from an accepted request to its end: queue, choice of worker, retries, deadlines, loss.
 * Owns:     all submitted requests, the queue, the pending cancels.
 * Lifetime: ctl_sched_new .. ctl_sched_destroy (after the link and the front are closed).
 * Thread:   the loop.
 * Limits:   queue_max choices that have not run yet; what runs is bounded by the workers' credits and goes back to the
 *           queue outside that limit, because it was accepted. dispatch_max, deaths_max, retry_ms, retry_ms_max.
 *
 * Who is blamed for a death. A choice under which deaths_max workers died one after the other without a new token in
 * between is quarantined, not fed to the next one: generation is deterministic, so what kills a worker kills the next
 * one at the same token, and whoever got past that token is innocent. When the last of these deaths was shared with
 * others, the blame is not clear (spot machines die without anyone's fault): the choice goes on probation. It is sent
 * to a worker where every other choice has proved itself by a token, nobody joins it there before it has done the
 * same, and one more death without a new token ends it.
 */
#ifndef CONTROLLER_SCHED_SCHED_H
#define CONTROLLER_SCHED_SCHED_H

#include "controller/ctl.h"
#include "controller/ledger/count.h"
#include "controller/ledger/ledger.h"
#include "controller/ledger/request.h"
#include "controller/link/link.h"

enum {
    SCHED_DISPATCH_MAX = 256,        /* Generate messages of one turn */
    SCHED_DISPATCH_TOK_MAX = 262144, /* tokens in them, but at least one message */
};

struct ctl_sched;

struct ctl_sched_opts {
    const struct ctl_limits *limit; /* lent, outlives the scheduler */
    struct ctl_counts *counts;      /* lent */
    struct ctl_ledger *ledger;      /* lent */
    void (*wake)(void *arg);        /* make sure that a turn runs */
    void *arg;
    uint64_t seed; /* of the jitter */
};

/* What the link calls; arg is the scheduler. */
extern const struct ctl_link_events ctl_sched_link_events;

struct ctl_sched *ctl_sched_new(const struct ctl_sched_opts *opts);
void ctl_sched_attach(struct ctl_sched *s, struct ctl_link *link); /* before the first turn; NULL: the link is gone */
void ctl_sched_destroy(struct ctl_sched **s);

/* ---- the wall of ledger/request.h, with the loop's time ---- */
int ctl_sched_submit(struct ctl_sched *s, struct ctl_request **req_p, int64_t now_ms, struct err *err);
void ctl_sched_finish(struct ctl_sched *s, struct ctl_choice *c, enum ctl_end end);
void ctl_sched_stop(struct ctl_sched *s, struct ctl_choice *c);
void ctl_sched_drop(struct ctl_sched *s, struct ctl_request **req_p);
void ctl_sched_leave(struct ctl_sched *s, struct ctl_request **req_p);
struct ctl_request *ctl_sched_find(struct ctl_sched *s, const char *id);

/* ---- after a restart: a request read back from the store goes on where it was ---- */
/* Takes r (ledger/recall.h). Its choices go before everything that is new. */
void ctl_sched_restore(struct ctl_sched *s, struct ctl_request *r);
/* Once all are restored and their fronts have looked at them: end those that have all their tokens. */
void ctl_sched_settle(struct ctl_sched *s);

/* ---- for the ledger ---- */
void ctl_sched_refused(struct ctl_sched *s, struct ctl_request *r, const char *text);
void ctl_sched_idle(struct ctl_sched *s, struct ctl_request *r);

/* ---- the steps of a turn, in this order ---- */
void ctl_sched_begin(struct ctl_sched *s, int64_t now_ms);  /* before the link's turn: sets the time of its events */
void ctl_sched_expire(struct ctl_sched *s);                 /* end what is past its deadline */
void ctl_sched_send_cancels(struct ctl_sched *s);           /* before dispatch: then a credit is really free */
bool ctl_sched_dispatch(struct ctl_sched *s);               /* true if more could be sent: the turn must come again */
void ctl_sched_free_dead(struct ctl_sched *s);              /* the one place where requests are freed */

int64_t ctl_sched_due_ms(const struct ctl_sched *s); /* when to run a turn at the latest; INT64_MAX: never */
int64_t ctl_sched_n_queued(const struct ctl_sched *s);
int64_t ctl_sched_n_running(const struct ctl_sched *s);

/* End every choice that still lives (a stop that waited long enough): events are sent. In the turn. */
void ctl_sched_end_all(struct ctl_sched *s, enum ctl_end end, const char *text);

#endif
