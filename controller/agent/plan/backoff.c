#include "controller/agent/plan/backoff.h"

#include "common/base/check.h"

const struct backoff backoff_default = {
    .max = BACKOFF_MAX_DEFAULT,
    .base_ms = BACKOFF_BASE_MS_DEFAULT,
    .max_ms = BACKOFF_MS_MAX_DEFAULT,
    .on = FAULT_SET_DEFAULT,
};

int64_t backoff_ceiling_ms(const struct backoff *b, int n)
{
    int64_t ms = b->base_ms;

    /* The maximum is reached long before the doubling can overflow. */
    for (int i = 0; i < n && ms < b->max_ms && ms > 0; i++)
        ms *= 2;
    return ms < b->max_ms ? ms : b->max_ms;
}

enum backoff_verdict backoff_decide(const struct backoff *b, int n_retry, enum fault fault, uint64_t random,
                                    int64_t after_ms, int64_t *budget, int64_t *wait_ms)
{
    ASSERT(n_retry >= 0);
    ASSERT(b->base_ms >= 0 && b->max_ms >= b->base_ms && b->max_ms <= BACKOFF_MS_MAX);
    if (!fault_is_retryable(fault) || !fault_in(b->on, fault))
        return BACKOFF_NOT_THIS;
    if (n_retry >= b->max)
        return BACKOFF_USED_UP;
    if (*budget <= 0)
        return BACKOFF_NO_BUDGET;
    --*budget;
    int64_t wait = (int64_t)(random % (uint64_t)(backoff_ceiling_ms(b, n_retry) + 1));
    if (wait < after_ms)
        wait = after_ms;
    *wait_ms = wait < b->max_ms ? wait : b->max_ms;
    return BACKOFF_RETRY;
}
