/* tests/ops/guard.h - host buffers that show what an op left alone or overran.
 * Owns:     the buffers, until guard_free.
 * Thread:   the test's.
 */
#ifndef TESTS_OPS_GUARD_H
#define TESTS_OPS_GUARD_H

#include <stdbool.h>
#include <stddef.h>

/* n_bytes, 64-byte aligned, filled with 0xff (NaN in f32, BF16, E4M3 and E8M0; -1 in i32), bands on both sides. */
void *guard_alloc(size_t n_bytes);
bool guard_is_whole(const void *p);     /* nothing was written outside */
bool guard_is_untouched(const void *p); /* nor inside */
void guard_free(void *p);

#endif
