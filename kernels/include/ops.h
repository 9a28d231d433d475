/* kernels/include/ops.h - the one list of operations that the layer loop is made of, and the seam to a back end.
 * Owns:     nothing: plain structs and tables.
 * Lifetime: tables are static; a kn_ctx lives from device open to device close.
 * Thread:   a ctx belongs to one thread (the engine's, or a rank's).
 * Limits:   the KN_*_MAX below and those of worker/model/config.h.
 * Source:   spec/model.md sections 3-8.
 *
 * Rules for every op (docs/STYLE.md 5.6)
 *   - All pointers inside args structs are DEVICE memory, shapes and scalars are plain host values.
 *   - Queued on ctx->stream in call order; never allocates, never synchronises, never reads the environment; legal
 *     in graph capture. Scratch comes from ctx->workspace, whose contents do not survive an op.
 *   - Returns 0, ERR_ARG (a shape outside its limits; nothing was done) or ERR_GPU (launch refused).
 *   - n_tok = 0 (or n = 0) is legal and does nothing.
 *   - Inputs and outputs do not overlap, except where "in place" is said. Not collective.
 *   - Exact: an output row depends on its own inputs alone, in one order per output element that is fixed by
 *     shape constants: never on the other rows, on n_tok, or on how a sequence is cut into steps.
 *   - Rounding points are the spec's; BF16 is rounded to nearest even. Sums are f64 in `ref`, f32 or better elsewhere.
 *
 * Notation: n = n_tok rows of the step, d = hidden size, hc = residual streams, H heads of D = dim values of which the
 * last R = rope are rotary. [a, b] is row-major. bf16 is uint16_t, e4m3 and e8m0 are uint8_t.
 */
#ifndef KERNELS_INCLUDE_OPS_H
#define KERNELS_INCLUDE_OPS_H

#include "common/base/err.h"
#include "kernels/include/page.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    KN_BLOCK_TOK = 128, /* tokens of one KV block */
    KN_ACT_GROUP = 128, /* inputs that share one activation scale */
    KN_ATTN_GROUP = 64, /* list slots between two updates of the running maximum, spec section 5.4 */
    KN_INDEX_CHUNK = 16384, /* indexer scores of a row in memory at a time: scratch does not grow with context */
    KN_HC_MAX = 16,
    KN_TOPK_EXPERT_MAX = 64,
};

/* In the order of the way through a layer. */
#define KN_OP_LIST(X)                                                                               \
    X(rope_angles) X(embed)                                                                         \
    X(hc_pre) X(act_quant) X(rmsnorm) X(linear) X(linear_group)                                     \
    X(q_norm_rope) X(kv_norm_rope) X(compress) X(index_query) X(index_topk) X(attend) X(window_store) \
    X(hc_post)                                                                                      \
    X(moe_route) X(moe_dispatch) X(moe_up) X(moe_down) X(moe_combine)                               \
    X(hc_head)

enum kn_op {
#define X(name) KN_OP_##name,
    KN_OP_LIST(X)
#undef X
        KN_OP_N
};

/* ------------------------------------------------------------------------------------------------------------
 * What ops work on
 */

enum kn_dtype { KN_BF16, KN_F32, KN_FP8, KN_FP4, KN_I32 };

/* A weight matrix [n_out, n_in] as it lies in the checkpoint:
 *   KN_BF16 u16, KN_F32 float               scale NULL
 *   KN_FP8  e4m3                            scale e8m0 [ceil(n_out/128), ceil(n_in/128)]
 *   KN_FP4  2 x e2m1 a byte [n_out, n_in/2], low nibble first; scale e8m0 [n_out, n_in/32]
 * A back end may hold data and scale in another order (map_weights); only its own ops read them. */
struct kn_mat {
    enum kn_dtype dtype;
    int32_t n_out, n_in;
    const void *data;
    const uint8_t *scale;
};

/* Activations [n, k] in the two forms that linears read: BF16, and E4M3 with one E8M0 scale per KN_ACT_GROUP inputs
 * (spec section 3). A BF16 or F32 matrix reads x, an FP8 or FP4 matrix reads q and s. As an output, both forms are
 * written; a NULL member is left out. */
struct kn_act {
    uint16_t *x; /* bf16 [n, k] */
    uint8_t *q;  /* e4m3 [n, k] */
    uint8_t *s;  /* e8m0 [n, k/128] */
};

