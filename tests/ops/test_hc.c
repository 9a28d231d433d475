/* Proves hc_pre, hc_post, hc_head, embed and rope_angles by their invariants: Sinkhorn makes rows and columns sum to
 * one, post and pre have their ranges, the identity keeps the streams, chosen rows are the chosen rows. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "kernels/include/num.h"
#include "tests/ops/compare.h"
#include "tests/ops/dev.h"

#include <math.h>
#include <string.h>

enum { N = 3, HC = 4, D = 128, MIX = (2 + HC) * HC };

static const struct kn_limits limits = {.n_tok = N, .n_in = HC * D, .n_out = 64, .n_head = 1, .dim = 64, .window = 1,
                                        .top_k = 1, .index_dim = 64, .index_n_head = 1, .context = 128, .n_expert = 1,
                                        .inter = 128, .d = D};

static void test_hc_pre(void **state)
{
    struct rng r = {1};
    uint16_t X[N * HC * D];
    float fn[MIX * HC * D], base[MIX], scale[3] = {0.8f, 0.6f, 1.1f}, norm[D];
    struct dev d;

    (void)state;
    rng_bf16(&r, X, N * HC * D, 1);
    rng_f32(&r, fn, MIX * HC * D, 0.05f);
    rng_f32(&r, base, MIX, 0.5f);
    rng_f32(&r, norm, D, 1);
    for (int b = 0; dev_backend(b); b++) {
        dev_open(&d, dev_backend(b), &limits);
        struct kn_hc_pre_args a = {
            .n_tok = N, .hc = HC, .d = D, .sinkhorn_iters = 20, .hc_eps = 1e-6f, .rms_eps = 1e-6f,
            .X = dev_in(&d, X, sizeof X), .fn = {KN_F32, MIX, HC * D, dev_in(&d, fn, sizeof fn), NULL},
            .base = dev_in(&d, base, sizeof base), .scale = dev_in(&d, scale, sizeof scale),
            .norm = dev_in(&d, norm, sizeof norm), .pre = dev_new(&d, N * HC * 4), .post = dev_new(&d, N * HC * 4),
            .comb = dev_new(&d, N * HC * HC * 4),
            .y = {dev_new(&d, N * D * 2), dev_new(&d, N * D), dev_new(&d, N * D / 128)},
        };
        assert_int_equal(d.ops->hc_pre(&d.ctx, &a), 0);
        float *pre = dev_out(&d, a.pre), *post = dev_out(&d, a.post), *comb = dev_out(&d, a.comb);
        for (int i = 0; i < N * HC; i++) {
            assert_true(pre[i] > 0 && pre[i] < 1.00001f);
            assert_true(post[i] > 0 && post[i] < 2.00001f);
        }
        for (int row = 0; row < N; row++)
            for (int j = 0; j < HC; j++) {
                float in = 0, out = 0;
                for (int k = 0; k < HC; k++) {
                    in += comb[(row * HC + k) * HC + j];
                    out += comb[(row * HC + j) * HC + k];
                }
                assert_true(fabsf(in - 1) <= 1e-4f); /* the last division was by columns */
                assert_true(fabsf(out - 1) <= 2e-2f);
            }
        /* Row 2 alone: the same bits. */
        uint16_t *y = dev_out(&d, a.y.x);
        a.n_tok = 1;
        a.X += 2 * HC * D;
        a.y.x = dev_new(&d, D * 2);
        assert_int_equal(d.ops->hc_pre(&d.ctx, &a), 0);
        uint16_t *alone = dev_out(&d, a.y.x);
        assert_int_equal(compare_bits(alone, y + 2 * D, D * 2), D * 2);
        a.sinkhorn_iters = 0;
        assert_int_equal(d.ops->hc_pre(&d.ctx, &a), ERR_ARG);
        mem_free(alone);
        mem_free(y);
        mem_free(comb);
        mem_free(post);
        mem_free(pre);
        dev_close(&d);
    }
}

