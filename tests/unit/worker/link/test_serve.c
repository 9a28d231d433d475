/* Proves: a worker's whole behaviour towards its controller: hello, work, cancel, heartbeats under a long step,
 * fencing, refusal, a controller that goes away, resumed work, draining, ending, a broken engine.
 * How: real threads and a real ROUTER over tcp; only the engine is a fake that hashes tokens (fake_eng.h), so that
 * the right tokens are known. */
#include "tests/unit/worker/link/router.h"
#include "tests/unit/worker/sched/fake_eng.h"
#include "worker/link/serve.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CONTEXT = 1000 };

struct bench {
    struct router r;
    struct eng *eng;
    struct wrk_serve *serve;
};

static void worker_start(struct bench *b, const char *endpoint)
{
    struct err err = {0};
    struct eng_opts eo = {.n_seq_max = 4, .step_tok_max = 32, .context_max = CONTEXT, .kv_tokens = 4000};
    fake.step_ms = 0;
    fake.fail_after = fake.nan_after = -1;
    fake.n_step = 0;
    assert_int_equal(eng_open(&eo, &b->eng, &err), 0);
    struct wrk_serve_opts so = {
        .machine = &wrk_sched_machine, .from = b->eng,
        .endpoint = endpoint, .name = "w1", .backend = "ref", .domain = "here", .n_seq_max = 4};
    assert_int_equal(wrk_serve_start(&so, &b->serve, &err), 0);
}

static void worker_end(struct bench *b, enum wrk_exit status, const char *part)
{
    struct err err = {0};
    struct pollfd fd = {.fd = wrk_serve_done_fd(b->serve), .events = POLLIN};
    assert_int_equal(poll(&fd, 1, ROUTER_WAIT_MS), 1);
    assert_int_equal(wrk_serve_join(&b->serve, &err), status);
    assert_null(b->serve);
    assert_non_null(strstr(err.text, part));
    assert_int_equal(fake.n_open, 0);
    eng_close(&b->eng);
}

static void welcome(struct bench *b, uint64_t epoch)
{
    router_expect(&b->r, MSG_hello);
    router_welcome(&b->r, epoch, 50);
}

static void open_and_join(struct bench *b)
{
    router_open(&b->r, "tcp://127.0.0.1:*");
    worker_start(b, b->r.endpoint);
    welcome(b, 1);
}

static void stop(struct bench *b)
{
    wrk_serve_stop(b->serve);
    worker_end(b, WRK_EXIT_ok, "");
    router_close(&b->r);
}

static int32_t prompt[8][200];

static struct msg request(uint64_t epoch, int at, int max_output)
{
    struct msg m = {.kind = MSG_generate,
                    .generate = {.epoch = epoch,
                                 .attempt = 1,
                                 .n_tok = 20,
                                 .tok = prompt[at],
                                 .max_output = max_output,
                                 .ignore_eos = true}};
    snprintf(m.generate.request, sizeof m.generate.request, "r%d", at);
    m.generate.sampling = (struct msg_sampling){
        .temperature = 1, .top_p = 0.95f, .repetition_penalty = 1, .seed = (uint64_t)at, .n_top = 2};
    for (int i = 0; i < 20; i++)
        prompt[at][i] = (at * 5 + i * 3) % FAKE_VOCAB;
    return m;
}

/* Tokens of one request until its end: each index once and in order. Returns how many the output has. */
static int collect(struct bench *b, uint64_t epoch, int at, int n, int32_t *id, struct msg *end)
{
    char name[16];
    snprintf(name, sizeof name, "r%d", at);
    for (;;) {
        assert_true(router_recv(&b->r, ROUTER_WAIT_MS));
        const struct msg *m = &b->r.m;
        if (m->kind == MSG_tokens && strcmp(m->tokens.request, name) == 0) {
            assert_int_equal(m->tokens.epoch, epoch);
            assert_int_equal(m->tokens.first_index, n);
            for (int i = 0; i < m->tokens.n; i++) {
                assert_int_equal(m->tokens.token[i].n_top, 2);
                id[n++] = m->tokens.token[i].id;
            }
        } else if ((m->kind == MSG_finished && strcmp(m->finished.request, name) == 0) ||
                   (m->kind == MSG_failed && strcmp(m->failed.request, name) == 0)) {
            *end = *m;
            return n;
        }
    }
}

static void expect_whole(struct bench *b, const struct msg *g, uint64_t epoch, int at)
{
    static int32_t id[FAKE_OUT_MAX], want[FAKE_OUT_MAX];
    enum msg_finish finish;
    struct msg end;
    int n_committed = (int)g->generate.n_committed;
    int n_want = fake_expect(&g->generate, CONTEXT, want, &finish);
    int n = collect(b, epoch, at, n_committed, id, &end);
    assert_int_equal(n, n_want);
    assert_memory_equal(id + n_committed, want + n_committed, (size_t)(n - n_committed) * sizeof *id);
    assert_int_equal(end.kind, MSG_finished);
    assert_int_equal(end.finished.epoch, epoch);
    assert_int_equal(end.finished.reason, finish);
    assert_int_equal(end.finished.n_output, n);
}

