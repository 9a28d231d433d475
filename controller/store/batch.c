#include "controller/store/batch.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "common/text/utf8.h"

#include <string.h>

static const char *const kind_name[STORE_KIND_N] = {
#define X(name) #name,
    STORE_KIND_LIST(X)
#undef X
};

static const char *const fault_name[STORE_FAULT_N] = {
#define X(name) #name,
    STORE_FAULT_LIST(X)
#undef X
};

const char *store_kind_name(enum store_kind kind)
{
    return (size_t)kind < N_ELEM(kind_name) ? kind_name[kind] : "?";
}

const char *store_fault_name(enum store_fault fault)
{
    return (size_t)fault < N_ELEM(fault_name) ? fault_name[fault] : "?";
}

struct store_batch *store_batch_new(uint64_t seq)
{
    struct store_batch *b = mem_zalloc(sizeof *b);
    b->seq = seq;
    return b;
}

void store_batch_destroy(struct store_batch **b_p)
{
    struct store_batch *b = *b_p;
    if (!b)
        return;
    *b_p = NULL;
    arena_release(&b->arena);
    mem_free(b->record);
    mem_free(b);
}

static int check_name(const char *what, const char *s, size_t max, struct err *err)
{
    size_t n = s ? strlen(s) : 0;
    if (n < 1 || n >= max)
        return err_set(err, ERR_RANGE, "%s of %zu bytes: must have 1 to %zu", what, n, max - 1);
    if (!utf8_is_valid(s, n))
        return err_set(err, ERR_FORMAT, "%s is not UTF-8", what);
    return 0;
}

static int check_count(const char *what, int64_t n, int64_t min, int64_t max, struct err *err)
{
    if (n < min || n > max)
        return err_set(err, ERR_RANGE, "%s is %lld: must be %lld to %lld", what, (long long)n, (long long)min,
                       (long long)max);
    return 0;
}

static int check_accept(const struct store_request *r, struct err *err)
{
    int rc = check_name("request id", r->id, STORE_ID_MAX, err);
    if (!rc)
        rc = check_name("tenant", r->tenant, STORE_TENANT_MAX, err);
    if (!rc)
        rc = check_name("path", r->path, STORE_PATH_MAX, err);
    if (!rc && r->key)
        rc = check_name("idempotency key", r->key, STORE_KEY_MAX, err);
    if (!rc)
        rc = check_count("number of prompt tokens", r->n_prompt, 0, STORE_TOKENS_MAX, err);
    if (!rc)
        rc = check_count("bytes of parameters", (int64_t)r->params_bytes, 0, STORE_BLOB_BYTES_MAX, err);
    if (!rc)
        rc = check_count("number of choices", r->n_choice, 1, STORE_CHOICES_MAX, err);
    return rc;
}

static int check_tokens(const struct store_tokens *t, struct err *err)
{
    int rc = check_name("request id", t->request, STORE_ID_MAX, err);
    if (!rc)
        rc = check_count("choice", t->choice, 0, STORE_CHOICES_MAX - 1, err);
    if (!rc)
        rc = check_count("first index", t->first, 0, STORE_TOKENS_MAX, err);
    if (!rc)
        rc = check_count("number of tokens", t->n, 1, STORE_TOKENS_MAX, err);
    if (!rc)
        rc = check_count("bytes beside the tokens", (int64_t)t->extra_bytes, 0, STORE_BLOB_BYTES_MAX, err);
    return rc;
}

static int check_end(const struct store_end *e, struct err *err)
{
    int rc = check_name("request id", e->request, STORE_ID_MAX, err);
    if (!rc)
        rc = check_count("choice", e->choice, 0, STORE_CHOICES_MAX - 1, err);
    if (!rc)
        rc = check_name("finish", e->finish, STORE_FINISH_MAX, err);
    if (!rc)
        rc = check_count("number of tokens", e->n_tok, 0, STORE_TOKENS_MAX, err);
    return rc;
}

/* A JSON text, or NULL where it may be missing. */
static int check_json(const char *what, const char *s, struct err *err)
{
    size_t n = s ? strlen(s) : 0;
    int rc = check_count(what, (int64_t)n, 0, STORE_BLOB_BYTES_MAX, err);
    if (!rc && n && !utf8_is_valid(s, n))
        return err_set(err, ERR_FORMAT, "%s: not UTF-8", what);
    return rc;
}

static int check_run(const struct store_run *r, struct err *err)
{
    int rc = check_name("run id", r->id, STORE_ID_MAX, err);
    if (!rc)
        rc = check_name("tenant", r->tenant, STORE_TENANT_MAX, err);
    if (!rc && r->key)
        rc = check_name("idempotency key", r->key, STORE_KEY_MAX, err);
    if (!rc)
        rc = check_name("name of the pipeline", r->name, STORE_PATH_MAX, err);
    if (!rc && r->parent)
        rc = check_name("id of the parent run", r->parent, STORE_ID_MAX, err);
    if (!rc && (!r->pipeline || !r->input))
        return err_set(err, ERR_FORMAT, "a run without pipeline or input");
    if (!rc)
        rc = check_json("bytes of the pipeline", r->pipeline, err);
    if (!rc)
        rc = check_json("bytes of the input", r->input, err);
    return rc;
}

static int check_step(const struct store_step *t, struct err *err)
{
    int rc = check_name("run id", t->run, STORE_ID_MAX, err);
    if (!rc)
        rc = check_name("path of a step", t->path, STORE_PATH_MAX, err);
    if (!rc)
        rc = check_count("attempt", t->attempt, 0, INT32_MAX, err);
    if (!rc)
        rc = check_name("state of a step", t->state, STORE_FINISH_MAX, err);
    if (!rc && t->request)
        rc = check_name("request id", t->request, STORE_ID_MAX, err);
    if (!rc)
        rc = check_json("bytes of a step's result", t->result, err);
    return rc;
}

