/* controller/cli/client.h - HTTP requests of the command line to a controller (libcurl).
 * Owns:     nothing between calls.
 * Thread:   any, one call at a time per thread; calls block.
 * Limits:   CLIENT_BODY_MAX bytes of an answer that is gathered; connecting takes at most CLIENT_CONNECT_MS.
 */
#ifndef CONTROLLER_CLI_CLIENT_H
#define CONTROLLER_CLI_CLIENT_H

#include "common/base/err.h"
#include "common/mem/buf.h"

#include <signal.h>
#include <stddef.h>

enum { CLIENT_BODY_MAX = 64 << 20, CLIENT_CONNECT_MS = 5000, CLIENT_URL_MAX = 2048 };

#define CLIENT_URL_DEFAULT "http://127.0.0.1:8080"

/* Bytes of an answer's body as they come. Return 0, or an error to stop. */
typedef int (*client_data_fn)(void *arg, const char *data, size_t n);

/* Connections that are kept between the calls of one thread. */
struct client_session;
struct client_session *client_session_new(void);
void client_session_destroy(struct client_session **session);

struct client_call {
    struct client_session *session; /* NULL: a connection of its own */
    const char *base;      /* "http://127.0.0.1:8080", with or without a slash at the end */
    const char *path;      /* "/v1/status" */
    const char *body;      /* JSON to POST, NULL: GET */
    size_t body_len;
    const char *const *header; /* further lines "Name: value", a NULL behind the last; NULL: none */
    long timeout_ms;       /* in all; 0: none, for streams */
    client_data_fn on_data; /* body of a 200 answer; NULL: gathered in `out` */
    void *arg;
    const volatile sig_atomic_t *cancel; /* stop when it becomes nonzero; may be NULL */
    long status;           /* out: HTTP status, 0 while there was none */
    struct buf out;        /* out: body, gathered when on_data is NULL or status is not 200; client_release */
};

/* The base URL to use: the flag's value, else BATON_URL, else CLIENT_URL_DEFAULT. */
const char *client_base(const char *flag);

/* Do it. 0 with c->status of the answer; ERR_NET (the text names the URL and what to do), ERR_TIMEOUT, ERR_CANCELED,
 * ERR_LIMIT, or what on_data returned. */
int client_run(struct client_call *c, struct err *err);

/* For a status that is not 200: "URL answers 404: message of the error body". Returns ERR_NET. */
int client_refused(const struct client_call *c, struct err *err);

void client_release(struct client_call *c);

#endif
