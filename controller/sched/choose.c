#include "controller/sched/choose.h"

#include <stdio.h>
#include <string.h>

void ctl_suspects_add(struct ctl_suspects *s, const char *domain, int64_t until_ms)
{
    int at = 0;

    if (!domain[0])
        return;
    for (int i = 0; i < SUSPECTS_MAX; i++) {
        if (strcmp(s->at[i].domain, domain) == 0) {
            at = i;
            break;
        }
        if (s->at[i].until_ms < s->at[at].until_ms)
            at = i;
    }
    snprintf(s->at[at].domain, sizeof s->at[at].domain, "%s", domain);
    s->at[at].until_ms = until_ms;
}

bool ctl_suspects_has(const struct ctl_suspects *s, const char *domain, int64_t now_ms)
{
    for (int i = 0; i < SUSPECTS_MAX; i++)
        if (domain[0] && s->at[i].until_ms > now_ms && strcmp(s->at[i].domain, domain) == 0)
            return true;
    return false;
}

/* A choice that has had no token from this attempt may be what kills the worker next; on probation even more so. When
 * one on probation goes to a worker, nobody else there may be in doubt, and nobody joins before it has a token. */
static bool is_isolated_from(const struct ctl_choice *c, const struct ctl_worker *w)
{
    for (const struct ctl_choice *other = w->running; other; other = other->next)
        if (other->probation || (c->probation && other->n_try > 0))
            return false;
    return true;
}

/* What is compared, first things first; a smaller number is better. */
struct rank {
    int other_numerics, suspect;
};

static bool better(const struct ctl_worker *a, struct rank ra, const struct ctl_worker *b, struct rank rb)
{
    if (ra.other_numerics != rb.other_numerics)
        return ra.other_numerics < rb.other_numerics;
    if (ra.suspect != rb.suspect)
        return ra.suspect < rb.suspect;
    int64_t load_a = (int64_t)a->n_running * b->hello.n_seq_max, load_b = (int64_t)b->n_running * a->hello.n_seq_max;
    if (load_a != load_b)
        return load_a < load_b;
    return a->beat.kv_blocks_free > b->beat.kv_blocks_free;
}

enum ctl_choose ctl_choose(struct ctl_worker *first, const struct ctl_choice *c, const struct ctl_suspects *suspects,
                           int64_t now_ms, struct ctl_worker **out)
{
    int64_t need_tok = c->req->n_prompt + c->req->max_output;
    bool any_live = false, any_credit = false, any_fits = false, other_ready = false;
    struct ctl_worker *best = NULL;
    struct rank best_rank = {0};

    for (const struct ctl_worker *w = first; w; w = w->next) {
        bool live = w->state != CTL_WORKER_lost && !w->gone, fits = w->hello.context_max >= need_tok;
        any_live |= live;
        any_fits |= live && fits;
        any_credit |= live && w->state == CTL_WORKER_ready && w->n_running < w->hello.n_seq_max;
        other_ready |= live && fits && w->state == CTL_WORKER_ready && w->epoch != c->avoid_epoch;
    }
    if (any_live && !any_fits)
        return CTL_CHOOSE_too_long;
    if (!any_credit)
        return CTL_CHOOSE_no_credit;
    for (struct ctl_worker *w = first; w; w = w->next) {
        if (w->state != CTL_WORKER_ready || w->gone || w->n_running >= w->hello.n_seq_max ||
            w->hello.context_max < need_tok || (w->epoch == c->avoid_epoch && other_ready) ||
            !is_isolated_from(c, w))
            continue;
        struct rank rank = {
            .other_numerics = c->out.n > 0 && strcmp(c->numerics, w->hello.numerics) != 0,
            .suspect = ctl_suspects_has(suspects, w->hello.domain, now_ms),
        };
        if (!best || better(w, rank, best, best_rank)) {
            best = w;
            best_rank = rank;
        }
    }
    if (!best)
        return CTL_CHOOSE_wait;
    *out = best;
    return CTL_CHOOSE_found;
}
