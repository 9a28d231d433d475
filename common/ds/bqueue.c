#include "common/ds/bqueue.h"

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/mem/mem.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

struct bqueue {
    pthread_mutex_t mutex;
    pthread_cond_t filled, emptied;
    void **ring;
    size_t cap, head, len;
    bool closed;
};

static void cond_init(pthread_cond_t *cond)
{
    /* Waits are durations: a step of the wall clock must not stretch them. */
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int rc = pthread_cond_init(cond, &attr);
    ASSERT(rc == 0);
    pthread_condattr_destroy(&attr);
}

struct bqueue *bqueue_new(size_t cap)
{
    ASSERT(cap > 0);
    struct bqueue *q = mem_zalloc(sizeof *q);
    q->ring = mem_array(cap, sizeof *q->ring);
    q->cap = cap;
    pthread_mutex_init(&q->mutex, NULL);
    cond_init(&q->filled);
    cond_init(&q->emptied);
    return q;
}

void bqueue_destroy(struct bqueue **q_p)
{
    struct bqueue *q = *q_p;
    if (!q)
        return;
    ASSERT(q->len == 0);
    pthread_cond_destroy(&q->filled);
    pthread_cond_destroy(&q->emptied);
    pthread_mutex_destroy(&q->mutex);
    mem_free(q->ring);
    mem_free(q);
    *q_p = NULL;
}

static struct timespec deadline_after(int64_t timeout_ns)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += timeout_ns / 1000000000;
    t.tv_nsec += (long)(timeout_ns % 1000000000);
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

/* One wait; false once the deadline has passed. */
static bool wait_for(struct bqueue *q, pthread_cond_t *cond, int64_t timeout, const struct timespec *deadline)
{
    if (timeout < 0)
        return pthread_cond_wait(cond, &q->mutex) == 0;
    return pthread_cond_timedwait(cond, &q->mutex, deadline) != ETIMEDOUT;
}

int bqueue_push_wait(struct bqueue *q, void *item, int timeout_ms)
{
    ASSERT(item != NULL);
    int rc = 0;
    pthread_mutex_lock(&q->mutex);
    if (q->len == q->cap && !q->closed && timeout_ms != 0) {
        const struct timespec deadline = deadline_after(timeout_ms < 0 ? 0 : timeout_ms * (int64_t)1000000);
        while (q->len == q->cap && !q->closed && wait_for(q, &q->emptied, timeout_ms, &deadline))
            ;
    }
    if (q->closed)
        rc = ERR_STATE;
    else if (q->len == q->cap)
        rc = ERR_TIMEOUT;
    else {
        q->ring[(q->head + q->len++) % q->cap] = item;
        pthread_cond_signal(&q->filled);
    }
    pthread_mutex_unlock(&q->mutex);
    return rc;
}

int bqueue_push(struct bqueue *q, void *item)
{
    int rc = bqueue_push_wait(q, item, 0);
    return rc == ERR_TIMEOUT ? ERR_LIMIT : rc;
}

int bqueue_pop(struct bqueue *q, int timeout_ms, void **item)
{
    return bqueue_pop_ns(q, timeout_ms < 0 ? -1 : timeout_ms * (int64_t)1000000, item);
}

int bqueue_pop_ns(struct bqueue *q, int64_t timeout_ns, void **item)
{
    int rc = 0;
    pthread_mutex_lock(&q->mutex);
    if (q->len == 0 && !q->closed && timeout_ns != 0) {
        const struct timespec deadline = deadline_after(timeout_ns < 0 ? 0 : timeout_ns);
        while (q->len == 0 && !q->closed && wait_for(q, &q->filled, timeout_ns, &deadline))
            ;
    }
    if (q->len > 0) {
        *item = q->ring[q->head];
        q->head = (q->head + 1) % q->cap;
        q->len--;
        pthread_cond_signal(&q->emptied);
    } else {
        rc = q->closed ? ERR_STATE : ERR_TIMEOUT;
    }
    pthread_mutex_unlock(&q->mutex);
    return rc;
}

void bqueue_close(struct bqueue *q)
{
    pthread_mutex_lock(&q->mutex);
    q->closed = true;
    pthread_cond_broadcast(&q->filled);
    pthread_cond_broadcast(&q->emptied);
    pthread_mutex_unlock(&q->mutex);
}

size_t bqueue_len(struct bqueue *q)
{
    pthread_mutex_lock(&q->mutex);
    size_t n = q->len;
    pthread_mutex_unlock(&q->mutex);
    return n;
}
