/* The events of a run as a stream: from memory while they are kept there, else from the store; the same bytes. */
#include "controller/api/pipe.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "controller/store/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t now_ms(const struct api_pipe *p)
{
    return (int64_t)uv_now(ctl_loop(p->front->ctl));
}

static void begin(struct api_pipe *p)
{
    if (p->begun)
        return;
    p->begun = true;
    http_add_header(p->x, "Cache-Control", "no-cache");
    http_add_header(p->x, "X-Accel-Buffering", "no");
    http_stream_begin(p->x, 200, "text/event-stream; charset=utf-8");
    http_stream_write(p->x, "retry: 1000\n\n", 13);
}

static void put(struct api_pipe *p, const struct buf *text, bool ended)
{
    begin(p);
    if (text->len) {
        http_stream_write(p->x, text->data, text->len);
        p->last_ms = now_ms(p);
    }
    if (!ended)
        return;
    http_stream_end(p->x);
    pipe__free(p);
}

/* Events out of an answer of the store, from number p->seq on. True: the last one of all is among them. */
static bool add_stored(struct api_pipe *p, const struct store_fetched *f, struct buf *out)
{
    struct buf json = {0};
    int64_t seq = 0;
    bool ended = false;

    p->behind = false;
    for (size_t i = 0; i < f->n; i++, seq++) {
        const struct store_record *r = &f->record[i];
        if (seq < p->seq) {
            ended = r->kind == STORE_run_end;
            continue;
        }
        if (out->len > PIPE_STORE_BYTES) {
            p->behind = true;
            ended = false;
            break;
        }
        buf_clear(&json);
        if (r->kind == STORE_run)
            agent_show_begin(&r->u.run, &json);
        else if (r->kind == STORE_step)
            agent_show_step(p->id, seq, &r->u.step, &json);
        else
            agent_show_end(&r->u.run_end, seq, &json);
        agent_event_frame(p->id, seq, json.data, json.len, out);
        p->seq = seq + 1;
        ended = r->kind == STORE_run_end;
    }
    buf_release(&json);
    return ended;
}

static void on_stored(void *arg, const struct store_fetched *f)
{
    struct api_pipe *p = pipe__answered(arg, f);
    const struct store_run_end *end;
    struct buf out = {0};

    if (!p)
        return;
    if (!p->begun && !pipe__run_of(p, f, &end))
        return;
    if (p->begun && f->n == 0) { /* forgotten meanwhile */
        http_stream_abort(p->x);
        pipe__free(p);
        return;
    }
    bool ended = add_stored(p, f, &out);
    put(p, &out, ended);
    buf_release(&out);
}

static void ask(struct api_pipe *p)
{
    struct err err;

    if (store_fetch(ctl_store(p->front->ctl), &(struct store_query){.kind = STORE_QUERY_run, .id = p->id}, on_stored,
                    p, &err) == 0)
        p->asking = true;
    else if (!p->begun)
        pipe__fail(p, API_ERROR_overloaded, NULL, "%s", err.text);
    /* else it is tried again with the next tick */
}

void pipe__tail_pump(struct api_pipe *p)
{
    struct agent_live *live = agent_find(p->agent, p->id);
    struct buf out = {0};
    bool ended = false;

    if (p->asking || (p->begun && http_unsent(p->x) > API_PULL_BYTES))
        return;
    if (live && strcmp(agent_live_tenant(live), p->tenant) == 0 &&
        agent_events(live, &p->seq, API_PULL_BYTES, &out, &ended) == 0) {
        p->behind = out.len > API_PULL_BYTES && !ended;
        if (!ended && now_ms(p) - p->last_ms >= ctl_config_of(p->front->ctl)->limit.keepalive_ms && out.len == 0) {
            buf_add_str(&out, ": keep-alive\n\n");
        }
        put(p, &out, ended);
    } else {
        ask(p);
    }
    buf_release(&out);
}

/* "run_x-17": the number behind the run's id; -1: not of this run. */
static int64_t number_of(const struct api_pipe *p, const char *id)
{
    size_t n = strlen(p->id);
    char *end;

    if (strncmp(id, p->id, n) != 0 || id[n] != '-' || id[n + 1] < '0' || id[n + 1] > '9')
        return -1;
    long long v = strtoll(id + n + 1, &end, 10);
    return *end == '\0' && v < INT64_MAX ? v : -1;
}

void pipe__tail(struct api_pipe *p)
{
    const char *last = http_header(p->x, "Last-Event-ID");

    p->streams = true;
    p->last_ms = now_ms(p);
    if (last && last[0]) {
        int64_t n = number_of(p, last);
        if (n < 0) {
            pipe__fail(p, API_ERROR_conflict, NULL, "Last-Event-ID '%.80s' is not of run %s", last, p->id);
            return;
        }
        p->seq = n + 1;
    }
    ctl_wake(p->front->ctl);
    pipe__tail_pump(p);
}
