/* The way of an exchange up to its generation: body -> pool or inline reading -> checks -> api__gen_post. */
#include "controller/api/run.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/mem/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TO(name) (1u << API_RUN_##name)
static const unsigned legal[API_RUN_STATE_N] = {
    [API_RUN_inbox] = TO(reading) | TO(listening) | TO(failed),
    [API_RUN_reading] = TO(inbox) | TO(orphan),
    [API_RUN_listening] = TO(failed),
};

static void run_move(struct api_run *run, enum api_run_state to)
{
    ASSERT(legal[run->state] >> to & 1);
    run->state = to;
}

static int64_t now_ms(struct ctl_front *f)
{
    return (int64_t)uv_now(ctl_loop(f->ctl));
}

void api__run_mark(struct api_run *run)
{
    struct ctl_front *f = run->front;

    if (run->is_dirty)
        return;
    run->is_dirty = true;
    run->dirty_next = f->dirty;
    f->dirty = run;
}

void api__run_fail(struct api_run *run, enum api_error_kind kind, const char *fmt, ...)
{
    struct err text;
    va_list ap;

    if (run->state == API_RUN_failed)
        return;
    va_start(ap, fmt);
    err_setv(&text, ERR_ARG, fmt, ap);
    va_end(ap);
    api_error_set(&run->error, kind, NULL, "%s", text.text);
    run_move(run, API_RUN_failed);
    if (run->gen)
        api__gen_leave(run);
    api__run_mark(run);
}

static void unmark(struct api_run *run)
{
    struct api_run **p = &run->front->dirty;

    if (!run->is_dirty)
        return;
    while (*p != run)
        p = &(*p)->dirty_next;
    *p = run->dirty_next;
    run->is_dirty = false;
}

static void leave_inbox(struct api_run *run)
{
    struct ctl_front *f = run->front;
    struct api_run *prev = NULL;

    for (struct api_run *p = f->inbox; p; prev = p, p = p->inbox_next) {
        if (p != run)
            continue;
        *(prev ? &prev->inbox_next : &f->inbox) = run->inbox_next;
        if (f->inbox_tail == run)
            f->inbox_tail = prev;
        run->inbox_next = NULL;
        return;
    }
}

static void enter_inbox(struct api_run *run)
{
    struct ctl_front *f = run->front;

    run->inbox_next = NULL;
    *(f->inbox_tail ? &f->inbox_tail->inbox_next : &f->inbox) = run;
    f->inbox_tail = run;
    ctl_wake(f->ctl);
}

void api__run_free(struct api_run *run)
{
    struct ctl_front *f = run->front;

    unmark(run);
    leave_inbox(run);
    *(run->prev ? &run->prev->next : &f->runs) = run->next;
    if (run->next)
        run->next->prev = run->prev;
    f->n_run--;
    api__run_release_output(run);
    if (run->gen)
        api__gen_leave(run);
    chat_request_release(&run->r);
    mem_free(run->body);
    mem_free(run->key);
    mem_free(run->last_id);
    mem_free(run);
    api__maybe_closed(f);
}

/* ---- the client leaves ---- */

static void on_gone(void *arg)
{
    struct api_run *run = arg;
    struct ctl_front *f = run->front;

    run->x = NULL;
    log_info(api, "client gone: id=%s client_id=%s status=499 ms=%lld", run->gen ? run->gen->id : run->hex,
             run->client_id, (long long)(now_ms(f) - run->start_ms));
    ctl_wake(f->ctl); /* the back tells the worker in its turn */
    if (run->state != API_RUN_reading) {
        api__run_free(run);
        return;
    }
    run_move(run, API_RUN_orphan); /* the pool still reads it: freed when it is back */
    uv_cancel((uv_req_t *)&run->work);
}

/* ---- reading ---- */

static void read_body(struct api_run *run)
{
    run->read_rc = chat_request_read(&run->r, &run->front->rules, run->body, run->body_len, &run->error);
}

static void on_work(uv_work_t *work)
{
    read_body(work->data);
}

static void on_worked(uv_work_t *work, int status)
{
    struct api_run *run = work->data;

    run->front->n_job--;
    if (run->state == API_RUN_orphan) {
        api__run_free(run);
        return;
    }
    ASSERT(status == 0); /* only orphans are canceled */
    mem_free(run->body);
    run->body = NULL;
    run_move(run, API_RUN_inbox);
    enter_inbox(run);
}

