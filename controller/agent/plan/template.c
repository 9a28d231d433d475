#include "controller/agent/plan/template.h"

#include "common/base/check.h"
#include "common/text/jsonmake.h"

#include <string.h>

/* A string in pieces: literal text, or an expression. */
struct part {
    const struct expr *expr; /* NULL: text */
    const char *text;
    size_t len;
};

/* Mirrors the value: strings with expressions have parts, lists and objects that hold such have children. */
struct template {
    const struct json *source;
    bool is_literal;
    const struct part *part; /* [n_part] */
    int n_part;
    bool is_whole; /* the string is one expression: the value itself */
    const struct template *child, *next;
};

struct compiler {
    struct arena *arena;
    const struct json **where;
    struct err *err;
};

/* ---- compiling ---------------------------------------------------------------------------------------- */

/* End of the expression that begins at p: its }}, which does not stand in a string of it. NULL if there is none. */
static const char *end_of_expr(const char *p, const char *end)
{
    char quote = 0;

    for (; p + 1 < end; p++) {
        if (quote) {
            if (*p == '\\')
                p++;
            else if (*p == quote)
                quote = 0;
        } else if (*p == '"' || *p == '\'') {
            quote = *p;
        } else if (p[0] == '}' && p[1] == '}') {
            return p;
        }
    }
    return NULL;
}

static int count_parts(const struct json *s)
{
    int n = 1;

    for (const char *p = s->text, *end = p + s->len; (p = memmem(p, (size_t)(end - p), "{{", 2)); p += 2)
        n += 2;
    return n;
}

/* White space around the expression of a string that is nothing else: a block scalar ends with a newline. */
static bool is_space(const char *p, const char *end)
{
    while (p < end && strchr(" \t\r\n", *p) && *p)
        p++;
    return p == end;
}

static int compile_string(struct compiler *c, const struct json *s, struct template *t)
{
    const char *p = s->text, *end = s->text + s->len;
    int n_max = count_parts(s), n = 0;

    if (n_max > 2 * TEMPLATE_PARTS_MAX + 1)
        return err_set(c->err, ERR_LIMIT, "more than %d expressions in one text", TEMPLATE_PARTS_MAX);
    struct part *part = arena_array(c->arena, (size_t)n_max, sizeof *part);
    while (p < end) {
        const char *open = memmem(p, (size_t)(end - p), "{{", 2);
        const char *stop = open ? open : end;
        if (stop > p)
            part[n++] = (struct part){.text = p, .len = (size_t)(stop - p)};
        if (!open)
            break;
        const char *close = end_of_expr(open + 2, end);
        if (!close)
            return err_set(c->err, ERR_FORMAT, "{{ without }}; a literal {{ is written {{ \"{{\" }}");
        struct part *e = &part[n++];
        int rc = expr_compile(open + 2, (size_t)(close - open - 2), c->arena, &e->expr, c->err);
        if (rc) {
            struct buf text = {0};
            buf_add(&text, open, (size_t)(close + 2 - open));
            err_wrap(c->err, "%.60s%s", text.data, text.len > 60 ? " ..." : "");
            buf_release(&text);
            return rc;
        }
        p = close + 2;
    }
    t->part = part;
    t->n_part = n;
    t->is_literal = memmem(s->text, s->len, "{{", 2) == NULL;
    for (int i = 0; i < n; i++) {
        bool only = true;
        for (int k = 0; k < n && part[i].expr; k++)
            only = only && (k == i || (!part[k].expr && is_space(part[k].text, part[k].text + part[k].len)));
        if (part[i].expr && only) {
            t->part = &part[i];
            t->n_part = 1;
            t->is_whole = true;
            break;
        }
    }
    return 0;
}

static int compile(struct compiler *c, const struct json *j, struct template **out)
{
    struct template *t = arena_zalloc(c->arena, sizeof *t);
    struct template *last = NULL;

    t->source = j;
    t->is_literal = true;
    *out = t;
    if (j->kind == JSON_STRING) {
        int rc = compile_string(c, j, t);
        if (rc && c->where)
            *c->where = j;
        return rc;
    }
    for (const struct json *x = j->child; x; x = x->next) {
        struct template *made;
        int rc = compile(c, x, &made);
        if (rc)
            return rc;
        t->is_literal = t->is_literal && made->is_literal;
        if (last)
            last->next = made;
        else
            t->child = made;
        last = made;
    }
    return 0;
}

