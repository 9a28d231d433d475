#include "worker/link/link.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/ds/bqueue.h"
#include "common/mem/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <zmq.h>

static const char monitor_at[] = "inproc://worker-link-monitor";

/* A message on its way to the controller. */
struct out {
    uint64_t stay;
    struct buf bytes;
};

struct wrk_link {
    struct wrk_link_opts opts;
    char endpoint[256];
    void *zctx, *dealer, *monitor;
    int wake_fd, done_fd;
    int timer_fd;        /* wakes the thread for opts.turn, to the microsecond; -1 without */
    int64_t turn_at_ns;  /* when opts.turn wants to be called; what timer_fd is set to */
    pthread_t thread;
    struct bqueue *in, *out;
    atomic_uint_fast64_t stay;
    atomic_bool must_rejoin, own_drain, must_leave;
    atomic_bool is_woken;  /* wake_fd is readable, or is about to be */
    pthread_mutex_t mutex; /* of beat, bye and news */
    struct msg_heartbeat beat;
    struct {
        uint64_t stay, round; /* round: changes when the list begins anew */
        bool is_all;
        struct prefix_news *item; /* [cap], n of them */
        int n, cap;
    } news;
    struct msg_bye bye;
    /* the thread's own */
    bool is_joined, is_draining, is_ending;
    bool said_drain; /* the last heartbeat told of own_drain */
    uint64_t epoch, beat_seq;
    int32_t heartbeat_ms;
    int64_t beat_at_ns, hello_at_ns, leave_by_ns;
    int hello_wait_ms;
    struct out *pending; /* taken from the queue, not yet taken by ZeroMQ */
    uint64_t jitter;
    struct err end; /* code 0: left as asked */
};

static int64_t ms_to_ns(int64_t ms)
{
    return ms * 1000000;
}

/* One write however many messages were queued since the thread last looked: it clears the mark before it does. */
static void wake(struct wrk_link *l)
{
    uint64_t one = 1;
    if (atomic_exchange(&l->is_woken, true))
        return;
    /* Fails only when the counter is full: then it is readable anyway. */
    ssize_t n = write(l->wake_fd, &one, sizeof one);
    (void)n;
}

static void out_free(struct out *o)
{
    buf_release(&o->bytes);
    mem_free(o);
}

void wrk_cmd_free(struct wrk_cmd **cmd)
{
    if (!*cmd)
        return;
    arena_release(&(*cmd)->arena);
    mem_free(*cmd);
    *cmd = NULL;
}

/* ---- stays ---- */

static int random_up_to(struct wrk_link *l, int max)
{
    l->jitter = l->jitter * 6364136223846793005u + 1442695040888963407u;
    return (int)((l->jitter >> 33) % (uint64_t)(max + 1));
}

static void plan_hello(struct wrk_link *l, int wait_ms)
{
    l->hello_at_ns = clock_mono_ns() + ms_to_ns(wait_ms);
}

/* The one way out of a stay: everything of it is void. */
static void end_stay(struct wrk_link *l, const char *why)
{
    if (l->is_joined)
        log_warn(link, "epoch=%" PRIu64 " is over: %s", l->epoch, why);
    l->is_joined = false;
    l->is_draining = false;
    atomic_fetch_add(&l->stay, 1);
    l->hello_wait_ms = WRK_LINK_HELLO_MS;
    plan_hello(l, 0);
}

