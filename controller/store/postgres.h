/* controller/store/postgres.h - the parts of the PostgreSQL back end share this: the connection and its statements.
 * Owns:     struct pg, from open to close.
 * Thread:   see backend.h.
 */
#ifndef CONTROLLER_STORE_POSTGRES_H
#define CONTROLLER_STORE_POSTGRES_H

#include "controller/store/backend.h"
#include "controller/store/row.h"

#include <libpq-fe.h>

#define PG_NEXT_INDEX "coalesce((SELECT first + n FROM baton.token WHERE request = $1 AND choice = $2" \
                      " ORDER BY first DESC LIMIT 1), 0)"
#define PG_USAGE "prompt_tok, output_tok, cached_tok, reasoning_tok"
#define PG_REQUEST                                                                                   \
    "SELECT r.id, r.tenant, r.path, r.key, r.body_hash, r.prompt, r.params_version::bigint, r.params, r.seed," \
    " r.created_ms, r.deadline_ms, r.n_choice::bigint FROM baton.request r "
#define PG_RUN(pipeline, input)                                               \
    "SELECT r.id, r.tenant, r.key, r.body_hash, r.name, " pipeline ", " input \
    ", r.parent, r.created_ms, r.deadline_ms"                                 \
    " FROM baton.run r "
#define PG_RUN_WHOLE PG_RUN("r.pipeline", "r.input")
#define PG_RUN_SHORT PG_RUN("NULL::text", "NULL::text")
/* The next page, oldest first: $1, $2 are time and id of the last one of the page before. */
#define PG_AFTER "(r.created_ms, r.id COLLATE \"C\") > ($1::bigint, $2::text)"
#define PG_PAGE  " ORDER BY r.created_ms, r.id COLLATE \"C\" LIMIT 64"
#define PG_BEFORE "r.n < coalesce((SELECT n FROM baton.run WHERE id = $1::text), CASE WHEN $1 IS NULL THEN" \
                  " 9223372036854775807 ELSE 0 END)"
/* Ended before $1, or beyond the $2 newest (-1: all are kept); $3 at most. */
#define PG_OLD(table, live, last_end)                                                                \
    "WITH cut AS (SELECT created_ms, id FROM baton." table " WHERE $2::bigint >= 0"                  \
    " ORDER BY created_ms DESC, id COLLATE \"C\" DESC LIMIT 1 OFFSET greatest($2, 0))"               \
    " SELECT r.id FROM baton." table " r"                                                            \
    " WHERE r.created_ms <= greatest($1::bigint, (SELECT created_ms FROM cut))"                      \
    " AND NOT EXISTS (SELECT 1 FROM baton." live ") AND ((SELECT " last_end ") < $1"                 \
    " OR (r.created_ms, r.id COLLATE \"C\") <= ((SELECT created_ms FROM cut), (SELECT id COLLATE \"C\" FROM cut)))" \
    " ORDER BY r.created_ms, r.id COLLATE \"C\" LIMIT $3::bigint"

/* One list: enum, text, parameter types as psql writes them. Prepared on each connection. Each kind of record has one
 * statement, whose row count says whether it fitted. */
