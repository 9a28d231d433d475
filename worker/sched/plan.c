#include "worker/sched/plan.h"

#include "common/base/check.h"

int64_t wrk_plan_blocks(int64_t n_tok)
{
    return (n_tok + WRK_BLOCK_TOK - 1) / WRK_BLOCK_TOK;
}

struct plan {
    struct wrk_plan_room left;
    struct wrk_plan_seq *seq;
    int n;
    const int *order; /* of all sequences */
    int n_running;
    bool is_short;      /* something was preempted for want of blocks */
    bool has_preempted; /* blocks that were busy may not be so any more */
};

static bool is_before(const struct wrk_plan_seq *a, const struct wrk_plan_seq *b)
{
    if (a->priority != b->priority)
        return a->priority > b->priority;
    return a->share != b->share ? a->share < b->share : a->arrival < b->arrival;
}

/* a goes before b when something has to go. */
static bool is_lost_before(const struct wrk_plan_seq *a, const struct wrk_plan_seq *b)
{
    return a->priority != b->priority ? a->priority < b->priority : a->arrival > b->arrival;
}

/* By insertion: the order hardly changes from one step to the next, and n is small. */
static void sort(const struct wrk_plan_seq *seq, int n, int *order)
{
    for (int i = 0; i < n; i++) {
        int at = i;
        for (; at > 0 && is_before(&seq[i], &seq[order[at - 1]]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

static bool takes_part(const struct wrk_plan_seq *s)
{
    return s->is_running && s->act != WRK_PLAN_PREEMPT;
}

/* The next one in the order of loss; NULL: nothing runs. */
static struct wrk_plan_seq *next_loss(struct plan *p)
{
    struct wrk_plan_seq *worst = NULL;
    for (int i = 0; i < p->n; i++)
        if (takes_part(&p->seq[i]) && (!worst || is_lost_before(&p->seq[i], worst)))
            worst = &p->seq[i];
    return worst;
}

static void preempt(struct plan *p, struct wrk_plan_seq *s)
{
    s->act = WRK_PLAN_PREEMPT;
    p->left.n_block_free += s->n_block_own + s->n_block_new;
    p->left.n_row += s->n_row;
    s->n_row = 0;
    s->n_block_new = 0;
    p->left.n_slot_free++;
    p->n_running--;
    p->has_preempted = true;
}

/* Blocks that s takes out of what is free when it is admitted. After a preemption nothing counts as busy: it may have
 * been the one who held it. */
static int64_t blocks_to_admit(const struct plan *p, const struct wrk_plan_seq *s)
{
    return wrk_plan_blocks(s->n_tok) - (p->has_preempted ? 0 : s->n_block_busy);
}

/* Blocks for all its tokens, and one to grow for it and each that runs, so that it is not thrown out at once. Alone it
 * may have everything: the caller refuses what is larger than the pool. */
static bool fits(const struct plan *p, const struct wrk_plan_seq *s)
{
    int64_t growth = p->n_running ? p->n_running + 1 : 0;
    return p->left.n_slot_free > 0 && blocks_to_admit(p, s) + growth <= p->left.n_block_free;
}

/* Rule 1: for the first in the queue, and only if it brings that one in. It is tried on a copy. */
static void make_place(struct plan *p)
{
    const struct wrk_plan_seq *first = NULL;
    for (int i = 0; i < p->n && !first; i++)
        if (!p->seq[p->order[i]].is_running)
            first = &p->seq[p->order[i]];
    if (!first || fits(p, first))
        return;
    const struct plan before = *p;
    struct wrk_plan_seq *victim;
    while ((victim = next_loss(p)) && victim->priority < first->priority && !fits(p, first))
        preempt(p, victim);
    if (fits(p, first))
        return;
    for (int i = 0; i < p->n; i++)
        p->seq[i].act = WRK_PLAN_KEEP;
    *p = before;
}

/* Rules 2 and 3: n_row more tokens for s. What it lacks in blocks the last in the order gives, maybe s itself. */
static void give_rows(struct plan *p, struct wrk_plan_seq *s, int n_row)
{
    int64_t need = wrk_plan_blocks(s->n_done + n_row) - s->n_block;
    while (need > p->left.n_block_free) {
        struct wrk_plan_seq *victim = next_loss(p);
        p->is_short = true;
        preempt(p, victim);
        if (victim == s)
            return;
    }
    if (need > 0) {
        s->n_block_new = need;
        p->left.n_block_free -= need;
    }
    s->n_row = n_row;
    p->left.n_row -= n_row;
}

static void run_decodes(struct plan *p)
{
    for (int i = 0; i < p->n && p->left.n_row > 0; i++) {
        struct wrk_plan_seq *s = &p->seq[p->order[i]];
        if (takes_part(s) && s->n_tok - s->n_done == 1)
            give_rows(p, s, 1);
    }
}

static int chunk(const struct plan *p, const struct wrk_plan_seq *s)
{
    int64_t left = s->n_tok - s->n_done, cut = p->left.cut_tok;
    if (left > p->left.n_row)
        left = p->left.n_row;
    if (cut && s->n_done / cut != (s->n_done + left) / cut)
        left = (s->n_done + left) / cut * cut - s->n_done;
    return (int)left;
}

static void run_prefills(struct plan *p)
{
    for (int i = 0; i < p->n && p->left.n_row > 0; i++) {
        struct wrk_plan_seq *s = &p->seq[p->order[i]];
        if (takes_part(s) && s->n_row == 0)
            give_rows(p, s, chunk(p, s));
    }
}

static void admit(struct plan *p)
{
    for (int i = 0; i < p->n && p->left.n_row > 0; i++) {
        struct wrk_plan_seq *s = &p->seq[p->order[i]];
        if (s->is_running)
            continue;
        if (!fits(p, s))
            return; /* nobody overtakes */
        s->act = WRK_PLAN_ADMIT;
        s->n_block_new = blocks_to_admit(p, s);
        p->left.n_block_free -= s->n_block_new;
        p->left.n_slot_free--;
        p->n_running++;
        s->n_row = chunk(p, s);
        p->left.n_row -= s->n_row;
    }
}

int wrk_plan_make(const struct wrk_plan_room *room, struct wrk_plan_seq *seq, int n, int *order)
{
    struct plan p = {.left = *room, .seq = seq, .n = n, .order = order};
    sort(seq, n, order);
    for (int i = 0; i < n; i++) {
        ASSERT(seq[i].n_done < seq[i].n_tok);
        ASSERT(!seq[i].is_running || seq[i].n_block_own <= seq[i].n_block);
        seq[i].act = WRK_PLAN_KEEP;
        seq[i].n_row = 0;
        seq[i].n_block_new = 0;
        p.n_running += seq[i].is_running;
    }
    make_place(&p);
    run_decodes(&p);
    run_prefills(&p);
    if (!p.is_short)
        admit(&p);
    return room->n_row - p.left.n_row;
}
