/* Bounded load on one OpenAI-compatible server on loopback, with a check of every token; for ./run bench control.
 *
 * It keeps c connections busy, one request each, until -n requests have ended or --secs passed, and prints one JSON
 * object. Token i of request r is expected to be "r.i.T " (mock_worker.c; T is CLOCK_MONOTONIC in microseconds when
 * it was written, from which the relay delay is known) or "i " (baton-worker --engine sim). Each request is in one
 * class: whole   ended as it should, tokens 0..n-1 once each and in order short   ended as if well, but tokens are
 * missing at the end: the worst case error   an error event in the stream, or an HTTP status other than 200 broken
 * the connection ended before the stream did hung    no token for --stall-s seconds (comments do not count) wrong   a
 * token came twice, was left out, or belongs to another request
 * --kill-pid P --kill-ms M sends SIGKILL to P (-P: a process group) M ms after the start. --resume-s S asks again for
 * a stream that broke off (same body and Idempotency-Key, Last-Event-ID where the server sent ids) every 50 ms for up
 * to S seconds; it must go on at the very next token. --dump FILE writes "request token us" of every token received.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONN = 1024, MAX_N = 5000000, MAX_SECS = 170, MAX_STATUS = 600 };

struct list {
    double *v;
    size_t n, cap;
};

struct conn {
    int fd, fresh; /* fresh: nothing was received on this connection yet */
    enum { IDLE, CONNECTING, BUSY, DONE } st;
    char *in;
    size_t len, cap, at; /* at: parsed up to here */
    int head, chunked, keep, status, sse, ended, err_ev, finish, retried;
    long clen, body_got, chunk_left; /* chunk_left: -1 = at a size line, -2 = at the CRLF after data, -3 = trailers */
    char *body;
    size_t blen, bcap, bat; /* decoded body; bat: parsed SSE up to here */
    long id, next, wrong, tokens;
    int64_t t_start, t_first_byte, t_first_tok, t_last, t_prev_tok, max_gap;
    int64_t not_before, resume_until;
    int resuming;
    char last_id[80];
};

static struct {
    const char *base_url, *host, *path, *model, *extra, *tag;
    int port, c, stream, chat, plain_ids, per_conn, usage;
    long n, tokens, itl_us, ttft_us, prompt_bytes, warm, stagger_us;
    double secs, stall_s, resume_s;
    int kill_pid, no_check;
    long kill_ms;
    const char *opts, *dump;
} o = {.base_url = "",
       .host = "127.0.0.1",
       .path = "/v1/chat/completions",
       .model = "mock",
       .tag = "",
       .c = 1,
       .chat = 1,
       .n = 1000,
       .tokens = 1,
       .prompt_bytes = 200,
       .secs = 60,
       .stall_s = 30,
       .opts = ""};

static struct conn cs[MAX_CONN];
static int ep;
static long started, ended;
static int64_t t0, t_kill, t_end;
static long n_whole, n_short, n_error, n_broken, n_hung, n_wrong, n_refused, by_status[MAX_STATUS], tok_total,
    chunk_total, bytes_total, n_reconn, n_resumes, n_resumed_whole;
static long whole_after_kill_started_before, hit_by_kill;
static struct list lat, ttfb, ttft, relay, gap, brk_at;
static char first_err[400];
static FILE *dumpf;

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void push(struct list *l, double v)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 4096;
        l->v = realloc(l->v, l->cap * sizeof *l->v);
        if (!l->v)
            abort();
    }
    l->v[l->n++] = v;
}

