/* Proves: what spec/api.md sections 2 and 9 ask of HTTP itself - keep-alive, pipelining in order, chunked bodies,
 * 100-continue, HTTP/1.0, HEAD, the limits with their answers, a client that leaves or does not read, 1000
 * connections. How: the server on a loop in a thread of its own, plain blocking sockets against it; every test ends
 * with uv_loop_close() == 0. */
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "controller/http/server.h"
#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define H "Host: h\r\n"

struct later {
    struct later *next;
    struct http_exchange *x;
    struct rig *rig;
    int kind; /* 'l' answers in the next turns, 's' streams, 'f' floods, 'h' never */
    int left;
};

struct rig {
    uv_loop_t loop;
    uv_prepare_t prepare;
    uv_async_t stop;
    uv_idle_t idle;
    struct http_server *server;
    struct later *later;
    pthread_t thread;
    int port;
    atomic_int n_gone, n_request, n_conn;
    bool closing;
};

static void unlink_later(struct later *l)
{
    struct later **p = &l->rig->later;
    while (*p != l)
        p = &(*p)->next;
    *p = l->next;
    mem_free(l);
}

static void on_gone(void *arg)
{
    struct later *l = arg;
    atomic_fetch_add(&l->rig->n_gone, 1);
    unlink_later(l);
}

static void on_idle(uv_idle_t *h)
{
    (void)h; /* keeps the loop turning while something is due */
}

static void on_request(void *arg, struct http_exchange *x)
{
    struct rig *rig = arg;
    const char *path = http_path(x);
    size_t n;

    atomic_fetch_add(&rig->n_request, 1);
    if (strncmp(path, "/echo", 5) == 0) {
        struct buf b = {0};
        const char *body = http_body(x, &n);
        buf_addf(&b, "%s %s?%s [", http_method(x), path, http_query(x));
        buf_add(&b, body, n < 100 ? n : 100);
        buf_addf(&b, "] %zu\n", n);
        http_add_header(x, "X-Test", "a\r\nb");
        http_reply(x, 200, "text/plain", b.data, b.len);
        buf_release(&b);
        return;
    }
    struct later *l = mem_zalloc(sizeof *l);
    *l = (struct later){rig->later, x, rig, path[1], 3};
    rig->later = l;
    http_on_gone(x, on_gone, l);
    uv_idle_start(&rig->idle, on_idle);
}

static void on_refuse(void *arg, const char *path, int status, const char *text, struct buf *head, struct buf *body,
                      const char **type)
{
    (void)arg;
    *type = "application/json";
    buf_add_str(head, "X-Refused: yes\r\n");
    buf_addf(body, "{\"path\":\"%s\",\"status\":%d,\"text\":\"%s\"}", path, status, text);
}

/* The turn: one step of everything that is due, then the flush. */
static void on_prepare(uv_prepare_t *h)
{
    static char block[65536];
    struct rig *rig = h->data;
    struct later *next;
    bool due = false;

    for (struct later *l = rig->later; l; l = next) {
        next = l->next;
        struct http_exchange *x = l->x;
        if (l->kind == 'l') {
            char text[80];
            int n = snprintf(text, sizeof text, "later %s", http_path(x));
            unlink_later(l);
            http_reply(x, 200, "text/plain", text, (size_t)n);
        } else if (l->kind == 's') {
            due = true;
            if (l->left == 3)
                http_stream_begin(x, 200, "text/event-stream");
            if (l->left > 0)
                http_stream_write(x, "chunk\n", 6);
            if (l->left-- == 0) {
                unlink_later(l);
                http_stream_end(x);
            }
        } else if (l->kind == 'a') {
            http_stream_begin(x, 200, "text/event-stream");
            unlink_later(l);
            http_stream_abort(x);
        } else if (l->kind == 'f') {
            due = true;
            if (l->left == 3)
                http_stream_begin(x, 200, "text/event-stream");
            l->left = 0;
            memset(block, 'f', sizeof block);
            http_stream_write(x, block, sizeof block);
        }
    }
    if (!due)
        uv_idle_stop(&rig->idle);
    if (rig->server) {
        http_server_flush(rig->server);
        atomic_store(&rig->n_conn, (int)http_server_n_conn(rig->server));
    }
}

static void on_closed(void *arg)
{
    struct rig *rig = arg;
    uv_close((uv_handle_t *)&rig->prepare, NULL);
    uv_close((uv_handle_t *)&rig->stop, NULL);
    uv_close((uv_handle_t *)&rig->idle, NULL);
}

static void on_stop(uv_async_t *h)
{
    struct rig *rig = h->data;
    http_server_close(&rig->server, on_closed, rig);
}

