/* The five ops of the mixture of experts. Expert rows are grouped by the expert of each row, so that subsets of rows
 * are again valid calls; one expert without rows is always among them. */
#include "tests/ops/op.h"

#include <math.h>
#include <string.h>

enum { EXPERTS_MAX = 8 };

static const char why[] =
    "f32 sums and exponentials against f64; BF16 rounding of gate, up and h flips where a sum meets a tie";

/* s: d, inter, dtype, n_expert (0: shared expert, offset NULL), weight?, limit */
static const struct op_case up_cases[] = {
    {"no rows", 0, {128, 128, KN_FP4, 3, 1, 10}, 2e-3, why},
    {"fp4 1 row", 1, {128, 128, KN_FP4, 3, 1, 10}, 2e-3, why},
    {"fp4 odd", 13, {256, 384, KN_FP4, 5, 1, 1}, 2e-3, why},
    {"fp4 over the row tile", 300, {128, 256, KN_FP4, 2, 1, 0}, 2e-3, why},
    {"fp8 shared", 7, {640, 128, KN_FP8, 0, 0, 10}, 2e-3, why},
    {"fp8 shared 1", 1, {256, 256, KN_FP8, 0, 0, 0}, 2e-3, why},
    {"fp8 experts", 33, {128, 128, KN_FP8, 4, 1, 6}, 2e-3, why},
    {"bf16", 9, {128, 128, KN_BF16, 3, 1, 10}, 2e-3, why},
};

static int32_t n_expert(const struct op_case *c)
{
    return c->s[3] ? c->s[3] : 1;
}

static bool is_bf16(const struct op_case *c)
{
    return c->s[2] == KN_BF16;
}

/* Rows [n, k] in the form that the dtype reads: buffers at, at+1. */
static void act_bufs(const struct op_case *c, struct op_buf *b, size_t k)
{
    b[0] = (struct op_buf){"x", OP_IN, OP_BYTES, is_bf16(c) ? 2 * k : k, 0, 0};
    b[1] = (struct op_buf){"x.s", OP_IN, OP_BYTES, k / KN_ACT_GROUP, 0, 0};
}

static void act_fill(const struct op_case *c, void *const p[], size_t k, uint64_t *rng)
{
    size_t n = (size_t)c->n * k;
    if (is_bf16(c))
        op_fill_bf16(p[0], n, 1, rng);
    else
        op_fill_e4m3(p[0], n, rng);
    op_fill_e8m0(p[1], n / KN_ACT_GROUP, 118, 121, rng);
}

static struct kn_act act_of(const struct op_case *c, void *const p[])
{
    if (is_bf16(c))
        return (struct kn_act){.x = p[0]};
    return (struct kn_act){.q = p[0], .s = p[1]};
}

/* Experts of the rows, rising, expert 1 without any; then their offsets. */
static void fill_experts(const struct op_case *c, int32_t *e)
{
    for (int32_t r = 0; r < c->n; r++) {
        e[r] = (int32_t)((int64_t)r * n_expert(c) / c->n);
        if (e[r] == 1 && n_expert(c) > 2)
            e[r] = 2;
    }
}

static const int32_t *offsets(const struct op_case *c, const int32_t *e, int32_t n, int32_t offset[EXPERTS_MAX + 1])
{
    if (!c->s[3])
        return NULL;
    for (int32_t i = 0; i <= n_expert(c); i++) {
        offset[i] = 0;
        for (int32_t r = 0; r < n; r++)
            offset[i] += e[r] < i;
    }
    return offset;
}

static struct kn_mat mat_of(const struct op_case *c, int32_t n_out, int32_t n_in, char *data, uint8_t *scale, int32_t e)
{
    enum kn_dtype dtype = (enum kn_dtype)c->s[2];
    return op_mat(dtype, n_out, n_in, data + (size_t)e * op_mat_bytes(dtype, n_out, n_in),
                  scale + (size_t)e * op_scale_bytes(dtype, n_out, n_in));
}

