/* Proves what store.h promises of every store: what is reported comes back after a restart, in full and in order;
 * what contradicts the tables is refused and harms nobody; the limits push back; a second owner is refused; a newer
 * schema is refused. How: a real database, a real loop, each test on a fresh database.
 */
#include "tests/unit/controller/store/suite.h"

#include "common/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void (*suite_fresh)(char *url, size_t n);

/* ---- the rig ---- */

static void on_progress(void *arg, uint64_t committed, uint64_t durable)
{
    struct rig *r = arg;
    if (committed < r->committed || durable < r->durable || durable > committed)
        fail_msg("progress from %d, %d to %d, %d", (int)r->committed, (int)r->durable, (int)committed, (int)durable);
    r->committed = committed;
    r->durable = durable;
}

static void on_refused(void *arg, const struct store_refusal *f)
{
    struct rig *r = arg;
    assert_true(f->seq > r->committed); /* told before the progress that covers it */
    r->n_refused++;
    r->refused = *f;
}

static void on_state(void *arg, enum store_state state, enum store_fault fault, const char *text)
{
    struct rig *r = arg;
    r->state = state;
    r->fault = fault;
    r->n_failing += state == STORE_STATE_failing;
    snprintf(r->text, sizeof r->text, "%s", text);
}

static void on_closed(void *arg)
{
    ((struct rig *)arg)->closed = true;
}

void rig_init(struct rig *r, const char *url)
{
    memset(r, 0, sizeof *r);
    store_config_init(&r->config);
    r->config.url = url;
}

int rig_open(struct rig *r, struct err *err)
{
    static const struct store_events events = {on_progress, on_refused, on_state};
    assert_int_equal(uv_loop_init(&r->loop), 0);
    int rc = store_open(&r->loop, &r->config, &events, r, &r->store, err);
    if (rc) {
        uv_run(&r->loop, UV_RUN_DEFAULT);
        assert_int_equal(uv_loop_close(&r->loop), 0);
    }
    return rc;
}

void rig_start(struct rig *r)
{
    struct err err;
    if (rig_open(r, &err) || store_start(r->store, &err))
        fail_msg("%s", err.text);
}

void rig_close(struct rig *r)
{
    store_close(&r->store, on_closed, r);
    assert_null(r->store);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_true(r->closed);
    assert_int_equal(uv_loop_close(&r->loop), 0);
}

static void on_tick(uv_timer_t *t)
{
    (void)t;
}

/* Run the loop until *value >= at_least, or state is the one waited for. */
static bool wait_for(struct rig *r, const uint64_t *value, uint64_t at_least, const enum store_state *state,
                     enum store_state wanted)
{
    int64_t end = clock_mono_ns() + 20 * INT64_C(1000000000);
    uv_timer_t timer;

    store_flush(r->store);
    uv_timer_init(&r->loop, &timer);
    uv_timer_start(&timer, on_tick, 10, 10);
    while ((value ? *value < at_least : *state != wanted) && clock_mono_ns() < end)
        uv_run(&r->loop, UV_RUN_ONCE);
    bool ok = value ? *value >= at_least : *state == wanted;
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(&r->loop, UV_RUN_NOWAIT);
    return ok;
}

bool rig_wait(struct rig *r, uint64_t seq)
{
    return wait_for(r, &r->committed, seq, NULL, 0);
}

bool rig_wait_durable(struct rig *r, uint64_t seq)
{
    return wait_for(r, &r->durable, seq, NULL, 0);
}

bool rig_wait_state(struct rig *r, enum store_state state)
{
    return wait_for(r, NULL, 0, &r->state, state);
}

/* ---- writing ---- */

int32_t suite_token(const char *id, int choice, int64_t i)
{
    return (int32_t)(((unsigned char)id[0] * 7919 + choice * 104729 + i * 31) % 129280);
}

