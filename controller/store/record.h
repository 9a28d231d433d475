/* controller/store/record.h - what the store keeps, as plain structs; and the names of what can go wrong with it.
 * Owns:     nothing; the pointers are lent, and a batch copies what it is given.
 * Thread:   any; plain data.
 * Limits:   the STORE_*_MAX below; store_batch_*() checks them.
 *
 * Texts are UTF-8 without NUL, because PostgreSQL refuses anything else. Arrays of int32 are kept as little-endian
 * bytes.
 */
#ifndef CONTROLLER_STORE_RECORD_H
#define CONTROLLER_STORE_RECORD_H

#include <stddef.h>
#include <stdint.h>

enum {
    STORE_ID_MAX = 64,      /* bytes of a request id, with NUL; the same as MSG_NAME_MAX */
    STORE_TENANT_MAX = 128, /* with NUL, like the next three */
    STORE_PATH_MAX = 256,     /* of a call, or of a step */
    STORE_KEY_MAX = 256,    /* Idempotency-Key */
    STORE_FINISH_MAX = 32,    /* why a choice ended, the state of a step or of a run */
    STORE_TEXT_MAX = 512,   /* longer texts are cut at a whole character */
    STORE_HASH_BYTES = 32,
    STORE_CHOICES_MAX = 128,
    STORE_TOKENS_MAX = 1 << 24,       /* ids of one prompt, or of one row of tokens */
    STORE_BLOB_BYTES_MAX = 128 << 20, /* params of a request, extra of a row of tokens, a JSON text */
};

/* A request was accepted. FULL: on disk before it is acknowledged. The tuple (tenant, path, key) is unique where
 * there is a key, the id always: a second one is refused (struct store_refusal) and changes nothing. */
struct store_request {
    const char *id, *tenant, *path;
    const char *key;                     /* NULL: none */
    uint8_t body_hash[STORE_HASH_BYTES]; /* of the parsed body; decides 409 for a known key */
    const int32_t *prompt;               /* [n_prompt] */
    int64_t n_prompt;
    int32_t params_version;              /* what encoding params has: the ledger's affair */
    const void *params;                  /* sampling, limits, and whatever the front needs to answer again */
    size_t params_bytes;
    uint64_t seed;
    int64_t created_ms, deadline_ms;     /* wall clock (clock_wall_ms): they outlive the process */
    int32_t n_choice;
};

/* Tokens first .. first+n-1 of a choice. Refused unless first is exactly the next index of a choice that has not
 * ended. */
struct store_tokens {
    const char *request;
    int32_t choice;
    int64_t first;
    int32_t n;
    const int32_t *id; /* [n] */
    const void *extra; /* logprobs and alternatives, encoded by the ledger; NULL: none */
    size_t extra_bytes;
};

struct store_usage {
    int64_t prompt_tok, output_tok, cached_tok, reasoning_tok;
};

/* A choice ended. FULL. Refused unless n_tok tokens of it are there, no more and no fewer. */
struct store_end {
    const char *request;
    int32_t choice;
    const char *finish; /* ctl_end_name(): names stay readable when the list of ends grows */
    const char *text;   /* why it failed; may be NULL */
    int64_t n_tok;
    struct store_usage usage;
    int64_t ended_ms;   /* wall clock */
};

/* A run of a pipeline began. FULL. The id is unique, and (tenant, key) where there is a key: refused otherwise. */
struct store_run {
    const char *id, *tenant;
    const char *key;                     /* NULL: none */
    uint8_t body_hash[STORE_HASH_BYTES]; /* decides 409 for a known key */
    const char *name;                    /* of the pipeline */
    const char *pipeline, *input;        /* JSON texts; the pipeline canonical. NULL in the answer to a list */
    const char *parent;                  /* the run it was forked from; NULL: none */
    int64_t created_ms, deadline_ms;     /* wall clock */
};

/* One thing that happened to a step of a run. Refused unless the run is there and has not ended, and (run, path,
 * attempt, state) is new; a path is `done` at most once in a run, whatever the attempt. */
struct store_step {
    const char *run;
    const char *path;    /* "extract", "extract[12]", "agent[3].turn2" */
    int32_t attempt;
    const char *state;   /* "started", "done", "failed", ... ; only "done" means something to the store */
    const char *result;  /* JSON text; NULL: none */
    const char *request; /* the generation that it waits for or that made it; NULL: none */
    const char *error;   /* NULL: none */
    struct store_usage usage;
    int64_t at_ms;       /* wall clock */
};

/* A run ended. FULL. Refused unless it is there and has not ended. */
struct store_run_end {
    const char *run, *state;
    const char *output; /* JSON text; NULL: none */
    const char *error;  /* NULL: none */
    struct store_usage usage;
    int64_t ended_ms;   /* wall clock */
};

/* One list of what can be written: enum, names, the cases of each back end. */
#define STORE_KIND_LIST(X)                                                                         \
    X(accept)    /* struct store_request */                                                        \
    X(tokens)    /* struct store_tokens */                                                         \
    X(end)       /* struct store_end */                                                            \
    X(prune)     /* a request id: all rows of it go; an unknown id changes nothing */              \
    X(run)       /* struct store_run */                                                            \
    X(step)      /* struct store_step */                                                           \
    X(run_end)   /* struct store_run_end */                                                        \
    X(prune_run) /* a run id: all rows of it go; an unknown id changes nothing */
enum store_kind {
#define X(name) STORE_##name,
    STORE_KIND_LIST(X)
#undef X
        STORE_KIND_N
};

/* Durability classes. */
enum store_class {
    STORE_LAZY, /* survives the death of any process; a power cut may take what is younger than sync_ms */
    STORE_FULL, /* on disk when it counts as durable */
};

struct store_record {
    enum store_kind kind;
    union {
        struct store_request accept;
        struct store_tokens tokens;
        struct store_end end;
        const char *prune;
        struct store_run run;
        struct store_step step;
        struct store_run_end run_end;
        const char *prune_run;
    } u;
};

/* A record that the store did not take, because it contradicts what is there. The rest of its batch was committed. */
struct store_refusal {
    uint64_t seq;
    enum store_kind kind;
    char request[STORE_ID_MAX];    /* of a request or a run */
    int32_t choice;                /* step: the attempt */
    int64_t first;                 /* tokens: first; end: n_tok */
    char path[STORE_PATH_MAX];     /* step: its path; else empty */
    char state[STORE_FINISH_MAX];  /* step, run_end: the state; else empty */
};

/* What is wrong with the store: the name goes into /health and in front of every error text. */
#define STORE_FAULT_LIST(X)                                                                        \
    X(none)                                                                                        \
    X(disk_full)  /* no space, or a limit on the size of a file */                                  \
    X(read_only)  /* the file or its file system may not be written */                              \
    X(locked)     /* another process has it: a second controller, or the leader in PostgreSQL */    \
    X(corrupt)    /* not a database, damaged, or rows that contradict each other */                 \
    X(newer)      /* the schema is newer than this program */                                       \
    X(io)         /* any other failed read, write or sync */                                        \
    X(unreachable) /* the database server does not answer */                                        \
    X(fenced)     /* another controller has taken over: nothing can be written any more */          \
    X(internal)   /* the database refused a statement: a mistake in this program, or foreign tables */
enum store_fault {
#define X(name) STORE_FAULT_##name,
    STORE_FAULT_LIST(X)
#undef X
        STORE_FAULT_N
};

const char *store_kind_name(enum store_kind kind);
const char *store_fault_name(enum store_fault fault);

#endif
