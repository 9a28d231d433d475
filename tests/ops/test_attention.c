/* Proves q_norm_rope, attend and index_topk. attend: against a plain softmax over all entries in f64 (it differs by
 * the BF16 rounding of the weights only), at the edges of the window, of the ring against the step's own rows, with
 * and without a choice. index_topk: against sorting, with ties, negative weights and few visible entries. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "kernels/include/num.h"
#include "tests/ops/compare.h"
#include "tests/ops/dev.h"

#include <math.h>
#include <string.h>

enum { H = 2, DIM = 128, ROPE = 64, WINDOW = 8, TOP_K = 3, BLOCKS = 3, CONTEXT = BLOCKS * 128 };

static const struct kn_limits limits = {.n_tok = 64,
                                        .n_in = 256,
                                        .n_out = 256,
                                        .n_head = H,
                                        .dim = DIM,
                                        .window = WINDOW,
                                        .top_k = TOP_K,
                                        .index_dim = 64,
                                        .index_n_head = 3,
                                        .context = CONTEXT,
                                        .n_expert = 1,
                                        .inter = 128,
                                        .d = 128};
static const struct kn_kv_shape shape = {DIM, ROPE};

/* One sequence in slot 1 of 2 whose KV blocks are 2, 0, 1; rows at pos0.. */
static void batch_init(struct dev *d, struct kn_batch *b, int pos0, int n)
{
    static const int32_t table[2][BLOCKS] = {{-1, -1, -1}, {2, 0, 1}};
    int32_t seq[64] = {0}, pos[64], slot = 1, row = 0, count = n, first = pos0;

    for (int i = 0; i < n; i++)
        pos[i] = pos0 + i;
    *b = (struct kn_batch){.n_tok = n, .n_seq = 1, .pos_max = pos0 + n - 1, .tok = dev_in(d, seq, sizeof seq),
                           .row_seq = dev_in(d, seq, sizeof seq), .row_pos = dev_in(d, pos, sizeof pos),
                           .seq_slot = dev_in(d, &slot, 4), .seq_row = dev_in(d, &row, 4),
                           .seq_n_tok = dev_in(d, &count, 4), .seq_pos = dev_in(d, &first, 4),
                           .block = dev_in(d, table, sizeof table), .block_stride = BLOCKS};
}

/* A page of n random entries, through kv_norm_rope without rotation (weight 1); returns the device page. */
static uint8_t *random_page(struct dev *d, struct rng *r, int n)
{
    uint16_t *x = mem_array((size_t)n * DIM, sizeof *x);
    float weight[DIM], *cs = mem_array((size_t)n * ROPE, sizeof *cs);

    for (int i = 0; i < DIM; i++)
        weight[i] = 1;
    for (int i = 0; i < n * ROPE; i += 2)
        cs[i] = 1;
    rng_bf16(r, x, (size_t)n * DIM, 1);
    struct kn_kv_norm_rope_args a = {n,
                                     shape,
                                     1e-6f,
                                     dev_in(d, x, (size_t)n * DIM * 2),
                                     dev_in(d, weight, sizeof weight),
                                     dev_in(d, cs, (size_t)n * ROPE * 4),
                                     dev_new(d, kn_kv_page_bytes(shape, n))};
    assert_int_equal(d->ops->kv_norm_rope(&d->ctx, &a), 0);
    mem_free(x);
    mem_free(cs);
    return a.page;
}

/* What position p of the sequence sees: entries of the ring before pos0, of the fresh page from pos0 on. */
struct seen {
    const uint8_t *fresh, *ring, *pool; /* host copies */
    int pos0, n;
    size_t page_bytes;
};

static int list_of(const struct seen *s, int p, int ratio, const int32_t *choice, double (*x)[DIM])
{
    static const int block[BLOCKS] = {2, 0, 1};
    int n = 0;

    for (int t = p - WINDOW + 1 < 0 ? 0 : p - WINDOW + 1; t <= p; t++, n++)
        if (t >= s->pos0)
            kn_kv_get(s->fresh, shape, s->n, t - s->pos0, x[n]);
        else
            kn_kv_get(s->ring, shape, WINDOW, t % WINDOW, x[n]);
    for (int i = 0; ratio && i < (p + 1) / ratio; i++) {
        bool is_chosen = !choice;
        for (int k = 0; choice && k < TOP_K; k++)
            is_chosen |= choice[k] == i;
        if (is_chosen)
            kn_kv_get(s->pool + (size_t)block[i * ratio / 128] * s->page_bytes, shape, 128 / ratio, i % (128 / ratio),
                      x[n++]);
    }
    return n;
}

