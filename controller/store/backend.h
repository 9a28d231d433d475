/* controller/store/backend.h - what a database must be able to do, inside the room: sqlite.c and postgres.c.
 * Owns:     nothing.
 * Lifetime: open .. close of struct store_backend.
 * Thread:   one at a time: the loop's until store_start, the store's thread from there on. All calls may block.
 *
 * Errors: the text begins with the name of the fault (store__fail), b->fault has it. Everything but `fenced` is tried
 * again by store.c, with the same batches in the same group.
 */
#ifndef CONTROLLER_STORE_BACKEND_H
#define CONTROLLER_STORE_BACKEND_H

#include "controller/store/batch.h"
#include "controller/store/store.h"

struct store_refusals {
    struct store_refusal *r;
    size_t n, cap;
};

struct store_backend;

/* A record that was read; a non-zero answer ends the reading and is its result. */
typedef int (*store__record_fn)(void *arg, const struct store_record *r);

struct store_backend_ops {
    const char *name;
    /* Connect, check, migrate, take the lead. On failure *fault says why; there is no backend then. */
    int (*open)(const struct store_config *c, struct store_backend **b_p, enum store_fault *fault, struct err *err);
    /* One transaction with all batches, none or all; numbered by the last one's seq. full: durable when it returns 0.
     * What contradicts the tables is left out and added to `out`; the caller clears it after an error. */
    int (*commit)(struct store_backend *b, struct store_batch *const *batch, size_t n, bool full,
                  struct store_refusals *out, struct err *err);
    /* Everything committed becomes durable. */
    int (*sync)(struct store_backend *b, struct err *err);
    /* A sign of life of the leader; finds out whether it still is. */
    int (*beat)(struct store_backend *b, struct err *err);
    /* Requests, oldest first, each with its tokens and ends; then, if asked for, runs with their steps and end. */
    int (*load)(struct store_backend *b, enum store_load_what what, bool with_runs, store__record_fn on_record,
                void *arg, struct err *err);
    /* The answer to a query that store.c has checked, in the same order as load; ids as records of prune, prune_run. */
    int (*fetch)(struct store_backend *b, const struct store_query *query, store__record_fn on_record, void *arg,
                 struct err *err);
    void (*close)(struct store_backend **b_p);
    bool lazy_is_durable; /* commit() is durable always: no sync needed */
    bool needs_beat;
};

/* Each back end's struct begins with this one. */
struct store_backend {
    const struct store_backend_ops *ops;
    enum store_fault fault;
    uint64_t epoch;
};

extern const struct store_backend_ops store__sqlite;
#ifdef BATON_STORE_POSTGRES
extern const struct store_backend_ops store__postgres;
#endif

/* err = "<fault name>: <text>", with the code that belongs to the fault, which is returned; *fault is set. */
int store__fail(enum store_fault *fault, enum store_fault value, struct err *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* r was left out of batch seq. */
void store__refuse(struct store_refusals *out, uint64_t seq, const struct store_record *r);

/* Who leads, for people: the configured text or "host:pid". */
void store__holder(const struct store_config *c, char *out, size_t n);

#endif
