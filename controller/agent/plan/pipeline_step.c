/* Steps: what all have in common, then one reader a kind. */
#include "common/base/check.h"
#include "controller/agent/plan/doc.h"
#include "controller/agent/plan/pipeline_impl.h"

#include <string.h>

static const char *const kind_names[] = {
#define X(name) #name,
    PIPELINE_KIND_LIST(X)
#undef X
};

const char *pipeline_kind_name(enum pipeline_kind kind)
{
    return (unsigned)kind < PIPELINE_KIND_N ? kind_names[kind] : "?";
}

/* ---- in common ---------------------------------------------------------------------------------------- */

static void read_retry(struct maker *m, const struct json *j, struct backoff *b)
{
    static const char *const keys[] = {"max", "base_ms", "max_ms", "on"};
    const char *names[FAULT_N];
    const struct json *on = json_get(j, "on");
    size_t n = 0;

    *b = backoff_default;
    if (!j || !pipeline__object(m, j, "retry", keys, N_ELEM(keys)))
        return;
    b->max = (int)pipeline__int(m, j, "max", 0, BACKOFF_MAX_MAX, b->max);
    b->max_ms = pipeline__int(m, j, "max_ms", 0, BACKOFF_MS_MAX, b->max_ms);
    b->base_ms = pipeline__int(m, j, "base_ms", 0, BACKOFF_MS_MAX,
                               b->base_ms < b->max_ms ? b->base_ms : b->max_ms);
    if (b->base_ms > b->max_ms) {
        pipeline__fault(m, j, "base_ms must not be above max_ms (%lld)", (long long)b->max_ms);
        b->base_ms = b->max_ms;
    }
    if (!on)
        return;
    b->on = 0;
    for (int f = FAULT_none + 1; f < FAULT_N; f++)
        if (fault_is_retryable((enum fault)f))
            names[n++] = fault_name((enum fault)f);
    if (on->kind != JSON_ARRAY)
        pipeline__fault(m, on, "on must be a list of classes of error: [busy, network]");
    for (const struct json *c = on->child; c; c = c->next) {
        enum fault f = c->kind == JSON_STRING ? fault_by_name(c->text) : FAULT_N;
        if (f != FAULT_N && fault_is_retryable(f))
            b->on |= 1u << f;
        else if (f != FAULT_N)
            pipeline__fault(m, c, "errors of class %s are never tried again", fault_name(f));
        else
            pipeline__fault(m, c, "no such class of error%s",
                            pipeline__near(m, c->kind == JSON_STRING ? c->text : "", names, n));
    }
}

static void read_id(struct maker *m, const struct json *j, struct pipeline_step *s)
{
    const struct json *id = json_get(j, "id");

    s->id = "";
    if (!id) {
        pipeline__fault(m, j, "a step needs an id");
        return;
    }
    if (id->kind != JSON_STRING || !pipeline__is_id(id->text, id->len)) {
        pipeline__fault(m, id, "an id has letters, digits, _ and -, a letter or _ first, at most %d", PIPELINE_ID_MAX);
        return;
    }
    s->id = id->text;
    for (int i = 0; i < m->n_step; i++)
        if (m->step[i] != s && strcmp(m->step[i]->id, s->id) == 0)
            pipeline__fault(m, id, "the id '%s' is there already, on line %d", s->id,
                            doc_line(json_get(m->step_source[i], "id")));
}

static void read_when(struct maker *m, const struct json *j, struct pipeline_step *s)
{
    struct err why = {0};

    if (!j)
        return;
    if (json_is_bool(j)) {
        s->when_text = j->kind == JSON_TRUE ? "true" : "false";
    } else if (j->kind == JSON_STRING && strlen(j->text) == j->len) {
        s->when_text = j->text;
    } else {
        pipeline__fault(m, j, "when must be an expression in quotes: \"inputs.n > 3\"");
        return;
    }
    if (strncmp(s->when_text, "{{", 2) == 0) {
        pipeline__fault(m, j, "when is an expression as it is, without {{ }}");
        return;
    }
    if (expr_compile(s->when_text, strlen(s->when_text), m->arena, &s->when, &why) != 0) {
        err_wrap(&why, "when");
        pipeline__fault_err(m, NULL, j, &why);
    }
}

