/* tests/unit/vectors.h - reads a .jsonl file of test vectors, one JSON object a line.
 * Owns:     the text and the tree of the current line, until the next line or the end.
 * Thread:   one.
 * A missing file, a broken line or an empty file fails the test that asked for it.
 */
#ifndef TESTS_UNIT_VECTORS_H
#define TESTS_UNIT_VECTORS_H

#include "common/mem/arena.h"
#include "common/mem/buf.h"
#include "common/text/json.h"

#include <stdio.h>

struct vectors {
    FILE *file;
    const char *path;
    char *text;
    size_t cap;
    int n_line;
    struct arena arena; /* of the current line; the test may put its own things here */
};

/* for (vectors_open(&v, TEST_DATA("vectors/x.jsonl")); (j = vectors_next(&v));) ...; the last call closes the file. */
void vectors_open(struct vectors *v, const char *path);
const struct json *vectors_next(struct vectors *v);

/* Member `name` as text; fails the test if it is no string. NUL-terminated, j->len counts. */
const char *vectors_str(const struct json *line, const char *name, size_t *len);

/* The whole file as one JSON value that lives in arena. */
const struct json *vectors_file(const char *path, struct arena *arena);

/* The whole file as bytes. */
void vectors_read(const char *path, struct buf *out);

#endif
