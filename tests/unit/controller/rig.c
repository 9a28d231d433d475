#include "tests/unit/controller/rig.h"

#include "common/mem/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

int32_t rig_token(uint64_t seed, int64_t i)
{
    return (int32_t)((seed * 131 + (uint64_t)i * 7919 + 17) % RIG_VOCAB);
}

int64_t rig_now(struct rig *rig)
{
    uv_update_time(&rig->loop);
    return (int64_t)uv_now(&rig->loop);
}

const struct ctl_counts *rig_counts(struct rig *rig)
{
    return ctl_counts_of(rig->ctl);
}

/* ---- the front ---- */

struct ctl_front {
    struct rig *rig;
    uv_idle_t handle; /* something that must be closed, as the real one has */
    void (*on_closed)(void *arg);
    void *arg;
};

static int front_open(struct ctl *ctl, struct ctl_front **front, struct err *err)
{
    (void)err;
    struct ctl_front *f = mem_zalloc(sizeof *f);
    f->rig = CONTAINER_OF(ctl_loop(ctl), struct rig, loop);
    uv_idle_init(ctl_loop(ctl), &f->handle);
    f->handle.data = f;
    *front = f;
    return 0;
}

static void front_turn(struct ctl_front *front)
{
    front->rig->n_front_turn++;
}

static void front_drain(struct ctl_front *front)
{
    front->rig->drain_asked = true;
}

static int front_port(const struct ctl_front *front)
{
    (void)front;
    return 4711;
}

static bool front_idle(const struct ctl_front *front)
{
    const struct rig *rig = front->rig;
    for (int i = 0; i < rig->n_req; i++)
        if (rig->reqs[i].req && rig->reqs[i].n_ended < rig->reqs[i].n_choice)
            return false;
    return true;
}

static void front_handle_closed(uv_handle_t *handle)
{
    struct ctl_front *f = handle->data;
    void (*on_closed)(void *) = f->on_closed;
    void *arg = f->arg;
    mem_free(f);
    on_closed(arg);
}

static void front_close(struct ctl_front **front, void (*on_closed)(void *arg), void *arg)
{
    struct ctl_front *f = *front;
    *front = NULL;
    for (int i = 0; i < f->rig->n_req; i++) {
        if (f->rig->leave)
            ctl_request_leave(&f->rig->reqs[i].req);
        else
            ctl_request_drop(&f->rig->reqs[i].req);
    }
    f->on_closed = on_closed;
    f->arg = arg;
    uv_close((uv_handle_t *)&f->handle, front_handle_closed);
}

static void front_recover(struct ctl_front *front, struct ctl_request *req);

static const struct ctl_front_ops front_ops = {
    .open = front_open,
    .recover = front_recover,
    .turn = front_turn,
    .drain = front_drain,
    .port = front_port,
    .idle = front_idle,
    .close = front_close,
};

static void on_tokens(void *arg, struct ctl_choice *c, int64_t first, int64_t n)
{
    struct rig_req *r = arg;
    struct rig_heard *h = &r->heard[c->idx];

    r->rig->events++;
    assert_false(h->ended);
    assert_int_equal(first, h->n_tok);
    assert_true(n > 0);
    assert_int_equal(c->n_shown, first + n);
    assert_true(c->req->accepted && c->out.n >= c->n_shown);
    for (int64_t i = first; i < first + n; i++)
        assert_int_equal(c->out.id[i], rig_token(c->seed, i));
    h->n_tok += n;
    if (r->finish_at >= 0 && h->n_tok >= r->finish_at) {
        ctl_choice_finish(c, CTL_END_stop);
        h->ended = true;
        h->end = CTL_END_stop;
        r->n_ended++;
    }
}

