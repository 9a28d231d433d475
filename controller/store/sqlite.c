/* The store in one SQLite file: write-ahead log, one connection that holds the file alone.
 *
 * Why locking_mode=EXCLUSIVE: a second controller on the same file must be refused, and without shared memory beside
 * the file no full disk can end in a SIGBUS. The price: other programs cannot read the file while the controller
 * runs.
 *
 * Durability: synchronous=NORMAL, so that a commit only writes the log, which any process death survives; a FULL one
 * syncs it before it is reported (sync_log). The log is one sequence, so a sync makes everything before it durable, and after a
 * power cut it is valid up to some commit: never a later record without an earlier one.
 */
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "controller/store/sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum {
    APPLICATION_ID = 0x42746e31, /* "Btn1": tells our files from those of other programs */
    OPEN_BUSY_MS = 200,          /* how long the opening waits for another process: one that just ends */
};

/* Forward only: a migration that was released is never changed. Number N brings version N-1 to N. */
static const char *const migration[STORE_SCHEMA_VERSION] = {
    /* 1 */
    "CREATE TABLE leader(one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL, batch INTEGER NOT NULL,"
    " holder TEXT NOT NULL, beat_ms INTEGER NOT NULL);"
    "INSERT INTO leader VALUES (1, 0, 0, '', 0);"
    "CREATE TABLE request(id TEXT PRIMARY KEY, tenant TEXT NOT NULL, path TEXT NOT NULL, key TEXT, body_hash BLOB "
    "NOT NULL,"
    " prompt BLOB NOT NULL, params_version INTEGER NOT NULL, params BLOB NOT NULL, seed INTEGER NOT NULL,"
    " created_ms INTEGER NOT NULL, deadline_ms INTEGER NOT NULL, n_choice INTEGER NOT NULL);"
    "CREATE UNIQUE INDEX request_key ON request(tenant, path, key) WHERE key IS NOT NULL;"
    "CREATE INDEX request_age ON request(created_ms, id);"
    "CREATE TABLE token(request TEXT NOT NULL, choice INTEGER NOT NULL, first INTEGER NOT NULL, n INTEGER NOT NULL,"
    " ids BLOB NOT NULL, extra BLOB NOT NULL, PRIMARY KEY (request, choice, first)) WITHOUT ROWID;"
    "CREATE TABLE ended(request TEXT NOT NULL, choice INTEGER NOT NULL, finish TEXT NOT NULL, text TEXT NOT NULL,"
    " n_tok INTEGER NOT NULL, prompt_tok INTEGER NOT NULL, output_tok INTEGER NOT NULL, cached_tok INTEGER NOT NULL,"
    " reasoning_tok INTEGER NOT NULL, ended_ms INTEGER NOT NULL, PRIMARY KEY (request, choice)) WITHOUT ROWID;",
    /* 2: numbers instead of ids as keys, wide columns last, what is live as a table of its own; runs */
    "ALTER TABLE request RENAME TO request1; ALTER TABLE token RENAME TO token1; ALTER TABLE ended RENAME TO ended1;"
    "DROP INDEX request_key; DROP INDEX request_age;"
    "CREATE TABLE request(n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, n_choice INTEGER NOT NULL,"
    " created_ms INTEGER NOT NULL, deadline_ms INTEGER NOT NULL, seed INTEGER NOT NULL, tenant TEXT NOT NULL,"
    " path TEXT NOT NULL, key TEXT, body_hash BLOB NOT NULL, params_version INTEGER NOT NULL, params BLOB NOT NULL,"
    " prompt BLOB NOT NULL);"
    "INSERT INTO request(id, n_choice, created_ms, deadline_ms, seed, tenant, path, key, body_hash, params_version,"
    " params, prompt) SELECT id, n_choice, created_ms, deadline_ms, seed, tenant, path, key, body_hash, params_version,"
    " params, prompt FROM request1 ORDER BY created_ms, id;"
    "CREATE UNIQUE INDEX request_key ON request(tenant, path, key) WHERE key IS NOT NULL;"
    "CREATE INDEX request_age ON request(created_ms);"
    "CREATE TABLE token(request INTEGER NOT NULL, choice INTEGER NOT NULL, first INTEGER NOT NULL, n INTEGER NOT NULL,"
    " ids BLOB NOT NULL, extra BLOB NOT NULL, PRIMARY KEY (request, choice, first)) WITHOUT ROWID;"
    "INSERT INTO token SELECT r.n, t.choice, t.first, t.n, t.ids, t.extra FROM request r JOIN token1 t"
    " ON t.request = r.id ORDER BY 1, 2, 3;"
    "CREATE TABLE ended(request INTEGER NOT NULL, choice INTEGER NOT NULL, finish TEXT NOT NULL, text TEXT NOT NULL,"
    " n_tok INTEGER NOT NULL, prompt_tok INTEGER NOT NULL, output_tok INTEGER NOT NULL, cached_tok INTEGER NOT NULL,"
    " reasoning_tok INTEGER NOT NULL, ended_ms INTEGER NOT NULL, PRIMARY KEY (request, choice)) WITHOUT ROWID;"
    "INSERT INTO ended SELECT r.n, e.choice, e.finish, e.text, e.n_tok, e.prompt_tok, e.output_tok, e.cached_tok,"
    " e.reasoning_tok, e.ended_ms FROM request r JOIN ended1 e ON e.request = r.id ORDER BY 1, 2;"
    "DROP TABLE request1; DROP TABLE token1; DROP TABLE ended1;"
    "CREATE TABLE live(request INTEGER PRIMARY KEY);"
    "INSERT INTO live SELECT n FROM request r WHERE (SELECT count(*) FROM ended WHERE request = r.n) < n_choice;"
    "CREATE TABLE run(n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, created_ms INTEGER NOT NULL,"
    " deadline_ms INTEGER NOT NULL, tenant TEXT NOT NULL, key TEXT, body_hash BLOB NOT NULL, name TEXT NOT NULL,"
    " parent TEXT, pipeline TEXT NOT NULL, input TEXT NOT NULL);"
    "CREATE UNIQUE INDEX run_key ON run(tenant, key) WHERE key IS NOT NULL;"
    "CREATE INDEX run_tenant ON run(tenant);"
    "CREATE INDEX run_age ON run(created_ms);"
    "CREATE TABLE live_run(run INTEGER PRIMARY KEY);"
    "CREATE TABLE step(run INTEGER NOT NULL, path TEXT NOT NULL, attempt INTEGER NOT NULL, state TEXT NOT NULL,"
    " ord INTEGER NOT NULL, request TEXT, error TEXT, prompt_tok INTEGER NOT NULL, output_tok INTEGER NOT NULL,"
    " cached_tok INTEGER NOT NULL, reasoning_tok INTEGER NOT NULL, at_ms INTEGER NOT NULL, result TEXT,"
    " PRIMARY KEY (run, path, attempt, state)) WITHOUT ROWID;"
    "CREATE TABLE run_end(run INTEGER PRIMARY KEY, state TEXT NOT NULL, error TEXT, prompt_tok INTEGER NOT NULL,"
    " output_tok INTEGER NOT NULL, cached_tok INTEGER NOT NULL, reasoning_tok INTEGER NOT NULL,"
    " ended_ms INTEGER NOT NULL, output TEXT);",
};

