/* One connection: input -> exchange -> output. Callbacks of libuv convert and change state; bytes are written in
 * http__conn_flush, which the turn calls. */
#include "controller/http/internal.h"

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/mem/mem.h"

#include <string.h>

/* ---- state ---- */

#define TO(name) (1u << HTTP_CONN_##name)
static const unsigned legal[HTTP_CONN_STATE_N] = {
    [HTTP_CONN_idle] = TO(head) | TO(linger) | TO(closed),
    [HTTP_CONN_head] = TO(body) | TO(busy) | TO(linger) | TO(closed),
    [HTTP_CONN_body] = TO(busy) | TO(linger) | TO(closed),
    [HTTP_CONN_busy] = TO(idle) | TO(linger) | TO(closed),
    [HTTP_CONN_linger] = TO(closed),
};

static void on_timer(uv_timer_t *timer);

static void arm(struct http_conn *c, int64_t ms)
{
    c->stall_bytes = http__conn_unsent(c);
    uv_timer_start(&c->timer, on_timer, (uint64_t)ms, 0);
}

static void conn_move(struct http_conn *c, enum http_conn_state to)
{
    const struct http_limits *limit = &c->server->opts.limit;

    ASSERT(legal[c->state] >> to & 1);
    c->state = to;
    switch (to) {
    case HTTP_CONN_idle:
        arm(c, limit->idle_ms);
        break;
    case HTTP_CONN_head:
        arm(c, limit->header_ms);
        break;
    case HTTP_CONN_body:
        arm(c, limit->body_ms);
        break;
    case HTTP_CONN_busy:
        uv_timer_stop(&c->timer);
        break;
    case HTTP_CONN_linger:
        arm(c, limit->idle_ms); /* for the write; http__conn_flush shortens it when all is written */
        break;
    case HTTP_CONN_closed:
    case HTTP_CONN_STATE_N:
        break;
    }
}

size_t http__conn_unsent(const struct http_conn *c)
{
    return c->out.len + (c->in_flight ? uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp) : 0);
}

/* ---- the end ---- */

static void on_handle_closed(uv_handle_t *h)
{
    struct http_conn *c = h->data;

    if (--c->n_open > 0)
        return;
    struct http_server *s = c->server;
    ASSERT(!c->is_dirty);
    http__server_forget(s, c);
    buf_release(&c->in);
    buf_release(&c->head_bytes);
    buf_release(&c->out);
    buf_release(&c->sending);
    buf_release(&c->x.body);
    buf_release(&c->x.extra);
    http_reader_destroy(&c->reader);
    mem_free(c);
}

static void unmark(struct http_conn *c)
{
    struct http_server *s = c->server;

    if (!c->is_dirty)
        return;
    c->is_dirty = false;
    *(c->dirty_prev ? &c->dirty_prev->dirty_next : &s->dirty) = c->dirty_next;
    *(c->dirty_next ? &c->dirty_next->dirty_prev : &s->dirty_tail) = c->dirty_prev;
    c->dirty_prev = c->dirty_next = NULL;
}

void http__conn_mark(struct http_conn *c)
{
    struct http_server *s = c->server;

    if (c->is_dirty || c->state == HTTP_CONN_closed)
        return;
    c->is_dirty = true;
    c->dirty_prev = s->dirty_tail;
    c->dirty_next = NULL;
    *(s->dirty_tail ? &s->dirty_tail->dirty_next : &s->dirty) = c;
    s->dirty_tail = c;
}

