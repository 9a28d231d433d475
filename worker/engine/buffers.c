#include "worker/engine/impl.h"

#include "common/base/log.h"

#include <inttypes.h>

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static struct kn_limits limits_of(const struct eng__rank *r)
{
    const struct mdl_config *c = r->cfg;
    int64_t d = c->hidden_size, q_width = (int64_t)c->num_attention_heads * c->head_dim;
    int64_t o_width = (int64_t)c->o_groups * c->o_lora_rank, i_width = (int64_t)c->index_n_heads * c->index_head_dim;
    int64_t n_in = max64(max64(c->hc_mult * d, q_width / c->o_groups), max64(o_width, c->moe_intermediate_size));
    int64_t n_out = max64(max64(c->vocab_size, q_width), max64(i_width, d));

    n_out = max64(max64(n_out, o_width), max64(2 * (int64_t)c->head_dim, c->moe_intermediate_size));
    n_out = max64(max64(n_out, c->n_routed_experts), (2 + c->hc_mult) * c->hc_mult);
    n_out = max64(max64(n_out, 2 * (int64_t)c->index_head_dim), c->q_lora_rank);
    return (struct kn_limits){
        .n_tok = r->eng->caps.step_tok_max,
        .n_in = (int32_t)max64(n_in, c->q_lora_rank),
        .n_out = (int32_t)n_out,
        .n_head = c->num_attention_heads,
        .dim = c->head_dim,
        .window = c->sliding_window,
        .top_k = c->index_topk,
        .index_dim = c->index_head_dim,
        .index_n_head = c->index_n_heads,
        .context = r->eng->caps.context_max,
        .n_expert = c->n_routed_experts,
        .inter = c->moe_intermediate_size,
        .d = c->hidden_size,
    };
}

/* The step's memory is one allocation: the back end's workspace, then the buffers of the list, each on its own page
 * boundary. The sums go to the log, so that a machine that is too small can be read off it. */
int eng__buffers_init(struct eng__rank *r, struct err *err)
{
    const struct mdl_config *c = r->cfg;
    struct kn_limits limits = limits_of(r);
    struct kn_kv_shape shape = {c->head_dim, c->qk_rope_head_dim};
    int64_t n = r->eng->caps.step_tok_max, n_seq = r->kv.n_slot, n_pair = n * c->num_experts_per_tok;
    int64_t n_own = r->ctx.n_ranks > 1 ? n_pair : 0;
    int64_t o_width = (int64_t)c->o_groups * c->o_lora_rank;
    int64_t k_width = 2 * max64(c->head_dim, c->index_head_dim);
    size_t at = kn_page_align(r->backend->workspace_bytes(&limits));

    r->ctx.workspace_bytes = at;
#define X(name, type, n_elem) at += kn_page_align((size_t)(n_elem) * sizeof(type));
    ENG__BUFFER_LIST(X)
#undef X
    r->workspace_bytes = at;
    int rc = r->backend->device->alloc(&r->ctx, at, &r->buf.mem);
    if (rc)
        return err_set(err, rc, "no memory for the %zu MiB of step buffers; give it fewer tokens a step", at >> 20);

    char *base = r->buf.mem;
    r->ctx.workspace = base;
    at = r->ctx.workspace_bytes;
    log_debug(engine, "buffer workspace: bytes=%zu", at);
#define X(name, type, n_elem)                                                                       \
    r->buf.name = (type *)(void *)(base + at);                                                      \
    log_debug(engine, "buffer " #name ": bytes=%zu", (size_t)(n_elem) * sizeof(type));              \
    at += kn_page_align((size_t)(n_elem) * sizeof(type));
    ENG__BUFFER_LIST(X)
#undef X
    return 0;
}