static void on_end(void *arg, struct ctl_choice *c)
{
    struct rig_req *r = arg;
    struct rig_heard *h = &r->heard[c->idx];

    r->rig->events++;
    assert_false(h->ended);
    assert_int_equal(c->state, CTL_CHOICE_ended);
    if (c->end == CTL_END_stop || c->end == CTL_END_length || !ctl_store(r->rig->ctl))
        assert_int_equal(c->out.n, h->n_tok);
    h->ended = true;
    h->end = c->end;
    h->ended_at_ms = (int64_t)uv_now(&r->rig->loop);
    r->n_ended++;
    ctl_wake(r->rig->ctl); /* a test may wait for this in a round of the loop that has nothing else to wake for */
}

static void on_redispatch(void *arg, struct ctl_choice *c)
{
    struct rig_req *r = arg;
    struct rig_heard *h = &r->heard[c->idx];

    r->rig->events++;
    assert_false(h->ended);
    assert_int_equal(c->state, CTL_CHOICE_queued);
    h->n_redispatch++;
}

static void on_arrived(void *arg, struct ctl_choice *c, int64_t first, int64_t n)
{
    struct rig_req *r = arg;
    assert_true(c->n_shown <= first && c->out.n == first + n);
    r->n_arrived += n;
}

static void on_ending(void *arg, struct ctl_choice *c)
{
    struct rig_req *r = arg;
    assert_int_equal(c->state, CTL_CHOICE_ended);
    r->n_ending++;
}

static void on_accepted(void *arg, struct ctl_request *req)
{
    struct rig_req *r = arg;
    assert_false(r->accepted);
    assert_true(req->accepted);
    r->accepted = true;
}

static const struct ctl_request_events events = {.on_tokens = on_tokens,
                                                 .on_end = on_end,
                                                 .on_redispatch = on_redispatch,
                                                 .on_arrived = on_arrived,
                                                 .on_ending = on_ending,
                                                 .on_accepted = on_accepted};

static void front_recover(struct ctl_front *front, struct ctl_request *req)
{
    struct rig *rig = front->rig;
    assert_true(rig->n_req < RIG_REQS_MAX);
    struct rig_req *r = &rig->reqs[rig->n_req++];
    *r = (struct rig_req){.rig = rig, .n_choice = req->n_choice, .finish_at = -1, .req = req};
    ctl_request_attach(req, &events, r);
}

struct rig_req *rig_request(struct rig *rig, int n_choice, int64_t max_output, int64_t deadline_ms)
{
    static const int32_t prompt[] = {1, 2, 3};
    assert_true(rig->n_req < RIG_REQS_MAX);
    struct rig_req *r = &rig->reqs[rig->n_req++];

    *r = (struct rig_req){.rig = rig, .n_choice = n_choice, .finish_at = -1};
    r->req = ctl_request_new(n_choice);
    snprintf(r->req->id, sizeof r->req->id, "req-%d", rig->n_req);
    r->req->prompt = mem_dup(prompt, sizeof prompt);
    r->req->n_prompt = N_ELEM(prompt);
    r->req->max_output = max_output;
    r->req->sampling.seed = (uint64_t)rig->n_req * 1000;
    r->req->deadline_ms = deadline_ms ? rig_now(rig) + deadline_ms : 0;
    r->req->events = &events;
    r->req->arg = r;
    return r;
}

int rig_submit(struct rig_req *r, struct err *err)
{
    struct ctl_request *own = r->req;
    int rc = ctl_request_submit(r->rig->ctl, &own, err);
    if (rc) {
        assert_non_null(own);
        ctl_request_destroy(&own);
        r->req = NULL;
    } else {
        assert_null(own);
    }
    return rc;
}

struct rig_req *rig_start(struct rig *rig, int n_choice, int64_t max_output)
{
    struct rig_req *r = rig_request(rig, n_choice, max_output, 0);
    struct err err;
    int rc = rig_submit(r, &err);
    if (rc)
        fail_msg("submit: %s", err.text);
    return r;
}

void rig_assert_output(const struct rig_req *r, enum ctl_end end, int64_t n)
{
    for (int i = 0; i < r->n_choice; i++) {
        const struct ctl_choice *c = &r->req->choice[i];
        assert_true(r->heard[i].ended);
        assert_string_equal(ctl_end_name(r->heard[i].end), ctl_end_name(end));
        assert_int_equal(c->out.n, n);
        assert_int_equal(r->heard[i].n_tok, n);
        for (int64_t k = 0; k < n; k++)
            assert_int_equal(c->out.id[k], rig_token(c->seed, k));
    }
}

