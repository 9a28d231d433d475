/* controller/store/store.h - the durable store: what must outlive the controller's process.
 * Owns:     the batches handed to it, its thread, and the connection to the database.
 * Lifetime: store_open .. store_close(on_closed). store_load only before store_start, writes only after it.
 * Thread:   the loop; the store's own thread commits. Events come on the loop, from its async handle.
 * Limits:   struct store_config; at each of them store_put() answers ERR_LIMIT: the loop stops taking work in.
 *
 * Writes are put into the open batch and handed over once per turn of the loop (store_flush): what is put between two
 * flushes is one batch, and a batch is never split: all of it is committed, or nothing. The store's thread takes all
 * batches that wait, commits them in ONE transaction, in order, and reports two numbers: all batches up to
 * `committed` survive the death of any process, all up to `durable` survive a power cut. A batch with a STORE_FULL
 * record is durable when it is committed; a LAZY one becomes durable with the next FULL one, at the latest after
 * sync_ms.
 *
 * When a commit fails, nothing is acknowledged, the state is `failing`, and the same batches are tried again, with
 * back-off, until they are in or the store is closed. No answer is lost or taken twice by that: each transaction
 * writes its number into the leader row, so that one which was committed after all (the answer was lost) is found and
 * not repeated. `fenced` is for ever: another controller leads.
 */
#ifndef CONTROLLER_STORE_STORE_H
#define CONTROLLER_STORE_STORE_H

#include "common/base/err.h"
#include "controller/store/record.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

enum { STORE_SCHEMA_VERSION = 2 };

/* name, default, unit and meaning; the same form as CTL_LIMIT_LIST. */
#define STORE_LIMIT_LIST(X)                                                                            \
    X(queue_max, 64, "batches that wait for the store's thread; the open one fills up behind them")    \
    X(batch_bytes_max, 8388608, "bytes after which a batch takes no more, its largest record apart")   \
    X(group_bytes_max, 16777216, "bytes of batches after which a transaction takes no more batches")   \
    X(fetch_max, 256, "queries that wait for the store's thread")                                      \
    X(sync_ms, 1000, "ms after which a power cut cannot take a LAZY record any more")                  \
    X(beat_ms, 1000, "ms between signs of life of a leader (PostgreSQL)")                              \
    X(lease_ms, 4000, "ms without one after which a standby takes over from a live session; 0: never") \
    X(retry_ms, 20, "ms of the first back-off after a failed commit; doubles")                         \
    X(retry_ms_max, 1000, "ms of the longest back-off")                                                \
    X(commit_ms, 10000, "ms after which a database server that does not answer is given up")           \
    X(check_bytes_max, 268435456, "bytes of an SQLite file up to which it is checked whole at start")  \
    X(checkpoint_pages, 1000, "pages of SQLite's log after which they are moved into the file")

struct store_limits {
#define X(name, value, text) int64_t name;
    STORE_LIMIT_LIST(X)
#undef X
};

struct store_config {
    const char
        *url; /* "postgresql://..." (or postgres://), else the path of an SQLite file, "sqlite:" in front allowed */
    const char *holder; /* who leads, for people: "host:pid"; NULL: made from those */
    const char *vfs;    /* SQLite VFS by name; NULL: the default. For tests. */
    struct store_limits limit;
};

#define STORE_STATE_LIST(X)                                                                        \
    X(ready)   /* commits */                                                                       \
    X(failing) /* the last commit failed, it is tried again */                                     \
    X(fenced)  /* lost to another controller: this process must stop serving */                    \
    X(closed)
enum store_state {
#define X(name) STORE_STATE_##name,
    STORE_STATE_LIST(X)
#undef X
        STORE_STATE_N
};

/* All on the loop. Refusals of a batch come before the progress that covers it. NULL: not wanted. */
struct store_events {
    void (*on_progress)(void *arg, uint64_t committed, uint64_t durable);
    void (*on_refused)(void *arg, const struct store_refusal *r);
    void (*on_state)(void *arg, enum store_state state, enum store_fault fault, const char *text);
};

/* For /health, metrics and tests. A copy, as of now. */
struct store_status {
    enum store_state state;
    enum store_fault fault; /* none while ready */
    char text[ERR_TEXT_MAX];
    uint64_t epoch;         /* counted up at each start; PostgreSQL: of this leadership */
    uint64_t committed, durable;
    int64_t n_queued;       /* batches handed over and not yet committed */
    uint64_t n_commit, n_sync, n_failed, n_refused;
    int64_t commit_ns_max;  /* slowest transaction */
};

/* Recovery: called for each request, oldest first: on_request, then its tokens by choice and index, then its ends.
 * After them for each run, oldest first: on_run, then its steps in the order in which they were written, then its end.
 * Pointers live for the call. A non-zero answer ends the load and is its result. NULL: not wanted. */
struct store_visitor {
    int (*on_request)(void *arg, const struct store_request *r);
    int (*on_tokens)(void *arg, const struct store_tokens *t);
    int (*on_end)(void *arg, const struct store_end *e);
    int (*on_run)(void *arg, const struct store_run *r);
    int (*on_step)(void *arg, const struct store_step *t);
    int (*on_run_end)(void *arg, const struct store_run_end *e);
};

enum store_load_what {
    STORE_LOAD_all,
    STORE_LOAD_live, /* only requests with a choice that has not ended, and runs that have not ended */
};

