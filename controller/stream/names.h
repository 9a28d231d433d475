/* controller/stream/names.h - the names that one tool call has used so far: a repeated parameter is dropped.
 * Owns:     copies of the names.
 * Lifetime: {0} is empty; names_release ends it.
 * Thread:   one at a time.
 * Limits:   none of its own: bounded by the text of the call.
 */
#ifndef CONTROLLER_STREAM_NAMES_H
#define CONTROLLER_STREAM_NAMES_H

#include "common/mem/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct name_slot {
    uint32_t hash;
    size_t begin, len; /* in struct names.text */
    bool used;
};

struct names {
    struct buf text;
    struct name_slot *slot; /* open addressing, cap a power of two, at most half full */
    size_t n, cap;
};

void names_release(struct names *s);
void names_clear(struct names *s);

/* Returns true if the name is new, false if it was there. O(1) on average. */
bool names_add(struct names *s, const char *name, size_t len);

static inline size_t names_n(const struct names *s)
{
    return s->n;
}

#endif
