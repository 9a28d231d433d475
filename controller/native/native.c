#include "controller/native/native.h"

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/rand.h"
#include "common/ds/uvzmq.h"
#include "common/mem/mem.h"
#include "controller/http/exchange.h"
#include "proto/codec/native.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

enum {
    ROUTE_BYTES_MAX = 255,
    TICK_MS = 500,  /* between two looks at silent clients */
    STALL_MS = 5,   /* between two tries to send to a client whose queue is full */
    DATA_BYTES_MAX = 1 << 20, /* of one Data message */
    FRAME_SLACK_BYTES = 1 << 20, /* of a message, around its body */
};

struct client;

/* One call. What is queued is sent in this order: head, data, end. */
struct call {
    struct http_exchange x;
    struct client *client;
    struct call *prev, *next; /* of the client */
    struct arena arena;       /* what x.head points to */
    uint64_t tag, seq;        /* seq: of the next Data */
    int status;               /* not 0: the head waits to be sent */
    struct buf type;          /* content type of the head */
    struct buf out;
    bool ended, complete;
};

struct client {
    struct client *prev, *next;
    unsigned char route[ROUTE_BYTES_MAX];
    size_t n_route;
    struct call *calls;
    int64_t n_call;
    int64_t heard_ms;
    uint64_t boot;    /* of this stay: one that was given up and comes back gets another, and asks again */
    bool dirty;       /* one of its calls has something to send */
    const char *gone; /* why it is to be given up; NULL: it is not */
};

struct native_server {
    uv_loop_t *loop;
    struct native_opts opts;
    char endpoint[NATIVE_ENDPOINT_MAX];
    void *zctx, *router;
    struct uvzmq *bridge;
    uv_timer_t timer;
    struct client *clients;
    int64_t n_client;
    uint64_t boot; /* of the last stay; begins at random, so that two servers differ */
    struct arena arena; /* of the message being handled */
    bool stalled;       /* something waits for ZeroMQ */
    int n_open;         /* handles not closed */
    void (*on_closed)(void *arg);
    void *closed_arg;
};

/* ---- sending ---- */

