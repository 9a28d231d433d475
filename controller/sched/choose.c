#include "controller/sched/choose.h"

#include "common/mem/mem.h"

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

void ctl_prefix_keys_release(struct ctl_prefix_keys *k)
{
    mem_free(k->key);
    *k = (struct ctl_prefix_keys){0};
}

static int32_t tok_at(const struct ctl_choice *c, int64_t i)
{
    return i < c->req->n_prompt ? c->req->prompt[i] : c->out.id[i - c->req->n_prompt];
}

/* Keys of the full blocks of prompt and output so far. */
static void fill_keys(const struct ctl_choice *c, struct ctl_prefix_keys *k)
{
    struct prefix_key key = PREFIX_KEY_EMPTY;
    int64_t n_block = (c->req->n_prompt + c->out.n) / PREFIX_BLOCK_TOK;
    int32_t block[PREFIX_BLOCK_TOK]; /* one that lies in both */

    if (n_block > k->cap) {
        k->cap = 2 * n_block;
        k->key = mem_realloc(k->key, (size_t)k->cap * sizeof *k->key);
    }
    for (k->n = 0; k->n < n_block; k->n++) {
        int64_t at = k->n * PREFIX_BLOCK_TOK;
        const int32_t *tok = block;
        if (at + PREFIX_BLOCK_TOK <= c->req->n_prompt)
            tok = c->req->prompt + at;
        for (int i = 0; tok == block && i < PREFIX_BLOCK_TOK; i++)
            block[i] = tok_at(c, at + i);
        key = prefix_key_next(key, tok, PREFIX_BLOCK_TOK);
        k->key[k->n] = key.lo;
    }
}

/* What is compared, first things first; a smaller number is better. */
struct rank {
    int other_numerics, suspect;
    double cost; /* tokens, see CHOOSE_LOAD_TOK */
};

static double cost_of(const struct ctl_worker *w, const struct ctl_choice *c, const struct ctl_prefix_keys *k)
{
    int64_t n_tok = c->req->n_prompt + c->out.n, n_hit = ctl_prefixes_match(&w->prefixes, k->key, k->n);
    return (double)(n_tok - n_hit * PREFIX_BLOCK_TOK) +
           CHOOSE_LOAD_TOK * ((double)w->n_running / (double)w->hello.n_seq_max);
}

static bool better(const struct ctl_worker *a, struct rank ra, const struct ctl_worker *b, struct rank rb)
{
    if (ra.other_numerics != rb.other_numerics)
        return ra.other_numerics < rb.other_numerics;
    if (ra.suspect != rb.suspect)
        return ra.suspect < rb.suspect;
    if (ra.cost != rb.cost)
        return ra.cost < rb.cost;
    return a->beat.kv_blocks_free > b->beat.kv_blocks_free;
}

enum ctl_choose ctl_choose(struct ctl_worker *first, const struct ctl_choice *c, const struct ctl_suspects *suspects,
                           struct ctl_prefix_keys *keys, int64_t now_ms, struct ctl_worker **out)
{
    int64_t need_tok = c->req->n_prompt + c->req->max_output;
    bool any_live = false, any_credit = false, any_fits = false, other_ready = false;
    struct ctl_worker *best = NULL;
    struct rank best_rank = {0};
    bool has_keys = false;

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
        if (w->prefixes.n > 0 && !has_keys) {
            fill_keys(c, keys); /* only for a choice that is about to go: it is not done again for those that wait */
            has_keys = true;
        } else if (!has_keys) {
            keys->n = 0;
        }
        struct rank rank = {
            .other_numerics = c->out.n > 0 && strcmp(c->numerics, w->hello.numerics) != 0,
            .suspect = ctl_suspects_has(suspects, w->hello.domain, now_ms),
            .cost = cost_of(w, c, keys),
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
