/* worker/tool/ceiling.h - what this machine can do at best, measured: the figures beside which speed is read.
 * Owns:     memory and threads of the call.
 * Thread:   main; starts n_threads of its own.
 * Limits:   takes about half a second each.
 */
#ifndef WORKER_TOOL_CEILING_H
#define WORKER_TOOL_CEILING_H

/* Bytes per second that n_threads read together from memory that no cache holds, best of three. 0: no memory or
 * threads. */
double wrk_ceiling_read(int n_threads);

/* f32 multiplications and additions per second in registers, best of three; uses FMA where the machine has AVX2. */
double wrk_ceiling_fma(int n_threads);

#endif
