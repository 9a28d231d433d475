/* controller/agent/plan/backoff.h - when to try again: exponential with full jitter, per class of error, under the
 * run's budget. Pure functions: the caller brings count, random number and budget.
 * Owns:     nothing.
 * Thread:   any.
 * Limits:   BACKOFF_MAX_MAX retries, BACKOFF_MS_MAX ms of one wait.
 * Source:   design, "Failure rules"; full jitter: uniform in 0..min(max_ms, base_ms * 2^n).
 */
#ifndef CONTROLLER_AGENT_PLAN_BACKOFF_H
#define CONTROLLER_AGENT_PLAN_BACKOFF_H

#include "controller/agent/plan/fault.h"

#include <stdint.h>

enum { BACKOFF_MAX_MAX = 100, BACKOFF_MS_MAX = 3600 * 1000 };
enum { BACKOFF_MAX_DEFAULT = 2, BACKOFF_BASE_MS_DEFAULT = 500, BACKOFF_MS_MAX_DEFAULT = 30000 };

/* A step's `retry`. */
struct backoff {
    int max;          /* retries after the first attempt, 0..BACKOFF_MAX_MAX */
    int64_t base_ms;  /* 0..max_ms */
    int64_t max_ms;   /* base_ms..BACKOFF_MS_MAX */
    uint32_t on;      /* set of faults, see fault_in */
};

extern const struct backoff backoff_default;

enum backoff_verdict {
    BACKOFF_RETRY,     /* wait *wait_ms, then try again; one is taken off the budget */
    BACKOFF_NOT_THIS,  /* this class of error is not tried again */
    BACKOFF_USED_UP,   /* the step's own retries are used up */
    BACKOFF_NO_BUDGET, /* the run's retries are used up: the step fails with FAULT_budget and the last reason */
};

/* Upper edge of the wait before retry number n (0 = first): min(max_ms, base_ms * 2^n), without overflow. */
int64_t backoff_ceiling_ms(const struct backoff *b, int n);

/* Decide after a failed attempt.
 *   n_retry       retries of this step so far
 *   fault         how the attempt failed
 *   random        64 fresh random bits; the same bits give the same wait (a run can be replayed)
 *   after_ms      what the other side asked for (Retry-After), 0: nothing; the wait is at least that, at most max_ms
 *   budget        retries left to the run; counted down on BACKOFF_RETRY only
 *   wait_ms       out, on BACKOFF_RETRY: 0..max_ms */
enum backoff_verdict backoff_decide(const struct backoff *b, int n_retry, enum fault fault, uint64_t random,
                                    int64_t after_ms, int64_t *budget, int64_t *wait_ms);

#endif
