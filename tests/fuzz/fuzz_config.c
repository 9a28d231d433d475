/* config.json of strangers: what is accepted keeps the rules that the engine relies on. */
#include "common/base/check.h"
#include "tests/fuzz/fuzz.h"
#include "worker/model/config.h"

#include <math.h>
#include <string.h>

static void check_config(const struct mdl_config *c)
{
    ASSERT(c->num_hidden_layers >= 1 && c->num_hidden_layers <= MDL_LAYERS_MAX);
    ASSERT(c->vocab_size >= 1 && c->vocab_size <= MDL_VOCAB_MAX);
    ASSERT(c->hidden_size >= 128 && c->hidden_size <= MDL_HIDDEN_MAX && c->hidden_size % 128 == 0);
    ASSERT(c->q_lora_rank % 128 == 0 && c->o_groups * c->o_lora_rank % 128 == 0 && c->moe_intermediate_size % 128 == 0);
    ASSERT(c->num_attention_heads >= 1 && c->num_attention_heads % c->o_groups == 0);
    ASSERT(c->qk_rope_head_dim >= 2 && c->qk_rope_head_dim % 2 == 0);
    ASSERT(c->head_dim <= MDL_HEAD_DIM_MAX && c->head_dim > c->qk_rope_head_dim);
    ASSERT((c->head_dim - c->qk_rope_head_dim) % 64 == 0);
    ASSERT(c->num_experts_per_tok >= 1 && c->num_experts_per_tok <= c->n_routed_experts);
    ASSERT(c->num_hash_layers >= 0 && c->num_hash_layers <= c->num_hidden_layers);
    ASSERT(c->eos_token_id < c->vocab_size && c->bos_token_id < c->vocab_size);
    ASSERT(c->hc_mult >= 1 && c->hc_mult <= MDL_HC_MAX && c->hc_sinkhorn_iters >= 1);
    ASSERT(isfinite(c->hc_eps) && isfinite(c->rms_norm_eps) && isfinite(c->routed_scaling_factor));
    ASSERT(isfinite(c->swiglu_limit) && c->rope_theta > 1 && isfinite(c->rope_theta));
    for (int i = 0; i < c->num_hidden_layers; i++) {
        if (c->layer_kind[i] == MDL_CSA)
            ASSERT(c->index_n_heads >= 1 && c->index_topk >= 1 && c->index_head_dim >= c->qk_rope_head_dim &&
                   (c->index_head_dim & (c->index_head_dim - 1)) == 0);
        if (c->layer_kind[i] != MDL_WINDOW)
            ASSERT(c->compress_rope_theta > 1);
    }
    if (c->yarn.on)
        ASSERT(c->yarn.factor >= 1 && c->yarn.beta_slow > 0 && c->yarn.original_max_position_embeddings > 0);
    ASSERT(isfinite(mdl_kv_bytes_per_token(c)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mdl_config cfg;
    struct err err = {0};

    int rc = mdl_config_parse((const char *)data, size, "config.json", &cfg, &err);
    if (rc)
        ASSERT(strncmp(err.text, "config.json: ", 13) == 0 && !strchr(err.text, '\n') && err.code == rc);
    else
        check_config(&cfg);
    return 0;
}
