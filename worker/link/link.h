/* worker/link/link.h - the worker's line to the controller: one thread, one ZeroMQ DEALER.
 * Owns:     its thread, ZeroMQ context and sockets, the queues to and from the engine thread.
 * Lifetime: wrk_link_start .. wrk_link_join.
 * Thread:   take, give, publish, tell: the engine thread; ask_drain, leave, join: the main thread; stay: any.
 * Limits:   n_in_max commands: one more Generate is answered with Failed{overload}, one more Cancel is dropped with a
 *           log line (the sequence then ends by itself); n_out_max messages to send: the engine waits out_wait_ms, then
 *           the stay is given up and begins anew with Hello.
 *
 * A *stay* is what the controller calls an epoch, by a number of our own: it goes up whenever a stay begins or
 * ends, so that work of an earlier one is recognised even when a new controller counts its epochs from 1 again. A stay
 * ends when the connection does, when the controller fences it, when it sends what cannot be read, or by
 * wrk_link_rejoin. All of its sequences are void then; the controller has them go on elsewhere.
 */
#ifndef WORKER_LINK_LINK_H
#define WORKER_LINK_LINK_H

#include "common/base/err.h"
#include "proto/codec/msg.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    WRK_LINK_HELLO_MS = 500,       /* first wait for an answer to Hello; doubles, half of it random */
    WRK_LINK_HELLO_MS_MAX = 5000,
    WRK_LINK_RECONNECT_MS = 100,   /* ZeroMQ's own, with its jitter */
    WRK_LINK_RECONNECT_MS_MAX = 2000,
    WRK_LINK_PROBE_MS = 1000,      /* a connection that is silent is probed so often ... */
    WRK_LINK_SILENCE_MS = 3000,    /* ... and given up after so long: three times the usual lost_ms */
    WRK_LINK_SEND_MAX = 256,       /* messages that ZeroMQ may hold unsent */
    WRK_LINK_RECV_MAX = 64,        /* messages read before heartbeats are looked at again */
    WRK_LINK_BYE_MS = 1000,        /* to send what is left, and Bye */
    WRK_LINK_NEWS_MAX = 65536,     /* changes of the prefix cache that wait for the next heartbeat */
};

struct wrk_link;

/* What would be the engine thread's loop, run by the link's thread in each of its rounds: must not block. Returns when
 * (clock_mono_ns) it wants to be called next although nothing has come; INT64_MAX: not before something has. */
typedef int64_t (*wrk_link_turn_fn)(void *arg);

struct wrk_link_opts {
    const char *endpoint; /* "tcp://127.0.0.1:7001" */
    struct msg_hello hello;
    int n_in_max, n_out_max;
    int out_wait_ms;
    wrk_link_turn_fn turn; /* NULL: an engine thread takes and gives */
    void *turn_arg;
};

/* What the engine thread is told. MSG_generate, MSG_cancel, or MSG_ping: only wake up. */
struct wrk_cmd {
    struct arena arena; /* holds what m points to */
    struct msg m;
    uint64_t stay;
    int64_t at_ns; /* when it came */
};

/* ERR_ARG: the endpoint is none. The controller need not be there yet. */
int wrk_link_start(const struct wrk_link_opts *opts, struct wrk_link **link, struct err *err);

/* ---- engine thread, or opts.turn ---- */

uint64_t wrk_link_stay(struct wrk_link *link);

/* Next command: 0 and *cmd (end it with wrk_cmd_free); ERR_TIMEOUT; ERR_STATE: the link has ended. timeout_ns < 0:
 * no limit. */
int wrk_link_take(struct wrk_link *link, int64_t timeout_ns, struct wrk_cmd **cmd);
void wrk_cmd_free(struct wrk_cmd **cmd);

/* Send m as part of `stay`; void if that is over. 0; ERR_TIMEOUT: the queue stayed full for out_wait_ms (in opts.turn
 * it does not wait: look at wrk_link_n_out first). */
int wrk_link_give(struct wrk_link *link, uint64_t stay, const struct msg *m, struct err *err);
size_t wrk_link_n_out(struct wrk_link *link); /* messages that ZeroMQ has not taken yet */

/* Numbers for the next heartbeats; epoch, seq and draining are the link's. */
void wrk_link_publish(struct wrk_link *link, const struct msg_heartbeat *beat);

/* Tell the controller about the prefix cache at once, as part of `stay`. is_all: it forgets what it was told before.
 * False: too much waits already, all of it is dropped; tell everything again, later. */
bool wrk_link_tell(struct wrk_link *link, uint64_t stay, const struct prefix_news *news, int n, bool is_all);

/* Give the stay up and say Hello. */
void wrk_link_rejoin(struct wrk_link *link);

/* ---- main thread ---- */

void wrk_link_wake_engine(struct wrk_link *link);

/* Take no new work from now on and say so. */
void wrk_link_ask_drain(struct wrk_link *link);

/* Send what is queued, then Bye{text}, then end. */
void wrk_link_leave(struct wrk_link *link, const char *text);

/* Readable once the thread has ended. */
int wrk_link_done_fd(const struct wrk_link *link);

/* Wait for the thread and free everything. 0: it left as asked; ERR_STATE or ERR_VERSION: the controller refused
 * this worker, err has its text. Commands that nobody took are freed. */
int wrk_link_join(struct wrk_link **link, struct err *err);

#endif
