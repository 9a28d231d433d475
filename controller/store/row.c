#include "controller/store/row.h"

#include "common/base/check.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are stored as they are in memory, little-endian");

int store__n_cells(enum store_kind kind)
{
    static const int n[STORE_KIND_N] = {12, 6, 10, 1, 10, 12, 9, 1};
    return n[kind];
}

/* ---- record -> cells ---- */

static struct store_cell *put_text(struct store_cell *c, const char *s)
{
    *c = (struct store_cell){s ? STORE_CELL_text : STORE_CELL_null, 0, s, s ? strlen(s) : 0};
    return c + 1;
}

static struct store_cell *put_bytes(struct store_cell *c, const void *p, size_t n)
{
    *c = (struct store_cell){STORE_CELL_bytes, 0, n ? p : "", n};
    return c + 1;
}

static struct store_cell *put_i64(struct store_cell *c, int64_t i)
{
    *c = (struct store_cell){STORE_CELL_i64, i, NULL, 0};
    return c + 1;
}

static struct store_cell *put_usage(struct store_cell *c, const struct store_usage *u)
{
    c = put_i64(c, u->prompt_tok);
    c = put_i64(c, u->output_tok);
    c = put_i64(c, u->cached_tok);
    return put_i64(c, u->reasoning_tok);
}

static struct store_cell *pack_request(struct store_cell *c, const struct store_request *q)
{
    c = put_text(c, q->id);
    c = put_text(c, q->tenant);
    c = put_text(c, q->path);
    c = put_text(c, q->key);
    c = put_bytes(c, q->body_hash, sizeof q->body_hash);
    c = put_bytes(c, q->prompt, (size_t)q->n_prompt * sizeof *q->prompt);
    c = put_i64(c, q->params_version);
    c = put_bytes(c, q->params, q->params_bytes);
    c = put_i64(c, (int64_t)q->seed);
    c = put_i64(c, q->created_ms);
    c = put_i64(c, q->deadline_ms);
    return put_i64(c, q->n_choice);
}

static struct store_cell *pack_tokens(struct store_cell *c, const struct store_tokens *t)
{
    c = put_text(c, t->request);
    c = put_i64(c, t->choice);
    c = put_i64(c, t->first);
    c = put_i64(c, t->n);
    c = put_bytes(c, t->id, (size_t)t->n * sizeof *t->id);
    return put_bytes(c, t->extra, t->extra_bytes);
}

static struct store_cell *pack_end(struct store_cell *c, const struct store_end *e)
{
    c = put_text(c, e->request);
    c = put_i64(c, e->choice);
    c = put_text(c, e->finish);
    c = put_text(c, e->text);
    c = put_i64(c, e->n_tok);
    c = put_usage(c, &e->usage);
    return put_i64(c, e->ended_ms);
}

static struct store_cell *pack_run(struct store_cell *c, const struct store_run *r)
{
    c = put_text(c, r->id);
    c = put_text(c, r->tenant);
    c = put_text(c, r->key);
    c = put_bytes(c, r->body_hash, sizeof r->body_hash);
    c = put_text(c, r->name);
    c = put_text(c, r->pipeline);
    c = put_text(c, r->input);
    c = put_text(c, r->parent);
    c = put_i64(c, r->created_ms);
    return put_i64(c, r->deadline_ms);
}

static struct store_cell *pack_step(struct store_cell *c, const struct store_step *t)
{
    c = put_text(c, t->run);
    c = put_text(c, t->path);
    c = put_i64(c, t->attempt);
    c = put_text(c, t->state);
    c = put_text(c, t->result);
    c = put_text(c, t->request);
    c = put_text(c, t->error);
    c = put_usage(c, &t->usage);
    return put_i64(c, t->at_ms);
}

static struct store_cell *pack_run_end(struct store_cell *c, const struct store_run_end *e)
{
    c = put_text(c, e->run);
    c = put_text(c, e->state);
    c = put_text(c, e->output);
    c = put_text(c, e->error);
    c = put_usage(c, &e->usage);
    return put_i64(c, e->ended_ms);
}

int store__pack(const struct store_record *r, struct store_cell cell[STORE_CELLS_MAX])
{
    struct store_cell *end = cell;

    switch (r->kind) {
    case STORE_accept: end = pack_request(cell, &r->u.accept); break;
    case STORE_tokens: end = pack_tokens(cell, &r->u.tokens); break;
    case STORE_end: end = pack_end(cell, &r->u.end); break;
    case STORE_prune: end = put_text(cell, r->u.prune); break;
    case STORE_run: end = pack_run(cell, &r->u.run); break;
    case STORE_step: end = pack_step(cell, &r->u.step); break;
    case STORE_run_end: end = pack_run_end(cell, &r->u.run_end); break;
    case STORE_prune_run: end = put_text(cell, r->u.prune_run); break;
    case STORE_KIND_N: BUG("no such kind of record");
    }
    ASSERT(end - cell == store__n_cells(r->kind));
    return (int)(end - cell);
}

/* ---- cells -> record: a cursor that remembers whether anything was wrong ---- */

