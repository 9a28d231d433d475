/* The store in PostgreSQL: one connection, one pipeline a transaction, so that a commit costs one round trip.
 *
 * Who leads: the session that holds the advisory lock AND whose epoch stands in the leader row. The lock keeps two
 * healthy controllers apart; the epoch fences one that was paused or cut off: every transaction begins with
 * baton.mark(), which locks the row and fails unless the epoch is ours. A standby that finds the lock taken, but no
 * sign of life for lease_ms (by the server's clock), ends that session and takes over.
 *
 * Durability: every commit is synchronous, for LAZY records too. With synchronous_commit=off the death of a server
 * process could lose them, and LAZY promises to survive the death of any process.
 */
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/mem/buf.h"
#include "common/mem/mem.h"
#include "controller/store/backend.h"

#include <endian.h>
#include <errno.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are stored as they are in memory, little-endian");

enum {
    PARAMS_MAX = 12,
    PAGE_ROWS = 64,           /* requests fetched at once by load */
    TAKE_OVER_MS = 2000,      /* how long a session may take to end that was told to */
    LOCK_TIMEOUT_MS = 5000,   /* waiting for the leader row; another transaction holds it for a moment only */
    NAMED_BYTES_MAX = 256,
};

#define LOCK_KEY "4774451407313061425" /* "BBBBBBF1": the advisory lock of the leader */

/* Forward only, as in sqlite.c, number by number the same schema. */
static const char *const migration[STORE_SCHEMA_VERSION] = {
    /* 1 */
    "CREATE TABLE baton.leader(one int PRIMARY KEY CHECK (one = 1), epoch bigint NOT NULL, batch bigint NOT NULL,"
    " holder text NOT NULL, beat timestamptz NOT NULL);"
    "INSERT INTO baton.leader VALUES (1, 0, 0, '', now());"
    "CREATE TABLE baton.request(id text PRIMARY KEY, tenant text NOT NULL, path text NOT NULL, key text,"
    " body_hash bytea NOT NULL, prompt bytea NOT NULL, params_version int NOT NULL, params bytea NOT NULL,"
    " seed bigint NOT NULL, created_ms bigint NOT NULL, deadline_ms bigint NOT NULL, n_choice int NOT NULL);"
    "CREATE UNIQUE INDEX request_key ON baton.request(tenant, path, key) WHERE key IS NOT NULL;"
    "CREATE INDEX request_age ON baton.request(created_ms, id COLLATE \"C\");"
    "CREATE TABLE baton.token(request text NOT NULL, choice int NOT NULL, first bigint NOT NULL, n int NOT NULL,"
    " ids bytea NOT NULL, extra bytea NOT NULL, PRIMARY KEY (request, choice, first));"
    "CREATE TABLE baton.ended(request text NOT NULL, choice int NOT NULL, finish text NOT NULL, text text NOT NULL,"
    " n_tok bigint NOT NULL, prompt_tok bigint NOT NULL, output_tok bigint NOT NULL, cached_tok bigint NOT NULL,"
    " reasoning_tok bigint NOT NULL, ended_ms bigint NOT NULL, PRIMARY KEY (request, choice));"
    "CREATE FUNCTION baton.mark(e bigint, b bigint) RETURNS void LANGUAGE plpgsql AS $$"
    " DECLARE r baton.leader; BEGIN SELECT * INTO r FROM baton.leader FOR UPDATE;"
    " IF r.epoch <> e THEN RAISE EXCEPTION 'epoch % of % leads, ours is %', r.epoch, r.holder, e USING ERRCODE='BT001';"
    " END IF; IF r.batch >= b THEN RAISE EXCEPTION 'batch % is committed', b USING ERRCODE='BT002'; END IF;"
    " UPDATE baton.leader SET batch = b, beat = clock_timestamp(); END $$;",
};

#define NEXT_INDEX "coalesce((SELECT first + n FROM baton.token WHERE request = $1 AND choice = $2" \
                   " ORDER BY first DESC LIMIT 1), 0)"
#define ORDER_BY   " ORDER BY r.created_ms, r.id COLLATE \"C\""
/* Requests after the last one of the page before: $1 only those with a live choice, $2, $3 the last one. */
#define PAGE                                                                                          \
    "WITH page AS (SELECT * FROM baton.request q WHERE (q.created_ms, q.id COLLATE \"C\") > ($2, $3)" \
    " AND (NOT $1 OR (SELECT count(*) FROM baton.ended e WHERE e.request = q.id) < q.n_choice)"       \
    " ORDER BY q.created_ms, q.id COLLATE \"C\" LIMIT 64) "

