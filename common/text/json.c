#include "common/text/json.h"

#include "common/base/check.h"
#include "common/text/utf8.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Objects with more members than this get a hash of their names (vocabularies have 128,000). */
enum { JSON_INDEX_MIN = 8 };

struct json_index {
    uint32_t mask;
    const struct json **slot;
};

struct parser {
    const char *start, *p, *end;
    struct arena *arena;
    struct buf scratch;
    struct err *err;
    int flags;
    int depth;
};

static int fail(struct parser *ps, const char *at, const char *what)
{
    size_t line = 1, col = 1;

    for (const char *s = ps->start; s < at; s++) {
        col++;
        if (*s == '\n') {
            line++;
            col = 1;
        }
    }
    return err_set(ps->err, ERR_FORMAT, "JSON line %zu column %zu: %s", line, col, what);
}

static void skip_space(struct parser *ps)
{
    while (ps->p < ps->end && (*ps->p == ' ' || *ps->p == '\n' || *ps->p == '\r' || *ps->p == '\t'))
        ps->p++;
}

static bool is_digit(const struct parser *ps)
{
    return ps->p < ps->end && *ps->p >= '0' && *ps->p <= '9';
}

/* ---- numbers ------------------------------------------------------------------------------------------ */

static int parse_number(struct parser *ps, struct json *j)
{
    const char *start = ps->p;

    if (*ps->p == '-')
        ps->p++;
    if (!is_digit(ps))
        return fail(ps, ps->p, "a digit is expected");
    if (*ps->p == '0')
        ps->p++;
    else
        while (is_digit(ps))
            ps->p++;
    if (ps->p < ps->end && *ps->p == '.') {
        ps->p++;
        if (!is_digit(ps))
            return fail(ps, ps->p, "a digit is expected after '.'");
        while (is_digit(ps))
            ps->p++;
    }
    if (ps->p < ps->end && (*ps->p == 'e' || *ps->p == 'E')) {
        ps->p++;
        if (ps->p < ps->end && (*ps->p == '+' || *ps->p == '-'))
            ps->p++;
        if (!is_digit(ps))
            return fail(ps, ps->p, "a digit is expected in the exponent");
        while (is_digit(ps))
            ps->p++;
    }
    if (ps->p - start > JSON_NUMBER_MAX)
        return fail(ps, start, "number is too long");
    j->kind = JSON_NUMBER;
    j->len = (size_t)(ps->p - start);
    j->text = arena_dup(ps->arena, start, j->len);
    return 0;
}

/* ---- strings ------------------------------------------------------------------------------------------ */

static int parse_hex4(struct parser *ps, uint32_t *v)
{
    *v = 0;
    if (ps->end - ps->p < 4)
        return fail(ps, ps->p, "\\u needs four hex digits");
    for (int i = 0; i < 4; i++) {
        char c = *ps->p++;
        uint32_t d;
        if (c >= '0' && c <= '9')
            d = (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            d = (uint32_t)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            d = (uint32_t)(c - 'A' + 10);
        else
            return fail(ps, ps->p - 1, "\\u needs four hex digits");
        *v = *v << 4 | d;
    }
    return 0;
}

/* ps->p is behind "\u". */
static int parse_unicode_escape(struct parser *ps)
{
    uint32_t cp, low;
    int rc = parse_hex4(ps, &cp);

    if (rc)
        return rc;
    if (cp >= 0xD800 && cp <= 0xDBFF) {
        if (ps->end - ps->p < 2 || ps->p[0] != '\\' || ps->p[1] != 'u')
            return fail(ps, ps->p, "lone surrogate escape");
        ps->p += 2;
        rc = parse_hex4(ps, &low);
        if (rc)
            return rc;
        if (low < 0xDC00 || low > 0xDFFF)
            return fail(ps, ps->p, "lone surrogate escape");
        cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
    } else if (cp >= 0xDC00 && cp <= 0xDFFF) {
        return fail(ps, ps->p, "lone surrogate escape");
    }
    utf8_add(&ps->scratch, cp);
    return 0;
}

static int parse_escape(struct parser *ps)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";

    if (ps->p == ps->end)
        return fail(ps, ps->p, "string is not closed");
    char c = *ps->p++;
    if (c == 'u')
        return parse_unicode_escape(ps);
    const char *at = c ? strchr(from, c) : NULL;
    if (!at)
        return fail(ps, ps->p - 1, "unknown escape in a string");
    buf_add_char(&ps->scratch, to[at - from]);
    return 0;
}

