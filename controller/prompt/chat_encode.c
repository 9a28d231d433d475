/* Messages -> prompt text: the official program of spec/chat.md sections 2-6, and rule 3 of section 8. */
#include "common/base/check.h"
#include "common/mem/mem.h"
#include "common/text/pyjson.h"
#include "controller/prompt/chat_impl.h"

#include <string.h>

static const char effort_h[] =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, "
    "rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered "
    "alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n";

static const char effort_m[] =
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose "
    "the problem into its most fundamental components, trace every causal chain to its root, and resolve the "
    "underlying cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple angles and are certain "
    "that no assumption remains unchecked and no error remains undiscovered.\n\n";

/* The one difference between the two generations (section 6). */
static const char *const effort_text[][4] = {
    [CHAT_PREVIEW] = {"", "", "", effort_h},
    [CHAT_0731] = {"", "", effort_h, effort_m},
};

/* Tasks and what they append. action stands behind an opened turn instead. */
static const struct {
    const char *name, *token;
} tasks[] = {
    {"action", "<｜action｜>"}, {"query", "<｜query｜>"}, {"authority", "<｜authority｜>"},
    {"domain", "<｜domain｜>"}, {"title", "<｜title｜>"}, {"read_url", "<｜read_url｜>"},
};

/* ---- pieces ------------------------------------------------------------------------------------------- */

void chat__add_client(struct chat_prompt *out, bool guard, const char *text, size_t n)
{
    size_t begin = out->text.len;

    buf_add(&out->text, text, n);
    if (!guard || n == 0)
        return;
    if (out->n_guard && out->guard[out->n_guard - 1].end == begin) {
        out->guard[out->n_guard - 1].end = out->text.len;
        return;
    }
    if (out->n_guard == out->cap_guard) {
        out->cap_guard = out->cap_guard ? out->cap_guard * 2 : 16;
        out->guard = mem_realloc(out->guard, out->cap_guard * sizeof *out->guard);
    }
    out->guard[out->n_guard++] = (struct tok_span){begin, out->text.len};
}

void chat__add_json(struct chat_prompt *out, bool guard, const struct json *j)
{
    struct buf text = {0};

    pyjson_add(&text, j);
    chat__add_client(out, guard, text.data, text.len);
    buf_release(&text);
}

struct render {
    const struct chat_opts *o;
    const struct chat_msg *msg;
    size_t n;
    long last_user; /* index of the last user or developer message, -1 if there is none */
    bool drop;
    struct arena *arena;
    struct chat_prompt *out;
    struct chat_fault *fault;
};

static void add(struct render *r, const char *text)
{
    buf_add_str(&r->out->text, text);
}

static void add_text(struct render *r, struct chat_text text)
{
    chat__add_client(r->out, r->o->api, text.p, text.n);
}

/* ---- one message -------------------------------------------------------------------------------------- */

static void add_system(struct render *r, const struct chat_msg *m)
{
    add_text(r, m->content);
    if (m->tools) {
        add(r, "\n\n");
        chat__add_tools(r->out, r->o->api, m->tools);
    }
    if (m->response_format) {
        add(r, "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n");
        chat__add_json(r->out, r->o->api, m->response_format);
    }
}

static void add_user(struct render *r, const struct chat_msg *m)
{
    add(r, CHAT_USER_TOK);
    for (size_t i = 0; i < m->n_block; i++) {
        if (i)
            add(r, "\n\n");
        if (m->block[i].result)
            add(r, "<tool_result>");
        add_text(r, m->block[i].text);
        if (m->block[i].result)
            add(r, "</tool_result>");
    }
}

static int add_assistant(struct render *r, size_t i)
{
    const struct chat_msg *m = &r->msg[i];
    bool after_task = i > 0 && r->msg[i - 1].task.p;

    if (r->o->thinking && !after_task && (!r->drop || (long)i > r->last_user)) {
        add_text(r, m->reasoning);
        add(r, CHAT_THINK_END);
    }
    add_text(r, m->content);
    int rc = chat__add_calls(r->out, r->o, m, r->arena, r->fault);
    if (rc)
        return rc;
    if (!m->wo_eos)
        add(r, CHAT_EOS);
    return 0;
}

