/* An OpenAI-compatible upstream with exactly known output, for measuring the routers that Baton is compared with.
 *
 * POST /v1/chat/completions (stream or not), GET /health, /v1/models, /stats and a few server-info paths. Timing,
 * length and faults come from flags and, per request, from one "[[k=v,k=v]]" anywhere in the body: id, n (tokens),
 * ttft_us, itl_us, and cut_at, stall_at, bad_at (token index) with fw (name of the worker they are for). Token i of
 * request r is "r.i.T ", T being CLOCK_MONOTONIC in microseconds at the write. One thread, one event loop, loopback
 * only.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <uv.h>

enum { MAX_REQ = 8 << 20, MAX_QUEUE = 256 << 10 };

struct bytes {
    char *p;
    size_t len, cap;
};

struct conn {
    uv_tcp_t tcp;
    uv_timer_t timer;
    int closing, handles;
    struct bytes in; /* unparsed input */
    int busy;        /* a response is under way */
    int chat, stream, keep, usage, flood_on;
    long last_event;
    long id, n, i, ttft_us, itl_us, cut_at, stall_at, bad_at;
    uint64_t due_us; /* when token i is due */
    struct conn *fprev, *fnext;
};

static uv_loop_t *loop;
static uv_idle_t idle;
static struct conn *flood;
static const char *name = "w0", *model = "mock";
static int ids;
static long def_n = 16, def_ttft, def_itl;
static uint64_t st_req, st_done, st_cancelled, st_tokens, st_active;

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void buf_add(struct bytes *b, const char *p, size_t n)
{
    if (b->len + n + 1 > b->cap) {
        size_t cap = b->cap ? b->cap : 4096;
        while (cap < b->len + n + 1)
            cap *= 2;
        b->p = realloc(b->p, cap);
        if (!b->p)
            abort();
        b->cap = cap;
    }
    memcpy(b->p + b->len, p, n);
    b->len += n;
    b->p[b->len] = 0;
}

