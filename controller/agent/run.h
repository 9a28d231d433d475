/* controller/agent/run.h - one run of a pipeline as a state machine: what is known (state.h) and the plan decide what
 * comes next. No loop, no store, no clock: rows and effects go out through struct agent_io, time and outcomes come in.
 * Owns:     the state, the output; plan and inputs are lent and outlive it.
 * Lifetime: agent_run_init, then agent_run_fold for each stored row, then agent_run_advance .. agent_run_release.
 * Thread:   one at a time.
 * Limits:   those of pipeline.h; AGENT_RESULT_BYTES_MAX of one result, AGENT_RUN_BYTES_MAX of all that are held.
 *
 * A step's effect (a generation, a tool) is begun only after its `started` row was given out; the owner begins it when
 * that row is committed. After a restart, a step that is `started` and has no effect is prepared and begun again under
 * the same attempt and the same effect token, without a new row. A step that has a result is never run again.
 */
#ifndef CONTROLLER_AGENT_RUN_H
#define CONTROLLER_AGENT_RUN_H

#include "controller/agent/plan/fault.h"
#include "controller/agent/plan/pipeline.h"
#include "controller/agent/state.h"

enum {
    AGENT_RESULT_BYTES_MAX = 64 << 20,
    AGENT_RUN_BYTES_MAX = 256 << 20,
    AGENT_ERROR_MAX = 500,    /* bytes of an error; the rest is cut, the same in memory and in the row */
    AGENT_TOKEN_MAX = 33,     /* 32 hex digits of an approval */
    AGENT_COMMENT_MAX = 4096, /* bytes of an approval's comment */
    AGENT_ADVANCE_ROWS_MAX = 512,      /* rows of one advance; the next one goes on at once */
    AGENT_ADVANCE_BYTES_MAX = 1 << 20, /* bytes of their results; one row may exceed it */
};

#define AGENT_RUN_STATE_LIST(X) X(running) X(done) X(failed) X(canceled)
enum agent_run_state {
#define X(name) AGENT_RUN_##name,
    AGENT_RUN_STATE_LIST(X)
#undef X
        AGENT_RUN_STATE_N
};

/* What has to be done outside for a step. */
enum agent_ask_kind { AGENT_ASK_generate, AGENT_ASK_tool, AGENT_ASK_items };

struct agent_ask {
    enum agent_ask_kind kind;
    const char *path;
    int attempt;
    const char *request;              /* generate: the id it has to have */
    const struct pipeline_step *step;
    const struct pipeline_tool *tool; /* tool */
    const struct json *args;          /* tool of an agent: the arguments; else NULL */
    const struct json *messages;      /* generate */
    const struct json *value;         /* items: the rendered path or pattern */
    const struct expr_scope *scope;   /* for what prepare renders; valid during the call */
};

/* How it ended. Texts are lent for the call. */
struct agent_outcome {
    enum fault fault;           /* none: good */
    const char *text;           /* not good: why */
    int64_t after_ms;           /* not good: the other side asked for so much patience */
    const struct json *value;   /* tool: the output; items: the list */
    const char *content;        /* generate: the text of the answer, n bytes */
    size_t n_content;
    const char *message;        /* generate: the assistant's message as JSON */
    struct store_usage usage;   /* generate */
};

struct agent_run;

struct agent_io {
    /* Render what the effect needs. 0 and *effect (not NULL); an error means FAULT_template: the step fails. */
    int (*prepare)(void *arg, struct agent_run *run, const struct agent_ask *ask, void **effect, struct err *err);
    /* A fact, to be made durable. In order. */
    void (*row)(void *arg, struct agent_run *run, const struct agent_row *row);
    /* The effect may begin as soon as every row given out so far is committed. It ends with agent_run_outcome. */
    void (*begin)(void *arg, struct agent_run *run, struct agent_node *node, void *effect);
    /* The effect is not wanted any more: end it, its outcome must not be told. */
    void (*stop)(void *arg, struct agent_run *run, void *effect);
    /* run->end, output and error are final. */
    void (*end)(void *arg, struct agent_run *run);
    uint64_t (*random)(void *arg);                            /* for back-off */
    void (*token)(void *arg, char out[AGENT_TOKEN_MAX]);      /* a new secret */
};

struct agent_run {
    char id[STORE_ID_MAX];
    const struct pipeline *plan;
    const struct json *inputs;  /* object, all inputs of the plan */
    int64_t created_ms, deadline_ms; /* wall clock */
    const struct agent_io *io;
    void *arg;
    struct agent_state state;
    int n_effect;               /* under way outside */
    int rows_left;              /* of the advance under way */
    int64_t bytes_left;
    int64_t now_ms;             /* wall clock, of the call under way */
    int64_t due_ms;             /* wall clock: call agent_run_advance then at the latest; INT64_MAX: no need */
    enum agent_run_state end;
    char *output;               /* JSON text; NULL: none */
    char error[AGENT_ERROR_MAX + 1]; /* "" if none */
};

/* May runs of this plan be kept? ERR_LIMIT: a path would be longer than STORE_PATH_MAX allows. */
int agent_run_check(const struct pipeline *plan, struct err *err);

void agent_run_init(struct agent_run *run, const char *id, const struct pipeline *plan, const struct json *inputs,
                    int64_t created_ms, const struct agent_io *io, void *arg);
void agent_run_release(struct agent_run *run); /* effects must be gone (agent_run_stop) */

/* A stored row, before the first advance. Errors of agent_state_apply. */
int agent_run_fold(struct agent_run *run, const struct agent_row *row, struct err *err);

/* Do all that can be done now; sets due_ms. */
void agent_run_advance(struct agent_run *run, int64_t now_ms);

/* The effect of a node ended: its rows are given out inside the call; agent_run_advance has to follow, soon. */
void agent_run_outcome(struct agent_run *run, struct agent_node *node, const struct agent_outcome *o, int64_t now_ms);

/* A human's answer. path NULL: the step that waits with this token. 0; ERR_MISSING: nothing waits there; ERR_ARG: the
 * token is wrong (compared in constant time). agent_run_advance has to follow. */
int agent_run_approve(struct agent_run *run, const char *path, const char *token, bool approved, const char *comment,
                      int64_t now_ms, struct err *err);

/* End it now, from outside. No-op if it is over. */
void agent_run_cancel(struct agent_run *run, const char *why, int64_t now_ms);

/* Forget all effects (io->stop) and write nothing: the process ends. */
void agent_run_stop(struct agent_run *run);

/* Rows that a new run takes over from an old one: given one after the other in order, true for those that stay. from:
 * the first step that is run anew, with all that stand behind it in its list; NULL: only what has no result. */
bool agent_run_keeps(const struct pipeline *plan, const struct agent_row *row, const char *from);

/* The effect token of a step (the same for all its attempts), and the id of an attempt's generation. */
const char *agent_effect_token(const char *run, const char *path, char out[STORE_ID_MAX + STORE_PATH_MAX]);
const char *agent_request_id(const char *run, const char *path, int attempt, char out[STORE_ID_MAX]);

const char *agent_run_state_name(enum agent_run_state state);
enum agent_run_state agent_run_state_of(const char *name); /* AGENT_RUN_STATE_N: none */

#endif
