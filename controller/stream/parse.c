#include "controller/stream/parse.h"

#include "common/base/check.h"
#include "common/mem/arena.h"
#include "common/mem/buf.h"
#include "common/mem/mem.h"
#include "controller/stream/markers.h"
#include "controller/stream/names.h"

#include <stdio.h>
#include <string.h>

/* Where in its grammar the text is. One state machine for streams and whole texts (spec/chat.md section 7). */
enum state {
    ST_START,  /* nothing but white space so far: a <think> here is swallowed (rule 2) */
    ST_TEXT,   /* reasoning or content */
    ST_BLOCK,  /* in a tool block, between invokes */
    ST_AFTER,  /* behind a block: white space waits (rule 10) */
    ST_INVOKE, /* in the head of an invoke, behind name=" */
    ST_BODY,   /* behind that head: a '{' here makes the body JSON (rule 8) */
    ST_GAP,    /* in an invoke, between parameters: anything else is skipped */
    ST_PARAM,  /* in the head of a parameter, behind name=" */
    ST_VALUE,  /* in the value of a parameter */
    ST_JSON,   /* in a JSON body */
    ST_ENDED,
};

/* What the string attribute of a parameter said. */
enum value_kind { VALUE_STRING, VALUE_JSON, VALUE_UNSAID };

/* What becomes of the value that is being read. */
enum value_use {
    USE_STREAM, /* goes out as it comes */
    USE_HOLD,   /* goes out when it is complete */
    USE_WRAP,   /* waits for the end of the invoke: it may be the whole arguments (rule 9) */
    USE_DROP,   /* a repeated name */
};

struct parse {
    struct parse_opts opts;
    const struct parse_events *events;
    void *arg;
    enum state state;
    bool reasoning;  /* ST_TEXT: rule 1's R, else C */
    bool seen_block; /* closers are swallowed from now on */

    struct buf pend;  /* text that was fed and not consumed */
    size_t pos;       /* consumed bytes of pend during a feed */
    size_t scan;      /* bytes behind pos that this state has looked at already */
    struct buf space; /* white space that waits in ST_BLOCK and ST_AFTER */

    int n_call, n_complete;
    bool call_open;
    const struct json *properties; /* of the open call's schema, NULL if unknown */
    size_t name_len;               /* ST_INVOKE, ST_PARAM: bytes of the name, once its end was seen */
    bool name_seen;
    struct names params; /* names of the open call's parameters */
    int n_sent;          /* parameters that went out */

    struct buf key, value; /* the parameter being read or waiting (USE_WRAP); value also holds a JSON body */
    enum value_kind kind;
    enum value_use use;
    bool wrap_waits; /* key and value are complete and wait for the end of the invoke */
    struct buf out;  /* scratch for argument text */
};

struct parse *parse_new(const struct parse_opts *opts, const struct parse_events *events, void *arg)
{
    struct parse *p = mem_zalloc(sizeof *p);

    p->opts = *opts;
    p->events = events;
    p->arg = arg;
    p->reasoning = opts->in_reasoning;
    return p;
}

void parse_destroy(struct parse **p)
{
    if (!*p)
        return;
    buf_release(&(*p)->pend);
    buf_release(&(*p)->space);
    buf_release(&(*p)->key);
    buf_release(&(*p)->value);
    buf_release(&(*p)->out);
    names_release(&(*p)->params);
    mem_free(*p);
    *p = NULL;
}

int parse_n_complete(const struct parse *p)
{
    return p->n_complete;
}

/* ---- small parts -------------------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static const char *text_of(const struct parse *p, size_t *len)
{
    *len = p->pend.len - p->pos;
    return p->pend.data + p->pos;
}

/* n bytes are done with; the next state looks at the rest anew. */
static void consume(struct parse *p, size_t n)
{
    p->pos += n;
    p->scan = 0;
}

static void emit_text(struct parse *p, const char *text, size_t n)
{
    if (n == 0)
        return;
    if (p->reasoning)
        p->events->on_reasoning(p->arg, text, n);
    else
        p->events->on_content(p->arg, text, n);
}

/* Send what stands in p->out as argument text of the open call. */
static void flush_arguments(struct parse *p)
{
    if (p->out.len)
        p->events->on_arguments(p->arg, p->n_call - 1, p->out.data, p->out.len);
    buf_clear(&p->out);
}

static bool json_is_valid(const char *text, size_t n, bool object)
{
    const struct json *root;
    struct arena arena = {0};

    bool valid = json_parse(text, n, 0, &arena, &root, NULL) == 0 && (!object || root->kind == JSON_OBJECT);
    arena_release(&arena);
    return valid;
}

/* ---- calls -------------------------------------------------------------------------------------------- */

