/* The SQLite back end, reading: recovery and queries. One statement finds requests or runs, others what belongs to
 * each. */
#include "common/base/check.h"
#include "common/mem/arena.h"
#include "controller/store/sqlite.h"

#include <stdalign.h>
#include <string.h>

struct reader {
    struct sq *q;
    store__record_fn on_record;
    void *arg;
    struct err *err;
    struct arena scratch; /* of one row */
};

/* SQLite may lend bytes out of the middle of a page, which is no place for an int32. */
static const void *aligned(struct reader *rd, const void *p, size_t n)
{
    if (!p)
        return "";
    return (uintptr_t)p % alignof(int32_t) ? arena_dup(&rd->scratch, p, n) : p;
}

/* The row that st stands on, as a record. */
static int read_row(struct reader *rd, sqlite3_stmt *st, enum store_kind kind)
{
    struct store_cell cell[STORE_CELLS_MAX];
    struct store_record r;

    arena_reset(&rd->scratch);
    for (int k = 0; k < store__n_cells(kind); k++) {
        cell[k] = (struct store_cell){0};
        switch (sqlite3_column_type(st, k)) {
        case SQLITE_INTEGER:
            cell[k].type = STORE_CELL_i64;
            cell[k].i = sqlite3_column_int64(st, k);
            break;
        case SQLITE_TEXT:
            cell[k].type = STORE_CELL_text;
            cell[k].p = sqlite3_column_text(st, k);
            cell[k].n = (size_t)sqlite3_column_bytes(st, k);
            break;
        case SQLITE_BLOB:
            cell[k].type = STORE_CELL_bytes;
            cell[k].p = sqlite3_column_blob(st, k);
            cell[k].n = (size_t)sqlite3_column_bytes(st, k);
            cell[k].p = aligned(rd, cell[k].p, cell[k].n);
            break;
        default: break; /* NULL */
        }
    }
    if (!store__unpack(kind, cell, &r)) {
        char what[128];
        const char *id = cell[0].type == STORE_CELL_text ? cell[0].p : "?";
        sqlite3_snprintf(sizeof what, what, "a row of %s of %s has the wrong length or type", store_kind_name(kind),
                         id);
        return store__sq_corrupt(rd->q, rd->err, what);
    }
    return rd->on_record(rd->arg, &r);
}

/* All rows of statement i, whose parameters are bound. */
static int read_rows(struct reader *rd, enum sq_statement i, enum store_kind kind)
{
    sqlite3_stmt *st = rd->q->st[i];
    int rc, code = 0;

    while (!code && (rc = sqlite3_step(st)) == SQLITE_ROW)
        code = read_row(rd, st, kind);
    if (!code && rc != SQLITE_DONE)
        code = store__sq_fail(rd->q, sqlite3_extended_errcode(rd->q->db), "reading", rd->err);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return code;
}

static int read_of(struct reader *rd, enum sq_statement i, enum store_kind kind, int64_t n, const char *id)
{
    sqlite3_bind_int64(rd->q->st[i], 1, n);
    sqlite3_bind_text(rd->q->st[i], 2, id, -1, SQLITE_STATIC);
    return read_rows(rd, i, kind);
}

/* All requests (runs) of statement i with what belongs to them; its last column is the number. */
static int read_parents(struct reader *rd, enum sq_statement i, enum store_kind kind, bool with_steps)
{
    sqlite3_stmt *st = rd->q->st[i];
    int rc, code = 0;

    while (!code && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        int64_t n = sqlite3_column_int64(st, store__n_cells(kind));
        if ((code = read_row(rd, st, kind)))
            break;
        const char *id = (const char *)sqlite3_column_text(st, 0);
        if (kind == STORE_accept)
            code = read_of(rd, SQ_tokens_of, STORE_tokens, n, id);
        else if (with_steps)
            code = read_of(rd, SQ_steps_of, STORE_step, n, id);
        if (!code && kind == STORE_accept)
            code = read_of(rd, SQ_ends_of, STORE_end, n, id);
        else if (!code)
            code = read_of(rd, SQ_run_end_of, STORE_run_end, n, id);
    }
    if (!code && rc != SQLITE_DONE)
        code = store__sq_fail(rd->q, sqlite3_extended_errcode(rd->q->db), "reading", rd->err);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return code;
}