/* ---- workers ---- */

void rig_worker_say(struct rig_worker *w, const struct msg *m)
{
    struct buf buf = {0};
    struct err err;

    if (msg_encode(m, &buf, &err))
        fail_msg("encode: %s", err.text);
    assert_int_equal(zmq_send(w->socket, buf.data, buf.len, ZMQ_DONTWAIT), buf.len);
    buf_release(&buf);
}

void rig_worker_hello(struct rig_worker *w)
{
    struct msg m = {.kind = MSG_hello, .hello = w->hello};
    w->epoch = 0;
    rig_worker_say(w, &m);
}

void rig_worker_tokens(struct rig_worker *w, uint64_t epoch, const char *name, uint32_t attempt, uint64_t seed,
                       int64_t first, int n)
{
    struct msg_token token[64] = {0};
    struct msg m = {.kind = MSG_tokens,
                    .tokens = {.epoch = epoch, .attempt = attempt, .first_index = first, .n = n, .token = token}};

    assert_true(n <= 64);
    for (int i = 0; i < n; i++) {
        token[i].id = rig_token(seed, first + i);
        token[i].logprob = -0.5f;
    }
    snprintf(m.tokens.request, sizeof m.tokens.request, "%s", name);
    rig_worker_say(w, &m);
}

void rig_worker_finished(struct rig_worker *w, const char *name, uint32_t attempt, int64_t n_output)
{
    struct msg m = {.kind = MSG_finished,
                    .finished = {.epoch = w->epoch,
                                 .attempt = attempt,
                                 .reason = MSG_FINISH_length,
                                 .stop_id = -1,
                                 .n_output = n_output,
                                 .cached_tok = 2}};
    snprintf(m.finished.request, sizeof m.finished.request, "%s", name);
    rig_worker_say(w, &m);
}

void rig_worker_failed(struct rig_worker *w, const char *name, uint32_t attempt, enum msg_fail cls, const char *text)
{
    struct msg m = {.kind = MSG_failed, .failed = {.epoch = w->epoch, .attempt = attempt, .cls = cls}};
    snprintf(m.failed.request, sizeof m.failed.request, "%s", name);
    snprintf(m.failed.text, sizeof m.failed.text, "%s", text);
    rig_worker_say(w, &m);
}

static void worker_forget(struct rig_worker *w)
{
    memset(w->seq, 0, sizeof w->seq);
}

static void worker_generate(struct rig_worker *w, const struct msg_generate *g)
{
    w->n_generate++;
    w->last = *g;
    memcpy(w->last_tok, g->tok, sizeof *g->tok * (size_t)(g->n_tok < 64 ? g->n_tok : 64));
    assert_int_equal(g->epoch, w->epoch);
    /* What is said to be committed must be what the model would have generated. */
    for (int64_t i = 0; i < g->n_committed; i++)
        assert_int_equal(g->tok[g->n_tok - g->n_committed + i], rig_token(g->sampling.seed, i));
    if (w->dies_on_generate) {
        rig_worker_kill(w);
        return;
    }
    if (w->manual)
        return;
    int n_active = 0;
    for (int i = 0; i < RIG_SEQS_MAX; i++)
        n_active += w->seq[i].active;
    assert_true(n_active < w->hello.n_seq_max); /* the controller keeps to the credits */
    for (int i = 0; i < RIG_SEQS_MAX; i++)
        if (!w->seq[i].active) {
            w->seq[i] = (struct rig_seq){.active = true,
                                         .attempt = g->attempt,
                                         .seed = g->sampling.seed,
                                         .next = g->n_committed,
                                         .max_output = g->max_output};
            memcpy(w->seq[i].name, g->request, sizeof g->request);
            return;
        }
    fail_msg("no place for a sequence");
}

