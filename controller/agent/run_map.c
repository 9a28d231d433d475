/* The map step: a list of items, each with a list of steps of its own, so many at once. */
#include "controller/agent/run_internal.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "common/text/jsonmake.h"
#include "controller/agent/plan/items.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Keep the items of `list` with the node; the list lies in the arena, which is taken. */
static void set_items(struct agent_node *node, struct arena *arena, const struct json *list)
{
    int64_t n = 0;

    ASSERT(!node->items);
    node->items = mem_zalloc(sizeof *node->items);
    node->items->arena = *arena;
    *arena = (struct arena){0};
    node->items->n = list->n;
    node->items->value = mem_array(list->n ? list->n : 1, sizeof *node->items->value);
    for (const struct json *j = list->child; j; j = j->next)
        node->items->value[n++] = j;
}

/* The list of a map over a value, out of its template. */
static int list_of(struct agent_run *run, struct agent_node *at, const struct pipeline_step *step,
                   struct arena *arena, const struct json **list, struct err *err)
{
    struct agent_scope scope;
    struct arena work = {0};
    const struct json *value;

    agent__scope_init(&scope, run, at, &work);
    int rc = template_render(step->u.map.items, &scope.expr, &work, &value, err);
    if (!rc) /* a copy: the values it is made of may go before the map does */
        rc = items_make(PIPELINE_OVER, jsonmake_copy(arena, value), run->plan->dir, arena, list, err);
    arena_release(&work);
    return rc;
}

/* Have the file system asked. */
static bool ask_outside(struct agent_run *run, struct agent_node *at, struct agent_node *node,
                        const struct pipeline_step *step, const char *path)
{
    struct agent_scope scope;
    struct arena arena = {0};
    struct agent_ask ask = {.kind = AGENT_ASK_items, .path = path, .step = step, .scope = &scope.expr};
    struct err err;
    bool begun = true;

    agent__scope_init(&scope, run, at, &arena);
    if (template_render(step->u.map.items, &scope.expr, &arena, &ask.value, &err) != 0)
        agent__fail(run, path, 0, FAULT_template, err.text);
    else
        begun = agent__begin(run, node, &ask);
    arena_release(&arena);
    return begun;
}

bool agent__map_start(struct agent_run *run, struct agent_node *at, const struct pipeline_step *step, const char *path)
{
    const struct json *list;
    struct arena arena = {0};
    char row[64];
    struct err err;

    if (step->u.map.source != PIPELINE_OVER)
        return ask_outside(run, at, NULL, step, path);
    if (list_of(run, at, step, &arena, &list, &err) != 0) {
        agent__fail(run, path, 0, FAULT_template, err.text);
    } else {
        snprintf(row, sizeof row, "{\"items\":%u}", list->n);
        struct agent_node *node = agent__put(run, &(struct agent_row){.path = path, .attempt = 1,
                                                                      .state = AGENT_started, .result = row});
        node->step = step;
        set_items(node, &arena, list);
    }
    arena_release(&arena);
    return true;
}

void agent__map_listed(struct agent_run *run, struct agent_node *node, const struct json *list)
{
    char path[STORE_PATH_MAX];
    struct buf row = {0};

    /* The files may be others after a restart: the row has the list itself. */
    buf_addf(&row, "{\"items\":%u,\"list\":", list->n);
    json_add(&row, list);
    buf_add_char(&row, '}');
    agent_node_path(node, path);
    if (row.len > AGENT_RESULT_BYTES_MAX)
        agent__fail(run, path, node->attempt, FAULT_output, "the list of items is larger than AGENT_RESULT_BYTES_MAX");
    else
        agent__put(run, &(struct agent_row){.path = path, .attempt = node->attempt, .state = AGENT_listed,
                                            .result = row.data});
    buf_release(&row);
}

/* After a fold, or when the files have been listed. False: the map has failed, or waits for its list. */
static bool have_items(struct agent_run *run, struct agent_node *at, struct agent_node *node, const char *path)
{
    const struct json *list = NULL, *row = NULL;
    struct arena arena = {0};
    struct err err;

    if (node->items)
        return true;
    if (node->step->u.map.source != PIPELINE_OVER && node->state == AGENT_started) {
        if (!node->effect)
            ask_outside(run, at, node, node->step, path);
        return false;
    }
    int rc = node->step->u.map.source == PIPELINE_OVER
                 ? list_of(run, at, node->step, &arena, &list, &err)
                 : json_parse(node->result ? node->result : "", node->result_bytes, 0, &arena, &row, &err);
    if (!rc && row)
        list = json_get(row, "list");
    if (rc || !json_is(list, JSON_ARRAY)) {
        agent__fail(run, path, node->attempt, FAULT_template, rc ? err.text : "the row has no list of items");
        arena_release(&arena);
        return false;
    }
    set_items(node, &arena, list);
    return true;
}

