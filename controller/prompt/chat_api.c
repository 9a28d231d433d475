/* Level `api`: the body of a chat completion request -> messages of the encoder (spec/chat.md section 8, spec/api.md
 * section 4.1). Fields that do not touch the prompt are none of its business. */
#include "common/base/check.h"
#include "controller/prompt/chat_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- messages ----------------------------------------------------------------------------------------- */

static int read_role(const struct json *j, const char *where, enum chat_role *role, struct chat_fault *fault)
{
    static const struct {
        const char *name;
        enum chat_role role;
    } roles[] = {
        {"system", CHAT_SYSTEM},       {"developer", CHAT_SYSTEM}, {"user", CHAT_USER},
        {"assistant", CHAT_ASSISTANT}, {"tool", CHAT_TOOL},
    };
    const struct json *name = json_get(j, "role");
    char shown[CHAT_SHOWN_MAX + 4];

    for (size_t i = 0; i < N_ELEM(roles); i++) {
        if (json_is_str(name, roles[i].name)) {
            *role = roles[i].role;
            return 0;
        }
    }
    return err_set(chat__at(fault, "%s.role", where), ERR_ARG,
                   "role '%s' is unknown, it has to be system, developer, user, assistant or tool",
                   chat__shown(name, shown));
}

/* reasoning_content, else reasoning (rule 7). */
static int read_reasoning(const struct json *j, const char *where, struct chat_text *text, struct chat_fault *fault)
{
    static const char *const names[] = {"reasoning_content", "reasoning"};

    *text = chat__text(NULL);
    for (size_t i = 0; i < N_ELEM(names); i++) {
        const struct json *value = json_get(j, names[i]);
        if (chat__is_absent(value))
            continue;
        if (value->kind != JSON_STRING)
            return err_set(chat__at(fault, "%s.%s", where, names[i]), ERR_ARG, "%s has to be a string, not %s",
                           names[i], json_kind_name(value));
        *text = chat__text(value);
        return 0;
    }
    return 0;
}

/* `prefix` (rule 8) is only for the last message, and that has to be the assistant's. */
static int read_prefix(const struct json *j, const char *where, bool may, bool *prefix, struct chat_fault *fault)
{
    const struct json *value = json_get(j, "prefix");

    *prefix = json_is(value, JSON_TRUE);
    if (!chat__is_absent(value) && !json_is_bool(value))
        return err_set(chat__at(fault, "%s.prefix", where), ERR_ARG, "prefix has to be true or false, not %s",
                       json_kind_name(value));
    if (*prefix && !may)
        return err_set(chat__at(fault, "%s.prefix", where), ERR_ARG,
                       "prefix is only for the last message, and that has to be an assistant message");
    return 0;
}

static int read_message(const struct json *j, uint32_t i, struct arena *arena, struct chat_msg *m,
                        struct chat_fault *fault)
{
    char where[CHAT_PARAM_MAX / 2];

    snprintf(where, sizeof where, "messages[%u]", i);
    if (!json_is(j, JSON_OBJECT))
        return err_set(chat__at(fault, "%s", where), ERR_ARG, "a message has to be an object, not %s",
                       json_kind_name(j));
    *m = (struct chat_msg){.place = i, .reasoning = chat__text(NULL), .id = chat__text(NULL)};
    int rc = read_role(j, where, &m->role, fault);
    if (rc)
        return rc;
    bool assistant = m->role == CHAT_ASSISTANT;
    struct chat_content_rule rule = {.allow_null = assistant || m->role == CHAT_TOOL, .allow_refusal = assistant};
    if ((rc = chat__read_content(j, rule, where, arena, &m->content, fault)) ||
        (rc = read_prefix(j, where, assistant && !j->next, &m->wo_eos, fault)))
        return rc;
    if (m->role == CHAT_TOOL) {
        if (!json_is(json_get(j, "tool_call_id"), JSON_STRING))
            return err_set(chat__at(fault, "%s.tool_call_id", where), ERR_ARG,
                           "a tool message needs the id of the call that it answers");
        m->id = chat__text(json_get(j, "tool_call_id"));
    }
    if (!assistant)
        return 0;
    rc = read_reasoning(j, where, &m->reasoning, fault);
    return rc ? rc : chat__read_calls(j, where, true, arena, m, fault);
}

/* The last message decides who speaks next (rule 8). */
static int check_last(const struct json *request, struct chat_list *list, struct chat_fault *fault)
{
    const struct json *go_on = json_get(request, "continue_final_message");
    struct chat_msg *last = &list->msg[list->n - 1];

    if (!chat__is_absent(go_on) && !json_is_bool(go_on))
        return err_set(chat__at(fault, "continue_final_message"), ERR_ARG,
                       "continue_final_message has to be true or false, not %s", json_kind_name(go_on));
    if (json_is(go_on, JSON_TRUE) && last->role != CHAT_ASSISTANT)
        return err_set(chat__at(fault, "continue_final_message"), ERR_ARG,
                       "continue_final_message needs an assistant message at the end");
    if (json_is(go_on, JSON_TRUE))
        last->wo_eos = true;
    if (last->role == CHAT_ASSISTANT && !last->wo_eos)
        return err_set(
            chat__at(fault, "messages[%u].role", last->place), ERR_ARG,
            "the last message has to be from user, tool or system, or an assistant message with prefix true");
    return 0;
}

