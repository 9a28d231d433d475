/* proto/client/baton.h - libbaton: a client of a Baton controller over ZeroMQ.
 *
 * A call is one request of the HTTP API (docs/spec/api.md, docs/pipelines.md): method, path, JSON body; its answer
 * comes as one reply or as a stream of events. What the library adds to HTTP:
 *   - it reconnects by itself, also to a controller that was killed and started again, and goes on with every open
 *     call behind the last event that it has handed out: no event is lost, none comes twice. For that each POST
 *     carries an Idempotency-Key; without one of yours the library makes one.
 *   - many calls share one connection; a call that nobody reads holds bounded memory and stops nobody else.
 *   - CURVE encryption, if you give the controller's public key.
 *
 * Owns:     a thread, a ZeroMQ context and socket, the open calls.
 * Lifetime: baton_open .. baton_close; calls are closed first (baton_close ends those that are left).
 * Thread:   all functions may be called from any thread; one call is read by one thread at a time.
 * Limits:   BATON_QUEUE_BYTES_MAX of events per call that wait to be read; 64 MiB a message.
 *
 * Functions return 0 or a BATON_E_* code with a text of one line in *err (err may be NULL).
 */
#ifndef PROTO_CLIENT_BATON_H
#define PROTO_CLIENT_BATON_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BATON_API __attribute__((visibility("default")))

enum {
    BATON_QUEUE_BYTES_MAX = 1 << 20,
    BATON_TEXT_MAX = 256,
};

enum {
    BATON_E_ARG = -1,     /* an argument is none: a bad endpoint, key, path */
    BATON_E_TIMEOUT = -2, /* nothing came in time; the call goes on */
    BATON_E_LOST = -3,    /* the controller was not reached for give_up_ms; the text has the last reason */
    BATON_E_REFUSED = -4, /* the controller does not take the call: a limit, another wire version */
    BATON_E_CLOSED = -5,  /* baton_close was called */
    BATON_E_SYSTEM = -6,  /* no memory, no thread, no socket */
};

struct baton_err {
    int code;
    char text[BATON_TEXT_MAX];
};

/* What to connect to. Zero or NULL means the default. Strings are copied. */
struct baton_opts {
    const char *endpoint;   /* "tcp://127.0.0.1:7070", as the controller prints it after `native` */
    const char *server_key; /* CURVE: the controller's public key, Z85 (40 characters); NULL: not encrypted */
    const char *public_key, *secret_key; /* CURVE: a pair of your own; NULL: made for this connection */
    const char *api_key;    /* sent as Authorization: Bearer; NULL: none */
    int64_t give_up_ms;     /* ms without any contact after which calls end with BATON_E_LOST; 60,000; < 0: never */
};

/* One request. Strings are copied. */
struct baton_request {
    const char *method; /* NULL: POST with a body, GET without */
    const char *path;   /* "/v1/chat/completions" */
    const char *body;   /* JSON; NULL: none */
    size_t body_len;    /* 0: strlen(body) */
    const char *key;    /* Idempotency-Key; NULL: a POST gets one of its own */
    const char *last_event_id; /* begin behind this event of an earlier answer; NULL: at the beginning */
};

enum baton_event_kind {
    BATON_EVENT = 1, /* one event of a stream */
    BATON_REPLY,     /* the whole answer; the last thing of a call but BATON_END */
    BATON_END,       /* complete; nothing comes any more */
};

/* Pointers are valid until the next baton_next or baton_call_close of the call. */
struct baton_event {
    enum baton_event_kind kind;
    int status;       /* HTTP status of the answer; 200 for events */
    const char *id;   /* of an event: as last_event_id it goes on behind it, even in another process; "" if none */
    const char *data; /* JSON text, NUL-terminated */
    size_t len;
};

struct baton;
struct baton_call;

/* Start. The controller need not be there yet. BATON_E_ARG, BATON_E_SYSTEM. */
BATON_API int baton_open(const struct baton_opts *opts, struct baton **b, struct baton_err *err);
/* End all calls, stop the thread. Calls that were not closed must be closed afterwards all the same. */
BATON_API void baton_close(struct baton **b);

/* Begin a call. Returns at once. BATON_E_ARG, BATON_E_CLOSED. */
BATON_API int baton_call(struct baton *b, const struct baton_request *r, struct baton_call **call,
                         struct baton_err *err);

/* The next event of the call, waiting up to timeout_ms (0: do not wait, < 0: without end). 0 and *e;
 * BATON_E_TIMEOUT; or how the call failed. */
BATON_API int baton_next(struct baton_call *call, int timeout_ms, struct baton_event *e, struct baton_err *err);

/* The key that the call was sent with ("" for a GET): with it and the last event's id another process can go on. */
BATON_API const char *baton_call_key(const struct baton_call *call);

/* Done with the call. If it has not ended the controller is told that nobody listens (a call with a key of yours goes
 * on there and can be taken up again; one with a key of the library's is canceled if the API says so). */
BATON_API void baton_call_close(struct baton_call **call);

/* ---- the usual calls ---- */

/* POST /v1/chat/completions with this JSON body. */
BATON_API int baton_chat(struct baton *b, const char *json, const char *key, struct baton_call **call,
                         struct baton_err *err);

/* Go on with a chat completion by its id, behind an event (NULL: from the beginning). */
BATON_API int baton_resume(struct baton *b, const char *id, const char *last_event_id, struct baton_call **call,
                           struct baton_err *err);

/* POST /v1/runs with this JSON body: start a pipeline. */
BATON_API int baton_run(struct baton *b, const char *json, const char *key, struct baton_call **call,
                        struct baton_err *err);

/* GET /v1/runs/ID/events: what a run does, until it ends. */
BATON_API int baton_run_events(struct baton *b, const char *run_id, const char *last_event_id,
                               struct baton_call **call, struct baton_err *err);

/* One request and its whole answer, waiting up to timeout_ms. 0, *status and *body (yours: free()); or a code. */
BATON_API int baton_fetch(struct baton *b, const struct baton_request *r, int timeout_ms, int *status, char **body,
                          struct baton_err *err);

BATON_API const char *baton_version(void);

#ifdef __cplusplus
}
#endif

#endif
