/* controller/agent/plan/value.h - comparing JSON values as values: 1, 1.0 and 1e0 are the same number.
 * Owns:     nothing.
 * Thread:   any.
 * Limits:   the caller's: every comparison is counted off his budget.
 */
#ifndef CONTROLLER_AGENT_PLAN_VALUE_H
#define CONTROLLER_AGENT_PLAN_VALUE_H

#include "common/text/json.h"

/* Two numbers: negative, 0, positive. Exact for whole numbers of 64 bits, as doubles otherwise. */
int value_compare_numbers(const struct json *a, const struct json *b);

/* The number is a whole one, of any size. */
bool value_is_integer(const struct json *j);

/* Deeply equal, members in any order: 1 or 0; -1 when *budget (counted down by one a node) is used up. */
int value_equal(const struct json *a, const struct json *b, int64_t *budget);

/* Append what a value is, short, for error texts: null, true, the number 12, the string "ab...", an object, a list of
 * 3. */
void value_describe(struct buf *out, const struct json *j);

#endif