static void worker_handle(struct rig_worker *w, const struct msg *m)
{
    switch (m->kind) {
    case MSG_welcome:
        w->epoch = m->welcome.epoch;
        w->heartbeat_ms = m->welcome.heartbeat_ms;
        w->lost_ms = m->welcome.lost_ms;
        w->beat_at_ms = 0;
        w->n_welcome++;
        break;
    case MSG_refused:
        w->refused = m->refused;
        w->n_refused++;
        if (m->refused.reason == MSG_REFUSE_fenced) {
            worker_forget(w);
            rig_worker_hello(w);
        }
        break;
    case MSG_generate: worker_generate(w, &m->generate); break;
    case MSG_cancel:
        w->n_cancel++;
        memcpy(w->canceled, m->cancel.request, sizeof w->canceled);
        for (int i = 0; i < RIG_SEQS_MAX; i++)
            if (w->seq[i].active && w->seq[i].attempt == m->cancel.attempt &&
                strcmp(w->seq[i].name, m->cancel.request) == 0)
                w->seq[i].active = false;
        break;
    default: fail_msg("a worker got a %s", msg_kind_name(m->kind));
    }
}

static void worker_read(struct rig_worker *w)
{
    struct arena arena = {0};

    while (w->socket) {
        zmq_msg_t z;
        struct msg m;
        struct err err;
        zmq_msg_init(&z);
        if (zmq_msg_recv(&z, w->socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&z);
            break;
        }
        if (msg_decode(zmq_msg_data(&z), zmq_msg_size(&z), &arena, &m, &err))
            fail_msg("decode: %s", err.text);
        worker_handle(w, &m);
        zmq_msg_close(&z);
        arena_reset(&arena);
    }
    arena_release(&arena);
}

static void worker_beat(struct rig_worker *w, int64_t now)
{
    struct msg m = {.kind = MSG_heartbeat};
    int n = 0;

    if (!w->epoch || now - w->beat_at_ms < w->heartbeat_ms)
        return;
    w->beat_at_ms = now;
    for (int i = 0; i < RIG_SEQS_MAX; i++)
        n += w->seq[i].active;
    m.heartbeat = (struct msg_heartbeat){.epoch = w->epoch,
                                         .seq = ++w->beat_seq,
                                         .running = n,
                                         .kv_blocks = w->hello.kv_blocks,
                                         .kv_blocks_free = w->hello.kv_blocks - n,
                                         .draining = w->draining};
    rig_worker_say(w, &m);
}

