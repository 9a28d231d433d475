/* controller/store/sqlite.h - the parts of the SQLite back end share this: the connection and its statements.
 * Owns:     struct sq, from open to close.
 * Thread:   see backend.h.
 *
 * Keys: a request and a run have a number `n` of their own beside the id. Rows that belong to them carry the number, so
 * that they are short and lie next to each other however random the ids are. Wide columns stand last: what is asked
 * for at every write is in the first page of a row.
 */
#ifndef CONTROLLER_STORE_SQLITE_H
#define CONTROLLER_STORE_SQLITE_H

#include "controller/store/backend.h"
#include "controller/store/row.h"

#include <sqlite3.h>

#define SQ_USAGE "prompt_tok, output_tok, cached_tok, reasoning_tok"
#define SQ_REQUEST                                                                                  \
    "SELECT r.id, r.tenant, r.path, r.key, r.body_hash, r.prompt, r.params_version, r.params, r.seed, r.created_ms," \
    " r.deadline_ms, r.n_choice, r.n FROM "
#define SQ_RUN(pipeline, input)                                               \
    "SELECT r.id, r.tenant, r.key, r.body_hash, r.name, " pipeline ", " input \
    ", r.parent, r.created_ms, r.deadline_ms,"                                \
    " r.n FROM "
#define SQ_RUN_WHOLE SQ_RUN("r.pipeline", "r.input")
#define SQ_RUN_SHORT SQ_RUN("NULL", "NULL")
/* Not live, and the last end before ?1, or not among the newest: (?2, ?3) is the first that is not. */
#define SQ_OLD(table, live, last_end)                                                               \
    "SELECT r.id FROM " table " r WHERE r.created_ms <= max(?1, ?2) AND NOT EXISTS (SELECT 1 FROM " live ")"        \
    " AND ((r.created_ms, r.n) <= (?2, ?3) OR (SELECT " last_end ") < ?1) ORDER BY r.created_ms, r.n LIMIT ?4"
#define SQ_NTH(table) "SELECT created_ms, n FROM " table " ORDER BY created_ms DESC, n DESC LIMIT 1 OFFSET ?1"

/* CROSS JOIN: in that order, because few live among many.
 * One list: enum, text, and what is prepared at open. ?1 .. in the order of row.h. */
