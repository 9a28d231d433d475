#include "controller/api/front.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "controller/api/gen.h"
#include "controller/api/internal.h"
#include "controller/ledger/request.h"

enum { TICK_MS_MIN = 5, TICK_MS_MAX = 1000 };

static void on_request(void *arg, struct http_exchange *x)
{
    api__route(arg, x);
}

static void on_refuse(void *arg, const char *path, int status, const char *text, struct buf *head, struct buf *body,
                      const char **content_type)
{
    char hex[25];
    (void)arg;
    (void)path; /* no Anthropic paths yet: one error form */

    api__make_id(hex);
    buf_addf(head, "x-request-id: req_%s\r\nrequest-id: req_%s\r\n", hex, hex);
    api_error_add_status(status, text, body);
    *content_type = "application/json; charset=utf-8";
}

static void on_tick(uv_timer_t *timer)
{
    struct ctl_front *f = timer->data;
    api__runs_tick(f);
}

static void set_tick(struct ctl_front *f)
{
    bool want = f->n_run > 0 && !f->closing;
    uint64_t ms = (uint64_t)ctl_config_of(f->ctl)->limit.keepalive_ms / 4;

    if (want == f->tick_on)
        return;
    f->tick_on = want;
    ms = ms < TICK_MS_MIN ? TICK_MS_MIN : ms > TICK_MS_MAX ? TICK_MS_MAX : ms;
    if (want)
        uv_timer_start(&f->tick, on_tick, ms, ms);
    else
        uv_timer_stop(&f->tick);
}

int ctl_front_open(struct ctl *ctl, struct ctl_front **front, struct err *err)
{
    const struct ctl_config *c = ctl_config_of(ctl);
    struct ctl_front *f = mem_zalloc(sizeof *f);
    const struct ctl_limits *l = &c->limit;
    struct http_server_opts o = {
        .host = c->http_host,
        .port = c->http_port,
        .limit = {l->http_conns_max, l->http_header_bytes_max, l->http_body_bytes_max, l->http_header_ms,
                  l->http_body_ms, l->http_idle_ms, l->http_unsent_bytes_max},
        .on_request = on_request,
        .on_refuse = on_refuse,
        .arg = f,
    };

    int rc = http_server_open(ctl_loop(ctl), &o, &f->server, err);
    if (rc) {
        mem_free(f);
        return rc;
    }
    f->ctl = ctl;
    f->rules = (struct chat_request_rules){ctl_tok(ctl), c->model_name, c->profile, l->n_choices_max};
    if (f->rules.n_choices_max > CTL_CHOICES_MAX)
        f->rules.n_choices_max = CTL_CHOICES_MAX;
    f->created_s = clock_wall_ms() / 1000;
    uv_timer_init(ctl_loop(ctl), &f->tick);
    f->tick.data = f;
    *front = f;
    return 0;
}

void ctl_front_turn(struct ctl_front *f)
{
    api__runs_submit(f);
    api__runs_write(f);
    http_server_flush(f->server);
    set_tick(f);
}

void ctl_front_recover(struct ctl_front *f, struct ctl_request *req)
{
    api__gen_recover(f, req);
}

void ctl_front_drain(struct ctl_front *f)
{
    f->draining = true;
    ctl_wake(f->ctl);
}

int ctl_front_port(const struct ctl_front *f)
{
    return http_server_port(f->server);
}

bool ctl_front_idle(const struct ctl_front *f)
{
    return f->n_run == 0 && http_server_is_flushed(f->server);
}

void api__maybe_closed(struct ctl_front *f)
{
    if (!f->closing || !f->tick_closed || !f->server_closed || f->n_run > 0 || f->n_job > 0)
        return;
    api__gens_close(f);
    void (*on_closed)(void *) = f->on_closed;
    void *arg = f->closed_arg;
    mem_free(f);
    if (on_closed)
        on_closed(arg);
}

static void on_tick_closed(uv_handle_t *h)
{
    struct ctl_front *f = h->data;
    f->tick_closed = true;
    api__maybe_closed(f);
}

static void on_server_closed(void *arg)
{
    struct ctl_front *f = arg;
    f->server_closed = true;
    api__maybe_closed(f);
}

void ctl_front_close(struct ctl_front **front, void (*on_closed)(void *arg), void *arg)
{
    struct ctl_front *f = *front;

    *front = NULL;
    f->closing = true;
    f->on_closed = on_closed;
    f->closed_arg = arg;
    /* Every run is told that its client is gone, and drops its request. */
    http_server_close(&f->server, on_server_closed, f);
    uv_close((uv_handle_t *)&f->tick, on_tick_closed);
}
