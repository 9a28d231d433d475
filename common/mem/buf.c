#include "common/mem/buf.h"

#include "common/base/check.h"
#include "common/mem/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Doubled from here: most texts of a request fit at once, and a long one is copied few times. */
enum { BUF_CAP_MIN = 128, BUF_PRINT_MIN = 64 };

void buf_init(struct buf *b)
{
    *b = (struct buf){0};
}

void buf_release(struct buf *b)
{
    mem_free(b->data);
    *b = (struct buf){0};
}

void buf_clear(struct buf *b)
{
    b->len = 0;
}

char *buf_room(struct buf *b, size_t n)
{
    size_t need = b->len + n + 1;
    ASSERT(need > n && need <= SIZE_MAX / 2);
    if (need > b->cap) {
        size_t cap = b->cap ? b->cap : BUF_CAP_MIN;
        while (cap < need)
            cap *= 2;
        b->data = mem_realloc(b->data, cap);
        b->cap = cap;
    }
    return b->data + b->len;
}

void buf_add(struct buf *b, const void *data, size_t n)
{
    char *to = buf_room(b, n);
    if (n)
        memcpy(to, data, n);
    to[n] = 0;
    b->len += n;
}

void buf_add_str(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_add_char(struct buf *b, char c)
{
    buf_add(b, &c, 1);
}

void buf_add_i64(struct buf *b, int64_t v)
{
    char text[24], *p = text + sizeof text;
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;

    do
        *--p = (char)('0' + u % 10);
    while (u /= 10);
    if (v < 0)
        *--p = '-';
    buf_add(b, p, (size_t)(text + sizeof text - p));
}

void buf_addf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;

    va_start(ap, fmt);
    va_copy(again, ap);
    char *to = buf_room(b, BUF_PRINT_MIN);
    size_t room = b->cap - b->len;
    int n = vsnprintf(to, room, fmt, ap);
    va_end(ap);
    ASSERT(n >= 0);
    if ((size_t)n >= room)
        vsnprintf(buf_room(b, (size_t)n), (size_t)n + 1, fmt, again);
    va_end(again);
    b->len += (size_t)n;
}

void buf_drop(struct buf *b, size_t n)
{
    ASSERT(n <= b->len);
    if (n == 0)
        return;
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
    b->data[b->len] = 0;
}

char *buf_take(struct buf *b, size_t *len)
{
    buf_room(b, 0)[0] = 0;
    char *data = b->data;
    if (len)
        *len = b->len;
    *b = (struct buf){0};
    return data;
}
