#include "controller/api/pipe.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "controller/api/body_hash.h"
#include "controller/store/store.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- life ---- */

void pipe__free(struct api_pipe *p)
{
    struct ctl_front *f = p->front;

    if (f) {
        *(p->prev ? &p->prev->next : &f->pipes) = p->next;
        if (p->next)
            p->next->prev = p->prev;
        agent_forget(p->agent, p);
        agent_plan_drop(p->agent, &p->plan);
        p->front = NULL;
    }
    p->x = NULL;
    if (p->asking) /* freed when the answer is there */
        return;
    arena_release(&p->arena);
    mem_free(p);
}

static void on_gone(void *arg)
{
    pipe__free(arg);
}

void pipe__fail(struct api_pipe *p, enum api_error_kind kind, const char *param, const char *fmt, ...)
{
    struct api_error e;
    struct err text;
    va_list ap;

    va_start(ap, fmt);
    err_setv(&text, ERR_ARG, fmt, ap);
    va_end(ap);
    api_error_set(&e, kind, param, "%s", text.text);
    api__reply_error(p->x, &e);
    pipe__free(p);
}

void pipe__reply(struct api_pipe *p, int status, const struct buf *body)
{
    api__reply_json(p->x, status, body);
    pipe__free(p);
}

static struct api_pipe *pipe_new(const struct api_call *call)
{
    struct ctl_front *f = call->front;
    struct api_pipe *p = mem_zalloc(sizeof *p);
    struct api_error e;

    p->agent = ctl_agent(f->ctl);
    if (!p->agent || !ctl_store(f->ctl)) {
        api_error_set(&e, API_ERROR_overloaded, NULL,
                      "pipelines need a store; start the controller with --store PATH");
        api__reply_error(call->x, &e);
        mem_free(p);
        return NULL;
    }
    p->front = f;
    p->x = call->x;
    body_tenant(http_header(call->x, "Authorization"), p->tenant);
    p->next = f->pipes;
    if (f->pipes)
        f->pipes->prev = p;
    f->pipes = p;
    http_on_gone(call->x, on_gone, p);
    return p;
}

/* ---- the store ---- */

void pipe__ask(struct api_pipe *p, const struct store_query *q, store_fetched_fn fn)
{
    struct err err = {0};

    if (store_fetch(ctl_store(p->front->ctl), q, fn, p, &err) == 0)
        p->asking = true;
    else
        pipe__fail(p, API_ERROR_overloaded, NULL, "%s", err.text);
}

struct api_pipe *pipe__answered(void *arg, const struct store_fetched *f)
{
    struct api_pipe *p = arg;

    p->asking = false;
    if (!p->front) {
        pipe__free(p);
        return NULL;
    }
    ctl_wake(p->front->ctl); /* what is answered now is flushed in the turn */
    if (f->rc && p->begun) {
        http_stream_abort(p->x);
        pipe__free(p);
        return NULL;
    }
    if (f->rc) {
        pipe__fail(p, API_ERROR_overloaded, NULL, "the store cannot be read now: %s", f->err.text);
        return NULL;
    }
    return p;
}

const struct store_run *pipe__run_of(struct api_pipe *p, const struct store_fetched *f,
                                     const struct store_run_end **end)
{
    const struct store_run *run = NULL;

    *end = NULL;
    for (size_t i = 0; i < f->n; i++) {
        if (f->record[i].kind == STORE_run)
            run = &f->record[i].u.run;
        else if (f->record[i].kind == STORE_run_end)
            *end = &f->record[i].u.run_end;
    }
    if (run && strcmp(run->tenant, p->tenant) == 0)
        return run;
    pipe__fail(p, API_ERROR_unknown_request, NULL, "no run is called '%.63s'", p->id);
    return NULL;
}

/* ---- what comes in ---- */

/* The body of a request that changes something, as an object. False: it was refused. */
static bool read_body(struct api_pipe *p, bool may_be_empty)
{
    const char *type = http_header(p->x, "Content-Type"), *origin = http_header(p->x, "Origin");
    struct err err = {0};
    size_t n;
    const char *text = http_body(p->x, &n);

    if (origin && !api__is_local_origin(origin)) {
        pipe__fail(p, API_ERROR_bad_request, NULL, "a page of another origin may not do this");
        return false;
    }
    if (!type || strncmp(type, "application/json", 16) != 0) {
        pipe__fail(p, API_ERROR_bad_request, NULL, "Content-Type has to be application/json");
        return false;
    }
    if (n == 0 && may_be_empty) {
        text = "{}";
        n = 2;
    }
    if (json_parse(text, n, 0, &p->arena, &p->body, &err) != 0) {
        pipe__fail(p, API_ERROR_bad_request, NULL, "the body is no JSON: %s", err.text);
        return false;
    }
    if (p->body->kind == JSON_OBJECT)
        return true;
    pipe__fail(p, API_ERROR_bad_request, NULL, "the body has to be a JSON object, not %s", json_kind_name(p->body));
    return false;
}

