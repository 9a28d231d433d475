/* controller/api/internal.h - what the files of this room share.
 * Owns:     see front.h.
 * Thread:   the loop.
 */
#ifndef CONTROLLER_API_INTERNAL_H
#define CONTROLLER_API_INTERNAL_H

#include "controller/api/chat_request.h"
#include "controller/api/error.h"
#include "controller/api/front.h"
#include "controller/ctl_internal.h"
#include "controller/http/server.h"
#include "controller/native/native.h"

enum {
    API_ID_MAX = 40,             /* "chatcmpl-" and 24 hex digits */
    API_PREPARE_PER_TURN_MAX = 8, /* small bodies read inline in one turn */
    API_PULL_BYTES = 65536,      /* unsent bytes of a stream above which no more events are made */
    API_PRODUCE_PER_TURN_MAX = 2048, /* tokens that one stream makes into events in one turn */
    API_RETRY_MS = 1000,         /* streams tell their clients to come back after so long */
};

struct api_gen;
struct api_pipe;
struct api_run;

struct ctl_front {
    struct ctl *ctl;
    struct http_server *server;
    struct native_server *native; /* NULL: not wanted */
    struct chat_request_rules rules;
    uv_timer_t tick; /* keep-alive comments and heartbeats; runs while there are generations */
    bool tick_on;
    struct api_run *runs; /* exchanges, all */
    struct api_gen *gens; /* generations, all */
    struct api_pipe *pipes; /* exchanges of /v1/runs that are not answered yet */
    uint64_t tick_ms;
    struct api_run *inbox, *inbox_tail; /* whole requests that wait for the turn, oldest first */
    struct api_run *dirty; /* have something to write */
    int64_t n_run, n_job;          /* exchanges; jobs on the thread pool */
    int64_t n_waiting, n_detached; /* generations: without a context length; without a listener */
    int64_t created_s;
    uint64_t n_hidden; /* outputs that ended with an id that must not reach a client */
    bool draining, closing, tick_closed, server_closed, native_closed;
    void (*on_closed)(void *arg);
    void *closed_arg;
};

/* ---- front.c ---- */
void api__maybe_closed(struct ctl_front *f);

/* ---- reply.c: answers that every endpoint shares ---- */
/* A fresh 96-bit name as 24 hex digits. */
void api__make_id(char hex[25]);
bool api__is_local_origin(const char *origin); /* a page of this machine */
/* The headers of every answer: request ids, CORS. */
void api__add_common(struct http_exchange *x, const char *request_id);
/* The common headers are set already. */
void api__reply_error(struct http_exchange *x, const struct api_error *e);
void api__reply_json(struct http_exchange *x, int status, const struct buf *body);

/* ---- route.c ---- */
struct api_call {
    struct ctl_front *front;
    struct http_exchange *x;
    const char *rest; /* what follows the path of a route that ends in '/': percent-decoded; "" else */
    const char *hex;  /* the name of this exchange */
};
typedef void (*api_handler_fn)(const struct api_call *call);
void api__route(struct ctl_front *f, struct http_exchange *x);

/* ---- models.c ---- */
void api__get_models(const struct api_call *call);
void api__get_model(const struct api_call *call);
void api__get_health(const struct api_call *call);
void api__get_live(const struct api_call *call);
void api__get_status(const struct api_call *call);

/* ---- run.c ---- */
void api__post_chat(const struct api_call *call);
void api__get_chat(const struct api_call *call);
void api__post_request(const struct api_call *call); /* .../cancel */
void api__runs_submit(struct ctl_front *f); /* from the turn: read, check, give to the back */
void api__runs_write(struct ctl_front *f);  /* from the turn: what the events of this turn left to write */
void api__runs_tick(struct ctl_front *f);   /* from the timer */

/* ---- pipe.c ---- */
void api__post_runs(const struct api_call *call);
void api__get_runs(const struct api_call *call);
void api__get_run(const struct api_call *call);
void api__post_run(const struct api_call *call);
void api__pipes_tick(struct ctl_front *f);   /* from the timer */
bool api__pipes_are_behind(const struct ctl_front *f); /* some client has not read what there is */
void api__pipes_listen(struct ctl_front *f); /* the agent is there */
void api__pipes_leave(struct ctl_front *f);

#endif
