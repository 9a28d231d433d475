/* Reading a schema. Checking values by it is schema_check.c. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "controller/agent/plan/schema.h"

#include "common/base/check.h"
#include "common/base/flags.h"
#include "common/mem/arena.h"
#include "common/mem/mem.h"
#include "controller/agent/plan/value.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

struct schema {
    struct arena arena;
    const struct json *source;
    struct schema_node *root;
    struct schema_node **node; /* [n_node]; sorted by source once all are read */
    int n_node;
};

/* Where in the schema we are: names from the root, as a list on the stack. */
struct place {
    const struct place *up;
    const char *name;
    size_t len;
};

struct reader {
    struct schema *s;
    const struct json **where;
    struct err *err;
    int depth;
};

static void add_place(struct buf *out, const struct place *at)
{
    if (at->up && at->up->name) {
        add_place(out, at->up);
        buf_add_char(out, '.');
    }
    buf_add(out, at->name, at->len < 64 ? at->len : 64);
}

static int fail(struct reader *r, const struct place *at, const struct json *j, int code, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

static int fail(struct reader *r, const struct place *at, const struct json *j, int code, const char *fmt, ...)
{
    struct buf path = {0};
    va_list ap;

    va_start(ap, fmt);
    err_setv(r->err, code, fmt, ap);
    va_end(ap);
    if (at && at->name) {
        add_place(&path, at);
        err_wrap(r->err, "%.200s", path.data);
    }
    buf_release(&path);
    if (r->where && j)
        *r->where = j;
    return code;
}

/* ---- keywords ----------------------------------------------------------------------------------------- */

static int read_node(struct reader *r, const struct json *j, const struct place *at, const struct schema_node **out);

static int read_type_name(struct reader *r, const struct json *j, const struct place *at, unsigned *types)
{
    static const char *const name[] = {"null", "boolean", "integer", "number", "string", "array", "object"};

    for (size_t i = 0; i < N_ELEM(name); i++)
        if (json_is_str(j, name[i])) {
            *types |= 1u << i | (i == 3 ? (unsigned)SCHEMA_integer : 0);
            return 0;
        }
    const char *near = json_is(j, JSON_STRING) ? flags_nearest(j->len < 32 ? j->text : "", name, N_ELEM(name)) : NULL;
    return fail(r, at, j, ERR_FORMAT, "no such type; %s%s", near ? "did you mean " : "",
                near ? near : "null, boolean, integer, number, string, array, object");
}

static int read_type(struct reader *r, struct schema_node *n, const struct json *j, const struct place *at)
{
    int rc = 0;

    n->types = 0;
    if (j->kind == JSON_STRING)
        return read_type_name(r, j, at, &n->types);
    if (j->kind != JSON_ARRAY || j->n == 0)
        return fail(r, at, j, ERR_FORMAT, "must be the name of a type or a list of names");
    for (const struct json *c = j->child; c && rc == 0; c = c->next)
        rc = read_type_name(r, c, at, &n->types);
    return rc;
}

static struct schema_property *property(struct reader *r, struct schema_node *n, const char *name, size_t len)
{
    for (int i = 0; i < n->n_property; i++)
        if (n->property[i].name_len == len && memcmp(n->property[i].name, name, len) == 0)
            return &n->property[i];
    if ((n->n_property & (n->n_property - 1)) == 0) { /* full at every power of two */
        struct schema_property *more = arena_array(&r->s->arena, (size_t)n->n_property * 2 + 1, sizeof *more);
        if (n->n_property)
            memcpy(more, n->property, (size_t)n->n_property * sizeof *more);
        n->property = more;
    }
    struct schema_property *p = &n->property[n->n_property++];
    p->name = name;
    p->name_len = len;
    return p;
}

static int read_properties(struct reader *r, struct schema_node *n, const struct json *j, const struct place *at)
{
    int rc = 0;

    if (j->kind != JSON_OBJECT)
        return fail(r, at, j, ERR_FORMAT, "must be an object of schemas");
    if (j->n > SCHEMA_PROPERTIES_MAX)
        return fail(r, at, j, ERR_LIMIT, "more than %d properties", SCHEMA_PROPERTIES_MAX);
    for (const struct json *c = j->child; c && rc == 0; c = c->next) {
        struct place here = {at, c->key, c->key_len};
        struct schema_property *p = property(r, n, c->key, c->key_len);
        const struct schema_node *made = NULL;
        rc = read_node(r, c, &here, &made);
        p->node = made; /* reading does not touch the properties of this node */
    }
    return rc;
}

static int read_required(struct reader *r, struct schema_node *n, const struct json *j, const struct place *at)
{
    if (j->kind != JSON_ARRAY)
        return fail(r, at, j, ERR_FORMAT, "must be a list of names");
    if (j->n > SCHEMA_PROPERTIES_MAX)
        return fail(r, at, j, ERR_LIMIT, "more than %d names", SCHEMA_PROPERTIES_MAX);
    for (const struct json *c = j->child; c; c = c->next) {
        if (c->kind != JSON_STRING)
            return fail(r, at, c, ERR_FORMAT, "must be a list of names");
        property(r, n, c->text, c->len)->required = true;
    }
    return 0;
}

static int read_list(struct reader *r, struct schema_list *list, const struct json *j, const struct place *at)
{
    int rc = 0;

    if (j->kind != JSON_ARRAY || j->n == 0)
        return fail(r, at, j, ERR_FORMAT, "must be a list of schemas that is not empty");
    list->node = arena_array(&r->s->arena, j->n, sizeof *list->node);
    for (const struct json *c = j->child; c && rc == 0; c = c->next) {
        struct place here = {at, "[]", 2};
        rc = read_node(r, c, &here, &list->node[list->n]);
        list->n += rc == 0;
    }
    return rc;
}

static int read_defs(struct reader *r, const struct json *j, const struct place *at)
{
    const struct schema_node *made;
    int rc = 0;

    if (j->kind != JSON_OBJECT)
        return fail(r, at, j, ERR_FORMAT, "must be an object of schemas");
    for (const struct json *c = j->child; c && rc == 0; c = c->next) {
        struct place here = {at, c->key, c->key_len};
        rc = read_node(r, c, &here, &made);
    }
    return rc;
}

static int read_count(struct reader *r, int64_t *to, const struct json *j, const struct place *at)
{
    if (!json_to_i64(j, to) || *to < 0)
        return fail(r, at, j, ERR_FORMAT, "must be a whole number from 0 on");
    return 0;
}

static int read_number(struct reader *r, const struct json **to, const struct json *j, const struct place *at)
{
    double d;

    if (!json_to_double(j, &d))
        return fail(r, at, j, ERR_FORMAT, "must be a number");
    *to = j;
    return 0;
}

static int read_pattern(struct reader *r, struct schema_node *n, const struct json *j, const struct place *at)
{
    PCRE2_UCHAR text[128] = "";
    PCRE2_SIZE offset;
    int code;

    if (j->kind != JSON_STRING)
        return fail(r, at, j, ERR_FORMAT, "must be a regular expression");
    if (j->len > SCHEMA_PATTERN_MAX)
        return fail(r, at, j, ERR_LIMIT, "more than %d bytes", SCHEMA_PATTERN_MAX);
    n->pattern = j->text;
    n->pattern_code = pcre2_compile((PCRE2_SPTR)j->text, j->len,
                                    PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_BACKSLASH_C, &code, &offset, NULL);
    if (n->pattern_code)
        return 0;
    pcre2_get_error_message(code, text, sizeof text);
    return fail(r, at, j, ERR_FORMAT, "at character %zu: %s", (size_t)offset + 1, (const char *)text);
}

static int read_bool(struct reader *r, bool *to, const struct json *j, const struct place *at)
{
    if (!json_is_bool(j))
        return fail(r, at, j, ERR_FORMAT, "must be true or false");
    *to = j->kind == JSON_TRUE;
    return 0;
}

static int read_ref(struct reader *r, const struct json *j, const struct place *at)
{
    if (j->kind != JSON_STRING || j->text[0] != '#' || (j->len > 1 && j->text[1] != '/'))
        return fail(r, at, j, ERR_UNSUPPORTED, "only references within the schema are followed: \"#/$defs/name\"");
    return 0; /* resolved when all nodes are there */
}

/* What the draft takes for notes. */
static bool is_note(const char *key)
{
    static const char *const note[] = {"title",    "description", "default", "examples", "format", "deprecated",
                                       "readOnly", "writeOnly",   "$comment", "$schema",  "$id"};

    for (size_t i = 0; i < N_ELEM(note); i++)
        if (strcmp(key, note[i]) == 0)
            return true;
    return false;
}

enum keyword_kind { KW_SCHEMA, KW_LIST, KW_COUNT, KW_NUMBER, KW_OTHER };

static const struct keyword {
    const char *name;
    enum keyword_kind kind;
    size_t offset; /* in struct schema_node */
} keywords[] = {
#define AT(member) offsetof(struct schema_node, member)
    {"type", KW_OTHER, 0},
    {"enum", KW_OTHER, 0},
    {"const", KW_OTHER, 0},
    {"properties", KW_OTHER, 0},
    {"required", KW_OTHER, 0},
    {"additionalProperties", KW_SCHEMA, AT(additional)},
    {"propertyNames", KW_SCHEMA, AT(property_names)},
    {"minProperties", KW_COUNT, AT(min_properties)},
    {"maxProperties", KW_COUNT, AT(max_properties)},
    {"items", KW_SCHEMA, AT(items)},
    {"prefixItems", KW_LIST, AT(prefix_items)},
    {"minItems", KW_COUNT, AT(min_items)},
    {"maxItems", KW_COUNT, AT(max_items)},
    {"uniqueItems", KW_OTHER, 0},
    {"minLength", KW_COUNT, AT(min_length)},
    {"maxLength", KW_COUNT, AT(max_length)},
    {"pattern", KW_OTHER, 0},
    {"minimum", KW_NUMBER, AT(minimum)},
    {"maximum", KW_NUMBER, AT(maximum)},
    {"exclusiveMinimum", KW_NUMBER, AT(above)},
    {"exclusiveMaximum", KW_NUMBER, AT(below)},
    {"multipleOf", KW_NUMBER, AT(multiple_of)},
    {"anyOf", KW_LIST, AT(any_of)},
    {"oneOf", KW_LIST, AT(one_of)},
    {"allOf", KW_LIST, AT(all_of)},
    {"not", KW_SCHEMA, AT(not_node)},
    {"$defs", KW_OTHER, 0},
    {"definitions", KW_OTHER, 0},
    {"$ref", KW_OTHER, 0},
#undef AT
};

static int read_other(struct reader *r, struct schema_node *n, const struct json *j, const struct place *at)
{
    const char *key = j->key;

    if (strcmp(key, "type") == 0)
        return read_type(r, n, j, at);
    if (strcmp(key, "properties") == 0)
        return read_properties(r, n, j, at);
    if (strcmp(key, "required") == 0)
        return read_required(r, n, j, at);
    if (strcmp(key, "uniqueItems") == 0)
        return read_bool(r, &n->unique_items, j, at);
    if (strcmp(key, "pattern") == 0)
        return read_pattern(r, n, j, at);
    if (strcmp(key, "$ref") == 0)
        return read_ref(r, j, at);
    if (strcmp(key, "const") == 0) {
        n->only_value = j;
        return 0;
    }
    if (strcmp(key, "enum") == 0) {
        n->one_of_values = j;
        return j->kind == JSON_ARRAY && j->n ? 0 : fail(r, at, j, ERR_FORMAT, "must be a list that is not empty");
    }
    return read_defs(r, j, at);
}

static int unknown(struct reader *r, const struct json *j, const struct place *at)
{
    const char *names[N_ELEM(keywords)];

    for (size_t i = 0; i < N_ELEM(keywords); i++)
        names[i] = keywords[i].name;
    const char *near = j->key_len < 64 ? flags_nearest(j->key, names, N_ELEM(keywords)) : NULL;
    return fail(r, at, j, ERR_UNSUPPORTED, "this keyword of JSON Schema is not known here%s%s%s",
                near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static int read_keyword(struct reader *r, struct schema_node *n, const struct json *j, const struct place *up)
{
    struct place at = {up, j->key, j->key_len};
    const struct keyword *k = keywords, *end = keywords + N_ELEM(keywords);

    if (is_note(j->key))
        return 0;
    while (k < end && strcmp(k->name, j->key) != 0)
        k++;
    if (k == end)
        return unknown(r, j, &at);
    void *to = (char *)n + k->offset;
    switch (k->kind) {
    case KW_SCHEMA:
        return read_node(r, j, &at, to);
    case KW_LIST:
        return read_list(r, to, j, &at);
    case KW_COUNT:
        return read_count(r, to, j, &at);
    case KW_NUMBER:
        return read_number(r, to, j, &at);
    default:
        return read_other(r, n, j, &at);
    }
}

static int read_node(struct reader *r, const struct json *j, const struct place *at, const struct schema_node **out)
{
    struct schema *s = r->s;
    int rc = 0;

    if (s->n_node == SCHEMA_NODES_MAX)
        return fail(r, at, j, ERR_LIMIT, "more than %d schemas in one", SCHEMA_NODES_MAX);
    if (r->depth == SCHEMA_DEPTH_MAX)
        return fail(r, at, j, ERR_LIMIT, "more than %d levels", SCHEMA_DEPTH_MAX);
    struct schema_node *n = arena_zalloc(&s->arena, sizeof *n);
    if ((s->n_node & (s->n_node - 1)) == 0)
        s->node = mem_realloc(s->node, ((size_t)s->n_node * 2 + 1) * sizeof(struct schema_node *));
    s->node[s->n_node++] = n;
    n->source = j;
    n->types = SCHEMA_any;
    n->min_length = n->max_length = n->min_items = n->max_items = n->min_properties = n->max_properties = -1;
    *out = n;
    if (json_is_bool(j)) {
        n->is_never = j->kind == JSON_FALSE;
        return 0;
    }
    if (j->kind != JSON_OBJECT)
        return fail(r, at, j, ERR_FORMAT, "a schema is an object, true or false");
    r->depth++;
    for (const struct json *c = j->child; c && rc == 0; c = c->next)
        rc = read_keyword(r, n, c, at);
    r->depth--;
    if (rc == 0 && n->multiple_of && strtod(n->multiple_of->text, NULL) <= 0)
        rc = fail(r, at, n->multiple_of, ERR_FORMAT, "multipleOf must be above 0");
    return rc;
}

/* ---- references --------------------------------------------------------------------------------------- */

static int by_source(const void *a, const void *b)
{
    const struct schema_node *const *x = a, *const *y = b;

    return (*x)->source < (*y)->source ? -1 : (*x)->source > (*y)->source;
}

/* The value behind "#/a/b~1c/0". */
static const struct json *follow(const struct json *root, const char *p, const char *end)
{
    const struct json *j = root;

    while (j && p < end) {
        struct buf name = {0};
        char *stop;
        for (p++; p < end && *p != '/'; p++) {
            if (*p == '~' && p + 1 < end && (p[1] == '0' || p[1] == '1'))
                buf_add_char(&name, *++p == '0' ? '~' : '/');
            else
                buf_add_char(&name, *p);
        }
        const char *text = name.len ? name.data : "";
        if (j->kind == JSON_ARRAY) {
            unsigned long i = strtoul(text, &stop, 10);
            j = name.len && *stop == '\0' && i < j->n ? json_at(j, (uint32_t)i) : NULL;
        } else {
            j = json_get_n(j, text, name.len);
        }
        buf_release(&name);
    }
    return j;
}

static int resolve(struct reader *r, struct schema_node *n)
{
    const struct json *ref = json_get(n->source, "$ref");
    struct schema_node key = {0}, *key_p = &key;
    struct place at = {NULL, "$ref", 4};

    if (!ref)
        return 0;
    key.source = follow(r->s->source, ref->text + 1, ref->text + ref->len);
    struct schema_node **found =
        key.source ? bsearch(&key_p, r->s->node, (size_t)r->s->n_node, sizeof *r->s->node, by_source) : NULL;
    if (!found)
        return fail(r, &at, ref, ERR_MISSING, "%.100s leads to no schema", ref->text);
    n->ref = *found;
    return 0;
}

enum { HEIGHT_OPEN = -1 };

/* How many schemas a value passes through at one place, from n on: 1 and the most of those that look at the same value.
 * ERR_FORMAT on a circle, which no value would ever come out of. */
static int measure(struct reader *r, const struct schema_node *n_const, int depth)
{
    struct schema_node *n = (struct schema_node *)n_const; /* ours: made in this file */
    const struct schema_list *lists[] = {&n->any_of, &n->one_of, &n->all_of};
    struct place at = {NULL, "$ref", 4};
    int most = 0, h;

    if (n->height > 0)
        return n->height;
    if (n->height == HEIGHT_OPEN)
        return fail(r, &at, n->source, ERR_FORMAT,
                    "the schema leads back to itself without looking at a part of the value");
    if (depth > SCHEMA_DEPTH_MAX)
        return fail(r, &at, n->source, ERR_LIMIT, "more than %d schemas follow each other", SCHEMA_DEPTH_MAX);
    n->height = HEIGHT_OPEN;
    for (size_t i = 0; i < N_ELEM(lists); i++)
        for (int k = 0; k < lists[i]->n; k++) {
            if ((h = measure(r, lists[i]->node[k], depth + 1)) < 0)
                return h;
            most = h > most ? h : most;
        }
    if (n->ref) {
        if ((h = measure(r, n->ref, depth + 1)) < 0)
            return h;
        most = h > most ? h : most;
    }
    if (n->not_node) {
        if ((h = measure(r, n->not_node, depth + 1)) < 0)
            return h;
        most = h > most ? h : most;
    }
    n->height = most + 1;
    return n->height;
}

int schema_parse(const struct json *source, struct schema **out, const struct json **where, struct err *err)
{
    struct err unseen;
    struct schema *s = mem_zalloc(sizeof *s);
    struct reader r = {.s = s, .where = where, .err = err ? err : &unseen};
    struct place top = {NULL, NULL, 0};
    const struct schema_node *root = NULL;

    s->source = source;
    int rc = read_node(&r, source, &top, &root);
    s->root = (struct schema_node *)root;
    if (rc == 0)
        qsort(s->node, (size_t)s->n_node, sizeof *s->node, by_source);
    for (int i = 0; i < s->n_node && rc == 0; i++)
        rc = resolve(&r, s->node[i]);
    for (int i = 0; i < s->n_node && rc == 0; i++) {
        int h = measure(&r, s->node[i], 1);
        rc = h < 0 ? h : h > SCHEMA_DEPTH_MAX ? fail(&r, &top, s->node[i]->source, ERR_LIMIT,
                                                     "more than %d schemas follow each other", SCHEMA_DEPTH_MAX) : 0;
    }
    if (rc)
        schema_destroy(&s);
    else
        *out = s;
    return rc;
}

void schema_destroy(struct schema **s)
{
    if (!*s)
        return;
    for (int i = 0; i < (*s)->n_node; i++)
        pcre2_code_free((*s)->node[i]->pattern_code);
    mem_free((*s)->node);
    arena_release(&(*s)->arena);
    mem_free(*s);
    *s = NULL;
}

const struct schema_node *schema_root(const struct schema *s)
{
    return s->root;
}

const struct json *schema_source(const struct schema *s)
{
    return s->source;
}
