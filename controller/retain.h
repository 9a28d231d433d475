/* controller/retain.h - what has ended is kept for a while, and not for ever.
 * Owns:     when to look next.
 * Lifetime: of the controller, which embeds it.
 * Thread:   the loop; the store's thread looks, between transactions.
 * Limits:   limit.idempotency_ms by age, limit.kept_max by number; limit.prune_max requests in one transaction, every
 *           limit.prune_ms, sooner while there are more.
 */
#ifndef CONTROLLER_RETAIN_H
#define CONTROLLER_RETAIN_H

#include "controller/ctl.h"

#include <stdbool.h>
#include <stdint.h>

struct ctl_retain {
    int64_t due_ms; /* loop time */
    bool asking;    /* the store has the question */
};

/* In the turn, before the store is flushed: ask if it is time. Does nothing without a store, or while it fails. */
void ctl__retain_turn(struct ctl *ctl, int64_t now_ms);

/* When to run a turn at the latest; INT64_MAX: never. */
int64_t ctl__retain_due_ms(const struct ctl *ctl);

#endif
