/* controller/link/link.h - the workers' door: a ZeroMQ ROUTER, the table of workers, their epochs and their loss.
 * Owns:     the ZeroMQ context, the ROUTER, the socket monitor, all struct ctl_worker.
 * Lifetime: ctl_link_open .. ctl_link_close(on_closed).
 * Thread:   the loop.
 * Limits:   workers_max; LINK_RECV_MAX messages a turn; LINK_SEND_QUEUE_MAX unsent messages per worker (a worker that
 *           does not take them is given up); MSG_BYTES_MAX a message.
 *
 * A worker is lost when its connection ends (socket monitor: at once), when it is silent for lost_ms, when it says Bye,
 * or when it says Hello again. Silence counts only while this loop was running: a controller that was itself stopped
 * must not think that everyone else was. From then on its epoch is fenced: every message that still carries it is
 * answered with Refused{fenced}, upon which the worker drops that work and says Hello.
 */
#ifndef CONTROLLER_LINK_LINK_H
#define CONTROLLER_LINK_LINK_H

#include "common/base/err.h"
#include "controller/ledger/count.h"
#include "controller/link/worker.h"

#include <uv.h>

enum {
    LINK_RECV_MAX = 256,
    LINK_SEND_QUEUE_MAX = 4096,
    LINK_ENDPOINT_MAX = 256,
};

struct ctl_link;

/* All are called from ctl_link_turn only. Decoded messages are valid during the call. */
struct ctl_link_events {
    void (*on_tokens)(void *arg, struct ctl_worker *w, const struct msg_tokens *m);
    void (*on_finished)(void *arg, struct ctl_worker *w, const struct msg_finished *m);
    void (*on_failed)(void *arg, struct ctl_worker *w, const struct msg_failed *m);
    void (*on_ready)(void *arg, struct ctl_worker *w);   /* joined, or takes work again */
    void (*on_reclaim)(void *arg, struct ctl_worker *w); /* its failure domain is under pressure */
    /* Its epoch is over; orderly: it left by itself, the process did not die. Take its work away: w is not yours
     * after the call. */
    void (*on_lost)(void *arg, struct ctl_worker *w, bool orderly);
};

struct ctl_link_opts {
    const char *endpoint; /* "tcp://127.0.0.1:*" */
    int64_t workers_max, heartbeat_ms, lost_ms;
    int32_t n_vocab; /* ids of the tokenizer; 0: not known */
    uint64_t epoch_base; /* the first epoch given is one more: above all of earlier lives of this controller */
    const struct ctl_link_events *events;
    void *arg;
    struct ctl_counts *counts; /* lent */
};

/* Bind and start listening. ERR_NET (cannot bind), ERR_ARG (no endpoint). */
int ctl_link_open(uv_loop_t *loop, const struct ctl_link_opts *opts, struct ctl_link **link, struct err *err);

/* No more events; on_closed(arg) when sockets and handles are gone and *link is freed. Workers are disconnected. */
void ctl_link_close(struct ctl_link **link, void (*on_closed)(void *arg), void *arg);

const char *ctl_link_endpoint(const struct ctl_link *link); /* as bound, with its port */

/* Read at most LINK_RECV_MAX messages, act on them, then give up who is gone or silent. Returns true if more waits. */
bool ctl_link_turn(struct ctl_link *link, int64_t now_ms);

/* Give up workers that a send found gone. In the turn, after dispatch. Returns true if there were any. */
bool ctl_link_reap(struct ctl_link *link, int64_t now_ms);

void ctl_link_arm(struct ctl_link *link);                       /* last thing of the turn */
int64_t ctl_link_due_ms(const struct ctl_link *link, int64_t now_ms); /* the latest next turn; INT64_MAX: never */

/* Hand over one generation. The epoch is filled in here. 0; ERR_BUSY (its queue is full: try later), ERR_NET (it is
 * gone, ctl_link_reap will say so), ERR_RANGE (the message is outside the wire's limits). */
int ctl_link_generate(struct ctl_link *link, struct ctl_worker *w, struct msg_generate *m, struct err *err);

/* Tell a worker to stop one attempt. A worker that cannot take even that is given up. */
void ctl_link_cancel(struct ctl_link *link, struct ctl_worker *w, const char *request, uint32_t attempt);

const struct ctl_worker *ctl_link_workers(const struct ctl_link *link); /* first; ->next; lost ones too */
struct ctl_worker *ctl_link_first(struct ctl_link *link);
struct ctl_worker *ctl_link_find(struct ctl_link *link, uint64_t epoch); /* not lost, or NULL */
int64_t ctl_link_n_ready(const struct ctl_link *link);
int64_t ctl_link_context_max(const struct ctl_link *link);
uint64_t ctl_link_fingerprint(const struct ctl_link *link);

#endif
