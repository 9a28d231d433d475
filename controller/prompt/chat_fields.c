/* The parts of messages that both levels read: text, content parts, tool calls, tool definitions. */
#include "controller/prompt/chat_impl.h"

#include <string.h>

struct chat_text chat__text(const struct json *j)
{
    return json_is(j, JSON_STRING) ? (struct chat_text){j->text, j->len} : (struct chat_text){"", 0};
}

int chat__read_list(const struct json *obj, const char *name, const struct json **list, struct chat_fault *fault)
{
    const struct json *j = json_get(obj, name);

    if (!json_is(j, JSON_ARRAY))
        return err_set(chat__at(fault, "%s", name), ERR_ARG, "%s has to be a list, not %s", name, json_kind_name(j));
    if (j->n > CHAT_MESSAGES_MAX)
        return err_set(chat__at(fault, "%s", name), ERR_ARG, "%u messages are more than the limit of %d", j->n,
                       CHAT_MESSAGES_MAX);
    *list = j;
    return 0;
}

/* The text of part number i, as a piece of the message's text. skip: the part has none and no separator. */
static int read_part(const struct json *part, uint32_t i, struct chat_content_rule rule, const char *where,
                     bool *skip, struct buf *text, struct chat_fault *fault)
{
    const struct json *type = json_get(part, "type"), *t = json_get(part, "text");
    char shown[CHAT_SHOWN_MAX + 4];

    *skip = false;
    if (!json_is(part, JSON_OBJECT))
        return err_set(chat__at(fault, "%s.content[%u]", where, i), ERR_ARG,
                       "a content part has to be an object, not %s", json_kind_name(part));
    if (!json_is(type, JSON_STRING))
        return err_set(chat__at(fault, "%s.content[%u].type", where, i), ERR_ARG, "a content part needs a type");
    if (json_is_str(type, "text")) {
        if (!json_is(t, JSON_STRING))
            return err_set(chat__at(fault, "%s.content[%u].text", where, i), ERR_ARG,
                           "text of a content part has to be a string, not %s", json_kind_name(t));
        buf_add(text, t->text, t->len);
        return 0;
    }
    if (rule.allow_refusal && json_is_str(type, "refusal")) {
        *skip = true;
        return 0;
    }
    if (!rule.lenient)
        return err_set(chat__at(fault, "%s.content[%u].type", where, i), ERR_ARG,
                       "content parts of type '%s' are not supported, only 'text'", chat__shown(type, shown));
    buf_add_str(text, "[Unsupported ");
    buf_add(text, type->text, type->len);
    buf_add_char(text, ']');
    return 0;
}

int chat__read_content(const struct json *msg, struct chat_content_rule rule, const char *where, struct arena *arena,
                       struct chat_text *text, struct chat_fault *fault)
{
    const struct json *content = json_get(msg, "content");
    struct buf joined = {0};
    bool skip, first = true;
    uint32_t i = 0;
    int rc = 0;

    if (json_is(content, JSON_STRING) || (rule.allow_null && chat__is_absent(content))) {
        *text = chat__text(content);
        return 0;
    }
    if (!json_is(content, JSON_ARRAY))
        return err_set(chat__at(fault, "%s.content", where), ERR_ARG,
                       "content has to be a string or a list of parts, not %s", json_kind_name(content));
    for (const struct json *part = content->child; part && !rc; part = part->next, i++) {
        size_t before = joined.len;
        if (!first)
            buf_add(&joined, "\n\n", 2);
        rc = read_part(part, i, rule, where, &skip, &joined, fault);
        if (skip)
            joined.len = before;
        else
            first = false;
    }
    if (!rc) {
        text->n = joined.len;
        text->p = arena_dup(arena, joined.data, joined.len);
    }
    buf_release(&joined);
    return rc;
}

static int read_call(const struct json *j, const char *where, uint32_t i, bool api, struct chat_call *call,
                     struct chat_fault *fault)
{
    const struct json *type = json_get(j, "type"), *id = json_get(j, "id");
    const struct json *function = json_get(j, "function"), *name = json_get(function, "name");
    const struct json *arguments = json_get(function, "arguments");
    char shown[CHAT_SHOWN_MAX + 4];

