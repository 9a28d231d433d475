/* The SQLite back end, writing records. What is known about a request or run that lives (its number, the next index of
 * each choice) is kept in memory, so that a record costs one plain INSERT and no query. It is a cache of what the
 * database says inside the open transaction: a rollback forgets all of it, and what is missing is looked up. */
#include "common/base/check.h"
#include "common/mem/mem.h"
#include "controller/store/sqlite.h"

#include <string.h>

enum {
    N_BUCKET = 4096,
    KNOWN_MAX = 16384, /* entries; then all are forgotten */
};

struct known_choice {
    int64_t next; /* index of the next token; -1: not looked up yet */
    bool ended;
};

struct known {
    struct known *chain;
    bool is_run;
    int64_t n;                   /* its number */
    int32_t n_choice, n_left;    /* request: choices, and those that have not ended */
    char id[STORE_ID_MAX];
    struct known_choice choice[]; /* [n_choice] */
};

struct sq_cache {
    struct known *bucket[N_BUCKET];
    int n;
};

/* What became of a record. */
enum outcome { TAKEN, REFUSED };

static uint32_t hash_of(const char *id, bool is_run)
{
    uint32_t h = is_run ? 2166136261u ^ 0x5bd1e995u : 2166136261u; /* FNV-1a */
    for (; *id; id++)
        h = (h ^ (unsigned char)*id) * 16777619u;
    return (h ^ h >> 15) % N_BUCKET;
}

void store__sq_forget(struct sq *q)
{
    for (int i = 0; q->cache && q->cache->n && i < N_BUCKET; i++) {
        while (q->cache->bucket[i]) {
            struct known *k = q->cache->bucket[i];
            q->cache->bucket[i] = k->chain;
            mem_free(k);
            q->cache->n--;
        }
    }
}

void store__sq_cache_destroy(struct sq *q)
{
    store__sq_forget(q);
    mem_free(q->cache);
    q->cache = NULL;
}

static struct known *add(struct sq *q, const char *id, bool is_run, int64_t n, int32_t n_choice)
{
    if (!q->cache)
        q->cache = mem_zalloc(sizeof *q->cache);
    if (q->cache->n >= KNOWN_MAX)
        store__sq_forget(q);
    struct known *k = mem_zalloc(sizeof *k + (size_t)n_choice * sizeof k->choice[0]);
    uint32_t h = hash_of(id, is_run);
    k->is_run = is_run;
    k->n = n;
    k->n_choice = k->n_left = n_choice;
    memcpy(k->id, id, strlen(id) + 1); /* batch.c has checked it against STORE_ID_MAX */
    k->chain = q->cache->bucket[h];
    q->cache->bucket[h] = k;
    q->cache->n++;
    return k;
}

static void drop(struct sq *q, const char *id, bool is_run)
{
    struct known **p = q->cache ? &q->cache->bucket[hash_of(id, is_run)] : NULL;
    for (; p && *p; p = &(*p)->chain) {
        struct known *k = *p;
        if (k->is_run == is_run && strcmp(k->id, id) == 0) {
            *p = k->chain;
            mem_free(k);
            q->cache->n--;
            return;
        }
    }
}

/* Ask statement i, whose parameters are bound, for a row of up to n numbers; *found says whether there was one. */
static int ask(struct sq *q, enum sq_statement i, int64_t *out, int n, bool *found, struct err *err)
{
    sqlite3_stmt *st = q->st[i];
    int rc = sqlite3_step(st);

    *found = rc == SQLITE_ROW;
    for (int k = 0; k < n && *found; k++)
        out[k] = sqlite3_column_int64(st, k);
    int code = 0;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        code = store__sq_fail(q, sqlite3_extended_errcode(q->db), "reading", err);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return code;
}

