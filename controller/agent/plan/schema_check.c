/* Checking a value by a schema. The recursion is bounded by the depth of the value times SCHEMA_DEPTH_MAX, the work by
 * SCHEMA_STEPS_MAX. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "common/base/check.h"
#include "controller/agent/plan/schema.h"
#include "controller/agent/plan/value.h"

#include <math.h>
#include <pcre2.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { PATTERN_STEPS_MAX = 100000, PATTERN_HEAP_KIB_MAX = 8 << 10 };

/* Where in the value we are. */
struct spot {
    const struct spot *up;
    const char *name; /* NULL: idx */
    size_t len;
    uint32_t idx;
};

struct checker {
    struct buf *report; /* NULL: only count */
    int n_fault;
    int64_t steps; /* left */
    bool gave_up;
};

static int check(struct checker *c, const struct schema_node *n, const struct json *v, const struct spot *at);

/* ---- faults ------------------------------------------------------------------------------------------- */

static void add_path(struct buf *out, const struct spot *at)
{
    if (!at->up)
        return;
    add_path(out, at->up);
    buf_add_char(out, '/');
    if (!at->name)
        buf_addf(out, "%u", at->idx);
    for (size_t i = 0; at->name && i < at->len && i < 128; i++) {
        char ch = at->name[i];
        if (ch == '~' || ch == '/')
            buf_add_str(out, ch == '~' ? "~0" : "~1");
        else
            buf_add_char(out, (unsigned char)ch < 0x20 ? '?' : ch);
    }
}

