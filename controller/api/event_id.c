#include "controller/api/event_id.h"

#include "common/base/err.h"

#include <string.h>

static char *add_number(char *p, int64_t v)
{
    char digit[20];
    int n = 0;

    do {
        digit[n++] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    while (n)
        *p++ = digit[--n];
    return p;
}

size_t event_id_write(const char hex[25], const int64_t *at, int n_choice, char *out)
{
    char *p = out;

    memcpy(p, hex, 24);
    p += 24;
    *p++ = '-';
    if (n_choice == 1) {
        p = add_number(p, at[0] + at[1]);
    } else {
        for (int i = 0; i <= n_choice; i++) {
            if (i)
                *p++ = '.';
            p = add_number(p, at[i]);
        }
    }
    *p = 0;
    return (size_t)(p - out);
}

int event_id_read(const char *text, const char hex[25], int n_choice, int64_t *at)
{
    int n = n_choice == 1 ? 1 : n_choice + 1;

    if (strlen(text) < 26 || text[24] != '-' || strspn(text, "0123456789abcdef") != 24)
        return ERR_FORMAT;
    if (memcmp(text, hex, 24) != 0)
        return ERR_MISSING;
    text += 25;
    for (int i = 0; i < n; i++) {
        size_t len = strspn(text, "0123456789");
        if (len == 0 || len > 15 || text[len] != (i + 1 < n ? '.' : 0))
            return ERR_FORMAT;
        at[i] = 0;
        for (size_t k = 0; k < len; k++)
            at[i] = at[i] * 10 + (text[k] - '0');
        text += len + 1;
    }
    if (n_choice == 1)
        at[1] = 0;
    return 0;
}
