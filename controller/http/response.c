/* The answer side of an exchange: status line, headers, chunks. Bytes are only gathered here; conn.c writes them. */
#include "controller/http/internal.h"

#include "common/base/check.h"
#include "common/base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define STATUS_LIST(X)                                                                             \
    X(200, "OK") X(204, "No Content") X(400, "Bad Request") X(401, "Unauthorized")                 \
    X(403, "Forbidden") X(404, "Not Found") X(405, "Method Not Allowed")                           \
    X(408, "Request Timeout") X(409, "Conflict") X(413, "Content Too Large")                       \
    X(414, "URI Too Long") X(417, "Expectation Failed") X(429, "Too Many Requests")                \
    X(431, "Request Header Fields Too Large") X(500, "Internal Server Error")                      \
    X(501, "Not Implemented") X(503, "Service Unavailable") X(504, "Gateway Timeout")              \
    X(505, "HTTP Version Not Supported") X(529, "Overloaded")

const char *http__status_text(int status)
{
    switch (status) {
#define X(code, text)                                                                              \
    case code:                                                                                     \
        return text;
        STATUS_LIST(X)
#undef X
    }
    return "Status";
}

/* RFC 9110 6.6.1; made once a second, in English whatever the locale. */
static const char *date_of(struct http_server *s)
{
    static const char *const day[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char *const month[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    time_t now = time(NULL);
    struct tm tm;

    if ((int64_t)now != s->date_s) {
        s->date_s = (int64_t)now;
        gmtime_r(&now, &tm);
        snprintf(s->date, sizeof s->date, "%s, %02u %s %04u %02u:%02u:%02u GMT", day[tm.tm_wday % 7],
                 (unsigned)tm.tm_mday % 100, month[tm.tm_mon % 12], (unsigned)(tm.tm_year + 1900) % 10000,
                 (unsigned)tm.tm_hour % 100, (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100);
    }
    return s->date;
}

/* len < 0: no Content-Length. */
static void add_head(struct http_conn *c, int status, const char *content_type, int64_t len, bool chunked,
                     const struct buf *extra)
{
    struct buf *out = &c->out;

    buf_add_str(out, "HTTP/1.1 ");
    buf_add_i64(out, status);
    buf_add_char(out, ' ');
    buf_add_str(out, http__status_text(status));
    buf_add_str(out, "\r\nDate: ");
    buf_add_str(out, date_of(c->server));
    if (content_type) {
        buf_add_str(out, "\r\nContent-Type: ");
        buf_add_str(out, content_type);
    }
    if (len >= 0) {
        buf_add_str(out, "\r\nContent-Length: ");
        buf_add_i64(out, len);
    }
    if (chunked)
        buf_add_str(out, "\r\nTransfer-Encoding: chunked");
    buf_add_str(out, c->keep ? "\r\nConnection: keep-alive\r\n" : "\r\nConnection: close\r\n");
    buf_add(out, extra->data, extra->len);
    buf_add_str(out, "\r\n");
}

void http__refuse(struct http_conn *c, int status, const char *text)
{
    struct http_server *s = c->server;
    struct buf body = {0}, head = {0};
    const char *type = "text/plain; charset=utf-8";

    c->keep = false;
    if (s->opts.on_refuse)
        s->opts.on_refuse(s->opts.arg, c->x.head.path ? c->x.head.path : "", status, text, &head, &body, &type);
    else
        buf_addf(&body, "%s\n", text);
    log_debug(http, "refused: status=%d reason=\"%s\"", status, text);
    add_head(c, status, type, (int64_t)body.len, false, &head);
    buf_add(&c->out, body.data, body.len);
    buf_release(&head);
    buf_release(&body);
    http__conn_mark(c);
}

static void reply(struct http_exchange *x, int status, const char *content_type, const void *body, size_t len)
{
    struct http_conn *c = x->owner;

    ASSERT(c->state == HTTP_CONN_busy);
    if (status == 204)
        add_head(c, status, NULL, -1, false, &x->extra);
    else
        add_head(c, status, content_type, (int64_t)len, false, &x->extra);
    if (!x->no_body && status != 204)
        buf_add(&c->out, body, len);
    http__conn_answered(c);
}

static void begin(struct http_exchange *x, int status, const char *content_type)
{
    struct http_conn *c = x->owner;

    ASSERT(c->state == HTTP_CONN_busy);
    x->chunked = x->head.minor >= 1;
    if (!x->chunked) /* HTTP/1.0: the end of the connection is the end of the answer */
        c->keep = false;
    add_head(c, status, content_type, -1, x->chunked, &x->extra);
    http__conn_mark(c);
}

static void add_chunk_size(struct buf *out, size_t n)
{
    char text[20], *p = text + sizeof text;

    *--p = '\n';
    *--p = '\r';
    do
        *--p = "0123456789abcdef"[n % 16];
    while (n /= 16);
    buf_add(out, p, (size_t)(text + sizeof text - p));
}

static void write_chunk(struct http_exchange *x, const void *data, size_t n)
{
    struct http_conn *c = x->owner;

    if (x->no_body || c->overrun)
        return;
    http__conn_mark(c);
    if (http__conn_unsent(c) + n > (size_t)c->server->opts.limit.unsent_bytes_max) {
        c->overrun = true;
        return;
    }
    if (x->chunked)
        add_chunk_size(&c->out, n);
    buf_add(&c->out, data, n);
    if (x->chunked)
        buf_add_str(&c->out, "\r\n");
}

static void end(struct http_exchange *x)
{
    struct http_conn *c = x->owner;

    if (x->chunked && !x->no_body)
        buf_add_str(&c->out, "0\r\n\r\n");
    http__conn_answered(c);
}

static void abort_conn(struct http_exchange *x)
{
    http__conn_close(x->owner);
}

static size_t unsent(const struct http_exchange *x)
{
    return http__conn_unsent(x->owner);
}

const struct http_carrier http__conn_carrier = {reply, begin, write_chunk, end, abort_conn, unsent};
