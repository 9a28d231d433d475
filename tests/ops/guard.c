#include "tests/ops/guard.h"

#include <stdlib.h>
#include <string.h>

/* ---- guarded buffers: [size | band | bytes | band] ---- */

enum { BAND = 64, BAND_BYTE = 0xa5 };

void *guard_alloc(size_t n_bytes)
{
    size_t total = (2 * BAND + n_bytes + BAND + 63) / 64 * 64;
    unsigned char *raw = aligned_alloc(64, total);

    if (!raw)
        abort();
    memset(raw, BAND_BYTE, total);
    memcpy(raw, &n_bytes, sizeof n_bytes);
    memset(raw + 2 * BAND, 0xff, n_bytes);
    return raw + 2 * BAND;
}

static size_t size_of(const void *p)
{
    size_t n;
    memcpy(&n, (const unsigned char *)p - 2 * BAND, sizeof n);
    return n;
}

static bool is_filled(const unsigned char *p, size_t n, unsigned char with)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != with)
            return false;
    return true;
}

bool guard_is_whole(const void *p)
{
    const unsigned char *b = p;
    return is_filled(b - BAND, BAND, BAND_BYTE) && is_filled(b + size_of(p), BAND, BAND_BYTE);
}

bool guard_is_untouched(const void *p)
{
    return guard_is_whole(p) && is_filled(p, size_of(p), 0xff);
}

void guard_free(void *p)
{
    if (p)
        free((unsigned char *)p - 2 * BAND);
}
