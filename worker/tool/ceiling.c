#include "worker/tool/ceiling.h"

#include "common/base/clock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { THREADS_MAX = 256, READ_MIB = 512, AHEAD = 4096, FMA_ROUNDS = 4000000, CHAINS = 12 };

struct worker {
    pthread_t id;
    const uint64_t *from;
    size_t n;
    uint64_t sum;
    float out;
};

typedef uint64_t vec4 __attribute__((vector_size(32)));

/* Eight sums, so that the loop waits for memory and not for its additions; a prefetch, because no processor looks over
 * the end of a page by itself. */
#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
static uint64_t sum_of(const uint64_t *from, size_t n)
{
    const vec4 *v = (const vec4 *)(const void *)from;
    vec4 s[8] = {0};

    for (size_t i = 0; i + 8 <= n / 4; i += 8) {
        for (size_t line = 0; line < 8; line += 2)
            __builtin_prefetch((const char *)(v + i + line) + AHEAD);
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; j++)
            s[j] += v[i + j];
    }
    for (size_t j = 1; j < 8; j++)
        s[0] += s[j];
    return s[0][0] + s[0][1] + s[0][2] + s[0][3];
}

static void *read_all(void *arg)
{
    struct worker *w = arg;
    w->sum += sum_of(w->from, w->n);
    return NULL;
}

typedef float vec8 __attribute__((vector_size(32)));

/* CHAINS independent chains of v = v*a + b, 8 lanes each. */
#if defined(__x86_64__)
__attribute__((target("avx2,fma"), optimize("fp-contract=fast")))
#endif
static float fma_chains(void)
{
    vec8 v[CHAINS], a = {0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f}, b = a;
    float out = 0;

    for (int c = 0; c < CHAINS; c++)
        v[c] = a * (float)c;
    for (int i = 0; i < FMA_ROUNDS; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++)
            v[c] = v[c] * a + b;
    }
    for (int c = 0; c < CHAINS; c++)
        out += v[c][0];
    return out;
}

static void *run_chains(void *arg)
{
    struct worker *w = arg;
    w->out = fma_chains();
    return NULL;
}

static bool has_avx2(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return true; /* vectors are whatever the compiler makes of them */
#endif
}

/* Seconds that n workers take together, or 0. */
static double run(struct worker *w, int n, void *(*fn)(void *))
{
    int64_t t0 = clock_mono_ns();
    int started = 1;

    while (started < n && pthread_create(&w[started].id, NULL, fn, &w[started]) == 0)
        started++;
    fn(&w[0]);
    for (int i = 1; i < started; i++)
        pthread_join(w[i].id, NULL);
    return started == n ? (double)(clock_mono_ns() - t0) * 1e-9 : 0;
}

static double best(int n_threads, void *(*fn)(void *), struct worker *w, double amount)
{
    double most = 0;

    for (int i = 0; i < 3; i++) {
        double s = run(w, n_threads, fn);
        if (s > 0 && amount / s > most)
            most = amount / s;
    }
    return most;
}

double wrk_ceiling_read(int n_threads)
{
    struct worker w[THREADS_MAX] = {0};
    size_t bytes = (size_t)READ_MIB << 20, part;
    uint64_t *mem = n_threads >= 1 && n_threads <= THREADS_MAX ? aligned_alloc((size_t)2 << 20, bytes) : NULL;

    if (!mem || !has_avx2()) {
        free(mem);
        return 0;
    }
    madvise(mem, bytes, MADV_HUGEPAGE); /* where it is refused, the figure is that of small pages */
    memset(mem, 1, bytes);
    part = bytes / sizeof *mem / (size_t)n_threads / 32 * 32;
    for (int i = 0; i < n_threads; i++) {
        w[i].from = mem + part * (size_t)i;
        w[i].n = part;
    }
    double most = best(n_threads, read_all, w, (double)(part * sizeof *mem * (size_t)n_threads));
    uint64_t sum = 0;
    for (int i = 0; i < n_threads; i++)
        sum += w[i].sum;
    free(mem);
    return sum ? most : 0; /* the sums are used, so that the reading is done */
}

double wrk_ceiling_fma(int n_threads)
{
    struct worker w[THREADS_MAX] = {0};
    double amount = 2.0 * 8 * CHAINS * FMA_ROUNDS * n_threads;

    if (n_threads < 1 || n_threads > THREADS_MAX)
        return 0;
    if (!has_avx2())
        return 0;
    double most = best(n_threads, run_chains, w, amount);
    return w[0].out > 0 ? most : 0;
}