/* The rows of one step: n_tok tokens of n_seq sequences; the rows of a sequence stand together, in position order. */
struct kn_batch {
    int32_t n_tok, n_seq;
    int32_t pos_max;          /* host value: the largest of row_pos, for launch sizes */
    const int32_t *tok;       /* [n_tok] token id */
    const int32_t *row_seq;   /* [n_tok] index of the row's sequence in this batch */
    const int32_t *row_pos;   /* [n_tok] position of the row in its sequence */
    const int32_t *seq_slot;  /* [n_seq] state slot */
    const int32_t *seq_row;   /* [n_seq] first row */
    const int32_t *seq_n_tok; /* [n_seq] rows, >= 1 */
    const int32_t *seq_pos;   /* [n_seq] position of the first row = tokens before this step */
    const int32_t *block;     /* [n_slot, block_stride] KV block of tokens 128*i.. of the slot's sequence */
    int32_t block_stride;
};

/* ------------------------------------------------------------------------------------------------------------
 * The way into and out of the model
 */

/* cos and sin of position * freq, the product rounded to f32 first (spec section 5, last paragraph).
 *   pos    [n] i32
 *   freq   [n_freq] f32
 *   cs     [n, n_freq, 2] f32 out   cos, sin
 * Numerics: each the correctly rounded value of the f32 angle, or within one f32 step of it. */
struct kn_rope_angles_args {
    int32_t n_tok, n_freq;
    const int32_t *pos;
    const float *freq;
    float *cs;
};

/* X[r, j] = table[tok[r]] for every stream j.
 *   tok    [n] i32, 0 <= id < n_vocab (checked by the caller)
 *   table  bf16 [n_vocab, d]
 *   X      bf16 [n, hc, d] out */
struct kn_embed_args {
    int32_t n_tok, hc, d, n_vocab;
    const int32_t *tok;
    const uint16_t *table;
    uint16_t *X;
};

/* Collapse the streams of chosen rows for the head, then the final RMSNorm (spec section 4, end).
 *   X      bf16 [*, hc, d]
 *   row    [n] i32               rows of X
 *   fn     [hc, hc*d]; base [hc], scale [1] f32
 *   norm   [d] f32
 *   y      bf16 [n, d] out */
struct kn_hc_head_args {
    int32_t n, hc, d;
    float hc_eps, rms_eps;
    const uint16_t *X;
    const int32_t *row;
    struct kn_mat fn;
    const float *base, *scale, *norm;
    uint16_t *y;
};

/* ------------------------------------------------------------------------------------------------------------
 * Hyper-connections (spec section 4)
 */

/* Steps 1-3: mixing weights, sublayer input, RMSNorm, quantization.
 *   X      bf16 [n, hc, d]
 *   fn     [(2+hc)*hc, hc*d]; base [(2+hc)*hc], scale [3], norm [d] f32
 *   pre    [n, hc] f32 out
 *   post   [n, hc] f32 out
 *   comb   [n, hc, hc] f32 out     element [j, k] = C[j][k]
 *   y      [n, d] out              both forms
 * Limits: hc <= KN_HC_MAX, sinkhorn_iters >= 1, d a multiple of KN_ACT_GROUP. */
struct kn_hc_pre_args {
    int32_t n_tok, hc, d, sinkhorn_iters;
    float hc_eps, rms_eps;
    const uint16_t *X;
    struct kn_mat fn;
    const float *base, *scale, *norm;
    float *pre, *post, *comb;
    struct kn_act y;
};

/* Step 4: X[:,k] = post[k]*y + sum_j comb[j][k]*X[:,j], in place.
 *   y      bf16 [n, d];  X bf16 [n, hc, d] in and out */
struct kn_hc_post_args {
    int32_t n_tok, hc, d;
    const uint16_t *y;
    const float *post, *comb;
    uint16_t *X;
};

/* ------------------------------------------------------------------------------------------------------------
 * Linears (spec section 3)
 */

/* Quantize: y.q, y.s from y.x (spec section 3).  k a multiple of KN_ACT_GROUP. */
struct kn_act_quant_args {
    int32_t n, k;
    struct kn_act y; /* x in, q and s out */
};

/* y = x * rsqrt(mean(x^2) + eps) * weight.
 *   x      bf16 [n, k];  weight [k] f32;  y [n, k] out, both forms; k a multiple of KN_ACT_GROUP if y.q is wanted */