/* One list: enum, text, parameter types as psql writes them. Prepared on each connection. */
#define STATEMENT_LIST(X)                                                                                            \
    X(mark, "SELECT baton.mark($1::bigint, $2::bigint)")                                                             \
    X(accept,                                                                                                        \
      "INSERT INTO baton.request(id, tenant, path, key, body_hash, prompt, params_version, params, seed,"            \
      " created_ms, deadline_ms, n_choice) VALUES ($1::text, $2::text, $3::text, $4::text, $5::bytea, $6::bytea,"    \
      " $7::bigint, $8::bytea, $9::bigint, $10::bigint, $11::bigint, $12::bigint) ON CONFLICT DO NOTHING")           \
    X(tokens, "INSERT INTO baton.token(request, choice, first, n, ids, extra)"                                       \
              " SELECT $1::text, $2::bigint, $3::bigint, $4::bigint, $5::bytea, $6::bytea"                           \
              " WHERE EXISTS (SELECT 1 FROM baton.request WHERE id = $1 AND $2 < n_choice)"                          \
              " AND NOT EXISTS (SELECT 1 FROM baton.ended WHERE request = $1 AND choice = $2) AND $3 = " NEXT_INDEX) \
    X(end, "INSERT INTO baton.ended(request, choice, finish, text, n_tok, prompt_tok, output_tok, cached_tok,"       \
           " reasoning_tok, ended_ms) SELECT $1::text, $2::bigint, $3::text, $4::text, $5::bigint, $6::bigint,"      \
           " $7::bigint, $8::bigint, $9::bigint, $10::bigint"                                                        \
           " WHERE EXISTS (SELECT 1 FROM baton.request WHERE id = $1 AND $2 < n_choice)"                             \
           " AND $5 = " NEXT_INDEX " ON CONFLICT DO NOTHING")                                                        \
    X(prune_ended, "DELETE FROM baton.ended WHERE request = $1::text")                                               \
    X(prune_token, "DELETE FROM baton.token WHERE request = $1::text")                                               \
    X(prune_request, "DELETE FROM baton.request WHERE id = $1::text")                                                \
    X(beat, "UPDATE baton.leader SET beat = clock_timestamp() WHERE epoch = $1::bigint")                             \
    X(load_request,                                                                                                  \
      PAGE "SELECT r.id, r.tenant, r.path, r.key, r.body_hash, r.prompt, r.params_version::bigint, r.params,"        \
           " r.seed, r.created_ms, r.deadline_ms, r.n_choice::bigint FROM page r" ORDER_BY)                          \
    X(load_token, PAGE "SELECT t.request, t.choice::bigint, t.first, t.n::bigint, t.ids, t.extra FROM page r"        \
                       " JOIN baton.token t ON t.request = r.id" ORDER_BY ", t.choice, t.first")                     \
    X(load_ended, PAGE "SELECT e.request, e.choice::bigint, e.finish, e.text, e.n_tok, e.prompt_tok, e.output_tok,"  \
                       " e.cached_tok, e.reasoning_tok, e.ended_ms FROM page r"                                      \
                       " JOIN baton.ended e ON e.request = r.id" ORDER_BY ", e.choice")

enum statement {
#define X(name, sql) S_##name,
    STATEMENT_LIST(X)
#undef X
        S_N
};

static const char *const statement_name[S_N] = {
#define X(name, sql) #name,
    STATEMENT_LIST(X)
#undef X
};

static const char *const statement_sql[S_N] = {
#define X(name, sql) sql,
    STATEMENT_LIST(X)
#undef X
};

struct pg {
    struct store_backend base;
    struct store_config config;
    char *url;
    char *where; /* host, port and database, for error texts: a url may hold a password */
    char *holder;
    PGconn *conn; /* NULL after a failure: the next call connects again */
};

/* The parameters of one statement, in binary. */
struct params {
    int n;
    const char *value[PARAMS_MAX];
    int length[PARAMS_MAX];
    int format[PARAMS_MAX];
    int64_t number[PARAMS_MAX]; /* big-endian */
};

static void add_bytes(struct params *p, const void *data, size_t n)
{
    p->value[p->n] = n ? data : "";
    p->length[p->n] = (int)n; /* STORE_BLOB_BYTES_MAX and STORE_TOKENS_MAX keep it small */
    p->format[p->n++] = 1;
}

static void add_text(struct params *p, const char *s)
{
    p->value[p->n] = s;
    p->length[p->n] = 0;
    p->format[p->n++] = 0;
}

static void add_i64(struct params *p, int64_t v)
{
    p->number[p->n] = (int64_t)htobe64((uint64_t)v);
    p->value[p->n] = (const char *)&p->number[p->n];
    p->length[p->n] = 8;
    p->format[p->n++] = 1;
}

/* ---- errors ---- */

