#include "controller/agent/plan/expr.h"

#include "common/base/check.h"
#include "common/base/flags.h"
#include "common/text/jsonmake.h"
#include "common/text/utf8.h"
#include "controller/agent/plan/expr_impl.h"

#include <stdio.h>
#include <string.h>

enum token {
    TOK_END,
    TOK_NAME,   /* text: the name */
    TOK_NUMBER, /* text: its spelling */
    TOK_STRING, /* string: its value */
    TOK_SIGN,   /* sign: "==", "(" ... */
    TOK_BAD,    /* err is set */
};

struct compiler {
    const char *start, *p, *end;
    struct arena *arena;
    struct err *err;
    int n_node, depth;
    /* the token ahead: */
    enum token token;
    const char *at; /* where it begins */
    const char *text;
    size_t len;
    const struct json *string;
    char sign[3];
};

/* ---- tokens ------------------------------------------------------------------------------------------- */

static int fail(struct compiler *c, const char *at, const char *what)
{
    c->token = TOK_BAD;
    return err_set(c->err, ERR_FORMAT, "column %d: %s", (int)(at - c->start) + 1, what);
}

static bool is_name_start(char ch)
{
    return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || ch == '_';
}

static bool is_digit(char ch)
{
    return ch >= '0' && ch <= '9';
}

static void read_string(struct compiler *c)
{
    struct buf out = {0};
    char quote = *c->p++;

    while (c->p < c->end && *c->p != quote) {
        char ch = *c->p++;
        if (ch == '\\' && c->p < c->end) {
            ch = *c->p++;
            if (ch == 'n')
                ch = '\n';
            else if (ch == 't')
                ch = '\t';
            else if (ch != '\\' && ch != '\'' && ch != '"') {
                fail(c, c->p - 2, "behind \\ in a string stands one of \\ ' \" n t");
                buf_release(&out);
                return;
            }
        }
        buf_add_char(&out, ch);
    }
    if (c->p == c->end) {
        fail(c, c->at, "the string does not end");
    } else {
        c->p++;
        c->token = TOK_STRING;
        c->string = jsonmake_str(c->arena, out.len ? out.data : "", out.len);
    }
    buf_release(&out);
}

static void read_number(struct compiler *c)
{
    const struct json *number;
    struct err err = {0};

    c->p += *c->p == '-';
    while (c->p < c->end && (is_digit(*c->p) || strchr(".eE+-", *c->p)) && *c->p)
        c->p++;
    if (json_parse(c->at, (size_t)(c->p - c->at), 0, c->arena, &number, &err) != 0) {
        fail(c, c->at, "a number is written as in JSON");
        return;
    }
    c->token = TOK_NUMBER;
    c->string = number;
}

static void advance(struct compiler *c)
{
    static const char *const signs[] = {"==", "!=", "<=", ">=", "<", ">", "(", ")", "[", "]", ",", ".", "|"};

    while (c->p < c->end && strchr(" \t\r\n", *c->p) && *c->p)
        c->p++;
    c->at = c->p;
    if (c->p == c->end) {
        c->token = TOK_END;
        return;
    }
    if (*c->p == '"' || *c->p == '\'') {
        read_string(c);
        return;
    }
    if (is_digit(*c->p) || (*c->p == '-' && c->p + 1 < c->end && is_digit(c->p[1]))) {
        read_number(c);
        return;
    }
    if (is_name_start(*c->p)) {
        /* A '-' belongs to the name: ids have them, and there is no arithmetic. */
        while (c->p < c->end && (is_name_start(*c->p) || is_digit(*c->p) || *c->p == '-'))
            c->p++;
        c->token = TOK_NAME;
        c->text = c->at;
        c->len = (size_t)(c->p - c->at);
        return;
    }
    for (size_t i = 0; i < N_ELEM(signs); i++) {
        size_t n = strlen(signs[i]);
        if ((size_t)(c->end - c->p) >= n && memcmp(c->p, signs[i], n) == 0) {
            c->token = TOK_SIGN;
            memcpy(c->sign, signs[i], n + 1);
            c->p += n;
            return;
        }
    }
    if (*c->p == '=')
        fail(c, c->p, "equality is ==");
    else if (*c->p == '&' || *c->p == '!' || *c->p == '+' || *c->p == '*' || *c->p == '/')
        fail(c, c->p, "no such operator: and, or, not, ==, !=, <, <=, >, >=, in, | filter");
    else
        fail(c, c->p, "nothing of an expression begins like that");
}

