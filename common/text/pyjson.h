/* common/text/pyjson.h - JSON written as Python's json.dumps(x, ensure_ascii=False) writes it: the form in which
 * tool schemas and arguments stand in prompts, so the tokens of a prompt depend on every blank of it.
 * Owns:     nothing.
 * Thread:   any.
 * Limits:   those of the tree (JSON_DEPTH_MAX levels, so the recursion is bounded).
 * Source:   spec/chat.md section 5; vectors tests/vectors/pyjson.jsonl.
 */
#ifndef COMMON_TEXT_PYJSON_H
#define COMMON_TEXT_PYJSON_H

#include "common/mem/buf.h"
#include "common/text/json.h"

/* Append the tree: separators ", " and ": ", members in their order, only " \ and U+0000-001F escaped, integers of
 * any length as they are (-0 as 0), numbers spelled with '.' or an exponent as Python's float repr (1.10 -> 1.1,
 * 1E3 -> 1000.0, 1e16 -> 1e+16, too large -> Infinity). */
void pyjson_add(struct buf *out, const struct json *j);

#endif