struct kn_rmsnorm_args {
    int32_t n, k;
    float eps;
    const uint16_t *x;
    const float *weight;
    struct kn_act y;
};

/* y = w x.
 *   x      [n, w.n_in]            the form that w needs
 *   y      [n, w.n_out] out       y_dtype KN_BF16 (rounded), or KN_F32 (as accumulated)
 *   factor applied to the rounded BF16 result, which is rounded again; 1: not applied. KN_F32: must be 1.
 * Limits: n_in of an FP8 or FP4 matrix is a multiple of KN_ACT_GROUP. */
struct kn_linear_args {
    int32_t n;
    float factor;
    struct kn_act x;
    struct kn_mat w;
    enum kn_dtype y_dtype;
    void *y;
};

/* wo_a: n_group linears side by side; group g reads x[:, g*k .. +k) with rows g*n_out/n_group .. of w (spec
 * section 5.5). x      bf16 [n, n_group*w.n_in] w      [n_out, k]             FP8 is applied dequantized: x is not
 * quantized y      [n, n_out] out         both forms; n_out a multiple of KN_ACT_GROUP if y.q is wanted */
struct kn_linear_group_args {
    int32_t n, n_group;
    const uint16_t *x;
    struct kn_mat w;
    struct kn_act y;
};

/* ------------------------------------------------------------------------------------------------------------
 * Attention (spec sections 5-7)
 */

/* Per head: RMS normalisation without weight, in BF16 throughout, then RoPE (spec section 5.1). In place.
 *   q      bf16 [n, H, D];  cs [n, R/2, 2] f32 */
struct kn_q_norm_rope_args {
    int32_t n_tok, n_head, dim, rope;
    float eps;
    const float *cs;
    uint16_t *q;
};

/* Raw entries: RMSNorm, RoPE, rounding to the stored form (spec section 5.2).
 *   x      bf16 [n, D];  weight [D] f32;  cs [n, R/2, 2] f32
 *   page   out: one page of n entries, row r at index r */
struct kn_kv_norm_rope_args {
    int32_t n_tok;
    struct kn_kv_shape kv;
    float eps;
    const uint16_t *x;
    const float *weight;
    const float *cs;
    uint8_t *page;
};

/* Compressed entries (spec section 6): pools the blocks that become complete in this step, keeps the rest for later.
 *   k, g     f32 [n, c*dim]         projections of this step's rows; c = 2 if ratio is 4, else 1
 *   ape      f32 [ratio, c*dim]     added to g here
 *   tail     f32 [n_slot, 2, c*ratio, c*dim]  k and g+ape of position p at row p mod (c*ratio); in and out
 *   norm     f32 [dim];  freq f32 [R/2]
 *   pool     out: KV block b at pool + b*page_bytes: a page of 128/ratio entries; entry i of a sequence lies in the
 *            block of token i*ratio at index i mod (128/ratio)
 *   is_index the entries are indexer entries (Hadamard, FP4), else attention entries (FP8)
 * Overlap: the tail is read before it is written where they meet.  Limits: ratio divides 128. */
struct kn_compress_args {
    const struct kn_batch *batch;
    int32_t ratio, dim, rope;
    bool is_index;
    float eps;
    const float *k, *g, *ape, *norm, *freq;
    float *tail;
    uint8_t *pool;
    size_t page_bytes;
};

/* Indexer queries: RoPE, Hadamard, FP4 (spec section 7).
 *   q      bf16 [n, Hi, Di];  cs [n, R/2, 2] f32
 *   page   out: one page of n*Hi entries, [n, Hi] in order
 * Limits: Di a power of two, >= 32. */
struct kn_index_query_args {
    int32_t n_tok, n_head, dim, rope;
    const uint16_t *q;
    const float *cs;
    uint8_t *page;
};

/* Indexer scores and the choice of entries (spec section 7).
 *   q_page [n*Hi] entries;  w bf16 [n, Hi];  pool as in compress (is_index)
 *   choice [n, top_k] i32 out       chosen entries, ascending; -1 behind the last
 *   score  [n, score_stride] f32 out or NULL: for observers; entries not visible get -infinity
 * Ties go to the lower entry; a NaN score counts as the lowest. */