/* What can be asked for while the store runs, and which fields of struct store_query say what.
 *   request       id              the request, its tokens and ends, as store_load gives them; nothing if unknown
 *   request_key   tenant path key the same
 *   run           id              the run, its steps, its end
 *   run_key       tenant key      the same
 *   runs          limit, id, tenant   newest first, each run (pipeline and input NULL) followed by its end if it has
 *                                 one; only those written before run `id`, only those of `tenant`, unless NULL
 *   old_requests  limit, ended_before_ms, keep   ids of ended requests, oldest first, as records of kind prune: those
 *                                 whose last end is before ended_before_ms, and those that are not among the `keep`
 *                                 newest of all requests; INT64_MIN and -1: no such condition
 *   old_runs      the same for runs, as records of kind prune_run
 */
#define STORE_QUERY_LIST(X) X(request) X(request_key) X(run) X(run_key) X(runs) X(old_requests) X(old_runs)
enum store_query_kind {
#define X(name) STORE_QUERY_##name,
    STORE_QUERY_LIST(X)
#undef X
        STORE_QUERY_N
};

enum { STORE_QUERY_LIMIT_MAX = 1000 };

struct store_query {
    enum store_query_kind kind;
    const char *id, *tenant, *path, *key;
    int64_t limit; /* 1 .. STORE_QUERY_LIMIT_MAX */
    int64_t ended_before_ms;
    int64_t keep;
};

/* The answer: records in the order of store_load. They live for the call of the function. */
struct store_fetched {
    int rc; /* 0, or the error: code, text in err, no records */
    struct err err;
    const struct store_record *record; /* [n]; n = 0: there is no such thing */
    size_t n;
};
typedef void (*store_fetched_fn)(void *arg, const struct store_fetched *f);

struct store;
typedef void (*store_closed_fn)(void *arg);

void store_config_init(struct store_config *c); /* all defaults, no url */

const char *store_state_name(enum store_state state);

/* Open or create the database, bring its schema to STORE_SCHEMA_VERSION, become its only writer. Blocks: call it
 * before serving. ERR_VERSION: the schema is newer; ERR_BUSY: another process has it (a standby tries again);
 * ERR_FORMAT: damaged or foreign; ERR_UNSUPPORTED: built without PostgreSQL; else ERR_IO, ERR_NET, ERR_LIMIT. The
 * text begins with the name of the fault. */
int store_open(uv_loop_t *loop, const struct store_config *c, const struct store_events *events, void *arg,
               struct store **s_p, struct err *err);

/* Read everything back. ERR_FORMAT: rows contradict each other (a gap, a wrong length); the visitor's own answer.
 * Blocks. */
int store_load(struct store *s, enum store_load_what what, const struct store_visitor *v, void *arg, struct err *err);

/* Start the thread; from here on writes are taken, and reading is store_fetch(). */
int store_start(struct store *s, struct err *err);

/* Copy a record into the open batch; *seq (may be NULL) is its batch: the record is safe when on_progress reaches it.
 * ERR_LIMIT: the batch is full, store_is_full() has said so before; ERR_STATE: fenced; ERR_RANGE, ERR_FORMAT: see
 * batch.h. */
int store_put(struct store *s, const struct store_record *r, enum store_class cls, uint64_t *seq, struct err *err);

/* The usual ones: accept, end, run and run_end are FULL, tokens and steps as told, prunes LAZY. */
int store_accept(struct store *s, const struct store_request *r, uint64_t *seq, struct err *err);
int store_tokens(struct store *s, const struct store_tokens *t, enum store_class cls, uint64_t *seq, struct err *err);
int store_end(struct store *s, const struct store_end *e, uint64_t *seq, struct err *err);
int store_prune(struct store *s, const char *request, uint64_t *seq, struct err *err);
int store_run(struct store *s, const struct store_run *r, uint64_t *seq, struct err *err);
int store_step(struct store *s, const struct store_step *t, enum store_class cls, uint64_t *seq, struct err *err);
int store_run_end(struct store *s, const struct store_run_end *e, uint64_t *seq, struct err *err);
int store_prune_run(struct store *s, const char *run, uint64_t *seq, struct err *err);

/* Once per turn, after the last write: hand the open batch over. With a full queue it stays open, grows, and goes as
 * soon as there is room. Never blocks. */
void store_flush(struct store *s);

/* The signal to take no more in this turn: the open batch is half full, so that what a turn has begun can still be
 * written before store_put() answers ERR_LIMIT. Ends with the flush if the queue has room, else with an on_progress. */
bool store_is_full(struct store *s);

/* Ask; fn(arg, answer) comes on the loop, exactly once, before on_closed at the latest (ERR_CANCELED when the store was
 * closed first, ERR_STATE when it was fenced). The answer sees every batch that was flushed before the question, unless
 * the store is failing: then it sees what is committed. The texts of the query are copied.
 * ERR_LIMIT: fetch_max questions wait; ERR_ARG: a field that the kind needs is missing or limit is out of range. */
int store_fetch(struct store *s, const struct store_query *query, store_fetched_fn fn, void *arg, struct err *err);

/* Hand the records of an answer to a visitor, as store_load would. */
int store_fetched_visit(const struct store_fetched *f, const struct store_visitor *v, void *arg);

void store_status(struct store *s, struct store_status *st);

/* Flush, commit what is queued (one try each: a store that fails now loses what was never acknowledged), close the
 * database, then on_closed(arg). *s_p becomes NULL. No event comes after on_closed. */
void store_close(struct store **s_p, store_closed_fn on_closed, void *arg);

#endif
