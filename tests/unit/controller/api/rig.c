#include "tests/unit/controller/api/rig.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "controller/api/front.h"
#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the fake back ---- */

struct fake_choice {
    struct tok_ids ids;
    int64_t next;
    bool lost;
};

struct fake_req {
    struct fake_req *next;
    struct ctl_request *req; /* NULL: dropped */
    struct script script;
    struct fake_choice *choice;
    int n_choice;
    int64_t not_before_ms;
};

struct ctl {
    uv_loop_t loop;
    uv_prepare_t prepare;
    uv_idle_t idle;
    uv_timer_t timer;
    uv_async_t stop, poke;
    struct ctl_config config;
    struct ctl_front *front;
    struct fake_req *reqs;
    struct ctl_request *dead[256]; /* freed at the end of the turn, as in the real one */
    int n_dead;
    bool draining;
    struct rig *rig;
};

struct rig {
    pthread_t thread;
    pthread_mutex_t lock;
    struct ctl ctl;
    int port;
    struct script script; /* under lock, like the rest */
    int64_t context_max, n_dropped, n_submitted, n_finished;
    bool drain;
    struct ctl_request last;
};

static struct tok *tok;

const struct tok *rig_tok(void)
{
    return tok;
}

void ctl_config_init(struct ctl_config *config)
{
    *config = (struct ctl_config){
        .http_host = "127.0.0.1",
        .model_name = "org/tiny",
        .profile = CHAT_0731,
        .limit =
            {
#define X(name, value, text) .name = value,
                CTL_LIMIT_LIST(X)
#undef X
            },
    };
}

uv_loop_t *ctl_loop(struct ctl *ctl)
{
    return &ctl->loop;
}

const struct ctl_config *ctl_config_of(struct ctl *ctl)
{
    return &ctl->config;
}

const struct tok *ctl_tok(struct ctl *ctl)
{
    (void)ctl;
    return tok;
}

static void on_idle(uv_idle_t *h)
{
    (void)h;
}

void ctl_wake(struct ctl *ctl)
{
    if (ctl->front)
        uv_idle_start(&ctl->idle, on_idle);
}

bool ctl_is_draining(struct ctl *ctl)
{
    return ctl->draining;
}

int64_t ctl_context_max(struct ctl *ctl)
{
    pthread_mutex_lock(&ctl->rig->lock);
    int64_t v = ctl->rig->context_max;
    pthread_mutex_unlock(&ctl->rig->lock);
    return v;
}

bool ctl_is_ready(struct ctl *ctl)
{
    return !ctl->draining && ctl_context_max(ctl) > 0;
}

uint64_t ctl_fingerprint(struct ctl *ctl)
{
    return ctl_context_max(ctl) ? 0x123456789abcdef0u : 0;
}

void ctl_status_json(struct ctl *ctl, struct buf *out)
{
    (void)ctl;
    buf_add_str(out, "{\"controller\":{\"pid\":1},\"workers\":[]}");
}

int ctl_request_submit(struct ctl *ctl, struct ctl_request **req_p, struct err *err)
{
    struct rig *rig = ctl->rig;
    struct ctl_request *r = *req_p;
    struct fake_req *f;

    pthread_mutex_lock(&rig->lock);
    struct script s = rig->script;
    rig->n_submitted++;
    rig->last = *r;
    pthread_mutex_unlock(&rig->lock);
    if (s.submit_rc)
        return err_set(err, s.submit_rc, "scripted refusal");
    *req_p = NULL;
    r->ctl = ctl;
    r->accepted = true;
    f = mem_zalloc(sizeof *f);
    f->req = r;
    f->script = s;
    f->n_choice = r->n_choice;
    f->choice = mem_array((size_t)r->n_choice, sizeof *f->choice);
    f->not_before_ms = (int64_t)uv_now(&ctl->loop) + s.stall_ms;
    for (int i = 0; i < r->n_choice; i++) {
        const char *text = s.n_text ? s.text[i % s.n_text] : "";
        for (int64_t k = 0; k < (s.repeat ? s.repeat : 1); k++)
            tok_encode(tok, text, strlen(text), NULL, 0, &f->choice[i].ids);
        if (s.raw_id > 0)
            tok_ids_add(&f->choice[i].ids, s.raw_id);
        if ((int64_t)f->choice[i].ids.n > r->max_output)
            f->choice[i].ids.n = (size_t)r->max_output;
        r->choice[i].n_dispatch = 1;
        r->choice[i].cached_tok = 3;
        r->choice[i].state = CTL_CHOICE_running;
    }
    f->next = ctl->reqs;
    ctl->reqs = f;
    ctl_wake(ctl);
    return 0;
}

