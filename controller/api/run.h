/* controller/api/run.h - one generation as the front sees it: from the body of a POST to the last byte of its answer.
 * Owns:     the read request, the pipelines of its choices, what is not written yet; ctl_request while it listens.
 * Lifetime: api__post_chat .. the answer is complete or the client is gone; a pool job keeps it until it is back.
 * Thread:   the loop; chat_request_read of a large body on the thread pool.
 * Limits:   limit.tok_pool_bytes, http_unsent_bytes_max, keepalive_ms.
 * Source:   spec/api.md 4.2, 4.3.
 *
 * When the head of the answer goes out:
 *
 * A stream: 200 with the first event, or with the first keep-alive comment (keepalive_ms without output). A request
 * that fails before that gets its HTTP status; afterwards one error event, and no [DONE].
 *
 * A whole answer: with the answer. One that is accepted and not answered after 2 * keepalive_ms gets 200 and a blank
 * line, then a blank line every keepalive_ms; if it fails after that, the body is the error object under 200.
 */
#ifndef CONTROLLER_API_RUN_H
#define CONTROLLER_API_RUN_H

#include "controller/api/internal.h"
#include "controller/ledger/request.h"
#include "controller/stream/message.h"
#include "controller/stream/sse.h"
#include "controller/stream/text.h"

/* Life of a run. Moves go through run_move() in run.c with its table of legal moves. */
#define API_RUN_STATE_LIST(X)                                                                      \
    X(inbox)   /* waits for the turn, not read yet */                                              \
    X(reading) /* on the thread pool */                                                            \
    X(waiting) /* read; no worker has ever told its context length, which this request needs */    \
    X(running) /* the back has it */                                                               \
    X(failed)  /* error says how; to be told to the client in the turn */                          \
    X(orphan)  /* the client is gone, the pool job is not back */
enum api_run_state {
#define X(name) API_RUN_##name,
    API_RUN_STATE_LIST(X)
#undef X
        API_RUN_STATE_N
};

/* A piece of output that waits to be written; neighbours of one kind are joined. */
enum seg_kind { SEG_REASONING, SEG_CONTENT, SEG_CALL, SEG_ARGUMENTS };
struct seg {
    enum seg_kind kind;
    int call;
    size_t begin, n;   /* in pend */
    int64_t n_tok_end; /* tokens fed when its last byte came: their logprobs ride on it */
};

struct api_choice {
    struct api_run *run;
    int idx;
    struct stream_text *text;
    struct message message; /* whole answers */
    struct seg *seg;        /* streams */
    size_t n_seg, cap_seg;
    struct buf pend;
    int64_t n_logprob_sent;
    bool role_sent, ended, finish_sent;
    const char *finish_reason;
};

struct api_run {
    struct ctl_front *front;
    struct api_run *prev, *next;
    struct api_run *inbox_next, *dirty_next;
    bool is_dirty;
    enum api_run_state state;
    struct http_exchange *x; /* NULL: gone */
    char hex[25], id[API_ID_MAX], fingerprint[16];
    char client_id[64]; /* X-Client-Request-Id, for the log */
    char *body;
    size_t body_len;
    uv_work_t work;
    int read_rc;
    struct chat_request r;
    struct api_error error;
    struct ctl_request *req;
    struct api_choice *choice; /* [r.n] */
    int n_ended;
    struct sse sse;
    struct buf out;  /* scratch of one write */
    bool begun;      /* the head of the answer is out */
    int64_t created_s, start_ms, deadline_ms, last_ms; /* last_ms: something was written */
};

/* ---- run.c ---- */
void api__run_mark(struct api_run *run);  /* there is something to write */
void api__run_fail(struct api_run *run, enum api_error_kind kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void api__run_free(struct api_run *run);  /* the answer is complete, or nobody wants it */

/* ---- output.c ---- */
extern const struct ctl_request_events api__run_events;
extern const struct parse_events api__choice_events;
void api__run_begin(struct api_run *run); /* the head of the answer */
void api__run_write(struct api_run *run); /* may end and free it */
void api__run_heartbeat(struct api_run *run);

#endif
