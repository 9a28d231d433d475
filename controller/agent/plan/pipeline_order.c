/* What comes before what, and whether every reference finds its value there. */
#include "common/base/check.h"
#include "controller/agent/plan/doc.h"
#include "controller/agent/plan/pipeline_impl.h"

#include <string.h>

/* ---- needs -------------------------------------------------------------------------------------------- */

static int find_in_list(const struct pipeline_steps *steps, const struct json *id)
{
    for (int i = 0; i < steps->n; i++)
        if (json_is_str(id, steps->step[i].id))
            return i;
    return -1;
}

static void read_needs(struct maker *m, const struct pipeline_steps *steps, struct pipeline_step *s,
                       const struct json *j)
{
    const char *names[PIPELINE_STEPS_MAX];
    bool needed[PIPELINE_STEPS_MAX] = {false};
    int n = 0;

    if (!j) {
        if (s->idx > 0)
            needed[s->idx - 1] = true;
    } else if (j->kind != JSON_ARRAY) {
        pipeline__fault(m, j, "needs must be a list of ids: [extract]");
        return;
    }
    for (int i = 0; i < steps->n; i++)
        names[i] = steps->step[i].id;
    for (const struct json *c = j ? j->child : NULL; c; c = c->next) {
        int i = find_in_list(steps, c);
        if (i < 0)
            pipeline__fault(m, c, "needs: no step '%.64s' in this list%s", c->kind == JSON_STRING ? c->text : "?",
                            pipeline__near(m, c->kind == JSON_STRING ? c->text : "", names, (size_t)steps->n));
        else if (i == s->idx)
            pipeline__fault(m, c, "a step cannot need itself");
        else
            needed[i] = true;
    }
    int *need = arena_array(m->arena, (size_t)steps->n + 1, sizeof *need);
    for (int i = 0; i < steps->n; i++)
        if (needed[i])
            need[n++] = i;
    s->need = need;
    s->n_need = n;
}

static bool is_before(const struct pipeline_step *s, int idx)
{
    return s->before[idx / 64] >> (idx % 64) & 1;
}

enum { WHITE, GREY, BLACK };

/* Fill in `before` of step i, depth first. False: it stands in a circle, which was told. */
static bool settle(struct maker *m, struct pipeline_step *list, int i, unsigned char *color, const struct json *source)
{
    struct pipeline_step *s = &list[i];
    bool good = true;

    color[i] = GREY;
    for (int k = 0; k < s->n_need && good; k++) {
        int other = s->need[k];
        if (color[other] == GREY) {
            pipeline__fault(m, json_at(source, (uint32_t)i),
                            "the steps '%s' and '%s' wait for each other (needs, or order "
                            "in the list)",
                            s->id, list[other].id);
            return false;
        }
        if (color[other] == WHITE)
            good = settle(m, list, other, color, source);
        for (int w = 0; w < PIPELINE_STEPS_MAX / 64; w++)
            s->before[w] |= list[other].before[w];
        s->before[other / 64] |= (uint64_t)1 << (other % 64);
    }
    color[i] = BLACK;
    return good;
}

void pipeline__needs(struct maker *m, struct pipeline_steps *steps, const struct json *source)
{
    unsigned char color[PIPELINE_STEPS_MAX] = {WHITE};
    struct pipeline_step *list = (struct pipeline_step *)steps->step; /* ours: made by pipeline__steps */
    const struct json *c = source->child;

    for (int i = 0; i < steps->n; i++, c = c->next)
        read_needs(m, steps, &list[i], json_get(c, "needs"));
    for (int i = 0; i < steps->n; i++)
        if (color[i] == WHITE && !settle(m, list, i, color, source))
            return;
}

bool pipeline_comes_before(const struct pipeline *p, const struct pipeline_step *step,
                           const struct pipeline_step *other)
{
    (void)p;
    while (other && other->parent != step->parent)
        other = other->parent;
    return other && other != step && is_before(other, step->idx);
}

/* ---- references --------------------------------------------------------------------------------------- */

/* Where a template stands. */
struct scene {
    struct maker *m;
    const struct pipeline_step *step; /* it belongs to; NULL: the run's result */
    bool is_result;                   /* result of the map `step`, or of the run: what is inside is settled */
    const struct pipeline_tool *tool; /* in a tool: env is there; of an agent (it has a name): args too */
    const struct json *when;          /* in `when`: its node */
};

/* The innermost map whose item is there, or NULL. */
static const struct pipeline_step *map_around(const struct scene *sc)
{
    return !sc->step ? NULL : sc->is_result ? sc->step : sc->step->parent;
}