static void worker_generate_step(struct rig_worker *w, int64_t now)
{
    if (!w->epoch || w->manual || now < w->tick_at_ms)
        return;
    w->tick_at_ms = now + w->tick_ms;
    for (int i = 0; i < RIG_SEQS_MAX; i++) {
        struct rig_seq *q = &w->seq[i];
        if (!q->active)
            continue;
        rig_worker_tokens(w, w->epoch, q->name, q->attempt, q->seed, q->next, 1);
        if (++q->next < q->max_output)
            continue;
        rig_worker_finished(w, q->name, q->attempt, q->max_output);
        q->active = false;
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct rig *rig = timer->data;
    int64_t now = (int64_t)uv_now(&rig->loop);

    for (int i = 0; i < RIG_WORKERS_MAX; i++) {
        struct rig_worker *w = &rig->worker[i];
        if (!w->socket || w->silent)
            continue;
        worker_read(w);
        if (!w->socket)
            continue;
        worker_beat(w, now);
        worker_generate_step(w, now);
    }
}

struct rig_worker *rig_worker_init(struct rig *rig, int i)
{
    struct rig_worker *w = &rig->worker[i];
    assert_true(i < RIG_WORKERS_MAX && !w->socket);
    *w = (struct rig_worker){.rig = rig, .tick_ms = 1};
    snprintf(w->hello.worker, sizeof w->hello.worker, "w%d", i);
    snprintf(w->hello.domain, sizeof w->hello.domain, "d%d", i);
    snprintf(w->hello.backend, sizeof w->hello.backend, "ref");
    snprintf(w->hello.numerics, sizeof w->hello.numerics, "ref-1");
    w->hello.boot = uv_hrtime();
    w->hello.pid = 1000 + i;
    w->hello.fingerprint = 0xabc;
    w->hello.n_vocab = RIG_VOCAB;
    w->hello.n_ranks = 1;
    w->hello.n_seq_max = 8;
    w->hello.kv_blocks = 100;
    w->hello.context_max = 4096;
    return w;
}

void rig_worker_connect(struct rig_worker *w)
{
    int none = 0;
    w->zctx = zmq_ctx_new();
    w->socket = zmq_socket(w->zctx, ZMQ_DEALER);
    assert_non_null(w->socket);
    zmq_setsockopt(w->socket, ZMQ_LINGER, &none, sizeof none);
    assert_int_equal(zmq_connect(w->socket, ctl_worker_endpoint(w->rig->ctl)), 0);
}

void rig_worker_join(struct rig_worker *w)
{
    int n = w->n_welcome;
    if (!w->socket)
        rig_worker_connect(w);
    rig_worker_hello(w);
    rig_until(w->rig, w->n_welcome > n);
}

void rig_worker_kill(struct rig_worker *w)
{
    if (!w->socket)
        return;
    zmq_close(w->socket);
    zmq_ctx_term(w->zctx);
    w->socket = w->zctx = NULL;
    worker_forget(w);
    w->epoch = 0;
}

/* ---- life ---- */

void rig_init(struct rig *rig)
{
    memset(rig, 0, sizeof *rig);
    ctl_config_init(&rig->config);
    rig->config.model_name = "rig";
    rig->config.limit.heartbeat_ms = 50;
    rig->config.limit.lost_ms = 400;
}

void rig_open(struct rig *rig)
{
    struct ctl_parts parts = {.front = &front_ops, .n_vocab = RIG_VOCAB};
    struct err err;

    assert_int_equal(uv_loop_init(&rig->loop), 0);
    if (ctl_open_with(&rig->loop, &rig->config, &parts, &rig->ctl, &err))
        fail_msg("open: %s", err.text);
    uv_timer_init(&rig->loop, &rig->timer);
    rig->timer.data = rig;
    uv_timer_start(&rig->timer, on_timer, RIG_TICK_MS, RIG_TICK_MS);
}

static void on_ctl_closed(void *arg)
{
    struct rig *rig = arg;
    rig->closed = true;
}

void rig_step(struct rig *rig)
{
    uv_run(&rig->loop, UV_RUN_ONCE);
}

void rig_run_ms(struct rig *rig, int64_t ms)
{
    int64_t end = rig_now(rig) + ms;
    while (rig_now(rig) < end)
        rig_step(rig);
}

void rig_close(struct rig *rig)
{
    if (rig->ctl)
        ctl_close(&rig->ctl, on_ctl_closed, rig);
    assert_null(rig->ctl);
    for (int i = 0; i < RIG_WORKERS_MAX; i++)
        rig_worker_kill(&rig->worker[i]);
    uv_close((uv_handle_t *)&rig->timer, NULL);
    uv_run(&rig->loop, UV_RUN_DEFAULT);
    assert_true(rig->closed);
    assert_int_equal(uv_loop_close(&rig->loop), 0);
}

/* ---- a store ---- */

void rig_store(struct rig *rig, const struct rig *same)
{
    if (same) {
        memcpy(rig->store, same->store, sizeof rig->store);
    } else {
        snprintf(rig->store, sizeof rig->store, "/tmp/baton-rig-XXXXXX");
        int fd = mkstemp(rig->store);
        assert_true(fd >= 0);
        close(fd);
    }
    rig->config.store = rig->store;
}

void rig_unlink(struct rig *rig)
{
    static const char *const tail[] = {"", "-wal", "-shm", "-journal"};
    char path[80];

    for (size_t i = 0; i < N_ELEM(tail); i++) {
        snprintf(path, sizeof path, "%s%s", rig->store, tail[i]);
        unlink(path);
    }
}
