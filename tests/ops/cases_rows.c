/* The ops that change one row at a time: embedding, angles, norms, quantization, hyper-connections, head. */
#include "tests/ops/op.h"

#include <math.h>

#define N_CASES(c) (sizeof(c) / sizeof(c)[0])

static const char why_bf16[] = "f32 or f64 inside, one BF16 rounding that flips where a value meets a tie";

/* ---- rope_angles: s: n_freq ---- */

static const struct op_case angle_cases[] = {
    {"no rows", 0, {32}, 1e-7, "within one f32 step"},
    {"1 row", 1, {32}, 1e-7, "within one f32 step"},
    {"odd", 33, {7}, 1e-7, "within one f32 step"},
};

static int angle_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    b[0] = (struct op_buf){"pos", OP_IN, OP_I32, 4, 0, 0};
    b[1] = (struct op_buf){"freq", OP_IN, OP_F32, 0, 4 * (size_t)c->s[0], 0};
    b[2] = (struct op_buf){"cs", OP_OUT, OP_F32, 8 * (size_t)c->s[0], 0, 0};
    return 3;
}

static void angle_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    for (int i = 0; i < c->n; i++)
        ((int32_t *)p[0])[i] = (int32_t)(op_rand(rng) & 0xfffff);
    for (int i = 0; i < c->s[0]; i++)
        ((float *)p[1])[i] = powf(10000, -(float)i / (float)c->s[0]);
}

static int angle_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    return ops->rope_angles(ctx, &(struct kn_rope_angles_args){n, c->s[0], p[0], p[1], p[2]});
}

static double angle_formula(const struct op_case *c, void *const p[], int32_t n)
{
    double worst = 0;
    for (int i = 0; i < n * c->s[0]; i++) {
        float angle = (float)((const int32_t *)p[0])[i / c->s[0]] * ((const float *)p[1])[i % c->s[0]];
        double d0 = fabs(((const float *)p[2])[2 * i] - cos(angle)),
               d1 = fabs(((const float *)p[2])[2 * i + 1] - sin(angle));
        worst = fmax(worst, fmax(d0, d1));
    }
    return worst;
}

const struct op_def op_def_rope_angles = {
    .op = KN_OP_rope_angles, .cases = angle_cases, .n_case = N_CASES(angle_cases), .bufs = angle_bufs,
    .fill = angle_fill, .run = angle_run, .formula = angle_formula, .formula_tol = 1.2e-7,
};

/* ---- embed: s: hc, d ---- */

static const struct op_case embed_cases[] = {
    {"no rows", 0, {4, 64}, 0, "copies"}, {"1 row", 1, {1, 1}, 0, "copies"}, {"odd", 19, {3, 77}, 0, "copies"},
};

static int embed_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    b[0] = (struct op_buf){"tok", OP_IN, OP_I32, 4, 0, 0};
    b[1] = (struct op_buf){"table", OP_IN, OP_BF16, 0, 50 * 2 * (size_t)c->s[1], 0};
    b[2] = (struct op_buf){"X", OP_OUT, OP_BF16, 2 * (size_t)c->s[0] * (size_t)c->s[1], 0, 0};
    return 3;
}

static void embed_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    for (int i = 0; i < c->n; i++)
        ((int32_t *)p[0])[i] = (int32_t)(op_rand(rng) % 50);
    op_fill_bf16(p[1], 50 * (size_t)c->s[1], 1, rng);
}

static int embed_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    return ops->embed(ctx, &(struct kn_embed_args){n, c->s[0], c->s[1], 50, p[0], p[1], p[2]});
}

static double embed_formula(const struct op_case *c, void *const p[], int32_t n)
{
    int64_t d = c->s[1];
    for (int64_t i = 0; i < n * c->s[0] * d; i++)
        if (((const uint16_t *)p[2])[i] !=
            ((const uint16_t *)p[1])[((const int32_t *)p[0])[i / d / c->s[0]] * d + i % d])
            return INFINITY;
    return 0;
}

const struct op_def op_def_embed = {
    .op = KN_OP_embed, .cases = embed_cases, .n_case = N_CASES(embed_cases), .bufs = embed_bufs, .fill = embed_fill,
    .run = embed_run, .formula = embed_formula, .formula_tol = 0,
};

