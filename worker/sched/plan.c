#include "worker/sched/plan.h"

#include "common/base/check.h"

int64_t wrk_plan_blocks(int64_t n_tok)
{
    return (n_tok + WRK_BLOCK_TOK - 1) / WRK_BLOCK_TOK;
}

/* What is left of a rank, and who is there. */
struct rank {
    struct wrk_plan_rank left;
    int n_running;
    bool has_preempted; /* blocks that were busy may not be so any more */
};

struct plan {
    int n_row, n_seq_free, n_rank; /* left */
    int64_t cut_tok;
    struct rank rank[WRK_PLAN_RANKS_MAX];
    struct wrk_plan_seq *seq;
    int n;
    const int *order; /* of all sequences */
    bool is_short;    /* something was preempted for want of blocks */
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

/* The next one of the rank in the order of loss; NULL: nothing runs there. */
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
    struct rank *r = &p->rank[s->rank];
    s->act = WRK_PLAN_PREEMPT;
    r->left.n_block_free += s->n_block_own + s->n_block_new;
    r->left.n_slot_free++;
    r->n_running--;
    r->has_preempted = true;
    p->n_seq_free++;
    p->n_row += s->n_row;
    s->n_row = 0;
    s->n_block_new = 0;
}

static struct wrk_plan_hit hit_on(const struct wrk_plan_seq *s, int rank)
{
    return s->hit ? s->hit[rank] : (struct wrk_plan_hit){0};
}

/* Blocks that s takes out of what is free when it is admitted. After a preemption nothing counts as busy: it may have
 * been the one who held it. */
static int64_t blocks_to_admit(const struct plan *p, const struct wrk_plan_seq *s, int rank)
{
    return wrk_plan_blocks(s->n_tok) - (p->rank[rank].has_preempted ? 0 : hit_on(s, rank).n_block_busy);
}

/* Blocks for all its tokens, and one to grow for it and each that runs there, so that it is not thrown out at once.
 * Alone it may have everything: the caller refuses what is larger than the pool. */
static bool fits_on(const struct plan *p, const struct wrk_plan_seq *s, int rank)
{
    const struct rank *r = &p->rank[rank];
    int64_t growth = r->n_running ? r->n_running + 1 : 0;
    return p->n_seq_free > 0 && r->left.n_slot_free > 0 &&
           blocks_to_admit(p, s, rank) + growth <= r->left.n_block_free;
}

/* The best rank that s fits on, or -1. */
static int find_rank(const struct plan *p, const struct wrk_plan_seq *s)
{
    int best = -1;
    for (int i = 0; i < p->n_rank; i++) {
        if (!fits_on(p, s, i))
            continue;
        int64_t more = best < 0 ? 1 : hit_on(s, i).n_tok - hit_on(s, best).n_tok;
        if (more > 0 ||
            (more == 0 && p->rank[i].left.n_block_free > p->rank[best].left.n_block_free))
            best = i;
    }
    return best;
}

/* Preempt on the rank what is of lower priority than s until s fits. Returns how many went; -1: it does not fit even
 * so, or nothing has to go. */
static int clear_rank(struct plan *p, const struct wrk_plan_seq *s, int rank)
{
    struct wrk_plan_seq *victim;
    int n = 0;
    while (!fits_on(p, s, rank) && (victim = next_loss(p, rank)) && victim->priority < s->priority) {
        preempt(p, victim);
        n++;
    }
    return n && fits_on(p, s, rank) ? n : -1;
}

static void undo(struct plan *p, const struct plan *before)
{
    for (int i = 0; i < p->n; i++)
        p->seq[i].act = WRK_PLAN_KEEP;
    *p = *before;
}

/* Rule 1, for the first in the queue. It is the first rule, so that nothing else has been decided yet. */
static void make_place(struct plan *p)
{
    const struct wrk_plan_seq *first = NULL;
    int best = -1, n_best = 0;
    for (int i = 0; i < p->n && !first; i++)
        if (!p->seq[p->order[i]].is_running)
            first = &p->seq[p->order[i]];
    if (!first || find_rank(p, first) >= 0)
        return;
    const struct plan before = *p;
    for (int i = 0; i < p->n_rank; i++) {
        int n = clear_rank(p, first, i);
        undo(p, &before);
        if (n > 0 && (best < 0 || n < n_best)) {
            best = i;
            n_best = n;
        }
    }
    if (best >= 0)
        clear_rank(p, first, best);
}