struct kn_index_topk_args {
    const struct kn_batch *batch;
    int32_t ratio, n_head, dim, top_k;
    const uint8_t *q_page;
    const uint16_t *w;
    const uint8_t *pool;
    size_t page_bytes;
    int32_t *choice;
    float *score;
    int32_t score_stride;
};

/* Attention over the window and compressed entries, with sink, then the inverse RoPE (spec section 5.3-4).
 *   q       bf16 [n, H, D];  cs [n, R/2, 2] f32;  sink [H] f32
 *   fresh   page of n entries: raw entries of this step's rows (kv_norm_rope)
 *   ring    raw entries of earlier steps: slot s at ring + s*ring_bytes, a page of `window` entries
 *   ratio   0: window only. Else the compressed entries in pool (as in compress):
 *   choice  [n, top_k] i32 (index_topk), or NULL: all that are visible at the row's position
 *   o       bf16 [n, H, D] out      rounded before and after the inverse rotation
 * Numerics: list = `window` slots in position order, absent ones empty, then the compressed entries by number; online
 * softmax over groups of KN_ATTN_GROUP slots; the weights are rounded to BF16 in the sum of entries, not in the
 * denominator. One order for prefill and decode. */
struct kn_attend_args {
    const struct kn_batch *batch;
    int32_t n_head, window, ratio, top_k;
    struct kn_kv_shape kv;
    const uint16_t *q;
    const float *cs, *sink;
    const uint8_t *fresh;
    const uint8_t *ring;
    size_t ring_bytes;
    const uint8_t *pool;
    size_t page_bytes;
    const int32_t *choice;
    uint16_t *o;
};

/* Keep the last `window` raw entries of every sequence: fresh -> ring. Runs after attend, which still needs the old. */
struct kn_window_store_args {
    const struct kn_batch *batch;
    int32_t window;
    struct kn_kv_shape kv;
    const uint8_t *fresh;
    uint8_t *ring;
    size_t ring_bytes;
};

/* ------------------------------------------------------------------------------------------------------------
 * Mixture of experts (spec section 8): route, dispatch, up, down, combine. With ranks, each holds some of the experts;
 * the exchange of rows (worker/engine/ep) sits between dispatch and up, and between down and combine.
 */

/* Choose top_k experts per token and the weight of each.
 *   logit    [n, n_expert] f32
 *   bias     [n_expert] f32 or NULL   used to choose, not in the weight
 *   tid2eid  [n_vocab, top_k] i32 or NULL: hash layer, the token chooses (tok [n])
 *   id       [n, top_k] i32 out       falling score, ties to the lower id; hash layers: the table's order
 *   weight   [n, top_k] f32 out       each row sums to scale
 * Limits: top_k <= KN_TOPK_EXPERT_MAX, <= n_expert. NaN logits still give valid, distinct ids. */
struct kn_moe_route_args {
    int32_t n_tok, n_expert, top_k;
    float scale;
    const float *logit, *bias;
    const int32_t *tid2eid, *tok;
    int32_t *id;
    float *weight;
};

/* Sort the (row, choice) pairs of this rank's experts by expert and gather their activations.
 *   x        [n, d], id, weight [n, top_k] (moe_route)
 *   offset   [n_local+1] i32 out      rows of local expert e: offset[e]..offset[e+1], in row order
 *   place    [n, top_k] i32 out       gathered row of the pair, -1: another rank's
 *   gx       [n*top_k, d] out         the forms of x that are not NULL in both
 *   gw       [n*top_k] f32 out        routing weight of the gathered row */
struct kn_moe_dispatch_args {
    int32_t n_tok, d, top_k, first, n_local;
    struct kn_act x;
    const int32_t *id;
    const float *weight;
    int32_t *offset, *place;
    struct kn_act gx;
    float *gw;
};

/* One expert's matrices. */
struct kn_expert {
    struct kn_mat w1, w3, w2;
};

/* h = silu(w1 x) * (w3 x) * weight with the clamps of spec section 8, for groups of rows.
 *   expert   [n_expert] struct kn_expert, on the device; all of dtype w_dtype, w1 and w3 [inter, d]
 *   offset   [n_expert+1] i32 on the device, or NULL: one expert, all n_row_max rows
 *   x        [n_row_max, d];  weight [n_row_max] f32 or NULL (shared expert)
 *   h        [n_row_max, inter] out   both forms
 * Limits: d and inter multiples of KN_ACT_GROUP. limit 0: no clamp. */
