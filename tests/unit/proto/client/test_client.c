/* Proves: libbaton hands out every event once and in order whatever happens to the line or the controller between:
 * answers cut off, a server that goes away and comes back on the same port, a reader that stops reading; replies,
 * refusals, limits, keys and CURVE; close in every state.
 * How: the real server (controller/native) on a loop of its own thread, with a handler that streams numbered events
 * and honours Last-Event-ID; the client as a user has it. */
#include "controller/native/native.h"
#include "proto/client/baton.h"
#include "tests/unit/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

enum { WAIT_MS = 30000, STREAMS_MAX = 64 };

struct rig;

/* One answer that is being streamed: events next..n-1. */
struct stream {
    struct rig *rig;
    struct http_exchange *x; /* NULL: free place */
    int next, n, cut_at;     /* cut_at: aborted before this event; 0: not */
    size_t pad;
};

struct rig {
    uv_loop_t loop;
    uv_async_t stop;
    uv_prepare_t prepare;
    uv_timer_t pulse; /* a turn at least every millisecond */
    pthread_t thread;
    struct native_server *server;
    char endpoint[NATIVE_ENDPOINT_MAX];
    const char *secret_key;
    struct native_limits limit;
    struct stream stream[STREAMS_MAX];
    atomic_int n_request, n_gone, n_cancel;
};

static void on_gone(void *arg)
{
    struct stream *s = arg;
    s->rig->n_gone++;
    s->x = NULL;
}

static int query_int(const struct http_exchange *x, const char *name, int otherwise)
{
    const char *at = strstr(http_query(x), name);
    return at ? atoi(at + strlen(name)) : otherwise;
}

static void on_request(void *arg, struct http_exchange *x)
{
    struct rig *r = arg;
    const char *path = http_path(x), *after = http_header(x, "last-event-id"), *key = http_header(x, "Idempotency-Key");
    size_t len;
    const char *body = http_body(x, &len);

    r->n_request++;
    http_add_header(x, "x-request-id", "req_1");
    if (strcmp(path, "/echo") == 0) {
        http_reply(x, 200, "application/json", body, len);
    } else if (strcmp(path, "/key") == 0) {
        http_reply(x, 200, "text/plain", key ? key : "", key ? strlen(key) : 0);
    } else if (strncmp(path, "/v1/requests/", 13) == 0) {
        r->n_cancel += strcmp(path, "/v1/requests/req_1/cancel") == 0;
        http_reply(x, 200, "application/json", "{}", 2);
    } else if (strcmp(path, "/never") == 0) {
        for (struct stream *s = r->stream; s < r->stream + STREAMS_MAX; s++)
            if (!s->x) {
                *s = (struct stream){.rig = r, .x = x, .n = 0, .next = 1};
                http_on_gone(x, on_gone, s);
                return;
            }
    } else if (strcmp(path, "/stream") == 0) {
        int n = query_int(x, "n=", 10), cut = query_int(x, "cut=", 0);
        for (struct stream *s = r->stream; s < r->stream + STREAMS_MAX; s++) {
            if (s->x)
                continue;
            *s = (struct stream){.rig = r, .x = x, .next = after ? atoi(after) + 1 : 0, .n = n,
                                 .pad = (size_t)query_int(x, "pad=", 0)};
            s->cut_at = cut ? s->next + cut : 0;
            http_on_gone(x, on_gone, s);
            http_stream_begin(x, 200, "text/event-stream; charset=utf-8");
            return;
        }
        http_reply(x, 429, "text/plain", "streams", 7);
    } else {
        http_reply(x, 404, "application/json", "{\"error\":1}", 11);
    }
}