static void drop_conn(struct pg *g)
{
    PQfinish(g->conn);
    g->conn = NULL;
}

static enum store_fault fault_of(const char *state)
{
    if (strcmp(state, "BT001") == 0)
        return STORE_FAULT_fenced;
    if (strncmp(state, "53", 2) == 0) /* insufficient resources: disk, memory, connections */
        return STORE_FAULT_disk_full;
    if (strcmp(state, "25006") == 0) /* a read-only server or session */
        return STORE_FAULT_read_only;
    if (strcmp(state, "XX001") == 0 || strcmp(state, "XX002") == 0)
        return STORE_FAULT_corrupt;
    if (strncmp(state, "57P", 3) == 0 || strncmp(state, "08", 2) == 0 || strcmp(state, "57014") == 0)
        return STORE_FAULT_unreachable;
    if (strcmp(state, "55P03") == 0) /* lock_timeout */
        return STORE_FAULT_locked;
    if (strncmp(state, "58", 2) == 0)
        return STORE_FAULT_io;
    return STORE_FAULT_internal;
}

/* What the server said about a statement. The text of libpq ends with a line feed. */
static int fail_result(struct pg *g, const PGresult *res, const char *doing, struct err *err)
{
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    return store__fail(&g->base.fault, state ? fault_of(state) : STORE_FAULT_unreachable, err, "%s %s: %s%s%s%s",
                       doing, g->where, text ? text : "the server does not answer", state ? " (SQLSTATE " : "",
                       state ? state : "", state ? ")" : "");
}

/* The connection itself is broken: it is given up. */
static int fail_conn(struct pg *g, const char *doing, struct err *err)
{
    char text[ERR_TEXT_MAX];
    snprintf(text, sizeof text, "%s", g->conn ? PQerrorMessage(g->conn) : "no connection");
    size_t n = strcspn(text, "\n");
    text[n] = 0;
    drop_conn(g);
    return store__fail(&g->base.fault, STORE_FAULT_unreachable, err, "%s %s: %s", doing, g->where,
                       n ? text : "the connection was lost");
}

/* ---- one statement at a time: opening, loading, beats ---- */

/* Wait until the socket is ready, at most until `end`. */
static int wait_socket(struct pg *g, bool write, int64_t end_ns)
{
    int64_t left = (end_ns - clock_mono_ns()) / 1000000;
    struct pollfd p = {.fd = PQsocket(g->conn), .events = (short)(POLLIN | (write ? POLLOUT : 0))};
    if (left <= 0)
        return ERR_TIMEOUT;
    int n = poll(&p, 1, left > 1000 ? 1000 : (int)left);
    return n < 0 && errno != EINTR ? ERR_IO : 0;
}

/* The next result, waiting at most until end_ns; *res may become NULL (libpq's end of one statement). */
static int next_result(struct pg *g, int64_t end_ns, PGresult **res, struct err *err)
{
    for (;;) {
        int flush = PQflush(g->conn);
        if (flush < 0)
            return fail_conn(g, "writing to", err);
        if (!PQisBusy(g->conn)) {
            *res = PQgetResult(g->conn);
            return 0;
        }
        int rc = wait_socket(g, flush > 0, end_ns);
        if (rc == ERR_TIMEOUT) {
            drop_conn(g);
            return store__fail(&g->base.fault, STORE_FAULT_unreachable, err, "%s has not answered within %lld ms",
                               g->where, (long long)g->config.limit.commit_ms);
        }
        if (rc || !PQconsumeInput(g->conn))
            return fail_conn(g, "reading from", err);
    }
}

static int64_t give_up_ns(const struct pg *g)
{
    return clock_mono_ns() + g->config.limit.commit_ms * 1000000;
}

/* Everything that comes back for what was sent outside a pipeline; the last result is the answer. */
static int collect(struct pg *g, const char *doing, PGresult **out, struct err *err)
{
    PGresult *res = NULL, *last = NULL;
    int64_t end = give_up_ns(g);
    int rc;

    while (!(rc = next_result(g, end, &res, err)) && res) {
        PQclear(last);
        last = res;
    }
    if (!rc && !last)
        rc = fail_conn(g, doing, err);
    if (!rc && PQresultStatus(last) != PGRES_COMMAND_OK && PQresultStatus(last) != PGRES_TUPLES_OK)
        rc = fail_result(g, last, doing, err);
    if (!rc && out)
        *out = last;
    else
        PQclear(last);
    return rc;
}

static int query(struct pg *g, const char *sql, const char *doing, PGresult **out, struct err *err)
{
    return PQsendQuery(g->conn, sql) ? collect(g, doing, out, err) : fail_conn(g, doing, err);
}