/* Only these members; NULL ends the list. */
static bool has_only(struct api_pipe *p, const char *const *names)
{
    for (const struct json *m = p->body->child; m; m = m->next) {
        int i = 0;
        while (names[i] && strcmp(names[i], m->key) != 0)
            i++;
        if (names[i])
            continue;
        pipe__fail(p, API_ERROR_bad_request, m->key, "'%.60s' is no field of this request", m->key);
        return false;
    }
    return true;
}

static bool take_key(struct api_pipe *p)
{
    const char *key = http_header(p->x, "Idempotency-Key");
    size_t n = key ? strlen(key) : 0, n_good = 0;

    if (!key)
        return true;
    while (n_good < n && key[n_good] >= ' ' && key[n_good] <= '~')
        n_good++;
    if (n > 0 && n < STORE_KEY_MAX && n_good == n) {
        p->key = arena_strdup(&p->arena, key);
        body_hash(p->body, p->hash);
        return true;
    }
    pipe__fail(p, API_ERROR_bad_request, NULL, "Idempotency-Key has to be 1 to %d printable ASCII characters",
               STORE_KEY_MAX - 1);
    return false;
}

/* "limit=20&before=x": the value of a name, NUL-terminated in out; false if it is not there. */
static bool query_value(const char *query, const char *name, char *out, size_t size)
{
    size_t n = strlen(name);

    for (const char *q = query; q; q = strchr(q, '&')) {
        q += *q == '&';
        if (strncmp(q, name, n) != 0 || q[n] != '=')
            continue;
        snprintf(out, size, "%.*s", (int)strcspn(q + n + 1, "&"), q + n + 1);
        return true;
    }
    return false;
}

/* ---- POST /runs ---- */

static void on_created(void *arg, int rc)
{
    struct api_pipe *p = arg;
    struct agent_live *live = agent_find(p->agent, p->id);
    struct buf body = {0};

    if (rc || !live) {
        pipe__fail(p, API_ERROR_overloaded, NULL, "the server is stopping; ask again with the same Idempotency-Key");
        return;
    }
    agent_live_show(live, &body);
    pipe__reply(p, p->status, &body);
    buf_release(&body);
}

void pipe__create(struct api_pipe *p, const struct agent_new *n)
{
    struct agent_live *live;
    struct err err = {0};
    int rc = agent_create(p->agent, n, &live, &err);

    if (rc) {
        pipe__fail(p,
                   rc == ERR_ARG     ? API_ERROR_bad_request
                   : rc == ERR_LIMIT ? API_ERROR_queue_full
                   : rc == ERR_STATE ? API_ERROR_overloaded
                                     : API_ERROR_internal,
                   rc == ERR_ARG ? "inputs" : NULL, "%s", err.text);
        return;
    }
    snprintf(p->id, sizeof p->id, "%s", agent_live_id(live));
    p->status = 201;
    if (p->wait)
        agent_on_end(p->agent, live, on_created, p);
    else
        agent_after(p->agent, on_created, p);
}

static void create(struct api_pipe *p)
{
    struct agent_new n = {.tenant = p->tenant, .key = p->key, .plan = p->plan, .inputs = json_get(p->body, "inputs")};

    if (json_is(n.inputs, JSON_NULL))
        n.inputs = NULL;
    memcpy(n.body_hash, p->hash, sizeof n.body_hash);
    pipe__create(p, &n);
}

/* The run of this key is there: the same answer again, or 409. */
static void replay(struct api_pipe *p, const char *id, const uint8_t *hash, struct agent_live *live,
                   const struct store_fetched *f)
{
    struct buf body = {0};
    struct err err = {0};

    if (memcmp(hash, p->hash, STORE_HASH_BYTES) != 0) {
        pipe__fail(p, API_ERROR_conflict, NULL,
                   "this Idempotency-Key was used with another body; take a new key for a new run");
        return;
    }
    snprintf(p->id, sizeof p->id, "%s", id);
    http_add_header(p->x, "Idempotency-Replayed", "true");
    p->status = 200;
    if (live && p->wait) {
        agent_on_end(p->agent, live, on_created, p);
        return;
    }
    if (live) {
        agent_after(p->agent, on_created, p);
        return;
    }
    if (agent_show_run(f->record, f->n, AGENT_SHOW_none, &body, &err) != 0)
        pipe__fail(p, API_ERROR_internal, NULL, "%s", err.text);
    else
        pipe__reply(p, 200, &body);
    buf_release(&body);
}