static bool is_sign(const struct compiler *c, const char *sign)
{
    return c->token == TOK_SIGN && strcmp(c->sign, sign) == 0;
}

static bool is_word(const struct compiler *c, const char *word)
{
    return c->token == TOK_NAME && c->len == strlen(word) && memcmp(c->text, word, c->len) == 0;
}

static int expect(struct compiler *c, const char *sign, const char *what)
{
    if (c->token == TOK_BAD)
        return ERR_FORMAT;
    if (!is_sign(c, sign))
        return fail(c, c->at, what);
    advance(c);
    return c->token == TOK_BAD ? ERR_FORMAT : 0;
}

/* ---- grammar ------------------------------------------------------------------------------------------ */

static int parse_or(struct compiler *c, struct expr **out);

static int new_node(struct compiler *c, enum expr_op op, struct expr **out)
{
    if (++c->n_node > EXPR_NODES_MAX)
        return err_set(c->err, ERR_LIMIT, "more than %d parts in one expression", EXPR_NODES_MAX);
    *out = arena_zalloc(c->arena, sizeof **out);
    (*out)->op = op;
    return 0;
}

/* Behind a root: .name, [0], ["name"]. */
static int parse_parts(struct compiler *c, struct expr *ref)
{
    const struct expr_part **tail = &ref->part;

    while (is_sign(c, ".") || is_sign(c, "[")) {
        if (++c->n_node > EXPR_NODES_MAX)
            return err_set(c->err, ERR_LIMIT, "more than %d parts in one expression", EXPR_NODES_MAX);
        struct expr_part *part = arena_zalloc(c->arena, sizeof *part);
        bool dot = is_sign(c, ".");
        advance(c);
        if (dot && c->token == TOK_NAME) {
            part->name = arena_dup(c->arena, c->text, c->len);
            part->name_len = c->len;
        } else if (!dot && c->token == TOK_STRING) {
            part->name = c->string->text;
            part->name_len = c->string->len;
        } else if (dot || c->token != TOK_NUMBER || !json_to_i64(c->string, &part->index)) {
            return c->token == TOK_BAD ? ERR_FORMAT
                                       : fail(c, c->at, dot ? "a name belongs behind the dot; others go [\"like this\"]"
                                                            : "a whole number or a string belongs in [ ]");
        }
        advance(c);
        if (!dot && expect(c, "]", "] is missing"))
            return ERR_FORMAT;
        *tail = part;
        tail = (const struct expr_part **)&part->next;
    }
    return c->token == TOK_BAD ? ERR_FORMAT : 0;
}

static int parse_name(struct compiler *c, struct expr **out)
{
    static const char *const words[] = {"and", "or", "not", "in"};
    const char *at = c->at;
    int rc;

    if (is_word(c, "true") || is_word(c, "false") || is_word(c, "null")) {
        if ((rc = new_node(c, EXPR_LITERAL, out)))
            return rc;
        (*out)->literal = is_word(c, "null") ? &jsonmake_null : jsonmake_bool(is_word(c, "true"));
        advance(c);
        return 0;
    }
    for (size_t i = 0; i < N_ELEM(words); i++)
        if (is_word(c, words[i]))
            return fail(c, c->at, "a value is missing");
    if ((rc = new_node(c, EXPR_REF, out)))
        return rc;
    (*out)->root = arena_dup(c->arena, c->text, c->len);
    advance(c);
    if ((rc = parse_parts(c, *out)))
        return rc;
    if (strcmp((*out)->root, "steps") == 0 && (!(*out)->part || !(*out)->part->name))
        return fail(c, at, "steps needs the id of a step: steps.ID.output");
    return 0;
}

static int parse_list(struct compiler *c, struct expr **out)
{
    struct expr **tail;
    int rc = new_node(c, EXPR_LIST, out);

    if (rc)
        return rc;
    tail = &(*out)->a;
    advance(c);
    while (!is_sign(c, "]")) {
        if (*out && (*out)->a && (rc = expect(c, ",", "a comma or ] belongs here")))
            return rc;
        if ((rc = parse_or(c, tail)))
            return rc;
        tail = &(*tail)->next;
    }
    advance(c);
    return 0;
}

