#include "controller/agent/show.h"

#include "common/text/json.h"

#include <inttypes.h>
#include <string.h>

static void add_str(struct buf *out, const char *name, const char *text)
{
    buf_addf(out, ",\"%s\":", name);
    if (text)
        json_add_str(out, text, strlen(text));
    else
        buf_add_str(out, "null");
}

static void add_usage(struct buf *out, const struct store_usage *u)
{
    buf_addf(out, ",\"usage\":{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64
                  ",\"cached_tokens\":%" PRId64 ",\"reasoning_tokens\":%" PRId64 "}",
             u->prompt_tok, u->output_tok, u->cached_tok, u->reasoning_tok);
}

static bool is_used(const struct store_usage *u)
{
    return u->prompt_tok || u->output_tok || u->cached_tok || u->reasoning_tok;
}

/* ---- events ---- */

void agent_show_begin(const struct store_run *run, struct buf *out)
{
    buf_add_str(out, "{\"seq\":0,\"type\":\"run\"");
    add_str(out, "run", run->id);
    add_str(out, "name", run->name);
    add_str(out, "parent", run->parent);
    buf_addf(out, ",\"state\":\"running\",\"at_ms\":%" PRId64 "}", run->created_ms);
}

void agent_show_step(const char *run, int64_t seq, const struct store_step *step, struct buf *out)
{
    size_t n = step->result ? strlen(step->result) : 0;

    buf_addf(out, "{\"seq\":%" PRId64 ",\"type\":\"step\"", seq);
    add_str(out, "run", run);
    add_str(out, "path", step->path);
    add_str(out, "state", step->state);
    buf_addf(out, ",\"attempt\":%d,\"at_ms\":%" PRId64, (int)step->attempt, step->at_ms);
    if (step->request)
        add_str(out, "request", step->request);
    if (step->error)
        add_str(out, "error", step->error);
    if (is_used(&step->usage))
        add_usage(out, &step->usage);
    if (step->result && n <= AGENT_EVENT_RESULT_MAX) {
        buf_add_str(out, ",\"result\":");
        buf_add(out, step->result, n);
    } else if (step->result) {
        buf_addf(out, ",\"result_bytes\":%zu", n);
    }
    buf_add_char(out, '}');
}

void agent_show_end(const struct store_run_end *end, int64_t seq, struct buf *out)
{
    buf_addf(out, "{\"seq\":%" PRId64 ",\"type\":\"run_end\"", seq);
    add_str(out, "run", end->run);
    add_str(out, "state", end->state);
    buf_addf(out, ",\"at_ms\":%" PRId64, end->ended_ms);
    add_str(out, "error", end->error);
    add_usage(out, &end->usage);
    buf_addf(out, ",\"output\":%s}", end->output ? end->output : "null");
}

/* ---- rows ---- */

int agent_row_of(const struct store_step *step, struct agent_row *row, struct err *err)
{
    *row = (struct agent_row){
        .path = step->path,
        .attempt = step->attempt,
        .state = agent_step_state_of(step->state),
        .result = step->result,
        .request = step->request,
        .error = step->error,
        .usage = step->usage,
        .at_ms = step->at_ms,
    };
    if (row->state == AGENT_STEP_STATE_N)
        return err_set(err, ERR_FORMAT, "run %s: step %s has the state '%.40s', which this version does not know",
                       step->run, step->path, step->state);
    return 0;
}

void agent_row_to(const struct agent_row *row, const char *run, struct store_step *step)
{
    *step = (struct store_step){
        .run = run,
        .path = row->path,
        .attempt = row->attempt,
        .state = agent_step_state_name(row->state),
        .result = row->result,
        .request = row->request,
        .error = row->error,
        .usage = row->usage,
        .at_ms = row->at_ms,
    };
}

/* ---- a run ---- */

static void add_node(struct buf *out, const struct agent_node *node, bool all, bool *comma);

static void add_children(struct buf *out, const struct agent_node *node, bool all, bool *comma)
{
    for (const struct agent_node *c = node->child; c; c = c->next)
        add_node(out, c, all, comma);
    for (int64_t i = 0; i < node->n_item && all; i++)
        if (node->item[i])
            add_node(out, node->item[i], all, comma);
}

/* Usage of a node and all below it. */
static void sum_usage(const struct agent_node *node, struct store_usage *sum)
{
    agent_usage_add(sum, &node->usage);
    for (const struct agent_node *c = node->child; c; c = c->next)
        sum_usage(c, sum);
    for (int64_t i = 0; i < node->n_item; i++)
        if (node->item[i])
            sum_usage(node->item[i], sum);
}