/* A few events of each stream per turn, and no more than a handler would leave unsent. */
static void pump(struct rig *r)
{
    static char pad[8192];
    memset(pad, 'x', sizeof pad);
    for (struct stream *s = r->stream; s < r->stream + STREAMS_MAX; s++) {
        for (int k = 0; s->x && s->n && k < 4 && http_unsent(s->x) < 65536; k++) {
            struct http_exchange *x = s->x;
            char event[9000];
            if (s->cut_at && s->next == s->cut_at) {
                s->x = NULL;
                http_stream_abort(x);
            } else if (s->next == s->n) {
                s->x = NULL;
                http_stream_write(x, "data: [DONE]\n\n", 14);
                http_stream_end(x);
            } else {
                int n = snprintf(event, sizeof event, ": keep-alive\n\nid: %d\ndata: %d%.*s\n\n", s->next, s->next,
                                 (int)s->pad, pad);
                s->next++;
                http_stream_write(x, event, (size_t)n);
            }
        }
    }
}

static void on_prepare(uv_prepare_t *p)
{
    struct rig *r = p->data;
    if (!r->server)
        return;
    pump(r);
    native_flush(r->server);
    native_arm(r->server);
}

static void on_pulse(uv_timer_t *t)
{
    (void)t;
}

static void on_stop(uv_async_t *a)
{
    struct rig *r = a->data;
    native_close(&r->server, NULL, NULL);
    uv_close((uv_handle_t *)&r->stop, NULL);
    uv_close((uv_handle_t *)&r->pulse, NULL);
    uv_close((uv_handle_t *)&r->prepare, NULL);
}

static void *loop_main(void *arg)
{
    struct rig *r = arg;
    uv_run(&r->loop, UV_RUN_DEFAULT);
    return NULL;
}

/* at NULL: a new port; else the one that was there before. */
static void rig_start(struct rig *r, const char *at)
{
    struct err err = {0};
    struct native_opts o = {.endpoint = at ? at : "tcp://127.0.0.1:*", .secret_key = r->secret_key,
                            .limit = r->limit, .on_request = on_request, .arg = r};
    if (!o.limit.clients_max)
        o.limit = (struct native_limits){16, 64, 1 << 20, 4 << 20, 2000};
    memset(r->stream, 0, sizeof r->stream);
    assert_int_equal(uv_loop_init(&r->loop), 0);
    int rc = -1;
    for (int i = 0; i < 100 && rc; i++) { /* the old socket may still be closing */
        rc = native_open(&r->loop, &o, &r->server, &err);
        if (rc)
            usleep(20000);
    }
    assert_int_equal(rc, 0);
    snprintf(r->endpoint, sizeof r->endpoint, "%s", native_endpoint(r->server));
    uv_async_init(&r->loop, &r->stop, on_stop);
    uv_timer_init(&r->loop, &r->pulse);
    uv_timer_start(&r->pulse, on_pulse, 1, 1);
    uv_prepare_init(&r->loop, &r->prepare);
    uv_prepare_start(&r->prepare, on_prepare);
    r->stop.data = r->prepare.data = r;
    assert_int_equal(pthread_create(&r->thread, NULL, loop_main, r), 0);
}

static void rig_stop(struct rig *r)
{
    uv_async_send(&r->stop);
    pthread_join(r->thread, NULL);
    assert_int_equal(uv_loop_close(&r->loop), 0);
}

static struct baton *client(const struct rig *r)
{
    struct baton *b = NULL;
    struct baton_err err;
    assert_int_equal(baton_open(&(struct baton_opts){.endpoint = r->endpoint}, &b, &err), 0);
    return b;
}

static struct baton_call *call(struct baton *b, const char *path, const char *body)
{
    struct baton_call *c = NULL;
    struct baton_err err;
    assert_int_equal(baton_call(b, &(struct baton_request){.path = path, .body = body}, &c, &err), 0);
    return c;
}

/* Read events first..n-1, then the end. */
static void expect_events(struct baton_call *c, int first, int n)
{
    struct baton_event e;
    struct baton_err err;
    char want[16];
    for (int i = first; i < n; i++) {
        int rc = baton_next(c, WAIT_MS, &e, &err);
        if (rc)
            fail_msg("event %d: %d %s", i, rc, err.text);
        assert_int_equal(e.kind, BATON_EVENT);
        snprintf(want, sizeof want, "%d", i);
        assert_string_equal(e.id, want);
        assert_int_equal(strncmp(e.data, want, strlen(want)), 0);
    }
    for (int twice = 0; twice < 2; twice++) {
        assert_int_equal(baton_next(c, WAIT_MS, &e, &err), 0);
        assert_int_equal(e.kind, BATON_END);
    }
}

