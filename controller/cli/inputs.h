/* controller/cli/inputs.h - the inputs of a run from the command line: words and files to one JSON object.
 * Owns:     nothing.
 * Thread:   main.
 * Limits:   INPUTS_BYTES_MAX bytes of one file.
 *
 *   name=TEXT         what the input's type makes of TEXT: the text itself, or its JSON
 *   name=@F.json      the JSON value in the file
 *   name=@F.jsonl     a list: one value a line, blank lines left out
 *   name=@F           the file's text
 *   F.json            an object: its members are inputs
 */
#ifndef CONTROLLER_CLI_INPUTS_H
#define CONTROLLER_CLI_INPUTS_H

#include "common/base/err.h"
#include "common/mem/buf.h"
#include "controller/agent/plan/pipeline.h"

enum { INPUTS_BYTES_MAX = 32 << 20, INPUTS_MAX = 64 };

/* Append `"name":value` members of one --input argument to a JSON object under way: a comma goes in front if `out`
 * does not end in '{'. 0; ERR_ARG, ERR_FORMAT, ERR_MISSING, ERR_IO, ERR_LIMIT: err says which input, file and line. */
int inputs_add(const struct pipeline *plan, const char *arg, struct buf *out, struct err *err);

/* Take every --input (or -i) and its value out of argv: value[0 .. *n), at most max. ERR_ARG: one without a value, or
 * too many. */
int inputs_take(int *argc, char **argv, const char **value, int max, int *n, struct err *err);

#endif
