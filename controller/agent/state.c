#include "controller/agent/state.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "common/text/json.h"

#include <stdio.h>
#include <string.h>

#define TO(name) (1u << AGENT_##name)
static const unsigned legal[AGENT_STEP_STATE_N] = {
    /* listed: taken over by a fork */
    [AGENT_none] = TO(started) | TO(listed) | TO(waiting) | TO(done) | TO(failed) | TO(skipped) | TO(canceled),
    [AGENT_started] = TO(listed) | TO(retry) | TO(invalid) | TO(done) | TO(failed) | TO(canceled),
    [AGENT_listed] = TO(done) | TO(failed) | TO(canceled),
    [AGENT_retry] = TO(started) | TO(failed) | TO(canceled),
    [AGENT_invalid] = TO(started) | TO(failed) | TO(canceled),
    [AGENT_waiting] = TO(done) | TO(failed) | TO(canceled),
};

static const char *const names[] = {
#define X(name) #name,
    AGENT_STEP_STATE_LIST(X)
#undef X
};

const char *agent_step_state_name(enum agent_step_state state)
{
    return (size_t)state < N_ELEM(names) ? names[state] : "?";
}

enum agent_step_state agent_step_state_of(const char *name)
{
    int i = 0;

    while (i < AGENT_STEP_STATE_N && strcmp(names[i], name) != 0)
        i++;
    return (enum agent_step_state)i;
}

bool agent_step_move_is_legal(enum agent_step_state from, enum agent_step_state to)
{
    return legal[from] >> to & 1;
}

bool agent_step_state_is_over(enum agent_step_state state)
{
    return state == AGENT_done || state == AGENT_failed || state == AGENT_skipped || state == AGENT_canceled;
}

void agent_usage_add(struct store_usage *sum, const struct store_usage *u)
{
    sum->prompt_tok += u->prompt_tok;
    sum->output_tok += u->output_tok;
    sum->cached_tok += u->cached_tok;
    sum->reasoning_tok += u->reasoning_tok;
}

/* ---- nodes ---- */

/* Free what a node holds, and all below it; the node itself stays. */
static void node_clear(struct agent_state *s, struct agent_node *node);

static void drop_children(struct agent_state *s, struct agent_node *node)
{
    for (struct agent_node *c = node->child, *next; c; c = next) {
        next = c->next;
        node_clear(s, c);
        mem_free(c);
    }
    for (int64_t i = 0; i < node->n_item; i++) {
        if (!node->item[i])
            continue;
        node_clear(s, node->item[i]);
        mem_free(node->item[i]);
    }
    mem_free(node->item);
    node->item = NULL;
    node->n_item = 0;
    node->child = node->last_child = NULL;
}

static void node_clear(struct agent_state *s, struct agent_node *node)
{
    ASSERT(!node->effect);
    drop_children(s, node);
    s->result_bytes -= (int64_t)node->result_bytes;
    if (node->items) {
        arena_release(&node->items->arena);
        mem_free(node->items->value);
        mem_free(node->items);
    }
    arena_release(&node->arena);
    mem_free(node->name);
    mem_free(node->result);
    mem_free(node->error);
    mem_free(node->request);
}

void agent_state_init(struct agent_state *s)
{
    *s = (struct agent_state){.root = {.idx = -1}};
}

void agent_state_release(struct agent_state *s)
{
    node_clear(s, &s->root);
    agent_state_init(s);
}

struct agent_node *agent_node_child(const struct agent_node *node, const char *name)
{
    for (struct agent_node *c = node->child; c; c = c->next)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

struct agent_node *agent_node_item(const struct agent_node *node, int64_t idx)
{
    return idx >= 0 && idx < node->n_item ? node->item[idx] : NULL;
}

static struct agent_node *add_child(struct agent_node *parent, const char *name, size_t n)
{
    struct agent_node *c = mem_zalloc(sizeof *c);

