/* controller/api/front.h - the HTTP front of the controller: server, routes, running generations.
 * Owns:     the HTTP server, every exchange (struct api_run) and generation (struct api_gen), one timer.
 * Lifetime: ctl_front_open .. ctl_front_close(on_closed).
 * Thread:   the loop; rendering and tokenizing of large bodies on libuv's thread pool.
 * Limits:   struct ctl_limits of the controller's configuration.
 * Source:   spec/api.md sections 1 to 4, 9.
 */
#ifndef CONTROLLER_API_FRONT_H
#define CONTROLLER_API_FRONT_H

#include "common/base/err.h"

#include <stdbool.h>

struct ctl;
struct ctl_request;
struct ctl_front;

int ctl_front_open(struct ctl *ctl, struct ctl_front **front, struct err *err);

/* Once per turn, after the back's events: read and submit what came in, write what is due, flush. */
void ctl_front_turn(struct ctl_front *front);

/* After a restart: a request of this front goes on, whether or not its client comes back. */
void ctl_front_recover(struct ctl_front *front, struct ctl_request *req);

/* No new generations (503); /health says so; running ones go on. */
void ctl_front_drain(struct ctl_front *front);

int ctl_front_port(const struct ctl_front *front);

/* Nothing runs and nothing is unsent. */
bool ctl_front_idle(const struct ctl_front *front);

/* Drops all requests at once. on_closed(arg) when its handles are closed, its pool jobs are back and it is free. */
void ctl_front_close(struct ctl_front **front, void (*on_closed)(void *arg), void *arg);

#endif