/* Rules 2 and 3: n_row more tokens for s. What it lacks in blocks the rank's next in the order of loss gives, maybe s
 * itself. */
static void give_rows(struct plan *p, struct wrk_plan_seq *s, int n_row)
{
    struct rank *r = &p->rank[s->rank];
    int64_t need = wrk_plan_blocks(s->n_done + n_row) - s->n_block;
    while (need > r->left.n_block_free) {
        struct wrk_plan_seq *victim = next_loss(p, s->rank);
        p->is_short = true;
        preempt(p, victim);
        if (victim == s)
            return;
    }
    if (need > 0) {
        s->n_block_new = need;
        r->left.n_block_free -= need;
    }
    s->n_row = n_row;
    p->n_row -= n_row;
}

static void run_decodes(struct plan *p)
{
    for (int i = 0; i < p->n && p->n_row > 0; i++) {
        struct wrk_plan_seq *s = &p->seq[p->order[i]];
        if (takes_part(s) && s->n_tok - s->n_done == 1)
            give_rows(p, s, 1);
    }
}

/* Rows for the tokens from n_done on. */
static int chunk(const struct plan *p, const struct wrk_plan_seq *s, int64_t n_done)
{
    int64_t left = s->n_tok - n_done, cut = p->cut_tok;
    if (left > p->n_row)
        left = p->n_row;
    if (cut && n_done / cut != (n_done + left) / cut)
        left = (n_done + left) / cut * cut - n_done;
    return (int)left;
}

static void run_prefills(struct plan *p)
{
    for (int i = 0; i < p->n && p->n_row > 0; i++) {
        struct wrk_plan_seq *s = &p->seq[p->order[i]];
        if (takes_part(s) && s->n_row == 0)
            give_rows(p, s, chunk(p, s, s->n_done));
    }
}

static void admit(struct plan *p)
{
    for (int i = 0; i < p->n && p->n_row > 0; i++) {
        struct wrk_plan_seq *s = &p->seq[p->order[i]];
        if (s->is_running)
            continue;
        int rank = find_rank(p, s);
        if (rank < 0)
            return; /* nobody overtakes */
        s->act = WRK_PLAN_ADMIT;
        s->rank = rank;
        s->n_block_new = blocks_to_admit(p, s, rank);
        p->rank[rank].left.n_block_free -= s->n_block_new;
        p->rank[rank].left.n_slot_free--;
        p->rank[rank].n_running++;
        p->n_seq_free--;
        s->n_row = chunk(p, s, hit_on(s, rank).n_tok);
        p->n_row -= s->n_row;
    }
}

int wrk_plan_make(const struct wrk_plan_room *room, struct wrk_plan_seq *seq, int n, int *order)
{
    struct plan p = {.n_row = room->n_row, .n_seq_free = room->n_seq_free, .n_rank = room->n_rank,
                     .cut_tok = room->cut_tok, .seq = seq, .n = n, .order = order};
    ASSERT(room->n_rank >= 1 && room->n_rank <= WRK_PLAN_RANKS_MAX);
    for (int i = 0; i < room->n_rank; i++)
        p.rank[i].left = room->rank[i];
    sort(seq, n, order);
    for (int i = 0; i < n; i++) {
        ASSERT(!seq[i].is_running || seq[i].n_done < seq[i].n_tok);
        ASSERT(!seq[i].is_running || (seq[i].rank >= 0 && seq[i].rank < room->n_rank));
        ASSERT(!seq[i].is_running || seq[i].n_block_own <= seq[i].n_block);
        seq[i].act = WRK_PLAN_KEEP;
        seq[i].n_row = 0;
        seq[i].n_block_new = 0;
        if (seq[i].is_running)
            p.rank[seq[i].rank].n_running++;
    }
    make_place(&p);
    run_decodes(&p);
    run_prefills(&p);
    if (!p.is_short)
        admit(&p);
    return room->n_row - p.n_row;
}
