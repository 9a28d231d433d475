/* tests/ops/dev.h - device memory for op tests: poisoned outputs, guard bands, and the way back to the host.
 * Owns:     everything that dev_in and dev_new gave, until dev_close.
 * Thread:   the test's.
 * Limits:   DEV_PARTS_MAX allocations.
 *
 * Outputs are filled with 0xff (NaN in f32, BF16, E4M3 and E8M0; -1 in i32), so that what an op forgot to write fails
 * any comparison. Bands behind and in front of every allocation are checked by dev_out and dev_close.
 */
#ifndef TESTS_OPS_DEV_H
#define TESTS_OPS_DEV_H

#include "kernels/include/ops.h"

enum { DEV_PARTS_MAX = 64 };

struct dev {
    const struct kn_backend *backend;
    const struct kn_ops *ops;
    struct kn_ctx ctx;
    struct {
        char *base; /* device, with bands */
        size_t bytes;
    } part[DEV_PARTS_MAX];
    int n_part;
};

/* Fails the test if the back end cannot be opened. limits: for the workspace. */
void dev_open(struct dev *d, const struct kn_backend *backend, const struct kn_limits *limits);
void dev_close(struct dev *d);

void *dev_in(struct dev *d, const void *host, size_t bytes); /* a copy on the device */
void *dev_new(struct dev *d, size_t bytes);                  /* poisoned */

/* Host copy of what dev_in or dev_new gave (mem_free), all of it; its bands are checked. */
void *dev_out(struct dev *d, const void *dev);
bool dev_is_untouched(struct dev *d, const void *dev); /* still all poison */

/* Back end i of those built in, NULL behind the last. */
const struct kn_backend *dev_backend(int i);

/* A small generator for test data: the same numbers everywhere. */
struct rng {
    uint64_t s;
};
uint32_t rng_u32(struct rng *r);
float rng_normal(struct rng *r); /* mean 0, deviation 1 (sum of 12 uniforms) */
void rng_bf16(struct rng *r, uint16_t *x, size_t n, float scale);
void rng_f32(struct rng *r, float *x, size_t n, float scale);

#endif
