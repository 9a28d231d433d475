/* worker/tool/ceiling.h - what this machine can do at best, measured: the figures beside which speed is read.
 * Owns:     memory and threads of the call.
 * Thread:   main; starts n_threads of its own.
 * Limits:   takes about half a second each.
 */
#ifndef WORKER_TOOL_CEILING_H
#define WORKER_TOOL_CEILING_H

/* Bytes per second that n_threads read together from memory that no cache holds (huge pages, prefetched: the most that
 * a loop gets), best of three. 0: no memory, threads or AVX2. */
double wrk_ceiling_read(int n_threads);

/* f32 multiplications and additions per second in registers, best of three; 8 lanes with FMA. 0: no threads, no
 * AVX2. */
double wrk_ceiling_fma(int n_threads);

#endif
