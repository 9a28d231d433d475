/* controller/agent/agent_internal.h - what the files of this room share.
 * Owns:     see agent.h.
 * Thread:   the loop.
 */
#ifndef CONTROLLER_AGENT_AGENT_INTERNAL_H
#define CONTROLLER_AGENT_AGENT_INTERNAL_H

#include "controller/agent/agent.h"
#include "controller/agent/tool/tool.h"
#include "controller/api/chat_request.h"
#include "controller/ledger/request.h"
#include "controller/stream/message.h"
#include "controller/stream/text.h"

#include <uv.h>

/* Life of an effect. Moves go through agent__effect_move() with its table. */
#define AGENT_EFFECT_STATE_LIST(X)                                                                 \
    X(ready)   /* prepared; waits for the commit of its started row, or for room */                \
    X(pool)    /* on the thread pool: a long prompt, a list of files */                            \
    X(running) /* a generation is submitted, a tool runs */                                        \
    X(ended)   /* its outcome waits for room in the store's batch */                               \
    X(over)    /* its outcome was told; what is left of it is cleaned up */
enum agent_effect_state {
#define X(name) AGENT_EFFECT_##name,
    AGENT_EFFECT_STATE_LIST(X)
#undef X
        AGENT_EFFECT_STATE_N
};

struct agent_effect {
    struct agent *agent;
    struct agent_live *live; /* NULL: stopped, nobody wants its outcome */
    struct agent_node *node;
    enum agent_ask_kind kind;
    enum agent_effect_state state;
    struct agent_effect *prev, *next;  /* all */
    struct agent_effect *queue_next;   /* ready ones, in order */
    bool queued;
    uint64_t after;          /* the batch that has to be committed */
    int64_t timeout_ms;      /* generate: of this attempt; 0: none */
    uv_work_t work;
    /* generate */
    char request[STORE_ID_MAX];
    struct buf body;
    bool has_read;           /* chat is filled */
    int read_rc;
    struct chat_request chat;
    struct api_error error;
    struct ctl_request *req;
    struct stream_text *text;
    struct message message;
    int64_t n_fed;
    /* tool */
    struct tool_request tool;
    struct tool_call *call;
    struct agent_outcome outcome; /* ended: what is to be told; texts in arena */
    /* items */
    char *pattern;           /* JSON text */
    enum pipeline_source source;
    const char *dir;
    const struct json *list;
    struct err err;
    struct arena arena;
};

/* An event of a live run. */
struct agent_event {
    uint64_t batch;
    char *json;
    size_t n;
};

struct agent_after {
    struct agent_after *next;
    uint64_t seq;
    agent_after_fn fn;
    void *arg;
};

struct agent_live {
    struct agent *agent;
    struct agent_live *prev, *next;
    struct agent_run run;
    struct agent_plan *plan;
    struct arena arena;       /* of the inputs */
    char tenant[STORE_TENANT_MAX];
    char *key, *parent;       /* owned; NULL: none */
    uint8_t hash[STORE_HASH_BYTES];
    bool dirty;               /* to be advanced */
    struct agent_live *dirty_next;
    bool watched;             /* somebody has asked for events: they are kept */
    int64_t n_event;          /* numbers given so far */
    int64_t first_event;      /* number of the oldest one in memory */
    struct agent_event *event; /* [cap_event], ring by number */
    int64_t cap_event;        /* a power of two up to AGENT_EVENTS_KEPT */
    int64_t n_shown;          /* events below are committed */
    uint64_t end_seq;         /* batch of the end; 0: lives */
    int64_t ended_ms;         /* wall clock */
    bool broken;              /* the store refused a row: nothing more is done here */
    struct agent_after *on_end;
};

struct agent_prune {
    struct agent *agent; /* NULL: closed meanwhile */
};

struct agent {
    struct ctl *ctl;
    struct tool_runner *tools;
    struct chat_request_rules rules;
    struct agent_live *live, *live_tail;
    int64_t n_live;
    struct agent_live *dirty, *dirty_tail;
    struct agent_effect *effects, *queue, *queue_tail;
    int64_t n_effect, n_job;
    struct agent_after *after, *after_tail;
    struct agent_plan *plan[AGENT_PLANS_KEPT];
    uint64_t plan_clock;
    uint64_t committed, last_seq, seen_committed;
    int64_t due_ms;           /* wall clock: some run wants to be advanced then */
    int64_t held_at_ms;       /* loop time of the next try for what is held; 0: nothing is */
    int64_t prune_at_ms;      /* loop time */
    struct agent_prune *pruning; /* a question about old runs; NULL: none */
    bool started, draining, closing;
    void (*listener)(void *arg, struct agent_live *live);
    void *listener_arg;
    void (*on_closed)(void *arg);
    void *closed_arg;
    bool tools_closed;
};

/* ---- agent.c ---- */
void agent__mark(struct agent_live *live);      /* to be advanced in this turn or the next */
void agent__maybe_closed(struct agent *a);

/* ---- effect.c ---- */
int agent__effect_prepare(void *arg, struct agent_run *run, const struct agent_ask *ask, void **effect,
                          struct err *err);
void agent__effect_begin(void *arg, struct agent_run *run, struct agent_node *node, void *effect);
void agent__effect_stop(void *arg, struct agent_run *run, void *effect);
void agent__effects_start(struct agent *a);     /* begin what may begin now, tell what may be told now */
void agent__effects_leave(struct agent *a);     /* the process ends: the store keeps what lives */
void agent__effect_move(struct agent_effect *e, enum agent_effect_state to);
void agent__effect_queue(struct agent_effect *e);
void agent__effect_tell(struct agent_effect *e, const struct agent_outcome *o); /* the run takes it, now */
void agent__effect_free(struct agent_effect *e);
bool agent__has_room(struct agent *a);          /* in the store's batch */

/* ---- generate.c ---- */
void agent__generate_start(struct agent_effect *e); /* stays ready if there is no room now */
void agent__generate_read(struct agent_effect *e);  /* on the pool, or here */
void agent__generate_release(struct agent_effect *e);

#endif