/* The whole answer to one request. */
static char *fetch(struct baton *b, const struct baton_request *q, int want)
{
    struct baton_err err;
    char *body = NULL;
    int status = 0;
    assert_int_equal(baton_fetch(b, q, WAIT_MS, &status, &body, &err), 0);
    assert_int_equal(status, want);
    return body;
}

static void test_reply(void **state)
{
    struct rig r = {0};
    struct baton_err err;
    struct baton_event e;
    char *body;
    (void)state;
    rig_start(&r, NULL);
    struct baton *b = client(&r);
    body = fetch(b, &(struct baton_request){.path = "/echo", .body = "{\"a\":1}"}, 200);
    assert_string_equal(body, "{\"a\":1}");
    free(body);
    body = fetch(b, &(struct baton_request){.path = "/key", .body = "{}", .key = "mine"}, 200);
    assert_string_equal(body, "mine");
    free(body);
    body = fetch(b, &(struct baton_request){.path = "/key"}, 200); /* a GET needs none */
    assert_string_equal(body, "");
    free(body);
    free(fetch(b, &(struct baton_request){.path = "/nothing?x=1"}, 404));
    struct baton_call *c = call(b, "/key", "{}");
    assert_int_equal(baton_next(c, WAIT_MS, &e, &err), 0);
    assert_int_equal(e.kind, BATON_REPLY);
    assert_string_equal(e.data, baton_call_key(c));
    assert_true(e.len > 20);
    assert_int_equal(baton_next(c, WAIT_MS, &e, &err), 0);
    assert_int_equal(e.kind, BATON_END);
    baton_call_close(&c);
    assert_null(c);
    baton_close(&b);
    rig_stop(&r);
}

static void test_streams_at_once(void **state)
{
    struct rig r = {0};
    struct baton_call *c[32];
    (void)state;
    rig_start(&r, NULL);
    struct baton *b = client(&r);
    for (int i = 0; i < 32; i++)
        c[i] = call(b, "/stream?n=200", NULL);
    for (int i = 0; i < 32; i++) {
        expect_events(c[i], 0, 200);
        baton_call_close(&c[i]);
    }
    assert_int_equal(r.n_request, 32);
    baton_close(&b);
    rig_stop(&r);
}

/* Every answer ends after three events: the next begins behind them. */
static void test_cut_off(void **state)
{
    struct rig r = {0};
    (void)state;
    rig_start(&r, NULL);
    struct baton *b = client(&r);
    struct baton_call *c = call(b, "/stream?n=10&cut=3", NULL);
    expect_events(c, 0, 10);
    assert_int_equal(r.n_request, 4);
    baton_call_close(&c);
    baton_close(&b);
    rig_stop(&r);
}

/* The server dies in the middle and comes back; twice. */
static void test_server_restarts(void **state)
{
    struct rig r = {0};
    struct baton_event e;
    struct baton_err err;
    (void)state;
    rig_start(&r, NULL);
    struct baton *b = client(&r);
    struct baton_call *c = call(b, "/stream?n=3000&pad=200", NULL);
    for (int i = 0; i < 200; i++)
        assert_int_equal(baton_next(c, WAIT_MS, &e, &err), 0);
    rig_stop(&r);
    char endpoint[NATIVE_ENDPOINT_MAX];
    memcpy(endpoint, r.endpoint, sizeof endpoint);
    rig_start(&r, endpoint);
    for (int i = 200; i < 1000; i++) {
        assert_int_equal(baton_next(c, WAIT_MS, &e, &err), 0);
        assert_int_equal(atoi(e.id), i);
    }
    rig_stop(&r);
    rig_start(&r, endpoint);
    expect_events(c, 1000, 3000);
    baton_call_close(&c);
    baton_close(&b);
    rig_stop(&r);
}

