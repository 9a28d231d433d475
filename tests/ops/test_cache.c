/* Proves kv_norm_rope, compress, index_query and window_store: what is stored is what the spec's formulas give,
 * however a sequence is cut into steps, and nobody else's cache is touched. How: entries are computed again from
 * plain projections; the same tokens go in at once, one by one, and in two steps beside another sequence. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "kernels/include/num.h"
#include "tests/ops/compare.h"
#include "tests/ops/dev.h"

#include <math.h>
#include <string.h>

enum { DIM = 128, ROPE = 64, SLOTS = 2, BLOCKS = 4, STRIDE = 2, TOK = 256, WINDOW = 5 };

static const struct kn_limits limits = {.n_tok = TOK,
                                        .n_in = 128,
                                        .n_out = 256,
                                        .n_head = 1,
                                        .dim = DIM,
                                        .window = WINDOW,
                                        .top_k = 1,
                                        .index_dim = DIM,
                                        .index_n_head = 2,
                                        .context = TOK,
                                        .n_expert = 1,
                                        .inter = 128,
                                        .d = 128};

/* Rows of up to two sequences: n[i] rows from pos[i] on, in slot i; their blocks are {1, 3} and {0, 2}. */
static void batch_init(struct dev *d, struct kn_batch *b, const int32_t *pos, const int32_t *n, int n_seq)
{
    static const int32_t table[SLOTS][STRIDE] = {{1, 3}, {0, 2}};
    int32_t seq[TOK] = {0}, row_pos[TOK], slot[2] = {0, 1}, first[2] = {0, n[0]}, n_tok = 0, pos_max = 0;

    for (int i = 0; i < n_seq; i++)
        for (int k = 0; k < n[i]; k++) {
            seq[n_tok] = i;
            row_pos[n_tok++] = pos[i] + k;
            pos_max = pos[i] + k > pos_max ? pos[i] + k : pos_max;
        }
    *b = (struct kn_batch){.n_tok = n_tok, .n_seq = n_seq, .pos_max = pos_max, .tok = dev_in(d, seq, sizeof seq),
                           .row_seq = dev_in(d, seq, sizeof seq), .row_pos = dev_in(d, row_pos, sizeof row_pos),
                           .seq_slot = dev_in(d, slot, sizeof slot), .seq_row = dev_in(d, first, sizeof first),
                           .seq_n_tok = dev_in(d, n, sizeof *n * (size_t)n_seq),
                           .seq_pos = dev_in(d, pos, sizeof *pos * (size_t)n_seq),
                           .block = dev_in(d, table, sizeof table), .block_stride = STRIDE};
}

struct input {
    int ratio, width;
    bool is_index;
    float *k, *g, *ape, norm[DIM], freq[ROPE / 2]; /* k, g [TOK, width] */
};

static void input_init(struct input *in, int ratio, bool is_index)
{
    struct rng r = {(uint64_t)ratio};

    in->ratio = ratio;
    in->is_index = is_index;
    in->width = (ratio == 4 ? 2 : 1) * DIM;
    in->k = mem_array((size_t)(TOK * in->width), sizeof *in->k);
    in->g = mem_array((size_t)(TOK * in->width), sizeof *in->g);
    in->ape = mem_array((size_t)(ratio * in->width), sizeof *in->ape);
    rng_f32(&r, in->k, (size_t)(TOK * in->width), 1);
    rng_f32(&r, in->g, (size_t)(TOK * in->width), 2);
    rng_f32(&r, in->ape, (size_t)(ratio * in->width), 1);
    for (int i = 0; i < DIM; i++)
        in->norm[i] = 1 + 0.1f * rng_normal(&r);
    for (int i = 0; i < ROPE / 2; i++)
        in->freq[i] = 1.0f / (float)(1 + i);
}

static void input_free(struct input *in)
{
    mem_free(in->k);
    mem_free(in->g);
    mem_free(in->ape);
}