static void end_choice(struct ctl_choice *c, enum ctl_end end)
{
    c->state = CTL_CHOICE_ended;
    c->end = end;
    c->told = true;
}

/* The end is found when tokens arrive, and told behind them. */
void ctl_choice_stop(struct ctl_choice *c)
{
    struct rig *rig = c->req->ctl->rig;
    if (c->state == CTL_CHOICE_ended)
        return;
    pthread_mutex_lock(&rig->lock);
    rig->n_finished++;
    pthread_mutex_unlock(&rig->lock);
    c->state = CTL_CHOICE_ended;
    c->end = CTL_END_stop;
}

struct store *ctl_store(struct ctl *ctl)
{
    (void)ctl;
    return NULL;
}

const char *ctl_store_fault(struct ctl *ctl)
{
    (void)ctl;
    return NULL;
}

void ctl_request_leave(struct ctl_request **req_p)
{
    ctl_request_drop(req_p);
}

void ctl_request_attach(struct ctl_request *req, const struct ctl_request_events *events, void *arg)
{
    (void)req, (void)events, (void)arg;
    BUG("nothing is recovered in this rig");
}

void ctl_request_drop(struct ctl_request **req_p)
{
    struct ctl_request *r = *req_p;
    if (!r)
        return;
    struct ctl *ctl = r->ctl;
    *req_p = NULL;
    for (struct fake_req *f = ctl->reqs; f; f = f->next)
        if (f->req == r)
            f->req = NULL;
    ASSERT(ctl->n_dead < 256);
    ctl->dead[ctl->n_dead++] = r;
    pthread_mutex_lock(&ctl->rig->lock);
    ctl->rig->n_dropped++;
    pthread_mutex_unlock(&ctl->rig->lock);
}

/* Commit up to n tokens of a choice. */
static void commit(struct ctl_choice *c, struct fake_choice *f, int64_t n)
{
    struct ctl_output *o = &c->out;
    int n_top = c->req->sampling.n_top;
    int64_t first = o->n;

    if (n > (int64_t)f->ids.n - f->next)
        n = (int64_t)f->ids.n - f->next;
    if (n == 0)
        return;
    if (o->n + n > o->cap) {
        size_t cap = (size_t)(o->n + n) * 2;
        o->cap = (int64_t)cap;
        o->id = mem_realloc(o->id, cap * sizeof *o->id);
        o->logprob = mem_realloc(o->logprob, cap * sizeof *o->logprob);
        if (n_top)
            o->top = mem_realloc(o->top, cap * (size_t)n_top * sizeof *o->top);
    }
    for (int64_t i = 0; i < n; i++, o->n++) {
        o->id[o->n] = f->ids.id[f->next++];
        o->logprob[o->n] = -0.5f * (float)o->n;
        for (int k = 0; k < n_top; k++)
            o->top[o->n * n_top + k] = (struct msg_top){k < 2 ? o->id[o->n] + k : -1, (float)-k};
    }
    const struct ctl_request_events *events = c->req->events;
    events->on_arrived(c->req->arg, c, first, n);
    c->n_shown = o->n;
    events->on_tokens(c->req->arg, c, first, n);
    if (c->state == CTL_CHOICE_ended && !c->told) {
        c->told = true;
        events->on_ending(c->req->arg, c);
        events->on_end(c->req->arg, c);
    }
}

