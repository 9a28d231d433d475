/* The way of a generation back to the client: events of the back -> pipelines -> SSE or one JSON object. */
#include "controller/api/answer.h"
#include "controller/api/run.h"

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/mem/mem.h"

#include <stdio.h>
#include <string.h>

/* ---- from the pipeline of a choice ---- */

static void add_seg(struct api_choice *c, enum seg_kind kind, int call, const char *text, size_t n)
{
    struct seg *last = c->n_seg ? &c->seg[c->n_seg - 1] : NULL;

    /* A call starts a segment of its own: its name is complete. */
    if (!last || last->kind != kind || last->call != call || kind == SEG_CALL) {
        if (c->n_seg == c->cap_seg) {
            c->cap_seg = c->cap_seg ? c->cap_seg * 2 : 4;
            c->seg = mem_realloc(c->seg, c->cap_seg * sizeof *c->seg);
        }
        last = &c->seg[c->n_seg++];
        *last = (struct seg){.kind = kind, .call = call, .begin = c->pend.len};
    }
    buf_add(&c->pend, text, n);
    last->n += n;
    last->n_tok_end = stream_text_n_tok(c->text);
}

static void on_reasoning(void *arg, const char *text, size_t n)
{
    struct api_choice *c = arg;
    if (c->run->r.stream)
        add_seg(c, SEG_REASONING, 0, text, n);
    else
        message_events.on_reasoning(&c->message, text, n);
}

static void on_content(void *arg, const char *text, size_t n)
{
    struct api_choice *c = arg;
    if (c->run->r.stream)
        add_seg(c, SEG_CONTENT, 0, text, n);
    else
        message_events.on_content(&c->message, text, n);
}

static void on_call(void *arg, int call, const char *name, size_t n)
{
    struct api_choice *c = arg;
    if (c->run->r.stream)
        add_seg(c, SEG_CALL, call, name, n);
    else
        message_events.on_call(&c->message, call, name, n);
}

static void on_arguments(void *arg, int call, const char *json, size_t n)
{
    struct api_choice *c = arg;
    if (c->run->r.stream)
        add_seg(c, SEG_ARGUMENTS, call, json, n);
    else
        message_events.on_arguments(&c->message, call, json, n);
}

static void on_call_end(void *arg, int call, bool complete)
{
    struct api_choice *c = arg;
    if (!c->run->r.stream)
        message_events.on_call_end(&c->message, call, complete);
}

const struct parse_events api__choice_events = {on_reasoning, on_content, on_call, on_arguments, on_call_end};

/* ---- from the back ---- */

/* Rule 12 of spec/chat.md section 7, and DeepSeek's word for an output that the server cut short. */
static const char *reason_of(const struct api_choice *c, enum ctl_end end)
{
    if (end == CTL_END_length)
        return "length";
    if (end == CTL_END_canceled)
        return "insufficient_system_resource";
    return stream_text_n_call_complete(c->text) > 0 ? "tool_calls" : "stop";
}

static void end_choice(struct api_choice *c, enum ctl_end end)
{
    stream_text_finish(c->text);
    c->ended = true;
    c->finish_reason = reason_of(c, end);
    c->run->n_ended++;
    api__run_mark(c->run);
}

static void on_tokens(void *arg, struct ctl_choice *q, int64_t first, int64_t n)
{
    struct api_run *run = arg;
    struct api_choice *c = &run->choice[q->idx];

    if (run->state == API_RUN_failed || c->ended)
        return;
    enum stream_text_end end = stream_text_feed(c->text, q->out.id + first, n);
    api__run_mark(run);
    if (end == STREAM_TEXT_OPEN)
        return;
    if (end == STREAM_TEXT_SPECIAL) {
        run->front->n_hidden++;
        log_warn(api, "output ended at a token that must not reach a client: id=%s choice=%d index=%lld n_hidden=%llu",
                 run->id, q->idx, (long long)stream_text_n_tok(c->text), (unsigned long long)run->front->n_hidden);
    }
    ctl_choice_finish(q, CTL_END_stop);
    end_choice(c, CTL_END_stop);
}