/* Entry e by the spec's words (section 6), before it is rounded to the stored form. */
static void plain_entry(const struct input *in, int e, double *x)
{
    int own = in->ratio == 4 ? DIM : 0, t0 = e * in->ratio;
    double sum2 = 0;

    for (int c = 0; c < DIM; c++) {
        double num = 0, den = 0;
        for (int t = in->ratio == 4 && e > 0 ? t0 - in->ratio : t0; t < t0 + in->ratio; t++) {
            int at = t < t0 ? c : own + c; /* the block before serves with its first half */
            double w = exp(in->g[t * in->width + at] + in->ape[t % in->ratio * in->width + at]);
            num += w * in->k[t * in->width + at];
            den += w;
        }
        x[c] = num / den;
        sum2 += x[c] * x[c];
    }
    for (int c = 0; c < DIM; c++)
        x[c] *= in->norm[c] / sqrt(sum2 / DIM + 1e-6);
    for (int i = 0; i < ROPE / 2; i++) {
        double a = x[DIM - ROPE + 2 * i], b = x[DIM - ROPE + 2 * i + 1], ang = t0 * (double)in->freq[i];
        x[DIM - ROPE + 2 * i] = a * cos(ang) - b * sin(ang);
        x[DIM - ROPE + 2 * i + 1] = a * sin(ang) + b * cos(ang);
    }
    if (!in->is_index)
        return;
    double y[DIM];
    for (int i = 0; i < DIM; i++) { /* natural order: sign (-1)^popcount(i & j) */
        y[i] = 0;
        for (int j = 0; j < DIM; j++)
            y[i] += __builtin_parity((unsigned)(i & j)) ? -x[j] : x[j];
    }
    for (int i = 0; i < DIM; i++)
        x[i] = y[i] / sqrt(DIM);
}

static size_t page_bytes_of(const struct input *in)
{
    int per = KN_BLOCK_TOK / in->ratio;
    return in->is_index ? kn_index_page_bytes(DIM, per) : kn_kv_page_bytes((struct kn_kv_shape){DIM, ROPE}, per);
}

static size_t tail_bytes_of(const struct input *in)
{
    int c = in->ratio == 4 ? 2 : 1;
    return (size_t)(2 * c * in->ratio * c * DIM) * sizeof(float);
}

/* Rows from..from+n of the input as sequence 0; with `beside`, rows 0..5 go in as sequence 1 in the same step. */
static void feed(struct dev *d, const struct input *in, int from, int n, bool beside, float *tail, uint8_t *pool)
{
    int32_t pos[2] = {from, 0}, count[2] = {n, 5};
    size_t row = (size_t)in->width * sizeof(float);
    float *k = mem_array((size_t)(n + 5), row), *g = mem_array((size_t)(n + 5), row);
    struct kn_batch b;

    memcpy(k, in->k + from * in->width, (size_t)n * row);
    memcpy(g, in->g + from * in->width, (size_t)n * row);
    memcpy(k + n * in->width, in->k, 5 * row);
    memcpy(g + n * in->width, in->g, 5 * row);
    batch_init(d, &b, pos, count, beside ? 2 : 1);
    struct kn_compress_args a = {
        .batch = &b, .ratio = in->ratio, .dim = DIM, .rope = ROPE, .is_index = in->is_index, .eps = 1e-6f,
        .k = dev_in(d, k, (size_t)(n + 5) * row), .g = dev_in(d, g, (size_t)(n + 5) * row),
        .ape = dev_in(d, in->ape, (size_t)in->ratio * row), .norm = dev_in(d, in->norm, sizeof in->norm),
        .freq = dev_in(d, in->freq, sizeof in->freq), .tail = tail, .pool = pool, .page_bytes = page_bytes_of(in),
    };
    assert_int_equal(d->ops->compress(&d->ctx, &a), 0);
    mem_free(k);
    mem_free(g);
}