static void buf_fmt(struct bytes *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void buf_fmt(struct bytes *b, const char *fmt, ...)
{
    char tmp[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(tmp, sizeof tmp, fmt, ap);
    va_end(ap);
    if (n > 0)
        buf_add(b, tmp, (size_t)n < sizeof tmp ? (size_t)n : sizeof tmp - 1);
}

static void flood_del(struct conn *c)
{
    if (!c->flood_on)
        return;
    c->flood_on = 0;
    if (c->fprev)
        c->fprev->fnext = c->fnext;
    else
        flood = c->fnext;
    if (c->fnext)
        c->fnext->fprev = c->fprev;
    if (!flood)
        uv_idle_stop(&idle);
}

static void on_closed(uv_handle_t *h)
{
    struct conn *c = h->data;
    if (--c->handles == 0) {
        free(c->in.p);
        free(c);
    }
}

static void conn_close(struct conn *c)
{
    if (c->closing)
        return;
    c->closing = 1;
    flood_del(c);
    if (c->busy) {
        st_active--;
        st_cancelled++;
    }
    uv_close((uv_handle_t *)&c->tcp, on_closed);
    uv_close((uv_handle_t *)&c->timer, on_closed);
}

struct write_req {
    uv_write_t w;
    struct conn *c;
    char data[];
};

static void on_written(uv_write_t *w, int rc)
{
    struct write_req *r = (struct write_req *)w;
    if (rc < 0)
        conn_close(r->c);
    free(r);
}

static void put(struct conn *c, const char *p, size_t n)
{
    if (c->closing)
        return;
    if (uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp) == 0) {
        uv_buf_t b = uv_buf_init((char *)p, (unsigned)n);
        int k = uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
        if (k == (int)n)
            return;
        if (k < 0 && k != UV_EAGAIN) {
            conn_close(c);
            return;
        }
        if (k > 0) {
            p += k;
            n -= (size_t)k;
        }
    }
    struct write_req *r = malloc(sizeof *r + n);
    if (!r)
        abort();
    r->c = c;
    memcpy(r->data, p, n);
    uv_buf_t b = uv_buf_init(r->data, (unsigned)n);
    if (uv_write(&r->w, (uv_stream_t *)&c->tcp, &b, 1, on_written) < 0) {
        free(r);
        conn_close(c);
    }
}

static void parse(struct conn *c);

static void finish(struct conn *c)
{
    flood_del(c);
    uv_timer_stop(&c->timer);
    c->busy = 0;
    st_active--;
    st_done++;
    if (!c->keep)
        conn_close(c);
    else if (c->in.len)
        parse(c);
}

static void reply(struct conn *c, const char *status, const char *type, const char *body, size_t n)
{
    struct bytes b = {0};
    buf_fmt(&b, "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nX-Worker: %s\r\n%s\r\n", status, type, n,
            name, c->keep ? "" : "Connection: close\r\n");
    buf_add(&b, body, n);
    put(c, b.p, b.len);
    free(b.p);
}

/* one chunked-transfer frame round one SSE event */
static void frame(struct bytes *out, const char *ev, size_t n)
{
    buf_fmt(out, "%zx\r\n", n);
    buf_add(out, ev, n);
    buf_add(out, "\r\n", 2);
}

static void event(struct conn *c, struct bytes *out, const char *text, const char *finish_reason)
{
    char ev[768], q[24];
    int n;
    if (finish_reason)
        snprintf(q, sizeof q, "\"%s\"", finish_reason);
    else
        snprintf(q, sizeof q, "null");
    if (c->chat && finish_reason)
        n = snprintf(
            ev, sizeof ev,
            "data: "
            "{\"id\":\"chatcmpl-%ld\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"%s\","
            "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":%s}]}\n\n",
            c->id, model, q);
    else if (c->chat)
        n = snprintf(
            ev, sizeof ev,
            "data: "
            "{\"id\":\"chatcmpl-%ld\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"%s\","
            "\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\"%s\"},\"finish_reason\":null}]}\n\n",
            c->id, model, c->i == 0 ? "\"role\":\"assistant\"," : "", text);
    else
        n = snprintf(
            ev, sizeof ev,
            "data: {\"id\":\"cmpl-%ld\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"%s\","
            "\"choices\":[{\"index\":0,\"text\":\"%s\",\"logprobs\":null,\"finish_reason\":%s}]}\n\n",
            c->id, model, text, q);
    if (ids && !finish_reason) { /* what a server that can resume sends */
        char idl[32];
        int k = snprintf(idl, sizeof idl, "id: %ld\n", c->i);
        buf_fmt(out, "%x\r\n%s", (unsigned)(k + n), idl);
        buf_add(out, ev, (size_t)n);
        buf_add(out, "\r\n", 2);
        return;
    }
    frame(out, ev, (size_t)n);
}

static void whole(struct conn *c)
{
    struct bytes t = {0}, b = {0};
    uint64_t us = now_us();
    for (long i = c->i; i < c->n; i++)
        buf_fmt(&t, "%ld.%ld.%llu ", c->id, i, (unsigned long long)us);
    st_tokens += (uint64_t)(c->n - c->i);
    if (c->chat)
        buf_fmt(&b,
                "{\"id\":\"chatcmpl-%ld\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"%s\","
                "\"choices\":[{\"index\":0,"
                "\"message\":{\"role\":\"assistant\",\"content\":\"",
                c->id, model);
    else
        buf_fmt(&b,
                "{\"id\":\"cmpl-%ld\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"%s\","
                "\"choices\":[{\"index\":0,"
                "\"text\":\"",
                c->id, model);
    buf_add(&b, t.p ? t.p : "", t.len);
    buf_fmt(&b,
            "\"%s,\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":10,\"completion_"
            "tokens\":%ld,"
            "\"total_tokens\":%ld}}",
            c->chat ? "}" : "", c->n, c->n + 10);
    reply(c, "200 OK", "application/json", b.p, b.len);
    free(t.p);
    free(b.p);
    finish(c);
}

static void arm(struct conn *c);

