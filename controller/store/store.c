#include "controller/store/store.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/mem/mem.h"
#include "controller/store/backend.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct store {
    /* The loop's own. */
    uv_async_t async;
    struct store_events events;
    void *arg;
    struct store_limits limit;
    struct store_batch *open; /* being filled */
    bool started, closing;
    bool owed; /* store_flush found the queue full: the batch goes when there is room */
    enum store_state told_state; /* what the last events said */
    enum store_fault told_fault;
    uint64_t told_committed, told_durable;
    store_closed_fn on_closed;
    void *closed_arg;

    /* The thread's own once it runs. */
    pthread_t thread;
    struct store_backend *db;
    struct store_batch **hand; /* [n_hand] taken from the queue, not yet committed */
    size_t n_hand;
    struct store_refusals found;
    int64_t lazy_since_ns; /* oldest commit that is not durable; 0: none */
    int64_t beat_ns;

    /* Both: under lock. */
    pthread_mutex_t lock;
    pthread_cond_t wake;         /* something for the thread to do */
    struct store_batch **queue;  /* ring [queue_max + 1]: store_close may add one more */
    size_t queue_head, n_queue;
    struct store_refusals refused; /* to be told */
    struct store_status status;
    bool stop, thread_done;
};

static const char *const state_name[STORE_STATE_N] = {
#define X(name) #name,
    STORE_STATE_LIST(X)
#undef X
};

const char *store_state_name(enum store_state state)
{
    return (size_t)state < N_ELEM(state_name) ? state_name[state] : "?";
}

void store_config_init(struct store_config *c)
{
    *c = (struct store_config){0};
#define X(name, value, text) c->limit.name = value;
    STORE_LIMIT_LIST(X)
#undef X
}

/* ---- for the back ends ---- */

int store__fail(enum store_fault *fault, enum store_fault value, struct err *err, const char *fmt, ...)
{
    static const int code[STORE_FAULT_N] = {
        [STORE_FAULT_disk_full] = ERR_LIMIT,    [STORE_FAULT_read_only] = ERR_IO,   [STORE_FAULT_locked] = ERR_BUSY,
        [STORE_FAULT_corrupt] = ERR_FORMAT,     [STORE_FAULT_newer] = ERR_VERSION,  [STORE_FAULT_io] = ERR_IO,
        [STORE_FAULT_unreachable] = ERR_NET,    [STORE_FAULT_fenced] = ERR_STATE,   [STORE_FAULT_internal] = ERR_IO,
    };
    va_list ap;

    ASSERT(code[value]);
    *fault = value;
    va_start(ap, fmt);
    err_setv(err, code[value], fmt, ap);
    va_end(ap);
    err_wrap(err, "%s", store_fault_name(value));
    return code[value];
}

void store__refuse(struct store_refusals *out, uint64_t seq, const struct store_record *r)
{
    if (out->n == out->cap) {
        out->cap = out->cap ? 2 * out->cap : 16;
        out->r = mem_realloc(out->r, out->cap * sizeof *out->r);
    }
    struct store_refusal *f = &out->r[out->n++];
    *f = (struct store_refusal){.seq = seq, .kind = r->kind};
    const char *id = r->u.prune;
    if (r->kind == STORE_accept) {
        id = r->u.accept.id;
    } else if (r->kind == STORE_tokens) {
        id = r->u.tokens.request;
        f->choice = r->u.tokens.choice;
        f->first = r->u.tokens.first;
    } else if (r->kind == STORE_end) {
        id = r->u.end.request;
        f->choice = r->u.end.choice;
        f->first = r->u.end.n_tok;
    }
    snprintf(f->request, sizeof f->request, "%s", id);
}

void store__holder(const struct store_config *c, char *out, size_t n)
{
    char host[64] = "?";
    if (c->holder) {
        snprintf(out, n, "%s", c->holder);
        return;
    }
    gethostname(host, sizeof host - 1);
    snprintf(out, n, "%s:%ld", host, (long)getpid());
}

/* ---- the thread ---- */

/* Under lock. */
static void set_state(struct store *s, enum store_state state, enum store_fault fault, const char *text)
{
    if (s->status.state == state && s->status.fault == fault)
        return;
    if (state == STORE_STATE_failing || state == STORE_STATE_fenced)
        log_error(store, "state=%s: %s", store_state_name(state), text);
    else if (state == STORE_STATE_ready)
        log_info(store, "state=ready again, committed=%llu", (unsigned long long)s->status.committed);
    s->status.state = state;
    s->status.fault = fault;
    snprintf(s->status.text, sizeof s->status.text, "%s", text);
}

