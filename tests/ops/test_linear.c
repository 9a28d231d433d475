/* Proves linear, linear_group, rmsnorm and act_quant over edge shapes: values against a plain double loop over decoded
 * operands, every row alone gives the bits it gives among others, nothing is written outside, no row means no write. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "kernels/include/num.h"
#include "tests/ops/compare.h"
#include "tests/ops/dev.h"

#include <math.h>
#include <string.h>

static const struct kn_limits limits = {.n_tok = 70, .n_in = 512, .n_out = 300, .n_head = 1, .dim = 64, .window = 1,
                                        .top_k = 1, .index_dim = 64, .index_n_head = 1, .context = 128, .n_expert = 1,
                                        .inter = 128, .d = 256};

/* A matrix with random codes, on the host. */
struct matrix {
    struct kn_mat m;
    uint8_t *data, *scale;
    size_t data_bytes, scale_bytes;
};

static void matrix_init(struct matrix *w, struct rng *r, enum kn_dtype dtype, int n_out, int n_in)
{
    size_t n = (size_t)n_out * (size_t)n_in;

    w->scale_bytes = dtype == KN_FP8   ? (size_t)((n_out + 127) / 128) * (size_t)((n_in + 127) / 128)
                     : dtype == KN_FP4 ? (size_t)n_out * (size_t)(n_in / 32)
                                       : 0;
    w->data_bytes = dtype == KN_FP8 ? n : dtype == KN_FP4 ? n / 2 : dtype == KN_BF16 ? 2 * n : 4 * n;
    w->data = mem_alloc(w->data_bytes);
    w->scale = mem_alloc(w->scale_bytes + 1);
    for (size_t i = 0; i < w->scale_bytes; i++)
        w->scale[i] = (uint8_t)(118 + rng_u32(r) % 4);
    if (dtype == KN_BF16)
        rng_bf16(r, (uint16_t *)(void *)w->data, n, 0.1f);
    else if (dtype == KN_F32)
        rng_f32(r, (float *)(void *)w->data, n, 0.1f);
    else
        for (size_t i = 0; i < w->data_bytes; i++)
            w->data[i] = dtype == KN_FP8 ? (uint8_t)(rng_u32(r) % 96 | (rng_u32(r) & 128)) : (uint8_t)rng_u32(r);
    w->m = (struct kn_mat){dtype, n_out, n_in, w->data, w->scale_bytes ? w->scale : NULL};
}

static void matrix_free(struct matrix *w)
{
    mem_free(w->data);
    mem_free(w->scale);
}

static struct kn_mat to_device(struct dev *d, const struct matrix *w)
{
    struct kn_mat host = w->m, dev = {0};

    host.data = dev_in(d, w->data, w->data_bytes);
    host.scale = w->scale_bytes ? dev_in(d, w->scale, w->scale_bytes) : NULL;
    assert_int_equal(d->backend->device->map_weights(&d->ctx, &host, &dev), 0);
    return dev;
}

/* Element of w, decoded by the definition of the formats (spec section 2). */
static double element(const struct matrix *w, int o, int i)
{
    size_t at = (size_t)o * (size_t)w->m.n_in + (size_t)i;

    switch (w->m.dtype) {
    case KN_FP8:
        return (double)kn_e4m3_f32[w->data[at]] *
               ldexp(1, w->scale[o / 128 * ((w->m.n_in + 127) / 128) + i / 128] - 127);
    case KN_FP4:
        return (double)kn_e2m1_f32[w->data[at / 2] >> (i % 2 * 4) & 15] * ldexp(1, w->scale[at / 32] - 127);
    case KN_BF16:
        return kn_bf16_f32(((const uint16_t *)(void *)w->data)[at]);
    default:
        return ((const float *)(void *)w->data)[at];
    }
}

