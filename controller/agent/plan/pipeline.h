/* controller/agent/plan/pipeline.h - a pipeline file as a checked plan that is never changed.
 * Owns:     the plan everything in it (one arena, the schemas).
 * Lifetime: pipeline_parse, pipeline_load .. pipeline_destroy.
 * Thread:   any, once parsed.
 * Limits:   PIPELINE_*_MAX below; doc.h (text), expr.h, template.h, schema.h.
 *
 * docs/pipelines.md is the format. What is checked before anything runs: every key known, every value of its type and
 * within its bounds, ids unique in the whole file, `needs` without cycles, every expression readable, every reference
 * to something that is there and is done by then. A plan that was made can only fail by what its steps meet.
 *
 * Order: the steps of one list run from top to bottom, each when the one above is settled. A step with `needs` starts
 * when those are settled ([]: at once). Settled: done, skipped (its `when` was false), or failed with `on_error:
 * continue`; output is null in the last two. Every template may refer to the steps that are settled before it: its
 * needs, their needs and so on, for steps in a map also those before the map.
 */
#ifndef CONTROLLER_AGENT_PLAN_PIPELINE_H
#define CONTROLLER_AGENT_PLAN_PIPELINE_H

#include "common/text/json.h"
#include "controller/agent/plan/backoff.h"
#include "controller/agent/plan/schema.h"
#include "controller/agent/plan/template.h"

enum {
    PIPELINE_STEPS_MAX = 256,        /* of a file, inner ones too */
    PIPELINE_NEST_MAX = 4,           /* maps in maps */
    PIPELINE_ID_MAX = 64,            /* bytes of an id or name */
    PIPELINE_INPUTS_MAX = 64,
    PIPELINE_TOOLS_MAX = 64,         /* of one agent */
    PIPELINE_ARGV_MAX = 256,         /* elements of a command */
    PIPELINE_ENV_MAX = 64,           /* entries of a list `env` */
    PIPELINE_HEADERS_MAX = 64,       /* of one http */
    PIPELINE_PARALLEL_MAX = 256,     /* max_parallel of a map or a run */
    PIPELINE_PARALLEL_DEFAULT = 8,
    PIPELINE_TURNS_MAX = 100,
    PIPELINE_TURNS_DEFAULT = 10,
    PIPELINE_REPAIR_MAX = 10,
    PIPELINE_REPAIR_DEFAULT = 2,
    PIPELINE_RETRIES_MAX = 100000,   /* of a run */
    PIPELINE_RETRIES_DEFAULT = 100,
    PIPELINE_MS_MAX = 2000000000,    /* 23 days: any time in a file */
    PIPELINE_DEADLINE_MS_DEFAULT = 86400000,
    PIPELINE_TOOL_MS_DEFAULT = 60000,      /* timeout_ms of a tool */
    PIPELINE_GENERATE_MS_DEFAULT = 600000, /* timeout_ms of generate */
    PIPELINE_AGENT_MS_DEFAULT = 3600000,   /* timeout_ms of agent, all turns */
    PIPELINE_OUTPUT_BYTES_MAX = 64 << 20,
    PIPELINE_OUTPUT_BYTES_DEFAULT = 1 << 20, /* max_output_bytes of a tool */
    PIPELINE_REDIRECTS_MAX = 10,
    PIPELINE_CODES_MAX = 32,         /* entries of a list of exit codes or statuses */
    PIPELINE_FAULTS_MAX = 50,        /* reported of one file */
    PIPELINE_HASH_BYTES = 32,
};

/* The key that makes a step what it is. */
#define PIPELINE_KIND_LIST(X) X(generate) X(tool) X(map) X(join) X(wait) X(agent)
enum pipeline_kind {
#define X(name) PIPELINE_##name,
    PIPELINE_KIND_LIST(X)
#undef X
        PIPELINE_KIND_N
};

/* "generate" ... */
const char *pipeline_kind_name(enum pipeline_kind kind);

