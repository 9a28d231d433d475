/* proto/codec/msg.h - the messages between controller and worker as plain structs.
 * Owns:     nothing; variable parts of a decoded message lie in the arena given to msg_decode.
 * Lifetime: of that arena.
 * Thread:   any.
 * Limits:   the MSG_*_MAX below, checked on both sides: a message outside is refused with its field and number.
 *
 * Generated protobuf types stay inside proto/codec. Every message carries the wire version; another version is
 * ERR_VERSION with both numbers, before anything else of it is looked at. Unknown fields are tolerated.
 */
#ifndef PROTO_CODEC_MSG_H
#define PROTO_CODEC_MSG_H

#include "common/base/err.h"
#include "common/ds/prefix_key.h"
#include "common/mem/arena.h"
#include "common/mem/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MSG_WIRE_VERSION = 1,
    MSG_BYTES_MAX = 64 << 20,
    MSG_NAME_MAX = 64,   /* worker names, request ids, failure domains, numerics ids */
    MSG_TEXT_MAX = 512,  /* error and reason texts */
    MSG_TOKENS_MAX = 1 << 24,
    MSG_BATCH_TOKENS_MAX = 4096, /* tokens in one Tokens message */
    MSG_TOP_MAX = 20,    /* alternatives reported per token */
    MSG_BIAS_MAX = 1024,
    MSG_STOP_IDS_MAX = 16,
    MSG_NEWS_MAX = 4096,         /* changes of the prefix cache in one Heartbeat */
    MSG_VOCAB_MAX = 1 << 24, /* token ids are below it */
    MSG_RANKS_MAX = 4096,
    MSG_SEQ_MAX = 4096,
    MSG_BIAS_ABS_MAX = 100,
    MSG_PENALTY_ABS_MAX = 2,     /* presence and frequency */
    MSG_INTERVAL_MS_MAX = 3600 * 1000, /* heartbeat and lost */
    MSG_DEADLINE_MS_MAX = 1 << 30,     /* 12 days */
    MSG_DECODE_BYTES_MAX = 256 << 20,  /* arena bytes that one decode may take */
};

/* Worker -> controller, then controller -> worker. */
#define MSG_KIND_LIST(X)                                                                           \
    X(hello) X(heartbeat) X(tokens) X(finished) X(failed) X(reclaim) X(bye)                        \
    X(welcome) X(refused) X(generate) X(cancel) X(drain) X(ping)

enum msg_kind {
#define X(name) MSG_##name,
    MSG_KIND_LIST(X)
#undef X
        MSG_KIND_N
};

/* First message of a worker process, and again after `refused{fenced}`. */
struct msg_hello {
    char worker[MSG_NAME_MAX];  /* stable name, chosen by the operator or "host-pid" */
    uint64_t boot;              /* random per process: tells a restart from a reconnect */
    int64_t pid;
    uint64_t fingerprint;       /* of the model */
    int32_t n_vocab;
    int32_t n_ranks;
    int32_t n_seq_max;          /* credits: Generate messages it takes at once */
    int64_t kv_blocks, context_max;
    char backend[MSG_NAME_MAX], numerics[MSG_NAME_MAX];
    char domain[MSG_NAME_MAX]; /* failure domain: provider/region/zone/type */
};

struct msg_heartbeat {
    uint64_t epoch, seq;
    int32_t running, waiting;     /* sequences in the engine, in its queue */
    int64_t kv_blocks_free, kv_blocks;
    int64_t step_us;              /* last step */
    uint64_t tokens_total, prefill_total; /* generated, prefilled since start */
    bool draining;
    int64_t kv_block_bytes, seq_bytes; /* of one KV block; of a sequence beside its blocks; 0: not told */
    uint64_t cached_total;        /* prompt tokens that the prefix cache had, since start */
    bool news_all;                /* forget all prefixes told before: a list of everything begins here */
    int32_t n_news;               /* full blocks of cached prefixes that came and went since the last heartbeat */
    const struct prefix_news *news;
};

struct msg_top {
    int32_t id;
    float logprob;
};

struct msg_token {
    int32_t id;
    float logprob;
    int32_t n_top;
    struct msg_top top[MSG_TOP_MAX];
};

/* Tokens first_index .. first_index+n-1 of the OUTPUT of `request` (index 0 = first generated token, committed
 * ones included). */
struct msg_tokens {
    uint64_t epoch;
    char request[MSG_NAME_MAX];
    uint32_t attempt;
    int64_t first_index;
    int32_t n;
    const struct msg_token *token; /* [n] */
};

