/* proto/client/internal.h - what client.c (life, user's side), call.c (one call) and line.c (the thread) share.
 * Owns:     see baton.h.
 * Thread:   everything in struct baton and struct baton_call is guarded by b->lock, but for what is marked.
 */
#ifndef PROTO_CLIENT_INTERNAL_H
#define PROTO_CLIENT_INTERNAL_H

#include "common/mem/buf.h"
#include "common/text/sse_reader.h"
#include "proto/client/baton.h"
#include "proto/codec/native.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum {
    CLIENT_PING_MS = 1000,
    CLIENT_SILENCE_MS = 3000,      /* without a word: the line is given up and made again */
    CLIENT_RECONNECT_MS = 50,      /* ZeroMQ's own, up to the next */
    CLIENT_RECONNECT_MS_MAX = 1000,
    CLIENT_ASK_MS = 100,           /* first wait before a call is asked again after it was cut off; doubles */
    CLIENT_ASK_MS_MAX = 2000,
    CLIENT_GIVE_UP_MS = 60000,
    CLIENT_REPLY_BYTES_MAX = 64 << 20,
    CLIENT_RECV_MAX = 16,          /* messages read before pings and limits are looked at again */
    CLIENT_SEND_MAX = 1024,        /* messages that ZeroMQ holds unsent */
    CLIENT_LINGER_MS = 500,        /* baton_close waits so long for messages to go out */
    BEARER_MAX = 512,              /* "Bearer " and an API key, with NUL */
};

/* A thing to hand out. */
struct item {
    struct item *next;
    enum baton_event_kind kind;
    int status, code; /* code: of a failure, then data has the text */
    char *id, *data;
    size_t len;
};

/* Life of a call. */
enum call_state {
    CALL_ASK,    /* to be sent when ask_at_ms has come and the line is up */
    CALL_OPEN,   /* sent; the answer comes in */
    CALL_PAUSED, /* too much waits to be read: dropped, asked again when it was read */
    CALL_DONE    /* nothing comes any more: the last item says how it ended */
};

struct baton_call {
    struct baton *b;
    struct baton_call *prev, *next;
    uint64_t tag; /* of the last time it was asked; 0: never */
    enum call_state state;
    bool closed;  /* by the user: the thread frees it */
    bool own_key; /* the key is the library's */
    /* the request */
    char *method, *path, *body, *key;
    size_t body_len;
    struct buf last_id; /* of the last event queued, or of the request; empty: from the beginning */
    /* the answer */
    int status; /* 0: no head yet */
    bool is_stream;
    uint64_t seq; /* of the next Data */
    char request_id[128];
    struct buf reply;
    struct sse_reader sse;
    /* asking again */
    int64_t ask_at_ms, ask_ms, contact_ms; /* contact_ms: when something of it was last heard, or it began */
    /* handing out */
    struct item *first, *last, *held; /* held: what baton_next returned last */
    size_t queued_bytes;
    pthread_cond_t cond;
};

struct baton {
    pthread_mutex_t lock;
    pthread_t thread;
    struct baton_call *calls;
    int refs;     /* the user's, and one per call */
    uint64_t tag; /* last one given */
    bool closing; /* the thread ends, or has ended */
    int wake_fd; /* eventfd */
    char *endpoint, *server_key, *public_key, *secret_key, *api_key;
    int64_t give_up_ms;
    /* the thread's own */
    void *zctx, *dealer, *monitor;
    bool up;             /* the handshake is done */
    uint64_t boot;       /* what the controller calls this stay; 0: not known */
    int64_t heard_ms, pinged_ms;
    uint64_t ping_seq;
    char trouble[BATON_TEXT_MAX]; /* why the line is down */
    struct arena arena;
};

int baton__fail(struct baton_err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void baton__wake(struct baton *b);

/* ---- call.c: all under the lock ---- */
void baton__item_free(struct item *i); /* NULL allowed */
void baton__call_unlink(struct baton_call *c);
void baton__call_free(struct baton_call *c); /* unlinked, or nobody looks at the list any more */
void baton__call_end(struct baton_call *c, int code, const char *text); /* it failed: code < 0 */
/* Ask again after ms; what came of an unfinished whole answer is forgotten. */
void baton__call_again(struct baton_call *c, int64_t now_ms, int64_t ms);
void baton__call_head(struct baton_call *c, const struct nat_head *m, int64_t now_ms);
void baton__call_data(struct baton_call *c, const struct nat_data *m, int64_t now_ms);
void baton__call_finish(struct baton_call *c, const struct nat_end *m, int64_t now_ms);
void baton__call_refused(struct baton_call *c, const char *text);

/* ---- line.c ---- */
int baton__line_open(struct baton *b, struct baton_err *err);
void baton__line_close(struct baton *b);
void *baton__line_main(void *b);
int64_t baton__now_ms(void);

#endif
