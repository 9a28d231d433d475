/* common/ds/bqueue.h - bounded queue of pointers between threads: many push, one pops.
 * Owns:     its ring; what the pointers point to belongs to whoever holds the pointer.
 * Lifetime: bqueue_new .. bqueue_destroy; no thread may be inside, and what is left in it is the caller's to pop first.
 * Thread:   any may push and close; one pops.
 * Limits:   the capacity given; a full queue is ERR_LIMIT at once or ERR_TIMEOUT after the wait.
 */
#ifndef COMMON_DS_BQUEUE_H
#define COMMON_DS_BQUEUE_H

#include <stddef.h>
#include <stdint.h>

struct bqueue;

struct bqueue *bqueue_new(size_t cap);
void bqueue_destroy(struct bqueue **q);

/* Put item (not NULL) at the end. 0; ERR_LIMIT: full; ERR_STATE: closed. On error the item is still the caller's. */
int bqueue_push(struct bqueue *q, void *item);

/* The same, but waits up to timeout_ms for room: ERR_TIMEOUT then. */
int bqueue_push_wait(struct bqueue *q, void *item, int timeout_ms);

/* Take the oldest item, waiting up to timeout_ms (0: do not wait, negative: without end). 0 and *item;
 * ERR_TIMEOUT: nothing came; ERR_STATE: closed and empty. */
int bqueue_pop(struct bqueue *q, int timeout_ms, void **item);
int bqueue_pop_ns(struct bqueue *q, int64_t timeout_ns, void **item); /* the same, for waits below a millisecond */

/* Nothing can be pushed any more; what is inside can still be popped; all waiters wake. */
void bqueue_close(struct bqueue *q);

size_t bqueue_len(struct bqueue *q);

#endif