static void failed(struct store *s, const struct err *err)
{
    bool fenced = s->db->fault == STORE_FAULT_fenced;
    pthread_mutex_lock(&s->lock);
    s->status.n_failed++;
    set_state(s, fenced ? STORE_STATE_fenced : STORE_STATE_failing, s->db->fault, err->text);
    pthread_mutex_unlock(&s->lock);
    uv_async_send(&s->async);
}

/* Wait under lock until the thread is woken or ms have passed. */
static void wait_ms(struct store *s, int64_t ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += ms % 1000 * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&s->wake, &s->lock, &t);
}

/* Under lock: move batches from the queue into the hand, as many as one transaction takes. */
static void take_group(struct store *s)
{
    size_t bytes = 0, cap = (size_t)s->limit.queue_max + 1;

    while (s->n_queue && (s->n_hand == 0 || bytes < (size_t)s->limit.group_bytes_max)) {
        struct store_batch *b = s->queue[s->queue_head];
        s->queue_head = (s->queue_head + 1) % cap;
        s->n_queue--;
        s->hand[s->n_hand++] = b;
        bytes += b->bytes;
    }
}

static void drop_hand(struct store *s)
{
    for (size_t i = 0; i < s->n_hand; i++)
        store_batch_destroy(&s->hand[i]);
    s->n_hand = 0;
}

/* The hand is in: tell it. */
static void committed(struct store *s, bool durable, int64_t ns)
{
    uint64_t seq = s->hand[s->n_hand - 1]->seq;

    pthread_mutex_lock(&s->lock);
    struct store_status *st = &s->status;
    st->n_commit++;
    st->committed = seq;
    if (durable)
        st->durable = seq;
    st->n_queued -= (int64_t)s->n_hand;
    st->n_refused += s->found.n;
    if (ns > st->commit_ns_max)
        st->commit_ns_max = ns;
    set_state(s, STORE_STATE_ready, STORE_FAULT_none, "");
    for (size_t i = 0; i < s->found.n; i++) {
        struct store_refusals *to = &s->refused;
        if (to->n == to->cap) {
            to->cap = to->cap ? 2 * to->cap : 16;
            to->r = mem_realloc(to->r, to->cap * sizeof *to->r);
        }
        to->r[to->n++] = s->found.r[i];
    }
    pthread_mutex_unlock(&s->lock);
    drop_hand(s);
    uv_async_send(&s->async);
}

/* Try again until it is in. False: given up, because the store is fenced or is being closed. */
static bool commit_hand(struct store *s)
{
    int64_t wait = s->limit.retry_ms;
    bool full = false;
    struct err err;

    for (size_t i = 0; i < s->n_hand; i++)
        full |= s->hand[i]->full;
    bool durable = full || s->db->ops->lazy_is_durable;
    for (;;) {
        int64_t t0 = clock_mono_ns();
        s->found.n = 0;
        if (s->db->ops->commit(s->db, s->hand, s->n_hand, full, &s->found, &err) == 0) {
            if (durable)
                s->lazy_since_ns = 0;
            else if (!s->lazy_since_ns)
                s->lazy_since_ns = clock_mono_ns();
            s->beat_ns = clock_mono_ns(); /* a commit is a sign of life, too */
            committed(s, durable, s->beat_ns - t0);
            return true;
        }
        failed(s, &err);
        if (s->db->fault == STORE_FAULT_fenced)
            return false;
        pthread_mutex_lock(&s->lock);
        int64_t until = clock_mono_ns() + wait * 1000000;
        while (!s->stop && clock_mono_ns() < until)
            wait_ms(s, (until - clock_mono_ns()) / 1000000 + 1);
        bool stop = s->stop;
        pthread_mutex_unlock(&s->lock);
        if (stop)
            return false;
        wait = wait * 2 < s->limit.retry_ms_max ? wait * 2 : s->limit.retry_ms_max;
    }
}

