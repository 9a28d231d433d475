/* controller/ledger/request.h - one accepted generation request: what was asked, and every committed token.
 * Owns:     prompt, biases, and for each choice the committed tokens.
 * Lifetime: ctl_request_new (front) .. ctl_request_submit takes it for the back; it ends when the front has
 *           dropped it AND every choice has ended.
 * Thread:   the loop.
 * Limits:   CTL_CHOICES_MAX choices; tokens by max_output.
 *
 * "Front" is api/ (HTTP now, native clients later), "back" is sched/, link/ and ledger/. This header is the wall
 * between them: the front fills a request and listens; the back runs it on some worker, moves it when the worker
 * dies, and commits each token index exactly once.
 */
#ifndef CONTROLLER_LEDGER_REQUEST_H
#define CONTROLLER_LEDGER_REQUEST_H

#include "common/base/err.h"
#include "controller/store/record.h"
#include "proto/codec/msg.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CTL_CHOICES_MAX = 128,
    CTL_PATH_MAX = 64, /* bytes of the API's path that scopes a key, with NUL */
};

struct ctl;
struct ctl_request;
struct ctl_worker;

/* Life of a choice. Moves go through ctl_choice_move() (ledger/request.c) with its table of legal moves. */
#define CTL_CHOICE_STATE_LIST(X)                                                                   \
    X(queued)  /* waits for a worker (first try, or after a loss) */                               \
    X(running) /* an attempt is with a worker */                                                   \
    X(ended)   /* finish and fail say how */
enum ctl_choice_state {
#define X(name) CTL_CHOICE_##name,
    CTL_CHOICE_STATE_LIST(X)
#undef X
        CTL_CHOICE_STATE_N
};

/* How a choice ended. */
#define CTL_END_LIST(X)                                                                            \
    X(none) X(stop) /* EOS, or the front found a stop string */                                    \
    X(length) X(canceled)                                                                          \
    X(deadline)    /* its deadline passed */                                                       \
    X(quarantined) /* was on a worker at its death k times */                                      \
    X(invalid)     /* no worker can take it: too long, unknown id */                               \
    X(failed)      /* retry budget used up; fail_text has the last reason */
enum ctl_end {
#define X(name) CTL_END_##name,
    CTL_END_LIST(X)
#undef X
        CTL_END_N
};

/* The committed output of a choice, index 0 = first generated token. Arrays grow; n is the ledger's next index. */
struct ctl_output {
    int32_t *id;
    float *logprob;
    struct msg_top *top; /* [n * sampling.n_top], NULL if n_top is 0; absent places have id -1 */
    int64_t n, cap;
};

/* Who asked, and so who attaches to a request that was recovered after a restart. */
#define CTL_ORIGIN_LIST(X) X(api) X(agent) X(native)
enum ctl_origin {
#define X(name) CTL_ORIGIN_##name,
    CTL_ORIGIN_LIST(X)
#undef X
        CTL_ORIGIN_N
};

struct ctl_choice {
    struct ctl_request *req;
    int idx;
    char name[MSG_NAME_MAX];  /* "<request id>.<idx>": the name on the wire */
    uint64_t seed;            /* request seed + idx */
    enum ctl_choice_state state;
    enum ctl_end end;
    char fail_text[MSG_TEXT_MAX];
    struct ctl_output out;
    int64_t cached_tok;       /* prompt tokens the last worker had in its cache */
    uint32_t attempt;         /* counted up at each dispatch; tokens of another attempt are void */
    int n_dispatch;           /* attempts so far */
    int n_death;              /* workers that died under it, one after the other, without a new token in between */
    int64_t recomputed_tok;   /* committed tokens that a later attempt had to prefill again */
    bool exact;               /* all attempts ran on the same numerics id */
    /* back end's own: */
    struct ctl_worker *worker;      /* while running */
    uint64_t avoid_epoch;           /* of the worker that just failed it; 0: none */
    struct ctl_choice *prev, *next; /* queue, or the worker's list */
    struct ctl_choice *name_next;   /* next in the same bucket of names */
    uint64_t order;                 /* age: the order of submission */
    bool resumed;                   /* queued again: goes before all that have not run yet */
    int n_try;                      /* attempts since the last new token; dispatch_max bounds them */
    bool probation;                 /* deaths_max deaths in company: tried next where nobody else is in doubt */
    bool doomed;                    /* cannot be dispatched: ends after the scheduler's pass, see end and fail_text */
    int64_t not_before_ms;          /* back-off, loop time */
    char numerics[MSG_NAME_MAX];    /* of the last attempt's worker */
    /* the ledger's own: arrived (out.n) >= put into a batch (n_put) >= committed and told to the front (n_shown) */
    int64_t n_put, n_shown;
    int64_t reasoning_tok;          /* the front may set it in on_ending, for the store's usage */
    char numerics_put[MSG_NAME_MAX]; /* the last one the store knows */
    struct ctl_choice *dirty_next;  /* has something to put */
    bool dirty, end_put, silent, told; /* silent: no on_end; told: the end was shown */
};

