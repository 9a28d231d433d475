/* linear and linear_group. Shapes: rows 0, 1, 2, 3, 4, 5, odd, over the row tile; outputs that are no multiple of a
 * column tile; inputs of one and several k blocks, and of BF16 and F32 matrices also odd ones. Formula: f64 dot
 * products over an independent decoding. */
#include "tests/ops/op.h"

#include <math.h>
#include <string.h>

static const char why[] =
    "f32 sums in lanes over n_in against f64: 1e-6, then BF16 rounding flips where they meet a tie";

/* s: n_out, n_in, dtype, y_dtype, factor?, 1: NaN codes in one row of w and of x, 2: weight scales of 2^13 */
static const struct op_case linear_cases[] = {
    {"fp8 no rows", 0, {16, 128, KN_FP8, KN_BF16}, 1e-3, why},
    {"fp8 1x8x128", 1, {8, 128, KN_FP8, KN_BF16}, 1e-3, why},
    {"fp8 1x1x128", 1, {1, 128, KN_FP8, KN_BF16}, 1e-3, why},
    {"fp8 2x9x256", 2, {9, 256, KN_FP8, KN_BF16}, 1e-3, why},
    {"fp8 3x130x640", 3, {130, 640, KN_FP8, KN_BF16}, 1e-3, why},
    {"fp8 4x257x512", 4, {257, 512, KN_FP8, KN_F32}, 1e-5, why},
    {"fp8 257x70x1152", 257, {70, 1152, KN_FP8, KN_BF16}, 1e-3, why},
    {"fp8 factor", 5, {33, 384, KN_FP8, KN_BF16, 1}, 1e-3, why},
    {"fp8 NaN", 5, {11, 640, KN_FP8, KN_BF16, 0, 1}, 1e-3, why},
    {"fp4 NaN", 5, {11, 640, KN_FP4, KN_BF16, 0, 1}, 1e-3, why},
    {"fp8 large scales", 20, {16, 256, KN_FP8, KN_BF16, 0, 2}, 1e-3, why},
    {"fp8 64x40x1152", 64, {40, 1152, KN_FP8, KN_F32}, 1e-5, why},
    {"fp4 64x36x640", 64, {36, 640, KN_FP4, KN_F32}, 1e-5, why},
    {"bf16 64x17x520", 64, {17, 520, KN_BF16, KN_F32}, 1e-5, why},
    {"f32 64x24x1030", 64, {24, 1030, KN_F32, KN_F32}, 1e-5, why},
    {"fp4 no rows", 0, {16, 128, KN_FP4, KN_BF16}, 1e-3, why},
    {"fp4 1x5x128", 1, {5, 128, KN_FP4, KN_BF16}, 1e-3, why},
    {"fp4 7x129x640", 7, {129, 640, KN_FP4, KN_BF16}, 1e-3, why},
    {"fp4 66x33x1024", 66, {33, 1024, KN_FP4, KN_F32}, 1e-5, why},
    {"bf16 1x16x64", 1, {16, 64, KN_BF16, KN_F32}, 1e-5, why},
    {"bf16 odd 6x13x77", 6, {13, 77, KN_BF16, KN_BF16}, 1e-3, why},
    {"bf16 65x31x1000", 65, {31, 1000, KN_BF16, KN_F32}, 1e-5, why},
    {"f32 odd 3x24x33", 3, {24, 33, KN_F32, KN_F32}, 1e-5, why},
    {"f32 9x24x4096", 9, {24, 4096, KN_F32, KN_F32}, 1e-5, why},
    {"f32 1x1x1", 1, {1, 1, KN_F32, KN_F32}, 1e-5, why},
};

static enum kn_dtype dtype(const struct op_case *c)
{
    return (enum kn_dtype)c->s[2];
}

static bool is_quantized(const struct op_case *c)
{
    return dtype(c) == KN_FP8 || dtype(c) == KN_FP4;
}

