#include "controller/store/store.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/mem/arena.h"
#include "common/mem/mem.h"
#include "common/text/utf8.h"
#include "controller/store/backend.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A question on its way: queue -> thread -> answered -> loop. */
struct fetch {
    struct fetch *next;
    uint64_t after;           /* the batch that the answer has to see */
    struct store_query query; /* texts in arena */
    store_fetched_fn fn;
    void *arg;
    struct arena arena;
    struct store_batch *records;
    struct store_fetched answer;
};

struct fetch_list {
    struct fetch *first, **last;
    int64_t n;
};

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
    int64_t n_asked; /* questions that are not answered yet */

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
    struct fetch_list asked, answered;
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

/* What r says about itself, for the report. */
static void describe(struct store_refusal *f, const struct store_record *r)
{
    const char *id = "", *path = "", *state = "";

    switch (r->kind) {
    case STORE_accept: id = r->u.accept.id; break;
    case STORE_tokens:
        id = r->u.tokens.request;
        f->choice = r->u.tokens.choice;
        f->first = r->u.tokens.first;
        break;
    case STORE_end:
        id = r->u.end.request;
        f->choice = r->u.end.choice;
        f->first = r->u.end.n_tok;
        break;
    case STORE_run: id = r->u.run.id; break;
    case STORE_step:
        id = r->u.step.run;
        path = r->u.step.path;
        state = r->u.step.state;
        f->choice = r->u.step.attempt;
        break;
    case STORE_run_end:
        id = r->u.run_end.run;
        state = r->u.run_end.state;
        break;
    case STORE_prune: id = r->u.prune; break;
    case STORE_prune_run: id = r->u.prune_run; break;
    case STORE_KIND_N: BUG("no such kind of record");
    }
    snprintf(f->request, sizeof f->request, "%s", id);
    snprintf(f->path, sizeof f->path, "%s", path);
    snprintf(f->state, sizeof f->state, "%s", state);
}

static struct store_refusal *grow(struct store_refusals *to)
{
    if (to->n == to->cap) {
        to->cap = to->cap ? 2 * to->cap : 16;
        to->r = mem_realloc(to->r, to->cap * sizeof *to->r);
    }
    return &to->r[to->n++];
}

void store__refuse(struct store_refusals *out, uint64_t seq, const struct store_record *r)
{
    struct store_refusal *f = grow(out);
    *f = (struct store_refusal){.seq = seq, .kind = r->kind};
    describe(f, r);
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
    for (size_t i = 0; i < s->found.n; i++)
        *grow(&s->refused) = s->found.r[i];
    pthread_mutex_unlock(&s->lock);
    drop_hand(s);
    uv_async_send(&s->async);
}

/* ---- questions, on the thread ---- */

static void append(struct fetch_list *l, struct fetch *f)
{
    f->next = NULL;
    *(l->first ? l->last : &l->first) = f;
    l->last = &f->next;
    l->n++;
}

static struct fetch *take_first(struct fetch_list *l)
{
    struct fetch *f = l->first;
    if (f) {
        l->first = f->next;
        l->n--;
    }
    return f;
}

static int collect(void *arg, const struct store_record *r)
{
    store__batch_copy(arg, r);
    return 0;
}

static int read_checked(struct store *s, const struct store_query *query, store__record_fn fn, void *arg,
                        struct err *err);

/* Answer the questions whose batches are in; all of them while the store is failing, when nobody knows when that will
 * be. Between transactions; with lock held on entry and exit. */
