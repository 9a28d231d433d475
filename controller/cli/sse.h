/* controller/cli/sse.h - the lines of a server-sent event stream, cut anywhere.
 * Owns:     the unfinished line and the data of the unfinished event.
 * Lifetime: {0} is the start; sse_release ends it.
 * Thread:   one.
 * Limits:   SSE_EVENT_MAX bytes of one event.
 * Source:   WHATWG HTML, "server-sent events": lines end in LF, CR or CRLF; data lines of one event are joined by LF.
 */
#ifndef CONTROLLER_CLI_SSE_H
#define CONTROLLER_CLI_SSE_H

#include "common/base/err.h"
#include "common/mem/buf.h"

#include <stdbool.h>
#include <stddef.h>

enum { SSE_EVENT_MAX = 16 << 20 };

/* Return 0, or an error that ends the stream. Views are valid during the call. */
struct sse_events {
    int (*on_data)(void *arg, const char *data, size_t n);     /* one event that had data */
    int (*on_comment)(void *arg, const char *text, size_t n);  /* a line that begins with ':', without it and a blank */
};

struct sse {
    struct buf line, data;
    bool has_data, last_was_cr;
};

/* Feed n bytes. 0, ERR_LIMIT, or what a callback returned (then feed no more). */
int sse_feed(struct sse *s, const char *bytes, size_t n, const struct sse_events *events, void *arg);

void sse_release(struct sse *s);

#endif
