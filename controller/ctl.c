#include "controller/ctl.h"

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/mem/mem.h"
#include "common/text/json.h"
#include "controller/ctl_internal.h"
#include "controller/durable.h"
#include "controller/turn.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void ctl_config_init(struct ctl_config *config)
{
    *config = (struct ctl_config){
        .http_host = "127.0.0.1",
        .worker_endpoint = "tcp://127.0.0.1:*",
        .profile = CHAT_PREVIEW,
        .commit = CTL_COMMIT_token,
        .limit =
            {
#define X(name, value, text) .name = value,
                CTL_LIMIT_LIST(X)
#undef X
            },
    };
}

/* ---- life ---- */

static void on_prepare(uv_prepare_t *prepare)
{
    ctl__turn(prepare->data);
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle;
}

/* The scheduler wants cancels sent, choices dispatched, the dead freed. */
static void wake(void *arg)
{
    struct ctl *ctl = arg;
    if (!ctl->before_dispatch)
        ctl_wake(ctl);
}

void ctl_wake(struct ctl *ctl)
{
    if (!ctl->closing)
        uv_idle_start(&ctl->idle, on_idle);
}

/* The last part of the directory's path, unless a name was given. */
static void set_model_name(struct ctl *ctl)
{
    const char *from = ctl->config.model_name;

    if (!from) {
        from = ctl->config.model_dir ? ctl->config.model_dir : ctl->config.sim ? "mock" : "model";
        size_t end = strlen(from), begin;
        while (end > 1 && from[end - 1] == '/')
            end--;
        begin = end;
        while (begin > 0 && from[begin - 1] != '/')
            begin--;
        snprintf(ctl->model_name, sizeof ctl->model_name, "%.*s", (int)(end - begin), from + begin);
    } else {
        snprintf(ctl->model_name, sizeof ctl->model_name, "%s", from);
    }
    ctl->config.model_name = ctl->model_name;
}

static int open_back(struct ctl *ctl, struct err *err)
{
    const struct ctl_limits *limit = &ctl->config.limit;
    struct ctl_sched_opts sched_opts = {
        .limit = limit,
        .counts = &ctl->counts,
        .ledger = ctl->ledger,
        .wake = wake,
        .arg = ctl,
        .seed = uv_hrtime() ^ (uint64_t)getpid() << 32,
    };

    ctl->sched = ctl_sched_new(&sched_opts);
    struct ctl_link_opts link_opts = {
        .endpoint = ctl->config.worker_endpoint,
        .workers_max = limit->workers_max,
        .heartbeat_ms = limit->heartbeat_ms,
        .lost_ms = limit->lost_ms,
        .n_vocab = ctl->parts.n_vocab,
        .epoch_base = ctl->epoch_base,
        .events = &ctl_sched_link_events,
        .arg = ctl->sched,
        .counts = &ctl->counts,
    };
    int rc = ctl_link_open(ctl->loop, &link_opts, &ctl->link, err);
    if (rc)
        return rc;
    snprintf(ctl->endpoint, sizeof ctl->endpoint, "%s", ctl_link_endpoint(ctl->link));
    ctl_sched_attach(ctl->sched, ctl->link);
    return 0;
}

static void open_handles(struct ctl *ctl)
{
    /* None of these can fail, says libuv's manual. */
    uv_prepare_init(ctl->loop, &ctl->prepare);
    uv_idle_init(ctl->loop, &ctl->idle);
    uv_timer_init(ctl->loop, &ctl->timer);
    ctl->prepare.data = ctl->idle.data = ctl->timer.data = ctl;
    ctl->n_handle = 3;
    ctl->timer_due_ms = INT64_MAX;
}

/* Last of all: every handle is closed, nothing points here any more. */
static void release(struct ctl *ctl)
{
    ctl_closed_fn on_closed = ctl->on_closed;
    void *arg = ctl->closed_arg;

    ctl_sched_destroy(&ctl->sched);
    ctl__durable_release(ctl);
    if (ctl->parts.tok)
        ctl->parts.tok_close(&ctl->parts.tok);
    mem_free(ctl);
    if (on_closed)
        on_closed(arg);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct ctl *ctl = handle->data;
    if (--ctl->n_handle == 0)
        release(ctl);
}

