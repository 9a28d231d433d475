/* The values of expressions: operators, then one function a filter. */
#include "common/base/check.h"
#include "common/text/jsonmake.h"
#include "common/text/utf8.h"
#include "controller/agent/plan/expr.h"
#include "controller/agent/plan/expr_impl.h"
#include "controller/agent/plan/value.h"

#include <math.h>
#include <string.h>

/* Comparisons of one evaluation: `unique` and `in` over large values must not stop the loop. */
enum { WORK_MAX = 2000000 };

struct eval {
    const struct expr_scope *scope;
    struct arena *arena;
    struct err *err;
    int64_t work; /* comparisons left */
};

static int eval(struct eval *ev, const struct expr *e, const struct json **out);

/* ---- references --------------------------------------------------------------------------------------- */

/* "steps.a.output.x" up to and with `last`. */
static int missing(struct eval *ev, const struct expr *e, const struct expr_part *last, const struct json *in)
{
    struct buf path = {0};

    buf_add_str(&path, e->root);
    for (const struct expr_part *p = e->part; p && last; p = p->next) {
        if (p->name)
            buf_addf(&path, ".%.64s", p->name);
        else
            buf_addf(&path, "[%lld]", (long long)p->index);
        if (p == last)
            break;
    }
    int rc = in ? err_set(ev->err, ERR_MISSING, "there is no %.300s: what stands before is %s %s", path.data,
                          in->kind == JSON_OBJECT || in->kind == JSON_ARRAY ? "an" : "of kind", json_kind_name(in))
                : err_set(ev->err, ERR_MISSING, "there is no %.300s", path.data);
    buf_release(&path);
    return rc;
}

static const struct json *step_into(const struct json *v, const struct expr_part *p)
{
    if (p->name)
        return json_get_n(v, p->name, p->name_len);
    if (!json_is(v, JSON_ARRAY))
        return NULL;
    int64_t i = p->index < 0 ? p->index + v->n : p->index;
    return i >= 0 && i < v->n ? json_at(v, (uint32_t)i) : NULL;
}

static int eval_ref(struct eval *ev, const struct expr *e, const struct json **out)
{
    const bool is_step = strcmp(e->root, "steps") == 0;
    const struct expr_part *p = e->part;
    const struct json *v = ev->scope->get(ev->scope->arg, e->root, is_step ? p->name : NULL);

    if (!v)
        return missing(ev, e, is_step ? p : NULL, NULL);
    for (p = is_step ? p->next : p; p; p = p->next) {
        const struct json *inner = step_into(v, p);
        if (!inner)
            return missing(ev, e, p, v);
        v = inner;
    }
    *out = v;
    return 0;
}

/* ---- comparing ---------------------------------------------------------------------------------------- */

static int compare_texts(const struct json *a, const struct json *b)
{
    int d = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);

    return d ? d : a->len < b->len ? -1 : a->len > b->len;
}

/* 1 equal, 0 not, ERR_LIMIT. */
static int equal(struct eval *ev, const struct json *a, const struct json *b)
{
    int same = value_equal(a, b, &ev->work);

    return same < 0 ? err_set(ev->err, ERR_LIMIT, "comparing takes more than %d steps", WORK_MAX) : same;
}

static int ordered(struct eval *ev, enum expr_op op, const struct json *a, const struct json *b, bool *yes)
{
    int d;

    if (json_is(a, JSON_NUMBER) && json_is(b, JSON_NUMBER))
        d = value_compare_numbers(a, b);
    else if (json_is(a, JSON_STRING) && json_is(b, JSON_STRING))
        d = compare_texts(a, b);
    else
        return err_set(ev->err, ERR_ARG, "only two numbers or two strings have an order, these are %s and %s",
                       json_kind_name(a), json_kind_name(b));
    *yes = op == EXPR_LT ? d < 0 : op == EXPR_LE ? d <= 0 : op == EXPR_GT ? d > 0 : d >= 0;
    return 0;
}

