/* Proves: the rules of the line itself, without an engine: bad endpoints, both queues at their limits, Hello
 * backing off, unreadable messages, leaving.
 * How: wrk_link against a real ROUTER; the test plays the engine thread. */
#include "tests/unit/worker/link/router.h"
#include "worker/link/link.h"

static struct wrk_link_opts options(const char *endpoint)
{
    struct wrk_link_opts o = {.endpoint = endpoint, .n_in_max = 4, .n_out_max = 4, .out_wait_ms = 50};
    o.hello = (struct msg_hello){.worker = "w",
                                 .boot = 1,
                                 .pid = 1,
                                 .n_vocab = 10,
                                 .n_ranks = 1,
                                 .n_seq_max = 4,
                                 .kv_blocks = 8,
                                 .context_max = 100};
    return o;
}

static struct wrk_link *start(const char *endpoint)
{
    struct wrk_link_opts o = options(endpoint);
    struct wrk_link *l = NULL;
    struct err err = {0};
    assert_int_equal(wrk_link_start(&o, &l, &err), 0);
    return l;
}

static void leave(struct wrk_link *l)
{
    struct err err = {0};
    wrk_link_leave(l, "done");
    assert_int_equal(wrk_link_join(&l, &err), 0);
    assert_null(l);
}

static struct msg generate(uint64_t epoch, const char *request)
{
    static const int32_t tok[] = {1, 2, 3};
    struct msg m = {.kind = MSG_generate, .generate = {.epoch = epoch, .n_tok = 3, .tok = tok, .max_output = 5}};
    snprintf(m.generate.request, sizeof m.generate.request, "%s", request);
    m.generate.sampling.top_p = 1;
    return m;
}

static void test_bad_endpoint(void **state)
{
    static const char *const bad[] = {"", "nonsense", "tcp://", "http://x:1", "tcp://127.0.0.1:notaport"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct wrk_link_opts o = options(bad[i]);
        struct wrk_link *l = NULL;
        struct err err = {0};
        assert_int_equal(wrk_link_start(&o, &l, &err), ERR_ARG);
        assert_null(l);
        assert_non_null(strstr(err.text, bad[i]));
    }
}

static void test_leave_without_controller(void **state)
{
    (void)state;
    int64_t t0 = clock_mono_ns();
    leave(start("tcp://127.0.0.1:9"));
    assert_true(clock_mono_ns() - t0 < 5LL * 1000000000);
}

/* Hello is repeated with growing pauses until it is answered. */
static void test_hello_backs_off(void **state)
{
    struct router r;
    (void)state;
    router_open(&r, "tcp://127.0.0.1:*");
    struct wrk_link *l = start(r.endpoint);
    router_expect(&r, MSG_hello);
    int64_t t0 = clock_mono_ns();
    for (int i = 0; i < 3; i++)
        router_expect(&r, MSG_hello);
    int64_t ms = (clock_mono_ns() - t0) / 1000000;
    assert_true(ms >= 250 + 500 + 1000 - 20); /* halves of 500, 1000, 2000 */
    assert_int_equal(wrk_link_stay(l) % 2, 0);
    router_welcome(&r, 9, 20);
    const struct msg *m = router_expect(&r, MSG_heartbeat);
    assert_int_equal(m->heartbeat.epoch, 9);
    assert_int_equal(m->heartbeat.kv_blocks_free, 8);
    uint64_t seq = m->heartbeat.seq;
    assert_int_equal(router_expect(&r, MSG_heartbeat)->heartbeat.seq, seq + 1);
    leave(l);
    assert_string_equal(router_expect(&r, MSG_bye)->bye.text, "done");
    router_close(&r);
}

/* few: as router_open_with. */
static struct wrk_link *join_with(struct router *r, int few)
{
    router_open_with(r, "tcp://127.0.0.1:*", few);
    struct wrk_link *l = start(r->endpoint);
    router_expect(r, MSG_hello);
    router_welcome(r, 5, 20);
    router_expect(r, MSG_heartbeat);
    struct wrk_cmd *cmd = NULL; /* a new stay wakes the engine */
    assert_int_equal(wrk_link_take(l, 1000, &cmd), 0);
    assert_int_equal(cmd->m.kind, MSG_ping);
    wrk_cmd_free(&cmd);
    return l;
}

