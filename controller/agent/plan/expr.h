/* controller/agent/plan/expr.h - the expressions of pipeline files: in `when:` and inside {{ }}.
 * Owns:     nothing; a compiled expression lies in the caller's arena and is never changed.
 * Lifetime: as long as that arena; values are made in the arena of the evaluation and may share with what `get`
 *           gave.
 * Thread:   any.
 * Limits:   EXPR_BYTES_MAX, EXPR_NODES_MAX, EXPR_DEPTH_MAX of an expression; EXPR_TEXT_MAX bytes of a text it makes.
 *
 *   inputs.n > 3 and not steps.check.output.ok         or  and  not
 *   item.kind in ["a", "b"]                            ==  !=  <  <=  >  >=  in  not in
 *   steps.read.output.rows[0]["first name"]            names, [index] (negative: from the end), ["name"]
 *   steps.rows.output | compact | length               value | filter | filter(arguments)
 *
 * Values are JSON. No side effects, no loops: the cost is bounded by the sizes of the values. `and`, `or`, `not`
 * take true and false only. == compares deeply, numbers by value. < compares two numbers or two strings (by bytes).
 * `in` looks for an element, a member's name or a part of a string. A reference to what is not there is an error,
 * unless `| default(x)` (also for null) or `| exists` takes it.
 */
#ifndef CONTROLLER_AGENT_PLAN_EXPR_H
#define CONTROLLER_AGENT_PLAN_EXPR_H

#include "common/text/json.h"

enum { EXPR_BYTES_MAX = 4096, EXPR_NODES_MAX = 512, EXPR_DEPTH_MAX = 32, EXPR_TEXT_MAX = 16 << 20 };

/* Filters: name, fewest and most arguments, what it does (docs/pipelines.md prints this list). */
#define EXPR_FILTER_LIST(X)                                                                        \
    X(default, 1, 1, "the argument where the value is missing or null")                            \
    X(exists, 0, 0, "whether there is a value that is not null")                                   \
    X(json, 0, 0, "the value as JSON text")                                                        \
    X(parse, 0, 0, "JSON text as a value")                                                         \
    X(string, 0, 0, "number, true, false as text; text as it is")                                  \
    X(number, 0, 0, "text as a number")                                                            \
    X(length, 0, 0, "characters of a text, elements of a list, members of an object")              \
    X(first, 0, 0, "first element of a list; missing when it is empty")                            \
    X(last, 0, 0, "last element of a list; missing when it is empty")                              \
    X(keys, 0, 0, "names of an object's members")                                                  \
    X(values, 0, 0, "values of an object's members")                                               \
    X(pluck, 1, 1, "of each object in a list the member of that name; null where it has none")     \
    X(compact, 0, 0, "the list without its nulls")                                                 \
    X(flatten, 0, 0, "a list of lists as one list")                                                \
    X(unique, 0, 0, "the list without what came before")                                           \
    X(sum, 0, 0, "sum of a list of numbers")                                                       \
    X(join, 0, 1, "the texts of a list as one, with the argument between them")                    \
    X(lines, 0, 0, "the lines of a text as a list")                                                \
    X(trim, 0, 0, "the text without white space around it")                                        \
    X(upper, 0, 0, "a-z as A-Z")                                                                   \
    X(lower, 0, 0, "A-Z as a-z")                                                                   \
    X(truncate, 1, 1, "at most so many characters of the text")

struct expr;

/* Value of a root name. root is "inputs", "run", "item" ... For root "steps" step is the id behind it and the answer is
 * an object {"output", "state", "error"}; else step is NULL. NULL: there is none. Valid as long as the evaluation's
 * arena. */
typedef const struct json *(*expr_get_fn)(void *arg, const char *root, const char *step);

struct expr_scope {
    expr_get_fn get;
    void *arg;
};

/* Compile text[0..len) (UTF-8). 0 and *out; ERR_FORMAT (what is expected, at which column), ERR_LIMIT. */
int expr_compile(const char *text, size_t len, struct arena *arena, const struct expr **out, struct err *err);

/* The value. 0 and *out; ERR_MISSING: something referred to is not there (the text names the path as far as it goes);
 * ERR_ARG: a value has the wrong kind; ERR_LIMIT. */
int expr_eval(const struct expr *e, const struct expr_scope *scope, struct arena *arena, const struct json **out,
              struct err *err);

/* A condition: as expr_eval, and ERR_ARG unless the value is true or false. */
int expr_test(const struct expr *e, const struct expr_scope *scope, bool *yes, struct err *err);

/* Called for each reference of an expression, in order of appearance: root "steps", n names behind the root as far as
 * they are constant ("steps.a.output.x[0].y" gives a, output, x). optional: stands directly under default or exists.
 * Nonzero ends the walk. */
typedef int (*expr_ref_fn)(void *arg, const char *root, const char *const *name, int n, bool optional);
int expr_refs(const struct expr *e, expr_ref_fn fn, void *arg);

#endif