static void on_store_closed(void *arg)
{
    struct ctl *ctl = arg;
    uv_close((uv_handle_t *)&ctl->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&ctl->idle, on_handle_closed);
    uv_close((uv_handle_t *)&ctl->timer, on_handle_closed);
}

static void on_link_closed(void *arg)
{
    ctl__durable_close(arg, on_store_closed);
}

/* Front and agent are gone and with them all their requests: nobody listens for workers' replies any more. */
static void on_agent_closed(void *arg)
{
    struct ctl *ctl = arg;
    if (!ctl->link) {
        on_link_closed(ctl);
        return;
    }
    ctl_sched_attach(ctl->sched, NULL);
    ctl_link_close(&ctl->link, on_link_closed, ctl);
}

static void on_front_closed(void *arg)
{
    struct ctl *ctl = arg;
    if (ctl->agent)
        ctl->parts.agent->close(&ctl->agent, on_agent_closed, ctl);
    else
        on_agent_closed(ctl);
}

static void close_from(struct ctl *ctl)
{
    ctl->closing = true;
    uv_prepare_stop(&ctl->prepare);
    uv_idle_stop(&ctl->idle);
    uv_timer_stop(&ctl->timer);
    if (ctl->front)
        ctl->parts.front->close(&ctl->front, on_front_closed, ctl);
    else
        on_front_closed(ctl);
}

