/* What generate and agent steps have in common: messages and options. */
#include "common/base/check.h"
#include "controller/agent/plan/doc.h"
#include "controller/agent/plan/pipeline_impl.h"

#include <string.h>

const char *const pipeline__option_keys[] = {
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "thinking", "reasoning_effort",
};
const size_t pipeline__n_option_keys = N_ELEM(pipeline__option_keys);

static struct doc_node *node_like(struct maker *m, const struct json *at, enum json_kind kind)
{
    struct doc_node *n = arena_zalloc(m->arena, sizeof *n);

    n->line = n->first = doc_line(at);
    n->json.kind = kind;
    return n;
}

/* A copy of value under another name. */
static struct json *renamed(struct maker *m, const struct json *value, const char *key)
{
    struct doc_node *n = arena_zalloc(m->arena, sizeof *n);

    *n = *(const struct doc_node *)(const void *)value;
    n->json.next = NULL;
    n->json.key = key;
    n->json.key_len = strlen(key);
    return &n->json;
}

static void append(struct json *parent, struct json *child)
{
    const struct json **tail = &parent->child;

    while (*tail)
        tail = (const struct json **)&((struct json *)*tail)->next;
    *tail = child;
    parent->n++;
}

static void add_message(struct maker *m, struct json *list, const char *role, const struct json *content)
{
    struct json *message = &node_like(m, content, JSON_OBJECT)->json;
    struct json *name = &node_like(m, content, JSON_STRING)->json;

    name->text = role;
    name->len = strlen(role);
    name->key = "role";
    name->key_len = 4;
    append(message, name);
    append(message, renamed(m, content, "content"));
    append(list, message);
}

static void check_messages(struct maker *m, const struct json *list)
{
    static const char *const keys[] = {"role", "content"};
    static const char *const roles[] = {"system", "user", "assistant"};

    if (list->n == 0)
        pipeline__fault(m, list, "messages is empty");
    for (const struct json *c = list->child; c; c = c->next) {
        const struct json *content = json_get(c, "content");
        if (!pipeline__object(m, c, "a message", keys, N_ELEM(keys)))
            continue;
        if (!json_get(c, "role"))
            pipeline__fault(m, c, "a message needs a role");
        pipeline__choice(m, c, "role", roles, N_ELEM(roles), 0);
        if (!json_is(content, JSON_STRING))
            pipeline__fault(m, content ? content : c, "a message needs content, a text");
    }
}

static const struct template *read_messages(struct maker *m, const struct json *j)
{
    const struct json *prompt = json_get(j, "prompt"), *system = json_get(j, "system");
    const struct json *messages = json_get(j, "messages");

    if (!prompt == !messages) {
        pipeline__fault(m, messages ? messages : j, "either prompt (a text) or messages (a list) is needed");
        return NULL;
    }
    if (messages && system) {
        pipeline__fault(m, system, "system goes with prompt; with messages it is the first of them");
        return NULL;
    }
    if (messages) {
        if (messages->kind != JSON_ARRAY) {
            pipeline__fault(m, messages, "messages must be a list of {role, content}");
            return NULL;
        }
        check_messages(m, messages);
        return pipeline__template(m, messages, 1 << JSON_ARRAY, "a list");
    }
    if (!json_is(prompt, JSON_STRING) || (system && !json_is(system, JSON_STRING))) {
        pipeline__fault(m, json_is(prompt, JSON_STRING) ? system : prompt, "prompt and system must be texts");
        return NULL;
    }
    struct json *list = &node_like(m, prompt, JSON_ARRAY)->json;
    if (system)
        add_message(m, list, "system", system);
    add_message(m, list, "user", prompt);
    return pipeline__template(m, list, 0, "");
}

/* An option that is no template is checked as api/ will check it. */
static void check_option(struct maker *m, const struct json *obj, const char *key)
{
    static const char *const efforts[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"};
    static const struct {
        const char *key;
        double min, max;
        bool whole;
    } number[] = {
        {"max_tokens", 1, 1 << 30, true},
        {"temperature", 0, 2, false},
        {"top_p", 0, 1, false},
        {"top_k", -1, 1 << 30, true},
        {"min_p", 0, 1, false},
        {"seed", -9.2e18, 9.2e18, true},
        {"presence_penalty", -2, 2, false},
        {"frequency_penalty", -2, 2, false},
        {"repetition_penalty", 0, 10, false},
    };
    const struct json *j = json_get(obj, key);
    double v;
    int64_t whole;

    if (!j)
        return;
    for (size_t i = 0; i < N_ELEM(number); i++)
        if (strcmp(key, number[i].key) == 0 &&
            (!json_to_double(j, &v) || v < number[i].min || v > number[i].max ||
             (number[i].whole && !json_to_i64(j, &whole))))
            pipeline__fault(m, j, "%s must be a%s number within %g and %g", key, number[i].whole ? " whole" : "",
                            number[i].min, number[i].max);
    if (strcmp(key, "thinking") == 0)
        pipeline__bool(m, obj, key, false);
    else if (strcmp(key, "reasoning_effort") == 0)
        pipeline__choice(m, obj, key, efforts, N_ELEM(efforts), 0);
    else if (strcmp(key, "stop") == 0 && j->kind != JSON_STRING && j->kind != JSON_ARRAY)
        pipeline__fault(m, j, "stop must be a text or a list of texts");
}

void pipeline__generate(struct maker *m, const struct json *j, struct pipeline_generate *out)
{
    struct json *options = &node_like(m, j, JSON_OBJECT)->json;

    out->messages = read_messages(m, j);
    for (size_t i = 0; i < pipeline__n_option_keys; i++) {
        const char *key = pipeline__option_keys[i];
        const struct json *value = json_get(j, key);
        if (!value)
            continue;
        bool open = value->kind == JSON_STRING && strstr(value->text, "{{");
        if (!open)
            check_option(m, j, key);
        append(options, renamed(m, value, key));
    }
    out->options = pipeline__template(m, options, 0, "");
}