static int query_prepared(struct pg *g, enum statement i, const struct params *p, const char *doing, PGresult **out,
                          struct err *err)
{
    if (!PQsendQueryPrepared(g->conn, statement_name[i], p->n, p->value, p->length, p->format, 1))
        return fail_conn(g, doing, err);
    return collect(g, doing, out, err);
}

/* The one number that sql answers with; `none` if there is no row. */
static int query_i64(struct pg *g, const char *sql, int64_t none, int64_t *out, struct err *err)
{
    PGresult *res;
    int rc = query(g, sql, "reading from", &res, err);
    if (rc)
        return rc;
    *out = PQntuples(res) && !PQgetisnull(res, 0, 0) ? strtoll(PQgetvalue(res, 0, 0), NULL, 10) : none;
    PQclear(res);
    return 0;
}

/* ---- connecting ---- */

static int check_version(struct pg *g, int64_t *version, struct err *err)
{
    int64_t exists;
    int rc = query_i64(g,
                       "SELECT count(*) FROM pg_tables WHERE schemaname = 'baton' AND tablename = 'schema_version'",
                       0, &exists, err);
    *version = 0;
    if (!rc && exists)
        rc = query_i64(g, "SELECT max(version) FROM baton.schema_version", 0, version, err);
    if (!rc && *version > STORE_SCHEMA_VERSION)
        rc = store__fail(&g->base.fault, STORE_FAULT_newer, err,
                         "%s has schema %lld, this program knows up to %d; use the newer program", g->where,
                         (long long)*version, STORE_SCHEMA_VERSION);
    return rc;
}

static int try_lock(struct pg *g, bool *got, struct err *err)
{
    int64_t n;
    int rc = query_i64(g, "SELECT pg_try_advisory_lock(" LOCK_KEY ")::int", 0, &n, err);
    *got = !rc && n;
    return rc;
}

/* End the session of a leader that gives no sign of life. Its epoch is overtaken right after, so it cannot come back.
 */
static int end_stale_leader(struct pg *g, struct err *err)
{
    char sql[512];
    int64_t n;

    snprintf(sql, sizeof sql,
             "SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l, baton.leader d WHERE l.locktype = 'advisory'"
             " AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
             " AND ((l.classid::bigint << 32) | l.objid::bigint) = " LOCK_KEY
             " AND d.beat < clock_timestamp() - interval '%lld milliseconds'",
             (long long)g->config.limit.lease_ms);
    return query_i64(g, sql, 0, &n, err);
}

static void sleep_ms(int ms)
{
    poll(NULL, 0, ms);
}

/* The advisory lock, or the fault `locked` with who has it. */
static int take_lock(struct pg *g, int64_t version, struct err *err)
{
    int64_t end = clock_mono_ns() + INT64_C(1000000) * TAKE_OVER_MS;
    PGresult *res;
    bool got;

    int rc = try_lock(g, &got, err);
    if (rc || got)
        return rc;
    if (version >= 1 && g->config.limit.lease_ms > 0) {
        int64_t stale;
        char sql[160];
        snprintf(sql, sizeof sql,
                 "SELECT (beat < clock_timestamp() - interval '%lld milliseconds')::int FROM baton.leader",
                 (long long)g->config.limit.lease_ms);
        if ((rc = query_i64(g, sql, 0, &stale, err)) || (stale && (rc = end_stale_leader(g, err))))
            return rc;
        while (stale && !got && clock_mono_ns() < end) {
            sleep_ms(20);
            if ((rc = try_lock(g, &got, err)))
                return rc;
        }
        if (got)
            return 0;
    }
    if (version < 1)
        return store__fail(&g->base.fault, STORE_FAULT_locked, err, "%s is being set up by another controller",
                           g->where);
    if ((rc = query(g, "SELECT holder, epoch FROM baton.leader", "reading from", &res, err)))
        return rc;
    rc = store__fail(&g->base.fault, STORE_FAULT_locked, err,
                     "%s is led by another controller (%.100s, epoch %.20s); it takes over when that one is gone",
                     g->where, PQntuples(res) ? PQgetvalue(res, 0, 0) : "?",
                     PQntuples(res) ? PQgetvalue(res, 0, 1) : "?");
    PQclear(res);
    return rc;
}

static int migrate(struct pg *g, int64_t version, struct err *err)
{
    struct buf sql;
    int rc = 0;

    buf_init(&sql);
    for (int64_t i = version; i < STORE_SCHEMA_VERSION && !rc; i++) {
        buf_clear(&sql);
        buf_addf(
            &sql,
            "BEGIN; CREATE SCHEMA IF NOT EXISTS baton; CREATE TABLE IF NOT EXISTS baton.schema_version(version int"
            " PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now());");
        buf_add_str(&sql, migration[i]);
        buf_addf(&sql, "INSERT INTO baton.schema_version(version) VALUES (%d); COMMIT", (int)i + 1);
        rc = query(g, sql.data, "migrating", NULL, err);
    }
    buf_release(&sql);
    return rc;
}

