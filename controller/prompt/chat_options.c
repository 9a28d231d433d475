/* The fields of a chat request beside the messages that change its prompt: thinking, tools, response format. */
#include "common/base/check.h"
#include "controller/prompt/chat_impl.h"

#include <stdio.h>
#include <string.h>

/* ---- thinking and effort (spec/chat.md section 6, rule 5 of section 8) --------------------------------- */

/* What a client may say, and what it means. CHAT_EFFORT_NONE is "do not think". */
static const struct {
    const char *name;
    enum chat_effort effort;
} efforts[] = {
    {"none", CHAT_EFFORT_NONE}, {"minimal", CHAT_EFFORT_LOW}, {"low", CHAT_EFFORT_LOW}, {"medium", CHAT_EFFORT_HIGH},
    {"high", CHAT_EFFORT_HIGH}, {"xhigh", CHAT_EFFORT_HIGH},  {"max", CHAT_EFFORT_MAX}, {"ultra", CHAT_EFFORT_MAX},
};

/* What was said so far. */
struct wish {
    bool off;
    bool has_effort;
    enum chat_effort effort;
};

static int read_effort(const struct json *obj, const char *where, struct wish *w, struct chat_fault *fault)
{
    const struct json *said = json_get(obj, "reasoning_effort");
    char shown[CHAT_SHOWN_MAX + 4];

    if (chat__is_absent(said))
        return 0;
    for (size_t i = 0; i < N_ELEM(efforts); i++) {
        if (!json_is_str(said, efforts[i].name))
            continue;
        if (efforts[i].effort == CHAT_EFFORT_NONE)
            w->off = true;
        else if (!w->has_effort)
            w->effort = efforts[i].effort;
        w->has_effort = true;
        return 0;
    }
    return err_set(
        chat__at(fault, "%sreasoning_effort", where), ERR_ARG,
        "reasoning_effort '%s' is unknown, it has to be none, minimal, low, medium, high, xhigh, max or ultra",
        chat__shown(said, shown));
}

static int read_switch(const struct json *kwargs, const char *name, struct wish *w, struct chat_fault *fault)
{
    const struct json *j = json_get(kwargs, name);

    if (chat__is_absent(j))
        return 0;
    if (!json_is_bool(j))
        return err_set(chat__at(fault, "chat_template_kwargs.%s", name), ERR_ARG,
                       "%s has to be true or false, not %s", name, json_kind_name(j));
    if (j->kind == JSON_FALSE)
        w->off = true;
    return 0;
}

static int read_kwargs(const struct json *request, struct wish *w, struct chat_fault *fault)
{
    const struct json *kwargs = json_get(request, "chat_template_kwargs");
    int rc;

    if (chat__is_absent(kwargs))
        return 0;
    if (kwargs->kind != JSON_OBJECT)
        return err_set(chat__at(fault, "chat_template_kwargs"), ERR_ARG,
                       "chat_template_kwargs has to be an object, not %s", json_kind_name(kwargs));
    if ((rc = read_switch(kwargs, "thinking", w, fault)) || (rc = read_switch(kwargs, "enable_thinking", w, fault)))
        return rc;
    return read_effort(kwargs, "chat_template_kwargs.", w, fault);
}

int chat__read_thinking(const struct json *request, struct chat_opts *o, struct chat_fault *fault)
{
    const struct json *thinking = json_get(request, "thinking"), *type = json_get(thinking, "type");
    struct wish w = {.effort = CHAT_EFFORT_HIGH};

    if (!chat__is_absent(thinking)) {
        if (thinking->kind != JSON_OBJECT)
            return err_set(chat__at(fault, "thinking"), ERR_ARG, "thinking has to be an object, not %s",
                           json_kind_name(thinking));
        if (json_is_str(type, "disabled"))
            w.off = true;
        else if (!json_is_str(type, "enabled"))
            return err_set(chat__at(fault, "thinking.type"), ERR_ARG,
                           "type of thinking has to be enabled or disabled");
    }
    int rc = read_effort(request, "", &w, fault);
    if (!rc)
        rc = read_kwargs(request, &w, fault);
    if (rc)
        return rc;
    o->thinking = !w.off;
    o->effort = w.effort;
    if (o->profile == CHAT_PREVIEW && o->effort == CHAT_EFFORT_LOW)
        o->effort = CHAT_EFFORT_HIGH; /* the preview encoder has no low; its high adds no text either */
    return 0;
}

/* ---- tools (rule 4) ----------------------------------------------------------------------------------- */

static bool is_tool(const struct json *tools, const struct json *name)
{
    for (const struct json *t = tools ? tools->child : NULL; t; t = t->next) {
        const struct json *known = json_get(json_get(t, "function"), "name");
        if (known->len == name->len && memcmp(known->text, name->text, name->len) == 0)
            return true;
    }
    return false;
}