    c->parent = parent;
    c->name = mem_dup(name, n);
    c->idx = -1;
    *(parent->last_child ? &parent->last_child->next : &parent->child) = c;
    parent->last_child = c;
    return c;
}

static struct agent_node *add_item(struct agent_node *parent, int64_t idx)
{
    if (idx >= parent->n_item) {
        int64_t n = parent->n_item ? parent->n_item : 16;
        while (n <= idx)
            n *= 2;
        parent->item = mem_realloc(parent->item, (size_t)n * sizeof *parent->item);
        memset(parent->item + parent->n_item, 0, (size_t)(n - parent->n_item) * sizeof *parent->item);
        parent->n_item = n;
    }
    struct agent_node *c = mem_zalloc(sizeof *c);
    c->parent = parent;
    c->idx = idx;
    parent->item[idx] = c;
    return c;
}

struct agent_node *agent_node_make_item(struct agent_node *node, int64_t idx)
{
    struct agent_node *item = agent_node_item(node, idx);
    return item ? item : add_item(node, idx);
}

const struct json *agent_node_value(struct agent_node *node)
{
    struct err err;

    if (node->value || !node->result)
        return node->value;
    arena_reset(&node->arena);
    if (json_parse(node->result, node->result_bytes, 0, &node->arena, &node->value, &err) != 0)
        node->value = NULL;
    return node->value;
}

const char *agent_node_path(const struct agent_node *node, char out[STORE_PATH_MAX])
{
    char part[STORE_PATH_MAX];
    size_t at = STORE_PATH_MAX - 1;

    out[at] = '\0';
    for (; node->parent; node = node->parent) {
        int n = node->name ? snprintf(part, sizeof part, "%s%s", node->parent->parent ? "." : "", node->name)
                           : snprintf(part, sizeof part, "[%lld]", (long long)node->idx);
        ASSERT(n >= 0 && (size_t)n <= at); /* agent_state_apply has seen the whole path */
        at -= (size_t)n;
        memcpy(out + at, part, (size_t)n);
    }
    memmove(out, out + at, STORE_PATH_MAX - at);
    return out;
}

/* ---- paths ---- */

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

/* Next part of a path: a name (idx -1) or an index; the end of it, or NULL if it is neither. */
static const char *next_part(const char *at, bool first, const char **name, size_t *n, int64_t *idx)
{
    *idx = -1;
    if (*at == '[' && !first) {
        int64_t v = 0;
        int n_digit = 0;
        for (at++; *at >= '0' && *at <= '9' && n_digit < 8; at++, n_digit++)
            v = v * 10 + (*at - '0');
        if (n_digit == 0 || *at != ']' || v >= AGENT_ITEMS_MAX)
            return NULL;
        *idx = v;
        return at + 1;
    }
    if (!first && *at++ != '.')
        return NULL;
    *name = at;
    while (is_name_char(*at))
        at++;
    *n = (size_t)(at - *name);
    return *n ? at : NULL;
}

static struct agent_node *named(const struct agent_node *node, const char *name, size_t n)
{
    for (struct agent_node *c = node->child; c; c = c->next)
        if (strncmp(c->name, name, n) == 0 && c->name[n] == '\0')
            return c;
    return NULL;
}

static bool path_is_good(const char *path)
{
    const char *name;
    size_t n;
    int64_t idx;

    if (!*path || strlen(path) >= STORE_PATH_MAX)
        return false;
    for (const char *at = path; *at;) {
        at = next_part(at, at == path, &name, &n, &idx);
        if (!at)
            return false;
    }
    return true;
}

/* The path is good. `make`: nodes that are missing are made, those in between in state none. */
static struct agent_node *walk(const struct agent_state *s, const char *path, bool make)
{
    struct agent_node *node = (struct agent_node *)(uintptr_t)&s->root;
    const char *name = NULL;
    size_t n = 0;
    int64_t idx;