static struct wrk_link *join(struct router *r)
{
    return join_with(r, 0);
}

static void test_commands_at_the_limit(void **state)
{
    struct router r;
    struct wrk_cmd *cmd = NULL;
    struct msg stale = generate(4, "stale");
    char name[16];
    (void)state;
    struct wrk_link *l = join(&r);
    router_send(&r, &stale); /* another epoch: not handed on, not answered */
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "g%d", i);
        struct msg m = generate(5, name);
        router_send(&r, &m);
    }
    const struct msg *m = router_expect(&r, MSG_failed);
    assert_string_equal(m->failed.request, "g4");
    assert_int_equal(m->failed.cls, MSG_FAIL_overload);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(wrk_link_take(l, 1000000000, &cmd), 0);
        snprintf(name, sizeof name, "g%d", i);
        assert_string_equal(cmd->m.generate.request, name);
        assert_int_equal(cmd->m.generate.tok[2], 3);
        assert_true(cmd->stay == wrk_link_stay(l));
        wrk_cmd_free(&cmd);
        assert_null(cmd);
    }
    assert_int_equal(wrk_link_take(l, 0, &cmd), ERR_TIMEOUT);
    leave(l);
    router_close(&r);
}

/* A controller that reads nothing: the queue fills, the engine waits its time and is told. */
static void test_output_at_the_limit(void **state)
{
    enum { N_TOK = 64 }; /* some 10 kB a message: the queues must fill before the silent controller is given up */
    static struct msg_token token[N_TOK];
    struct msg m = {.kind = MSG_tokens, .tokens = {.epoch = 5, .request = "r", .n = N_TOK, .token = token}};
    struct router r;
    struct err err = {0};
    int rc = 0, n = 0;
    (void)state;
    struct wrk_link *l = join_with(&r, 8);
    uint64_t stay = wrk_link_stay(l);
    for (int i = 0; i < N_TOK; i++)
        token[i].n_top = 20;
    for (; rc == 0 && n < 3000; n++)
        rc = wrk_link_give(l, stay, &m, &err);
    assert_int_equal(rc, ERR_TIMEOUT);
    assert_non_null(strstr(err.text, "50 ms"));
    /* Given up: what is queued is void, the queue takes again, Hello comes behind what was sent. */
    wrk_link_rejoin(l);
    while (wrk_link_stay(l) == stay)
        zmq_poll(NULL, 0, 1);
    m.tokens.n = 1;
    for (int i = 0; i < 20; i++)
        assert_int_equal(wrk_link_give(l, stay, &m, &err), 0);
    int n_tokens = 0;
    while (router_recv(&r, ROUTER_WAIT_MS) && r.m.kind != MSG_hello)
        n_tokens += r.m.kind == MSG_tokens;
    assert_int_equal(r.m.kind, MSG_hello);
    assert_true(n_tokens > 0 && n_tokens < n);
    leave(l);
    router_close(&r);
}

/* What cannot be read may have been work: both sides begin anew. */
static void test_unreadable(void **state)
{
    struct router r;
    struct msg hello = {.kind = MSG_hello, .hello = options("x").hello};
    (void)state;
    struct wrk_link *l = join(&r);
    uint64_t stay = wrk_link_stay(l);
    router_send_bytes(&r, "\xff\xff\xff", 3);
    router_expect(&r, MSG_hello);
    assert_true(wrk_link_stay(l) > stay);
    router_welcome(&r, 6, 20);
    router_expect(&r, MSG_heartbeat);
    router_send(&r, &hello); /* a message that only workers send */
    router_expect(&r, MSG_hello);
    router_welcome(&r, 7, 20);
    assert_int_equal(router_expect(&r, MSG_heartbeat)->heartbeat.epoch, 7);
    /* Two frames are no message either. */
    assert_int_equal(zmq_send(r.socket, r.route, r.n_route, ZMQ_SNDMORE), r.n_route);
    assert_int_equal(zmq_send(r.socket, "a", 1, ZMQ_SNDMORE), 1);
    assert_int_equal(zmq_send(r.socket, "b", 1, 0), 1);
    router_expect(&r, MSG_hello);
    leave(l);
    router_close(&r);
}