static void check_input(const struct scene *sc, const struct json *at, const char *const *name, int n)
{
    const struct pipeline *p = &sc->m->plan->pub;
    const char *names[PIPELINE_INPUTS_MAX];

    if (n == 0)
        return;
    for (int i = 0; i < p->n_input; i++) {
        names[i] = p->input[i].name;
        if (strcmp(name[0], names[i]) == 0)
            return;
    }
    pipeline__fault(sc->m, at, "there is no input '%.64s'%s", name[0],
                    pipeline__near(sc->m, name[0], names, (size_t)p->n_input));
}

/* The names behind steps.ID.output against the step's schema, as far as that leaves no doubt. */
static void check_output_path(const struct scene *sc, const struct json *at, const struct pipeline_step *target,
                              const char *const *name, int n)
{
    const struct schema_node *node = target->output ? schema_root(target->output) : NULL;
    bool is_text = !node && (target->kind == PIPELINE_generate || target->kind == PIPELINE_agent ||
                             (target->kind == PIPELINE_tool && target->u.tool.is_text));

    if (n > 0 && (is_text || target->kind == PIPELINE_map)) {
        pipeline__fault(sc->m, at, "the output of '%s' is a %s: it has no '%.64s'%s", target->id,
                        is_text ? "text" : "list", name[0],
                        is_text && target->kind != PIPELINE_tool ? " (output: a schema makes it JSON)" : "");
        return;
    }
    for (int i = 0; i < n && node; i++) {
        const char *names[2 * SCHEMA_PROPERTIES_MAX]; /* properties, and names that are only required */
        const struct schema_node *inner = NULL;
        bool found = false;
        for (int k = 0; k < node->n_property && !found; k++) {
            names[k] = node->property[k].name;
            found = strcmp(names[k], name[i]) == 0;
            inner = found ? node->property[k].node : NULL;
        }
        if (!found && node->additional && node->additional->is_never) {
            pipeline__fault(sc->m, at, "the output of '%s' has no member '%.64s' by its schema%s", target->id, name[i],
                            pipeline__near(sc->m, name[i], names, (size_t)node->n_property));
            return;
        }
        node = inner;
    }
}

static bool is_settled(const struct scene *sc, const struct pipeline_step *target)
{
    if (!sc->step)
        return target->parent == NULL;
    if (sc->is_result && target->parent == sc->step)
        return true;
    return pipeline_comes_before(&sc->m->plan->pub, target, sc->step);
}

/* The lists around the template hold the target's list. */
static bool is_within_reach(const struct scene *sc, const struct pipeline_step *target)
{
    if (sc->is_result && sc->step == target->parent)
        return true;
    for (const struct pipeline_step *s = sc->step; s; s = s->parent)
        if (s->parent == target->parent)
            return true;
    return target->parent == NULL;
}

static void check_step(const struct scene *sc, const struct json *at, const char *const *name, int n)
{
    static const char *const fields[] = {"output", "state", "error"};
    const struct pipeline_step *target = NULL;
    const char *names[PIPELINE_STEPS_MAX];
    struct maker *m = sc->m;

    for (int i = 0; i < m->n_step; i++) {
        names[i] = m->step[i]->id;
        if (strcmp(names[i], name[0]) == 0)
            target = m->step[i];
    }
    if (!target)
        pipeline__fault(m, at, "there is no step '%.64s'%s", name[0],
                        pipeline__near(m, name[0], names, (size_t)m->n_step));
    else if (target == sc->step)
        pipeline__fault(m, at, "a step cannot refer to itself");
    else if (!is_within_reach(sc, target))
        pipeline__fault(m, at, "the step '%s' stands in the map '%s': outside of it there is steps.%s.output", name[0],
                        target->parent->id, target->parent->id);
    else if (!is_settled(sc, target))
        pipeline__fault(m, at, "the step '%s' may not be done yet when '%s' starts: '%s' must come after it (needs)",
                        name[0], sc->step->id, sc->step->id);
    else if (n > 1 && strcmp(name[1], "output") == 0)
        check_output_path(sc, at, target, name + 2, n - 2);
    else if (n > 1 && strcmp(name[1], "state") != 0 && strcmp(name[1], "error") != 0)
        pipeline__fault(m, at, "a step has output, state and error, no '%.64s'%s", name[1],
                        pipeline__near(m, name[1], fields, N_ELEM(fields)));
}

static void check_env(const struct scene *sc, const struct json *at, const char *const *name, int n)
{
    if (!sc->tool) {
        pipeline__fault(sc->m, at, "env is there in tools only: what it holds is not stored with the run");
        return;
    }
    for (int i = 0; n > 0 && i < sc->tool->n_env; i++)
        if (strcmp(sc->tool->env[i].name, name[0]) == 0 && !sc->tool->env[i].value)
            return;
    pipeline__fault(sc->m, at, "env.%.64s: a name that an env list passes on belongs here", n ? name[0] : "NAME");
}

