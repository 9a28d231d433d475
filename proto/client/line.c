/* The thread of a client: one DEALER to the controller, made anew when it has gone silent. */
#include "proto/client/internal.h"

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/mem/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

static const char monitor_name[] = "inproc://line";

int64_t baton__now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- the socket ---- */

static bool set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

/* The client's pair: the user's, or one for this line alone. */
static bool set_curve(struct baton *b)
{
    char public_key[41], secret_key[41];

    if (!b->server_key)
        return true;
    if (b->public_key)
        return zmq_setsockopt(b->dealer, ZMQ_CURVE_SERVERKEY, b->server_key, strlen(b->server_key)) == 0 &&
               zmq_setsockopt(b->dealer, ZMQ_CURVE_PUBLICKEY, b->public_key, strlen(b->public_key)) == 0 &&
               zmq_setsockopt(b->dealer, ZMQ_CURVE_SECRETKEY, b->secret_key, strlen(b->secret_key)) == 0;
    bool ok = zmq_curve_keypair(public_key, secret_key) == 0 &&
              zmq_setsockopt(b->dealer, ZMQ_CURVE_SERVERKEY, b->server_key, strlen(b->server_key)) == 0 &&
              zmq_setsockopt(b->dealer, ZMQ_CURVE_PUBLICKEY, public_key, 40) == 0 &&
              zmq_setsockopt(b->dealer, ZMQ_CURVE_SECRETKEY, secret_key, 40) == 0;
    explicit_bzero(secret_key, sizeof secret_key);
    return ok;
}

void baton__line_close(struct baton *b)
{
    if (b->monitor)
        zmq_close(b->monitor);
    if (b->dealer) {
        zmq_socket_monitor(b->dealer, NULL, 0);
        zmq_close(b->dealer);
    }
    b->dealer = b->monitor = NULL;
    b->up = false;
}

int baton__line_open(struct baton *b, struct baton_err *err)
{
    unsigned char route[16];

    b->dealer = zmq_socket(b->zctx, ZMQ_DEALER);
    if (!b->dealer)
        return baton__fail(err, BATON_E_SYSTEM, "no ZeroMQ socket: %s", zmq_strerror(zmq_errno()));
    /* A name of its own for each line: what the controller still sends to the old one goes nowhere. Its first byte
     * must not be zero. */
    if (getrandom(route, sizeof route, 0) != sizeof route)
        return baton__fail(err, BATON_E_SYSTEM, "no random bytes: %s", strerror(errno));
    route[0] |= 1;
    bool ok = zmq_setsockopt(b->dealer, ZMQ_ROUTING_ID, route, sizeof route) == 0 &&
              set_int(b->dealer, ZMQ_LINGER, 0) && set_int(b->dealer, ZMQ_IMMEDIATE, 1) &&
              set_int(b->dealer, ZMQ_SNDHWM, CLIENT_SEND_MAX) &&
              set_int(b->dealer, ZMQ_RECONNECT_IVL, CLIENT_RECONNECT_MS) &&
              set_int(b->dealer, ZMQ_RECONNECT_IVL_MAX, CLIENT_RECONNECT_MS_MAX) &&
              (!strchr(b->endpoint, '[') || set_int(b->dealer, ZMQ_IPV6, 1));
    if (!ok)
        return baton__fail(err, BATON_E_SYSTEM, "ZeroMQ socket: %s", zmq_strerror(zmq_errno()));
    if (!set_curve(b))
        return baton__fail(err, BATON_E_ARG, "the keys are no CURVE keys of 40 Z85 characters");
    ok = zmq_socket_monitor(b->dealer, monitor_name,
                            ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CONNECT_RETRIED |
                                ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                                ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) == 0;
    b->monitor = ok ? zmq_socket(b->zctx, ZMQ_PAIR) : NULL;
    if (!b->monitor || zmq_connect(b->monitor, monitor_name) != 0)
        return baton__fail(err, BATON_E_SYSTEM, "ZeroMQ monitor: %s", zmq_strerror(zmq_errno()));
    if (zmq_connect(b->dealer, b->endpoint) != 0)
        return baton__fail(err, BATON_E_ARG, "'%s' is no endpoint: %s", b->endpoint, zmq_strerror(zmq_errno()));
    b->heard_ms = b->pinged_ms = baton__now_ms();
    return 0;
}