/* What became of tokens or an end that a worker reported. */
#define LEDGER_VERDICT_LIST(X)                                                                          \
    X(committed) /* taken */                                                                            \
    X(stale)     /* of an attempt that is over, or of a choice that has ended */                        \
    X(repeat)    /* of the current attempt, but an index that is committed already */                   \
    X(gap)       /* of the current attempt, but past the next index: the worker broke the protocol */   \
    X(excess)    /* more tokens than were asked for, an id outside the vocabulary, a wrong count */
enum ledger_verdict {
#define X(name) LEDGER_##name,
    LEDGER_VERDICT_LIST(X)
#undef X
        LEDGER_VERDICT_N
};

/* Called from ctl_turn only, never from inside a call of the front. The front may call any ctl_request_* from them.
 * What a client may see comes by on_accepted, on_tokens and on_end: as early as the policy of --commit allows. */
struct ctl_request_events {
    /* Tokens choice->out.id[first .. first+n) are committed and may be shown; first is c->n_shown of before. */
    void (*on_tokens)(void *arg, struct ctl_choice *c, int64_t first, int64_t n);
    /* Choice ended: c->end, c->out are final, all of it may be shown. Once per choice. */
    void (*on_end)(void *arg, struct ctl_choice *c);
    /* The worker was lost or failed, the choice is queued again (n_dispatch tells how often): may send a comment. NULL
     * allowed, like the next three. */
    void (*on_redispatch)(void *arg, struct ctl_choice *c);
    /* Tokens choice->out.id[first .. first+n) have arrived; nothing of them may be shown yet. The place to find the end
     * of an output (ctl_choice_stop), so that the end is committed together with its last token. */
    void (*on_arrived)(void *arg, struct ctl_choice *c, int64_t first, int64_t n);
    /* The end of c is put into the open batch: what has to be true at the same time is put now (ctl_store()). */
    void (*on_ending)(void *arg, struct ctl_choice *c);
    /* The request is committed: from now on the client may see that it was accepted. Comes once, before any token. Not
     * for a request that was recovered. */
    void (*on_accepted)(void *arg, struct ctl_request *r);
};

struct ctl_request {
    char id[MSG_NAME_MAX];
    int32_t *prompt; /* [n_prompt], owned (mem_alloc) */
    int64_t n_prompt;
    struct msg_sampling sampling; /* seed is the request's; bias owned (mem_alloc) */
    int64_t max_output, min_output;
    bool ignore_eos;
    int32_t n_stop_id;
    int32_t stop_id[MSG_STOP_IDS_MAX];
    int32_t priority;
    int64_t
        deadline_ms; /* loop time (uv_now) at which it must have ended; 0: the configured default is set by submit */
    int n_choice;
    struct ctl_choice *choice; /* [n_choice] */
    const struct ctl_request_events *events; /* NULL: recovered, nobody has attached yet */
    void *arg;
    /* what the store keeps besides; the front sets it before it submits */
    enum ctl_origin origin;
    void *front_state;       /* [front_bytes] owned (mem_alloc): what the front needs to answer again after a restart */
    size_t front_bytes;
    bool keep;               /* goes on without a client: a stop of the server leaves it for the next one */
    char tenant[STORE_TENANT_MAX], path[CTL_PATH_MAX];
    char *key;               /* owned; Idempotency-Key or NULL */
    uint8_t body_hash[STORE_HASH_BYTES];
    int64_t created_ms;      /* wall clock; 0: submit sets it */
    /* the ledger's own */
    bool accepted;           /* committed, or no store is used */
    bool recovered;          /* read back from the store */
    bool off_record;         /* the store does not have it: nothing waits for a commit */
    bool retell;             /* attached: is told everything from index 0 in the next turn */
    struct ctl_request *retell_next;
    int n_hold;              /* entries of the ledger that point here */
    int n_live;              /* choices not ended */
    bool front_dropped;
    struct ctl *ctl;
    struct ctl_request *prev, *next; /* all live requests of ctl */
};