static int up_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    enum kn_dtype dtype = (enum kn_dtype)c->s[2];
    size_t n = (size_t)n_expert(c), inter = (size_t)c->s[1];
    act_bufs(c, b, (size_t)c->s[0]);
    b[2] = (struct op_buf){"expert", OP_IN, OP_I32, 4, 0, 0};
    b[3] = (struct op_buf){"weight", OP_IN, OP_F32, 4, 0, 0};
    for (int i = 0; i < 2; i++) {
        b[4 + 2 * i] = (struct op_buf){"w", OP_IN, OP_BYTES, 0, n * op_mat_bytes(dtype, c->s[1], c->s[0]), 0};
        b[5 + 2 * i] = (struct op_buf){"w.scale", OP_IN, OP_BYTES, 0, n * op_scale_bytes(dtype, c->s[1], c->s[0]), 0};
    }
    b[8] = (struct op_buf){"h", OP_OUT, OP_BF16, 2 * inter, 0, 0};
    b[9] = (struct op_buf){"h.q", OP_OUT, OP_BYTES, inter, 0, 0};
    b[10] = (struct op_buf){"h.s", OP_OUT, OP_BYTES, inter / KN_ACT_GROUP, 0, 0};
    return 11;
}

static void up_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    enum kn_dtype dtype = (enum kn_dtype)c->s[2];
    act_fill(c, p, (size_t)c->s[0], rng);
    fill_experts(c, p[2]);
    op_fill_f32(p[3], (size_t)c->n, 0.5f, rng);
    for (int32_t e = 0; e < n_expert(c); e++)
        for (int i = 4; i < 8; i += 2) {
            struct kn_mat m = mat_of(c, c->s[1], c->s[0], p[i], p[i + 1], e);
            op_fill_mat(dtype, c->s[1], c->s[0], (void *)(uintptr_t)m.data,
                        (uint8_t *)p[i + 1] + (size_t)e * op_scale_bytes(dtype, c->s[1], c->s[0]), rng);
        }
}

static int up_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    struct kn_expert e[EXPERTS_MAX] = {0};
    int32_t offset[EXPERTS_MAX + 1];
    for (int32_t i = 0; i < n_expert(c); i++) {
        e[i].w1 = mat_of(c, c->s[1], c->s[0], p[4], p[5], i);
        e[i].w3 = mat_of(c, c->s[1], c->s[0], p[6], p[7], i);
    }
    return ops->moe_up(ctx, &(struct kn_moe_up_args){.n_row_max = n,
                                                     .n_expert = n_expert(c),
                                                     .d = c->s[0],
                                                     .inter = c->s[1],
                                                     .w_dtype = (enum kn_dtype)c->s[2],
                                                     .limit = (float)c->s[5],
                                                     .expert = e,
                                                     .offset = offsets(c, p[2], n, offset),
                                                     .x = act_of(c, p),
                                                     .weight = c->s[4] ? p[3] : NULL,
                                                     .h = {p[8], p[9], p[10]}});
}

const struct op_def op_def_moe_up = {
    .op = KN_OP_moe_up, .cases = up_cases, .n_case = sizeof up_cases / sizeof up_cases[0], .keeps_order = true,
    .bufs = up_bufs, .fill = up_fill, .run = up_run,
};

/* s: d, inter, dtype, n_expert */
static const struct op_case down_cases[] = {
    {"no rows", 0, {128, 128, KN_FP4, 3}, 1e-3, why},
    {"fp4 1 row", 1, {128, 128, KN_FP4, 3}, 1e-3, why},
    {"fp4 odd", 13, {384, 256, KN_FP4, 5}, 1e-3, why},
    {"fp4 over the row tile", 300, {128, 640, KN_FP4, 2}, 1e-3, why},
    {"fp8 shared", 7, {128, 384, KN_FP8, 0}, 1e-3, why},
    {"bf16", 9, {128, 128, KN_BF16, 3}, 1e-3, why},
};

