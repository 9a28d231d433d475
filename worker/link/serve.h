/* worker/link/serve.h - a worker at work: the engine thread between the link and the machine.
 * Owns:     its engine thread, the link, the machine (scheduler or simulator); the engine stays the caller's.
 * Lifetime: wrk_serve_start .. wrk_serve_join, inside the engine's.
 * Thread:   main.
 * Limits:   WRK_SERVE_OUT_* for what the controller does not take; drain_ms for work at the end.
 */
#ifndef WORKER_LINK_SERVE_H
#define WORKER_LINK_SERVE_H

#include "common/base/err.h"
#include "worker/exit.h"
#include "worker/sched/machine.h"

#include <stdbool.h>

struct wrk_serve;

enum {
    WRK_SERVE_OUT_MAX = 4096,    /* messages between engine and link; then the engine waits */
    WRK_SERVE_OUT_WAIT_MS = 5000, /* and after that gives the stay up */
};

struct wrk_serve_opts {
    const struct wrk_machine_ops *machine; /* wrk_sched_machine or wrk_sim_machine */
    void *from;                            /* what it is opened from: the engine, or the simulator's options */
    const char *endpoint, *name, *backend, *domain;
    int n_seq_max; /* sequences taken at once: the credits of Hello */
};

/* Start both threads. ERR_ARG (endpoint, names), ERR_MEM. */
int wrk_serve_start(const struct wrk_serve_opts *opts, struct wrk_serve **serve, struct err *err);

/* Take no more work; what runs is finished, then Bye. */
void wrk_serve_drain(struct wrk_serve *serve);

/* Bye at once; the engine thread ends after its step, and what it was at goes on elsewhere. */
void wrk_serve_stop(struct wrk_serve *serve);

/* Readable once the link has ended, by itself or as asked; the engine thread ends after its current step. */
int wrk_serve_done_fd(const struct wrk_serve *serve);

/* Wait up to timeout_ms for the engine thread to end its step and itself. False: it has not. */
bool wrk_serve_await(struct wrk_serve *serve, int timeout_ms);

/* Wait for the end. Status and, unless it is ok, the reason. */
enum wrk_exit wrk_serve_join(struct wrk_serve **serve, struct err *err);

#endif
