/* The store in one SQLite file: write-ahead log, one connection that holds the file alone.
 *
 * Why locking_mode=EXCLUSIVE: a second controller on the same file must be refused, and without shared memory beside
 * the file no full disk can end in a SIGBUS. The price: other programs cannot read the file while the controller
 * runs.
 *
 * Durability: a commit with synchronous=FULL syncs the log before it returns, one with NORMAL only writes it, which
 * any process death survives. The log is one sequence, so a sync makes everything before it durable, and after a
 * power cut it is valid up to some commit: never a later record without an earlier one.
 */
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "controller/store/backend.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are stored as they are in memory, little-endian");

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
};

#define NEXT_INDEX(request, choice)                                                                    \
    "coalesce((SELECT first + n FROM token WHERE request = " request " AND choice = " choice            \
    " ORDER BY first DESC LIMIT 1), 0)"

/* One list: enum, text, and what is prepared at open. */
#define STATEMENT_LIST(X)                                                                                           \
    X(begin, "BEGIN IMMEDIATE")                                                                                     \
    X(commit, "COMMIT")                                                                                             \
    X(rollback, "ROLLBACK")                                                                                         \
    X(leader, "SELECT epoch, batch FROM leader")                                                                    \
    X(mark, "UPDATE leader SET batch = ?1, beat_ms = ?2")                                                           \
    X(accept,                                                                                                       \
      "INSERT INTO request(id, tenant, path, key, body_hash, prompt, params_version, params, seed, created_ms,"     \
      " deadline_ms, n_choice) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12) ON CONFLICT DO NOTHING")             \
    X(tokens, "INSERT INTO token(request, choice, first, n, ids, extra) SELECT ?1,?2,?3,?4,?5,?6"                   \
              " WHERE EXISTS (SELECT 1 FROM request WHERE id = ?1 AND ?2 < n_choice)"                               \
              " AND NOT EXISTS (SELECT 1 FROM ended WHERE request = ?1 AND choice = ?2)"                            \
              " AND ?3 = " NEXT_INDEX("?1", "?2"))                                                                  \
    X(end,                                                                                                          \
      "INSERT INTO ended(request, choice, finish, text, n_tok, prompt_tok, output_tok, cached_tok, reasoning_tok,"  \
      " ended_ms) SELECT ?1,?2,?3,?4,?5,?6,?7,?8,?9,?10"                                                            \
      " WHERE EXISTS (SELECT 1 FROM request WHERE id = ?1 AND ?2 < n_choice)"                                       \
      " AND ?5 = " NEXT_INDEX("?1", "?2") " ON CONFLICT DO NOTHING")                                                \
    X(prune_ended, "DELETE FROM ended WHERE request = ?1")                                                          \
    X(prune_token, "DELETE FROM token WHERE request = ?1")                                                          \
    X(prune_request, "DELETE FROM request WHERE id = ?1")                                                           \
    X(load_request, "SELECT id, tenant, path, key, body_hash, prompt, params_version, params, seed, created_ms,"    \
                    " deadline_ms, n_choice FROM request WHERE NOT ?1"                                              \
                    " OR (SELECT count(*) FROM ended WHERE request = id) < n_choice ORDER BY created_ms, id")       \
    X(load_token, "SELECT choice, first, n, ids, extra FROM token WHERE request = ?1 ORDER BY choice, first")       \
    X(load_ended, "SELECT choice, finish, text, n_tok, prompt_tok, output_tok, cached_tok, reasoning_tok, ended_ms" \
                  " FROM ended WHERE request = ?1 ORDER BY choice")

enum statement {
#define X(name, sql) S_##name,
    STATEMENT_LIST(X)
#undef X
        S_N
};

static const char *const statement_sql[S_N] = {
#define X(name, sql) sql,
    STATEMENT_LIST(X)
#undef X
};