/* ---- act_quant: s: k, special (0: normal; 1: NaN, infinity, zeros, tiny and huge values) ---- */

static const struct op_case quant_cases[] = {
    {"no rows", 0, {128}, 0, "every rounding is given"},  {"1 row", 1, {128}, 0, "every rounding is given"},
    {"odd", 13, {384}, 0, "every rounding is given"},     {"large", 130, {1024}, 0, "every rounding is given"},
    {"special", 40, {256, 1}, 0, "every rounding is given"},
};

static int quant_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    b[0] = (struct op_buf){"x", OP_IN, OP_BF16, 2 * (size_t)c->s[0], 0, 0};
    b[1] = (struct op_buf){"q", OP_OUT, OP_BYTES, (size_t)c->s[0], 0, 0};
    b[2] = (struct op_buf){"s", OP_OUT, OP_BYTES, (size_t)c->s[0] / KN_ACT_GROUP, 0, 0};
    return 3;
}

static void quant_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    static const uint16_t special[] = {0x7fc0, 0x7f80, 0xff80, 0, 0x8000, 0x0001, 0x7f7f, 0x0080, 0x3b00};
    uint16_t *x = p[0];
    for (int64_t r = 0; r < c->n; r++) {
        float scale = ldexpf(1, (int)(op_rand(rng) % 40) - 20);
        op_fill_bf16(x + r * c->s[0], (size_t)c->s[0], scale, rng);
        for (int i = 0; c->s[1] && i < 3; i++) /* one kind of special value a row; a row of zeros among them */
            x[r * c->s[0] + (int64_t)(op_rand(rng) % (uint64_t)c->s[0])] = special[r % 9];
        for (int i = 0; c->s[1] && r % 9 == 3 && i < c->s[0]; i++)
            x[r * c->s[0] + i] = i % 2 ? 0x8000 : 0;
    }
}

static int quant_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    return ops->act_quant(ctx, &(struct kn_act_quant_args){n, c->s[0], {p[0], p[1], p[2]}});
}

/* Each decoded value is within half a step of its binade (1/16 relative, or half the subnormal step) of x. */
static double quant_formula(const struct op_case *c, void *const p[], int32_t n)
{
    for (int64_t i = 0; !c->s[1] && i < (int64_t)n * c->s[0]; i++) {
        double x = kn_bf16_f32(((const uint16_t *)p[0])[i]), scale = ldexp(1, ((const uint8_t *)p[2])[i / 128] - 127);
        double got = op_e4m3(((const uint8_t *)p[1])[i]) * scale;
        if (!(fabs(got - x) <= fmax(fabs(x) / 16, scale * 0x1p-10)))
            return INFINITY;
    }
    return 0;
}

const struct op_def op_def_act_quant = {
    .op = KN_OP_act_quant, .cases = quant_cases, .n_case = N_CASES(quant_cases), .bufs = quant_bufs, .fill = quant_fill,
    .run = quant_run, .formula = quant_formula, .formula_tol = 0,
};

/* ---- rmsnorm: s: k, without codes ---- */

static const struct op_case norm_cases[] = {
    {"no rows", 0, {128}, 1e-3, why_bf16}, {"1 row", 1, {128}, 1e-3, why_bf16}, {"odd", 9, {77, 1}, 1e-3, why_bf16},
    {"large", 70, {1024}, 1e-3, why_bf16}, {"1 value", 3, {1, 1}, 1e-3, why_bf16},
};

static int norm_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    b[0] = (struct op_buf){"x", OP_IN, OP_BF16, 2 * (size_t)c->s[0], 0, 0};
    b[1] = (struct op_buf){"weight", OP_IN, OP_F32, 0, 4 * (size_t)c->s[0], 0};
    b[2] = (struct op_buf){"y", OP_OUT, OP_BF16, 2 * (size_t)c->s[0], 0, 0};
    b[3] = (struct op_buf){"y.q", OP_OUT, OP_BYTES, (size_t)c->s[0], 0, 0};
    b[4] = (struct op_buf){"y.s", OP_OUT, OP_BYTES, (size_t)c->s[0] / KN_ACT_GROUP, 0, 0};
    return c->s[1] ? 3 : 5;
}