static int down_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    enum kn_dtype dtype = (enum kn_dtype)c->s[2];
    size_t n = (size_t)n_expert(c);
    act_bufs(c, b, (size_t)c->s[1]);
    b[2] = (struct op_buf){"expert", OP_IN, OP_I32, 4, 0, 0};
    b[3] = (struct op_buf){"w2", OP_IN, OP_BYTES, 0, n * op_mat_bytes(dtype, c->s[0], c->s[1]), 0};
    b[4] = (struct op_buf){"w2.scale", OP_IN, OP_BYTES, 0, n * op_scale_bytes(dtype, c->s[0], c->s[1]), 0};
    b[5] = (struct op_buf){"y", OP_OUT, OP_BF16, 2 * (size_t)c->s[0], 0, 0};
    return 6;
}

static void down_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    enum kn_dtype dtype = (enum kn_dtype)c->s[2];
    act_fill(c, p, (size_t)c->s[1], rng);
    fill_experts(c, p[2]);
    for (int32_t e = 0; e < n_expert(c); e++)
        op_fill_mat(dtype, c->s[0], c->s[1], (char *)p[3] + (size_t)e * op_mat_bytes(dtype, c->s[0], c->s[1]),
                    (uint8_t *)p[4] + (size_t)e * op_scale_bytes(dtype, c->s[0], c->s[1]), rng);
}

static int down_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    struct kn_expert e[EXPERTS_MAX] = {0};
    int32_t offset[EXPERTS_MAX + 1];
    for (int32_t i = 0; i < n_expert(c); i++)
        e[i].w2 = mat_of(c, c->s[0], c->s[1], p[3], p[4], i);
    return ops->moe_down(ctx, &(struct kn_moe_down_args){
                                  .n_row_max = n, .n_expert = n_expert(c), .d = c->s[0], .inter = c->s[1],
                                  .w_dtype = (enum kn_dtype)c->s[2], .expert = e,
                                  .offset = offsets(c, p[2], n, offset), .h = act_of(c, p), .y = p[5]});
}

static double down_formula(const struct op_case *c, void *const p[], int32_t n)
{
    double diff2 = 0, want2 = 0;
    for (int64_t r = 0; r < n; r += n > 8 ? n / 8 : 1) {
        int32_t e = c->s[3] ? ((const int32_t *)p[2])[r] : 0;
        struct kn_mat w = mat_of(c, c->s[0], c->s[1], p[3], p[4], e);
        for (int64_t o = 0; o < w.n_out; o += 5) {
            double sum = 0, got = kn_bf16_f32(((const uint16_t *)p[5])[r * w.n_out + o]);
            for (int64_t i = 0; i < w.n_in; i++) {
                double x = is_bf16(c) ? kn_bf16_f32(((const uint16_t *)p[0])[r * w.n_in + i])
                                      : op_e4m3(((const uint8_t *)p[0])[r * w.n_in + i]) *
                                            ldexp(1, ((const uint8_t *)p[1])[r * (w.n_in / 128) + i / 128] - 127);
                sum += x * op_mat_at(&w, o, i);
            }
            diff2 += (got - sum) * (got - sum);
            want2 += sum * sum;
        }
    }
    return sqrt(diff2 / want2);
}

const struct op_def op_def_moe_down = {
    .op = KN_OP_moe_down, .cases = down_cases, .n_case = sizeof down_cases / sizeof down_cases[0], .keeps_order = true,
    .bufs = down_bufs, .fill = down_fill, .run = down_run, .formula = down_formula, .formula_tol = 4e-3,
};

