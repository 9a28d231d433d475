/* controller/link/monitor.h - which connections of a ZeroMQ socket are open, by descriptor, in the order of events.
 * Owns:     the PAIR socket on which ZeroMQ reports, and a table of open descriptors.
 * Lifetime: ctl_monitor_open .. ctl_monitor_close; the watched socket must be open all that time.
 * Thread:   the loop.
 * Limits:   MONITOR_FD_MAX descriptors; the queue of events is not bounded (a bounded one would stop ZeroMQ's own
 *           thread), it grows by connections made while the loop is away.
 *
 * ZeroMQ names a connection by its descriptor, and descriptors are used again. What makes the match safe: ZeroMQ's
 * thread reports the end of a connection before it closes the descriptor, and reports an accept before the first
 * message of that connection can be received. So whoever reads all events AFTER receiving a Hello and BEFORE
 * believing its descriptor has seen the end of the former owner.
 */
#ifndef CONTROLLER_LINK_MONITOR_H
#define CONTROLLER_LINK_MONITOR_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum { MONITOR_FD_MAX = 1 << 20 };

struct ctl_monitor {
    void *pair;    /* for the bridge to the loop */
    void *watched;
    unsigned char *open; /* [n_open]: 1 while that descriptor is a connection */
    size_t n_open;
};

typedef void (*ctl_monitor_gone_fn)(void *arg, int fd);

int ctl_monitor_open(void *zmq_ctx, void *watched, struct ctl_monitor *m, struct err *err);
void ctl_monitor_close(struct ctl_monitor *m);

/* Read every event there is; on_gone for each connection that ended. False: interrupted by a signal, read again. */
bool ctl_monitor_read(struct ctl_monitor *m, ctl_monitor_gone_fn on_gone, void *arg);

bool ctl_monitor_is_open(const struct ctl_monitor *m, int fd);

#endif