static int cmp(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void stats(const char *k, struct list *l)
{
    if (!l->n) {
        printf(",\"%s\":null", k);
        return;
    }
    qsort(l->v, l->n, sizeof *l->v, cmp);
    double s = 0;
    for (size_t i = 0; i < l->n; i++)
        s += l->v[i];
#define Q(q) l->v[(size_t)((double)(l->n - 1) * (q))]
    printf(",\"%s\":{\"n\":%zu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", k,
           l->n, s / (double)l->n, Q(0.5), Q(0.9), Q(0.99), Q(0.999), l->v[l->n - 1]);
}

static void grow(char **p, size_t *cap, size_t need)
{
    if (need + 1 <= *cap)
        return;
    size_t n = *cap ? *cap : 8192;
    while (n < need + 1)
        n *= 2;
    *p = realloc(*p, n);
    if (!*p)
        abort();
    *cap = n;
}

static int measuring(void)
{
    return ended >= o.warm;
}

static void note_err(const char *p, size_t n)
{
    if (first_err[0])
        return;
    size_t k = 0;
    for (size_t i = 0; i < n && k < sizeof first_err - 2; i++) {
        char ch = p[i];
        if (ch == '"' || ch == '\\')
            first_err[k++] = '\'';
        else if ((unsigned char)ch >= 32)
            first_err[k++] = ch;
        else
            first_err[k++] = ' ';
    }
    first_err[k] = 0;
}

/* the tokens of one content string; the string is raw JSON text (no escapes occur in it) */
static void tokens(struct conn *c, const char *p, const char *e, int64_t now)
{
    while (p < e) {
        while (p < e && (*p == ' ' || *p == '\\' || *p == 'n'))
            p++;
        if (p >= e)
            break;
        char *q;
        long a = strtol(p, &q, 10), id = -1, us_low = -1;
        long long us = 0;
        if (q == p) {
            p++;
            continue;
        }
        if (q < e && *q == '.') {
            id = a;
            a = strtol(q + 1, &q, 10);
            if (q < e && *q == '.')
                us = strtoll(q + 1, &q, 10), us_low = 0;
        }
        p = q;
        if (a != c->next || (id >= 0 && id != c->id)) {
            c->wrong++;
            if (!first_err[0]) {
                char m[120];
                int n = snprintf(m, sizeof m, "got token %ld of %ld, want %ld of %ld", a, id, c->next, c->id);
                note_err(m, (size_t)n);
            }
        }
        c->next = a + 1;
        c->tokens++;
        tok_total++;
        if (us_low == 0 && o.stream && measuring())
            push(&relay, (double)(now - us));
        if (dumpf)
            fprintf(dumpf, "%ld %ld %lld\n", c->id, a, (long long)now);
        if (!c->t_first_tok) {
            c->t_first_tok = now;
        } else if (now - c->t_prev_tok > c->max_gap) {
            c->max_gap = now - c->t_prev_tok;
        }
        c->t_prev_tok = c->t_last = now;
    }
}

static void contents(struct conn *c, const char *p, const char *e, int64_t now)
{
    static const char *keys[] = {"\"content\"", "\"text\""};
    for (int k = 0; k < 2; k++) {
        const char *q = p;
        size_t kl = strlen(keys[k]);
        while ((q = memmem(q, (size_t)(e - q), keys[k], kl)) != NULL) {
            q += kl;
            while (q < e && (*q == ' ' || *q == ':'))
                q++;
            if (q < e && *q == '"') {
                const char *s = ++q;
                while (q < e && *q != '"')
                    q += *q == '\\' ? 2 : 1;
                if (q > e)
                    q = e;
                tokens(c, s, q, now);
            }
        }
    }
}

static void sse(struct conn *c, int64_t now)
{
    for (;;) {
        char *s = c->body + c->bat, *nl = memchr(s, '\n', c->blen - c->bat);
        if (!nl)
            break;
        if (strncmp(s, "data:", 5) == 0) {
            chunk_total++;
            if (memmem(s, (size_t)(nl - s), "[DONE]", 6))
                c->ended = 1;
            else if (memmem(s, (size_t)(nl - s), "\"error\"", 7)) {
                c->err_ev = 1;
                note_err(s, (size_t)(nl - s));
            } else {
                contents(c, s, nl, now);
                if (memmem(s, (size_t)(nl - s), "\"finish_reason\":\"", 17) ||
                    memmem(s, (size_t)(nl - s), "\"finish_reason\": \"", 18)) {
                    c->finish = 1;
                    if (memmem(s, (size_t)(nl - s), "\"finish_reason\":\"error\"", 23) ||
                        memmem(s, (size_t)(nl - s), "\"finish_reason\":\"abort\"", 23))
                        c->err_ev = 1;
                }
            }
        } else if (strncmp(s, "id:", 3) == 0) {
            size_t k = (size_t)(nl - s) - 3, sp = s[3] == ' ';
            k -= sp + (k > sp && nl[-1] == '\r');
            if (k < sizeof c->last_id) {
                memcpy(c->last_id, s + 3 + sp, k);
                c->last_id[k] = 0;
            }
        } else if (strncmp(s, "event: error", 12) == 0 || strncmp(s, "event:error", 11) == 0) {
            c->err_ev = 1;
        } else if (s[0] == ':' && nl - s > 2 && (strstr(s, "rror"))) {
            note_err(s, (size_t)(nl - s));
        }
        c->bat = (size_t)(nl - c->body) + 1;
    }
    if (c->bat > (1 << 16)) {
        memmove(c->body, c->body + c->bat, c->blen - c->bat + 1);
        c->blen -= c->bat;
        c->bat = 0;
    }
}

static void body_add(struct conn *c, const char *p, size_t n, int64_t now)
{
    grow(&c->body, &c->bcap, c->blen + n);
    memcpy(c->body + c->blen, p, n);
    c->blen += n;
    c->body[c->blen] = 0;
    if (c->sse && c->status == 200)
        sse(c, now);
}

static void drop(struct conn *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static void send_req(struct conn *c);
static void start(struct conn *c);

enum { END_OK, END_EOF, END_HUNG, END_REFUSED };

/* True: the stream broke off and will be asked for again. */
static int will_resume(struct conn *c, int how, int64_t now)
{
    if (o.resume_s <= 0 || !o.stream || c->wrong || c->err_ev || c->ended || c->tokens >= o.tokens || how == END_HUNG)
        return 0;
    if (!c->resume_until)
        c->resume_until = now + (int64_t)(o.resume_s * 1e6);
    if (now >= c->resume_until)
        return 0;
    n_resumes++;
    drop(c);
    c->resuming = 1;
    c->st = IDLE;
    c->not_before = now + 50000;
    return 1;
}

/* Count the request in its class; 1: whole. */
static int classify(struct conn *c, int how)
{
    int clean = how == END_OK;
    if (how == END_REFUSED) {
        n_refused++;
    } else if (how == END_HUNG) {
        n_hung++;
    } else if (c->wrong) {
        n_wrong++;
    } else if ((c->head && c->status != 200) || c->err_ev) {
        n_error++;
        if (c->status != 200 && c->body)
            note_err(c->body, c->blen);
    } else if (c->tokens == o.tokens && (clean || c->ended)) {
        n_whole++;
        n_resumed_whole += c->resuming;
        return 1;
    } else if ((clean && !o.stream) || c->ended || c->finish) {
        n_short++;
        if (!first_err[0] && c->body)
            note_err(c->body, c->blen);
    } else {
        n_broken++;
    }
    return 0;
}

static void finish(struct conn *c, int how)
{
    int64_t now = now_us();
    int clean = how == END_OK;
    if (will_resume(c, how, now))
        return;
    if (!c->sse && c->head && c->status == 200 && clean)
        contents(c, c->body, c->body + c->blen, now);
    by_status[c->status > 0 && c->status < MAX_STATUS ? c->status : 0]++;
    if (o.no_check) {
        c->wrong = 0;
        c->tokens = c->ended || (clean && !o.stream) ? o.tokens : 0;
    }
    int whole = classify(c, how);
    if (t_kill && c->t_start <= t_kill) {
        hit_by_kill++;
        whole_after_kill_started_before += whole;
    }
    if (!whole && o.stream)
        push(&brk_at, (double)c->tokens);
    if (whole && measuring()) {
        push(&lat, (double)(now - c->t_start));
        push(&ttfb, (double)(c->t_first_byte - c->t_start));
        if (o.stream && c->t_first_tok)
            push(&ttft, (double)(c->t_first_tok - c->t_start));
        if (o.stream && o.tokens > 1)
            push(&gap, (double)c->max_gap);
    }
    c->resuming = 0;
    c->resume_until = 0;
    ended++;
    if (ended == o.warm)
        t0 = now;
    if (!clean || !c->keep)
        drop(c);
    c->st = IDLE;
    if (how == END_REFUSED)
        c->not_before = now + 20000;
    else
        start(c);
}

/* 0: not whole yet. */
static int read_head(struct conn *c)
{
    char *p = c->in + c->at, *e = memmem(p, c->len - c->at, "\r\n\r\n", 4);
    if (!e)
        return 0;
    c->head = 1;
    c->status = atoi(p + 9);
    c->keep = 1;
    c->clen = -1;
    c->chunked = 0;
    c->sse = 0;
    for (char *h = memchr(p, '\n', (size_t)(e - p)); h && h < e; h = memchr(h, '\n', (size_t)(e - h))) {
        h++;
        if (!strncasecmp(h, "content-length:", 15))
            c->clen = atol(h + 15);
        else if (!strncasecmp(h, "transfer-encoding:", 18) &&
                 !strncasecmp(h + 18 + strspn(h + 18, " "), "chunked", 7))
            c->chunked = 1;
        else if (!strncasecmp(h, "connection: close", 17))
            c->keep = 0;
        else if (!strncasecmp(h, "content-type:", 13) && memmem(h, (size_t)(e - h), "event-stream", 12))
            c->sse = 1;
    }
    c->at = (size_t)(e - c->in) + 4;
    c->chunk_left = -1;
    c->body_got = 0;
    c->head = c->status != 100; /* after 100 another head comes */
    return 1;
}

/* One piece of a chunked body. 0: more bytes are needed; 1: go on; 2: that was the end. */
static int read_chunk(struct conn *c, int64_t now)
{
    size_t have = c->len - c->at;
    if (c->chunk_left == -1) {
        char *nl = memmem(c->in + c->at, have, "\r\n", 2);
        if (!nl)
            return 0;
        c->chunk_left = strtol(c->in + c->at, NULL, 16);
        c->at = (size_t)(nl - c->in) + 2;
        if (c->chunk_left == 0)
            c->chunk_left = -3;
        return 1;
    }
    if (c->chunk_left < 0) {
        if (have < 2)
            return 0;
        c->at += 2;
        int is_end = c->chunk_left == -3;
        c->chunk_left = -1;
        return is_end ? 2 : 1;
    }
    if (!have)
        return 0;
    size_t k = have < (size_t)c->chunk_left ? have : (size_t)c->chunk_left;
    body_add(c, c->in + c->at, k, now);
    c->at += k;
    c->chunk_left -= (long)k;
    if (c->chunk_left == 0)
        c->chunk_left = -2;
    return 1;
}

/* Returns 0 when the response is over and has been counted. */
static int feed(struct conn *c)
{
    int64_t now = now_us();
    int more = 1;
    if (c->status != 200 || !c->sse)
        c->t_last = now;
    while (more == 1) {
        if (!c->head) {
            more = read_head(c);
        } else if (c->chunked) {
            more = read_chunk(c, now);
        } else {
            size_t have = c->len - c->at;
            if (have)
                body_add(c, c->in + c->at, have, now);
            c->body_got += (long)have;
            c->at += have;
            more = c->clen >= 0 && c->body_got >= c->clen ? 2 : 0;
        }
    }
    if (more == 2) {
        finish(c, END_OK);
        return 0;
    }
    if (c->at == c->len)
        c->at = c->len = 0;
    return 1;
}

static void on_in(struct conn *c)
{
    for (;;) {
        grow(&c->in, &c->cap, c->len + 65536);
        ssize_t k = recv(c->fd, c->in + c->len, 65536, 0);
        if (k > 0) {
            if (!c->t_first_byte)
                c->t_first_byte = now_us();
            c->fresh = 0;
            c->len += (size_t)k;
            c->in[c->len] = 0;
            bytes_total += k;
            if (c->st != BUSY) { /* unasked bytes on an idle connection */
                drop(c);
                return;
            }
            if (!feed(c))
                return;
            continue;
        }
        if (k < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (c->st != BUSY) {
            drop(c);
            return;
        }
        if (!c->t_first_byte && !c->fresh &&
            !c->retried) { /* a kept connection that the server had closed: once again, as every client does */
            c->retried = 1;
            n_reconn++;
            drop(c);
            send_req(c);
            return;
        }
        if (c->head && !c->chunked && c->clen < 0)
            finish(c, k == 0 ? END_OK : END_EOF);
        else
            finish(c, END_EOF);
        return;
    }
}

static void send_now(struct conn *c)
{
    static char *req;
    static size_t cap;
    char opt[200];
    snprintf(opt, sizeof opt, "[[id=%ld,n=%ld,ttft_us=%ld,itl_us=%ld%s%s]]", c->id, o.tokens, o.ttft_us, o.itl_us,
             o.opts[0] ? "," : "", o.opts);
    grow(&req, &cap, (size_t)o.prompt_bytes + 4096);
    int pad = (int)o.prompt_bytes;
    char *b = malloc((size_t)pad + 2048);
    int n = 0;
    if (o.chat)
        n = sprintf(b, "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"%s ", o.model, opt);
    else
        n = sprintf(b, "{\"model\":\"%s\",\"prompt\":\"%s ", o.model, opt);
    for (int i = 0; i < pad; i++)
        b[n++] = i % 6 == 5 ? ' ' : (char)('a' + (i * 7 + (int)c->id) % 26);
    n += sprintf(b + n, "%s,\"max_tokens\":%ld,\"stream\":%s%s%s}", o.chat ? "\"}]" : "\"", o.tokens,
                 o.stream ? "true" : "false", o.extra ? "," : "", o.extra ? o.extra : "");
    int h = sprintf(req,
                    "POST %s HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n",
                    o.path, o.host, o.port, n);
    if (o.resume_s > 0)
        h += sprintf(req + h, "Idempotency-Key: bars-%d-%ld\r\n", (int)getpid(), c->id);
    if (c->resuming && c->last_id[0])
        h += sprintf(req + h, "Last-Event-ID: %s\r\n", c->last_id);
    h += sprintf(req + h, "\r\n");
    memcpy(req + h, b, (size_t)n);
    free(b);
    c->t_last = now_us();
    if (!c->retried && !c->resuming)
        c->t_start = c->t_last;
    size_t len = (size_t)(h + n), off = 0;
    while (off < len) {
        ssize_t k = send(c->fd, req + off, len - off, MSG_NOSIGNAL);
        if (k > 0)
            off += (size_t)k;
        else if (errno == EAGAIN)
            usleep(50);
        else
            break; /* the read side reports it */
    }
}

static void watch(struct conn *c, uint32_t ev, int op)
{
    struct epoll_event e = {.events = ev, .data.ptr = c};
    epoll_ctl(ep, op, c->fd, &e);
}

static void send_req(struct conn *c)
{
    c->len = c->at = c->blen = c->bat = 0;
    c->head = c->status = c->sse = c->ended = c->err_ev = c->finish = 0;
    if (!c->resuming) {
        c->next = c->tokens = c->wrong = 0;
        c->t_first_byte = c->t_first_tok = c->t_prev_tok = c->max_gap = 0;
    }
    if (c->fd >= 0) {
        c->st = BUSY;
        send_now(c);
        return;
    }
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)o.port)};
    inet_pton(AF_INET, o.host, &a.sin_addr);
    c->fresh = 1;
    c->st = CONNECTING;
    c->t_last = now_us();
    if (!c->resuming)
        c->t_start = c->t_last;
    int rc = connect(c->fd, (struct sockaddr *)&a, sizeof a);
    if (rc < 0 && errno != EINPROGRESS) {
        drop(c);
        finish(c, END_REFUSED);
        return;
    }
    watch(c, EPOLLOUT | EPOLLIN, EPOLL_CTL_ADD);
}

static void start(struct conn *c)
{
    if (c->resuming && c->resume_until && c->st == IDLE && now_us() >= c->not_before && c->tokens < o.tokens &&
        !c->ended) {
        send_req(c);
        return;
    }
    c->resuming = 0;
    c->resume_until = 0;
    c->last_id[0] = 0;
    if (started >= o.n || now_us() >= t_end) {
        c->st = DONE;
        return;
    }
    if (o.per_conn)
        drop(c);
    c->id = started++;
    c->retried = 0;
    send_req(c);
}

static void usage(void)
{
    fprintf(stderr,
            "usage: load_client --base-url http://127.0.0.1:PORT [-c CONNS] [-n REQUESTS] [--secs S] [--stream]\n"
            "  [--tokens N] [--ttft-us U] [--itl-us U] [--prompt-bytes B] [--opts k=v,k=v] [--extra '\"k\":v']\n"
            "  [--path P] [--model M] [--warm N] [--stagger-us U] [--stall-s S] [--no-keepalive] [--no-check]\n"
            "  [--kill-pid P --kill-ms M] [--resume-s S] [--dump FILE] [--tag T]\n");
    exit(2);
}

struct option_row {
    const char *name;
    enum { STRING, INT, LONG, REAL, SET } kind;
    void *to;
};

static const struct option_row options[] = {
    {"--stream", SET, &o.stream},
    {"--no-check", SET, &o.no_check},
    {"--no-keepalive", SET, &o.per_conn},
    {"--base-url", STRING, &o.base_url},
    {"--path", STRING, &o.path},
    {"--model", STRING, &o.model},
    {"-c", INT, &o.c},
    {"-n", LONG, &o.n},
    {"--secs", REAL, &o.secs},
    {"--tokens", LONG, &o.tokens},
    {"--ttft-us", LONG, &o.ttft_us},
    {"--itl-us", LONG, &o.itl_us},
    {"--prompt-bytes", LONG, &o.prompt_bytes},
    {"--opts", STRING, &o.opts},
    {"--extra", STRING, &o.extra},
    {"--warm", LONG, &o.warm},
    {"--stagger-us", LONG, &o.stagger_us},
    {"--stall-s", REAL, &o.stall_s},
    {"--kill-pid", INT, &o.kill_pid},
    {"--kill-ms", LONG, &o.kill_ms},
    {"--resume-s", REAL, &o.resume_s},
    {"--dump", STRING, &o.dump},
    {"--tag", STRING, &o.tag},
};

static const struct option_row *find_option(const char *name)
{
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (strcmp(options[i].name, name) == 0)
            return &options[i];
    usage();
    return NULL;
}

static void read_args(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const struct option_row *row = find_option(argv[i]);
        if (row->kind == SET) {
            *(int *)row->to = 1;
            continue;
        }
        if (++i == argc)
            usage();
        switch (row->kind) {
        case STRING:
            *(const char **)row->to = argv[i];
            break;
        case INT:
            *(int *)row->to = atoi(argv[i]);
            break;
        case LONG:
            *(long *)row->to = atol(argv[i]);
            break;
        default:
            *(double *)row->to = atof(argv[i]);
        }
    }
    if (strncmp(o.base_url, "http://127.0.0.1:", 17) != 0) {
        fprintf(stderr, "load_client: --base-url http://127.0.0.1:PORT is needed (loopback only)\n");
        exit(2);
    }
    o.port = atoi(o.base_url + 17);
    o.chat = strstr(o.path, "/chat/") != NULL;
    if (!o.port || o.c < 1 || o.c > MAX_CONN || o.n > MAX_N || o.secs > MAX_SECS || o.prompt_bytes > (4 << 20))
        usage();
    if (o.dump && !(dumpf = fopen(o.dump, "w"))) {
        perror(o.dump);
        exit(2);
    }
}

