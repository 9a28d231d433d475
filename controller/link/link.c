#include "controller/link/link.h"

#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/ds/uvzmq.h"
#include "common/mem/arena.h"
#include "common/mem/mem.h"
#include "controller/link/monitor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

enum {
    COPY_BYTES_MAX = 8192,  /* of an encoded message; a longer one is handed over instead */
    FENCE_SLOTS = 256,      /* peers whose last refusal is remembered; a collision only delays a refusal */
    LINK_BACKLOG = 1024,
    LINK_KEEPALIVE_IDLE_S = 10, /* a machine that vanished without a FIN: its connection ends after about 20 s */
    LINK_KEEPALIVE_INTVL_S = 3,
    LINK_KEEPALIVE_CNT = 3,
};

/* When a peer was last told that it is fenced, by hash of its routing id. */
struct fence {
    uint64_t hash;
    int64_t at_ms;
};

struct ctl_link {
    struct ctl_link_opts opts;
    void *zctx, *router;
    struct ctl_monitor monitor;
    struct uvzmq *bridge, *monitor_bridge;
    char endpoint[LINK_ENDPOINT_MAX];
    struct ctl_worker *worker; /* in the order of joining */
    int64_t n_live, n_lost_kept;
    uint64_t epoch; /* last one given */
    uint64_t fingerprint;
    int32_t model_n_vocab;
    int64_t context_max_last;
    char model_of[MSG_NAME_MAX]; /* the worker that set fingerprint and model_n_vocab */
    struct arena arena;          /* of the message being handled */
    struct buf bytes;            /* scratch: the message being sent */
    struct fence fence[FENCE_SLOTS];
    int64_t turn_ms;    /* of the last turn; 0: none yet */
    int64_t drained_ms; /* when the socket was last seen empty */
    int64_t now_ms;
    int n_closing;
    void (*on_closed)(void *arg);
    void *closed_arg;
};

/* What was received: where from, and its body. */
struct envelope {
    unsigned char route[CTL_ROUTE_BYTES_MAX];
    size_t n_route;
    int fd;
    zmq_msg_t body;
};

/* ---- sending ---- */

static void free_body(void *data, void *hint)
{
    (void)hint;
    mem_free(data);
}

/* The encoded message as a ZeroMQ one: a small one is copied, which costs one allocation instead of three. */
static void make_body(zmq_msg_t *body, struct buf *bytes)
{
    size_t len = bytes->len;
    if (len > COPY_BYTES_MAX || zmq_msg_init_size(body, len) != 0) {
        char *data = buf_take(bytes, &len);
        zmq_msg_init_data(body, data, len, free_body, NULL);
        return;
    }
    memcpy(zmq_msg_data(body), bytes->data, len);
}

/* Send to a peer without waiting. ERR_BUSY (its queue is full), ERR_NET (no such peer), ERR_RANGE (not encodable). */
static int send_to(struct ctl_link *l, const unsigned char *route, size_t n_route, const struct msg *m,
                   struct err *err)
{
    zmq_msg_t body;

