/* controller/sched/choose.h - which worker gets a choice; and which failure domains are suspect.
 * Owns:     nothing; struct ctl_suspects is a plain value.
 * Thread:   the loop.
 * Limits:   SUSPECTS_MAX domains at once: the one that would be trusted again first gives way.
 */
#ifndef CONTROLLER_SCHED_CHOOSE_H
#define CONTROLLER_SCHED_CHOOSE_H

#include "controller/ledger/request.h"
#include "controller/link/worker.h"

enum { SUSPECTS_MAX = 32 };

/* {0} is: none. A worker without a domain is nobody's neighbour and never suspect. */
struct ctl_suspects {
    struct {
        char domain[MSG_NAME_MAX];
        int64_t until_ms;
    } at[SUSPECTS_MAX];
};

void ctl_suspects_add(struct ctl_suspects *s, const char *domain, int64_t until_ms);
bool ctl_suspects_has(const struct ctl_suspects *s, const char *domain, int64_t now_ms);

enum ctl_choose {
    CTL_CHOOSE_found,
    CTL_CHOOSE_wait,      /* some worker could take it, but not now */
    CTL_CHOOSE_too_long,  /* workers are there and none has that much context */
    CTL_CHOOSE_no_credit, /* no worker can take anything now */
};

enum {
    /* A worker whose credits are all in use costs as much as so many tokens of prompt that must be computed. */
    CHOOSE_LOAD_TOK = 2048,
};

/* Scratch for the keys of one choice's prefix: {0} at first, reused, freed by ctl_prefix_keys_release. */
struct ctl_prefix_keys {
    uint64_t *key;
    int64_t n, cap;
};
void ctl_prefix_keys_release(struct ctl_prefix_keys *k);

/* The worker for c among the list `first`. A worker can take it that is ready, has credit and context enough, is not
 * the one that just failed it (unless no other one is ready), and where c and a choice on probation (either of them) do
 * not meet. Among those: the same numerics for a choice with committed tokens (an exact continuation), then no
 * suspect domain, then the least cost, then more free KV blocks, then the older one. The cost is counted in tokens:
 * those of prompt and output so far that the worker's prefix cache does not have, and CHOOSE_LOAD_TOK times the share
 * of its credits in use. keys is scratch. */
enum ctl_choose ctl_choose(struct ctl_worker *first, const struct ctl_choice *c, const struct ctl_suspects *suspects,
                           struct ctl_prefix_keys *keys, int64_t now_ms, struct ctl_worker **out);

#endif