static void on_connected(struct conn *c)
{
    int e = 0;
    socklen_t l = sizeof e;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &l);
    if (e) {
        drop(c);
        finish(c, END_REFUSED);
        return;
    }
    watch(c, EPOLLIN, EPOLL_CTL_MOD);
    c->st = BUSY;
    send_now(c);
}

/* What is due at `now` on all connections; *wait becomes the ms until the next. Returns how many are not done. */
static int look_at_all(int64_t now, int *wait)
{
    int alive = 0;
    for (int i = 0; i < o.c; i++) {
        struct conn *c = &cs[i];
        if (c->st == IDLE) {
            if (now >= c->not_before)
                start(c);
            else if ((c->not_before - now) / 1000 < *wait)
                *wait = (int)((c->not_before - now) / 1000);
        } else if ((c->st == BUSY || c->st == CONNECTING) && now - c->t_last > (int64_t)(o.stall_s * 1e6)) {
            c->keep = 0;
            finish(c, END_HUNG);
        }
        alive += c->st != DONE;
    }
    return alive;
}

static void handle_events(int wait)
{
    static struct epoll_event ev[256];
    int spins = o.c == 1 ? 64 : 8; /* the look at all connections comes once in some rounds */
    for (int s = 0; s < spins; s++) {
        int n = epoll_wait(ep, ev, 256, s == 0 ? wait : 0);
        if (n <= 0)
            break;
        for (int i = 0; i < n; i++) {
            struct conn *c = ev[i].data.ptr;
            if (c->fd >= 0 && c->st == CONNECTING)
                on_connected(c);
            else if (c->fd >= 0)
                on_in(c);
        }
    }
}

