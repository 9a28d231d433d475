/* The way of a generation up to the back: body -> pool or inline reading -> checks -> ctl_request_submit. */
#include "controller/api/run.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/rand.h"
#include "common/mem/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TO(name) (1u << API_RUN_##name)
static const unsigned legal[API_RUN_STATE_N] = {
    [API_RUN_inbox] = TO(reading) | TO(waiting) | TO(running) | TO(failed),
    [API_RUN_reading] = TO(inbox) | TO(orphan),
    [API_RUN_waiting] = TO(running) | TO(failed),
    [API_RUN_running] = TO(failed),
};

static void run_move(struct api_run *run, enum api_run_state to)
{
    ASSERT(legal[run->state] >> to & 1);
    run->front->n_waiting += (to == API_RUN_waiting) - (run->state == API_RUN_waiting);
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
    f->n_waiting -= run->state == API_RUN_waiting;
    ctl_request_drop(&run->req);
    for (int64_t i = 0; run->choice && i < run->r.n; i++) {
        struct api_choice *c = &run->choice[i];
        stream_text_destroy(&c->text);
        message_release(&c->message);
        buf_release(&c->pend);
        mem_free(c->seg);
    }
    mem_free(run->choice);
    chat_request_release(&run->r);
    mem_free(run->body);
    sse_release(&run->sse);
    buf_release(&run->out);
    mem_free(run);
    api__maybe_closed(f);
}

/* ---- the client leaves ---- */