/* All steps of an item are settled: its result. */
static void item_done(struct agent_run *run, struct agent_node *item, const char *path)
{
    const struct pipeline_map *map = &item->step->u.map;
    struct agent_scope scope;
    struct arena arena = {0};
    struct buf out = {0};
    struct err err;

    if (map->result) {
        agent__scope_init(&scope, run, item, &arena);
        if (agent__render(&scope, map->result, &out, &err) != 0)
            agent__fail(run, path, 0, FAULT_template, err.text);
        else
            agent__done(run, path, 0, out.data);
    } else {
        const char *id = map->steps.n ? map->steps.step[map->steps.n - 1].id : "";
        const struct agent_node *last = agent_node_child(item, id);
        agent__done(run, path, 0, last && last->state == AGENT_done ? last->result : "null");
    }
    arena_release(&arena);
    buf_release(&out);
}

/* True while the item is not over. */
static bool item_advance(struct agent_run *run, struct agent_node *node, int64_t idx)
{
    struct agent_node *item = agent_node_make_item(node, idx);
    char path[STORE_PATH_MAX], error[AGENT_ERROR_MAX + STORE_PATH_MAX + 8], where[STORE_PATH_MAX];

    item->step = node->step;
    enum agent_verdict v = agent__steps_advance(run, item, &node->step->u.map.steps);
    if (v == AGENT_LIVE)
        return true;
    agent_node_path(item, path);
    if (v == AGENT_SETTLED) {
        item_done(run, item, path);
        return false;
    }
    const struct agent_node *at = agent__broken(item, &node->step->u.map.steps);
    snprintf(error, sizeof error, "%s: %s", agent_node_path(at, where), at->error ? at->error : "failed");
    agent__stop_below(run, item);
    agent__fail(run, path, 0, FAULT_items, error);
    return false;
}

static void map_failed(struct agent_run *run, struct agent_node *node, const char *path, enum fault fault,
                       const char *text)
{
    char error[ERR_TEXT_MAX];

    snprintf(error, sizeof error, "%.*s", AGENT_ERROR_MAX, text); /* a copy: the text may be of a node that goes */
    agent__stop_below(run, node);
    agent__fail(run, path, node->attempt, fault, error);
}

static bool map_timed_out(struct agent_run *run, const struct agent_node *node)
{
    int64_t ms = node->step->timeout_ms;

    if (!ms)
        return false;
    agent__due(run, node->started_ms + ms);
    return run->now_ms >= node->started_ms + ms;
}

void agent__map_advance(struct agent_run *run, struct agent_node *at, struct agent_node *node)
{
    char path[STORE_PATH_MAX];
    int64_t n_live = 0;

    agent_node_path(node, path);
    if (map_timed_out(run, node)) {
        map_failed(run, node, path, FAULT_timeout, "the map took longer than its timeout_ms");
        return;
    }
    if (!have_items(run, at, node, path))
        return;
    for (int64_t i = node->n_settled; i < node->items->n && n_live < node->step->u.map.max_parallel; i++) {
        struct agent_node *item = agent_node_item(node, i);
        bool is_over = item && agent_step_state_is_over(item->state);
        if (!is_over) {
            if (!agent__may_go_on(run))
                return;
            if ((!item || !item->child) && run->n_effect >= run->plan->max_parallel)
                break;
            if (item_advance(run, node, i)) {
                n_live++;
                continue;
            }
            item = agent_node_item(node, i);
        }
        if (item->state != AGENT_done) {
            map_failed(run, node, path, FAULT_items, item->error ? item->error : "an item failed");
            return;
        }
        if (i == node->n_settled)
            node->n_settled++;
    }
    while (node->n_settled < node->items->n) {
        const struct agent_node *item = agent_node_item(node, node->n_settled);
        if (!item || item->state != AGENT_done)
            return;
        node->n_settled++;
    }
    agent__done(run, path, node->attempt, NULL);
}
