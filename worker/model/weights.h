/* worker/model/weights.h - the tensors of a model under their names in C: checked shapes, plain pointers.
 * Owns:     small converted copies (norms, biases, token tables); matrices are views into the checkpoint.
 * Lifetime: mdl_weights_bind .. mdl_weights_release; must end before the checkpoint is closed.
 * Thread:   any, once bound (nothing is changed).
 * Limits:   those of config.h; MDL_IDS_MAX expert numbers in a token table (Flash: 775,680), because it is copied.
 * Source:   spec/model.md section 2 (names, dtypes, shapes) and section 9 (MTP).
 *
 * Every matrix is used where it lies in the file. Vectors and tables (`const float *` and `const int32_t *` below) are
 * F32 and I32: where the file has BF16 or I64, they are exact copies, so that a kernel has one type to read. All
 * pointers are aligned to their element; a file that is not is refused.
 */
#ifndef WORKER_MODEL_WEIGHTS_H
#define WORKER_MODEL_WEIGHTS_H

#include "common/base/err.h"
#include "common/mem/arena.h"
#include "worker/model/checkpoint.h"

#include <stdbool.h>
#include <stdint.h>

enum { MDL_IDS_MAX = 1 << 26 };

/* How a matrix is stored; data and scale of struct mdl_matrix are then
 *   BF16  data u16 [out, in]                 scale NULL
 *   F32   data float [out, in]               scale NULL
 *   FP8   data u8 E4M3 [out, in]             scale u8 E8M0 [ceil(out/128), ceil(in/128)]
 *   FP4   data u8 2 x E2M1 [out, in/2]       scale u8 E8M0 [out, in/32]; the low nibble is the even input */
enum mdl_matrix_kind { MDL_MATRIX_NONE, MDL_MATRIX_BF16, MDL_MATRIX_F32, MDL_MATRIX_FP8, MDL_MATRIX_FP4 };

struct mdl_matrix {
    enum mdl_matrix_kind kind; /* NONE: the layer has no such matrix */
    int64_t out, in;           /* elements, not bytes: FP4 counts both nibbles */
    const void *data;
    const uint8_t *scale;
};

/* Which kinds mdl_weights_bind accepts (others: ERR_UNSUPPORTED, named):
 *   quantized linears (wq_a, wq_b, wkv, wo_a, wo_b, indexer.wq_b, shared expert, e_proj, h_proj): FP8 or BF16
 *   routed experts: FP4, FP8 or BF16 (one kind per matrix, read off its dtype, never off the config)
 *   compressor wkv/wgate, gate, hc fn, head: BF16 or F32
 *   indexer weights_proj, embed: BF16 */

struct mdl_hc {           /* mHC of one sublayer, section 4; rows = (2+hc)*hc, or hc for the head */
    struct mdl_matrix fn; /* [rows, hc*d] */
    const float *base;    /* [rows] */
    const float *scale;   /* [3], or [1] for the head */
};

struct mdl_compressor {           /* section 6; c = 2 for ratio 4, 1 for ratio 128; dim = head_dim or index_head_dim */
    struct mdl_matrix wkv, wgate; /* [c*dim, d] */
    const float *ape;             /* [ratio, c*dim] */
    const float *norm;            /* [dim] */
};

struct mdl_indexer {                /* section 7, CSA layers only */
    struct mdl_matrix wq_b;         /* [index_n_heads*index_head_dim, q_lora_rank] */
    struct mdl_matrix weights_proj; /* [index_n_heads, d] */
    struct mdl_compressor compressor;
};

struct mdl_attn {                     /* section 5 */
    struct mdl_matrix wq_a;           /* [q_lora_rank, d] */
    struct mdl_matrix wq_b;           /* [H*D, q_lora_rank] */
    struct mdl_matrix wkv;            /* [D, d] */
    struct mdl_matrix wo_a;           /* [G*o_lora_rank, H*D/G]; group g is rows g*o_lora_rank .. */
    struct mdl_matrix wo_b;           /* [d, G*o_lora_rank] */
    const float *q_norm;              /* [q_lora_rank] */
    const float *kv_norm;             /* [D] */
    const float *sink;                /* [H] */
    struct mdl_compressor compressor; /* CSA and HCA layers */
    struct mdl_indexer indexer;       /* CSA layers */
};

struct mdl_expert {           /* section 8 */
    struct mdl_matrix w1, w3; /* gate and up, [moe_intermediate_size, d] */
    struct mdl_matrix w2;     /* down, [d, moe_intermediate_size] */
};

struct mdl_gate {
    struct mdl_matrix weight; /* [n_routed_experts, d] */
    const float *bias;        /* [n_routed_experts]; score layers, else NULL */
    const int32_t *tid2eid;   /* [vocab_size, num_experts_per_tok]; hash layers, else NULL. All in
                               * range; an expert may stand twice for one token */
};

struct mdl_layer {
    enum mdl_layer_kind kind;
    bool is_hash;
    const float *attn_norm, *ffn_norm; /* [d] */
    struct mdl_hc hc_attn, hc_ffn;
    struct mdl_attn attn;
    struct mdl_gate gate;
    struct mdl_expert shared;
    struct mdl_expert *expert; /* [n_routed_experts] */
};

struct mdl_head { /* the collapse of the streams and the last norm; section 4, end */
    struct mdl_hc hc;
    const float *norm; /* [d] */
};

struct mdl_mtp {                      /* section 9, April release: mtp.0 */
    struct mdl_layer layer;           /* window only, score routing */
    const float *enorm, *hnorm;       /* [d] */
    struct mdl_matrix e_proj, h_proj; /* [d, d] */
    struct mdl_head head;
};

struct mdl_weights {
    const struct mdl_config *cfg; /* the checkpoint's */
    struct mdl_matrix embed;      /* [vocab_size, d] */
    struct mdl_matrix lm_head;    /* [vocab_size, d]; `head.weight` */
    struct mdl_head head;
    struct mdl_layer *layer; /* [cfg->num_hidden_layers] */
    struct mdl_mtp *mtp;     /* NULL: none in the config, none in the files, or DSpark */
    struct arena arena;
};

/* Look every tensor of the model up and check dtype and shape against the config's formulas. Token tables are checked
 * value by value. On error *w is empty and err names the tensor, what was found and what is needed: ERR_MISSING,
 * ERR_FORMAT (shape, alignment), ERR_UNSUPPORTED (dtype), ERR_RANGE (an expert number in a token table),
 * ERR_LIMIT. */
int mdl_weights_bind(const struct mdl_ckpt *ckpt, struct mdl_weights *w, struct err *err);
void mdl_weights_release(struct mdl_weights *w); /* repeatable; {0} allowed */

const char *mdl_matrix_kind_name(enum mdl_matrix_kind kind); /* "bf16", "fp8" ... */

/* Bytes of data and scale together; 0 for MDL_MATRIX_NONE. */
size_t mdl_matrix_bytes(const struct mdl_matrix *m);

#endif