/* One entry of `env`: "NAME" passes the controller's own value on, "NAME=text" sets it. */
struct pipeline_env {
    const char *name;
    const struct template *value; /* NULL: passed on if the controller has it */
};

struct pipeline_header {
    const char *name;
    const struct template *value;
};

struct pipeline_http {
    const char *method;           /* "GET", "POST", "PUT", "PATCH", "DELETE" */
    const struct template *url;   /* http:// or https:// */
    const struct pipeline_header *header; /* [n_header] */
    int n_header;
    const struct template *body;  /* sent as JSON; NULL: none (agent's tool with POST, PUT, PATCH: the arguments) */
    int max_redirects;
};

/* What runs in a `tool` step, and in each tool of an agent. */
struct pipeline_tool {
    /* of an agent's tool only: */
    const char *name, *description;
    const struct json *parameters_json;  /* as written */
    const struct schema *parameters;     /* the arguments are checked by it */
    /* exactly one of the two: */
    const struct template *command;      /* list of texts; NULL: http */
    const struct pipeline_http *http;
    /* command: */
    const struct template *stdin_value;  /* JSON on stdin; NULL: nothing (in an agent's tool: the arguments) */
    const struct template *dir;          /* working directory, relative to the plan's; NULL: that */
    const struct pipeline_env *env;      /* [n_env]: the plan's `env`, then its own */
    int n_env;
    const int *ok_code, *retry_code;     /* exit codes; http: more statuses that are good, or busy */
    int n_ok_code, n_retry_code;
    /* both: */
    bool is_text;                        /* the output is taken as text, not as JSON */
    int64_t max_output_bytes;
    int64_t timeout_ms;                  /* of one attempt (agent's tool: of one call) */
};

struct pipeline_generate {
    const struct template *messages; /* list of {"role", "content"}, `system` and `prompt` already made into such */
    const struct template *options;  /* object: the other fields of a chat request (max_tokens, temperature ...) */
};

struct pipeline_agent {
    struct pipeline_generate generate;
    const struct pipeline_tool *tool; /* [n_tool] */
    int n_tool;
    int max_turns;                    /* generations until the final answer */
};

struct pipeline_step;

struct pipeline_steps {
    const struct pipeline_step *step; /* [n], as in the file: what a step needs stands anywhere in the list */
    int n;
};

/* Where a map's items come from. */
enum pipeline_source { PIPELINE_OVER, PIPELINE_JSONL, PIPELINE_FILES };

struct pipeline_map {
    enum pipeline_source source;
    const struct template *items;   /* OVER: the list; JSONL: path of the file; FILES: glob pattern (see items.h) */
    const char *as;                 /* name of the item in templates; "item" unless said. Also there: "index" */
    int max_parallel;               /* items under way at once */
    struct pipeline_steps steps;
    const struct template *result;  /* value of one item; NULL: output of the last inner step of the list */
};

struct pipeline_wait {
    const struct template *timer_ms; /* whole number >= 0; NULL: approval */
    const struct template *approval; /* the question, a text; output {"approved": bool, "comment"} */
    const struct template *show;     /* value shown with it; NULL: none */
    bool reject_continues;           /* a no is output {"approved": false ...}, not an error */
};

struct pipeline_step {
    const char *id;
    const char *description;            /* "" if none */
    int idx;                            /* in its list */
    int number;                         /* in the whole file, 0.. in the order of writing: stable key of the plan */
    const struct pipeline_step *parent; /* the map it stands in, NULL at the top */
    int depth;                          /* maps around it */
    const int *need;                    /* [n_need] idx of steps of the same list, rising */
    int n_need;
    uint64_t before[PIPELINE_STEPS_MAX / 64]; /* set of idx: settled before it starts, needs of needs included */
    const struct expr *when;            /* NULL: always */
    const char *when_text;
    struct backoff retry;               /* generate, tool: of the step; agent: of each generation and call by itself */
    int64_t timeout_ms;                 /* generate, tool: of an attempt; else of the whole step, 0: none */
    bool on_error_continue;
    const struct schema *output;        /* NULL: anything (generate, agent: the answer is text) */
    int repair;                         /* generate, agent with `output`: further attempts told of the faults */
    enum pipeline_kind kind;
    union {
        struct pipeline_generate generate;
        struct pipeline_tool tool;
        struct pipeline_map map;
        const struct template *join; /* the value itself */
        struct pipeline_wait wait;
        struct pipeline_agent agent;
    } u;
};

