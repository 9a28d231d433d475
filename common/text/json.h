/* common/text/json.h - JSON (RFC 8259) as a read-only tree that keeps what other libraries lose: the order of
 * members, the spelling of numbers, NUL in strings. Needed because JSON inside prompts must be written again
 * as Python would (pyjson.h; docs/adr/0002 says why no packaged library serves).
 * Owns:     nothing; all nodes and strings lie in the arena given to json_parse.
 * Lifetime: as long as that arena. Nodes are never changed after parsing.
 * Thread:   any, once parsed.
 * Limits:   JSON_DEPTH_MAX levels; numbers of JSON_NUMBER_MAX characters; the caller bounds the text.
 */
#ifndef COMMON_TEXT_JSON_H
#define COMMON_TEXT_JSON_H

#include "common/base/err.h"
#include "common/mem/arena.h"
#include "common/mem/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_DEPTH_MAX = 128, JSON_NUMBER_MAX = 4096 };

enum json_kind {
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER, /* text = its spelling in the source */
    JSON_STRING, /* text = decoded bytes, valid UTF-8, may hold NUL */
    JSON_ARRAY,
    JSON_OBJECT
};

struct json_index;

struct json {
    enum json_kind kind;
    uint32_t n;              /* array, object: number of children */
    const char *text;        /* string, number; NUL behind the last byte */
    size_t len;              /* bytes of text */
    const struct json *child; /* array, object: first child, in source order */
    const struct json *next;  /* next sibling */
    const char *key;          /* member of an object: its name, key_len bytes */
    size_t key_len;
    const struct json_index *index; /* large objects: hash of names */
};

enum json_parse_flags {
    /* A repeated member name is ERR_FORMAT. Without it the LAST value stands at the FIRST place (as Python). */
    JSON_NO_REPEATED_KEYS = 1 << 0,
};

/* Parse text[0..len) (UTF-8, one value, white space around it). Returns 0 and *root; ERR_FORMAT with line and
 * column in err: broken syntax, invalid UTF-8, lone surrogate escape, depth or number limit. */
int json_parse(const char *text, size_t len, int flags, struct arena *arena, const struct json **root,
               struct err *err);

/* Member of an object by name, or NULL (also when obj is NULL or no object). */
const struct json *json_get(const struct json *obj, const char *name);
const struct json *json_get_n(const struct json *obj, const char *name, size_t len);

/* Child number i of an array, or NULL. O(i): walk with child/next instead where it matters. */
const struct json *json_at(const struct json *arr, uint32_t i);

static inline bool json_is(const struct json *j, enum json_kind kind)
{
    return j && j->kind == kind;
}
static inline bool json_is_bool(const struct json *j)
{
    return j && (j->kind == JSON_TRUE || j->kind == JSON_FALSE);
}

/* j is the string s (without NUL in it). */
bool json_is_str(const struct json *j, const char *s);

/* Number as an integer: true if it is one that fits (1e3 and 10.0 count, 1.5 does not). */
bool json_to_i64(const struct json *j, int64_t *v);

/* Number as a double: true for any number that does not overflow. */
bool json_to_double(const struct json *j, double *v);

/* Name of a kind for error texts: "object", "string" ... "nothing" for NULL. */
const char *json_kind_name(const struct json *j);

/* Append s as a JSON string with quotes; only " \ and control characters are escaped, the rest is copied (s
 * must be valid UTF-8). */
void json_add_str(struct buf *out, const char *s, size_t n);

/* Append the tree without white space, numbers as they were spelled. */
void json_add(struct buf *out, const struct json *j);

/* The same tree value: numbers by spelling, members in any order. For comparing request bodies. */
bool json_equal(const struct json *a, const struct json *b);

#endif
