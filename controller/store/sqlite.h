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

#define SQ_NEXT_INDEX                                                                               \
    "coalesce((SELECT first + t.n FROM token t WHERE t.request = r.n AND t.choice = ?2 ORDER BY first DESC LIMIT 1), 0)"
#define SQ_N_OF(table, id) "(SELECT n FROM " table " WHERE id = " id ")"
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

/* One list: enum, text, and what is prepared at open. ?1 .. in the order of row.h. */
#define SQ_STATEMENT_LIST(X)                                                                                       \
    X(begin, "BEGIN IMMEDIATE")                                                                                    \
    X(commit, "COMMIT")                                                                                            \
    X(rollback, "ROLLBACK")                                                                                        \
    X(leader, "SELECT epoch, batch FROM leader")                                                                   \
    X(mark, "UPDATE leader SET batch = ?1, beat_ms = ?2")                                                          \
    X(accept,                                                                                                      \
      "INSERT INTO request(id, tenant, path, key, body_hash, prompt, params_version, params, seed, created_ms,"    \
      " deadline_ms, n_choice) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12) ON CONFLICT DO NOTHING")            \
    X(accept_live, "INSERT INTO live VALUES (last_insert_rowid())")                                                \
    X(tokens, "INSERT INTO token(request, choice, first, n, ids, extra) SELECT r.n, ?2,?3,?4,?5,?6"                \
              " FROM request r WHERE r.id = ?1 AND ?2 < r.n_choice"                                                \
              " AND NOT EXISTS (SELECT 1 FROM ended WHERE request = r.n AND choice = ?2)"                          \
              " AND ?3 = " SQ_NEXT_INDEX)                                                                          \
    X(end, "INSERT INTO ended(request, choice, finish, text, n_tok, " SQ_USAGE ", ended_ms)"                       \
           " SELECT r.n, ?2,?3,?4,?5,?6,?7,?8,?9,?10 FROM request r WHERE r.id = ?1 AND ?2 < r.n_choice"           \
           " AND ?5 = " SQ_NEXT_INDEX " ON CONFLICT DO NOTHING")                                                   \
    X(end_live, "DELETE FROM live WHERE request = " SQ_N_OF(                                                       \
                    "request", "?1") " AND (SELECT count(*) FROM ended e WHERE e.request = live.request)"          \
                                     " >= (SELECT n_choice FROM request WHERE n = live.request)")                  \
    X(prune_ended, "DELETE FROM ended WHERE request = " SQ_N_OF("request", "?1"))                                  \
    X(prune_token, "DELETE FROM token WHERE request = " SQ_N_OF("request", "?1"))                                  \
    X(prune_live, "DELETE FROM live WHERE request = " SQ_N_OF("request", "?1"))                                    \
    X(prune_request, "DELETE FROM request WHERE id = ?1")                                                          \
    X(run, "INSERT INTO run(id, tenant, key, body_hash, name, pipeline, input, parent, created_ms, deadline_ms)"   \
           " VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10) ON CONFLICT DO NOTHING")                                      \
    X(run_live, "INSERT INTO live_run VALUES (last_insert_rowid())")                                               \
    X(step,                                                                                                        \
      "INSERT INTO step(run, path, attempt, state, result, request, error, " SQ_USAGE ", at_ms, ord)"              \
      " SELECT r.n, ?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13 FROM run r JOIN live_run l ON l.run = r.n"             \
      " WHERE r.id = ?1 AND NOT (?4 = 'done' AND EXISTS"                                                           \
      " (SELECT 1 FROM step s WHERE s.run = r.n AND s.path = ?2 AND s.state = 'done')) ON CONFLICT DO NOTHING")    \
    X(run_end, "INSERT INTO run_end(run, state, output, error, " SQ_USAGE ", ended_ms)"                            \
               " SELECT r.n, ?2,?3,?4,?5,?6,?7,?8,?9 FROM run r JOIN live_run l ON l.run = r.n WHERE r.id = ?1")   \
    X(run_end_live, "DELETE FROM live_run WHERE run = " SQ_N_OF("run", "?1"))                                      \
    X(prune_run_step, "DELETE FROM step WHERE run = " SQ_N_OF("run", "?1"))                                        \
    X(prune_run_end, "DELETE FROM run_end WHERE run = " SQ_N_OF("run", "?1"))                                      \
    X(prune_run_live, "DELETE FROM live_run WHERE run = " SQ_N_OF("run", "?1"))                                    \
    X(prune_run, "DELETE FROM run WHERE id = ?1")                                                                  \
    X(load_request, SQ_REQUEST "request r ORDER BY r.created_ms, r.n")                                             \
    X(load_live, SQ_REQUEST "live l JOIN request r ON r.n = l.request ORDER BY r.created_ms, r.n")                 \
    X(get_request, SQ_REQUEST "request r WHERE r.id = ?1")                                                         \
    X(get_request_key, SQ_REQUEST "request r WHERE r.tenant = ?1 AND r.path = ?2 AND r.key = ?3")                  \
    X(tokens_of, "SELECT ?2, choice, first, n, ids, extra FROM token WHERE request = ?1 ORDER BY choice, first")   \
    X(ends_of, "SELECT ?2, choice, finish, text, n_tok, " SQ_USAGE ", ended_ms FROM ended WHERE request = ?1"      \
               " ORDER BY choice")                                                                                 \
    X(load_run, SQ_RUN_WHOLE "run r ORDER BY r.created_ms, r.n")                                                   \
    X(load_live_run, SQ_RUN_WHOLE "live_run l JOIN run r ON r.n = l.run ORDER BY r.created_ms, r.n")               \
    X(get_run, SQ_RUN_WHOLE "run r WHERE r.id = ?1")                                                               \
    X(get_run_key, SQ_RUN_WHOLE "run r WHERE r.tenant = ?1 AND r.key = ?2")                                        \
    X(run_n, "SELECT n FROM run WHERE id = ?1")                                                                    \
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
    bool sync_full;  /* what synchronous is set to */
    bool suspicious; /* a sync has failed: see heal() */
};

/* The error of the last call on the connection. doing: "committing". */
int store__sq_fail(struct sq *q, int rc, const char *doing, struct err *err);
int store__sq_corrupt(struct sq *q, struct err *err, const char *what);

/* Of struct store_backend_ops. */
int store__sq_load(struct store_backend *base, enum store_load_what what, bool with_runs, store__record_fn on_record,
                   void *arg, struct err *err);
int store__sq_fetch(struct store_backend *base, const struct store_query *query, store__record_fn on_record, void *arg,
                    struct err *err);

#endif