static void check_values(const struct input *in, const uint8_t *pool, int n_tok)
{
    static const int block[STRIDE] = {1, 3};
    int per = KN_BLOCK_TOK / in->ratio;

    for (int e = 0; e < n_tok / in->ratio; e++) {
        const uint8_t *page = pool + (size_t)block[e / per] * page_bytes_of(in);
        double got[DIM], want[DIM];
        float a[DIM], b[DIM];
        if (in->is_index)
            kn_index_get(page, DIM, per, e % per, got);
        else
            kn_kv_get(page, (struct kn_kv_shape){DIM, ROPE}, per, e % per, got);
        plain_entry(in, e, want);
        for (int i = 0; i < DIM; i++) {
            a[i] = (float)got[i];
            b[i] = (float)want[i];
        }
        struct compare c = compare_f32(a, b, DIM);
        if (!compare_rel_ok(&c, in->is_index ? 0.2 : 0.04)) /* FP4 and FP8 steps */
            fail_msg("ratio %d entry %d: rel %g", in->ratio, e, c.rel);
    }
}

/* The first n_tok tokens in steps of the sizes of cut, in turn; *pool and *tail (mem_free) are the state behind them. A
 * device lives for one step: the state goes over as bytes. */
static void run_cut(const struct kn_backend *backend, const struct input *in, int n_tok, const int cut[3], bool beside,
                    uint8_t **pool, uint8_t **tail)
{
    size_t pool_bytes = BLOCKS * page_bytes_of(in), tail_bytes = SLOTS * tail_bytes_of(in);
    struct dev d;

    *pool = mem_alloc(pool_bytes);
    *tail = mem_alloc(tail_bytes);
    memset(*pool, 0xff, pool_bytes);
    memset(*tail, 0xff, tail_bytes);
    for (int at = 0, step = 0, n; at < n_tok; at += n, step++) {
        n = cut[step % 3] < n_tok - at ? cut[step % 3] : n_tok - at;
        dev_open(&d, backend, &limits);
        void *p = dev_in(&d, *pool, pool_bytes), *t = dev_in(&d, *tail, tail_bytes);
        feed(&d, in, at, n, beside && step == 1, t, p);
        mem_free(*pool);
        mem_free(*tail);
        *pool = dev_out(&d, p);
        *tail = dev_out(&d, t);
        dev_close(&d);
    }
}

static void check_compress(const struct kn_backend *backend, int ratio, bool is_index, int n_tok)
{
    static const int cuts[][3] = {{TOK, TOK, TOK}, {1, 1, 1}, {3, 2, 7}, {127, 1, 3}};
    uint8_t *pool[2], *tail[2];
    struct input in;

    input_init(&in, ratio, is_index);
    size_t page = page_bytes_of(&in), tail_bytes = tail_bytes_of(&in);
    run_cut(backend, &in, n_tok, cuts[0], false, &pool[0], &tail[0]);
    check_values(&in, pool[0], n_tok);
    for (size_t c = 1; c < sizeof cuts / sizeof cuts[0]; c++) {
        run_cut(backend, &in, n_tok, cuts[c], c == 2, &pool[1], &tail[1]);
        for (size_t b = 1; b < BLOCKS; b += 2) /* the blocks of sequence 0 */
            assert_int_equal(compare_bits(pool[1] + b * page, pool[0] + b * page, page), page);
        assert_int_equal(compare_bits(tail[1], tail[0], tail_bytes), tail_bytes);
        mem_free(pool[1]);
        mem_free(tail[1]);
    }
    mem_free(pool[0]);
    mem_free(tail[0]);
    input_free(&in);
}

static void test_compress(void **state)
{
    (void)state;
    for (int b = 0; dev_backend(b); b++) {
        check_compress(dev_backend(b), 4, false, 141);
        check_compress(dev_backend(b), 4, true, 141);
        check_compress(dev_backend(b), 128, false, 256);
        check_compress(dev_backend(b), 128, false, 127); /* no entry yet */
    }
}

