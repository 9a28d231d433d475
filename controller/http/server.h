/* controller/http/server.h - HTTP/1.1 in, HTTP/1.1 out; knows nothing of models or JSON.
 * Owns:     the listening socket and all connections.
 * Lifetime: http_server_open .. http_server_close(on_closed).
 * Thread:   the loop.
 * Limits:   struct http_limits; at each limit the named answer of spec/api.md section 2 (408, 413, 431, close).
 * Source:   spec/api.md sections 1, 2, 9; RFC 9110, 9112.
 *
 * One request = one struct http_exchange. The handler gets it when headers AND body are complete and checked, and
 * answers now or later: http_reply (whole), or http_stream_begin + http_stream_write + http_stream_end. Output is
 * gathered and written once per turn (http_server_flush), headers and first chunk in one write, TCP_NODELAY on.
 */
#ifndef CONTROLLER_HTTP_SERVER_H
#define CONTROLLER_HTTP_SERVER_H

#include "common/base/err.h"
#include "common/mem/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum { HTTP_HEADERS_MAX = 128, HTTP_PATH_MAX = 2048 };

struct http_server;
struct http_exchange;

struct http_limits {
    int64_t conns_max, header_bytes_max, body_bytes_max, header_ms, body_ms, idle_ms, unsent_bytes_max;
};

/* A request is complete. Called from the read callback: keep it short, mark work for the turn. The exchange is valid
 * until it was answered in full or on_gone was called. */
typedef void (*http_request_fn)(void *arg, struct http_exchange *x);

/* The server itself refuses a request (limit, malformed, too slow): the owner may fill the body in its error form,
 * and `head` with more header lines, each ended by CR LF. path is "" if it was not read. */
typedef void (*http_refuse_fn)(void *arg, const char *path, int status, const char *text, struct buf *head,
                               struct buf *body, const char **content_type);

struct http_server_opts {
    const char *host;
    int port;
    struct http_limits limit;
    http_request_fn on_request;
    http_refuse_fn on_refuse;
    void *arg;
};

int http_server_open(uv_loop_t *loop, const struct http_server_opts *opts, struct http_server **server,
                     struct err *err);
int http_server_port(const struct http_server *server);
int64_t http_server_n_conn(const struct http_server *server);
void http_server_stop_listening(struct http_server *server); /* graceful stop: no new connections */
void http_server_flush(struct http_server *server);          /* in the turn: write what was gathered */
bool http_server_is_flushed(const struct http_server *server); /* nothing unsent on any connection */
/* Every pending exchange is told (on_gone). on_closed runs when all handles are closed; inside this call if none was
 * open. */
void http_server_close(struct http_server **server, void (*on_closed)(void *arg), void *arg);

/* ---- the request (views valid as long as the exchange) ---- */
const char *http_method(const struct http_exchange *x); /* "GET" ... */
const char *http_path(const struct http_exchange *x);   /* without query, not decoded */
const char *http_query(const struct http_exchange *x);  /* "" if none */
const char *http_header(const struct http_exchange *x, const char *name); /* case-blind; NULL if absent */
const char *http_body(const struct http_exchange *x, size_t *len);
/* The body is yours now (mem_free; never NULL): for work that may outlive the exchange. */
char *http_take_body(struct http_exchange *x, size_t *len);

/* ---- the answer ---- */
/* Add a header line to an answer that has not begun. */
void http_add_header(struct http_exchange *x, const char *name, const char *value);
void http_reply(struct http_exchange *x, int status, const char *content_type, const void *body, size_t len);
void http_stream_begin(struct http_exchange *x, int status, const char *content_type);
/* Queue n bytes as one chunk (n > 0). The queue is bounded by unsent_bytes_max: past it the connection is cut off and
 * on_gone is called from the next flush. (A whole answer is bounded by what the handler puts into it.) */
void http_stream_write(struct http_exchange *x, const void *data, size_t n);
void http_stream_end(struct http_exchange *x); /* x is invalid afterwards */
void http_stream_abort(struct http_exchange *x); /* close the connection without a proper end; x is invalid */
size_t http_unsent(const struct http_exchange *x); /* bytes queued or in the kernel's hands */

/* The client went away (or was cut off, or the server closes) before the answer was complete: called once, x is
 * invalid afterwards. Set it before returning from on_request if the answer comes later. */
void http_on_gone(struct http_exchange *x, void (*on_gone)(void *arg), void *arg);

#endif