static int check_ref(void *arg, const struct json *where, const char *root, const char *const *name, int n,
                     bool optional)
{
    static const char *const run_fields[] = {"id", "pipeline"};
    const char *known[8 + PIPELINE_NEST_MAX] = {"inputs", "steps", "run"};
    const struct scene *sc = arg;
    const struct json *at = sc->when ? sc->when : where;
    const struct pipeline_step *map = map_around(sc);
    size_t n_known = 3;

    (void)optional;
    if (strcmp(root, "inputs") == 0) {
        check_input(sc, at, name, n);
    } else if (strcmp(root, "steps") == 0 && !sc->step && sc->tool) {
        pipeline__fault(sc->m, at, "env serves all tools: it may refer to inputs, run and env");
    } else if (strcmp(root, "steps") == 0) {
        check_step(sc, at, name, n);
    } else if (strcmp(root, "run") == 0) {
        if (n > 0 && strcmp(name[0], "id") != 0 && strcmp(name[0], "pipeline") != 0)
            pipeline__fault(sc->m, at, "run has id and pipeline, no '%.64s'%s", name[0],
                            pipeline__near(sc->m, name[0], run_fields, N_ELEM(run_fields)));
    } else if (strcmp(root, "env") == 0) {
        check_env(sc, at, name, n);
    } else {
        if (map)
            known[n_known++] = "index";
        if (sc->tool && sc->tool->name)
            known[n_known++] = "args";
        for (; map; map = map->parent)
            known[n_known++] = map->u.map.as;
        for (size_t i = 3; i < n_known; i++)
            if (strcmp(root, known[i]) == 0)
                return 0;
        pipeline__fault(sc->m, at, "there is no '%.64s' here%s", root, pipeline__near(sc->m, root, known, n_known));
    }
    return 0;
}

static int check_when_ref(void *arg, const char *root, const char *const *name, int n, bool optional)
{
    return check_ref(arg, NULL, root, name, n, optional);
}

static void refs(struct scene *sc, const struct template *t)
{
    if (t)
        template_refs(t, check_ref, sc);
}

static void tool_refs(struct scene sc, const struct pipeline_tool *t)
{
    sc.tool = t;
    refs(&sc, t->command);
    refs(&sc, t->stdin_value);
    refs(&sc, t->dir);
    for (int i = 0; i < t->n_env; i++)
        if (t->env[i].value && (i >= sc.m->plan->pub.n_env || t->env[i].value != sc.m->plan->pub.env[i].value))
            refs(&sc, t->env[i].value);
    if (!t->http)
        return;
    refs(&sc, t->http->url);
    refs(&sc, t->http->body);
    for (int i = 0; i < t->http->n_header; i++)
        refs(&sc, t->http->header[i].value);
}

static void step_refs(struct scene *sc, const struct pipeline_step *s, const struct json *source)
{
    struct scene when = *sc;

    when.when = json_get(source, "when");
    if (s->when)
        expr_refs(s->when, check_when_ref, &when);
    switch (s->kind) {
    case PIPELINE_generate:
        refs(sc, s->u.generate.messages);
        refs(sc, s->u.generate.options);
        break;
    case PIPELINE_tool:
        tool_refs(*sc, &s->u.tool);
        break;
    case PIPELINE_map: {
        struct scene inside = *sc;
        inside.is_result = true;
        refs(sc, s->u.map.items);
        refs(&inside, s->u.map.result);
        break;
    }
    case PIPELINE_join:
        refs(sc, s->u.join);
        break;
    case PIPELINE_wait:
        refs(sc, s->u.wait.timer_ms);
        refs(sc, s->u.wait.approval);
        refs(sc, s->u.wait.show);
        break;
    default:
        refs(sc, s->u.agent.generate.messages);
        refs(sc, s->u.agent.generate.options);
        for (int i = 0; s->u.agent.tool && i < s->u.agent.n_tool; i++)
            tool_refs(*sc, &s->u.agent.tool[i]);
    }
}

void pipeline__references(struct maker *m)
{
    const struct pipeline *p = &m->plan->pub;
    struct scene sc = {.m = m, .is_result = true};
    struct pipeline_tool shared = {.env = p->env, .n_env = p->n_env};

    refs(&sc, p->result);
    /* The plan's env serves every tool, so it may name only what is there everywhere: the inputs and the run. */
    for (int i = 0; i < p->n_env; i++) {
        struct scene env = {.m = m, .is_result = true, .tool = &shared};
        refs(&env, p->env[i].value);
    }
    for (int i = 0; i < m->n_step; i++) {
        struct scene step = {.m = m, .step = m->step[i]};
        step_refs(&step, m->step[i], m->step_source[i]);
    }
}