static void check_linear(struct dev *d, enum kn_dtype dtype, int n, int n_out, int n_in, enum kn_dtype y_dtype)
{
    struct rng r = {(uint64_t)(n * 1000 + n_out)};
    struct matrix w;
    size_t n_x = (size_t)n * (size_t)n_in, n_y = (size_t)n * (size_t)n_out, y_bytes = y_dtype == KN_F32 ? 4 : 2;
    uint16_t *x = mem_array(n_x + 1, sizeof *x);

    matrix_init(&w, &r, dtype, n_out, n_in);
    rng_bf16(&r, x, n_x, 2);
    struct kn_act act = {dev_in(d, x, n_x * 2), dev_new(d, n_x), dev_new(d, n_x / 128)};
    assert_int_equal(d->ops->act_quant(&d->ctx, &(struct kn_act_quant_args){n, n_in, act}), 0);
    void *y = dev_new(d, n_y * y_bytes), *one = dev_new(d, (size_t)n_out * y_bytes);
    struct kn_linear_args a = {.n = n, .factor = 1, .x = act, .w = to_device(d, &w), .y_dtype = y_dtype, .y = y};
    assert_int_equal(d->ops->linear(&d->ctx, &a), 0);
    uint8_t *got = dev_out(d, y), *q = dev_out(d, act.q), *s = dev_out(d, act.s);

    float *a_f = mem_array(n_y + 1, sizeof *a_f), *b_f = mem_array(n_y + 1, sizeof *b_f);
    for (int row = 0; row < n; row++)
        for (int o = 0; o < n_out; o++) {
            size_t at = (size_t)row * (size_t)n_out + (size_t)o;
            double sum = 0;
            for (int i = 0; i < n_in; i++) {
                size_t k = (size_t)row * (size_t)n_in + (size_t)i;
                double v = dtype == KN_FP8 || dtype == KN_FP4 ? (double)kn_e4m3_f32[q[k]] * ldexp(1, s[k / 128] - 127)
                                                              : kn_bf16_f32(x[k]);
                sum += v * element(&w, o, i);
            }
            a_f[at] = y_dtype == KN_F32 ? ((float *)(void *)got)[at] : kn_bf16_f32(((uint16_t *)(void *)got)[at]);
            b_f[at] = y_dtype == KN_F32 ? (float)sum : kn_round_bf16((float)sum);
        }
    struct compare c = compare_f32(a_f, b_f, n_y);
    assert_true(compare_rel_ok(&c, y_dtype == KN_F32 ? 1e-6 : 2e-3));
    if (n > 1) { /* the last row alone: the same bits */
        a.n = 1;
        a.x.x += (n - 1) * n_in;
        a.x.q += (n - 1) * n_in;
        a.x.s += (n - 1) * (n_in / 128);
        a.y = one;
        assert_int_equal(d->ops->linear(&d->ctx, &a), 0);
        uint8_t *alone = dev_out(d, one);
        size_t row_bytes = (size_t)n_out * y_bytes;
        assert_int_equal(compare_bits(alone, got + (size_t)(n - 1) * row_bytes, row_bytes), row_bytes);
        mem_free(alone);
    }
    if (n == 0)
        assert_true(dev_is_untouched(d, y));
    mem_free(a_f);
    mem_free(b_f);
    mem_free(got);
    mem_free(q);
    mem_free(s);
    mem_free(x);
    matrix_free(&w);
}

static void test_linear(void **state)
{
    static const enum kn_dtype dtypes[] = {KN_FP8, KN_FP4, KN_BF16, KN_F32};
    static const int shapes[][3] = {{0, 8, 128}, {1, 1, 128}, {1, 130, 384}, {2, 7, 256}, {3, 9, 128},
                                    {63, 8, 128}, {64, 17, 128}, {65, 129, 256}};
    struct dev d;

    (void)state;
    for (int b = 0; dev_backend(b); b++)
        for (size_t t = 0; t < sizeof dtypes / sizeof dtypes[0]; t++)
            for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
                dev_open(&d, dev_backend(b), &limits);
                check_linear(&d, dtypes[t], shapes[i][0], shapes[i][1], shapes[i][2], KN_BF16);
                check_linear(&d, dtypes[t], shapes[i][0], shapes[i][1], shapes[i][2], KN_F32);
                dev_close(&d);
            }
}

static void test_linear_refuses(void **state)
{
    uint16_t x[192] = {0}, y[4];
    struct dev d;

    (void)state;
    for (int b = 0; dev_backend(b); b++) {
        dev_open(&d, dev_backend(b), &limits);
        struct kn_linear_args a = {.n = 1, .factor = 1, .x = {.x = x}, .w = {KN_FP8, 1, 192, x, (uint8_t *)x},
                                   .y_dtype = KN_BF16, .y = y};
        assert_int_equal(d.ops->linear(&d.ctx, &a), ERR_ARG); /* inputs are no multiple of 128 */
        a.w = (struct kn_mat){KN_BF16, 1, 192, x, NULL};
        a.y_dtype = KN_F32;
        a.factor = 2;
        assert_int_equal(d.ops->linear(&d.ctx, &a), ERR_ARG);
        dev_close(&d);
    }
}