/* s: n_expert, top_k, hash?, special (NaN and equal logits) */
static const struct op_case route_cases[] = {
    {"no rows", 0, {8, 2}, 1e-6, "scores are f32 of f64 values"},
    {"1 row", 1, {8, 2}, 1e-6, "scores are f32 of f64 values"},
    {"odd", 37, {33, 6}, 1e-6, "scores are f32 of f64 values"},
    {"all of them", 5, {6, 6}, 1e-6, "scores are f32 of f64 values"},
    {"64 experts", 65, {64, 8}, 1e-6, "scores are f32 of f64 values"},
    {"hash", 9, {16, 4, 1}, 1e-6, "scores are f32 of f64 values"},
    {"ties and NaN", 12, {16, 4, 0, 1}, 1e-6, "scores are f32 of f64 values"},
};

static int route_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    size_t n = (size_t)c->s[0], k = (size_t)c->s[1];
    b[0] = (struct op_buf){"logit", OP_IN, OP_F32, 4 * n, 0, 0};
    b[1] = (struct op_buf){"bias", OP_IN, OP_F32, 0, 4 * n, 0};
    b[2] = (struct op_buf){"tid2eid", OP_IN, OP_I32, 0, 20 * k * 4, 0};
    b[3] = (struct op_buf){"tok", OP_IN, OP_I32, 4, 0, 0};
    b[4] = (struct op_buf){"id", OP_OUT, OP_I32, 4 * k, 0, 0};
    b[5] = (struct op_buf){"weight", OP_OUT, OP_F32, 4 * k, 0, 0};
    return 6;
}

static void route_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    op_fill_f32(p[0], (size_t)c->n * (size_t)c->s[0], 3, rng);
    op_fill_f32(p[1], (size_t)c->s[0], 0.2f, rng);
    for (int i = 0; i < 20; i++)
        for (int k = 0; k < c->s[1]; k++)
            ((int32_t *)p[2])[i * c->s[1] + k] = (i + 3 * k) % c->s[0];
    for (int i = 0; i < c->n; i++)
        ((int32_t *)p[3])[i] = (int32_t)(op_rand(rng) % 20);
    for (int i = 0; c->s[3] && i < c->n * c->s[0]; i++)
        ((float *)p[0])[i] = i % 11 == 3 ? NAN : i % 2 ? 0.5f : -0.25f;
    if (c->s[3])
        memset(p[1], 0, 4 * (size_t)c->s[0]);
}

static int route_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    return ops->moe_route(ctx, &(struct kn_moe_route_args){
                                   .n_tok = n, .n_expert = c->s[0], .top_k = c->s[1], .scale = 1.5f, .logit = p[0],
                                   .bias = c->s[2] ? NULL : p[1], .tid2eid = c->s[2] ? p[2] : NULL, .tok = p[3],
                                   .id = p[4], .weight = p[5]});
}

/* Ids are valid and distinct, weights sum to scale, and no expert that was left out is better than the worst chosen. */
static double route_formula(const struct op_case *c, void *const p[], int32_t n)
{
    double worst = 0;
    for (int r = 0; r < n; r++) {
        const int32_t *id = (const int32_t *)p[4] + r * c->s[1];
        const float *w = (const float *)p[5] + r * c->s[1], *logit = (const float *)p[0] + r * c->s[0];
        bool taken[64] = {0};
        double sum = 0, least = INFINITY;
        for (int k = 0; k < c->s[1]; k++) {
            if (id[k] < 0 || id[k] >= c->s[0] || taken[id[k]])
                return INFINITY;
            taken[id[k]] = true;
            sum += w[k];
            least = fmin(least, sqrt(log1p(exp(logit[id[k]]))) + ((const float *)p[1])[id[k]]);
        }
        for (int e = 0; !c->s[2] && !c->s[3] && e < c->s[0]; e++)
            if (!taken[e] && sqrt(log1p(exp(logit[e]))) + ((const float *)p[1])[e] > least + 1e-6)
                return INFINITY;
        if (!c->s[3])
            worst = fmax(worst, fabs(sum - 1.5));
    }
    return worst;
}

const struct op_def op_def_moe_route = {
    .op = KN_OP_moe_route, .cases = route_cases, .n_case = sizeof route_cases / sizeof route_cases[0],
    .bufs = route_bufs, .fill = route_fill, .run = route_run, .formula = route_formula, .formula_tol = 1e-5,
};