/* write the token that is due; returns 0 when the stream is over or must wait for a fault */
static int step(struct conn *c)
{
    struct bytes out = {0};
    char text[96];
    if (c->i == c->cut_at) {
        conn_close(c);
        return 0;
    }
    if (c->i == c->stall_at)
        return 0;
    if (c->i == c->bad_at) {
        static const char bad[] = "data: {\"id\":\"chatcmpl-bad\",\"choices\":[{\"index\":0,\"del\n\n";
        frame(&out, bad, sizeof bad - 1);
        c->bad_at = -1;
    }
    snprintf(text, sizeof text, "%ld.%ld.%llu ", c->id, c->i, (unsigned long long)now_us());
    event(c, &out, text, NULL);
    c->i++;
    st_tokens++;
    int last = c->i >= c->n;
    if (last) {
        event(c, &out, "", "stop");
        if (c->usage) {
            char ev[320];
            int k = snprintf(
                ev, sizeof ev,
                "data: "
                "{\"id\":\"chatcmpl-%ld\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"%"
                "s\","
                "\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":%ld,\"total_tokens\":%ld}}\n\n",
                c->id, model, c->n, c->n + 10);
            frame(&out, ev, (size_t)k);
        }
        frame(&out, "data: [DONE]\n\n", 14);
        buf_add(&out, "0\r\n\r\n", 5);
    }
    put(c, out.p, out.len);
    free(out.p);
    if (c->closing)
        return 0;
    if (last) {
        finish(c);
        return 0;
    }
    return 1;
}

static void on_timer(uv_timer_t *t)
{
    struct conn *c = t->data;
    if (c->closing || !c->busy)
        return;
    if (!c->stream) {
        whole(c);
        return;
    }
    if (step(c)) {
        c->due_us += (uint64_t)c->itl_us;
        arm(c);
    }
}

static void on_idle(uv_idle_t *h)
{
    (void)h;
    for (struct conn *c = flood, *next; c; c = next) {
        next = c->fnext;
        if (uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp) < MAX_QUEUE && !step(c))
            flood_del(c);
    }
}

static void arm(struct conn *c)
{
    if (c->stream && c->itl_us == 0 && c->i > 0) {
        if (!c->flood_on) {
            c->flood_on = 1;
            c->fprev = NULL;
            c->fnext = flood;
            if (flood)
                flood->fprev = c;
            flood = c;
            uv_idle_start(&idle, on_idle);
        }
        return;
    }
    uint64_t now = now_us();
    uint64_t ms = c->due_us > now ? (c->due_us - now + 500) / 1000 : 0;
    uv_update_time(loop);
    uv_timer_start(&c->timer, on_timer, ms, 0);
}

static long number_after(const char *p, const char *key, long dflt)
{
    const char *q = strstr(p, key);
    if (!q)
        return dflt;
    q += strlen(key);
    while (*q == ' ' || *q == ':')
        q++;
    char *e;
    long v = strtol(q, &e, 10);
    return e == q ? dflt : v;
}

static int flag_true(const char *p, const char *key)
{
    const char *q = strstr(p, key);
    if (!q)
        return 0;
    q += strlen(key);
    while (*q == ' ' || *q == ':')
        q++;
    return strncmp(q, "true", 4) == 0;
}

