/* tests/unit/controller/store/suite.h - what every implementation of the store has to do, run for each of them.
 * Owns:     struct rig: a loop, the store on it, what it has reported.
 * Lifetime: rig_open .. rig_close; rig_close ends with uv_loop_close() == 0.
 * Thread:   the test's.
 */
#ifndef TESTS_UNIT_CONTROLLER_STORE_SUITE_H
#define TESTS_UNIT_CONTROLLER_STORE_SUITE_H

#include "tests/unit/test.h"

#include "controller/store/store.h"

struct rig {
    uv_loop_t loop;
    struct store *store;
    struct store_config config;
    uint64_t committed, durable;
    enum store_state state;
    enum store_fault fault;
    char text[ERR_TEXT_MAX];
    int n_failing; /* on_state(failing) events */
    int n_refused;
    struct store_refusal refused; /* the last */
    bool closed;
};

/* A database that nobody has used: its url goes to `url`. Provided by each test program. */
extern void (*suite_fresh)(char *url, size_t n);

void rig_init(struct rig *r, const char *url); /* fields and config, nothing opened */
int rig_open(struct rig *r, struct err *err);  /* store_open; the config may be changed before */
void rig_start(struct rig *r);                 /* rig_open and store_start, must succeed */
void rig_close(struct rig *r);

/* Flush, then run the loop until batch seq is committed (durable). False: not within 20 s. */
bool rig_wait(struct rig *r, uint64_t seq);
bool rig_wait_durable(struct rig *r, uint64_t seq);
bool rig_wait_state(struct rig *r, enum store_state state);

/* Short ways to write; each returns the batch. Token i of choice c of request id has the value suite_token(id, c, i).
 */
uint64_t put_accept(struct rig *r, const char *id, int n_choice);
uint64_t put_tokens(struct rig *r, const char *id, int choice, int64_t first, int n, enum store_class cls);
uint64_t put_end(struct rig *r, const char *id, int choice, int64_t n_tok);
uint64_t put_prune(struct rig *r, const char *id);
uint64_t put_run(struct rig *r, const char *id, const char *tenant, const char *key);
uint64_t put_step(struct rig *r, const char *run, const char *path, int attempt, const char *state,
                  enum store_class cls);
uint64_t put_run_end(struct rig *r, const char *run);
uint64_t put_prune_run(struct rig *r, const char *run);
int32_t suite_token(const char *id, int choice, int64_t i);

/* What a store holds, read back and checked against what the helpers above write. */
enum { SEEN_MAX = 64, SEEN_CHOICES = 4, SEEN_TRACE = 512 };
struct seen {
    int n;
    struct seen_request {
        char id[STORE_ID_MAX];
        int n_choice;
        int64_t n_tok[SEEN_CHOICES];
        bool ended[SEEN_CHOICES];
    } request[SEEN_MAX];
    int n_run;
    struct seen_run {
        char id[STORE_ID_MAX];
        char trace[SEEN_TRACE]; /* "path/attempt/state " of each step, in order */
        int n_step;
        bool ended;
    } run[SEEN_MAX];
};
extern const struct store_visitor seen_visitor; /* arg: struct seen, zeroed */
int seen_load(struct store *s, enum store_load_what what, struct seen *seen, struct err *err);
const struct seen_request *seen_find(const struct seen *seen, const char *id); /* NULL: not there */
const struct seen_run *seen_find_run(const struct seen *seen, const char *id);

/* Open again, read everything, close. */
void suite_look(const char *url, enum store_load_what what, struct seen *seen);

/* The content of data/v1.db and data/v1.sql, which a program of schema 1 wrote: is it all there, and can it go on? */
void suite_check_v1(const char *url);

/* Ask and wait for the answer: its code, its records in *seen (n = 0: nothing), ids in `ids` with a space behind
 * each. */
int rig_fetch(struct rig *r, const struct store_query *query, struct seen *seen, char *ids, size_t ids_bytes);

/* Everything above as tests, and those of suite_runs.c. */
extern const struct CMUnitTest suite_tests[], suite_run_tests[];
extern const size_t suite_n_test, suite_n_run_test;

/* Run both lists and then `own`. */
int suite_run_group(const char *name, const struct CMUnitTest *own, size_t n_own, CMFixtureFunction set_up,
                    CMFixtureFunction tear_down);

#endif