/* A leader that has lost its connection and comes back: does it still lead? */
static int check_epoch(struct pg *g, struct err *err)
{
    int64_t epoch;

    if (!g->base.epoch)
        return 0;
    int rc = query_i64(g, "SELECT epoch FROM baton.leader", 0, &epoch, err);
    if (!rc && (uint64_t)epoch != g->base.epoch)
        rc = store__fail(&g->base.fault, STORE_FAULT_fenced, err, "epoch %lld leads in %s, ours is %llu",
                         (long long)epoch, g->where, (unsigned long long)g->base.epoch);
    return rc;
}

/* A new leadership counts the epoch up; a connection that was made again keeps it, unless it was overtaken meanwhile.
 */
static int take_lead(struct pg *g, struct err *err)
{
    const char *value[1] = {g->holder};
    PGresult *res;
    int rc;

    if (g->base.epoch)
        return check_epoch(g, err);
    if (!PQsendQueryParams(
            g->conn,
            "UPDATE baton.leader SET epoch = epoch + 1, batch = 0, holder = $1::text, beat = clock_timestamp()"
            " RETURNING epoch",
            1, NULL, value, NULL, NULL, 0))
        return fail_conn(g, "writing to", err);
    if ((rc = collect(g, "writing to", &res, err)))
        return rc;
    if (PQntuples(res) == 1)
        g->base.epoch = strtoull(PQgetvalue(res, 0, 0), NULL, 10);
    else
        rc = store__fail(&g->base.fault, STORE_FAULT_corrupt, err, "%s has no leader row", g->where);
    PQclear(res);
    return rc;
}

static int prepare(struct pg *g, struct err *err)
{
    for (int i = 0; i < S_N; i++) {
        if (!PQsendPrepare(g->conn, statement_name[i], statement_sql[i], 0, NULL))
            return fail_conn(g, "preparing for", err);
        int rc = collect(g, "preparing for", NULL, err);
        if (rc)
            return rc;
    }
    return 0;
}

static int session(struct pg *g, struct err *err)
{
    char sql[160];
    int64_t version;
    int rc;

    snprintf(sql, sizeof sql, "SET client_min_messages = warning; SET synchronous_commit = on; SET lock_timeout = %d",
             LOCK_TIMEOUT_MS);
    if ((rc = query(g, sql, "setting up", NULL, err)) || (rc = check_version(g, &version, err)) ||
        (rc = check_epoch(g, err)) || (rc = take_lock(g, version, err)) || (rc = check_version(g, &version, err)) ||
        (rc = migrate(g, version, err)) || (rc = take_lead(g, err)))
        return rc;
    return prepare(g, err);
}

/* Connect if there is no connection. Blocks up to connect_timeout. */
static int connect_db(struct pg *g, struct err *err)
{
    static const char *const key[] = {"dbname",    "connect_timeout", "application_name", "client_encoding",
                                      "keepalives_idle", "tcp_user_timeout", NULL};
    const char *const value[] = {g->url, "5", "baton-controller", "UTF8", "5", "5000", NULL};

    if (g->conn)
        return 0;
    g->conn = PQconnectdbParams(key, value, 1);
    if (!g->conn || PQstatus(g->conn) != CONNECTION_OK)
        return fail_conn(g, "connecting to", err);
    mem_free(g->where);
    char text[NAMED_BYTES_MAX];
    snprintf(text, sizeof text, "postgresql %.80s:%.20s/%.80s", PQhost(g->conn) ? PQhost(g->conn) : "", PQport(g->conn),
             PQdb(g->conn));
    g->where = mem_strdup(text);
    if (PQsetnonblocking(g->conn, 1) != 0)
        return fail_conn(g, "setting up", err);
    int rc = session(g, err);
    if (rc)
        drop_conn(g);
    return rc;
}

/* ---- writing: one pipeline ---- */