static int add_message(struct render *r, size_t i)
{
    const struct chat_msg *m = &r->msg[i];

    switch (m->role) {
    case CHAT_SYSTEM:
        add_system(r, m);
        return 0;
    case CHAT_DEVELOPER:
        if (m->content.n == 0)
            return err_set(chat__at(r->fault, "messages[%u].content", m->place), ERR_ARG,
                           "content of a developer message must not be empty");
        add(r, CHAT_USER_TOK);
        add_system(r, m);
        return 0;
    case CHAT_USER:
        add_user(r, m);
        return 0;
    case CHAT_REMINDER:
        add(r, "<｜latest_reminder｜>");
        add_text(r, m->content);
        return 0;
    case CHAT_ASSISTANT:
        return add_assistant(r, i);
    case CHAT_TOOL: /* merged before */
    case CHAT_OTHER:
        break;
    }
    return err_set(chat__at(r->fault, "messages[%u].role", m->place), ERR_ARG, "unknown role");
}

/* ---- what follows a message --------------------------------------------------------------------------- */

static void open_turn(struct render *r, bool think)
{
    add(r, CHAT_ASST_TOK);
    add(r, think ? CHAT_THINK : CHAT_THINK_END);
    r->out->in_reasoning = think;
}

static int add_task(struct render *r, const struct chat_msg *m)
{
    for (size_t i = 0; i < N_ELEM(tasks); i++) {
        if (strlen(tasks[i].name) != m->task.n || memcmp(tasks[i].name, m->task.p, m->task.n) != 0)
            continue;
        if (i == 0)
            open_turn(r, r->o->thinking);
        add(r, tasks[i].token);
        r->out->in_reasoning = false; /* the answer follows the token, there is no </think> in it */
        return 0;
    }
    return err_set(chat__at(r->fault, "messages[%u].task", m->place), ERR_ARG,
                   "unknown task, it has to be action, query, authority, domain, title or read_url");
}

static int add_transition(struct render *r, size_t i)
{
    const struct chat_msg *m = &r->msg[i];
    const struct chat_msg *next = i + 1 < r->n ? m + 1 : NULL;

    if (next && next->role != CHAT_ASSISTANT && next->role != CHAT_REMINDER)
        return 0;
    if (m->task.p)
        return add_task(r, m);
    /* The official encoder opens no turn behind a system message: then the model says nothing (section 8 rule 3). */
    bool opens = m->role == CHAT_USER || m->role == CHAT_DEVELOPER || (m->role == CHAT_SYSTEM && r->o->api);
    if (opens)
        open_turn(r, r->o->thinking && (!r->drop || (long)i >= r->last_user));
    return 0;
}

/* ---- the whole ---------------------------------------------------------------------------------------- */

static long find_last_user(const struct chat_list *list)
{
    for (size_t i = list->n; i-- > 0;)
        if (list->msg[i].role == CHAT_USER || list->msg[i].role == CHAT_DEVELOPER)
            return (long)i;
    return -1;
}

/* Section 4: of the messages before the last user message, the reasoning goes, and so do the odd roles. */
static void drop_reasoning(struct chat_list *list)
{
    long last_user = find_last_user(list);
    size_t n = 0;

    for (size_t i = 0; i < list->n; i++) {
        struct chat_msg m = list->msg[i];
        if ((long)i < last_user) {
            if (m.role == CHAT_DEVELOPER || m.role == CHAT_OTHER)
                continue;
            m.reasoning = (struct chat_text){"", 0};
        }
        list->msg[n++] = m;
    }
    list->n = n;
}

static bool has_tools(const struct chat_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        if (list->msg[i].tools)
            return true;
    return false;
}

int chat__encode(const struct chat_list *context, const struct chat_list *messages, const struct chat_opts *o,
                 struct arena *arena, struct chat_prompt *out, struct chat_fault *fault)
{
    struct chat_list list = {.msg = arena_array(arena, context->n + messages->n, sizeof *list.msg)};
    struct render r = {.o = o, .arena = arena, .out = out, .fault = fault};
    int rc = 0;

    chat__merge(context, arena, &list);
    chat__merge(messages, arena, &list);
    chat__sort_results(&list, arena);
    r.drop = o->drop_thinking && !has_tools(&list);
    out->tools_on = has_tools(&list);
    if (o->thinking && r.drop)
        drop_reasoning(&list);
    r.msg = list.msg;
    r.n = list.n;
    r.last_user = find_last_user(&list);
    if (o->add_bos && context->n == 0)
        add(&r, CHAT_BOS);
    for (size_t i = 0; i < r.n && !rc; i++) {
        if (r.msg[i].is_context)
            continue;
        if (i == 0 && o->thinking)
            add(&r, effort_text[o->profile][o->effort]);
        out->in_reasoning = false;
        rc = add_message(&r, i);
        if (!rc)
            rc = add_transition(&r, i);
    }
    return rc;
}