static void step_choice(struct fake_req *f, int i)
{
    struct ctl_choice *c = &f->req->choice[i];
    struct fake_choice *k = &f->choice[i];
    struct script *s = &f->script;

    if (c->state == CTL_CHOICE_ended)
        return;
    if (s->redispatch_at && k->next >= s->redispatch_at && !k->lost) {
        k->lost = true;
        c->n_dispatch++;
        c->recomputed_tok += k->next;
        f->req->events->on_redispatch(f->req->arg, c);
    }
    commit(c, k, s->batch ? s->batch : 1 + rand() % 5);
    if (!f->req || c->state == CTL_CHOICE_ended || k->next < (int64_t)k->ids.n || s->end == CTL_END_none)
        return;
    snprintf(c->fail_text, sizeof c->fail_text, "%s", s->fail_text ? s->fail_text : "");
    end_choice(c, k->ids.n == (size_t)f->req->max_output ? CTL_END_length : s->end);
    f->req->events->on_end(f->req->arg, c);
}

static bool is_live(const struct fake_req *f)
{
    for (int i = 0; f->req && i < f->n_choice; i++)
        if (f->req->choice[i].state != CTL_CHOICE_ended &&
            (f->choice[i].next < (int64_t)f->choice[i].ids.n || f->script.end != CTL_END_none))
            return true;
    return false;
}

static void on_timer(uv_timer_t *t)
{
    (void)t; /* ends the sleep */
}

static void step_all(struct ctl *ctl)
{
    int64_t now = (int64_t)uv_now(&ctl->loop);

    for (struct fake_req *f = ctl->reqs; f; f = f->next) {
        if (f->req && now < f->not_before_ms) {
            uv_timer_start(&ctl->timer, on_timer, (uint64_t)(f->not_before_ms - now), 0);
            continue;
        }
        for (int i = 0; f->req && i < f->n_choice; i++)
            step_choice(f, i);
        if (is_live(f))
            ctl_wake(ctl);
    }
}

static void free_dead(struct ctl *ctl)
{
    for (struct fake_req **p = &ctl->reqs; *p;) {
        struct fake_req *f = *p;
        if (f->req) {
            p = &f->next;
            continue;
        }
        *p = f->next;
        for (int i = 0; i < f->n_choice; i++)
            tok_ids_release(&f->choice[i].ids);
        mem_free(f->choice);
        mem_free(f);
    }
    while (ctl->n_dead > 0)
        ctl_request_destroy(&ctl->dead[--ctl->n_dead]);
}

static void on_prepare(uv_prepare_t *h)
{
    struct ctl *ctl = h->data;

    uv_idle_stop(&ctl->idle);
    pthread_mutex_lock(&ctl->rig->lock);
    bool drain = ctl->rig->drain;
    pthread_mutex_unlock(&ctl->rig->lock);
    if (drain && !ctl->draining) {
        ctl->draining = true;
        ctl_front_drain(ctl->front);
    }
    step_all(ctl);
    ctl_front_turn(ctl->front);
    free_dead(ctl);
}

/* ---- life ---- */

static void on_front_closed(void *arg)
{
    struct ctl *ctl = arg;
    uv_close((uv_handle_t *)&ctl->idle, NULL);
    uv_close((uv_handle_t *)&ctl->timer, NULL);
    uv_close((uv_handle_t *)&ctl->stop, NULL);
    uv_close((uv_handle_t *)&ctl->poke, NULL);
    uv_close((uv_handle_t *)&ctl->prepare, NULL);
}