static void fill(struct params *p, const struct store_record *r)
{
    p->n = 0;
    if (r->kind == STORE_accept) {
        const struct store_request *q = &r->u.accept;
        add_text(p, q->id);
        add_text(p, q->tenant);
        add_text(p, q->path);
        add_text(p, q->key);
        add_bytes(p, q->body_hash, sizeof q->body_hash);
        add_bytes(p, q->prompt, (size_t)q->n_prompt * sizeof *q->prompt);
        add_i64(p, q->params_version);
        add_bytes(p, q->params, q->params_bytes);
        add_i64(p, (int64_t)q->seed);
        add_i64(p, q->created_ms);
        add_i64(p, q->deadline_ms);
        add_i64(p, q->n_choice);
    } else if (r->kind == STORE_tokens) {
        const struct store_tokens *t = &r->u.tokens;
        add_text(p, t->request);
        add_i64(p, t->choice);
        add_i64(p, t->first);
        add_i64(p, t->n);
        add_bytes(p, t->id, (size_t)t->n * sizeof *t->id);
        add_bytes(p, t->extra, t->extra_bytes);
    } else if (r->kind == STORE_end) {
        const struct store_end *e = &r->u.end;
        add_text(p, e->request);
        add_i64(p, e->choice);
        add_text(p, e->finish);
        add_text(p, e->text);
        add_i64(p, e->n_tok);
        add_i64(p, e->usage.prompt_tok);
        add_i64(p, e->usage.output_tok);
        add_i64(p, e->usage.cached_tok);
        add_i64(p, e->usage.reasoning_tok);
        add_i64(p, e->ended_ms);
    } else {
        add_text(p, r->u.prune);
    }
}

/* The statements of one record: `first` .. `last`. */
static void statements_of(enum store_kind kind, enum statement *first, enum statement *last)
{
    static const enum statement from[STORE_KIND_N] = {S_accept, S_tokens, S_end, S_prune_ended};
    *first = from[kind];
    *last = kind == STORE_prune ? S_prune_request : from[kind];
}

static bool send_prepared(struct pg *g, enum statement i, const struct params *p)
{
    /* libpq copies the values; what it cannot write at once it keeps. Reading has its turn in next_result, and the
     * server reads on as long as its answers (a few bytes a statement) fit in the socket, which PQconsumeInput sees
     * to. */
    return PQsendQueryPrepared(g->conn, statement_name[i], p->n, p->value, p->length, p->format, 1) == 1;
}

static bool send_plain(struct pg *g, const char *sql)
{
    return PQsendQueryParams(g->conn, sql, 0, NULL, NULL, NULL, NULL, 1) == 1;
}

static bool send_all(struct pg *g, struct store_batch *const *batch, size_t n)
{
    struct params p = {0};
    enum statement i, last;

    add_i64(&p, (int64_t)g->base.epoch);
    add_i64(&p, (int64_t)batch[n - 1]->seq);
    if (!send_plain(g, "BEGIN") || !send_prepared(g, S_mark, &p))
        return false;
    for (size_t b = 0; b < n; b++) {
        for (size_t k = 0; k < batch[b]->n; k++) {
            fill(&p, &batch[b]->record[k]);
            for (statements_of(batch[b]->record[k].kind, &i, &last); i <= last; i++)
                if (!send_prepared(g, i, &p))
                    return false;
            if (k % 64 == 63 && (PQflush(g->conn) < 0 || !PQconsumeInput(g->conn)))
                return false;
        }
    }
    return send_plain(g, "COMMIT") && PQpipelineSync(g->conn) == 1;
}

/* What came back for one statement. After the first error the server skips the rest of the pipeline. */
struct reading {
    int rc;
    bool repeated; /* BT002: this transaction was committed before, only its answer was lost */
    int64_t end_ns;
};

/* One statement's answer: *changed rows. Returns non-zero only if the connection is gone. */
static int read_answer(struct pg *g, struct reading *rd, int64_t *changed, struct err *err)
{
    PGresult *res = NULL, *more = NULL;
    int rc = next_result(g, rd->end_ns, &res, err);

    if (rc)
        return rc;
    if (!res)
        return fail_conn(g, "reading from", err);
    ExecStatusType st = PQresultStatus(res);
    *changed = *PQcmdTuples(res) ? strtoll(PQcmdTuples(res), NULL, 10) : 0;
    if (st != PGRES_COMMAND_OK && st != PGRES_TUPLES_OK && st != PGRES_PIPELINE_ABORTED && !rd->rc && !rd->repeated) {
        const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
        rd->repeated = state && strcmp(state, "BT002") == 0;
        if (!rd->repeated)
            rd->rc = fail_result(g, res, "committing to", err);
    }
    PQclear(res);
    rc = next_result(g, rd->end_ns, &more, err); /* the NULL behind each statement */
    PQclear(more);
    return rc;
}

static int read_all(struct pg *g, struct store_batch *const *batch, size_t n, struct store_refusals *out,
                    struct reading *rd, struct err *err)
{
    enum statement i, last;
    PGresult *res = NULL;
    int64_t changed;
    int rc;