/* ps->p is at the opening quote. The decoded text lies in the arena. */
static int parse_string(struct parser *ps, const char **text, size_t *len)
{
    const char *open = ps->p++;

    buf_clear(&ps->scratch);
    for (;;) {
        const char *run = ps->p;
        while (ps->p < ps->end && *ps->p != '"' && *ps->p != '\\' && (unsigned char)*ps->p >= 0x20)
            ps->p++;
        buf_add(&ps->scratch, run, (size_t)(ps->p - run));
        if (ps->p == ps->end)
            return fail(ps, open, "string is not closed");
        if (*ps->p == '"')
            break;
        if (*ps->p != '\\')
            return fail(ps, ps->p, "control character in a string");
        ps->p++;
        int rc = parse_escape(ps);
        if (rc)
            return rc;
    }
    ps->p++;
    if (!utf8_is_valid(ps->scratch.data, ps->scratch.len))
        return fail(ps, open, "string is not UTF-8");
    *len = ps->scratch.len;
    *text = arena_dup(ps->arena, ps->scratch.data, ps->scratch.len);
    return 0;
}

/* ---- objects and arrays ------------------------------------------------------------------------------- */

static uint32_t hash_name(const char *s, size_t n)
{
    uint32_t h = 2166136261u; /* FNV-1a; the table below is sized by us, so no stranger can make it grow */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 16777619u;
    return h ^ h >> 15;
}

/* Members while an object is read: a list, and from JSON_INDEX_MIN members on a hash. */
struct members {
    struct json *first, *last;
    uint32_t n, cap; /* cap: slots of the hash, power of two */
    struct json **slot;
};

static struct json **find_slot(const struct members *m, const char *key, size_t len)
{
    uint32_t i = hash_name(key, len) & (m->cap - 1);
    while (m->slot[i] && !(m->slot[i]->key_len == len && memcmp(m->slot[i]->key, key, len) == 0))
        i = (i + 1) & (m->cap - 1);
    return &m->slot[i];
}

static void grow_index(struct parser *ps, struct members *m)
{
    m->cap = m->cap ? m->cap * 4 : JSON_INDEX_MIN * 4;
    m->slot = arena_array(ps->arena, m->cap, sizeof(struct json *));
    for (struct json *j = m->first; j; j = (struct json *)j->next)
        *find_slot(m, j->key, j->key_len) = j;
}

static struct json *find_member(const struct members *m, const char *key, size_t len)
{
    if (m->slot)
        return *find_slot(m, key, len);
    for (struct json *j = m->first; j; j = (struct json *)j->next)
        if (j->key_len == len && memcmp(j->key, key, len) == 0)
            return j;
    return NULL;
}

static void add_member(struct parser *ps, struct members *m, struct json *j)
{
    if (m->last)
        m->last->next = j;
    else
        m->first = j;
    m->last = j;
    m->n++;
    if (m->slot && m->n * 2 <= m->cap)
        *find_slot(m, j->key, j->key_len) = j;
    else if (m->n > JSON_INDEX_MIN)
        grow_index(ps, m);
}

static int parse_value(struct parser *ps, struct json *j);

static int parse_member(struct parser *ps, struct members *m)
{
    struct json value = {0};
    const char *at = ps->p, *key;
    size_t len;

    if (ps->p == ps->end || *ps->p != '"')
        return fail(ps, ps->p, "a member name in quotes is expected");
    int rc = parse_string(ps, &key, &len);
    if (rc)
        return rc;
    skip_space(ps);
    if (ps->p == ps->end || *ps->p != ':')
        return fail(ps, ps->p, "':' is expected");
    ps->p++;
    struct json *old = find_member(m, key, len);
    if (old && ps->flags & JSON_NO_REPEATED_KEYS) {
        char what[200];
        snprintf(what, sizeof what, "member name '%.150s' appears twice", key);
        return fail(ps, at, what);
    }
    rc = parse_value(ps, &value);
    if (rc)
        return rc;
    if (old) { /* last value, first place */
        value.next = old->next;
        value.key = old->key;
        value.key_len = old->key_len;
        *old = value;
        return 0;
    }
    value.key = key;
    value.key_len = len;
    struct json *node = arena_alloc(ps->arena, sizeof *node);
    *node = value;
    add_member(ps, m, node);
    return 0;
}

