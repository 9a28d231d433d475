/* controller/stream/stop.h - the stop strings of a request, and the search for them in text that comes in pieces.
 * Owns:     struct stop_set its strings and tables; struct stop_search its held text.
 * Lifetime: a set is made once per request and shared by its choices; it must outlive the searches.
 * Thread:   a set any (constant), a search one.
 * Limits:   STOP_STRINGS_MAX strings of 1..STOP_BYTES_MAX bytes; held text is shorter than the longest string.
 * Source:   spec/api.md 4.1 `stop`, 4.3: text that may still turn out to be a stop string is held back.
 *
 * The match that counts is the one that ends first; of several that end there, the longest. So the result does
 * not depend on how the text was cut. O(bytes * strings), Knuth-Morris-Pratt.
 */
#ifndef CONTROLLER_STREAM_STOP_H
#define CONTROLLER_STREAM_STOP_H

#include "common/mem/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { STOP_STRINGS_MAX = 16, STOP_BYTES_MAX = 4096 };

struct stop_string {
    char *text;
    uint32_t n;
    uint32_t *fail; /* [n]: length of the longest proper border of text[0..i] */
};

struct stop_set {
    struct stop_string string[STOP_STRINGS_MAX];
    int n;
};

/* Copy one more string (valid UTF-8, 1..STOP_BYTES_MAX bytes, room for it: the caller has checked). */
void stop_set_add(struct stop_set *set, const char *text, size_t n);
void stop_set_release(struct stop_set *set);

struct stop_search {
    uint32_t at[STOP_STRINGS_MAX]; /* length of the prefix of each string that the text ends with */
    struct buf held;
};

/* Feed n bytes; append to out what cannot be part of a match any more. True: a stop string is complete; what stands
 * before it is in out, the rest is dropped. An empty set lets everything pass. */
bool stop_search_feed(struct stop_search *s, const struct stop_set *set, const char *text, size_t n, struct buf *out);

/* No match can begin before here any more (another kind of text follows, or the end): append what is held. */
void stop_search_flush(struct stop_search *s, struct buf *out);
void stop_search_release(struct stop_search *s);

#endif