/* False: ZeroMQ does not take it now. */
static bool send_msg(struct baton *b, const struct nat_msg *m, struct err *err)
{
    struct buf buf = {0};

    int rc = nat_encode(m, &buf, err);
    if (!rc && zmq_send(b->dealer, buf.data, buf.len, ZMQ_DONTWAIT) < 0)
        rc = err_set(err, ERR_BUSY, "%s", zmq_strerror(zmq_errno()));
    buf_release(&buf);
    return rc == 0;
}

/* ---- calls ---- */

static void drop(struct baton_call *c)
{
    struct nat_msg m = {.kind = NAT_drop, .drop = {c->tag}};
    struct err err;

    /* A message that does not go out now needs none later: the controller drops all calls of a line that ends. */
    send_msg(c->b, &m, &err);
}

/* Fields written: 0 or 1. */
static size_t add_bearer(const struct baton *b, char text[BEARER_MAX], struct nat_field *field)
{
    if (!b->api_key)
        return 0;
    snprintf(text, BEARER_MAX, "Bearer %s", b->api_key);
    *field = (struct nat_field){"Authorization", text};
    return 1;
}

/* Each time under a tag of its own: what is still under way from the time before is told apart by it. */
static void ask(struct baton_call *c, int64_t now_ms)
{
    struct baton *b = c->b;
    struct nat_field field[5];
    char bearer[BEARER_MAX];
    struct nat_msg m = {.kind = NAT_call,
                        .call = {.method = c->method, .path = c->path, .field = field,
                                 .body = c->body ? c->body : "", .n_body = c->body_len}};
    struct err err;
    size_t n = 0;

    if (c->tag)
        drop(c);
    m.call.tag = c->tag = ++b->tag;
    field[n++] = (struct nat_field){"Accept", "text/event-stream, application/json"};
    if (c->body)
        field[n++] = (struct nat_field){"Content-Type", "application/json"};
    if (c->key)
        field[n++] = (struct nat_field){"Idempotency-Key", c->key};
    if (c->last_id.len)
        field[n++] = (struct nat_field){"Last-Event-ID", c->last_id.data};
    n += add_bearer(b, bearer, &field[n]);
    m.call.n_field = n;
    if (send_msg(b, &m, &err)) {
        c->state = CALL_OPEN;
        return;
    }
    if (err.code == ERR_BUSY)
        c->ask_at_ms = now_ms + CLIENT_ASK_MS;
    else
        baton__call_end(c, BATON_E_ARG, err.text);
}

/* Nobody knows the library's key: a generation that goes on under it would do so for nobody. */
static void cancel(struct baton_call *c)
{
    char path[256], bearer[BEARER_MAX];
    struct nat_field field;
    struct nat_msg m = {.kind = NAT_call,
                        .call = {.tag = ++c->b->tag, .method = "POST", .path = path, .field = &field, .body = ""}};
    struct err err;

    m.call.n_field = add_bearer(c->b, bearer, &field);
    snprintf(path, sizeof path, "/v1/requests/%s/cancel", c->request_id);
    send_msg(c->b, &m, &err); /* its answer has a tag that no call has: it is dropped */
}

/* Nobody wants the rest: tell the controller. */
static void leave(struct baton_call *c)
{
    if (!c->b->up || (c->state != CALL_OPEN && c->state != CALL_PAUSED))
        return;
    if (c->own_key && c->request_id[0])
        cancel(c);
    drop(c);
}

static void end_closed(struct baton_call *c)
{
    struct baton *b = c->b;

    leave(c);
    baton__call_unlink(c);
    baton__call_free(c);
    b->refs--; /* the user's own is still there: this thread runs */
}