static int contains(struct eval *ev, const struct json *x, const struct json *in, bool *yes)
{
    *yes = false;
    if (json_is(in, JSON_ARRAY)) {
        for (const struct json *c = in->child; c && !*yes; c = c->next) {
            int same = equal(ev, x, c);
            if (same < 0)
                return same;
            *yes = same;
        }
        return 0;
    }
    if (json_is(x, JSON_STRING) && json_is(in, JSON_OBJECT)) {
        *yes = json_get_n(in, x->text, x->len) != NULL;
        return 0;
    }
    if (json_is(x, JSON_STRING) && json_is(in, JSON_STRING)) {
        *yes = x->len == 0 || memmem(in->text, in->len, x->text, x->len);
        return 0;
    }
    return err_set(ev->err, ERR_ARG, "'in' looks for an element in a list, or a string in an object or string; "
                                     "these are %s and %s", json_kind_name(x), json_kind_name(in));
}

static int eval_comparison(struct eval *ev, const struct expr *e, const struct json **out)
{
    const struct json *a, *b;
    bool yes = false;
    int rc;

    if ((rc = eval(ev, e->a, &a)) || (rc = eval(ev, e->b, &b)))
        return rc;
    if (e->op == EXPR_EQ || e->op == EXPR_NE) {
        int same = equal(ev, a, b);
        rc = same < 0 ? same : 0;
        yes = e->op == EXPR_EQ ? same == 1 : same == 0;
    } else if (e->op == EXPR_IN || e->op == EXPR_NOT_IN) {
        rc = contains(ev, a, b, &yes);
        yes = e->op == EXPR_IN ? yes : !yes;
    } else {
        rc = ordered(ev, e->op, a, b, &yes);
    }
    *out = jsonmake_bool(yes);
    return rc;
}

static int truth(struct eval *ev, const struct expr *e, bool *yes)
{
    const struct json *v;
    int rc = eval(ev, e, &v);

    if (rc)
        return rc;
    if (!json_is_bool(v))
        return err_set(ev->err, ERR_ARG, "a condition must be true or false, this is %s", json_kind_name(v));
    *yes = v->kind == JSON_TRUE;
    return 0;
}

static int eval_logic(struct eval *ev, const struct expr *e, const struct json **out)
{
    bool yes;
    int rc = truth(ev, e->a, &yes);

    if (rc == 0 && e->op == EXPR_NOT)
        yes = !yes;
    else if (rc == 0 && yes == (e->op == EXPR_AND))
        rc = truth(ev, e->b, &yes);
    if (rc == 0)
        *out = jsonmake_bool(yes);
    return rc;
}

/* ---- filters ------------------------------------------------------------------------------------------ */

static int wrong(struct eval *ev, const char *filter, const char *wanted, const struct json *v)
{
    return err_set(ev->err, ERR_ARG, "%s needs %s, got %s", filter, wanted, json_kind_name(v));
}

/* The scratch text as a string value; the scratch is given back. */
static int give_text(struct eval *ev, struct buf *b, const struct json **out)
{
    int rc = 0;

    if (b->len > EXPR_TEXT_MAX)
        rc = err_set(ev->err, ERR_LIMIT, "a text of more than %d bytes", EXPR_TEXT_MAX);
    else
        *out = jsonmake_str(ev->arena, b->len ? b->data : "", b->len);
    buf_release(b);
    return rc;
}

static int filter_json(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    struct buf b = {0};

    (void)arg;
    json_add(&b, v);
    return give_text(ev, &b, out);
}

static int filter_parse(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    struct err why = {0};

    (void)arg;
    if (!json_is(v, JSON_STRING))
        return wrong(ev, "parse", "a string", v);
    if (json_parse(v->text, v->len, 0, ev->arena, out, &why) != 0)
        return err_set(ev->err, ERR_ARG, "parse: %s", why.text);
    return 0;
}

static int filter_string(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    (void)arg;
    if (json_is(v, JSON_STRING))
        *out = v;
    else if (json_is(v, JSON_NUMBER))
        *out = jsonmake_str(ev->arena, v->text, v->len);
    else if (json_is_bool(v))
        *out = jsonmake_cstr(ev->arena, v->kind == JSON_TRUE ? "true" : "false");
    else
        return wrong(ev, "string", "a number, true, false or a string (json makes a text of any value)", v);
    return 0;
}

