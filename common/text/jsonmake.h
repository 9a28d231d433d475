/* common/text/jsonmake.h - building JSON trees (json.h) piece by piece.
 * Owns:     nothing; all nodes and copies lie in the caller's arena.
 * Lifetime: as long as that arena AND the arenas of the values put in: a child that was put in shares its children
 *           and texts with the original.
 * Thread:   one at a time.
 */
#ifndef COMMON_TEXT_JSONMAKE_H
#define COMMON_TEXT_JSONMAKE_H

#include "common/text/json.h"

extern const struct json jsonmake_null, jsonmake_true, jsonmake_false;

static inline const struct json *jsonmake_bool(bool b)
{
    return b ? &jsonmake_true : &jsonmake_false;
}

/* A string: n bytes of valid UTF-8, copied. */
const struct json *jsonmake_str(struct arena *arena, const char *s, size_t n);
const struct json *jsonmake_cstr(struct arena *arena, const char *s);

const struct json *jsonmake_i64(struct arena *arena, int64_t v);

/* A finite number; whole ones up to 2^53 are spelled without a fraction, others with the digits reading back needs. */
const struct json *jsonmake_double(struct arena *arena, double v);

/* A copy of everything: the result needs no arena but `arena`. */
const struct json *jsonmake_copy(struct arena *arena, const struct json *j);

/* An array or object under construction: jsonmake_begin, jsonmake_add/put for each child, then &m->json... by
 * jsonmake_end. */
struct jsonmake {
    struct arena *arena;
    struct json *root;
    struct json *last;
};

void jsonmake_begin(struct jsonmake *m, struct arena *arena, enum json_kind kind);

/* Append a child (its node is copied, see Lifetime): to an array, or to an object under a name not yet there. */
void jsonmake_add(struct jsonmake *m, const struct json *value);
void jsonmake_put(struct jsonmake *m, const char *key, const struct json *value);
void jsonmake_put_n(struct jsonmake *m, const char *key, size_t key_len, const struct json *value);

const struct json *jsonmake_end(struct jsonmake *m);

#endif
