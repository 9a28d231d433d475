#include "common/text/jsonmake.h"

#include "common/base/check.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct json jsonmake_null = {.kind = JSON_NULL};
const struct json jsonmake_true = {.kind = JSON_TRUE};
const struct json jsonmake_false = {.kind = JSON_FALSE};

static struct json *new_text(struct arena *arena, enum json_kind kind, const char *s, size_t n)
{
    struct json *j = arena_zalloc(arena, sizeof *j);

    j->kind = kind;
    j->text = arena_dup(arena, s, n);
    j->len = n;
    return j;
}

const struct json *jsonmake_str(struct arena *arena, const char *s, size_t n)
{
    return new_text(arena, JSON_STRING, s, n);
}

const struct json *jsonmake_cstr(struct arena *arena, const char *s)
{
    return new_text(arena, JSON_STRING, s, strlen(s));
}

const struct json *jsonmake_i64(struct arena *arena, int64_t v)
{
    char text[32];
    int n = snprintf(text, sizeof text, "%" PRId64, v);

    return new_text(arena, JSON_NUMBER, text, (size_t)n);
}

const struct json *jsonmake_double(struct arena *arena, double v)
{
    char text[40];
    int n = 0;

    ASSERT(isfinite(v));
    if (v == floor(v) && fabs(v) <= 9007199254740992.0)
        return jsonmake_i64(arena, (int64_t)v);
    for (int digits = 15; digits <= 17; digits++) {
        n = snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    return new_text(arena, JSON_NUMBER, text, (size_t)n);
}

/* ---- arrays and objects ------------------------------------------------------------------------------- */

void jsonmake_begin(struct jsonmake *m, struct arena *arena, enum json_kind kind)
{
    ASSERT(kind == JSON_ARRAY || kind == JSON_OBJECT);
    m->arena = arena;
    m->root = arena_zalloc(arena, sizeof *m->root);
    m->root->kind = kind;
    m->last = NULL;
}

static void append(struct jsonmake *m, const char *key, size_t key_len, const struct json *value)
{
    struct json *j = arena_alloc(m->arena, sizeof *j);

    *j = *value;
    j->next = NULL;
    j->key = key;
    j->key_len = key_len;
    if (m->last)
        m->last->next = j;
    else
        m->root->child = j;
    m->last = j;
    m->root->n++;
}

void jsonmake_add(struct jsonmake *m, const struct json *value)
{
    ASSERT(m->root->kind == JSON_ARRAY);
    append(m, NULL, 0, value);
}

void jsonmake_put(struct jsonmake *m, const char *key, const struct json *value)
{
    jsonmake_put_n(m, key, strlen(key), value);
}

void jsonmake_put_n(struct jsonmake *m, const char *key, size_t key_len, const struct json *value)
{
    ASSERT(m->root->kind == JSON_OBJECT);
    append(m, arena_dup(m->arena, key, key_len), key_len, value);
}

const struct json *jsonmake_end(struct jsonmake *m)
{
    return m->root;
}

/* Depth is that of the tree: whoever made it had JSON_DEPTH_MAX in mind. */
const struct json *jsonmake_copy(struct arena *arena, const struct json *j)
{
    struct json *copy = arena_alloc(arena, sizeof *copy);
    struct json *last = NULL;

    *copy = *j;
    copy->next = NULL;
    copy->index = NULL; /* it leads to the nodes of the original */
    if (j->text)
        copy->text = arena_dup(arena, j->text, j->len);
    if (j->key)
        copy->key = arena_dup(arena, j->key, j->key_len);
    for (const struct json *c = j->child; c; c = c->next) {
        struct json *made = (struct json *)jsonmake_copy(arena, c);
        if (last)
            last->next = made;
        else
            copy->child = made;
        last = made;
    }
    return copy;
}