#define PG_STATEMENT_LIST(X)                                                                                        \
    X(mark, "SELECT baton.mark($1::bigint, $2::bigint)")                                                            \
    X(accept,                                                                                                       \
      "WITH a AS (INSERT INTO baton.request(id, tenant, path, key, body_hash, prompt, params_version, params,"      \
      " seed, created_ms, deadline_ms, n_choice) VALUES ($1::text, $2::text, $3::text, $4::text, $5::bytea,"        \
      " $6::bytea, $7::bigint, $8::bytea, $9::bigint, $10::bigint, $11::bigint, $12::bigint)"                       \
      " ON CONFLICT DO NOTHING RETURNING id) INSERT INTO baton.live SELECT id FROM a")                              \
    X(tokens,                                                                                                       \
      "INSERT INTO baton.token(request, choice, first, n, ids, extra)"                                              \
      " SELECT $1::text, $2::bigint, $3::bigint, $4::bigint, $5::bytea, $6::bytea"                                  \
      " WHERE EXISTS (SELECT 1 FROM baton.request WHERE id = $1 AND $2 < n_choice)"                                 \
      " AND NOT EXISTS (SELECT 1 FROM baton.ended WHERE request = $1 AND choice = $2) AND $3 = " PG_NEXT_INDEX)     \
    X(end, "WITH e AS (INSERT INTO baton.ended(request, choice, finish, text, n_tok, " PG_USAGE ", ended_ms)"       \
           " SELECT $1::text, $2::bigint, $3::text, $4::text, $5::bigint, $6::bigint, $7::bigint, $8::bigint,"      \
           " $9::bigint, $10::bigint WHERE EXISTS (SELECT 1 FROM baton.request WHERE id = $1 AND $2 < n_choice)"    \
           " AND $5 = " PG_NEXT_INDEX                                                                               \
           " ON CONFLICT DO NOTHING RETURNING 1)," /* the count is that of before this statement */                 \
           " d AS (DELETE FROM baton.live WHERE request = $1 AND EXISTS (SELECT 1 FROM e)"                          \
           " AND (SELECT count(*) + 1 FROM baton.ended x WHERE x.request = $1)"                                     \
           " >= (SELECT n_choice FROM baton.request WHERE id = $1)) SELECT 1 FROM e")                               \
    X(prune, "WITH a AS (DELETE FROM baton.ended WHERE request = $1::text),"                                        \
             " b AS (DELETE FROM baton.token WHERE request = $1), c AS (DELETE FROM baton.live WHERE request = $1)" \
             " DELETE FROM baton.request WHERE id = $1")                                                            \
    X(run,                                                                                                          \
      "WITH a AS (INSERT INTO baton.run(id, tenant, key, body_hash, name, pipeline, input, parent, created_ms,"     \
      " deadline_ms) VALUES ($1::text, $2::text, $3::text, $4::bytea, $5::text, $6::text, $7::text, $8::text,"      \
      " $9::bigint, $10::bigint) ON CONFLICT DO NOTHING RETURNING id) INSERT INTO baton.live_run SELECT id FROM a") \
    X(step,                                                                                                         \
      "INSERT INTO baton.step(run, path, attempt, state, result, request, error, " PG_USAGE ", at_ms)"              \
      " SELECT $1::text, $2::text, $3::bigint, $4::text, $5::text, $6::text, $7::text, $8::bigint, $9::bigint,"     \
      " $10::bigint, $11::bigint, $12::bigint WHERE EXISTS (SELECT 1 FROM baton.live_run WHERE run = $1)"           \
      " ON CONFLICT DO NOTHING")                                                                                    \
    X(run_end,                                                                                                      \
      "WITH d AS (DELETE FROM baton.live_run WHERE run = $1::text RETURNING run)"                                   \
      " INSERT INTO baton.run_end(run, state, output, error, " PG_USAGE ", ended_ms)"                               \
      " SELECT run, $2::text, $3::text, $4::text, $5::bigint, $6::bigint, $7::bigint, $8::bigint, $9::bigint"       \
      " FROM d")                                                                                                    \
    X(prune_run, "WITH a AS (DELETE FROM baton.step WHERE run = $1::text),"                                         \
                 " b AS (DELETE FROM baton.run_end WHERE run = $1),"                                                \
                 " c AS (DELETE FROM baton.live_run WHERE run = $1) DELETE FROM baton.run WHERE id = $1")           \
    X(beat, "UPDATE baton.leader SET beat = clock_timestamp() WHERE epoch = $1::bigint")                            \
    X(load_request, PG_REQUEST "WHERE " PG_AFTER PG_PAGE)                                                           \
    X(load_live, PG_REQUEST "JOIN baton.live l ON l.request = r.id WHERE " PG_AFTER PG_PAGE)                        \
    X(get_request, PG_REQUEST "WHERE r.id = $1::text")                                                              \
    X(get_request_key, PG_REQUEST "WHERE r.tenant = $1::text AND r.path = $2::text AND r.key = $3::text")           \
    X(tokens_of, "SELECT request, choice::bigint, first, n::bigint, ids, extra FROM baton.token"                    \
                 " WHERE request = ANY($1::text[]) ORDER BY array_position($1, request), choice, first")            \
    X(ends_of, "SELECT request, choice::bigint, finish, text, n_tok, " PG_USAGE ", ended_ms FROM baton.ended"       \
               " WHERE request = ANY($1::text[]) ORDER BY array_position($1, request), choice")                     \
    X(load_run, PG_RUN_WHOLE "WHERE " PG_AFTER PG_PAGE)                                                             \
    X(load_live_run, PG_RUN_WHOLE "JOIN baton.live_run l ON l.run = r.id WHERE " PG_AFTER PG_PAGE)                  \
    X(get_run, PG_RUN_WHOLE "WHERE r.id = $1::text")                                                                \
    X(get_run_key, PG_RUN_WHOLE "WHERE r.tenant = $1::text AND r.key = $2::text")                                   \
    X(list_runs, PG_RUN_SHORT "WHERE " PG_BEFORE " ORDER BY r.n DESC LIMIT $2::bigint")                             \
    X(list_runs_of, PG_RUN_SHORT "WHERE " PG_BEFORE " AND r.tenant = $3::text ORDER BY r.n DESC LIMIT $2::bigint")  \
    X(steps_of,                                                                                                     \
      "SELECT run, path, attempt::bigint, state, result, request, error, " PG_USAGE ", at_ms FROM baton.step"       \
      " WHERE run = ANY($1::text[]) ORDER BY array_position($1, run), ord")                                         \
    X(run_end_of, "SELECT run, state, output, error, " PG_USAGE ", ended_ms FROM baton.run_end"                     \
                  " WHERE run = ANY($1::text[]) ORDER BY array_position($1, run)")                                  \
    X(old_requests,                                                                                                 \
      PG_OLD("request", "live WHERE request = r.id", "max(ended_ms) FROM baton.ended WHERE request = r.id"))        \
    X(old_runs, PG_OLD("run", "live_run WHERE run = r.id", "ended_ms FROM baton.run_end WHERE run = r.id"))