    if ((rc = read_answer(g, rd, &changed, err)) || (rc = read_answer(g, rd, &changed, err))) /* BEGIN, mark */
        return rc;
    for (size_t b = 0; b < n; b++) {
        for (size_t k = 0; k < batch[b]->n; k++) {
            const struct store_record *r = &batch[b]->record[k];
            for (statements_of(r->kind, &i, &last); i <= last; i++)
                if ((rc = read_answer(g, rd, &changed, err)))
                    return rc;
            if (!rd->rc && !rd->repeated && r->kind != STORE_prune && changed == 0)
                store__refuse(out, batch[b]->seq, r);
        }
    }
    if ((rc = read_answer(g, rd, &changed, err)) || (rc = next_result(g, rd->end_ns, &res, err))) /* COMMIT, sync */
        return rc;
    bool synced = PQresultStatus(res) == PGRES_PIPELINE_SYNC;
    PQclear(res);
    return synced ? 0 : fail_conn(g, "committing to", err);
}

static int pg_commit(struct store_backend *base, struct store_batch *const *batch, size_t n, bool full,
                     struct store_refusals *out, struct err *err)
{
    struct pg *g = (struct pg *)base;
    struct reading rd = {0};
    int rc = connect_db(g, err);

    (void)full; /* always */
    if (rc)
        return rc;
    rd.end_ns = give_up_ns(g);
    if (!PQenterPipelineMode(g->conn))
        return fail_conn(g, "committing to", err);
    if (!send_all(g, batch, n))
        return fail_conn(g, "committing to", err);
    if ((rc = read_all(g, batch, n, out, &rd, err)))
        return rc;
    if (!PQexitPipelineMode(g->conn))
        return fail_conn(g, "committing to", err);
    if (rd.rc || rd.repeated) {
        struct err ignored;
        enum store_fault keep = base->fault;
        query(g, "ROLLBACK", "rolling back", NULL, &ignored); /* a lost connection rolls back as well */
        base->fault = keep;
    }
    return rd.rc;
}

static int pg_sync(struct store_backend *base, struct err *err)
{
    (void)base;
    (void)err;
    return 0;
}

static int pg_beat(struct store_backend *base, struct err *err)
{
    struct pg *g = (struct pg *)base;
    struct params p = {0};
    PGresult *res;
    int rc = connect_db(g, err);

    if (rc)
        return rc;
    add_i64(&p, (int64_t)base->epoch);
    if ((rc = query_prepared(g, S_beat, &p, "writing to", &res, err)))
        return rc;
    if (strcmp(PQcmdTuples(res), "1") != 0)
        rc = store__fail(&base->fault, STORE_FAULT_fenced, err, "another controller leads in %s, our epoch was %llu",
                         g->where, (unsigned long long)base->epoch);
    PQclear(res);
    return rc;
}

/* ---- reading: pages of requests with all that belongs to them ---- */

static int64_t i64_at(const PGresult *res, int row, int col)
{
    uint64_t v;
    if (PQgetlength(res, row, col) != sizeof v)
        return -1;
    memcpy(&v, PQgetvalue(res, row, col), sizeof v);
    return (int64_t)be64toh(v);
}

static bool is_of(const PGresult *res, int row, const char *id)
{
    return row < PQntuples(res) && strcmp(PQgetvalue(res, row, 0), id) == 0;
}

/* libpq aligns no value, so ids are copied. Returns the number, or -1. */
static int64_t ids_at(const PGresult *res, int row, int col, struct buf *copy)
{
    int n = PQgetlength(res, row, col);
    buf_clear(copy);
    buf_add(copy, PQgetvalue(res, row, col), (size_t)n);
    return n % 4 == 0 ? n / 4 : -1;
}

struct page {
    PGresult *request, *token, *ended;
    int i_token, i_ended;
    struct buf ids;
};

static int load_parts(struct pg *g, struct page *p, const char *id, const struct store_visitor *v, void *arg,
                      struct err *err)
{
    int rc = 0;

    for (; !rc && is_of(p->token, p->i_token, id); p->i_token++) {
        const PGresult *t = p->token;
        int i = p->i_token;
        struct store_tokens tok = {.request = id,
                                   .choice = (int32_t)i64_at(t, i, 1),
                                   .first = i64_at(t, i, 2),
                                   .n = (int32_t)i64_at(t, i, 3),
                                   .extra = PQgetvalue(t, i, 5),
                                   .extra_bytes = (size_t)PQgetlength(t, i, 5)};
        if (ids_at(t, i, 4, &p->ids) != tok.n)
            return store__fail(&g->base.fault, STORE_FAULT_corrupt, err,
                               "%s: request %s has a row of tokens of the wrong length", g->where, id);
        tok.id = (const int32_t *)(void *)p->ids.data;
        rc = v->on_tokens(arg, &tok);
    }
    for (; !rc && is_of(p->ended, p->i_ended, id); p->i_ended++) {
        const PGresult *e = p->ended;
        int i = p->i_ended;
        struct store_end end = {.request = id,
                                .choice = (int32_t)i64_at(e, i, 1),
                                .finish = PQgetvalue(e, i, 2),
                                .text = PQgetvalue(e, i, 3),
                                .n_tok = i64_at(e, i, 4),
                                .usage = {i64_at(e, i, 5), i64_at(e, i, 6), i64_at(e, i, 7), i64_at(e, i, 8)},
                                .ended_ms = i64_at(e, i, 9)};
        rc = v->on_end(arg, &end);
    }
    return rc;
}

