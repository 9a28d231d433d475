#include "controller/agent/plan/generate.h"

#include "common/base/check.h"
#include "common/text/jsonmake.h"
#include "common/text/utf8.h"

#include <string.h>

static const struct pipeline_generate *generate_of(const struct pipeline_step *step)
{
    ASSERT(step->kind == PIPELINE_generate || step->kind == PIPELINE_agent);
    return step->kind == PIPELINE_generate ? &step->u.generate : &step->u.agent.generate;
}

/* ---- messages ----------------------------------------------------------------------------------------- */

/* The last message with the schema told behind its text. */
static const struct json *with_schema(const struct json *message, const struct schema *schema, struct arena *arena)
{
    const struct json *content = json_get(message, "content");
    struct buf text = {0};
    struct jsonmake m;

    buf_add(&text, content->text, content->len);
    buf_add_str(&text, "\n\nAnswer with JSON only, without any other text. It has to fit this JSON schema:\n");
    json_add(&text, schema_source(schema));
    jsonmake_begin(&m, arena, JSON_OBJECT);
    jsonmake_put(&m, "role", json_get(message, "role"));
    jsonmake_put(&m, "content", jsonmake_str(arena, text.data, text.len));
    buf_release(&text);
    return jsonmake_end(&m);
}

int generate_messages(const struct pipeline_step *step, const struct expr_scope *scope, struct arena *arena,
                      const struct json **messages, struct err *err)
{
    const struct json *list, *content;
    struct jsonmake m;
    int rc = template_render(generate_of(step)->messages, scope, arena, &list, err);

    if (rc)
        return rc;
    jsonmake_begin(&m, arena, JSON_ARRAY);
    for (const struct json *c = list->child; c; c = c->next) {
        struct jsonmake message;
        content = json_get(c, "content");
        if (content->kind == JSON_NULL)
            return err_set(err, ERR_MISSING, "the text of a message is null: | default(\"\") says what stands there "
                                             "instead");
        if (content->kind != JSON_STRING) { /* one {{ }} that gave a list or a number: as in a longer text */
            struct buf text = {0};
            json_add(&text, content);
            content = jsonmake_str(arena, text.data, text.len);
            buf_release(&text);
        }
        jsonmake_begin(&message, arena, JSON_OBJECT);
        jsonmake_put(&message, "role", json_get(c, "role"));
        jsonmake_put(&message, "content", content);
        jsonmake_add(&m, !c->next && step->output ? with_schema(jsonmake_end(&message), step->output, arena)
                                                  : jsonmake_end(&message));
    }
    *messages = jsonmake_end(&m);
    return 0;
}

/* A copy of the list that can take more; the messages themselves are shared. */
static struct jsonmake reopened(const struct json *messages, struct arena *arena)
{
    struct jsonmake m;

    jsonmake_begin(&m, arena, JSON_ARRAY);
    for (const struct json *c = messages->child; c; c = c->next)
        jsonmake_add(&m, c);
    return m;
}

static void add_text_message(struct jsonmake *list, const char *role, const char *text, size_t len)
{
    struct jsonmake m;

    jsonmake_begin(&m, list->arena, JSON_OBJECT);
    jsonmake_put(&m, "role", jsonmake_cstr(list->arena, role));
    jsonmake_put(&m, "content", jsonmake_str(list->arena, text, len));
    jsonmake_add(list, jsonmake_end(&m));
}

const struct json *generate_append(const struct json *messages, const char *role, const char *text, size_t len,
                                   struct arena *arena)
{
    struct jsonmake m = reopened(messages, arena);

    add_text_message(&m, role, text, len);
    return jsonmake_end(&m);
}

const struct json *generate_append_calls(const struct json *messages, const struct json *message,
                                         const struct json *const *result, int n_result, struct arena *arena)
{
    const struct json *calls = json_get(message, "tool_calls");
    const struct json *call = calls ? calls->child : NULL;
    struct jsonmake m = reopened(messages, arena);

    ASSERT(calls && calls->n == (uint32_t)n_result);
    jsonmake_add(&m, message);
    for (int i = 0; i < n_result; i++, call = call->next) {
        const struct json *id = json_get(call, "id"), *content = result[i];
        struct jsonmake reply;
        if (content->kind != JSON_STRING) {
            struct buf text = {0};
            json_add(&text, content);
            content = jsonmake_str(arena, text.data, text.len);
            buf_release(&text);
        }
        jsonmake_begin(&reply, arena, JSON_OBJECT);
        jsonmake_put(&reply, "role", jsonmake_cstr(arena, "tool"));
        if (id)
            jsonmake_put(&reply, "tool_call_id", id);
        jsonmake_put(&reply, "content", content);
        jsonmake_add(&m, jsonmake_end(&reply));
    }
    return jsonmake_end(&m);
}

