/* common/ds/uvzmq.h - a ZeroMQ socket inside a libuv loop, without lost wake-ups.
 * Owns:     its poll, check and idle handles; the socket stays the caller's.
 * Lifetime: uvzmq_open .. uvzmq_close(on_closed): memory may be freed only in on_closed.
 * Thread:   the loop's thread.
 * Limits:   max_per_turn receives before the loop goes round again.
 *
 * ZMQ_FD is edge-triggered and a send can swallow the edge (docs/STYLE.md, finding 2). So the state of the socket is
 * asked twice a turn: uvzmq_arm() right before the loop sleeps, and in a check handle after it woke; if there is
 * something to read, an idle handle keeps the loop from sleeping. The loop has exactly one prepare handle and it is
 * not ours: its owner calls uvzmq_arm() last, after all sends of the turn.
 *
 * Each question costs system calls. An owner that reads by itself, until EAGAIN, may spare most of them: it says so by
 * uvzmq_emptied(), and says uvzmq_used() after every send. In between only the descriptor can bring news: ZeroMQ
 * signals it for the first command that comes after a look that found none.
 */
#ifndef COMMON_DS_UVZMQ_H
#define COMMON_DS_UVZMQ_H

#include "common/base/err.h"

#include <stdbool.h>
#include <uv.h>

struct uvzmq;

/* Called while the socket is readable: receive up to `max` messages with ZMQ_DONTWAIT. */
typedef void (*uvzmq_readable_fn)(void *arg, int max);
typedef void (*uvzmq_closed_fn)(void *arg);

/* on_readable may be NULL: the owner reads in its turn, and being woken is all that it needs. */

int uvzmq_open(uv_loop_t *loop, void *socket, int max_per_turn, uvzmq_readable_fn on_readable, void *arg,
               struct uvzmq **bridge, struct err *err);

/* Last look before the loop sleeps; called from the prepare handle of the loop's owner. */
void uvzmq_arm(struct uvzmq *bridge);

void uvzmq_emptied(struct uvzmq *bridge); /* a receive has just said EAGAIN, and nothing was sent since */
void uvzmq_used(struct uvzmq *bridge);    /* something was sent, or received without reaching EAGAIN */
bool uvzmq_is_settled(const struct uvzmq *bridge); /* as far as is known there is nothing to read */

/* Stop reading; on_closed(arg) runs when all handles are closed, then the socket may be closed. *bridge is NULL. */
void uvzmq_close(struct uvzmq **bridge, uvzmq_closed_fn on_closed, void *arg);

#endif
