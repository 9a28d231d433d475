#include "common/text/pyjson.h"

#include "common/base/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Python writes a float without exponent if its decimal exponent lies in this range. */
enum { FIXED_EXP_MIN = -4, FIXED_EXP_MAX = 15, DIGITS_MAX = 17 };

/* A positive double as digits d[0].d[1]d[2]... times 10^exp. */
struct decimal {
    char digit[DIGITS_MAX + 1];
    int n, exp;
};

static double decimal_value(const struct decimal *d)
{
    char text[48];
    snprintf(text, sizeof text, "%c.%se%d", d->digit[0], d->n > 1 ? d->digit + 1 : "0", d->exp);
    return strtod(text, NULL);
}

/* v correctly rounded to n digits. */
static void round_to(double v, int n, struct decimal *d)
{
    char text[48];

    snprintf(text, sizeof text, "%.*e", n - 1, v);
    d->n = 0;
    char *s = text;
    for (; *s && *s != 'e'; s++)
        if (*s >= '0' && *s <= '9')
            d->digit[d->n++] = *s;
    d->digit[d->n] = 0;
    ASSERT(*s == 'e' && d->n == n);
    d->exp = atoi(s + 1);
}

/* The next larger decimal of as many digits. */
static void step_up(struct decimal *d)
{
    int i = d->n - 1;
    while (i >= 0 && d->digit[i] == '9')
        d->digit[i--] = '0';
    if (i >= 0) {
        d->digit[i]++;
    } else {
        d->digit[0] = '1'; /* 9.99 -> 10.0 */
        d->exp++;
    }
}

/* The fewest digits that read back as v, and of those the closest. Below a power of two doubles lie half as far
 * apart as above, so there the closest decimal may miss v while the next one up still reads back as it. */
static void shortest(double v, struct decimal *d)
{
    for (int n = 1; n < DIGITS_MAX; n++) {
        round_to(v, n, d);
        if (decimal_value(d) == v)
            return;
        step_up(d);
        if (decimal_value(d) == v)
            return;
    }
    round_to(v, DIGITS_MAX, d);
}

static void add_zeros(struct buf *out, int n)
{
    for (; n > 0; n--)
        buf_add_char(out, '0');
}

static void add_float(struct buf *out, const char *text)
{
    struct decimal d;
    double v = strtod(text, NULL);

    if (signbit(v))
        buf_add_char(out, '-');
    v = fabs(v);
    if (isinf(v)) {
        buf_add_str(out, "Infinity");
        return;
    }
    if (v == 0) {
        buf_add_str(out, "0.0");
        return;
    }
    shortest(v, &d);
    while (d.n > 1 && d.digit[d.n - 1] == '0')
        d.digit[--d.n] = 0;
    if (d.exp < FIXED_EXP_MIN || d.exp > FIXED_EXP_MAX) {
        buf_add_char(out, d.digit[0]);
        if (d.n > 1)
            buf_addf(out, ".%s", d.digit + 1);
        buf_addf(out, "e%c%02d", d.exp < 0 ? '-' : '+', abs(d.exp));
    } else if (d.exp < 0) {
        buf_add_str(out, "0.");
        add_zeros(out, -d.exp - 1);
        buf_add_str(out, d.digit);
    } else if (d.n <= d.exp + 1) {
        buf_add_str(out, d.digit);
        add_zeros(out, d.exp + 1 - d.n);
        buf_add_str(out, ".0");
    } else {
        buf_add(out, d.digit, (size_t)d.exp + 1);
        buf_addf(out, ".%s", d.digit + d.exp + 1);
    }
}

static void add_number(struct buf *out, const struct json *j)
{
    if (strpbrk(j->text, ".eE"))
        add_float(out, j->text);
    else if (strcmp(j->text, "-0") == 0)
        buf_add_char(out, '0');
    else
        buf_add(out, j->text, j->len);
}

void pyjson_add(struct buf *out, const struct json *j)
{
    bool object = j->kind == JSON_OBJECT;

    if (j->kind == JSON_NUMBER) {
        add_number(out, j);
        return;
    }
    if (!object && j->kind != JSON_ARRAY) {
        json_add(out, j);
        return;
    }
    buf_add_char(out, object ? '{' : '[');
    for (const struct json *c = j->child; c; c = c->next) {
        if (object) {
            json_add_str(out, c->key, c->key_len);
            buf_add(out, ": ", 2);
        }
        pyjson_add(out, c);
        if (c->next)
            buf_add(out, ", ", 2);
    }
    buf_add_char(out, object ? '}' : ']');
}