static void norm_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    op_fill_bf16(p[0], (size_t)c->n * (size_t)c->s[0], 2, rng);
    op_fill_f32(p[1], (size_t)c->s[0], 1, rng);
}

static int norm_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    struct kn_act y = {p[2], c->s[1] ? NULL : p[3], c->s[1] ? NULL : p[4]};
    return ops->rmsnorm(ctx, &(struct kn_rmsnorm_args){n, c->s[0], 1e-6f, p[0], p[1], y});
}

static double norm_formula(const struct op_case *c, void *const p[], int32_t n)
{
    double diff2 = 0, want2 = 0;
    for (int64_t r = 0; r < n; r++) {
        const uint16_t *x = (const uint16_t *)p[0] + r * c->s[0];
        double sum = 0;
        for (int i = 0; i < c->s[0]; i++)
            sum += (double)kn_bf16_f32(x[i]) * kn_bf16_f32(x[i]);
        for (int i = 0; i < c->s[0]; i++) {
            double want = kn_bf16_f32(x[i]) / sqrt(sum / c->s[0] + 1e-6) * ((const float *)p[1])[i];
            double got = kn_bf16_f32(((const uint16_t *)p[2])[r * c->s[0] + i]);
            diff2 += (got - want) * (got - want);
            want2 += want * want;
        }
    }
    return sqrt(diff2 / want2);
}

const struct op_def op_def_rmsnorm = {
    .op = KN_OP_rmsnorm, .cases = norm_cases, .n_case = N_CASES(norm_cases), .bufs = norm_bufs, .fill = norm_fill,
    .run = norm_run, .formula = norm_formula, .formula_tol = 4e-3,
};

/* ---- q_norm_rope: s: H, D, R. A head that turns by all angles keeps its length up to BF16 (1 after the norm). ---- */

static const char why_q[] =
    "the mean of D rounded squares is rounded to BF16: a sum in f32 may flip it, a factor of 2^-8 for a head";
static const struct op_case q_cases[] = {
    {"no rows", 0, {2, 64, 16}, 4e-3, why_q},
    {"1 row", 1, {1, 64, 64}, 4e-3, why_q},
    {"odd", 5, {3, 96, 32}, 4e-3, why_q},
    {"real head", 17, {9, 512, 64}, 4e-3, why_q},
};

static int q_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    b[0] = (struct op_buf){"cs", OP_IN, OP_F32, 4 * (size_t)c->s[2], 0, 0};
    b[1] = (struct op_buf){"q", OP_INOUT, OP_BF16, 2 * (size_t)c->s[0] * (size_t)c->s[1], 0, 0};
    return 2;
}

static void fill_angles(float *cs, int64_t n, uint64_t *rng)
{
    for (int64_t i = 0; i < n; i++) {
        float angle = 3 * op_uniform(rng);
        cs[2 * i] = cosf(angle);
        cs[2 * i + 1] = sinf(angle);
    }
}

static void q_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    fill_angles(p[0], (int64_t)c->n * c->s[2] / 2, rng);
    op_fill_bf16(p[1], (size_t)c->n * (size_t)c->s[0] * (size_t)c->s[1], 3, rng);
}

static int q_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    return ops->q_norm_rope(ctx, &(struct kn_q_norm_rope_args){n, c->s[0], c->s[1], c->s[2], 1e-6f, p[0], p[1]});
}

const struct op_def op_def_q_norm_rope = {
    .op = KN_OP_q_norm_rope, .cases = q_cases, .n_case = N_CASES(q_cases), .bufs = q_bufs, .fill = q_fill, .run = q_run,
};

/* ---- kv_norm_rope: s: D, R; rows of the page as decoded BF16 values ---- */

static const char why_kv[] = "codes of E4M3: a flipped BF16 rounding moves a value by one step of 2^-4, in few values";
static const struct op_case kv_cases[] = {
    {"no rows", 0, {128, 64}, 1e-2, why_kv}, {"1 row", 1, {128, 64}, 1e-2, why_kv},
    {"short group", 6, {96, 64}, 1e-2, why_kv}, {"real", 33, {512, 64}, 1e-2, why_kv},
};