static void fill_request(struct store_request *q, const char *id, int n_choice, int32_t prompt[5])
{
    for (int i = 0; i < 5; i++)
        prompt[i] = suite_token(id, 99, i);
    *q = (struct store_request){.id = id,
                                .tenant = "tenant-ü",
                                .path = "/v1/chat/completions",
                                .prompt = prompt,
                                .n_prompt = 5,
                                .params_version = 3,
                                .params = "\0p\xff",
                                .params_bytes = 3,
                                .seed = UINT64_C(0xfedcba9876543210),
                                .created_ms = 1000 + (unsigned char)id[0],
                                .deadline_ms = 2000 + (unsigned char)id[0],
                                .n_choice = n_choice};
    memset(q->body_hash, id[0], sizeof q->body_hash);
}

static void good(int rc, const struct err *err)
{
    if (rc)
        fail_msg("%s", err->text);
}

uint64_t put_accept(struct rig *r, const char *id, int n_choice)
{
    struct store_request q;
    int32_t prompt[5];
    uint64_t seq = 0;
    struct err err;
    fill_request(&q, id, n_choice, prompt);
    good(store_accept(r->store, &q, &seq, &err), &err);
    return seq;
}

uint64_t put_tokens(struct rig *r, const char *id, int choice, int64_t first, int n, enum store_class cls)
{
    int32_t tok[256];
    uint64_t seq = 0;
    struct err err;
    assert_true(n <= 256);
    for (int i = 0; i < n; i++)
        tok[i] = suite_token(id, choice, first + i);
    struct store_tokens t = {
        .request = id, .choice = choice, .first = first, .n = n, .id = tok, .extra = "x\0y", .extra_bytes = 3};
    good(store_tokens(r->store, &t, cls, &seq, &err), &err);
    return seq;
}

uint64_t put_end(struct rig *r, const char *id, int choice, int64_t n_tok)
{
    uint64_t seq = 0;
    struct err err;
    struct store_end e = {.request = id, .choice = choice, .finish = "stop", .text = "bad \xff byte", .n_tok = n_tok,
                          .usage = {5, n_tok, 2, 1}, .ended_ms = 77};
    good(store_end(r->store, &e, &seq, &err), &err);
    return seq;
}

uint64_t put_prune(struct rig *r, const char *id)
{
    uint64_t seq = 0;
    struct err err;
    good(store_prune(r->store, id, &seq, &err), &err);
    return seq;
}

uint64_t put_run(struct rig *r, const char *id, const char *tenant, const char *key)
{
    uint64_t seq = 0;
    struct err err;
    struct store_run n = {.id = id, .tenant = tenant, .key = key, .name = "pipe-ü",
                          .pipeline = "{\"steps\":[\"ü\"]}", .input = "[1,\"two\"]",
                          .parent = id[0] % 2 ? "parent" : NULL, .created_ms = 1000 + (unsigned char)id[0],
                          .deadline_ms = 2000 + (unsigned char)id[0]};
    memset(n.body_hash, id[0], sizeof n.body_hash);
    good(store_run(r->store, &n, &seq, &err), &err);
    return seq;
}

uint64_t put_step(struct rig *r, const char *run, const char *path, int attempt, const char *state,
                  enum store_class cls)
{
    uint64_t seq = 0;
    struct err err;
    bool done = strcmp(state, "done") == 0;
    struct store_step t = {.run = run, .path = path, .attempt = attempt, .state = state,
                           .result = done ? "{\"ok\":true}" : NULL, .request = done ? "gen-1" : NULL,
                           .error = done ? NULL : "bad \xff byte", .usage = {1, 2, 3, attempt}, .at_ms = 99};
    good(store_step(r->store, &t, cls, &seq, &err), &err);
    return seq;
}

uint64_t put_run_end(struct rig *r, const char *run)
{
    uint64_t seq = 0;
    struct err err;
    struct store_run_end e = {.run = run, .state = "done", .output = "\"out\"", .usage = {10, 20, 0, 0},
                              .ended_ms = 5000 + (unsigned char)run[0]};
    good(store_run_end(r->store, &e, &seq, &err), &err);
    return seq;
}

uint64_t put_prune_run(struct rig *r, const char *run)
{
    uint64_t seq = 0;
    struct err err;
    good(store_prune_run(r->store, run, &seq, &err), &err);
    return seq;
}

/* ---- reading ---- */

