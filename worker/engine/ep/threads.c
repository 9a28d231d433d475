#include "worker/engine/ep/threads.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/mem/mem.h"

#include <sched.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    SPINS = 200,  /* about 50 us; only where every rank has a core */
    REASONS_MAX = 4 * ENG_RANKS_MAX,
    LOOK_MS = 20, /* a sleeping rank looks at the others' beats so often */
};

enum meeting { DISPATCH, COMBINE, BARRIER };

/* What a rank has published at one meeting. A rank can be one meeting ahead of the slowest, never two: so two places
 * per rank are enough, by the parity of the meeting's number. */
struct notice {
    enum meeting meeting;
    int32_t layer;
    struct eng_ep_dispatch_args dispatch;
    const uint16_t *own_y;
};

struct member {
    struct eng_ep ep; /* first */
    struct group *group;
    _Atomic uint64_t n_arrived; /* meetings that this rank has come to */
    sem_t wake;                 /* posted while is_asleep */
    atomic_bool is_asleep;
    struct notice notice[2];
    struct eng_ep_dispatch_args sent; /* own, of the last dispatch: combine needs its offset */
    int32_t *begin; /* [n_own, n_ranks] of the last dispatch: where each rank's rows begin in own_x; read by all */
};

/* Nothing here is ever locked: a rank may stand still at any instruction, and the others must get away from it. */
struct group {
    int n_ranks, deadline_ms;
    int32_t n_expert;
    bool may_spin;
    struct err why[REASONS_MAX]; /* each written once, by whoever took its number */
    _Atomic int n_why, ended_by; /* reasons taken; 0, or 1 + the number of the one that ended the group */
    struct member member[];
};

static const char *meeting_name(const struct notice *n, char text[64])
{
    static const char *const names[] = {[DISPATCH] = "dispatch", [COMBINE] = "combine"};

    if (n->meeting == BARRIER)
        snprintf(text, 64, "the barrier");
    else
        snprintf(text, 64, "%s of layer %d", names[n->meeting], (int)n->layer);
    return text;
}

static struct member *member_of(struct eng_ep *ep)
{
    return (struct member *)(void *)ep;
}

/* ---- the end of a group ---- */

static void wake_all(struct group *g)
{
    for (int i = 0; i < g->n_ranks; i++)
        if (atomic_load(&g->member[i].is_asleep))
            sem_post(&g->member[i].wake);
}

/* The reason is written first and then put in force, if it is the first. */
static void end_group(struct group *g, const struct err *why)
{
    int none = 0, i = atomic_load(&g->ended_by) ? REASONS_MAX : atomic_fetch_add(&g->n_why, 1);

    if (i < REASONS_MAX) {
        g->why[i] = *why;
        atomic_compare_exchange_strong(&g->ended_by, &none, i + 1);
    }
    wake_all(g);
}

static int state_of(struct group *g, struct err *why)
{
    int by = atomic_load(&g->ended_by);

    if (by == 0)
        return 0;
    return err_set(why, g->why[by - 1].code, "%s", g->why[by - 1].text);
}

static void threads_give_up(struct eng_ep *ep, const struct err *why)
{
    ASSERT(why->code < 0);
    end_group(member_of(ep)->group, why);
}

static int threads_state(struct eng_ep *ep, struct err *why)
{
    return state_of(member_of(ep)->group, why);
}

/* ---- meetings ---- */

/* The first rank that has not come to meeting n yet, or NULL. */
static struct member *missing(struct group *g, uint64_t n)
{
    for (int i = 0; i < g->n_ranks; i++)
        if (atomic_load(&g->member[i].n_arrived) < n)
            return &g->member[i];
    return NULL;
}

/* For LOOK_MS, or until somebody comes. */
static void nap(struct member *me, uint64_t n)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += LOOK_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (sem_trywait(&me->wake) == 0)
        ; /* old news */
    atomic_store(&me->is_asleep, true);
    if (missing(me->group, n) && atomic_load(&me->group->ended_by) == 0)
        sem_clockwait(&me->wake, CLOCK_MONOTONIC, &until);
    atomic_store(&me->is_asleep, false);
}