void http__conn_close(struct http_conn *c)
{
    if (c->state == HTTP_CONN_closed)
        return;
    void (*on_gone)(void *) = c->state == HTTP_CONN_busy ? c->x.on_gone : NULL;
    unmark(c);
    conn_move(c, HTTP_CONN_closed);
    uv_close((uv_handle_t *)&c->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
    if (on_gone) {
        c->x.on_gone = NULL;
        on_gone(c->x.gone_arg);
    }
}

/* Nothing more will be read. What is gathered still goes out. */
static void conn_eof(struct http_conn *c)
{
    c->eof = true;
    if (c->state == HTTP_CONN_busy || http__conn_unsent(c) == 0) {
        http__conn_close(c);
        return;
    }
    c->keep = false;
    if (c->state != HTTP_CONN_linger)
        conn_move(c, HTTP_CONN_linger);
    http__conn_mark(c);
}

static void refuse(struct http_conn *c, int status, const char *text)
{
    buf_clear(&c->in);
    c->in_used = 0;
    http__refuse(c, status, text);
    conn_move(c, HTTP_CONN_linger);
}

static void on_timer(uv_timer_t *timer)
{
    struct http_conn *c = timer->data;
    size_t unsent = http__conn_unsent(c);

    switch (c->state) {
    case HTTP_CONN_head:
        if (c->scan_start >= c->in.len && unsent == 0) /* only empty lines came: nothing was asked */
            http__conn_close(c);
        else
            refuse(c, 408, "the request line and headers took too long");
        return;
    case HTTP_CONN_body:
        refuse(c, 408, "the body of the request took too long");
        return;
    default:
        break;
    }
    if (unsent > 0 && unsent < c->stall_bytes) { /* slow, but it reads */
        arm(c, c->server->opts.limit.idle_ms);
        return;
    }
    if (unsent > 0)
        log_info(http, "client does not read: unsent_bytes=%zu, cut off", unsent);
    http__conn_close(c);
}

/* ---- input ---- */

static void dispatch(struct http_conn *c)
{
    struct http_exchange *x = &c->x;
    struct http_server *s = c->server;

    conn_move(c, HTTP_CONN_busy);
    c->keep = x->head.keep_alive && s->listening;
    x->begun = x->chunked = false;
    x->on_gone = NULL;
    x->no_body = strcmp(x->head.method, "HEAD") == 0;
    s->opts.on_request(s->opts.arg, x);
    ASSERT(c->state != HTTP_CONN_busy || x->on_gone);
}

/* True when the state has moved on. */
static bool read_head(struct http_conn *c)
{
    const struct http_limits *limit = &c->server->opts.limit;
    struct http_head *head = &c->x.head;
    struct err err;
    size_t end = 0;

    const char *in = c->in.data + c->in_used;
    size_t n = c->in.len - c->in_used;
    enum http_scan scan = http_head_scan(in, n, &c->scan_pos, &c->scan_start, &end);
    if (scan == HTTP_SCAN_BAD) {
        refuse(c, 400, "malformed HTTP request");
        return true;
    }
    if ((scan == HTTP_SCAN_DONE ? end : n) > (size_t)limit->header_bytes_max) {
        refuse(c, 431, "request line and headers are too large");
        return true;
    }
    if (scan == HTTP_SCAN_MORE)
        return false;
    buf_clear(&c->head_bytes);
    buf_add(&c->head_bytes, in + c->scan_start, end - c->scan_start);
    c->in_used += end;
    c->scan_pos = c->scan_start = 0;
    int status = http_reader_head(c->reader, c->head_bytes.data, c->head_bytes.len, head, &err);
    if (status == 0 && head->content_length > limit->body_bytes_max) {
        err_set(&err, ERR_LIMIT, "the body has %lld bytes, the limit is %lld", (long long)head->content_length,
                (long long)limit->body_bytes_max);
        status = 413;
    }
    if (status) {
        refuse(c, status, err.text);
        return true;
    }
    if (!head->has_body) {
        dispatch(c);
        return true;
    }
    if (head->expect_continue && c->in_used == c->in.len) { /* if the body came along, nobody waits */
        buf_add_str(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
        http__conn_mark(c);
    }
    conn_move(c, HTTP_CONN_body);
    return true;
}

static bool read_body(struct http_conn *c)
{
    size_t max = (size_t)c->server->opts.limit.body_bytes_max, n_used;
    struct err err;

    if (c->in_used == c->in.len)
        return false;
    enum http_body r = http_reader_body(c->reader, c->in.data + c->in_used, c->in.len - c->in_used, &n_used,
                                        &c->x.body, max, &err);
    if (r == HTTP_BODY_BAD) {
        refuse(c, 400, err.text);
        return true;
    }
    if (c->x.body.len > max) {
        refuse(c, 413, "the body is larger than the limit");
        return true;
    }
    c->in_used += n_used;
    if (r == HTTP_BODY_MORE)
        return false;
    dispatch(c);
    return true;
}

static bool step(struct http_conn *c)
{
    switch (c->state) {
    case HTTP_CONN_idle:
        if (c->in_used == c->in.len || http__conn_unsent(c) > HTTP_PIPELINE_UNSENT_MAX)
            return false;
        c->x.head.path = NULL;
        conn_move(c, HTTP_CONN_head);
        return true;
    case HTTP_CONN_head:
        return read_head(c);
    case HTTP_CONN_body:
        return read_body(c);
    default:
        return false;
    }
}

static void on_alloc(uv_handle_t *h, size_t n, uv_buf_t *b)
{
    struct http_conn *c = h->data;
    (void)n;
    *b = uv_buf_init(c->server->read_buf, HTTP_READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b);

static void process(struct http_conn *c)
{
    while (step(c))
        ;
    buf_drop(&c->in, c->in_used);
    c->in_used = 0;
    if (c->state == HTTP_CONN_closed || c->eof)
        return;
    /* Head and body have limits of their own and use up what they get. */
    bool want = c->in.len < HTTP_AHEAD_BYTES_MAX || c->state == HTTP_CONN_head || c->state == HTTP_CONN_body;
    if (want == c->reading)
        return;
    c->reading = want;
    if (!want)
        uv_read_stop((uv_stream_t *)&c->tcp);
    else if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0)
        http__conn_close(c);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *b)
{
    struct http_conn *c = stream->data;

    if (n == 0 || c->state == HTTP_CONN_closed)
        return;
    if (n == UV_EOF) {
        conn_eof(c);
    } else if (n < 0) {
        http__conn_close(c);
    } else if (c->state != HTTP_CONN_linger) {
        buf_add(&c->in, b->base, (size_t)n);
        process(c);
    }
}

void http__conn_accept(struct http_server *s)
{
    struct http_conn *c = mem_zalloc(sizeof *c);

    c->server = s;
    c->n_open = 2;
    c->reader = http_reader_new();
    c->tcp.data = c->timer.data = c->write.data = c->shutdown.data = c;
    c->x.owner = c;
    c->x.carrier = &http__conn_carrier;
    c->next = s->conns;
    if (s->conns)
        s->conns->prev = c;
    s->conns = c;
    s->n_conn++;
    uv_tcp_init(s->loop, &c->tcp);
    uv_timer_init(s->loop, &c->timer);
    if (uv_accept((uv_stream_t *)&s->listener, (uv_stream_t *)&c->tcp) != 0 || s->closing) {
        http__conn_close(c);
        return;
    }
    if (s->n_conn > s->opts.limit.conns_max) {
        s->n_over++;
        if (uv_now(s->loop) >= s->over_log_ms) { /* a flood is one line a second */
            log_warn(http, "connections refused: n=%lld, the limit is conns_max=%lld", (long long)s->n_over,
                     (long long)s->opts.limit.conns_max);
            s->over_log_ms = uv_now(s->loop) + 1000;
        }
        http__conn_close(c);
        return;
    }
    uv_tcp_nodelay(&c->tcp, 1);
    arm(c, s->opts.limit.idle_ms);
    process(c);
}

/* ---- output ---- */

static void shrink(struct buf *b)
{
    if (b->cap > HTTP_KEEP_BYTES_MAX)
        buf_release(b);
    else
        buf_clear(b);
}

static void on_shut(uv_shutdown_t *req, int status)
{
    (void)req;
    (void)status; /* whether it worked or not: the client's close or the timer ends the connection */
}

static void on_written(uv_write_t *req, int status)
{
    struct http_conn *c = req->data;

    c->in_flight = false;
    shrink(&c->sending);
    if (c->state == HTTP_CONN_closed)
        return;
    if (status < 0) {
        http__conn_close(c);
        return;
    }
    if (c->state == HTTP_CONN_busy)
        uv_timer_stop(&c->timer);
    http__conn_mark(c);
}

/* False: the connection is lost. */
static bool write_out(struct http_conn *c)
{
    uv_buf_t b = uv_buf_init(c->out.data, (unsigned)c->out.len);
    int n = uv_try_write((uv_stream_t *)&c->tcp, &b, 1);

    if (n < 0 && n != UV_EAGAIN)
        return false;
    if (n > 0)
        buf_drop(&c->out, (size_t)n);
    if (c->out.len == 0) {
        shrink(&c->out);
        return true;
    }
    struct buf swap = c->sending;
    c->sending = c->out;
    c->out = swap;
    b = uv_buf_init(c->sending.data, (unsigned)c->sending.len);
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, &b, 1, on_written) != 0)
        return false;
    c->in_flight = true;
    if (c->state == HTTP_CONN_busy || c->state == HTTP_CONN_linger || c->state == HTTP_CONN_idle)
        arm(c, c->server->opts.limit.idle_ms);
    return true;
}

