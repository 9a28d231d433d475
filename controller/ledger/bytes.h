/* controller/ledger/bytes.h - little-endian numbers in and out, for the two codecs of this room.
 * Owns:     nothing.
 * Thread:   any.
 */
#ifndef CONTROLLER_LEDGER_BYTES_H
#define CONTROLLER_LEDGER_BYTES_H

#include "common/mem/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void bytes_add(struct buf *out, uint64_t v, int n)
{
    char b[8];
    for (int i = 0; i < n; i++)
        b[i] = (char)(v >> (8 * i));
    buf_add(out, b, (size_t)n);
}

static inline void bytes_add_f32(struct buf *out, float f)
{
    uint32_t v;
    memcpy(&v, &f, sizeof v);
    bytes_add(out, v, 4);
}

/* What is left to read; `bad` stays true once something was not there, and all later reads give 0. */
struct bytes_in {
    const unsigned char *at;
    size_t n;
    bool bad;
};

static inline uint64_t bytes_take(struct bytes_in *in, int n)
{
    uint64_t v = 0;
    if (in->n < (size_t)n) {
        in->bad = true;
        return 0;
    }
    for (int i = 0; i < n; i++)
        v |= (uint64_t)in->at[i] << (8 * i);
    in->at += n;
    in->n -= (size_t)n;
    return v;
}

static inline float bytes_take_f32(struct bytes_in *in)
{
    uint32_t v = (uint32_t)bytes_take(in, 4);
    float f;
    memcpy(&f, &v, sizeof f);
    return f;
}

#endif
