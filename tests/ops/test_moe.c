/* Proves the MoE ops: the choice (ties, bias, hash, NaN), the sorting of rows by expert, the clamps and the weight of
 * the expert's FFN, and the order of the sum. How: small hand-made inputs with known answers. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "kernels/include/num.h"
#include "tests/ops/compare.h"
#include "tests/ops/dev.h"

#include <math.h>
#include <string.h>

static const struct kn_limits limits = {.n_tok = 8, .n_in = 256, .n_out = 256, .n_head = 1, .dim = 64, .window = 1,
                                        .top_k = 1, .index_dim = 64, .index_n_head = 1, .context = 128, .n_expert = 16,
                                        .inter = 128, .d = 128};

static double score(double x)
{
    return sqrt(log1p(exp(x)));
}

static void test_route(void **state)
{
    enum { N = 4, E = 5, K = 2 };
    float logit[N][E] = {{1, 3, 3, 0, 3}, {0, 1, 2, 3, 4}, {NAN, NAN, NAN, NAN, NAN}, {-200, 200, -200, -200, -200}};
    float bias[E] = {0, 0, 0, 10, 0};
    struct dev d;

    (void)state;
    for (int b = 0; dev_backend(b); b++) {
        dev_open(&d, dev_backend(b), &limits);
        struct kn_moe_route_args a = {.n_tok = N, .n_expert = E, .top_k = K, .scale = 1.5f,
                                      .logit = dev_in(&d, logit, sizeof logit), .id = dev_new(&d, N * K * 4),
                                      .weight = dev_new(&d, N * K * 4)};
        assert_int_equal(d.ops->moe_route(&d.ctx, &a), 0);
        int32_t *id = dev_out(&d, a.id);
        float *w = dev_out(&d, a.weight);
        assert_true(id[0] == 1 && id[1] == 2); /* ties: the lower ids */
        assert_true(id[2] == 4 && id[3] == 3);
        assert_true(id[4] != id[5] && id[4] >= 0 && id[4] < E && id[5] >= 0 && id[5] < E);
        assert_true(isnan(w[4]) && isnan(w[5]));
        assert_int_equal(id[6], 1);
        assert_true(fabsf(w[0] - 0.75f) <= 1e-6f && fabsf(w[6] - 1.5f) <= 1e-6f && isfinite(w[7]));
        mem_free(id);
        mem_free(w);
        a.bias = dev_in(&d, bias, sizeof bias);
        assert_int_equal(d.ops->moe_route(&d.ctx, &a), 0);
        id = dev_out(&d, a.id);
        w = dev_out(&d, a.weight);
        assert_true(id[0] == 3 && id[1] == 1); /* the bias chooses ... */
        double s3 = score(0), s1 = score(3);   /* ... and is not in the weights */
        assert_true(fabs(w[0] - 1.5 * s3 / (s3 + s1)) <= 1e-6 && fabs(w[1] - 1.5 * s1 / (s3 + s1)) <= 1e-6);
        mem_free(id);
        mem_free(w);
        dev_close(&d);
    }
}

static void test_hash_route(void **state)
{
    enum { N = 2, E = 4, K = 2, V = 3 };
    float logit[N][E] = {{9, 9, 0, 0}, {0, 0, 1, 2}};
    int32_t table[V][K] = {{0, 1}, {3, 2}, {2, 3}}, tok[N] = {1, 0};
    struct dev d;

    (void)state;
    for (int b = 0; dev_backend(b); b++) {
        dev_open(&d, dev_backend(b), &limits);
        struct kn_moe_route_args a = {.n_tok = N,
                                      .n_expert = E,
                                      .top_k = K,
                                      .scale = 1,
                                      .logit = dev_in(&d, logit, sizeof logit),
                                      .tid2eid = dev_in(&d, table, sizeof table),
                                      .tok = dev_in(&d, tok, sizeof tok),
                                      .id = dev_new(&d, N * K * 4),
                                      .weight = dev_new(&d, N * K * 4)};
        assert_int_equal(d.ops->moe_route(&d.ctx, &a), 0);
        int32_t *id = dev_out(&d, a.id);
        float *w = dev_out(&d, a.weight);
        assert_true(id[0] == 3 && id[1] == 2 && id[2] == 0 && id[3] == 1);
        assert_true(fabsf(w[0] - 0.5f) <= 1e-6f && fabsf(w[2] - 0.5f) <= 1e-6f);
        mem_free(id);
        mem_free(w);
        dev_close(&d);
    }
}