void http__conn_flush(struct http_conn *c)
{
    unmark(c);
    if (c->overrun)
        log_info(http, "client reads too slowly: unsent_bytes=%zu, cut off", http__conn_unsent(c));
    if (c->overrun || (!c->in_flight && c->out.len > 0 && !write_out(c))) {
        http__conn_close(c);
        return;
    }
    if (c->state == HTTP_CONN_linger && !c->in_flight) {
        if (c->eof) {
            http__conn_close(c);
        } else if (!c->shut) {
            c->shut = true;
            arm(c, HTTP_LINGER_MS);
            if (uv_shutdown(&c->shutdown, (uv_stream_t *)&c->tcp, on_shut) != 0)
                http__conn_close(c);
        }
        return;
    }
    if (c->state == HTTP_CONN_idle)
        process(c);
}

void http__conn_answered(struct http_conn *c)
{
    struct http_exchange *x = &c->x;

    x->on_gone = NULL;
    shrink(&x->body);
    shrink(&x->extra);
    shrink(&c->head_bytes);
    if (!c->keep || c->in.len == 0) {
        shrink(&c->in);
        c->in_used = 0;
    }
    conn_move(c, c->keep ? HTTP_CONN_idle : HTTP_CONN_linger);
    http__conn_mark(c);
}
