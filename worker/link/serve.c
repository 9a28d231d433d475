#include "worker/link/serve.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/mem/mem.h"
#include "worker/link/link.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum { NEWS_AT_ONCE = 512 };

struct wrk_serve {
    const struct wrk_machine_ops *ops;
    void *machine;
    struct wrk_link *link;
    pthread_t thread;
    bool is_joined; /* main's */
    uint64_t stay; /* of the sequences in the scheduler */
    atomic_bool must_drain, must_stop;
    bool has_link_ended; /* the engine thread saw it */
    bool is_over;        /* without an engine thread: its part has ended */
    struct err broken;   /* why the engine thread ended by itself */
};

static int emit(void *arg, const struct msg *m, struct err *err)
{
    struct wrk_serve *v = arg;
    return wrk_link_give(v->link, v->stay, m, err);
}

static void publish(struct wrk_serve *v)
{
    struct msg_heartbeat beat;
    v->ops->beat(v->machine, &beat);
    wrk_link_publish(v->link, &beat);
}

/* What came into the prefix cache and went out of it, to the controller that we are with. */
static void tell_news(struct wrk_serve *v)
{
    struct prefix_news news[NEWS_AT_ONCE];
    bool is_all, fits = true;
    int n;
    if (!v->ops->news)
        return;
    do {
        n = v->ops->news(v->machine, news, NEWS_AT_ONCE, &is_all);
        if (fits && (n > 0 || is_all))
            fits = wrk_link_tell(v->link, v->stay, news, n, is_all);
    } while (n == NEWS_AT_ONCE);
    if (!fits)
        v->ops->tell_all(v->machine);
}

static int obey(struct wrk_serve *v, const struct wrk_cmd *cmd, struct err *err)
{
    if (cmd->stay != v->stay)
        return 0;
    if (cmd->m.kind == MSG_generate)
        return v->ops->add(v->machine, &cmd->m.generate, cmd->at_ns, err);
    if (cmd->m.kind == MSG_cancel)
        return v->ops->cancel(v->machine, cmd->m.cancel.request, cmd->m.cancel.attempt, err);
    return 0;
}

/* Work of a stay that is over is void. */
static void follow_stay(struct wrk_serve *v)
{
    uint64_t stay = wrk_link_stay(v->link);
    if (stay == v->stay)
        return;
    if (v->ops->n(v->machine) > 0)
        log_info(sched, "%d sequences dropped: their epoch is over", v->ops->n(v->machine));
    v->ops->drop(v->machine);
    v->stay = stay;
    publish(v);
    if (v->ops->news)
        v->ops->tell_all(v->machine); /* a new controller, or one that has forgotten us */
    tell_news(v);
}

/* How long the engine thread may sleep; -1: until a command comes. */
static int64_t idle_ns(struct wrk_serve *v)
{
    int64_t due = v->ops->due_ns(v->machine);
    if (due == 0 || atomic_load(&v->must_stop) || (atomic_load(&v->must_drain) && v->ops->n(v->machine) == 0))
        return 0;
    if (due == INT64_MAX)
        return -1;
    due -= clock_mono_ns();
    return due > 0 ? due : 0;
}

/* Commands that wait; with nothing to do, sleep until one comes. ERR_STATE: the link has ended. */
static int obey_all(struct wrk_serve *v, struct err *err)
{
    struct wrk_cmd *cmd = NULL;
    int rc = wrk_link_take(v->link, v->ops->is_light ? 0 : idle_ns(v), &cmd);
    while (rc == 0) {
        follow_stay(v);
        rc = obey(v, cmd, err);
        wrk_cmd_free(&cmd);
        if (rc == 0)
            rc = wrk_link_take(v->link, 0, &cmd);
        else
            return rc;
    }
    if (rc == ERR_TIMEOUT)
        return 0;
    v->has_link_ended = true;
    return err_set(err, rc, "the link has ended");
}

static bool is_finished(struct wrk_serve *v)
{
    return atomic_load(&v->must_stop) || (atomic_load(&v->must_drain) && v->ops->n(v->machine) == 0);
}

static int turn(struct wrk_serve *v, struct err *err)
{
    int rc = obey_all(v, err);
    if (rc)
        return rc;
    follow_stay(v);
    rc = v->ops->step(v->machine, clock_mono_ns(), err);
    publish(v);
    tell_news(v);
    return rc;
}

/* One turn and what its errors mean; false: there is no more to do. */
static bool run_turn(struct wrk_serve *v)
{
    struct err err = {0};
    int rc = turn(v, &err);
    if (rc >= 0)
        return true;
    if (rc == ERR_TIMEOUT) {
        log_error(sched, "%s: the stay is given up", err.text);
        v->ops->drop(v->machine);
        wrk_link_rejoin(v->link);
        v->stay = UINT64_MAX; /* none: the next look at the link takes its number */
        return true;
    }
    if (!v->has_link_ended)
        v->broken = err;
    return false;
}

static void leave(struct wrk_serve *v)
{
    v->ops->drop(v->machine);
    wrk_link_leave(v->link, v->broken.code ? v->broken.text : "this worker was asked to end");
}

static void *engine_thread(void *arg)
{
    struct wrk_serve *v = arg;
    while (!is_finished(v) && run_turn(v))
        ;
    leave(v);
    return NULL;
}