/* What is due while nothing is to be committed. A failure shows in the state and is tried again at the next time. */
static void do_idle_work(struct store *s)
{
    int64_t now = clock_mono_ns();
    struct err err;

    if (s->lazy_since_ns && now - s->lazy_since_ns >= s->limit.sync_ms * 1000000) {
        if (s->db->ops->sync(s->db, &err)) {
            failed(s, &err);
            s->lazy_since_ns = now;
            return;
        }
        s->lazy_since_ns = 0;
        pthread_mutex_lock(&s->lock);
        s->status.n_sync++;
        s->status.durable = s->status.committed;
        set_state(s, STORE_STATE_ready, STORE_FAULT_none, "");
        pthread_mutex_unlock(&s->lock);
        uv_async_send(&s->async);
    }
    if (s->db->ops->needs_beat && now - s->beat_ns >= s->limit.beat_ms * 1000000) {
        s->beat_ns = now;
        if (s->db->ops->beat(s->db, &err)) {
            failed(s, &err);
            return;
        }
        pthread_mutex_lock(&s->lock);
        set_state(s, STORE_STATE_ready, STORE_FAULT_none, "");
        pthread_mutex_unlock(&s->lock);
        uv_async_send(&s->async);
    }
}

/* How long the thread may sleep when nothing is queued. */
static int64_t idle_ms(const struct store *s)
{
    int64_t now = clock_mono_ns(), due = now + INT64_C(3600000) * 1000000;

    if (s->lazy_since_ns)
        due = s->lazy_since_ns + s->limit.sync_ms * 1000000;
    if (s->db->ops->needs_beat && s->beat_ns + s->limit.beat_ms * 1000000 < due)
        due = s->beat_ns + s->limit.beat_ms * 1000000;
    return due > now ? (due - now) / 1000000 + 1 : 0;
}

static void *thread_main(void *arg)
{
    struct store *s = arg;

    for (;;) {
        pthread_mutex_lock(&s->lock);
        int64_t ms;
        while (!s->n_queue && !s->stop && (ms = idle_ms(s)) > 0)
            wait_ms(s, ms);
        take_group(s);
        bool stop = s->stop;
        pthread_mutex_unlock(&s->lock);
        if (s->n_hand) {
            if (!commit_hand(s))
                break;
        } else if (stop) {
            break;
        }
        do_idle_work(s);
        if (s->db->fault == STORE_FAULT_fenced)
            break;
    }
    drop_hand(s);
    s->db->ops->close(&s->db);
    pthread_mutex_lock(&s->lock);
    s->thread_done = true;
    pthread_mutex_unlock(&s->lock);
    uv_async_send(&s->async);
    return NULL;
}

/* ---- the loop's side ---- */

static void release(struct store *s)
{
    size_t cap = (size_t)s->limit.queue_max + 1;

    for (; s->n_queue; s->n_queue--, s->queue_head = (s->queue_head + 1) % cap)
        store_batch_destroy(&s->queue[s->queue_head]);
    store_batch_destroy(&s->open);
    if (s->db)
        s->db->ops->close(&s->db);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    mem_free(s->queue);
    mem_free(s->hand);
    mem_free(s->found.r);
    mem_free(s->refused.r);
    mem_free(s);
}

static void on_async_closed(uv_handle_t *h)
{
    struct store *s = h->data;
    store_closed_fn on_closed = s->on_closed;
    void *arg = s->closed_arg;

    release(s);
    if (on_closed)
        on_closed(arg);
}

/* Take off what is to be told, then tell it: an event may write, flush or close. */
static void on_async(uv_async_t *async)
{
    struct store *s = async->data;
    struct store_status st;

    pthread_mutex_lock(&s->lock);
    st = s->status;
    struct store_refusals refused = s->refused;
    s->refused = (struct store_refusals){0};
    bool done = s->thread_done;
    pthread_mutex_unlock(&s->lock);

    for (size_t i = 0; i < refused.n; i++) {
        const struct store_refusal *r = &refused.r[i];
        log_warn(store, "%s of request=%s choice=%d at %lld refused: it contradicts what is stored",
                 store_kind_name(r->kind), r->request, (int)r->choice, (long long)r->first);
        if (s->events.on_refused)
            s->events.on_refused(s->arg, r);
    }
    mem_free(refused.r);
    if (st.committed != s->told_committed || st.durable != s->told_durable) {
        s->told_committed = st.committed;
        s->told_durable = st.durable;
        if (s->events.on_progress)
            s->events.on_progress(s->arg, st.committed, st.durable);
    }
    if (st.state != s->told_state || st.fault != s->told_fault) {
        s->told_state = st.state;
        s->told_fault = st.fault;
        if (s->events.on_state)
            s->events.on_state(s->arg, st.state, st.fault, st.text);
    }
    if (s->owed && !s->closing)
        store_flush(s);
    if (done && s->closing && s->started) {
        s->started = false;
        pthread_join(s->thread, NULL);
        uv_close((uv_handle_t *)&s->async, on_async_closed);
    }
}