/* *out: the request or run that lives under this id, or NULL. */
static int find_live(struct sq *q, const char *id, bool is_run, struct known **out, struct err *err)
{
    int64_t v[3] = {0};
    bool found;

    *out = NULL;
    if (q->cache)
        for (struct known *k = q->cache->bucket[hash_of(id, is_run)]; k; k = k->chain) {
            if (k->is_run == is_run && strcmp(k->id, id) == 0) {
                *out = k;
                return 0;
            }
        }
    enum sq_statement i = is_run ? SQ_find_run : SQ_find_request;
    sqlite3_bind_text(q->st[i], 1, id, -1, SQLITE_STATIC);
    int rc = ask(q, i, v, is_run ? 1 : 3, &found, err);
    if (rc || !found)
        return rc;
    if (!is_run && (v[1] < 1 || v[1] > STORE_CHOICES_MAX))
        return store__sq_corrupt(q, err, "a request with an impossible number of choices");
    struct known *k = add(q, id, is_run, v[0], is_run ? 0 : (int32_t)v[1]);
    k->n_left -= (int32_t)v[2];
    for (int32_t c = 0; c < k->n_choice; c++)
        k->choice[c].next = -1;
    *out = k;
    return 0;
}

/* *out: where choice c of the live request id stands, or NULL if there is no such choice. */
static int find_choice(struct sq *q, const char *id, int32_t c, struct known **k, struct known_choice **out,
                       struct err *err)
{
    int64_t v[2] = {0};
    bool found;

    *out = NULL;
    int rc = find_live(q, id, false, k, err);
    if (rc || !*k || c >= (*k)->n_choice)
        return rc;
    struct known_choice *ch = &(*k)->choice[c];
    if (ch->next < 0) {
        sqlite3_bind_int64(q->st[SQ_find_choice], 1, (*k)->n);
        sqlite3_bind_int64(q->st[SQ_find_choice], 2, c);
        if ((rc = ask(q, SQ_find_choice, v, 2, &found, err)))
            return rc;
        ch->next = v[0];
        ch->ended = v[1] != 0;
    }
    *out = ch;
    return 0;
}

/* Statement i for number n alone. */
static int run_n(struct sq *q, enum sq_statement i, int64_t n, struct err *err)
{
    sqlite3_bind_int64(q->st[i], 1, n);
    return store__sq_run(q, i, "writing to", err);
}

/* Insert r with number n in the place of its id; refused: a unique key is taken. */
static int insert(struct sq *q, enum sq_statement i, const struct store_record *r, int64_t n, enum outcome *o,
                  struct err *err)
{
    struct store_cell cell[STORE_CELLS_MAX];
    sqlite3_stmt *st = q->st[i];
    int n_cell = store__pack(r, cell);

    if (n)
        cell[0] = (struct store_cell){STORE_CELL_i64, n, NULL, 0};
    for (int k = 0; k < n_cell; k++) {
        /* The batch outlives the statement: nothing is copied. A failed bind shows when it is stepped. */
        const struct store_cell *c = &cell[k];
        switch (c->type) {
        case STORE_CELL_null: sqlite3_bind_null(st, k + 1); break;
        case STORE_CELL_i64: sqlite3_bind_int64(st, k + 1, c->i); break;
        case STORE_CELL_text: sqlite3_bind_text64(st, k + 1, c->p, c->n, SQLITE_STATIC, SQLITE_UTF8); break;
        case STORE_CELL_bytes: sqlite3_bind_blob64(st, k + 1, c->p, c->n, SQLITE_STATIC); break;
        }
    }
    if (r->kind == STORE_step) /* its order: by start of the program, then counted */
        sqlite3_bind_int64(st, n_cell + 1, (int64_t)(q->base.epoch << 40) + ++q->n_step);
    int rc = store__sq_run(q, i, "writing to", err);
    *o = sqlite3_changes(q->db) == 0 ? REFUSED : TAKEN;
    return rc;
}

static int write_accept(struct sq *q, const struct store_record *r, enum outcome *o, struct err *err)
{
    int rc = insert(q, SQ_accept, r, 0, o, err);
    if (rc || *o == REFUSED)
        return rc;
    int64_t n = sqlite3_last_insert_rowid(q->db);
    add(q, r->u.accept.id, false, n, r->u.accept.n_choice);
    return run_n(q, SQ_live_add, n, err);
}

static int write_tokens(struct sq *q, const struct store_record *r, enum outcome *o, struct err *err)
{
    const struct store_tokens *t = &r->u.tokens;
    struct known *k;
    struct known_choice *c;

    int rc = find_choice(q, t->request, t->choice, &k, &c, err);
    if (rc || !c || c->ended || c->next != t->first)
        return rc;
    rc = insert(q, SQ_tokens, r, k->n, o, err);
    if (!rc && *o == TAKEN)
        c->next += t->n;
    return rc;
}