static bool has_output(const struct api_run *run)
{
    for (int64_t i = 0; i < run->r.n; i++)
        if (run->req->choice[i].out.n > 0)
            return true;
    return false;
}

static void on_end(void *arg, struct ctl_choice *q)
{
    struct api_run *run = arg;
    struct api_choice *c = &run->choice[q->idx];

    if (run->state == API_RUN_failed || c->ended)
        return;
    switch (q->end) {
    case CTL_END_stop:
    case CTL_END_length:
        end_choice(c, q->end);
        return;
    case CTL_END_canceled: /* the server stops */
        if (has_output(run))
            end_choice(c, q->end);
        else
            api__run_fail(run, API_ERROR_overloaded, "%s", q->fail_text[0] ? q->fail_text : "the server is stopping");
        return;
    case CTL_END_deadline:
        api__run_fail(run, API_ERROR_deadline, "the request's deadline passed: %s", q->fail_text);
        return;
    case CTL_END_quarantined:
        api__run_fail(run, API_ERROR_quarantined, "%s", q->fail_text);
        return;
    case CTL_END_invalid:
        api__run_fail(run, API_ERROR_context_length, "%s", q->fail_text);
        return;
    case CTL_END_failed:
        api__run_fail(run, API_ERROR_overloaded, "no worker could run the request: %s", q->fail_text);
        return;
    case CTL_END_none:
    case CTL_END_N:
        break;
    }
    BUG("a choice ended in no way");
}

static void on_redispatch(void *arg, struct ctl_choice *q)
{
    struct api_run *run = arg;
    char text[40];

    /* Before the first event there is nothing to explain. */
    if (!run->r.stream || !run->begun || run->state != API_RUN_running)
        return;
    snprintf(text, sizeof text, "redispatch %d", q->n_dispatch);
    sse_comment(&run->out, text);
    api__run_mark(run);
}

const struct ctl_request_events api__run_events = {
    .on_tokens = on_tokens, .on_end = on_end, .on_redispatch = on_redispatch};

/* ---- the answer ---- */

static struct answer_usage usage_of(const struct api_run *run)
{
    struct answer_usage u = {.prompt_tok = run->req->n_prompt, .exact = true};

    u.cached_tok = run->req->choice[0].cached_tok;
    for (int64_t i = 0; i < run->r.n; i++) {
        const struct ctl_choice *q = &run->req->choice[i];
        u.completion_tok += stream_text_n_tok(run->choice[i].text);
        u.reasoning_tok += stream_text_n_reasoning(run->choice[i].text);
        u.exact &= q->exact;
        u.n_redispatched += q->n_dispatch > 1 ? q->n_dispatch - 1 : 0;
        u.recomputed_tok += q->recomputed_tok;
    }
    return u;
}

static void note_end(const struct api_run *run, int status)
{
    struct ctl_front *f = run->front;
    struct answer_usage u = {0};

    if (run->req && run->choice)
        u = usage_of(run);
    log_info(api, "done: id=%s client_id=%s status=%d ms=%lld prompt_tok=%lld completion_tok=%lld redispatched=%lld",
             run->id, run->client_id, status, (long long)((int64_t)uv_now(ctl_loop(f->ctl)) - run->start_ms),
             (long long)u.prompt_tok, (long long)u.completion_tok, (long long)u.n_redispatched);
}

static void add_timing(struct api_run *run)
{
    char text[24];

    snprintf(text, sizeof text, "%lld", (long long)((int64_t)uv_now(ctl_loop(run->front->ctl)) - run->start_ms));
    http_add_header(run->x, "openai-processing-ms", text);
}

static const char *fingerprint_of(struct api_run *run)
{
    uint64_t fp = ctl_fingerprint(run->front->ctl);

    if (!run->fingerprint[0] && fp)
        snprintf(run->fingerprint, sizeof run->fingerprint, "fp_%010llx", (unsigned long long)(fp >> 24));
    return run->fingerprint[0] ? run->fingerprint : NULL;
}

