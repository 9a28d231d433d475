/* Proves the program baton-controller: one clear line and the right exit status for what cannot be; the ready line; a
 * request over HTTP that a worker on a real socket answers, over the loss of that worker; graceful and immediate stop.
 * How: the binary itself as a child process, raw HTTP, DEALER sockets played by the test.
 */
#include "tests/unit/test.h"

#include "common/mem/arena.h"
#include "common/mem/buf.h"
#include "proto/codec/msg.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum { ARGS_MAX = 16, WAIT_MS = 20000, VOCAB = 4096 };

struct child {
    pid_t pid;
    int out, err; /* read ends */
    int port;
    char endpoint[256];
};

static void start(struct child *c, const char *const *args)
{
    int out[2], err[2];
    char *argv[ARGS_MAX + 2] = {(char *)(uintptr_t)BATON_CONTROLLER};

    for (int i = 0; args[i]; i++)
        argv[i + 1] = (char *)(uintptr_t)args[i];
    assert_int_equal(pipe(out), 0);
    assert_int_equal(pipe(err), 0);
    c->pid = fork();
    assert_true(c->pid >= 0);
    if (c->pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        dup2(err[1], STDERR_FILENO);
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        execv(argv[0], argv);
        _exit(127);
    }
    close(out[1]);
    close(err[1]);
    c->out = out[0];
    c->err = err[0];
}

/* Read until `until` is there, or the end. */
static void read_until(int fd, const char *until, struct buf *text)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (!until || !text->data || !strstr(text->data, until)) {
        char piece[4096];
        if (poll(&p, 1, WAIT_MS) != 1)
            fail_msg("nothing came within %d ms; so far: %s", WAIT_MS, text->data ? text->data : "");
        ssize_t n = read(fd, piece, sizeof piece);
        if (n <= 0)
            return;
        buf_add(text, piece, (size_t)n);
    }
}