static int parse_primary(struct compiler *c, struct expr **out)
{
    int rc;

    switch (c->token) {
    case TOK_STRING:
    case TOK_NUMBER:
        if ((rc = new_node(c, EXPR_LITERAL, out)))
            return rc;
        (*out)->literal = c->string;
        advance(c);
        return 0;
    case TOK_NAME:
        return parse_name(c, out);
    case TOK_SIGN:
        if (is_sign(c, "["))
            return parse_list(c, out);
        if (is_sign(c, "(")) {
            advance(c);
            rc = parse_or(c, out);
            return rc ? rc : expect(c, ")", ") is missing");
        }
        return fail(c, c->at, "a value is missing");
    case TOK_END:
        return fail(c, c->at, c->at == c->start ? "the expression is empty" : "a value is missing at the end");
    default:
        return ERR_FORMAT;
    }
}

static const struct {
    const char *name;
    int n_min, n_max;
} filters[] = {
#define X(name, n_min, n_max, text) {#name, n_min, n_max},
    EXPR_FILTER_LIST(X)
#undef X
};

static int unknown_filter(struct compiler *c)
{
    const char *names[EXPR_FILTER_N];
    const char *given = arena_dup(c->arena, c->text, c->len < 64 ? c->len : 64);
    char what[160];

    for (int i = 0; i < EXPR_FILTER_N; i++)
        names[i] = filters[i].name;
    const char *near = flags_nearest(given, names, EXPR_FILTER_N);
    snprintf(what, sizeof what, "no filter '%s'%s%s%s", given, near ? "; did you mean " : "", near ? near : "",
             near ? "?" : "");
    return fail(c, c->at, what);
}

/* What stands behind a '|'. */
static int parse_filter(struct compiler *c, struct expr **value)
{
    const char *at = c->at;
    struct expr *node = NULL;
    char what[96];
    int i = 0, n_arg = 0, rc;

    if (c->token == TOK_BAD)
        return ERR_FORMAT;
    if (c->token != TOK_NAME)
        return fail(c, at, "the name of a filter belongs behind |");
    while (i < EXPR_FILTER_N && !is_word(c, filters[i].name))
        i++;
    if (i == EXPR_FILTER_N)
        return unknown_filter(c);
    if ((rc = new_node(c, EXPR_FILTER, &node)))
        return rc;
    node->filter = (enum expr_filter)i;
    node->a = *value;
    advance(c);
    if (is_sign(c, "(")) {
        advance(c);
        if (!is_sign(c, ")")) {
            if ((rc = parse_or(c, &node->b)))
                return rc;
            n_arg = 1;
        }
        if ((rc = expect(c, ")", "a filter takes one argument at most: ) is missing")))
            return rc;
    }
    if (n_arg < filters[i].n_min || n_arg > filters[i].n_max) {
        snprintf(what, sizeof what, "filter %s takes %s argument", filters[i].name, filters[i].n_max ? "one" : "no");
        return fail(c, at, what);
    }
    *value = node;
    return c->token == TOK_BAD ? ERR_FORMAT : 0;
}

static int parse_pipe(struct compiler *c, struct expr **out)
{
    int rc = parse_primary(c, out);

    while (rc == 0 && is_sign(c, "|")) {
        advance(c);
        rc = parse_filter(c, out);
    }
    return rc == 0 && c->token == TOK_BAD ? ERR_FORMAT : rc;
}

/* The comparison that stands ahead, or EXPR_LITERAL; it is read. */
static enum expr_op read_comparison(struct compiler *c)
{
    static const struct {
        const char *sign;
        enum expr_op op;
    } table[] = {{"==", EXPR_EQ}, {"!=", EXPR_NE}, {"<", EXPR_LT}, {"<=", EXPR_LE}, {">", EXPR_GT}, {">=", EXPR_GE}};

    for (size_t i = 0; i < N_ELEM(table); i++)
        if (is_sign(c, table[i].sign)) {
            advance(c);
            return table[i].op;
        }
    if (is_word(c, "in")) {
        advance(c);
        return EXPR_IN;
    }
    if (is_word(c, "not")) {
        advance(c);
        if (is_word(c, "in"))
            advance(c);
        else if (c->token != TOK_BAD)
            fail(c, c->at, "'not' behind a value is part of 'not in'");
        return EXPR_NOT_IN;
    }
    return EXPR_LITERAL;
}

