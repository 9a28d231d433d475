#include "controller/http/parser.h"

#include "common/base/check.h"
#include "common/mem/mem.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#ifdef BATON_HAVE_LLHTTP
#include <llhttp.h>
#else
#include <http_parser.h>
#include <pthread.h>
#endif

#ifdef BATON_HAVE_LLHTTP
typedef llhttp_t lib_parser;
typedef llhttp_settings_t lib_settings;
enum { LIB_PAUSE = HPE_PAUSED };
#else
typedef http_parser lib_parser;
typedef http_parser_settings lib_settings;
enum { LIB_PAUSE = 0 };
#endif

/* Where in the chunked framing the next byte stands (RFC 9112 7.1). */
enum chunk_at { AT_SIZE, AT_SIZE_MORE, AT_EXT, AT_SIZE_LF, AT_DATA, AT_DATA_CR, AT_DATA_LF, AT_LINE, AT_TRAILER,
                AT_TRAILER_LF, AT_END_LF, AT_DONE };

/* http-parser as distributions build it lets "5\rX" and data without CR LF behind it pass. Two readers of one byte
 * stream that disagree are how requests are smuggled, so the framing is checked before the library sees it. */
struct chunk_guard {
    enum chunk_at at;
    uint64_t left; /* bytes of the chunk still to come */
    bool last;
};

struct http_reader {
    lib_parser lib;
    struct http_head *head; /* while the head is read */
    struct buf *body;       /* while the body is read */
    size_t body_max;
    bool done;  /* the message is complete */
    int status; /* our own objection to the head, 0: none */
    char *target, *target_end;
    char *name_end[HTTP_HEADERS_MAX], *value_end[HTTP_HEADERS_MAX];
    struct chunk_guard guard;
    bool chunked;
};

/* ---- callbacks: they only note; nothing of ours runs inside the library ---- */

static int on_url(lib_parser *p, const char *at, size_t n)
{
    struct http_reader *r = p->data;
    r->target = (char *)(uintptr_t)at;
    r->target_end = r->target + n;
    return 0;
}

static int on_field(lib_parser *p, const char *at, size_t n)
{
    struct http_reader *r = p->data;
    if (!r->head) /* a trailer: read and dropped */
        return 0;
    if (r->head->n_field == HTTP_HEADERS_MAX) {
        r->status = 431;
        return -1;
    }
    struct http_field *f = &r->head->field[r->head->n_field++];
    f->name = at;
    f->value = NULL;
    r->name_end[r->head->n_field - 1] = (char *)(uintptr_t)at + n;
    return 0;
}

static int on_value(lib_parser *p, const char *at, size_t n)
{
    struct http_reader *r = p->data;
    if (!r->head || r->head->n_field == 0)
        return 0;
    struct http_field *f = &r->head->field[r->head->n_field - 1];
    if (f->value) /* the head came in one piece and without folds: a value has one part */
        return -1;
    f->value = at;
    r->value_end[r->head->n_field - 1] = (char *)(uintptr_t)at + n;
    return 0;
}

static int on_headers(lib_parser *p)
{
    struct http_reader *r = p->data;
#ifdef BATON_HAVE_LLHTTP
    r->head->method = llhttp_method_name((llhttp_method_t)p->method);
    r->head->keep_alive = llhttp_should_keep_alive(p) != 0;
#else
    r->head->method = http_method_str((enum http_method)p->method);
    r->head->keep_alive = http_should_keep_alive(p) != 0;
#endif
    r->head->major = p->http_major;
    r->head->minor = p->http_minor;
    return 0;
}

static int on_body(lib_parser *p, const char *at, size_t n)
{
    struct http_reader *r = p->data;
    if (!r->body)
        return -1;
    if (r->body->len > r->body_max)
        return 0;
    buf_add(r->body, at, n);
    return 0;
}

static int on_message(lib_parser *p)
{
    struct http_reader *r = p->data;
    r->done = true;
#ifndef BATON_HAVE_LLHTTP
    http_parser_pause(p, 1);
#endif
    return LIB_PAUSE;
}

static const lib_settings settings = {.on_url = on_url,
                                      .on_header_field = on_field,
                                      .on_header_value = on_value,
                                      .on_headers_complete = on_headers,
                                      .on_body = on_body,
                                      .on_message_complete = on_message};

