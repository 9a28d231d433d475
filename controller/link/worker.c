#include "controller/link/worker.h"

#include "common/base/check.h"

/* legal[from][to] */
static const bool legal[CTL_WORKER_STATE_N][CTL_WORKER_STATE_N] = {
    [CTL_WORKER_ready] = {[CTL_WORKER_draining] = true, [CTL_WORKER_lost] = true},
    [CTL_WORKER_draining] = {[CTL_WORKER_ready] = true, [CTL_WORKER_lost] = true},
};

void ctl_worker_move(struct ctl_worker *w, enum ctl_worker_state to)
{
    ASSERT(w->state < CTL_WORKER_STATE_N && to < CTL_WORKER_STATE_N);
    ASSERT(legal[w->state][to]);
    w->state = to;
}

const char *ctl_worker_state_name(enum ctl_worker_state state)
{
    static const char *const name[] = {
#define X(n) #n,
        CTL_WORKER_STATE_LIST(X)
#undef X
    };
    return (size_t)state < N_ELEM(name) ? name[state] : "?";
}