static int filter_number(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    const struct json *number = v;

    (void)arg;
    if (json_is(v, JSON_STRING) && json_parse(v->text, v->len, 0, ev->arena, &number, NULL) != 0)
        return err_set(ev->err, ERR_ARG, "number: '%.40s' is none", v->text);
    if (!json_is(number, JSON_NUMBER))
        return wrong(ev, "number", "a string that is a number", number);
    *out = number;
    return 0;
}

/* Bytes of the first n characters. */
static size_t characters(const struct json *v, size_t n)
{
    size_t i = 0;

    for (; i < v->len; i++)
        if (((unsigned char)v->text[i] & 0xC0) != 0x80 && n-- == 0)
            break;
    return i;
}

static int filter_length(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    int64_t n = v->n;

    (void)arg;
    if (json_is(v, JSON_STRING))
        for (size_t i = n = 0; i < v->len; i++)
            n += ((unsigned char)v->text[i] & 0xC0) != 0x80;
    else if (!json_is(v, JSON_ARRAY) && !json_is(v, JSON_OBJECT))
        return wrong(ev, "length", "a string, list or object", v);
    *out = jsonmake_i64(ev->arena, n);
    return 0;
}

static int edge(struct eval *ev, const char *name, const struct json *v, bool last, const struct json **out)
{
    if (!json_is(v, JSON_ARRAY))
        return wrong(ev, name, "a list", v);
    if (v->n == 0)
        return err_set(ev->err, ERR_MISSING, "%s: the list is empty", name);
    *out = json_at(v, last ? v->n - 1 : 0);
    return 0;
}

static int filter_first(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    (void)arg;
    return edge(ev, "first", v, false, out);
}

static int filter_last(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    (void)arg;
    return edge(ev, "last", v, true, out);
}

static int filter_keys(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    struct jsonmake m;

    (void)arg;
    if (!json_is(v, JSON_OBJECT))
        return wrong(ev, "keys", "an object", v);
    jsonmake_begin(&m, ev->arena, JSON_ARRAY);
    for (const struct json *c = v->child; c; c = c->next)
        jsonmake_add(&m, jsonmake_str(ev->arena, c->key, c->key_len));
    *out = jsonmake_end(&m);
    return 0;
}

static int filter_values(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    struct jsonmake m;

    (void)arg;
    if (!json_is(v, JSON_OBJECT))
        return wrong(ev, "values", "an object", v);
    jsonmake_begin(&m, ev->arena, JSON_ARRAY);
    for (const struct json *c = v->child; c; c = c->next)
        jsonmake_add(&m, c);
    *out = jsonmake_end(&m);
    return 0;
}

static int filter_pluck(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    struct jsonmake m;

    if (!json_is(v, JSON_ARRAY))
        return wrong(ev, "pluck", "a list", v);
    if (!json_is(arg, JSON_STRING))
        return wrong(ev, "pluck", "the name of a member in ( )", arg);
    jsonmake_begin(&m, ev->arena, JSON_ARRAY);
    for (const struct json *c = v->child; c; c = c->next) {
        const struct json *found = json_get_n(c, arg->text, arg->len);
        jsonmake_add(&m, found ? found : &jsonmake_null);
    }
    *out = jsonmake_end(&m);
    return 0;
}

static int filter_compact(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    struct jsonmake m;

    (void)arg;
    if (!json_is(v, JSON_ARRAY))
        return wrong(ev, "compact", "a list", v);
    jsonmake_begin(&m, ev->arena, JSON_ARRAY);
    for (const struct json *c = v->child; c; c = c->next)
        if (c->kind != JSON_NULL)
            jsonmake_add(&m, c);
    *out = jsonmake_end(&m);
    return 0;
}