static int see_request(void *arg, const struct store_request *r)
{
    struct seen *s = arg;
    struct store_request want;
    int32_t prompt[5];

    assert_true(s->n < SEEN_MAX && r->n_choice <= SEEN_CHOICES);
    fill_request(&want, r->id, r->n_choice, prompt);
    assert_string_equal(r->tenant, want.tenant);
    assert_string_equal(r->path, want.path);
    assert_int_equal(r->n_prompt, 5);
    assert_memory_equal(r->prompt, prompt, sizeof prompt);
    assert_memory_equal(r->body_hash, want.body_hash, STORE_HASH_BYTES);
    assert_int_equal(r->params_version, 3);
    assert_int_equal(r->params_bytes, 3);
    assert_memory_equal(r->params, want.params, 3);
    assert_true(r->seed == want.seed);
    assert_int_equal(r->created_ms, want.created_ms);
    assert_int_equal(r->deadline_ms, want.deadline_ms);
    if (s->n) /* oldest first */
        assert_true((unsigned char)s->request[s->n - 1].id[0] <= (unsigned char)r->id[0]);
    struct seen_request *to = &s->request[s->n++];
    snprintf(to->id, sizeof to->id, "%s", r->id);
    to->n_choice = r->n_choice;
    return 0;
}

static int see_tokens(void *arg, const struct store_tokens *t)
{
    struct seen *s = arg;
    struct seen_request *r = &s->request[s->n - 1];
    assert_string_equal(t->request, r->id);
    assert_int_equal(t->first, r->n_tok[t->choice]);
    for (int i = 0; i < t->n; i++)
        assert_int_equal(t->id[i], suite_token(t->request, t->choice, t->first + i));
    assert_int_equal(t->extra_bytes, 3);
    assert_memory_equal(t->extra, "x\0y", 3);
    r->n_tok[t->choice] += t->n;
    return 0;
}

static int see_end(void *arg, const struct store_end *e)
{
    struct seen *s = arg;
    struct seen_request *r = &s->request[s->n - 1];
    assert_string_equal(e->request, r->id);
    assert_string_equal(e->finish, "stop");
    assert_string_equal(e->text, "bad ? byte");
    assert_int_equal(e->n_tok, r->n_tok[e->choice]);
    assert_int_equal(e->usage.prompt_tok, 5);
    assert_int_equal(e->usage.output_tok, e->n_tok);
    assert_int_equal(e->usage.cached_tok, 2);
    assert_int_equal(e->usage.reasoning_tok, 1);
    assert_int_equal(e->ended_ms, 77);
    assert_false(r->ended[e->choice]);
    r->ended[e->choice] = true;
    return 0;
}

static int see_run(void *arg, const struct store_run *r)
{
    struct seen *s = arg;

    assert_true(s->n_run < SEEN_MAX);
    struct seen_run *to = &s->run[s->n_run++];
    assert_string_equal(r->name, "pipe-ü");
    assert_int_equal(r->body_hash[5], r->id[0]);
    if (r->pipeline) { /* NULL in lists */
        assert_string_equal(r->pipeline, "{\"steps\":[\"ü\"]}");
        assert_string_equal(r->input, "[1,\"two\"]");
    }
    assert_true(!r->parent || strcmp(r->parent, "parent") == 0);
    assert_int_equal(r->deadline_ms, r->created_ms + 1000);
    snprintf(to->id, sizeof to->id, "%s", r->id);
    return 0;
}

static int see_step(void *arg, const struct store_step *t)
{
    struct seen *s = arg;
    struct seen_run *r = &s->run[s->n_run - 1];
    size_t n = strlen(r->trace);
    bool done = strcmp(t->state, "done") == 0;

    assert_string_equal(t->run, r->id);
    if (done)
        assert_string_equal(t->result, "{\"ok\":true}");
    else
        assert_null(t->result);
    assert_true(done ? !t->error : strcmp(t->error, "bad ? byte") == 0);
    assert_true(done == (t->request != NULL));
    assert_true(t->usage.prompt_tok == 1 && t->usage.output_tok == 2 && t->usage.cached_tok == 3 &&
                t->usage.reasoning_tok == t->attempt && t->at_ms == 99);
    snprintf(r->trace + n, sizeof r->trace - n, "%s/%d/%s ", t->path, (int)t->attempt, t->state);
    r->n_step++;
    return 0;
}

