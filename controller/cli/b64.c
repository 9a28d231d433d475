#include "controller/cli/b64.h"

#include <stdint.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void b64_encode(const void *data, size_t n, struct buf *out)
{
    const unsigned char *s = data;

    for (size_t i = 0; i < n; i += 3) {
        size_t have = n - i < 3 ? n - i : 3;
        uint32_t v = (uint32_t)s[i] << 16;
        if (have > 1)
            v |= (uint32_t)s[i + 1] << 8;
        if (have > 2)
            v |= s[i + 2];
        buf_add_char(out, digits[v >> 18]);
        buf_add_char(out, digits[v >> 12 & 63]);
        buf_add_char(out, have > 1 ? digits[v >> 6 & 63] : '=');
        buf_add_char(out, have > 2 ? digits[v & 63] : '=');
    }
}

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int b64_decode(const char *text, size_t len, struct buf *out, struct err *err)
{
    size_t n_pad = 0, before = out->len;

    if (len % 4)
        return err_set(err, ERR_FORMAT, "base64 text of %zu characters: no multiple of 4", len);
    while (n_pad < 2 && n_pad < len && text[len - 1 - n_pad] == '=')
        n_pad++;
    for (size_t i = 0; i < len; i += 4) {
        size_t n_digit = i + 4 == len ? 4 - n_pad : 4;
        uint32_t v = 0;
        for (size_t k = 0; k < 4; k++) {
            int d = k < n_digit ? value_of(text[i + k]) : 0;
            if (d < 0)
                goto bad;
            v = v << 6 | (uint32_t)d;
        }
        if (v & ((1u << (8 * (4 - n_digit))) - 1))
            goto bad;
        for (size_t k = 0; k + 1 < n_digit; k++)
            buf_add_char(out, (char)(v >> (16 - 8 * k) & 255));
    }
    return 0;
bad:
    out->len = before;
    return err_set(err, ERR_FORMAT, "base64 text with a character or bits that do not belong there");
}