static void copy_printable(char *to, size_t size, const char *from)
{
    size_t n = 0;
    for (; from && *from && n + 1 < size; from++)
        to[n++] = *from > ' ' && *from < 0x7f ? *from : '?';
    to[n] = 0;
}

static struct api_run *run_new(const struct api_call *call)
{
    struct ctl_front *f = call->front;
    struct api_run *run = mem_zalloc(sizeof *run);
    const char *last = http_header(call->x, "Last-Event-ID"), *who = http_header(call->x, "Authorization");

    run->front = f;
    run->x = call->x;
    run->next = f->runs;
    if (f->runs)
        f->runs->prev = run;
    f->runs = run;
    f->n_run++;
    run->start_ms = run->last_ms = now_ms(f);
    memcpy(run->hex, call->hex, sizeof run->hex);
    copy_printable(run->client_id, sizeof run->client_id, http_header(call->x, "X-Client-Request-Id"));
    body_tenant(who ? who : http_header(call->x, "X-Api-Key"), run->tenant);
    run->last_id = last && last[0] ? mem_strdup(last) : NULL;
    chat_request_init(&run->r);
    http_on_gone(call->x, on_gone, run);
    return run;
}

/* 0, or it was refused. */
static int take_key(struct api_run *run)
{
    const char *key = http_header(run->x, "Idempotency-Key");
    size_t n = key ? strlen(key) : 0;

    if (!key)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (key[i] < ' ' || key[i] > '~')
            n = 0;
    if (n < 1 || n >= STORE_KEY_MAX) {
        api__run_fail(run, API_ERROR_bad_request, "Idempotency-Key has to be 1 to %d printable ASCII characters",
                      STORE_KEY_MAX - 1);
        return ERR_ARG;
    }
    run->key = mem_strdup(key);
    run->r.want_hash = true;
    return 0;
}

void api__post_chat(const struct api_call *call)
{
    struct api_run *run = run_new(call);

    run->body = http_take_body(call->x, &run->body_len);
    if (take_key(run) == 0)
        enter_inbox(run);
}

static bool query_has(const char *query, const char *word)
{
    size_t n = strlen(word);

    for (const char *p = query; p; p = strchr(p, '&')) {
        p += *p == '&';
        if (strncmp(p, word, n) == 0 && (p[n] == 0 || p[n] == '&'))
            return true;
    }
    return false;
}

void api__get_chat(const struct api_call *call)
{
    struct api_run *run = run_new(call);
    const char *accept = http_header(call->x, "Accept");

    run->get = true;
    run->wants_stream = run->last_id || query_has(http_query(call->x), "stream=true") ||
                        (accept && strstr(accept, "text/event-stream"));
    snprintf(run->get_id, sizeof run->get_id, "%.*s", (int)sizeof run->get_id - 1, call->rest);
    enter_inbox(run);
}

void api__post_request(const struct api_call *call)
{
    const char *who = http_header(call->x, "Authorization"), *name = call->rest;
    size_t n = strcspn(name, "/");
    char tenant[TENANT_NAME_MAX], hex[25] = "", id[API_ID_MAX];
    struct api_error e;
    struct buf body = {0};

    if (strcmp(name + n, "/cancel") != 0) {
        api_error_set(&e, API_ERROR_unknown_path, NULL, "unknown path: %s %.200s", http_method(call->x),
                      http_path(call->x));
        api__reply_error(call->x, &e);
        return;
    }
    if (strncmp(name, "req_", 4) == 0) {
        name += 4;
        n -= 4;
    }
    if (n == sizeof hex - 1)
        memcpy(hex, name, n);
    body_tenant(who ? who : http_header(call->x, "X-Api-Key"), tenant);
    if (!api__gen_cancel(call->front, tenant, hex, id)) {
        api_error_set(&e, API_ERROR_unknown_request, NULL, "no generation of request '%.*s' runs here",
                      (int)(n < 60 ? n : 60), name);
        api__reply_error(call->x, &e);
        return;
    }
    buf_addf(&body, "{\"id\":\"req_%s\",\"object\":\"request\",\"status\":\"canceled\",\"generation\":\"%s\"}", hex,
             id);
    api__reply_json(call->x, 200, &body);
    buf_release(&body);
}

/* ---- to the generation ---- */