static void completion(struct conn *c, const char *path, const char *body)
{
    char opt[256] = "";
    const char *o = strstr(body, "[["), *e = o ? strstr(o, "]]") : NULL;
    if (e && (size_t)(e - o) < sizeof opt - 2) {
        opt[0] = ',';
        memcpy(opt + 1, o + 2, (size_t)(e - o - 2));
        opt[1 + (e - o - 2)] = 0;
    }
    c->chat = strstr(path, "/chat/") != NULL;
    c->stream = flag_true(body, "\"stream\"");
    c->usage = flag_true(body, "\"include_usage\"");
    long n = number_after(body, "\"max_completion_tokens\"", -1);
    if (n < 0)
        n = number_after(body, "\"max_tokens\"", def_n);
    c->id = number_after(opt, ",id=", 0);
    c->n = number_after(opt, ",n=", n);
    c->i = number_after(opt, ",from=", 0);
    char mark[32];
    int ml = snprintf(mark, sizeof mark, "%ld.", c->id);
    for (const char *q = e ? e : body; (q = strstr(q, mark)) != NULL;
         q++) /* an answer so far in the prompt: go on after it */
        if ((q[-1] == ' ' || q[-1] == '"') && q[ml] >= '0' && q[ml] <= '9')
            c->i = atol(q + ml) + 1;
    c->ttft_us = number_after(opt, ",ttft_us=", def_ttft);
    c->itl_us = number_after(opt, ",itl_us=", def_itl);
    c->cut_at = c->stall_at = c->bad_at = -1;
    const char *fw = strstr(opt, ",fw=");
    size_t nl = strlen(name);
    if (!fw || (strncmp(fw + 4, name, nl) == 0 && (fw[4 + nl] == 0 || fw[4 + nl] == ','))) {
        c->cut_at = number_after(opt, ",cut_at=", -1);
        c->stall_at = number_after(opt, ",stall_at=", -1);
        c->bad_at = number_after(opt, ",bad_at=", -1);
    }
    if (ids && c->last_event >= 0)
        c->i = c->last_event + 1;
    if (c->n < 1)
        c->n = 1;
    if (c->i >= c->n)
        c->i = c->n - 1;
    c->busy = 1;
    st_active++;
    c->due_us = now_us() + (uint64_t)c->ttft_us;
    if (!c->stream) {
        c->due_us += (uint64_t)(c->n * c->itl_us);
        if (c->due_us <= now_us())
            whole(c);
        else
            arm(c);
        return;
    }
    char head[256];
    int k = snprintf(head, sizeof head,
                     "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: "
                     "no-cache\r\nX-Worker: %s\r\n"
                     "Transfer-Encoding: chunked\r\n%s\r\n",
                     name, c->keep ? "" : "Connection: close\r\n");
    put(c, head, (size_t)k);
    if (c->closing)
        return;
    if (c->ttft_us == 0) {
        if (step(c)) {
            c->due_us += (uint64_t)c->itl_us;
            arm(c);
        }
    } else {
        arm(c);
    }
}

static void get(struct conn *c, const char *path)
{
    char b[768];
    int n;
    st_req--;
    if (strncmp(path, "/v1/models", 10) == 0)
        n = snprintf(b, sizeof b,
                     "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":1700000000,"
                     "\"owned_by\":\"mock\",\"max_model_len\":131072}]}",
                     model);
    else if (strncmp(path, "/stats", 6) == 0)
        n = snprintf(
            b, sizeof b,
            "{\"name\":\"%s\",\"requests\":%llu,\"done\":%llu,\"cancelled\":%llu,\"tokens\":%llu,\"active\":%llu}",
            name, (unsigned long long)st_req, (unsigned long long)st_done, (unsigned long long)st_cancelled,
            (unsigned long long)st_tokens, (unsigned long long)st_active);
    else if (strstr(path, "info"))
        n = snprintf(b, sizeof b,
                     "{\"model_path\":\"%s\",\"served_model_name\":\"%s\",\"model_id\":\"%s\",\"is_generation\":true,"
                     "\"version\":\"0.0.0\",\"tp_size\":1,\"dp_size\":1,\"max_total_num_tokens\":1000000}",
                     model, model, model);
    else if (strncmp(path, "/version", 8) == 0)
        n = snprintf(b, sizeof b, "{\"version\":\"0.0.0\"}");
    else if (strncmp(path, "/health", 7) == 0 || strncmp(path, "/ping", 5) == 0)
        n = snprintf(b, sizeof b, "{\"status\":\"ok\"}");
    else {
        reply(c, "404 Not Found", "application/json", "{\"error\":{\"message\":\"no such path\"}}", 37);
        return;
    }
    reply(c, "200 OK", "application/json", b, (size_t)n);
}

static int header(const char *h, const char *end, const char *key, char *out, size_t cap)
{
    size_t kl = strlen(key);
    for (const char *p = h; p && p < end; p = memchr(p, '\n', (size_t)(end - p)), p = p ? p + 1 : NULL)
        if ((size_t)(end - p) > kl && strncasecmp(p, key, kl) == 0 && p[kl] == ':') {
            const char *v = p + kl + 1;
            while (*v == ' ')
                v++;
            size_t n = strcspn(v, "\r\n");
            if (n >= cap)
                n = cap - 1;
            memcpy(out, v, n);
            out[n] = 0;
            return 1;
        }
    return 0;
}

