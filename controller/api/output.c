/* The way of a generation back to the client: committed tokens -> pipelines -> SSE or one JSON object. */
#include "controller/api/answer.h"
#include "controller/api/run.h"

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/mem/mem.h"
#include "common/text/json.h"

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
    if (c->run->stream)
        add_seg(c, SEG_REASONING, 0, text, n);
    else
        message_events.on_reasoning(&c->message, text, n);
}

static void on_content(void *arg, const char *text, size_t n)
{
    struct api_choice *c = arg;
    if (c->run->stream)
        add_seg(c, SEG_CONTENT, 0, text, n);
    else
        message_events.on_content(&c->message, text, n);
}

static void on_call(void *arg, int call, const char *name, size_t n)
{
    struct api_choice *c = arg;
    if (c->run->stream)
        add_seg(c, SEG_CALL, call, name, n);
    else
        message_events.on_call(&c->message, call, name, n);
}

static void on_arguments(void *arg, int call, const char *json, size_t n)
{
    struct api_choice *c = arg;
    if (c->run->stream)
        add_seg(c, SEG_ARGUMENTS, call, json, n);
    else
        message_events.on_arguments(&c->message, call, json, n);
}

static void on_call_end(void *arg, int call, bool complete)
{
    struct api_choice *c = arg;
    if (!c->run->stream)
        message_events.on_call_end(&c->message, call, complete);
}

static const struct parse_events choice_events = {on_reasoning, on_content, on_call, on_arguments, on_call_end};

/* Rule 12 of spec/chat.md section 7, and DeepSeek's word for an output that the server cut short. */
static const char *reason_of(const struct api_choice *c, enum ctl_end end)
{
    if (end == CTL_END_length)
        return "length";
    if (end == CTL_END_canceled)
        return "insufficient_system_resource";
    return stream_text_n_call_complete(c->text) > 0 ? "tool_calls" : "stop";
}

static void make_choices(struct api_run *run)
{
    int n = (int)run->gen->r.n;

    if (run->choice)
        return;
    run->n_choice = n;
    run->choice = mem_array((size_t)n, sizeof *run->choice);
    run->at = mem_array((size_t)n + 1, sizeof *run->at);
    for (int i = 0; i < n; i++) {
        run->choice[i].run = run;
        run->choice[i].idx = i;
        run->choice[i].text = api__gen_text(run->gen, &choice_events, &run->choice[i]);
    }
}

void api__run_release_output(struct api_run *run)
{
    for (int i = 0; run->choice && i < run->n_choice; i++) {
        struct api_choice *c = &run->choice[i];
        stream_text_destroy(&c->text);
        message_release(&c->message);
        buf_release(&c->pend);
        mem_free(c->seg);
    }
    mem_free(run->choice);
    run->choice = NULL;
    mem_free(run->at);
    mem_free(run->skip);
    sse_release(&run->sse);
    buf_release(&run->out);
    buf_release(&run->event_id);
}

static const struct ctl_choice *source_of(const struct api_choice *c)
{
    return &c->run->gen->req->choice[c->idx];
}

/* Let the pipeline have one token more, or the end. False: there is nothing to be had now. */
static bool feed(struct api_choice *c)
{
    const struct ctl_choice *q = source_of(c);

    if (c->finish_reason)
        return false;
    if (!c->closed && c->n_fed < q->n_shown) {
        c->closed = stream_text_feed(c->text, q->out.id + c->n_fed, 1) != STREAM_TEXT_OPEN;
        c->n_fed++;
        return true;
    }
    bool well = q->end == CTL_END_stop || q->end == CTL_END_length;
    if (!q->told || (!well && c->run->gen->state == API_GEN_failed)) /* an error event tells of that end */
        return false;
    stream_text_finish(c->text);
    c->finish_reason = reason_of(c, q->end);
    return true;
}

static bool is_done(const struct api_run *run)
{
    if (run->gen->state != API_GEN_done || !run->choice)
        return false;
    for (int64_t i = 0; i < run->gen->r.n; i++)
        if (!run->choice[i].finish_reason || (run->stream && !run->choice[i].finish_sent))
            return false;
    return true;
}

/* The error to be told, or NULL. */
static const struct api_error *error_of(const struct api_run *run)
{
    if (run->state == API_RUN_failed)
        return &run->error;
    return run->gen && run->gen->state == API_GEN_failed ? &run->gen->error : NULL;
}

/* ---- the answer ---- */