/* Plain softmax with the sink in the denominator. */
static void plain(const uint16_t *q, double (*x)[DIM], int n, float sink, float *o)
{
    double top = sink, den, w[WINDOW + CONTEXT];

    for (int j = 0; j < n; j++) {
        w[j] = 0;
        for (int i = 0; i < DIM; i++)
            w[j] += kn_bf16_f32(q[i]) * x[j][i];
        w[j] /= sqrt(DIM);
        top = fmax(top, w[j]);
    }
    den = exp(sink - top);
    for (int j = 0; j < n; j++)
        den += w[j] = exp(w[j] - top);
    for (int i = 0; i < DIM; i++) {
        double sum = 0;
        for (int j = 0; j < n; j++)
            sum += w[j] / den * x[j][i];
        o[i] = (float)sum;
    }
}

static void check_attend(const struct kn_backend *backend, int pos0, int n, int ratio, bool has_choice)
{
    struct rng r = {(uint64_t)(pos0 * 64 + n)};
    struct dev d;
    struct kn_batch b;
    uint16_t q[64 * H * DIM];
    float sink[H] = {0.5f, -30}, cs[64 * ROPE];
    int32_t choice[64][TOP_K];
    static double x[WINDOW + CONTEXT][DIM];

    dev_open(&d, backend, &limits);
    batch_init(&d, &b, pos0, n);
    rng_bf16(&r, q, (size_t)(n * H * DIM), 1);
    for (int i = 0; i < 64 * ROPE; i++)
        cs[i] = i % 2 == 0; /* cos 1, sin 0: the inverse rotation changes nothing */
    for (int row = 0; row < n; row++)
        for (int k = 0; k < TOP_K; k++) /* of what is visible: every other entry */
            choice[row][k] = ratio && 2 * k < (pos0 + row + 1) / ratio ? 2 * k : -1;
    uint8_t *fresh = random_page(&d, &r, n), *ring1 = random_page(&d, &r, WINDOW);
    size_t ring_bytes = kn_kv_page_bytes(shape, WINDOW);
    int per_page = ratio ? 128 / ratio : 1;
    size_t page_bytes = kn_kv_page_bytes(shape, per_page);
    uint8_t *rings = mem_zalloc(2 * ring_bytes), *pool = mem_zalloc(BLOCKS * page_bytes), *host = dev_out(&d, ring1);
    memset(rings, 0xff, ring_bytes); /* slot 0 is another sequence's: NaN */
    memcpy(rings + ring_bytes, host, ring_bytes);
    mem_free(host);
    for (int i = 0; i < BLOCKS; i++) {
        host = dev_out(&d, random_page(&d, &r, per_page));
        memcpy(pool + (size_t)i * page_bytes, host, page_bytes);
        mem_free(host);
    }
    struct kn_attend_args a = {
        .batch = &b,
        .n_head = H,
        .window = WINDOW,
        .ratio = ratio,
        .top_k = TOP_K,
        .kv = shape,
        .q = dev_in(&d, q, (size_t)(n * H * DIM) * 2),
        .cs = dev_in(&d, cs, sizeof cs),
        .sink = dev_in(&d, sink, sizeof sink),
        .fresh = fresh,
        .ring = dev_in(&d, rings, 2 * ring_bytes),
        .ring_bytes = ring_bytes,
        .pool = dev_in(&d, pool, BLOCKS * page_bytes),
        .page_bytes = page_bytes,
        .choice = has_choice ? dev_in(&d, choice, sizeof choice) : NULL,
        .o = dev_new(&d, (size_t)(n * H * DIM) * 2),
    };
    assert_int_equal(d.ops->attend(&d.ctx, &a), 0);
    uint16_t *o = dev_out(&d, a.o);
    host = dev_out(&d, fresh);
    struct seen s = {host, rings + ring_bytes, pool, pos0, n, page_bytes};
    for (int row = 0; row < n; row++) {
        int n_list = list_of(&s, pos0 + row, ratio, has_choice ? choice[row] : NULL, x);
        for (int h = 0; h < H; h++) {
            float want[DIM], got[DIM];
            plain(q + (row * H + h) * DIM, x, n_list, sink[h], want);
            for (int i = 0; i < DIM; i++)
                got[i] = kn_bf16_f32(o[(row * H + h) * DIM + i]);
            struct compare c = compare_f32(got, want, DIM);
            if (!compare_rel_ok(&c, 6e-3))
                fail_msg("position %d of %d..%d, ratio %d: rel %g", pos0 + row, pos0, pos0 + n - 1, ratio, c.rel);
        }
    }
    mem_free(host);
    mem_free(o);
    mem_free(rings);
    mem_free(pool);
    dev_close(&d);
}

static void test_attend(void **state)
{
    static const int steps[][2] = {{0, 1}, {0, 20}, {7, 1}, {8, 1}, {9, 3}, {5, 9}, {127, 1}, {126, 4}, {250, 20}};

    (void)state;
    for (int b = 0; dev_backend(b); b++)
        for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
            check_attend(dev_backend(b), steps[i][0], steps[i][1], 0, false);
            check_attend(dev_backend(b), steps[i][0], steps[i][1], 128, false);
            check_attend(dev_backend(b), steps[i][0], steps[i][1], 4, true);
        }
}