static const char *const statement_sql[SQ_N] = {
#define X(name, sql) sql,
    SQ_STATEMENT_LIST(X)
#undef X
};

/* ---- errors ---- */

static enum store_fault fault_of(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_FULL: return STORE_FAULT_disk_full;
    case SQLITE_READONLY: return STORE_FAULT_read_only;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return STORE_FAULT_locked;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return STORE_FAULT_corrupt;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_NOLFS:
    case SQLITE_NOMEM: return STORE_FAULT_io;
    default: return STORE_FAULT_internal;
    }
}

static const char *const advice[STORE_FAULT_N] = {
    [STORE_FAULT_disk_full] = "; free some space there",
    [STORE_FAULT_read_only] = "; make file and directory writable",
    [STORE_FAULT_locked] = "; another process uses it (a second controller?): stop that one or choose another file",
    [STORE_FAULT_corrupt] = "; restore it from a backup or choose another file",
};

/* The system's error of the last write. The connection has forgotten it by now; the log's file has not. */
static int write_errno(struct sq *q)
{
    sqlite3_file *f = NULL;
    int os = 0;
    if (sqlite3_file_control(q->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &f) == SQLITE_OK && f && f->pMethods)
        f->pMethods->xFileControl(f, SQLITE_FCNTL_LAST_ERRNO, &os);
    return os;
}