static int see_run_end(void *arg, const struct store_run_end *e)
{
    struct seen *s = arg;
    struct seen_run *r = &s->run[s->n_run - 1];
    assert_string_equal(e->run, r->id);
    assert_string_equal(e->state, "done");
    assert_string_equal(e->output, "\"out\"");
    assert_null(e->error);
    assert_true(e->usage.output_tok == 20 && e->ended_ms == 5000 + r->id[0]);
    assert_false(r->ended);
    r->ended = true;
    return 0;
}

const struct store_visitor seen_visitor = {see_request, see_tokens, see_end, see_run, see_step, see_run_end};

int seen_load(struct store *s, enum store_load_what what, struct seen *seen, struct err *err)
{
    memset(seen, 0, sizeof *seen);
    return store_load(s, what, &seen_visitor, seen, err);
}

const struct seen_request *seen_find(const struct seen *seen, const char *id)
{
    for (int i = 0; i < seen->n; i++)
        if (strcmp(seen->request[i].id, id) == 0)
            return &seen->request[i];
    return NULL;
}

const struct seen_run *seen_find_run(const struct seen *seen, const char *id)
{
    for (int i = 0; i < seen->n_run; i++)
        if (strcmp(seen->run[i].id, id) == 0)
            return &seen->run[i];
    return NULL;
}

struct asking {
    struct seen *seen;
    char *ids;
    size_t ids_bytes;
    uint64_t n_done;
    int rc;
};

static void on_fetched(void *arg, const struct store_fetched *f)
{
    struct asking *a = arg;
    a->rc = f->rc;
    a->n_done++;
    if (a->seen)
        assert_int_equal(store_fetched_visit(f, &seen_visitor, a->seen), f->rc);
    for (size_t i = 0; i < f->n && a->ids; i++) {
        size_t n = strlen(a->ids);
        if (f->record[i].kind == STORE_prune || f->record[i].kind == STORE_prune_run)
            snprintf(a->ids + n, a->ids_bytes - n, "%s ", f->record[i].u.prune);
    }
}

int rig_fetch(struct rig *r, const struct store_query *query, struct seen *seen, char *ids, size_t ids_bytes)
{
    struct asking a = {seen, ids, ids_bytes, 0, 0};
    struct err err;

    if (seen)
        memset(seen, 0, sizeof *seen);
    if (ids)
        ids[0] = 0;
    int rc = store_fetch(r->store, query, on_fetched, &a, &err);
    if (rc)
        return rc;
    assert_true(wait_for(r, &a.n_done, 1, NULL, 0));
    return a.rc;
}

/* Open again, read everything, close. */
void suite_look(const char *url, enum store_load_what what, struct seen *seen)
{
    struct rig r;
    struct err err;
    rig_init(&r, url);
    good(rig_open(&r, &err), &err);
    good(seen_load(r.store, what, seen, &err), &err);
    rig_close(&r);
}

void suite_check_v1(const char *url)
{
    struct rig r;
    struct seen seen;
    struct store_status st;

    suite_look(url, STORE_LOAD_live, &seen);
    assert_int_equal(seen.n, 2);
    suite_look(url, STORE_LOAD_all, &seen);
    assert_int_equal(seen.n, 3);
    const struct seen_request *a = seen_find(&seen, "a"), *b = seen_find(&seen, "b"), *c = seen_find(&seen, "c");
    assert_true(a->n_tok[0] == 4 && a->ended[0] && a->n_tok[1] == 2 && !a->ended[1]);
    assert_true(b->n_tok[0] == 100 && b->ended[0]);
    assert_true(c->n_tok[0] == 5 && !c->ended[0]);
    rig_init(&r, url);
    rig_start(&r);
    store_status(r.store, &st);
    assert_int_equal(st.epoch, 4); /* it was written by epoch 1 and read twice */
    put_tokens(&r, "c", 0, 5, 5, STORE_LAZY);
    put_end(&r, "a", 1, 2);
    put_run(&r, "r", "t", NULL);
    assert_true(rig_wait_durable(&r, put_end(&r, "c", 0, 10)));
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);
    suite_look(url, STORE_LOAD_live, &seen);
    assert_int_equal(seen.n, 0);
    assert_int_equal(seen.n_run, 1);
}

