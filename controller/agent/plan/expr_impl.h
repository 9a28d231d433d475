/* controller/agent/plan/expr_impl.h - the compiled form of an expression, shared by expr.c and expr_eval.c.
 * Owns:     nothing.
 * Thread:   any.
 */
#ifndef CONTROLLER_AGENT_PLAN_EXPR_IMPL_H
#define CONTROLLER_AGENT_PLAN_EXPR_IMPL_H

#include "controller/agent/plan/expr.h"

enum expr_op {
    EXPR_LITERAL,
    EXPR_REF,
    EXPR_LIST,
    EXPR_FILTER,
    EXPR_NOT,
    EXPR_AND,
    EXPR_OR,
    EXPR_EQ,
    EXPR_NE,
    EXPR_LT,
    EXPR_LE,
    EXPR_GT,
    EXPR_GE,
    EXPR_IN,
    EXPR_NOT_IN,
};

enum expr_filter {
#define X(name, n_min, n_max, text) EXPR_FILTER_##name,
    EXPR_FILTER_LIST(X)
#undef X
        EXPR_FILTER_N
};

/* One step of a reference behind its root: .name or [index]. */
struct expr_part {
    const char *name; /* NULL: index */
    size_t name_len;
    int64_t index;
    const struct expr_part *next;
};

struct expr {
    enum expr_op op;
    enum expr_filter filter;
    const struct json *literal;
    const char *root;
    const struct expr_part *part;
    struct expr *a, *b;  /* operands; filter: value and argument */
    struct expr *next;   /* list: `a` is its first element, linked by this */
};

#endif
