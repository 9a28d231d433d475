/* Proves who is let in and who is refused, that a worker is lost by its connection's end at once and by silence within
 * lost_ms, that one that wakes up is fenced and joins again, that a stall of the controller itself costs no worker, and
 * that junk on the socket does no harm. How: a whole controller on a real loop, scripted workers and raw
 * sockets over tcp.
 */
#include "tests/unit/controller/rig.h"

#include "controller/link/link.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

static struct rig rig;

/* State of worker `name` as `baton ps` shows it: the JSON must parse. */
static const char *state_of(const char *name)
{
    static char state[32];
    struct buf out = {0};
    struct arena arena = {0};
    const struct json *root;
    struct err err;

    ctl_status_json(rig.ctl, &out);
    if (json_parse(out.data, out.len, JSON_NO_REPEATED_KEYS, &arena, &root, &err))
        fail_msg("status is no JSON: %s", err.text);
    snprintf(state, sizeof state, "none");
    for (const struct json *w = json_get(root, "workers")->child; w; w = w->next)
        if (json_is_str(json_get(w, "name"), name))
            snprintf(state, sizeof state, "%s", json_get(w, "state")->text);
    buf_release(&out);
    arena_release(&arena);
    return state;
}

static bool is_state(const char *name, const char *state)
{
    return strcmp(state_of(name), state) == 0;
}

static void test_join(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    assert_false(ctl_is_ready(rig.ctl));
    assert_int_equal(ctl_context_max(rig.ctl), 0);
    struct rig_worker *a = rig_worker_init(&rig, 0), *b = rig_worker_init(&rig, 1);
    b->hello.context_max = 9000;
    rig_worker_join(a);
    assert_int_equal(a->epoch, 1);
    assert_int_equal(a->heartbeat_ms, 50);
    assert_int_equal(a->lost_ms, 400);
    rig_worker_join(b);
    assert_int_equal(b->epoch, 2);
    assert_true(ctl_is_ready(rig.ctl));
    assert_int_equal(ctl_context_max(rig.ctl), 9000);
    assert_int_equal(ctl_fingerprint(rig.ctl), 0xabc);
    assert_string_equal(state_of("w0"), "ready");
    rig_run_ms(&rig, 600); /* heartbeats keep it */
    assert_string_equal(state_of("w1"), "ready");
    assert_int_equal(rig_counts(&rig)->lost, 0);
    rig_worker_kill(b);
    rig_until(&rig, is_state("w1", "lost"));
    assert_int_equal(ctl_context_max(rig.ctl), 4096);
    rig_worker_kill(a);
    rig_until(&rig, is_state("w0", "lost"));
    assert_int_equal(ctl_context_max(rig.ctl), 4096); /* the last known */
    assert_false(ctl_is_ready(rig.ctl));
    rig_close(&rig);
}

static void expect_refused(struct rig_worker *w, enum msg_refuse reason, const char *text)
{
    int n = w->n_refused;
    if (!w->socket)
        rig_worker_connect(w);
    rig_worker_hello(w);
    rig_until(&rig, w->n_refused > n);
    assert_string_equal(msg_refuse_name(w->refused.reason), msg_refuse_name(reason));
    if (!strstr(w->refused.text, text))
        fail_msg("'%s' does not say '%s'", w->refused.text, text);
    assert_int_equal(w->epoch, 0);
}

static void test_refusals(void **state)
{
    (void)state;
    rig_init(&rig);
    rig.config.limit.workers_max = 2;
    rig_open(&rig);
    struct rig_worker *few = rig_worker_init(&rig, 1);
    few->hello.n_vocab = RIG_VOCAB - 1;
    expect_refused(few, MSG_REFUSE_model, "999 token ids");
    few->hello.n_vocab = RIG_VOCAB + 24; /* a padded vocabulary is fine */
    rig_worker_join(few);

    struct rig_worker *w = rig_worker_init(&rig, 2);
    w->hello.n_vocab = RIG_VOCAB + 24;
    w->hello.fingerprint = 0xdef;
    expect_refused(w, MSG_REFUSE_model, "first brought by w1");
    w->hello.fingerprint = 0xabc;
    w->hello.n_vocab = RIG_VOCAB;
    expect_refused(w, MSG_REFUSE_model, "first brought by w1");
    w->hello.n_vocab = RIG_VOCAB + 24;
    snprintf(w->hello.worker, sizeof w->hello.worker, "w1");
    expect_refused(w, MSG_REFUSE_name, "connected already");
    snprintf(w->hello.worker, sizeof w->hello.worker, "w2");
    rig_worker_join(w);

    struct rig_worker *third = rig_worker_init(&rig, 3);
    third->hello.n_vocab = RIG_VOCAB + 24;
    expect_refused(third, MSG_REFUSE_full, "workers_max is 2");
    rig_worker_kill(w);
    rig_until(&rig, is_state("w2", "lost"));
    rig_worker_join(third); /* the place is free */
    assert_int_equal(rig_counts(&rig)->refused, 5);
    rig_close(&rig);
}

