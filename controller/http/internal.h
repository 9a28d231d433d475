/* controller/http/internal.h - what server.c, conn.c and response.c share.
 * Owns:     struct http_server owns its connections; a connection owns its buffers and its one exchange.
 * Lifetime: a connection is freed by the last close callback of its two handles, never earlier.
 * Thread:   the loop.
 * Limits:   struct http_limits, and the constants below.
 */
#ifndef CONTROLLER_HTTP_INTERNAL_H
#define CONTROLLER_HTTP_INTERNAL_H

#include "controller/http/exchange.h"
#include "controller/http/parser.h"
#include "controller/http/server.h"

enum {
    HTTP_READ_BYTES = 65536,        /* the read buffer of the server, shared: reads are used up at once */
    HTTP_AHEAD_BYTES_MAX = 131072,  /* pipelined input kept while an answer is pending; then reading stops */
    HTTP_PIPELINE_UNSENT_MAX = 65536, /* unsent bytes above which the next pipelined request waits */
    HTTP_KEEP_BYTES_MAX = 16384,    /* buffers larger than this are given back between requests */
    HTTP_LINGER_MS = 2000,          /* after the last answer: time for the client to read it and close */
    HTTP_BACKLOG = 1024,
};

/* Life of a connection. Moves go through conn_move() of conn.c with its table of legal moves. */
#define HTTP_CONN_STATE_LIST(X)                                                                    \
    X(idle)   /* between requests */                                                               \
    X(head)   /* request line and headers come in */                                               \
    X(body)   /* the body comes in */                                                              \
    X(busy)   /* the handler has the exchange */                                                   \
    X(linger) /* the last answer is written; input is dropped until the client closes */           \
    X(closed) /* uv_close was called */
enum http_conn_state {
#define X(name) HTTP_CONN_##name,
    HTTP_CONN_STATE_LIST(X)
#undef X
        HTTP_CONN_STATE_N
};

struct http_conn;

struct http_conn {
    struct http_server *server;
    struct http_conn *prev, *next; /* all connections */
    struct http_conn *dirty_prev, *dirty_next;
    bool is_dirty;
    uv_tcp_t tcp;
    uv_timer_t timer;
    int n_open; /* handles not closed yet */
    enum http_conn_state state;
    bool reading;
    bool keep;      /* the connection may go on after this answer */
    bool eof;       /* the client has closed its side */
    bool overrun;   /* more unsent bytes than allowed: cut off in the next flush */
    bool shut;      /* uv_shutdown was called */
    struct buf in;  /* input; the first in_used bytes are done with */
    size_t in_used;
    size_t scan_pos, scan_start;
    struct buf head_bytes; /* of the current request: views of the exchange point here */
    struct http_reader *reader;
    struct http_exchange x;
    struct buf out;     /* gathered in this turn */
    struct buf sending; /* in the kernel's hands */
    bool in_flight;
    size_t stall_bytes; /* unsent when the stall timer was set */
    uv_write_t write;
    uv_shutdown_t shutdown;
};

struct http_server {
    uv_loop_t *loop;
    struct http_server_opts opts;
    uv_tcp_t listener;
    bool listening;
    int port;
    struct http_conn *conns;
    int64_t n_conn; /* connections, closing ones included */
    struct http_conn *dirty; /* to flush, oldest first */
    struct http_conn *dirty_tail;
    int64_t n_over;       /* connections refused at conns_max so far */
    uint64_t over_log_ms; /* loop time of the next log line about it */
    char *read_buf; /* [HTTP_READ_BYTES] */
    bool closing, listener_closed;
    void (*on_closed)(void *arg);
    void *closed_arg;
    int64_t date_s; /* second for which `date` was made */
    char date[40];
};

/* ---- conn.c ---- */
void http__conn_accept(struct http_server *s);
void http__conn_close(struct http_conn *c); /* at once; an exchange that is pending is told */
void http__conn_mark(struct http_conn *c);  /* there is something to flush */
void http__conn_flush(struct http_conn *c);
void http__conn_answered(struct http_conn *c); /* the answer of the exchange is complete in c->out */
size_t http__conn_unsent(const struct http_conn *c);

/* ---- response.c ---- */
extern const struct http_carrier http__conn_carrier;
/* Queue the answer to a request that never became an exchange; the connection ends behind it. */
void http__refuse(struct http_conn *c, int status, const char *text);
const char *http__status_text(int status);

/* ---- server.c ---- */
void http__server_forget(struct http_server *s, struct http_conn *c); /* c is closed: unlink, perhaps finish closing */

#endif
