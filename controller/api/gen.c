#include "controller/api/gen.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/rand.h"
#include "common/mem/mem.h"
#include "controller/api/run.h"
#include "controller/ledger/recall.h"
#include "controller/store/store.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { COMMIT_GRACE_MS = 1000 }; /* past the deadline: a commit that takes so long has failed for the client */

#define TO(name) (1u << API_GEN_##name)
static const unsigned legal[API_GEN_STATE_N] = {
    [API_GEN_fresh] = TO(lookup) | TO(waiting) | TO(running) | TO(failed),
    [API_GEN_lookup] = TO(waiting) | TO(running) | TO(done) | TO(failed),
    [API_GEN_waiting] = TO(running) | TO(failed),
    [API_GEN_running] = TO(done) | TO(failed),
};

static void gen_move(struct api_gen *gen, enum api_gen_state to)
{
    ASSERT(legal[gen->state] >> to & 1);
    gen->front->n_waiting += (to == API_GEN_waiting) - (gen->state == API_GEN_waiting);
    gen->state = to;
}

static int64_t now_ms(struct ctl_front *f)
{
    return (int64_t)uv_now(ctl_loop(f->ctl));
}

static void mark_all(struct api_gen *gen)
{
    for (struct api_run *run = gen->run; run; run = run->gen_next)
        api__run_mark(run);
}