/* Properties in the schema of the tool of this name, or NULL if there is none that is known. */
static const struct json *find_properties(const struct json *tools, const char *name, size_t n)
{
    if (!json_is(tools, JSON_ARRAY))
        return NULL;
    for (const struct json *t = tools->child; t; t = t->next) {
        const struct json *function = json_get(t, "function");
        const struct json *tool_name = json_get(function, "name");
        if (!json_is(tool_name, JSON_STRING) || tool_name->len != n || memcmp(tool_name->text, name, n) != 0)
            continue;
        const struct json *properties = json_get(json_get(function, "parameters"), "properties");
        return json_is(properties, JSON_OBJECT) ? properties : NULL;
    }
    return NULL;
}

static void open_call(struct parse *p, const char *name, size_t n)
{
    p->properties = find_properties(p->opts.tools, name, n);
    p->call_open = true;
    p->n_sent = 0;
    p->wrap_waits = false;
    names_clear(&p->params);
    p->events->on_call(p->arg, p->n_call++, name, n);
}

/* `{"key": ` or `, "key": ` in front of a value. */
static void begin_param(struct parse *p)
{
    buf_add_str(&p->out, p->n_sent++ ? ", " : "{");
    json_add_str(&p->out, p->key.data, p->key.len);
    buf_add_str(&p->out, ": ");
}

/* Rule 7 for a value that is complete. */
static void send_param(struct parse *p)
{
    begin_param(p);
    if (p->kind != VALUE_STRING && json_is_valid(p->value.data, p->value.len, false))
        buf_add(&p->out, p->value.data, p->value.len);
    else
        json_add_str(&p->out, p->value.data, p->value.len);
    flush_arguments(p);
}

/* Rule 9: the value is a JSON object whose keys are all properties of the tool. */
static bool value_is_arguments(const struct parse *p)
{
    const struct json *root;
    struct arena arena = {0};
    bool fits = json_parse(p->value.data, p->value.len, 0, &arena, &root, NULL) == 0 && root->kind == JSON_OBJECT;

    for (const struct json *m = fits ? root->child : NULL; m && fits; m = m->next)
        fits = json_get_n(p->properties, m->key, m->key_len) != NULL;
    arena_release(&arena);
    return fits;
}

static void add_trimmed(struct buf *out, const char *text, size_t n)
{
    while (n && is_space(text[n - 1]))
        n--;
    while (n && is_space(*text)) {
        text++;
        n--;
    }
    buf_add(out, text, n);
}

/* The open call was closed, by its own end tag or by what comes next. */
static void close_call(struct parse *p)
{
    if (p->state == ST_JSON) {
        if (json_is_valid(p->value.data, p->value.len, true)) {
            add_trimmed(&p->out, p->value.data, p->value.len);
        } else {
            struct buf body = {0};
            add_trimmed(&body, p->value.data, p->value.len);
            buf_add_str(&p->out, "{\"arguments\": ");
            json_add_str(&p->out, body.data, body.len);
            buf_add_char(&p->out, '}');
            buf_release(&body);
        }
    } else if (p->wrap_waits && value_is_arguments(p)) {
        add_trimmed(&p->out, p->value.data, p->value.len);
    } else {
        if (p->wrap_waits)
            send_param(p);
        buf_add_str(&p->out, p->n_sent ? "}" : "{}");
    }
    flush_arguments(p);
    p->wrap_waits = false;
    p->call_open = false;
    p->n_complete++;
    p->events->on_call_end(p->arg, p->n_call - 1, true);
}

/* ---- parameters --------------------------------------------------------------------------------------- */

static bool attribute_is(const char *attr, size_t n, const char *value)
{
    static const char *const quotes[] = {"\"", "'", ""};
    char text[32];

    for (size_t i = 0; i < N_ELEM(quotes); i++) {
        int len = snprintf(text, sizeof text, "string=%s%s%s", quotes[i], value, quotes[i]);
        if (memmem(attr, n, text, (size_t)len))
            return true;
    }
    return false;
}

/* The head of a parameter is complete: decide what its value becomes. */
static void open_param(struct parse *p, const char *key, size_t n, const char *attr, size_t n_attr)
{
    if (!names_add(&p->params, key, n)) {
        p->use = USE_DROP;
        return;
    }
    if (p->wrap_waits) {
        p->wrap_waits = false;
        send_param(p);
    }
    buf_clear(&p->key);
    buf_clear(&p->value);
    buf_add(&p->key, key, n);
    buf_add(&p->value, "", 0);
    p->kind = attribute_is(attr, n_attr, "true")    ? VALUE_STRING
              : attribute_is(attr, n_attr, "false") ? VALUE_JSON
                                                    : VALUE_UNSAID;
    bool wrapper = names_n(&p->params) == 1 && p->properties && !json_get_n(p->properties, key, n) &&
                   (strcmp(p->key.data, "arguments") == 0 || strcmp(p->key.data, "input") == 0);
    p->use = wrapper ? USE_WRAP : p->kind == VALUE_STRING ? USE_STREAM : USE_HOLD;
    if (p->use == USE_STREAM) {
        begin_param(p);
        buf_add_char(&p->out, '"');
        flush_arguments(p);
    }
}