/* s: d, top_k, first, n_local, n_expert */
static const struct op_case dispatch_cases[] = {
    {"no rows", 0, {128, 2, 0, 4, 4}, 0, "copies"},
    {"1 row", 1, {128, 2, 0, 4, 4}, 0, "copies"},
    {"all experts", 67, {256, 3, 0, 9, 9}, 0, "copies"},
    {"a rank's", 31, {128, 4, 5, 3, 16}, 0, "copies"},
};

static int dispatch_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    size_t d = (size_t)c->s[0], k = (size_t)c->s[1];
    b[0] = (struct op_buf){"x", OP_IN, OP_BF16, 2 * d, 0, 0};
    b[1] = (struct op_buf){"q", OP_IN, OP_BYTES, d, 0, 0};
    b[2] = (struct op_buf){"s", OP_IN, OP_BYTES, d / KN_ACT_GROUP, 0, 0};
    b[3] = (struct op_buf){"id", OP_IN, OP_I32, 4 * k, 0, 0};
    b[4] = (struct op_buf){"weight", OP_IN, OP_F32, 4 * k, 0, 0};
    b[5] = (struct op_buf){"offset", OP_OUT, OP_I32, 0, 4 * (size_t)(c->s[3] + 1), 0};
    b[6] = (struct op_buf){"place", OP_OUT, OP_I32, 4 * k, 0, 0};
    b[7] = (struct op_buf){"gx.x", OP_INOUT, OP_BYTES, 2 * d * k, 0, 0}; /* rows of other ranks stay as they were */
    b[8] = (struct op_buf){"gx.q", OP_INOUT, OP_BYTES, d * k, 0, 0};
    b[9] = (struct op_buf){"gx.s", OP_INOUT, OP_BYTES, d / KN_ACT_GROUP * k, 0, 0};
    b[10] = (struct op_buf){"gw", OP_INOUT, OP_BYTES, 4 * k, 0, 0};
    return 11;
}

static void dispatch_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    size_t n = (size_t)c->n * (size_t)c->s[0];
    op_fill_bf16(p[0], n, 1, rng);
    op_fill_e4m3(p[1], n, rng);
    op_fill_e8m0(p[2], n / KN_ACT_GROUP, 110, 120, rng);
    for (int r = 0; r < c->n; r++) {
        int32_t first = (int32_t)(op_rand(rng) % (uint64_t)c->s[4]);
        for (int k = 0; k < c->s[1]; k++)
            ((int32_t *)p[3])[r * c->s[1] + k] = (first + k) % c->s[4];
    }
    op_fill_f32(p[4], (size_t)c->n * (size_t)c->s[1], 1, rng);
}

static int dispatch_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[],
                        int32_t n)
{
    return ops->moe_dispatch(ctx, &(struct kn_moe_dispatch_args){.n_tok = n,
                                                                 .d = c->s[0],
                                                                 .top_k = c->s[1],
                                                                 .first = c->s[2],
                                                                 .n_local = c->s[3],
                                                                 .x = {p[0], p[1], p[2]},
                                                                 .id = p[3],
                                                                 .weight = p[4],
                                                                 .offset = p[5],
                                                                 .place = p[6],
                                                                 .gx = {p[7], p[8], p[9]},
                                                                 .gw = p[10]});
}

/* Every pair of a local expert has a place among its expert's rows, in row order, with its activations. */
static double dispatch_formula(const struct op_case *c, void *const p[], int32_t n)
{
    const int32_t *offset = p[5], *place = p[6], *id = p[3];
    int32_t n_here = 0;
    for (int e = 0; e < c->s[3]; e++) {
        int32_t last = -1;
        for (int i = 0; i < n * c->s[1]; i++) {
            if (id[i] != c->s[2] + e)
                continue;
            if (place[i] < offset[e] || place[i] >= offset[e + 1] || place[i] <= last)
                return INFINITY;
            last = place[i];
            n_here++;
        }
    }
    return offset[0] == 0 && offset[c->s[3]] == n_here ? 0 : INFINITY;
}

