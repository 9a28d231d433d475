/* controller/agent/plan/pipeline_impl.h - what the files that make a plan share.
 * Owns:     struct plan the memory of a struct pipeline.
 * Thread:   any, one at a time.
 */
#ifndef CONTROLLER_AGENT_PLAN_PIPELINE_IMPL_H
#define CONTROLLER_AGENT_PLAN_PIPELINE_IMPL_H

#include "controller/agent/plan/pipeline.h"

/* A struct pipeline and what it owns. */
struct plan {
    struct pipeline pub;
    struct arena arena;
    struct schema **schema; /* [n_schema] */
    int n_schema;
};

/* A plan under construction. Readers go on after a fault, with a value that does no harm: one run names many faults. */
struct maker {
    struct plan *plan;
    struct arena *arena;
    const char *file, *dir;
    struct buf *report;
    struct err *err;
    int n_fault;
    struct pipeline_step *step[PIPELINE_STEPS_MAX]; /* by number */
    const struct json *step_source[PIPELINE_STEPS_MAX];
    int n_step;
};

/* Note a fault at node j (NULL: line 1). */
void pipeline__fault(struct maker *m, const struct json *j, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Note what *err says, a fault at node j, or at `where` if that is not NULL. */
void pipeline__fault_err(struct maker *m, const struct json *where, const struct json *j, const struct err *err);

/* j is an object (else a fault, false); each of its names is among keys (n of them). what: "a step". */
bool pipeline__object(struct maker *m, const struct json *j, const char *what, const char *const *keys, size_t n);

/* Members of an object with their types; the fallback when absent, or after a fault. */
const char *pipeline__text(struct maker *m, const struct json *obj, const char *key, size_t len_max,
                           const char *fallback);
int64_t pipeline__int(struct maker *m, const struct json *obj, const char *key, int64_t min, int64_t max,
                      int64_t fallback);
bool pipeline__bool(struct maker *m, const struct json *obj, const char *key, bool fallback);

/* Which of `choices` (n, not more than 16) the member is; `fallback` (an index) when absent. */
int pipeline__choice(struct maker *m, const struct json *obj, const char *key, const char *const *choices, int n,
                     int fallback);

/* A template out of node j, NULL when j is NULL or after a fault. kinds: set of 1 << enum json_kind that j may have
 * (0: any); a string that holds an expression stands for any kind. wanted: "a list", for the fault. */
const struct template *pipeline__template(struct maker *m, const struct json *j, unsigned kinds, const char *wanted);

/* A schema out of node j, owned by the plan; NULL when j is NULL or after a fault. */
const struct schema *pipeline__schema(struct maker *m, const struct json *j);

/* An id or name: letters, digits, _ and -, a letter or _ first. what: "the id of a step". */
bool pipeline__is_id(const char *s, size_t len);

/* " (did you mean x?)" or "", in the arena. */
const char *pipeline__near(struct maker *m, const char *given, const char *const *words, size_t n);

/* A list of `env`: on top of base. */
void pipeline__env(struct maker *m, const struct json *j, const struct pipeline_env *base, int n_base,
                   const struct pipeline_env **env, int *n_env);

/* The list of steps in node j. parent: the map's step, NULL at the top. */
void pipeline__steps(struct maker *m, const struct json *j, struct pipeline_step *parent, struct pipeline_steps *out);

/* The `tool` object (or one of an agent's): see struct pipeline_tool. */
void pipeline__tool(struct maker *m, const struct json *j, bool of_agent, struct pipeline_tool *out);

/* What generate and agent have in common. */
void pipeline__generate(struct maker *m, const struct json *j, struct pipeline_generate *out);

/* The key tables that pipeline__generate and pipeline__tool take. */
extern const char *const pipeline__option_keys[];
extern const size_t pipeline__n_option_keys;

/* `needs` of all steps of a list, cycles. Then, for the whole plan, references. */
void pipeline__needs(struct maker *m, struct pipeline_steps *steps, const struct json *list);
void pipeline__references(struct maker *m);

/* Append the canonical text. */
void pipeline__write(const struct pipeline *p, struct buf *out);

#endif
