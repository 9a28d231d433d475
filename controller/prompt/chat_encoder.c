/* Level `encoder`: the input of the official program, for its vectors and for `baton render`. Its callers are
 * trusted with special tokens, so there are no guards; kinds are checked all the same. */
#include "common/base/check.h"
#include "controller/prompt/chat_impl.h"

#include <stdio.h>

static const struct {
    const char *name;
    enum chat_role role;
} roles[] = {
    {"system", CHAT_SYSTEM},       {"developer", CHAT_DEVELOPER}, {"user", CHAT_USER},
    {"assistant", CHAT_ASSISTANT}, {"tool", CHAT_TOOL},           {"latest_reminder", CHAT_REMINDER},
};

/* The other roles are faults only where they are rendered: before the last user message they are dropped. */
static enum chat_role role_of(const struct json *role)
{
    for (size_t i = 0; i < N_ELEM(roles); i++)
        if (json_is_str(role, roles[i].name))
            return roles[i].role;
    return CHAT_OTHER;
}

static int read_string(const struct json *msg, const char *name, const char *where, struct chat_text *text,
                       struct chat_fault *fault)
{
    const struct json *j = json_get(msg, name);

    if (!chat__is_absent(j) && j->kind != JSON_STRING)
        return err_set(chat__at(fault, "%s.%s", where, name), ERR_ARG, "%s has to be a string, not %s", name,
                       json_kind_name(j));
    *text = chat__text(j);
    return 0;
}

static int read_bool(const struct json *obj, const char *name, const char *where, bool *value,
                     struct chat_fault *fault)
{
    const struct json *j = json_get(obj, name);

    if (chat__is_absent(j))
        return 0;
    if (!json_is_bool(j))
        return err_set(chat__at(fault, "%s%s", where, name), ERR_ARG, "%s has to be true or false, not %s", name,
                       json_kind_name(j));
    *value = j->kind == JSON_TRUE;
    return 0;
}

static int read_message(const struct json *j, const char *list, uint32_t i, struct arena *arena, struct chat_msg *m,
                        struct chat_fault *fault)
{
    const struct json *role = json_get(j, "role"), *format = json_get(j, "response_format");
    char where[CHAT_PARAM_MAX / 2], dotted[CHAT_PARAM_MAX / 2 + 1], tools[CHAT_PARAM_MAX / 2 + 6];
    int rc;

    snprintf(where, sizeof where, "%s[%u]", list, i);
    snprintf(dotted, sizeof dotted, "%s.", where);
    snprintf(tools, sizeof tools, "%s.tools", where);
    if (!json_is(j, JSON_OBJECT))
        return err_set(chat__at(fault, "%s", where), ERR_ARG, "a message has to be an object, not %s",
                       json_kind_name(j));
    if (!json_is(role, JSON_STRING))
        return err_set(chat__at(fault, "%s.role", where), ERR_ARG, "a message needs a role");
    *m = (struct chat_msg){.role = role_of(role), .place = i};
    struct chat_content_rule rule = {.allow_null = true, .lenient = true};
    if ((rc = chat__read_content(j, rule, where, arena, &m->content, fault)) ||
        (rc = read_string(j, "reasoning_content", where, &m->reasoning, fault)) ||
        (rc = read_string(j, "tool_call_id", where, &m->id, fault)) ||
        (rc = read_string(j, "task", where, &m->task, fault)) ||
        (rc = read_bool(j, "wo_eos", dotted, &m->wo_eos, fault)) ||
        (rc = chat__read_tools(j, tools, &m->tools, fault)) ||
        (rc = chat__read_calls(j, where, false, arena, m, fault)))
        return rc;
    if (chat__is_absent(json_get(j, "task")))
        m->task.p = NULL;
    if (!chat__is_absent(format))
        m->response_format = format;
    return 0;
}

static int read_list(const struct json *input, const char *name, bool context, struct arena *arena,
                     struct chat_list *out, struct chat_fault *fault)
{
    const struct json *list;
    uint32_t i = 0;

    int rc = chat__read_list(input, name, &list, fault);
    if (rc)
        return rc;
    out->msg = arena_array(arena, list->n, sizeof *out->msg);
    for (const struct json *j = list->child; j; j = j->next, i++) {
        rc = read_message(j, name, i, arena, &out->msg[i], fault);
        if (rc)
            return rc;
        out->msg[i].is_context = context;
    }
    out->n = list->n;
    return 0;
}

static int read_effort(const struct json *input, struct chat_opts *o, struct chat_fault *fault)
{
    const struct json *effort = json_get(input, "effort");

    if (chat__is_absent(effort))
        o->effort = CHAT_EFFORT_NONE;
    else if (json_is_str(effort, "low") && o->profile != CHAT_PREVIEW)
        o->effort = CHAT_EFFORT_LOW;
    else if (json_is_str(effort, "high"))
        o->effort = CHAT_EFFORT_HIGH;
    else if (json_is_str(effort, "max"))
        o->effort = CHAT_EFFORT_MAX;
    else
        return err_set(chat__at(fault, "effort"), ERR_ARG, "effort has to be %shigh or max",
                       o->profile == CHAT_PREVIEW ? "" : "low, ");
    return 0;
}

static int read_opts(const struct json *input, struct chat_opts *o, struct chat_fault *fault)
{
    const struct json *thinking = json_get(input, "thinking");
    int rc;

    o->drop_thinking = o->add_bos = true;
    o->thinking = json_is_str(thinking, "thinking");
    if (!o->thinking && !json_is_str(thinking, "chat"))
        return err_set(chat__at(fault, "thinking"), ERR_ARG, "thinking has to be \"thinking\" or \"chat\"");
    if ((rc = read_bool(input, "drop_thinking", "", &o->drop_thinking, fault)) ||
        (rc = read_bool(input, "add_bos", "", &o->add_bos, fault)))
        return rc;
    return read_effort(input, o, fault);
}

int chat_render_encoder(const struct json *input, enum chat_profile profile, struct chat_prompt *out,
                        struct chat_fault *fault)
{
    struct chat_opts o = {.profile = profile};
    struct chat_list context = {0}, messages = {0};
    struct arena arena = {0};
    int rc;

    *out = (struct chat_prompt){0};
    if (!json_is(input, JSON_OBJECT))
        return err_set(chat__at(fault, "%s", ""), ERR_ARG, "the input is no JSON object");
    rc = read_opts(input, &o, fault);
    if (!rc && !chat__is_absent(json_get(input, "context")))
        rc = read_list(input, "context", true, &arena, &context, fault);
    if (!rc)
        rc = read_list(input, "messages", false, &arena, &messages, fault);
    if (!rc)
        rc = chat__encode(&context, &messages, &o, &arena, out, fault);
    if (rc)
        chat_prompt_release(out);
    arena_release(&arena);
    return rc;
}