/* ERR_BUSY: its queue is full; ERR_NET: it is gone, and marked so; ERR_RANGE. */
static int send_to(struct native_server *s, struct client *c, const struct nat_msg *m, struct err *err)
{
    struct buf buf = {0};

    if (c->gone)
        return err_set(err, ERR_NET, "the client is gone");
    int rc = nat_encode(m, &buf, err);
    if (!rc && zmq_send(s->router, c->route, c->n_route, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0) {
        rc = zmq_errno() == EAGAIN ? err_set(err, ERR_BUSY, "its queue is full")
                                   : err_set(err, ERR_NET, "cannot send: %s", zmq_strerror(zmq_errno()));
    } else if (!rc && zmq_send(s->router, buf.data, buf.len, ZMQ_DONTWAIT) < 0) {
        rc = err_set(err, ERR_NET, "cannot send: %s", zmq_strerror(zmq_errno()));
    }
    if (rc == ERR_NET)
        c->gone = "it cannot be reached";
    buf_release(&buf);
    return rc;
}

static void refuse(struct native_server *s, struct client *c, uint64_t tag, const char *text)
{
    char line[NAT_TEXT_MAX];
    struct err err;

    snprintf(line, sizeof line, "%s", text);
    struct nat_msg m = {.kind = NAT_refused, .refused = {tag, line}};
    if (send_to(s, c, &m, &err)) /* whoever cannot be told asks again */
        log_debug(native, "a refusal was not sent: %s", err.text);
}

/* ---- calls ---- */

static void call_free(struct call *k)
{
    struct client *c = k->client;

    if (k->prev)
        k->prev->next = k->next;
    else
        c->calls = k->next;
    if (k->next)
        k->next->prev = k->prev;
    c->n_call--;
    arena_release(&k->arena);
    buf_release(&k->x.body);
    buf_release(&k->x.extra);
    buf_release(&k->type);
    buf_release(&k->out);
    mem_free(k);
}

/* Nobody wants the rest. */
static void call_drop(struct call *k)
{
    void (*on_gone)(void *) = k->ended ? NULL : k->x.on_gone;
    void *arg = k->x.gone_arg;

    call_free(k);
    if (on_gone)
        on_gone(arg);
}

static struct call *call_find(const struct client *c, uint64_t tag)
{
    for (struct call *k = c->calls; k; k = k->next)
        if (k->tag == tag)
            return k;
    return NULL;
}

/* "Name: value" CR LF ..., as http_add_header makes them; the bytes are changed. */
static size_t split_fields(char *lines, struct nat_field *field, size_t max)
{
    size_t n = 0;

    for (char *line = lines, *end; line && n < max && (end = strstr(line, "\r\n")); line = end + 2) {
        char *colon = strstr(line, ": ");
        *end = 0;
        if (!colon || colon > end)
            continue;
        *colon = 0;
        field[n++] = (struct nat_field){line, colon + 2};
    }
    return n;
}

static int send_head(struct native_server *s, struct call *k, struct err *err)
{
    struct nat_field field[NAT_FIELDS_MAX];
    struct nat_msg m = {.kind = NAT_head, .head = {.tag = k->tag, .status = k->status, .field = field}};
    size_t n = 0;
    char *lines = mem_dup(k->x.extra.len ? k->x.extra.data : "", k->x.extra.len);

    if (k->type.len)
        field[n++] = (struct nat_field){"Content-Type", k->type.data};
    m.head.n_field = n + split_fields(lines, field + n, NAT_FIELDS_MAX - n);
    int rc = send_to(s, k->client, &m, err);
    mem_free(lines);
    return rc;
}

/* Send what the call has queued. True when it is over, in one way or the other: it is freed then. */
static bool call_flush(struct native_server *s, struct call *k)
{
    struct err err;
    int rc = 0;

    if (k->status && !(rc = send_head(s, k, &err)))
        k->status = 0;
    while (!rc && k->out.len) {
        size_t n = k->out.len < DATA_BYTES_MAX ? k->out.len : DATA_BYTES_MAX;
        struct nat_msg m = {.kind = NAT_data, .data = {k->tag, k->seq, k->out.data, n}};
        if ((rc = send_to(s, k->client, &m, &err)))
            break;
        buf_drop(&k->out, n);
        k->seq++;
    }
    if (!rc && k->ended) {
        struct nat_msg m = {.kind = NAT_end, .end = {k->tag, k->seq, k->complete}};
        if (!(rc = send_to(s, k->client, &m, &err))) {
            call_free(k);
            return true;
        }
    }
    if (rc == ERR_BUSY)
        s->stalled = true;
    return false;
}

/* ---- the carrier ---- */

static void carrier_begin(struct http_exchange *x, int status, const char *content_type)
{
    struct call *k = x->owner;

    k->status = status;
    k->client->dirty = true;
    if (content_type)
        buf_add_str(&k->type, content_type);
}

static void carrier_write(struct http_exchange *x, const void *data, size_t n)
{
    struct call *k = x->owner;
    struct client *c = k->client;

    if (x->no_body || c->gone)
        return;
    buf_add(&k->out, data, n);
    c->dirty = true;
}

static void carrier_end(struct http_exchange *x)
{
    struct call *k = x->owner;

    x->on_gone = NULL;
    k->ended = k->complete = true;
    k->client->dirty = true;
}

static void carrier_reply(struct http_exchange *x, int status, const char *content_type, const void *body, size_t len)
{
    struct call *k = x->owner;

    carrier_begin(x, status, content_type);
    if (!x->no_body)
        buf_add(&k->out, body, len);
    carrier_end(x);
}

static void carrier_abort(struct http_exchange *x)
{
    struct call *k = x->owner;

    k->ended = true;
    k->client->dirty = true;
}

static size_t carrier_unsent(const struct http_exchange *x)
{
    const struct call *k = x->owner;
    return k->out.len;
}

static const struct http_carrier carrier = {carrier_reply, carrier_begin, carrier_write,
                                            carrier_end,   carrier_abort, carrier_unsent};

/* ---- clients ---- */

static struct client *client_find(struct native_server *s, const unsigned char *route, size_t n)
{
    for (struct client *c = s->clients; c; c = c->next)
        if (c->n_route == n && memcmp(c->route, route, n) == 0)
            return c;
    return NULL;
}

static void set_timer(struct native_server *s);

static struct client *client_add(struct native_server *s, const unsigned char *route, size_t n)
{
    struct client *c = mem_zalloc(sizeof *c);

    memcpy(c->route, route, n);
    c->n_route = n;
    c->boot = ++s->boot;
    c->next = s->clients;
    if (s->clients)
        s->clients->prev = c;
    s->clients = c;
    s->n_client++;
    set_timer(s);
    return c;
}

static void client_drop(struct native_server *s, struct client *c)
{
    if (c->gone)
        log_info(native, "a client is given up, had %" PRId64 " calls: %s", c->n_call, c->gone);
    while (c->calls)
        call_drop(c->calls);
    if (c->prev)
        c->prev->next = c->next;
    else
        s->clients = c->next;
    if (c->next)
        c->next->prev = c->prev;
    s->n_client--;
    mem_free(c);
}

/* ---- receiving ---- */

/* The request as the handler reads it; views of the call's arena. */
static void fill_head(struct call *k, const struct nat_call *m)
{
    struct http_head *h = &k->x.head;
    char *path = arena_strdup(&k->arena, m->path), *mark = strchr(path, '?');

    h->method = arena_strdup(&k->arena, m->method);
    h->path = path;
    h->query = "";
    if (mark) {
        *mark = 0;
        h->query = mark + 1;
    }
    h->major = h->minor = 1;
    h->n_field = (int)m->n_field;
    for (size_t i = 0; i < m->n_field; i++)
        h->field[i] = (struct http_field){arena_strdup(&k->arena, m->field[i].name),
                                          arena_strdup(&k->arena, m->field[i].value)};
    h->content_length = (int64_t)m->n_body;
    h->keep_alive = true;
    h->has_body = m->n_body > 0;
}

static void on_call(struct native_server *s, struct client *c, const struct nat_call *m)
{
    char text[NAT_TEXT_MAX];
    struct call *old = call_find(c, m->tag);

    if (old) /* asked again, after a break: the old answer is not wanted any more */
        call_drop(old);
    if (c->n_call >= s->opts.limit.calls_max) {
        snprintf(text, sizeof text, "%" PRId64 " calls are open, native_calls_max is %" PRId64 "; wait for one to end",
                 c->n_call, s->opts.limit.calls_max);
        refuse(s, c, m->tag, text);
        return;
    }
    if (m->n_body > (size_t)s->opts.limit.body_bytes_max) {
        snprintf(text, sizeof text, "a body of %zu bytes, the limit is %" PRId64, m->n_body,
                 s->opts.limit.body_bytes_max);
        refuse(s, c, m->tag, text);
        return;
    }
    struct call *k = mem_zalloc(sizeof *k);
    k->client = c;
    k->tag = m->tag;
    k->x.carrier = &carrier;
    k->x.owner = k;
    fill_head(k, m);
    k->x.no_body = strcmp(m->method, "HEAD") == 0;
    buf_add(&k->x.body, m->body, m->n_body);
    k->next = c->calls;
    if (c->calls)
        c->calls->prev = k;
    c->calls = k;
    c->n_call++;
    s->opts.on_request(s->opts.arg, &k->x);
}

static void on_message(struct native_server *s, struct client *c, const struct nat_msg *m)
{
    struct err err;
    struct call *k;

    switch (m->kind) {
    case NAT_call:
        on_call(s, c, &m->call);
        break;
    case NAT_drop:
        if ((k = call_find(c, m->drop.tag)))
            call_drop(k);
        break;
    case NAT_ping: {
        struct nat_msg pong = {.kind = NAT_pong, .pong = {m->ping.seq, c->boot}};
        if (send_to(s, c, &pong, &err) == ERR_BUSY)
            log_debug(native, "a pong was not sent: %s", err.text);
        break;
    }
    case NAT_head:
    case NAT_data:
    case NAT_end:
    case NAT_pong:
    case NAT_refused:
    case NAT_KIND_N:
        refuse(s, c, 0, "this message is for clients, not from them");
        break;
    }
}

static void on_bytes(struct native_server *s, const unsigned char *route, size_t n_route, zmq_msg_t *body)
{
    struct client *c = client_find(s, route, n_route);
    struct nat_msg m;
    struct err err;

    if (!c && s->n_client >= s->opts.limit.clients_max) {
        struct client stranger = {.n_route = n_route};
        char text[NAT_TEXT_MAX];
        memcpy(stranger.route, route, n_route);
        snprintf(text, sizeof text, "%" PRId64 " clients are connected, native_clients_max is %" PRId64, s->n_client,
                 s->opts.limit.clients_max);
        refuse(s, &stranger, 0, text);
        return;
    }
    if (!c)
        c = client_add(s, route, n_route);
    c->heard_ms = (int64_t)uv_now(s->loop);
    arena_reset(&s->arena);
    int rc = nat_decode(zmq_msg_data(body), zmq_msg_size(body), &s->arena, &m, &err);
    if (rc) {
        log_debug(native, "a client sent what cannot be read: %s", err.text);
        refuse(s, c, 0, err.text);
        return;
    }
    on_message(s, c, &m);
}

/* One message of exactly two frames; false when none waits. */
static bool receive(struct native_server *s)
{
    unsigned char route[ROUTE_BYTES_MAX];
    zmq_msg_t body;

    int n = zmq_recv(s->router, route, sizeof route, ZMQ_DONTWAIT);
    if (n < 0)
        return false;
    int n_frame = 0;
    bool more = true;
    zmq_msg_init(&body);
    while (more) {
        if (n_frame++)
            zmq_msg_close(&body), zmq_msg_init(&body);
        if (zmq_msg_recv(&body, s->router, ZMQ_DONTWAIT) < 0)
            break;
        more = zmq_msg_more(&body);
    }
    if (n_frame == 1 && !more)
        on_bytes(s, route, (size_t)n, &body);
    zmq_msg_close(&body);
    return true;
}

static void on_readable(void *arg, int max)
{
    struct native_server *s = arg;

    while (max-- > 0 && receive(s))
        ;
}

/* ---- the turn ---- */

static bool has_unsent(const struct call *k)
{
    return k->status || k->out.len || k->ended;
}

static void flush_client(struct native_server *s, struct client *c)
{
    c->dirty = false;
    for (struct call *k = c->calls, *next; k && !c->gone; k = next) {
        next = k->next;
        if (call_flush(s, k))
            continue;
        if (!k->ended && k->out.len > (size_t)s->opts.limit.unsent_bytes_max) {
            /* A slow reader: cut off, as a connection is. */
            void (*on_gone)(void *) = k->x.on_gone;
            k->x.on_gone = NULL;
            k->ended = true;
            buf_clear(&k->out);
            if (on_gone)
                on_gone(k->x.gone_arg);
            if (call_flush(s, k))
                continue;
        }
        c->dirty |= has_unsent(k);
    }
}

void native_flush(struct native_server *s)
{
    s->stalled = false;
    for (struct client *c = s->clients, *next; c; c = next) {
        next = c->next;
        if (c->dirty)
            flush_client(s, c);
        if (c->gone)
            client_drop(s, c);
    }
    set_timer(s);
}

static void on_timer(uv_timer_t *timer)
{
    struct native_server *s = timer->data;
    int64_t now_ms = (int64_t)uv_now(s->loop);

    for (struct client *c = s->clients; c; c = c->next)
        if (now_ms - c->heard_ms > s->opts.limit.lost_ms)
            c->gone = "it was silent for too long";
    native_flush(s);
}

static void set_timer(struct native_server *s)
{
    uint64_t ms = s->stalled ? STALL_MS : TICK_MS;

    if (!s->clients)
        uv_timer_stop(&s->timer);
    else if (!uv_is_active((uv_handle_t *)&s->timer) || uv_timer_get_repeat(&s->timer) != ms)
        uv_timer_start(&s->timer, on_timer, ms, ms);
}

bool native_is_flushed(const struct native_server *s)
{
    for (const struct client *c = s->clients; c; c = c->next)
        if (c->dirty)
            return false;
    return true;
}

void native_arm(struct native_server *s)
{
    uvzmq_arm(s->bridge);
}

const char *native_endpoint(const struct native_server *s)
{
    return s->endpoint;
}

int64_t native_n_client(const struct native_server *s)
{
    return s->n_client;
}

/* ---- life ---- */

static int set_int(struct native_server *s, int option, int value, struct err *err)
{
    if (zmq_setsockopt(s->router, option, &value, sizeof value) == 0)
        return 0;
    return err_set(err, ERR_NET, "socket of native clients, option %d: %s", option, zmq_strerror(zmq_errno()));
}

static int set_options(struct native_server *s, struct err *err)
{
    static const struct {
        int option, value;
    } set[] = {
        {ZMQ_LINGER, 0},           {ZMQ_ROUTER_MANDATORY, 1},   {ZMQ_ROUTER_HANDOVER, 1},
        {ZMQ_SNDHWM, NATIVE_SEND_MAX}, {ZMQ_RCVHWM, NATIVE_RECV_MAX}, {ZMQ_TCP_KEEPALIVE, 1},
    };
    int64_t bytes_max = s->opts.limit.body_bytes_max + FRAME_SLACK_BYTES;

    for (size_t i = 0; i < N_ELEM(set); i++)
        if (set_int(s, set[i].option, set[i].value, err))
            return err->code;
    if (strchr(s->opts.endpoint, '[') && set_int(s, ZMQ_IPV6, 1, err))
        return err->code;
    if (zmq_setsockopt(s->router, ZMQ_MAXMSGSIZE, &bytes_max, sizeof bytes_max) != 0)
        return err_set(err, ERR_NET, "socket of native clients: %s", zmq_strerror(zmq_errno()));
    if (!s->opts.secret_key)
        return 0;
    if (set_int(s, ZMQ_CURVE_SERVER, 1, err))
        return err->code;
    if (zmq_setsockopt(s->router, ZMQ_CURVE_SECRETKEY, s->opts.secret_key, strlen(s->opts.secret_key)) != 0)
        return err_set(err, ERR_ARG, "the secret key of native clients is no CURVE key of 40 Z85 characters");
    return 0;
}

static int open_socket(struct native_server *s, struct err *err)
{
    size_t n = sizeof s->endpoint;

    s->zctx = zmq_ctx_new();
    s->router = s->zctx ? zmq_socket(s->zctx, ZMQ_ROUTER) : NULL;
    if (!s->router)
        return err_set(err, ERR_NET, "no ZeroMQ socket: %s", zmq_strerror(zmq_errno()));
    int rc = set_options(s, err);
    if (rc)
        return rc;
    if (zmq_bind(s->router, s->opts.endpoint) != 0)
        return err_set(err, ERR_NET, "cannot listen for native clients on %s: %s; choose another --native",
                       s->opts.endpoint, zmq_strerror(zmq_errno()));
    if (zmq_getsockopt(s->router, ZMQ_LAST_ENDPOINT, s->endpoint, &n) != 0)
        return err_set(err, ERR_NET, "socket of native clients: %s", zmq_strerror(zmq_errno()));
    return 0;
}

static void release(struct native_server *s)
{
    if (s->router)
        zmq_close(s->router);
    if (s->zctx)
        zmq_ctx_term(s->zctx); /* linger is 0 */
    arena_release(&s->arena);
    mem_free(s);
}

static void on_part_closed(void *arg)
{
    struct native_server *s = arg;

    if (--s->n_open > 0)
        return;
    void (*on_closed)(void *) = s->on_closed;
    void *closed_arg = s->closed_arg;
    release(s);
    if (on_closed)
        on_closed(closed_arg);
}

static void on_timer_closed(uv_handle_t *h)
{
    on_part_closed(h->data);
}

void native_close(struct native_server **server, void (*on_closed)(void *arg), void *arg)
{
    struct native_server *s = *server;

    *server = NULL;
    s->on_closed = on_closed;
    s->closed_arg = arg;
    while (s->clients)
        client_drop(s, s->clients);
    s->n_open = 2;
    uvzmq_close(&s->bridge, on_part_closed, s);
    uv_close((uv_handle_t *)&s->timer, on_timer_closed);
}

int native_open(uv_loop_t *loop, const struct native_opts *opts, struct native_server **server, struct err *err)
{
    struct native_server *s = mem_zalloc(sizeof *s);

    s->loop = loop;
    s->opts = *opts;
    rand_bytes(&s->boot, sizeof s->boot);
    int rc = open_socket(s, err);
    if (!rc)
        rc = uvzmq_open(loop, s->router, NATIVE_RECV_MAX, on_readable, s, &s->bridge, err);
    if (rc) {
        release(s);
        return rc;
    }
    uv_timer_init(loop, &s->timer);
    s->timer.data = s;
    s->opts.endpoint = s->opts.secret_key = NULL; /* the caller's */
    *server = s;
    return 0;
}