static void on_gone(void *arg)
{
    struct api_run *run = arg;
    struct ctl_front *f = run->front;

    run->x = NULL;
    log_info(api, "client gone: id=%s client_id=%s status=499 ms=%lld", run->id, run->client_id,
             (long long)(now_ms(f) - run->start_ms));
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

void api__post_chat(const struct api_call *call)
{
    struct ctl_front *f = call->front;
    struct api_run *run = mem_zalloc(sizeof *run);

    run->front = f;
    run->x = call->x;
    run->next = f->runs;
    if (f->runs)
        f->runs->prev = run;
    f->runs = run;
    f->n_run++;
    run->start_ms = run->last_ms = now_ms(f);
    run->created_s = clock_wall_ms() / 1000;
    memcpy(run->hex, call->hex, sizeof run->hex);
    snprintf(run->id, sizeof run->id, "chatcmpl-%s", run->hex);
    copy_printable(run->client_id, sizeof run->client_id, http_header(call->x, "X-Client-Request-Id"));
    run->body = http_take_body(call->x, &run->body_len);
    chat_request_init(&run->r);
    http_on_gone(call->x, on_gone, run);
    enter_inbox(run);
}

/* ---- to the back ---- */

/* 0, or the run has failed. *max_output 0: the context is not known yet. */
static int check_context(struct api_run *run, int64_t *max_output)
{
    int64_t context = ctl_context_max(run->front->ctl), n_prompt = (int64_t)run->r.prompt.n;

    *max_output = chat_request_max_tokens(&run->r);
    if (context == 0)
        return 0;
    if (n_prompt + (*max_output ? *max_output : 1) > context) {
        if (*max_output)
            api__run_fail(run, API_ERROR_context_length,
                          "the prompt has %lld tokens and %lld more are allowed: the context has %lld tokens",
                          (long long)n_prompt, (long long)*max_output, (long long)context);
        else
            api__run_fail(run, API_ERROR_context_length, "prompt is too long: %lld tokens > %lld maximum",
                          (long long)n_prompt, (long long)context - 1);
        snprintf(run->error.param, sizeof run->error.param, "messages");
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

static struct ctl_request *make_request(struct api_run *run, int64_t max_output)
{
    struct chat_request *r = &run->r;
    struct ctl_request *q = ctl_request_new((int)r->n);
    int64_t priority = -(r->priority + r->tier_priority); /* ours: higher goes first */

    memcpy(q->id, run->id, sizeof run->id);
    q->prompt = r->prompt.id;
    q->n_prompt = (int64_t)r->prompt.n;
    r->prompt = (struct tok_ids){0};
    q->sampling = (struct msg_sampling){
        .temperature = (float)r->temperature,
        .top_p = (float)r->top_p,
        .min_p = (float)r->min_p,
        .top_k = (int32_t)r->top_k,
        .presence_penalty = (float)r->presence_penalty,
        .frequency_penalty = (float)r->frequency_penalty,
        .repetition_penalty = (float)r->repetition_penalty,
        .seed = r->has_seed ? (uint64_t)r->seed : random_seed(),
        .n_top = (int32_t)r->top_logprobs,
        .n_bias = r->n_bias,
        .bias = r->bias,
    };
    r->bias = NULL;
    q->max_output = max_output;
    q->min_output = r->min_tokens;
    q->ignore_eos = r->ignore_eos;
    q->n_stop_id = r->n_stop_id;
    memcpy(q->stop_id, r->stop_id, sizeof q->stop_id);
    q->priority = (int32_t)priority;
    q->deadline_ms = run->deadline_ms;
    q->events = &api__run_events;
    q->arg = run;
    return q;
}

static void make_choices(struct api_run *run)
{
    struct chat_request *r = &run->r;

    run->choice = mem_array((size_t)r->n, sizeof *run->choice);
    for (int i = 0; i < r->n; i++) {
        struct api_choice *c = &run->choice[i];
        struct stream_text_opts o = {
            .tok = run->front->rules.tok,
            .stops = &r->stops,
            .parse = {r->in_reasoning, r->tools_on, r->tools},
            .ignore_eos = r->ignore_eos,
            .n_call_max = r->parallel_tool_calls ? 0 : 1,
        };
        c->run = run;
        c->idx = i;
        c->text = stream_text_new(&o, &api__choice_events, c);
    }
}

static void submit(struct api_run *run)
{
    struct ctl_front *f = run->front;
    int64_t max_output;
    struct err err = {0};

    if (f->draining || ctl_is_draining(f->ctl)) {
        api__run_fail(run, API_ERROR_overloaded, "the server is stopping");
        return;
    }
    if (check_context(run, &max_output) != 0)
        return;
    if (max_output == 0) { /* a queue like the back's, with the same limit */
        if (run->state == API_RUN_waiting)
            return;
        if (f->n_waiting >= ctl_config_of(f->ctl)->limit.queue_max)
            api__run_fail(run, API_ERROR_queue_full, "no worker has joined yet and %lld requests wait already",
                          (long long)f->n_waiting);
        else
            run_move(run, API_RUN_waiting);
        return;
    }
    int64_t n_prompt = (int64_t)run->r.prompt.n;
    struct ctl_request *q = make_request(run, max_output), *plain = q;
    int rc = ctl_request_submit(f->ctl, &q, &err);
    if (rc) {
        ctl_request_destroy(&q);
        api__run_fail(run,
                      rc == ERR_LIMIT   ? API_ERROR_queue_full
                      : rc == ERR_STATE ? API_ERROR_overloaded
                      : rc == ERR_ARG   ? API_ERROR_context_length
                                        : API_ERROR_internal,
                      "%s", err.text);
        return;
    }
    run->req = plain;
    make_choices(run);
    run_move(run, API_RUN_running);
    log_debug(api, "accepted: id=%s client_id=%s prompt_tok=%lld n=%lld stream=%d", run->id, run->client_id,
              (long long)n_prompt, (long long)run->r.n, run->r.stream);
}

/* The body has been read. */
static void take_read(struct api_run *run)
{
    struct ctl_front *f = run->front;
    int64_t given = run->r.deadline_ms;

    if (run->read_rc) {
        run_move(run, API_RUN_failed);
        api__run_mark(run);
        return;
    }
    run->deadline_ms = run->start_ms + (given ? given : ctl_config_of(f->ctl)->limit.request_ms);
    submit(run);
}

/* One request of the inbox; true if it cost inline work. */
static bool take(struct api_run *run)
{
    struct ctl_front *f = run->front;

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
    if (f->n_waiting == 0 || (ctl_context_max(f->ctl) == 0 && !ctl_is_draining(f->ctl) && !f->draining))
        return;
    for (struct api_run *run = f->runs; run; run = run->next)
        if (run->state == API_RUN_waiting)
            submit(run);
}

void api__runs_tick(struct ctl_front *f)
{
    int64_t now = now_ms(f), every = ctl_config_of(f->ctl)->limit.keepalive_ms;

    for (struct api_run *run = f->runs; run; run = run->next) {
        if (run->state == API_RUN_waiting && now >= run->deadline_ms)
            api__run_fail(run, API_ERROR_deadline, "the request's deadline passed while no worker was there");
        bool accepted = run->state == API_RUN_waiting || run->state == API_RUN_running;
        if (accepted && now - run->last_ms >= (run->r.stream || run->begun ? every : 2 * every))
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