/* In BF16 throughout: 1/sqrt of a rounded mean; a head of equal values becomes exactly +-1 (or a BF16 step beside). */
static void test_q_norm_rope(void **state)
{
    uint16_t q[2 * DIM];
    float cs[ROPE];
    struct dev d;

    (void)state;
    for (int i = 0; i < DIM; i++) {
        q[i] = kn_f32_bf16(3);
        q[DIM + i] = kn_f32_bf16(-0.25f);
    }
    for (int i = 0; i < ROPE; i += 2) { /* a quarter turn: (a, b) -> (-b, a) */
        cs[i] = 0;
        cs[i + 1] = 1;
    }
    for (int b = 0; dev_backend(b); b++) {
        dev_open(&d, dev_backend(b), &limits);
        struct kn_q_norm_rope_args a = {1, 2, DIM, ROPE, 1e-6f, dev_in(&d, cs, sizeof cs), dev_in(&d, q, sizeof q)};
        assert_int_equal(d.ops->q_norm_rope(&d.ctx, &a), 0);
        uint16_t *got = dev_out(&d, a.q);
        for (int i = 0; i < DIM; i++) {
            float sign = i >= DIM - ROPE && i % 2 == 0 ? -1 : 1;
            assert_true(fabsf(kn_bf16_f32(got[i]) - sign) <= 1.0f / 128);
            assert_true(fabsf(kn_bf16_f32(got[DIM + i]) + sign) <= 1.0f / 128);
        }
        mem_free(got);
        dev_close(&d);
    }
}

/* Scores are made by one head of weight w and keys that differ in one element, so the order is known. */
static void check_topk(const struct kn_backend *backend, float w, int pos, const int32_t *want)
{
    enum { DI = 64, PER = 32 };
    /* key i = value[i] * e0; Hadamard is not applied here: pages are written as FP4 directly. 1 and 1 are tied. */
    static const uint8_t code[12] = {2, 5, 2, 7, 0, 2, 9, 5, 1, 0, 0, 2}; /* 1 3 1 6 0 1 -.5 3 .5 0 0 1 */
    size_t page_bytes = kn_index_page_bytes(DI, PER);
    uint8_t *pool = mem_zalloc(BLOCKS * page_bytes), q[64 + 64] = {0};
    uint16_t weight = kn_f32_bf16(w);
    struct kn_batch b;
    struct dev d;

    for (int i = 0; i < 12; i++) {
        pool[2 * page_bytes + (size_t)i * (DI / 2)] = code[i]; /* block 0 of the sequence is block 2 of the pool */
        memset(pool + 2 * page_bytes + kn_index_scale_offset(DI, PER) + (size_t)i * 2, 127, 2);
    }
    q[0] = 2; /* 1 * e0 */
    memset(q + kn_index_scale_offset(DI, 1), 127, 2);
    dev_open(&d, backend, &limits);
    batch_init(&d, &b, pos, 1);
    struct kn_index_topk_args a = {.batch = &b, .ratio = 4, .n_head = 1, .dim = DI, .top_k = TOP_K,
                                   .q_page = dev_in(&d, q, kn_index_page_bytes(DI, 1)), .w = dev_in(&d, &weight, 2),
                                   .pool = dev_in(&d, pool, BLOCKS * page_bytes), .page_bytes = page_bytes,
                                   .choice = dev_new(&d, TOP_K * 4), .score = dev_new(&d, 14 * 4), .score_stride = 14};
    assert_int_equal(d.ops->index_topk(&d.ctx, &a), 0);
    int32_t *choice = dev_out(&d, a.choice);
    float *score = dev_out(&d, a.score);
    assert_memory_equal(choice, want, TOP_K * sizeof *want);
    for (int i = 0; i < 14; i++)
        if (i >= (pos + 1) / 4)
            assert_true(isinf(score[i]) && score[i] < 0);
        else /* relu before the weight: the negative key scores 0 */
            assert_true(score[i] == w * fmaxf(kn_e2m1_f32[code[i]], 0));
    mem_free(choice);
    mem_free(score);
    mem_free(pool);
    dev_close(&d);
}

static void test_topk(void **state)
{
    (void)state;
    for (int b = 0; dev_backend(b); b++) {
        const struct kn_backend *k = dev_backend(b);
        check_topk(k, 1, 2, (int32_t[]){-1, -1, -1}); /* nothing is complete */
        check_topk(k, 1, 3, (int32_t[]){0, -1, -1});  /* completed by this very position */
        check_topk(k, 1, 11, (int32_t[]){0, 1, 2});
        check_topk(k, 1, 47, (int32_t[]){1, 3, 7});
        check_topk(k, 1, 27, (int32_t[]){0, 1, 3});  /* 0, 2 and 5 are tied: the lowest */
        check_topk(k, -1, 47, (int32_t[]){4, 6, 9}); /* all tied at 0 (one of them by relu): the lowest */
        check_topk(k, 0, 47, (int32_t[]){0, 1, 2});
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attend),
        cmocka_unit_test(test_q_norm_rope),
        cmocka_unit_test(test_topk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