int store__sq_fail(struct sq *q, int rc, const char *doing, struct err *err)
{
    enum store_fault f = fault_of(rc);
    int os = !q->db ? 0 : rc == SQLITE_IOERR_WRITE ? write_errno(q) : sqlite3_system_errno(q->db);
    const char *what = q->db ? sqlite3_errmsg(q->db) : sqlite3_errstr(rc);

    if (f == STORE_FAULT_io && (os == ENOSPC || os == EDQUOT || os == EFBIG))
        f = STORE_FAULT_disk_full;
    if (f == STORE_FAULT_io && os == EROFS)
        f = STORE_FAULT_read_only;
    if (rc == SQLITE_IOERR_FSYNC || rc == SQLITE_IOERR_DIR_FSYNC)
        q->suspicious = true;
    return store__fail(&q->base.fault, f, err, "%s %s: %s%s%s%s%s", doing, q->path, what, os ? " (" : "",
                       os ? strerror(os) : "", os ? ")" : "", advice[f] ? advice[f] : "");
}

int store__sq_corrupt(struct sq *q, struct err *err, const char *what)
{
    return store__fail(&q->base.fault, STORE_FAULT_corrupt, err, "%s: %s%s", q->path, what,
                       advice[STORE_FAULT_corrupt]);
}

/* ---- small steps ---- */

static int exec(struct sq *q, const char *sql, const char *doing, struct err *err)
{
    int rc = sqlite3_exec(q->db, sql, NULL, NULL, NULL);
    return rc ? store__sq_fail(q, sqlite3_extended_errcode(q->db), doing, err) : 0;
}

int store__sq_run(struct sq *q, enum sq_statement i, const char *doing, struct err *err)
{
    int rc = sqlite3_step(q->st[i]);
    int out = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0
                                                    : store__sq_fail(q, sqlite3_extended_errcode(q->db), doing, err);
    sqlite3_reset(q->st[i]);
    sqlite3_clear_bindings(q->st[i]);
    return out;
}

/* The first column of the first row of sql. */
static int get_i64(struct sq *q, const char *sql, const char *doing, int64_t *out, struct err *err)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(q->db, sql, -1, &st, NULL);
    if (!rc)
        rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        *out = sqlite3_column_int64(st, 0);
    int code = rc == SQLITE_ROW ? 0 : store__sq_fail(q, sqlite3_extended_errcode(q->db), doing, err);
    sqlite3_finalize(st);
    return code;
}

/* The log reaches the disk. Why not synchronous=FULL: a pragma costs more than a commit to memory, it would have to
 * change between LAZY and FULL, and this is the same call on the same file, right after the commit. */
static int sync_log(struct sq *q, struct err *err)
{
    sqlite3_file *f = NULL;
    int os = 0;

    int rc = sqlite3_file_control(q->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &f);
    if (rc || !f || !f->pMethods)
        return store__fail(&q->base.fault, STORE_FAULT_internal, err, "%s has no log to sync", q->path);
    rc = f->pMethods->xSync(f, SQLITE_SYNC_NORMAL);
    if (!rc)
        return 0;
    q->suspicious = true;
    f->pMethods->xFileControl(f, SQLITE_FCNTL_LAST_ERRNO, &os);
    enum store_fault fault = os == ENOSPC || os == EDQUOT ? STORE_FAULT_disk_full : STORE_FAULT_io;
    return store__fail(&q->base.fault, fault, err, "syncing the log of %s: %s%s%s%s", q->path, sqlite3_errstr(rc),
                       os ? " (" : "", os ? strerror(os) : "", os ? ")" : "");
}

/* After a failed sync the kernel may have dropped what it could not write and call the next sync good. So everything
 * in the log is written once more, into the database file, before anything is acknowledged again. */