const struct json *generate_repair(const struct json *messages, const char *content, size_t len,
                                   const struct buf *report, struct arena *arena)
{
    struct jsonmake m = reopened(messages, arena);
    struct buf text = {0};

    add_text_message(&m, "assistant", content, len);
    buf_add_str(&text, "This answer does not fit:\n");
    buf_add(&text, report->data ? report->data : "", report->len);
    buf_add_str(&text, "Give the whole answer again, corrected: JSON only, without any other text.");
    add_text_message(&m, "user", text.data, text.len);
    buf_release(&text);
    return jsonmake_end(&m);
}

/* ---- request ------------------------------------------------------------------------------------------ */

static void add_tools(struct buf *out, const struct pipeline_agent *agent)
{
    buf_add_str(out, ",\"tools\":[");
    for (int i = 0; i < agent->n_tool; i++) {
        const struct pipeline_tool *t = &agent->tool[i];
        buf_addf(out, "%s{\"type\":\"function\",\"function\":{\"name\":", i ? "," : "");
        json_add_str(out, t->name, strlen(t->name));
        buf_add_str(out, ",\"description\":");
        json_add_str(out, t->description, strlen(t->description));
        buf_add_str(out, ",\"parameters\":");
        json_add(out, t->parameters_json);
        buf_add_str(out, "}}");
    }
    buf_add_char(out, ']');
}

int generate_body(const struct pipeline_step *step, const struct expr_scope *scope, const struct json *messages,
                  struct buf *out, struct err *err)
{
    const struct json *options;
    struct arena arena = {0};
    int rc = template_render(generate_of(step)->options, scope, &arena, &options, err);

    if (rc == 0) {
        buf_add_str(out, "{\"messages\":");
        json_add(out, messages);
        for (const struct json *c = options->child; c; c = c->next) {
            if (c->kind == JSON_NULL)
                continue; /* a template that says: as if it were not written */
            buf_add_char(out, ',');
            json_add_str(out, c->key, c->key_len);
            buf_add_char(out, ':');
            if (strcmp(c->key, "thinking") == 0 && json_is_bool(c))
                buf_addf(out, "{\"type\":\"%s\"}", c->kind == JSON_TRUE ? "enabled" : "disabled");
            else
                json_add(out, c);
        }
        if (step->kind == PIPELINE_agent)
            add_tools(out, &step->u.agent);
        buf_add_char(out, '}');
    }
    arena_release(&arena);
    return rc;
}

/* ---- answer ------------------------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Take white space and one fence of ``` off. */
static void unwrap(const char **text, size_t *len)
{
    const char *p = *text, *end = *text + *len;

    while (p < end && is_space(*p))
        p++;
    while (end > p && is_space(end[-1]))
        end--;
    if (end - p >= 6 && memcmp(p, "```", 3) == 0 && memcmp(end - 3, "```", 3) == 0) {
        const char *line = memchr(p, '\n', (size_t)(end - p));
        if (line && line < end - 3) {
            p = line + 1;
            end -= 3;
        }
    }
    *text = p;
    *len = (size_t)(end - p);
}

int generate_output(const struct pipeline_step *step, const char *content, size_t len, struct arena *arena,
                    const struct json **value, struct buf *report)
{
    const struct json *made;
    struct err why = {0};

    if (!step->output) {
        struct buf clean = {0};
        utf8_add_replaced(&clean, content, len);
        *value = jsonmake_str(arena, clean.len ? clean.data : "", clean.len);
        buf_release(&clean);
        return 0;
    }
    unwrap(&content, &len);
    if (json_parse(content, len, 0, arena, &made, &why) != 0) {
        buf_addf(report, "the answer is no JSON: %s\n", why.text);
        return ERR_FORMAT;
    }
    if (schema_check(step->output, made, report))
        return ERR_RANGE;
    *value = made;
    return 0;
}
