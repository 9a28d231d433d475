#include "controller/agent/plan/doc.h"

#include "common/base/check.h"
#include "common/text/utf8.h"

#include <string.h>
#include <yaml.h>

/* ---- JSON: the lines of a tree that json_parse made --------------------------------------------------- */

struct lines {
    const char *p, *end;
    int line;
    struct arena *arena;
};

static void skip_space(struct lines *l)
{
    for (; l->p < l->end && strchr(" \t\r\n,:", *l->p) && *l->p; l->p++)
        l->line += *l->p == '\n';
}

static void skip_string(struct lines *l)
{
    for (l->p++; *l->p != '"'; l->p++)
        if (*l->p == '\\')
            l->p++;
    l->p++;
}

/* The text is valid JSON without repeated names, so its values come in the order of the tree. */
static struct doc_node *with_lines(struct lines *l, const struct json *j, int first)
{
    struct doc_node *node = arena_zalloc(l->arena, sizeof *node);
    struct json *last = NULL;

    node->json = *j;
    node->json.next = NULL;
    node->json.index = NULL;
    skip_space(l);
    node->line = l->line;
    node->first = first ? first : l->line;
    if (j->kind == JSON_STRING) {
        skip_string(l);
        return node;
    }
    if (j->kind != JSON_ARRAY && j->kind != JSON_OBJECT) {
        while (l->p < l->end && !strchr(" \t\r\n,:]}", *l->p))
            l->p++;
        return node;
    }
    l->p++;
    for (const struct json *c = j->child; c; c = c->next) {
        int at = 0;
        skip_space(l);
        if (j->kind == JSON_OBJECT) {
            at = l->line;
            skip_string(l);
        }
        struct json *made = &with_lines(l, c, at)->json;
        if (last)
            last->next = made;
        else
            node->json.child = made;
        last = made;
    }
    skip_space(l);
    l->p++;
    return node;
}

/* The limits that the YAML reader keeps while it reads. */
static int check_size(const struct json *j, int depth, int *n_node, struct err *err)
{
    if (depth > DOC_DEPTH_MAX)
        return err_set(err, ERR_LIMIT, "more than %d levels", DOC_DEPTH_MAX);
    if (++*n_node > DOC_NODES_MAX)
        return err_set(err, ERR_LIMIT, "more than %d values", DOC_NODES_MAX);
    if (j->kind == JSON_OBJECT && j->n > DOC_MEMBERS_MAX)
        return err_set(err, ERR_LIMIT, "more than %d members in one object", DOC_MEMBERS_MAX);
    int rc = 0;
    for (const struct json *c = j->child; c && rc == 0; c = c->next)
        rc = check_size(c, depth + (c->kind == JSON_OBJECT || c->kind == JSON_ARRAY), n_node, err);
    return rc;
}

/* True if the text is JSON: then rc and *root are the answer. */
static bool is_json(const char *text, size_t len, struct arena *arena, const struct json **root, int *line, int *rc,
                    struct err *err)
{
    struct lines l = {.p = text, .end = text + len, .line = 1, .arena = arena};
    const struct json *tree;
    int n_node = 0;

    while (l.p < l.end && strchr(" \t\r\n", *l.p) && *l.p)
        l.p++;
    if (l.p == l.end || (*l.p != '{' && *l.p != '['))
        return false;
    if (json_parse(text, len, JSON_NO_REPEATED_KEYS, arena, &tree, NULL) != 0)
        return false;
    *line = 1;
    *rc = check_size(tree, 1, &n_node, err);
    if (*rc)
        return true;
    l.p = text;
    *root = &with_lines(&l, tree, 0)->json;
    return true;
}

/* ---- YAML --------------------------------------------------------------------------------------------- */

struct reader {
    yaml_parser_t parser;
    struct arena *arena;
    int n_node, depth;
    int *line;
    struct err *err;
};

static int fail(struct reader *r, const yaml_mark_t *mark, int code, const char *what)
{
    *r->line = (int)mark->line + 1;
    return err_set(r->err, code, "%s", what);
}

static int next_event(struct reader *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->parser, event))
        return 0;
    const yaml_mark_t *mark = r->parser.problem_mark.line || r->parser.problem_mark.column ? &r->parser.problem_mark
                                                                                            : &r->parser.context_mark;
    *r->line = (int)mark->line + 1;
    const char *problem = r->parser.problem ? r->parser.problem : "cannot be read";
    if (r->parser.error == YAML_READER_ERROR) {
        *r->line = (int)r->parser.mark.line + 1;
        return err_set(r->err, ERR_FORMAT, "no UTF-8 text: %s", problem);
    }
    if (r->parser.error == YAML_MEMORY_ERROR)
        return err_set(r->err, ERR_MEM, "YAML parser: out of memory");
    if (r->parser.context)
        return err_set(r->err, ERR_FORMAT, "YAML: %s, %s", r->parser.context, problem);
    return err_set(r->err, ERR_FORMAT, "YAML: %s", problem);
}

