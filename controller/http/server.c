/* The listening socket, the list of connections, and closing in order. */
#include "controller/http/internal.h"

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/mem/mem.h"

#include <signal.h>
#include <string.h>

/* A write to a connection that the client has reset must be an error code, not the end of the process. */
static void ignore_sigpipe(void)
{
    struct sigaction now;
    if (sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL) {
        now.sa_handler = SIG_IGN;
        sigaction(SIGPIPE, &now, NULL);
    }
}

static void maybe_closed(struct http_server *s)
{
    if (!s->closing || !s->listener_closed || s->conns)
        return;
    void (*on_closed)(void *) = s->on_closed;
    void *arg = s->closed_arg;
    mem_free(s->read_buf);
    mem_free(s);
    if (on_closed)
        on_closed(arg);
}

void http__server_forget(struct http_server *s, struct http_conn *c)
{
    *(c->prev ? &c->prev->next : &s->conns) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    s->n_conn--;
    maybe_closed(s);
}

static void on_listener_closed(uv_handle_t *h)
{
    struct http_server *s = h->data;
    s->listener_closed = true;
    maybe_closed(s);
}

static void on_connection(uv_stream_t *listener, int status)
{
    if (status < 0)
        log_warn(http, "accept failed: %s", uv_strerror(status));
    else
        http__conn_accept(listener->data);
}

static int bind_and_listen(struct http_server *s, struct err *err)
{
    const struct http_server_opts *o = &s->opts;
    const char *host = strcmp(o->host, "localhost") == 0 ? "127.0.0.1" : o->host;
    struct sockaddr_storage addr = {0};
    int n = sizeof addr;

    if (o->port < 0 || o->port > 65535)
        return err_set(err, ERR_ARG, "HTTP port %d is not in 0..65535", o->port);
    if (uv_ip4_addr(host, o->port, (struct sockaddr_in *)&addr) != 0 &&
        uv_ip6_addr(host, o->port, (struct sockaddr_in6 *)&addr) != 0)
        return err_set(err, ERR_ARG, "HTTP host %s: give a numeric address, such as 127.0.0.1 or 0.0.0.0", host);
    int e = uv_tcp_bind(&s->listener, (const struct sockaddr *)&addr, 0);
    if (e == 0)
        e = uv_listen((uv_stream_t *)&s->listener, HTTP_BACKLOG, on_connection);
    if (e == 0)
        e = uv_tcp_getsockname(&s->listener, (struct sockaddr *)&addr, &n);
    if (e == UV_EADDRINUSE)
        return err_set(err, ERR_IO, "HTTP port %d of %s is in use: choose another, or 0 for a free one", o->port, host);
    if (e != 0)
        return err_set(err, ERR_IO, "cannot listen for HTTP on %s port %d: %s", host, o->port, uv_strerror(e));
    s->port = ntohs(addr.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&addr)->sin6_port
                                               : ((struct sockaddr_in *)&addr)->sin_port);
    return 0;
}

int http_server_open(uv_loop_t *loop, const struct http_server_opts *opts, struct http_server **server,
                     struct err *err)
{
    struct http_server *s = mem_zalloc(sizeof *s);

    ignore_sigpipe();
    s->loop = loop;
    s->opts = *opts;
    s->date_s = -1;
    s->read_buf = mem_alloc(HTTP_READ_BYTES);
    s->listener.data = s;
    uv_tcp_init(loop, &s->listener);
    int rc = bind_and_listen(s, err);
    if (rc) {
        s->closing = true; /* the close callback frees it */
        uv_close((uv_handle_t *)&s->listener, on_listener_closed);
        return rc;
    }
    s->listening = true;
    log_debug(http, "listening: port=%d parser=\"%s\"", s->port, http_reader_library());
    *server = s;
    return 0;
}

int http_server_port(const struct http_server *server)
{
    return server->port;
}

int64_t http_server_n_conn(const struct http_server *server)
{
    return server->n_conn;
}

void http_server_stop_listening(struct http_server *s)
{
    struct http_conn *next;

    if (!s->listening)
        return;
    s->listening = false;
    uv_close((uv_handle_t *)&s->listener, on_listener_closed);
    for (struct http_conn *c = s->conns; c; c = next) {
        next = c->next;
        c->keep = false; /* running answers end their connection */
        if (c->state == HTTP_CONN_idle && c->in.len == 0 && http__conn_unsent(c) == 0)
            http__conn_close(c);
    }
}

void http_server_flush(struct http_server *s)
{
    while (s->dirty)
        http__conn_flush(s->dirty);
}

bool http_server_is_flushed(const struct http_server *s)
{
    for (const struct http_conn *c = s->conns; c; c = c->next)
        if (c->state != HTTP_CONN_closed && http__conn_unsent(c) > 0)
            return false;
    return true;
}

void http_server_close(struct http_server **server, void (*on_closed)(void *arg), void *arg)
{
    struct http_server *s = *server;
    struct http_conn *next;

    *server = NULL;
    s->closing = true;
    s->on_closed = on_closed;
    s->closed_arg = arg;
    for (struct http_conn *c = s->conns; c; c = next) {
        next = c->next;
        http__conn_close(c);
    }
    if (s->listening) {
        s->listening = false;
        uv_close((uv_handle_t *)&s->listener, on_listener_closed);
    }
    maybe_closed(s); /* after stop_listening there may be nothing left to wait for */
}
