/* tests/ops/rig.h - a back end opened for single ops, with a workspace that covers every case.
 * Owns:     ctx and workspace, between rig_open and rig_close.
 * Thread:   the test's.
 */
#ifndef TESTS_OPS_RIG_H
#define TESTS_OPS_RIG_H

#include "kernels/include/ops.h"

struct rig {
    const struct kn_backend *backend;
    struct kn_ctx ctx;
};

/* Fails the running test if the back end cannot be opened. */
void rig_open(struct rig *r, const char *backend, int n_threads);
void rig_close(struct rig *r);

/* Host back ends that are built in and can run here; the others are printed with the reason. NULL behind the last. */
const char *const *rig_backends(void);

#endif