static void report(void)
{
    double el = (double)(now_us() - t0) / 1e6;
    long meas = ended > o.warm ? ended - o.warm : 0;
    printf("{\"tag\":\"%s\",\"c\":%d,\"stream\":%s,\"tokens\":%ld,\"itl_us\":%ld,\"requests\":%ld,\"elapsed_s\":%.3f",
           o.tag, o.c, o.stream ? "true" : "false", o.tokens, o.itl_us, ended, el);
    printf(",\"rps\":%.1f,\"whole\":%ld,\"short\":%ld,\"error\":%ld,\"broken\":%ld,\"hung\":%ld,\"wrong\":%ld",
           (double)meas / el, n_whole, n_short, n_error, n_broken, n_hung, n_wrong);
    printf(",\"refused\":%ld,\"reconnects\":%ld,\"resumes\":%ld,\"resumed_whole\":%ld,\"tokens_seen\":%ld", n_refused,
           n_reconn, n_resumes, n_resumed_whole, tok_total);
    printf(",\"sse_events\":%ld,\"bytes\":%ld,\"tokens_per_s\":%.0f", chunk_total, bytes_total,
           (double)tok_total / el);
    if (t_kill)
        printf(",\"running_at_kill\":%ld,\"of_those_whole\":%ld", hit_by_kill, whole_after_kill_started_before);
    printf(",\"status\":{");
    for (int i = 0, f = 1; i < MAX_STATUS; i++)
        if (by_status[i])
            printf("%s\"%d\":%ld", f ? "" : ",", i, by_status[i]), f = 0;
    printf("}");
    stats("latency_us", &lat);
    stats("ttfb_us", &ttfb);
    stats("ttft_us", &ttft);
    stats("relay_us", &relay);
    stats("max_gap_us", &gap);
    stats("tokens_at_end_of_failed", &brk_at);
    printf(",\"first_error\":\"%s\"}\n", first_err);
}