int store__sq_load(struct store_backend *base, enum store_load_what what, bool with_runs, store__record_fn on_record,
                   void *arg, struct err *err)
{
    struct reader rd = {(struct sq *)base, on_record, arg, err, {0}};
    bool live = what == STORE_LOAD_live;

    int rc = read_parents(&rd, live ? SQ_load_live : SQ_load_request, STORE_accept, true);
    if (!rc && with_runs)
        rc = read_parents(&rd, live ? SQ_load_live_run : SQ_load_run, STORE_run, true);
    arena_release(&rd.scratch);
    return rc;
}

/* The two numbers of the first row of statement i; *a and *b stay if there is none. */
static int read_pair(struct reader *rd, enum sq_statement i, int64_t *a, int64_t *b)
{
    sqlite3_stmt *st = rd->q->st[i];
    int rc = sqlite3_step(st), code = 0;

    if (rc == SQLITE_ROW) {
        *a = sqlite3_column_int64(st, 0);
        *b = sqlite3_column_count(st) > 1 ? sqlite3_column_int64(st, 1) : 0;
    } else if (rc != SQLITE_DONE) {
        code = store__sq_fail(rd->q, sqlite3_extended_errcode(rd->q->db), "reading", rd->err);
    }
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return code;
}

static int read_old(struct reader *rd, const struct store_query *y, bool runs)
{
    enum sq_statement nth = runs ? SQ_nth_run : SQ_nth_request, i = runs ? SQ_old_runs : SQ_old_requests;
    int64_t cut_ms = INT64_MIN, cut_n = 0;

    if (y->keep >= 0) {
        sqlite3_bind_int64(rd->q->st[nth], 1, y->keep);
        int rc = read_pair(rd, nth, &cut_ms, &cut_n);
        if (rc)
            return rc;
    }
    sqlite3_bind_int64(rd->q->st[i], 1, y->ended_before_ms);
    sqlite3_bind_int64(rd->q->st[i], 2, cut_ms);
    sqlite3_bind_int64(rd->q->st[i], 3, cut_n);
    sqlite3_bind_int64(rd->q->st[i], 4, y->limit);
    return read_rows(rd, i, runs ? STORE_prune_run : STORE_prune);
}

static int read_list(struct reader *rd, const struct store_query *y)
{
    enum sq_statement i = y->tenant ? SQ_list_runs_of : SQ_list_runs;
    int64_t before = INT64_MAX, unused;

    if (y->id) {
        before = 0; /* one that is not there has nothing before it */
        sqlite3_bind_text(rd->q->st[SQ_run_n], 1, y->id, -1, SQLITE_STATIC);
        int rc = read_pair(rd, SQ_run_n, &before, &unused);
        if (rc)
            return rc;
    }
    sqlite3_bind_int64(rd->q->st[i], 1, before);
    sqlite3_bind_int64(rd->q->st[i], 2, y->limit);
    if (y->tenant)
        sqlite3_bind_text(rd->q->st[i], 3, y->tenant, -1, SQLITE_STATIC);
    return read_parents(rd, i, STORE_run, false);
}

static int read_one(struct reader *rd, enum sq_statement i, enum store_kind kind, const char *const *key, int n)
{
    for (int k = 0; k < n; k++)
        sqlite3_bind_text(rd->q->st[i], k + 1, key[k], -1, SQLITE_STATIC);
    return read_parents(rd, i, kind, true);
}

int store__sq_fetch(struct store_backend *base, const struct store_query *y, store__record_fn on_record, void *arg,
                    struct err *err)
{
    struct reader rd = {(struct sq *)base, on_record, arg, err, {0}};
    int rc = 0;

    switch (y->kind) {
    case STORE_QUERY_request: rc = read_one(&rd, SQ_get_request, STORE_accept, &y->id, 1); break;
    case STORE_QUERY_request_key:
        rc = read_one(&rd, SQ_get_request_key, STORE_accept, (const char *const[]){y->tenant, y->path, y->key}, 3);
        break;
    case STORE_QUERY_run: rc = read_one(&rd, SQ_get_run, STORE_run, &y->id, 1); break;
    case STORE_QUERY_run_key:
        rc = read_one(&rd, SQ_get_run_key, STORE_run, (const char *const[]){y->tenant, y->key}, 2);
        break;
    case STORE_QUERY_runs: rc = read_list(&rd, y); break;
    case STORE_QUERY_old_requests: rc = read_old(&rd, y, false); break;
    case STORE_QUERY_old_runs: rc = read_old(&rd, y, true); break;
    case STORE_QUERY_N: BUG("no such query");
    }
    arena_release(&rd.scratch);
    return rc;
}