static void test_version(void **state)
{
    (void)state;
    struct buf buf = {0};
    struct err err;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *w = rig_worker_init(&rig, 0);
    rig_worker_connect(w);
    struct msg m = {.kind = MSG_hello, .hello = w->hello};
    assert_int_equal(msg_encode(&m, &buf, &err), 0);
    assert_int_equal(buf.data[0], 0x08); /* field 1, varint: the version comes first on the wire */
    assert_int_equal(buf.data[1], MSG_WIRE_VERSION);
    buf.data[1] = 99;
    zmq_send(w->socket, buf.data, buf.len, 0);
    rig_until(&rig, w->n_refused == 1);
    assert_int_equal(w->refused.reason, MSG_REFUSE_version);
    assert_non_null(strstr(w->refused.text, "99"));
    buf_release(&buf);
    rig_close(&rig);
}

static void test_silence_and_waking_up(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *w = rig_worker_init(&rig, 0);
    w->tick_ms = 10;
    rig_worker_join(w);
    struct rig_req *r = rig_start(&rig, 3, 30);
    rig_until(&rig, rig_counts(&rig)->tokens >= 6);
    uint64_t old = w->epoch;
    int n_redispatch = 0;

    w->silent = true;
    int64_t at = rig_now(&rig);
    rig_until(&rig, is_state("w0", "lost"));
    int64_t took = rig_now(&rig) - at;
    assert_true(took >= 300 && took < 1500); /* not at once, not much later than lost_ms */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(r->req->choice[i].state, CTL_CHOICE_queued);
        n_redispatch += r->heard[i].n_redispatch;
    }
    assert_int_equal(n_redispatch, 3);

    /* It wakes up and goes on with its old work: fenced, one refusal for all of it, hello, and the work comes back. */
    w->silent = false;
    rig_until(&rig, w->n_welcome == 2);
    assert_int_equal(w->epoch, old + 1);
    assert_int_equal(w->n_refused, 1);
    assert_string_equal(state_of("w0"), "ready");
    rig_until(&rig, r->n_ended == 3);
    rig_assert_output(r, CTL_END_length, 30);
    assert_true(rig_counts(&rig)->fenced >= 1);
    assert_true(rig_counts(&rig)->stale_tokens_dropped >= 1);
    assert_int_equal(rig_counts(&rig)->violations, 0);
    rig_close(&rig);
}

/* A message of the current epoch, but from another connection, is fenced too. */
static void test_epoch_of_another(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *a = rig_worker_init(&rig, 0), *b = rig_worker_init(&rig, 1);
    a->manual = true;
    rig_worker_join(a);
    struct rig_req *r = rig_start(&rig, 1, 5);
    struct ctl_choice *c = &r->req->choice[0];
    rig_until(&rig, a->n_generate == 1);
    rig_worker_connect(b);
    rig_worker_tokens(b, a->epoch, c->name, 1, c->seed, 0, 1);
    rig_until(&rig, b->n_refused == 1);
    assert_int_equal(c->out.n, 0);
    assert_int_equal(rig_counts(&rig)->stale_tokens_dropped, 1);
    assert_string_equal(state_of("w0"), "ready");
    rig_close(&rig);
}

/* A process that starts again under its name takes the name over, when the old connection has ended. */
static void test_restart_under_the_same_name(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    for (int i = 0; i < 20; i++) {
        struct rig_worker *w = rig_worker_init(&rig, 0);
        rig_worker_join(w);
        assert_int_equal(w->epoch, i + 1);
        rig_worker_kill(w); /* the next hello may be on the same descriptor, before its end was looked at */
    }
    rig_until(&rig, is_state("w0", "lost"));
    assert_int_equal(rig_counts(&rig)->lost, 20);
    rig_close(&rig);
}

static void test_draining_and_bye(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *a = rig_worker_init(&rig, 0);
    rig_worker_join(a);
    a->draining = true;
    rig_until(&rig, is_state("w0", "draining"));
    assert_false(ctl_is_ready(rig.ctl));
    struct rig_req *r = rig_start(&rig, 1, 5);
    rig_run_ms(&rig, 100);
    assert_int_equal(a->n_generate, 0);
    a->draining = false;
    rig_until(&rig, r->n_ended == 1);

    /* The host will take it away: no new work, and taken back. */
    struct msg m = {.kind = MSG_reclaim, .reclaim = {.epoch = a->epoch, .deadline_ms = 5000, .source = "test"}};
    rig_worker_say(a, &m);
    rig_until(&rig, is_state("w0", "draining"));
    rig_run_ms(&rig, 120);
    assert_string_equal(state_of("w0"), "draining"); /* heartbeats do not make it ready */
    m.reclaim.revoked = true;
    rig_worker_say(a, &m);
    rig_until(&rig, is_state("w0", "ready"));

    /* A clean goodbye moves the work and blames nobody. */
    a->manual = true;
    struct rig_req *moved = rig_start(&rig, 1, 5);
    rig_until(&rig, a->n_generate == 2);
    struct msg bye = {.kind = MSG_bye, .bye = {.epoch = a->epoch, .text = "drained"}};
    rig_worker_say(a, &bye);
    rig_until(&rig, is_state("w0", "lost"));
    assert_int_equal(rig_counts(&rig)->lost, 0);
    assert_int_equal(moved->req->choice[0].n_death, 0);
    assert_int_equal(moved->heard[0].n_redispatch, 1);
    rig_worker_join(rig_worker_init(&rig, 1));
    rig_until(&rig, moved->n_ended == 1);
    rig_assert_output(moved, CTL_END_length, 5);
    rig_close(&rig);
}