static int parse_element(struct parser *ps, struct members *m)
{
    struct json *node = arena_zalloc(ps->arena, sizeof *node);
    int rc = parse_value(ps, node);

    if (rc)
        return rc;
    if (m->last)
        m->last->next = node;
    else
        m->first = node;
    m->last = node;
    m->n++;
    return 0;
}

/* Both containers: children with ',' between them up to the closing bracket. ps->p is at the opening one. */
static int parse_children(struct parser *ps, struct json *j)
{
    bool object = *ps->p == '{';
    char close = object ? '}' : ']';
    struct members m = {0};

    if (++ps->depth > JSON_DEPTH_MAX)
        return fail(ps, ps->p, "nested too deeply");
    ps->p++;
    skip_space(ps);
    if (ps->p < ps->end && *ps->p == close) {
        ps->p++;
    } else {
        for (;;) {
            skip_space(ps);
            int rc = object ? parse_member(ps, &m) : parse_element(ps, &m);
            if (rc)
                return rc;
            skip_space(ps);
            if (ps->p == ps->end || (*ps->p != ',' && *ps->p != close))
                return fail(ps, ps->p, object ? "',' or '}' is expected" : "',' or ']' is expected");
            if (*ps->p++ == close)
                break;
        }
    }
    ps->depth--;
    *j = (struct json){.kind = object ? JSON_OBJECT : JSON_ARRAY, .n = m.n, .child = m.first};
    if (m.slot) {
        struct json_index *index = arena_alloc(ps->arena, sizeof *index);
        *index = (struct json_index){m.cap - 1, (const struct json **)m.slot};
        j->index = index;
    }
    return 0;
}

static int parse_word(struct parser *ps, struct json *j)
{
    static const struct {
        const char *word;
        enum json_kind kind;
    } words[] = {{"null", JSON_NULL}, {"true", JSON_TRUE}, {"false", JSON_FALSE}};

    for (size_t i = 0; i < N_ELEM(words); i++) {
        size_t n = strlen(words[i].word);
        if ((size_t)(ps->end - ps->p) >= n && memcmp(ps->p, words[i].word, n) == 0) {
            ps->p += n;
            j->kind = words[i].kind;
            return 0;
        }
    }
    return fail(ps, ps->p, "a value is expected");
}

static int parse_value(struct parser *ps, struct json *j)
{
    skip_space(ps);
    if (ps->p == ps->end)
        return fail(ps, ps->p, "a value is expected, the text ends here");
    char c = *ps->p;
    if (c == '{' || c == '[')
        return parse_children(ps, j);
    if (c == '"') {
        j->kind = JSON_STRING;
        return parse_string(ps, &j->text, &j->len);
    }
    if (c == '-' || (c >= '0' && c <= '9'))
        return parse_number(ps, j);
    return parse_word(ps, j);
}

int json_parse(const char *text, size_t len, int flags, struct arena *arena, const struct json **root,
               struct err *err)
{
    struct parser ps = {.start = text, .p = text, .end = text + len, .arena = arena, .err = err, .flags = flags};
    struct json *j = arena_zalloc(arena, sizeof *j);

    int rc = parse_value(&ps, j);
    if (!rc) {
        skip_space(&ps);
        if (ps.p != ps.end)
            rc = fail(&ps, ps.p, "text after the value");
    }
    buf_release(&ps.scratch);
    if (!rc)
        *root = j;
    return rc;
}

/* ---- reading the tree --------------------------------------------------------------------------------- */

const struct json *json_get_n(const struct json *obj, const char *name, size_t len)
{
    if (!json_is(obj, JSON_OBJECT))
        return NULL;
    if (obj->index) {
        uint32_t i = hash_name(name, len) & obj->index->mask;
        const struct json *j;
        for (; (j = obj->index->slot[i]); i = (i + 1) & obj->index->mask)
            if (j->key_len == len && memcmp(j->key, name, len) == 0)
                return j;
        return NULL;
    }
    for (const struct json *j = obj->child; j; j = j->next)
        if (j->key_len == len && memcmp(j->key, name, len) == 0)
            return j;
    return NULL;
}

const struct json *json_get(const struct json *obj, const char *name)
{
    return json_get_n(obj, name, strlen(name));
}

