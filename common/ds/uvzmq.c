#include "common/ds/uvzmq.h"

#include "common/base/check.h"
#include "common/mem/mem.h"

#include <stdbool.h>
#include <zmq.h>

struct uvzmq {
    uv_poll_t poll;
    uv_check_t check;
    uv_idle_t idle;
    void *socket;
    int max_per_turn;
    uvzmq_readable_fn on_readable;
    void *arg;
    bool tracked;  /* the owner tells when the socket is empty and when it was used */
    bool settled;  /* tracked, empty, not used since, and the descriptor has not spoken: there is nothing to ask */
    bool closing;
    int n_open; /* handles that libuv still knows */
    uvzmq_closed_fn on_closed;
    void *closed_arg;
};

static bool has_input(const struct uvzmq *b)
{
    int events = 0;
    size_t n = sizeof events;
    /* Fails only when the context is going down: then there is nothing more to read. */
    return zmq_getsockopt(b->socket, ZMQ_EVENTS, &events, &n) == 0 && (events & ZMQ_POLLIN);
}

/* The descriptor only wakes the loop: its edge says nothing about the socket. */
static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct uvzmq *b = poll->data;
    (void)status, (void)events;
    b->settled = false;
}

/* An idle handle that is started makes libuv poll without waiting. */
static void on_idle(uv_idle_t *idle)
{
    (void)idle;
}

static void on_check(uv_check_t *check)
{
    struct uvzmq *b = check->data;
    if (!b->closing && b->on_readable && has_input(b))
        b->on_readable(b->arg, b->max_per_turn); /* may close b */
}

int uvzmq_open(uv_loop_t *loop, void *socket, int max_per_turn, uvzmq_readable_fn on_readable, void *arg,
               struct uvzmq **bridge, struct err *err)
{
    ASSERT(max_per_turn >= 1);
    int fd = -1;
    size_t n = sizeof fd;
    if (zmq_getsockopt(socket, ZMQ_FD, &fd, &n) != 0)
        return err_set(err, ERR_NET, "no descriptor of a ZeroMQ socket: %s", zmq_strerror(zmq_errno()));
    struct uvzmq *b = mem_zalloc(sizeof *b);
    b->socket = socket;
    b->max_per_turn = max_per_turn;
    b->on_readable = on_readable;
    b->arg = arg;
    int rc = uv_poll_init(loop, &b->poll, fd);
    if (rc != 0) {
        mem_free(b);
        return err_set(err, ERR_NET, "descriptor %d of a ZeroMQ socket cannot be polled: %s", fd, uv_strerror(rc));
    }
    uv_check_init(loop, &b->check); /* these two and their starts cannot fail (libuv's manual) */
    uv_idle_init(loop, &b->idle);
    b->poll.data = b->check.data = b->idle.data = b;
    b->n_open = 3;
    rc = uv_poll_start(&b->poll, UV_READABLE, on_poll);
    if (rc != 0) {
        uvzmq_close(&b, NULL, NULL);
        return err_set(err, ERR_NET, "descriptor %d of a ZeroMQ socket cannot be polled: %s", fd, uv_strerror(rc));
    }
    uv_check_start(&b->check, on_check);
    *bridge = b;
    return 0;
}

void uvzmq_arm(struct uvzmq *b)
{
    if (b->closing)
        return;
    if (!b->settled && has_input(b)) {
        uv_idle_start(&b->idle, on_idle);
        return;
    }
    uv_idle_stop(&b->idle);
    b->settled = b->tracked;
}

void uvzmq_emptied(struct uvzmq *b)
{
    b->tracked = b->settled = true;
}

void uvzmq_used(struct uvzmq *b)
{
    b->settled = false;
}

bool uvzmq_is_settled(const struct uvzmq *b)
{
    return b->settled;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct uvzmq *b = handle->data;
    if (--b->n_open > 0)
        return;
    uvzmq_closed_fn on_closed = b->on_closed;
    void *arg = b->closed_arg;
    mem_free(b);
    if (on_closed)
        on_closed(arg);
}

void uvzmq_close(struct uvzmq **bridge, uvzmq_closed_fn on_closed, void *arg)
{
    struct uvzmq *b = *bridge;
    if (!b)
        return;
    *bridge = NULL;
    b->closing = true;
    b->on_closed = on_closed;
    b->closed_arg = arg;
    uv_close((uv_handle_t *)&b->poll, on_handle_closed);
    uv_close((uv_handle_t *)&b->check, on_handle_closed);
    uv_close((uv_handle_t *)&b->idle, on_handle_closed);
}