struct pipeline_input {
    const char *name;
    const char *description;      /* "" if none */
    const struct json *source;    /* the schema as written */
    const struct schema *schema;
    const struct json *fallback;  /* `default`; NULL: the input must be given */
};

struct pipeline {
    const char *name;
    const char *description;      /* "" if none */
    const char *dir;              /* absolute: where commands run and relative paths begin */
    const struct pipeline_input *input; /* [n_input] */
    int n_input;
    int64_t deadline_ms;          /* of the run */
    int64_t max_retries;          /* of the run: retries and repairs of all its steps */
    int max_parallel;             /* steps under way at once in the run */
    struct pipeline_steps steps;
    int n_step;                   /* inner ones too: number < n_step */
    const struct pipeline_step *const *by_number; /* [n_step] */
    const struct template *result; /* the run's output; NULL: output of the last step of the list */
    const char *canonical;        /* see pipeline_canonical */
    size_t canonical_len;
    uint8_t hash[PIPELINE_HASH_BYTES]; /* SHA-256 of it */
    const struct pipeline_env *env;    /* the plan's own: already part of every tool's */
    int n_env;
};

/* Parse a pipeline.
 *   name    shown in faults: the file's path; "" leaves it and the colon out
 *   dir     absolute folder that a relative or absent `dir` of the file begins at
 *   report  NULL, or gets one line "file:line: reason\n" for each fault, at most PIPELINE_FAULTS_MAX
 * 0 and *out (yours); ERR_FORMAT, ERR_UNSUPPORTED, ERR_LIMIT with the first fault as "file:line: reason". */
int pipeline_parse(const char *text, size_t len, const char *name, const char *dir, struct pipeline **out,
                   struct buf *report, struct err *err);

/* Parse the file `path`; dir is its folder. Errors also of file_read. */
int pipeline_load(const char *path, struct pipeline **out, struct buf *report, struct err *err);

void pipeline_destroy(struct pipeline **p);

/* The canonical text: JSON with every default written out and members in a fixed order, valid as long as the plan.
 * Parsing it gives a plan with the same text and hash, whatever later versions take as defaults. For the database. */
const char *pipeline_canonical(const struct pipeline *p, size_t *len);

/* Step by id among all steps, or NULL. */
const struct pipeline_step *pipeline_step(const struct pipeline *p, const char *id);

/* `step` is settled before `other` starts (of the same list, or other stands in a map behind it). */
bool pipeline_comes_before(const struct pipeline *p, const struct pipeline_step *step,
                           const struct pipeline_step *other);

/* Check what was given for a run: an object or NULL. 0 and *full: every input of the plan, defaults filled in, in the
 * plan's order. ERR_ARG: an unknown name (with the nearest known one), a missing or an unfit value, by name. */
int pipeline_inputs(const struct pipeline *p, const struct json *given, struct arena *arena, const struct json **full,
                    struct err *err);

/* The value that a text of the command line stands for (--input name=text): the text itself where the input takes
 * strings only, else its JSON; where both are possible JSON if it is JSON. 0; ERR_MISSING: no such input; ERR_ARG. */
int pipeline_input_text(const struct pipeline *p, const char *name, const char *text, size_t len, struct arena *arena,
                        const struct json **value, struct err *err);

/* For `baton run --check FILE`: all faults on stderr, or one line "FILE: good: N steps, ..." on stdout (as_json: {"ok",
 * "name", "hash", "steps", "inputs"} or {"ok": false, "faults": [...]} on stdout). 0, or the code of pipeline_load. */
int pipeline_check_file(const char *path, bool as_json);

#endif
