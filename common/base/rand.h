/* common/base/rand.h - random bytes of the kernel, fetched many at a time: for ids, seeds and jitter.
 * Owns:     a small store of bytes per thread; bytes that were given are wiped.
 * Thread:   any. Not across fork: a child that goes on without exec would repeat its parent's bytes.
 */
#ifndef COMMON_BASE_RAND_H
#define COMMON_BASE_RAND_H

#include <stddef.h>

/* Fill out[n] from getrandom(2). Never fails: a kernel without random bytes ends the process. */
void rand_bytes(void *out, size_t n);

/* n random bytes as 2 * n hex digits and a NUL. */
void rand_hex(char *out, size_t n);

#endif