static int filter_flatten(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    struct jsonmake m;

    (void)arg;
    if (!json_is(v, JSON_ARRAY))
        return wrong(ev, "flatten", "a list", v);
    jsonmake_begin(&m, ev->arena, JSON_ARRAY);
    for (const struct json *c = v->child; c; c = c->next) {
        if (c->kind != JSON_ARRAY)
            jsonmake_add(&m, c);
        else
            for (const struct json *x = c->child; x; x = x->next)
                jsonmake_add(&m, x);
    }
    *out = jsonmake_end(&m);
    return 0;
}

static int filter_unique(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    struct jsonmake m;

    (void)arg;
    if (!json_is(v, JSON_ARRAY))
        return wrong(ev, "unique", "a list", v);
    jsonmake_begin(&m, ev->arena, JSON_ARRAY);
    for (const struct json *c = v->child; c; c = c->next) {
        int same = 0;
        for (const struct json *x = jsonmake_end(&m)->child; x && same == 0; x = x->next)
            same = equal(ev, c, x);
        if (same < 0)
            return same;
        if (same == 0)
            jsonmake_add(&m, c);
    }
    *out = jsonmake_end(&m);
    return 0;
}

static int filter_sum(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    int64_t whole = 0, i;
    double sum = 0, d;
    bool exact = true;

    (void)arg;
    if (!json_is(v, JSON_ARRAY))
        return wrong(ev, "sum", "a list of numbers", v);
    for (const struct json *c = v->child; c; c = c->next) {
        if (!json_to_double(c, &d))
            return wrong(ev, "sum", "a list of numbers", c);
        sum += d;
        exact = exact && json_to_i64(c, &i) && !__builtin_add_overflow(whole, i, &whole);
    }
    if (!exact && !isfinite(sum))
        return err_set(ev->err, ERR_ARG, "sum: too large");
    *out = exact ? jsonmake_i64(ev->arena, whole) : jsonmake_double(ev->arena, sum);
    return 0;
}

static int filter_join(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    struct buf b = {0};

    if (!json_is(v, JSON_ARRAY))
        return wrong(ev, "join", "a list", v);
    if (arg && !json_is(arg, JSON_STRING))
        return wrong(ev, "join", "a string in ( )", arg);
    for (const struct json *c = v->child; c && b.len <= EXPR_TEXT_MAX; c = c->next) {
        const struct json *text;
        int rc = filter_string(ev, c, NULL, &text);
        if (rc) {
            buf_release(&b);
            return rc;
        }
        if (arg && c != v->child)
            buf_add(&b, arg->text, arg->len);
        buf_add(&b, text->text, text->len);
    }
    return give_text(ev, &b, out);
}

static int filter_lines(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    struct jsonmake m;

    (void)arg;
    if (!json_is(v, JSON_STRING))
        return wrong(ev, "lines", "a string", v);
    jsonmake_begin(&m, ev->arena, JSON_ARRAY);
    for (const char *p = v->text, *end = v->text + v->len; p < end;) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        const char *line_end = stop ? stop : end;
        size_t n = (size_t)(line_end - p);
        jsonmake_add(&m, jsonmake_str(ev->arena, p, n && p[n - 1] == '\r' ? n - 1 : n));
        p = stop ? stop + 1 : end;
    }
    *out = jsonmake_end(&m);
    return 0;
}

static int filter_trim(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    static const char space[] = " \t\r\n";
    size_t a = 0, b = v->len;

    (void)arg;
    if (!json_is(v, JSON_STRING))
        return wrong(ev, "trim", "a string", v);
    while (a < b && memchr(space, v->text[a], 4))
        a++;
    while (b > a && memchr(space, v->text[b - 1], 4))
        b--;
    *out = jsonmake_str(ev->arena, v->text + a, b - a);
    return 0;
}

static int letters(struct eval *ev, const char *name, const struct json *v, char from, int shift,
                   const struct json **out)
{
    if (!json_is(v, JSON_STRING))
        return wrong(ev, name, "a string", v);
    struct json *copy = (struct json *)jsonmake_str(ev->arena, v->text, v->len);
    char *text = (char *)copy->text; /* our own copy */
    for (size_t i = 0; i < v->len; i++)
        if (text[i] >= from && text[i] < from + 26)
            text[i] = (char)(text[i] + shift);
    *out = copy;
    return 0;
}