static void test_work(void **state)
{
    struct bench b;
    (void)state;
    router_open(&b.r, "tcp://127.0.0.1:*");
    worker_start(&b, b.r.endpoint);
    const struct msg_hello *h = &router_expect(&b.r, MSG_hello)->hello;
    assert_string_equal(h->worker, "w1");
    assert_string_equal(h->backend, "ref");
    assert_string_equal(h->numerics, "fake/hash/1");
    assert_string_equal(h->domain, "here");
    assert_int_equal(h->n_vocab, FAKE_VOCAB);
    assert_int_equal(h->fingerprint, 0xfa4e);
    assert_int_equal(h->n_seq_max, 4);
    assert_int_equal(h->context_max, CONTEXT);
    assert_int_equal(h->kv_blocks, 32);
    assert_true(h->boot != 0);
    router_welcome(&b.r, 1, 50);
    struct msg g = request(1, 0, 60);
    router_send(&b.r, &g);
    expect_whole(&b, &g, 1, 0);
    /* Idle, then work again; the numbers of the heartbeat follow. */
    router_expect(&b.r, MSG_heartbeat);
    g = request(1, 1, 30);
    router_send(&b.r, &g);
    expect_whole(&b, &g, 1, 1);
    const struct msg_heartbeat *beat;
    do
        beat = &router_expect(&b.r, MSG_heartbeat)->heartbeat;
    while (beat->tokens_total < 90);
    assert_int_equal(beat->tokens_total, 90);
    assert_int_equal(beat->prefill_total, 40);
    assert_int_equal(beat->running + beat->waiting, 0);
    assert_int_equal(beat->kv_blocks_free, 32);
    stop(&b);
}

static void test_cancel(void **state)
{
    static int32_t id[FAKE_OUT_MAX];
    struct bench b;
    struct msg end, cancel = {.kind = MSG_cancel, .cancel = {.epoch = 1, .request = "r0", .attempt = 1}};
    (void)state;
    open_and_join(&b);
    fake.step_ms = 5;
    struct msg g = request(1, 0, 900);
    router_send(&b.r, &g);
    router_expect(&b.r, MSG_tokens);
    router_send(&b.r, &cancel);
    int n = collect(&b, 1, 0, 1, id, &end);
    assert_int_equal(end.kind, MSG_failed);
    assert_int_equal(end.failed.cls, MSG_FAIL_canceled);
    assert_true(n < 500);
    stop(&b);
}

/* One step of 800 ms: heartbeats go on every 50 ms. */
static void test_heartbeat_in_long_step(void **state)
{
    struct bench b;
    int n = 0;
    (void)state;
    open_and_join(&b);
    fake.step_ms = 800;
    struct msg g = request(1, 0, 1);
    router_expect(&b.r, MSG_heartbeat);
    router_send(&b.r, &g);
    while (router_recv(&b.r, ROUTER_WAIT_MS) && b.r.m.kind != MSG_tokens)
        n += b.r.m.kind == MSG_heartbeat;
    assert_true(n >= 8); /* 16 on a machine at rest */
    stop(&b);
}

static void test_fenced(void **state)
{
    struct bench b;
    (void)state;
    open_and_join(&b);
    fake.step_ms = 5;
    struct msg g = request(1, 0, 900);
    router_send(&b.r, &g);
    router_expect(&b.r, MSG_tokens);
    router_refuse(&b.r, MSG_REFUSE_fenced, "epoch 1 is over");
    router_expect(&b.r, MSG_hello);
    /* Nothing of the old epoch after Hello, and its work is gone. */
    assert_false(router_recv(&b.r, 100));
    router_welcome(&b.r, 2, 50);
    fake.step_ms = 0;
    g = request(2, 1, 40);
    router_send(&b.r, &g);
    expect_whole(&b, &g, 2, 1);
    stop(&b);
}

static void test_refused(void **state)
{
    static const unsigned char version_2[] = {0x08, 2, 0x12, 0};
    struct bench b;
    (void)state;
    router_open(&b.r, "tcp://127.0.0.1:*");
    worker_start(&b, b.r.endpoint);
    router_expect(&b.r, MSG_hello);
    router_refuse(&b.r, MSG_REFUSE_version, "you speak 1, I speak 2");
    worker_end(&b, WRK_EXIT_refused, "you speak 1, I speak 2");
    worker_start(&b, b.r.endpoint);
    router_expect(&b.r, MSG_hello);
    router_refuse(&b.r, MSG_REFUSE_name, "w1 is here already");
    worker_end(&b, WRK_EXIT_refused, "(name): w1 is here already");
    /* A controller too new to say so in our version. */
    worker_start(&b, b.r.endpoint);
    router_expect(&b.r, MSG_hello);
    router_send_bytes(&b.r, version_2, sizeof version_2);
    worker_end(&b, WRK_EXIT_refused, "version 2");
    router_close(&b.r);
}