/* ---- answers to calls --------------------------------------------------------------------------------- */

struct call_place {
    struct chat_text id;
    size_t msg;
};

static int compare_places(const void *a, const void *b)
{
    const struct call_place *x = a, *y = b;
    size_t n = x->id.n < y->id.n ? x->id.n : y->id.n;
    int c = memcmp(x->id.p, y->id.p, n);
    if (c == 0)
        c = (x->id.n > y->id.n) - (x->id.n < y->id.n);
    return c ? c : (x->msg > y->msg) - (x->msg < y->msg);
}

/* A call with this id stands in a message before number msg. */
static bool is_called_before(const struct call_place *place, size_t n, struct chat_text id, size_t msg)
{
    struct call_place key = {id, 0};
    size_t low = 0, high = n;

    while (low < high) { /* the first place that is not less than (id, 0): the earliest call of this id */
        size_t middle = low + (high - low) / 2;
        if (compare_places(&place[middle], &key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && place[low].id.n == id.n && memcmp(place[low].id.p, id.p, id.n) == 0 && place[low].msg < msg;
}

static int check_answers(const struct chat_list *list, struct arena *arena, struct chat_fault *fault)
{
    size_t n = 0;

    for (size_t i = 0; i < list->n; i++)
        n += list->msg[i].n_call;
    struct call_place *place = arena_array(arena, n, sizeof *place);
    n = 0;
    for (size_t i = 0; i < list->n; i++)
        for (size_t k = 0; k < list->msg[i].n_call; k++)
            place[n++] = (struct call_place){list->msg[i].call[k].id, i};
    qsort(place, n, sizeof *place, compare_places);
    for (size_t i = 0; i < list->n; i++)
        if (list->msg[i].role == CHAT_TOOL && !is_called_before(place, n, list->msg[i].id, i))
            return err_set(chat__at(fault, "messages[%u].tool_call_id", list->msg[i].place), ERR_ARG,
                           "this tool message answers no call of an assistant message before it");
    return 0;
}

static int read_messages(const struct json *request, struct arena *arena, struct chat_list *list,
                         struct chat_fault *fault)
{
    const struct json *messages;
    uint32_t i = 0;

    int rc = chat__read_list(request, "messages", &messages, fault);
    if (rc)
        return rc;
    if (messages->n == 0)
        return err_set(chat__at(fault, "messages"), ERR_ARG, "messages must not be empty");
    /* Room for one system message in front, see put_system. */
    list->msg = arena_array(arena, (size_t)messages->n + 1, sizeof *list->msg);
    list->msg++;
    for (const struct json *j = messages->child; j; j = j->next, i++) {
        rc = read_message(j, i, arena, &list->msg[i], fault);
        if (rc)
            return rc;
    }
    list->n = messages->n;
    rc = check_last(request, list, fault);
    return rc ? rc : check_answers(list, arena, fault);
}

/* An empty system message in front of all others. */
static struct chat_msg *put_system(struct chat_list *list)
{
    list->msg--;
    list->n++;
    list->msg[0] = (struct chat_msg){.role = CHAT_SYSTEM, .content = chat__text(NULL), .reasoning = chat__text(NULL)};
    return &list->msg[0];
}

/* Rule 4. */
static void place_tools(struct chat_list *list, const struct json *tools)
{
    struct chat_msg *system = list->msg[0].role == CHAT_SYSTEM ? &list->msg[0] : put_system(list);
    system->tools = tools;
}

/* Rule 6. */
static void place_format(struct chat_list *list, const struct json *schema)
{
    struct chat_msg *system = NULL;

    for (size_t i = 0; i < list->n && !system; i++)
        if (list->msg[i].role == CHAT_SYSTEM)
            system = &list->msg[i];
    if (!system)
        system = put_system(list);
    system->response_format = schema;
}

int chat_render_api(const struct json *request, enum chat_profile profile, struct chat_prompt *out,
                    struct chat_fault *fault)
{
    struct chat_opts o = {.profile = profile, .api = true, .drop_thinking = true, .add_bos = true};
    const struct json *tools = NULL, *schema = NULL;
    struct chat_list none = {0}, list = {0};
    struct arena arena = {0};
    int rc;

    *out = (struct chat_prompt){0};
    if (!json_is(request, JSON_OBJECT))
        return err_set(chat__at(fault, "%s", ""), ERR_ARG, "the request is no JSON object");
    if ((rc = read_messages(request, &arena, &list, fault)) || (rc = chat__read_thinking(request, &o, fault)) ||
        (rc = chat__read_tool_choice(request, &tools, fault)) ||
        (rc = chat__read_response_format(request, &schema, fault)))
        goto out;
    if (tools)
        place_tools(&list, tools);
    if (schema)
        place_format(&list, schema);
    rc = chat__encode(&none, &list, &o, &arena, out, fault);
    if (rc)
        chat_prompt_release(out);
out:
    arena_release(&arena);
    return rc;
}
