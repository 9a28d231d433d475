/* controller/agent/plan/doc.h - a YAML or JSON text as a JSON tree whose nodes know their line.
 * Owns:     nothing; nodes and texts lie in the caller's arena.
 * Lifetime: as long as that arena.
 * Thread:   any.
 * Limits:   DOC_BYTES_MAX, DOC_DEPTH_MAX, DOC_NODES_MAX, DOC_MEMBERS_MAX (of one object).
 *
 * YAML is taken as the part of 1.2 that has one reading: block and flow collections, plain, quoted and block scalars.
 * Plain true, false, null, ~ and JSON numbers have their type, everything else is a string (yes, no and on too).
 * Refused, with line and what to write instead: anchors and aliases, tags, merge keys, several documents, repeated
 * keys, keys that are no strings, numbers that JSON does not have (0x10, 1_000, 007, .5, .inf): quoted they are
 * strings.
 */
#ifndef CONTROLLER_AGENT_PLAN_DOC_H
#define CONTROLLER_AGENT_PLAN_DOC_H

#include "common/text/json.h"

enum { DOC_BYTES_MAX = 4 << 20, DOC_DEPTH_MAX = 48, DOC_NODES_MAX = 200000, DOC_MEMBERS_MAX = 4096 };

/* Every node that doc_parse makes is the first member of one of these. */
struct doc_node {
    struct json json;
    int line;  /* of the value; 1 = first */
    int first; /* of the member's name where it has one, else as line */
};

/* Parse text[0..len). A text whose first byte that is no white space is '{' or '[' and that is valid JSON is read as
 * JSON, everything else as YAML. 0 and *root; ERR_FORMAT, ERR_UNSUPPORTED, ERR_LIMIT: *line is where (at least 1), the
 * text says what without the line. On error *root is unchanged. */
int doc_parse(const char *text, size_t len, struct arena *arena, const struct json **root, int *line, struct err *err);

/* Line of a node that doc_parse made: that of its name, or of itself in lists. */
static inline int doc_line(const struct json *j)
{
    return ((const struct doc_node *)(const void *)j)->first;
}

#endif