/* Queries: the same transform as entries; here by the length, which Hadamard and rotation keep, up to FP4 steps. */
static void test_index_query(void **state)
{
    enum { N = 2, HI = 2 };
    struct rng r = {4};
    uint16_t q[N * HI * DIM];
    float cs[N * ROPE];
    struct dev d;

    (void)state;
    rng_bf16(&r, q, N * HI * DIM, 1);
    for (int i = 0; i < N * ROPE; i += 2) {
        cs[i] = 0.6f;
        cs[i + 1] = 0.8f;
    }
    memset(q + 3 * DIM, 0, DIM * 2); /* a zero vector stays zero */
    for (int b = 0; dev_backend(b); b++) {
        dev_open(&d, dev_backend(b), &limits);
        struct kn_index_query_args a = {N, HI, DIM, ROPE, dev_in(&d, q, sizeof q), dev_in(&d, cs, sizeof cs),
                                        dev_new(&d, kn_index_page_bytes(DIM, N * HI))};
        assert_int_equal(d.ops->index_query(&d.ctx, &a), 0);
        uint8_t *page = dev_out(&d, a.page);
        for (int i = 0; i < N * HI; i++) {
            double x[DIM], got = 0, want = 0;
            kn_index_get(page, DIM, N * HI, i, x);
            for (int k = 0; k < DIM; k++) {
                got += x[k] * x[k];
                want += (double)kn_bf16_f32(q[i * DIM + k]) * kn_bf16_f32(q[i * DIM + k]);
            }
            assert_true(fabs(got - want) <= 0.1 * want);
        }
        mem_free(page);
        dev_close(&d);
    }
}

/* The ring holds the last WINDOW entries at position mod WINDOW, however many rows a step has; slots of others stay. */
static void test_window_store(void **state)
{
    static const struct kn_kv_shape shape = {DIM, ROPE};
    static const int32_t steps[][2] = {{0, 1}, {0, 3}, {3, 5}, {4, 12}, {7, 1}};
    struct rng r = {6};
    struct dev d;
    struct kn_batch batch;
    float weight[DIM], cs[16 * ROPE] = {0};
    uint16_t x[16 * DIM];

    (void)state;
    rng_bf16(&r, x, 16 * DIM, 1);
    rng_f32(&r, weight, DIM, 1);
    for (int i = 0; i < 16 * ROPE; i += 2)
        cs[i] = 1;
    for (int b = 0; dev_backend(b); b++)
        for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
            int32_t pos = steps[i][0], n = steps[i][1];
            size_t ring_bytes = kn_kv_page_bytes(shape, WINDOW);
            dev_open(&d, dev_backend(b), &limits);
            batch_init(&d, &batch, &pos, &n, 1);
            struct kn_kv_norm_rope_args kv = {n,
                                              shape,
                                              1e-6f,
                                              dev_in(&d, x, sizeof x),
                                              dev_in(&d, weight, sizeof weight),
                                              dev_in(&d, cs, sizeof cs),
                                              dev_new(&d, kn_kv_page_bytes(shape, n))};
            struct kn_window_store_args a = {&batch, WINDOW, shape, kv.page, dev_new(&d, 2 * ring_bytes), ring_bytes};
            assert_int_equal(d.ops->kv_norm_rope(&d.ctx, &kv), 0);
            assert_int_equal(d.ops->window_store(&d.ctx, &a), 0);
            uint8_t *fresh = dev_out(&d, kv.page), *ring = dev_out(&d, a.ring);
            for (int p = pos + n - WINDOW < pos ? pos : pos + n - WINDOW; p < pos + n; p++) {
                double want[DIM], got[DIM];
                kn_kv_get(fresh, shape, n, p - pos, want);
                kn_kv_get(ring, shape, WINDOW, p % WINDOW, got);
                assert_memory_equal(got, want, sizeof want);
            }
            for (size_t k = 0; k < ring_bytes; k++)
                assert_int_equal(ring[ring_bytes + k], 0xff); /* slot 1 */
            mem_free(fresh);
            mem_free(ring);
            dev_close(&d);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compress),
        cmocka_unit_test(test_index_query),
        cmocka_unit_test(test_window_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