/* ---- the two libraries ---- */

/* Feed n bytes. Returns NULL or the reason of the failure; *n_used is where the message ended, or n. */
#ifdef BATON_HAVE_LLHTTP
static void lib_start(lib_parser *p)
{
    llhttp_init(p, HTTP_REQUEST, &settings);
}

static const char *lib_feed(lib_parser *p, const char *data, size_t n, size_t *n_used)
{
    llhttp_errno_t e = llhttp_execute(p, data, n);
    *n_used = n;
    if (e == HPE_OK)
        return NULL;
    if (e == HPE_PAUSED || e == HPE_PAUSED_UPGRADE) {
        *n_used = (size_t)(llhttp_get_error_pos(p) - data);
        return NULL;
    }
    const char *reason = llhttp_get_error_reason(p);
    return reason && *reason ? reason : llhttp_errno_name(e);
}

const char *http_reader_library(void)
{
    static char text[32];
    if (!text[0])
        snprintf(text, sizeof text, "llhttp %d.%d.%d", LLHTTP_VERSION_MAJOR, LLHTTP_VERSION_MINOR,
                 LLHTTP_VERSION_PATCH);
    return text;
}
#else
static pthread_once_t limit_once = PTHREAD_ONCE_INIT;

/* The library's own limit on headers is one number for the process; ours is per server, so theirs is lifted. */
static void lift_limit(void)
{
    http_parser_set_max_header_size(INT32_MAX);
}

static void lib_start(lib_parser *p)
{
    void *data = p->data;
    pthread_once(&limit_once, lift_limit);
    http_parser_init(p, HTTP_REQUEST);
    p->data = data;
}

static const char *lib_feed(lib_parser *p, const char *data, size_t n, size_t *n_used)
{
    *n_used = http_parser_execute(p, &settings, data, n);
    enum http_errno e = HTTP_PARSER_ERRNO(p);
    if (e == HPE_OK || e == HPE_PAUSED)
        return NULL;
    return http_errno_description(e);
}

const char *http_reader_library(void)
{
    static char text[32];
    unsigned long v = http_parser_version();
    if (!text[0])
        snprintf(text, sizeof text, "http-parser %lu.%lu.%lu", v >> 16 & 255, v >> 8 & 255, v & 255);
    return text;
}
#endif

struct http_reader *http_reader_new(void)
{
    return mem_zalloc(sizeof(struct http_reader));
}

void http_reader_destroy(struct http_reader **r)
{
    mem_free(*r);
    *r = NULL;
}

/* ---- the head ---- */

static bool is_token_char(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

enum http_scan http_head_scan(const char *data, size_t n, size_t *pos, size_t *start, size_t *end)
{
    size_t i = *pos;

    if (i == 0)
        *start = 0;
    for (; i < n; i++) {
        unsigned char c = (unsigned char)data[i];
        if (i == *start) { /* before the request line: empty lines, then a method */
            if (c == '\r')
                continue;
            if (!is_token_char(c))
                return HTTP_SCAN_BAD;
        }
        if (i == *start + 1 && data[*start] == '\r') {
            if (c != '\n')
                return HTTP_SCAN_BAD;
            *start += 2;
            continue;
        }
        if (c == 0)
            return HTTP_SCAN_BAD;
        if (i > *start && data[i - 1] == '\r' && c != '\n')
            return HTTP_SCAN_BAD;
        if (c == '\n') {
            if (data[i - 1] != '\r')
                return HTTP_SCAN_BAD;
            if (i >= *start + 3 && data[i - 2] == '\n') {
                *pos = *end = i + 1;
                return HTTP_SCAN_DONE;
            }
        } else if ((c == ' ' || c == '\t') && i > *start && data[i - 1] == '\n') {
            return HTTP_SCAN_BAD; /* a folded line (RFC 9112 5.2) */
        }
    }
    *pos = i;
    return HTTP_SCAN_MORE;
}

static bool has_word(const char *value, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = value; *p; p++) {
        p += strspn(p, " \t,");
        size_t len = strcspn(p, ",");
        while (len > 0 && (p[len - 1] == ' ' || p[len - 1] == '\t'))
            len--;
        if (len == n && strncasecmp(p, word, n) == 0)
            return true;
        p += strcspn(p, ",");
        if (!*p)
            break;
    }
    return false;
}