void api__run_begin(struct api_run *run)
{
    if (run->begun)
        return;
    run->begun = true;
    add_timing(run);
    if (!run->r.stream) {
        http_stream_begin(run->x, 200, "application/json; charset=utf-8");
        return;
    }
    struct sse_names names = {run->id,           run->front->rules.model_name, fingerprint_of(run),
                              run->r.service_tier, run->created_s,               run->r.include_usage};
    sse_init(&run->sse, &names);
    http_add_header(run->x, "Cache-Control", "no-cache");
    http_add_header(run->x, "X-Accel-Buffering", "no");
    http_stream_begin(run->x, 200, "text/event-stream; charset=utf-8");
}

void api__run_heartbeat(struct api_run *run)
{
    run->last_ms = (int64_t)uv_now(ctl_loop(run->front->ctl));
    if (run->begun && http_unsent(run->x) > 0) /* the client has bytes to read */
        return;
    api__run_begin(run);
    if (run->r.stream)
        http_stream_write(run->x, ": keep-alive\n\n", 14);
    else
        http_stream_write(run->x, "\n", 1);
}

/* ---- streams ---- */

/* Logprobs of the tokens up to `to` that no chunk has carried yet; empty if none are wanted. */
static const struct buf *logprobs_to(struct api_choice *c, int64_t to, struct buf *scratch)
{
    struct api_run *run = c->run;

    buf_clear(scratch);
    if (!run->r.logprobs || to <= c->n_logprob_sent)
        return NULL;
    answer_add_logprobs(run->front->rules.tok, &run->req->choice[c->idx].out, (int)run->r.top_logprobs,
                        c->n_logprob_sent, to, scratch);
    c->n_logprob_sent = to;
    return scratch;
}

static void write_segs(struct api_choice *c, struct buf *scratch)
{
    struct api_run *run = c->run;
    struct buf *out = &run->out;
    char id[64];

    if (!c->role_sent && (c->n_seg || c->ended)) {
        c->role_sent = true;
        sse_role(&run->sse, out, c->idx);
    }
    for (size_t i = 0; i < c->n_seg; i++) {
        const struct seg *s = &c->seg[i];
        const char *text = c->pend.data + s->begin;
        const struct buf *lp = logprobs_to(c, s->n_tok_end, scratch);
        switch (s->kind) {
        case SEG_REASONING:
            sse_reasoning(&run->sse, out, c->idx, text, s->n, lp);
            break;
        case SEG_CONTENT:
            sse_content(&run->sse, out, c->idx, text, s->n, lp);
            break;
        case SEG_CALL:
            snprintf(id, sizeof id, "call_%s_%d_%d", run->hex, c->idx, s->call);
            sse_call(&run->sse, out, c->idx, s->call, id, text, s->n, lp);
            break;
        case SEG_ARGUMENTS:
            sse_arguments(&run->sse, out, c->idx, s->call, text, s->n, lp);
            break;
        }
    }
    c->n_seg = 0;
    buf_clear(&c->pend);
    if (c->ended && !c->finish_sent) {
        c->finish_sent = true;
        sse_finish(&run->sse, out, c->idx, c->finish_reason, logprobs_to(c, stream_text_n_tok(c->text), scratch));
    }
}

static size_t pending_bytes(const struct api_run *run)
{
    size_t n = run->out.len;
    for (int64_t i = 0; run->choice && i < run->r.n; i++)
        n += run->choice[i].pend.len;
    return n;
}

/* The client is behind: leave what there is joined in our buffers. True if it was cut off or has to wait. */
static bool wait_for_reader(struct api_run *run)
{
    size_t unsent = run->begun ? http_unsent(run->x) : 0;

    if (unsent <= API_PULL_BYTES)
        return false;
    if (unsent + pending_bytes(run) > (size_t)ctl_config_of(run->front->ctl)->limit.http_unsent_bytes_max) {
        log_info(api, "client reads too slowly, cut off: id=%s client_id=%s", run->id, run->client_id);
        http_stream_abort(run->x);
        api__run_free(run);
        return true;
    }
    api__run_mark(run); /* looked at again in the next turn, which a finished write brings about */
    return true;
}