static struct kn_kv_shape kv_of(const struct op_case *c)
{
    return (struct kn_kv_shape){c->s[0], c->s[1]};
}

static int kv_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    size_t d = (size_t)c->s[0], rope = (size_t)c->s[1];
    b[0] = (struct op_buf){"x", OP_IN, OP_BF16, 2 * d, 0, 0};
    b[1] = (struct op_buf){"weight", OP_IN, OP_F32, 0, 4 * d, 0};
    b[2] = (struct op_buf){"cs", OP_IN, OP_F32, 4 * rope, 0, 0};
    b[3] = (struct op_buf){"page", OP_OUT, OP_BF16, 2 * d, 0, 64};
    return 4;
}

static void kv_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    op_fill_bf16(p[0], (size_t)c->n * (size_t)c->s[0], 2, rng);
    op_fill_f32(p[1], (size_t)c->s[0], 1, rng);
    fill_angles(p[2], (int64_t)c->n * c->s[1] / 2, rng);
}

static int kv_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    return ops->kv_norm_rope(ctx, &(struct kn_kv_norm_rope_args){n, kv_of(c), 1e-6f, p[0], p[1], p[2], p[3]});
}

static void kv_flatten(const struct op_case *c, int buf, const uint8_t *page, int32_t n, uint8_t *rows)
{
    double x[512];
    (void)buf;
    for (int32_t r = 0; r < n; r++) {
        kn_kv_get(page, kv_of(c), n, r, x);
        for (int i = 0; i < c->s[0]; i++)
            ((uint16_t *)(void *)rows)[r * c->s[0] + i] = kn_f32_bf16((float)x[i]);
    }
}

const struct op_def op_def_kv_norm_rope = {
    .op = KN_OP_kv_norm_rope, .cases = kv_cases, .n_case = N_CASES(kv_cases), .bufs = kv_bufs, .fill = kv_fill,
    .run = kv_run, .flatten = kv_flatten,
};

/* ---- index_query: s: Hi, Di, R ---- */

static const char why_iq[] = "codes of E2M1: a flipped BF16 rounding moves a value by one step, in few values";
static const struct op_case iq_cases[] = {
    {"no rows", 0, {2, 32, 16}, 3e-2, why_iq}, {"1 row", 1, {1, 32, 32}, 3e-2, why_iq},
    {"odd", 5, {3, 64, 32}, 3e-2, why_iq},     {"real", 19, {8, 128, 64}, 3e-2, why_iq},
};

static int iq_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    size_t d = (size_t)c->s[0] * (size_t)c->s[1];
    b[0] = (struct op_buf){"q", OP_IN, OP_BF16, 2 * d, 0, 0};
    b[1] = (struct op_buf){"cs", OP_IN, OP_F32, 4 * (size_t)c->s[2], 0, 0};
    b[2] = (struct op_buf){"page", OP_OUT, OP_BF16, 2 * d, 0, 64};
    return 3;
}

static void iq_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    op_fill_bf16(p[0], (size_t)c->n * (size_t)c->s[0] * (size_t)c->s[1], 2, rng);
    fill_angles(p[1], (int64_t)c->n * c->s[2] / 2, rng);
}

static int iq_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    return ops->index_query(ctx, &(struct kn_index_query_args){n, c->s[0], c->s[1], c->s[2], p[0], p[1], p[2]});
}

static void iq_flatten(const struct op_case *c, int buf, const uint8_t *page, int32_t n, uint8_t *rows)
{
    double x[128];
    (void)buf;
    for (int32_t r = 0; r < n * c->s[0]; r++) {
        kn_index_get(page, c->s[1], (int64_t)n * c->s[0], r, x);
        for (int i = 0; i < c->s[1]; i++)
            ((uint16_t *)(void *)rows)[r * c->s[1] + i] = kn_f32_bf16((float)x[i]);
    }
}

const struct op_def op_def_index_query = {
    .op = KN_OP_index_query, .cases = iq_cases, .n_case = N_CASES(iq_cases), .bufs = iq_bufs, .fill = iq_fill,
    .run = iq_run, .flatten = iq_flatten,
};

/* ---- hc_pre, hc_post, hc_head: s: hc, d ---- */

