/* controller/api/gen.h - one generation of the HTTP front: what was asked, the back's request, and the exchanges that
 * listen to it (struct api_run): none, one, or several with the same Idempotency-Key.
 * Owns:     the read request, the judges, the back's request while it listens; one that was fetched from the store.
 * Lifetime: api__gen_open .. nobody listens and nothing runs that has to go on, see `keep`.
 * Thread:   the loop.
 * Limits:   limit.detached_max generations that run without a listener; limit.queue_max that wait for a context length.
 *
 * The judge of a choice is a text pipeline that sees tokens when they arrive and finds the end of the output (a stop
 * string, an id that must not reach a client), so that the end is committed with its token. Listeners have pipelines of
 * their own, which see tokens when they are committed, and as fast as their client reads.
 */
#ifndef CONTROLLER_API_GEN_H
#define CONTROLLER_API_GEN_H

#include "controller/api/internal.h"
#include "controller/api/state.h"
#include "controller/ledger/request.h"
#include "controller/stream/text.h"

/* Life of a generation. Moves go through gen_move() in gen.c with its table of legal moves. */
#define API_GEN_STATE_LIST(X)                                                                       \
    X(fresh)   /* just made */                                                                     \
    X(lookup)  /* the store is asked whether it has it */                                          \
    X(waiting) /* no worker has ever told its context length, which this request needs */          \
    X(running) /* the back has it */                                                               \
    X(done)    /* every choice has ended well, and all of it may be shown */                       \
    X(failed)  /* error says how */
enum api_gen_state {
#define X(name) API_GEN_##name,
    API_GEN_STATE_LIST(X)
#undef X
        API_GEN_STATE_N
};

struct api_lookup;

struct api_gen {
    struct ctl_front *front;
    struct api_gen *prev, *next;
    enum api_gen_state state;
    struct api_run *run; /* listeners, through gen_next */
    struct api_state kept; /* names, and how it was first asked */
    char id[API_ID_MAX];
    char last_hex[25]; /* name of the POST that joined last; kept.hex is that of the first */
    char tenant[TENANT_NAME_MAX];
    char *key; /* Idempotency-Key, or NULL */
    struct chat_request r;
    struct ctl_request *req;     /* NULL before the back has it */
    struct stream_text **judge;  /* [r.n]; NULL for a fetched one */
    struct api_lookup *lookup;   /* in state lookup */
    int n_ended;
    bool by_id;    /* a GET asks for it */
    bool fetched;  /* req is ours alone: it came from the store and had ended */
    bool keep;     /* goes on when nobody listens */
    bool detached; /* it does so now, and is counted */
    int64_t created_s, start_ms, deadline_ms;
    struct api_error error;
};

/* For a read POST: joins what has the same key, else begins. In either case the run is a listener afterwards, or has
 * failed (another body, a wrong Last-Event-ID). */
void api__gen_post(struct api_run *run);

/* For a GET of an id. The run listens; the generation fails with 404 if there is no such thing. */
void api__gen_get(struct api_run *run, const char *id);

/* The run listens no more: may cancel and free the generation. */
void api__gen_leave(struct api_run *run);

/* End the generation that a POST with this name (24 hex digits) began or joined, whether or not somebody listens: all
 * who do are told. *id is its id. False: no such thing runs for this tenant. */
bool api__gen_cancel(struct ctl_front *f, const char *tenant, const char *hex, char id[API_ID_MAX]);

/* After a restart, from the store: attach to it and go on. */
void api__gen_recover(struct ctl_front *f, struct ctl_request *req);

/* The head of an answer may go out: the request is committed. */
bool api__gen_is_accepted(const struct api_gen *gen);

void api__gens_retry(struct ctl_front *f); /* in the turn: those that wait for a context length */
void api__gens_tick(struct ctl_front *f);  /* from the timer: deadlines that the back does not see */
void api__gens_close(struct ctl_front *f); /* all runs are gone: leave what is to be kept, drop the rest */

/* The pipeline of choice i, as the judge and each listener have it. */
struct stream_text *api__gen_text(struct api_gen *gen, const struct parse_events *events, void *arg);

#endif