static void *run_loop(void *arg)
{
    struct rig *rig = arg;
    uv_run(&rig->loop, UV_RUN_DEFAULT);
    return NULL;
}

static const struct http_limits limits_default = {4096, 65536, 1 << 20, 5000, 5000, 5000, 4 << 20};

static void rig_open(struct rig *rig, const struct http_limits *limit)
{
    struct http_server_opts o = {"127.0.0.1", 0, *limit, on_request, on_refuse, rig};
    struct err err = {0};

    memset(rig, 0, sizeof *rig);
    uv_loop_init(&rig->loop);
    uv_prepare_init(&rig->loop, &rig->prepare);
    uv_idle_init(&rig->loop, &rig->idle);
    uv_async_init(&rig->loop, &rig->stop, on_stop);
    rig->prepare.data = rig->stop.data = rig;
    uv_prepare_start(&rig->prepare, on_prepare);
    if (http_server_open(&rig->loop, &o, &rig->server, &err) != 0)
        fail_msg("%s", err.text);
    rig->port = http_server_port(rig->server);
    assert_int_equal(pthread_create(&rig->thread, NULL, run_loop, rig), 0);
}

static void rig_close(struct rig *rig)
{
    uv_async_send(&rig->stop);
    pthread_join(rig->thread, NULL);
    assert_null(rig->later); /* every pending exchange was told */
    assert_int_equal(uv_loop_close(&rig->loop), 0);
}

static int dial(const struct rig *rig)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)rig->port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct timeval tv = {20, 0};

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void put(int fd, const char *s, size_t n)
{
    while (n > 0) {
        ssize_t k = send(fd, s, n, MSG_NOSIGNAL);
        if (k <= 0)
            return; /* the server may have closed already: what it said is what counts */
        s += k;
        n -= (size_t)k;
    }
}

static void put_str(int fd, const char *s)
{
    put(fd, s, strlen(s));
}

/* Read to the end of the connection, or until `until` has come. */
static void get(int fd, struct buf *b, const char *until)
{
    buf_room(b, 0)[0] = 0;
    while (!until || !strstr(b->data, until)) {
        ssize_t n = recv(fd, buf_room(b, 4096), 4096, 0);
        if (n <= 0) {
            if (n < 0 && errno == EAGAIN)
                fail_msg("the server said nothing more for 20 s; so far: %s", b->data);
            return;
        }
        b->len += (size_t)n;
        b->data[b->len] = 0;
    }
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (; (text = strstr(text, what)); text++)
        n++;
    return n;
}

/* ---- rows: bytes in, parts that must come out in this order, connection closed by the server ---- */

struct row {
    const char *name, *send;
    const char *want[6];
    const char *not_want;
};

#define LAST "GET /echo/last HTTP/1.1\r\n" H "Connection: close\r\n\r\n"

