/* controller/agent/run_internal.h - what the files of the run's state machine share.
 * Owns:     see run.h.
 * Thread:   one at a time.
 */
#ifndef CONTROLLER_AGENT_RUN_INTERNAL_H
#define CONTROLLER_AGENT_RUN_INTERNAL_H

#include "controller/agent/run.h"

/* What is known where a step stands: for its templates. */
struct agent_scope {
    struct expr_scope expr;   /* hand this to the functions of template.h and expr.h */
    struct agent_run *run;
    struct agent_node *at;    /* the node in whose list the step stands: the root or an item */
    const struct json *args;  /* of an agent's call; NULL */
    struct arena *arena;      /* of the evaluation */
};

/* ---- scope.c ---- */
void agent__scope_init(struct agent_scope *scope, struct agent_run *run, struct agent_node *at, struct arena *arena);
/* A template as JSON text, or an error of template_render. */
int agent__render(const struct agent_scope *scope, const struct template *t, struct buf *out, struct err *err);

/* ---- run.c ---- */
/* Give out and apply a row of the step at `path`; at_ms is set. Returns its node. */
struct agent_node *agent__put(struct agent_run *run, struct agent_row *row);
/* The step at `path` is over with an error. */
void agent__fail(struct agent_run *run, const char *path, int attempt, enum fault fault, const char *text);
/* Begin or resume an effect. node: NULL if it has no row yet. False: the run's limit, try later. */
bool agent__begin(struct agent_run *run, struct agent_node *node, struct agent_ask *ask);
/* Effects of the node and all below are stopped, live nodes below become canceled. */
void agent__stop_below(struct agent_run *run, struct agent_node *node);
bool agent__is_settled(const struct agent_node *node, const struct pipeline_step *step);
void agent__due(struct agent_run *run, int64_t at_ms); /* wake up then at the latest */
/* False: this advance has made enough rows; due_ms is now. */
bool agent__may_go_on(struct agent_run *run);
/* A retry or repair is due now; else due_ms is set. */
bool agent__attempt_is_due(struct agent_run *run, const struct agent_node *node);
/* Path of a child of `parent` by name (idx -1) or index. */
const char *agent__child_path(const struct agent_node *parent, const char *name, int64_t idx,
                              char out[STORE_PATH_MAX]);
/* Is the answer of step good? Adds to report what is wrong. */
bool agent__fits(const struct pipeline_step *step, const struct json *value, struct buf *report);
void agent__done(struct agent_run *run, const char *path, int attempt, const char *result);

/* ---- run_loop.c: the agent step ---- */
void agent__loop_advance(struct agent_run *run, struct agent_node *at, struct agent_node *node);

/* ---- run_map.c ---- */
/* True if anything was begun or ended. */
bool agent__map_start(struct agent_run *run, struct agent_node *at, const struct pipeline_step *step,
                      const char *path);
void agent__map_advance(struct agent_run *run, struct agent_node *at, struct agent_node *node);
void agent__map_listed(struct agent_run *run, struct agent_node *node, const struct json *list);

enum agent_verdict { AGENT_LIVE, AGENT_SETTLED, AGENT_BROKEN };
/* Go through the steps of a list below `at` (the root or an item) and do what can be done. */
enum agent_verdict agent__steps_advance(struct agent_run *run, struct agent_node *at,
                                        const struct pipeline_steps *steps);
/* The first step below `at` that broke its list, for error texts. */
const struct agent_node *agent__broken(const struct agent_node *at, const struct pipeline_steps *steps);

#endif
