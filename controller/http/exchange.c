#include "controller/http/exchange.h"

#include "common/base/check.h"

#include <strings.h>

const char *http_method(const struct http_exchange *x)
{
    return x->head.method;
}

const char *http_path(const struct http_exchange *x)
{
    return x->head.path;
}

const char *http_query(const struct http_exchange *x)
{
    return x->head.query;
}

const char *http_header(const struct http_exchange *x, const char *name)
{
    for (int i = 0; i < x->head.n_field; i++)
        if (strcasecmp(x->head.field[i].name, name) == 0)
            return x->head.field[i].value;
    return NULL;
}

const char *http_body(const struct http_exchange *x, size_t *len)
{
    *len = x->body.len;
    return x->body.data ? x->body.data : "";
}

char *http_take_body(struct http_exchange *x, size_t *len)
{
    return buf_take(&x->body, len);
}

void http_on_gone(struct http_exchange *x, void (*on_gone)(void *arg), void *arg)
{
    x->on_gone = on_gone;
    x->gone_arg = arg;
}

void http_add_header(struct http_exchange *x, const char *name, const char *value)
{
    ASSERT(!x->begun);
    buf_add_str(&x->extra, name);
    buf_add_str(&x->extra, ": ");
    for (; *value; value++) /* a value can never start a line of its own */
        buf_add_char(&x->extra, (unsigned char)*value < ' ' ? ' ' : *value);
    buf_add_str(&x->extra, "\r\n");
}

void http_reply(struct http_exchange *x, int status, const char *content_type, const void *body, size_t len)
{
    ASSERT(!x->begun);
    x->begun = true;
    x->carrier->reply(x, status, content_type, body, len);
}

void http_stream_begin(struct http_exchange *x, int status, const char *content_type)
{
    ASSERT(!x->begun);
    x->begun = true;
    x->carrier->begin(x, status, content_type);
}

void http_stream_write(struct http_exchange *x, const void *data, size_t n)
{
    ASSERT(x->begun && n > 0);
    x->carrier->write(x, data, n);
}

void http_stream_end(struct http_exchange *x)
{
    ASSERT(x->begun);
    x->carrier->end(x);
}

void http_stream_abort(struct http_exchange *x)
{
    x->on_gone = NULL;
    x->carrier->cut(x);
}

size_t http_unsent(const struct http_exchange *x)
{
    return x->carrier->unsent(x);
}
