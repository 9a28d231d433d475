#include "worker/engine/impl.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/mem/mem.h"

#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    LOOK_MS = 20,   /* how often the caller of a step looks at the ranks' beats */
    GRACE_MS = 500, /* for the ranks to come back once the group has ended */
};

/* The caller hands a step to the ranks' threads and waits. Nothing is locked: a rank may stand still at any
 * instruction, and the caller must get away from it. */
struct eng__group {
    struct eng *eng;
    sem_t begin[ENG_RANKS_MAX];            /* posted once a step, and once at the end */
    sem_t done;                            /* posted by each rank that has come back */
    uint64_t n_begun;                      /* the caller's: steps handed out */
    _Atomic uint64_t ended[ENG_RANKS_MAX]; /* steps that the rank has come back from */
    atomic_bool is_ending;
    struct err err[ENG_RANKS_MAX]; /* of the rank's last step, written before `ended`; code 0: good */
};

/* ---- a rank's thread ---- */

/* The first step is the meeting at the start. Who fails tells the others, so that they do not wait for it. */
static void *rank_main(void *arg)
{
    struct eng__rank *r = arg;
    struct eng__group *g = r->eng->group;

    for (uint64_t n = 1;; n++) {
        struct err err = {0}, known;
        while (sem_wait(&g->begin[r->number]))
            ; /* a signal */
        if (atomic_load(&g->is_ending))
            return NULL;
        int rc = n == 1 ? r->ep->ops->barrier(r->ep, &err) : eng__rank_step(r, &err);
        if (rc && r->ep->ops->state(r->ep, &known) == 0) {
            err_wrap(&err, "rank %d", r->number);
            r->ep->ops->give_up(r->ep, &err);
        }
        g->err[r->number] = err;
        atomic_store(&g->ended[r->number], n);
        sem_post(&g->done);
    }
}

/* ---- the caller ---- */

static struct timespec in_ms(int ms)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += ms * 1000000L;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

/* The first rank that has not ended step n; -1: all have. */
static int first_missing(const struct eng__group *g, uint64_t n)
{
    for (int i = 0; i < g->eng->caps.n_ranks; i++)
        if (atomic_load(&g->ended[i]) < n)
            return i;
    return -1;
}

static uint64_t beats(const struct eng *e)
{
    uint64_t n = 0;

    for (int i = 0; i < e->caps.n_ranks; i++)
        n += atomic_load(&e->end[i]->beat);
    return n;
}

/* Wait for the ranks of step n. Ranks that wait for each other end the group by themselves after the
 * deadline; this one sees to it that all of them standing still has an end, too, and that a rank that does not come
 * back from a group that has ended is not waited for. */
static void await_ranks(struct eng__group *g, uint64_t n)
{
    struct eng *e = g->eng;
    struct eng_ep *ep = e->end[0];
    int64_t since = clock_mono_ns(), ended_at = 0;
    uint64_t beat = beats(e);

    for (int late; (late = first_missing(g, n)) >= 0;) {
        struct timespec until = in_ms(LOOK_MS);
        struct err why = {0};
        sem_clockwait(&g->done, CLOCK_MONOTONIC, &until);
        int64_t now = clock_mono_ns();
        if (ep->ops->state(ep, &why)) {
            ended_at = ended_at ? ended_at : now;
            if (now - ended_at > (int64_t)GRACE_MS * 1000000)
                return;
        } else if (beats(e) != beat) {
            beat = beats(e);
            since = now;
        } else if (now - since > ((int64_t)e->rank_deadline_ms + GRACE_MS) * 1000000) {
            err_set(&why, ERR_TIMEOUT, "rank %d is not back from the step within %d ms, and no other has got on",
                    late, e->rank_deadline_ms);
            ep->ops->give_up(ep, &why);
        }
    }
}

int eng__group_step(struct eng *e, struct err *err)
{
    struct eng__group *g = e->group;
    struct err why = {0};
    uint64_t n = ++g->n_begun;
    int rc = 0;

    while (sem_trywait(&g->done) == 0)
        ; /* who came back while nobody slept */
    for (int i = 0; i < e->caps.n_ranks; i++)
        sem_post(&g->begin[i]);
    await_ranks(g, n);
    for (int i = 0; i < e->caps.n_ranks && rc == 0; i++)
        rc = atomic_load(&g->ended[i]) < n ? ERR_TIMEOUT : g->err[i].code;
    if (rc == 0)
        return 0;
    rc = e->end[0]->ops->state(e->end[0], &why);
    ASSERT(rc != 0); /* who fails says so to the group */
    e->is_rank_lost = rc == ERR_TIMEOUT;
    e->is_stuck = first_missing(g, n) >= 0;
    return err_set(err, rc == ERR_GPU ? rc : ERR_STATE, "%s", why.text);
}

/* ---- life ---- */

int eng__group_start(struct eng *e, struct err *err)
{
    struct eng__group *g = mem_zalloc(sizeof *g);
    char name[16];

    e->group = g;
    g->eng = e;
    sem_init(&g->done, 0, 0);
    for (int i = 0; i < e->caps.n_ranks; i++)
        sem_init(&g->begin[i], 0, 0);
    for (int i = 0; i < e->caps.n_ranks; i++) {
        struct eng__rank *r = &e->rank[i];
        r->ep = e->end[i];
        int rc = pthread_create(&r->thread, NULL, rank_main, r);
        if (rc)
            return err_set(err, ERR_MEM, "no thread for rank %d: %s", i, strerror(rc));
        r->has_thread = true;
        snprintf(name, sizeof name, "rank%d", i);
        pthread_setname_np(r->thread, name);
    }
    return eng__group_step(e, err);
}

/* Whether all threads that there are have come back from the last step; a late one gets GRACE_MS. */
static bool have_come_back(const struct eng__group *g)
{
    int64_t until_ns = clock_mono_ns() + (int64_t)GRACE_MS * 1000000;

    for (;;) {
        bool is_good = true;
        for (int i = 0; i < g->eng->caps.n_ranks; i++)
            is_good &= !g->eng->rank[i].has_thread || atomic_load(&g->ended[i]) == g->n_begun;
        if (is_good || clock_mono_ns() > until_ns)
            return is_good;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
}

bool eng__group_stop(struct eng *e)
{
    struct eng__group *g = e->group;

    if (!g)
        return true;
    if (!have_come_back(g))
        return false;
    atomic_store(&g->is_ending, true);
    for (int i = 0; i < e->caps.n_ranks; i++)
        sem_post(&g->begin[i]);
    for (int i = 0; i < e->caps.n_ranks; i++)
        if (e->rank[i].has_thread)
            pthread_join(e->rank[i].thread, NULL);
    for (int i = 0; i < e->caps.n_ranks; i++)
        sem_destroy(&g->begin[i]);
    sem_destroy(&g->done);
    mem_free(g);
    e->group = NULL;
    return true;
}
