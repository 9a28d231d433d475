/* What is done to a run: cancel, approve, retry, fork. */
#include "controller/api/pipe.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "controller/store/store.h"

#include <stdio.h>
#include <string.h>

/* A string member; NULL if absent. False: it is something else, 400 was said. */
static bool text_of(struct api_pipe *p, const char *name, size_t max, const char **text)
{
    const struct json *j = json_get(p->body, name);

    *text = NULL;
    if (!j || j->kind == JSON_NULL)
        return true;
    if (j->kind == JSON_STRING && j->len <= max && strlen(j->text) == j->len) {
        *text = j->text;
        return true;
    }
    pipe__fail(p, API_ERROR_bad_request, name, "%s has to be a string of at most %zu bytes", name, max);
    return false;
}

/* What was done is committed. */
static void on_done(void *arg, int rc)
{
    struct api_pipe *p = arg;
    struct agent_live *live = agent_find(p->agent, p->id);
    struct buf body = {0};

    if (rc || !live) {
        pipe__fail(p, API_ERROR_overloaded, NULL, "the server is stopping; ask again");
        return;
    }
    agent_live_show(live, &body);
    pipe__reply(p, 200, &body);
    buf_release(&body);
}

/* It does not live: 404, or 409 with its state. */
static void on_over(void *arg, const struct store_fetched *f)
{
    struct api_pipe *p = pipe__answered(arg, f);
    const struct store_run_end *end;

    if (!p || !pipe__run_of(p, f, &end))
        return;
    pipe__fail(p, API_ERROR_conflict, NULL, "run %s has ended: it is %s", p->id, end ? end->state : "stopped");
}

static void say_over(struct api_pipe *p)
{
    pipe__ask(p, &(struct store_query){.kind = STORE_QUERY_run, .id = p->id}, on_over);
}

/* The run of the tenant that lives; else the answer is on its way. */
static struct agent_live *live_of(struct api_pipe *p)
{
    struct agent_live *live = agent_find(p->agent, p->id);

    if (live && strcmp(agent_live_tenant(live), p->tenant) == 0 && agent_live_run(live)->end == AGENT_RUN_running)
        return live;
    say_over(p);
    return NULL;
}

static bool may_write(struct api_pipe *p)
{
    const char *fault = ctl_store_fault(p->front->ctl);

    if (!fault)
        return true;
    pipe__fail(p, API_ERROR_overloaded, NULL, "the store cannot commit now: %s", fault);
    return false;
}

static void cancel(struct api_pipe *p)
{
    struct agent_live *live = live_of(p);

    if (!live || !may_write(p))
        return;
    agent_cancel(p->agent, live, "canceled by a client");
    agent_on_end(p->agent, live, on_done, p);
}

static void approve(struct api_pipe *p)
{
    const struct json *yes = json_get(p->body, "approved");
    const char *token, *step, *comment;
    struct err err = {0};

    if (!text_of(p, "token", AGENT_TOKEN_MAX, &token) || !text_of(p, "step", STORE_PATH_MAX - 1, &step) ||
        !text_of(p, "comment", AGENT_COMMENT_MAX, &comment))
        return;
    if (!token) {
        pipe__fail(p, API_ERROR_bad_request, "token", "token is missing: it is in the result of the step that waits");
        return;
    }
    if (yes && !json_is_bool(yes)) {
        pipe__fail(p, API_ERROR_bad_request, "approved", "approved has to be true or false");
        return;
    }
    struct agent_live *live = live_of(p);
    if (!live || !may_write(p))
        return;
    int rc = agent_approve(p->agent, live, step, token, !yes || yes->kind == JSON_TRUE, comment, &err);
    if (rc)
        pipe__fail(p, rc == ERR_ARG ? API_ERROR_bad_request : API_ERROR_conflict, rc == ERR_ARG ? "token" : "step",
                   "%s", err.text);
    else
        agent_after(p->agent, on_done, p);
}

/* ---- retry and fork ---- */

/* A new run of the same plan and inputs, with the rows of the old one that stay. */
static void run_anew(struct api_pipe *p, const struct store_fetched *f, const struct store_run *run, const char *from)
{
    const struct json *inputs;
    struct err err = {0};

    if (agent_plan_get(p->agent, run->pipeline, strlen(run->pipeline), "/", &p->plan, NULL, &err) ||
        json_parse(run->input, strlen(run->input), 0, &p->arena, &inputs, &err)) {
        pipe__fail(p, API_ERROR_internal, NULL, "run %s: %s", p->id, err.text);
        return;
    }
    const struct pipeline_step *step = from ? pipeline_step(p->plan->pipeline, from) : NULL;
    if (from && (!step || step->parent)) {
        pipe__fail(p, API_ERROR_bad_request, "from_step", "the pipeline has no step '%.64s' at its top", from);
        return;
    }
    char parent[STORE_ID_MAX];
    snprintf(parent, sizeof parent, "%s", p->id);
    pipe__create(p, &(struct agent_new){.tenant = p->tenant, .plan = p->plan, .inputs = inputs, .parent = parent,
                                        .record = f->record, .n_record = f->n, .from = from});
}

static void on_retry(void *arg, const struct store_fetched *f)
{
    struct api_pipe *p = pipe__answered(arg, f);
    const struct store_run_end *end;
    const struct store_run *run = p ? pipe__run_of(p, f, &end) : NULL;

    if (!run)
        return;
    if (!end)
        pipe__fail(p, API_ERROR_conflict, NULL, "run %s is still running", p->id);
    else if (strcmp(end->state, "done") == 0)
        pipe__fail(p, API_ERROR_conflict, NULL, "run %s is done: fork it to run a part of it again", p->id);
    else
        run_anew(p, f, run, NULL);
}

static void on_fork(void *arg, const struct store_fetched *f)
{
    struct api_pipe *p = pipe__answered(arg, f);
    const struct store_run_end *end;
    const struct store_run *run = p ? pipe__run_of(p, f, &end) : NULL;
    const char *from;

    if (run && text_of(p, "from_step", PIPELINE_ID_MAX, &from))
        run_anew(p, f, run, from);
}

static void ask_run(struct api_pipe *p, store_fetched_fn fn)
{
    pipe__ask(p, &(struct store_query){.kind = STORE_QUERY_run, .id = p->id}, fn);
}

void pipe__act(struct api_pipe *p)
{
    ctl_wake(p->front->ctl);
    if (strcmp(p->action, "cancel") == 0)
        cancel(p);
    else if (strcmp(p->action, "approve") == 0)
        approve(p);
    else if (strcmp(p->action, "retry") == 0)
        ask_run(p, on_retry);
    else if (json_is(json_get(p->body, "from_step"), JSON_STRING))
        ask_run(p, on_fork);
    else
        pipe__fail(p, API_ERROR_bad_request, "from_step", "from_step has to be the id of a step");
}