/* Content-Length: digits only. -1 if it is none. */
static int64_t length_of(const char *value)
{
    int64_t v = 0;
    size_t n = strlen(value);
    if (n == 0 || n > 18 || strspn(value, "0123456789") != n)
        return -1;
    for (; *value; value++)
        v = v * 10 + (*value - '0');
    return v;
}

static int refuse(struct err *err, int status, const char *text)
{
    err_set(err, ERR_FORMAT, "%s", text);
    return status;
}

/* Split the target into path and query; drop scheme and authority of an absolute one (RFC 9112 3.2.2). */
static int split_target(char *t, char *end, struct http_head *head, struct err *err)
{
    *end = 0;
    if (strncasecmp(t, "http://", 7) == 0 || strncasecmp(t, "https://", 8) == 0) {
        t = strstr(t, "//") + 2;
        t += strcspn(t, "/?");
    }
    char *q = strpbrk(t, "?#");
    head->query = "";
    if (q) {
        if (*q == '?') {
            head->query = q + 1;
            q[1 + strcspn(q + 1, "#")] = 0;
        }
        *q = 0;
    }
    head->path = *t ? t : "/";
    if (strlen(head->path) > HTTP_PATH_MAX)
        return refuse(err, 414, "the path is too long");
    return 0;
}

/* Put NULs behind names and values, now that the library has read them all. */
static void end_fields(struct http_reader *r, struct http_head *head)
{
    for (int i = 0; i < head->n_field; i++) {
        struct http_field *f = &head->field[i];
        *r->name_end[i] = 0;
        if (!f->value || r->value_end[i] == f->value) { /* an empty one may point at the next line's first byte */
            f->value = "";
            continue;
        }
        char *end = r->value_end[i];
        while (end > f->value && (end[-1] == ' ' || end[-1] == '\t'))
            end--;
        *end = 0;
    }
}

/* What the library does not check, or checks only in some builds. */
static int check_fields(struct http_head *head, struct err *err)
{
    int n_host = 0, n_length = 0, n_coding = 0;

    for (int i = 0; i < head->n_field; i++) {
        struct http_field *f = &head->field[i];
        for (const char *c = f->name; *c; c++)
            if (!is_token_char((unsigned char)*c))
                return refuse(err, 400, "a header name has a character that is not allowed");
        for (const char *c = f->value; *c; c++)
            if (((unsigned char)*c < ' ' && *c != '\t') || *c == 0x7f)
                return refuse(err, 400, "a header value has a control character");
        if (strcasecmp(f->name, "host") == 0) {
            n_host++;
        } else if (strcasecmp(f->name, "content-length") == 0) {
            n_length++;
            head->content_length = length_of(f->value);
            if (head->content_length < 0)
                return refuse(err, 400, "Content-Length is no number");
        } else if (strcasecmp(f->name, "transfer-encoding") == 0) {
            n_coding++;
            head->chunked = strcasecmp(f->value, "chunked") == 0;
            if (!head->chunked)
                return refuse(err, 501, "the only Transfer-Encoding we know is chunked");
        } else if (strcasecmp(f->name, "expect") == 0) {
            if (strcasecmp(f->value, "100-continue") != 0)
                return refuse(err, 417, "the only Expect we know is 100-continue");
            head->expect_continue = true;
        } else if (strcasecmp(f->name, "connection") == 0 && has_word(f->value, "close")) {
            head->keep_alive = false;
        }
    }
    if (n_length + n_coding > 1)
        return refuse(err, 400, "more than one header gives the length of the body");
    if (n_host > 1 || (n_host == 0 && head->minor >= 1))
        return refuse(err, 400, n_host ? "more than one Host header" : "no Host header");
    return 0;
}