static void on_stop(uv_async_t *h)
{
    struct ctl *ctl = h->data;
    uv_prepare_stop(&ctl->prepare);
    uv_idle_stop(&ctl->idle);
    ctl_front_close(&ctl->front, on_front_closed, ctl);
}

static void on_poke(uv_async_t *h)
{
    (void)h;
}

static void *run_loop(void *arg)
{
    struct rig *rig = arg;
    uv_run(&rig->ctl.loop, UV_RUN_DEFAULT);
    return NULL;
}

struct rig *rig_open(void (*configure)(struct ctl_config *config))
{
    struct rig *rig = mem_zalloc(sizeof *rig);
    struct ctl *ctl = &rig->ctl;
    struct err err = {0};

    if (!tok && tok_open(TEST_DATA("tiny_tokenizer"), &tok, &err) != 0)
        fail_msg("%s", err.text);
    pthread_mutex_init(&rig->lock, NULL);
    rig->context_max = 4096;
    ctl->rig = rig;
    ctl_config_init(&ctl->config);
    if (configure)
        configure(&ctl->config);
    uv_loop_init(&ctl->loop);
    uv_prepare_init(&ctl->loop, &ctl->prepare);
    uv_idle_init(&ctl->loop, &ctl->idle);
    uv_timer_init(&ctl->loop, &ctl->timer);
    uv_async_init(&ctl->loop, &ctl->stop, on_stop);
    uv_async_init(&ctl->loop, &ctl->poke, on_poke);
    ctl->prepare.data = ctl->stop.data = ctl;
    uv_prepare_start(&ctl->prepare, on_prepare);
    if (ctl_front_open(ctl, &ctl->front, &err) != 0)
        fail_msg("%s", err.text);
    rig->port = ctl_front_port(ctl->front);
    assert_int_equal(pthread_create(&rig->thread, NULL, run_loop, rig), 0);
    return rig;
}

void rig_close(struct rig **rig_p)
{
    struct rig *rig = *rig_p;

    uv_async_send(&rig->ctl.stop);
    pthread_join(rig->thread, NULL);
    free_dead(&rig->ctl);
    assert_null(rig->ctl.reqs); /* the front has dropped all it submitted */
    assert_int_equal(uv_loop_close(&rig->ctl.loop), 0);
    pthread_mutex_destroy(&rig->lock);
    mem_free(rig);
    *rig_p = NULL;
    tok_close(&tok);
}

void rig_script(struct rig *rig, const struct script *script)
{
    pthread_mutex_lock(&rig->lock);
    rig->script = *script;
    pthread_mutex_unlock(&rig->lock);
}

void rig_set_context(struct rig *rig, int64_t context_max)
{
    pthread_mutex_lock(&rig->lock);
    rig->context_max = context_max;
    pthread_mutex_unlock(&rig->lock);
    uv_async_send(&rig->ctl.poke);
}

void rig_drain(struct rig *rig)
{
    pthread_mutex_lock(&rig->lock);
    rig->drain = true;
    pthread_mutex_unlock(&rig->lock);
    uv_async_send(&rig->ctl.poke);
}

#define GETTER(name, field)                                                                        \
    int64_t name(struct rig *rig)                                                                  \
    {                                                                                              \
        pthread_mutex_lock(&rig->lock);                                                            \
        int64_t v = rig->field;                                                                    \
        pthread_mutex_unlock(&rig->lock);                                                          \
        return v;                                                                                  \
    }
GETTER(rig_n_dropped, n_dropped)
GETTER(rig_n_submitted, n_submitted)
GETTER(rig_n_finished, n_finished)

struct ctl_request *rig_last(struct rig *rig)
{
    return &rig->last;
}

/* ---- the client ---- */

void answer_release(struct answer *a)
{
    buf_release(&a->head);
    buf_release(&a->body);
    *a = (struct answer){0};
}

