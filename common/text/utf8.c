#include "common/text/utf8.h"

#include <string.h>

static const char replacement[] = "\xEF\xBF\xBD";

int utf8_decode(const char *str, size_t n, uint32_t *cp)
{
    const unsigned char *s = (const unsigned char *)str;
    unsigned char lead = s[0];
    unsigned lo = 0x80, hi = 0xBF; /* legal range of the SECOND byte: this is where all special cases sit */
    int len;

    if (lead < 0x80) {
        *cp = lead;
        return 1;
    }
    if (lead >= 0xC2 && lead <= 0xDF) {
        len = 2;
        *cp = lead & 0x1F;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        len = 3;
        *cp = lead & 0x0F;
        if (lead == 0xE0)
            lo = 0xA0; /* overlong */
        if (lead == 0xED)
            hi = 0x9F; /* surrogates */
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        len = 4;
        *cp = lead & 0x07;
        if (lead == 0xF0)
            lo = 0x90; /* overlong */
        if (lead == 0xF4)
            hi = 0x8F; /* above U+10FFFF */
    } else {
        *cp = 1;
        return UTF8_BAD;
    }
    for (int i = 1; i < len; i++) {
        if ((size_t)i == n) {
            *cp = (uint32_t)n;
            return UTF8_SHORT;
        }
        if (s[i] < lo || s[i] > hi) {
            *cp = (uint32_t)i;
            return UTF8_BAD;
        }
        *cp = *cp << 6 | (s[i] & 0x3F);
        lo = 0x80;
        hi = 0xBF;
    }
    return len;
}

void utf8_add(struct buf *out, uint32_t cp)
{
    char s[4];
    size_t n;

    if (cp < 0x80) {
        s[0] = (char)cp;
        n = 1;
    } else if (cp < 0x800) {
        s[0] = (char)(0xC0 | cp >> 6);
        s[1] = (char)(0x80 | (cp & 0x3F));
        n = 2;
    } else if (cp < 0x10000) {
        s[0] = (char)(0xE0 | cp >> 12);
        s[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        s[2] = (char)(0x80 | (cp & 0x3F));
        n = 3;
    } else {
        s[0] = (char)(0xF0 | cp >> 18);
        s[1] = (char)(0x80 | (cp >> 12 & 0x3F));
        s[2] = (char)(0x80 | (cp >> 6 & 0x3F));
        s[3] = (char)(0x80 | (cp & 0x3F));
        n = 4;
    }
    buf_add(out, s, n);
}

bool utf8_is_valid(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        uint64_t eight;
        if (n - i >= sizeof eight) { /* most text is ASCII: eight bytes at once */
            memcpy(&eight, s + i, sizeof eight);
            if (!(eight & 0x8080808080808080u)) {
                i += sizeof eight;
                continue;
            }
        }
        int len = utf8_decode(s + i, n - i, &cp);
        if (len < 0)
            return false;
        i += (size_t)len;
    }
    return true;
}

void utf8_add_replaced(struct buf *out, const char *s, size_t n)
{
    struct utf8_stream st = {0};

    utf8_stream_feed(&st, s, n, out);
    utf8_stream_end(&st, out);
}

/* Append the complete part of s; returns how many bytes at its end are an incomplete character. */
static size_t add_complete(struct buf *out, const char *s, size_t n)
{
    size_t start = 0, i = 0; /* s[start..i) is valid and not yet appended */

    while (i < n) {
        uint32_t cp;
        int len = utf8_decode(s + i, n - i, &cp);
        if (len > 0) {
            i += (size_t)len;
            continue;
        }
        buf_add(out, s + start, i - start);
        if (len == UTF8_SHORT)
            return n - i;
        buf_add(out, replacement, 3);
        i += cp;
        start = i;
    }
    buf_add(out, s + start, i - start);
    return 0;
}

void utf8_stream_feed(struct utf8_stream *st, const char *s, size_t n, struct buf *out)
{
    if (n == 0) /* s may be NULL then, to which nothing may be added */
        return;
    /* While bytes are held, grow them one by one: the character ends within three more bytes or turns bad. */
    while (st->n_held > 0 && n > 0) {
        st->held[st->n_held++] = (unsigned char)*s++;
        n--;
        size_t left = add_complete(out, (char *)st->held, (size_t)st->n_held);
        memmove(st->held, st->held + st->n_held - left, left);
        st->n_held = (int)left;
    }
    size_t left = add_complete(out, s, n);
    if (left) {
        memcpy(st->held, s + n - left, left);
        st->n_held = (int)left;
    }
}

void utf8_stream_end(struct utf8_stream *st, struct buf *out)
{
    if (st->n_held > 0)
        buf_add(out, replacement, 3);
    st->n_held = 0;
}