static int filter_upper(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    (void)arg;
    return letters(ev, "upper", v, 'a', 'A' - 'a', out);
}

static int filter_lower(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    (void)arg;
    return letters(ev, "lower", v, 'A', 'a' - 'A', out);
}

static int filter_truncate(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out)
{
    int64_t n;

    if (!json_is(v, JSON_STRING))
        return wrong(ev, "truncate", "a string", v);
    if (!json_to_i64(arg, &n) || n < 0)
        return wrong(ev, "truncate", "a number of characters in ( )", arg);
    *out = jsonmake_str(ev->arena, v->text, characters(v, (size_t)n));
    return 0;
}

typedef int (*filter_fn)(struct eval *ev, const struct json *v, const struct json *arg, const struct json **out);

/* default and exists are no functions of a value: they take a missing one. */
#define filter_default NULL
#define filter_exists  NULL
static const filter_fn filter_table[] = {
#define X(name, n_min, n_max, text) filter_##name,
    EXPR_FILTER_LIST(X)
#undef X
};

static int eval_filter(struct eval *ev, const struct expr *e, const struct json **out)
{
    const struct json *v = NULL, *arg = NULL;
    int rc = eval(ev, e->a, &v);

    if (e->filter == EXPR_FILTER_default || e->filter == EXPR_FILTER_exists) {
        bool there = rc == 0 && v->kind != JSON_NULL;
        if (rc && rc != ERR_MISSING)
            return rc;
        if (e->filter == EXPR_FILTER_exists) {
            *out = jsonmake_bool(there);
            return 0;
        }
        if (!there)
            return eval(ev, e->b, out);
        *out = v;
        return 0;
    }
    if (rc == 0 && e->b)
        rc = eval(ev, e->b, &arg);
    return rc ? rc : filter_table[e->filter](ev, v, arg, out);
}

static int eval_list(struct eval *ev, const struct expr *e, const struct json **out)
{
    struct jsonmake m;

    jsonmake_begin(&m, ev->arena, JSON_ARRAY);
    for (const struct expr *x = e->a; x; x = x->next) {
        const struct json *v;
        int rc = eval(ev, x, &v);
        if (rc)
            return rc;
        jsonmake_add(&m, v);
    }
    *out = jsonmake_end(&m);
    return 0;
}

static int eval(struct eval *ev, const struct expr *e, const struct json **out)
{
    switch (e->op) {
    case EXPR_LITERAL:
        *out = e->literal;
        return 0;
    case EXPR_REF:
        return eval_ref(ev, e, out);
    case EXPR_LIST:
        return eval_list(ev, e, out);
    case EXPR_FILTER:
        return eval_filter(ev, e, out);
    case EXPR_NOT:
    case EXPR_AND:
    case EXPR_OR:
        return eval_logic(ev, e, out);
    default:
        return eval_comparison(ev, e, out);
    }
}

int expr_eval(const struct expr *e, const struct expr_scope *scope, struct arena *arena, const struct json **out,
              struct err *err)
{
    struct err why = {0};
    struct eval ev = {.scope = scope, .arena = arena, .err = &why, .work = WORK_MAX};
    const struct json *value = NULL;
    int rc = eval(&ev, e, &value);

    if (rc == 0)
        *out = value;
    else if (err)
        *err = why;
    return rc;
}

int expr_test(const struct expr *e, const struct expr_scope *scope, bool *yes, struct err *err)
{
    struct arena arena = {0};
    const struct json *v = NULL;
    int rc = expr_eval(e, scope, &arena, &v, err);

    if (rc == 0 && !json_is_bool(v))
        rc = err_set(err, ERR_ARG, "a condition must be true or false, this is %s", json_kind_name(v));
    if (rc == 0)
        *yes = v->kind == JSON_TRUE;
    arena_release(&arena);
    return rc;
}
