/* Proves that the loop sleeps when there is nothing to do and wakes by itself for everything there is: messages,
 * deadlines, back-offs, work marked between turns; and the graceful stop. How: a worker on a thread of its own with a
 * blocking socket, so that nothing but the controller's own handles can wake the loop.
 */
#include "tests/unit/controller/rig.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

static struct rig rig;

struct thread_worker {
    pthread_t thread;
    char endpoint[256];
    atomic_bool stop;
    atomic_int n_fail; /* fail that many Generate as overloaded first */
};

static void send_msg(void *socket, const struct msg *m)
{
    struct buf buf = {0};
    struct err err;
    if (msg_encode(m, &buf, &err) == 0)
        zmq_send(socket, buf.data, buf.len, 0);
    buf_release(&buf);
}

/* Answer one Generate at once with all its tokens, one message each, and its end. */
static void serve(void *socket, struct thread_worker *t, const struct msg_generate *g)
{
    if (atomic_load(&t->n_fail) > 0) {
        struct msg f = {.kind = MSG_failed,
                        .failed = {.epoch = g->epoch, .attempt = g->attempt, .cls = MSG_FAIL_overload, .text = "busy"}};
        atomic_fetch_sub(&t->n_fail, 1);
        memcpy(f.failed.request, g->request, sizeof g->request);
        send_msg(socket, &f);
        return;
    }
    for (int64_t i = g->n_committed; i < g->max_output; i++) {
        struct msg_token token = {.id = rig_token(g->sampling.seed, i)};
        struct msg m = {.kind = MSG_tokens,
                        .tokens = {.epoch = g->epoch,
                                   .attempt = g->attempt,
                                   .first_index = i,
                                   .n = 1,
                                   .token = &token}};
        memcpy(m.tokens.request, g->request, sizeof g->request);
        send_msg(socket, &m);
    }
    struct msg end = {.kind = MSG_finished,
                      .finished = {.epoch = g->epoch,
                                   .attempt = g->attempt,
                                   .reason = MSG_FINISH_length,
                                   .stop_id = -1,
                                   .n_output = g->max_output}};
    memcpy(end.finished.request, g->request, sizeof g->request);
    send_msg(socket, &end);
}

