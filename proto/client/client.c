/* The user's side: life of a client, calls, reading them. */
#include "proto/client/internal.h"

#include "common/base/check.h"
#include "common/mem/mem.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

int baton__fail(struct baton_err *err, int code, const char *fmt, ...)
{
    va_list ap;

    if (!err)
        return code;
    err->code = code;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    return code;
}

void baton__wake(struct baton *b)
{
    uint64_t one = 1;
    ssize_t n = write(b->wake_fd, &one, sizeof one); /* a full counter wakes as well */
    (void)n;
}

static char *copy(const char *s)
{
    return s ? mem_strdup(s) : NULL;
}

static void secret_free(char *s)
{
    if (s)
        explicit_bzero(s, strlen(s));
    mem_free(s);
}

/* ---- life ---- */

/* Everything that the thread needed. The lock and the memory stay for calls that are still held. */
static void client_stop(struct baton *b)
{
    baton__line_close(b);
    if (b->zctx)
        zmq_ctx_term(b->zctx);
    if (b->wake_fd >= 0)
        close(b->wake_fd);
    b->wake_fd = -1;
    arena_release(&b->arena);
    mem_free(b->endpoint);
    mem_free(b->server_key);
    mem_free(b->public_key);
    secret_free(b->secret_key);
    secret_free(b->api_key);
}

/* Not under the lock. */
static void client_unref(struct baton *b)
{
    pthread_mutex_lock(&b->lock);
    int left = --b->refs;
    pthread_mutex_unlock(&b->lock);
    if (left)
        return;
    pthread_mutex_destroy(&b->lock);
    mem_free(b);
}

static int check_opts(const struct baton_opts *o, struct baton_err *err)
{
    if (!o || !o->endpoint || !o->endpoint[0])
        return baton__fail(err, BATON_E_ARG, "no endpoint; give the one that the controller prints after `native`");
    if (o->api_key && strlen(o->api_key) + sizeof "Bearer " > BEARER_MAX)
        return baton__fail(err, BATON_E_ARG, "the API key is longer than %zu bytes", BEARER_MAX - sizeof "Bearer ");
    if (!o->public_key != !o->secret_key)
        return baton__fail(err, BATON_E_ARG, "public_key and secret_key are a pair: give both or none");
    if (o->public_key && !o->server_key)
        return baton__fail(err, BATON_E_ARG, "keys of the client need the controller's server_key too");
    return 0;
}

int baton_open(const struct baton_opts *o, struct baton **client, struct baton_err *err)
{
    int rc = check_opts(o, err);
    if (rc)
        return rc;
    struct baton *b = mem_zalloc(sizeof *b);
    b->refs = 1;
    pthread_mutex_init(&b->lock, NULL);
    b->endpoint = copy(o->endpoint);
    b->server_key = copy(o->server_key);
    b->public_key = copy(o->public_key);
    b->secret_key = copy(o->secret_key);
    b->api_key = copy(o->api_key);
    b->give_up_ms = o->give_up_ms ? o->give_up_ms : CLIENT_GIVE_UP_MS;
    b->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    b->zctx = zmq_ctx_new();
    if (b->wake_fd < 0 || !b->zctx)
        rc = baton__fail(err, BATON_E_SYSTEM, "no event descriptor or ZeroMQ context: %s", strerror(errno));
    else
        rc = baton__line_open(b, err);
    if (!rc && (errno = pthread_create(&b->thread, NULL, baton__line_main, b)) != 0)
        rc = baton__fail(err, BATON_E_SYSTEM, "no thread: %s", strerror(errno));
    if (rc) {
        client_stop(b);
        client_unref(b);
        return rc;
    }
    *client = b;
    return 0;
}

void baton_close(struct baton **client)
{
    struct baton *b = *client;

    if (!b)
        return;
    *client = NULL;
    pthread_mutex_lock(&b->lock);
    b->closing = true;
    pthread_mutex_unlock(&b->lock);
    baton__wake(b);
    pthread_join(b->thread, NULL);

    client_stop(b);
    pthread_mutex_lock(&b->lock);
    for (struct baton_call *c = b->calls, *next; c; c = next) { /* closed by the user, not yet freed by the thread */
        next = c->next;
        if (!c->closed)
            continue;
        baton__call_unlink(c);
        baton__call_free(c);
        b->refs--;
    }
    pthread_mutex_unlock(&b->lock);
    client_unref(b);
}

const char *baton_version(void)
{
    return BATON_VERSION;
}

/* ---- calls ---- */

static int check_request(const struct baton_request *r, struct baton_err *err)
{
    if (!r->path || r->path[0] != '/')
        return baton__fail(err, BATON_E_ARG, "the path must begin with '/', as /v1/chat/completions");
    if (r->key && (!r->key[0] || strlen(r->key) > 255))
        return baton__fail(err, BATON_E_ARG, "an idempotency key has 1 to 255 characters");
    if (r->body_len && !r->body)
        return baton__fail(err, BATON_E_ARG, "body_len without a body");
    return 0;
}

