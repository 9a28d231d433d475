/* controller/native/native.h - the door of native clients: calls over ZeroMQ become exchanges, as those of HTTP do.
 * Owns:     the ROUTER, its ZeroMQ context, the table of clients, every open call with what is not sent yet.
 * Lifetime: native_open .. native_close(on_closed).
 * Thread:   the loop.
 * Limits:   struct native_limits; at each of them a Refused with a text, or the call is cut off (End, not complete).
 * Source:   proto/wire/client.proto, docs/adr/0004.
 *
 * A handler gets a struct http_exchange and cannot tell that it is not HTTP; what holds there (http/server.h) holds
 * here: called from the read callback, answered now or later, told by on_gone when the client does not want the rest.
 * A client is given up when it is silent for lost_ms or cannot be reached; its calls end then. What ZeroMQ cannot take
 * yet waits here, up to unsent_bytes_max a call.
 */
#ifndef CONTROLLER_NATIVE_NATIVE_H
#define CONTROLLER_NATIVE_NATIVE_H

#include "common/base/err.h"
#include "controller/http/server.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

enum {
    NATIVE_ENDPOINT_MAX = 256,
    NATIVE_KEY_CHARS = 41,  /* a CURVE key in Z85, with NUL */
    NATIVE_RECV_MAX = 256,  /* messages of one round of the loop */
    NATIVE_SEND_MAX = 256,  /* unsent messages per client that ZeroMQ holds */
};

struct native_server;

struct native_limits {
    int64_t clients_max; /* connected at once: one more is refused */
    int64_t calls_max;   /* open calls of one client */
    int64_t body_bytes_max, unsent_bytes_max, lost_ms;
};

struct native_opts {
    const char *endpoint;   /* "tcp://127.0.0.1:*" or "ipc://..." */
    const char *secret_key; /* CURVE, Z85: clients must know the public one; NULL: no encryption */
    struct native_limits limit;
    http_request_fn on_request;
    void *arg;
};

/* Bind and serve. ERR_ARG (no such endpoint or key), ERR_NET (cannot bind). Strings are copied where they are kept. */
int native_open(uv_loop_t *loop, const struct native_opts *opts, struct native_server **s, struct err *err);

const char *native_endpoint(const struct native_server *s); /* as bound, with its port */
int64_t native_n_client(const struct native_server *s);

void native_flush(struct native_server *s);             /* in the turn: send what was gathered */
bool native_is_flushed(const struct native_server *s);  /* nothing waits here */
void native_arm(struct native_server *s);               /* last look at the socket before the loop sleeps */

/* Every open call is told (on_gone); on_closed(arg) when everything is free. *s becomes NULL. */
void native_close(struct native_server **s, void (*on_closed)(void *arg), void *arg);

/* The CURVE key pair of a file: read it, or make it (mode 0600) if there is none. The file has the secret key in its
 * first line; the public one is computed. ERR_IO, ERR_FORMAT; ERR_STATE: others may read the file. */
int native_key_file(const char *path, char public_key[NATIVE_KEY_CHARS], char secret_key[NATIVE_KEY_CHARS],
                    struct err *err);

#endif