static const struct row rows[] = {
    {"keep-alive and pipelining in order",
     "GET /echo/1 HTTP/1.1\r\n" H "\r\nGET /later/2 HTTP/1.1\r\n" H "\r\nGET /stream HTTP/1.1\r\n" H
     "\r\nGET /echo/4 HTTP/1.1\r\n" H "\r\n" LAST,
     {"GET /echo/1?", "later /later/2", "6\r\nchunk\n", "0\r\n\r\n", "GET /echo/4?", "Connection: close"},
     NULL},
    {"bodies",
     "POST /echo?x=1 HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\nhelloPOST /echo HTTP/1.1\r\n" H
     "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;e\r\nde\r\n0\r\nT: x\r\n\r\n" LAST,
     {"Connection: keep-alive", "/echo?x=1 [hello] 5", "[abcde] 5", "/echo/last"},
     NULL},
    {"a header line cannot be split", LAST, {"X-Test: a  b\r\n"}, "\r\nb"},
    {"HTTP/1.0 is closed, no chunks",
     "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
     {"HTTP/1.1 200 OK", "Connection: close", "\r\n\r\nchunk\nchunk\nchunk\n"},
     "Transfer-Encoding"},
    {"HEAD has the length and no body",
     "HEAD /echo HTTP/1.1\r\n" H "\r\n" LAST,
     {"Content-Length: 17", "\r\n\r\nHTTP/1.1 200", "/echo/last"},
     "HEAD /echo"},
    {"HEAD of a stream",
     "HEAD /stream HTTP/1.1\r\n" H "\r\n" LAST,
     {"chunked", "\r\n\r\nHTTP/1.1 200"},
     "6\r\nchunk"},
    {"100-continue when the body waits for it",
     "POST /echo HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 0\r\n\r\n" LAST,
     {"[] 0", "/echo/last"},
     "100 Continue"},
    {"length over the limit",
     "POST /echo HTTP/1.1\r\n" H "Content-Length: 1048577\r\n\r\n",
     {"HTTP/1.1 413", "Connection: close", "X-Refused: yes", "\"path\":\"/echo\"", "1048577"},
     NULL},
    {"CL and TE",
     "POST /echo HTTP/1.1\r\n" H "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" LAST,
     {"HTTP/1.1 400", "Connection: close"},
     "last"},
    {"TE and CL",
     "POST /echo HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" LAST,
     {"HTTP/1.1 400", "Connection: close"},
     "last"},
    {"two lengths",
     "POST /echo HTTP/1.1\r\n" H "Content-Length: 4\r\nContent-Length: 3\r\n\r\nabcd" LAST,
     {"HTTP/1.1 400"},
     "last"},
    {"blank before the colon",
     "POST /echo HTTP/1.1\r\n" H "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" LAST,
     {"HTTP/1.1 400"},
     "last"},
    {"folded header",
     "POST /echo HTTP/1.1\r\n" H "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" LAST,
     {"HTTP/1.1 400"},
     "last"},
    {"bad chunk",
     "POST /echo HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n" LAST,
     {"HTTP/1.1 400"},
     "last"},
    {"bare LF", "GET /echo HTTP/1.1\nHost: h\n\n" LAST, {"HTTP/1.1 400"}, "last"},
    {"good ones before a bad one are answered",
     "GET /echo/1 HTTP/1.1\r\n" H "\r\nGET /later/2 HTTP/1.1\r\n" H "\r\n\x01\x02",
     {"GET /echo/1", "later /later/2", "HTTP/1.1 400"},
     NULL},
    {"garbage", "\x16\x03\x01\x02\x00\x01", {"HTTP/1.1 400"}, NULL},
    {"no host", "GET /echo HTTP/1.1\r\n\r\n" LAST, {"HTTP/1.1 400", "Host"}, "last"},
    {"version", "GET /echo HTTP/2.0\r\n" H "\r\n", {"HTTP/1.1 505"}, NULL},
    {"expectation", "GET /echo HTTP/1.1\r\n" H "Expect: more\r\n\r\n", {"HTTP/1.1 417"}, NULL},
};

static void check_row(const struct rig *rig, const struct row *row, bool bytewise)
{
    struct buf got = {0};
    int fd = dial(rig);

    if (bytewise)
        for (const char *p = row->send; *p; p++)
            put(fd, p, 1);
    else
        put_str(fd, row->send);
    get(fd, &got, NULL);
    const char *at = got.data;
    for (size_t k = 0; k < N_ELEM(row->want) && row->want[k]; k++) {
        const char *found = strstr(at, row->want[k]);
        if (!found)
            fail_msg("%s%s: \"%s\" is missing in:\n%s", row->name, bytewise ? " (byte by byte)" : "", row->want[k],
                     got.data);
        at = found + strlen(row->want[k]);
    }
    if (row->not_want && strstr(got.data, row->not_want))
        fail_msg("%s: \"%s\" must not be in:\n%s", row->name, row->not_want, got.data);
    buf_release(&got);
    close(fd);
}

static void test_rows(void **state)
{
    struct rig rig;
    (void)state;
    rig_open(&rig, &limits_default);
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        check_row(&rig, &rows[i], false);
        check_row(&rig, &rows[i], true);
    }
    rig_close(&rig);
}