static void *thread_main(void *arg)
{
    struct thread_worker *t = arg;
    void *ctx = zmq_ctx_new(), *s = zmq_socket(ctx, ZMQ_DEALER);
    int none = 0, wait_ms = 20;
    uint64_t epoch = 0, seq = 0;
    struct arena arena = {0};
    struct msg hello = {.kind = MSG_hello,
                        .hello = {.worker = "thread",
                                  .boot = 7,
                                  .pid = 1,
                                  .n_vocab = RIG_VOCAB,
                                  .n_ranks = 1,
                                  .n_seq_max = 4,
                                  .kv_blocks = 10,
                                  .context_max = 100000}};

    zmq_setsockopt(s, ZMQ_LINGER, &none, sizeof none);
    zmq_setsockopt(s, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
    zmq_connect(s, t->endpoint);
    send_msg(s, &hello);
    while (!atomic_load(&t->stop)) {
        zmq_msg_t z;
        struct msg m;
        struct err err;
        zmq_msg_init(&z);
        bool got = zmq_msg_recv(&z, s, 0) >= 0;
        if (got && msg_decode(zmq_msg_data(&z), zmq_msg_size(&z), &arena, &m, &err) == 0) {
            if (m.kind == MSG_welcome)
                epoch = m.welcome.epoch;
            if (m.kind == MSG_generate)
                serve(s, t, &m.generate);
        }
        zmq_msg_close(&z);
        arena_reset(&arena);
        if (epoch) {
            struct msg beat = {.kind = MSG_heartbeat, .heartbeat = {.epoch = epoch, .seq = ++seq}};
            send_msg(s, &beat);
        }
    }
    arena_release(&arena);
    zmq_close(s);
    zmq_ctx_term(ctx);
    return NULL;
}

static void thread_start(struct thread_worker *t)
{
    snprintf(t->endpoint, sizeof t->endpoint, "%s", ctl_worker_endpoint(rig.ctl));
    assert_int_equal(pthread_create(&t->thread, NULL, thread_main, t), 0);
}

static void thread_stop(struct thread_worker *t)
{
    atomic_store(&t->stop, true);
    pthread_join(t->thread, NULL);
}

static void open_without_timer(void)
{
    rig_init(&rig);
    rig_open(&rig);
    uv_timer_stop(&rig.timer);
}

static void on_end_timer(uv_timer_t *timer)
{
    *(bool *)timer->data = true;
}

/* Run for ms with one timer that fires once; the number of turns. */
static int turns_in(int64_t ms)
{
    bool done = false;
    int before = rig.n_front_turn;
    uv_timer_t timer;
    uv_timer_init(&rig.loop, &timer);
    timer.data = &done;
    uv_timer_start(&timer, on_end_timer, (uint64_t)ms, 0);
    while (!done)
        uv_run(&rig.loop, UV_RUN_ONCE);
    int n = rig.n_front_turn - before;
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(&rig.loop, UV_RUN_NOWAIT);
    return n;
}

static void test_sleeps_and_wakes(void **state)
{
    (void)state;
    struct thread_worker t = {0};
    open_without_timer();
    assert_true(turns_in(200) <= 6); /* nobody there: it does not turn idly */

    /* Submitted between turns, no worker yet: the worker's hello, then its tokens, must wake the loop. */
    struct rig_req *r = rig_start(&rig, 6, 300);
    thread_start(&t);
    rig_until(&rig, r->n_ended == 6);
    rig_assert_output(r, CTL_END_length, 300);
    /* Heartbeats come 50 times a second here; each may cost a few rounds, not hundreds. */
    assert_true(turns_in(300) <= 120);

    /* Back-off: the loop wakes for the retry. */
    atomic_store(&t.n_fail, 3);
    struct rig_req *again = rig_start(&rig, 1, 5);
    rig_until(&rig, again->n_ended == 1);
    rig_assert_output(again, CTL_END_length, 5);
    assert_int_equal(again->heard[0].n_redispatch, 3);
    thread_stop(&t);
    rig_close(&rig);
}

static void test_wakes_for_a_deadline(void **state)
{
    (void)state;
    open_without_timer();
    struct rig_req *r = rig_request(&rig, 1, 5, 120), *later = rig_request(&rig, 1, 5, 240);
    int64_t start = rig_now(&rig);
    assert_int_equal(rig_submit(later, NULL), 0);
    assert_int_equal(rig_submit(r, NULL), 0);
    rig_until(&rig, r->n_ended == 1);
    assert_true(r->heard[0].ended_at_ms - start >= 120);
    rig_until(&rig, later->n_ended == 1);
    assert_true(later->heard[0].ended_at_ms - start >= 240);
    rig_close(&rig);
}

static void test_many_messages_in_bounded_turns(void **state)
{
    (void)state;
    struct thread_worker t = {0};
    open_without_timer();
    thread_start(&t);
    struct rig_req *r = rig_start(&rig, 4, 3000); /* 12 000 messages as fast as they go */
    rig_until(&rig, r->n_ended == 4);
    rig_assert_output(r, CTL_END_length, 3000);
    assert_true(rig.n_front_turn >= 4 * 3000 / 256);
    thread_stop(&t);
    rig_close(&rig);
}

static void on_drained(void *arg)
{
    struct rig *r = arg;
    r->drained = true;
}

static void test_drain_lets_streams_end(void **state)
{
    (void)state;
    struct err err;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *w = rig_worker_init(&rig, 0);
    w->tick_ms = 5;
    rig_worker_join(w);
    struct rig_req *r = rig_start(&rig, 1, 20);
    rig_until(&rig, r->heard[0].n_tok >= 1);
    ctl_drain(rig.ctl, on_drained, &rig);
    assert_true(rig.drain_asked);
    assert_false(ctl_is_ready(rig.ctl));
    assert_true(ctl_is_draining(rig.ctl));
    assert_int_equal(rig_submit(rig_request(&rig, 1, 5, 0), &err), ERR_STATE);
    rig_run_ms(&rig, 10);
    assert_false(rig.drained);
    rig_until(&rig, rig.drained);
    rig_assert_output(r, CTL_END_length, 20);
    rig_close(&rig);
}

static void on_drained_close(void *arg)
{
    struct rig *r = arg;
    r->drained = true;
    ctl_close(&r->ctl, NULL, NULL); /* from inside the turn, as main does */
    r->closed = true;
}

static void test_drain_has_an_end(void **state)
{
    (void)state;
    rig_init(&rig);
    rig.config.limit.stop_ms = 100;
    rig_open(&rig);
    struct rig_req *r = rig_start(&rig, 2, 20); /* no worker: it would wait for ten minutes */
    rig_run_ms(&rig, 10);
    int64_t start = rig_now(&rig);
    ctl_drain(rig.ctl, on_drained_close, &rig);
    rig_until(&rig, rig.drained);
    assert_true(rig_now(&rig) - start >= 100);
    assert_int_equal(r->n_ended, 2);
    assert_int_equal(r->heard[0].end, CTL_END_canceled);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sleeps_and_wakes),
        cmocka_unit_test(test_wakes_for_a_deadline),
        cmocka_unit_test(test_many_messages_in_bounded_turns),
        cmocka_unit_test(test_drain_lets_streams_end),
        cmocka_unit_test(test_drain_has_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
