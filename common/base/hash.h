/* common/base/hash.h - FNV-1a of 64 bits: for tables and names inside one process or one format, not against an enemy.
 * Owns:     nothing.
 * Thread:   any.
 * Source:   Fowler, Noll, Vo; draft-eastlake-fnv.
 */
#ifndef COMMON_BASE_HASH_H
#define COMMON_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FNV1A_START UINT64_C(0xcbf29ce484222325)

/* Go on with n more bytes; h is FNV1A_START or an earlier result. */
static inline uint64_t fnv1a(uint64_t h, const void *data, size_t n)
{
    const unsigned char *p = data;

    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

static inline uint64_t fnv1a_str(const char *s)
{
    return fnv1a(FNV1A_START, s, strlen(s));
}

#endif