static bool is_one_of(const char *s, const char *const *word)
{
    for (; *word; word++)
        if (strcmp(s, *word) == 0)
            return true;
    return false;
}

static size_t digits(const char *s)
{
    return strspn(s, "0123456789");
}

/* s is a number as JSON spells it. */
static bool is_json_number(const char *s)
{
    s += *s == '-';
    size_t n = digits(s);
    if (n == 0 || (n > 1 && *s == '0'))
        return false;
    s += n;
    if (*s == '.') {
        n = digits(++s);
        if (n == 0)
            return false;
        s += n;
    }
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '+' || *s == '-';
        n = digits(s);
        if (n == 0)
            return false;
        s += n;
    }
    return *s == '\0';
}

/* s is what some YAML reader takes for a number and JSON does not: two readings, so none. */
static bool is_other_number(const char *s)
{
    static const char *const word[] = {".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN", NULL};

    s += *s == '-' || *s == '+';
    if (is_one_of(s, word))
        return true;
    if (s[0] == '0' && s[1] && strchr("xXoObB", s[1]) && s[2] &&
        s[2 + strspn(s + 2, "0123456789abcdefABCDEF_")] == '\0')
        return true;
    if (*s == '.' && !digits(s + 1))
        return false;
    if (!digits(s) && *s != '.')
        return false;
    size_t n = strspn(s, "0123456789_");
    s += n;
    if (*s == '.')
        s += 1 + strspn(s + 1, "0123456789_");
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '+' || *s == '-';
        if (!digits(s))
            return false;
        s += digits(s);
    }
    return *s == '\0';
}