/* ---- the tests ---- */

static void test_round_trip(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct seen seen;

    suite_fresh(url, sizeof url);
    rig_init(&r, url);
    rig_start(&r);
    put_accept(&r, "b", 2);
    assert_true(rig_wait_durable(&r, put_accept(&r, "a", 1))); /* accept: durable when committed */
    put_tokens(&r, "a", 0, 0, 3, STORE_LAZY);
    put_tokens(&r, "b", 1, 0, 2, STORE_LAZY);
    assert_true(rig_wait(&r, put_tokens(&r, "a", 0, 3, 1, STORE_LAZY)));
    put_end(&r, "b", 0, 0); /* a choice that never had a token */
    assert_true(rig_wait_durable(&r, put_end(&r, "a", 0, 4)));
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);

    suite_look(url, STORE_LOAD_all, &seen);
    assert_int_equal(seen.n, 2);
    const struct seen_request *a = seen_find(&seen, "a"), *b = seen_find(&seen, "b");
    assert_true(a == &seen.request[0] && a->n_tok[0] == 4 && a->ended[0]);
    assert_true(b->n_choice == 2 && b->n_tok[0] == 0 && b->ended[0] && b->n_tok[1] == 2 && !b->ended[1]);
    suite_look(url, STORE_LOAD_live, &seen);
    assert_int_equal(seen.n, 1);
    assert_string_equal(seen.request[0].id, "b");
}

static void test_close_commits(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct seen seen;

    suite_fresh(url, sizeof url);
    rig_init(&r, url);
    rig_start(&r);
    put_accept(&r, "c", 1);
    put_tokens(&r, "c", 0, 0, 9, STORE_LAZY);
    rig_close(&r); /* without a flush */
    suite_look(url, STORE_LOAD_all, &seen);
    assert_int_equal(seen_find(&seen, "c")->n_tok[0], 9);
}

static void expect_refused(struct rig *r, int n, enum store_kind kind, const char *id, int64_t first)
{
    assert_int_equal(r->n_refused, n);
    assert_int_equal(r->refused.kind, kind);
    assert_string_equal(r->refused.request, id);
    assert_int_equal(r->refused.first, first);
}

static void test_contradictions_are_refused(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct seen seen;

    suite_fresh(url, sizeof url);
    rig_init(&r, url);
    rig_start(&r);
    put_accept(&r, "d", 1);
    put_tokens(&r, "d", 0, 0, 5, STORE_LAZY);
    assert_true(rig_wait(&r, put_accept(&r, "d", 1)));
    expect_refused(&r, 1, STORE_accept, "d", 0);
    assert_true(rig_wait(&r, put_tokens(&r, "d", 0, 6, 1, STORE_LAZY))); /* a gap */
    expect_refused(&r, 2, STORE_tokens, "d", 6);
    assert_true(rig_wait(&r, put_tokens(&r, "d", 0, 4, 1, STORE_LAZY))); /* a repeat */
    expect_refused(&r, 3, STORE_tokens, "d", 4);
    assert_true(rig_wait(&r, put_tokens(&r, "d", 1, 0, 1, STORE_LAZY))); /* no such choice */
    expect_refused(&r, 4, STORE_tokens, "d", 0);
    assert_true(rig_wait(&r, put_tokens(&r, "nobody", 0, 0, 1, STORE_LAZY)));
    expect_refused(&r, 5, STORE_tokens, "nobody", 0);
    assert_true(rig_wait(&r, put_end(&r, "d", 0, 4))); /* one token fewer than there are */
    expect_refused(&r, 6, STORE_end, "d", 4);
    put_tokens(&r, "d", 0, 5, 1, STORE_LAZY); /* good ones in the same batch are taken */
    put_end(&r, "d", 0, 6);
    put_end(&r, "d", 0, 6);
    assert_true(rig_wait(&r, put_tokens(&r, "d", 0, 6, 1, STORE_LAZY))); /* after its end */
    assert_int_equal(r.n_refused, 8);
    assert_int_equal(r.state, STORE_STATE_ready);
    rig_close(&r);
    suite_look(url, STORE_LOAD_all, &seen);
    assert_int_equal(seen.n, 1);
    assert_int_equal(seen.request[0].n_tok[0], 6);
    assert_true(seen.request[0].ended[0]);
}

