/* controller/http/exchange.h - one request and its answer, whatever carries them: an HTTP/1.1 connection, or the socket
 * of native clients (controller/native).
 * Owns:     the body until it is taken, and the header lines that the handler added.
 * Lifetime: the carrier's; valid for a handler as http/server.h says.
 * Thread:   the loop.
 *
 * Handlers know the functions of http/server.h alone. Those call the carrier, which queues bytes; it never calls the
 * handler back from inside, except by on_gone in its own time.
 */
#ifndef CONTROLLER_HTTP_EXCHANGE_H
#define CONTROLLER_HTTP_EXCHANGE_H

#include "controller/http/parser.h"
#include "controller/http/server.h"

struct http_carrier {
    /* The whole answer. x->begun is set already; so it is for the others. */
    void (*reply)(struct http_exchange *x, int status, const char *content_type, const void *body, size_t len);
    void (*begin)(struct http_exchange *x, int status, const char *content_type);
    void (*write)(struct http_exchange *x, const void *data, size_t n); /* n > 0 */
    void (*end)(struct http_exchange *x);
    void (*cut)(struct http_exchange *x); /* on_gone is NULL already */
    size_t (*unsent)(const struct http_exchange *x);
};

struct http_exchange {
    const struct http_carrier *carrier;
    void *owner; /* the carrier's */
    struct http_head head;
    struct buf body;
    struct buf extra; /* header lines that the handler added, each ended by CR LF */
    void (*on_gone)(void *arg);
    void *gone_arg;
    bool begun;   /* the head of the answer is queued */
    bool chunked; /* HTTP/1.1: the answer is chunked */
    bool no_body; /* HEAD */
};

#endif