static int linear_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    size_t n_out = (size_t)c->s[0], n_in = (size_t)c->s[1], y = c->s[3] == KN_F32 ? 4 : 2;
    b[0] = (struct op_buf){"x", OP_IN, OP_BYTES, is_quantized(c) ? n_in : 2 * n_in, 0, 0};
    b[1] = (struct op_buf){"x.s", OP_IN, OP_BYTES, is_quantized(c) ? n_in / KN_ACT_GROUP : 1, 0, 0};
    b[2] = (struct op_buf){"w", OP_IN, OP_BYTES, 0, op_mat_bytes(dtype(c), c->s[0], c->s[1]), 0};
    b[3] = (struct op_buf){"w.scale", OP_IN, OP_BYTES, 0, op_scale_bytes(dtype(c), c->s[0], c->s[1]), 0};
    b[4] = (struct op_buf){"y", OP_OUT, c->s[3] == KN_F32 ? OP_F32 : OP_BF16, n_out * y, 0, 0};
    return 5;
}

static void linear_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    size_t n = (size_t)c->n * (size_t)c->s[1];
    if (is_quantized(c)) {
        op_fill_e4m3(p[0], n, rng);
        op_fill_e8m0(p[1], n / KN_ACT_GROUP, 118, 121, rng);
    } else {
        op_fill_bf16(p[0], n, 1, rng);
    }
    op_fill_mat(dtype(c), c->s[0], c->s[1], p[2], p[3], rng);
    if (c->s[5] == 2) /* scales that a kernel may have to apply in two steps */
        memset(p[3], 140, op_scale_bytes(dtype(c), c->s[0], c->s[1]));
    if (c->s[5] == 1) {
        ((uint8_t *)p[0])[3 * c->s[1] + 77] = 0xff;
        if (dtype(c) == KN_FP8)
            ((uint8_t *)p[2])[2 * c->s[1] + 600] = 0x7f;
        else
            ((uint8_t *)p[3])[2 * (c->s[1] / 32) + 9] = 255;
    }
}

static int linear_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    struct kn_act x = {.x = p[0]};
    if (is_quantized(c))
        x = (struct kn_act){.q = p[0], .s = p[1]};
    return ops->linear(ctx, &(struct kn_linear_args){.n = n, .factor = c->s[4] ? 0.3f : 1, .x = x,
                                                     .w = op_mat(dtype(c), c->s[0], c->s[1], p[2], p[3]),
                                                     .y_dtype = (enum kn_dtype)c->s[3], .y = p[4]});
}

static double x_at(const struct op_case *c, void *const p[], int64_t r, int64_t i)
{
    int64_t k = c->s[1];
    if (!is_quantized(c))
        return kn_bf16_f32(((const uint16_t *)p[0])[r * k + i]);
    return op_e4m3(((const uint8_t *)p[0])[r * k + i]) *
           ldexp(1, ((const uint8_t *)p[1])[r * (k / 128) + i / 128] - 127);
}

static double linear_formula(const struct op_case *c, void *const p[], int32_t n)
{
    struct kn_mat w = op_mat(dtype(c), c->s[0], c->s[1], p[2], p[3]);
    double diff2 = 0, want2 = 0;

    for (int64_t r = 0; r < n; r += n > 8 ? n / 8 : 1)
        for (int64_t o = 0; o < w.n_out; o += w.n_out > 16 ? 7 : 1) {
            bool is_nan = c->s[5] == 1 && (r == 3 || o == 2);
            double sum = 0, got;
            for (int64_t i = 0; i < w.n_in; i++)
                sum += x_at(c, p, r, i) * op_mat_at(&w, o, i);
            if (c->s[4])
                sum *= 0.3;
            got = c->s[3] == KN_F32 ? ((const float *)p[4])[r * w.n_out + o]
                                    : kn_bf16_f32(((const uint16_t *)p[4])[r * w.n_out + o]);
            if (is_nan != (isnan(got) && isnan(sum)))
                return INFINITY;
            diff2 += is_nan ? 0 : (got - sum) * (got - sum);
            want2 += is_nan ? 0 : sum * sum;
        }
    return sqrt(diff2 / want2);
}