static struct answer_usage usage_of(const struct api_run *run)
{
    const struct ctl_request *req = run->gen->req;
    struct answer_usage u = {.prompt_tok = req->n_prompt, .exact = true};

    u.cached_tok = req->choice[0].cached_tok;
    for (int64_t i = 0; i < run->gen->r.n; i++) {
        const struct ctl_choice *q = &req->choice[i];
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

    if (run->gen && run->gen->req && run->choice)
        u = usage_of(run);
    log_info(api, "done: id=%s client_id=%s status=%d ms=%lld prompt_tok=%lld completion_tok=%lld redispatched=%lld",
             run->gen ? run->gen->id : run->hex, run->client_id, status,
             (long long)((int64_t)uv_now(ctl_loop(f->ctl)) - run->start_ms), (long long)u.prompt_tok,
             (long long)u.completion_tok, (long long)u.n_redispatched);
}

static void add_timing(struct api_run *run)
{
    char text[24];

    snprintf(text, sizeof text, "%lld", (long long)((int64_t)uv_now(ctl_loop(run->front->ctl)) - run->start_ms));
    http_add_header(run->x, "openai-processing-ms", text);
}

static const char *fingerprint_of(const struct api_run *run)
{
    const char *fp = run->gen->kept.fingerprint;
    return fp[0] ? fp : NULL;
}

static void run_begin(struct api_run *run)
{
    struct api_gen *gen = run->gen;

    if (run->begun)
        return;
    run->begun = true;
    add_timing(run);
    if (gen->fetched)
        http_add_header(run->x, "Idempotency-Replayed", "true");
    if (!run->stream) {
        http_stream_begin(run->x, 200, "application/json; charset=utf-8");
        return;
    }
    struct sse_names names = {gen->id,        gen->kept.model, fingerprint_of(run),
                              gen->kept.tier, gen->created_s,  run->include_usage};
    sse_init(&run->sse, &names);
    run->sse.retry_ms = API_RETRY_MS;
    http_add_header(run->x, "Cache-Control", "no-cache");
    http_add_header(run->x, "X-Accel-Buffering", "no");
    http_stream_begin(run->x, 200, "text/event-stream; charset=utf-8");
}

void api__run_heartbeat(struct api_run *run)
{
    run->last_ms = (int64_t)uv_now(ctl_loop(run->front->ctl));
    if (run->begun && http_unsent(run->x) > 0) /* the client has bytes to read */
        return;
    run_begin(run);
    if (!run->stream)
        http_stream_write(run->x, "\n", 1);
    else if (run->sse.id)
        http_stream_write(run->x, ": keep-alive\n", 13);
    else /* before the first event nobody is confused by an empty line, and some wait for one */
        http_stream_write(run->x, ": keep-alive\n\n", 14);
}

void api__run_redispatch(struct api_run *run, int n_dispatch)
{
    char text[40];

    /* Before the first event there is nothing to explain. */
    if (!run->stream || !run->begun || run->state != API_RUN_listening)
        return;
    snprintf(text, sizeof text, "redispatch %d", n_dispatch);
    sse_comment(&run->out, text);
    api__run_mark(run);
}

/* ---- streams ---- */

/* Count the next event of choice i (or the tail, i = n): its id. False: the client has it already. */
static bool next_event(struct api_run *run, int i)
{
    int n = (int)run->gen->r.n;
    int64_t *skip = run->skip;

    run->at[i]++;
    if (skip) {
        int k = n == 1 ? 0 : i; /* with one choice the number counts choice and tail together */
        if (run->at[i] + (n == 1 && i == 1 ? run->at[0] : 0) <= skip[k])
            return false;
    }
    buf_clear(&run->event_id);
    char *to = buf_room(&run->event_id, EVENT_ID_MAX);
    run->event_id.len = event_id_write(run->gen->kept.hex, run->at, n, to);
    run->sse.id = run->event_id.data;
    return true;
}

/* Logprobs of the tokens up to `to` that no chunk has carried yet; NULL if none are wanted. */
static const struct buf *logprobs_to(struct api_choice *c, int64_t to, bool shown, struct buf *scratch)
{
    struct api_run *run = c->run;
    const struct chat_request *r = &run->gen->r;

    buf_clear(scratch);
    if (!r->logprobs || to <= c->n_logprob_sent)
        return NULL;
    if (shown)
        answer_add_logprobs(run->front->rules.tok, &source_of(c)->out, (int)r->top_logprobs, c->n_logprob_sent, to,
                            scratch);
    c->n_logprob_sent = to;
    return scratch;
}

static void write_seg(struct api_choice *c, const struct seg *s, struct buf *scratch)
{
    struct api_run *run = c->run;
    const char *text = c->pend.data + s->begin;
    struct sse *sse = &run->sse;
    char id[64];

    bool shown = next_event(run, c->idx);
    const struct buf *lp = logprobs_to(c, s->n_tok_end, shown, scratch);
    if (!shown)
        return;
    switch (s->kind) {
    case SEG_REASONING: sse_reasoning(sse, &run->out, c->idx, text, s->n, lp); break;
    case SEG_CONTENT: sse_content(sse, &run->out, c->idx, text, s->n, lp); break;
    case SEG_CALL:
        snprintf(id, sizeof id, "call_%s_%d_%d", run->gen->kept.hex, c->idx, s->call);
        sse_call(sse, &run->out, c->idx, s->call, id, text, s->n, lp);
        break;
    case SEG_ARGUMENTS: sse_arguments(sse, &run->out, c->idx, s->call, text, s->n, lp); break;
    }
}

/* The events that one token, or the end, makes. False: there is nothing to be had now. */
static bool produce(struct api_choice *c, struct buf *scratch)
{
    struct api_run *run = c->run;

    if (!feed(c))
        return false;
    if (!c->role_sent && next_event(run, c->idx))
        sse_role(&run->sse, &run->out, c->idx);
    c->role_sent = true;
    for (size_t i = 0; i < c->n_seg; i++)
        write_seg(c, &c->seg[i], scratch);
    c->n_seg = 0;
    buf_clear(&c->pend);
    if (c->finish_reason) {
        bool shown = next_event(run, c->idx);
        const struct buf *lp = logprobs_to(c, stream_text_n_tok(c->text), shown, scratch);
        if (shown)
            sse_finish(&run->sse, &run->out, c->idx, c->finish_reason, lp);
        c->finish_sent = true;
    }
    return true;
}

/* Events of all choices in turn, until nothing is left, enough is unsent or the turn has done its share. */
static void produce_all(struct api_run *run, struct buf *scratch)
{
    size_t unsent = run->begun ? http_unsent(run->x) : 0;
    int n_fed = 0;

    for (bool any = true; any;) {
        any = false;
        for (int64_t i = 0; i < run->gen->r.n; i++) {
            if (unsent + run->out.len >= API_PULL_BYTES) {
                api__run_mark(run); /* looked at again in the next turn, which a finished write brings about */
                return;
            }
            if (n_fed >= API_PRODUCE_PER_TURN_MAX) {
                api__run_mark(run);
                ctl_wake(run->front->ctl);
                return;
            }
            bool fed = produce(&run->choice[i], scratch);
            n_fed += fed;
            any |= fed;
        }
    }
}

static void write_tail(struct api_run *run, struct buf *scratch)
{
    int tail = (int)run->gen->r.n;

    if (run->include_usage && next_event(run, tail)) {
        struct answer_usage u = usage_of(run);
        buf_clear(scratch);
        answer_add_usage(&u, scratch);
        sse_usage(&run->sse, &run->out, scratch->data, scratch->len);
    }
    if (next_event(run, tail))
        sse_done(&run->sse, &run->out);
}

static void finish_stream(struct api_run *run, int status)
{
    note_end(run, status);
    http_stream_end(run->x);
    api__run_free(run);
}

static bool has_shown(const struct api_run *run)
{
    for (int i = 0; i < run->gen->req->n_choice; i++)
        if (run->gen->req->choice[i].n_shown || run->gen->req->choice[i].told)
            return true;
    return false;
}

/* The error as the last event. Events that the client could still have had come first. */
static void write_stream(struct api_run *run)
{
    const struct api_error *error = error_of(run);
    struct buf scratch = {0};
    bool done = false;

    if (run->gen && run->gen->req && (api__gen_is_accepted(run->gen) || run->begun)) {
        if (run->begun || run->gen->state == API_GEN_done || has_shown(run)) {
            run_begin(run);
            make_choices(run);
            produce_all(run, &scratch);
        }
        done = !error && is_done(run);
        if (done)
            write_tail(run, &scratch);
    }
    if (error && !run->is_dirty) {
        buf_clear(&scratch);
        api_error_add(error, &scratch);
        sse_error(&run->out, scratch.data, scratch.len);
    }
    buf_release(&scratch);
    if (run->out.len && run->begun) {
        http_stream_write(run->x, run->out.data, run->out.len);
        run->last_ms = (int64_t)uv_now(ctl_loop(run->front->ctl));
    }
    buf_clear(&run->out);
    if (done || (error && !run->is_dirty))
        finish_stream(run, error ? api_error_status(error) : 200);
}

/* ---- whole answers ---- */

static void compose(struct api_run *run, struct buf *body)
{
    struct api_gen *gen = run->gen;
    int n = (int)gen->r.n;
    struct answer_choice *choice = mem_array((size_t)n, sizeof *choice);
    struct buf *logprobs = mem_array((size_t)n, sizeof *logprobs);
    char(*prefix)[64] = mem_array((size_t)n, sizeof *prefix);
    struct answer_usage u = usage_of(run);
    struct answer_names names = {gen->id, gen->kept.model, fingerprint_of(run), gen->kept.tier, gen->created_s};

    for (int i = 0; i < n; i++) {
        struct api_choice *c = &run->choice[i];
        snprintf(prefix[i], sizeof prefix[i], "call_%s_%d_", gen->kept.hex, i);
        if (gen->r.logprobs)
            answer_add_logprobs(run->front->rules.tok, &gen->req->choice[i].out, (int)gen->r.top_logprobs, 0,
                                stream_text_n_tok(c->text), &logprobs[i]);
        choice[i] = (struct answer_choice){&c->message, prefix[i], gen->r.logprobs ? &logprobs[i] : NULL,
                                           c->finish_reason};
    }
    answer_add(&names, choice, n, &u, body);
    for (int i = 0; i < n; i++)
        buf_release(&logprobs[i]);
    mem_free(choice);
    mem_free(logprobs);
    mem_free(prefix);
}

/* A GET of a request that is not over. */
static void write_status(struct api_run *run)
{
    const struct api_gen *gen = run->gen;
    struct buf body = {0};
    int64_t n = 0;

    for (int i = 0; gen->req && i < gen->req->n_choice; i++)
        n += gen->req->choice[i].n_shown;
    buf_add_str(&body, "{\"id\":");
    json_add_str(&body, gen->id, strlen(gen->id));
    buf_addf(&body, ",\"object\":\"chat.completion\",\"created\":%lld,\"model\":", (long long)gen->created_s);
    json_add_str(&body, gen->kept.model, strlen(gen->kept.model));
    buf_addf(&body, ",\"status\":\"in_progress\",\"completion_tokens\":%lld}", (long long)n);
    http_add_header(run->x, "Retry-After", "1");
    api__reply_json(run->x, 202, &body);
    buf_release(&body);
    api__run_free(run);
}

static void write_failure(struct api_run *run, const struct api_error *error)
{
    struct buf body = {0};

    note_end(run, api_error_status(error));
    if (!run->begun) {
        add_timing(run);
        api__reply_error(run->x, error);
    } else { /* heartbeats went out: the 200 is on its way already */
        api_error_add(error, &body);
        http_stream_write(run->x, body.data, body.len);
        http_stream_end(run->x);
    }
    buf_release(&body);
    api__run_free(run);
}

static void write_whole(struct api_run *run)
{
    const struct api_error *error = error_of(run);
    struct api_gen *gen = run->gen;
    struct buf body = {0};

    if (error) {
        write_failure(run, error);
        return;
    }
    if (gen->state == API_GEN_lookup)
        return;
    if (run->get && gen->state != API_GEN_done) {
        write_status(run);
        return;
    }
    if (!api__gen_is_accepted(gen) || !gen->req)
        return;
    make_choices(run);
    for (int i = 0; i < gen->r.n; i++)
        while (feed(&run->choice[i]))
            ;
    if (!is_done(run))
        return;
    note_end(run, 200);
    compose(run, &body);
    if (run->begun) {
        http_stream_write(run->x, body.data, body.len);
        http_stream_end(run->x);
    } else {
        add_timing(run);
        if (gen->fetched)
            http_add_header(run->x, "Idempotency-Replayed", "true");
        api__reply_json(run->x, 200, &body);
    }
    buf_release(&body);
    api__run_free(run);
}

void api__run_write(struct api_run *run)
{
    /* A refusal before the answer has begun is an HTTP error, whatever was asked for. */
    if (run->stream && (run->begun || !error_of(run)))
        write_stream(run);
    else
        write_whole(run);
}