static int plain(struct reader *r, const yaml_event_t *e, struct json *j)
{
    static const char *const null_word[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const true_word[] = {"true", "True", "TRUE", NULL};
    static const char *const false_word[] = {"false", "False", "FALSE", NULL};

    if (strlen(j->text) != j->len)
        return 0;
    if (is_one_of(j->text, null_word))
        j->kind = JSON_NULL;
    else if (is_one_of(j->text, true_word))
        j->kind = JSON_TRUE;
    else if (is_one_of(j->text, false_word))
        j->kind = JSON_FALSE;
    else if (is_json_number(j->text))
        j->kind = JSON_NUMBER;
    else if (is_other_number(j->text)) {
        *r->line = (int)e->start_mark.line + 1;
        return err_set(r->err, ERR_UNSUPPORTED, "%.40s is no number of JSON: write it in decimal digits, or in quotes "
                                                "if it is a text", j->text);
    }
    if (j->kind == JSON_NUMBER && j->len > JSON_NUMBER_MAX)
        return fail(r, &e->start_mark, ERR_LIMIT, "the number is too long");
    if (j->kind != JSON_NUMBER && j->kind != JSON_STRING) {
        j->text = NULL;
        j->len = 0;
    }
    return 0;
}

static int scalar(struct reader *r, const yaml_event_t *e, struct json *j)
{
    const char *tag = (const char *)e->data.scalar.tag;

    if (tag && strcmp(tag, "!") != 0)
        return fail(r, &e->start_mark, ERR_UNSUPPORTED, "tags (!name) are not taken: quote what is a text");
    j->kind = JSON_STRING;
    j->len = e->data.scalar.length;
    j->text = arena_dup(r->arena, e->data.scalar.value, j->len);
    if (!utf8_is_valid(j->text, j->len))
        return fail(r, &e->start_mark, ERR_FORMAT, "no valid Unicode text");
    if (e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && !tag)
        return plain(r, e, j);
    return 0;
}

static const char *anchor_of(const yaml_event_t *e)
{
    switch (e->type) {
    case YAML_SCALAR_EVENT:
        return (const char *)e->data.scalar.anchor;
    case YAML_SEQUENCE_START_EVENT:
        return (const char *)e->data.sequence_start.anchor;
    case YAML_MAPPING_START_EVENT:
        return (const char *)e->data.mapping_start.anchor;
    default:
        return NULL;
    }
}

static int read_children(struct reader *r, struct doc_node *parent);

/* The node that event e begins; e is used up. */
static int read_node(struct reader *r, yaml_event_t *e, struct doc_node **out)
{
    struct doc_node *node = arena_zalloc(r->arena, sizeof *node);
    int rc = 0;

    node->line = node->first = (int)e->start_mark.line + 1;
    if (e->type == YAML_ALIAS_EVENT || anchor_of(e))
        rc = fail(r, &e->start_mark, ERR_UNSUPPORTED,
                  "anchors (&) and aliases (*) are not taken: write it out, or quote what is a text");
    else if (++r->n_node > DOC_NODES_MAX)
        rc = fail(r, &e->start_mark, ERR_LIMIT, "too many values (DOC_NODES_MAX)");
    else if (e->type == YAML_SCALAR_EVENT)
        rc = scalar(r, e, &node->json);
    else if (++r->depth > DOC_DEPTH_MAX)
        rc = fail(r, &e->start_mark, ERR_LIMIT, "too many levels (DOC_DEPTH_MAX)");
    else if (e->type == YAML_SEQUENCE_START_EVENT ? e->data.sequence_start.tag != NULL
                                                  : e->data.mapping_start.tag != NULL)
        rc = fail(r, &e->start_mark, ERR_UNSUPPORTED, "tags (!name) are not taken");
    else
        node->json.kind = e->type == YAML_SEQUENCE_START_EVENT ? JSON_ARRAY : JSON_OBJECT;
    bool has_children = rc == 0 && e->type != YAML_SCALAR_EVENT;
    yaml_event_delete(e);
    if (has_children) {
        rc = read_children(r, node);
        r->depth--;
    }
    *out = node;
    return rc;
}

/* The name of a member, out of event e, which is used up. */
static int read_key(struct reader *r, yaml_event_t *e, const struct json *object, struct json *key)
{
    int rc = 0;

    if (e->type == YAML_ALIAS_EVENT || anchor_of(e))
        rc = fail(r, &e->start_mark, ERR_UNSUPPORTED, "anchors (&) and aliases (*) are not taken: write it out");
    else if (e->type != YAML_SCALAR_EVENT)
        rc = fail(r, &e->start_mark, ERR_FORMAT,
                  "the name of a member must be a text; a template that begins a value must be quoted: \"{{ ... }}\"");
    else if (e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && strcmp((char *)e->data.scalar.value, "<<") == 0)
        rc = fail(r, &e->start_mark, ERR_UNSUPPORTED, "merge keys (<<) are not taken: write it out");
    else if (object->n == DOC_MEMBERS_MAX)
        rc = fail(r, &e->start_mark, ERR_LIMIT, "too many members in one object (DOC_MEMBERS_MAX)");
    else
        rc = scalar(r, e, key);
    if (rc == 0 && !key->text) { /* a name is a text, whatever it looks like: "null", "true" */
        key->len = e->data.scalar.length;
        key->text = arena_dup(r->arena, e->data.scalar.value, key->len);
    }
    if (rc == 0 && json_get_n(object, key->text, key->len)) {
        *r->line = (int)e->start_mark.line + 1;
        rc = err_set(r->err, ERR_FORMAT, "'%.*s' is there already, on line %d", (int)(key->len < 64 ? key->len : 64),
                     key->text, doc_line(json_get_n(object, key->text, key->len)));
    }
    yaml_event_delete(e);
    return rc;
}

static int read_children(struct reader *r, struct doc_node *parent)
{
    const bool is_object = parent->json.kind == JSON_OBJECT;
    const yaml_event_type_t end = is_object ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
    struct json *last = NULL;

    for (;;) {
        struct doc_node *child;
        struct json key = {0};
        yaml_event_t e;
        int rc = next_event(r, &e);
        if (rc)
            return rc;
        if (e.type == end) {
            yaml_event_delete(&e);
            return 0;
        }
        int first = (int)e.start_mark.line + 1;
        if (is_object) {
            if ((rc = read_key(r, &e, &parent->json, &key)) || (rc = next_event(r, &e)))
                return rc;
        }
        if ((rc = read_node(r, &e, &child)))
            return rc;
        child->first = first;
        child->json.key = key.text;
        child->json.key_len = key.len;
        if (last)
            last->next = &child->json;
        else
            parent->json.child = &child->json;
        last = &child->json;
        parent->json.n++;
    }
}

static int read_document(struct reader *r, const struct json **root)
{
    struct doc_node *node = NULL;
    yaml_event_t e;
    int rc = next_event(r, &e); /* the stream begins */

    if (rc)
        return rc;
    yaml_event_delete(&e);
    if ((rc = next_event(r, &e)))
        return rc;
    if (e.type == YAML_STREAM_END_EVENT) {
        rc = fail(r, &e.start_mark, ERR_FORMAT, "nothing is there");
        yaml_event_delete(&e);
        return rc;
    }
    yaml_event_delete(&e); /* the document begins */
    if ((rc = next_event(r, &e)) || (rc = read_node(r, &e, &node)))
        return rc;
    for (int i = 0; i < 2; i++) { /* the document ends, the stream ends */
        if ((rc = next_event(r, &e)))
            return rc;
        if (e.type == YAML_DOCUMENT_START_EVENT)
            rc = fail(r, &e.start_mark, ERR_UNSUPPORTED, "a second document begins: one file holds one pipeline");
        yaml_event_delete(&e);
        if (rc)
            return rc;
    }
    *root = &node->json;
    return 0;
}

int doc_parse(const char *text, size_t len, struct arena *arena, const struct json **root, int *line, struct err *err)
{
    struct reader r = {.arena = arena, .line = line, .err = err};
    int rc = 0;

    *line = 1;
    if (len > DOC_BYTES_MAX)
        return err_set(err, ERR_LIMIT, "larger than %d bytes", DOC_BYTES_MAX);
    if (is_json(text, len, arena, root, line, &rc, err))
        return rc;
    if (!yaml_parser_initialize(&r.parser))
        return err_set(err, ERR_MEM, "YAML parser: out of memory");
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    rc = read_document(&r, root);
    yaml_parser_delete(&r.parser);
    return rc;
}
