#include "controller/retain.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "controller/turn.h"

enum { AGAIN_MS = 20 }; /* between two transactions while there is more: room for others */

/* The store may still have one that is live here: its end is on the way. Those are never among the ended ones, because
 * the store says what has ended. */
static void on_old(void *arg, const struct store_fetched *f)
{
    struct ctl *ctl = arg;
    const struct ctl_limits *limit = &ctl->config.limit;
    struct err err;
    size_t n = 0;

    ctl->retain.asking = false;
    if (f->rc || ctl->closing || ctl->store_state != STORE_STATE_ready)
        return;
    while (n < f->n && !store_is_full(ctl->store) && store_prune(ctl->store, f->record[n].u.prune, NULL, &err) == 0)
        n++;
    if (n)
        log_info(store, "%zu ended requests are old and go", n);
    if ((int64_t)f->n >= limit->prune_max)
        ctl->retain.due_ms = (int64_t)uv_now(ctl->loop) + AGAIN_MS;
    ctl_wake(ctl);
}

void ctl__retain_turn(struct ctl *ctl, int64_t now_ms)
{
    const struct ctl_limits *limit = &ctl->config.limit;
    struct err err;

    if (!ctl->store || ctl->retain.asking || now_ms < ctl->retain.due_ms)
        return;
    ctl->retain.due_ms = now_ms + limit->prune_ms;
    if (ctl->store_state != STORE_STATE_ready)
        return;
    const struct store_query q = {
        .kind = STORE_QUERY_old_requests,
        .limit = limit->prune_max,
        .ended_before_ms = clock_wall_ms() - limit->idempotency_ms,
        .keep = limit->kept_max,
    };
    ctl->retain.asking = store_fetch(ctl->store, &q, on_old, ctl, &err) == 0;
}

int64_t ctl__retain_due_ms(const struct ctl *ctl)
{
    return ctl->store && !ctl->retain.asking ? ctl->retain.due_ms : INT64_MAX;
}
