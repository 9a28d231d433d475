/* controller/api/run.h - one exchange about a generation: from a POST's body, or the GET of an id, to the last byte of
 * its answer. It listens to a generation (gen.h), alone or with others.
 * Owns:     the body while it is read, its own pipelines, what is not written yet.
 * Lifetime: api__post_chat, api__get_chat .. the answer is complete or the client is gone; a pool job keeps it until it
 *           is back.
 * Thread:   the loop; chat_request_read of a large body on the thread pool.
 * Limits:   limit.tok_pool_bytes, API_PULL_BYTES, limit.reader_ms, keepalive_ms.
 * Source:   spec/api.md 4.2, 4.3, 8.
 *
 * When the head of the answer goes out: never before the request is committed.
 *
 * A stream: 200 with the first event, or with the first keep-alive comment (keepalive_ms without output). A request
 * that fails before that gets its HTTP status; afterwards one error event, and no [DONE].
 *
 * A whole answer: with the answer. One that is accepted and not answered after 2 * keepalive_ms gets 200 and a blank
 * line, then a blank line every keepalive_ms; if it fails after that, the body is the error object under 200.
 *
 * The events of a stream are a function of the tokens alone, one token after the other, whoever reads them and when. So
 * a stream that goes on behind a Last-Event-ID is made from the first token again, and what the client has is skipped.
 * They are pulled: more are made when less than API_PULL_BYTES are unsent.
 */
#ifndef CONTROLLER_API_RUN_H
#define CONTROLLER_API_RUN_H

#include "controller/api/event_id.h"
#include "controller/api/gen.h"
#include "controller/api/internal.h"
#include "controller/ledger/request.h"
#include "controller/stream/message.h"
#include "controller/stream/sse.h"
#include "controller/stream/text.h"

/* Life of a run. Moves go through run_move() in run.c with its table of legal moves. */
#define API_RUN_STATE_LIST(X)                                                                      \
    X(inbox)     /* waits for the turn, not read yet */                                            \
    X(reading)   /* on the thread pool */                                                          \
    X(listening) /* to its generation */                                                           \
    X(failed)    /* error says how; to be told to the client in the turn */                        \
    X(orphan)    /* the client is gone, the pool job is not back */
enum api_run_state {
#define X(name) API_RUN_##name,
    API_RUN_STATE_LIST(X)
#undef X
        API_RUN_STATE_N
};

/* A piece of output that one token made; neighbours of one kind are joined. */
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
    int64_t n_fed;          /* tokens of the choice that the pipeline has seen */
    struct message message; /* whole answers */
    struct seg *seg;        /* streams */
    size_t n_seg, cap_seg;
    struct buf pend;
    int64_t n_logprob_sent;
    bool closed; /* the pipeline wants no more tokens */
    bool role_sent, finish_sent;
    const char *finish_reason; /* once it has ended */
};

struct api_run {
    struct ctl_front *front;
    struct api_run *prev, *next;
    struct api_run *inbox_next, *dirty_next;
    bool is_dirty;
    enum api_run_state state;
    struct http_exchange *x; /* NULL: gone */
    char hex[25];
    char client_id[64]; /* X-Client-Request-Id, for the log */
    char *body;
    size_t body_len;
    uv_work_t work;
    int read_rc;
    struct chat_request r; /* until a generation takes it */
    struct api_error error;
    /* how the answer is wanted */
    bool get, stream, include_usage, wants_stream;
    char get_id[API_ID_MAX];
    char tenant[TENANT_NAME_MAX];
    char *key, *last_id; /* Idempotency-Key, Last-Event-ID; NULL: none */
    uint8_t body_hash[BODY_HASH_BYTES];
    /* listening */
    struct api_gen *gen;
    struct api_run *gen_next;
    int n_choice;
    struct api_choice *choice; /* [n_choice], made when there is something to show */
    int64_t *at, *skip;        /* [gen->r.n + 1] events made so far, and those the client has; see event_id.h */
    struct sse sse;
    struct buf out, event_id;  /* scratch of one write */
    bool begun;                /* the head of the answer is out */
    int64_t start_ms, last_ms; /* last_ms: something was written */
    size_t unsent_seen;        /* by the last look of the timer */
    int64_t stalled_ms;        /* loop time since which unsent has not fallen; 0: not stalled */
};

/* ---- run.c ---- */
void api__run_mark(struct api_run *run);  /* there is something to write */
void api__run_fail(struct api_run *run, enum api_error_kind kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* It listens, and what was asked is known: is it the same body, does the Last-Event-ID fit? Else it fails and leaves.
 */
void api__run_check(struct api_run *run);
void api__run_free(struct api_run *run);  /* the answer is complete, or nobody wants it */

/* ---- output.c ---- */
void api__run_write(struct api_run *run); /* may end and free it */
void api__run_heartbeat(struct api_run *run);
void api__run_redispatch(struct api_run *run, int n_dispatch);
void api__run_release_output(struct api_run *run);

#endif
