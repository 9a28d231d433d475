/* Proves the ops over sequences (compress, index_topk, attend, window_store): they agree with `ref`, and the result
 * of a token does not depend on how its sequence is cut into steps, on the other sequences of a step or on the number
 * of threads, bit for bit; nothing is written outside. How: two sequences of random rows run through a schedule of
 * steps (all at once; pieces; one by one; interleaved), with caches that start as poison; outputs and caches are
 * compared. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "tests/ops/compare.h"
#include "tests/ops/guard.h"
#include "tests/ops/op.h"
#include "tests/ops/rig.h"

#include <string.h>

enum { SEQS = 2, SLOTS = 3, BLOCKS = 8 };

/* dim, rope (<= index_dim), window, heads of the attention; ratio 0, 4, 128; tokens of each sequence. */
struct seq_case {
    const char *label;
    int32_t dim, rope, window, n_head, ratio, index_head, index_dim, top_k, n_tok[SEQS];
    double entry_tol, score_tol, o_tol;
};

/* Bounds. Entries: one E4M3 or E2M1 step in few values, where exp in f32 flips a BF16 rounding. Scores: f32 sums. o:
 * f32 sums, and a probability that rounds to the other BF16 value. */
static const struct seq_case cases[] = {
    {"window", 64, 16, 8, 2, 0, 0, 0, 0, {21, 1}, 0, 0, 3e-3},
    {"window, real head", 512, 64, 128, 9, 0, 0, 0, 0, {150, 3}, 0, 0, 3e-3},
    {"csa", 128, 64, 16, 3, 4, 3, 64, 5, {101, 38}, 2e-2, 1e-5, 3e-3},
    {"csa, real head", 512, 64, 128, 4, 4, 8, 128, 32, {270, 131}, 2e-2, 1e-5, 3e-3},
    {"csa, top-k larger than the list", 128, 32, 32, 2, 4, 2, 32, 80, {60, 5}, 2e-2, 1e-5, 3e-3},
    {"hca", 128, 32, 16, 3, 128, 0, 0, 0, {300, 129}, 2e-2, 1e-5, 3e-3},
};

enum out { O, CHOICE, SCORE, POOL, INDEX_POOL, TAIL, INDEX_TAIL, RING, OUTS };
static const char *const out_names[OUTS] = {"o", "choice", "score", "pool", "index pool", "tail", "index tail", "ring"};

/* Inputs, by sequence and position; and caches. */
struct world {
    const struct seq_case *c;
    int32_t total, first[SEQS], score_stride;
    uint16_t *q, *raw, *iq, *iw;
    float *k, *g, *ik, *ig, *ape, *iape, *norm, *inorm, *freq, *sink;
    uint8_t *page, *iq_page; /* raw entries and indexer queries of all rows, in the stored form */
    size_t page_bytes, index_page_bytes, ring_bytes;
};

struct outs {
    void *p[OUTS];
    size_t bytes[OUTS];
};

static struct kn_kv_shape kv_of(const struct seq_case *c)
{
    return (struct kn_kv_shape){c->dim, c->rope};
}

static float *floats(size_t n, float scale, uint64_t *rng)
{
    float *x = mem_array(n + 1, sizeof *x);
    op_fill_f32(x, n, scale, rng);
    return x;
}

static uint16_t *halves(size_t n, uint64_t *rng)
{
    uint16_t *x = mem_array(n + 1, sizeof *x);
    op_fill_bf16(x, n, 1, rng);
    return x;
}

static int32_t width(const struct seq_case *c)
{
    return c->ratio == 4 ? 2 : 1;
}

static void world_make(struct world *w, const struct seq_case *c, uint64_t seed)
{
    uint64_t rng = seed;
    int32_t ratio = c->ratio ? c->ratio : 4;

    *w = (struct world){.c = c, .total = c->n_tok[0] + c->n_tok[1], .first = {0, c->n_tok[0]}};
    size_t n = (size_t)w->total, dim = (size_t)c->dim, kw = (size_t)(width(c) * c->dim);
    size_t iw = (size_t)(width(c) * c->index_dim), iq = (size_t)(c->index_head * c->index_dim);
    w->q = halves(n * (size_t)c->n_head * dim, &rng);
    w->raw = halves(n * dim, &rng);
    w->iq = halves(n * iq, &rng);
    w->iw = halves(n * (size_t)c->index_head, &rng);
    w->k = floats(n * kw, 1, &rng);
    w->g = floats(n * kw, 2, &rng);
    w->ik = floats(n * iw, 1, &rng);
    w->ig = floats(n * iw, 2, &rng);
    w->ape = floats((size_t)ratio * kw, 0.5f, &rng);
    w->iape = floats((size_t)ratio * iw, 0.5f, &rng);
    w->norm = floats(dim, 1, &rng);
    w->inorm = floats((size_t)c->index_dim, 1, &rng);
    w->freq = floats((size_t)c->rope / 2, 0.3f, &rng);
    w->sink = floats((size_t)c->n_head, 2, &rng);
    w->page_bytes = kn_kv_page_bytes(kv_of(c), KN_BLOCK_TOK / ratio);
    w->index_page_bytes = c->index_dim ? kn_index_page_bytes(c->index_dim, KN_BLOCK_TOK / ratio) : 64;
    w->ring_bytes = kn_kv_page_bytes(kv_of(c), c->window);
    w->score_stride = (w->total + 3) / 4 + 2;
}

