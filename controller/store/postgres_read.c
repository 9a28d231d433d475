/* The PostgreSQL back end, reading: recovery and queries. Requests and runs come in pages, and what belongs to those
 * of a page with one statement a table. */
#include "common/base/check.h"
#include "common/mem/arena.h"
#include "common/mem/buf.h"
#include "controller/store/postgres.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

enum { OID_BYTEA = 17, OID_INT8 = 20, OID_TEXT = 25 }; /* src/include/catalog/pg_type.dat */

struct reader {
    struct pg *g;
    store__record_fn on_record;
    void *arg;
    struct err *err;
    struct arena scratch; /* of one row */
};

/* Row i of res as a record. libpq aligns no value, so bytes are copied. */
static int read_row(struct reader *rd, const PGresult *res, int i, enum store_kind kind)
{
    struct store_cell cell[STORE_CELLS_MAX];
    struct store_record r;

    arena_reset(&rd->scratch);
    for (int k = 0; k < store__n_cells(kind); k++) {
        const char *p = PQgetvalue(res, i, k);
        size_t n = (size_t)PQgetlength(res, i, k);
        cell[k] = (struct store_cell){0};
        if (PQgetisnull(res, i, k))
            continue;
        if (PQftype(res, k) == OID_INT8 && n == sizeof(uint64_t)) {
            uint64_t v;
            memcpy(&v, p, sizeof v);
            cell[k] = (struct store_cell){STORE_CELL_i64, (int64_t)be64toh(v), NULL, 0};
        } else if (PQftype(res, k) == OID_TEXT) {
            cell[k] = (struct store_cell){STORE_CELL_text, 0, p, n};
        } else if (PQftype(res, k) == OID_BYTEA) {
            cell[k] = (struct store_cell){STORE_CELL_bytes, 0, arena_dup(&rd->scratch, p, n), n};
        }
    }
    if (!store__unpack(kind, cell, &r))
        return store__fail(&rd->g->base.fault, STORE_FAULT_corrupt, rd->err,
                           "%s: a row of %s of %.64s has the wrong length or type", rd->g->where,
                           store_kind_name(kind), PQgetvalue(res, i, 0));
    return rd->on_record(rd->arg, &r);
}

/* The rows from *i on that belong to id. */
static int read_of(struct reader *rd, const PGresult *res, int *i, enum store_kind kind, const char *id)
{
    int rc = 0;
    for (; res && *i < PQntuples(res) && strcmp(PQgetvalue(res, *i, 0), id) == 0 && !rc; ++*i)
        rc = read_row(rd, res, *i, kind);
    return rc;
}

/* The ids in the first column as an array in PostgreSQL's spelling. */
static void array_of(const PGresult *res, struct buf *out)
{
    buf_add_char(out, '{');
    for (int i = 0; i < PQntuples(res); i++) {
        buf_add_str(out, i ? ",\"" : "\"");
        for (const char *s = PQgetvalue(res, i, 0); *s; s++) {
            if (*s == '"' || *s == '\\')
                buf_add_char(out, '\\');
            buf_add_char(out, *s);
        }
        buf_add_char(out, '"');
    }
    buf_add_char(out, '}');
}

/* What belongs to a request: first tokens, then ends. To a run: steps, end. */
static enum store_kind rows_of(bool run, bool last)
{
    if (run)
        return last ? STORE_run_end : STORE_step;
    return last ? STORE_end : STORE_tokens;
}

/* The requests (runs) of res with what belongs to them. */
static int read_parents(struct reader *rd, const PGresult *res, bool run, bool with_first)
{
    struct pg_params p = {0};
    struct buf ids = {0};
    PGresult *first = NULL, *last = NULL;
    int rc = 0, i_first = 0, i_last = 0;

    array_of(res, &ids);
    store__pg_add_text(&p, ids.data);
    if (PQntuples(res) && with_first)
        rc = store__pg_query(rd->g, run ? PG_steps_of : PG_tokens_of, &p, "reading from", &first, rd->err);
    if (PQntuples(res) && !rc)
        rc = store__pg_query(rd->g, run ? PG_run_end_of : PG_ends_of, &p, "reading from", &last, rd->err);
    for (int i = 0; i < PQntuples(res) && !rc; i++) {
        const char *id = PQgetvalue(res, i, 0);
        if (!(rc = read_row(rd, res, i, run ? STORE_run : STORE_accept)) &&
            !(rc = read_of(rd, first, &i_first, rows_of(run, false), id)))
            rc = read_of(rd, last, &i_last, rows_of(run, true), id);
    }
    PQclear(first);
    PQclear(last);
    buf_release(&ids);
    return rc;
}