/* A second Welcome is a new stay; the same one twice is not; Ping is answered at once. */
static void test_welcome_twice_and_ping(void **state)
{
    struct router r;
    struct msg ping = {.kind = MSG_ping, .ping.epoch = 8};
    (void)state;
    struct wrk_link *l = join(&r);
    uint64_t stay = wrk_link_stay(l);
    router_welcome(&r, 5, 20);
    router_expect(&r, MSG_heartbeat);
    router_expect(&r, MSG_heartbeat);
    assert_true(wrk_link_stay(l) == stay);
    router_welcome(&r, 8, 60000); /* no heartbeat for a minute, unless asked */
    while (router_expect(&r, MSG_heartbeat)->heartbeat.epoch != 8)
        ;
    assert_true(wrk_link_stay(l) > stay);
    for (int i = 0; i < 3; i++) {
        router_send(&r, &ping);
        assert_int_equal(router_expect(&r, MSG_heartbeat)->heartbeat.epoch, 8);
    }
    leave(l);
    router_close(&r);
}

/* What is told of the prefix cache goes out at once, in order and in pieces; nothing of it outlives its stay. */
static void test_news(void **state)
{
    static struct prefix_news news[WRK_LINK_NEWS_MAX + 1];
    struct router r;
    (void)state;
    router_open(&r, "tcp://127.0.0.1:*");
    struct wrk_link *l = start(r.endpoint);
    router_expect(&r, MSG_hello);
    router_welcome(&r, 5, 60000); /* no heartbeat of its own in the time of this test */
    router_expect(&r, MSG_heartbeat);
    for (int i = 0; i < WRK_LINK_NEWS_MAX + 1; i++)
        news[i] = (struct prefix_news){(uint64_t)i + 1, i % 3 != 0};
    assert_true(wrk_link_tell(l, wrk_link_stay(l), news, 10000, true));
    int n = 0;
    while (n < 10000) {
        const struct msg *m = router_expect(&r, MSG_heartbeat);
        assert_int_equal(m->heartbeat.news_all, n == 0);
        for (int i = 0; i < m->heartbeat.n_news; i++, n++)
            assert_true(m->heartbeat.news[i].key == news[n].key && m->heartbeat.news[i].is_stored == (n % 3 != 0));
    }
    assert_true(wrk_link_tell(l, wrk_link_stay(l) - 2, news, 5, false)); /* of a stay that is over */
    assert_true(wrk_link_tell(l, wrk_link_stay(l), news + 1, 1, false));
    const struct msg *m = router_expect(&r, MSG_heartbeat);
    assert_true(m->heartbeat.n_news == 1 && m->heartbeat.news[0].key == 2 && !m->heartbeat.news_all);
    assert_false(wrk_link_tell(l, wrk_link_stay(l), news, WRK_LINK_NEWS_MAX + 1, false)); /* too much: tell all later */
    assert_true(wrk_link_tell(l, wrk_link_stay(l), news, 0, true)); /* an empty cache is news, too */
    do
        m = router_expect(&r, MSG_heartbeat);
    while (!m->heartbeat.news_all);
    assert_int_equal(m->heartbeat.n_news, 0);
    leave(l);
    router_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_endpoint),          cmocka_unit_test(test_leave_without_controller),
        cmocka_unit_test(test_hello_backs_off),       cmocka_unit_test(test_commands_at_the_limit),
        cmocka_unit_test(test_output_at_the_limit),   cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_welcome_twice_and_ping),
        cmocka_unit_test(test_news),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