static void add_value(struct parse *p, const char *text, size_t n)
{
    if (n == 0 || p->use == USE_DROP)
        return;
    if (p->use != USE_STREAM) {
        buf_add(&p->value, text, n);
        return;
    }
    buf_clear(&p->value);
    json_add_str(&p->value, text, n); /* escaped, in quotes that the value has already */
    p->events->on_arguments(p->arg, p->n_call - 1, p->value.data + 1, p->value.len - 2);
}

static void close_param(struct parse *p)
{
    if (p->use == USE_STREAM) {
        buf_add_char(&p->out, '"');
        flush_arguments(p);
    } else if (p->use == USE_HOLD) {
        send_param(p);
    } else if (p->use == USE_WRAP) {
        p->wrap_waits = true;
    }
}

/* ---- states: each returns true if it got on, false if it needs more text ------------------------------ */

static void go(struct parse *p, enum state state)
{
    p->state = state;
    p->scan = 0;
    p->name_seen = false;
}

static bool step_start(struct parse *p)
{
    enum marker which;
    size_t len, n;
    const char *text = text_of(p, &len);

    while (p->scan < len && is_space(text[p->scan]))
        p->scan++;
    if (p->scan == len)
        return false;
    enum marker_found found = marker_match(text + p->scan, len - p->scan, MARK_THINK, &which, &n);
    if (found == MARK_MAYBE)
        return false;
    if (found == MARK_FOUND) {
        p->reasoning = true;
        consume(p, p->scan + n);
    }
    go(p, ST_TEXT);
    return true;
}

/* A tool block or a bare invoke begins, in whatever text. */
static void enter_block(struct parse *p, enum marker which)
{
    p->reasoning = false;
    p->seen_block = true;
    buf_clear(&p->space);
    go(p, which == MARK_INVOKE ? ST_INVOKE : ST_BLOCK);
}

enum { MARK_CLOSERS = MARK_BLOCK_END | MARK_INVOKE_END | MARK_PARAM_END };

static bool step_text(struct parse *p)
{
    int set = MARK_THINK_END;
    enum marker which;
    size_t len, at, n;
    const char *text = text_of(p, &len);

    if (len == 0)
        return false;
    if (p->opts.tools_on)
        set |= MARK_BLOCK | MARK_INVOKE | MARK_NEWLINES;
    if (p->seen_block)
        set |= MARK_CLOSERS;
    enum marker_found found = marker_find(text, len, set, &at, &which, &n);
    emit_text(p, text, at);
    consume(p, at);
    if (found != MARK_FOUND)
        return false;
    consume(p, n);
    if (which == MARK_BLOCK || which == MARK_INVOKE)
        enter_block(p, which);
    else if (which == MARK_THINK_END)
        p->reasoning = false; /* a second one is swallowed */
    return true;
}

/* Move white space at the front to p->space. Returns false if nothing is left. */
static bool set_space_aside(struct parse *p)
{
    size_t len, n = 0;
    const char *text = text_of(p, &len);

    while (n < len && is_space(text[n]))
        n++;
    buf_add(&p->space, text, n);
    consume(p, n);
    return n < len;
}

static bool step_block(struct parse *p)
{
    enum marker which;
    size_t len, n;

    if (!set_space_aside(p))
        return false;
    const char *text = text_of(p, &len);
    switch (marker_match(text, len, MARK_INVOKE | MARK_BLOCK_END, &which, &n)) {
    case MARK_MAYBE:
        return false;
    case MARK_NONE: /* not a tag: the block is left, and the white space may turn out to be content */
        go(p, ST_AFTER);
        return true;
    case MARK_FOUND:
        break;
    }
    consume(p, n);
    buf_clear(&p->space);
    go(p, which == MARK_INVOKE ? ST_INVOKE : ST_AFTER);
    return true;
}

static bool step_after(struct parse *p)
{
    enum marker which;
    size_t len, n;

    if (!set_space_aside(p))
        return false;
    const char *text = text_of(p, &len);
    switch (marker_match(text, len, MARK_THINK_END | MARK_BLOCK | MARK_INVOKE | MARK_CLOSERS, &which, &n)) {
    case MARK_MAYBE:
        return false;
    case MARK_NONE:
        emit_text(p, p->space.data, p->space.len);
        buf_clear(&p->space);
        go(p, ST_TEXT);
        return true;
    case MARK_FOUND:
        break;
    }
    consume(p, n);
    if (which == MARK_BLOCK || which == MARK_INVOKE)
        enter_block(p, which);
    return true;
}