static int parse_comparison(struct compiler *c, struct expr **out)
{
    struct expr *node = NULL;
    int rc = parse_pipe(c, out);

    if (rc)
        return rc;
    enum expr_op op = read_comparison(c);
    if (c->token == TOK_BAD)
        return ERR_FORMAT;
    if (op == EXPR_LITERAL)
        return 0;
    if ((rc = new_node(c, op, &node)) || (rc = parse_pipe(c, &node->b)))
        return rc;
    node->a = *out;
    *out = node;
    if (c->token == TOK_SIGN && strchr("=!<>", c->sign[0]))
        return fail(c, c->at, "comparisons cannot be chained: join them by 'and'");
    return 0;
}

static int parse_not(struct compiler *c, struct expr **out)
{
    int rc;

    if (!is_word(c, "not"))
        return parse_comparison(c, out);
    if (++c->depth > EXPR_DEPTH_MAX)
        return err_set(c->err, ERR_LIMIT, "more than %d levels in one expression", EXPR_DEPTH_MAX);
    advance(c);
    if ((rc = new_node(c, EXPR_NOT, out)) == 0)
        rc = parse_not(c, &(*out)->a);
    c->depth--;
    return rc;
}

/* left: operands joined by one word, from the left. */
static int parse_joined(struct compiler *c, const char *word, enum expr_op op,
                        int (*operand)(struct compiler *c, struct expr **out), struct expr **out)
{
    struct expr *node = NULL;
    int rc = operand(c, out);

    while (rc == 0 && is_word(c, word)) {
        advance(c);
        if ((rc = new_node(c, op, &node)))
            break;
        node->a = *out;
        *out = node;
        rc = operand(c, &node->b);
    }
    return rc;
}

static int parse_and(struct compiler *c, struct expr **out)
{
    return parse_joined(c, "and", EXPR_AND, parse_not, out);
}

static int parse_or(struct compiler *c, struct expr **out)
{
    if (++c->depth > EXPR_DEPTH_MAX)
        return err_set(c->err, ERR_LIMIT, "more than %d levels in one expression", EXPR_DEPTH_MAX);
    int rc = parse_joined(c, "or", EXPR_OR, parse_and, out);
    c->depth--;
    return rc;
}

int expr_compile(const char *text, size_t len, struct arena *arena, const struct expr **out, struct err *err)
{
    struct err unseen;
    struct compiler c = {.start = text, .p = text, .end = text + len, .arena = arena, .err = err ? err : &unseen};
    struct expr *made = NULL;

    if (len > EXPR_BYTES_MAX)
        return err_set(err, ERR_LIMIT, "an expression of more than %d bytes", EXPR_BYTES_MAX);
    if (!utf8_is_valid(text, len))
        return err_set(err, ERR_FORMAT, "the expression is no valid UTF-8");
    advance(&c);
    int rc = parse_or(&c, &made);
    if (rc == 0 && c.token == TOK_BAD)
        rc = ERR_FORMAT;
    if (rc == 0 && c.token != TOK_END)
        rc = fail(&c, c.at, "the expression should have ended here: and, or, a comparison or | is missing");
    if (rc == 0)
        *out = made;
    return rc;
}

/* ---- references --------------------------------------------------------------------------------------- */

enum { REF_NAMES_MAX = 8 };

static int refs(const struct expr *e, bool optional, expr_ref_fn fn, void *arg)
{
    const char *name[REF_NAMES_MAX];
    int n = 0, rc;

    if (!e)
        return 0;
    if (e->op == EXPR_REF) {
        for (const struct expr_part *p = e->part; p && p->name && n < REF_NAMES_MAX; p = p->next)
            name[n++] = p->name;
        return fn(arg, e->root, name, n, optional);
    }
    if (e->op == EXPR_LIST) {
        for (const struct expr *x = e->a; x; x = x->next)
            if ((rc = refs(x, false, fn, arg)))
                return rc;
        return 0;
    }
    bool takes_missing = e->op == EXPR_FILTER &&
                         (e->filter == EXPR_FILTER_default || e->filter == EXPR_FILTER_exists);
    bool passes_on = e->op == EXPR_FILTER && optional;
    rc = refs(e->a, takes_missing || passes_on, fn, arg);
    return rc ? rc : refs(e->b, false, fn, arg);
}

int expr_refs(const struct expr *e, expr_ref_fn fn, void *arg)
{
    return refs(e, false, fn, arg);
}
