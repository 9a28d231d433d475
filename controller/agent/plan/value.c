#include "controller/agent/plan/value.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int value_compare_numbers(const struct json *a, const struct json *b)
{
    int64_t i, j;

    if (json_to_i64(a, &i) && json_to_i64(b, &j))
        return i < j ? -1 : i > j;
    double x = strtod(a->text, NULL), y = strtod(b->text, NULL);
    return x < y ? -1 : x > y;
}

bool value_is_integer(const struct json *j)
{
    int64_t i;
    double d;

    return json_to_i64(j, &i) || (json_to_double(j, &d) && d == floor(d));
}

int value_equal(const struct json *a, const struct json *b, int64_t *budget)
{
    if (--*budget < 0)
        return -1;
    if (a->kind != b->kind || a->n != b->n)
        return 0;
    if (a->kind == JSON_NUMBER)
        return value_compare_numbers(a, b) == 0;
    if (a->kind == JSON_STRING)
        return a->len == b->len && memcmp(a->text, b->text, a->len) == 0;
    const struct json *y = b->child;
    for (const struct json *x = a->child; x; x = x->next, y = y->next) {
        const struct json *twin = y;
        if (a->kind == JSON_OBJECT && (x->key_len != y->key_len || memcmp(x->key, y->key, x->key_len) != 0)) {
            *budget -= b->index ? 1 : b->n;
            twin = json_get_n(b, x->key, x->key_len);
        }
        int same = twin ? value_equal(x, twin, budget) : 0;
        if (same != 1)
            return same;
    }
    return 1;
}

void value_describe(struct buf *out, const struct json *j)
{
    enum { SHOWN_MAX = 60 };
    size_t n = j->len < SHOWN_MAX ? j->len : SHOWN_MAX;

    switch (j->kind) {
    case JSON_NUMBER:
        buf_addf(out, "the number %.*s", (int)n, j->text);
        break;
    case JSON_STRING:
        while (n < j->len && n > 0 && ((unsigned char)j->text[n] & 0xC0) == 0x80)
            n--; /* not within a character */
        buf_add_str(out, "the string ");
        json_add_str(out, j->text, n);
        if (n < j->len)
            buf_add_str(out, "...");
        break;
    case JSON_ARRAY:
        buf_addf(out, "a list of %u", j->n);
        break;
    case JSON_OBJECT:
        buf_add_str(out, "an object");
        break;
    default:
        json_add(out, j);
    }
}