/* Which back end a url means; NULL: one that was not built. */
static const struct store_backend_ops *choose_backend(const char *url)
{
    if (strncmp(url, "postgresql://", 13) != 0 && strncmp(url, "postgres://", 11) != 0)
        return &store__sqlite;
#ifdef BATON_STORE_POSTGRES
    return &store__postgres;
#else
    return NULL;
#endif
}

int store_open(uv_loop_t *loop, const struct store_config *c, const struct store_events *events, void *arg,
               struct store **s_p, struct err *err)
{
    enum store_fault fault = STORE_FAULT_none;
    struct store_backend *db = NULL;

    ASSERT(c->url && c->limit.queue_max >= 1 && c->limit.retry_ms >= 1);
    const struct store_backend_ops *ops = choose_backend(c->url);
    if (!ops)
        return err_set(err, ERR_UNSUPPORTED,
                       "this program was built without libpq (package libpq-dev): it cannot use a PostgreSQL store");
    int rc = ops->open(c, &db, &fault, err);
    if (rc)
        return rc;
    struct store *s = mem_zalloc(sizeof *s);
    rc = uv_async_init(loop, &s->async, on_async);
    if (rc) {
        ops->close(&db);
        mem_free(s);
        return err_set(err, ERR_IO, "store: no async handle: %s", uv_strerror(rc));
    }
    s->async.data = s;
    s->db = db;
    s->events = *events;
    s->arg = arg;
    s->limit = c->limit;
    s->queue = mem_array((size_t)c->limit.queue_max + 1, sizeof(struct store_batch *));
    s->hand = mem_array((size_t)c->limit.queue_max + 1, sizeof(struct store_batch *));
    s->open = store_batch_new(1);
    s->status.epoch = db->epoch;
    s->beat_ns = clock_mono_ns();
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&s->lock, NULL);
    log_info(store, "%s opened, schema=%d epoch=%llu", ops->name, STORE_SCHEMA_VERSION, (unsigned long long)db->epoch);
    *s_p = s;
    return 0;
}

int store_start(struct store *s, struct err *err)
{
    sigset_t all, old;

    ASSERT(!s->started && !s->closing);
    sigfillset(&all); /* signals are the loop's */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&s->thread, NULL, thread_main, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc)
        return err_set(err, ERR_IO, "store: no thread: %s", strerror(rc));
    s->started = true;
    return 0;
}