const struct op_def op_def_moe_dispatch = {
    .op = KN_OP_moe_dispatch, .cases = dispatch_cases, .n_case = sizeof dispatch_cases / sizeof dispatch_cases[0],
    .no_rows = true, .bufs = dispatch_bufs, .fill = dispatch_fill, .run = dispatch_run, .formula = dispatch_formula,
    .formula_tol = 0,
};

/* s: d, top_k. The rows of ey are by pair here: place is the identity plus the row's own offset. */
static const struct op_case combine_cases[] = {
    {"no rows", 0, {128, 2}, 0, "the order of the sum is given"},
    {"1 row", 1, {128, 2}, 0, "the order of the sum is given"},
    {"odd", 21, {130, 6}, 0, "the order of the sum is given"},
    {"large", 100, {512, 3}, 0, "the order of the sum is given"},
};

static int combine_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    size_t d = (size_t)c->s[0], k = (size_t)c->s[1];
    b[0] = (struct op_buf){"id", OP_IN, OP_I32, 4 * k, 0, 0};
    b[1] = (struct op_buf){"slot", OP_IN, OP_I32, 4 * k, 0, 0};
    b[2] = (struct op_buf){"y", OP_IN, OP_BF16, 2 * d * k, 0, 0};
    b[3] = (struct op_buf){"shared", OP_IN, OP_BF16, 2 * d, 0, 0};
    b[4] = (struct op_buf){"out", OP_OUT, OP_BF16, 2 * d, 0, 0};
    return 5;
}

static void combine_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    for (int r = 0; r < c->n; r++)
        for (int k = 0; k < c->s[1]; k++) {
            ((int32_t *)p[0])[r * c->s[1] + k] = (r * 7 + k * 5) % 37;
            ((int32_t *)p[1])[r * c->s[1] + k] = (k + r) % c->s[1];
        }
    op_fill_bf16(p[2], (size_t)c->n * (size_t)c->s[0] * (size_t)c->s[1], 1, rng);
    op_fill_bf16(p[3], (size_t)c->n * (size_t)c->s[0], 1, rng);
}

static int combine_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[],
                       int32_t n)
{
    int32_t place[128 * 8];
    for (int i = 0; i < n * c->s[1]; i++)
        place[i] = i / c->s[1] * c->s[1] + ((const int32_t *)p[1])[i];
    return ops->moe_combine(ctx, &(struct kn_moe_combine_args){.n_tok = n, .d = c->s[0], .top_k = c->s[1], .id = p[0],
                                                               .place = place, .y = p[2], .shared = p[3], .out = p[4]});
}

static double combine_formula(const struct op_case *c, void *const p[], int32_t n)
{
    double diff2 = 0, want2 = 0;
    for (int64_t r = 0; r < n; r++)
        for (int64_t i = 0; i < c->s[0]; i++) {
            double sum = kn_bf16_f32(((const uint16_t *)p[3])[r * c->s[0] + i]);
            double got = kn_bf16_f32(((const uint16_t *)p[4])[r * c->s[0] + i]);
            for (int64_t k = 0; k < c->s[1]; k++)
                sum += kn_bf16_f32(((const uint16_t *)p[2])[(r * c->s[1] + k) * c->s[0] + i]);
            diff2 += (got - sum) * (got - sum);
            want2 += sum * sum;
        }
    return sqrt(diff2 / want2);
}

const struct op_def op_def_moe_combine = {
    .op = KN_OP_moe_combine, .cases = combine_cases, .n_case = sizeof combine_cases / sizeof combine_cases[0],
    .bufs = combine_bufs, .fill = combine_fill, .run = combine_run, .formula = combine_formula, .formula_tol = 4e-3,
};
