/* worker/engine/impl.h - what the files of the engine share; nobody else includes it.
 * Owns:     see engine.h.
 * Thread:   the engine thread.
 */
#ifndef WORKER_ENGINE_IMPL_H
#define WORKER_ENGINE_IMPL_H

#include "kernels/include/ops.h"
#include "worker/engine/engine.h"
#include "worker/engine/ep/ep.h"
#include "worker/engine/probe.h"
#include "worker/kv/kv.h"
#include "worker/kv/prefix.h"
#include "worker/model/weights.h"

#include <pthread.h>

struct eng__rank;

/* ---- weights on the device (bind.c) ---- */

struct eng__hc {
    struct kn_mat fn;
    const float *base, *scale;
};

struct eng__compressor {
    struct kn_mat wkv, wgate;
    const float *ape, *norm;
};

struct eng__layer {
    enum mdl_layer_kind kind;
    struct eng__hc hc_attn, hc_ffn;
    const float *attn_norm, *ffn_norm;

    struct kn_mat wq_a, wq_b, wkv, wo_a, wo_b;
    const float *q_norm, *kv_norm, *sink;
    struct eng__compressor compressor, index_compressor; /* CSA and HCA; CSA */
    struct kn_mat index_wq_b, index_proj;                /* CSA */

    struct kn_mat gate;
    const float *gate_bias;      /* score layers, else NULL */
    const int32_t *tid2eid;      /* hash layers, else NULL */
    const struct kn_expert *expert, *shared; /* device arrays: this rank's experts; one */
    enum kn_dtype expert_dtype, shared_dtype;
};

struct eng__weights {
    struct kn_mat embed, lm_head;
    struct eng__hc hc_head;
    const float *norm;
    struct eng__layer *layer; /* [num_hidden_layers] */
    struct kn_expert *expert; /* device: all layers' own routed and shared experts */
    const float *freq[2];     /* device: rotary frequencies, [1] of compressed layers */
    float *freq_mem;
};

/* Of the routed experts only those that the rank owns. */
int eng__weights_bind(struct eng__rank *r, const struct mdl_weights *w, struct err *err);
void eng__weights_release(struct eng__rank *r);

/* ---- step memory (buffers.c) ---- */

/* Every buffer of a rank's step: name, element type, elements. n = step_tok_max rows, c = the config, and
 *   n_pair = n*num_experts_per_tok, o_width = o_groups*o_lora_rank, k_width = widest compressor projection,
 *   n_own = the pairs of all ranks that may come to this rank's experts: n_pair, or 0 with one rank. */
