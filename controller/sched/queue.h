/* controller/sched/queue.h - choices that wait for a worker, in the order in which they get one.
 * Owns:     nothing; choices are linked through their own prev and next.
 * Thread:   the loop.
 * Limits:   the scheduler's (queue_max).
 *
 * Order: those that have run before (they have a client who saw tokens, and were accepted long ago) before those that
 * have not; then the higher priority; then the older.
 */
#ifndef CONTROLLER_SCHED_QUEUE_H
#define CONTROLLER_SCHED_QUEUE_H

#include "controller/ledger/request.h"

struct ctl_queue {
    struct ctl_choice *head, *tail;
    int64_t n, n_fresh; /* all; those that have not run yet */
};

void ctl_queue_add(struct ctl_queue *q, struct ctl_choice *c);
void ctl_queue_remove(struct ctl_queue *q, struct ctl_choice *c);

/* The same links for a worker's list of running choices, newest first. */
void ctl_list_add(struct ctl_choice **head, struct ctl_choice *c);
void ctl_list_remove(struct ctl_choice **head, struct ctl_choice *c);

#endif