/* The loop stands still for longer than lost_ms, as under SIGSTOP or in one long turn: nobody is given up for it. */
static void test_own_stall(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    rig_worker_join(rig_worker_init(&rig, 0));
    rig_run_ms(&rig, 60);
    nanosleep(&(struct timespec){.tv_nsec = 900000000}, NULL);
    rig_run_ms(&rig, 600);
    assert_int_equal(rig_counts(&rig)->lost, 0);
    assert_true(rig_counts(&rig)->loop_stalls >= 1);
    assert_string_equal(state_of("w0"), "ready");
    /* A worker that is really silent is found all the same. */
    rig.worker[0].silent = true;
    rig_until(&rig, is_state("w0", "lost"));
    rig_close(&rig);
}

static void test_junk(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *good = rig_worker_init(&rig, 0), *junk = rig_worker_init(&rig, 1);
    rig_worker_join(good);
    rig_worker_connect(junk);
    unsigned char noise[300];
    for (int i = 0; i < 200; i++) {
        for (size_t k = 0; k < sizeof noise; k++)
            noise[k] = (unsigned char)(i * 31 + (int)k * 17);
        zmq_send(junk->socket, noise, (size_t)i, 0);
    }
    zmq_send(junk->socket, "", 0, ZMQ_SNDMORE); /* as a REQ socket would */
    zmq_send(junk->socket, "x", 1, ZMQ_SNDMORE);
    zmq_send(junk->socket, "y", 1, 0);
    struct msg welcome = {.kind = MSG_welcome, .welcome = {.epoch = 1, .heartbeat_ms = 1, .lost_ms = 1}};
    rig_worker_say(junk, &welcome); /* the wrong way */
    rig_until(&rig, rig_counts(&rig)->malformed >= 202);
    struct rig_req *r = rig_start(&rig, 2, 5);
    rig_until(&rig, r->n_ended == 2);
    rig_assert_output(r, CTL_END_length, 5);

    /* From a worker in the table junk may have been tokens: its stay ends, and it is let in again. */
    good->tick_ms = 20;
    struct rig_req *long_one = rig_start(&rig, 1, 50);
    rig_until(&rig, long_one->heard[0].n_tok >= 2);
    zmq_send(good->socket, "junk", 4, 0);
    rig_until(&rig, good->n_welcome == 2);
    rig_until(&rig, long_one->n_ended == 1);
    rig_assert_output(long_one, CTL_END_length, 50);
    rig_close(&rig);
}

/* A worker that says hello again on its own, and one that changes its name, have left their old work. */
static void test_hello_again(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *w = rig_worker_init(&rig, 0);
    w->manual = true;
    rig_worker_join(w);
    struct rig_req *r = rig_start(&rig, 1, 5);
    rig_until(&rig, w->n_generate == 1);
    rig_worker_join(w);
    rig_until(&rig, w->n_generate == 2);
    assert_int_equal(r->heard[0].n_redispatch, 1);
    snprintf(w->hello.worker, sizeof w->hello.worker, "other");
    w->manual = false;
    rig_worker_join(w);
    rig_until(&rig, r->n_ended == 1);
    rig_assert_output(r, CTL_END_length, 5);
    assert_string_equal(state_of("w0"), "lost");
    assert_string_equal(state_of("other"), "ready");
    rig_close(&rig);
}

static void test_cannot_bind(void **state)
{
    (void)state;
    struct ctl_link_opts opts = {.endpoint = "tcp://192.0.2.1:1", .workers_max = 1, .heartbeat_ms = 50, .lost_ms = 100};
    struct ctl_link *l = NULL;
    struct err err;
    uv_loop_t loop;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(ctl_link_open(&loop, &opts, &l, &err), ERR_NET);
    assert_null(l);
    assert_non_null(strstr(err.text, "192.0.2.1"));
    opts.endpoint = "carrier-pigeon://home";
    assert_int_equal(ctl_link_open(&loop, &opts, &l, &err), ERR_NET);
    opts.endpoint = "";
    assert_int_equal(ctl_link_open(&loop, &opts, &l, &err), ERR_ARG);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_join),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_version),
        cmocka_unit_test(test_silence_and_waking_up),
        cmocka_unit_test(test_epoch_of_another),
        cmocka_unit_test(test_restart_under_the_same_name),
        cmocka_unit_test(test_draining_and_bye),
        cmocka_unit_test(test_own_stall),
        cmocka_unit_test(test_junk),
        cmocka_unit_test(test_hello_again),
        cmocka_unit_test(test_cannot_bind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