static int check_limits(const struct ctl_limits *limit, struct err *err)
{
#define X(name, value, text)                                                                       \
    if (limit->name < 0 || limit->name > INT32_MAX)                                                \
        return err_set(err, ERR_ARG, "limit " #name " is %" PRId64 ", allowed is 0 to %d", limit->name, INT32_MAX);
    CTL_LIMIT_LIST(X)
#undef X
    if (limit->heartbeat_ms < 1 || limit->lost_ms < 2 * limit->heartbeat_ms || limit->lost_ms > MSG_INTERVAL_MS_MAX)
        return err_set(err, ERR_ARG,
                       "limit lost_ms is %" PRId64 " and heartbeat_ms %" PRId64
                       "; lost_ms must be at least two heartbeats and at most %d",
                       limit->lost_ms, limit->heartbeat_ms, MSG_INTERVAL_MS_MAX);
    if (limit->deaths_max < 1 || limit->dispatch_max < 1 || limit->retry_ms < 1 || limit->workers_max < 1)
        return err_set(err, ERR_ARG, "limits deaths_max, dispatch_max, retry_ms and workers_max must be at least 1");
    if (limit->prune_ms < 1 || limit->prune_max < 1 || limit->prune_max > STORE_QUERY_LIMIT_MAX)
        return err_set(err, ERR_ARG, "limits prune_ms and prune_max must be at least 1, prune_max at most %d",
                       STORE_QUERY_LIMIT_MAX);
    return 0;
}

int ctl_open_with(uv_loop_t *loop, const struct ctl_config *config, const struct ctl_parts *parts, struct ctl **ctl_p,
                  struct err *err)
{
    ASSERT(parts->front && (!parts->tok || parts->tok_close));
    int rc = check_limits(&config->limit, err);
    if (rc)
        return rc;
    struct ctl *ctl = mem_zalloc(sizeof *ctl);
    ctl->loop = loop;
    ctl->config = *config;
    ctl->parts = *parts;
    ctl->start_ms = (int64_t)uv_now(loop);
    set_model_name(ctl);
    open_handles(ctl);
    if (parts->agent)
        rc = parts->agent->open(ctl, &ctl->agent, err);
    if (!rc)
        rc = ctl__durable_open(ctl, err);
    if (!rc)
        rc = open_back(ctl, err);
    if (!rc) {
        ctl__durable_restore(ctl);
        rc = parts->front->open(ctl, &ctl->front, err);
    }
    if (rc) {
        ctl->parts.tok = NULL; /* it stays the caller's */
        close_from(ctl);
        return rc;
    }
    ctl__durable_recover(ctl);
    uv_prepare_start(&ctl->prepare, on_prepare);
    ctl_wake(ctl);
    *ctl_p = ctl;
    return 0;
}

void ctl_close(struct ctl **ctl_p, ctl_closed_fn on_closed, void *arg)
{
    struct ctl *ctl = *ctl_p;

    if (!ctl)
        return;
    *ctl_p = NULL;
    ASSERT(!ctl->closing);
    ctl->on_closed = on_closed;
    ctl->closed_arg = arg;
    close_from(ctl);
}

void ctl_drain(struct ctl *ctl, ctl_closed_fn on_drained, void *arg)
{
    ASSERT(!ctl->closing);
    if (ctl->draining)
        return;
    ctl->draining = true;
    ctl->drain_until_ms = (int64_t)uv_now(ctl->loop) + ctl->config.limit.stop_ms;
    ctl->on_drained = on_drained;
    ctl->drained_arg = arg;
    log_info(main, "stopping: %" PRId64 " running, %" PRId64 " queued, at most %" PRId64 " ms",
             ctl_sched_n_running(ctl->sched), ctl_sched_n_queued(ctl->sched), ctl->config.limit.stop_ms);
    ctl->parts.front->drain(ctl->front);
    if (ctl->agent)
        ctl->parts.agent->drain(ctl->agent);
    ctl_wake(ctl);
}

void ctl_on_fatal(struct ctl *ctl, ctl_fatal_fn fn, void *arg)
{
    ctl->on_fatal = fn;
    ctl->fatal_arg = arg;
}

int ctl_http_port(const struct ctl *ctl)
{
    return ctl->parts.front->port(ctl->front);
}

const char *ctl_worker_endpoint(const struct ctl *ctl)
{
    return ctl->endpoint;
}

const char *ctl_native_endpoint(const struct ctl *ctl)
{
    return ctl->parts.front->native_endpoint ? ctl->parts.front->native_endpoint(ctl->front) : NULL;
}

/* ---- for the rooms ---- */

uv_loop_t *ctl_loop(struct ctl *ctl)
{
    return ctl->loop;
}

const struct ctl_config *ctl_config_of(struct ctl *ctl)
{
    return &ctl->config;
}

const struct tok *ctl_tok(struct ctl *ctl)
{
    return ctl->parts.tok;
}

struct agent *ctl_agent(struct ctl *ctl)
{
    return ctl->agent;
}

bool ctl_is_draining(struct ctl *ctl)
{
    return ctl->draining || ctl->closing;
}

bool ctl_is_ready(struct ctl *ctl)
{
    return !ctl_is_draining(ctl) && ctl->link && ctl_link_n_ready(ctl->link) > 0 && !ctl_store_fault(ctl);
}

int64_t ctl_context_max(struct ctl *ctl)
{
    return ctl->link ? ctl_link_context_max(ctl->link) : 0;
}

uint64_t ctl_fingerprint(struct ctl *ctl)
{
    return ctl->link ? ctl_link_fingerprint(ctl->link) : 0;
}

const struct ctl_counts *ctl_counts_of(struct ctl *ctl)
{
    return &ctl->counts;
}

/* ---- the wall of ledger/request.h ---- */

int ctl_request_submit(struct ctl *ctl, struct ctl_request **req_p, struct err *err)
{
    if (ctl_is_draining(ctl))
        return err_set(err, ERR_STATE, "the server is stopping");
    (*req_p)->ctl = ctl;
    return ctl_sched_submit(ctl->sched, req_p, (int64_t)uv_now(ctl->loop), err);
}

void ctl_choice_finish(struct ctl_choice *c, enum ctl_end end)
{
    ctl_sched_finish(c->req->ctl->sched, c, end);
}

void ctl_choice_stop(struct ctl_choice *c)
{
    ctl_sched_stop(c->req->ctl->sched, c);
}

void ctl_request_leave(struct ctl_request **req_p)
{
    if (*req_p)
        ctl_sched_leave((*req_p)->ctl->sched, req_p);
}

struct ctl_request *ctl_request_find(struct ctl *ctl, const char *id)
{
    return ctl_sched_find(ctl->sched, id);
}

void ctl_request_attach(struct ctl_request *req, const struct ctl_request_events *events, void *arg)
{
    ASSERT(!req->events && req->recovered);
    req->events = events;
    req->arg = arg;
    ctl_ledger_attach(req->ctl->ledger, req);
}

void ctl_request_drop(struct ctl_request **req_p)
{
    if (*req_p)
        ctl_sched_drop((*req_p)->ctl->sched, req_p);
}

/* ---- status ---- */

static void add_member_str(struct buf *out, const char *name, const char *value)
{
    buf_addf(out, "\"%s\":", name);
    json_add_str(out, value, strlen(value));
    buf_add_char(out, ',');
}

static void add_worker(struct buf *out, const struct ctl_worker *w, int64_t now_ms)
{
    bool lost = w->state == CTL_WORKER_lost;
    int64_t total = w->beat.kv_blocks, unused = w->beat.kv_blocks_free;

    buf_add_char(out, '{');
    add_member_str(out, "name", w->hello.worker);
    add_member_str(out, "state", ctl_worker_state_name(w->state));
    add_member_str(out, "domain", w->hello.domain);
    add_member_str(out, "backend", w->hello.backend);
    add_member_str(out, "numerics", w->hello.numerics);
    if (w->gone)
        add_member_str(out, "reason", w->gone);
    buf_addf(out, "\"pid\":%" PRId64 ",\"epoch\":%" PRIu64 ",\"ranks\":%d,\"seq_max\":%d,\"context_max\":%" PRId64,
             w->hello.pid, w->epoch, (int)w->hello.n_ranks, (int)w->hello.n_seq_max, w->hello.context_max);
    buf_addf(out, ",\"assigned\":%d,\"running\":%d,\"waiting\":%d", (int)w->n_running, lost ? 0 : (int)w->beat.running,
             lost ? 0 : (int)w->beat.waiting);
    buf_addf(out, ",\"kv_blocks\":%" PRId64 ",\"kv_blocks_free\":%" PRId64 ",\"kv_free\":%.4f", total, unused,
             total > 0 ? (double)unused / (double)total : 0.0);
    buf_addf(out, ",\"kv_block_bytes\":%" PRId64 ",\"seq_bytes\":%" PRId64 ",\"cached_total\":%" PRIu64
             ",\"prefixes\":%zu", w->beat.kv_block_bytes, w->beat.seq_bytes, w->beat.cached_total, w->prefixes.n);
    buf_addf(out, ",\"step_us\":%" PRId64 ",\"tokens_total\":%" PRIu64 ",\"prefill_total\":%" PRIu64, w->beat.step_us,
             w->beat.tokens_total, w->beat.prefill_total);
    buf_addf(out, ",\"last_heartbeat_ms\":%" PRId64 ",\"age_ms\":%" PRId64 "}", now_ms - w->heard_ms,
             now_ms - w->joined_ms);
}

void ctl_status_json(struct ctl *ctl, struct buf *out)
{
    int64_t now_ms = (int64_t)uv_now(ctl->loop);
    const char *comma = "";

    buf_addf(out, "{\"controller\":{\"pid\":%d,\"uptime_ms\":%" PRId64 ",\"version\":\"%s\",\"model\":", (int)getpid(),
             now_ms - ctl->start_ms, BATON_VERSION);
    json_add_str(out, ctl->model_name, strlen(ctl->model_name));
    buf_addf(out, ",\"queue\":%" PRId64 ",\"queue_max\":%" PRId64 ",\"draining\":%s,\"workers_endpoint\":",
             ctl_sched_n_queued(ctl->sched), ctl->config.limit.queue_max, ctl->draining ? "true" : "false");
    json_add_str(out, ctl->endpoint, strlen(ctl->endpoint));
    buf_add_str(out, "},\"workers\":[");
    for (const struct ctl_worker *w = ctl->link ? ctl_link_workers(ctl->link) : NULL; w; w = w->next) {
        buf_add_str(out, comma);
        add_worker(out, w, now_ms);
        comma = ",";
    }
    buf_add_str(out, "],");
    ctl__durable_status(ctl, out);
    buf_addf(out, ",\"streams\":{\"running\":%" PRId64 ",\"queued\":%" PRId64 "},\"counters\":{",
             ctl_sched_n_running(ctl->sched), ctl_sched_n_queued(ctl->sched));
    comma = "";
#define X(name)                                                                                    \
    buf_addf(out, "%s\"" #name "\":%" PRIu64, comma, ctl->counts.name);                            \
    comma = ",";
    CTL_COUNT_LIST(X)
#undef X
    buf_add_str(out, "}}");
}