static void world_drop(struct world *w)
{
    void *all[] = {w->q,  w->raw, w->iq,   w->iw,   w->k,     w->g,    w->ik,
                   w->ig, w->ape, w->iape, w->norm, w->inorm, w->freq, w->sink};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        mem_free(all[i]);
}

static void outs_take(struct outs *o, const struct world *w)
{
    const struct seq_case *c = w->c;
    size_t n = (size_t)w->total, rows = (size_t)(width(c) * (c->ratio ? c->ratio : 1));
    size_t tail = SLOTS * 2 * rows * (size_t)width(c) * 4;

    o->bytes[O] = n * (size_t)c->n_head * (size_t)c->dim * 2;
    o->bytes[CHOICE] = n * (size_t)c->top_k * 4;
    o->bytes[SCORE] = n * (size_t)w->score_stride * 4;
    o->bytes[POOL] = BLOCKS * w->page_bytes;
    o->bytes[INDEX_POOL] = BLOCKS * w->index_page_bytes;
    o->bytes[TAIL] = tail * (size_t)c->dim;
    o->bytes[INDEX_TAIL] = tail * (size_t)c->index_dim;
    o->bytes[RING] = SLOTS * w->ring_bytes;
    for (int i = 0; i < OUTS; i++)
        o->p[i] = guard_alloc(o->bytes[i]);
}

static void outs_drop(struct outs *o)
{
    for (int i = 0; i < OUTS; i++)
        guard_free(o->p[i]);
}

/* Rows row[0..n) of x, one behind the other. */
static void *gather(const void *x, size_t row_bytes, const int32_t *row, int32_t n)
{
    char *to = guard_alloc(row_bytes * (size_t)n);
    for (int32_t i = 0; i < n && row_bytes; i++)
        memcpy(to + row_bytes * (size_t)i, (const char *)x + row_bytes * (size_t)row[i], row_bytes);
    return to;
}

static void scatter(void *x, size_t row_bytes, const int32_t *row, int32_t n, void *from)
{
    assert_true(guard_is_whole(from));
    for (int32_t i = 0; i < n && row_bytes; i++)
        memcpy((char *)x + row_bytes * (size_t)row[i], (const char *)from + row_bytes * (size_t)i, row_bytes);
    guard_free(from);
}