/* {"type": "function", "function": {"name"}}: has to name one of the tools. */
static int check_named(const struct json *choice, const struct json *tools, const char *where,
                       struct chat_fault *fault)
{
    const struct json *name = json_get(json_get(choice, "function"), "name");
    char shown[CHAT_SHOWN_MAX + 4];

    if (!json_is_str(json_get(choice, "type"), "function"))
        return err_set(chat__at(fault, "%s.type", where), ERR_ARG, "only tools of type function can be chosen");
    if (!json_is(name, JSON_STRING))
        return err_set(chat__at(fault, "%s.function.name", where), ERR_ARG, "the chosen function needs a name");
    if (!is_tool(tools, name))
        return err_set(chat__at(fault, "%s.function.name", where), ERR_ARG, "no tool of this request is called '%s'",
                       chat__shown(name, shown));
    return 0;
}

/* {"type": "allowed_tools", "allowed_tools": {"mode": "auto"|"required", "tools": [...]}} */
static int check_allowed(const struct json *choice, const struct json *tools, struct chat_fault *fault)
{
    const struct json *allowed = json_get(choice, "allowed_tools");
    const struct json *mode = json_get(allowed, "mode"), *list = json_get(allowed, "tools");
    char where[CHAT_PARAM_MAX / 2];
    uint32_t i = 0;

    if (!json_is(allowed, JSON_OBJECT))
        return err_set(chat__at(fault, "tool_choice.allowed_tools"), ERR_ARG,
                       "allowed_tools has to be an object, not %s", json_kind_name(allowed));
    if (!json_is_str(mode, "auto") && !json_is_str(mode, "required"))
        return err_set(chat__at(fault, "tool_choice.allowed_tools.mode"), ERR_ARG, "mode has to be auto or required");
    if (!json_is(list, JSON_ARRAY) || list->n == 0 || list->n > CHAT_TOOLS_MAX)
        return err_set(chat__at(fault, "tool_choice.allowed_tools.tools"), ERR_ARG,
                       "tools has to be a list of 1 to %d tools", CHAT_TOOLS_MAX);
    for (const struct json *t = list->child; t; t = t->next, i++) {
        snprintf(where, sizeof where, "tool_choice.allowed_tools.tools[%u]", i);
        int rc = check_named(t, tools, where, fault);
        if (rc)
            return rc;
    }
    return 0;
}

int chat__read_tool_choice(const struct json *request, const struct json **tools, struct chat_fault *fault)
{
    const struct json *choice = json_get(request, "tool_choice");

    int rc = chat__read_tools(request, "tools", tools, fault);
    if (rc || chat__is_absent(choice) || json_is_str(choice, "auto"))
        return rc;
    if (json_is_str(choice, "none")) {
        *tools = NULL; /* they are not rendered and cost no tokens */
        return 0;
    }
    if (json_is_str(choice, "required")) {
        if (!*tools)
            return err_set(chat__at(fault, "tool_choice"), ERR_ARG, "tool_choice required needs tools");
        return 0;
    }
    if (json_is_str(json_get(choice, "type"), "allowed_tools"))
        return check_allowed(choice, *tools, fault);
    if (json_is(choice, JSON_OBJECT))
        return check_named(choice, *tools, "tool_choice", fault);
    return err_set(chat__at(fault, "tool_choice"), ERR_ARG,
                   "tool_choice has to be none, auto, required or an object that names a function");
}

/* ---- response format (rule 6) -------------------------------------------------------------------------- */

int chat__read_response_format(const struct json *request, const struct json **schema, struct chat_fault *fault)
{
    const struct json *format = json_get(request, "response_format"), *type = json_get(format, "type");
    const struct json *json_schema = json_get(format, "json_schema"), *inner = json_get(json_schema, "schema");

    *schema = NULL;
    if (chat__is_absent(format))
        return 0;
    if (format->kind != JSON_OBJECT)
        return err_set(chat__at(fault, "response_format"), ERR_ARG, "response_format has to be an object, not %s",
                       json_kind_name(format));
    if (json_is_str(type, "text") || json_is_str(type, "json_object"))
        return 0;
    if (!json_is_str(type, "json_schema"))
        return err_set(chat__at(fault, "response_format.type"), ERR_ARG,
                       "type of response_format has to be text, json_object or json_schema");
    if (!json_is(json_schema, JSON_OBJECT))
        return err_set(chat__at(fault, "response_format.json_schema"), ERR_ARG,
                       "json_schema has to be an object with the schema in it, not %s", json_kind_name(json_schema));
    if (!json_is(inner, JSON_OBJECT))
        return err_set(chat__at(fault, "response_format.json_schema.schema"), ERR_ARG,
                       "schema has to be a JSON schema, which is an object, not %s", json_kind_name(inner));
    *schema = inner;
    return 0;
}