static void fault(struct checker *c, const struct spot *at, const struct json *v, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* v: said as ", is ..." behind the text; NULL: not said. */
static void fault(struct checker *c, const struct spot *at, const struct json *v, const char *fmt, ...)
{
    struct err text = {0};
    va_list ap;

    if (++c->n_fault > SCHEMA_FAULTS_MAX || !c->report)
        return;
    size_t before = c->report->len;
    add_path(c->report, at);
    if (c->report->len == before)
        buf_add_str(c->report, "(root)");
    va_start(ap, fmt);
    err_setv(&text, ERR_RANGE, fmt, ap);
    va_end(ap);
    buf_addf(c->report, ": %s", text.text);
    if (v) {
        buf_add_str(c->report, ", is ");
        value_describe(c->report, v);
    }
    buf_add_char(c->report, '\n');
}

/* One of the steps is used. False when there are none left: then nothing more is looked at. */
static bool step(struct checker *c, const struct spot *at)
{
    if (c->gave_up)
        return false;
    if (--c->steps >= 0)
        return true;
    c->gave_up = true;
    fault(c, at, NULL, "checking takes more than %d steps", SCHEMA_STEPS_MAX);
    return false;
}

/* Faults of a schema, not reported. */
static int count(struct checker *c, const struct schema_node *n, const struct json *v, const struct spot *at)
{
    struct checker quiet = {.steps = c->steps};

    check(&quiet, n, v, at);
    c->steps = quiet.steps;
    if (quiet.gave_up)
        step(c, at);
    return quiet.n_fault;
}

static bool equal(struct checker *c, const struct json *a, const struct json *b, const struct spot *at)
{
    int same = value_equal(a, b, &c->steps);

    if (same < 0)
        step(c, at);
    return same == 1;
}

/* ---- kinds of value ----------------------------------------------------------------------------------- */

static unsigned type_of(const struct json *v)
{
    switch (v->kind) {
    case JSON_NULL:
        return SCHEMA_null;
    case JSON_FALSE:
    case JSON_TRUE:
        return SCHEMA_boolean;
    case JSON_NUMBER:
        return value_is_integer(v) ? SCHEMA_integer : SCHEMA_number;
    case JSON_STRING:
        return SCHEMA_string;
    case JSON_ARRAY:
        return SCHEMA_array;
    default:
        return SCHEMA_object;
    }
}

static void add_types(struct buf *out, unsigned types)
{
    static const char *const name[] = {"null", "true or false", "a whole number", "a number",
                                       "a string", "a list", "an object"};
    const char *join = "";

    for (unsigned i = 0; i < N_ELEM(name); i++) {
        if (!(types >> i & 1) || (i == 2 && (types & SCHEMA_number)))
            continue;
        buf_add_str(out, join);
        buf_add_str(out, name[i]);
        join = " or ";
    }
}

static bool check_type(struct checker *c, const struct schema_node *n, const struct json *v, const struct spot *at)
{
    struct buf wanted = {0};

    if (n->is_never) {
        fault(c, at, v, "nothing may stand here");
        return false;
    }
    if (n->types & type_of(v))
        return true;
    add_types(&wanted, n->types);
    fault(c, at, v, "must be %s", wanted.data);
    buf_release(&wanted);
    return false;
}

static void check_number(struct checker *c, const struct schema_node *n, const struct json *v, const struct spot *at)
{
    if (n->minimum && value_compare_numbers(v, n->minimum) < 0)
        fault(c, at, v, "must be at least %s", n->minimum->text);
    if (n->maximum && value_compare_numbers(v, n->maximum) > 0)
        fault(c, at, v, "must be at most %s", n->maximum->text);
    if (n->above && value_compare_numbers(v, n->above) <= 0)
        fault(c, at, v, "must be above %s", n->above->text);
    if (n->below && value_compare_numbers(v, n->below) >= 0)
        fault(c, at, v, "must be below %s", n->below->text);
    if (n->multiple_of) {
        int64_t a, b;
        bool whole = json_to_i64(v, &a) && json_to_i64(n->multiple_of, &b);
        /* Decimal fractions are not exact: 0.3 is a multiple of 0.1 here. */
        double q = strtod(v->text, NULL) / strtod(n->multiple_of->text, NULL);
        if (whole ? a % b != 0 : !(fabs(q - round(q)) <= 1e-9 * fmax(1, fabs(q))))
            fault(c, at, v, "must be a multiple of %s", n->multiple_of->text);
    }
}

static void check_pattern(struct checker *c, const struct schema_node *n, const struct json *v, const struct spot *at)
{
    pcre2_match_data *found = pcre2_match_data_create(1, NULL);
    pcre2_match_context *context = pcre2_match_context_create(NULL);

    ASSERT(found && context);
    pcre2_set_match_limit(context, PATTERN_STEPS_MAX);
    pcre2_set_depth_limit(context, PATTERN_STEPS_MAX);
    pcre2_set_heap_limit(context, PATTERN_HEAP_KIB_MAX);
    int rc = pcre2_match(n->pattern_code, (PCRE2_SPTR)v->text, v->len, 0, PCRE2_NO_UTF_CHECK, found, context);
    pcre2_match_context_free(context);
    pcre2_match_data_free(found);
    if (rc == PCRE2_ERROR_NOMATCH)
        fault(c, at, v, "must match the pattern %s", n->pattern);
    else if (rc < 0)
        fault(c, at, v, "cannot be matched with the pattern %s within %d steps", n->pattern, PATTERN_STEPS_MAX);
    c->steps -= (int64_t)v->len / 64;
}

static void check_string(struct checker *c, const struct schema_node *n, const struct json *v, const struct spot *at)
{
    int64_t len = 0;

    for (size_t i = 0; i < v->len; i++)
        len += ((unsigned char)v->text[i] & 0xC0) != 0x80;
    if (n->min_length >= 0 && len < n->min_length)
        fault(c, at, v, "must have at least %lld characters", (long long)n->min_length);
    if (n->max_length >= 0 && len > n->max_length)
        fault(c, at, v, "must have at most %lld characters, has %lld", (long long)n->max_length, (long long)len);
    if (n->pattern_code)
        check_pattern(c, n, v, at);
}

static void check_array(struct checker *c, const struct schema_node *n, const struct json *v, const struct spot *at)
{
    struct spot here = {.up = at};

    if (n->min_items >= 0 && v->n < n->min_items)
        fault(c, at, NULL, "must have at least %lld elements, has %u", (long long)n->min_items, v->n);
    if (n->max_items >= 0 && v->n > n->max_items)
        fault(c, at, NULL, "must have at most %lld elements, has %u", (long long)n->max_items, v->n);
    for (const struct json *x = v->child; x && !c->gave_up; x = x->next, here.idx++) {
        if (here.idx < (uint32_t)n->prefix_items.n)
            check(c, n->prefix_items.node[here.idx], x, &here);
        else if (n->items)
            check(c, n->items, x, &here);
        else if (!n->unique_items)
            break;
        for (const struct json *y = v->child; n->unique_items && y != x && !c->gave_up; y = y->next)
            if (equal(c, x, y, at)) {
                fault(c, &here, x, "stands in the list twice");
                break;
            }
    }
}

static const struct schema_property *find(const struct schema_node *n, const struct json *member)
{
    for (int i = 0; i < n->n_property; i++) {
        const struct schema_property *p = &n->property[i];
        if (p->node && p->name_len == member->key_len && memcmp(p->name, member->key, p->name_len) == 0)
            return p;
    }
    return NULL;
}

static void check_member(struct checker *c, const struct schema_node *n, const struct json *v, const struct spot *at)
{
    const struct schema_property *p = find(n, v);
    struct spot here = {at, v->key, v->key_len, 0};

    c->steps -= n->n_property / 16;
    if (n->property_names) {
        struct json name = {.kind = JSON_STRING, .text = v->key, .len = v->key_len};
        if (count(c, n->property_names, &name, &here))
            fault(c, &here, NULL, "this name is not allowed");
    }
    if (p)
        check(c, p->node, v, &here);
    else if (n->additional && n->additional->is_never)
        fault(c, &here, NULL, "there is no such member; leave it out");
    else if (n->additional)
        check(c, n->additional, v, &here);
}

static void check_object(struct checker *c, const struct schema_node *n, const struct json *v, const struct spot *at)
{
    if (n->min_properties >= 0 && v->n < n->min_properties)
        fault(c, at, NULL, "must have at least %lld members, has %u", (long long)n->min_properties, v->n);
    if (n->max_properties >= 0 && v->n > n->max_properties)
        fault(c, at, NULL, "must have at most %lld members, has %u", (long long)n->max_properties, v->n);
    for (int i = 0; i < n->n_property; i++) {
        const struct schema_property *p = &n->property[i];
        c->steps -= v->index ? 0 : v->n / 16;
        if (p->required && !json_get_n(v, p->name, p->name_len))
            fault(c, at, NULL, "the member '%.100s' is missing", p->name);
    }
    for (const struct json *x = v->child; x && step(c, at); x = x->next)
        check_member(c, n, x, at);
}

/* ---- combinations ------------------------------------------------------------------------------------- */

static void check_any(struct checker *c, const struct schema_list *list, bool only_one, const struct json *v,
                      const struct spot *at)
{
    int n_fit = 0, best = 0, fewest = 0;

    for (int i = 0; i < list->n && !c->gave_up; i++) {
        int n = count(c, list->node[i], v, at);
        n_fit += n == 0;
        if (i == 0 || n < fewest) {
            fewest = n;
            best = i;
        }
        if (n_fit && !only_one)
            return;
    }
    if (c->gave_up || n_fit == 1)
        return;
    if (n_fit > 1) {
        fault(c, at, NULL, "must fit exactly one of the %d schemas of oneOf, fits %d", list->n, n_fit);
        return;
    }
    fault(c, at, NULL, "fits none of the %d schemas of %s; the nearest asks:", list->n, only_one ? "oneOf" : "anyOf");
    check(c, list->node[best], v, at);
}

static void check_values(struct checker *c, const struct schema_node *n, const struct json *v, const struct spot *at)
{
    struct buf text = {0};

    if (n->only_value && !equal(c, v, n->only_value, at) && !c->gave_up) {
        json_add(&text, n->only_value);
        fault(c, at, v, "must be %.200s", text.data);
    }
    if (n->one_of_values) {
        bool found = false;
        for (const struct json *x = n->one_of_values->child; x && !found && !c->gave_up; x = x->next)
            found = equal(c, v, x, at);
        if (!found && !c->gave_up) {
            buf_clear(&text);
            json_add(&text, n->one_of_values);
            fault(c, at, v, "must be one of %.300s%s", text.data, text.len > 300 ? " ..." : "");
        }
    }
    buf_release(&text);
}

static int check(struct checker *c, const struct schema_node *n, const struct json *v, const struct spot *at)
{
    if (!step(c, at) || !check_type(c, n, v, at))
        return c->n_fault;
    check_values(c, n, v, at);
    if (v->kind == JSON_NUMBER)
        check_number(c, n, v, at);
    else if (v->kind == JSON_STRING)
        check_string(c, n, v, at);
    else if (v->kind == JSON_ARRAY)
        check_array(c, n, v, at);
    else if (v->kind == JSON_OBJECT)
        check_object(c, n, v, at);
    if (n->ref)
        check(c, n->ref, v, at);
    for (int i = 0; i < n->all_of.n; i++)
        check(c, n->all_of.node[i], v, at);
    if (n->any_of.n)
        check_any(c, &n->any_of, false, v, at);
    if (n->one_of.n)
        check_any(c, &n->one_of, true, v, at);
    if (n->not_node && count(c, n->not_node, v, at) == 0 && !c->gave_up)
        fault(c, at, v, "must not fit the schema of 'not'");
    return c->n_fault;
}

int schema_check(const struct schema *s, const struct json *value, struct buf *report)
{
    struct checker c = {.report = report, .steps = SCHEMA_STEPS_MAX};
    struct spot root = {0};
    int n = check(&c, schema_root(s), value, &root);

    return n < SCHEMA_FAULTS_MAX ? n : SCHEMA_FAULTS_MAX;
}
