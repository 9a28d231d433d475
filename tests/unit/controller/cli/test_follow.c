/* Proves: a run is watched over a connection that breaks: the next one asks for what comes behind the last event,
 * events that come twice count once, the state of the end is told; an unknown run and an error of the server end
 * the watching. How: a server of one thread with an answer for each connection. */
#include "controller/cli/follow.h"
#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ANSWERS_MAX = 4 };

struct server {
    int fd;
    char url[64];
    const char *answer[ANSWERS_MAX]; /* one a connection; NULL ends */
    char request[ANSWERS_MAX][2048];
    pthread_t thread;
};

static void *serve(void *arg)
{
    struct server *s = arg;

    for (int i = 0; i < ANSWERS_MAX && s->answer[i]; i++) {
        int fd = accept(s->fd, NULL, NULL);
        ssize_t n = read(fd, s->request[i], sizeof s->request[i] - 1);
        s->request[i][n > 0 ? n : 0] = '\0';
        n = write(fd, s->answer[i], strlen(s->answer[i]));
        close(fd);
    }
    return NULL;
}

static void open_server(struct server *s)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;

    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(s->fd, 8), 0);
    getsockname(s->fd, (struct sockaddr *)&at, &n);
    snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d", ntohs(at.sin_port));
    pthread_create(&s->thread, NULL, serve, s);
}

static void close_server(struct server *s)
{
    pthread_join(s->thread, NULL);
    close(s->fd);
}

#define HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"

static void test_over_a_break(void **unused)
{
    static struct server s = {
        .answer = {HEAD "id: r-0\ndata: {\"seq\":0,\"type\":\"run\"}\n\nid: r-1\ndata: {\"seq\":1,\"type\":\"step\","
                        "\"path\":\"a\",\"state\":\"done\"}\n\n",
                   HEAD "data: {\"seq\":1,\"type\":\"step\",\"path\":\"a\",\"state\":\"done\"}\n\n"
                        "data: {\"seq\":2,\"type\":\"run_end\",\"state\":\"failed\"}\n\n"}};
    char state[16] = "";
    struct err err = {0};

    (void)unused;
    open_server(&s);
    struct follow f = {.base = s.url, .run = "r", .command = "run", .quiet = true};
    assert_int_equal(follow_run(&f, state, &err), 0);
    close_server(&s);
    assert_string_equal(state, "failed");
    assert_null(strstr(s.request[0], "Last-Event-ID"));
    assert_non_null(strstr(s.request[1], "Last-Event-ID: r-1\r\n"));
}

static void test_refusals(void **unused)
{
    static struct server missing = {.answer = {"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"}};
    static struct server broken = {.answer = {HEAD "data: no json\n\n"}};
    char state[16] = "";
    struct err err = {0};

    (void)unused;
    open_server(&missing);
    struct follow f = {.base = missing.url, .run = "r", .command = "run", .quiet = true};
    assert_int_equal(follow_run(&f, state, &err), ERR_MISSING);
    close_server(&missing);
    open_server(&broken);
    f.base = broken.url;
    assert_int_equal(follow_run(&f, state, &err), ERR_FORMAT);
    close_server(&broken);
}

static void test_call(void **unused)
{
    static struct server s = {.answer = {"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}",
                                         "HTTP/1.1 409 Conflict\r\nContent-Length: 29\r\n\r\n"
                                         "{\"error\":{\"message\":\"it ran\"}}"}};
    struct buf body = {0}, out = {0};
    struct err err = {0};

    (void)unused;
    open_server(&s);
    buf_add_str(&body, "{\"a\":1}");
    assert_int_equal(follow_call(s.url, "/v1/runs", &body, "key1", &out, &err), 0);
    assert_string_equal(out.data, "{}");
    assert_non_null(strstr(s.request[0], "Idempotency-Key: key1\r\n"));
    assert_int_equal(follow_call(s.url, "/v1/runs", &body, NULL, &out, &err), ERR_NET);
    assert_non_null(strstr(err.text, "409"));
    close_server(&s);
    buf_release(&body);
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_over_a_break),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
