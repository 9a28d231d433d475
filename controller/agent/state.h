/* controller/agent/state.h - what is known of a run: a tree of nodes that is a pure fold over its step rows.
 * Owns:     the nodes, their results and errors.
 * Lifetime: agent_state_init .. agent_state_release.
 * Thread:   one at a time; plain data, no loop, no store.
 * Limits:   STORE_PATH_MAX bytes of a path, AGENT_ITEMS_MAX items of a map, AGENT_ATTEMPTS_MAX attempts.
 *
 * Every fact about a run is a row: a step at a path took a state in an attempt, with a result or an error. The engine
 * (run.h) changes a run only by making a row and giving it to agent_state_apply(), and a restart gives the rows of the
 * store to the same function: so both come to the same tree, and nothing can be remembered anywhere else.
 *
 * Paths: "extract" is a step of the pipeline, "extract[12]" item 12 of a map, "ask.turn2" turn 2 of an agent loop,
 * "ask.turn2.call0" its first tool call.
 */
#ifndef CONTROLLER_AGENT_STATE_H
#define CONTROLLER_AGENT_STATE_H

#include "common/base/err.h"
#include "common/mem/arena.h"
#include "common/text/json.h"
#include "controller/store/record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { AGENT_ITEMS_MAX = 1 << 20, AGENT_ATTEMPTS_MAX = 1 << 16 };

/* States of a step. Moves are legal or not by the table in state.c. */
#define AGENT_STEP_STATE_LIST(X)                                                                   \
    X(none)     /* no row yet */                                                                   \
    X(started)  /* an attempt is running: its effect may have happened, or not */                  \
    X(listed)   /* a map whose items came from files: they are in the row */                       \
    X(retry)    /* the attempt failed; the next one not before the time in the row */              \
    X(invalid)  /* the output broke its schema; the next attempt is told what was wrong */         \
    X(waiting)  /* for a time or for an approval */                                                \
    X(done)                                                                                        \
    X(failed)                                                                                      \
    X(skipped)  /* its condition was false, or what it needs was skipped */                        \
    X(canceled)
enum agent_step_state {
#define X(name) AGENT_##name,
    AGENT_STEP_STATE_LIST(X)
#undef X
        AGENT_STEP_STATE_N
};

/* One row of the log. Texts are lent; NULL where there is none. */
struct agent_row {
    const char *path;
    int attempt;                /* from 1; 0 for rows that no attempt made */
    enum agent_step_state state;
    const char *result;         /* JSON text. done: the result (of a map NULL: the list of its items' results);
                                   started: of a map {"items": N}; listed: {"items": N, "list": [...]};
                                   invalid: the output; retry: {"until_ms"}; waiting: {"until_ms", "token"} */
    const char *request;        /* id of the generation */
    const char *error;
    struct store_usage usage;   /* of this attempt alone */
    int64_t at_ms;              /* wall clock */
};

struct pipeline_step;
struct pipeline_tool;

struct agent_node {
    struct agent_node *parent;  /* NULL: the root, which stands for the run */
    struct agent_node *child, *last_child, *next; /* named children, in the order of their first rows */
    struct agent_node **item;   /* [n_item] children by index; NULL: no row yet */
    int64_t n_item;
    char *name;                 /* last part of the path; NULL: an item */
    int64_t idx;                /* of an item; -1 */
    enum agent_step_state state;
    int attempt;                /* of the last row */
    int n_retry, n_invalid;     /* attempts that ended so */
    char *result;               /* of the last row that had one; owned */
    size_t result_bytes;
    char *error;                /* of the last row that had one; owned */
    char *request;              /* of the last row that had one; owned */
    int64_t started_ms;         /* wall clock: first started row; 0 */
    int64_t attempt_ms;         /* wall clock: last started row; 0 */
    int64_t at_ms;              /* wall clock: last row */
    int64_t until_ms;           /* retry, waiting: from the row; 0: none */
    struct store_usage usage;   /* all attempts, children not counted */
    /* the engine's own (run.c); zero after a fold */
    const struct pipeline_step *step; /* what it runs; items, turns and calls: the map's or the agent's step */
    const struct pipeline_tool *tool; /* what a tool step or a call of an agent runs */
    void *effect;               /* what is under way outside; NULL: nothing */
    int64_t cursor;             /* maps: items below have begun */
    int64_t n_settled;          /* maps: items below are over */
    struct agent_items *items;  /* maps: what they go over; owned */
    const struct json *value;   /* the result, parsed when first asked for */
    struct arena arena;         /* of value */
};

/* The list of a map. */
struct agent_items {
    struct arena arena;
    const struct json **value;  /* [n] */
    int64_t n;
};

struct agent_state {
    struct agent_node root;
    struct store_usage usage;   /* sum over all rows */
    int64_t n_row;
    int64_t n_retry;            /* rows of state retry and invalid: the run's budget counts them */
    int64_t result_bytes;       /* held in nodes now */
    bool keeps_children;        /* for showing: nodes that are over keep what is below them */
};

void agent_state_init(struct agent_state *s);
void agent_state_release(struct agent_state *s);

/* Take one row in. ERR_FORMAT, with everything as before: a path that is none, a move that is not legal, a `waiting`
 * or `retry` result that is not what it has to be. When a node is over (done, failed, skipped, canceled) its children
 * are dropped: their results live on in its own. *node_p (may be NULL) is where the row went. */
int agent_state_apply(struct agent_state *s, const struct agent_row *row, struct agent_node **node_p,
                      struct err *err);

/* The node at a path, or NULL. */
struct agent_node *agent_state_find(const struct agent_state *s, const char *path);

/* A named child or an item of a node, or NULL. */
struct agent_node *agent_node_child(const struct agent_node *node, const char *name);
struct agent_node *agent_node_item(const struct agent_node *node, int64_t idx);

/* The item of a map, made (in state none: no fact) if there is none. */
struct agent_node *agent_node_make_item(struct agent_node *node, int64_t idx);

/* The result as a value, valid as long as the node keeps it; NULL if there is none. */
const struct json *agent_node_value(struct agent_node *node);

/* Path of a node into out; returns out. */
const char *agent_node_path(const struct agent_node *node, char out[STORE_PATH_MAX]);

bool agent_step_state_is_over(enum agent_step_state state);
const char *agent_step_state_name(enum agent_step_state state);
/* By name; AGENT_STEP_STATE_N if there is no such state. */
enum agent_step_state agent_step_state_of(const char *name);

/* May a step go from one state to the other? */
bool agent_step_move_is_legal(enum agent_step_state from, enum agent_step_state to);

void agent_usage_add(struct store_usage *sum, const struct store_usage *u);

#endif
