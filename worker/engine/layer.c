#include "worker/engine/impl.h"

#include "common/base/log.h"

#include <math.h>

/* Run one op of the table; leave the function on an error. */
#define RUN(op, ...)                                                                                \
    do {                                                                                            \
        int rc_ = e->ops->op(&e->ctx, &(struct kn_##op##_args){__VA_ARGS__});                       \
        if (rc_)                                                                                    \
            return failed(e, KN_OP_##op, rc_);                                                      \
    } while (0)

/* Show a tensor to the observer, if there is one. */
#define TAP(name, dtype, dev, ...)                                                                  \
    do {                                                                                            \
        if (e->tap)                                                                                 \
            eng__tap(e, layer, name, dtype, dev, __VA_ARGS__);                                      \
    } while (0)

static int failed(const struct eng *e, enum kn_op op, int rc)
{
    log_error(engine, "op %s of back end %s: %s", kn_op_name(op), e->backend->name, err_name(rc));
    return rc;
}

static struct kn_act x_of(const struct eng *e)
{
    return (struct kn_act){e->buf.x, e->buf.x_q, e->buf.x_s};
}

static struct kn_act qr_of(const struct eng *e)
{
    return (struct kn_act){e->buf.qr, e->buf.qr_q, e->buf.qr_s};
}

static struct kn_kv_shape kv_shape(const struct eng *e)
{
    return (struct kn_kv_shape){e->cfg->head_dim, e->cfg->qk_rope_head_dim};
}

/* cos and sin of the step's positions: first for window-only layers, then for compressed ones. */
static float *cs_of(const struct eng *e, enum mdl_layer_kind kind)
{
    return e->buf.cs + (kind ? (size_t)e->caps.step_tok_max * (size_t)e->cfg->qk_rope_head_dim : 0);
}

int eng__rope_angles(struct eng *e)
{
    const struct kn_batch *b = &e->batch;
    int n_freq = e->cfg->qk_rope_head_dim / 2;

    RUN(rope_angles, .n_tok = b->n_tok, .n_freq = n_freq, .pos = b->row_pos, .freq = e->w.freq[0],
        .cs = cs_of(e, MDL_WINDOW));
    RUN(rope_angles, .n_tok = b->n_tok, .n_freq = n_freq, .pos = b->row_pos, .freq = e->w.freq[1],
        .cs = cs_of(e, MDL_CSA));
    return 0;
}

int eng__embed(struct eng *e)
{
    RUN(embed, .n_tok = e->batch.n_tok, .hc = e->cfg->hc_mult, .d = e->cfg->hidden_size, .n_vocab = e->cfg->vocab_size,
        .tok = e->batch.tok, .table = e->w.embed.data, .X = e->buf.X);
    return 0;
}

/* ---- section 4: the way into a sublayer and out of it ---- */

static int hc_in(struct eng *e, const struct eng__hc *hc, const float *norm)
{
    const struct mdl_config *c = e->cfg;

    RUN(hc_pre, .n_tok = e->batch.n_tok, .hc = c->hc_mult, .d = c->hidden_size, .sinkhorn_iters = c->hc_sinkhorn_iters,
        .hc_eps = c->hc_eps, .rms_eps = c->rms_norm_eps, .X = e->buf.X, .fn = hc->fn, .base = hc->base,
        .scale = hc->scale, .norm = norm, .pre = e->buf.pre, .post = e->buf.post, .comb = e->buf.comb, .y = x_of(e));
    return 0;
}

static int hc_out(struct eng *e)
{
    RUN(hc_post, .n_tok = e->batch.n_tok, .hc = e->cfg->hc_mult, .d = e->cfg->hidden_size, .y = e->buf.y,
        .post = e->buf.post, .comb = e->buf.comb, .X = e->buf.X);
    return 0;
}

/* ---- section 5: attention ---- */

/* 5.1: queries; 5.2: raw entries. */
static int queries_and_entries(struct eng *e, int layer)
{
    const struct mdl_config *c = e->cfg;
    const struct eng__layer *l = &e->w.layer[layer];
    int n = e->batch.n_tok;

    RUN(linear, .n = n, .factor = 1, .x = x_of(e), .w = l->wq_a, .y_dtype = KN_BF16, .y = e->buf.qr_raw);
    RUN(rmsnorm, .n = n, .k = c->q_lora_rank, .eps = c->rms_norm_eps, .x = e->buf.qr_raw, .weight = l->q_norm,
        .y = qr_of(e));
    RUN(linear, .n = n, .factor = 1, .x = qr_of(e), .w = l->wq_b, .y_dtype = KN_BF16, .y = e->buf.q);
    RUN(q_norm_rope, .n_tok = n, .n_head = c->num_attention_heads, .dim = c->head_dim, .rope = c->qk_rope_head_dim,
        .eps = c->rms_norm_eps, .cs = cs_of(e, l->kind), .q = e->buf.q);
    TAP("attn.q", KN_BF16, e->buf.q, n, c->num_attention_heads, c->head_dim);

    RUN(linear, .n = n, .factor = 1, .x = x_of(e), .w = l->wkv, .y_dtype = KN_BF16, .y = e->buf.kv_raw);
    RUN(kv_norm_rope, .n_tok = n, .kv = kv_shape(e), .eps = c->rms_norm_eps, .x = e->buf.kv_raw, .weight = l->kv_norm,
        .cs = cs_of(e, l->kind), .page = e->buf.fresh);
    if (e->tap)
        eng__tap_kv(e, layer, "attn.kv", e->buf.fresh, n);
    return 0;
}

/* 6: entries of one compressor, of dim values each. */
static int compress(struct eng *e, int layer, const struct eng__compressor *m, int32_t dim, bool is_index)
{
    const struct mdl_config *c = e->cfg;
    const struct wrk_kv_layer *kv = &e->kv.layer[layer];
    int n = e->batch.n_tok;

    RUN(linear, .n = n, .factor = 1, .x = x_of(e), .w = m->wkv, .y_dtype = KN_F32, .y = e->buf.ck);
    RUN(linear, .n = n, .factor = 1, .x = x_of(e), .w = m->wgate, .y_dtype = KN_F32, .y = e->buf.cg);
    RUN(compress, .batch = &e->batch, .ratio = e->w.layer[layer].kind, .dim = dim, .rope = c->qk_rope_head_dim,
        .is_index = is_index, .eps = c->rms_norm_eps, .k = e->buf.ck, .g = e->buf.cg, .ape = m->ape, .norm = m->norm,
        .freq = e->w.freq[1], .tail = is_index ? kv->index_tail : kv->tail,
        .pool = is_index ? kv->index_pool : kv->pool, .page_bytes = is_index ? kv->index_page_bytes : kv->page_bytes);
    if (e->tap)
        eng__tap_entries(e, layer, is_index ? "index.kv" : "attn.compressed", is_index);
    return 0;
}

/* 7: the lightning indexer chooses the compressed entries that each row attends to. */
static int indexer(struct eng *e, int layer)
{
    const struct mdl_config *c = e->cfg;
    const struct eng__layer *l = &e->w.layer[layer];
    const struct wrk_kv_layer *kv = &e->kv.layer[layer];
    int n = e->batch.n_tok;
    float factor = (float)(pow(c->index_head_dim, -0.5) * pow(c->index_n_heads, -0.5)); /* 128^-1/2 * 64^-1/2 */

    RUN(linear, .n = n, .factor = 1, .x = qr_of(e), .w = l->index_wq_b, .y_dtype = KN_BF16, .y = e->buf.iq_raw);
    RUN(index_query, .n_tok = n, .n_head = c->index_n_heads, .dim = c->index_head_dim, .rope = c->qk_rope_head_dim,
        .q = e->buf.iq_raw, .cs = cs_of(e, l->kind), .page = e->buf.iq);
    if (e->tap)
        eng__tap_index(e, layer, "index.q", e->buf.iq, n, c->index_n_heads);
    RUN(linear, .n = n, .factor = factor, .x = x_of(e), .w = l->index_proj, .y_dtype = KN_BF16, .y = e->buf.iw);
    TAP("index.w", KN_BF16, e->buf.iw, n, c->index_n_heads, 0);
    RUN(index_topk, .batch = &e->batch, .ratio = l->kind, .n_head = c->index_n_heads, .dim = c->index_head_dim,
        .top_k = c->index_topk, .q_page = e->buf.iq, .w = e->buf.iw, .pool = kv->index_pool,
        .page_bytes = kv->index_page_bytes, .choice = e->buf.choice, .score = e->tap_score,
        .score_stride = e->tap_score_stride);
    if (e->tap_score)
        TAP("index.scores", KN_F32, e->tap_score, n, e->tap_score_stride, 0);
    TAP("index.choice", KN_I32, e->buf.choice, n, c->index_topk, 0);
    return 0;
}

int eng__attn_output(struct eng *e, int layer)
{
    const struct eng__layer *l = &e->w.layer[layer];
    struct kn_act mid = {e->buf.mid, e->buf.mid_q, e->buf.mid_s};
    int n = e->batch.n_tok;

    RUN(linear_group, .n = n, .n_group = e->cfg->o_groups, .x = e->buf.o, .w = l->wo_a, .y = mid);
    RUN(linear, .n = n, .factor = 1, .x = mid, .w = l->wo_b, .y_dtype = KN_BF16, .y = e->buf.y);
    TAP("attn.out", KN_BF16, e->buf.y, n, e->cfg->hidden_size, 0);
    return 0;
}

/* buf.x -> buf.y */
static int attention(struct eng *e, int layer)
{
    const struct mdl_config *c = e->cfg;
    const struct eng__layer *l = &e->w.layer[layer];
    const struct wrk_kv_layer *kv = &e->kv.layer[layer];
    int rc;

    if ((rc = queries_and_entries(e, layer)))
        return rc;
    if (l->kind != MDL_WINDOW && (rc = compress(e, layer, &l->compressor, c->head_dim, false)))
        return rc;
    if (l->kind == MDL_CSA && ((rc = compress(e, layer, &l->index_compressor, c->index_head_dim, true)) ||
                               (rc = indexer(e, layer))))
        return rc;
    RUN(attend, .batch = &e->batch, .n_head = c->num_attention_heads, .window = c->sliding_window, .ratio = l->kind,
        .top_k = c->index_topk, .kv = kv_shape(e), .q = e->buf.q, .cs = cs_of(e, l->kind), .sink = l->sink,
        .fresh = e->buf.fresh, .ring = kv->ring, .ring_bytes = kv->ring_bytes, .pool = kv->pool,
        .page_bytes = kv->page_bytes, .choice = l->kind == MDL_CSA ? e->buf.choice : NULL, .o = e->buf.o);
    TAP("attn.o", KN_BF16, e->buf.o, e->batch.n_tok, c->num_attention_heads, c->head_dim);
    RUN(window_store, .batch = &e->batch, .window = c->sliding_window, .kv = kv_shape(e), .fresh = e->buf.fresh,
        .ring = kv->ring, .ring_bytes = kv->ring_bytes);
    return eng__attn_output(e, layer);
}

/* ---- section 8: mixture of experts ---- */

/* The FFN of a set of experts over rows that are sorted by expert (offset), or of one expert over all rows (NULL). */
static int experts(struct eng *e, const struct kn_expert *expert, int n_expert, enum kn_dtype dtype,
                   const int32_t *offset, int n_row_max, struct kn_act x, const float *weight, uint16_t *y)
{
    const struct mdl_config *c = e->cfg;
    struct kn_act h = {dtype == KN_BF16 ? e->buf.h : NULL, e->buf.h_q, e->buf.h_s};

    RUN(moe_up, .n_row_max = n_row_max, .n_expert = n_expert, .d = c->hidden_size, .inter = c->moe_intermediate_size,
        .w_dtype = dtype, .limit = c->swiglu_limit, .expert = expert, .offset = offset, .x = x, .weight = weight,
        .h = h);
    RUN(moe_down, .n_row_max = n_row_max, .n_expert = n_expert, .d = c->hidden_size, .inter = c->moe_intermediate_size,
        .w_dtype = dtype, .expert = expert, .offset = offset, .h = h, .y = y);
    return 0;
}

int eng__ffn(struct eng *e, int layer)
{
    const struct mdl_config *c = e->cfg;
    const struct eng__layer *l = &e->w.layer[layer];
    int n = e->batch.n_tok, n_pair = n * c->num_experts_per_tok, rc;
    struct kn_act gx = {l->expert_dtype == KN_BF16 ? e->buf.gx : NULL, e->buf.gx_q, e->buf.gx_s};

    RUN(linear, .n = n, .factor = 1, .x = x_of(e), .w = l->gate, .y_dtype = KN_F32, .y = e->buf.gate);
    RUN(moe_route, .n_tok = n, .n_expert = c->n_routed_experts, .top_k = c->num_experts_per_tok,
        .scale = c->routed_scaling_factor, .logit = e->buf.gate, .bias = l->gate_bias, .tid2eid = l->tid2eid,
        .tok = e->batch.tok, .id = e->buf.id, .weight = e->buf.weight);
    TAP("router.ids", KN_I32, e->buf.id, n, c->num_experts_per_tok, 0);
    TAP("router.weights", KN_F32, e->buf.weight, n, c->num_experts_per_tok, 0);

    RUN(moe_dispatch, .n_tok = n, .d = c->hidden_size, .top_k = c->num_experts_per_tok, .first = 0,
        .n_local = c->n_routed_experts, .x = x_of(e), .id = e->buf.id, .weight = e->buf.weight,
        .offset = e->buf.offset, .place = e->buf.place, .gx = gx, .gw = e->buf.gw);
    if ((rc = experts(e, l->expert, c->n_routed_experts, l->expert_dtype, e->buf.offset, n_pair, gx, e->buf.gw,
                      e->buf.ey)) ||
        (rc = experts(e, l->shared, 1, l->shared_dtype, NULL, n, x_of(e), NULL, e->buf.shared)))
        return rc;
    TAP("ffn.shared", KN_BF16, e->buf.shared, n, c->hidden_size, 0);
    RUN(moe_combine, .n_tok = n, .d = c->hidden_size, .top_k = c->num_experts_per_tok, .id = e->buf.id,
        .place = e->buf.place, .y = e->buf.ey, .shared = e->buf.shared, .out = e->buf.y);
    TAP("ffn.out", KN_BF16, e->buf.y, n, c->hidden_size, 0);
    return 0;
}

/* ---- a layer, and the head ---- */

int eng__layer_run(struct eng *e, int layer)
{
    const struct mdl_config *c = e->cfg;
    const struct eng__layer *l = &e->w.layer[layer];
    int n = e->batch.n_tok, rc;

    if ((rc = hc_in(e, &l->hc_attn, l->attn_norm)))
        return rc;
    TAP("hc_attn.pre", KN_F32, e->buf.pre, n, c->hc_mult, 0);
    TAP("hc_attn.post", KN_F32, e->buf.post, n, c->hc_mult, 0);
    TAP("hc_attn.comb", KN_F32, e->buf.comb, n, c->hc_mult, c->hc_mult);
    TAP("attn.in", KN_BF16, e->buf.x, n, c->hidden_size, 0);
    if ((rc = attention(e, layer)) || (rc = hc_out(e)) || (rc = hc_in(e, &l->hc_ffn, l->ffn_norm)))
        return rc;
    TAP("hc_ffn.pre", KN_F32, e->buf.pre, n, c->hc_mult, 0);
    TAP("hc_ffn.post", KN_F32, e->buf.post, n, c->hc_mult, 0);
    TAP("hc_ffn.comb", KN_F32, e->buf.comb, n, c->hc_mult, c->hc_mult);
    TAP("ffn.in", KN_BF16, e->buf.x, n, c->hidden_size, 0);
    if ((rc = eng__ffn(e, layer)) || (rc = hc_out(e)))
        return rc;
    TAP("out", KN_BF16, e->buf.X, n, c->hc_mult, c->hidden_size);
    return 0;
}

int eng__head(struct eng *e, const int32_t *row, int n)
{
    const struct mdl_config *c = e->cfg;
    struct kn_act x = {.x = e->buf.head_x};

    RUN(hc_head, .n = n, .hc = c->hc_mult, .d = c->hidden_size, .hc_eps = c->hc_eps, .rms_eps = c->rms_norm_eps,
        .X = e->buf.X, .row = row, .fn = e->w.hc_head.fn, .base = e->w.hc_head.base, .scale = e->w.hc_head.scale,
        .norm = e->w.norm, .y = e->buf.head_x);
    RUN(linear, .n = n, .factor = 1, .x = x, .w = e->w.lm_head, .y_dtype = KN_F32, .y = e->buf.logits);
    return 0;
}