static void end_thread(struct wrk_link *l, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* code 0: as asked. */
static void end_thread(struct wrk_link *l, int code, const char *fmt, ...)
{
    va_list ap;
    if (l->is_ending)
        return;
    l->is_ending = true;
    va_start(ap, fmt);
    if (code)
        err_setv(&l->end, code, fmt, ap);
    va_end(ap);
}

/* ---- sending ---- */

/* 0, or ERR_BUSY: not now. */
static int send_bytes(struct wrk_link *l, const struct buf *b)
{
    while (zmq_send(l->dealer, b->data, b->len, ZMQ_DONTWAIT) < 0) {
        if (zmq_errno() == EINTR)
            continue;
        return ERR_BUSY; /* EAGAIN: no connection, or its queue is full */
    }
    return 0;
}

static int send_msg(struct wrk_link *l, const struct msg *m)
{
    struct buf b = {0};
    struct err err;
    int rc = msg_encode(m, &b, &err);
    if (rc)
        log_error(link, "not sent: %s", err.text);
    else
        rc = send_bytes(l, &b);
    buf_release(&b);
    return rc;
}

static void say_hello(struct wrk_link *l)
{
    struct msg m = {.kind = MSG_hello, .hello = l->opts.hello};
    if (send_msg(l, &m)) {
        plan_hello(l, WRK_LINK_RECONNECT_MS); /* not connected: nothing was said, so nothing backs off */
        return;
    }
    int half = l->hello_wait_ms / 2;
    plan_hello(l, half + random_up_to(l, half));
    l->hello_wait_ms = l->hello_wait_ms * 2 > WRK_LINK_HELLO_MS_MAX ? WRK_LINK_HELLO_MS_MAX : l->hello_wait_ms * 2;
}

static bool takes_no_work(struct wrk_link *l)
{
    return l->is_draining || atomic_load(&l->own_drain);
}

/* News of this stay into the heartbeat, as many as it takes; those of another stay are void. */
static void take_news(struct wrk_link *l, struct msg_heartbeat *h, struct prefix_news *room)
{
    int n = l->news.stay == atomic_load(&l->stay) ? l->news.n : 0;
    h->news_all = l->news.stay == atomic_load(&l->stay) && l->news.is_all;
    h->n_news = n < MSG_NEWS_MAX ? n : MSG_NEWS_MAX;
    h->news = room;
    if (n)
        memcpy(room, l->news.item, (size_t)h->n_news * sizeof *room);
}

static bool has_news(struct wrk_link *l)
{
    pthread_mutex_lock(&l->mutex);
    bool yes = (l->news.n > 0 || l->news.is_all) && l->news.stay == atomic_load(&l->stay);
    pthread_mutex_unlock(&l->mutex);
    return yes;
}

/* They are on the way; the engine may have added some meanwhile, or begun anew. */
static void drop_news(struct wrk_link *l, const struct msg_heartbeat *h, uint64_t round)
{
    pthread_mutex_lock(&l->mutex);
    if (l->news.round == round) {
        l->news.n -= h->n_news;
        l->news.is_all = false;
        if (l->news.n)
            memmove(l->news.item, l->news.item + h->n_news, (size_t)l->news.n * sizeof *l->news.item);
    }
    pthread_mutex_unlock(&l->mutex);
}

/* False: ZeroMQ took none; the next one comes in its time. */
static bool send_heartbeat(struct wrk_link *l)
{
    static _Thread_local struct prefix_news room[MSG_NEWS_MAX];
    struct msg m = {.kind = MSG_heartbeat};
    pthread_mutex_lock(&l->mutex);
    m.heartbeat = l->beat;
    take_news(l, &m.heartbeat, room);
    uint64_t round = l->news.round;
    pthread_mutex_unlock(&l->mutex);
    m.heartbeat.epoch = l->epoch;
    m.heartbeat.seq = l->beat_seq++;
    m.heartbeat.draining = takes_no_work(l);
    l->said_drain = atomic_load(&l->own_drain);
    l->beat_at_ns = clock_mono_ns() + ms_to_ns(l->heartbeat_ms);
    if (send_msg(l, &m)) {
        log_debug(link, "a heartbeat found no room");
        return false;
    }
    if (m.heartbeat.n_news || m.heartbeat.news_all)
        drop_news(l, &m.heartbeat, round);
    return true;
}

/* Hand queued messages to ZeroMQ until it takes no more. */
static void pump_out(struct wrk_link *l)
{
    void *item;
    for (;;) {
        if (!l->pending) {
            if (bqueue_pop(l->out, 0, &item) != 0)
                return;
            l->pending = item;
        }
        bool is_void = !l->is_joined || l->pending->stay != atomic_load(&l->stay);
        if (!is_void && send_bytes(l, &l->pending->bytes) != 0)
            return;
        out_free(l->pending);
        l->pending = NULL;
    }
}

/* ---- receiving ---- */

static void answer_failed(struct wrk_link *l, const struct msg_generate *g, enum msg_fail cls, const char *text)
{
    struct msg m = {.kind = MSG_failed, .failed = {.epoch = l->epoch, .attempt = g->attempt, .cls = cls}};
    snprintf(m.failed.request, sizeof m.failed.request, "%s", g->request);
    snprintf(m.failed.text, sizeof m.failed.text, "%s", text);
    if (send_msg(l, &m)) /* an answer that is lost would leave the request hanging */
        end_stay(l, "a refusal could not be sent");
}

/* Pass a command on to the engine thread; it owns *cmd then. */
static void pass_on(struct wrk_link *l, struct wrk_cmd **cmd)
{
    const struct msg *m = &(*cmd)->m;
    uint64_t epoch = m->kind == MSG_generate ? m->generate.epoch : m->cancel.epoch;
    if (!l->is_joined || epoch != l->epoch)
        return; /* of a stay that is over */
    if (m->kind == MSG_generate && takes_no_work(l)) {
        answer_failed(l, &m->generate, MSG_FAIL_worker, "this worker is draining");
        return;
    }
    (*cmd)->stay = atomic_load(&l->stay);
    (*cmd)->at_ns = clock_mono_ns();
    if (bqueue_push(l->in, *cmd) == 0)
        *cmd = NULL;
    else if (m->kind == MSG_generate)
        answer_failed(l, &m->generate, MSG_FAIL_overload, "the queue of this worker is full");
    else
        log_warn(link, "a cancel of request=%s found no room", m->cancel.request);
}

static void on_welcome(struct wrk_link *l, const struct msg_welcome *w)
{
    if (l->is_joined && w->epoch == l->epoch)
        return;
    if (l->is_joined)
        end_stay(l, "the controller welcomed us again");
    atomic_fetch_add(&l->stay, 1);
    l->is_joined = true;
    l->epoch = w->epoch;
    l->heartbeat_ms = w->heartbeat_ms;
    l->beat_at_ns = clock_mono_ns();
    log_info(link, "epoch=%" PRIu64 " begins: heartbeat_ms=%d lost_ms=%d", w->epoch, (int)w->heartbeat_ms,
             (int)w->lost_ms);
    wrk_link_wake_engine(l); /* the controller does not know yet what this worker has in its cache */
}

static void on_refused(struct wrk_link *l, const struct msg_refused *r)
{
    if (r->reason == MSG_REFUSE_fenced) {
        if (l->is_joined) /* else Hello is under way already */
            end_stay(l, r->text);
        return;
    }
    end_thread(l, r->reason == MSG_REFUSE_version ? ERR_VERSION : ERR_STATE,
               "the controller at %s refused this worker (%s): %s", l->endpoint, msg_refuse_name(r->reason), r->text);
}

static void on_drain(struct wrk_link *l, const struct msg_drain *d)
{
    if (!l->is_joined || d->epoch != l->epoch)
        return;
    l->is_draining = d->on;
    log_info(link, "draining=%d", (int)d->on);
    l->beat_at_ns = clock_mono_ns();
}

static void on_message(struct wrk_link *l, const void *data, size_t n)
{
    struct wrk_cmd *cmd = mem_zalloc(sizeof *cmd);
    struct err err;
    int rc = msg_decode(data, n, &cmd->arena, &cmd->m, &err);
    if (rc == 0 && cmd->m.kind <= MSG_bye)
        rc = err_set(&err, ERR_FORMAT, "a %s, which only workers send", msg_kind_name(cmd->m.kind));
    if (rc == ERR_VERSION) {
        end_thread(l, ERR_VERSION, "the controller at %s: %s", l->endpoint, err.text);
    } else if (rc) {
        /* It may have been work: only a new stay makes both sides sure of what is running. */
        log_error(link, "the controller sent what cannot be read: %s", err.text);
        if (l->is_joined)
            end_stay(l, "a message could not be read");
    } else {
        switch (cmd->m.kind) {
        case MSG_welcome: on_welcome(l, &cmd->m.welcome); break;
        case MSG_refused: on_refused(l, &cmd->m.refused); break;
        case MSG_drain: on_drain(l, &cmd->m.drain); break;
        case MSG_ping: l->beat_at_ns = clock_mono_ns(); break;
        default: pass_on(l, &cmd);
        }
    }
    wrk_cmd_free(&cmd);
}

/* One whole message off the socket; false: there is none. Of several frames only the fact is used: it is unreadable. */
static bool receive(struct wrk_link *l)
{
    zmq_msg_t frame, extra;
    zmq_msg_init(&frame);
    if (zmq_msg_recv(&frame, l->dealer, ZMQ_DONTWAIT) < 0) {
        zmq_msg_close(&frame);
        return false;
    }
    bool more = zmq_msg_more(&frame), is_single = !more;
    while (more) {
        zmq_msg_init(&extra);
        more = zmq_msg_recv(&extra, l->dealer, ZMQ_DONTWAIT) >= 0 && zmq_msg_more(&extra);
        zmq_msg_close(&extra);
    }
    on_message(l, zmq_msg_data(&frame), is_single ? zmq_msg_size(&frame) : 0);
    zmq_msg_close(&frame);
    return true;
}

/* Connections that began or ended; read before the messages, as their order is ours to keep. */
static void read_monitor(struct wrk_link *l)
{
    unsigned char event[16];
    char address[256];
    while (zmq_recv(l->monitor, event, sizeof event, ZMQ_DONTWAIT) >= 2) {
        uint16_t what;
        memcpy(&what, event, sizeof what);
        zmq_recv(l->monitor, address, sizeof address, ZMQ_DONTWAIT);
        if (what == ZMQ_EVENT_DISCONNECTED) {
            if (l->is_joined)
                end_stay(l, "the connection ended");
        } else if (!l->is_joined) {
            log_info(link, "connected to %s", l->endpoint);
            l->hello_wait_ms = WRK_LINK_HELLO_MS;
            plan_hello(l, 0);
        }
    }
}

/* ---- the thread ---- */

static int wait_ms(const struct wrk_link *l, int64_t now)
{
    int64_t at = l->is_joined ? l->beat_at_ns : l->hello_at_ns;
    if (l->leave_by_ns && l->leave_by_ns < at)
        at = l->leave_by_ns;
    return at <= now ? 0 : (int)((at - now + 999999) / 1000000);
}

static void wait_for_events(struct wrk_link *l)
{
    uint64_t n;
    zmq_pollitem_t item[] = {
        {.socket = l->dealer, .events = (short)(ZMQ_POLLIN | (l->pending ? ZMQ_POLLOUT : 0))},
        {.socket = l->monitor, .events = ZMQ_POLLIN},
        {.fd = l->wake_fd, .events = ZMQ_POLLIN},
        {.fd = l->timer_fd, .events = ZMQ_POLLIN},
    };
    int64_t now = clock_mono_ns();
    zmq_poll(item, l->opts.turn ? 4 : 3, l->opts.turn && l->turn_at_ns <= now ? 0 : wait_ms(l, now));
    if (item[2].revents) {
        ssize_t got = read(l->wake_fd, &n, sizeof n);
        (void)got;
        atomic_store(&l->is_woken, false);
    }
}

/* The part of the engine thread in a worker that has none. */
static void run_turn(struct wrk_link *l)
{
    int64_t at = l->opts.turn(l->opts.turn_arg);
    if (at == l->turn_at_ns)
        return;
    l->turn_at_ns = at;
    if (at <= clock_mono_ns()) /* the next wait is none */
        return;
    struct itimerspec t = {0}; /* zero: not armed */
    if (at != INT64_MAX)
        t.it_value = (struct timespec){.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
    int rc = timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &t, NULL); /* also makes it unreadable */
    ASSERT(rc == 0);
}

/* Leaving: what is queued goes first, as long as the time lasts. */
static bool has_left(struct wrk_link *l)
{
    if (!atomic_load(&l->must_leave))
        return false;
    int64_t now = clock_mono_ns();
    if (!l->leave_by_ns)
        l->leave_by_ns = now + ms_to_ns(WRK_LINK_BYE_MS);
    if ((l->pending || bqueue_len(l->out) > 0) && now < l->leave_by_ns)
        return false;
    if (l->is_joined) {
        struct msg m = {.kind = MSG_bye};
        pthread_mutex_lock(&l->mutex);
        m.bye = l->bye;
        pthread_mutex_unlock(&l->mutex);
        m.bye.epoch = l->epoch;
        send_msg(l, &m);
    }
    end_thread(l, 0, "as asked");
    return true;
}

static void *link_thread(void *arg)
{
    struct wrk_link *l = arg;
    plan_hello(l, 0);
    while (!l->is_ending) {
        wait_for_events(l);
        read_monitor(l);
        for (int i = 0; i < WRK_LINK_RECV_MAX && !l->is_ending && receive(l); i++)
            ;
        if (atomic_exchange(&l->must_rejoin, false) && l->is_joined)
            end_stay(l, "given up by the engine");
        if (l->opts.turn)
            run_turn(l);
        pump_out(l);
        if (l->is_ending || has_left(l))
            break;
        bool is_news = (atomic_load(&l->own_drain) && !l->said_drain) || has_news(l);
        if (l->is_joined && (is_news || clock_mono_ns() >= l->beat_at_ns))
            while (send_heartbeat(l) && has_news(l))
                ;
        if (!l->is_joined && clock_mono_ns() >= l->hello_at_ns)
            say_hello(l);
    }
    /* Nobody may wait for this thread any more. */
    atomic_fetch_add(&l->stay, 1);
    bqueue_close(l->in);
    bqueue_close(l->out);
    int linger_ms = WRK_LINK_BYE_MS;
    zmq_setsockopt(l->dealer, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_socket_monitor(l->dealer, NULL, 0);
    zmq_close(l->monitor);
    zmq_close(l->dealer);
    zmq_ctx_term(l->zctx);
    uint64_t one = 1;
    ssize_t n = write(l->done_fd, &one, sizeof one);
    (void)n;
    return NULL;
}

/* ---- start and end ---- */

static void set_int(void *socket, int option, int value)
{
    int rc = zmq_setsockopt(socket, option, &value, sizeof value);
    ASSERT(rc == 0);
}

static int open_sockets(struct wrk_link *l, struct err *err)
{
    l->zctx = zmq_ctx_new();
    l->dealer = zmq_socket(l->zctx, ZMQ_DEALER);
    l->monitor = zmq_socket(l->zctx, ZMQ_PAIR);
    if (!l->dealer || !l->monitor)
        return err_set(err, ERR_NET, "no ZeroMQ socket: %s", zmq_strerror(zmq_errno()));
    set_int(l->dealer, ZMQ_LINGER, 0);
    set_int(l->dealer, ZMQ_IMMEDIATE, 1); /* nothing is queued for a controller that is not there */
    set_int(l->dealer, ZMQ_SNDHWM, WRK_LINK_SEND_MAX);
    set_int(l->dealer, ZMQ_RECONNECT_IVL, WRK_LINK_RECONNECT_MS);
    set_int(l->dealer, ZMQ_RECONNECT_IVL_MAX, WRK_LINK_RECONNECT_MS_MAX);
    /* An idle controller says nothing, so silence is judged one level down, by ZeroMQ's own probes. */
    set_int(l->dealer, ZMQ_HEARTBEAT_IVL, WRK_LINK_PROBE_MS);
    set_int(l->dealer, ZMQ_HEARTBEAT_TIMEOUT, WRK_LINK_SILENCE_MS);
    int64_t max_bytes = MSG_BYTES_MAX;
    zmq_setsockopt(l->dealer, ZMQ_MAXMSGSIZE, &max_bytes, sizeof max_bytes);
    if (zmq_socket_monitor(l->dealer, monitor_at, ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED) != 0 ||
        zmq_connect(l->monitor, monitor_at) != 0)
        return err_set(err, ERR_NET, "no ZeroMQ monitor: %s", zmq_strerror(zmq_errno()));
    if (zmq_connect(l->dealer, l->endpoint) != 0)
        return err_set(err, ERR_ARG, "cannot connect to '%s': %s; an endpoint looks like tcp://127.0.0.1:7001",
                       l->endpoint, zmq_strerror(zmq_errno()));
    return 0;
}

static void free_link(struct wrk_link *l)
{
    void *item;
    while (bqueue_pop(l->in, 0, &item) == 0) {
        struct wrk_cmd *cmd = item;
        wrk_cmd_free(&cmd);
    }
    while (bqueue_pop(l->out, 0, &item) == 0)
        out_free(item);
    if (l->pending)
        out_free(l->pending);
    bqueue_destroy(&l->in);
    bqueue_destroy(&l->out);
    pthread_mutex_destroy(&l->mutex);
    mem_free(l->news.item);
    close(l->wake_fd);
    close(l->done_fd);
    if (l->timer_fd >= 0)
        close(l->timer_fd);
    mem_free(l);
}

static void close_sockets(struct wrk_link *l)
{
    if (l->dealer) {
        zmq_socket_monitor(l->dealer, NULL, 0);
        zmq_close(l->dealer);
    }
    if (l->monitor)
        zmq_close(l->monitor);
    if (l->zctx)
        zmq_ctx_term(l->zctx);
}

int wrk_link_start(const struct wrk_link_opts *opts, struct wrk_link **link, struct err *err)
{
    ASSERT(opts->n_in_max > 0 && opts->n_out_max > 0 && opts->out_wait_ms >= 0);
    struct wrk_link *l = mem_zalloc(sizeof *l);
    l->opts = *opts;
    snprintf(l->endpoint, sizeof l->endpoint, "%s", opts->endpoint);
    l->opts.endpoint = l->endpoint;
    l->in = bqueue_new((size_t)opts->n_in_max);
    l->out = bqueue_new((size_t)opts->n_out_max);
    l->hello_wait_ms = WRK_LINK_HELLO_MS;
    l->beat.kv_blocks = l->beat.kv_blocks_free = opts->hello.kv_blocks;
    pthread_mutex_init(&l->mutex, NULL);
    if (getrandom(&l->jitter, sizeof l->jitter, 0) != sizeof l->jitter)
        l->jitter = (uint64_t)clock_mono_ns();
    l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    l->done_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    l->timer_fd = opts->turn ? timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC) : -1;
    l->turn_at_ns = INT64_MAX;
    int rc = 0;
    if (l->wake_fd < 0 || l->done_fd < 0 || (opts->turn && l->timer_fd < 0))
        rc = err_set(err, ERR_IO, "no descriptor for the link thread: %s", strerror(errno));
    if (!rc)
        rc = open_sockets(l, err);
    if (!rc) {
        *link = l; /* opts.turn may need it before this returns */
        int e = pthread_create(&l->thread, NULL, link_thread, l);
        if (e)
            rc = err_set(err, ERR_IO, "no link thread: %s", strerror(e));
    }
    if (rc) {
        *link = NULL;
        close_sockets(l);
        free_link(l);
    }
    return rc;
}

int wrk_link_done_fd(const struct wrk_link *l)
{
    return l->done_fd;
}

int wrk_link_join(struct wrk_link **link, struct err *err)
{
    struct wrk_link *l = *link;
    pthread_join(l->thread, NULL);
    int rc = l->end.code;
    if (rc)
        *err = l->end;
    free_link(l);
    *link = NULL;
    return rc;
}

/* ---- from other threads ---- */

uint64_t wrk_link_stay(struct wrk_link *l)
{
    return atomic_load(&l->stay);
}

int wrk_link_take(struct wrk_link *l, int64_t timeout_ns, struct wrk_cmd **cmd)
{
    void *item;
    int rc = bqueue_pop_ns(l->in, timeout_ns, &item);
    if (rc == 0)
        *cmd = item;
    return rc;
}

int wrk_link_give(struct wrk_link *l, uint64_t stay, const struct msg *m, struct err *err)
{
    struct out *o = mem_zalloc(sizeof *o);
    o->stay = stay;
    int rc = msg_encode(m, &o->bytes, err);
    if (rc) {
        out_free(o);
        return rc;
    }
    rc = bqueue_push_wait(l->out, o, l->opts.turn ? 0 : l->opts.out_wait_ms);
    if (rc == 0) {
        if (!l->opts.turn) /* else it is the thread itself, which looks at the queue next */
            wake(l);
        return 0;
    }
    out_free(o);
    if (rc == ERR_STATE) /* the link has ended, and with it the stay */
        return 0;
    return err_set(err, ERR_TIMEOUT, "the controller takes nothing: %d messages waited for %d ms", l->opts.n_out_max,
                   l->opts.out_wait_ms);
}

size_t wrk_link_n_out(struct wrk_link *l)
{
    return bqueue_len(l->out);
}

void wrk_link_publish(struct wrk_link *l, const struct msg_heartbeat *beat)
{
    pthread_mutex_lock(&l->mutex);
    l->beat = *beat;
    pthread_mutex_unlock(&l->mutex);
}

bool wrk_link_tell(struct wrk_link *l, uint64_t stay, const struct prefix_news *news, int n, bool is_all)
{
    pthread_mutex_lock(&l->mutex);
    if (is_all || l->news.stay != stay) {
        l->news.n = 0;
        l->news.round++;
    }
    bool fits = l->news.n + n <= WRK_LINK_NEWS_MAX;
    l->news.is_all = is_all || (l->news.is_all && l->news.stay == stay);
    l->news.stay = stay;
    if (fits && l->news.n + n > l->news.cap) {
        l->news.cap = 2 * (l->news.n + n);
        l->news.item = mem_realloc(l->news.item, (size_t)l->news.cap * sizeof *l->news.item);
    }
    for (int i = 0; i < n && fits; i++)
        l->news.item[l->news.n++] = news[i];
    if (!fits) {
        l->news.n = 0;
        l->news.round++;
    }
    pthread_mutex_unlock(&l->mutex);
    if (n > 0 || is_all)
        wake(l);
    return fits;
}

void wrk_link_rejoin(struct wrk_link *l)
{
    atomic_store(&l->must_rejoin, true);
    wake(l);
}

void wrk_link_wake_engine(struct wrk_link *l)
{
    struct wrk_cmd *cmd = mem_zalloc(sizeof *cmd);
    cmd->m.kind = MSG_ping;
    if (bqueue_push(l->in, cmd) != 0) /* full or closed: then it does not sleep */
        wrk_cmd_free(&cmd);
    if (l->opts.turn)
        wake(l);
}

void wrk_link_ask_drain(struct wrk_link *l)
{
    atomic_store(&l->own_drain, true);
    wake(l);
}

void wrk_link_leave(struct wrk_link *l, const char *text)
{
    pthread_mutex_lock(&l->mutex);
    snprintf(l->bye.text, sizeof l->bye.text, "%s", text);
    pthread_mutex_unlock(&l->mutex);
    atomic_store(&l->must_leave, true);
    wake(l);
}
