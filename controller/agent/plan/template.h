/* controller/agent/plan/template.h - JSON values whose strings hold {{ expressions }} (expr.h).
 * Owns:     nothing; a compiled template lies in the caller's arena and is never changed.
 * Lifetime: as long as that arena and the value it was made of.
 * Thread:   any.
 * Limits:   TEMPLATE_TEXT_MAX bytes of a rendered string; those of expr.h.
 *
 * A string that is one {{ expression }} (white space around it aside) gives the value itself. In a longer string each
 * expression is put in as text: strings as they are, numbers and true/false as in JSON, lists and objects as JSON;
 * null is an error (say `| default("")`). Names of members are never templates. A literal {{ is written {{ "{{" }}.
 */
#ifndef CONTROLLER_AGENT_PLAN_TEMPLATE_H
#define CONTROLLER_AGENT_PLAN_TEMPLATE_H

#include "controller/agent/plan/expr.h"

enum { TEMPLATE_TEXT_MAX = 16 << 20, TEMPLATE_PARTS_MAX = 1024 };

struct template;

/* Compile a whole value. 0 and *out; ERR_FORMAT, ERR_LIMIT: *where (may be NULL) is the node of `value` at fault. */
int template_compile(const struct json *value, struct arena *arena, const struct template **out,
                     const struct json **where, struct err *err);

/* Render it. 0 and *out (in arena; shares with the template and the scope's values); errors of expr_eval, ERR_LIMIT. */
int template_render(const struct template *t, const struct expr_scope *scope, struct arena *arena,
                    const struct json **out, struct err *err);

/* Render it to a text: as template_render, then a string as it is, other values as they are put into strings. */
int template_render_text(const struct template *t, const struct expr_scope *scope, struct buf *out, struct err *err);

/* The value that was compiled: for writing it again. */
const struct json *template_source(const struct template *t);

/* It holds no expression: rendering gives the source. */
bool template_is_literal(const struct template *t);

/* All references in it. `where` of the callback is the string that holds it. */
typedef int (*template_ref_fn)(void *arg, const struct json *where, const char *root, const char *const *name, int n,
                               bool optional);
int template_refs(const struct template *t, template_ref_fn fn, void *arg);

#endif