/* Experts 1..3 are local: pairs of others get place -1; rows of an expert keep their order; empty experts are empty. */
static void test_dispatch(void **state)
{
    enum { N = 3, D = 128, K = 2 };
    uint8_t q[N * D], s[N];
    int32_t id[N * K] = {3, 1, 0, 3, 1, 4};
    float weight[N * K] = {.1f, .2f, .3f, .4f, .5f, .6f};
    struct dev d;

    (void)state;
    for (int i = 0; i < N * D; i++)
        q[i] = (uint8_t)(i / D + 1);
    for (int i = 0; i < N; i++)
        s[i] = (uint8_t)(100 + i);
    for (int b = 0; dev_backend(b); b++) {
        dev_open(&d, dev_backend(b), &limits);
        struct kn_moe_dispatch_args a = {.n_tok = N, .d = D, .top_k = K, .first = 1, .n_local = 3,
                                         .x = {NULL, dev_in(&d, q, sizeof q), dev_in(&d, s, sizeof s)},
                                         .id = dev_in(&d, id, sizeof id), .weight = dev_in(&d, weight, sizeof weight),
                                         .offset = dev_new(&d, 4 * 4), .place = dev_new(&d, N * K * 4),
                                         .gx = {NULL, dev_new(&d, N * K * D), dev_new(&d, N * K)},
                                         .gw = dev_new(&d, N * K * 4)};
        assert_int_equal(d.ops->moe_dispatch(&d.ctx, &a), 0);
        int32_t *offset = dev_out(&d, a.offset), *place = dev_out(&d, a.place);
        uint8_t *gq = dev_out(&d, a.gx.q), *gs = dev_out(&d, a.gx.s);
        float *gw = dev_out(&d, a.gw);
        static const int32_t want_offset[] = {0, 2, 2, 4}, want_place[] = {2, 0, -1, 3, 1, -1},
                             want_row[] = {0, 2, 0, 1};
        static const float want_gw[] = {.2f, .5f, .1f, .4f};
        assert_memory_equal(offset, want_offset, sizeof want_offset);
        assert_memory_equal(place, want_place, sizeof want_place);
        assert_memory_equal(gw, want_gw, sizeof want_gw);
        for (int i = 0; i < 4; i++) {
            assert_memory_equal(gq + i * D, q + want_row[i] * D, D);
            assert_int_equal(gs[i], s[want_row[i]]);
        }
        mem_free(offset);
        mem_free(place);
        mem_free(gq);
        mem_free(gs);
        mem_free(gw);
        dev_close(&d);
    }
}

/* Gate and up are constant rows, so every element of h is known: clamped gate and up, silu, routing weight. */
static void test_up_clamps(void **state)
{
    enum { D = 128, I = 128, ROWS = 3 };
    uint16_t x[ROWS * D], w1[I * D], w3[I * D];
    float weight[ROWS] = {1, 0.5f, 1};
    static const float first[ROWS] = {20, 20, -20};
    struct dev d;

    (void)state;
    memset(x, 0, sizeof x);
    memset(w1, 0, sizeof w1);
    memset(w3, 0, sizeof w3);
    for (int i = 0; i < ROWS; i++)
        x[i * D] = kn_f32_bf16(first[i]);
    for (int i = 0; i < I; i++) {
        w1[i * D] = kn_f32_bf16(1);
        w3[i * D] = kn_f32_bf16(1);
    }
    for (int b = 0; dev_backend(b); b++)
        for (int limit = 0; limit <= 10; limit += 10) {
            dev_open(&d, dev_backend(b), &limits);
            struct kn_expert e = {.w1 = {KN_BF16, I, D, dev_in(&d, w1, sizeof w1), NULL},
                                  .w3 = {KN_BF16, I, D, dev_in(&d, w3, sizeof w3), NULL}};
            struct kn_moe_up_args a = {.n_row_max = ROWS, .n_expert = 1, .d = D, .inter = I, .w_dtype = KN_BF16,
                                       .limit = (float)limit, .expert = dev_in(&d, &e, sizeof e),
                                       .x = {.x = dev_in(&d, x, sizeof x)}, .weight = dev_in(&d, weight, sizeof weight),
                                       .h = {.x = dev_new(&d, ROWS * I * 2)}};
            assert_int_equal(d.ops->moe_up(&d.ctx, &a), 0);
            uint16_t *h = dev_out(&d, a.h.x);
            for (int r = 0; r < ROWS; r++) {
                double g = first[r], u = first[r];
                if (limit) { /* the gate has no lower clamp */
                    g = fmin(g, limit);
                    u = fmax(fmin(u, limit), -limit);
                }
                float want = kn_round_bf16((float)(g / (1 + exp(-g)) * u * weight[r])),
                      got = kn_bf16_f32(h[r * I + 77]);
                assert_true(fabsf(got - want) <= fabsf(want) / 128);
            }
            mem_free(h);
            dev_close(&d);
        }
}

/* The order of an f32 sum shows: ascending expert id is 2^24, 1, -2^24 -> 0, then the shared 3. */
static void test_combine_order(void **state)
{
    enum { D = 2, K = 3 };
    int32_t id[K] = {7, 2, 5}, place[K] = {0, 1, 2};
    uint16_t y[K * D], shared[D] = {0x4040, 0x4040};
    static const float value[K] = {-16777216.0f, 16777216.0f, 1}; /* experts 7, 2, 5 */
    struct dev d;

    (void)state;
    for (int i = 0; i < K * D; i++)
        y[i] = kn_f32_bf16(value[i / D]);
    for (int b = 0; dev_backend(b); b++) {
        dev_open(&d, dev_backend(b), &limits);
        struct kn_moe_combine_args a = {1, D, K, dev_in(&d, id, sizeof id), dev_in(&d, place, sizeof place),
                                        dev_in(&d, y, sizeof y), dev_in(&d, shared, sizeof shared), dev_new(&d, D * 2)};
        assert_int_equal(d.ops->moe_combine(&d.ctx, &a), 0);
        uint16_t *out = dev_out(&d, a.out);
        assert_int_equal(out[0], 0x4040); /* 3; an order by choice would give 4 */
        assert_int_equal(out[1], 0x4040);
        mem_free(out);
        dev_close(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_route),     cmocka_unit_test(test_hash_route),    cmocka_unit_test(test_dispatch),
        cmocka_unit_test(test_up_clamps), cmocka_unit_test(test_combine_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
