/* worker/engine/ep/threads.h - the rank seam between threads of one process whose device memory is the host's.
 * Owns:     the group: what the ranks have published; taken in open, given back in close.
 * Lifetime, thread, limits: see ep.h.
 *
 * Ranks publish where their rows lie, wait for each other, and each copies what it needs from the others' memory: two
 * meetings a layer. A waiting rank spins for some microseconds if there is a core for every rank, then sleeps.
 */
#ifndef WORKER_ENGINE_EP_THREADS_H
#define WORKER_ENGINE_EP_THREADS_H

#include "worker/engine/ep/ep.h"

extern const struct eng_ep_provider eng_ep_threads;

#endif
