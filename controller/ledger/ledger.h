/* controller/ledger/ledger.h - what stands between a token's arrival and a client's eyes: the store.
 * Owns:     the order of what is put and not committed yet; nothing of the requests themselves.
 * Lifetime: ctl_ledger_new .. ctl_ledger_destroy, after the store is closed and before requests are freed.
 * Thread:   the loop.
 * Limits:   the store's: while store_is_full() nothing is put; tokens wait in their choices, whose max_output bounds
 *           them, and go in later as longer rows. New requests are refused meanwhile.
 *
 * Three counts of each choice: out.n tokens have arrived, n_put are in a batch, n_shown are committed and were told
 * to the front. In a turn, arrivals mark their choice; ctl_ledger_put() writes a row for each marked choice, an end
 * behind the last token; store_flush() hands it all over as one batch; ctl_ledger_release(), in the turn after the
 * commit, tells the fronts, in the order in which things were put.
 *
 * What waits for what, by policy:
 *
 *   token        accept, tokens and end are committed before they are shown: no death of a process shows to a client
 *   token-fsync  the same, and each row of tokens is on disk: no power cut does either
 *   request      accept and end; tokens are shown at once and kept with the end: after a death they are generated
 * again, which gives the same ones on the same kind of worker off          nothing is kept
 *
 * While the store fails, an end that is an error is shown all the same: "your deadline has passed" promises nothing
 * that a restart could break. Everything else waits for the store.
 */
#ifndef CONTROLLER_LEDGER_LEDGER_H
#define CONTROLLER_LEDGER_LEDGER_H

#include "controller/ledger/request.h"
#include "controller/store/store.h"

#define CTL_COMMIT_LIST(X) X(token, "token") X(token_fsync, "token-fsync") X(request, "request") X(off, "off")
enum ctl_commit {
#define X(id, name) CTL_COMMIT_##id,
    CTL_COMMIT_LIST(X)
#undef X
        CTL_COMMIT_N
};

const char *ctl_commit_name(enum ctl_commit commit);
int ctl_commit_of(const char *name, enum ctl_commit *commit); /* ERR_ARG: no such policy */

struct ctl_ledger_opts {
    struct store *store; /* lent, started; NULL: nothing is kept, everything is shown at once */
    enum ctl_commit commit;
    void (*wake)(void *arg); /* make sure that a turn runs */
    /* Nothing of the ledger points to r any more: it may be freed if it is done otherwise. */
    void (*on_idle)(void *arg, struct ctl_request *r);
    /* The store has refused r: end what lives of it. */
    void (*on_refused)(void *arg, struct ctl_request *r, const char *text);
    void *arg;
};

struct ctl_ledger;

struct ctl_ledger *ctl_ledger_new(const struct ctl_ledger_opts *opts);
void ctl_ledger_destroy(struct ctl_ledger **l);

/* ---- what happens to requests (the scheduler calls) ---- */

/* Put the accept of r. ERR_STATE: the store fails or is full, the text says why; nothing has changed. With
 * r->accepted set on return nothing is to be waited for. */
int ctl_ledger_accept(struct ctl_ledger *l, struct ctl_request *r, int64_t now_ms, struct err *err);

/* Tokens [first, first + n) are in c->out. May end c (the front finds the end of the output in them). */
void ctl_ledger_arrived(struct ctl_ledger *l, struct ctl_choice *c, int64_t first, int64_t n);

/* c has just ended. silent: its front wants no on_end. */
void ctl_ledger_ended(struct ctl_ledger *l, struct ctl_choice *c, bool silent);

/* See ctl_request_attach(). */
void ctl_ledger_attach(struct ctl_ledger *l, struct ctl_request *r);

/* ---- what the store says: marks only, the turn works ---- */
void ctl_ledger_on_progress(struct ctl_ledger *l, uint64_t committed);
void ctl_ledger_on_refused(struct ctl_ledger *l, const struct store_refusal *r);
void ctl_ledger_on_state(struct ctl_ledger *l, enum store_state state, enum store_fault fault);

/* ---- the steps of a turn ---- */
void ctl_ledger_release(struct ctl_ledger *l); /* first: tell the fronts what is committed */
void ctl_ledger_put(struct ctl_ledger *l);     /* after arrivals and ends, before store_flush() */

bool ctl_ledger_is_ready(const struct ctl_ledger *l); /* no store, or one that commits and is not full */
int64_t ctl_ledger_n_waiting(const struct ctl_ledger *l); /* entries put and not committed */

#endif