/* Wait until all have come to meeting n. Patience is with the rank that is missing, and begins anew whenever it beats
 * or another one is missing. */
static void wait_for_all(struct member *me, uint64_t n)
{
    struct group *g = me->group;
    struct member *who = NULL, *m;
    uint64_t beat = 0;
    int64_t since = 0;
    char at[64];

    for (int i = 0; g->may_spin && i < SPINS && missing(g, n) && atomic_load(&g->ended_by) == 0; i++)
        sched_yield();
    while (atomic_load(&g->ended_by) == 0 && (m = missing(g, n))) {
        int64_t now = clock_mono_ns();
        if (m != who || atomic_load(&m->ep.beat) != beat) {
            who = m;
            beat = atomic_load(&m->ep.beat);
            since = now;
        } else if (now - since >= (int64_t)g->deadline_ms * 1000000) {
            struct err why = {0};
            err_set(&why, ERR_TIMEOUT, "rank %d did not arrive at %s within %d ms", m->ep.rank,
                    meeting_name(&me->notice[n % 2], at), g->deadline_ms);
            end_group(g, &why);
            return;
        }
        nap(me, n);
    }
}

/* Publish my notice, wait for everybody's, and see that all are at the same place. */
static int meet(struct member *me, const struct notice *mine, struct err *err)
{
    struct group *g = me->group;
    uint64_t n = atomic_load(&me->n_arrived) + 1;
    char here[64], there[64];
    int rc;

    if ((rc = state_of(g, err)))
        return rc;
    me->notice[n % 2] = *mine;
    atomic_fetch_add(&me->ep.beat, 1);
    atomic_store(&me->n_arrived, n);
    wake_all(g);
    wait_for_all(me, n);
    if ((rc = state_of(g, err)))
        return rc;
    for (int i = 0; i < g->n_ranks; i++) {
        const struct notice *other = &g->member[i].notice[n % 2];
        if (other->meeting == mine->meeting && other->layer == mine->layer)
            continue;
        struct err why = {0};
        err_set(&why, ERR_STATE, "rank %d is at %s, rank %d at %s", i, meeting_name(other, there), me->ep.rank,
                meeting_name(mine, here));
        end_group(g, &why);
        return state_of(g, err);
    }
    return 0;
}

/* ---- rows ---- */

static void copy_rows(const struct eng_ep_dispatch_args *from, int64_t i, struct eng_ep_dispatch_args *to, int64_t j,
                      int64_t n)
{
    int64_t d = from->d, n_group = d / KN_ACT_GROUP;

    if (to->own_x.x)
        memcpy(to->own_x.x + j * d, from->x.x + i * d, (size_t)(n * d) * sizeof *from->x.x);
    if (to->own_x.q) {
        memcpy(to->own_x.q + j * d, from->x.q + i * d, (size_t)(n * d));
        memcpy(to->own_x.s + j * n_group, from->x.s + i * n_group, (size_t)(n * n_group));
    }
    memcpy(to->own_weight + j, from->weight + i, (size_t)n * sizeof *from->weight);
}

static int32_t first_of(const struct member *m)
{
    return eng_ep_first(m->group->n_expert, m->group->n_ranks, m->ep.rank);
}