static void test_continue(void **state)
{
    struct rig rig;
    struct buf got = {0};
    (void)state;
    rig_open(&rig, &limits_default);
    int fd = dial(&rig);
    put_str(fd, "POST /echo HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    get(fd, &got, "\r\n\r\n");
    assert_string_equal(got.data, "HTTP/1.1 100 Continue\r\n\r\n");
    put_str(fd, "abc");
    get(fd, &got, "[abc] 3\n");
    assert_int_equal(count(got.data, "HTTP/1.1 200"), 1);
    close(fd);
    buf_release(&got);
    rig_close(&rig);
}

static void test_limits(void **state)
{
    struct http_limits limit = limits_default;
    struct buf text = {0}, got = {0};
    struct rig rig;
    int fd;
    (void)state;
    limit.header_bytes_max = 1000;
    limit.body_bytes_max = 2000;
    limit.header_ms = limit.body_ms = limit.idle_ms = 150;
    rig_open(&rig, &limit);

    /* 431: with and without an end in sight */
    for (int round = 0; round < 2; round++) {
        buf_clear(&text);
        buf_clear(&got);
        buf_add_str(&text, "GET /echo HTTP/1.1\r\n" H "X: ");
        while (text.len < 1100)
            buf_add_char(&text, 'x');
        if (round)
            buf_add_str(&text, "\r\n\r\n");
        fd = dial(&rig);
        put(fd, text.data, text.len);
        get(fd, &got, NULL);
        assert_non_null(strstr(got.data, "HTTP/1.1 431"));
        close(fd);
    }
    /* 413: a chunked body that grows over the limit; the client gets the answer although it goes on sending */
    buf_clear(&got);
    fd = dial(&rig);
    put_str(fd, "POST /echo HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 300; i++)
        put_str(fd, "a\r\n0123456789\r\n");
    get(fd, &got, "}");
    assert_non_null(strstr(got.data, "HTTP/1.1 413"));
    close(fd);
    /* 408: headers, body */
    const char *slow[] = {"GET /echo HTTP/1.1\r\nHos", "POST /echo HTTP/1.1\r\n" H "Content-Length: 10\r\n\r\nabc"};
    for (int i = 0; i < 2; i++) {
        buf_clear(&got);
        fd = dial(&rig);
        int64_t t0 = clock_mono_ns();
        put_str(fd, slow[i]);
        get(fd, &got, NULL);
        assert_non_null(strstr(got.data, "HTTP/1.1 408"));
        assert_in_range((clock_mono_ns() - t0) / 1000000, 100, 5000);
        close(fd);
    }
    /* idle: closed without a word, before the first and between requests */
    for (int i = 0; i < 2; i++) {
        buf_clear(&got);
        fd = dial(&rig);
        if (i)
            put_str(fd, "GET /echo HTTP/1.1\r\n" H "\r\n");
        get(fd, &got, NULL);
        assert_int_equal(count(got.data, "HTTP/1.1"), i);
        close(fd);
    }
    buf_release(&text);
    buf_release(&got);
    rig_close(&rig);
}

static void wait_for(atomic_int *v, int want)
{
    for (int i = 0; i < 5000 && atomic_load(v) != want; i++)
        usleep(2000);
    assert_int_equal(atomic_load(v), want);
}

static void test_gone(void **state)
{
    struct http_limits limit = limits_default;
    struct rig rig;
    (void)state;
    limit.unsent_bytes_max = 1 << 20;
    limit.idle_ms = 20000;
    rig_open(&rig, &limit);
    /* FIN while the answer is pending */
    int fd = dial(&rig);
    put_str(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
    wait_for(&rig.n_request, 1);
    close(fd);
    wait_for(&rig.n_gone, 1);
    /* RST */
    fd = dial(&rig);
    put_str(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
    wait_for(&rig.n_request, 2);
    struct linger hard = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
    wait_for(&rig.n_gone, 2);
    /* A reader that does not read is cut off at unsent_bytes_max. */
    fd = dial(&rig);
    put_str(fd, "GET /flood HTTP/1.1\r\n" H "\r\n");
    wait_for(&rig.n_gone, 3);
    close(fd);
    /* An abort is no proper end. */
    struct buf got = {0};
    fd = dial(&rig);
    put_str(fd, "GET /abort HTTP/1.1\r\n" H "\r\n");
    get(fd, &got, NULL);
    assert_null(strstr(got.data, "0\r\n\r\n"));
    close(fd);
    buf_release(&got);
    /* One still open when the server closes is told as well. */
    fd = dial(&rig);
    put_str(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
    wait_for(&rig.n_request, 5);
    rig_close(&rig);
    assert_int_equal(atomic_load(&rig.n_gone), 4);
    close(fd);
}

/* A slow but steady reader of a stream below the limit is not cut off by the stall timer. */
static void test_stall(void **state)
{
    struct http_limits limit = limits_default;
    struct rig rig;
    (void)state;
    limit.idle_ms = 100;
    limit.unsent_bytes_max = 64 << 20;
    rig_open(&rig, &limit);
    int fd = dial(&rig);
    put_str(fd, "GET /flood HTTP/1.1\r\n" H "\r\n");
    struct buf got = {0};
    get(fd, &got, "ffff");
    int64_t t0 = clock_mono_ns();
    /* We stop reading: 64 MiB take long to fill, or the stall timer of 100 ms strikes; either way it ends soon. */
    wait_for(&rig.n_gone, 1);
    assert_true((clock_mono_ns() - t0) / 1000000 < 8000);
    close(fd);
    buf_release(&got);
    rig_close(&rig);
}

static void test_first_write_is_one(void **state)
{
    struct rig rig;
    char text[4096];
    (void)state;
    rig_open(&rig, &limits_default);
    int fd = dial(&rig);
    put_str(fd, "GET /stream HTTP/1.1\r\n" H "\r\n");
    ssize_t n = recv(fd, text, sizeof text - 1, 0);
    assert_true(n > 0);
    text[n] = 0;
    assert_non_null(strstr(text, "\r\n\r\n6\r\nchunk\n")); /* head and first chunk in one segment */
    close(fd);
    rig_close(&rig);
}

/* More pipelined requests than may be buffered, from a client that reads only at the end. */
static void test_pipeline_pressure(void **state)
{
    enum { N = 20000 };
    struct rig rig;
    struct buf text = {0}, got = {0};
    (void)state;
    rig_open(&rig, &limits_default);
    for (int i = 0; i < N; i++)
        buf_addf(&text, "GET /echo/%d HTTP/1.1\r\n" H "\r\n", i);
    buf_add_str(&text, LAST);
    int fd = dial(&rig);
    size_t sent = 0;
    bool open = true;
    while (open) {
        struct pollfd p = {fd, POLLIN | (sent < text.len ? POLLOUT : 0), 0};
        assert_int_equal(poll(&p, 1, 20000), 1);
        if (p.revents & POLLOUT) {
            ssize_t k = send(fd, text.data + sent, text.len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
            sent += k > 0 ? (size_t)k : 0;
            continue; /* send first, read when the server's window is full */
        }
        ssize_t k = recv(fd, buf_room(&got, 65536), 65536, 0);
        open = k > 0;
        got.len += open ? (size_t)k : 0;
    }
    got.data[got.len] = 0;
    const char *at = got.data, *end = got.data + got.len;
    char want[40];
    for (int i = 0; i < N; i++) { /* each answer is shorter than 400 bytes */
        snprintf(want, sizeof want, "/echo/%d?", i);
        at = memmem(at, (size_t)(end - at < 400 ? end - at : 400), want, strlen(want));
        assert_non_null(at);
    }
    assert_non_null(memmem(at, (size_t)(end - at), "/echo/last?", 11));
    close(fd);
    buf_release(&text);
    buf_release(&got);
    rig_close(&rig);
}

static void test_many(void **state)
{
    struct http_limits limit = limits_default;
    struct rig rig;
    struct buf got = {0};
    int fds[20];
    (void)state;
    rig_open(&rig, &limit);
    for (int i = 0; i < 1000; i++) { /* in every state: nothing sent, half a head, a whole request */
        int fd = dial(&rig);
        if (i % 3 == 1)
            put_str(fd, "GET /ec");
        if (i % 3 == 2)
            put_str(fd, "GET /echo HTTP/1.1\r\n" H "\r\n");
        close(fd);
    }
    wait_for(&rig.n_request, 333);
    rig_close(&rig);
    limit.conns_max = 20;
    rig_open(&rig, &limit);
    for (int i = 0; i < 20; i++)
        fds[i] = dial(&rig);
    wait_for(&rig.n_conn, 20);
    int fd = dial(&rig); /* one too many: closed at once */
    get(fd, &got, NULL);
    assert_int_equal(got.len, 0);
    close(fd);
    put_str(fds[19], LAST);
    get(fds[19], &got, NULL);
    assert_non_null(strstr(got.data, "200 OK"));
    for (int i = 0; i < 20; i++)
        close(fds[i]);
    buf_release(&got);
    rig_close(&rig);
}

static void test_open_errors(void **state)
{
    struct http_server_opts o = {"127.0.0.1", 0, limits_default, on_request, NULL, NULL};
    struct http_server *a = NULL, *b = NULL;
    struct err err = {0};
    uv_loop_t loop;
    (void)state;
    uv_loop_init(&loop);
    assert_int_equal(http_server_open(&loop, &o, &a, &err), 0);
    o.port = http_server_port(a);
    assert_int_equal(http_server_open(&loop, &o, &b, &err), ERR_IO);
    assert_non_null(strstr(err.text, "in use"));
    o.port = 70000;
    assert_int_equal(http_server_open(&loop, &o, &b, &err), ERR_ARG);
    o.port = 0;
    o.host = "nowhere.example";
    assert_int_equal(http_server_open(&loop, &o, &b, &err), ERR_ARG);
    assert_null(b);
    http_server_stop_listening(a);
    uv_run(&loop, UV_RUN_DEFAULT);
    http_server_close(&a, NULL, NULL);
    assert_null(a);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),  cmocka_unit_test(test_continue),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_gone),
        cmocka_unit_test(test_stall), cmocka_unit_test(test_first_write_is_one),
        cmocka_unit_test(test_many),  cmocka_unit_test(test_pipeline_pressure),
        cmocka_unit_test(test_open_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
