/* controller/api/pipe.h - /v1/runs: pipelines over HTTP.
 * Owns:     one struct api_pipe for each exchange that waits for a commit, an answer of the store, or events.
 * Lifetime: from the request to its answer, or to the client's leaving; a question to the store keeps it until then.
 * Thread:   the loop.
 * Limits:   PIPE_LIST_MAX runs of one list; PIPE_STORE_BYTES bytes of events made from one answer of the store;
 *           API_PULL_BYTES unsent bytes of a stream above which no more events are made; keepalive_ms.
 * Source:   docs/openapi.json.
 *
 * What changes something needs Content-Type: application/json and no foreign Origin: a pipeline may run commands here,
 * and no web page that a user opens may start one.
 */
#ifndef CONTROLLER_API_PIPE_H
#define CONTROLLER_API_PIPE_H

#include "controller/agent/agent.h"
#include "controller/agent/show.h"
#include "controller/api/internal.h"

enum {
    PIPE_LIST_MAX = 100,
    PIPE_LIST_DEFAULT = 20,
    PIPE_STORE_BYTES = 1 << 20,
    PIPE_ACTION_MAX = 16,
};

struct api_pipe {
    struct ctl_front *front; /* NULL: the client is gone, the store's answer is not */
    struct api_pipe *prev, *next;
    struct http_exchange *x;
    struct agent *agent;
    bool asking;             /* the store has a question of ours */
    char tenant[STORE_TENANT_MAX];
    char id[STORE_ID_MAX];   /* of the run */
    char action[PIPE_ACTION_MAX]; /* "", "events", "cancel" ... */
    struct arena arena;      /* of the body */
    const struct json *body;
    /* POST /runs */
    const char *key;         /* in arena; NULL: none */
    uint8_t hash[STORE_HASH_BYTES];
    struct agent_plan *plan;
    bool wait;
    int status;              /* of the answer when it is committed */
    /* GET /runs */
    int64_t limit;
    enum agent_show_steps steps;
    /* events */
    bool streams, begun, behind;
    int64_t seq;             /* number of the next event */
    int64_t last_ms;         /* something was written */
};

/* ---- pipe.c ---- */
void pipe__free(struct api_pipe *p); /* answered, or the client is gone */
void pipe__fail(struct api_pipe *p, enum api_error_kind kind, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void pipe__reply(struct api_pipe *p, int status, const struct buf *body); /* and free p */
/* Ask the store; fn gets p if its client is still there. */
void pipe__ask(struct api_pipe *p, const struct store_query *q, store_fetched_fn fn);
/* The beginning of every answer function: NULL if the client is gone or the answer is an error (all is done then). */
struct api_pipe *pipe__answered(void *arg, const struct store_fetched *f);
void pipe__create(struct api_pipe *p, const struct agent_new *n); /* answer when it is committed */
/* The run among the records if it is the tenant's; else 404 is said. */
const struct store_run *pipe__run_of(struct api_pipe *p, const struct store_fetched *f,
                                     const struct store_run_end **end);

/* ---- pipe_act.c: what is done to a run ---- */
void pipe__act(struct api_pipe *p);

/* ---- pipe_tail.c: events ---- */
void pipe__tail(struct api_pipe *p);
void pipe__tail_pump(struct api_pipe *p); /* write what may be written; may free p */

#endif
