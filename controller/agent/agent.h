/* controller/agent/agent.h - the runs of pipelines that live in this controller: it keeps their facts in the store,
 * does their effects, and tells who listens.
 * Owns:     every live run (run.h), its effects, the tools under way, plans in use.
 * Lifetime: agent_open (before the store is read), agent_on_run/on_step for what was read back, agent_start ..
 *           agent_close(on_closed).
 * Thread:   the loop; files are listed and long prompts tokenized on the thread pool.
 * Limits:   run_live_max runs; AGENT_EVENTS_KEPT events of each in memory; AGENT_PLANS_KEPT plans; the store's.
 *
 * What is true is what the store has committed. A run exists for its client when its row is committed; a tool begins
 * when the `started` row of its step is; an event is told when its row is. A generation is submitted together with its
 * `started` row, in one transaction; its result row goes into the transaction of its end (on_ending).
 */
#ifndef CONTROLLER_AGENT_AGENT_H
#define CONTROLLER_AGENT_AGENT_H

#include "controller/agent/run.h"
#include "controller/ctl_internal.h"

enum {
    AGENT_EVENTS_KEPT = 4096,  /* events of a live run that are told without asking the store */
    AGENT_PLANS_KEPT = 32,     /* parsed pipelines that are kept for the next run of the same text */
    AGENT_HELD_MS = 100,       /* between two tries to submit a generation that found no room */
    AGENT_PRUNE_MS = 10000,    /* between two looks for runs to be forgotten */
    AGENT_PRUNE_MAX = 200,     /* runs forgotten at a look */
};

struct agent;
struct agent_live;

/* A pipeline as text, parsed once and shared by the runs of it. */
struct agent_plan {
    struct pipeline *pipeline;
    char *text;       /* as it was given, n bytes: the key */
    char *dir;
    size_t n;
    int n_ref;
    uint64_t used;    /* order of use */
};

extern const struct ctl_agent_ops agent_ops; /* for ctl_open_with */

/* The plan of a text; the reference is yours (agent_plan_drop). Errors of pipeline_parse; report as there. */
int agent_plan_get(struct agent *a, const char *text, size_t n, const char *dir, struct agent_plan **plan,
                   struct buf *report, struct err *err);
void agent_plan_drop(struct agent *a, struct agent_plan **plan);

/* What a new run is made of. */
struct agent_new {
    const char *tenant, *key;            /* key NULL: none */
    uint8_t body_hash[STORE_HASH_BYTES];
    struct agent_plan *plan;             /* lent; the run takes a reference of its own */
    const struct json *inputs;           /* as given; NULL: none. Copied. */
    const char *parent;                  /* NULL: none */
    const struct store_record *record;   /* [n_record] of the parent: rows that are taken over */
    size_t n_record;
    const char *from;                    /* see agent_run_keeps */
};

/* Make a run: its rows are put now, and everything that can be done at once is done. ERR_ARG: the inputs are not
 * those of the plan; ERR_LIMIT: run_live_max live, or the store is full; ERR_STATE: stopping, no store, or it fails. */
int agent_create(struct agent *a, const struct agent_new *n, struct agent_live **live, struct err *err);

/* A live run, or NULL: ended, or there never was one. By id; by Idempotency-Key. */
struct agent_live *agent_find(struct agent *a, const char *id);
struct agent_live *agent_find_key(struct agent *a, const char *tenant, const char *key);
/* The first or next live run. */
struct agent_live *agent_next(struct agent *a, struct agent_live *after);

const char *agent_live_id(const struct agent_live *live);
const char *agent_live_tenant(const struct agent_live *live);
const uint8_t *agent_live_hash(const struct agent_live *live);
struct agent_run *agent_live_run(struct agent_live *live);

/* See run.h; what has to be done at once is done. */
void agent_cancel(struct agent *a, struct agent_live *live, const char *why);
int agent_approve(struct agent *a, struct agent_live *live, const char *path, const char *token, bool approved,
                  const char *comment, struct err *err);

/* Call fn(arg, rc) once, from the turn: when everything put so far is committed. rc: 0, or ERR_CANCELED: the
 * controller closes. */
typedef void (*agent_after_fn)(void *arg, int rc);
void agent_after(struct agent *a, agent_after_fn fn, void *arg);
/* Call fn(arg, rc) once, from the turn, when the end of the run is committed; inside the call the run is still
 * there. */
void agent_on_end(struct agent *a, struct agent_live *live, agent_after_fn fn, void *arg);
void agent_forget(struct agent *a, void *arg); /* no call with this arg any more */

/* Append the run as agent_show_run does, without steps. */
void agent_live_show(const struct agent_live *live, struct buf *out);

/* Events of a live run that are committed: append "id: <run>-<n>\ndata: <event>\n\n" for numbers *seq and up, until
 * more than max bytes were added; *seq becomes the next number. *ended: the last event of all was added. 0;
 * ERR_MISSING: number *seq is not kept in memory, ask the store. Events are kept from the first call on. */
int agent_events(struct agent_live *live, int64_t *seq, size_t max, struct buf *out, bool *ended);
/* The same for one event text: how an event stands in the stream. */
void agent_event_frame(const char *run, int64_t seq, const char *json, size_t n, struct buf *out);

/* fn(arg, live) from the turn whenever events of a run became visible. One listener. */
void agent_listen(struct agent *a, void (*fn)(void *arg, struct agent_live *live), void *arg);

/* Live runs, and effects under way. */
int64_t agent_n_live(const struct agent *a);
int64_t agent_n_effect(const struct agent *a);

#endif