struct sq {
    struct store_backend base;
    sqlite3 *db;
    sqlite3_stmt *st[S_N];
    char *path;
    bool sync_full;  /* what synchronous is set to */
    bool suspicious; /* a sync has failed: see heal() */
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

/* The error of the last call on the connection. doing: "committing". */
static int fail(struct sq *q, int rc, const char *doing, struct err *err)
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

/* ---- small steps ---- */

static int exec(struct sq *q, const char *sql, const char *doing, struct err *err)
{
    int rc = sqlite3_exec(q->db, sql, NULL, NULL, NULL);
    return rc ? fail(q, sqlite3_extended_errcode(q->db), doing, err) : 0;
}

/* Run a statement to its end; its parameters are forgotten. */
static int run(struct sq *q, enum statement i, const char *doing, struct err *err)
{
    int rc = sqlite3_step(q->st[i]);
    int out = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : fail(q, sqlite3_extended_errcode(q->db), doing, err);
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
    int code = rc == SQLITE_ROW ? 0 : fail(q, sqlite3_extended_errcode(q->db), doing, err);
    sqlite3_finalize(st);
    return code;
}

/* The batch outlives the statement: nothing is copied. A failed bind (no memory, too big) shows when it is stepped. */
static void bind_text(struct sq *q, enum statement i, int k, const char *s)
{
    if (s)
        sqlite3_bind_text(q->st[i], k, s, -1, SQLITE_STATIC);
    else
        sqlite3_bind_null(q->st[i], k);
}

static void bind_blob(struct sq *q, enum statement i, int k, const void *p, size_t n)
{
    sqlite3_bind_blob64(q->st[i], k, n ? p : "", n, SQLITE_STATIC);
}

static void bind_i64(struct sq *q, enum statement i, int k, int64_t v)
{
    sqlite3_bind_int64(q->st[i], k, v);
}

/* synchronous cannot be changed inside a transaction. */
static int set_sync(struct sq *q, bool full, struct err *err)
{
    if (q->sync_full == full)
        return 0;
    int rc = exec(q, full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL", "setting up", err);
    if (!rc)
        q->sync_full = full;
    return rc;
}

/* After a failed sync the kernel may have dropped what it could not write and call the next sync good. So everything
 * in the log is written once more, into the database file, before anything is acknowledged again. */
static int heal(struct sq *q, struct err *err)
{
    if (!q->suspicious)
        return 0;
    int rc = set_sync(q, true, err);
    if (rc)
        return rc;
    rc = sqlite3_wal_checkpoint_v2(q->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    if (rc)
        return fail(q, sqlite3_extended_errcode(q->db), "moving the log into", err);
    q->suspicious = false;
    return 0;
}

static void roll_back(struct sq *q)
{
    struct err ignored;
    enum store_fault keep = q->base.fault;
    /* Many errors roll back by themselves; then there is nothing to do. */
    if (!sqlite3_get_autocommit(q->db))
        run(q, S_rollback, "rolling back", &ignored);
    q->base.fault = keep;
}

/* ---- writing ---- */

static int write_accept(struct sq *q, const struct store_request *r, struct err *err)
{
    bind_text(q, S_accept, 1, r->id);
    bind_text(q, S_accept, 2, r->tenant);
    bind_text(q, S_accept, 3, r->path);
    bind_text(q, S_accept, 4, r->key);
    bind_blob(q, S_accept, 5, r->body_hash, sizeof r->body_hash);
    bind_blob(q, S_accept, 6, r->prompt, (size_t)r->n_prompt * sizeof *r->prompt);
    bind_i64(q, S_accept, 7, r->params_version);
    bind_blob(q, S_accept, 8, r->params, r->params_bytes);
    bind_i64(q, S_accept, 9, (int64_t)r->seed);
    bind_i64(q, S_accept, 10, r->created_ms);
    bind_i64(q, S_accept, 11, r->deadline_ms);
    bind_i64(q, S_accept, 12, r->n_choice);
    return run(q, S_accept, "writing to", err);
}

static int write_tokens(struct sq *q, const struct store_tokens *t, struct err *err)
{
    bind_text(q, S_tokens, 1, t->request);
    bind_i64(q, S_tokens, 2, t->choice);
    bind_i64(q, S_tokens, 3, t->first);
    bind_i64(q, S_tokens, 4, t->n);
    bind_blob(q, S_tokens, 5, t->id, (size_t)t->n * sizeof *t->id);
    bind_blob(q, S_tokens, 6, t->extra, t->extra_bytes);
    return run(q, S_tokens, "writing to", err);
}

static int write_end(struct sq *q, const struct store_end *e, struct err *err)
{
    bind_text(q, S_end, 1, e->request);
    bind_i64(q, S_end, 2, e->choice);
    bind_text(q, S_end, 3, e->finish);
    bind_text(q, S_end, 4, e->text);
    bind_i64(q, S_end, 5, e->n_tok);
    bind_i64(q, S_end, 6, e->usage.prompt_tok);
    bind_i64(q, S_end, 7, e->usage.output_tok);
    bind_i64(q, S_end, 8, e->usage.cached_tok);
    bind_i64(q, S_end, 9, e->usage.reasoning_tok);
    bind_i64(q, S_end, 10, e->ended_ms);
    return run(q, S_end, "writing to", err);
}

static int write_prune(struct sq *q, const char *id, struct err *err)
{
    for (enum statement i = S_prune_ended; i <= S_prune_request; i++) {
        bind_text(q, i, 1, id);
        int rc = run(q, i, "writing to", err);
        if (rc)
            return rc;
    }
    return 0;
}

static int write_batch(struct sq *q, const struct store_batch *b, struct store_refusals *out, struct err *err)
{
    for (size_t i = 0; i < b->n; i++) {
        const struct store_record *r = &b->record[i];
        int rc = 0;
        switch (r->kind) {
        case STORE_accept: rc = write_accept(q, &r->u.accept, err); break;
        case STORE_tokens: rc = write_tokens(q, &r->u.tokens, err); break;
        case STORE_end: rc = write_end(q, &r->u.end, err); break;
        case STORE_prune: rc = write_prune(q, r->u.prune, err); break;
        case STORE_KIND_N: BUG("no such kind of record");
        }
        if (rc)
            return rc;
        if (r->kind != STORE_prune && sqlite3_changes(q->db) == 0)
            store__refuse(out, b->seq, r);
    }
    return 0;
}

/* Inside the transaction: are we still the leader, and was batch seq committed before (and its answer lost)? */
static int check_leader(struct sq *q, uint64_t seq, bool *done, struct err *err)
{
    int rc = sqlite3_step(q->st[S_leader]);
    int64_t epoch = rc == SQLITE_ROW ? sqlite3_column_int64(q->st[S_leader], 0) : 0;
    int64_t batch = rc == SQLITE_ROW ? sqlite3_column_int64(q->st[S_leader], 1) : 0;
    int code = rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : fail(q, sqlite3_extended_errcode(q->db), "reading", err);

    sqlite3_reset(q->st[S_leader]);
    if (code)
        return code;
    if (rc == SQLITE_DONE)
        return store__fail(&q->base.fault, STORE_FAULT_corrupt, err, "%s has no leader row%s", q->path,
                           advice[STORE_FAULT_corrupt]);
    if ((uint64_t)epoch != q->base.epoch)
        return store__fail(&q->base.fault, STORE_FAULT_fenced, err, "epoch %lld leads in %s, ours is %llu",
                           (long long)epoch, q->path, (unsigned long long)q->base.epoch);
    *done = (uint64_t)batch >= seq;
    return 0;
}

static int mark(struct sq *q, uint64_t seq, struct err *err)
{
    bind_i64(q, S_mark, 1, (int64_t)seq);
    bind_i64(q, S_mark, 2, clock_wall_ms());
    return run(q, S_mark, "writing to", err);
}

static int sq_commit(struct store_backend *base, struct store_batch *const *batch, size_t n, bool full,
                     struct store_refusals *out, struct err *err)
{
    struct sq *q = (struct sq *)base;
    uint64_t seq = batch[n - 1]->seq;
    bool done = false;
    int rc;

    if ((rc = heal(q, err)) || (rc = set_sync(q, full, err)) || (rc = run(q, S_begin, "writing to", err)))
        goto out;
    if ((rc = check_leader(q, seq, &done, err)))
        goto out;
    for (size_t i = 0; i < n && !done && !rc; i++)
        rc = write_batch(q, batch[i], out, err);
    if (!rc && !done)
        rc = mark(q, seq, err);
    if (!rc)
        rc = run(q, S_commit, "committing to", err);
out:
    roll_back(q);
    return rc;
}

/* An empty transaction would write nothing and sync nothing, so the leader row is written again. */
static int sq_sync(struct store_backend *base, struct err *err)
{
    struct sq *q = (struct sq *)base;
    int rc;

    if ((rc = heal(q, err)) || (rc = set_sync(q, true, err)) || (rc = run(q, S_begin, "writing to", err)))
        goto out;
    rc = exec(q, "UPDATE leader SET beat_ms = beat_ms + 1", "writing to", err);
    if (!rc)
        rc = run(q, S_commit, "committing to", err);
out:
    roll_back(q);
    return rc;
}

/* ---- reading ---- */

static const char *text_of(sqlite3_stmt *st, int k)
{
    return (const char *)sqlite3_column_text(st, k);
}

/* Column k as an array of int32; -1 if its length is no multiple. */
static int64_t ids_of(sqlite3_stmt *st, int k, const int32_t **id)
{
    *id = sqlite3_column_blob(st, k);
    int n = sqlite3_column_bytes(st, k);
    return n % 4 == 0 ? n / 4 : -1;
}

static int load_tokens(struct sq *q, const char *id, const struct store_visitor *v, void *arg, struct err *err)
{
    sqlite3_stmt *st = q->st[S_load_token];
    int rc, code = 0;

    bind_text(q, S_load_token, 1, id);
    while (!code && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct store_tokens t = {.request = id,
                                 .choice = sqlite3_column_int(st, 0),
                                 .first = sqlite3_column_int64(st, 1),
                                 .n = sqlite3_column_int(st, 2)};
        if (ids_of(st, 3, &t.id) != t.n)
            code = store__fail(&q->base.fault, STORE_FAULT_corrupt, err,
                               "%s: request %s has a row of tokens of the wrong length%s", q->path, id,
                               advice[STORE_FAULT_corrupt]);
        t.extra = sqlite3_column_blob(st, 4);
        t.extra_bytes = (size_t)sqlite3_column_bytes(st, 4);
        if (!code)
            code = v->on_tokens(arg, &t);
    }
    if (!code && rc != SQLITE_DONE)
        code = fail(q, sqlite3_extended_errcode(q->db), "reading", err);
    sqlite3_reset(st);
    return code;
}

static int load_ends(struct sq *q, const char *id, const struct store_visitor *v, void *arg, struct err *err)
{
    sqlite3_stmt *st = q->st[S_load_ended];
    int rc, code = 0;

    bind_text(q, S_load_ended, 1, id);
    while (!code && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct store_end e = {.request = id,
                              .choice = sqlite3_column_int(st, 0),
                              .finish = text_of(st, 1),
                              .text = text_of(st, 2),
                              .n_tok = sqlite3_column_int64(st, 3),
                              .usage = {sqlite3_column_int64(st, 4), sqlite3_column_int64(st, 5),
                                        sqlite3_column_int64(st, 6), sqlite3_column_int64(st, 7)},
                              .ended_ms = sqlite3_column_int64(st, 8)};
        code = v->on_end(arg, &e);
    }
    if (!code && rc != SQLITE_DONE)
        code = fail(q, sqlite3_extended_errcode(q->db), "reading", err);
    sqlite3_reset(st);
    return code;
}

/* One row of requests. */
static int load_request(struct sq *q, const struct store_visitor *v, void *arg, struct err *err)
{
    sqlite3_stmt *st = q->st[S_load_request];
    struct store_request r = {.id = text_of(st, 0),
                              .tenant = text_of(st, 1),
                              .path = text_of(st, 2),
                              .key = text_of(st, 3),
                              .params_version = sqlite3_column_int(st, 6),
                              .seed = (uint64_t)sqlite3_column_int64(st, 8),
                              .created_ms = sqlite3_column_int64(st, 9),
                              .deadline_ms = sqlite3_column_int64(st, 10),
                              .n_choice = sqlite3_column_int(st, 11)};
    const void *hash = sqlite3_column_blob(st, 4);

    r.n_prompt = ids_of(st, 5, &r.prompt);
    if (!r.id || !hash || sqlite3_column_bytes(st, 4) != STORE_HASH_BYTES || r.n_prompt < 0)
        return store__fail(&q->base.fault, STORE_FAULT_corrupt, err,
                           "%s: request %s has a column of the wrong length%s", q->path, r.id ? r.id : "?",
                           advice[STORE_FAULT_corrupt]);
    memcpy(r.body_hash, hash, sizeof r.body_hash);
    r.params = sqlite3_column_blob(st, 7);
    r.params_bytes = (size_t)sqlite3_column_bytes(st, 7);
    int rc = v->on_request(arg, &r);
    if (!rc)
        rc = load_tokens(q, r.id, v, arg, err);
    if (!rc)
        rc = load_ends(q, r.id, v, arg, err);
    return rc;
}

static int sq_load(struct store_backend *base, enum store_load_what what, const struct store_visitor *v, void *arg,
                   struct err *err)
{
    struct sq *q = (struct sq *)base;
    int rc, code = 0;

    bind_i64(q, S_load_request, 1, what == STORE_LOAD_live);
    while (!code && (rc = sqlite3_step(q->st[S_load_request])) == SQLITE_ROW)
        code = load_request(q, v, arg, err);
    if (!code && rc != SQLITE_DONE)
        code = fail(q, sqlite3_extended_errcode(q->db), "reading", err);
    sqlite3_reset(q->st[S_load_request]);
    return code;
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
        rc = fail(q, sqlite3_extended_errcode(q->db), "checking", err);
    else if (strcmp(text_of(st, 0), "ok") != 0)
        rc = store__fail(&q->base.fault, STORE_FAULT_corrupt, err, "%s is damaged (%.200s)%s", q->path, text_of(st, 0),
                         advice[STORE_FAULT_corrupt]);
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
    rc = rc == SQLITE_DONE ? 0 : fail(q, sqlite3_extended_errcode(q->db), "writing to", err);
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
        (rc = exec(q, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL", "opening", err)))
        return rc;
    q->sync_full = true;
    sqlite3_snprintf(sizeof pragma, pragma, "PRAGMA wal_autocheckpoint=%lld", (long long)c->limit.checkpoint_pages);
    if ((rc = exec(q, pragma, "opening", err)) || (rc = migrate(q, version, err)) || (rc = take_lead(q, c, err)))
        return rc;
    for (int i = 0; i < S_N; i++)
        if (sqlite3_prepare_v3(q->db, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT, &q->st[i], NULL))
            return fail(q, sqlite3_extended_errcode(q->db), "preparing for", err);
    return 0;
}

static void sq_close(struct store_backend **b_p)
{
    struct sq *q = (struct sq *)*b_p;

    if (!q)
        return;
    *b_p = NULL;
    for (int i = 0; i < S_N; i++)
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
    rc = rc ? fail(q, rc, "opening", err) : set_up(q, c, err);
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
    .load = sq_load,
    .close = sq_close,
};
