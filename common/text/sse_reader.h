/* common/text/sse_reader.h - the lines of a server-sent event stream, cut anywhere.
 * Owns:     the unfinished line, the data of the unfinished event, the last event id.
 * Lifetime: {0} is the start; sse_reader_release ends it.
 * Thread:   one.
 * Limits:   SSE_READER_EVENT_MAX bytes of one event.
 * Source:   WHATWG HTML, "server-sent events": lines end in LF, CR or CRLF; data lines of one event are joined by LF.
 */
#ifndef COMMON_TEXT_SSE_READER_H
#define COMMON_TEXT_SSE_READER_H

#include "common/base/err.h"
#include "common/mem/buf.h"

#include <stdbool.h>
#include <stddef.h>

enum { SSE_READER_EVENT_MAX = 16 << 20 };

/* Return 0, or an error that ends the stream. Views are valid during the call. */
struct sse_reader_events {
    int (*on_data)(void *arg, const char *data, size_t n);     /* one event that had data */
    int (*on_comment)(void *arg, const char *text,
                      size_t n); /* a line that begins with ':', without it and a blank */
};

struct sse_reader {
    struct buf line, data;
    struct buf id; /* the last `id:` line's value: during on_data the id of that event; empty: none came yet */
    bool has_data, last_was_cr;
};

/* Feed n bytes. 0, ERR_LIMIT, or what a callback returned (then feed no more). */
int sse_reader_feed(struct sse_reader *s, const char *bytes, size_t n, const struct sse_reader_events *events,
                    void *arg);

void sse_reader_release(struct sse_reader *s);

#endif
