/* kernels/cpu/pool.h - the threads of one rank: run n tasks, come back when all are done.
 * Owns:     its threads and one scratch area per thread, from open to close.
 * Lifetime: kn__pool_open .. kn__pool_close.
 * Thread:   run is called by the thread that opened the pool; tasks run on it and on the pool's.
 * Limits:   KN__POOL_THREADS_MAX threads.
 *
 * Which thread takes a task is left to chance, so a task's result must depend on its number alone. Threads spin for
 * some microseconds between jobs, then sleep; a job never waits for a thread that has not woken up in time to take
 * part.
 */
#ifndef KERNELS_CPU_POOL_H
#define KERNELS_CPU_POOL_H

#include <stddef.h>
#include <stdint.h>

enum { KN__POOL_THREADS_MAX = 256 };

struct kn__pool;

/* n_threads >= 1, the caller included. 0 or ERR_MEM. */
int kn__pool_open(int n_threads, size_t scratch_bytes, struct kn__pool **pool);
void kn__pool_close(struct kn__pool **pool);

int kn__pool_threads(const struct kn__pool *pool);

/* A task: its number, and the scratch of the thread that runs it (64-byte aligned, contents left over). */
typedef void kn__task(void *arg, int64_t task, void *scratch);

void kn__pool_run(struct kn__pool *pool, int64_t n_task, kn__task *fn, void *arg);

/* Threads that this process may run on. */
int kn__pool_cores(void);

#endif
