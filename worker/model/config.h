/* worker/model/config.h - config.json of a checkpoint, checked.
 * Owns:     nothing outside the struct.
 * Lifetime: a plain value, filled once by mdl_config_load; never changed.
 * Thread:   any, once loaded.
 * Limits:   the MDL_*_MAX below; a value outside is ERR_RANGE naming file, key, value and limit.
 * Source:   spec/model.md section 1 and the end of section 2 (config of a model saved by transformers).
 */
#ifndef WORKER_MODEL_CONFIG_H
#define WORKER_MODEL_CONFIG_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MDL_LAYERS_MAX = 256,
    MDL_HIDDEN_MAX = 65536,
    MDL_HEADS_MAX = 1024,
    MDL_HEAD_DIM_MAX = 4096,
    MDL_EXPERTS_MAX = 4096,
    MDL_TOPK_EXPERTS_MAX = 64,
    MDL_VOCAB_MAX = 1 << 24,
    MDL_WINDOW_MAX = 65536,
    MDL_INDEX_TOPK_MAX = 65536,
    MDL_HC_MAX = 16,
    MDL_CONTEXT_MAX = 1 << 26,
    MDL_CONFIG_FILE_MAX = 16 << 20,
};

/* What a layer attends to besides its window. The value is the compression ratio. */
enum mdl_layer_kind { MDL_WINDOW = 0, MDL_CSA = 4, MDL_HCA = 128 };

/* Names are those of config.json where there is one. */
struct mdl_config {
    int32_t vocab_size, hidden_size, num_hidden_layers, num_nextn_predict_layers;
    int32_t num_attention_heads, head_dim, qk_rope_head_dim, q_lora_rank, o_lora_rank, o_groups;
    int32_t sliding_window;
    int32_t index_n_heads, index_head_dim, index_topk;
    int32_t n_routed_experts, num_experts_per_tok, n_shared_experts, moe_intermediate_size, num_hash_layers;
    int32_t hc_mult, hc_sinkhorn_iters;
    int32_t max_position_embeddings;
    int32_t eos_token_id, bos_token_id;
    float hc_eps, rms_norm_eps, routed_scaling_factor, swiglu_limit; /* swiglu_limit 0: no clamp */
    double rope_theta, compress_rope_theta;
    struct {
        bool on; /* compressed layers only, spec section 5 */
        double factor, beta_fast, beta_slow;
        int64_t original_max_position_embeddings;
    } yarn;
    enum mdl_layer_kind layer_kind[MDL_LAYERS_MAX]; /* num_hidden_layers of them */
};

/* Read and check DIR/config.json. Unknown keys are ignored; scoring_func, norm_topk_prob, hidden_act and the
 * quantization block size other than the published ones are ERR_UNSUPPORTED. */
int mdl_config_load(const char *dir, struct mdl_config *cfg, struct err *err);

/* The same from text in memory (what the fuzz target calls); `name` stands for the file in error texts. */
int mdl_config_parse(const char *text, size_t len, const char *name, struct mdl_config *cfg, struct err *err);

/* Bytes of cache that one more token of context costs over all layers, in the stored form (spec section 10),
 * as a mean: CSA layers ratio 4, HCA layers ratio 128. */
double mdl_kv_bytes_per_token(const struct mdl_config *cfg);

#endif