static void answer_asked(struct store *s)
{
    while (s->asked.first && (s->asked.first->after <= s->status.committed || s->status.state != STORE_STATE_ready)) {
        struct fetch *f = take_first(&s->asked);
        pthread_mutex_unlock(&s->lock);
        f->records = store_batch_new(0);
        f->answer.rc = read_checked(s, &f->query, collect, f->records, &f->answer.err);
        if (!f->answer.rc) {
            f->answer.record = f->records->record;
            f->answer.n = f->records->n;
        } else if (s->db->fault == STORE_FAULT_fenced) {
            failed(s, &f->answer.err);
        }
        pthread_mutex_lock(&s->lock);
        append(&s->answered, f);
        uv_async_send(&s->async);
    }
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
        while (!s->stop && clock_mono_ns() < until) {
            answer_asked(s);
            wait_ms(s, (until - clock_mono_ns()) / 1000000 + 1);
        }
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
        while (!s->n_queue && !s->stop && !s->asked.first && (ms = idle_ms(s)) > 0)
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
        pthread_mutex_lock(&s->lock);
        answer_asked(s);
        pthread_mutex_unlock(&s->lock);
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
    ASSERT(s->n_asked == 0);
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

static void fetch_destroy(struct fetch *f)
{
    store_batch_destroy(&f->records);
    arena_release(&f->arena);
    mem_free(f);
}

static void tell_answers(struct store *s, struct fetch_list *answered)
{
    struct fetch *f;
    while ((f = take_first(answered))) {
        s->n_asked--;
        f->fn(f->arg, &f->answer);
        fetch_destroy(f);
    }
}

/* Under lock, when the thread has ended: what nobody will answer any more. */
static void give_up_asked(struct store *s)
{
    struct fetch *f;
    bool fenced = s->status.state == STORE_STATE_fenced;

    while ((f = take_first(&s->asked))) {
        f->answer.rc = err_set(&f->answer.err, fenced ? ERR_STATE : ERR_CANCELED, "the store is %s",
                               fenced ? "fenced: another controller leads" : "closed");
        append(&s->answered, f);
    }
}

/* Take off what is to be told, then tell it: an event may write, flush or close. */
static void on_async(uv_async_t *async)
{
    struct store *s = async->data;
    struct store_status st;

    pthread_mutex_lock(&s->lock);
    if (s->thread_done)
        give_up_asked(s);
    struct fetch_list answered = s->answered;
    s->answered = (struct fetch_list){0};
    st = s->status;
    struct store_refusals refused = s->refused;
    s->refused = (struct store_refusals){0};
    bool done = s->thread_done;
    pthread_mutex_unlock(&s->lock);

    for (size_t i = 0; i < refused.n; i++) {
        const struct store_refusal *r = &refused.r[i];
        log_warn(store, "%s of id=%s choice=%d at %lld %s %s refused: it contradicts what is stored",
                 store_kind_name(r->kind), r->request, (int)r->choice, (long long)r->first, r->path, r->state);
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
    tell_answers(s, &answered);
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
    return s->open->bytes >= (size_t)s->limit.batch_bytes_max / 2;
}

int store_put(struct store *s, const struct store_record *r, enum store_class cls, uint64_t *seq, struct err *err)
{
    ASSERT(s->started && !s->closing);
    if (s->told_state == STORE_STATE_fenced)
        return err_set(err, ERR_STATE, "the store is fenced: another controller leads");
    if (s->open->bytes - s->open->bytes_largest >= (size_t)s->limit.batch_bytes_max)
        return err_set(err, ERR_LIMIT, "the batch for the store is full: %zu bytes (batches in front of it: %s)",
                       s->open->bytes, s->owed ? "as many as may wait" : "few");
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

int store_run(struct store *s, const struct store_run *r, uint64_t *seq, struct err *err)
{
    return store_put(s, &(struct store_record){.kind = STORE_run, .u.run = *r}, STORE_FULL, seq, err);
}

int store_step(struct store *s, const struct store_step *t, enum store_class cls, uint64_t *seq, struct err *err)
{
    return store_put(s, &(struct store_record){.kind = STORE_step, .u.step = *t}, cls, seq, err);
}

int store_run_end(struct store *s, const struct store_run_end *e, uint64_t *seq, struct err *err)
{
    return store_put(s, &(struct store_record){.kind = STORE_run_end, .u.run_end = *e}, STORE_FULL, seq, err);
}

int store_prune_run(struct store *s, const char *run, uint64_t *seq, struct err *err)
{
    return store_put(s, &(struct store_record){.kind = STORE_prune_run, .u.prune_run = run}, STORE_LAZY, seq, err);
}

/* NULL, or what is wrong with a query. */
static const char *fault_of_query(const struct store_query *y)
{
    switch (y->kind) {
    case STORE_QUERY_request:
    case STORE_QUERY_run: return y->id ? NULL : "id is missing";
    case STORE_QUERY_request_key: return y->tenant && y->path && y->key ? NULL : "tenant, path or key is missing";
    case STORE_QUERY_run_key: return y->tenant && y->key ? NULL : "tenant or key is missing";
    case STORE_QUERY_runs:
    case STORE_QUERY_old_requests:
    case STORE_QUERY_old_runs:
        return y->limit >= 1 && y->limit <= STORE_QUERY_LIMIT_MAX ? NULL : "limit is out of range";
    case STORE_QUERY_N: break;
    }
    return "no such kind of query";
}

/* PostgreSQL refuses a parameter that is no UTF-8; nothing of that name was ever stored. */
static const char *copy_key(struct arena *a, const char *s, bool *known)
{
    if (!s)
        return NULL;
    *known &= utf8_is_valid(s, strlen(s));
    return arena_strdup(a, s);
}

int store_fetch(struct store *s, const struct store_query *query, store_fetched_fn fn, void *arg, struct err *err)
{
    const char *wrong = fault_of_query(query);
    bool known = true;

    ASSERT(s->started && !s->closing);
    if (wrong)
        return err_set(err, ERR_ARG, "a query of the store: %s", wrong);
    if (s->told_state == STORE_STATE_fenced)
        return err_set(err, ERR_STATE, "the store is fenced: another controller leads");
    if (s->n_asked >= s->limit.fetch_max)
        return err_set(err, ERR_LIMIT, "%lld queries wait for the store", (long long)s->n_asked);
    struct fetch *f = mem_zalloc(sizeof *f);
    f->query = *query;
    f->query.id = copy_key(&f->arena, query->id, &known);
    f->query.tenant = copy_key(&f->arena, query->tenant, &known);
    f->query.path = copy_key(&f->arena, query->path, &known);
    f->query.key = copy_key(&f->arena, query->key, &known);
    f->fn = fn;
    f->arg = arg;
    f->after = s->owed ? s->open->seq : s->open->seq - 1;
    s->n_asked++;
    pthread_mutex_lock(&s->lock);
    append(known ? &s->asked : &s->answered, f);
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    uv_async_send(&s->async); /* for what the thread will not answer */
    return 0;
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

/* ---- reading: what comes back is checked before anybody sees it ---- */

struct check {
    store__record_fn fn;
    void *arg;
    struct err *err;
    char id[STORE_ID_MAX]; /* of the request or run whose rows come */
    bool is_run;
    int32_t n_choice;
    int64_t n_tok[STORE_CHOICES_MAX];
};

static int contradiction(struct check *k, int32_t choice, const char *what)
{
    if (k->is_run)
        return err_set(k->err, ERR_FORMAT, "corrupt: run %s: %s; restore the database from a backup", k->id, what);
    return err_set(k->err, ERR_FORMAT, "corrupt: request %s choice %d: %s; restore the database from a backup", k->id,
                   (int)choice, what);
}

static void begin(struct check *k, const char *id, bool is_run, int32_t n_choice)
{
    snprintf(k->id, sizeof k->id, "%s", id);
    k->is_run = is_run;
    k->n_choice = n_choice;
    memset(k->n_tok, 0, sizeof k->n_tok);
}

static int check_tokens(struct check *k, const struct store_tokens *t)
{
    if (k->is_run || strcmp(t->request, k->id) != 0 || t->choice < 0 || t->choice >= k->n_choice)
        return contradiction(k, t->choice, "tokens of a choice that was not asked for");
    if (t->first != k->n_tok[t->choice] || t->n < 1)
        return contradiction(k, t->choice, "a gap in the tokens");
    k->n_tok[t->choice] += t->n;
    return 0;
}

static int check_end(struct check *k, const struct store_end *e)
{
    if (k->is_run || strcmp(e->request, k->id) != 0 || e->choice < 0 || e->choice >= k->n_choice)
        return contradiction(k, e->choice, "the end of a choice that was not asked for");
    if (e->n_tok != k->n_tok[e->choice])
        return contradiction(k, e->choice, "another number of tokens than its end says");
    return 0;
}

static int check_record(void *arg, const struct store_record *r)
{
    struct check *k = arg;
    int rc = 0;

    switch (r->kind) {
    case STORE_accept:
        begin(k, r->u.accept.id, false, r->u.accept.n_choice);
        if (r->u.accept.n_choice < 1 || r->u.accept.n_choice > STORE_CHOICES_MAX)
            rc = contradiction(k, 0, "an impossible number of choices");
        break;
    case STORE_tokens: rc = check_tokens(k, &r->u.tokens); break;
    case STORE_end: rc = check_end(k, &r->u.end); break;
    case STORE_run: begin(k, r->u.run.id, true, 0); break;
    case STORE_step:
        if (!k->is_run || strcmp(r->u.step.run, k->id) != 0)
            rc = contradiction(k, 0, "a step of another run");
        break;
    case STORE_run_end:
        if (!k->is_run || strcmp(r->u.run_end.run, k->id) != 0)
            rc = contradiction(k, 0, "the end of another run");
        break;
    case STORE_prune:
    case STORE_prune_run: break;
    case STORE_KIND_N: BUG("no such kind of record");
    }
    return rc ? rc : k->fn(k->arg, r);
}

static int read_checked(struct store *s, const struct store_query *query, store__record_fn fn, void *arg,
                        struct err *err)
{
    struct check k = {.fn = fn, .arg = arg, .err = err};
    return s->db->ops->fetch(s->db, query, check_record, &k, err);
}

/* A record to whom it concerns. */
struct visit {
    const struct store_visitor *v;
    void *arg;
};

static int visit(void *arg, const struct store_record *r)
{
    const struct visit *to = arg;
    const struct store_visitor *v = to->v;

    switch (r->kind) {
    case STORE_accept: return v->on_request ? v->on_request(to->arg, &r->u.accept) : 0;
    case STORE_tokens: return v->on_tokens ? v->on_tokens(to->arg, &r->u.tokens) : 0;
    case STORE_end: return v->on_end ? v->on_end(to->arg, &r->u.end) : 0;
    case STORE_run: return v->on_run ? v->on_run(to->arg, &r->u.run) : 0;
    case STORE_step: return v->on_step ? v->on_step(to->arg, &r->u.step) : 0;
    case STORE_run_end: return v->on_run_end ? v->on_run_end(to->arg, &r->u.run_end) : 0;
    case STORE_prune:
    case STORE_prune_run: return 0;
    case STORE_KIND_N: break;
    }
    BUG("no such kind of record");
}

int store_load(struct store *s, enum store_load_what what, const struct store_visitor *v, void *arg, struct err *err)
{
    struct visit to = {v, arg};
    struct check k = {.fn = visit, .arg = &to, .err = err};
    bool with_runs = v->on_run || v->on_step || v->on_run_end;

    ASSERT(!s->started);
    return s->db->ops->load(s->db, what, with_runs, check_record, &k, err);
}

int store_fetched_visit(const struct store_fetched *f, const struct store_visitor *v, void *arg)
{
    struct visit to = {v, arg};
    int rc = f->rc;

    for (size_t i = 0; i < f->n && !rc; i++)
        rc = visit(&to, &f->record[i]);
    return rc;
}