static void write_stream(struct api_run *run)
{
    struct buf scratch = {0};
    bool failed = run->state == API_RUN_failed, done = !failed && run->n_ended == run->r.n;

    if (wait_for_reader(run))
        return;
    if (pending_bytes(run) == 0 && !failed && !done)
        return; /* all is held back */
    api__run_begin(run);
    for (int64_t i = 0; run->choice && i < run->r.n; i++)
        write_segs(&run->choice[i], &scratch);
    if (failed) {
        buf_clear(&scratch);
        api_error_add(&run->error, &scratch);
        sse_error(&run->out, scratch.data, scratch.len);
    }
    if (done && run->r.include_usage) {
        struct answer_usage u = usage_of(run);
        buf_clear(&scratch);
        answer_add_usage(&u, &scratch);
        sse_usage(&run->sse, &run->out, scratch.data, scratch.len);
    }
    if (done)
        sse_done(&run->out);
    buf_release(&scratch);
    if (run->out.len)
        http_stream_write(run->x, run->out.data, run->out.len);
    buf_clear(&run->out);
    run->last_ms = (int64_t)uv_now(ctl_loop(run->front->ctl));
    if (!failed && !done)
        return;
    note_end(run, failed ? api_error_status(&run->error) : 200);
    http_stream_end(run->x);
    api__run_free(run);
}

/* ---- whole answers ---- */

static void compose(struct api_run *run, struct buf *body)
{
    int n = (int)run->r.n;
    struct answer_choice *choice = mem_array((size_t)n, sizeof *choice);
    struct buf *logprobs = mem_array((size_t)n, sizeof *logprobs);
    char(*prefix)[64] = mem_array((size_t)n, sizeof *prefix);
    struct answer_usage u = usage_of(run);
    struct answer_names names = {run->id, run->front->rules.model_name, fingerprint_of(run), run->r.service_tier,
                                 run->created_s};

    for (int i = 0; i < n; i++) {
        struct api_choice *c = &run->choice[i];
        snprintf(prefix[i], sizeof prefix[i], "call_%s_%d_", run->hex, i);
        if (run->r.logprobs)
            answer_add_logprobs(run->front->rules.tok, &run->req->choice[i].out, (int)run->r.top_logprobs, 0,
                                stream_text_n_tok(c->text), &logprobs[i]);
        choice[i] = (struct answer_choice){&c->message, prefix[i], run->r.logprobs ? &logprobs[i] : NULL,
                                           c->finish_reason};
    }
    answer_add(&names, choice, n, &u, body);
    for (int i = 0; i < n; i++)
        buf_release(&logprobs[i]);
    mem_free(choice);
    mem_free(logprobs);
    mem_free(prefix);
}

static void write_whole(struct api_run *run)
{
    struct buf body = {0};
    bool failed = run->state == API_RUN_failed;

    if (!failed && run->n_ended < run->r.n)
        return;
    note_end(run, failed ? api_error_status(&run->error) : 200);
    if (failed && !run->begun) {
        add_timing(run);
        api__reply_error(run->x, &run->error);
        api__run_free(run);
        return;
    }
    if (failed)
        api_error_add(&run->error, &body);
    else
        compose(run, &body);
    if (run->begun) { /* heartbeats went out: the 200 is on its way already */
        http_stream_write(run->x, body.data, body.len);
        http_stream_end(run->x);
    } else {
        add_timing(run);
        api__reply_json(run->x, 200, &body);
    }
    buf_release(&body);
    api__run_free(run);
}

void api__run_write(struct api_run *run)
{
    /* A refusal before the answer has begun is an HTTP error, whatever was asked for. */
    if (run->r.stream && (run->begun || run->state != API_RUN_failed))
        write_stream(run);
    else
        write_whole(run);
}