static const char why_hc[] = "f32 sums over hc*d against f64: 1e-6 in the mixing weights; BF16 flips in y";
static const struct op_case pre_cases[] = {
    {"no rows", 0, {4, 128}, 1e-3, why_hc}, {"1 row", 1, {4, 128}, 1e-3, why_hc}, {"odd", 7, {3, 384}, 1e-3, why_hc},
    {"one stream", 3, {1, 128}, 1e-3, why_hc}, {"large", 67, {4, 1024}, 1e-3, why_hc},
};

static int pre_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    size_t hc = (size_t)c->s[0], d = (size_t)c->s[1], mix = (2 + hc) * hc;
    b[0] = (struct op_buf){"X", OP_IN, OP_BF16, 2 * hc * d, 0, 0};
    b[1] = (struct op_buf){"fn", OP_IN, OP_F32, 0, 4 * mix * hc * d, 0};
    b[2] = (struct op_buf){"base", OP_IN, OP_F32, 0, 4 * mix, 0};
    b[3] = (struct op_buf){"scale", OP_IN, OP_F32, 0, 12, 0};
    b[4] = (struct op_buf){"norm", OP_IN, OP_F32, 0, 4 * d, 0};
    b[5] = (struct op_buf){"pre", OP_OUT, OP_F32, 4 * hc, 0, 0};
    b[6] = (struct op_buf){"post", OP_OUT, OP_F32, 4 * hc, 0, 0};
    b[7] = (struct op_buf){"comb", OP_OUT, OP_F32, 4 * hc * hc, 0, 0};
    b[8] = (struct op_buf){"y", OP_OUT, OP_BF16, 2 * d, 0, 0};
    b[9] = (struct op_buf){"y.q", OP_OUT, OP_BYTES, d, 0, 0};
    b[10] = (struct op_buf){"y.s", OP_OUT, OP_BYTES, d / KN_ACT_GROUP, 0, 0};
    return 11;
}

static void pre_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    size_t hc = (size_t)c->s[0], d = (size_t)c->s[1], mix = (2 + hc) * hc;
    op_fill_bf16(p[0], (size_t)c->n * hc * d, 2, rng);
    op_fill_f32(p[1], mix * hc * d, 1 / sqrtf((float)(hc * d)), rng);
    op_fill_f32(p[2], mix, 0.5f, rng);
    op_fill_f32(p[3], 3, 0.8f, rng);
    op_fill_f32(p[4], d, 1, rng);
}

static int pre_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    int32_t hc = c->s[0], d = c->s[1];
    return ops->hc_pre(ctx, &(struct kn_hc_pre_args){
                                .n_tok = n, .hc = hc, .d = d, .sinkhorn_iters = 20, .hc_eps = 1e-6f, .rms_eps = 1e-6f,
                                .X = p[0], .fn = op_mat(KN_F32, (2 + hc) * hc, hc * d, p[1], NULL), .base = p[2],
                                .scale = p[3], .norm = p[4], .pre = p[5], .post = p[6], .comb = p[7],
                                .y = {p[8], p[9], p[10]}});
}

/* After Sinkhorn the rows and columns of C sum to 1; pre and post are sigmoids. */
static double pre_formula(const struct op_case *c, void *const p[], int32_t n)
{
    int hc = c->s[0];
    double worst = 0;
    for (int r = 0; r < n; r++) {
        const float *comb = (const float *)p[7] + r * hc * hc;
        for (int k = 0; k < hc; k++) {
            double col = 0, row = 0, pre = ((const float *)p[5])[r * hc + k], post = ((const float *)p[6])[r * hc + k];
            for (int j = 0; j < hc; j++) {
                col += comb[j * hc + k];
                row += comb[k * hc + j];
            }
            worst = fmax(worst, fmax(fabs(col - 1), fabs(row - 1)));
            if (!(pre > 0 && pre < 1.1 && post > 0 && post < 2.1))
                return INFINITY;
        }
    }
    return worst;
}

const struct op_def op_def_hc_pre = {
    .op = KN_OP_hc_pre, .cases = pre_cases, .n_case = N_CASES(pre_cases), .bufs = pre_bufs, .fill = pre_fill,
    .run = pre_run, .formula = pre_formula, .formula_tol = 1e-2,
};

