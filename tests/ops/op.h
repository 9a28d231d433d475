/* tests/ops/op.h - what the case files of tests/ops say about an op, and what the runner does with it.
 * Owns:     nothing; cases are static data.
 * Thread:   the test's.
 * Limits:   OP_BUFS_MAX buffers an op; n rows as the case says.
 * Source:   docs/STYLE.md 5.6 and 5.8.
 *
 * A case file describes the buffers of an op (whose row r is row_bytes long, or that have a fixed size), how to fill
 * the inputs, and how to call it with n rows. From that the runner proves, on every back end that is built in:
 *   - nothing is written outside the outputs, no input is changed, every output byte is written, twice the same bits
 *   - any subset of the rows, in other company and order, gives the same bits for each row; so do the first 1, 2, 3, ..
 *     rows of a case of up to 70, and 1, 2 and 3 threads
 *   - `ref` agrees with the formula of the case file where it has one; other back ends agree with `ref` within the
 *     bound of the case, for the reason that stands there. NaN and infinity are compared as masks first.
 */
#ifndef TESTS_OPS_OP_H
#define TESTS_OPS_OP_H

#include "kernels/include/ops.h"

enum { OP_BUFS_MAX = 16, OP_SHAPE_MAX = 8 };

/* How two values of an output are compared, and how an input is filled by default. */
enum op_kind { OP_F32, OP_BF16, OP_BYTES, OP_I32 };
enum op_role { OP_IN, OP_OUT, OP_INOUT };

struct op_buf {
    const char *name;
    enum op_role role;
    enum op_kind kind;
    size_t row_bytes;   /* 0: not by row */
    size_t fixed_bytes; /* if row_bytes is 0 */
    size_t page_slack;  /* more bytes at the end: rows of a page lie in planes (flatten) */
};

/* One case: rows, shape numbers (their meaning is the op's), bound and its reason. */
struct op_case {
    const char *label;
    int32_t n;
    int32_t s[OP_SHAPE_MAX];
    double tol;      /* |got-want|_2 / |want|_2 of each float output against ref; integers and bytes are equal */
    const char *why;
};

struct op_def {
    enum kn_op op;
    const struct op_case *cases;
    size_t n_case;
    bool keeps_order; /* rows are sorted by something: subsets keep their order */
    bool no_rows;     /* an output row depends on the others by contract */
    /* Describe the buffers. Returns their number. */
    int (*bufs)(const struct op_case *c, struct op_buf b[OP_BUFS_MAX]);
    /* Fill the inputs (all n rows), p as described by bufs. */
    void (*fill)(const struct op_case *c, void *const p[], uint64_t *rng);
    /* Call the op with n rows. */
    int (*run)(const struct op_case *c, const struct kn_ops *ops, struct kn_ctx *ctx, void *const p[], int32_t n);
    /* Rows of a paged output, one behind the other, in row_bytes each; NULL: they lie so. */
    void (*flatten)(const struct op_case *c, int buf, const uint8_t *page, int32_t n, uint8_t *rows);
    /* Relative error of output `buf` of ref against an independent formula; NULL: there is none. tol 1e-6 for f32,
     * 3e-3 for bf16 outputs. */
    double (*formula)(const struct op_case *c, void *const p[], int32_t n);
    double formula_tol;
};

#define OP_DEF_LIST(X)                                                                              \
    X(rope_angles) X(embed) X(hc_pre) X(act_quant) X(rmsnorm) X(linear) X(linear_group) X(q_norm_rope) X(kv_norm_rope) \
    X(index_query) X(hc_post) X(moe_route) X(moe_dispatch) X(moe_up) X(moe_down) X(moe_combine) X(hc_head)

/* Ops over sequences (compress, index_topk, attend, window_store) are run by test_sequences.c. */
#define X(name) extern const struct op_def op_def_##name;
OP_DEF_LIST(X)
#undef X

/* Limits that cover every case of every op. */
struct kn_limits op_limits(void);

/* ---- random inputs (rand.c) ---- */

uint64_t op_rand(uint64_t *rng);
float op_uniform(uint64_t *rng); /* -1..1 */
float op_normal(uint64_t *rng);
void op_fill_f32(float *x, size_t n, float scale, uint64_t *rng);
void op_fill_bf16(uint16_t *x, size_t n, float scale, uint64_t *rng);
void op_fill_e4m3(uint8_t *x, size_t n, uint64_t *rng);                     /* all codes but NaN */
void op_fill_e8m0(uint8_t *x, size_t n, int lo, int hi, uint64_t *rng);     /* codes lo..hi */

/* A matrix of dtype in two buffers: bytes of data and of scale, filled; and as args. */
size_t op_mat_bytes(enum kn_dtype dtype, int64_t n_out, int64_t n_in);
size_t op_scale_bytes(enum kn_dtype dtype, int64_t n_out, int64_t n_in);
void op_fill_mat(enum kn_dtype dtype, int64_t n_out, int64_t n_in, void *data, uint8_t *scale, uint64_t *rng);
struct kn_mat op_mat(enum kn_dtype dtype, int32_t n_out, int32_t n_in, const void *data, const uint8_t *scale);

/* Weight element as f64: an independent decoding, bit by bit from the formats' definitions. */
double op_mat_at(const struct kn_mat *m, int64_t o, int64_t i);
double op_e4m3(uint8_t code);

#endif