int main(int argc, char **argv)
{
    read_args(argc, argv);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){4096, 4096});
    signal(SIGPIPE, SIG_IGN);
    ep = epoll_create1(EPOLL_CLOEXEC);
    int64_t t_begin = now_us(), kill_at = o.kill_pid ? t_begin + o.kill_ms * 1000 : 0;
    t0 = t_begin;
    t_end = t_begin + (int64_t)(o.secs * 1e6);
    for (int i = 0; i < o.c; i++) {
        cs[i].fd = -1;
        cs[i].st = IDLE;
        cs[i].not_before = t_begin + (int64_t)i * o.stagger_us;
    }
    for (;;) {
        int64_t now = now_us();
        int wait = 1000;
        if (!look_at_all(now, &wait))
            break;
        if (kill_at && now >= kill_at) {
            kill(o.kill_pid, SIGKILL);
            t_kill = now_us();
            kill_at = 0;
        } else if (kill_at && (kill_at - now) / 1000 < wait) {
            wait = (int)((kill_at - now) / 1000);
        }
        if (now > t_end + (int64_t)((o.stall_s + 60) * 1e6)) {
            fprintf(stderr, "load_client: gave up\n");
            break;
        }
        handle_events(wait);
    }
    report();
    if (dumpf)
        fclose(dumpf);
    return 0;
}