static void test_hc_post(void **state)
{
    struct rng r = {2};
    uint16_t X[N * HC * D], y[N * D];
    float post[N * HC] = {0}, comb[N * HC * HC] = {0};
    struct dev d;

    (void)state;
    rng_bf16(&r, X, N * HC * D, 1);
    rng_bf16(&r, y, N * D, 1);
    for (int j = 0; j < HC; j++) {
        comb[j * HC + j] = 1;                        /* row 0: the identity */
        comb[HC * HC + j * HC + (j + 1) % HC] = 1;   /* row 1: stream k comes from stream k-1: C[j][k], not C[k][j] */
        post[2 * HC + j] = (float)j;                 /* row 2: only the sublayer's output */
    }
    for (int b = 0; dev_backend(b); b++) {
        dev_open(&d, dev_backend(b), &limits);
        struct kn_hc_post_args a = {N, HC, D, dev_in(&d, y, sizeof y), dev_in(&d, post, sizeof post),
                                    dev_in(&d, comb, sizeof comb), dev_in(&d, X, sizeof X)};
        assert_int_equal(d.ops->hc_post(&d.ctx, &a), 0);
        uint16_t *got = dev_out(&d, a.X);
        assert_int_equal(compare_bits(got, X, HC * D * 2), HC * D * 2);
        for (int k = 0; k < HC; k++)
            assert_memory_equal(got + (HC + k) * D, X + (HC + (k + HC - 1) % HC) * D, D * 2);
        for (int k = 0; k < HC; k++)
            for (int i = 0; i < D; i++)
                assert_true(kn_bf16_f32(got[(2 * HC + k) * D + i]) ==
                            kn_round_bf16((float)k * kn_bf16_f32(y[2 * D + i])));
        mem_free(got);
        dev_close(&d);
    }
}

static void test_head_and_embed(void **state)
{
    struct rng r = {3};
    uint16_t table[5 * D];
    int32_t tok[N] = {4, 0, 4}, row[2] = {2, 1};
    float fn[HC * HC * D] = {0}, base[HC] = {0}, scale[1] = {1}, norm[D];
    struct dev d;

    (void)state;
    rng_bf16(&r, table, 5 * D, 1);
    for (int i = 0; i < D; i++)
        norm[i] = 1;
    for (int b = 0; dev_backend(b); b++) {
        dev_open(&d, dev_backend(b), &limits);
        struct kn_embed_args e = {N, HC, D, 5, dev_in(&d, tok, sizeof tok), dev_in(&d, table, sizeof table),
                                  dev_new(&d, N * HC * D * 2)};
        assert_int_equal(d.ops->embed(&d.ctx, &e), 0);
        uint16_t *X = dev_out(&d, e.X);
        for (int i = 0; i < N * HC; i++)
            assert_memory_equal(X + i * D, table + tok[i / HC] * D, D * 2);
        /* fn and base 0: every stream weighs 1/2 (+eps), so the collapse is twice the embedding, the norm removes it.
         */
        struct kn_hc_head_args a = {.n = 2, .hc = HC, .d = D, .hc_eps = 0, .rms_eps = 0, .X = e.X,
                                    .row = dev_in(&d, row, sizeof row),
                                    .fn = {KN_F32, HC, HC * D, dev_in(&d, fn, sizeof fn), NULL},
                                    .base = dev_in(&d, base, sizeof base), .scale = dev_in(&d, scale, sizeof scale),
                                    .norm = dev_in(&d, norm, sizeof norm), .y = dev_new(&d, 2 * D * 2)};
        assert_int_equal(d.ops->hc_head(&d.ctx, &a), 0);
        uint16_t *y = dev_out(&d, a.y);
        for (int i = 0; i < 2; i++) {
            double sum = 0;
            uint16_t want[D];
            const uint16_t *x = table + tok[row[i]] * D;
            for (int k = 0; k < D; k++)
                sum += (double)kn_bf16_f32(x[k]) * kn_bf16_f32(x[k]);
            for (int k = 0; k < D; k++)
                want[k] = kn_f32_bf16((float)(kn_bf16_f32(x[k]) / sqrt(sum / D)));
            struct compare c = compare_bf16(y + i * D, want, D);
            assert_true(compare_rel_ok(&c, 1e-3));
        }
        mem_free(y);
        mem_free(X);
        dev_close(&d);
    }
}

/* At a million positions the rounding of the f32 product is visible: the angle must not be formed in double. */
static void test_rope_angles(void **state)
{
    int32_t pos[2] = {0, 1000003};
    float freq[2] = {1, 0.749894202f};
    struct dev d;

    (void)state;
    for (int b = 0; dev_backend(b); b++) {
        dev_open(&d, dev_backend(b), &limits);
        struct kn_rope_angles_args a = {2, 2, dev_in(&d, pos, sizeof pos), dev_in(&d, freq, sizeof freq),
                                        dev_new(&d, 32)};
        assert_int_equal(d.ops->rope_angles(&d.ctx, &a), 0);
        float *cs = dev_out(&d, a.cs), angle = 1000003.0f * 0.749894202f;
        assert_true(cs[0] == 1 && cs[1] == 0 && cs[2] == 1 && cs[3] == 0);
        assert_true(fabs(cs[6] - cos(angle)) <= 1e-6 && fabs(cs[7] - sin(angle)) <= 1e-6);
        mem_free(cs);
        dev_close(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hc_pre),
        cmocka_unit_test(test_hc_post),
        cmocka_unit_test(test_head_and_embed),
        cmocka_unit_test(test_rope_angles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