/* Hand the open batch over if there is room (or `extra` for the last one). */
static bool hand_over(struct store *s, size_t extra)
{
    size_t cap = (size_t)s->limit.queue_max + 1;
    uint64_t next = s->open->seq + 1; /* once it is handed over, the thread may free it at any time */
    bool ok = false;

    pthread_mutex_lock(&s->lock);
    if ((size_t)s->status.n_queued < (size_t)s->limit.queue_max + extra) {
        ASSERT(s->n_queue < cap);
        s->queue[(s->queue_head + s->n_queue++) % cap] = s->open;
        s->status.n_queued++;
        ok = true;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (ok)
        s->open = store_batch_new(next);
    return ok;
}

void store_flush(struct store *s)
{
    s->owed = s->open->n && !hand_over(s, 0);
}

bool store_is_full(struct store *s)
{
    if (s->open->bytes < (size_t)s->limit.batch_bytes_max / 2)
        return false;
    pthread_mutex_lock(&s->lock);
    bool full = s->status.n_queued >= s->limit.queue_max;
    pthread_mutex_unlock(&s->lock);
    return full;
}

int store_put(struct store *s, const struct store_record *r, enum store_class cls, uint64_t *seq, struct err *err)
{
    ASSERT(s->started && !s->closing);
    if (s->told_state == STORE_STATE_fenced)
        return err_set(err, ERR_STATE, "the store is fenced: another controller leads");
    if (s->open->bytes >= (size_t)s->limit.batch_bytes_max && !hand_over(s, 0))
        return err_set(err, ERR_LIMIT, "%lld batches wait for the store and the next one is full (store: %s)",
                       (long long)s->limit.queue_max, store_state_name(s->told_state));
    int rc = store_batch_add(s->open, r, cls, err);
    if (!rc && seq)
        *seq = s->open->seq;
    return rc;
}

int store_accept(struct store *s, const struct store_request *r, uint64_t *seq, struct err *err)
{
    return store_put(s, &(struct store_record){.kind = STORE_accept, .u.accept = *r}, STORE_FULL, seq, err);
}

int store_tokens(struct store *s, const struct store_tokens *t, enum store_class cls, uint64_t *seq, struct err *err)
{
    return store_put(s, &(struct store_record){.kind = STORE_tokens, .u.tokens = *t}, cls, seq, err);
}

int store_end(struct store *s, const struct store_end *e, uint64_t *seq, struct err *err)
{
    return store_put(s, &(struct store_record){.kind = STORE_end, .u.end = *e}, STORE_FULL, seq, err);
}

int store_prune(struct store *s, const char *request, uint64_t *seq, struct err *err)
{
    return store_put(s, &(struct store_record){.kind = STORE_prune, .u.prune = request}, STORE_LAZY, seq, err);
}

void store_status(struct store *s, struct store_status *st)
{
    pthread_mutex_lock(&s->lock);
    *st = s->status;
    pthread_mutex_unlock(&s->lock);
}

void store_close(struct store **s_p, store_closed_fn on_closed, void *arg)
{
    struct store *s = *s_p;

    ASSERT(!s->closing);
    *s_p = NULL;
    s->closing = true;
    s->on_closed = on_closed;
    s->closed_arg = arg;
    if (!s->started) {
        uv_close((uv_handle_t *)&s->async, on_async_closed);
        return;
    }
    if (s->open->n)
        hand_over(s, 1);
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    uv_async_send(&s->async); /* a fenced thread has ended long ago */
}

/* ---- recovery: what comes back is checked before the ledger sees it ---- */

struct check {
    const struct store_visitor *v;
    void *arg;
    struct err *err;
    char id[STORE_ID_MAX];
    int32_t n_choice;
    int64_t n_tok[STORE_CHOICES_MAX];
};

static int contradiction(struct check *k, int32_t choice, const char *what)
{
    return err_set(k->err, ERR_FORMAT, "corrupt: request %s choice %d: %s; restore the database from a backup", k->id,
                   (int)choice, what);
}

static int check_request(void *arg, const struct store_request *r)
{
    struct check *k = arg;
    snprintf(k->id, sizeof k->id, "%s", r->id);
    memset(k->n_tok, 0, sizeof k->n_tok);
    k->n_choice = r->n_choice;
    if (r->n_choice < 1 || r->n_choice > STORE_CHOICES_MAX)
        return contradiction(k, 0, "an impossible number of choices");
    return k->v->on_request ? k->v->on_request(k->arg, r) : 0;
}

static int check_tokens(void *arg, const struct store_tokens *t)
{
    struct check *k = arg;
    if (strcmp(t->request, k->id) != 0 || t->choice < 0 || t->choice >= k->n_choice)
        return contradiction(k, t->choice, "tokens of a choice that was not asked for");
    if (t->first != k->n_tok[t->choice] || t->n < 1)
        return contradiction(k, t->choice, "a gap in the tokens");
    k->n_tok[t->choice] += t->n;
    return k->v->on_tokens ? k->v->on_tokens(k->arg, t) : 0;
}

static int check_end(void *arg, const struct store_end *e)
{
    struct check *k = arg;
    if (strcmp(e->request, k->id) != 0 || e->choice < 0 || e->choice >= k->n_choice)
        return contradiction(k, e->choice, "the end of a choice that was not asked for");
    if (e->n_tok != k->n_tok[e->choice])
        return contradiction(k, e->choice, "another number of tokens than its end says");
    return k->v->on_end ? k->v->on_end(k->arg, e) : 0;
}

int store_load(struct store *s, enum store_load_what what, const struct store_visitor *v, void *arg, struct err *err)
{
    static const struct store_visitor checked = {check_request, check_tokens, check_end};
    struct check k = {.v = v, .arg = arg, .err = err};

    ASSERT(!s->started);
    return s->db->ops->load(s->db, what, &checked, &k, err);
}