/* 128 random bits as a key. */
static char *make_key(void)
{
    unsigned char raw[16];
    char text[40];
    int n = snprintf(text, sizeof text, "lib-");

    if (getrandom(raw, sizeof raw, 0) != sizeof raw)
        BUG("the system has no random bytes");
    for (size_t i = 0; i < sizeof raw; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%02x", raw[i]);
    return mem_strdup(text);
}

int baton_call(struct baton *b, const struct baton_request *r, struct baton_call **call, struct baton_err *err)
{
    pthread_condattr_t attr;

    int rc = check_request(r, err);
    if (rc)
        return rc;
    struct baton_call *c = mem_zalloc(sizeof *c);
    c->b = b;
    c->method = mem_strdup(r->method ? r->method : r->body ? "POST" : "GET");
    c->path = mem_strdup(r->path);
    c->body_len = !r->body ? 0 : r->body_len ? r->body_len : strlen(r->body);
    c->body = r->body ? mem_dup(r->body, c->body_len) : NULL;
    c->own_key = !r->key && strcmp(c->method, "POST") == 0;
    c->key = r->key ? mem_strdup(r->key) : c->own_key ? make_key() : NULL;
    if (r->last_event_id)
        buf_add_str(&c->last_id, r->last_event_id);
    c->contact_ms = baton__now_ms();
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->cond, &attr);
    pthread_condattr_destroy(&attr);

    pthread_mutex_lock(&b->lock);
    b->refs++;
    c->next = b->calls;
    if (b->calls)
        b->calls->prev = c;
    b->calls = c;
    pthread_mutex_unlock(&b->lock);
    baton__wake(b);
    *call = c;
    return 0;
}

/* Wait under the lock until there is an item. False: none came within timeout_ms. */
static bool wait_item(struct baton_call *c, int timeout_ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (timeout_ms % 1000) * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    while (!c->first) {
        if (timeout_ms < 0)
            pthread_cond_wait(&c->cond, &c->b->lock);
        else if (pthread_cond_timedwait(&c->cond, &c->b->lock, &until) != 0)
            return c->first != NULL;
    }
    return true;
}

int baton_next(struct baton_call *c, int timeout_ms, struct baton_event *e, struct baton_err *err)
{
    struct baton *b = c->b;
    bool was_full, over;

    pthread_mutex_lock(&b->lock);
    if (!wait_item(c, timeout_ms)) {
        pthread_mutex_unlock(&b->lock);
        return baton__fail(err, BATON_E_TIMEOUT, "nothing came within %d ms", timeout_ms);
    }
    struct item *i = c->first;
    over = i->kind == BATON_END; /* stays in the queue: whoever asks again is told again */
    if (!over) {
        baton__item_free(c->held);
        c->held = i;
        c->first = i->next;
        if (!c->first)
            c->last = NULL;
        c->queued_bytes -= i->len;
    }
    was_full = c->state == CALL_PAUSED;
    *e = (struct baton_event){.kind = i->kind, .status = i->status, .id = i->id, .data = i->data, .len = i->len};
    int code = i->code;
    if (code)
        baton__fail(err, code, "%s", i->data);
    pthread_mutex_unlock(&b->lock);
    if (was_full)
        baton__wake(b);
    return code;
}

const char *baton_call_key(const struct baton_call *c)
{
    return c->key ? c->key : "";
}

void baton_call_close(struct baton_call **call)
{
    struct baton_call *c = *call;

    if (!c)
        return;
    *call = NULL;
    struct baton *b = c->b;
    pthread_mutex_lock(&b->lock);
    c->closed = true;
    bool stopped = b->closing;
    if (stopped)
        baton__call_unlink(c);
    else
        baton__wake(b); /* the thread tells the controller, and frees it */
    pthread_mutex_unlock(&b->lock);
    if (!stopped)
        return;
    baton__call_free(c);
    client_unref(b);
}

/* ---- the usual calls ---- */

int baton_chat(struct baton *b, const char *json, const char *key, struct baton_call **call, struct baton_err *err)
{
    return baton_call(b, &(struct baton_request){.path = "/v1/chat/completions", .body = json, .key = key}, call, err);
}

int baton_run(struct baton *b, const char *json, const char *key, struct baton_call **call, struct baton_err *err)
{
    return baton_call(b, &(struct baton_request){.path = "/v1/runs", .body = json, .key = key}, call, err);
}

/* An id goes into a path: it must be one. */
static int call_about(struct baton *b, const char *before, const char *id, const char *after, const char *last_event_id,
                      struct baton_call **call, struct baton_err *err)
{
    char path[256];

    if (!id || !id[0] || strlen(id) > 100 ||
        id[strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")])
        return baton__fail(err, BATON_E_ARG, "'%.100s' is no id", id ? id : "");
    snprintf(path, sizeof path, "%s%s%s", before, id, after);
    return baton_call(b, &(struct baton_request){.path = path, .last_event_id = last_event_id}, call, err);
}

int baton_resume(struct baton *b, const char *id, const char *last_event_id, struct baton_call **call,
                 struct baton_err *err)
{
    return call_about(b, "/v1/chat/completions/", id, "?stream=true", last_event_id, call, err);
}

int baton_run_events(struct baton *b, const char *run_id, const char *last_event_id, struct baton_call **call,
                     struct baton_err *err)
{
    return call_about(b, "/v1/runs/", run_id, "/events", last_event_id, call, err);
}

int baton_fetch(struct baton *b, const struct baton_request *r, int timeout_ms, int *status, char **body,
                struct baton_err *err)
{
    struct baton_call *c = NULL;
    struct baton_event e;

    *body = NULL;
    int rc = baton_call(b, r, &c, err);
    if (rc)
        return rc;
    rc = baton_next(c, timeout_ms, &e, err);
    if (!rc && e.kind != BATON_REPLY)
        rc = baton__fail(err, BATON_E_ARG, "%s answers with a stream of events; use baton_call", r->path);
    if (!rc) {
        *status = e.status;
        *body = malloc(e.len + 1);
        if (!*body)
            rc = baton__fail(err, BATON_E_SYSTEM, "no memory for %zu bytes", e.len);
        else
            memcpy(*body, e.data, e.len + 1);
    }
    baton_call_close(&c);
    return rc;
}