/* ---- kinds -------------------------------------------------------------------------------------------- */

static void read_map(struct maker *m, const struct json *j, struct pipeline_step *s)
{
    static const char *const keys[] = {"over", "jsonl", "files", "as", "max_parallel", "steps", "result"};
    static const char *const reserved[] = {"inputs", "steps", "run", "index", "args", "env", "true", "false", "null",
                                           "and", "or", "not", "in"};
    struct pipeline_map *map = &s->u.map;
    int n_source = 0;

    map->as = "item";
    map->max_parallel = PIPELINE_PARALLEL_DEFAULT;
    if (!pipeline__object(m, j, "map", keys, N_ELEM(keys)))
        return;
    for (int i = 0; i < 3; i++) {
        const struct json *items = json_get(j, keys[i]);
        if (!items)
            continue;
        n_source++;
        map->source = (enum pipeline_source)i;
        map->items = pipeline__template(m, items, i == 0 ? 1 << JSON_ARRAY : 1 << JSON_STRING,
                                        i == 0 ? "a list, or a template that gives one" : "a text: a path");
    }
    if (n_source != 1)
        pipeline__fault(m, j, "map needs one of over (a list), jsonl (a file), files (a pattern of paths)");
    map->as = pipeline__text(m, j, "as", PIPELINE_ID_MAX, "item");
    if (!pipeline__is_id(map->as, strlen(map->as)))
        pipeline__fault(m, json_get(j, "as"), "as must be a name of letters, digits, _ and -");
    for (size_t i = 0; i < N_ELEM(reserved); i++)
        if (strcmp(map->as, reserved[i]) == 0)
            pipeline__fault(m, json_get(j, "as"), "the name '%s' is taken", map->as);
    for (const struct pipeline_step *up = s->parent; up; up = up->parent)
        if (json_get(j, "as") && strcmp(up->u.map.as, map->as) == 0)
            pipeline__fault(m, json_get(j, "as"), "the map '%s' around this one has the name '%s' for its items",
                            up->id, map->as);
    map->max_parallel = (int)pipeline__int(m, j, "max_parallel", 1, PIPELINE_PARALLEL_MAX, PIPELINE_PARALLEL_DEFAULT);
    map->result = pipeline__template(m, json_get(j, "result"), 0, "");
    if (!json_get(j, "steps"))
        pipeline__fault(m, j, "map needs steps: what is done with each item");
    else if (s->depth + 1 > PIPELINE_NEST_MAX)
        pipeline__fault(m, j, "more than %d maps in each other", PIPELINE_NEST_MAX);
    else
        pipeline__steps(m, json_get(j, "steps"), s, &map->steps);
}

static void read_wait(struct maker *m, const struct json *j, struct pipeline_step *s)
{
    static const char *const keys[] = {"ms", "approval", "show", "on_reject"};
    static const char *const rejects[] = {"fail", "continue"};
    const struct json *ms = json_get(j, "ms"), *approval = json_get(j, "approval");
    struct pipeline_wait *wait = &s->u.wait;
    int64_t v;

    if (!pipeline__object(m, j, "wait", keys, N_ELEM(keys)))
        return;
    if (!ms == !approval) {
        pipeline__fault(m, j, "wait needs either ms (a time) or approval (the question to a human)");
        return;
    }
    wait->timer_ms = pipeline__template(m, ms, 1 << JSON_NUMBER, "a number of milliseconds");
    if (json_is(ms, JSON_NUMBER) && (!json_to_i64(ms, &v) || v < 0 || v > PIPELINE_MS_MAX))
        pipeline__fault(m, ms, "ms must be a whole number within 0 and %d", PIPELINE_MS_MAX);
    wait->approval = pipeline__template(m, approval, 1 << JSON_STRING, "a text");
    wait->show = pipeline__template(m, json_get(j, "show"), 0, "");
    wait->reject_continues = pipeline__choice(m, j, "on_reject", rejects, 2, 0) == 1;
    if (ms && (json_get(j, "show") || json_get(j, "on_reject")))
        pipeline__fault(m, j, "show and on_reject belong to approval, not to ms");
}

