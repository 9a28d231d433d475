#include "kernels/cpu/pool.h"

#include "common/base/err.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

enum { SPINS = 4000 }; /* about 50 us */

/* state: bits 32.. number of the job, bit 31 it may be joined, below: pool threads that are in it. */
static const uint64_t OPEN = (uint64_t)1 << 31;
static const uint64_t COUNT = ((uint64_t)1 << 31) - 1;

struct thread {
    struct kn__pool *pool;
    pthread_t id;
    void *scratch;
};

struct kn__pool {
    _Atomic uint64_t state;
    _Atomic int64_t next;
    _Atomic int n_asleep;
    atomic_bool is_ending, caller_sleeps;
    /* The job: written by the caller while nobody is in it. */
    int64_t n_task;
    kn__task *fn;
    void *arg;

    pthread_mutex_t lock;
    pthread_cond_t work, done;
    int n_threads, n_started;
    struct thread *thread; /* [n_threads]; 0 is the caller */
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void take_tasks(struct kn__pool *p, void *scratch)
{
    int64_t n = p->n_task, i;
    while ((i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed)) < n)
        p->fn(p->arg, i, scratch);
}

/* Is there a job after number `seen` to join? */
static bool is_news(struct kn__pool *p, uint64_t seen)
{
    return atomic_load(&p->state) >> 32 != seen || atomic_load(&p->is_ending);
}

static void wait_for_news(struct kn__pool *p, uint64_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (is_news(p, seen))
            return;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->n_asleep, 1);
    while (!is_news(p, seen))
        pthread_cond_wait(&p->work, &p->lock);
    atomic_fetch_sub(&p->n_asleep, 1);
    pthread_mutex_unlock(&p->lock);
}

static void leave(struct kn__pool *p)
{
    uint64_t after = atomic_fetch_sub(&p->state, 1) - 1;
    if ((after & (OPEN | COUNT)) == 0 && atomic_load(&p->caller_sleeps)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_signal(&p->done);
        pthread_mutex_unlock(&p->lock);
    }
}

static void *main_of_thread(void *arg)
{
    struct thread *t = arg;
    struct kn__pool *p = t->pool;
    uint64_t seen = 0;

    for (;;) {
        wait_for_news(p, seen);
        if (atomic_load(&p->is_ending))
            return NULL;
        uint64_t s = atomic_load(&p->state);
        seen = s >> 32;
        while ((s & OPEN) && s >> 32 == seen)
            if (atomic_compare_exchange_weak(&p->state, &s, s + 1)) {
                take_tasks(p, t->scratch);
                leave(p);
                break;
            }
    }
}

void kn__pool_run(struct kn__pool *p, int64_t n_task, kn__task *fn, void *arg)
{
    if (n_task <= 1 || p->n_threads == 1) {
        for (int64_t i = 0; i < n_task; i++)
            fn(arg, i, p->thread[0].scratch);
        return;
    }
    p->n_task = n_task;
    p->fn = fn;
    p->arg = arg;
    atomic_store(&p->next, 0);
    atomic_store(&p->state, ((atomic_load(&p->state) >> 32) + 1) << 32 | OPEN);
    if (atomic_load(&p->n_asleep) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
    take_tasks(p, p->thread[0].scratch);
    atomic_fetch_and(&p->state, ~OPEN);
    for (int i = 0; i < SPINS; i++) {
        if ((atomic_load(&p->state) & COUNT) == 0)
            return;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_sleeps, true);
    while (atomic_load(&p->state) & COUNT)
        pthread_cond_wait(&p->done, &p->lock);
    atomic_store(&p->caller_sleeps, false);
    pthread_mutex_unlock(&p->lock);
}

int kn__pool_open(int n_threads, size_t scratch_bytes, struct kn__pool **pool)
{
    struct kn__pool *p = calloc(1, sizeof *p);
    size_t bytes = (scratch_bytes + 4095) / 4096 * 4096;

    if (!p)
        return ERR_MEM;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    p->n_threads = n_threads;
    p->thread = calloc((size_t)n_threads, sizeof *p->thread);
    if (!p->thread)
        goto out;
    for (int i = 0; i < n_threads; i++) {
        struct thread *t = &p->thread[i];
        t->pool = p;
        t->scratch = aligned_alloc(4096, bytes ? bytes : 4096);
        if (!t->scratch || (i > 0 && pthread_create(&t->id, NULL, main_of_thread, t)))
            goto out;
        p->n_started = i + 1;
    }
    *pool = p;
    return 0;
out:
    kn__pool_close(&p);
    return ERR_MEM;
}

void kn__pool_close(struct kn__pool **pool)
{
    struct kn__pool *p = *pool;

    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->is_ending, true);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 1; i < p->n_started; i++)
        pthread_join(p->thread[i].id, NULL);
    for (int i = 0; p->thread && i < p->n_threads; i++)
        free(p->thread[i].scratch);
    free(p->thread);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
    free(p);
    *pool = NULL;
}

int kn__pool_threads(const struct kn__pool *p)
{
    return p->n_threads;
}

int kn__pool_cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < KN__POOL_THREADS_MAX ? n : KN__POOL_THREADS_MAX;
}