/* The controller comes late, dies in the middle of work, and comes back on the same port. */
static void test_controller_away(void **state)
{
    struct bench b;
    char endpoint[128];
    (void)state;
    router_open(&b.r, "tcp://127.0.0.1:*");
    snprintf(endpoint, sizeof endpoint, "%s", b.r.endpoint);
    router_close(&b.r);
    worker_start(&b, endpoint);
    zmq_poll(NULL, 0, 300);
    router_open(&b.r, endpoint);
    welcome(&b, 1);
    fake.step_ms = 5;
    struct msg g = request(1, 0, 900);
    router_send(&b.r, &g);
    router_expect(&b.r, MSG_tokens);
    router_close(&b.r);
    for (int i = 0; i < 400 && fake.n_open > 0; i++) /* its work is void: computing it would be waste */
        zmq_poll(NULL, 0, 10);
    assert_int_equal(fake.n_open, 0);
    fake.step_ms = 0;
    router_open(&b.r, endpoint);
    assert_true(router_recv(&b.r, ROUTER_WAIT_MS));
    assert_int_equal(b.r.m.kind, MSG_hello); /* the first thing that the new one hears */
    router_welcome(&b.r, 1, 50);             /* it counts from 1 again */
    g = request(1, 1, 40);
    router_send(&b.r, &g);
    expect_whole(&b, &g, 1, 1);
    stop(&b);
}

/* A controller in a process of its own: its endpoint and then one 'h' for each Hello come through fd. */
static pid_t controller_spawn(int *fd)
{
    int pair[2];
    assert_int_equal(pipe(pair), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) {
        close(pair[1]);
        *fd = pair[0];
        return pid;
    }
    struct router r;
    uint64_t epoch = 0;
    router_open(&r, "tcp://127.0.0.1:*");
    /* On a busy machine the worker may have given up and said Hello anew before it is answered: the old one is gone
     * then. */
    zmq_setsockopt(r.socket, ZMQ_ROUTER_MANDATORY, &(int){0}, sizeof(int));
    if (write(pair[1], r.endpoint, sizeof r.endpoint) != sizeof r.endpoint)
        _exit(1);
    while (router_recv(&r, 2 * ROUTER_WAIT_MS))
        if (r.m.kind == MSG_hello) {
            router_welcome(&r, ++epoch, 50);
            if (write(pair[1], "h", 1) != 1)
                _exit(1);
        }
    _exit(0);
}

static void expect_hello(int fd)
{
    char byte = 0;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, ROUTER_WAIT_MS), 1);
    assert_int_equal(read(fd, &byte, 1), 1);
    assert_int_equal(byte, 'h');
}

/* Its connection stands, but nobody is there any more (a frozen host): the worker gives it up and says Hello anew. */
static void test_controller_frozen(void **state)
{
    struct bench b;
    int fd, status;
    char endpoint[sizeof b.r.endpoint];
    (void)state;
    pid_t pid = controller_spawn(&fd);
    assert_int_equal(read(fd, endpoint, sizeof endpoint), sizeof endpoint);
    worker_start(&b, endpoint);
    expect_hello(fd);
    kill(pid, SIGSTOP);
    sleep(6); /* twice what the worker allows */
    kill(pid, SIGCONT);
    expect_hello(fd);
    wrk_serve_stop(b.serve);
    worker_end(&b, WRK_EXIT_ok, "");
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    close(fd);
}

static void test_resume(void **state)
{
    static int32_t want[FAKE_OUT_MAX], tok[200];
    enum msg_finish finish;
    struct bench b;
    (void)state;
    open_and_join(&b);
    struct msg g = request(1, 0, 64);
    int n = fake_expect(&g.generate, CONTEXT, want, &finish);
    assert_int_equal(n, 64);
    memcpy(tok, prompt[0], 20 * sizeof *tok);
    memcpy(tok + 20, want, 64 * sizeof *tok);
    for (int k = 0; k <= 64; k += 8) {
        struct msg part = g;
        part.generate.attempt = (uint32_t)k + 2;
        part.generate.tok = tok;
        part.generate.n_tok = 20 + k;
        part.generate.n_committed = k;
        router_send(&b.r, &part);
        expect_whole(&b, &part, 1, 0);
    }
    stop(&b);
}

static void drain(struct bench *b, bool on)
{
    struct msg m = {.kind = MSG_drain, .drain = {.epoch = 1, .on = on}};
    router_send(&b->r, &m);
    while (router_expect(&b->r, MSG_heartbeat)->heartbeat.draining != on)
        ;
}