struct kn_moe_up_args {
    int32_t n_row_max, n_expert, d, inter;
    enum kn_dtype w_dtype;
    float limit;
    const struct kn_expert *expert;
    const int32_t *offset;
    struct kn_act x;
    const float *weight;
    struct kn_act h;
};

/* y = w2 h for groups of rows.  y bf16 [n_row_max, d] out; the rest as in moe_up. */
struct kn_moe_down_args {
    int32_t n_row_max, n_expert, d, inter;
    enum kn_dtype w_dtype;
    const struct kn_expert *expert;
    const int32_t *offset;
    struct kn_act h;
    uint16_t *y;
};

/* out = sum over the chosen experts, in ascending id, + shared.
 *   id, place [n, top_k];  y bf16 [n*top_k, d] (all pairs are here by now);  shared bf16 [n, d];  out bf16 [n, d] out
 * Numerics: f32, from 0, experts in ascending id, shared last, one rounding. */
struct kn_moe_combine_args {
    int32_t n_tok, d, top_k;
    const int32_t *id, *place;
    const uint16_t *y, *shared;
    uint16_t *out;
};

/* ------------------------------------------------------------------------------------------------------------
 * Back ends
 */

/* Where a rank's work runs. */
struct kn_ctx {
    void *stream;          /* the back end's queue; NULL for ref, the thread pool for cpu */
    void *workspace;       /* device memory, KN_PAGE_ALIGN-aligned */
    size_t workspace_bytes; /* >= kn_backend.workspace_bytes(limits) */
    int rank, n_ranks;
    int device; /* number of the device of this rank */
    int n_threads; /* host threads of all ranks together, callers included (cpu only), each rank has its share and at
                      least itself; 0: all that the process may run on */
};

struct kn_ops {
#define X(name) int (*name)(struct kn_ctx *ctx, const struct kn_##name##_args *a);
    KN_OP_LIST(X)
#undef X
};

/* What the workspace must be large enough for: the maxima over all calls that the engine will make. */
struct kn_limits {
    int32_t n_tok;            /* rows of a step */
    int32_t n_in, n_out;      /* largest matrix sides, hc fn and head included */
    int32_t n_head, dim;      /* attention */
    int32_t window, top_k;    /* largest list: window + entries */
    int32_t index_dim, index_n_head;
    int64_t context;          /* tokens of one sequence */
    int32_t n_expert, inter, d;
};

/* Memory of a back end. Errors: ERR_MEM, ERR_GPU. */
struct kn_device {
    int (*open)(struct kn_ctx *ctx, struct err *err); /* rank, n_ranks and device are set; makes the stream */
    void (*close)(struct kn_ctx *ctx);
    int (*alloc)(struct kn_ctx *ctx, size_t bytes, void **p); /* KN_PAGE_ALIGN-aligned, zero */
    void (*release)(struct kn_ctx *ctx, void *p);             /* NULL allowed */
    int (*copy_in)(struct kn_ctx *ctx, void *dev, const void *host, size_t bytes); /* queued; host is free on return */
    int (*copy_out)(struct kn_ctx *ctx, void *host, const void *dev, size_t bytes); /* done after sync */
    int (*sync)(struct kn_ctx *ctx);
    /* A matrix or table of the checkpoint (host memory that stays mapped) -> the form that this back end's ops read.
     * ref and cpu hand it back as it is. What was made is released by close. */
    int (*map_weights)(struct kn_ctx *ctx, const struct kn_mat *host, struct kn_mat *dev);
};

struct kn_backend {
    const char *name;     /* "ref" */
    const char *numerics; /* equal text = equal bits: "ref/scalar/1" */
    const struct kn_ops *ops;
    const struct kn_device *device;
    size_t (*workspace_bytes)(const struct kn_limits *limits);
};

/* Back end by name among those built in, or NULL. */
const struct kn_backend *kn_backend_find(const char *name);

/* Names of the back ends that are built in, separated by ", ". */
const char *kn_backend_names(void);

/* Name of an op ("rmsnorm"). */
const char *kn_op_name(enum kn_op op);

/* The first op that the table lacks, or KN_OP_N. */
enum kn_op kn_ops_missing(const struct kn_ops *ops);

#endif