/* The server gives the client up again and again, though it is there: between two pings it looks silent. */
static void test_given_up(void **state)
{
    struct rig r = {.limit = {16, 64, 1 << 20, 4 << 20, 30}};
    (void)state;
    rig_start(&r, NULL);
    struct baton *b = client(&r);
    struct baton_call *c = call(b, "/stream?n=8000", NULL);
    expect_events(c, 0, 8000);
    assert_true(r.n_request > 1);
    baton_call_close(&c);
    baton_close(&b);
    rig_stop(&r);
}

/* Nobody reads: the client lets go at its limit and takes the rest later. */
static void test_slow_reader(void **state)
{
    struct rig r = {0};
    struct baton_event e;
    struct baton_err err;
    (void)state;
    rig_start(&r, NULL);
    struct baton *b = client(&r);
    struct baton_call *c = call(b, "/stream?n=2000&pad=4000", NULL); /* 8 MB */
    struct baton_call *other = call(b, "/stream?n=500", NULL);
    expect_events(other, 0, 500); /* not held up */
    for (int i = 0; i < WAIT_MS && !r.n_gone; i++) /* until it has let go */
        usleep(1000);
    assert_int_equal(baton_next(c, WAIT_MS, &e, &err), 0);
    assert_string_equal(e.id, "0");
    expect_events(c, 1, 2000);
    assert_true(r.n_request > 2);
    baton_call_close(&c);
    baton_call_close(&other);
    baton_close(&b);
    rig_stop(&r);
}

static void test_close_early(void **state)
{
    struct rig r = {0};
    struct baton_event e;
    struct baton_err err;
    (void)state;
    rig_start(&r, NULL);
    struct baton *b = client(&r);
    struct baton_call *c = call(b, "/stream?n=1000000", "{}"), *held = call(b, "/never", NULL);
    assert_int_equal(baton_next(c, WAIT_MS, &e, &err), 0);
    baton_call_close(&c); /* with a key that nobody knows: canceled there */
    for (int i = 0; i < WAIT_MS && !r.n_cancel; i++)
        usleep(1000);
    assert_int_equal(r.n_cancel, 1);
    assert_int_equal(baton_next(held, 10, &e, &err), BATON_E_TIMEOUT);
    baton_close(&b);
    assert_int_equal(baton_next(held, WAIT_MS, &e, &err), BATON_E_CLOSED);
    baton_call_close(&held);
    rig_stop(&r);
}

static void test_limits(void **state)
{
    struct rig r = {.limit = {1, 2, 100, 4 << 20, 2000}};
    struct baton_event e;
    struct baton_err err;
    char big[200];
    (void)state;
    rig_start(&r, NULL);
    struct baton *b = client(&r), *second = NULL;
    struct baton_call *c[3] = {call(b, "/never", NULL), call(b, "/never", NULL), NULL};
    while (r.n_request < 2)
        usleep(1000);
    c[2] = call(b, "/never", NULL);
    assert_int_equal(baton_next(c[2], WAIT_MS, &e, &err), BATON_E_REFUSED);
    assert_non_null(strstr(err.text, "native_calls_max is 2"));
    baton_call_close(&c[0]);
    baton_call_close(&c[2]);
    memset(big, ' ', sizeof big - 1);
    big[sizeof big - 1] = 0;
    c[0] = call(b, "/echo", big);
    assert_int_equal(baton_next(c[0], WAIT_MS, &e, &err), BATON_E_REFUSED);
    assert_non_null(strstr(err.text, "199 bytes"));
    second = client(&r);
    c[2] = call(second, "/echo", "{}");
    assert_int_equal(baton_next(c[2], WAIT_MS, &e, &err), BATON_E_REFUSED);
    assert_non_null(strstr(err.text, "native_clients_max is 1"));
    for (int i = 0; i < 3; i++)
        baton_call_close(&c[i]);
    baton_close(&second);
    baton_close(&b);
    rig_stop(&r);
}