static void on_key(void *arg, const struct store_fetched *f)
{
    struct api_pipe *p = pipe__answered(arg, f);

    if (!p)
        return;
    struct agent_live *live = agent_find_key(p->agent, p->tenant, p->key);
    if (live)
        replay(p, agent_live_id(live), agent_live_hash(live), live, NULL);
    else if (f->n && f->record[0].kind == STORE_run)
        replay(p, f->record[0].u.run.id, f->record[0].u.run.body_hash, NULL, f);
    else
        create(p);
}

/* The text of the pipeline, its folder, its plan. False: refused. */
static bool read_plan(struct api_pipe *p)
{
    const struct json *pipeline = json_get(p->body, "pipeline"), *dir = json_get(p->body, "dir");
    char here[PATH_MAX] = "/";
    struct buf text = {0};
    struct err err = {0};
    bool good = false;

    if (!pipeline || (pipeline->kind != JSON_STRING && pipeline->kind != JSON_OBJECT)) {
        pipe__fail(p, API_ERROR_bad_request, "pipeline",
                   "pipeline has to be a pipeline: its YAML or JSON text as a string, or an object");
        return false;
    }
    if (dir && (dir->kind != JSON_STRING || dir->text[0] != '/')) {
        pipe__fail(p, API_ERROR_bad_request, "dir", "dir has to be an absolute path");
        return false;
    }
    if (!dir && uv_cwd(here, &(size_t){sizeof here}) != 0)
        snprintf(here, sizeof here, "/");
    if (pipeline->kind == JSON_STRING)
        buf_add(&text, pipeline->text, pipeline->len);
    else
        json_add(&text, pipeline);
    if (agent_plan_get(p->agent, text.data ? text.data : "", text.len, dir ? dir->text : here, &p->plan, NULL, &err))
        pipe__fail(p, API_ERROR_bad_request, "pipeline", "%s", err.text);
    else
        good = true;
    buf_release(&text);
    return good;
}

void api__post_runs(const struct api_call *call)
{
    static const char *const names[] = {"pipeline", "inputs", "dir", "wait", NULL};
    struct api_pipe *p = pipe_new(call);
    const struct json *wait;

    if (!p || !read_body(p, false) || !has_only(p, names) || !take_key(p))
        return;
    wait = json_get(p->body, "wait");
    if (wait && !json_is_bool(wait)) {
        pipe__fail(p, API_ERROR_bad_request, "wait", "wait has to be true or false");
        return;
    }
    p->wait = json_is(wait, JSON_TRUE);
    if (!read_plan(p))
        return;
    if (!p->key) {
        create(p);
        return;
    }
    struct agent_live *live = agent_find_key(p->agent, p->tenant, p->key);
    if (live)
        replay(p, agent_live_id(live), agent_live_hash(live), live, NULL);
    else
        pipe__ask(p, &(struct store_query){.kind = STORE_QUERY_run_key, .tenant = p->tenant, .key = p->key}, on_key);
}

/* ---- GET /runs, GET /runs/{id} ---- */

static void on_list(void *arg, const struct store_fetched *f)
{
    struct api_pipe *p = pipe__answered(arg, f);
    struct buf body = {0};

    if (!p)
        return;
    agent_show_list(f->record, f->n, p->limit, &body);
    pipe__reply(p, 200, &body);
    buf_release(&body);
}

void api__get_runs(const struct api_call *call)
{
    struct api_pipe *p = pipe_new(call);
    char text[STORE_ID_MAX], *end;
    bool paged;

    if (!p)
        return;
    p->limit = PIPE_LIST_DEFAULT;
    if (query_value(http_query(p->x), "limit", text, sizeof text)) {
        p->limit = strtol(text, &end, 10);
        if (end == text || *end || p->limit < 1 || p->limit > PIPE_LIST_MAX) {
            pipe__fail(p, API_ERROR_bad_request, "limit", "limit has to be a whole number from 1 to %d", PIPE_LIST_MAX);
            return;
        }
    }
    paged = query_value(http_query(p->x), "before", p->id, sizeof p->id);
    pipe__ask(p, &(struct store_query){.kind = STORE_QUERY_runs, .tenant = p->tenant, .limit = p->limit + 1,
                                       .id = paged ? p->id : NULL}, on_list);
}

