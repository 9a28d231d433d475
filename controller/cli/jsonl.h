/* controller/cli/jsonl.h - the --jsonl form of a command: one JSON object a line in, one a line out.
 * Thread:   main.
 * Limits:   CLI_LINE_MAX bytes a line.
 * A line that is no JSON object, or that the command refuses, gives {"error": "..."} and the next line is read: n
 * lines in are n lines out. Empty lines are skipped.
 */
#ifndef CONTROLLER_CLI_JSONL_H
#define CONTROLLER_CLI_JSONL_H

#include "common/mem/arena.h"
#include "common/mem/buf.h"
#include "common/text/json.h"
#include "common/text/tok.h"

#include <stdio.h>

/* One line: append one JSON object to out, or return an error (what was appended is dropped). */
typedef int (*jsonl_line_fn)(void *arg, const struct json *in, struct arena *arena, struct buf *out, struct err *err);

/* Read `in` to its end. Every answer is written to stdout before the next line is read. Returns an exit status. */
int jsonl_run(const char *name, FILE *in, jsonl_line_fn fn, void *arg);

/* Member `text` of a line, or `bytes_b64` decoded: a view that lives as long as in and arena. */
int jsonl_text(const struct json *in, struct arena *arena, const char **text, size_t *len, struct err *err);

/* Append [1, 2, 3]. */
void jsonl_add_ids(struct buf *out, const struct tok_ids *ids);

/* Append s as a JSON string; bytes that are no UTF-8 become U+FFFD. */
void jsonl_add_text(struct buf *out, const char *s, size_t n);

/* Append the ids of a JSON array of token ids, each 0..n_vocab-1. 0, ERR_FORMAT, ERR_RANGE. */
int jsonl_read_ids(const struct json *array, int32_t n_vocab, struct tok_ids *ids, struct err *err);

#endif