const struct op_def op_def_linear = {
    .op = KN_OP_linear, .cases = linear_cases, .n_case = sizeof linear_cases / sizeof linear_cases[0],
    .bufs = linear_bufs, .fill = linear_fill, .run = linear_run, .formula = linear_formula, .formula_tol = 4e-3,
};

/* s: n_out, n_in, dtype, n_group, form: 0 both, 1 without codes */
static const struct op_case group_cases[] = {
    {"no rows", 0, {128, 128, KN_FP8, 2}, 1e-3, why},
    {"fp8 1 row", 1, {128, 256, KN_FP8, 2}, 1e-3, why},
    {"fp8 odd", 5, {384, 192, KN_FP8, 3}, 1e-3, why},
    {"fp8 groups across 128 rows", 65, {640, 128, KN_FP8, 2}, 1e-3, why},
    {"fp8 no codes, odd width", 7, {30, 384, KN_FP8, 3, 1}, 1e-3, why},
    {"fp8 large", 260, {256, 640, KN_FP8, 4}, 1e-3, why},
    {"bf16", 4, {128, 96, KN_BF16, 2}, 1e-3, why},
    {"fp8 64 rows", 64, {192, 320, KN_FP8, 3, 1}, 1e-3, why},
};

static int group_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    size_t n_out = (size_t)c->s[0], k = (size_t)c->s[1] * (size_t)c->s[3];
    b[0] = (struct op_buf){"x", OP_IN, OP_BF16, 2 * k, 0, 0};
    b[1] = (struct op_buf){"w", OP_IN, OP_BYTES, 0, op_mat_bytes(dtype(c), c->s[0], c->s[1]), 0};
    b[2] = (struct op_buf){"w.scale", OP_IN, OP_BYTES, 0, op_scale_bytes(dtype(c), c->s[0], c->s[1]), 0};
    b[3] = (struct op_buf){"y", OP_OUT, OP_BF16, 2 * n_out, 0, 0};
    b[4] = (struct op_buf){"y.q", OP_OUT, OP_BYTES, n_out, 0, 0};
    b[5] = (struct op_buf){"y.s", OP_OUT, OP_BYTES, n_out / KN_ACT_GROUP, 0, 0};
    return c->s[4] ? 4 : 6;
}

static void group_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    op_fill_bf16(p[0], (size_t)c->n * (size_t)c->s[1] * (size_t)c->s[3], 1, rng);
    op_fill_mat(dtype(c), c->s[0], c->s[1], p[1], p[2], rng);
}

static int group_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    struct kn_act y = {p[3], c->s[4] ? NULL : p[4], c->s[4] ? NULL : p[5]};
    return ops->linear_group(
        ctx, &(struct kn_linear_group_args){
                 .n = n, .n_group = c->s[3], .x = p[0], .w = op_mat(dtype(c), c->s[0], c->s[1], p[1], p[2]), .y = y});
}

static double group_formula(const struct op_case *c, void *const p[], int32_t n)
{
    struct kn_mat w = op_mat(dtype(c), c->s[0], c->s[1], p[1], p[2]);
    int64_t part = w.n_out / c->s[3];
    double diff2 = 0, want2 = 0;

    for (int64_t r = 0; r < n; r += n > 4 ? n / 4 : 1)
        for (int64_t o = 0; o < w.n_out; o += 3) {
            const uint16_t *x = (const uint16_t *)p[0] + (r * c->s[3] + o / part) * w.n_in;
            double sum = 0, got = kn_bf16_f32(((const uint16_t *)p[3])[r * w.n_out + o]);
            for (int64_t i = 0; i < w.n_in; i++)
                sum += (double)kn_bf16_f32(x[i]) * op_mat_at(&w, o, i);
            diff2 += (got - sum) * (got - sum);
            want2 += sum * sum;
        }
    return sqrt(diff2 / want2);
}

const struct op_def op_def_linear_group = {
    .op = KN_OP_linear_group, .cases = group_cases, .n_case = sizeof group_cases / sizeof group_cases[0],
    .bufs = group_bufs, .fill = group_fill, .run = group_run, .formula = group_formula, .formula_tol = 4e-3,
};