static int check_run_end(const struct store_run_end *e, struct err *err)
{
    int rc = check_name("run id", e->run, STORE_ID_MAX, err);
    if (!rc)
        rc = check_name("state of a run", e->state, STORE_FINISH_MAX, err);
    if (!rc)
        rc = check_json("bytes of a run's output", e->output, err);
    return rc;
}

static int check_record(const struct store_record *r, struct err *err)
{
    switch (r->kind) {
    case STORE_accept: return check_accept(&r->u.accept, err);
    case STORE_tokens: return check_tokens(&r->u.tokens, err);
    case STORE_end: return check_end(&r->u.end, err);
    case STORE_prune: return check_name("request id", r->u.prune, STORE_ID_MAX, err);
    case STORE_run: return check_run(&r->u.run, err);
    case STORE_step: return check_step(&r->u.step, err);
    case STORE_run_end: return check_run_end(&r->u.run_end, err);
    case STORE_prune_run: return check_name("run id", r->u.prune_run, STORE_ID_MAX, err);
    case STORE_KIND_N: break;
    }
    BUG("no such kind of record");
}

/* Copies count their bytes, and nothing stays NULL that is empty: both back ends would store a NULL. */
static const void *copy(struct store_batch *b, const void *p, size_t n)
{
    b->bytes += n;
    return arena_dup(&b->arena, n ? p : "", n);
}

static const char *copy_name(struct store_batch *b, const char *s)
{
    return s ? copy(b, s, strlen(s)) : NULL;
}

/* A text for people: cut at a whole character, and what is no UTF-8 becomes '?'. */
static const char *copy_text(struct store_batch *b, const char *s)
{
    char out[STORE_TEXT_MAX];
    size_t n = 0, n_in = s ? strlen(s) : 0;

    for (size_t i = 0; i < n_in;) {
        uint32_t cp;
        int len = utf8_decode(s + i, n_in - i, &cp);
        size_t step = len > 0 ? (size_t)len : 1;
        if (n + step >= sizeof out)
            break;
        if (len > 0)
            memcpy(out + n, s + i, step);
        else
            out[n] = '?';
        n += step;
        i += step;
    }
    return copy(b, out, n);
}

static void copy_request(struct store_batch *b, struct store_request *q)
{
    q->id = copy_name(b, q->id);
    q->tenant = copy_name(b, q->tenant);
    q->path = copy_name(b, q->path);
    q->key = copy_name(b, q->key);
    q->prompt = copy(b, q->prompt, (size_t)q->n_prompt * sizeof *q->prompt);
    q->params = copy(b, q->params, q->params_bytes);
}

static void copy_run(struct store_batch *b, struct store_run *r)
{
    r->id = copy_name(b, r->id);
    r->tenant = copy_name(b, r->tenant);
    r->key = copy_name(b, r->key);
    r->name = copy_name(b, r->name);
    r->pipeline = copy_name(b, r->pipeline);
    r->input = copy_name(b, r->input);
    r->parent = copy_name(b, r->parent);
}

static void copy_step(struct store_batch *b, struct store_step *t)
{
    t->run = copy_name(b, t->run);
    t->path = copy_name(b, t->path);
    t->state = copy_name(b, t->state);
    t->result = copy_name(b, t->result);
    t->request = copy_name(b, t->request);
    t->error = t->error ? copy_text(b, t->error) : NULL;
}

static void copy_run_end(struct store_batch *b, struct store_run_end *e)
{
    e->run = copy_name(b, e->run);
    e->state = copy_name(b, e->state);
    e->output = copy_name(b, e->output);
    e->error = e->error ? copy_text(b, e->error) : NULL;
}

void store__batch_copy(struct store_batch *b, const struct store_record *r)
{
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 16;
        b->record = mem_realloc(b->record, b->cap * sizeof *b->record);
    }
    struct store_record *to = &b->record[b->n++];
    *to = *r;
    b->bytes += sizeof *to;
    switch (r->kind) {
    case STORE_accept: copy_request(b, &to->u.accept); break;
    case STORE_tokens: {
        struct store_tokens *t = &to->u.tokens;
        t->request = copy_name(b, t->request);
        t->id = copy(b, t->id, (size_t)t->n * sizeof *t->id);
        t->extra = copy(b, t->extra, t->extra_bytes);
        break;
    }
    case STORE_end:
        to->u.end.request = copy_name(b, r->u.end.request);
        to->u.end.finish = copy_name(b, r->u.end.finish);
        to->u.end.text = copy_text(b, r->u.end.text);
        break;
    case STORE_prune: to->u.prune = copy_name(b, r->u.prune); break;
    case STORE_run: copy_run(b, &to->u.run); break;
    case STORE_step: copy_step(b, &to->u.step); break;
    case STORE_run_end: copy_run_end(b, &to->u.run_end); break;
    case STORE_prune_run: to->u.prune_run = copy_name(b, r->u.prune_run); break;
    case STORE_KIND_N: BUG("no such kind of record");
    }
}

int store_batch_add(struct store_batch *b, const struct store_record *r, enum store_class cls, struct err *err)
{
    int rc = check_record(r, err);
    if (rc)
        return rc;
    size_t before = b->bytes;
    store__batch_copy(b, r);
    if (b->bytes - before > b->bytes_largest)
        b->bytes_largest = b->bytes - before;
    b->full |= cls == STORE_FULL;
    return 0;
}
