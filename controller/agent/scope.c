/* What the templates of a step can refer to: inputs, run, the steps before it, and the items of the maps around it. */
#include "controller/agent/run_internal.h"

#include "common/base/check.h"
#include "common/text/jsonmake.h"

#include <string.h>

/* {"output", "state", "error"} of a step that is over. */
static const struct json *step_object(struct agent_scope *scope, struct agent_node *node)
{
    const struct json *output = node->state == AGENT_done ? agent_node_value(node) : NULL;
    struct jsonmake m;

    jsonmake_begin(&m, scope->arena, JSON_OBJECT);
    jsonmake_put(&m, "output", output ? output : &jsonmake_null);
    jsonmake_put(&m, "state", jsonmake_cstr(scope->arena, agent_step_state_name(node->state)));
    jsonmake_put(&m, "error", node->error ? jsonmake_cstr(scope->arena, node->error) : &jsonmake_null);
    return jsonmake_end(&m);
}

static const struct json *run_object(const struct agent_scope *scope)
{
    struct jsonmake m;

    jsonmake_begin(&m, scope->arena, JSON_OBJECT);
    jsonmake_put(&m, "id", jsonmake_cstr(scope->arena, scope->run->id));
    jsonmake_put(&m, "pipeline", jsonmake_cstr(scope->arena, scope->run->plan->name));
    return jsonmake_end(&m);
}

static const struct json *find_step(struct agent_scope *scope, const char *id)
{
    for (struct agent_node *at = scope->at; at; at = at->parent) {
        struct agent_node *node = agent_node_child(at, id);
        if (node && agent_step_state_is_over(node->state))
            return step_object(scope, node);
    }
    return NULL;
}

static const struct json *get(void *arg, const char *root, const char *step)
{
    struct agent_scope *scope = arg;
    bool is_index = strcmp(root, "index") == 0;

    if (step)
        return find_step(scope, step);
    if (strcmp(root, "inputs") == 0)
        return scope->run->inputs;
    if (strcmp(root, "run") == 0)
        return run_object(scope);
    if (scope->args && strcmp(root, "args") == 0)
        return scope->args;
    for (struct agent_node *at = scope->at; at->parent; at = at->parent) {
        if (at->idx < 0)
            continue;
        if (is_index)
            return jsonmake_i64(scope->arena, at->idx);
        struct agent_node *map = at->parent;
        if (map->step && strcmp(root, map->step->u.map.as) == 0)
            return map->items && at->idx < map->items->n ? map->items->value[at->idx] : NULL;
    }
    return NULL;
}

void agent__scope_init(struct agent_scope *scope, struct agent_run *run, struct agent_node *at, struct arena *arena)
{
    *scope = (struct agent_scope){.run = run, .at = at, .arena = arena};
    scope->expr = (struct expr_scope){get, scope};
}

int agent__render(const struct agent_scope *scope, const struct template *t, struct buf *out, struct err *err)
{
    const struct json *value;
    int rc = template_render(t, &scope->expr, scope->arena, &value, err);

    if (!rc)
        json_add(out, value);
    return rc;
}