    for (const char *at = path; *at;) {
        at = next_part(at, at == path, &name, &n, &idx);
        struct agent_node *c = idx >= 0 ? agent_node_item(node, idx) : named(node, name, n);
        if (!c && !make)
            return NULL;
        node = c ? c : idx >= 0 ? add_item(node, idx) : add_child(node, name, n);
    }
    return node;
}

struct agent_node *agent_state_find(const struct agent_state *s, const char *path)
{
    return path_is_good(path) ? walk(s, path, false) : NULL;
}

/* ---- rows ---- */

/* The time in a waiting or retry row. */
static int read_until(const struct agent_row *row, int64_t *until_ms, struct err *err)
{
    const struct json *root, *until;
    struct arena arena = {0};
    int rc = 0;

    *until_ms = 0;
    if (row->state != AGENT_waiting && row->state != AGENT_retry)
        return 0;
    const char *text = row->result ? row->result : "{}";
    rc = json_parse(text, strlen(text), 0, &arena, &root, err);
    until = rc ? NULL : json_get(root, "until_ms");
    if (until && !json_to_i64(until, until_ms))
        rc = err_set(err, ERR_FORMAT, "step %s: until_ms is no time", row->path);
    arena_release(&arena);
    return rc;
}

static void set_text(char **to, const char *from)
{
    if (!from || from == *to)
        return;
    mem_free(*to);
    *to = mem_strdup(from);
}

static void set_result(struct agent_state *s, struct agent_node *node, char *text)
{
    s->result_bytes -= (int64_t)node->result_bytes;
    mem_free(node->result);
    node->result = text;
    node->result_bytes = strlen(text);
    node->value = NULL;
    s->result_bytes += (int64_t)node->result_bytes;
}

/* A map is over: its result is the list of what its items gave; null where one has nothing. */
static char *join_items(const struct agent_node *node)
{
    const struct json *started = NULL;
    struct arena arena = {0};
    struct buf out = {0};
    int64_t n = 0;

    if (node->result && json_parse(node->result, node->result_bytes, 0, &arena, &started, NULL) == 0)
        json_to_i64(json_get(started, "items"), &n);
    arena_release(&arena);
    buf_add_char(&out, '[');
    for (int64_t i = 0; i < n; i++) {
        const struct agent_node *item = agent_node_item(node, i);
        if (i)
            buf_add_char(&out, ',');
        if (item && item->result)
            buf_add(&out, item->result, item->result_bytes);
        else
            buf_add_str(&out, "null");
    }
    buf_add_char(&out, ']');
    return buf_take(&out, NULL);
}

static bool is_map(const struct agent_node *node)
{
    const struct json *started;
    struct arena arena = {0};
    bool yes = node->result && json_parse(node->result, node->result_bytes, 0, &arena, &started, NULL) == 0 &&
               json_is(json_get(started, "items"), JSON_NUMBER);
    arena_release(&arena);
    return yes;
}

static void take(struct agent_state *s, struct agent_node *node, const struct agent_row *row, int64_t until_ms)
{
    node->state = row->state;
    node->attempt = row->attempt;
    node->at_ms = row->at_ms;
    node->until_ms = until_ms;
    if (row->state == AGENT_started) {
        node->attempt_ms = row->at_ms;
        if (!node->started_ms)
            node->started_ms = row->at_ms;
    }
    node->n_retry += row->state == AGENT_retry;
    node->n_invalid += row->state == AGENT_invalid;
    if (row->state == AGENT_done && !row->result && is_map(node))
        set_result(s, node, join_items(node));
    else if (row->result && row->state != AGENT_retry)
        set_result(s, node, mem_strdup(row->result));
    set_text(&node->error, row->error);
    set_text(&node->request, row->request);
    agent_usage_add(&node->usage, &row->usage);
    agent_usage_add(&s->usage, &row->usage);
    s->n_row++;
    s->n_retry += row->state == AGENT_retry || row->state == AGENT_invalid;
    if (agent_step_state_is_over(row->state) && !s->keeps_children)
        drop_children(s, node);
}

int agent_state_apply(struct agent_state *s, const struct agent_row *row, struct agent_node **node_p,
                      struct err *err)
{
    int64_t until_ms;

    if (!path_is_good(row->path))
        return err_set(err, ERR_FORMAT, "'%.100s' is no path of a step", row->path);
    if (row->attempt < 0 || row->attempt > AGENT_ATTEMPTS_MAX)
        return err_set(err, ERR_FORMAT, "step %s: attempt %d", row->path, row->attempt);
    struct agent_node *node = walk(s, row->path, false);
    enum agent_step_state from = node ? node->state : AGENT_none;
    if (!agent_step_move_is_legal(from, row->state))
        return err_set(err, ERR_FORMAT, "step %s cannot go from %s to %s", row->path, agent_step_state_name(from),
                       agent_step_state_name(row->state));
    if (node && row->attempt < node->attempt)
        return err_set(err, ERR_FORMAT, "step %s: attempt %d after %d", row->path, row->attempt, node->attempt);
    int rc = read_until(row, &until_ms, err);
    if (rc)
        return rc;
    if (!node)
        node = walk(s, row->path, true);
    take(s, node, row, until_ms);
    if (node_p)
        *node_p = node;
    return 0;
}