static int load_row(struct pg *g, struct page *p, int i, const struct store_visitor *v, void *arg, struct err *err)
{
    const PGresult *q = p->request;
    struct store_request r = {.id = PQgetvalue(q, i, 0),
                              .tenant = PQgetvalue(q, i, 1),
                              .path = PQgetvalue(q, i, 2),
                              .key = PQgetisnull(q, i, 3) ? NULL : PQgetvalue(q, i, 3),
                              .params_version = (int32_t)i64_at(q, i, 6),
                              .params = PQgetvalue(q, i, 7),
                              .params_bytes = (size_t)PQgetlength(q, i, 7),
                              .seed = (uint64_t)i64_at(q, i, 8),
                              .created_ms = i64_at(q, i, 9),
                              .deadline_ms = i64_at(q, i, 10),
                              .n_choice = (int32_t)i64_at(q, i, 11)};

    r.n_prompt = ids_at(q, i, 5, &p->ids);
    r.prompt = (const int32_t *)(void *)p->ids.data;
    if (PQgetlength(q, i, 4) != STORE_HASH_BYTES || r.n_prompt < 0)
        return store__fail(&g->base.fault, STORE_FAULT_corrupt, err,
                           "%s: request %s has a column of the wrong length", g->where, r.id);
    memcpy(r.body_hash, PQgetvalue(q, i, 4), sizeof r.body_hash);
    int rc = v->on_request(arg, &r);
    return rc ? rc : load_parts(g, p, r.id, v, arg, err);
}

static int pg_load(struct store_backend *base, enum store_load_what what, const struct store_visitor *v, void *arg,
                   struct err *err)
{
    struct pg *g = (struct pg *)base;
    char last_id[STORE_ID_MAX] = "";
    int64_t last_ms = INT64_MIN;
    int n = PAGE_ROWS, rc = connect_db(g, err);

    while (!rc && n == PAGE_ROWS) {
        struct page p = {0};
        struct params a = {0};
        add_bytes(&a, what == STORE_LOAD_live ? "\1" : "\0", 1);
        add_i64(&a, last_ms);
        add_text(&a, last_id);
        if (!(rc = query_prepared(g, S_load_request, &a, "reading from", &p.request, err)) &&
            !(rc = query_prepared(g, S_load_token, &a, "reading from", &p.token, err)))
            rc = query_prepared(g, S_load_ended, &a, "reading from", &p.ended, err);
        n = rc ? 0 : PQntuples(p.request);
        for (int i = 0; i < n && !rc; i++)
            rc = load_row(g, &p, i, v, arg, err);
        if (!rc && n) {
            last_ms = i64_at(p.request, n - 1, 9);
            snprintf(last_id, sizeof last_id, "%s", PQgetvalue(p.request, n - 1, 0));
        }
        PQclear(p.request);
        PQclear(p.token);
        PQclear(p.ended);
        buf_release(&p.ids);
    }
    return rc;
}

/* ---- open and close ---- */

static void pg_close(struct store_backend **b_p)
{
    struct pg *g = (struct pg *)*b_p;

    if (!g)
        return;
    *b_p = NULL;
    drop_conn(g); /* gives the lock back */
    mem_free(g->url);
    mem_free(g->where);
    mem_free(g->holder);
    mem_free(g);
}

static int pg_open(const struct store_config *c, struct store_backend **b_p, enum store_fault *fault, struct err *err)
{
    struct pg *g = mem_zalloc(sizeof *g);
    struct store_backend *base = &g->base;
    char holder[128];

    base->ops = &store__postgres;
    g->config = *c;
    g->url = mem_strdup(c->url);
    g->where = mem_strdup("postgresql");
    store__holder(c, holder, sizeof holder);
    g->holder = mem_strdup(holder);
    int rc = connect_db(g, err);
    if (rc) {
        *fault = base->fault;
        pg_close(&base);
        return rc;
    }
    *b_p = base;
    return 0;
}

const struct store_backend_ops store__postgres = {
    .name = "postgresql",
    .open = pg_open,
    .commit = pg_commit,
    .sync = pg_sync,
    .beat = pg_beat,
    .load = pg_load,
    .close = pg_close,
    .lazy_is_durable = true,
    .needs_beat = true,
};