#define RUN(op, ...)                                                                                \
    do {                                                                                            \
        int rc_ = r->backend->ops->op(&r->ctx, &(struct kn_##op##_args){__VA_ARGS__});              \
        if (rc_)                                                                                    \
            fail_msg(#op " %s on %s: %s", c->label, r->backend->name, err_name(rc_));               \
    } while (0)

static void compress(const struct world *w, struct rig *r, const struct kn_batch *b, const int32_t *row, bool is_index,
                     struct outs *o)
{
    const struct seq_case *c = w->c;
    int32_t dim = is_index ? c->index_dim : c->dim;
    size_t row_bytes = 4 * (size_t)(width(c) * dim);
    float *k = gather(is_index ? w->ik : w->k, row_bytes, row, b->n_tok);
    float *g = gather(is_index ? w->ig : w->g, row_bytes, row, b->n_tok);

    RUN(compress, .batch = b, .ratio = c->ratio, .dim = dim, .rope = c->rope, .is_index = is_index,
        .eps = 1e-6f, .k = k, .g = g, .ape = is_index ? w->iape : w->ape, .norm = is_index ? w->inorm : w->norm,
        .freq = w->freq, .tail = o->p[is_index ? INDEX_TAIL : TAIL], .pool = o->p[is_index ? INDEX_POOL : POOL],
        .page_bytes = is_index ? w->index_page_bytes : w->page_bytes);
    guard_free(k);
    guard_free(g);
}

/* One step over rows row[] (grouped by sequence). The inputs of attention come from `ref`'s bodies of the row ops, so
 * that only the ops under test differ. */
static void step(const struct world *w, struct rig *r, struct rig *ref, const struct kn_batch *b, const int32_t *row,
                 struct outs *o)
{
    const struct seq_case *c = w->c;
    int32_t n = b->n_tok;
    size_t q_bytes = 2 * (size_t)(c->n_head * c->dim), iq_bytes = 2 * (size_t)(c->index_head * c->index_dim);
    float *cs = guard_alloc(4 * (size_t)(n * c->rope)), *ones = mem_array((size_t)c->dim, sizeof *ones);
    uint8_t *page = guard_alloc(kn_kv_page_bytes(kv_of(c), n));
    uint16_t *q = gather(w->q, q_bytes, row, n), *raw = gather(w->raw, 2 * (size_t)c->dim, row, n);
    int32_t *choice = NULL;

    for (int i = 0; i < c->dim; i++)
        ones[i] = 1;
    ref->backend->ops->rope_angles(&ref->ctx, &(struct kn_rope_angles_args){n, c->rope / 2, b->row_pos, w->freq, cs});
    ref->backend->ops->kv_norm_rope(&ref->ctx, &(struct kn_kv_norm_rope_args){n, kv_of(c), 1e-6f, raw, ones, cs, page});
    if (c->ratio)
        compress(w, r, b, row, false, o);
    if (c->ratio == 4) {
        uint16_t *iq = gather(w->iq, iq_bytes, row, n), *iw = gather(w->iw, 2 * (size_t)c->index_head, row, n);
        uint8_t *iq_page = guard_alloc(kn_index_page_bytes(c->index_dim, (int64_t)n * c->index_head));
        float *score = guard_alloc((size_t)n * (size_t)w->score_stride * 4);
        compress(w, r, b, row, true, o);
        ref->backend->ops->index_query(
            &ref->ctx, &(struct kn_index_query_args){n, c->index_head, c->index_dim, c->rope, iq, cs, iq_page});
        choice = guard_alloc((size_t)n * (size_t)c->top_k * 4);
        RUN(index_topk, .batch = b, .ratio = 4, .n_head = c->index_head, .dim = c->index_dim, .top_k = c->top_k,
            .q_page = iq_page, .w = iw, .pool = o->p[INDEX_POOL], .page_bytes = w->index_page_bytes, .choice = choice,
            .score = score, .score_stride = w->score_stride);
        scatter(o->p[SCORE], (size_t)w->score_stride * 4, row, n, score);
        guard_free(iq);
        guard_free(iw);
        guard_free(iq_page);
    }
    uint16_t *out = guard_alloc(q_bytes * (size_t)n);
    RUN(attend, .batch = b, .n_head = c->n_head, .window = c->window, .ratio = c->ratio, .top_k = c->top_k,
        .kv = kv_of(c), .q = q, .cs = cs, .sink = w->sink, .fresh = page, .ring = o->p[RING],
        .ring_bytes = w->ring_bytes, .pool = o->p[POOL], .page_bytes = w->page_bytes, .choice = choice, .o = out);
    RUN(window_store, .batch = b, .window = c->window, .kv = kv_of(c), .fresh = page, .ring = o->p[RING],
        .ring_bytes = w->ring_bytes);
    scatter(o->p[O], q_bytes, row, n, out);
    if (choice)
        scatter(o->p[CHOICE], (size_t)c->top_k * 4, row, n, choice);
    guard_free(cs);
    guard_free(page);
    guard_free(q);
    guard_free(raw);
    mem_free(ones);
}

/* All tokens of both sequences in steps: at most size[i] of sequence i per step; swap: the order in the batch. */
static void schedule(const struct world *w, struct rig *r, struct rig *ref, const int32_t size[SEQS], bool swap,
                     struct outs *o)
{
    static const int32_t slot_of[SEQS] = {2, 0};
    int32_t block[SLOTS * 4] = {0}, at[SEQS] = {0}, total = w->total;
    int32_t *mem = mem_array((size_t)(3 * total), sizeof *mem), *row = mem, *row_seq = mem + total,
            *row_pos = mem + 2 * total;

    for (int i = 0; i < SEQS; i++)
        for (int j = 0; j < 4; j++) /* blocks in no order, some never used */
            block[slot_of[i] * 4 + j] = (7 * j + 4 * i + 3) % BLOCKS;
    outs_take(o, w);
    while (at[0] < w->c->n_tok[0] || at[1] < w->c->n_tok[1]) {
        int32_t slot[SEQS], first[SEQS], count[SEQS], pos[SEQS], n_seq = 0, n = 0, pos_max = 0;
        for (int k = 0; k < SEQS; k++) {
            int i = swap ? SEQS - 1 - k : k;
            int32_t m = w->c->n_tok[i] - at[i] < size[i] ? w->c->n_tok[i] - at[i] : size[i];
            if (m == 0)
                continue;
            slot[n_seq] = slot_of[i];
            first[n_seq] = n;
            count[n_seq] = m;
            pos[n_seq] = at[i];
            for (int32_t j = 0; j < m; j++, n++) {
                row[n] = w->first[i] + at[i] + j;
                row_seq[n] = n_seq;
                row_pos[n] = at[i] + j;
            }
            at[i] += m;
            pos_max = at[i] - 1 > pos_max ? at[i] - 1 : pos_max;
            n_seq++;
        }
        struct kn_batch b = {.n_tok = n, .n_seq = n_seq, .pos_max = pos_max, .tok = row, .row_seq = row_seq,
                             .row_pos = row_pos, .seq_slot = slot, .seq_row = first, .seq_n_tok = count, .seq_pos = pos,
                             .block = block, .block_stride = 4};
        step(w, r, ref, &b, row, o);
    }
    for (int i = 0; i < OUTS; i++)
        if (!guard_is_whole(o->p[i]))
            fail_msg("%s on %s wrote outside %s", w->c->label, r->backend->name, out_names[i]);
    mem_free(mem);
}

/* Caches and outputs of two schedules; page padding keeps its poison in both. */
static void check_same(const struct world *w, const struct rig *r, const char *how, const struct outs *a,
                       const struct outs *b)
{
    for (int i = 0; i < OUTS; i++) {
        size_t at = compare_bits(b->p[i], a->p[i], a->bytes[i]);
        if (at < a->bytes[i])
            fail_msg("%s on %s, %s: %s has other bits at byte %zu", w->c->label, r->backend->name, how, out_names[i],
                     at);
    }
}

static void check_against_ref(const struct world *w, const struct rig *r, const struct outs *want,
                              const struct outs *got)
{
    struct compare c = compare_bf16(got->p[O], want->p[O], want->bytes[O] / 2);

    if (!compare_rel_ok(&c, w->c->o_tol))
        fail_msg("%s on %s: o rel %g > %g, %zu mask faults", w->c->label, r->backend->name, c.rel, w->c->o_tol,
                 c.n_mask);
    c = compare_f32(got->p[SCORE], want->p[SCORE], want->bytes[SCORE] / 4);
    if (!compare_rel_ok(&c, w->c->score_tol))
        fail_msg("%s on %s: scores rel %g > %g, %zu mask faults", w->c->label, r->backend->name, c.rel, w->c->score_tol,
                 c.n_mask);
    static const int exact[] = {CHOICE, TAIL, INDEX_TAIL, RING};
    for (size_t k = 0; k < sizeof exact / sizeof exact[0]; k++)
        if (compare_bits(got->p[exact[k]], want->p[exact[k]], want->bytes[exact[k]]) < want->bytes[exact[k]])
            fail_msg("%s on %s: %s differs from ref", w->c->label, r->backend->name, out_names[exact[k]]);
    for (int i = POOL; i <= INDEX_POOL; i++) {
        size_t n_other = 0;
        for (size_t k = 0; k < want->bytes[i]; k++)
            n_other += ((uint8_t *)got->p[i])[k] != ((uint8_t *)want->p[i])[k];
        if (!((double)n_other <= w->c->entry_tol * (double)want->bytes[i]))
            fail_msg("%s on %s: %zu of %zu bytes of the %s differ from ref", w->c->label, r->backend->name, n_other,
                     want->bytes[i], out_names[i]);
    }
}

static void one_case(const struct seq_case *c)
{
    static const int32_t sizes[][SEQS] = {{1, 1}, {7, 3}, {64, 1}, {13, 100}, {128, 128}};
    const int32_t all[SEQS] = {c->n_tok[0], c->n_tok[1]};
    struct world w;
    struct rig ref;
    struct outs want;

    world_make(&w, c, 77 + (uint64_t)(c - cases));
    rig_open(&ref, "ref", 1);
    schedule(&w, &ref, &ref, all, false, &want);
    for (const char *const *b = rig_backends(); *b; b++) {
        struct outs whole, o;
        struct rig r;
        rig_open(&r, *b, 1);
        schedule(&w, &r, &ref, all, false, &whole);
        check_against_ref(&w, &r, &want, &whole);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            schedule(&w, &r, &ref, sizes[i], i % 2, &o);
            check_same(&w, &r, "in pieces", &whole, &o);
            outs_drop(&o);
        }
        rig_close(&r);
        for (int n = 2; n <= 3; n++) {
            rig_open(&r, *b, n);
            schedule(&w, &r, &ref, n == 2 ? all : sizes[3], true, &o);
            check_same(&w, &r, "more threads", &whole, &o);
            outs_drop(&o);
            rig_close(&r);
        }
        outs_drop(&whole);
    }
    outs_drop(&want);
    rig_close(&ref);
    world_drop(&w);
}

static void test_case(void **state)
{
    one_case(*state);
}

int main(void)
{
    struct CMUnitTest tests[sizeof cases / sizeof cases[0]];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        tests[i] = (struct CMUnitTest){cases[i].label, test_case, NULL, NULL, (void *)(uintptr_t)&cases[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