void api__run_check(struct api_run *run)
{
    struct api_gen *gen = run->gen;
    int n = (int)gen->r.n, rc = 0;

    if (gen->state == API_GEN_lookup)
        return; /* it comes again when the answer is there */
    if (gen->state == API_GEN_failed && !gen->req)
        return;
    if (run->key && memcmp(run->body_hash, gen->r.body_hash, sizeof run->body_hash) != 0) {
        api__run_fail(run, API_ERROR_conflict,
                      "this Idempotency-Key was used with another body; take a new key for a new request");
        return;
    }
    if (run->get) {
        run->stream = run->wants_stream;
        run->include_usage = gen->kept.include_usage;
    }
    if (!run->last_id || run->skip)
        return;
    run->skip = mem_array((size_t)n + 1, sizeof *run->skip);
    rc = event_id_read(run->last_id, gen->kept.hex, n, run->skip);
    if (rc)
        api__run_fail(run, API_ERROR_conflict, "Last-Event-ID '%.80s' is %s", run->last_id,
                      rc == ERR_MISSING ? "not of this request" : "no event id of this server");
    else if (!run->stream)
        api__run_fail(run, API_ERROR_bad_request, "Last-Event-ID is for streams: ask with stream: true");
}

/* The body has been read. */
static void take_read(struct api_run *run)
{
    if (run->read_rc) {
        run_move(run, API_RUN_failed);
        api__run_mark(run);
        return;
    }
    run->stream = run->r.stream;
    run->include_usage = run->r.include_usage;
    memcpy(run->body_hash, run->r.body_hash, sizeof run->body_hash);
    if (run->last_id && !run->key) {
        api__run_fail(run, API_ERROR_conflict,
                      "Last-Event-ID needs the Idempotency-Key that the request was made with; or GET the request");
        return;
    }
    run_move(run, API_RUN_listening);
    api__gen_post(run);
}

/* One request of the inbox; true if it cost inline work. */
static bool take(struct api_run *run)
{
    struct ctl_front *f = run->front;

    if (run->get) {
        run_move(run, API_RUN_listening);
        api__gen_get(run, run->get_id);
        return false;
    }
    if (!run->body) { /* back from the pool */
        take_read(run);
        return false;
    }
    if (run->body_len > (size_t)ctl_config_of(f->ctl)->limit.tok_pool_bytes) {
        run->work.data = run;
        if (uv_queue_work(ctl_loop(f->ctl), &run->work, on_work, on_worked) == 0) {
            run_move(run, API_RUN_reading);
            f->n_job++;
            return false;
        }
    }
    read_body(run);
    mem_free(run->body);
    run->body = NULL;
    take_read(run);
    return true;
}

void api__runs_submit(struct ctl_front *f)
{
    int n_inline = 0;

    while (f->inbox && n_inline < API_PREPARE_PER_TURN_MAX) {
        struct api_run *run = f->inbox;
        leave_inbox(run);
        n_inline += take(run);
    }
    if (f->inbox)
        ctl_wake(f->ctl);
    api__gens_retry(f);
}

/* A client that has not taken a byte for reader_ms is cut off; what it has not read is still there for it. */
static bool is_stalled(struct api_run *run, int64_t now)
{
    size_t unsent = run->begun ? http_unsent(run->x) : 0;

    if (unsent == 0 || unsent < run->unsent_seen || !run->stalled_ms)
        run->stalled_ms = now;
    run->unsent_seen = unsent;
    return unsent && now - run->stalled_ms >= ctl_config_of(run->front->ctl)->limit.reader_ms;
}

void api__runs_tick(struct ctl_front *f)
{
    int64_t now = now_ms(f), every = ctl_config_of(f->ctl)->limit.keepalive_ms;
    struct api_run *next;

    api__gens_tick(f);
    for (struct api_run *run = f->runs; run; run = next) {
        next = run->next;
        if (is_stalled(run, now)) {
            log_info(api, "client does not read, cut off: id=%s client_id=%s", run->gen ? run->gen->id : run->hex,
                     run->client_id);
            http_stream_abort(run->x);
            api__run_free(run);
            continue;
        }
        bool accepted = run->state == API_RUN_listening && api__gen_is_accepted(run->gen);
        if (accepted && now - run->last_ms >= (run->stream || run->begun ? every : 2 * every))
            api__run_heartbeat(run);
    }
}

void api__runs_write(struct ctl_front *f)
{
    struct api_run *list = f->dirty;

    f->dirty = NULL;
    for (struct api_run *run = list; run; run = list) {
        list = run->dirty_next;
        run->is_dirty = false;
        api__run_write(run);
    }
}