static void serve_call(struct baton_call *c, int64_t now_ms)
{
    struct baton *b = c->b;

    if (c->state == CALL_OPEN && c->queued_bytes > BATON_QUEUE_BYTES_MAX && c->last_id.len) {
        if (b->up)
            drop(c);
        baton__call_again(c, now_ms, 0);
        c->state = CALL_PAUSED;
    }
    if (c->state == CALL_PAUSED && c->queued_bytes < BATON_QUEUE_BYTES_MAX / 2)
        baton__call_again(c, now_ms, 0);
    if (c->state == CALL_ASK && b->up && now_ms >= c->ask_at_ms)
        ask(c, now_ms);
    if (b->give_up_ms >= 0 && c->state != CALL_DONE && c->state != CALL_PAUSED && !b->up &&
        now_ms - c->contact_ms > b->give_up_ms && now_ms - b->heard_ms > b->give_up_ms) {
        char text[2 * BATON_TEXT_MAX];
        snprintf(text, sizeof text, "%s was not reached for %" PRId64 " ms%s%s", b->endpoint, b->give_up_ms,
                 b->trouble[0] ? ": " : "", b->trouble);
        text[BATON_TEXT_MAX - 1] = 0;
        baton__call_end(c, BATON_E_LOST, text);
    }
}

static void serve_calls(struct baton *b, int64_t now_ms)
{
    for (struct baton_call *c = b->calls, *next; c; c = next) { /* first: then there is room for the others */
        next = c->next;
        if (c->closed)
            end_closed(c);
    }
    for (struct baton_call *c = b->calls; c; c = c->next)
        serve_call(c, now_ms);
}

/* The line is new, or the controller is, or it had given us up: nothing that was asked is known there. */
static void ask_all(struct baton *b, int64_t now_ms)
{
    for (struct baton_call *c = b->calls; c; c = c->next)
        if (c->state == CALL_OPEN || c->state == CALL_ASK)
            baton__call_again(c, now_ms, 0);
}

/* ---- what comes in ---- */

static struct baton_call *find(struct baton *b, uint64_t tag)
{
    for (struct baton_call *c = b->calls; c; c = c->next)
        if (c->tag == tag && c->state == CALL_OPEN && !c->closed)
            return c;
    return NULL;
}

static void on_refused(struct baton *b, const struct nat_refused *m)
{
    struct baton_call *c = find(b, m->tag);

    if (c)
        baton__call_refused(c, m->text);
    for (c = m->tag ? NULL : b->calls; c; c = c->next) /* the client as a whole is not wanted */
        baton__call_refused(c, m->text);
}

static void on_message(struct baton *b, const struct nat_msg *m, int64_t now_ms)
{
    struct baton_call *c;

    switch (m->kind) {
    case NAT_head:
        if ((c = find(b, m->head.tag)))
            baton__call_head(c, &m->head, now_ms);
        break;
    case NAT_data:
        if ((c = find(b, m->data.tag)))
            baton__call_data(c, &m->data, now_ms);
        break;
    case NAT_end:
        if ((c = find(b, m->end.tag)))
            baton__call_finish(c, &m->end, now_ms);
        break;
    case NAT_refused:
        on_refused(b, &m->refused);
        break;
    case NAT_pong:
        if (b->boot && b->boot != m->pong.boot)
            ask_all(b, now_ms);
        b->boot = m->pong.boot;
        break;
    case NAT_call:
    case NAT_drop:
    case NAT_ping:
    case NAT_KIND_N:
        break;
    }
}

static void read_messages(struct baton *b, int64_t now_ms)
{
    struct nat_msg m;
    struct err err;
    zmq_msg_t part;

    zmq_msg_init(&part);
    for (int i = 0; i < CLIENT_RECV_MAX && zmq_msg_recv(&part, b->dealer, ZMQ_DONTWAIT) >= 0; i++) {
        b->heard_ms = now_ms;
        arena_reset(&b->arena);
        if (nat_decode(zmq_msg_data(&part), zmq_msg_size(&part), &b->arena, &m, &err) == 0)
            on_message(b, &m, now_ms);
        else if (err.code == ERR_VERSION)
            on_refused(b, &(struct nat_refused){0, err.text});
    }
    zmq_msg_close(&part);
}

