/* Proves: a body is gathered or handed on as it comes; the message of an error body is in the error; nothing
 * listening, silence, a broken answer and a cancel each give their code. How: a server of one thread that answers
 * each connection with bytes written down here. */
#include "controller/cli/client.h"
#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct server {
    int fd;
    char url[64];
    const char *answer; /* NULL: says nothing until the client goes */
    char request[4096];
    pthread_t thread;
};

static void *serve(void *arg)
{
    struct server *s = arg;
    int fd = accept(s->fd, NULL, NULL);
    ssize_t n = read(fd, s->request, sizeof s->request - 1);

    s->request[n > 0 ? n : 0] = '\0';
    if (s->answer) {
        n = write(fd, s->answer, strlen(s->answer));
        shutdown(fd, SHUT_WR);
    }
    char rest[64];
    while (read(fd, rest, sizeof rest) > 0)
        continue;
    close(fd);
    return NULL;
}

static void server_start(struct server *s, const char *answer)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;

    memset(s, 0, sizeof *s);
    s->answer = answer;
    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&addr, sizeof addr), 0);
    assert_int_equal(listen(s->fd, 4), 0);
    getsockname(s->fd, (struct sockaddr *)&addr, &len);
    snprintf(s->url, sizeof s->url, "http://127.0.0.1:%d/", ntohs(addr.sin_port));
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void server_end(struct server *s)
{
    pthread_join(s->thread, NULL);
    close(s->fd);
}

static void test_get_and_post(void **state)
{
    struct client_call get = {.path = "/v1/status", .timeout_ms = 5000};
    struct client_call post = {.path = "/x", .timeout_ms = 5000, .body = "{\"a\": 1}", .body_len = 8};
    struct server s;

    (void)state;
    server_start(&s, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    get.base = s.url;
    assert_int_equal(client_run(&get, NULL), 0);
    assert_int_equal(get.status, 200);
    assert_string_equal(get.out.data, "hello");
    server_end(&s);
    assert_memory_equal(s.request, "GET /v1/status HTTP/1.1\r\n", 25); /* the slash of the base is not doubled */
    server_start(&s, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    post.base = s.url;
    assert_int_equal(client_run(&post, NULL), 0);
    server_end(&s);
    assert_non_null(strstr(s.request, "application/json"));
    assert_null(strstr(s.request, "Expect"));
    client_release(&get);
    client_release(&post);
}

static int take(void *arg, const char *data, size_t n)
{
    buf_add(arg, data, n);
    return 0;
}

static int refuse(void *arg, const char *data, size_t n)
{
    (void)arg, (void)data, (void)n;
    return ERR_FORMAT;
}

static void test_stream(void **state)
{
    struct buf got = {0};
    struct client_call call = {.path = "/", .timeout_ms = 5000, .on_data = take, .arg = &got};
    struct server s;

    (void)state;
    server_start(&s, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    call.base = s.url;
    assert_int_equal(client_run(&call, NULL), 0);
    assert_string_equal(got.data, "abcde");
    server_end(&s);
    server_start(&s, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
    call.base = s.url;
    call.on_data = refuse;
    assert_int_equal(client_run(&call, NULL), ERR_FORMAT);
    server_end(&s);
    buf_release(&got);
}

static void test_error_body(void **state)
{
    struct client_call call = {.path = "/v1/x", .timeout_ms = 5000, .on_data = refuse};
    struct err err = {0};
    struct server s;

    (void)state;
    server_start(
        &s, "HTTP/1.1 404 Not Found\r\nContent-Length: 41\r\n\r\n{\"error\": {\"message\": \"no such thing\"}}  ");
    call.base = s.url;
    assert_int_equal(client_run(&call, &err), 0);
    assert_int_equal(call.status, 404);
    assert_int_equal(client_refused(&call, &err), ERR_NET);
    assert_non_null(strstr(err.text, "404: no such thing"));
    server_end(&s);
    client_release(&call);
}

static void test_bad_answers(void **state)
{
    volatile sig_atomic_t cancel = 1;
    struct client_call call = {.path = "/", .timeout_ms = 300};
    struct err err = {0};
    struct server s;

    (void)state;
    server_start(&s, NULL);
    call.base = s.url;
    assert_int_equal(client_run(&call, &err), ERR_TIMEOUT);
    server_end(&s);
    call.base = s.url; /* nobody listens there any more */
    assert_int_equal(client_run(&call, &err), ERR_NET);
    assert_non_null(strstr(err.text, "nothing answers at http://127.0.0.1:"));
    server_start(&s, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\ncut off");
    call.base = s.url;
    assert_int_equal(client_run(&call, &err), ERR_NET);
    server_end(&s);
    server_start(&s, NULL);
    call.base = s.url;
    call.timeout_ms = 0;
    call.cancel = &cancel;
    assert_int_equal(client_run(&call, &err), ERR_CANCELED);
    shutdown(s.fd, SHUT_RDWR); /* the thread may still wait for a connection that never came */
    server_end(&s);
    call.base = "file:///etc/passwd";
    call.cancel = NULL;
    assert_int_equal(client_run(&call, &err), ERR_NET);
    client_release(&call);
}

static void test_base(void **state)
{
    (void)state;
    unsetenv("BATON_URL");
    assert_string_equal(client_base(NULL), CLIENT_URL_DEFAULT);
    setenv("BATON_URL", "http://h:1", 1);
    assert_string_equal(client_base(NULL), "http://h:1");
    assert_string_equal(client_base("http://flag"), "http://flag");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_get_and_post), cmocka_unit_test(test_stream), cmocka_unit_test(test_error_body),
        cmocka_unit_test(test_bad_answers),  cmocka_unit_test(test_base),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