static void test_lost(void **state)
{
    struct baton *b = NULL;
    struct baton_err err;
    struct baton_event e;
    (void)state;
    assert_int_equal(baton_open(&(struct baton_opts){.endpoint = "tcp://127.0.0.1:9", .give_up_ms = 200}, &b, &err), 0);
    struct baton_call *c = call(b, "/echo", "{}");
    assert_int_equal(baton_next(c, WAIT_MS, &e, &err), BATON_E_LOST);
    assert_non_null(strstr(err.text, "tcp://127.0.0.1:9 was not reached for 200 ms"));
    baton_call_close(&c);
    baton_close(&b);
}

static void test_bad_arguments(void **state)
{
    static const struct baton_opts bad[] = {
        {.endpoint = NULL}, {.endpoint = "nonsense"}, {.endpoint = "tcp://127.0.0.1:1", .server_key = "short"},
        {.endpoint = "tcp://127.0.0.1:1", .public_key = "x"}};
    struct baton *b = NULL;
    struct baton_call *c = NULL;
    struct baton_err err;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(baton_open(&bad[i], &b, &err), BATON_E_ARG);
        assert_null(b);
    }
    assert_int_equal(baton_open(&(struct baton_opts){.endpoint = "tcp://127.0.0.1:9"}, &b, &err), 0);
    assert_int_equal(baton_call(b, &(struct baton_request){.path = "x"}, &c, &err), BATON_E_ARG);
    assert_int_equal(baton_call(b, &(struct baton_request){.path = "/x", .key = ""}, &c, &err), BATON_E_ARG);
    assert_int_equal(baton_resume(b, "../secret", NULL, &c, &err), BATON_E_ARG);
    assert_null(c);
    baton_close(&b);
}

static void test_curve(void **state)
{
    char dir[] = "/tmp/baton-key-XXXXXX", path[64], public_key[NATIVE_KEY_CHARS], secret_key[NATIVE_KEY_CHARS];
    char again[NATIVE_KEY_CHARS], other[NATIVE_KEY_CHARS], other_secret[NATIVE_KEY_CHARS], *body = NULL;
    struct err err = {0};
    struct baton_err berr;
    struct rig r = {0};
    struct baton *b = NULL;
    int status = 0;
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/key", dir);
    assert_int_equal(native_key_file(path, public_key, secret_key, &err), 0);
    assert_int_equal(native_key_file(path, again, other_secret, &err), 0);
    assert_string_equal(public_key, again);
    assert_string_equal(secret_key, other_secret);
    r.secret_key = secret_key;
    rig_start(&r, NULL);
    struct baton_request q = {.path = "/echo", .body = "[]"};
    assert_int_equal(baton_open(&(struct baton_opts){.endpoint = r.endpoint, .server_key = public_key}, &b, &berr), 0);
    assert_int_equal(baton_fetch(b, &q, WAIT_MS, &status, &body, &berr), 0);
    assert_string_equal(body, "[]");
    free(body);
    baton_close(&b);
    /* The wrong key, and none: never served, and the reason is told. */
    assert_int_equal(zmq_curve_keypair(other, other_secret), 0);
    for (int i = 0; i < 2; i++) {
        struct baton_opts o = {.endpoint = r.endpoint, .server_key = i ? NULL : other, .give_up_ms = 300};
        assert_int_equal(baton_open(&o, &b, &berr), 0);
        assert_int_equal(baton_fetch(b, &q, WAIT_MS, &status, &body, &berr), BATON_E_LOST);
        baton_close(&b);
    }
    assert_int_equal(r.n_request, 1);
    rig_stop(&r);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(native_key_file(path, public_key, secret_key, &err), ERR_STATE);
    FILE *f = fopen(path, "w");
    fputs("no key\n", f);
    fclose(f);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(native_key_file(path, public_key, secret_key, &err), ERR_FORMAT);
    unlink(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reply),         cmocka_unit_test(test_streams_at_once),
        cmocka_unit_test(test_cut_off),       cmocka_unit_test(test_server_restarts),
        cmocka_unit_test(test_given_up),      cmocka_unit_test(test_slow_reader),   cmocka_unit_test(test_close_early),
        cmocka_unit_test(test_limits),        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_bad_arguments), cmocka_unit_test(test_curve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