int template_compile(const struct json *value, struct arena *arena, const struct template **out,
                     const struct json **where, struct err *err)
{
    struct err unseen;
    struct compiler c = {.arena = arena, .where = where, .err = err ? err : &unseen};
    struct template *made;
    int rc = compile(&c, value, &made);

    if (rc == 0)
        *out = made;
    return rc;
}

/* ---- rendering ---------------------------------------------------------------------------------------- */

/* A value put into a text. */
static int add_text(struct buf *out, const struct json *v, struct err *err)
{
    if (v->kind == JSON_NULL)
        return err_set(err, ERR_MISSING, "null has no place in a text: | default(\"\") says what stands there instead");
    if (v->kind == JSON_STRING)
        buf_add(out, v->text, v->len);
    else
        json_add(out, v);
    return 0;
}

static int render_parts(const struct template *t, const struct expr_scope *scope, struct buf *out, struct err *err)
{
    for (int i = 0; i < t->n_part; i++) {
        const struct part *p = &t->part[i];
        struct arena arena = {0};
        const struct json *v;
        int rc = 0;
        if (!p->expr) {
            buf_add(out, p->text, p->len);
        } else {
            rc = expr_eval(p->expr, scope, &arena, &v, err);
            if (rc == 0)
                rc = add_text(out, v, err);
            arena_release(&arena);
        }
        if (rc == 0 && out->len > TEMPLATE_TEXT_MAX)
            rc = err_set(err, ERR_LIMIT, "a text of more than %d bytes", TEMPLATE_TEXT_MAX);
        if (rc)
            return rc;
    }
    return 0;
}

static int render_string(const struct template *t, const struct expr_scope *scope, struct arena *arena,
                         const struct json **out, struct err *err)
{
    struct buf text = {0};

    if (t->is_whole)
        return expr_eval(t->part[0].expr, scope, arena, out, err);
    int rc = render_parts(t, scope, &text, err);
    if (rc == 0)
        *out = jsonmake_str(arena, text.len ? text.data : "", text.len);
    buf_release(&text);
    return rc;
}

int template_render(const struct template *t, const struct expr_scope *scope, struct arena *arena,
                    const struct json **out, struct err *err)
{
    struct jsonmake m;

    if (t->is_literal) {
        *out = t->source;
        return 0;
    }
    if (t->source->kind == JSON_STRING)
        return render_string(t, scope, arena, out, err);
    jsonmake_begin(&m, arena, t->source->kind);
    for (const struct template *c = t->child; c; c = c->next) {
        const struct json *v;
        int rc = template_render(c, scope, arena, &v, err);
        if (rc)
            return rc;
        if (t->source->kind == JSON_OBJECT)
            jsonmake_put_n(&m, c->source->key, c->source->key_len, v);
        else
            jsonmake_add(&m, v);
    }
    *out = jsonmake_end(&m);
    return 0;
}

int template_render_text(const struct template *t, const struct expr_scope *scope, struct buf *out, struct err *err)
{
    struct arena arena = {0};
    const struct json *v;
    size_t before = out->len;
    int rc = template_render(t, scope, &arena, &v, err);

    if (rc == 0)
        rc = add_text(out, v, err);
    if (rc == 0 && out->len - before > TEMPLATE_TEXT_MAX)
        rc = err_set(err, ERR_LIMIT, "a text of more than %d bytes", TEMPLATE_TEXT_MAX);
    if (rc) {
        out->len = before;
        if (out->data)
            out->data[before] = '\0';
    }
    arena_release(&arena);
    return rc;
}

const struct json *template_source(const struct template *t)
{
    return t->source;
}

bool template_is_literal(const struct template *t)
{
    return t->is_literal;
}

/* ---- references --------------------------------------------------------------------------------------- */

struct walk {
    template_ref_fn fn;
    void *arg;
    const struct json *where;
};

static int on_ref(void *arg, const char *root, const char *const *name, int n, bool optional)
{
    struct walk *w = arg;

    return w->fn(w->arg, w->where, root, name, n, optional);
}

int template_refs(const struct template *t, template_ref_fn fn, void *arg)
{
    struct walk w = {.fn = fn, .arg = arg, .where = t->source};
    int rc = 0;

    for (int i = 0; i < t->n_part && rc == 0; i++)
        if (t->part[i].expr)
            rc = expr_refs(t->part[i].expr, on_ref, &w);
    for (const struct template *c = t->child; c && rc == 0; c = c->next)
        rc = template_refs(c, fn, arg);
    return rc;
}