static void test_drain_by_controller(void **state)
{
    static int32_t id[FAKE_OUT_MAX];
    struct bench b;
    struct msg end, g = request(1, 0, 5);
    (void)state;
    open_and_join(&b);
    drain(&b, true);
    router_send(&b.r, &g);
    assert_int_equal(collect(&b, 1, 0, 0, id, &end), 0);
    assert_int_equal(end.kind, MSG_failed);
    assert_int_equal(end.failed.cls, MSG_FAIL_worker);
    drain(&b, false);
    g.generate.attempt = 2;
    router_send(&b.r, &g);
    expect_whole(&b, &g, 1, 0);
    stop(&b);
}

/* Asked to end: what runs is finished, nothing new is taken, Bye is the last word. */
static void test_drain_and_leave(void **state)
{
    static int32_t id[FAKE_OUT_MAX];
    struct bench b;
    struct msg end, g = request(1, 0, 60), late = request(1, 1, 60);
    (void)state;
    open_and_join(&b); /* idle: it leaves at once */
    router_expect(&b.r, MSG_heartbeat);
    wrk_serve_drain(b.serve);
    router_expect(&b.r, MSG_bye);
    worker_end(&b, WRK_EXIT_ok, "");
    router_close(&b.r);

    open_and_join(&b);
    fake.step_ms = 3;
    router_send(&b.r, &g);
    router_expect(&b.r, MSG_tokens);
    wrk_serve_drain(b.serve);
    router_send(&b.r, &late);
    assert_int_equal(collect(&b, 1, 0, 1, id, &end), 60);
    assert_int_equal(end.kind, MSG_finished);
    router_expect(&b.r, MSG_bye);
    worker_end(&b, WRK_EXIT_ok, "");
    router_close(&b.r);
}

/* Stopped: Bye comes although the engine is in the middle of a long step. */
static void test_stop_in_long_step(void **state)
{
    struct bench b;
    (void)state;
    open_and_join(&b);
    fake.step_ms = 1500;
    struct msg g = request(1, 0, 60);
    router_send(&b.r, &g);
    while (fake.n_step == 0)
        zmq_poll(NULL, 0, 5);
    int64_t t0 = clock_mono_ns();
    wrk_serve_stop(b.serve);
    router_expect(&b.r, MSG_bye);
    assert_true(clock_mono_ns() - t0 < 1000LL * 1000000);
    worker_end(&b, WRK_EXIT_ok, "");
    router_close(&b.r);
}

static void test_broken_engine(void **state)
{
    struct bench b;
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        open_and_join(&b);
        if (kind != 1)
            fake.fail_after = 3;
        else
            fake.nan_after = 3;
        fake.is_rank_lost = kind == 2;
        struct msg g = request(1, 0, 60);
        router_send(&b.r, &g);
        const char *why = kind != 1 ? "fell off the bus" : "not a number";
        assert_non_null(strstr(router_expect(&b.r, MSG_bye)->bye.text, why));
        worker_end(&b, kind == 2 ? WRK_EXIT_rank : WRK_EXIT_device, why);
        fake.is_rank_lost = false;
        router_close(&b.r);
    }
}

static void test_bad_names(void **state)
{
    struct bench b;
    struct err err = {0};
    char name[80];
    (void)state;
    struct eng_opts eo = {.n_seq_max = 1, .step_tok_max = 32, .context_max = CONTEXT, .kv_tokens = 4000};
    assert_int_equal(eng_open(&eo, &b.eng, &err), 0);
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    struct wrk_serve_opts so = {.machine = &wrk_sched_machine,
                                .from = b.eng,
                                .endpoint = "tcp://127.0.0.1:9",
                                .name = name,
                                .backend = "ref",
                                .domain = "",
                                .n_seq_max = 1};
    assert_int_equal(wrk_serve_start(&so, &b.serve, &err), ERR_ARG);
    assert_non_null(strstr(err.text, "--name"));
    so.name = "";
    assert_int_equal(wrk_serve_start(&so, &b.serve, &err), ERR_ARG);
    assert_non_null(strstr(err.text, "worker"));
    so.name = "ok";
    so.endpoint = "nowhere";
    assert_int_equal(wrk_serve_start(&so, &b.serve, &err), ERR_ARG);
    eng_close(&b.eng);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_work),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_heartbeat_in_long_step),
        cmocka_unit_test(test_fenced),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_controller_away),
        cmocka_unit_test(test_controller_frozen),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_drain_by_controller),
        cmocka_unit_test(test_drain_and_leave),
        cmocka_unit_test(test_stop_in_long_step),
        cmocka_unit_test(test_broken_engine),
        cmocka_unit_test(test_bad_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
