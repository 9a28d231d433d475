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
#include "controller/store/postgres.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPEN_BUSY_MS = 200,       /* how long the opening waits for another session: one that just ends */
    CLOSE_MS = 1000,          /* how long the closing waits for the server to give the lock back */
    TAKE_OVER_MS = 2000,      /* how long a session may take to end that was told to */
    LOCK_TIMEOUT_MS = 5000,   /* waiting for the leader row; another transaction holds it for a moment only */
    NAMED_BYTES_MAX = 256,
};

#define LOCK_KEY "4774451407313061425" /* "BBBBBBF1": the advisory lock of the leader */

/* Forward only, as in sqlite.c, number by number for the same records. */
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
    " IF r.epoch <> e THEN RAISE EXCEPTION 'epoch % of % leads, ours is %', r.epoch, r.holder, e USING "
    "ERRCODE='BT001';"
    " END IF; IF r.batch >= b THEN RAISE EXCEPTION 'batch % is committed', b USING ERRCODE='BT002'; END IF;"
    " UPDATE baton.leader SET batch = b, beat = clock_timestamp(); END $$;",
    /* 2: what is live as a table of its own; runs */
    "CREATE TABLE baton.live(request text PRIMARY KEY);"
    "INSERT INTO baton.live SELECT id FROM baton.request r"
    " WHERE (SELECT count(*) FROM baton.ended e WHERE e.request = r.id) < r.n_choice;"
    "CREATE TABLE baton.run(id text PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY UNIQUE, tenant text NOT NULL,"
    " key text, body_hash bytea NOT NULL, name text NOT NULL, pipeline text NOT NULL, input text NOT NULL, parent "
    "text,"
    " created_ms bigint NOT NULL, deadline_ms bigint NOT NULL);"
    "CREATE UNIQUE INDEX run_key ON baton.run(tenant, key) WHERE key IS NOT NULL;"
    "CREATE INDEX run_tenant ON baton.run(tenant, n);"
    "CREATE INDEX run_age ON baton.run(created_ms, id COLLATE \"C\");"
    "CREATE TABLE baton.live_run(run text PRIMARY KEY);"
    "CREATE TABLE baton.step(run text NOT NULL, path text NOT NULL, attempt int NOT NULL, state text NOT NULL,"
    " ord bigint GENERATED ALWAYS AS IDENTITY, result text, request text, error text, prompt_tok bigint NOT NULL,"
    " output_tok bigint NOT NULL, cached_tok bigint NOT NULL, reasoning_tok bigint NOT NULL, at_ms bigint NOT NULL,"
    " PRIMARY KEY (run, path, attempt, state));"
    "CREATE UNIQUE INDEX step_done ON baton.step(run, path) WHERE state = 'done';"
    "CREATE TABLE baton.run_end(run text PRIMARY KEY, state text NOT NULL, output text, error text,"
    " prompt_tok bigint NOT NULL, output_tok bigint NOT NULL, cached_tok bigint NOT NULL, reasoning_tok bigint NOT "
    "NULL,"
    " ended_ms bigint NOT NULL);",
};

static const char *const statement_name[PG_N] = {
#define X(name, sql) #name,
    PG_STATEMENT_LIST(X)
#undef X
};

static const char *const statement_sql[PG_N] = {
#define X(name, sql) sql,
    PG_STATEMENT_LIST(X)
#undef X
};

static void add_bytes(struct pg_params *p, const void *data, size_t n)
{
    p->value[p->n] = n ? data : "";
    p->length[p->n] = (int)n; /* STORE_BLOB_BYTES_MAX and STORE_TOKENS_MAX keep it small */
    p->format[p->n++] = 1;
}

void store__pg_add_text(struct pg_params *p, const char *s)
{
    p->value[p->n] = s;
    p->length[p->n] = 0;
    p->format[p->n++] = 0;
}

void store__pg_add_i64(struct pg_params *p, int64_t v)
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