const struct json *json_at(const struct json *arr, uint32_t i)
{
    if (!json_is(arr, JSON_ARRAY))
        return NULL;
    const struct json *j = arr->child;
    while (j && i-- > 0)
        j = j->next;
    return j;
}

bool json_is_str(const struct json *j, const char *s)
{
    return json_is(j, JSON_STRING) && j->len == strlen(s) && memcmp(j->text, s, j->len) == 0;
}

bool json_to_double(const struct json *j, double *v)
{
    if (!json_is(j, JSON_NUMBER))
        return false;
    double d = strtod(j->text, NULL);
    if (!isfinite(d))
        return false;
    *v = d;
    return true;
}

bool json_to_i64(const struct json *j, int64_t *v)
{
    char *end;
    double d;

    if (!json_is(j, JSON_NUMBER))
        return false;
    errno = 0;
    long long i = strtoll(j->text, &end, 10);
    if (*end == 0 && errno == 0) {
        *v = i;
        return true;
    }
    /* A fraction or exponent: an integer all the same if it is whole and a double holds it exactly. */
    if (*end == 0 || !json_to_double(j, &d) || d != floor(d) || fabs(d) > 9007199254740992.0)
        return false;
    *v = (int64_t)d;
    return true;
}

const char *json_kind_name(const struct json *j)
{
    static const char *const name[] = {
        [JSON_NULL] = "null",     [JSON_FALSE] = "boolean", [JSON_TRUE] = "boolean",  [JSON_NUMBER] = "number",
        [JSON_STRING] = "string", [JSON_ARRAY] = "array",   [JSON_OBJECT] = "object",
    };
    return j ? name[j->kind] : "nothing";
}

bool json_equal(const struct json *a, const struct json *b)
{
    if (a->kind != b->kind || a->n != b->n)
        return false;
    if (a->kind == JSON_STRING || a->kind == JSON_NUMBER)
        return a->len == b->len && memcmp(a->text, b->text, a->len) == 0;
    const struct json *y = b->child;
    for (const struct json *x = a->child; x; x = x->next) {
        const struct json *twin = a->kind == JSON_OBJECT ? json_get_n(b, x->key, x->key_len) : y;
        if (!twin || !json_equal(x, twin))
            return false;
        if (y)
            y = y->next;
    }
    return true;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

void json_add_str(struct buf *out, const char *s, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    size_t start = 0;

    buf_room(out, n + 2);
    buf_add_char(out, '"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        buf_add(out, s + start, i - start);
        start = i + 1;
        switch (c) {
        case '"':
            buf_add(out, "\\\"", 2);
            break;
        case '\\':
            buf_add(out, "\\\\", 2);
            break;
        case '\b':
            buf_add(out, "\\b", 2);
            break;
        case '\f':
            buf_add(out, "\\f", 2);
            break;
        case '\n':
            buf_add(out, "\\n", 2);
            break;
        case '\r':
            buf_add(out, "\\r", 2);
            break;
        case '\t':
            buf_add(out, "\\t", 2);
            break;
        default: {
            char esc[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            buf_add(out, esc, sizeof esc);
        }
        }
    }
    if (n > 0) /* else s may be NULL, to which nothing may be added */
        buf_add(out, s + start, n - start);
    buf_add_char(out, '"');
}

void json_add(struct buf *out, const struct json *j)
{
    switch (j->kind) {
    case JSON_NULL:
        buf_add_str(out, "null");
        return;
    case JSON_FALSE:
        buf_add_str(out, "false");
        return;
    case JSON_TRUE:
        buf_add_str(out, "true");
        return;
    case JSON_NUMBER:
        buf_add(out, j->text, j->len);
        return;
    case JSON_STRING:
        json_add_str(out, j->text, j->len);
        return;
    case JSON_ARRAY:
    case JSON_OBJECT:
        break;
    }
    buf_add_char(out, j->kind == JSON_OBJECT ? '{' : '[');
    for (const struct json *c = j->child; c; c = c->next) {
        if (j->kind == JSON_OBJECT) {
            json_add_str(out, c->key, c->key_len);
            buf_add_char(out, ':');
        }
        json_add(out, c);
        if (c->next)
            buf_add_char(out, ',');
    }
    buf_add_char(out, j->kind == JSON_OBJECT ? '}' : ']');
}