#define ENG__BUFFER_LIST(X)                                                                         \
    X(X, uint16_t, n * c->hc_mult * c->hidden_size)                   /* residual streams */        \
    X(pre, float, n * c->hc_mult)                                     /* mHC of the sublayer */     \
    X(post, float, n * c->hc_mult)                                                                  \
    X(comb, float, n * c->hc_mult * c->hc_mult)                                                     \
    X(x, uint16_t, n * c->hidden_size)                                /* sublayer input */          \
    X(x_q, uint8_t, n * c->hidden_size)                                                             \
    X(x_s, uint8_t, n * c->hidden_size / KN_ACT_GROUP)                                              \
    X(y, uint16_t, n * c->hidden_size)                                /* sublayer output */         \
    X(cs, float, 2 * n * c->qk_rope_head_dim)                         /* plain, compressed */       \
    X(qr_raw, uint16_t, n * c->q_lora_rank)                           /* attention */               \
    X(qr, uint16_t, n * c->q_lora_rank)                                                             \
    X(qr_q, uint8_t, n * c->q_lora_rank)                                                            \
    X(qr_s, uint8_t, n * c->q_lora_rank / KN_ACT_GROUP)                                             \
    X(q, uint16_t, n * c->num_attention_heads * c->head_dim)                                        \
    X(kv_raw, uint16_t, n * c->head_dim)                                                            \
    X(fresh, uint8_t, (int64_t)kn_kv_page_bytes(shape, n))                                          \
    X(ck, float, n * k_width)                                         /* compressor projections */  \
    X(cg, float, n * k_width)                                                                       \
    X(iq_raw, uint16_t, n * c->index_n_heads * c->index_head_dim)     /* indexer */                 \
    X(iq, uint8_t, (int64_t)kn_index_page_bytes(c->index_head_dim, n * c->index_n_heads))           \
    X(iw, uint16_t, n * c->index_n_heads)                                                           \
    X(choice, int32_t, n * c->index_topk)                                                           \
    X(o, uint16_t, n * c->num_attention_heads * c->head_dim)                                        \
    X(mid, uint16_t, n * o_width)                                                                   \
    X(mid_q, uint8_t, n * o_width)                                                                  \
    X(mid_s, uint8_t, n * o_width / KN_ACT_GROUP)                                                   \
    X(gate, float, n * c->n_routed_experts)                           /* experts */                 \
    X(id, int32_t, n_pair)                                                                          \
    X(weight, float, n_pair)                                                                        \
    X(offset, int32_t, c->n_routed_experts + 1)                                                     \
    X(place, int32_t, n_pair)                                                                       \
    X(gx, uint16_t, n_pair * c->hidden_size)                                                        \
    X(gx_q, uint8_t, n_pair * c->hidden_size)                                                       \
    X(gx_s, uint8_t, n_pair * c->hidden_size / KN_ACT_GROUP)                                        \
    X(gw, float, n_pair)                                                                            \
    X(h, uint16_t, n_pair * c->moe_intermediate_size)                                               \
    X(h_q, uint8_t, n_pair * c->moe_intermediate_size)                                              \
    X(h_s, uint8_t, n_pair * c->moe_intermediate_size / KN_ACT_GROUP)                               \
    X(ey, uint16_t, n_pair * c->hidden_size)                                                        \
    X(shared, uint16_t, n * c->hidden_size)                                                         \
    X(own_offset, int32_t, n_own ? c->n_routed_experts + 1 : 0)       /* with ranks: own experts */  \
    X(own_x, uint16_t, n_own * c->hidden_size)                                                      \
    X(own_q, uint8_t, n_own * c->hidden_size)                                                       \
    X(own_s, uint8_t, n_own * c->hidden_size / KN_ACT_GROUP)                                        \
    X(own_w, float, n_own)                                                                          \
    X(own_y, uint16_t, n_own * c->hidden_size)                                                      \
    X(head_x, uint16_t, ENG__LOGIT_ROWS * c->hidden_size)             /* head */                    \
    X(logits, float, (int64_t)ENG__LOGIT_ROWS * c->vocab_size)                                      \
    X(input, int32_t, 4 * n + 4 * (int64_t)n_seq)                     /* the batch, one upload */

enum { ENG__LOGIT_ROWS = 64 }; /* rows of logits that are on the device at a time */

struct eng__buffers {
#define X(name, type, n_elem) type *name;
    ENG__BUFFER_LIST(X)
#undef X
    void *mem;
};

int eng__buffers_init(struct eng__rank *r, struct err *err); /* r->workspace_bytes is what it took */

/* ---- the engine and its ranks ---- */

struct eng_seq {
    int32_t slot; /* in the cache of its rank; -1: not in use */
    int rank;
    int64_t len, reserved; /* tokens so far; tokens that fit into the blocks taken */
    bool is_back;          /* its state is that of one token more (worker/kv/prefix.h): not to be saved before a step */
};

/* A rank: its device, its share of the experts, the sequences that live on it. In a step it belongs to its thread. */
struct eng__rank {
    struct eng *eng;
    int number;
    const struct kn_backend *backend;
    const struct kn_ops *ops; /* the back end's; every slot is there */
    const struct mdl_config *cfg;
    struct kn_ctx ctx;
    struct eng__weights w;
    int32_t expert_first, n_expert; /* the routed experts it owns */
    struct wrk_kv kv;
    struct eng__buffers buf;
    uint64_t workspace_bytes;
    struct eng_seq *seq; /* [n_slot], by slot */
    int32_t n_seq_open;
    bool is_device_open;