static void gen_fail(struct api_gen *gen, enum api_error_kind kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void gen_fail(struct api_gen *gen, enum api_error_kind kind, const char *fmt, ...)
{
    struct err text;
    va_list ap;

    if (gen->state == API_GEN_failed)
        return;
    va_start(ap, fmt);
    err_setv(&text, ERR_ARG, fmt, ap);
    va_end(ap);
    api_error_set(&gen->error, kind, NULL, "%s", text.text);
    gen_move(gen, API_GEN_failed);
    mark_all(gen);
}

/* ---- life ---- */

struct api_lookup {
    struct api_gen *gen; /* NULL: nobody waits for the answer any more */
};

static struct api_gen *gen_new(struct ctl_front *f)
{
    struct api_gen *gen = mem_zalloc(sizeof *gen);

    gen->front = f;
    gen->next = f->gens;
    if (f->gens)
        f->gens->prev = gen;
    f->gens = gen;
    gen->start_ms = now_ms(f);
    chat_request_init(&gen->r);
    return gen;
}

static void set_detached(struct api_gen *gen, bool detached)
{
    gen->front->n_detached += (int64_t)detached - gen->detached;
    gen->detached = detached;
}

/* leave: what still runs stays in the store for the next process, if it is to be kept. */
static void gen_free(struct api_gen *gen, bool leave)
{
    struct ctl_front *f = gen->front;

    ASSERT(!gen->run);
    set_detached(gen, false);
    f->n_waiting -= gen->state == API_GEN_waiting;
    *(gen->prev ? &gen->prev->next : &f->gens) = gen->next;
    if (gen->next)
        gen->next->prev = gen->prev;
    if (gen->lookup)
        gen->lookup->gen = NULL;
    if (gen->fetched)
        ctl_request_destroy(&gen->req);
    else if (leave && gen->keep)
        ctl_request_leave(&gen->req);
    else
        ctl_request_drop(&gen->req);
    for (int64_t i = 0; gen->judge && i < gen->r.n; i++)
        stream_text_destroy(&gen->judge[i]);
    mem_free(gen->judge);
    chat_request_release(&gen->r);
    api_state_release(&gen->kept);
    mem_free(gen->key);
    mem_free(gen);
}

static bool is_over(const struct api_gen *gen)
{
    return gen->state == API_GEN_done || gen->state == API_GEN_failed;
}

/* Nobody listens: go on, or end. */
static void settle(struct api_gen *gen)
{
    struct ctl_front *f = gen->front;

    if (gen->run)
        return;
    if (gen->keep && gen->state == API_GEN_running && !f->closing) {
        if (!gen->detached && f->n_detached >= ctl_config_of(f->ctl)->limit.detached_max) {
            log_warn(api, "%lld generations run without a client already (detached_max), canceled: id=%s",
                     (long long)f->n_detached, gen->id);
        } else {
            set_detached(gen, true);
            return;
        }
    }
    if (gen->keep && f->closing && !is_over(gen))
        return; /* api__gens_close */
    gen_free(gen, false);
}

void api__gen_leave(struct api_run *run)
{
    struct api_gen *gen = run->gen;
    struct api_run **p = &gen->run;

    while (*p != run)
        p = &(*p)->gen_next;
    *p = run->gen_next;
    run->gen = NULL;
    run->gen_next = NULL;
    settle(gen);
}

static void listen_to(struct api_run *run, struct api_gen *gen)
{
    run->gen = gen;
    run->gen_next = gen->run;
    gen->run = run;
    if (!run->get)
        memcpy(gen->last_hex, run->hex, sizeof gen->last_hex);
    set_detached(gen, false);
    api__run_mark(run);
}

bool api__gen_is_accepted(const struct api_gen *gen)
{
    /* Without a store there is nothing to wait for, and a client may be told that it is in the queue. */
    if (gen->state == API_GEN_waiting)
        return !ctl_store(gen->front->ctl);
    return gen->state == API_GEN_done || (gen->state == API_GEN_running && gen->req->accepted);
}

/* ---- the judge ---- */

static void no_text(void *arg, const char *text, size_t n)
{
    (void)arg, (void)text, (void)n;
}

static void no_call_text(void *arg, int call, const char *text, size_t n)
{
    (void)arg, (void)call, (void)text, (void)n;
}

static void no_call_end(void *arg, int call, bool complete)
{
    (void)arg, (void)call, (void)complete;
}

static const struct parse_events no_events = {no_text, no_text, no_call_text, no_call_text, no_call_end};

struct stream_text *api__gen_text(struct api_gen *gen, const struct parse_events *events, void *arg)
{
    const struct chat_request *r = &gen->r;
    struct stream_text_opts o = {
        .tok = gen->front->rules.tok,
        .stops = &r->stops,
        .parse = {r->in_reasoning, r->tools_on, r->tools},
        .ignore_eos = r->ignore_eos,
        .n_call_max = r->parallel_tool_calls ? 0 : 1,
    };
    return stream_text_new(&o, events, arg);
}

static void make_judges(struct api_gen *gen)
{
    gen->judge = mem_array((size_t)gen->r.n, sizeof(struct stream_text *));
    for (int64_t i = 0; i < gen->r.n; i++)
        gen->judge[i] = api__gen_text(gen, &no_events, NULL);
}

static void judge(struct api_gen *gen, struct ctl_choice *c, int64_t first, int64_t n)
{
    struct stream_text *t = gen->judge[c->idx];
    enum stream_text_end end = stream_text_feed(t, c->out.id + first, n);

    if (end == STREAM_TEXT_OPEN || c->state == CTL_CHOICE_ended)
        return;
    if (end == STREAM_TEXT_SPECIAL) {
        gen->front->n_hidden++;
        log_warn(api, "output ended at a token that must not reach a client: id=%s choice=%d index=%lld n_hidden=%llu",
                 gen->id, c->idx, (long long)stream_text_n_tok(t), (unsigned long long)gen->front->n_hidden);
    }
    ctl_choice_stop(c);
}

/* ---- from the back ---- */

static void on_arrived(void *arg, struct ctl_choice *c, int64_t first, int64_t n)
{
    judge(arg, c, first, n);
}

static void on_tokens(void *arg, struct ctl_choice *c, int64_t first, int64_t n)
{
    (void)c, (void)first, (void)n;
    mark_all(arg);
}

static void on_ending(void *arg, struct ctl_choice *c)
{
    struct api_gen *gen = arg;

    if (c->end == CTL_END_stop || c->end == CTL_END_length)
        stream_text_finish(gen->judge[c->idx]);
    c->reasoning_tok = stream_text_n_reasoning(gen->judge[c->idx]);
}

static bool has_output(const struct api_gen *gen)
{
    for (int i = 0; i < gen->req->n_choice; i++)
        if (gen->req->choice[i].n_shown > 0)
            return true;
    return false;
}

/* What the end of one choice means for the whole. */
static void note_end(struct api_gen *gen, struct ctl_choice *c)
{
    if (gen->state == API_GEN_failed)
        return;
    gen->n_ended++;
    switch (c->end) {
    case CTL_END_stop:
    case CTL_END_length: break;
    case CTL_END_canceled: /* the server stops */
        if (!has_output(gen))
            gen_fail(gen, API_ERROR_overloaded, "%s", c->fail_text[0] ? c->fail_text : "the server is stopping");
        break;
    case CTL_END_deadline:
        gen_fail(gen, API_ERROR_deadline, "the request's deadline passed: %s", c->fail_text);
        break;
    case CTL_END_quarantined: gen_fail(gen, API_ERROR_quarantined, "%s", c->fail_text); break;
    case CTL_END_invalid: gen_fail(gen, API_ERROR_context_length, "%s", c->fail_text); break;
    case CTL_END_failed:
        gen_fail(gen, API_ERROR_overloaded, "no worker could run the request: %s", c->fail_text);
        break;
    case CTL_END_none:
    case CTL_END_N: BUG("a choice ended in no way");
    }
    if (gen->state != API_GEN_failed && gen->n_ended == gen->r.n)
        gen_move(gen, API_GEN_done);
}

static void on_end(void *arg, struct ctl_choice *c)
{
    struct api_gen *gen = arg;

    note_end(gen, c);
    mark_all(gen);
    if (is_over(gen))
        settle(gen);
}

static void on_redispatch(void *arg, struct ctl_choice *c)
{
    struct api_gen *gen = arg;

    for (struct api_run *run = gen->run; run; run = run->gen_next)
        api__run_redispatch(run, c->n_dispatch);
}

static const struct ctl_request_events gen_events = {
    .on_tokens = on_tokens,
    .on_end = on_end,
    .on_redispatch = on_redispatch,
    .on_arrived = on_arrived,
    .on_ending = on_ending,
};

/* ---- to the back ---- */

/* 0, or it has failed. *max_output 0: the context is not known yet. */
static int check_context(struct api_gen *gen, int64_t *max_output)
{
    int64_t context = ctl_context_max(gen->front->ctl), n_prompt = (int64_t)gen->r.prompt.n;

    *max_output = chat_request_max_tokens(&gen->r);
    if (context == 0)
        return 0;
    if (n_prompt + (*max_output ? *max_output : 1) > context) {
        if (*max_output)
            gen_fail(gen, API_ERROR_context_length,
                     "the prompt has %lld tokens and %lld more are allowed: the context has %lld tokens",
                     (long long)n_prompt, (long long)*max_output, (long long)context);
        else
            gen_fail(gen, API_ERROR_context_length, "prompt is too long: %lld tokens > %lld maximum",
                     (long long)n_prompt, (long long)context - 1);
        snprintf(gen->error.param, sizeof gen->error.param, "messages");
        return ERR_ARG;
    }
    if (!*max_output)
        *max_output = context - n_prompt;
    return 0;
}

static uint64_t random_seed(void)
{
    uint64_t seed;
    rand_bytes(&seed, sizeof seed);
    return seed;
}

static struct ctl_request *make_request(struct api_gen *gen, int64_t max_output)
{
    struct chat_request *r = &gen->r;
    struct ctl_request *q = ctl_request_new((int)r->n);
    uint64_t fp = ctl_fingerprint(gen->front->ctl);
    struct buf state = {0};

    if (fp)
        snprintf(gen->kept.fingerprint, sizeof gen->kept.fingerprint, "fp_%010llx", (unsigned long long)(fp >> 24));
    api_state_add(&gen->kept, r, &state);
    q->front_state = buf_take(&state, &q->front_bytes);
    q->origin = CTL_ORIGIN_api;
    q->keep = gen->keep;
    memcpy(q->id, gen->id, sizeof gen->id);
    memcpy(q->tenant, gen->tenant, sizeof gen->tenant);
    snprintf(q->path, sizeof q->path, "/v1/chat/completions");
    q->key = gen->key ? mem_strdup(gen->key) : NULL;
    memcpy(q->body_hash, r->body_hash, sizeof q->body_hash);
    q->created_ms = gen->created_s * 1000;
    chat_request_give(r, r->has_seed ? (uint64_t)r->seed : random_seed(), q);
    q->sampling.n_top = (int32_t)r->top_logprobs;
    q->max_output = max_output;
    q->deadline_ms = gen->deadline_ms;
    q->events = &gen_events;
    q->arg = gen;
    return q;
}

static void submit(struct api_gen *gen, int64_t max_output)
{
    struct ctl_front *f = gen->front;
    struct ctl_request *q = make_request(gen, max_output), *plain = q;
    struct err err = {0};

    int rc = ctl_request_submit(f->ctl, &q, &err);
    if (rc) {
        ctl_request_destroy(&q);
        gen_fail(gen,
                 rc == ERR_LIMIT   ? API_ERROR_queue_full
                 : rc == ERR_STATE ? API_ERROR_overloaded
                 : rc == ERR_ARG   ? API_ERROR_context_length
                                   : API_ERROR_internal,
                 "%s", err.text);
        return;
    }
    gen->req = plain;
    make_judges(gen);
    gen_move(gen, API_GEN_running);
    log_debug(api, "accepted: id=%s prompt_tok=%lld n=%lld stream=%d", gen->id, (long long)plain->n_prompt,
              (long long)gen->r.n, gen->kept.stream);
}

/* Give it to the back, as soon as the context is known if it is needed. */
static void start(struct api_gen *gen)
{
    struct ctl_front *f = gen->front;
    int64_t max_output;

    if (f->draining || ctl_is_draining(f->ctl)) {
        gen_fail(gen, API_ERROR_overloaded, "the server is stopping");
        return;
    }
    if (check_context(gen, &max_output) != 0)
        return;
    if (max_output) {
        submit(gen, max_output);
        return;
    }
    if (gen->state == API_GEN_waiting)
        return;
    if (f->n_waiting >= ctl_config_of(f->ctl)->limit.queue_max) /* a queue like the back's, with the same limit */
        gen_fail(gen, API_ERROR_queue_full, "no worker has joined yet and %lld requests wait already",
                 (long long)f->n_waiting);
    else
        gen_move(gen, API_GEN_waiting);
}

void api__gens_retry(struct ctl_front *f)
{
    struct api_gen *next;

    if (f->n_waiting == 0 || (ctl_context_max(f->ctl) == 0 && !ctl_is_draining(f->ctl) && !f->draining))
        return;
    for (struct api_gen *gen = f->gens; gen; gen = next) {
        next = gen->next;
        if (gen->state == API_GEN_waiting)
            start(gen);
    }
}

void api__gens_tick(struct ctl_front *f)
{
    int64_t now = now_ms(f);

    for (struct api_gen *gen = f->gens; gen; gen = gen->next) {
        if (gen->state == API_GEN_waiting && now >= gen->deadline_ms)
            gen_fail(gen, API_ERROR_deadline, "the request's deadline passed while no worker was there");
        else if (gen->state == API_GEN_running && gen->run && now >= gen->deadline_ms + COMMIT_GRACE_MS &&
                 ctl_store_fault(f->ctl))
            gen_fail(gen, API_ERROR_deadline, "the request's deadline passed while the store could not commit (%s)",
                     ctl_store_fault(f->ctl));
    }
}

void api__gens_close(struct ctl_front *f)
{
    while (f->gens)
        gen_free(f->gens, true);
}

/* ---- from the store ---- */

/* The names and settings of a generation out of its request. */
static int adopt(struct api_gen *gen, struct ctl_request *q, struct err *err)
{
    chat_request_release(&gen->r);
    chat_request_init(&gen->r);
    int rc = api_state_read(q->front_state, q->front_bytes, &gen->kept, &gen->r, err);
    if (!rc && gen->r.n != q->n_choice)
        rc = err_set(err, ERR_FORMAT, "the kept state is of another number of choices");
    if (rc)
        return rc;
    snprintf(gen->id, sizeof gen->id, "%.*s", (int)sizeof gen->id - 1, q->id);
    snprintf(gen->tenant, sizeof gen->tenant, "%.*s", (int)sizeof gen->tenant - 1, q->tenant);
    memcpy(gen->r.body_hash, q->body_hash, sizeof gen->r.body_hash);
    if (q->key && !gen->key)
        gen->key = mem_strdup(q->key);
    gen->created_s = q->created_ms / 1000;
    gen->deadline_ms = q->deadline_ms;
    return 0;
}

void api__gen_recover(struct ctl_front *f, struct ctl_request *q)
{
    struct api_gen *gen = gen_new(f);
    struct ctl_request *own = q;
    struct err err = {0};

    if (adopt(gen, q, &err) != 0) {
        log_error(api, "a request cannot go on, canceled: id=%s: %s", q->id, err.text);
        gen_free(gen, false);
        ctl_request_drop(&own);
        return;
    }
    gen->keep = q->keep = true; /* whoever waited for it may come back */
    make_judges(gen);
    for (int i = 0; i < q->n_choice; i++)
        if (q->choice[i].out.n)
            judge(gen, &q->choice[i], 0, q->choice[i].out.n);
    ctl_request_attach(q, &gen_events, gen);
    gen->req = q;
    gen_move(gen, API_GEN_running);
    set_detached(gen, true);
}

struct fetched {
    struct api_gen *gen;
    struct ctl_request *req;
    struct err err;
};

static int on_request(void *arg, const struct store_request *q)
{
    struct fetched *k = arg;
    return k->req ? 0 : ctl_recall_request(q, now_ms(k->gen->front), &k->req, &k->err);
}

static int on_row(void *arg, const struct store_tokens *t)
{
    struct fetched *k = arg;
    return ctl_recall_tokens(k->req, t, &k->err);
}

static int on_stored_end(void *arg, const struct store_end *e)
{
    struct fetched *k = arg;
    return ctl_recall_end(k->req, e, &k->err);
}

/* The listeners who asked something else than what was found. */
static void check_listeners(struct api_gen *gen)
{
    struct api_run *next;

    for (struct api_run *run = gen->run; run; run = next) {
        next = run->gen_next;
        api__run_check(run);
    }
}

/* It ended before: everything is there. */
static void take_ended(struct api_gen *gen, struct ctl_request *q)
{
    gen->req = q;
    gen->fetched = true;
    if (q->n_live > 0) { /* it has just been canceled, and its end is on the way to the store */
        gen_fail(gen, API_ERROR_overloaded, "the request is being ended");
        return;
    }
    gen_move(gen, API_GEN_running);
    for (int i = 0; i < q->n_choice && gen->state == API_GEN_running; i++)
        note_end(gen, &q->choice[i]);
    mark_all(gen);
}

static void on_fetched(void *arg, const struct store_fetched *f)
{
    static const struct store_visitor visitor = {
        .on_request = on_request, .on_tokens = on_row, .on_end = on_stored_end};
    struct api_lookup *lookup = arg;
    struct api_gen *gen = lookup->gen;
    struct fetched k = {.gen = gen};

    mem_free(lookup);
    if (!gen)
        return;
    gen->lookup = NULL;
    ctl_wake(gen->front->ctl);
    int rc = f->rc;
    if (rc)
        k.err = f->err;
    else
        rc = store_fetched_visit(f, &visitor, &k);
    if (!rc && k.req && strcmp(k.req->tenant, gen->tenant) == 0 && k.req->origin == CTL_ORIGIN_api) {
        rc = adopt(gen, k.req, &k.err);
        if (!rc) {
            take_ended(gen, k.req);
            check_listeners(gen);
            return;
        }
    }
    bool found = k.req != NULL;
    ctl_request_destroy(&k.req);
    if (rc)
        gen_fail(gen, API_ERROR_overloaded, "the store cannot be read: %s", k.err.text);
    else if (found || gen->by_id)
        gen_fail(gen, API_ERROR_unknown_request, "no request '%.60s' is known here", gen->id);
    else
        start(gen);
}

/* Ask the store. False: it cannot be asked, the generation has failed. */
static void look_up(struct api_gen *gen, const struct store_query *q)
{
    struct store *store = ctl_store(gen->front->ctl);
    struct err err = {0};

    gen->lookup = mem_zalloc(sizeof *gen->lookup);
    gen->lookup->gen = gen;
    gen_move(gen, API_GEN_lookup);
    if (store_fetch(store, q, on_fetched, gen->lookup, &err) == 0)
        return;
    mem_free(gen->lookup);
    gen->lookup = NULL;
    gen_fail(gen, API_ERROR_overloaded, "the store cannot be asked: %s", err.text);
}

/* ---- who asks ---- */

static struct api_gen *find_key(struct ctl_front *f, const char *tenant, const char *key)
{
    for (struct api_gen *gen = f->gens; gen; gen = gen->next)
        if (gen->key && gen->state != API_GEN_failed && strcmp(gen->key, key) == 0 && strcmp(gen->tenant, tenant) == 0)
            return gen;
    return NULL;
}

static struct api_gen *find_id(struct ctl_front *f, const char *tenant, const char *id)
{
    for (struct api_gen *gen = f->gens; gen; gen = gen->next)
        if (strcmp(gen->id, id) == 0 && strcmp(gen->tenant, tenant) == 0)
            return gen;
    return NULL;
}

static bool is_named(const struct api_gen *gen, const char *hex)
{
    if (strcmp(gen->kept.hex, hex) == 0 || strcmp(gen->last_hex, hex) == 0)
        return true;
    for (const struct api_run *run = gen->run; run; run = run->gen_next)
        if (!run->get && strcmp(run->hex, hex) == 0)
            return true;
    return false;
}

bool api__gen_cancel(struct ctl_front *f, const char *tenant, const char *hex, char id[API_ID_MAX])
{
    for (struct api_gen *gen = hex[0] ? f->gens : NULL; gen; gen = gen->next) {
        if (is_over(gen) || gen->fetched || strcmp(gen->tenant, tenant) != 0 || !is_named(gen, hex))
            continue;
        memcpy(id, gen->id, API_ID_MAX);
        log_info(api, "canceled by a client: id=%s", gen->id);
        gen_fail(gen, API_ERROR_canceled, "the request was canceled by a client");
        gen->keep = false;
        settle(gen); /* with listeners: when the last of them has been told, in this turn */
        ctl_wake(f->ctl);
        return true;
    }
    return false;
}

/* A new one of what the run has read. */
static struct api_gen *open_gen(struct api_run *run)
{
    struct ctl_front *f = run->front;
    struct api_gen *gen = gen_new(f);

    gen->r = run->r;
    chat_request_init(&run->r);
    memcpy(gen->kept.hex, run->hex, sizeof gen->kept.hex);
    snprintf(gen->kept.tier, sizeof gen->kept.tier, "%s", gen->r.service_tier);
    gen->kept.model = mem_strdup(f->rules.model_name);
    gen->kept.stream = run->stream;
    gen->kept.include_usage = run->include_usage;
    snprintf(gen->id, sizeof gen->id, "chatcmpl-%s", run->hex);
    memcpy(gen->tenant, run->tenant, sizeof gen->tenant);
    gen->key = run->key ? mem_strdup(run->key) : NULL;
    gen->keep = run->key || gen->r.store;
    gen->created_s = clock_wall_ms() / 1000;
    gen->start_ms = run->start_ms;
    gen->deadline_ms =
        run->start_ms + (gen->r.deadline_ms ? gen->r.deadline_ms : ctl_config_of(f->ctl)->limit.request_ms);
    return gen;
}

void api__gen_post(struct api_run *run)
{
    struct ctl_front *f = run->front;
    struct api_gen *gen = run->key ? find_key(f, run->tenant, run->key) : NULL;

    if (gen) {
        listen_to(run, gen);
        api__run_check(run);
        return;
    }
    gen = open_gen(run);
    listen_to(run, gen);
    if (run->key && ctl_store(f->ctl)) {
        look_up(gen, &(struct store_query){.kind = STORE_QUERY_request_key,
                                           .tenant = gen->tenant,
                                           .path = "/v1/chat/completions",
                                           .key = gen->key});
        return;
    }
    api__run_check(run); /* a Last-Event-ID of something that is not here */
    if (run->gen)
        start(gen);
}

void api__gen_get(struct api_run *run, const char *id)
{
    struct ctl_front *f = run->front;
    struct api_gen *gen = find_id(f, run->tenant, id);

    if (gen) {
        listen_to(run, gen);
        api__run_check(run);
        return;
    }
    gen = gen_new(f);
    gen->by_id = true;
    memcpy(gen->tenant, run->tenant, sizeof gen->tenant);
    snprintf(gen->id, sizeof gen->id, "%.*s", (int)sizeof gen->id - 1, id);
    listen_to(run, gen);
    if (ctl_store(f->ctl) && strlen(id) < sizeof gen->id)
        look_up(gen, &(struct store_query){.kind = STORE_QUERY_request, .id = gen->id});
    else
        gen_fail(gen, API_ERROR_unknown_request, "no request '%.60s' is known here", id);
}