static void on_run(void *arg, const struct store_fetched *f)
{
    struct api_pipe *p = pipe__answered(arg, f);
    const struct store_run_end *end;
    struct buf body = {0};
    struct err err = {0};

    if (!p || !pipe__run_of(p, f, &end))
        return;
    if (agent_show_run(f->record, f->n, p->steps, &body, &err) != 0)
        pipe__fail(p, API_ERROR_internal, NULL, "%s", err.text);
    else
        pipe__reply(p, 200, &body);
    buf_release(&body);
}

static void get_run(struct api_pipe *p)
{
    char text[8] = "top";

    query_value(http_query(p->x), "steps", text, sizeof text);
    p->steps = strcmp(text, "none") == 0  ? AGENT_SHOW_none
               : strcmp(text, "all") == 0 ? AGENT_SHOW_all
                                          : AGENT_SHOW_top;
    if (p->steps == AGENT_SHOW_top && strcmp(text, "top") != 0) {
        pipe__fail(p, API_ERROR_bad_request, "steps", "steps has to be none, top or all");
        return;
    }
    pipe__ask(p, &(struct store_query){.kind = STORE_QUERY_run, .id = p->id}, on_run);
}

/* "run_x" or "run_x/events": false if it is neither. */
static bool take_rest(struct api_pipe *p, const char *rest)
{
    size_t n = strcspn(rest, "/");

    if (n == 0 || n >= sizeof p->id || strlen(rest + n) > sizeof p->action)
        return false;
    snprintf(p->id, sizeof p->id, "%.*s", (int)n, rest);
    snprintf(p->action, sizeof p->action, "%s", rest[n] ? rest + n + 1 : "");
    return true;
}

void api__get_run(const struct api_call *call)
{
    struct api_pipe *p = pipe_new(call);

    if (!p)
        return;
    if (!take_rest(p, call->rest) || (p->action[0] && strcmp(p->action, "events") != 0))
        pipe__fail(p, API_ERROR_unknown_path, NULL, "unknown path: GET %.200s", http_path(call->x));
    else if (p->action[0])
        pipe__tail(p);
    else
        get_run(p);
}

void api__post_run(const struct api_call *call)
{
    static const char *const none[] = {NULL}, *const fork[] = {"from_step", NULL},
                      *const approve[] = {"token", "step", "approved", "comment", NULL};
    struct api_pipe *p = pipe_new(call);

    if (!p)
        return;
    if (!take_rest(p, call->rest)) {
        pipe__fail(p, API_ERROR_unknown_path, NULL, "unknown path: POST %.200s", http_path(call->x));
        return;
    }
    bool known = strcmp(p->action, "cancel") == 0 || strcmp(p->action, "retry") == 0 ||
                 strcmp(p->action, "fork") == 0 || strcmp(p->action, "approve") == 0;
    if (!known) {
        pipe__fail(p, API_ERROR_unknown_path, NULL, "a run has cancel, retry, fork and approve, no '%.15s'", p->action);
        return;
    }
    if (read_body(p, true) &&
        has_only(p, p->action[0] == 'f' ? fork : p->action[0] == 'a' ? approve : none))
        pipe__act(p);
}

/* ---- from the front ---- */

void api__pipes_tick(struct ctl_front *f)
{
    for (struct api_pipe *p = f->pipes, *next; p; p = next) {
        next = p->next;
        if (p->streams)
            pipe__tail_pump(p);
    }
}

bool api__pipes_are_behind(const struct ctl_front *f)
{
    for (const struct api_pipe *p = f->pipes; p; p = p->next)
        if (p->streams && p->behind)
            return true;
    return false;
}

static void on_events(void *arg, struct agent_live *live)
{
    struct ctl_front *f = arg;

    for (struct api_pipe *p = f->pipes, *next; p; p = next) {
        next = p->next;
        if (p->streams && strcmp(p->id, agent_live_id(live)) == 0)
            pipe__tail_pump(p);
    }
}

void api__pipes_listen(struct ctl_front *f)
{
    if (ctl_agent(f->ctl))
        agent_listen(ctl_agent(f->ctl), on_events, f);
}

void api__pipes_leave(struct ctl_front *f)
{
    if (ctl_agent(f->ctl))
        agent_listen(ctl_agent(f->ctl), NULL, NULL);
}