static void read_generate(struct maker *m, const struct json *j, struct pipeline_step *s)
{
    const char *keys[32] = {"prompt", "system", "messages"};
    size_t n = 3;

    for (size_t i = 0; i < pipeline__n_option_keys; i++)
        keys[n++] = pipeline__option_keys[i];
    if (json_is(j, JSON_STRING)) {
        pipeline__fault(m, j, "generate must be an object: generate: {prompt: \"...\"}");
        return;
    }
    if (pipeline__object(m, j, "generate", keys, n))
        pipeline__generate(m, j, &s->u.generate);
}

static void read_agent(struct maker *m, const struct json *j, struct pipeline_step *s)
{
    const char *keys[32] = {"prompt", "system", "messages", "tools", "max_turns"};
    const struct json *tools = json_get(j, "tools");
    struct pipeline_agent *agent = &s->u.agent;
    size_t n = 5;

    for (size_t i = 0; i < pipeline__n_option_keys; i++)
        keys[n++] = pipeline__option_keys[i];
    agent->max_turns = PIPELINE_TURNS_DEFAULT;
    if (!pipeline__object(m, j, "agent", keys, n))
        return;
    pipeline__generate(m, j, &agent->generate);
    agent->max_turns = (int)pipeline__int(m, j, "max_turns", 1, PIPELINE_TURNS_MAX, PIPELINE_TURNS_DEFAULT);
    if (!json_is(tools, JSON_ARRAY) || tools->n == 0 || tools->n > PIPELINE_TOOLS_MAX) {
        pipeline__fault(m, tools ? tools : j, "agent needs tools: a list of 1 to %d", PIPELINE_TOOLS_MAX);
        return;
    }
    struct pipeline_tool *list = arena_array(m->arena, tools->n, sizeof *list);
    for (const struct json *c = tools->child; c; c = c->next) {
        struct pipeline_tool *t = &list[agent->n_tool];
        pipeline__tool(m, c, true, t);
        for (int i = 0; i < agent->n_tool && t->name; i++)
            if (list[i].name && strcmp(list[i].name, t->name) == 0 && t->name[0])
                pipeline__fault(m, c, "a tool '%s' is there already", t->name);
        agent->n_tool++;
    }
    agent->tool = list;
}

/* ---- a step ------------------------------------------------------------------------------------------- */

static void read_output(struct maker *m, const struct json *j, struct pipeline_step *s)
{
    bool asks_model = s->kind == PIPELINE_generate || s->kind == PIPELINE_agent;

    s->output = pipeline__schema(m, json_get(j, "output"));
    s->repair = asks_model && s->output ? PIPELINE_REPAIR_DEFAULT : 0;
    if (!json_get(j, "repair"))
        return;
    if (!asks_model || !json_get(j, "output"))
        pipeline__fault(m, json_get(j, "repair"), "repair belongs to a generate or agent step with output");
    s->repair = (int)pipeline__int(m, j, "repair", 0, PIPELINE_REPAIR_MAX, s->repair);
}