    int32_t *input;      /* host staging of buf.input */
    int32_t n_logit_row; /* rows of the step whose logits are wanted; their row numbers are in the input, behind the
                            batch */
    const int32_t *logit_row;
    struct kn_batch batch; /* of the step under way; device pointers into buf.input; without rows: no rows */

    struct eng_ep *ep;      /* NULL: the engine has one rank */
    struct eng_item *item;  /* [n_slot] its part of the plan, n_item of them */
    int n_item;
    int32_t n_own_row_max;  /* pairs of all ranks in the step */
    pthread_t thread;       /* more than one rank: each has its own */
    bool has_thread;

    const struct eng_tap *tap; /* NULL in serving */
    float *tap_score;          /* device, [n_tok, tap_score_stride]: indexer scores for the tap, NULL in serving */
    int32_t tap_score_stride;
};

struct eng__group; /* the ranks' threads (ranks.c) */

struct eng {
    const struct kn_backend *backend;
    const struct mdl_config *cfg;
    struct mdl_ckpt *ckpt;
    struct mdl_weights host;
    struct eng_caps caps;
    struct eng__rank *rank; /* [caps.n_ranks] */
    const struct eng_ep_provider *ep;
    struct eng_ep *end[ENG_RANKS_MAX];
    struct eng__group *group; /* NULL: one rank, on the caller's thread */
    int rank_deadline_ms;
    bool is_poisoned, is_rank_lost;
    bool must_tell_all; /* the next news of the prefix cache begin anew */
    bool is_stuck; /* a rank had not come back when the last step was given up: nothing that it uses may change */
};

/* ---- a rank's step (step.c) ---- */

/* Fill r->batch (and the logit rows) from the items and upload it. */
int eng__batch_set(struct eng__rank *r, const struct eng_item *item, int n_item);

/* r->item through the model, logits to the items; without items the rank only serves the others with its experts. */
int eng__rank_step(struct eng__rank *r, struct err *err);

/* ---- the ranks' threads (ranks.c) ---- */

/* Start a thread per rank and let them meet once. ERR_MEM, ERR_TIMEOUT. */
int eng__group_start(struct eng *e, struct err *err);

/* End the threads. False: one of them does not come back; what it uses must stay. */
bool eng__group_stop(struct eng *e);

/* eng__rank_step on all ranks. 0, or the first rank's error that ended the group. */
int eng__group_step(struct eng *e, struct err *err);

/* ---- the layer loop (layer.c): each returns 0 or the code of the op that failed, which is logged; what the exchange
 * between ranks says is in err ---- */

int eng__embed(struct eng__rank *r);
int eng__layer_run(struct eng__rank *r, int layer, struct err *err);
int eng__attn_output(struct eng__rank *r, int layer); /* buf.o -> buf.y */
int eng__ffn(struct eng__rank *r, int layer, struct err *err); /* buf.x (both forms) -> buf.y; collective */
int eng__rope_angles(struct eng__rank *r);

/* Logits of n rows of X, their numbers at row (device), into buf.logits. n <= ENG__LOGIT_ROWS. */
int eng__head(struct eng__rank *r, const int32_t *row, int n);

/* ---- taps (probe.c) ---- */

/* Hand a device tensor to the tap. dim ends at the first 0. Call only when r->tap is set. */
void eng__tap(struct eng__rank *r, int layer, const char *name, enum kn_dtype dtype, const void *dev, int64_t d0,
              int64_t d1, int64_t d2);
/* The same for stored forms, decoded to BF16: one page of n raw entries; n indexer vectors in rows of n_head; the
 * entries of the first sequence of the batch. */
void eng__tap_kv(struct eng__rank *r, int layer, const char *name, const uint8_t *page, int64_t n);
void eng__tap_index(struct eng__rank *r, int layer, const char *name, const uint8_t *page, int64_t n_row,
                    int64_t n_head);
void eng__tap_entries(struct eng__rank *r, int layer, const char *name, bool is_index);

#endif