static int heal(struct sq *q, struct err *err)
{
    if (!q->suspicious)
        return 0;
    int rc = sqlite3_wal_checkpoint_v2(q->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    if (rc)
        return store__sq_fail(q, sqlite3_extended_errcode(q->db), "moving the log into", err);
    q->suspicious = false;
    return 0;
}

static void roll_back(struct sq *q)
{
    struct err ignored;
    enum store_fault keep = q->base.fault;
    /* Many errors roll back by themselves; then there is nothing to do. */
    store__sq_forget(q);
    if (!sqlite3_get_autocommit(q->db))
        store__sq_run(q, SQ_rollback, "rolling back", &ignored);
    q->base.fault = keep;
}

/* ---- writing ---- */

/* Why mark() has changed nothing: are we no longer the leader, or was batch seq committed before (and its answer
 * lost)? */
static int check_leader(struct sq *q, uint64_t seq, bool *done, struct err *err)
{
    int rc = sqlite3_step(q->st[SQ_leader]);
    int64_t epoch = rc == SQLITE_ROW ? sqlite3_column_int64(q->st[SQ_leader], 0) : 0;
    int64_t batch = rc == SQLITE_ROW ? sqlite3_column_int64(q->st[SQ_leader], 1) : 0;
    int code = 0;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        code = store__sq_fail(q, sqlite3_extended_errcode(q->db), "reading", err);

    sqlite3_reset(q->st[SQ_leader]);
    if (code)
        return code;
    if (rc == SQLITE_DONE)
        return store__sq_corrupt(q, err, "there is no leader row");
    if ((uint64_t)epoch != q->base.epoch)
        return store__fail(&q->base.fault, STORE_FAULT_fenced, err, "epoch %lld leads in %s, ours is %llu",
                           (long long)epoch, q->path, (unsigned long long)q->base.epoch);
    ASSERT((uint64_t)batch >= seq);
    *done = true;
    return 0;
}

/* First in each transaction: its number goes into the leader row. */
static int mark(struct sq *q, uint64_t seq, bool *done, struct err *err)
{
    sqlite3_bind_int64(q->st[SQ_mark], 1, (int64_t)seq);
    sqlite3_bind_int64(q->st[SQ_mark], 2, clock_wall_ms());
    sqlite3_bind_int64(q->st[SQ_mark], 3, (int64_t)q->base.epoch);
    int rc = store__sq_run(q, SQ_mark, "writing to", err);
    if (!rc && sqlite3_changes(q->db) == 0)
        rc = check_leader(q, seq, done, err);
    return rc;
}

static int sq_commit(struct store_backend *base, struct store_batch *const *batch, size_t n, bool full,
                     struct store_refusals *out, struct err *err)
{
    struct sq *q = (struct sq *)base;
    bool done = false;

    int rc = heal(q, err);
    if (rc)
        return rc;
    rc = store__sq_run(q, SQ_begin, "writing to", err);
    if (!rc)
        rc = mark(q, batch[n - 1]->seq, &done, err);
    for (size_t i = 0; i < n && !done && !rc; i++)
        rc = store__sq_write(q, batch[i], out, err);
    if (!rc)
        rc = store__sq_run(q, SQ_commit, "committing to", err);
    if (rc)
        roll_back(q);
    else if (full)
        rc = sync_log(q, err);
    return rc;
}

static int sq_sync(struct store_backend *base, struct err *err)
{
    struct sq *q = (struct sq *)base;
    int rc = heal(q, err);
    return rc ? rc : sync_log(q, err);
}

/* ---- open and close ---- */

/* Is it ours, whole, and not from the future? */
static int check_file(struct sq *q, const struct store_config *c, int64_t *version, struct err *err)
{
    int64_t app = 0, n_table = 0, bytes = 0;
    int rc;

    if ((rc = get_i64(q, "PRAGMA application_id", "opening", &app, err)) ||
        (rc = get_i64(q, "SELECT count(*) FROM sqlite_master", "opening", &n_table, err)) ||
        (rc = get_i64(q, "PRAGMA user_version", "opening", version, err)) ||
        (rc = get_i64(q, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size", "opening", &bytes,
                      err)))
        return rc;
    if (app != APPLICATION_ID && (app || n_table || *version))
        return store__fail(&q->base.fault, STORE_FAULT_corrupt, err,
                           "%s is a database of another program; choose another file", q->path);
    if (*version > STORE_SCHEMA_VERSION)
        return store__fail(&q->base.fault, STORE_FAULT_newer, err,
                           "%s has schema %lld, this program knows up to %d; use the newer program", q->path,
                           (long long)*version, STORE_SCHEMA_VERSION);
    if (bytes > c->limit.check_bytes_max)
        return 0;
    sqlite3_stmt *st = NULL;
    rc = sqlite3_prepare_v2(q->db, "PRAGMA quick_check(1)", -1, &st, NULL);
    if (!rc)
        rc = sqlite3_step(st);
    if (rc != SQLITE_ROW)
        rc = store__sq_fail(q, sqlite3_extended_errcode(q->db), "checking", err);
    else if (strcmp((const char *)sqlite3_column_text(st, 0), "ok") != 0)
        rc = store__fail(&q->base.fault, STORE_FAULT_corrupt, err, "%s is damaged (%.200s)%s", q->path,
                         (const char *)sqlite3_column_text(st, 0), advice[STORE_FAULT_corrupt]);
    else
        rc = 0;
    sqlite3_finalize(st);
    return rc;
}

/* Each step is a transaction of its own, with the number inside it. */
static int migrate(struct sq *q, int64_t version, struct err *err)
{
    char number[96];
    int rc = 0;

    for (int64_t i = version; i < STORE_SCHEMA_VERSION && !rc; i++) {
        sqlite3_snprintf(sizeof number, number, "PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT",
                         APPLICATION_ID, (int)i + 1);
        if (!(rc = exec(q, "BEGIN IMMEDIATE", "migrating", err)) && !(rc = exec(q, migration[i], "migrating", err)))
            rc = exec(q, number, "migrating", err);
    }
    return rc;
}

/* A new epoch at each start, and batches count from 1 again. */
static int take_lead(struct sq *q, const struct store_config *c, struct err *err)
{
    char holder[128];
    sqlite3_stmt *st = NULL;
    int64_t epoch = 0;
    int rc;

    store__holder(c, holder, sizeof holder);
    rc = sqlite3_prepare_v2(q->db, "UPDATE leader SET epoch = epoch + 1, batch = 0, holder = ?1, beat_ms = ?2", -1,
                            &st, NULL);
    if (!rc) {
        sqlite3_bind_text(st, 1, holder, -1, SQLITE_STATIC);
        sqlite3_bind_int64(st, 2, clock_wall_ms());
        rc = sqlite3_step(st);
    }
    rc = rc == SQLITE_DONE ? 0 : store__sq_fail(q, sqlite3_extended_errcode(q->db), "writing to", err);
    sqlite3_finalize(st);
    if (!rc)
        rc = get_i64(q, "SELECT epoch FROM leader", "reading", &epoch, err);
    q->base.epoch = (uint64_t)epoch;
    return rc;
}

static int set_up(struct sq *q, const struct store_config *c, struct err *err)
{
    char pragma[96];
    int64_t version = 0;
    int rc;

    sqlite3_extended_result_codes(q->db, 1);
    sqlite3_busy_timeout(q->db, OPEN_BUSY_MS);
    if (sqlite3_db_readonly(q->db, "main") == 1)
        return store__fail(&q->base.fault, STORE_FAULT_read_only, err, "%s cannot be written%s", q->path,
                           advice[STORE_FAULT_read_only]);
    /* The lock is taken by the first access and kept; the log comes after it, so that it needs no shared memory. */
    if ((rc = exec(q, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON",
                   "opening", err)) ||
        (rc = check_file(q, c, &version, err)) ||
        (rc = exec(q, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL", "opening", err)))
        return rc;
    sqlite3_snprintf(sizeof pragma, pragma, "PRAGMA wal_autocheckpoint=%lld", (long long)c->limit.checkpoint_pages);
    if ((rc = exec(q, pragma, "opening", err)) || (rc = migrate(q, version, err)) || (rc = take_lead(q, c, err)) ||
        (rc = sync_log(q, err))) /* others will see the epoch: no power cut may take it back */
        return rc;
    for (int i = 0; i < SQ_N; i++)
        if (sqlite3_prepare_v3(q->db, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT, &q->st[i], NULL))
            return store__sq_fail(q, sqlite3_extended_errcode(q->db), "preparing for", err);
    return 0;
}

static void sq_close(struct store_backend **b_p)
{
    struct sq *q = (struct sq *)*b_p;

    if (!q)
        return;
    *b_p = NULL;
    store__sq_cache_destroy(q);
    for (int i = 0; i < SQ_N; i++)
        sqlite3_finalize(q->st[i]);
    if (q->db) {
        int rc = sqlite3_close(q->db); /* moves the log into the file */
        ASSERT(rc == SQLITE_OK);
    }
    mem_free(q->path);
    mem_free(q);
}

static int sq_open(const struct store_config *c, struct store_backend **b_p, enum store_fault *fault, struct err *err)
{
    struct sq *q = mem_zalloc(sizeof *q);
    struct store_backend *base = &q->base;
    const char *path = strncmp(c->url, "sqlite:", 7) == 0 ? c->url + 7 : c->url;

    base->ops = &store__sqlite;
    q->path = mem_strdup(path);
    /* Prompts are nobody else's business. SQLite gives the log the rights of the file. */
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    int rc = sqlite3_open_v2(path, &q->db,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE,
                             c->vfs);
    rc = rc ? store__sq_fail(q, rc, "opening", err) : set_up(q, c, err);
    if (rc) {
        *fault = base->fault;
        sq_close(&base);
        return rc;
    }
    *b_p = base;
    return 0;
}

const struct store_backend_ops store__sqlite = {
    .name = "sqlite",
    .open = sq_open,
    .commit = sq_commit,
    .sync = sq_sync,
    .beat = NULL,
    .load = store__sq_load,
    .fetch = store__sq_fetch,
    .close = sq_close,
};