static void read_times(struct maker *m, const struct json *j, struct pipeline_step *s)
{
    static const int64_t fallback[PIPELINE_KIND_N] = {
        [PIPELINE_generate] = PIPELINE_GENERATE_MS_DEFAULT,
        [PIPELINE_tool] = PIPELINE_TOOL_MS_DEFAULT,
        [PIPELINE_agent] = PIPELINE_AGENT_MS_DEFAULT,
    };
    static const char *const on_error[] = {"fail", "continue"};
    int64_t least = fallback[s->kind] ? 1 : 0;

    s->timeout_ms = pipeline__int(m, j, "timeout_ms", least, PIPELINE_MS_MAX, fallback[s->kind]);
    if (s->kind == PIPELINE_tool)
        s->u.tool.timeout_ms = s->timeout_ms;
    if (json_get(j, "retry") && !fallback[s->kind])
        pipeline__fault(m, json_get(j, "retry"),
                        "a %s step is not tried again; in a map each inner step has its own retry",
                        pipeline_kind_name(s->kind));
    read_retry(m, json_get(j, "retry"), &s->retry);
    if (!fallback[s->kind])
        s->retry.max = 0;
    s->on_error_continue = pipeline__choice(m, j, "on_error", on_error, 2, 0) == 1;
}

static void read_kind(struct maker *m, const struct json *j, const struct json *body, struct pipeline_step *s)
{
    switch (s->kind) {
    case PIPELINE_generate:
        read_generate(m, body, s);
        break;
    case PIPELINE_tool:
        pipeline__tool(m, body, false, &s->u.tool);
        break;
    case PIPELINE_map:
        read_map(m, body, s);
        break;
    case PIPELINE_join:
        s->u.join = pipeline__template(m, body, 0, "");
        break;
    case PIPELINE_wait:
        read_wait(m, body, s);
        break;
    default:
        read_agent(m, body, s);
    }
    read_times(m, j, s);
    read_output(m, j, s);
}

static void read_step(struct maker *m, const struct json *j, struct pipeline_step *s)
{
    static const char *const keys[] = {"id", "generate", "tool", "map", "join", "wait", "agent", "description", "needs",
                                       "when", "retry", "timeout_ms", "on_error", "output", "repair"};
    const struct json *body = NULL;
    int n_kind = 0;

    s->description = "";
    s->id = "";
    s->retry = backoff_default;
    s->kind = PIPELINE_join;
    if (!pipeline__object(m, j, "a step", keys, N_ELEM(keys)))
        return;
    read_id(m, j, s);
    s->description = pipeline__text(m, j, "description", 4096, "");
    read_when(m, json_get(j, "when"), s);
    for (int i = 0; i < PIPELINE_KIND_N; i++)
        if (json_get(j, kind_names[i])) {
            n_kind++;
            s->kind = (enum pipeline_kind)i;
            body = json_get(j, kind_names[i]);
        }
    if (n_kind == 1)
        read_kind(m, j, body, s);
    else
        pipeline__fault(m, j, "a step needs exactly one of generate, tool, map, join, wait, agent");
}

void pipeline__steps(struct maker *m, const struct json *j, struct pipeline_step *parent, struct pipeline_steps *out)
{
    if (j->kind != JSON_ARRAY || j->n == 0) {
        pipeline__fault(m, j, "steps must be a list of steps: - id: ...");
        return;
    }
    if (j->n > (uint32_t)(PIPELINE_STEPS_MAX - m->n_step)) {
        pipeline__fault(m, j, "more than %d steps", PIPELINE_STEPS_MAX);
        return;
    }
    struct pipeline_step *list = arena_array(m->arena, j->n, sizeof *list);
    const struct json *c = j->child;
    for (int i = 0; c; c = c->next, i++) {
        struct pipeline_step *s = &list[i];
        s->idx = i;
        s->parent = parent;
        s->depth = parent ? parent->depth + 1 : 0;
        if (m->n_step == PIPELINE_STEPS_MAX) {
            pipeline__fault(m, c, "more than %d steps", PIPELINE_STEPS_MAX);
            return;
        }
        s->number = m->n_step;
        m->step_source[m->n_step] = c;
        m->step[m->n_step++] = s;
        read_step(m, c, s);
    }
    out->step = list;
    out->n = (int)j->n;
    pipeline__needs(m, out, j);
}