static void test_idempotency_key_is_unique(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct store_request q;
    int32_t prompt[5];
    struct err err;
    uint64_t seq;

    suite_fresh(url, sizeof url);
    rig_init(&r, url);
    rig_start(&r);
    fill_request(&q, "e", 1, prompt);
    q.key = "key-1";
    good(store_accept(r.store, &q, NULL, &err), &err);
    q.id = "f";
    good(store_accept(r.store, &q, &seq, &err), &err);
    assert_true(rig_wait(&r, seq));
    expect_refused(&r, 1, STORE_accept, "f", 0);
    q.tenant = "another";
    good(store_accept(r.store, &q, &seq, &err), &err);
    assert_true(rig_wait(&r, seq));
    assert_int_equal(r.n_refused, 1);
    put_accept(&r, "g", 1); /* no key: never in the way */
    assert_true(rig_wait(&r, put_accept(&r, "h", 1)));
    assert_int_equal(r.n_refused, 1);
    rig_close(&r);
}

static void test_prune(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct seen seen;

    suite_fresh(url, sizeof url);
    rig_init(&r, url);
    rig_start(&r);
    put_accept(&r, "a", 1);
    put_accept(&r, "b", 1);
    put_tokens(&r, "a", 0, 0, 2, STORE_LAZY);
    put_tokens(&r, "b", 0, 0, 2, STORE_LAZY);
    put_end(&r, "a", 0, 2);
    put_prune(&r, "unknown");
    assert_true(rig_wait(&r, put_prune(&r, "a")));
    assert_true(rig_wait(&r, put_accept(&r, "a", 1))); /* the id is free again, and nothing is left of the old one */
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);
    suite_look(url, STORE_LOAD_all, &seen);
    assert_int_equal(seen.n, 2);
    assert_true(seen_find(&seen, "a")->n_tok[0] == 0 && !seen_find(&seen, "a")->ended[0]);
    assert_int_equal(seen_find(&seen, "b")->n_tok[0], 2);
}

static void test_lazy_becomes_durable(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct store_status st;

    suite_fresh(url, sizeof url);
    rig_init(&r, url);
    r.config.limit.sync_ms = 50;
    rig_start(&r);
    assert_true(rig_wait_durable(&r, put_accept(&r, "a", 1)));
    uint64_t seq = put_tokens(&r, "a", 0, 0, 1, STORE_LAZY);
    assert_true(rig_wait_durable(&r, seq)); /* by itself, nothing follows it */
    seq = put_tokens(&r, "a", 0, 1, 1, STORE_FULL);
    assert_true(rig_wait(&r, seq));
    assert_true(r.durable >= seq);
    store_status(r.store, &st);
    assert_int_equal(st.state, STORE_STATE_ready);
    assert_int_equal(st.n_queued, 0);
    assert_true(st.committed == seq && st.durable == seq && st.epoch >= 1);
    rig_close(&r);
}

static void test_many_turns_share_commits(void **state)
{
    (void)state;
    enum { TURNS = 2000, WIDTH = 4 };
    char url[512];
    struct rig r;
    struct seen seen;
    struct store_status st;
    uint64_t seq = 0;

    suite_fresh(url, sizeof url);
    rig_init(&r, url);
    r.config.limit.queue_max = 8;
    rig_start(&r);
    for (int k = 0; k < WIDTH; k++)
        put_accept(&r, (char[]){(char)('a' + k), 0}, 1);
    for (int i = 0; i < TURNS; i++) {
        for (int k = 0; k < WIDTH; k++)
            seq = put_tokens(&r, (char[]){(char)('a' + k), 0}, 0, i, 1, STORE_LAZY);
        store_flush(r.store);
        uv_run(&r.loop, UV_RUN_NOWAIT);
    }
    assert_true(rig_wait(&r, seq));
    store_status(r.store, &st);
    assert_true(st.n_commit <= TURNS + 1); /* at most one a turn */
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);
    suite_look(url, STORE_LOAD_all, &seen);
    assert_int_equal(seen.n, WIDTH);
    for (int k = 0; k < WIDTH; k++)
        assert_int_equal(seen.request[k].n_tok[0], TURNS);
}