static void read_monitor(struct baton *b, int64_t now_ms)
{
    unsigned char frame[6];
    char where[256];
    uint16_t event;

    while (zmq_recv(b->monitor, frame, sizeof frame, ZMQ_DONTWAIT) == sizeof frame) {
        zmq_recv(b->monitor, where, sizeof where, ZMQ_DONTWAIT);
        memcpy(&event, frame, sizeof event);
        switch (event) {
        case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
            b->up = true;
            b->trouble[0] = 0;
            b->heard_ms = now_ms;
            b->pinged_ms = now_ms - CLIENT_PING_MS; /* ask at once who this is */
            ask_all(b, now_ms);
            break;
        case ZMQ_EVENT_DISCONNECTED:
            snprintf(b->trouble, sizeof b->trouble, "the connection ended%s",
                     b->up ? "" : " in its handshake: keys that do not fit, or one side is not encrypted");
            b->up = false;
            break;
        case ZMQ_EVENT_CONNECT_RETRIED:
            if (!b->trouble[0])
                snprintf(b->trouble, sizeof b->trouble, "nobody listens there");
            break;
        default:
            b->up = false;
            snprintf(b->trouble, sizeof b->trouble,
                     "the handshake failed: keys that do not fit, or one side is not encrypted");
            break;
        }
    }
}

/* ---- the loop ---- */

static void keep_line(struct baton *b, int64_t now_ms)
{
    struct nat_msg ping = {.kind = NAT_ping};
    struct err err;

    if (b->up && now_ms - b->pinged_ms >= CLIENT_PING_MS) {
        ping.ping.seq = ++b->ping_seq;
        send_msg(b, &ping, &err); /* not taken: the silence will tell */
        b->pinged_ms = now_ms;
    }
    if (b->up && now_ms - b->heard_ms > CLIENT_SILENCE_MS) {
        baton__line_close(b);
        snprintf(b->trouble, sizeof b->trouble, "it was silent for %d ms", CLIENT_SILENCE_MS);
        if (baton__line_open(b, NULL))
            baton__line_close(b); /* tried again in the next round */
    } else if (!b->dealer && baton__line_open(b, NULL)) {
        baton__line_close(b);
    }
}

static int wait_ms(const struct baton *b, int64_t now_ms)
{
    int64_t due = now_ms + CLIENT_PING_MS / 2;

    for (const struct baton_call *c = b->calls; c; c = c->next)
        if (c->state == CALL_ASK && b->up && c->ask_at_ms < due)
            due = c->ask_at_ms;
    return due > now_ms ? (int)(due - now_ms) : 0;
}

void *baton__line_main(void *arg)
{
    struct baton *b = arg;
    uint64_t count;

    pthread_mutex_lock(&b->lock);
    while (!b->closing) {
        int ms = wait_ms(b, baton__now_ms());
        zmq_pollitem_t item[] = {{.fd = b->wake_fd, .events = ZMQ_POLLIN},
                                 {.socket = b->dealer, .events = ZMQ_POLLIN},
                                 {.socket = b->monitor, .events = ZMQ_POLLIN}};
        pthread_mutex_unlock(&b->lock);
        zmq_poll(item, b->dealer ? 3 : 1, ms);
        ssize_t n = read(b->wake_fd, &count, sizeof count); /* nonblocking: only to clear it */
        (void)n;
        pthread_mutex_lock(&b->lock);
        int64_t now_ms = baton__now_ms();
        if (b->dealer) {
            read_monitor(b, now_ms);
            read_messages(b, now_ms);
        }
        keep_line(b, now_ms);
        serve_calls(b, now_ms);
    }
    for (struct baton_call *c = b->calls; c; c = c->next)
        leave(c);
    if (b->dealer) /* what was just said gets a moment to go out */
        set_int(b->dealer, ZMQ_LINGER, CLIENT_LINGER_MS);
    for (struct baton_call *c = b->calls; c; c = c->next)
        baton__call_end(c, BATON_E_CLOSED, "the client was closed");
    pthread_mutex_unlock(&b->lock);
    return NULL;
}