#define MSG_FINISH_LIST(X) X(stop) X(length) /* stop: a stop id (EOS) was drawn; it is not among the tokens */
enum msg_finish {
#define X(name) MSG_FINISH_##name,
    MSG_FINISH_LIST(X)
#undef X
        MSG_FINISH_N
};

struct msg_finished {
    uint64_t epoch;
    char request[MSG_NAME_MAX];
    uint32_t attempt;
    enum msg_finish reason;
    int32_t stop_id;         /* the id drawn, -1 for length */
    int64_t n_output;        /* tokens of the output in all, committed ones included */
    int64_t cached_tok;      /* prompt tokens that came from a prefix cache */
};

/* client: the request is wrong for this worker whatever the try (too long, bad id); worker: try elsewhere. */
#define MSG_FAIL_LIST(X) X(client) X(worker) X(overload) X(canceled) X(deadline)
enum msg_fail {
#define X(name) MSG_FAIL_##name,
    MSG_FAIL_LIST(X)
#undef X
        MSG_FAIL_N
};

struct msg_failed {
    uint64_t epoch;
    char request[MSG_NAME_MAX];
    uint32_t attempt;
    enum msg_fail cls;
    char text[MSG_TEXT_MAX];
};

struct msg_reclaim {
    uint64_t epoch;
    int64_t deadline_ms; /* from now; -1 unknown */
    char source[MSG_NAME_MAX];
    bool revocable, revoked;
};

struct msg_bye {
    uint64_t epoch;
    char text[MSG_TEXT_MAX];
};

struct msg_welcome {
    uint64_t epoch;         /* names this stay of the worker in every message after it */
    int32_t heartbeat_ms;   /* interval asked for */
    int32_t lost_ms;        /* silence after which the controller gives the worker up */
};

/* Why a worker's message was not taken. fenced: say hello again (work of the old epoch is void). Others: the
 * process should end with the text. */
#define MSG_REFUSE_LIST(X) X(fenced) X(version) X(model) X(full) X(name)
enum msg_refuse {
#define X(name) MSG_REFUSE_##name,
    MSG_REFUSE_LIST(X)
#undef X
        MSG_REFUSE_N
};

struct msg_refused {
    enum msg_refuse reason;
    char text[MSG_TEXT_MAX];
};

struct msg_bias {
    int32_t id;
    float bias;
};

struct msg_sampling {
    float temperature, top_p, min_p;     /* >= 0; 0..1; 0..1 */
    int32_t top_k;                       /* 0: off */
    float presence_penalty, frequency_penalty, repetition_penalty; /* 0, 0, 1: off */
    uint64_t seed;
    int32_t n_top;                       /* alternatives wanted per token, 0..MSG_TOP_MAX */
    int32_t n_bias;
    const struct msg_bias *bias;
};

struct msg_generate {
    uint64_t epoch;
    char request[MSG_NAME_MAX];
    uint32_t attempt;
    int64_t n_tok, n_committed;  /* tokens = prompt + committed output; the last n_committed are output */
    const int32_t *tok;
    struct msg_sampling sampling;
    int64_t max_output;          /* tokens of output in all, committed ones included */
    int64_t min_output;          /* no stop id before so many */
    bool ignore_eos;
    int32_t n_stop_id;
    int32_t stop_id[MSG_STOP_IDS_MAX];
    int32_t priority;            /* higher first */
    int64_t deadline_ms;         /* from now; <= 0: none */
    char tenant[MSG_NAME_MAX];   /* who shares the worker fairly with others; "": all that say nothing */
};

struct msg_cancel {
    uint64_t epoch;
    char request[MSG_NAME_MAX];
    uint32_t attempt;
};

struct msg_drain {
    uint64_t epoch;
    bool on; /* false: take work again */
};

struct msg_ping {
    uint64_t epoch;
};

struct msg {
    enum msg_kind kind;
    union {
#define X(name) struct msg_##name name;
        MSG_KIND_LIST(X)
#undef X
    };
};

const char *msg_kind_name(enum msg_kind kind);
const char *msg_refuse_name(enum msg_refuse reason);
const char *msg_fail_name(enum msg_fail cls);

/* Append the encoded message to out. Limits are checked first: 0 or ERR_RANGE (nothing appended). */
int msg_encode(const struct msg *m, struct buf *out, struct err *err);

/* Decode n bytes from a peer. 0 and *m; ERR_VERSION (err names both versions), ERR_FORMAT (no such message),
 * ERR_RANGE (a field outside its limit, named). */
int msg_decode(const void *data, size_t n, struct arena *arena, struct msg *m, struct err *err);

#endif