    if (!json_is(j, JSON_OBJECT))
        return err_set(chat__at(fault, "%s.tool_calls[%u]", where, i), ERR_ARG,
                       "a tool call has to be an object, not %s", json_kind_name(j));
    if (api && !chat__is_absent(type) && !json_is_str(type, "function"))
        return err_set(chat__at(fault, "%s.tool_calls[%u].type", where, i), ERR_ARG,
                       "tool calls of type '%s' are not supported, only 'function'", chat__shown(type, shown));
    if (!json_is(function, JSON_OBJECT))
        return err_set(chat__at(fault, "%s.tool_calls[%u].function", where, i), ERR_ARG,
                       "function of a tool call has to be an object, not %s", json_kind_name(function));
    if (!json_is(name, JSON_STRING) || (api && name->len == 0))
        return err_set(chat__at(fault, "%s.tool_calls[%u].function.name", where, i), ERR_ARG,
                       "a tool call needs the name of its function");
    if (api && !chat__is_absent(arguments) && arguments->kind != JSON_STRING && arguments->kind != JSON_OBJECT)
        return err_set(chat__at(fault, "%s.tool_calls[%u].function.arguments", where, i), ERR_ARG,
                       "arguments have to be a string that holds a JSON object, not %s", json_kind_name(arguments));
    if (api && !json_is(id, JSON_STRING))
        return err_set(chat__at(fault, "%s.tool_calls[%u].id", where, i), ERR_ARG, "a tool call needs an id");
    call->id = chat__text(id);
    call->name = chat__text(name);
    call->arguments = arguments;
    return 0;
}

int chat__read_calls(const struct json *msg, const char *where, bool api, struct arena *arena, struct chat_msg *out,
                     struct chat_fault *fault)
{
    const struct json *calls = json_get(msg, "tool_calls");
    uint32_t i = 0;

    if (chat__is_absent(calls))
        return 0;
    if (calls->kind != JSON_ARRAY)
        return err_set(chat__at(fault, "%s.tool_calls", where), ERR_ARG, "tool_calls has to be a list, not %s",
                       json_kind_name(calls));
    out->call = arena_array(arena, calls->n, sizeof *out->call);
    for (const struct json *j = calls->child; j; j = j->next, i++) {
        int rc = read_call(j, where, i, api, &out->call[i], fault);
        if (rc)
            return rc;
    }
    out->n_call = calls->n;
    return 0;
}

static int check_tool(const struct json *tool, const char *where, uint32_t i, struct chat_fault *fault)
{
    const struct json *type = json_get(tool, "type"), *function = json_get(tool, "function");
    const struct json *name = json_get(function, "name"), *parameters = json_get(function, "parameters");
    char shown[CHAT_SHOWN_MAX + 4];

    if (!json_is(tool, JSON_OBJECT))
        return err_set(chat__at(fault, "%s[%u]", where, i), ERR_ARG, "a tool has to be an object, not %s",
                       json_kind_name(tool));
    if (!json_is_str(type, "function"))
        return err_set(chat__at(fault, "%s[%u].type", where, i), ERR_ARG,
                       "tools of type '%s' are not supported, only 'function'", chat__shown(type, shown));
    if (!json_is(function, JSON_OBJECT))
        return err_set(chat__at(fault, "%s[%u].function", where, i), ERR_ARG,
                       "a tool needs a function, which is an object");
    if (!json_is(name, JSON_STRING) || name->len == 0)
        return err_set(chat__at(fault, "%s[%u].function.name", where, i), ERR_ARG, "a function needs a name");
    if (!chat__is_absent(parameters) && parameters->kind != JSON_OBJECT)
        return err_set(chat__at(fault, "%s[%u].function.parameters", where, i), ERR_ARG,
                       "parameters have to be a JSON schema, which is an object, not %s", json_kind_name(parameters));
    return 0;
}

int chat__read_tools(const struct json *obj, const char *where, const struct json **tools, struct chat_fault *fault)
{
    const struct json *list = json_get(obj, "tools");
    uint32_t i = 0;

    *tools = NULL;
    if (chat__is_absent(list))
        return 0;
    if (list->kind != JSON_ARRAY)
        return err_set(chat__at(fault, "%s", where), ERR_ARG, "tools have to be a list, not %s",
                       json_kind_name(list));
    if (list->n > CHAT_TOOLS_MAX)
        return err_set(chat__at(fault, "%s", where), ERR_ARG, "%u tools are more than the limit of %d", list->n,
                       CHAT_TOOLS_MAX);
    for (const struct json *tool = list->child; tool; tool = tool->next, i++) {
        int rc = check_tool(tool, where, i, fault);
        if (rc)
            return rc;
    }
    if (list->n)
        *tools = list;
    return 0;
}