static void test_second_owner_is_refused(void **state)
{
    (void)state;
    char url[512];
    struct rig a, b;
    struct err err;

    suite_fresh(url, sizeof url);
    rig_init(&a, url);
    rig_start(&a);
    assert_true(rig_wait(&a, put_accept(&a, "a", 1)));
    rig_init(&b, url);
    assert_int_equal(rig_open(&b, &err), ERR_BUSY);
    assert_non_null(strstr(err.text, "locked: "));
    assert_null(strchr(err.text, '\n'));
    assert_true(rig_wait(&a, put_tokens(&a, "a", 0, 0, 1, STORE_FULL))); /* the owner is not disturbed */
    rig_close(&a);
    rig_init(&b, url);
    rig_start(&b); /* free again, as the next epoch */
    struct store_status st;
    store_status(b.store, &st);
    assert_int_equal(st.epoch, 2);
    assert_true(rig_wait(&b, put_tokens(&b, "a", 0, 1, 1, STORE_FULL)));
    assert_int_equal(b.n_refused, 0);
    rig_close(&b);
}

/* Neither the size nor the spelling of what is put in can break a batch. */
static void test_records_are_checked(void **state)
{
    (void)state;
    char url[512], longer[STORE_KEY_MAX + 1];
    struct rig r;
    struct store_request q;
    int32_t prompt[5];
    struct err err;

    memset(longer, 'k', STORE_KEY_MAX);
    longer[STORE_KEY_MAX] = 0;
    suite_fresh(url, sizeof url);
    rig_init(&r, url);
    rig_start(&r);
    fill_request(&q, "a", 1, prompt);
    q.key = longer;
    assert_int_equal(store_accept(r.store, &q, NULL, &err), ERR_RANGE);
    q.key = "";
    assert_int_equal(store_accept(r.store, &q, NULL, &err), ERR_RANGE);
    q.key = "\xc3(";
    assert_int_equal(store_accept(r.store, &q, NULL, &err), ERR_FORMAT);
    q.key = longer + 1;
    q.n_prompt = q.params_bytes = 0;
    uint64_t seq;
    assert_int_equal(store_accept(r.store, &q, &seq, &err), 0);
    assert_true(rig_wait(&r, seq));
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);
}

const struct CMUnitTest suite_tests[] = {
    cmocka_unit_test(test_round_trip),
    cmocka_unit_test(test_close_commits),
    cmocka_unit_test(test_contradictions_are_refused),
    cmocka_unit_test(test_idempotency_key_is_unique),
    cmocka_unit_test(test_prune),
    cmocka_unit_test(test_lazy_becomes_durable),
    cmocka_unit_test(test_many_turns_share_commits),
    cmocka_unit_test(test_second_owner_is_refused),
    cmocka_unit_test(test_records_are_checked),
};
const size_t suite_n_test = sizeof suite_tests / sizeof suite_tests[0];

int suite_run_group(const char *name, const struct CMUnitTest *own, size_t n_own, CMFixtureFunction set_up,
                    CMFixtureFunction tear_down)
{
    struct CMUnitTest all[96];
    size_t n = 0;

    assert_true(suite_n_test + suite_n_run_test + n_own <= sizeof all / sizeof all[0]);
    memcpy(all + n, suite_tests, suite_n_test * sizeof all[0]);
    n += suite_n_test;
    memcpy(all + n, suite_run_tests, suite_n_run_test * sizeof all[0]);
    n += suite_n_run_test;
    memcpy(all + n, own, n_own * sizeof all[0]);
    return _cmocka_run_group_tests(name, all, n + n_own, set_up, tear_down);
}
