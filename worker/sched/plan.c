#include "worker/sched/plan.h"

#include "common/base/check.h"

#include <limits.h>

int64_t wrk_plan_blocks(int64_t n_tok)
{
    return (n_tok + WRK_BLOCK_TOK - 1) / WRK_BLOCK_TOK;
}

struct plan {
    struct wrk_plan_room left;
    struct wrk_plan_seq *seq;
    int n;
    const int *order; /* of all sequences */
    bool is_short; /* something was preempted for want of blocks */
    int n_running[WRK_PLAN_RANKS_MAX];
    bool has_preempted[WRK_PLAN_RANKS_MAX]; /* blocks that were busy may not be so any more */
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

/* The rank's next one in the order of loss; NULL: nothing runs there. */
static struct wrk_plan_seq *next_loss(struct plan *p, int rank)
{
    struct wrk_plan_seq *worst = NULL;
    for (int i = 0; i < p->n; i++)
        if (takes_part(&p->seq[i]) && p->seq[i].rank == rank && (!worst || is_lost_before(&p->seq[i], worst)))
            worst = &p->seq[i];
    return worst;
}

static void preempt(struct plan *p, struct wrk_plan_seq *s)
{
    s->act = WRK_PLAN_PREEMPT;
    p->left.rank[s->rank].n_block_free += s->n_block_own + s->n_block_new;
    p->left.n_row += s->n_row;
    s->n_row = 0;
    s->n_block_new = 0;
    p->left.rank[s->rank].n_slot_free++;
    p->n_running[s->rank]--;
    p->has_preempted[s->rank] = true;
}

static struct wrk_plan_hit hit_on(const struct wrk_plan_seq *s, int rank)
{
    return s->hit ? s->hit[rank] : (struct wrk_plan_hit){s->n_done, s->n_block_busy};
}

/* Blocks that s takes out of what is free when it is admitted. After a preemption nothing counts as busy: it may have
 * been the one who held it. */
static int64_t blocks_to_admit(const struct plan *p, const struct wrk_plan_seq *s, int rank)
{
    return wrk_plan_blocks(s->n_tok) - (p->has_preempted[rank] ? 0 : hit_on(s, rank).n_block_busy);
}

/* Blocks for all its tokens, and one to grow for it and each that runs there, so that it is not thrown out at once.
 * Alone it may have everything: the caller refuses what is larger than the pool. */
static bool fits(const struct plan *p, const struct wrk_plan_seq *s, int rank)
{
    int64_t growth = p->n_running[rank] ? p->n_running[rank] + 1 : 0;
    return p->left.rank[rank].n_slot_free > 0 &&
           blocks_to_admit(p, s, rank) + growth <= p->left.rank[rank].n_block_free;
}

/* Is rank a the better home for s than b? */
static bool is_better_home(const struct plan *p, const struct wrk_plan_seq *s, int a, int b)
{
    int64_t tok_a = hit_on(s, a).n_tok, tok_b = hit_on(s, b).n_tok;
    int64_t block_a = p->left.rank[a].n_block_free, block_b = p->left.rank[b].n_block_free;

    if (tok_a != tok_b)
        return tok_a > tok_b;
    return block_a != block_b ? block_a > block_b : p->n_running[a] < p->n_running[b];
}

/* The best rank with room for s, or -1. */
static int home_of(const struct plan *p, const struct wrk_plan_seq *s)
{
    int best = -1;
    for (int r = 0; r < p->left.n_rank; r++)
        if (fits(p, s, r) && (best < 0 || is_better_home(p, s, r, best)))
            best = r;
    return best;
}

/* Preempt on one rank until s fits there; false: that is not possible, and nothing has changed. */
static bool make_place_on(struct plan *p, const struct wrk_plan_seq *s, int rank)
{
    const struct plan before = *p;
    struct wrk_plan_seq *victim;
    while ((victim = next_loss(p, rank)) && victim->priority < s->priority && !fits(p, s, rank))
        preempt(p, victim);
    if (fits(p, s, rank))
        return true;
    for (int i = 0; i < p->n; i++)
        p->seq[i].act = WRK_PLAN_KEEP;
    *p = before;
    return false;
}

/* Rule 1: for the first in the queue, and only if it brings that one in. */
static void make_place(struct plan *p)
{
    const struct wrk_plan_seq *first = NULL;
    for (int i = 0; i < p->n && !first; i++)
        if (!p->seq[p->order[i]].is_running)
            first = &p->seq[p->order[i]];
    if (!first || home_of(p, first) >= 0)
        return;
    for (int r = 0; r < p->left.n_rank; r++)
        if (make_place_on(p, first, r))
            return;
}

/* Rules 2 and 3: n_row more tokens for s. What it lacks in blocks the last in the order gives, maybe s itself. */
static void give_rows(struct plan *p, struct wrk_plan_seq *s, int n_row)
{
    int64_t need = wrk_plan_blocks(s->n_done + n_row) - s->n_block;
    int64_t *n_free = &p->left.rank[s->rank].n_block_free;
    while (need > *n_free) {
        struct wrk_plan_seq *victim = next_loss(p, s->rank);
        p->is_short = true;
        preempt(p, victim);
        if (victim == s)
            return;
    }
    if (need > 0) {
        s->n_block_new = need;
        *n_free -= need;
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

static int chunk(const struct plan *p, const struct wrk_plan_seq *s, int n_row)
{
    int64_t left = s->n_tok - s->n_done, cut = p->left.cut_tok;
    if (left > n_row)
        left = n_row;
    if (cut && s->n_done / cut != (s->n_done + left) / cut)
        left = (s->n_done + left) / cut * cut - s->n_done;
    return (int)left;
}

/* Rows that a rank may have for prefill: an equal share of what is left, if several have any to do. */
static int prefill_share(const struct plan *p)
{
    bool has_work[WRK_PLAN_RANKS_MAX] = {false};
    int n_rank = 0;
    for (int i = 0; i < p->n; i++) {
        const struct wrk_plan_seq *s = &p->seq[i];
        if (takes_part(s) && s->n_row == 0 && !has_work[s->rank]) {
            has_work[s->rank] = true;
            n_rank++;
        }
    }
    return n_rank > 1 ? (p->left.n_row + n_rank - 1) / n_rank : INT_MAX;
}

static void run_prefills(struct plan *p)
{
    int used[WRK_PLAN_RANKS_MAX] = {0}, share = prefill_share(p);
    for (int i = 0; i < p->n && p->left.n_row > 0; i++) {
        struct wrk_plan_seq *s = &p->seq[p->order[i]];
        if (!takes_part(s) || s->n_row > 0)
            continue;
        int n_row = share - used[s->rank] < p->left.n_row ? share - used[s->rank] : p->left.n_row;
        if (n_row == 0)
            continue;
        give_rows(p, s, chunk(p, s, n_row));
        used[s->rank] += s->n_row;
    }
}

static void admit(struct plan *p)
{
    for (int i = 0; i < p->n && p->left.n_row > 0; i++) {
        struct wrk_plan_seq *s = &p->seq[p->order[i]];
        if (s->is_running)
            continue;
        int home = home_of(p, s);
        if (home < 0)
            return; /* nobody overtakes */
        s->act = WRK_PLAN_ADMIT;
        s->rank = home;
        s->n_done = hit_on(s, home).n_tok;
        s->n_block_new = blocks_to_admit(p, s, home);
        p->left.rank[home].n_block_free -= s->n_block_new;
        p->left.rank[home].n_slot_free--;
        p->n_running[home]++;
        s->n_row = chunk(p, s, p->left.n_row);
        p->left.n_row -= s->n_row;
    }
}

int wrk_plan_make(const struct wrk_plan_room *room, struct wrk_plan_seq *seq, int n, int *order)
{
    struct plan p = {.left = *room, .seq = seq, .n = n, .order = order};
    ASSERT(room->n_rank >= 1 && room->n_rank <= WRK_PLAN_RANKS_MAX);
    sort(seq, n, order);
    for (int i = 0; i < n; i++) {
        ASSERT(seq[i].n_done < seq[i].n_tok);
        ASSERT(!seq[i].is_running || seq[i].n_block_own <= seq[i].n_block);
        seq[i].act = WRK_PLAN_KEEP;
        seq[i].n_row = 0;
        seq[i].n_block_new = 0;
        ASSERT(!seq[i].is_running || (seq[i].rank >= 0 && seq[i].rank < room->n_rank));
        if (seq[i].is_running)
            p.n_running[seq[i].rank]++;
    }
    make_place(&p);
    run_decodes(&p);
    run_prefills(&p);
    if (!p.is_short)
        admit(&p);
    return room->n_row - p.left.n_row;
}
