#include "controller/turn.h"

/* After stop_ms the rest is ended with a reason; then the front has a moment to send it. */
static void end_drain(struct ctl *ctl, int64_t now_ms)
{
    if (!ctl->draining || ctl->drain_ended || now_ms < ctl->drain_until_ms)
        return;
    ctl->drain_ended = true;
    ctl_sched_end_all(ctl->sched, CTL_END_canceled, "the server is stopping");
}

static bool is_drained(const struct ctl *ctl, int64_t now_ms)
{
    if (!ctl->draining || !ctl->on_drained)
        return false;
    return (ctl->parts.front->idle(ctl->front) && (!ctl->agent || ctl->parts.agent->is_idle(ctl->agent))) ||
           (ctl->drain_ended && now_ms >= ctl->drain_until_ms + CTL_STOP_FLUSH_MS);
}

/* Nothing to do but to end the sleep: the turn comes in the prepare phase of the same round. */
static void on_timer(uv_timer_t *timer)
{
    struct ctl *ctl = timer->data;
    ctl->timer_due_ms = INT64_MAX;
}

static void set_timer(struct ctl *ctl, int64_t now_ms)
{
    int64_t due = ctl_link_due_ms(ctl->link, now_ms), other = ctl_sched_due_ms(ctl->sched);

    if (other < due)
        due = other;
    other = ctl->agent ? ctl->parts.agent->due_ms(ctl->agent) : INT64_MAX;
    if (other < due)
        due = other;
    other = ctl__retain_due_ms(ctl);
    if (other < due)
        due = other;
    if (ctl->draining) {
        int64_t end = ctl->drain_until_ms + (ctl->drain_ended ? CTL_STOP_FLUSH_MS : 0);
        if (end < due)
            due = end;
    }
    if (due == ctl->timer_due_ms)
        return;
    ctl->timer_due_ms = due;
    if (due == INT64_MAX)
        uv_timer_stop(&ctl->timer);
    else
        uv_timer_start(&ctl->timer, on_timer, due > now_ms ? (uint64_t)(due - now_ms) : 0, 0);
}

/* Another controller leads: not one more byte may go out. */
static bool is_fenced(struct ctl *ctl)
{
    if (ctl->store_state != STORE_STATE_fenced)
        return false;
    ctl_fatal_fn on_fatal = ctl->on_fatal;
    ctl->on_fatal = NULL;
    if (on_fatal)
        on_fatal(ctl->fatal_arg, ctl->store_text); /* may close ctl */
    return true;
}

/* Hand over what this turn has put; the store's thread begins at once. */
static void flush_store(struct ctl *ctl)
{
    if (!ctl->store)
        return;
    ctl_ledger_put(ctl->ledger);
    store_flush(ctl->store);
}

void ctl__turn(struct ctl *ctl)
{
    uv_idle_stop(&ctl->idle);
    if (is_fenced(ctl))
        return;
    uv_update_time(ctl->loop);
    int64_t now_ms = (int64_t)uv_now(ctl->loop);

    /* 1. What the store has committed is told to the fronts. Replies in: tokens arrive, losses are noticed, deadlines
     * met; with a store they are put there, and shown in the turn after the commit. */
    ctl->before_dispatch = true;
    ctl_sched_begin(ctl->sched, now_ms);
    ctl_ledger_release(ctl->ledger);
    if (ctl->agent)
        ctl->parts.agent->release(ctl->agent);
    bool more = ctl_link_turn(ctl->link, now_ms);
    ctl_sched_expire(ctl->sched);
    end_drain(ctl, now_ms);
    flush_store(ctl);

    /* 2. The front: what came in is submitted, output is written. Tokens go out before new work costs time. Then the
     * pipelines: what ended in this turn lets their next steps begin. */
    ctl->parts.front->turn(ctl->front);
    if (ctl->agent)
        ctl->parts.agent->turn(ctl->agent);
    ctl__retain_turn(ctl, now_ms);
    flush_store(ctl);

    ctl->before_dispatch = false;

    /* 3. Out to the workers: what is over first, so that its credit can be used for what begins. */
    ctl_sched_send_cancels(ctl->sched);
    more |= ctl_sched_dispatch(ctl->sched);
    more |= ctl_link_reap(ctl->link, now_ms);

    /* 4. The only place where requests are freed. */
    ctl_sched_free_dead(ctl->sched);

    /* 5. When to wake up; the last look at the sockets comes after all sends. */
    if (more)
        ctl_wake(ctl);
    set_timer(ctl, now_ms);
    if (ctl->parts.front->arm)
        ctl->parts.front->arm(ctl->front);
    ctl_link_arm(ctl->link);

    if (is_drained(ctl, now_ms)) {
        ctl_closed_fn on_drained = ctl->on_drained;
        ctl->on_drained = NULL;
        on_drained(ctl->drained_arg); /* may close ctl */
    }
}
