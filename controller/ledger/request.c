#include "controller/ledger/request.h"

#include "common/base/check.h"
#include "common/mem/mem.h"

#include <string.h>

/* legal[from][to]: the whole life of a choice. */
static const bool legal[CTL_CHOICE_STATE_N][CTL_CHOICE_STATE_N] = {
    [CTL_CHOICE_queued] = {[CTL_CHOICE_running] = true, [CTL_CHOICE_ended] = true},
    [CTL_CHOICE_running] = {[CTL_CHOICE_queued] = true, [CTL_CHOICE_ended] = true},
};

struct ctl_request *ctl_request_new(int n_choice)
{
    ASSERT(n_choice >= 1 && n_choice <= CTL_CHOICES_MAX);
    struct ctl_request *r = mem_zalloc(sizeof *r);
    r->n_choice = r->n_live = n_choice;
    r->sampling.temperature = 1;
    r->sampling.top_p = 1;
    r->sampling.repetition_penalty = 1;
    r->choice = mem_array((size_t)n_choice, sizeof *r->choice);
    for (int i = 0; i < n_choice; i++) {
        r->choice[i].req = r;
        r->choice[i].idx = i;
        r->choice[i].exact = true;
    }
    return r;
}

void ctl_request_destroy(struct ctl_request **req_p)
{
    struct ctl_request *r = *req_p;
    if (!r)
        return;
    *req_p = NULL;
    for (int i = 0; i < r->n_choice; i++) {
        struct ctl_output *o = &r->choice[i].out;
        mem_free(o->id);
        mem_free(o->logprob);
        mem_free(o->top);
    }
    mem_free(r->choice);
    mem_free(r->prompt);
    mem_free((void *)(uintptr_t)r->sampling.bias);
    mem_free(r->front_state);
    mem_free(r->key);
    mem_free(r);
}

void ctl_choice_move(struct ctl_choice *c, enum ctl_choice_state to)
{
    ASSERT(c->state < CTL_CHOICE_STATE_N && to < CTL_CHOICE_STATE_N);
    ASSERT(legal[c->state][to]);
    c->state = to;
}

void ctl_output_reserve(struct ctl_output *o, int64_t n_more, int32_t n_top)
{
    int64_t need = o->n + n_more;
    if (need <= o->cap)
        return;
    int64_t cap = o->cap ? o->cap * 2 : 64;
    if (cap < need)
        cap = need;
    o->id = mem_realloc(o->id, (size_t)cap * sizeof *o->id);
    o->logprob = mem_realloc(o->logprob, (size_t)cap * sizeof *o->logprob);
    if (n_top)
        o->top = mem_realloc(o->top, (size_t)cap * (size_t)n_top * sizeof *o->top);
    o->cap = cap;
}

enum ledger_verdict ledger_commit(struct ctl_choice *c, uint32_t attempt, int64_t first, int32_t n,
                                  const struct msg_token *token, int32_t n_vocab)
{
    struct ctl_output *o = &c->out;
    int32_t n_top = c->req->sampling.n_top;

    ASSERT(n >= 1);
    if (c->state != CTL_CHOICE_running || attempt != c->attempt)
        return LEDGER_stale;
    if (first < o->n)
        return LEDGER_repeat;
    if (first > o->n)
        return LEDGER_gap;
    if (n > c->req->max_output - o->n)
        return LEDGER_excess;
    for (int32_t i = 0; i < n; i++)
        if (token[i].id < 0 || token[i].id >= n_vocab)
            return LEDGER_excess;

    ctl_output_reserve(o, n, n_top);
    for (int32_t i = 0; i < n; i++) {
        const struct msg_token *t = &token[i];
        o->id[o->n] = t->id;
        o->logprob[o->n] = t->logprob;
        for (int32_t k = 0; k < n_top; k++)
            o->top[o->n * n_top + k] = k < t->n_top ? t->top[k] : (struct msg_top){.id = -1};
        o->n++;
    }
    return LEDGER_committed;
}

enum ledger_verdict ledger_check_end(const struct ctl_choice *c, uint32_t attempt, int64_t n_output)
{
    if (c->state != CTL_CHOICE_running || attempt != c->attempt)
        return LEDGER_stale;
    if (n_output < c->out.n)
        return LEDGER_excess;
    return n_output > c->out.n ? LEDGER_gap : LEDGER_committed;
}

const char *ledger_verdict_name(enum ledger_verdict verdict)
{
    static const char *const name[] = {
#define X(n) #n,
        LEDGER_VERDICT_LIST(X)
#undef X
    };
    return (size_t)verdict < N_ELEM(name) ? name[verdict] : "?";
}

const char *ctl_end_name(enum ctl_end end)
{
    static const char *const name[] = {
#define X(n) #n,
        CTL_END_LIST(X)
#undef X
    };
    return (size_t)end < N_ELEM(name) ? name[end] : "?";
}

enum ctl_end ctl_end_of(const char *name)
{
    for (int i = 0; i < CTL_END_N; i++)
        if (strcmp(ctl_end_name((enum ctl_end)i), name) == 0)
            return (enum ctl_end)i;
    return CTL_END_none;
}

const char *ctl_choice_state_name(enum ctl_choice_state state)
{
    static const char *const name[] = {
#define X(n) #n,
        CTL_CHOICE_STATE_LIST(X)
#undef X
    };
    return (size_t)state < N_ELEM(name) ? name[state] : "?";
}