static int write_end(struct sq *q, const struct store_record *r, enum outcome *o, struct err *err)
{
    const struct store_end *e = &r->u.end;
    struct known *k;
    struct known_choice *c;

    int rc = find_choice(q, e->request, e->choice, &k, &c, err);
    if (rc || !c || c->ended || c->next != e->n_tok)
        return rc;
    rc = insert(q, SQ_end, r, k->n, o, err);
    if (rc || *o == REFUSED)
        return rc;
    c->ended = true;
    if (--k->n_left > 0)
        return 0;
    int64_t n = k->n;
    drop(q, e->request, false);
    return run_n(q, SQ_live_remove, n, err);
}

static int write_run(struct sq *q, const struct store_record *r, enum outcome *o, struct err *err)
{
    int rc = insert(q, SQ_run, r, 0, o, err);
    if (rc || *o == REFUSED)
        return rc;
    int64_t n = sqlite3_last_insert_rowid(q->db);
    add(q, r->u.run.id, true, n, 0);
    return run_n(q, SQ_live_run_add, n, err);
}

static int write_step(struct sq *q, const struct store_record *r, enum outcome *o, struct err *err)
{
    const struct store_step *t = &r->u.step;
    struct known *k;
    bool done = false;
    int64_t unused = 0;

    int rc = find_live(q, t->run, true, &k, err);
    if (rc || !k)
        return rc;
    if (strcmp(t->state, "done") == 0) {
        sqlite3_bind_int64(q->st[SQ_find_done], 1, k->n);
        sqlite3_bind_text(q->st[SQ_find_done], 2, t->path, -1, SQLITE_STATIC);
        rc = ask(q, SQ_find_done, &unused, 1, &done, err);
    }
    return rc || done ? rc : insert(q, SQ_step, r, k->n, o, err);
}

static int write_run_end(struct sq *q, const struct store_record *r, enum outcome *o, struct err *err)
{
    struct known *k;
    int rc = find_live(q, r->u.run_end.run, true, &k, err);
    if (rc || !k)
        return rc;
    int64_t n = k->n;
    rc = insert(q, SQ_run_end, r, n, o, err);
    if (rc || *o == REFUSED)
        return rc;
    drop(q, r->u.run_end.run, true);
    return run_n(q, SQ_live_run_remove, n, err);
}

static int write_prune(struct sq *q, const char *id, bool is_run, struct err *err)
{
    enum sq_statement i = is_run ? SQ_run_n : SQ_request_n, last = is_run ? SQ_prune_run_last : SQ_prune_last;
    int64_t n = 0;
    bool found;

    sqlite3_bind_text(q->st[i], 1, id, -1, SQLITE_STATIC);
    int rc = ask(q, i, &n, 1, &found, err);
    for (i = is_run ? SQ_prune_run_first : SQ_prune_first; i <= last && found && !rc; i++)
        rc = run_n(q, i, n, err);
    drop(q, id, is_run);
    return rc;
}

static int write_record(struct sq *q, const struct store_record *r, enum outcome *o, struct err *err)
{
    *o = REFUSED; /* unless it comes to the INSERT, and that fits */
    switch (r->kind) {
    case STORE_accept: return write_accept(q, r, o, err);
    case STORE_tokens: return write_tokens(q, r, o, err);
    case STORE_end: return write_end(q, r, o, err);
    case STORE_run: return write_run(q, r, o, err);
    case STORE_step: return write_step(q, r, o, err);
    case STORE_run_end: return write_run_end(q, r, o, err);
    case STORE_prune: *o = TAKEN; return write_prune(q, r->u.prune, false, err);
    case STORE_prune_run: *o = TAKEN; return write_prune(q, r->u.prune_run, true, err);
    case STORE_KIND_N: break;
    }
    BUG("no such kind of record");
}

int store__sq_write(struct sq *q, const struct store_batch *b, struct store_refusals *out, struct err *err)
{
    for (size_t i = 0; i < b->n; i++) {
        enum outcome o;
        int rc = write_record(q, &b->record[i], &o, err);
        if (rc)
            return rc;
        if (o == REFUSED)
            store__refuse(out, b->seq, &b->record[i]);
    }
    return 0;
}