/* A request with n_choice choices, everything else zero or neutral (penalties off). The front fills the fields. */
struct ctl_request *ctl_request_new(int n_choice);

/* Give it to the back. On success *req_p is the BACK's (the caller keeps its plain pointer for listening, until it
 * calls ctl_request_drop). ERR_LIMIT: the queue is full (429); ERR_STATE: draining (503); ERR_ARG: longer than any
 * worker's context. On error the request is still the caller's (ctl_request_destroy). */
int ctl_request_submit(struct ctl *ctl, struct ctl_request **req_p, struct err *err);

/* Never submitted: free it. */
void ctl_request_destroy(struct ctl_request **req_p);

/* The front ends a choice itself: stop string found at output length n_keep (CTL_END_stop), or client gone
 * (CTL_END_canceled). The worker is told at once. No on_end follows for it. No-op if it has ended. */
void ctl_choice_finish(struct ctl_choice *c, enum ctl_end end);

/* The front has found the end of the output in tokens that have arrived (call it in on_arrived): CTL_END_stop. The
 * worker is told at once; on_end follows when it may be shown. No-op if it has ended. */
void ctl_choice_stop(struct ctl_choice *c);

/* The front is done with the request: no more events; what still runs is canceled. *req_p becomes NULL. */
void ctl_request_drop(struct ctl_request **req_p);

/* The process ends: no more events, but what still runs stays live in the store, for the next process. Without a store
 * this is ctl_request_drop. */
void ctl_request_leave(struct ctl_request **req_p);

/* A live request by its id, recovered ones too, or NULL. Linear in the requests that live. */
struct ctl_request *ctl_request_find(struct ctl *ctl, const char *id);

/* Listen to a recovered request that nobody listens to. In the next turn everything is told from index 0 on: on_tokens
 * for what is committed, on_end for choices that have ended. Its front drops it like one it has submitted. */
void ctl_request_attach(struct ctl_request *req, const struct ctl_request_events *events, void *arg);

/* ---- for the back end ---- */

/* Move to another state; ASSERTs that the move is legal. Everything else about the choice is the caller's. */
void ctl_choice_move(struct ctl_choice *c, enum ctl_choice_state to);

/* THE place where a token becomes part of the truth. Takes all n tokens or none: only from the current attempt of a
 * running choice, only at index out.n exactly, only up to max_output, only ids 0 .. n_vocab-1. The caller has checked
 * the worker's epoch. No event is sent. */
enum ledger_verdict ledger_commit(struct ctl_choice *c, uint32_t attempt, int64_t first, int32_t n,
                                  const struct msg_token *token, int32_t n_vocab);

/* May the worker's end of `attempt` with n_output tokens in all be believed? LEDGER_committed if so. Changes nothing.
 */
enum ledger_verdict ledger_check_end(const struct ctl_choice *c, uint32_t attempt, int64_t n_output);

const char *ledger_verdict_name(enum ledger_verdict verdict);

/* Room for n_more tokens in o, with n_top alternatives each. */
void ctl_output_reserve(struct ctl_output *o, int64_t n_more, int32_t n_top);

const char *ctl_end_name(enum ctl_end end);
enum ctl_end ctl_end_of(const char *name); /* CTL_END_none: no such name */
const char *ctl_choice_state_name(enum ctl_choice_state state);

#endif