/* The same for a light machine, on the link's thread. */
static int64_t on_link_turn(void *arg)
{
    struct wrk_serve *v = arg;
    if (v->is_over)
        return INT64_MAX;
    if (wrk_link_n_out(v->link) > WRK_SERVE_OUT_MAX / 2)
        return INT64_MAX; /* once ZeroMQ takes messages again there is a next round */
    if (is_finished(v) || !run_turn(v)) {
        leave(v);
        v->is_over = true;
        return INT64_MAX;
    }
    return v->ops->due_ns(v->machine);
}

static int fill_hello(const struct wrk_serve_opts *o, struct msg_hello *h, struct err *err)
{
    struct wrk_machine_info info;
    o->machine->info(o->from, &info);
    const struct {
        const char *what, *from;
        char *to;
    } name[] = {{"--name", o->name, h->worker},
                {"--backend", o->backend, h->backend},
                {"--domain", o->domain, h->domain},
                {"numerics", info.numerics, h->numerics}};
    for (size_t i = 0; i < N_ELEM(name); i++)
        if (snprintf(name[i].to, MSG_NAME_MAX, "%s", name[i].from) >= MSG_NAME_MAX)
            return err_set(err, ERR_ARG, "%s '%s' is longer than %d bytes", name[i].what, name[i].from,
                           MSG_NAME_MAX - 1);
    if (getrandom(&h->boot, sizeof h->boot, 0) != sizeof h->boot)
        h->boot = (uint64_t)clock_mono_ns() ^ (uint64_t)getpid();
    h->pid = getpid();
    h->fingerprint = info.fingerprint;
    h->n_vocab = info.n_vocab;
    h->n_ranks = info.n_ranks;
    h->n_seq_max = o->n_seq_max;
    h->kv_blocks = info.kv_blocks;
    h->context_max = info.context_max;

    /* What the codec would refuse later is a mistake of the command line now. */
    struct buf wire = {0};
    int rc = msg_encode(&(struct msg){.kind = MSG_hello, .hello = *h}, &wire, err);
    buf_release(&wire);
    return rc ? ERR_ARG : 0;
}

int wrk_serve_start(const struct wrk_serve_opts *opts, struct wrk_serve **serve, struct err *err)
{
    struct wrk_serve *v = mem_zalloc(sizeof *v);
    struct wrk_link_opts lo = {.endpoint = opts->endpoint,
                               .n_in_max = 2 * opts->n_seq_max + 64, /* each credit and its cancel, and wake-ups */
                               .n_out_max = WRK_SERVE_OUT_MAX,
                               .out_wait_ms = WRK_SERVE_OUT_WAIT_MS};
    v->ops = opts->machine;
    int rc = fill_hello(opts, &lo.hello, err);
    if (!rc)
        rc = v->ops->open(opts->from, opts->n_seq_max, emit, v, &v->machine, err);
    if (opts->machine->is_light) {
        lo.turn = on_link_turn;
        lo.turn_arg = v;
        v->is_joined = true;
    }
    if (!rc)
        rc = wrk_link_start(&lo, &v->link, err);
    if (!rc && !opts->machine->is_light) {
        int e = pthread_create(&v->thread, NULL, engine_thread, v);
        if (e) {
            rc = err_set(err, ERR_IO, "no engine thread: %s", strerror(e));
            struct err ignored;
            wrk_link_leave(v->link, err->text);
            wrk_link_join(&v->link, &ignored);
        }
    }
    if (rc) {
        v->ops->destroy(&v->machine);
        mem_free(v);
        return rc;
    }
    *serve = v;
    return 0;
}

void wrk_serve_drain(struct wrk_serve *v)
{
    wrk_link_ask_drain(v->link);
    atomic_store(&v->must_drain, true);
    wrk_link_wake_engine(v->link);
}

void wrk_serve_stop(struct wrk_serve *v)
{
    atomic_store(&v->must_stop, true);
    wrk_link_leave(v->link, "this worker was stopped"); /* the controller need not wait for the end of a step */
    wrk_link_wake_engine(v->link);
}

int wrk_serve_done_fd(const struct wrk_serve *v)
{
    return wrk_link_done_fd(v->link);
}

bool wrk_serve_await(struct wrk_serve *v, int timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until); /* the clock of pthread_timedjoin_np */
    int64_t ns = until.tv_nsec + timeout_ms * (int64_t)1000000;
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    if (!v->is_joined)
        v->is_joined = pthread_timedjoin_np(v->thread, NULL, &until) == 0;
    return v->is_joined;
}

enum wrk_exit wrk_serve_join(struct wrk_serve **serve, struct err *err)
{
    struct wrk_serve *v = *serve;
    struct err link_err = {0};
    if (!v->is_joined)
        pthread_join(v->thread, NULL);
    int rc = wrk_link_join(&v->link, &link_err);
    enum wrk_exit status = WRK_EXIT_ok;
    if (v->broken.code) {
        *err = v->broken;
        status = v->ops->is_rank_lost && v->ops->is_rank_lost(v->machine) ? WRK_EXIT_rank : WRK_EXIT_device;
    } else if (rc) {
        *err = link_err;
        status = WRK_EXIT_refused;
    }
    v->ops->destroy(&v->machine);
    mem_free(v);
    *serve = NULL;
    return status;
}