static void add_items(struct buf *out, const struct agent_node *node)
{
    int64_t n = 0, n_state[AGENT_STEP_STATE_N] = {0};

    for (int64_t i = 0; i < node->n_item; i++) {
        if (!node->item[i])
            continue;
        n++;
        n_state[node->item[i]->state]++;
    }
    if (n)
        buf_addf(out, ",\"items\":{\"begun\":%" PRId64 ",\"done\":%" PRId64 ",\"failed\":%" PRId64 "}", n,
                 n_state[AGENT_done], n_state[AGENT_failed]);
}

static void add_node(struct buf *out, const struct agent_node *node, bool all, bool *comma)
{
    struct store_usage usage = {0};
    char path[STORE_PATH_MAX];

    if (node->state != AGENT_none) {
        buf_add_str(out, *comma ? ",{\"path\":" : "{\"path\":");
        *comma = true;
        agent_node_path(node, path);
        json_add_str(out, path, strlen(path));
        add_str(out, "state", agent_step_state_name(node->state));
        buf_addf(out, ",\"attempt\":%d,\"started_ms\":%" PRId64 ",\"at_ms\":%" PRId64, node->attempt,
                 node->started_ms, node->at_ms);
        add_str(out, "request", node->request);
        add_str(out, "error", node->state == AGENT_done ? NULL : node->error);
        buf_addf(out, ",\"result\":%s", node->result ? node->result : "null");
        add_items(out, node);
        sum_usage(node, &usage);
        add_usage(out, &usage);
        buf_add_char(out, '}');
    }
    if (all)
        add_children(out, node, all, comma);
}

static void add_head(struct buf *out, const struct store_run *run, const struct store_run_end *end)
{
    buf_add_str(out, "{\"id\":");
    json_add_str(out, run->id, strlen(run->id));
    buf_add_str(out, ",\"object\":\"run\"");
    add_str(out, "name", run->name);
    add_str(out, "state", end ? end->state : "running");
    buf_addf(out, ",\"created_ms\":%" PRId64 ",\"deadline_ms\":%" PRId64 ",\"ended_ms\":", run->created_ms,
             run->deadline_ms);
    if (end)
        buf_add_i64(out, end->ended_ms);
    else
        buf_add_str(out, "null");
    add_str(out, "parent", run->parent);
    add_str(out, "error", end ? end->error : NULL);
    buf_addf(out, ",\"output\":%s", end && end->output ? end->output : "null");
}

int agent_show_run(const struct store_record *record, size_t n, enum agent_show_steps steps, struct buf *out,
                   struct err *err)
{
    struct agent_state state;
    const struct store_run *run = NULL;
    const struct store_run_end *end = NULL;
    bool comma = false;
    int rc = 0;

    agent_state_init(&state);
    state.keeps_children = true;
    for (size_t i = 0; i < n && !rc; i++) {
        struct agent_row row;
        if (record[i].kind == STORE_run)
            run = &record[i].u.run;
        else if (record[i].kind == STORE_run_end)
            end = &record[i].u.run_end;
        else if (record[i].kind == STORE_step && !(rc = agent_row_of(&record[i].u.step, &row, err)))
            rc = agent_state_apply(&state, &row, NULL, err);
    }
    if (!rc && !run)
        rc = err_set(err, ERR_MISSING, "there is no such run");
    if (!rc) {
        add_head(out, run, end);
        add_usage(out, end ? &end->usage : &state.usage);
        buf_addf(out, ",\"inputs\":%s,\"events\":%" PRId64, run->input ? run->input : "null",
                 state.n_row + 1 + (end != NULL));
        if (steps != AGENT_SHOW_none) {
            buf_add_str(out, ",\"steps\":[");
            add_children(out, &state.root, steps == AGENT_SHOW_all, &comma);
            buf_add_char(out, ']');
        }
        buf_add_char(out, '}');
    }
    agent_state_release(&state);
    return rc;
}

void agent_show_list(const struct store_record *record, size_t n, int64_t limit, struct buf *out)
{
    int64_t n_run = 0;

    buf_add_str(out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < n; i++) {
        static const struct store_usage none = {0};
        if (record[i].kind != STORE_run || n_run++ >= limit)
            continue;
        const struct store_run_end *end = i + 1 < n && record[i + 1].kind == STORE_run_end ? &record[i + 1].u.run_end
                                                                                          : NULL;
        if (n_run > 1)
            buf_add_char(out, ',');
        add_head(out, &record[i].u.run, end);
        add_usage(out, end ? &end->usage : &none);
        buf_add_char(out, '}');
    }
    buf_addf(out, "],\"has_more\":%s}", n_run > limit ? "true" : "false");
}