/* The rest of a head: NAME" attributes>. Sets the lengths and returns true once it is complete. The name ends at a
 * quote that is followed by white space or '>', since nothing in it is escaped. */
static bool head_is_complete(struct parse *p, size_t *head_len)
{
    size_t len;
    const char *text = text_of(p, &len);

    for (; !p->name_seen && p->scan + 1 < len; p->scan++) {
        if (text[p->scan] == '"' && (text[p->scan + 1] == '>' || is_space(text[p->scan + 1]))) {
            p->name_seen = true;
            p->name_len = p->scan;
        }
    }
    if (!p->name_seen)
        return false;
    const char *end = memchr(text + p->scan, '>', len - p->scan);
    p->scan = end ? (size_t)(end - text) : len;
    *head_len = p->scan + 1;
    return end != NULL;
}

static bool step_head(struct parse *p)
{
    size_t len, head_len;
    const char *text = text_of(p, &len);

    if (!head_is_complete(p, &head_len))
        return false;
    if (p->state == ST_INVOKE) {
        open_call(p, text, p->name_len);
        consume(p, head_len);
        go(p, ST_BODY);
    } else {
        open_param(p, text, p->name_len, text + p->name_len + 1, head_len - p->name_len - 1);
        consume(p, head_len);
        go(p, ST_VALUE);
    }
    return true;
}

static bool step_body(struct parse *p)
{
    size_t len;
    const char *text = text_of(p, &len);

    while (p->scan < len && is_space(text[p->scan]))
        p->scan++;
    if (p->scan == len)
        return false;
    consume(p, p->scan);
    if (*text_of(p, &len) == '{') {
        buf_clear(&p->value);
        go(p, ST_JSON);
    } else {
        go(p, ST_GAP);
    }
    return true;
}

/* Between parameters and in a JSON body: the same tags end both. */
static bool step_inside(struct parse *p)
{
    bool json = p->state == ST_JSON;
    int set = MARK_INVOKE_END | MARK_INVOKE | MARK_BLOCK_END | (json ? 0 : MARK_PARAM);
    enum marker which;
    size_t len, at, n;
    const char *text = text_of(p, &len);

    if (len == 0)
        return false;
    enum marker_found found = marker_find(text, len, set, &at, &which, &n);
    if (json)
        buf_add(&p->value, text, at);
    consume(p, at);
    if (found != MARK_FOUND)
        return false;
    consume(p, n);
    if (which == MARK_PARAM) {
        go(p, ST_PARAM);
        return true;
    }
    close_call(p);
    go(p, which == MARK_INVOKE ? ST_INVOKE : which == MARK_BLOCK_END ? ST_AFTER : ST_BLOCK);
    return true;
}

static bool step_value(struct parse *p)
{
    enum marker which;
    size_t len, at, n;
    const char *text = text_of(p, &len);

    if (len == 0)
        return false;
    enum marker_found found = marker_find(text, len, MARK_PARAM_END, &at, &which, &n);
    add_value(p, text, at);
    consume(p, at);
    if (found != MARK_FOUND)
        return false;
    consume(p, n);
    close_param(p);
    go(p, ST_GAP);
    return true;
}

static bool step(struct parse *p)
{
    switch (p->state) {
    case ST_START:
        return step_start(p);
    case ST_TEXT:
        return step_text(p);
    case ST_BLOCK:
        return step_block(p);
    case ST_AFTER:
        return step_after(p);
    case ST_INVOKE:
    case ST_PARAM:
        return step_head(p);
    case ST_BODY:
        return step_body(p);
    case ST_GAP:
    case ST_JSON:
        return step_inside(p);
    case ST_VALUE:
        return step_value(p);
    case ST_ENDED:
        break;
    }
    BUG("text after parse_end");
}

/* ---- feeding ------------------------------------------------------------------------------------------ */

void parse_feed(struct parse *p, const char *text, size_t n)
{
    ASSERT(p->state != ST_ENDED);
    buf_add(&p->pend, text, n);
    while (step(p))
        ;
    buf_drop(&p->pend, p->pos);
    p->pos = 0;
}

void parse_end(struct parse *p)
{
    /* Rule 11. In a block and in a call, what is held is markup or an unfinished value. */
    bool text_held = (p->state == ST_START || p->state == ST_TEXT || p->state == ST_AFTER) && p->pend.len;

    if (text_held && !marker_is_dsml(p->pend.data, p->pend.len)) {
        emit_text(p, p->space.data, p->space.len);
        emit_text(p, p->pend.data, p->pend.len);
    }
    if (p->call_open)
        p->events->on_call_end(p->arg, p->n_call - 1, false);
    p->call_open = false;
    buf_clear(&p->pend);
    buf_clear(&p->space);
    p->state = ST_ENDED;
}
