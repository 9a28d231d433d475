/* tests/unit/worker/link/router.h - the controller's side of the line for tests: a real ZeroMQ ROUTER over tcp
 * that says what it is told to say and hands out what it hears. Everything that takes too long fails the test.
 * Thread: the test's.
 */
#ifndef TESTS_UNIT_WORKER_LINK_ROUTER_H
#define TESTS_UNIT_WORKER_LINK_ROUTER_H

#include "common/base/clock.h"
#include "proto/codec/msg.h"
#include "tests/unit/test.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

enum { ROUTER_WAIT_MS = 20000 };

struct router {
    void *ctx, *socket;
    char endpoint[128];
    unsigned char route[256]; /* of the last message */
    size_t n_route;
    struct arena arena; /* of the last message */
    struct msg m;
};

/* at: "tcp://127.0.0.1:*", or an endpoint that was used before. few > 0: it holds no more messages than that unread, so
 * that one which does not read is felt early. Only where it is needed: libzmq 4.3.4 can abort when a connection ends
 * while such a limit holds its input back. */
static inline void router_open_with(struct router *r, const char *at, int few)
{
    size_t n = sizeof r->endpoint;
    int one = 1, narrow = 65536, rc = -1;
    memset(r, 0, sizeof *r);
    r->ctx = zmq_ctx_new();
    r->socket = zmq_socket(r->ctx, ZMQ_ROUTER);
    zmq_setsockopt(r->socket, ZMQ_ROUTER_MANDATORY, &one, sizeof one);
    if (few > 0) {
        zmq_setsockopt(r->socket, ZMQ_RCVHWM, &few, sizeof few);
        zmq_setsockopt(r->socket, ZMQ_RCVBUF, &narrow, sizeof narrow);
    }
    for (int i = 0; i < 200 && rc != 0; i++) { /* an old socket may still be closing */
        rc = zmq_bind(r->socket, at);
        if (rc != 0)
            zmq_poll(NULL, 0, 20);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(zmq_getsockopt(r->socket, ZMQ_LAST_ENDPOINT, r->endpoint, &n), 0);
}

static inline void router_open(struct router *r, const char *at)
{
    router_open_with(r, at, 0);
}

static inline void router_close(struct router *r)
{
    int zero = 0;
    zmq_setsockopt(r->socket, ZMQ_LINGER, &zero, sizeof zero);
    zmq_close(r->socket);
    zmq_ctx_term(r->ctx);
    arena_release(&r->arena);
}

/* Next message into r->m; false when none comes within timeout_ms. */
static inline bool router_recv(struct router *r, int timeout_ms)
{
    struct err err = {0};
    zmq_msg_t body;
    zmq_setsockopt(r->socket, ZMQ_RCVTIMEO, &timeout_ms, sizeof timeout_ms);
    int n = zmq_recv(r->socket, r->route, sizeof r->route, 0);
    if (n < 0)
        return false;
    r->n_route = (size_t)n;
    zmq_msg_init(&body);
    assert_true(zmq_msg_recv(&body, r->socket, 0) >= 0);
    assert_false(zmq_msg_more(&body));
    arena_reset(&r->arena);
    assert_int_equal(msg_decode(zmq_msg_data(&body), zmq_msg_size(&body), &r->arena, &r->m, &err), 0);
    zmq_msg_close(&body);
    return true;
}

/* Skip to the next message of one kind. */
static inline const struct msg *router_expect(struct router *r, enum msg_kind kind)
{
    int64_t until = clock_mono_ns() + ROUTER_WAIT_MS * 1000000LL;
    while (clock_mono_ns() < until)
        if (router_recv(r, 100) && r->m.kind == kind)
            return &r->m;
    fail_msg("no %s came", msg_kind_name(kind));
    return NULL;
}

static inline void router_send_bytes(struct router *r, const void *data, size_t n)
{
    assert_int_equal(zmq_send(r->socket, r->route, r->n_route, ZMQ_SNDMORE), r->n_route);
    assert_int_equal(zmq_send(r->socket, data, n, 0), n);
}

static inline void router_send(struct router *r, const struct msg *m)
{
    struct buf b = {0};
    struct err err = {0};
    assert_int_equal(msg_encode(m, &b, &err), 0);
    router_send_bytes(r, b.data, b.len);
    buf_release(&b);
}

static inline void router_welcome(struct router *r, uint64_t epoch, int heartbeat_ms)
{
    struct msg m = {.kind = MSG_welcome, .welcome = {.epoch = epoch, .heartbeat_ms = heartbeat_ms, .lost_ms = 1000}};
    router_send(r, &m);
}

static inline void router_refuse(struct router *r, enum msg_refuse reason, const char *text)
{
    struct msg m = {.kind = MSG_refused, .refused.reason = reason};
    snprintf(m.refused.text, sizeof m.refused.text, "%s", text);
    router_send(r, &m);
}

#endif
