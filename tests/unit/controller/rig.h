/* tests/unit/controller/rig.h - a controller without HTTP, on a real loop and real ZeroMQ over tcp, with scripted
 * workers and a front that checks what it hears.
 * Owns:     the loop, the controller, up to RIG_WORKERS_MAX workers, up to RIG_REQS_MAX requests.
 * Lifetime: rig_open .. rig_close; rig_close asserts that the loop closes cleanly.
 * Thread:   the test's. Workers live on the same loop and are driven by a timer of RIG_TICK_MS.
 *
 * The scripted model: token i of a choice is a pure function of its seed and i, so every worker can check the
 * committed tokens it is given and every test can check the whole output. The front asserts at each event that the
 * indices follow one another and that nothing follows the end.
 */
#ifndef TESTS_UNIT_CONTROLLER_RIG_H
#define TESTS_UNIT_CONTROLLER_RIG_H

#include "tests/unit/test.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "common/text/json.h"
#include "controller/ctl_internal.h"
#include "controller/ledger/request.h"

#include <stdbool.h>
#include <uv.h>

enum {
    RIG_WORKERS_MAX = 6,
    RIG_REQS_MAX = 128,
    RIG_SEQS_MAX = 64,
    RIG_VOCAB = 1000,
    RIG_TICK_MS = 2,
    RIG_WAIT_MS = 20000, /* a condition that is not met by then fails the test */
};

/* One generation inside a scripted worker. */
struct rig_seq {
    bool active;
    char name[MSG_NAME_MAX];
    uint32_t attempt;
    uint64_t seed;
    int64_t next, max_output;
};

struct rig_worker {
    struct rig *rig;
    void *zctx, *socket; /* NULL: not there */
    struct msg_hello hello;
    uint64_t epoch;      /* 0: not welcome yet */
    uint64_t beat_seq;
    int64_t beat_at_ms;
    bool silent;         /* as under SIGSTOP: neither reads nor sends */
    bool manual;         /* takes Generate and does nothing: the test sends for it */
    bool draining;
    bool dies_on_generate; /* the poisoned request's victim */
    int64_t tick_ms, tick_at_ms; /* a token per sequence that often */
    int32_t heartbeat_ms, lost_ms; /* from Welcome */
    struct rig_seq seq[RIG_SEQS_MAX];
    struct msg_generate last; /* the last Generate; tok and bias are not valid */
    int32_t last_tok[64];     /* its first tokens */
    struct msg_refused refused;
    int n_generate, n_cancel, n_refused, n_welcome;
    char canceled[MSG_NAME_MAX]; /* the last one */
};

/* What the front heard of one choice. */
struct rig_heard {
    int64_t n_tok;
    int n_redispatch;
    bool ended;
    enum ctl_end end;
    int64_t ended_at_ms; /* loop time */
};

struct rig_req {
    struct rig *rig;
    struct ctl_request *req; /* NULL once dropped */
    int n_choice, n_ended;
    struct rig_heard heard[CTL_CHOICES_MAX];
    bool accepted;     /* on_accepted has come */
    int64_t n_arrived; /* tokens of all choices */
    int n_ending;
    int64_t finish_at; /* >= 0: the front finishes a choice with stop when it has so many tokens */
};

struct rig {
    uv_loop_t loop;
    uv_timer_t timer;
    struct ctl_config config;
    struct ctl *ctl;
    int n_front_turn;
    bool drain_asked, drained, closed;
    struct rig_worker worker[RIG_WORKERS_MAX];
    struct rig_req reqs[RIG_REQS_MAX];
    int n_req;
    int64_t events; /* calls of the front, all kinds */
    char store[64]; /* rig_store: the file of the store */
    bool leave;     /* rig_close as a death: what runs is left to the next one on the same store */
};

/* Short times for tests: heartbeat 50 ms, lost 400 ms, the rest as configured by default. */
void rig_init(struct rig *rig);
void rig_open(struct rig *rig);
/* Between init and open: a store in a temporary file, or the one of another rig; rig_unlink removes it. Recovered
 * requests become reqs of the rig that are attached to. */
void rig_store(struct rig *rig, const struct rig *same);
void rig_unlink(struct rig *rig);
void rig_close(struct rig *rig);

/* Run the loop until cond(rig) or fail after RIG_WAIT_MS. */
#define rig_until(rig, cond)                                                                       \
    do {                                                                                           \
        int64_t end_ = rig_now(rig) + RIG_WAIT_MS;                                                 \
        while (!(cond)) {                                                                          \
            if (rig_now(rig) > end_)                                                               \
                fail_msg("not within %d ms: %s", RIG_WAIT_MS, #cond);                              \
            rig_step(rig);                                                                         \
        }                                                                                          \
    } while (0)
void rig_step(struct rig *rig); /* one round of the loop */
void rig_run_ms(struct rig *rig, int64_t ms);
int64_t rig_now(struct rig *rig);
const struct ctl_counts *rig_counts(struct rig *rig);

/* A worker named "w<i>" in domain "d<i>" that connects and says hello; fields of w->hello may be set before. */
struct rig_worker *rig_worker_init(struct rig *rig, int i);
void rig_worker_connect(struct rig_worker *w);
void rig_worker_join(struct rig_worker *w); /* connect, hello, wait for the welcome */
void rig_worker_kill(struct rig_worker *w); /* its connection ends, as when the process dies */
void rig_worker_say(struct rig_worker *w, const struct msg *m);
void rig_worker_hello(struct rig_worker *w);
/* Tokens first .. first+n-1 of the current model, under any epoch and attempt. */
void rig_worker_tokens(struct rig_worker *w, uint64_t epoch, const char *name, uint32_t attempt, uint64_t seed,
                       int64_t first, int n);
void rig_worker_finished(struct rig_worker *w, const char *name, uint32_t attempt, int64_t n_output);
void rig_worker_failed(struct rig_worker *w, const char *name, uint32_t attempt, enum msg_fail cls, const char *text);

int32_t rig_token(uint64_t seed, int64_t i);

/* A request of n_choice choices, prompt 1 2 3, max_output tokens. deadline_ms from now, 0: default. */
struct rig_req *rig_request(struct rig *rig, int n_choice, int64_t max_output, int64_t deadline_ms);
int rig_submit(struct rig_req *r, struct err *err); /* on error the request is destroyed */
struct rig_req *rig_start(struct rig *rig, int n_choice, int64_t max_output); /* request and submit, must succeed */

/* Every choice of r ended with `end` and has exactly the model's first n tokens. */
void rig_assert_output(const struct rig_req *r, enum ctl_end end, int64_t n);

#endif