static int finish(struct child *c)
{
    int status;
    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    close(c->out);
    close(c->err);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void start_serving(struct child *c, const char *const *args)
{
    struct buf text = {0};
    start(c, args);
    read_until(c->out, "\n", &text);
    if (!text.data || sscanf(text.data, "ready http://127.0.0.1:%d workers %255s", &c->port, c->endpoint) != 2)
        fail_msg("no ready line: %s", text.data ? text.data : "");
    buf_release(&text);
}

/* ---- what cannot be ---- */

static void check_error(const char *const *args, int status, const char *say)
{
    struct child c;
    struct buf text = {0};

    start(&c, args);
    read_until(c.err, NULL, &text);
    assert_int_equal(finish(&c), status);
    assert_non_null(text.data);
    if (!strstr(text.data, say))
        fail_msg("'%s' does not say '%s'", text.data, say);
    assert_ptr_equal(strchr(text.data, '\n'), text.data + text.len - 1); /* one line */
    buf_release(&text);
}

/* A test that fails leaves no server behind. */
#define MODEL "--die-with-parent", "--model", TEST_DATA("tiny_tokenizer")

static void test_errors(void **state)
{
    (void)state;
    check_error((const char *[]){"--port", "0", NULL}, 2, "--model DIR is missing");
    check_error((const char *[]){MODEL, "--prot", "1", NULL}, 2, "did you mean --port?");
    check_error((const char *[]){MODEL, "--port", "65536", NULL}, 2, "--port must be");
    check_error((const char *[]){MODEL, "--limit", NULL}, 2, "NAME=VALUE");
    check_error((const char *[]){MODEL, "--limit", "queue_mx=1", NULL}, 2, "did you mean queue_max?");
    check_error((const char *[]){MODEL, "--limit=queue_max=-1", NULL}, 2, "whole number");
    check_error((const char *[]){MODEL, "--limit=lost_ms=10", "--port", "0", NULL}, 2, "two heartbeats");
    check_error((const char *[]){MODEL, "--profile", "x", NULL}, 2, "preview or 0731");
    check_error((const char *[]){MODEL, "--log-level", "x", NULL}, 2, "--log-level");
    check_error((const char *[]){"--model", "/nonexistent", NULL}, 1, "/nonexistent");
    check_error((const char *[]){MODEL, "--port", "0", "--workers", "tcp://192.0.2.1:1", NULL}, 1, "192.0.2.1");
}

static void test_port_in_use(void **state)
{
    (void)state;
    struct child c;
    char port[16];
    start_serving(&c, (const char *[]){MODEL, "--port", "0", NULL});
    snprintf(port, sizeof port, "%d", c.port);
    check_error((const char *[]){MODEL, "--port", port, NULL}, 1, "in use");
    check_error((const char *[]){MODEL, "--port", "0", "--workers", c.endpoint, NULL}, 1, "cannot listen for workers");
    kill(c.pid, SIGINT);
    assert_int_equal(finish(&c), 0);
}

/* The parent is killed: the server hears of it and ends. */
static void test_follows_its_parent(void **state)
{
    (void)state;
    struct child c;
    int pids[2], status;
    pid_t server;

    assert_int_equal(pipe(pids), 0);
    pid_t parent = fork();
    assert_true(parent >= 0);
    if (parent == 0) {
        start_serving(&c, (const char *[]){MODEL, "--port", "0", NULL});
        if (write(pids[1], &c.pid, sizeof c.pid) != sizeof c.pid)
            _exit(1);
        pause();
        _exit(1);
    }
    close(pids[1]);
    assert_int_equal(read(pids[0], &server, sizeof server), sizeof server);
    close(pids[0]);
    assert_int_equal(kill(server, 0), 0);
    kill(parent, SIGKILL);
    assert_int_equal(waitpid(parent, &status, 0), parent);
    /* Not our child: it is gone when its /proc entry is, or it is a zombie that nobody has reaped yet. */
    char path[64], line[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)server);
    for (int i = 0; i < WAIT_MS / 20; i++) {
        FILE *f = fopen(path, "r");
        if (!f)
            return;
        bool got = fgets(line, sizeof line, f) != NULL;
        fclose(f);
        if (!got || strstr(line, ") Z "))
            return;
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    kill(server, SIGKILL);
    fail_msg("the server outlives its parent: %s", line);
}

/* ---- serving ---- */

static int http_connect(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void http_get(int port, const char *path, struct buf *answer)
{
    char req[256];
    int fd = http_connect(port);
    int n = snprintf(req, sizeof req, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
    assert_int_equal(write(fd, req, (size_t)n), n);
    read_until(fd, NULL, answer);
    close(fd);
}

static int http_post_chat(int port)
{
    static const char body[] = "{\"model\":\"tiny_tokenizer\",\"stream\":true,\"max_tokens\":6,\"ignore_eos\":true,"
                               "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";
    char req[1024];
    int fd = http_connect(port);
    int n = snprintf(req, sizeof req,
                     "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                     sizeof body - 1, body);
    assert_int_equal(write(fd, req, (size_t)n), n);
    return fd;
}

struct dealer {
    void *ctx, *socket;
    uint64_t epoch;
    struct arena arena;
};

static void dealer_send(struct dealer *d, const struct msg *m)
{
    struct buf buf = {0};
    struct err err;
    assert_int_equal(msg_encode(m, &buf, &err), 0);
    assert_int_equal(zmq_send(d->socket, buf.data, buf.len, 0), buf.len);
    buf_release(&buf);
}

/* Wait for the next message, keeping the worker alive by heartbeats. */
static void dealer_receive(struct dealer *d, struct msg *m)
{
    struct err err;
    for (int i = 0; i < WAIT_MS / 50; i++) {
        zmq_msg_t z;
        zmq_msg_init(&z);
        int n = zmq_msg_recv(&z, d->socket, 0);
        if (n >= 0) {
            arena_reset(&d->arena);
            assert_int_equal(msg_decode(zmq_msg_data(&z), (size_t)n, &d->arena, m, &err), 0);
            zmq_msg_close(&z);
            return;
        }
        zmq_msg_close(&z);
        if (d->epoch) {
            struct msg beat = {.kind = MSG_heartbeat, .heartbeat.epoch = d->epoch};
            dealer_send(d, &beat);
        }
    }
    fail_msg("a worker got no message");
}

static void dealer_join(struct dealer *d, const struct child *c, const char *name)
{
    int none = 0, wait_ms = 50;
    struct msg m, hello = {.kind = MSG_hello,
                           .hello = {.n_vocab = VOCAB, .n_ranks = 1, .n_seq_max = 4, .context_max = 4096, .pid = 1}};
    *d = (struct dealer){.ctx = zmq_ctx_new()};
    d->socket = zmq_socket(d->ctx, ZMQ_DEALER);
    zmq_setsockopt(d->socket, ZMQ_LINGER, &none, sizeof none);
    zmq_setsockopt(d->socket, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
    assert_int_equal(zmq_connect(d->socket, c->endpoint), 0);
    snprintf(hello.hello.worker, sizeof hello.hello.worker, "%s", name);
    dealer_send(d, &hello);
    dealer_receive(d, &m);
    if (m.kind == MSG_refused)
        fail_msg("refused: %s", m.refused.text);
    assert_int_equal(m.kind, MSG_welcome);
    d->epoch = m.welcome.epoch;
}

static void dealer_close(struct dealer *d)
{
    zmq_close(d->socket);
    zmq_ctx_term(d->ctx);
    arena_release(&d->arena);
}

/* Tokens first .. end-1: the ids 300, 301, ... */
static void dealer_tokens(struct dealer *d, const struct msg_generate *g, int64_t first, int64_t end)
{
    struct msg_token t[8] = {0};
    struct msg m = {.kind = MSG_tokens,
                    .tokens = {.epoch = d->epoch,
                               .attempt = g->attempt,
                               .first_index = first,
                               .n = (int32_t)(end - first),
                               .token = t}};
    for (int64_t i = first; i < end; i++)
        t[i - first].id = (int32_t)(300 + i);
    memcpy(m.tokens.request, g->request, sizeof g->request);
    dealer_send(d, &m);
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p++)
        n++;
    return n;
}

static void test_serves_over_a_loss(void **state)
{
    (void)state;
    struct child c;
    struct dealer a, b;
    struct msg m;
    struct buf answer = {0};

    start_serving(&c, (const char *[]){MODEL, "--port", "0", "--log-level", "error", NULL});
    http_get(c.port, "/health", &answer);
    assert_non_null(strstr(answer.data, "503"));
    buf_clear(&answer);
    dealer_join(&a, &c, "a");
    http_get(c.port, "/health", &answer);
    assert_non_null(strstr(answer.data, "200 OK"));

    int fd = http_post_chat(c.port);
    dealer_receive(&a, &m);
    assert_int_equal(m.kind, MSG_generate);
    assert_int_equal(m.generate.n_committed, 0);
    assert_int_equal(m.generate.max_output, 6);
    int64_t n_prompt = m.generate.n_tok;
    dealer_tokens(&a, &m.generate, 0, 2);
    buf_clear(&answer);
    read_until(fd, "data: ", &answer); /* the client has something before the loss */
    dealer_close(&a);

    dealer_join(&b, &c, "b");
    dealer_receive(&b, &m);
    assert_int_equal(m.kind, MSG_generate);
    assert_int_equal(m.generate.n_tok - m.generate.n_committed, n_prompt);
    for (int64_t i = 0; i < m.generate.n_committed; i++)
        assert_int_equal(m.generate.tok[n_prompt + i], 300 + i);
    dealer_tokens(&b, &m.generate, m.generate.n_committed, 6);
    struct msg end = {.kind = MSG_finished,
                      .finished = {.epoch = b.epoch,
                                   .attempt = m.generate.attempt,
                                   .reason = MSG_FINISH_length,
                                   .stop_id = -1,
                                   .n_output = 6}};
    memcpy(end.finished.request, m.generate.request, sizeof end.finished.request);
    dealer_send(&b, &end);
    read_until(fd, NULL, &answer);
    close(fd);
    assert_non_null(strstr(answer.data, "200 OK"));
    assert_int_equal(count(answer.data, "data: [DONE]"), 1);
    assert_int_equal(count(answer.data, "\"finish_reason\":\"length\""), 1);
    assert_int_equal(count(answer.data, "\"error\""), 0);

    kill(c.pid, SIGTERM);
    assert_int_equal(finish(&c), 0);
    dealer_close(&b);
    buf_release(&answer);
}

static void test_second_signal_stops_at_once(void **state)
{
    (void)state;
    struct child c;
    struct dealer a;
    struct msg m;
    struct timespec from, to;

    start_serving(&c, (const char *[]){MODEL, "--port", "0", "--limit", "stop_ms=15000", NULL});
    dealer_join(&a, &c, "a");
    int fd = http_post_chat(c.port);
    dealer_receive(&a, &m);
    assert_int_equal(m.kind, MSG_generate);
    clock_gettime(CLOCK_MONOTONIC, &from);
    kill(c.pid, SIGTERM);
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    assert_int_equal(waitpid(c.pid, NULL, WNOHANG), 0); /* it waits for the stream */
    kill(c.pid, SIGTERM);
    assert_int_equal(finish(&c), 0);
    clock_gettime(CLOCK_MONOTONIC, &to);
    assert_true(to.tv_sec - from.tv_sec < 8);
    close(fd);
    dealer_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_port_in_use),
        cmocka_unit_test(test_follows_its_parent),
        cmocka_unit_test(test_serves_over_a_loss),
        cmocka_unit_test(test_second_signal_stops_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