/* A group reads its own part of x and its own rows of w: against one linear per group. */
static void test_linear_group(void **state)
{
    enum { N = 3, G = 2, K = 96, OUT = 256 };
    struct rng r = {5};
    struct matrix w;
    uint16_t x[N * G * K];
    struct dev d;

    (void)state;
    for (int b = 0; dev_backend(b); b++) {
        dev_open(&d, dev_backend(b), &limits);
        matrix_init(&w, &r, KN_FP8, OUT, K);
        rng_bf16(&r, x, N * G * K, 1);
        struct kn_act y = {dev_new(&d, N * OUT * 2), dev_new(&d, N * OUT), dev_new(&d, N * OUT / 128)};
        struct kn_linear_group_args a = {
            .n = N, .n_group = G, .x = dev_in(&d, x, sizeof x), .w = to_device(&d, &w), .y = y};
        assert_int_equal(d.ops->linear_group(&d.ctx, &a), 0);
        uint16_t *got = dev_out(&d, y.x), want[N * OUT];
        for (int row = 0; row < N; row++)
            for (int o = 0; o < OUT; o++) {
                double sum = 0;
                for (int i = 0; i < K; i++)
                    sum += kn_bf16_f32(x[(row * G + o / (OUT / G)) * K + i]) * element(&w, o, i);
                want[row * OUT + o] = kn_f32_bf16((float)sum);
            }
        struct compare c = compare_bf16(got, want, N * OUT);
        assert_true(compare_rel_ok(&c, 2e-3));
        uint8_t *q = dev_out(&d, y.q), *s = dev_out(&d, y.s);
        for (int i = 0; i < N * OUT; i++) /* the quantized form belongs to the BF16 form */
            assert_true(fabs((double)kn_e4m3_f32[q[i]] * ldexp(1, s[i / 128] - 127) - kn_bf16_f32(got[i])) <=
                        fabs(kn_bf16_f32(got[i])) / 16 + ldexp(1, s[i / 128] - 127 - 10));
        mem_free(q);
        mem_free(s);
        mem_free(got);
        matrix_free(&w);
        dev_close(&d);
    }
}

static void test_rmsnorm(void **state)
{
    enum { N = 3, K = 256 };
    struct rng r = {9};
    uint16_t x[N * K], want[N * K];
    float weight[K];
    struct dev d;

    (void)state;
    rng_bf16(&r, x, N * K, 3);
    memset(x + K, 0, K * 2); /* a row of zeros stays zeros */
    x[2 * K + 5] = 0x7fc0;   /* a row with NaN is NaN */
    rng_f32(&r, weight, K, 1);
    for (int row = 0; row < N; row++) {
        double sum = 0;
        for (int i = 0; i < K; i++)
            sum += (double)kn_bf16_f32(x[row * K + i]) * kn_bf16_f32(x[row * K + i]);
        float inv = (float)(1 / sqrt(sum / K + 1e-6f));
        for (int i = 0; i < K; i++)
            want[row * K + i] = kn_f32_bf16(kn_bf16_f32(x[row * K + i]) * inv * weight[i]);
    }
    for (int b = 0; dev_backend(b); b++) {
        dev_open(&d, dev_backend(b), &limits);
        struct kn_act y = {dev_new(&d, N * K * 2), dev_new(&d, N * K), dev_new(&d, N * K / 128)};
        struct kn_rmsnorm_args a = {N, K, 1e-6f, dev_in(&d, x, sizeof x), dev_in(&d, weight, sizeof weight), y};
        assert_int_equal(d.ops->rmsnorm(&d.ctx, &a), 0);
        uint16_t *got = dev_out(&d, y.x);
        uint8_t *q = dev_out(&d, y.q), *s = dev_out(&d, y.s);
        struct compare c = compare_bf16(got, want, N * K);
        assert_true(compare_rel_ok(&c, 1e-3));
        assert_int_equal(q[K] & 127, 0); /* +0 or -0 */
        assert_int_equal(s[2], kn_scale_e4m3(0)); /* the floor of 1e-4 */
        assert_int_equal(q[2 * K] & 127, 127);
        mem_free(got);
        mem_free(q);
        mem_free(s);
        dev_close(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_linear_refuses),
        cmocka_unit_test(test_linear_group),
        cmocka_unit_test(test_rmsnorm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