struct cursor {
    const struct store_cell *c;
    bool ok;
};

static const char *text_or_null(struct cursor *k)
{
    const struct store_cell *c = k->c++;
    k->ok &= c->type == STORE_CELL_text || c->type == STORE_CELL_null;
    return c->type == STORE_CELL_text ? c->p : NULL;
}

static const char *text(struct cursor *k)
{
    k->ok &= k->c->type == STORE_CELL_text;
    return text_or_null(k);
}

static const void *bytes(struct cursor *k, size_t *n)
{
    const struct store_cell *c = k->c++;
    k->ok &= c->type == STORE_CELL_bytes;
    *n = c->type == STORE_CELL_bytes ? c->n : 0;
    return c->p;
}

static const int32_t *ids(struct cursor *k, int64_t *n)
{
    size_t n_bytes;
    const void *p = bytes(k, &n_bytes);
    k->ok &= n_bytes % sizeof(int32_t) == 0;
    *n = (int64_t)(n_bytes / sizeof(int32_t));
    return p;
}

static void hash(struct cursor *k, uint8_t out[STORE_HASH_BYTES])
{
    size_t n;
    const void *p = bytes(k, &n);
    k->ok &= n == STORE_HASH_BYTES;
    if (n == STORE_HASH_BYTES)
        memcpy(out, p, n);
}

static int64_t i64(struct cursor *k)
{
    const struct store_cell *c = k->c++;
    k->ok &= c->type == STORE_CELL_i64;
    return c->i;
}

static int32_t i32(struct cursor *k)
{
    int64_t i = i64(k);
    k->ok &= i >= INT32_MIN && i <= INT32_MAX;
    return (int32_t)i;
}

static struct store_usage usage(struct cursor *k)
{
    struct store_usage u;
    u.prompt_tok = i64(k);
    u.output_tok = i64(k);
    u.cached_tok = i64(k);
    u.reasoning_tok = i64(k);
    return u;
}

static void unpack_request(struct cursor *k, struct store_request *q)
{
    q->id = text(k);
    q->tenant = text(k);
    q->path = text(k);
    q->key = text_or_null(k);
    hash(k, q->body_hash);
    q->prompt = ids(k, &q->n_prompt);
    q->params_version = i32(k);
    q->params = bytes(k, &q->params_bytes);
    q->seed = (uint64_t)i64(k);
    q->created_ms = i64(k);
    q->deadline_ms = i64(k);
    q->n_choice = i32(k);
}

static void unpack_tokens(struct cursor *k, struct store_tokens *t)
{
    int64_t n;
    t->request = text(k);
    t->choice = i32(k);
    t->first = i64(k);
    t->n = i32(k);
    t->id = ids(k, &n);
    t->extra = bytes(k, &t->extra_bytes);
    k->ok &= n == t->n;
}

static void unpack_end(struct cursor *k, struct store_end *e)
{
    e->request = text(k);
    e->choice = i32(k);
    e->finish = text(k);
    e->text = text(k);
    e->n_tok = i64(k);
    e->usage = usage(k);
    e->ended_ms = i64(k);
}

static void unpack_run(struct cursor *k, struct store_run *r)
{
    r->id = text(k);
    r->tenant = text(k);
    r->key = text_or_null(k);
    hash(k, r->body_hash);
    r->name = text(k);
    r->pipeline = text_or_null(k);
    r->input = text_or_null(k);
    r->parent = text_or_null(k);
    r->created_ms = i64(k);
    r->deadline_ms = i64(k);
}

static void unpack_step(struct cursor *k, struct store_step *t)
{
    t->run = text(k);
    t->path = text(k);
    t->attempt = i32(k);
    t->state = text(k);
    t->result = text_or_null(k);
    t->request = text_or_null(k);
    t->error = text_or_null(k);
    t->usage = usage(k);
    t->at_ms = i64(k);
}

static void unpack_run_end(struct cursor *k, struct store_run_end *e)
{
    e->run = text(k);
    e->state = text(k);
    e->output = text_or_null(k);
    e->error = text_or_null(k);
    e->usage = usage(k);
    e->ended_ms = i64(k);
}

bool store__unpack(enum store_kind kind, const struct store_cell *cell, struct store_record *r)
{
    struct cursor k = {cell, true};

    memset(r, 0, sizeof *r);
    r->kind = kind;
    switch (kind) {
    case STORE_accept: unpack_request(&k, &r->u.accept); break;
    case STORE_tokens: unpack_tokens(&k, &r->u.tokens); break;
    case STORE_end: unpack_end(&k, &r->u.end); break;
    case STORE_prune: r->u.prune = text(&k); break;
    case STORE_run: unpack_run(&k, &r->u.run); break;
    case STORE_step: unpack_step(&k, &r->u.step); break;
    case STORE_run_end: unpack_run_end(&k, &r->u.run_end); break;
    case STORE_prune_run: r->u.prune_run = text(&k); break;
    case STORE_KIND_N: BUG("no such kind of record");
    }
    return k.ok;
}