    buf_clear(&l->bytes);
    int rc = msg_encode(m, &l->bytes, err);
    if (rc)
        return rc;
    uvzmq_used(l->bridge);
    if (zmq_send(l->router, route, n_route, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0) {
        int e = zmq_errno();
        if (e == EAGAIN)
            return err_set(err, ERR_BUSY, "its queue of %d messages is full", LINK_SEND_QUEUE_MAX);
        return err_set(err, ERR_NET, "cannot send: %s", zmq_strerror(e));
    }
    make_body(&body, &l->bytes);
    if (zmq_msg_send(&body, l->router, ZMQ_DONTWAIT) < 0) {
        /* After the first frame was taken ZeroMQ takes the rest or drops it with its connection. */
        int e = zmq_errno();
        zmq_msg_close(&body);
        return err_set(err, ERR_NET, "cannot send: %s", zmq_strerror(e));
    }
    return 0;
}

static void refuse(struct ctl_link *l, const struct envelope *e, enum msg_refuse reason, const char *text)
{
    struct msg m = {.kind = MSG_refused, .refused.reason = reason};
    struct err err;

    snprintf(m.refused.text, sizeof m.refused.text, "%s", text);
    /* Whoever cannot be told asks again. */
    if (send_to(l, e->route, e->n_route, &m, &err))
        log_debug(link, "a refusal was not sent: %s", err.text);
}

/* A worker that wakes up may have a hundred stale messages under way: one refusal per heartbeat interval is enough,
 * and more would reach it after its next Welcome. */
static bool may_refuse(struct ctl_link *l, const struct envelope *e)
{
    uint64_t h = fnv1a(FNV1A_START, e->route, e->n_route);
    struct fence *f = &l->fence[h % FENCE_SLOTS];

    if (f->hash == h && l->now_ms - f->at_ms < l->opts.heartbeat_ms)
        return false;
    *f = (struct fence){.hash = h, .at_ms = l->now_ms};
    return true;
}

/* A peer that said Hello is told at once when it is fenced the next time. */
static void forget_refusal(struct ctl_link *l, const struct envelope *e)
{
    uint64_t h = fnv1a(FNV1A_START, e->route, e->n_route);
    if (l->fence[h % FENCE_SLOTS].hash == h)
        l->fence[h % FENCE_SLOTS] = (struct fence){0};
}

/* ---- the table ---- */

struct ctl_worker *ctl_link_first(struct ctl_link *l)
{
    return l->worker;
}

const struct ctl_worker *ctl_link_workers(const struct ctl_link *l)
{
    return l->worker;
}

struct ctl_worker *ctl_link_find(struct ctl_link *l, uint64_t epoch)
{
    for (struct ctl_worker *w = l->worker; w; w = w->next)
        if (w->epoch == epoch)
            return w->state == CTL_WORKER_lost ? NULL : w;
    return NULL;
}

static struct ctl_worker *find_route(struct ctl_link *l, const struct envelope *e)
{
    for (struct ctl_worker *w = l->worker; w; w = w->next)
        if (w->state != CTL_WORKER_lost && w->n_route == e->n_route && memcmp(w->route, e->route, e->n_route) == 0)
            return w;
    return NULL;
}

static struct ctl_worker *find_name(struct ctl_link *l, const char *name)
{
    for (struct ctl_worker *w = l->worker; w; w = w->next)
        if (w->state != CTL_WORKER_lost && strcmp(w->hello.worker, name) == 0)
            return w;
    return NULL;
}

/* Forget lost workers: all of this name, or (name NULL) the oldest one. */
static void forget_lost(struct ctl_link *l, const char *name)
{
    for (struct ctl_worker **p = &l->worker; *p;) {
        struct ctl_worker *w = *p;
        if (w->state != CTL_WORKER_lost || (name && strcmp(w->hello.worker, name) != 0)) {
            p = &w->next;
            continue;
        }
        ASSERT(!w->running && w->n_running == 0);
        *p = w->next;
        ctl_prefixes_release(&w->prefixes);
        mem_free(w);
        l->n_lost_kept--;
        if (!name)
            return;
    }
}

/* The one way out: fence the epoch, tell the owner of the work. */
static void lose(struct ctl_link *l, struct ctl_worker *w)
{
    ctl_worker_move(w, CTL_WORKER_lost);
    ctl_prefixes_release(&w->prefixes);
    w->lost_at_ms = l->now_ms;
    l->n_live--;
    l->n_lost_kept++;
    if (l->n_live == 0)
        l->context_max_last = w->hello.context_max;
    if (!w->gone_orderly)
        l->opts.counts->lost++;
    log_line(w->gone_orderly ? LOG_info : LOG_warn, LOG_AREA_link, "worker=%s epoch=%" PRIu64 " lost, had %d: %s",
             w->hello.worker, w->epoch, (int)w->n_running, w->gone);
    l->opts.events->on_lost(l->opts.arg, w, w->gone_orderly);
    ASSERT(!w->running && w->n_running == 0);
}

static void mark_gone(struct ctl_worker *w, const char *why)
{
    if (w->state != CTL_WORKER_lost && !w->gone)
        w->gone = why;
}

static void on_fd_gone(void *arg, int fd)
{
    struct ctl_link *l = arg;
    for (struct ctl_worker *w = l->worker; w; w = w->next)
        if (w->fd == fd)
            mark_gone(w, "its connection ended");
}

int64_t ctl_link_n_ready(const struct ctl_link *l)
{
    int64_t n = 0;
    for (const struct ctl_worker *w = l->worker; w; w = w->next)
        n += w->state == CTL_WORKER_ready;
    return n;
}

int64_t ctl_link_context_max(const struct ctl_link *l)
{
    int64_t max = 0;
    for (const struct ctl_worker *w = l->worker; w; w = w->next)
        if (w->state != CTL_WORKER_lost && w->hello.context_max > max)
            max = w->hello.context_max;
    return max ? max : l->context_max_last;
}

uint64_t ctl_link_fingerprint(const struct ctl_link *l)
{
    return l->fingerprint;
}

/* ---- joining ---- */

/* True if the worker serves what we serve; else it has been refused. */
static bool hello_model_fits(struct ctl_link *l, const struct envelope *e, const struct msg_hello *h)
{
    char text[MSG_TEXT_MAX];

    if (h->n_vocab < l->opts.n_vocab)
        snprintf(text, sizeof text,
                 "the model of worker %s has %d token ids, the controller's tokenizer has %d; start both with the same "
                 "--model",
                 h->worker, (int)h->n_vocab, (int)l->opts.n_vocab);
    else if (l->model_of[0] && (h->fingerprint != l->fingerprint || h->n_vocab != l->model_n_vocab))
        snprintf(text, sizeof text,
                 "worker %s has model %016" PRIx64 " (%d ids), this controller serves %016" PRIx64
                 " (%d ids, first brought by %s); start it with that model",
                 h->worker, h->fingerprint, (int)h->n_vocab, l->fingerprint, (int)l->model_n_vocab, l->model_of);
    else
        return true;
    log_warn(link, "refused: %s", text);
    l->opts.counts->refused++;
    refuse(l, e, MSG_REFUSE_model, text);
    return false;
}

/* Is the stay of `old` over, now that h came under the same name? A live worker keeps its name. */
static bool hello_replaces(const struct ctl_link *l, const struct ctl_worker *old, const struct envelope *e,
                           const struct msg_hello *h)
{
    bool same_peer = old->n_route == e->n_route && memcmp(old->route, e->route, e->n_route) == 0;
    return old->gone || same_peer || old->hello.boot == h->boot ||
           l->now_ms - old->heard_ms > 2 * l->opts.heartbeat_ms;
}

/* Room in the table and a free name; else it has been refused. */
static bool hello_place_free(struct ctl_link *l, const struct envelope *e, const struct msg_hello *h)
{
    char text[MSG_TEXT_MAX];
    struct ctl_worker *old = find_name(l, h->worker), *same = find_route(l, e);
    enum msg_refuse reason;

    if (old && !hello_replaces(l, old, e, h)) {
        snprintf(text, sizeof text, "a worker named %s is connected already (pid %" PRId64 "); choose another --name",
                 h->worker, old->hello.pid);
        reason = MSG_REFUSE_name;
    } else if (!old && !same && l->n_live >= l->opts.workers_max) {
        snprintf(text, sizeof text, "%" PRId64 " workers are connected, workers_max is %" PRId64 "; raise the limit",
                 l->n_live, l->opts.workers_max);
        reason = MSG_REFUSE_full;
    } else {
        /* The same process lives: what it worked on is not to blame for a death. */
        if (old) {
            old->gone_orderly |= old->hello.boot == h->boot;
            mark_gone(old, "it said hello again");
            lose(l, old);
        }
        if (same && same != old) {
            same->gone_orderly = true;
            mark_gone(same, "its connection said hello under another name");
            lose(l, same);
        }
        return true;
    }
    log_warn(link, "refused: %s", text);
    l->opts.counts->refused++;
    refuse(l, e, reason, text);
    return false;
}

static void add_worker(struct ctl_link *l, const struct envelope *e, const struct msg_hello *h)
{
    forget_lost(l, h->worker);
    if (l->n_lost_kept > CTL_LOST_KEPT_MAX)
        forget_lost(l, NULL);

    struct ctl_worker *w = mem_zalloc(sizeof *w), **p = &l->worker;
    w->hello = *h;
    w->epoch = ++l->epoch;
    w->state = CTL_WORKER_ready;
    memcpy(w->route, e->route, e->n_route);
    w->n_route = e->n_route;
    w->fd = e->fd;
    w->heard_ms = w->joined_ms = l->now_ms;
    w->beat.kv_blocks = w->beat.kv_blocks_free = h->kv_blocks;
    while (*p)
        p = &(*p)->next;
    *p = w;
    l->n_live++;
    if (!l->model_of[0]) {
        l->fingerprint = h->fingerprint;
        l->model_n_vocab = h->n_vocab;
        snprintf(l->model_of, sizeof l->model_of, "%s", h->worker);
    }

    struct msg m = {.kind = MSG_welcome,
                    .welcome = {.epoch = w->epoch,
                                .heartbeat_ms = (int32_t)l->opts.heartbeat_ms,
                                .lost_ms = (int32_t)l->opts.lost_ms}};
    struct err err;
    if (send_to(l, w->route, w->n_route, &m, &err)) {
        mark_gone(w, "it left before it was welcomed");
        return;
    }
    log_info(link, "worker=%s epoch=%" PRIu64 " joined: pid=%" PRId64 " backend=%s numerics=%s domain=%s seq_max=%d",
             h->worker, w->epoch, h->pid, h->backend, h->numerics, h->domain, (int)h->n_seq_max);
    l->opts.events->on_ready(l->opts.arg, w);
}

static void on_hello(struct ctl_link *l, const struct envelope *e, const struct msg_hello *h)
{
    /* First all ends of connections that happened before this Hello: monitor.h says why. */
    if (!ctl_monitor_read(&l->monitor, on_fd_gone, l))
        uvzmq_used(l->monitor_bridge);
    if (e->fd >= 0 && !ctl_monitor_is_open(&l->monitor, e->fd))
        return; /* its connection has ended since; it will come again */
    for (struct ctl_worker *w = l->worker; w; w = w->next)
        if (e->fd >= 0 && w->fd == e->fd && (w->n_route != e->n_route || memcmp(w->route, e->route, e->n_route) != 0))
            mark_gone(w, "its connection is another's now");
    forget_refusal(l, e);
    if (hello_model_fits(l, e, h) && hello_place_free(l, e, h))
        add_worker(l, e, h);
}

/* ---- messages of workers that are in the table ---- */

static void on_heartbeat(struct ctl_link *l, struct ctl_worker *w, const struct msg_heartbeat *m)
{
    ctl_prefixes_apply(&w->prefixes, m->news, m->n_news, m->news_all);
    w->beat = *m;
    w->beat.news = NULL; /* it lies in the message's memory */
    w->beat.n_news = 0;
    bool drains = m->draining || w->reclaimed;
    if (drains && w->state == CTL_WORKER_ready) {
        ctl_worker_move(w, CTL_WORKER_draining);
    } else if (!drains && w->state == CTL_WORKER_draining) {
        ctl_worker_move(w, CTL_WORKER_ready);
        l->opts.events->on_ready(l->opts.arg, w);
    }
}

static void on_reclaim(struct ctl_link *l, struct ctl_worker *w, const struct msg_reclaim *m)
{
    log_warn(link, "worker=%s epoch=%" PRIu64 " %s by %s, in %" PRId64 " ms", w->hello.worker, w->epoch,
             m->revoked ? "is not reclaimed after all" : "is being reclaimed", m->source, m->deadline_ms);
    w->reclaimed = !m->revoked;
    if (w->reclaimed && w->state == CTL_WORKER_ready)
        ctl_worker_move(w, CTL_WORKER_draining);
    if (w->reclaimed)
        l->opts.events->on_reclaim(l->opts.arg, w);
    /* Revoked: the next heartbeat says whether it takes work again. */
}

static void fence(struct ctl_link *l, const struct envelope *e, const struct msg *m, uint64_t epoch)
{
    char text[MSG_TEXT_MAX];

    l->opts.counts->fenced++;
    if (m->kind == MSG_tokens)
        l->opts.counts->stale_tokens_dropped += (uint64_t)m->tokens.n;
    if (m->kind == MSG_bye || !may_refuse(l, e))
        return;
    snprintf(text, sizeof text, "epoch %" PRIu64 " is over: drop its work and say hello again", epoch);
    log_info(link, "fenced a %s of epoch %" PRIu64, msg_kind_name(m->kind), epoch);
    refuse(l, e, MSG_REFUSE_fenced, text);
}

static uint64_t epoch_of(const struct msg *m)
{
    switch (m->kind) {
    case MSG_heartbeat: return m->heartbeat.epoch;
    case MSG_tokens: return m->tokens.epoch;
    case MSG_finished: return m->finished.epoch;
    case MSG_failed: return m->failed.epoch;
    case MSG_reclaim: return m->reclaim.epoch;
    case MSG_bye: return m->bye.epoch;
    default: return 0;
    }
}

static void on_message(struct ctl_link *l, const struct envelope *e, const struct msg *m)
{
    const struct ctl_link_events *ev = l->opts.events;
    uint64_t epoch = epoch_of(m);
    struct ctl_worker *w = ctl_link_find(l, epoch);

    if (!w || w->n_route != e->n_route || memcmp(w->route, e->route, e->n_route) != 0) {
        fence(l, e, m, epoch);
        return;
    }
    w->heard_ms = l->now_ms;
    switch (m->kind) {
    case MSG_heartbeat: on_heartbeat(l, w, &m->heartbeat); break;
    case MSG_tokens: ev->on_tokens(l->opts.arg, w, &m->tokens); break;
    case MSG_finished: ev->on_finished(l->opts.arg, w, &m->finished); break;
    case MSG_failed: ev->on_failed(l->opts.arg, w, &m->failed); break;
    case MSG_reclaim: on_reclaim(l, w, &m->reclaim); break;
    case MSG_bye:
        w->gone_orderly = !w->gone;
        mark_gone(w, "it said bye");
        break;
    default: break;
    }
}

/* ---- receiving ---- */

/* A message that cannot be read. From a worker in the table it may have been tokens: its stay is over then. */
static void on_unreadable(struct ctl_link *l, const struct envelope *e, const struct err *err)
{
    struct ctl_worker *w = find_route(l, e);

    l->opts.counts->malformed++;
    if (w)
        mark_gone(w, "it sent a message that cannot be read");
    if (!may_refuse(l, e))
        return;
    log_warn(link, "worker=%s sent what cannot be read: %s", w ? w->hello.worker : "?", err->text);
    if (err->code == ERR_VERSION)
        refuse(l, e, MSG_REFUSE_version, err->text);
}

static void handle(struct ctl_link *l, struct envelope *e)
{
    struct msg m;
    struct err err;

    arena_reset(&l->arena);
    int rc = msg_decode(zmq_msg_data(&e->body), zmq_msg_size(&e->body), &l->arena, &m, &err);
    if (!rc && m.kind > MSG_bye)
        rc = err_set(&err, ERR_FORMAT, "a %s is for workers, not from them", msg_kind_name(m.kind));
    if (rc)
        on_unreadable(l, e, &err);
    else if (m.kind == MSG_hello)
        on_hello(l, e, &m.hello);
    else
        on_message(l, e, &m);
}

/* Take [route][body] off the socket. 1: e is filled and e->body is the caller's; 0: it was something else and is
 * dropped; -1: nothing there. */
static int receive(struct ctl_link *l, struct envelope *e)
{
    zmq_msg_t extra;

    int n = zmq_recv(l->router, e->route, sizeof e->route, ZMQ_DONTWAIT);
    if (n < 0)
        return -1;
    e->n_route = (size_t)n;
    zmq_msg_init(&e->body);
    if (zmq_msg_recv(&e->body, l->router, ZMQ_DONTWAIT) < 0) {
        zmq_msg_close(&e->body);
        return 0;
    }
    if (!zmq_msg_more(&e->body)) {
        e->fd = zmq_msg_get(&e->body, ZMQ_SRCFD);
        return 1;
    }
    zmq_msg_close(&e->body);
    for (bool more = true; more;) {
        zmq_msg_init(&extra);
        more = zmq_msg_recv(&extra, l->router, ZMQ_DONTWAIT) >= 0 && zmq_msg_more(&extra);
        zmq_msg_close(&extra);
    }
    struct err err;
    err_set(&err, ERR_FORMAT, "a message of several frames");
    on_unreadable(l, e, &err);
    return 0;
}

/* Read until the socket is empty or LINK_RECV_MAX; true if it was emptied. */
static bool read_all(struct ctl_link *l)
{
    struct envelope e;

    if (uvzmq_is_settled(l->bridge))
        return true;
    for (int i = 0; i < LINK_RECV_MAX; i++) {
        int got = receive(l, &e);
        if (got < 0) {
            if (zmq_errno() == EAGAIN)
                uvzmq_emptied(l->bridge);
            return true;
        }
        if (got > 0) {
            handle(l, &e);
            zmq_msg_close(&e.body);
        }
    }
    return false;
}

/* ---- the turn ---- */

/* The turns have stopped for a while (a long turn, the process was stopped): that time was ours, not the workers'. */
static void forgive_stall(struct ctl_link *l)
{
    int64_t gap = l->turn_ms ? l->now_ms - l->turn_ms : 0;

    if (!l->n_live || gap <= 2 * l->opts.heartbeat_ms)
        return;
    l->opts.counts->loop_stalls++;
    log_warn(link, "the loop was away for %" PRId64 " ms; workers get that time back", gap);
    for (struct ctl_worker *w = l->worker; w; w = w->next) {
        int64_t least = l->now_ms - l->opts.lost_ms + l->opts.heartbeat_ms;
        w->heard_ms += gap;
        if (w->heard_ms < least)
            w->heard_ms = least;
        if (w->heard_ms > l->now_ms)
            w->heard_ms = l->now_ms;
    }
}

static bool is_silent(const struct ctl_link *l, const struct ctl_worker *w)
{
    return w->state != CTL_WORKER_lost && l->now_ms - w->heard_ms > l->opts.lost_ms;
}

static bool any_is_silent(const struct ctl_link *l)
{
    for (const struct ctl_worker *w = l->worker; w; w = w->next)
        if (is_silent(l, w))
            return true;
    return false;
}

bool ctl_link_reap(struct ctl_link *l, int64_t now_ms)
{
    bool any = false;

    l->now_ms = now_ms;
    for (struct ctl_worker *w = l->worker; w; w = w->next)
        if (w->gone && w->state != CTL_WORKER_lost) {
            lose(l, w);
            any = true;
        }
    while (l->n_lost_kept > CTL_LOST_KEPT_MAX)
        forget_lost(l, NULL);
    return any;
}

bool ctl_link_turn(struct ctl_link *l, int64_t now_ms)
{
    l->now_ms = now_ms;
    forgive_stall(l);
    l->turn_ms = now_ms;

    /* Ends of connections first, messages after: what a dead worker sent before its end then counts, because a
     * connection whose end was seen here has all its messages in the socket already. */
    if (any_is_silent(l)) { /* what arrived since the loop looked speaks for it */
        uvzmq_used(l->bridge);
        uvzmq_used(l->monitor_bridge);
    }
    if (!uvzmq_is_settled(l->monitor_bridge) && ctl_monitor_read(&l->monitor, on_fd_gone, l))
        uvzmq_emptied(l->monitor_bridge);
    bool empty = read_all(l);
    if (empty)
        l->drained_ms = now_ms;
    /* Silence may only be judged when nothing waits unread; but not never, when there is always something. */
    if (empty || now_ms - l->drained_ms > l->opts.lost_ms) {
        for (struct ctl_worker *w = l->worker; w; w = w->next)
            if (is_silent(l, w))
                mark_gone(w, "it was silent for too long");
        ctl_link_reap(l, now_ms);
    }
    return !empty;
}

void ctl_link_arm(struct ctl_link *l)
{
    uvzmq_arm(l->monitor_bridge);
    uvzmq_arm(l->bridge);
}

int64_t ctl_link_due_ms(const struct ctl_link *l, int64_t now_ms)
{
    int64_t due = INT64_MAX;

    if (!l->n_live)
        return due;
    due = now_ms + l->opts.heartbeat_ms; /* turns that come regularly are how a stall of ours is noticed */
    for (const struct ctl_worker *w = l->worker; w; w = w->next)
        if (w->state != CTL_WORKER_lost && w->heard_ms + l->opts.lost_ms + 1 < due)
            due = w->heard_ms + l->opts.lost_ms + 1;
    return due;
}

/* ---- work ---- */

int ctl_link_generate(struct ctl_link *l, struct ctl_worker *w, struct msg_generate *g, struct err *err)
{
    struct msg m = {.kind = MSG_generate};

    if (w->gone || w->state == CTL_WORKER_lost)
        return err_set(err, ERR_NET, "worker %s is gone", w->hello.worker);
    g->epoch = w->epoch;
    m.generate = *g;
    int rc = send_to(l, w->route, w->n_route, &m, err);
    if (rc == ERR_NET)
        mark_gone(w, "it cannot be reached");
    return rc;
}

void ctl_link_cancel(struct ctl_link *l, struct ctl_worker *w, const char *request, uint32_t attempt)
{
    struct msg m = {.kind = MSG_cancel, .cancel = {.epoch = w->epoch, .attempt = attempt}};
    struct err err;

    if (w->gone || w->state == CTL_WORKER_lost)
        return;
    snprintf(m.cancel.request, sizeof m.cancel.request, "%s", request);
    int rc = send_to(l, w->route, w->n_route, &m, &err);
    if (rc)
        mark_gone(w, rc == ERR_BUSY ? "it does not take its messages" : "it cannot be reached");
}

/* ---- life ---- */

const char *ctl_link_endpoint(const struct ctl_link *l)
{
    return l->endpoint;
}

static int set_int(struct ctl_link *l, int option, int value, struct err *err)
{
    if (zmq_setsockopt(l->router, option, &value, sizeof value) == 0)
        return 0;
    return err_set(err, ERR_NET, "worker socket, option %d: %s", option, zmq_strerror(zmq_errno()));
}

static int set_options(struct ctl_link *l, struct err *err)
{
    static const struct {
        int option, value;
    } set[] = {
        {ZMQ_LINGER, 0},
        {ZMQ_ROUTER_MANDATORY, 1},
        {ZMQ_SNDHWM, LINK_SEND_QUEUE_MAX},
        {ZMQ_RCVHWM, LINK_SEND_QUEUE_MAX},
        {ZMQ_BACKLOG, LINK_BACKLOG},
        {ZMQ_TCP_KEEPALIVE, 1},
        {ZMQ_TCP_KEEPALIVE_IDLE, LINK_KEEPALIVE_IDLE_S},
        {ZMQ_TCP_KEEPALIVE_INTVL, LINK_KEEPALIVE_INTVL_S},
        {ZMQ_TCP_KEEPALIVE_CNT, LINK_KEEPALIVE_CNT},
    };
    int64_t bytes_max = MSG_BYTES_MAX;

    for (size_t i = 0; i < N_ELEM(set); i++) {
        int rc = set_int(l, set[i].option, set[i].value, err);
        if (rc)
            return rc;
    }
    if (strchr(l->opts.endpoint, '[') && set_int(l, ZMQ_IPV6, 1, err))
        return err->code;
    if (zmq_setsockopt(l->router, ZMQ_MAXMSGSIZE, &bytes_max, sizeof bytes_max) != 0)
        return err_set(err, ERR_NET, "worker socket: %s", zmq_strerror(zmq_errno()));
    return 0;
}

static void release(struct ctl_link *l)
{
    ctl_monitor_close(&l->monitor);
    if (l->router)
        zmq_close(l->router);
    if (l->zctx)
        zmq_ctx_term(l->zctx); /* linger is 0: waits for ZeroMQ's thread to let go, no longer */
    while (l->worker) {
        struct ctl_worker *next = l->worker->next;
        ctl_prefixes_release(&l->worker->prefixes);
        mem_free(l->worker);
        l->worker = next;
    }
    arena_release(&l->arena);
    buf_release(&l->bytes);
    mem_free(l);
}

static void on_bridge_closed(void *arg)
{
    struct ctl_link *l = arg;
    if (--l->n_closing > 0)
        return;
    void (*on_closed)(void *) = l->on_closed;
    void *closed_arg = l->closed_arg;
    release(l);
    if (on_closed)
        on_closed(closed_arg);
}

void ctl_link_close(struct ctl_link **link, void (*on_closed)(void *arg), void *arg)
{
    struct ctl_link *l = *link;
    if (!l)
        return;
    *link = NULL;
    l->on_closed = on_closed;
    l->closed_arg = arg;
    l->n_closing = !!l->bridge + !!l->monitor_bridge;
    ASSERT(l->n_closing > 0);
    uvzmq_close(&l->monitor_bridge, on_bridge_closed, l);
    uvzmq_close(&l->bridge, on_bridge_closed, l);
}

static int open_socket(struct ctl_link *l, struct err *err)
{
    size_t n = sizeof l->endpoint;

    l->zctx = zmq_ctx_new();
    l->router = l->zctx ? zmq_socket(l->zctx, ZMQ_ROUTER) : NULL;
    if (!l->router)
        return err_set(err, ERR_NET, "no ZeroMQ socket: %s", zmq_strerror(zmq_errno()));
    int rc = set_options(l, err);
    if (rc)
        return rc;
    /* The monitor before bind, so that no connection comes unseen. */
    rc = ctl_monitor_open(l->zctx, l->router, &l->monitor, err);
    if (rc)
        return rc;
    if (zmq_bind(l->router, l->opts.endpoint) != 0)
        return err_set(err, ERR_NET, "cannot listen for workers on %s: %s; choose another --workers", l->opts.endpoint,
                       zmq_strerror(zmq_errno()));
    if (zmq_getsockopt(l->router, ZMQ_LAST_ENDPOINT, l->endpoint, &n) != 0)
        return err_set(err, ERR_NET, "worker socket: %s", zmq_strerror(zmq_errno()));
    return 0;
}

int ctl_link_open(uv_loop_t *loop, const struct ctl_link_opts *opts, struct ctl_link **link, struct err *err)
{
    if (!opts->endpoint || !opts->endpoint[0])
        return err_set(err, ERR_ARG, "no endpoint for workers; give --workers tcp://HOST:PORT");
    struct ctl_link *l = mem_zalloc(sizeof *l);
    l->opts = *opts;
    l->epoch = opts->epoch_base;
    int rc = open_socket(l, err);
    if (!rc)
        rc = uvzmq_open(loop, l->monitor.pair, LINK_RECV_MAX, NULL, l, &l->monitor_bridge, err);
    if (rc) {
        release(l);
        return rc;
    }
    rc = uvzmq_open(loop, l->router, LINK_RECV_MAX, NULL, l, &l->bridge, err);
    if (rc) {
        ctl_link_close(&l, NULL, NULL);
        return rc;
    }
    *link = l;
    return 0;
}