/* All pages of statement i. */
static int read_pages(struct reader *rd, enum pg_statement i, bool run)
{
    const int created_ms = run ? 8 : 9; /* row.h */
    char last_id[STORE_ID_MAX] = "";
    int64_t last_ms = INT64_MIN;
    int n = PG_PAGE_ROWS, rc = 0;

    while (!rc && n == PG_PAGE_ROWS) {
        struct pg_params p = {0};
        PGresult *res = NULL;
        uint64_t v;
        store__pg_add_i64(&p, last_ms);
        store__pg_add_text(&p, last_id);
        if ((rc = store__pg_query(rd->g, i, &p, "reading from", &res, rd->err)))
            break;
        n = PQntuples(res);
        if (n) {
            memcpy(&v, PQgetvalue(res, n - 1, created_ms), sizeof v);
            last_ms = (int64_t)be64toh(v);
            snprintf(last_id, sizeof last_id, "%s", PQgetvalue(res, n - 1, 0));
        }
        rc = read_parents(rd, res, run, true);
        PQclear(res);
    }
    return rc;
}

int store__pg_load(struct store_backend *base, enum store_load_what what, bool with_runs, store__record_fn on_record,
                   void *arg, struct err *err)
{
    struct reader rd = {(struct pg *)base, on_record, arg, err, {0}};
    bool live = what == STORE_LOAD_live;

    int rc = store__pg_connect(rd.g, err);
    if (!rc)
        rc = read_pages(&rd, live ? PG_load_live : PG_load_request, false);
    if (!rc && with_runs)
        rc = read_pages(&rd, live ? PG_load_live_run : PG_load_run, true);
    arena_release(&rd.scratch);
    return rc;
}

static int read_ids(struct reader *rd, enum pg_statement i, const struct store_query *y, enum store_kind kind)
{
    struct pg_params p = {0};
    PGresult *res = NULL;

    store__pg_add_i64(&p, y->ended_before_ms);
    store__pg_add_i64(&p, y->keep);
    store__pg_add_i64(&p, y->limit);
    int rc = store__pg_query(rd->g, i, &p, "reading from", &res, rd->err);
    for (int k = 0; !rc && k < PQntuples(res); k++)
        rc = read_row(rd, res, k, kind);
    PQclear(res);
    return rc;
}

static int read_answer(struct reader *rd, enum pg_statement i, const struct pg_params *p, bool run, bool with_first)
{
    PGresult *res = NULL;
    int rc = store__pg_query(rd->g, i, p, "reading from", &res, rd->err);
    if (!rc)
        rc = read_parents(rd, res, run, with_first);
    PQclear(res);
    return rc;
}

static int read_one(struct reader *rd, enum pg_statement i, bool run, const char *const *key, int n)
{
    struct pg_params p = {0};
    for (int k = 0; k < n; k++)
        store__pg_add_text(&p, key[k]);
    return read_answer(rd, i, &p, run, true);
}

static int read_list(struct reader *rd, const struct store_query *y)
{
    struct pg_params p = {0};
    store__pg_add_text(&p, y->id);
    store__pg_add_i64(&p, y->limit);
    if (y->tenant)
        store__pg_add_text(&p, y->tenant);
    return read_answer(rd, y->tenant ? PG_list_runs_of : PG_list_runs, &p, true, false);
}

int store__pg_fetch(struct store_backend *base, const struct store_query *y, store__record_fn on_record, void *arg,
                    struct err *err)
{
    struct reader rd = {(struct pg *)base, on_record, arg, err, {0}};

    int rc = store__pg_connect(rd.g, err);
    if (rc)
        return rc;
    switch (y->kind) {
    case STORE_QUERY_request: rc = read_one(&rd, PG_get_request, false, &y->id, 1); break;
    case STORE_QUERY_request_key:
        rc = read_one(&rd, PG_get_request_key, false, (const char *const[]){y->tenant, y->path, y->key}, 3);
        break;
    case STORE_QUERY_run: rc = read_one(&rd, PG_get_run, true, &y->id, 1); break;
    case STORE_QUERY_run_key:
        rc = read_one(&rd, PG_get_run_key, true, (const char *const[]){y->tenant, y->key}, 2);
        break;
    case STORE_QUERY_runs: rc = read_list(&rd, y); break;
    case STORE_QUERY_old_requests: rc = read_ids(&rd, PG_old_requests, y, STORE_prune); break;
    case STORE_QUERY_old_runs: rc = read_ids(&rd, PG_old_runs, y, STORE_prune_run); break;
    case STORE_QUERY_N: BUG("no such query");
    }
    arena_release(&rd.scratch);
    return rc;
}