static const struct op_case post_cases[] = {
    {"no rows", 0, {4, 128}, 1e-3, why_bf16}, {"1 row", 1, {4, 128}, 1e-3, why_bf16},
    {"odd", 7, {3, 77}, 1e-3, why_bf16},      {"one stream", 3, {1, 5}, 1e-3, why_bf16},
    {"large", 67, {4, 1024}, 1e-3, why_bf16},
};

static int post_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    size_t hc = (size_t)c->s[0], d = (size_t)c->s[1];
    b[0] = (struct op_buf){"y", OP_IN, OP_BF16, 2 * d, 0, 0};
    b[1] = (struct op_buf){"post", OP_IN, OP_F32, 4 * hc, 0, 0};
    b[2] = (struct op_buf){"comb", OP_IN, OP_F32, 4 * hc * hc, 0, 0};
    b[3] = (struct op_buf){"X", OP_INOUT, OP_BF16, 2 * hc * d, 0, 0};
    return 4;
}

static void post_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    size_t n = (size_t)c->n, hc = (size_t)c->s[0], d = (size_t)c->s[1];
    op_fill_bf16(p[0], n * d, 1, rng);
    op_fill_f32(p[1], n * hc, 1, rng);
    op_fill_f32(p[2], n * hc * hc, 1, rng);
    op_fill_bf16(p[3], n * hc * d, 1, rng);
}

static int post_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    return ops->hc_post(ctx, &(struct kn_hc_post_args){n, c->s[0], c->s[1], p[0], p[1], p[2], p[3]});
}

const struct op_def op_def_hc_post = {
    .op = KN_OP_hc_post, .cases = post_cases, .n_case = N_CASES(post_cases), .bufs = post_bufs, .fill = post_fill,
    .run = post_run,
};

static int head_bufs(const struct op_case *c, struct op_buf b[OP_BUFS_MAX])
{
    size_t hc = (size_t)c->s[0], d = (size_t)c->s[1];
    b[0] = (struct op_buf){"row", OP_IN, OP_I32, 4, 0, 0};
    b[1] = (struct op_buf){"X", OP_IN, OP_BF16, 0, 2 * 70 * hc * d, 0};
    b[2] = (struct op_buf){"fn", OP_IN, OP_F32, 0, 4 * hc * hc * d, 0};
    b[3] = (struct op_buf){"base", OP_IN, OP_F32, 0, 4 * hc, 0};
    b[4] = (struct op_buf){"scale", OP_IN, OP_F32, 0, 4, 0};
    b[5] = (struct op_buf){"norm", OP_IN, OP_F32, 0, 4 * d, 0};
    b[6] = (struct op_buf){"y", OP_OUT, OP_BF16, 2 * d, 0, 0};
    return 7;
}

static void head_fill(const struct op_case *c, void *const p[], uint64_t *rng)
{
    size_t hc = (size_t)c->s[0], d = (size_t)c->s[1];
    for (int i = 0; i < c->n; i++)
        ((int32_t *)p[0])[i] = (int32_t)(op_rand(rng) % 70);
    op_fill_bf16(p[1], 70 * hc * d, 2, rng);
    op_fill_f32(p[2], hc * hc * d, 1 / sqrtf((float)(hc * d)), rng);
    op_fill_f32(p[3], hc, 0.5f, rng);
    op_fill_f32(p[4], 1, 0.8f, rng);
    op_fill_f32(p[5], d, 1, rng);
}

static int head_run(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n)
{
    int32_t hc = c->s[0], d = c->s[1];
    return ops->hc_head(ctx, &(struct kn_hc_head_args){.n = n,
                                                       .hc = hc,
                                                       .d = d,
                                                       .hc_eps = 1e-6f,
                                                       .rms_eps = 1e-6f,
                                                       .X = p[1],
                                                       .row = p[0],
                                                       .fn = op_mat(KN_F32, hc, hc * d, p[2], NULL),
                                                       .base = p[3],
                                                       .scale = p[4],
                                                       .norm = p[5],
                                                       .y = p[6]});
}

const struct op_def op_def_hc_head = {
    .op = KN_OP_hc_head, .cases = pre_cases, .n_case = N_CASES(pre_cases), .bufs = head_bufs, .fill = head_fill,
    .run = head_run,
};