int store__pg_query(struct pg *g, enum pg_statement i, const struct pg_params *p, const char *doing, PGresult **out,
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
    for (int ms = 0; !rc && !got && ms < OPEN_BUSY_MS; ms += 20) {
        sleep_ms(20);
        rc = try_lock(g, &got, err);
    }
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
    for (int i = 0; i < PG_N; i++) {
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

int store__pg_connect(struct pg *g, struct err *err)
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

static void add_cells(struct pg_params *p, const struct store_cell *cell, int n)
{
    p->n = 0;
    for (int i = 0; i < n; i++) {
        if (cell[i].type == STORE_CELL_i64)
            store__pg_add_i64(p, cell[i].i);
        else if (cell[i].type == STORE_CELL_bytes)
            add_bytes(p, cell[i].p, cell[i].n);
        else
            store__pg_add_text(p, cell[i].p);
    }
}

static const enum pg_statement statement_of[STORE_KIND_N] = {
#define X(kind) PG_##kind,
    STORE_KIND_LIST(X)
#undef X
};

static bool send_prepared(struct pg *g, enum pg_statement i, const struct pg_params *p)
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
    struct store_cell cell[STORE_CELLS_MAX];
    struct pg_params p = {0};

    store__pg_add_i64(&p, (int64_t)g->base.epoch);
    store__pg_add_i64(&p, (int64_t)batch[n - 1]->seq);
    if (!send_plain(g, "BEGIN") || !send_prepared(g, PG_mark, &p))
        return false;
    for (size_t b = 0; b < n; b++) {
        for (size_t k = 0; k < batch[b]->n; k++) {
            const struct store_record *r = &batch[b]->record[k];
            add_cells(&p, cell, store__pack(r, cell));
            if (!send_prepared(g, statement_of[r->kind], &p))
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
    PGresult *res = NULL;
    int64_t changed;
    int rc;

    if ((rc = read_answer(g, rd, &changed, err)) || (rc = read_answer(g, rd, &changed, err))) /* BEGIN, mark */
        return rc;
    for (size_t b = 0; b < n; b++) {
        for (size_t k = 0; k < batch[b]->n; k++) {
            const struct store_record *r = &batch[b]->record[k];
            if ((rc = read_answer(g, rd, &changed, err)))
                return rc;
            bool deletes = r->kind == STORE_prune || r->kind == STORE_prune_run;
            if (!rd->rc && !rd->repeated && !deletes && changed == 0)
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
    int rc = store__pg_connect(g, err);

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
    struct pg_params p = {0};
    PGresult *res;
    int rc = store__pg_connect(g, err);

    if (rc)
        return rc;
    store__pg_add_i64(&p, (int64_t)base->epoch);
    if ((rc = store__pg_query(g, PG_beat, &p, "writing to", &res, err)))
        return rc;
    if (strcmp(PQcmdTuples(res), "1") != 0)
        rc = store__fail(&base->fault, STORE_FAULT_fenced, err, "another controller leads in %s, our epoch was %llu",
                         g->where, (unsigned long long)base->epoch);
    PQclear(res);
    return rc;
}

/* ---- open and close ---- */

static void pg_close(struct store_backend **b_p)
{
    struct pg *g = (struct pg *)*b_p;

    if (!g)
        return;
    *b_p = NULL;
    if (g->conn && PQtransactionStatus(g->conn) == PQTRANS_IDLE) {
        struct err ignored;
        g->config.limit.commit_ms = CLOSE_MS;
        /* The end of the session gives it back as well, but some time after we are gone. */
        query(g, "SELECT pg_advisory_unlock_all()", "closing", NULL, &ignored);
    }
    drop_conn(g);
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
    int rc = store__pg_connect(g, err);
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
    .load = store__pg_load,
    .fetch = store__pg_fetch,
    .close = pg_close,
    .lazy_is_durable = true,
    .needs_beat = true,
};