const char *answer_header(const struct answer *a, const char *name, char *out, size_t size)
{
    size_t n = strlen(name);

    for (const char *p = a->head.data; p; p = strstr(p, "\r\n")) {
        p += *p == '\r' ? 2 : 0;
        if (strncasecmp(p, name, n) == 0 && p[n] == ':') {
            p += n + 1 + strspn(p + n + 1, " ");
            snprintf(out, size, "%.*s", (int)strcspn(p, "\r"), p);
            return out;
        }
    }
    return NULL;
}

int rig_dial(const struct rig *rig)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)rig->port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval tv = {30, 0};

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

void rig_send(int fd, const char *method, const char *path, const char *headers, const char *body)
{
    struct buf b = {0};

    buf_addf(&b, "%s %s HTTP/1.1\r\nHost: h\r\n%s", method, path, headers ? headers : "");
    if (body)
        buf_addf(&b, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
    buf_addf(&b, "\r\n%s", body ? body : "");
    for (size_t i = 0; i < b.len;) {
        ssize_t n = send(fd, b.data + i, b.len - i, MSG_NOSIGNAL);
        assert_true(n > 0);
        i += (size_t)n;
    }
    buf_release(&b);
}

static bool more(int fd, struct buf *raw)
{
    ssize_t n = recv(fd, buf_room(raw, 65536), 65536, 0);
    if (n <= 0)
        return false;
    raw->len += (size_t)n;
    raw->data[raw->len] = 0;
    return true;
}

bool rig_read_until(int fd, struct buf *raw, const char *until)
{
    buf_room(raw, 0)[0] = 0;
    while (!strstr(raw->data, until))
        if (!more(fd, raw))
            return false;
    return true;
}

/* Undo the chunks in raw[at..]; false: the end is missing. */
static bool unchunk(int fd, struct buf *raw, size_t at, struct buf *body)
{
    for (;;) {
        char *line;
        while (!(line = strstr(raw->data + at, "\r\n")))
            if (!more(fd, raw))
                return false;
        size_t n = strtoul(raw->data + at, NULL, 16);
        at = (size_t)(line - raw->data) + 2;
        while (raw->len < at + n + 2)
            if (!more(fd, raw))
                return false;
        buf_add(body, raw->data + at, n);
        assert_memory_equal(raw->data + at + n, "\r\n", 2);
        at += n + 2;
        if (n == 0)
            return true;
    }
}

void rig_read(int fd, struct answer *a)
{
    struct buf raw = {0};
    char value[64];

    *a = (struct answer){0};
    if (!rig_read_until(fd, &raw, "\r\n\r\n")) {
        buf_release(&raw);
        return;
    }
    size_t at = (size_t)(strstr(raw.data, "\r\n\r\n") - raw.data) + 4;
    buf_add(&a->head, raw.data, at);
    buf_add(&a->body, "", 0);
    a->status = atoi(raw.data + 9);
    if (answer_header(a, "Transfer-Encoding", value, sizeof value)) {
        a->complete = unchunk(fd, &raw, at, &a->body);
    } else {
        const char *len = answer_header(a, "Content-Length", value, sizeof value);
        size_t n = len ? strtoul(len, NULL, 10) : 0;
        while (raw.len < at + n && more(fd, &raw))
            ;
        a->complete = raw.len >= at + n;
        buf_add(&a->body, raw.data + at, a->complete ? n : raw.len - at);
    }
    buf_release(&raw);
}

void rig_ask(const struct rig *rig, const char *method, const char *path, const char *body, struct answer *a)
{
    int fd = rig_dial(rig);
    rig_send(fd, method, path, "Connection: close\r\n", body);
    if (strcmp(method, "HEAD") == 0) { /* no body follows, whatever the head says */
        *a = (struct answer){0};
        a->complete = rig_read_until(fd, &a->head, "\r\n\r\n") && !more(fd, &a->head);
        a->status = atoi(a->head.data + 9);
    } else {
        rig_read(fd, a);
    }
    close(fd);
}