int http_reader_head(struct http_reader *r, char *data, size_t n, struct http_head *head, struct err *err)
{
    size_t n_used;
    int status;

    *r = (struct http_reader){.head = head};
    lib_start(&r->lib);
    r->lib.data = r;
    head->n_field = 0;
    head->content_length = -1;
    head->chunked = head->keep_alive = head->has_body = head->expect_continue = false;
    head->major = 0;
    const char *reason = lib_feed(&r->lib, data, n, &n_used);
    r->head = NULL;
    if (reason || r->status || !r->target || head->major == 0) {
        err_set(err, ERR_FORMAT, "%s",
                r->status == 431 ? "too many headers" : reason ? reason : "not an HTTP/1.1 request");
        return r->status ? r->status : 400;
    }
    if (head->major != 1)
        return refuse(err, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    end_fields(r, head);
    status = check_fields(head, err);
    if (status == 0)
        status = split_target(r->target, r->target_end, head, err);
    if (status)
        return status;
    if (head->minor == 0)
        head->keep_alive = false;
    r->chunked = head->chunked;
    head->has_body = head->chunked || head->content_length > 0;
    if (head->minor == 0 && head->chunked)
        return refuse(err, 400, "HTTP/1.0 has no Transfer-Encoding");
    if (head->has_body == r->done)
        return refuse(err, 400, "the length of the body is not clear");
    return 0;
}

static int hex_of(unsigned char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A size line is complete: data or, after size 0, trailer lines follow. */
static enum chunk_at after_size(struct chunk_guard *g)
{
    g->last = g->left == 0;
    return g->last ? AT_LINE : AT_DATA;
}

/* One byte that is not chunk data. False: not what may stand here. */
static bool guard_byte(struct chunk_guard *g, unsigned char c)
{
    int hex = hex_of(c);

    switch (g->at) {
    case AT_SIZE:
    case AT_SIZE_MORE:
        if (hex >= 0 && g->left <= (UINT64_MAX >> 8)) {
            g->left = g->left * 16 + (uint64_t)hex;
            g->at = AT_SIZE_MORE;
            return true;
        }
        if (g->at == AT_SIZE || hex >= 0)
            return false;
        g->at = c == '\r' ? AT_SIZE_LF : AT_EXT;
        return c == '\r' || c == ';';
    case AT_EXT:
        if (c == '\r')
            g->at = AT_SIZE_LF;
        return c == '\r' || c == '\t' || (c >= ' ' && c != 0x7f);
    case AT_SIZE_LF:
        g->at = after_size(g);
        return c == '\n';
    case AT_DATA_CR:
        g->at = AT_DATA_LF;
        return c == '\r';
    case AT_DATA_LF:
        g->at = AT_SIZE;
        return c == '\n';
    case AT_LINE:
        g->at = c == '\r' ? AT_END_LF : AT_TRAILER;
        return c == '\r' || is_token_char(c);
    case AT_TRAILER:
        if (c == '\r')
            g->at = AT_TRAILER_LF;
        return c == '\r' || c == '\t' || (c >= ' ' && c != 0x7f);
    case AT_TRAILER_LF:
        g->at = AT_LINE;
        return c == '\n';
    case AT_END_LF:
        g->at = AT_DONE;
        return c == '\n';
    case AT_DATA:
    case AT_DONE:
        break;
    }
    BUG("chunk data and the end are the caller's");
}

static bool guard_feed(struct chunk_guard *g, const char *data, size_t n)
{
    for (size_t i = 0; i < n && g->at != AT_DONE;) {
        if (g->at == AT_DATA) {
            size_t take = g->left < n - i ? (size_t)g->left : n - i;
            g->left -= take;
            i += take;
            if (g->left == 0)
                g->at = AT_DATA_CR;
        } else if (!guard_byte(g, (unsigned char)data[i++])) {
            return false;
        }
    }
    return true;
}

enum http_body http_reader_body(struct http_reader *r, const char *data, size_t n, size_t *n_used, struct buf *body,
                                size_t max, struct err *err)
{
    ASSERT(!r->done);
    *n_used = 0;
    if (r->chunked && !guard_feed(&r->guard, data, n)) {
        err_set(err, ERR_FORMAT, "the chunked body is malformed");
        return HTTP_BODY_BAD;
    }
    r->body = body;
    r->body_max = max;
    const char *reason = lib_feed(&r->lib, data, n, n_used);
    r->body = NULL;
    if (reason) {
        err_set(err, ERR_FORMAT, "%s", reason);
        return HTTP_BODY_BAD;
    }
    return r->done ? HTTP_BODY_DONE : HTTP_BODY_MORE;
}
