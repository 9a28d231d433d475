/* tests/unit/common/text/vectors.h - reads the files of tests/vectors: one JSON object per line, bytes as base64.
 * Owns:     nothing; what is read lies in the arena.
 * Thread:   the test's.
 * Each function fails the running test (cmocka) when the file is not as tests/vectors/README.md says.
 */
#ifndef TESTS_UNIT_COMMON_TEXT_VECTORS_H
#define TESTS_UNIT_COMMON_TEXT_VECTORS_H

#include "common/mem/arena.h"
#include "common/mem/buf.h"
#include "common/text/json.h"
#include "common/text/tok.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <string.h>

/* A whole file in the arena. */
static inline const char *vec_file(struct arena *a, const char *path, size_t *len)
{
    struct buf b = {0};
    size_t got;
    FILE *f = fopen(path, "rb");

    if (!f)
        fail_msg("%s cannot be opened", path);
    while ((got = fread(buf_room(&b, 1 << 16), 1, 1 << 16, f)) > 0)
        b.len += got;
    assert_false(ferror(f));
    fclose(f);
    const char *copy = arena_dup(a, b.data, b.len);
    *len = b.len;
    buf_release(&b);
    return copy;
}

/* Walks the lines of a file: NULL at the end. *at begins as 0. */
static inline const struct json *vec_line(struct arena *a, const char *text, size_t len, size_t *at)
{
    const struct json *j;
    struct err err;

    if (*at >= len)
        return NULL;
    const char *s = text + *at, *end = memchr(s, '\n', len - *at);
    size_t n = end ? (size_t)(end - s) : len - *at;
    *at += n + 1;
    if (json_parse(s, n, 0, a, &j, &err))
        fail_msg("%s", err.text);
    return j;
}

static inline const char *vec_base64(struct arena *a, const char *s, size_t n, size_t *len)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = arena_alloc(a, n + 1);
    unsigned bits = 0, n_bit = 0;

    *len = 0;
    for (size_t i = 0; i < n && s[i] != '='; i++) {
        const char *d = s[i] ? strchr(digit, s[i]) : NULL;
        if (!d)
            fail_msg("bad base64");
        bits = bits << 6 | (unsigned)(d - digit);
        n_bit += 6;
        if (n_bit >= 8) {
            n_bit -= 8;
            out[(*len)++] = (char)(bits >> n_bit & 0xFF);
        }
    }
    return out;
}

/* Bytes of member "text", or of the base64 in "bytes_b64". */
static inline const char *vec_text(struct arena *a, const struct json *line, size_t *len)
{
    const struct json *j = json_get(line, "text"), *b64 = json_get(line, "bytes_b64");

    if (json_is(j, JSON_STRING)) {
        *len = j->len;
        return j->text;
    }
    if (!json_is(b64, JSON_STRING))
        fail_msg("a line has neither text nor bytes_b64");
    return vec_base64(a, b64->text, b64->len, len);
}

/* Ids of an array. */
static inline struct tok_ids vec_ids(struct arena *a, const struct json *arr)
{
    struct tok_ids ids = {0};

    assert_true(json_is(arr, JSON_ARRAY));
    ids.id = arena_array(a, arr->n + 1, sizeof *ids.id);
    for (const struct json *j = arr->child; j; j = j->next) {
        int64_t v;
        assert_true(json_to_i64(j, &v));
        ids.id[ids.n++] = (int32_t)v;
    }
    return ids;
}

#endif