static int threads_dispatch(struct eng_ep *ep, const struct eng_ep_dispatch_args *a, struct err *err)
{
    struct member *me = member_of(ep);
    struct group *g = me->group;
    struct notice mine = {.meeting = DISPATCH, .layer = a->layer, .dispatch = *a};
    int rc = meet(me, &mine, err);

    if (rc)
        return rc;
    me->sent = *a;
    uint64_t n = atomic_load(&me->n_arrived);
    int32_t first = first_of(me), n_own = eng_ep_first(g->n_expert, g->n_ranks, ep->rank + 1) - first, at = 0;
    for (int32_t e = 0; e < n_own; e++) {
        a->own_offset[e] = at;
        for (int i = 0; i < g->n_ranks; i++) {
            const struct eng_ep_dispatch_args *from = &g->member[i].notice[n % 2].dispatch;
            int32_t begin = from->offset[first + e], n_row = from->offset[first + e + 1] - begin;
            me->begin[e * g->n_ranks + i] = at;
            if (n_row > 0)
                copy_rows(from, begin, &me->sent, at, n_row);
            at += n_row;
        }
    }
    a->own_offset[n_own] = at;
    return 0;
}

static int threads_combine(struct eng_ep *ep, const struct eng_ep_combine_args *a, struct err *err)
{
    struct member *me = member_of(ep);
    struct group *g = me->group;
    struct notice mine = {.meeting = COMBINE, .layer = a->layer, .own_y = a->own_y};
    int rc = meet(me, &mine, err);

    if (rc)
        return rc;
    uint64_t n = atomic_load(&me->n_arrived);
    for (int32_t e = 0; e < g->n_expert; e++) {
        int64_t to = me->sent.offset[e], n_row = me->sent.offset[e + 1] - to;
        if (n_row == 0)
            continue;
        const struct member *owner = &g->member[eng_ep_owner(g->n_expert, g->n_ranks, e)];
        int64_t from = owner->begin[(e - first_of(owner)) * g->n_ranks + ep->rank];
        memcpy(a->y + to * a->d, owner->notice[n % 2].own_y + from * a->d,
               (size_t)(n_row * a->d) * sizeof *a->y);
    }
    return 0;
}

static int threads_barrier(struct eng_ep *ep, struct err *err)
{
    struct notice mine = {.meeting = BARRIER};
    return meet(member_of(ep), &mine, err);
}

/* ---- life ---- */

static const struct eng_ep_ops threads_ops = {
    .dispatch = threads_dispatch,
    .combine = threads_combine,
    .barrier = threads_barrier,
    .give_up = threads_give_up,
    .state = threads_state,
};

static int threads_open(const struct eng_ep_opts *opts, struct eng_ep *end[ENG_RANKS_MAX], struct err *err)
{
    size_t n = (size_t)opts->n_ranks;
    cpu_set_t cores;

    (void)err;
    ASSERT(opts->n_ranks >= 1 && opts->n_ranks <= ENG_RANKS_MAX && opts->deadline_ms >= 1);
    ASSERT(opts->n_expert >= opts->n_ranks);
    struct group *g = mem_zalloc(sizeof *g + n * sizeof g->member[0]);
    g->n_ranks = opts->n_ranks;
    g->deadline_ms = opts->deadline_ms;
    g->n_expert = opts->n_expert;
    g->may_spin = sched_getaffinity(0, sizeof cores, &cores) == 0 && CPU_COUNT(&cores) >= opts->n_ranks;
    for (int i = 0; i < opts->n_ranks; i++) {
        g->member[i].ep = (struct eng_ep){.ops = &threads_ops, .rank = i, .n_ranks = opts->n_ranks};
        g->member[i].group = g;
        sem_init(&g->member[i].wake, 0, 0);
        g->member[i].begin = mem_array((size_t)opts->n_expert * n, sizeof(int32_t));
        end[i] = &g->member[i].ep;
    }
    return 0;
}

static void threads_close(struct eng_ep *end[ENG_RANKS_MAX])
{
    if (!end[0])
        return;
    struct group *g = member_of(end[0])->group;
    for (int i = 0; i < g->n_ranks; i++) {
        mem_free(g->member[i].begin);
        sem_destroy(&g->member[i].wake);
        end[i] = NULL;
    }
    mem_free(g);
}

const struct eng_ep_provider eng_ep_threads = {.name = "threads", .open = threads_open, .close = threads_close};