enum pg_statement {
#define X(name, sql) PG_##name,
    PG_STATEMENT_LIST(X)
#undef X
        PG_N
};

enum { PG_PAGE_ROWS = 64 }; /* requests or runs fetched at once: the LIMIT of PG_PAGE */

struct pg {
    struct store_backend base;
    struct store_config config;
    char *url;
    char *where; /* host, port and database, for error texts: a url may hold a password */
    char *holder;
    PGconn *conn; /* NULL after a failure: the next call connects again */
};

/* The parameters of one statement: numbers and bytes in binary. */
struct pg_params {
    int n;
    const char *value[STORE_CELLS_MAX];
    int length[STORE_CELLS_MAX];
    int format[STORE_CELLS_MAX];
    int64_t number[STORE_CELLS_MAX]; /* big-endian */
};

void store__pg_add_text(struct pg_params *p, const char *s); /* NULL: null */
void store__pg_add_i64(struct pg_params *p, int64_t v);

/* Connect if there is no connection. Blocks up to connect_timeout. */
int store__pg_connect(struct pg *g, struct err *err);

/* One statement and its answer, outside a pipeline; *out is the caller's. */
int store__pg_query(struct pg *g, enum pg_statement i, const struct pg_params *p, const char *doing, PGresult **out,
                    struct err *err);

/* Of struct store_backend_ops. */
int store__pg_load(struct store_backend *base, enum store_load_what what, bool with_runs, store__record_fn on_record,
                   void *arg, struct err *err);
int store__pg_fetch(struct store_backend *base, const struct store_query *query, store__record_fn on_record, void *arg,
                    struct err *err);

#endif