#define SQ_STATEMENT_LIST(X)                                                                                       \
    X(begin, "BEGIN IMMEDIATE")                                                                                    \
    X(commit, "COMMIT")                                                                                            \
    X(rollback, "ROLLBACK")                                                                                        \
    X(leader, "SELECT epoch, batch FROM leader")                                                    \
    X(mark, "UPDATE leader SET batch = ?1, beat_ms = ?2 WHERE epoch = ?3 AND batch < ?1")           \
    X(find_request, "SELECT n, n_choice, (SELECT count(*) FROM ended e WHERE e.request = r.n) FROM request r" \
                    " WHERE id = ?1 AND EXISTS (SELECT 1 FROM live l WHERE l.request = r.n)")       \
    X(find_choice, "SELECT coalesce((SELECT first + n FROM token WHERE request = ?1 AND choice = ?2" \
                   " ORDER BY first DESC LIMIT 1), 0), EXISTS (SELECT 1 FROM ended WHERE request = ?1 AND choice = ?2)") \
    X(find_run, "SELECT n FROM run r WHERE id = ?1 AND EXISTS (SELECT 1 FROM live_run l WHERE l.run = r.n)") \
    X(find_done, "SELECT 1 FROM step WHERE run = ?1 AND path = ?2 AND state = 'done'")              \
    X(request_n, "SELECT n FROM request WHERE id = ?1")                                             \
    X(run_n, "SELECT n FROM run WHERE id = ?1")                                                     \
    X(accept, "INSERT INTO request(id, tenant, path, key, body_hash, prompt, params_version, params, seed, created_ms," \
              " deadline_ms, n_choice) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12) ON CONFLICT DO NOTHING") \
    X(live_add, "INSERT INTO live VALUES (?1)")                                                     \
    X(live_remove, "DELETE FROM live WHERE request = ?1")                                           \
    X(tokens, "INSERT INTO token(request, choice, first, n, ids, extra) VALUES (?1,?2,?3,?4,?5,?6)" \
              " ON CONFLICT DO NOTHING")                                                            \
    X(end, "INSERT INTO ended(request, choice, finish, text, n_tok, " SQ_USAGE ", ended_ms)"        \
           " VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10) ON CONFLICT DO NOTHING")                       \
    X(run, "INSERT INTO run(id, tenant, key, body_hash, name, pipeline, input, parent, created_ms, deadline_ms)" \
           " VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10) ON CONFLICT DO NOTHING")                       \
    X(live_run_add, "INSERT INTO live_run VALUES (?1)")                                             \
    X(live_run_remove, "DELETE FROM live_run WHERE run = ?1")                                       \
    X(step, "INSERT INTO step(run, path, attempt, state, result, request, error, " SQ_USAGE ", at_ms, ord)" \
            " VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13) ON CONFLICT DO NOTHING")          \
    X(run_end, "INSERT INTO run_end(run, state, output, error, " SQ_USAGE ", ended_ms)"             \
               " VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9) ON CONFLICT DO NOTHING")                       \
    X(prune_first, "DELETE FROM ended WHERE request = ?1")                                          \
    X(prune_token, "DELETE FROM token WHERE request = ?1")                                          \
    X(prune_live, "DELETE FROM live WHERE request = ?1")                                            \
    X(prune_last, "DELETE FROM request WHERE n = ?1")                                               \
    X(prune_run_first, "DELETE FROM step WHERE run = ?1")                                           \
    X(prune_run_end, "DELETE FROM run_end WHERE run = ?1")                                          \
    X(prune_run_live, "DELETE FROM live_run WHERE run = ?1")                                        \
    X(prune_run_last, "DELETE FROM run WHERE n = ?1")                                               \
    X(load_request, SQ_REQUEST "request r ORDER BY r.created_ms, r.n")                                             \
    X(load_live, SQ_REQUEST "live l CROSS JOIN request r ON r.n = l.request ORDER BY r.created_ms, r.n")                 \
    X(get_request, SQ_REQUEST "request r WHERE r.id = ?1")                                                         \
    X(get_request_key, SQ_REQUEST "request r WHERE r.tenant = ?1 AND r.path = ?2 AND r.key = ?3")                  \
    X(tokens_of, "SELECT ?2, choice, first, n, ids, extra FROM token WHERE request = ?1 ORDER BY choice, first")   \
    X(ends_of, "SELECT ?2, choice, finish, text, n_tok, " SQ_USAGE ", ended_ms FROM ended WHERE request = ?1"      \
               " ORDER BY choice")                                                                                 \
    X(load_run, SQ_RUN_WHOLE "run r ORDER BY r.created_ms, r.n")                                                   \
    X(load_live_run, SQ_RUN_WHOLE "live_run l CROSS JOIN run r ON r.n = l.run ORDER BY r.created_ms, r.n")               \
    X(get_run, SQ_RUN_WHOLE "run r WHERE r.id = ?1")                                                               \
    X(get_run_key, SQ_RUN_WHOLE "run r WHERE r.tenant = ?1 AND r.key = ?2")                                        \
    X(list_runs, SQ_RUN_SHORT "run r WHERE r.n < ?1 ORDER BY r.n DESC LIMIT ?2")                                   \
    X(list_runs_of, SQ_RUN_SHORT "run r WHERE r.n < ?1 AND r.tenant = ?3 ORDER BY r.n DESC LIMIT ?2")              \
    X(steps_of,                                                                                                    \
      "SELECT ?2, path, attempt, state, result, request, error, " SQ_USAGE ", at_ms FROM step WHERE run = ?1"      \
      " ORDER BY ord")                                                                                             \
    X(run_end_of, "SELECT ?2, state, output, error, " SQ_USAGE ", ended_ms FROM run_end WHERE run = ?1")           \
    X(nth_request, SQ_NTH("request"))                                                                              \
    X(nth_run, SQ_NTH("run"))                                                                                      \
    X(old_requests, SQ_OLD("request", "live WHERE request = r.n", "max(ended_ms) FROM ended WHERE request = r.n")) \
    X(old_runs, SQ_OLD("run", "live_run WHERE run = r.n", "ended_ms FROM run_end WHERE run = r.n"))

enum sq_statement {
#define X(name, sql) SQ_##name,
    SQ_STATEMENT_LIST(X)
#undef X
        SQ_N
};

struct sq {
    struct store_backend base;
    sqlite3 *db;
    sqlite3_stmt *st[SQ_N];
    char *path;
    int64_t n_step;  /* counts steps written: their order */
    bool suspicious; /* a sync has failed: see heal() */
    struct sq_cache *cache;
};

/* The error of the last call on the connection. doing: "committing". */
int store__sq_fail(struct sq *q, int rc, const char *doing, struct err *err);
int store__sq_corrupt(struct sq *q, struct err *err, const char *what);

/* Run statement i to its end; its parameters are forgotten. */
int store__sq_run(struct sq *q, enum sq_statement i, const char *doing, struct err *err);

/* Write a batch inside the open transaction. After a rollback everything that is known has to be forgotten. */
int store__sq_write(struct sq *q, const struct store_batch *b, struct store_refusals *out, struct err *err);
void store__sq_forget(struct sq *q);
void store__sq_cache_destroy(struct sq *q);

/* Of struct store_backend_ops. */
int store__sq_load(struct store_backend *base, enum store_load_what what, bool with_runs, store__record_fn on_record,
                   void *arg, struct err *err);
int store__sq_fetch(struct store_backend *base, const struct store_query *query, store__record_fn on_record, void *arg,
                    struct err *err);

#endif