static void parse(struct conn *c)
{
    while (!c->busy && !c->closing && c->in.len) {
        char *p = c->in.p, *he = strstr(p, "\r\n\r\n");
        if (!he)
            return;
        char v[64], method[8], path[256];
        size_t hl = (size_t)(he - p) + 4, used;
        char *body, *own = NULL;
        if (sscanf(p, "%7s %255s", method, path) != 2) {
            conn_close(c);
            return;
        }
        int chunked = header(p, he, "Transfer-Encoding", v, sizeof v) && strncasecmp(v, "chunked", 7) == 0;
        int cont = header(p, he, "Expect", v, sizeof v);
        c->last_event = header(p, he, "Last-Event-ID", v, sizeof v) ? atol(v) : -1;
        c->keep = !(header(p, he, "Connection", v, sizeof v) && strcasecmp(v, "close") == 0);
        if (chunked) {
            struct bytes b = {0};
            size_t at = hl;
            for (;;) {
                char *e;
                if (at >= c->in.len || !strstr(p + at, "\r\n")) {
                    free(b.p);
                    return;
                }
                size_t n = strtoul(p + at, &e, 16);
                e = strstr(e, "\r\n") + 2;
                if ((size_t)(e - p) + n + 2 > c->in.len) {
                    free(b.p);
                    return;
                }
                if (n)
                    buf_add(&b, e, n);
                at = (size_t)(e - p) + n + 2;
                if (!n)
                    break;
            }
            used = at;
            body = own = b.p ? b.p : calloc(1, 1);
        } else {
            size_t n = header(p, he, "Content-Length", v, sizeof v) ? strtoul(v, NULL, 10) : 0;
            if (hl + n > c->in.len) {
                if (cont && c->in.len == hl)
                    put(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
                return;
            }
            used = hl + n;
            body = own = malloc(n + 1);
            memcpy(body, p + hl, n);
            body[n] = 0;
        }
        memmove(c->in.p, c->in.p + used, c->in.len - used + 1);
        c->in.len -= used;
        st_req++;
        if (strcmp(method, "POST") == 0 && strstr(path, "/completions"))
            completion(c, path, body);
        else
            get(c, path);
        free(own);
    }
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *b)
{
    static char space[65536];
    (void)h;
    (void)hint;
    *b = uv_buf_init(space, sizeof space);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
    struct conn *c = s->data;
    if (n < 0 || c->in.len > MAX_REQ) {
        conn_close(c);
        return;
    }
    if (n > 0) {
        buf_add(&c->in, b->base, (size_t)n);
        parse(c);
    }
}

static void on_connect(uv_stream_t *srv, int status)
{
    if (status < 0)
        return;
    struct conn *c = calloc(1, sizeof *c);
    if (!c)
        abort();
    uv_tcp_init(loop, &c->tcp);
    uv_timer_init(loop, &c->timer);
    c->tcp.data = c->timer.data = c;
    c->handles = 2;
    if (uv_accept(srv, (uv_stream_t *)&c->tcp) < 0) {
        conn_close(c);
        return;
    }
    uv_tcp_nodelay(&c->tcp, 1);
    uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
}

int main(int argc, char **argv)
{
    int port = 9001;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port"))
            port = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--name"))
            name = argv[i + 1];
        else if (!strcmp(argv[i], "--model"))
            model = argv[i + 1];
        else if (!strcmp(argv[i], "--ids"))
            ids = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--tokens"))
            def_n = atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--ttft-us"))
            def_ttft = atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--itl-us"))
            def_itl = atol(argv[i + 1]);
        else {
            fprintf(stderr, "usage: mock_worker [--port P] [--name W] [--model M] [--tokens N] [--ttft-us U] "
                            "[--itl-us U] [--ids 1]\n");
            return 2;
        }
    }
    signal(SIGPIPE, SIG_IGN);
    loop = uv_default_loop();
    uv_idle_init(loop, &idle);
    uv_tcp_t srv;
    struct sockaddr_in a;
    uv_tcp_init(loop, &srv);
    uv_ip4_addr("127.0.0.1", port, &a);
    int rc = uv_tcp_bind(&srv, (struct sockaddr *)&a, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&srv, 1024, on_connect);
    if (rc < 0) {
        fprintf(stderr, "mock_worker: port %d: %s\n", port, uv_strerror(rc));
        return 1;
    }
    return uv_run(loop, UV_RUN_DEFAULT);
}
