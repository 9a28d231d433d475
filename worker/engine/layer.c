#include "worker/engine/impl.h"

#include "common/base/log.h"

#include <math.h>

/* Run one op of the table; leave the function on an error. */
#define RUN(op, ...)                                                                                \
    do {                                                                                            \
        int rc_ = r->ops->op(&r->ctx, &(struct kn_##op##_args){__VA_ARGS__});                       \
        if (rc_)                                                                                    \
            return failed(r, KN_OP_##op, rc_);                                                      \
        if (r->ep) /* a rank that still computes is waited for */                                   \
            atomic_fetch_add_explicit(&r->ep->beat, 1, memory_order_relaxed);                       \
    } while (0)

/* Show a tensor to the observer, if there is one. */
#define TAP(name, dtype, dev, ...)                                                                  \
    do {                                                                                            \
        if (r->tap)                                                                                 \
            eng__tap(r, layer, name, dtype, dev, __VA_ARGS__);                                      \
    } while (0)

static int failed(const struct eng__rank *r, enum kn_op op, int rc)
{
    log_error(engine, "op %s of back end %s: %s", kn_op_name(op), r->backend->name, err_name(rc));
    return rc;
}

static struct kn_act x_of(const struct eng__rank *r)
{
    return (struct kn_act){r->buf.x, r->buf.x_q, r->buf.x_s};
}

static struct kn_act qr_of(const struct eng__rank *r)
{
    return (struct kn_act){r->buf.qr, r->buf.qr_q, r->buf.qr_s};
}

static struct kn_kv_shape kv_shape(const struct eng__rank *r)
{
    return (struct kn_kv_shape){r->cfg->head_dim, r->cfg->qk_rope_head_dim};
}

/* cos and sin of the step's positions: first for window-only layers, then for compressed ones. */
static float *cs_of(const struct eng__rank *r, enum mdl_layer_kind kind)
{
    return r->buf.cs + (kind ? (size_t)r->eng->caps.step_tok_max * (size_t)r->cfg->qk_rope_head_dim : 0);
}

int eng__rope_angles(struct eng__rank *r)
{
    const struct kn_batch *b = &r->batch;
    int n_freq = r->cfg->qk_rope_head_dim / 2;

    RUN(rope_angles, .n_tok = b->n_tok, .n_freq = n_freq, .pos = b->row_pos, .freq = r->w.freq[0],
        .cs = cs_of(r, MDL_WINDOW));
    RUN(rope_angles, .n_tok = b->n_tok, .n_freq = n_freq, .pos = b->row_pos, .freq = r->w.freq[1],
        .cs = cs_of(r, MDL_CSA));
    return 0;
}

int eng__embed(struct eng__rank *r)
{
    RUN(embed, .n_tok = r->batch.n_tok, .hc = r->cfg->hc_mult, .d = r->cfg->hidden_size, .n_vocab = r->cfg->vocab_size,
        .tok = r->batch.tok, .table = r->w.embed.data, .X = r->buf.X);
    return 0;
}

/* ---- section 4: the way into a sublayer and out of it ---- */

static int hc_in(struct eng__rank *r, const struct eng__hc *hc, const float *norm)
{
    const struct mdl_config *c = r->cfg;

    RUN(hc_pre, .n_tok = r->batch.n_tok, .hc = c->hc_mult, .d = c->hidden_size, .sinkhorn_iters = c->hc_sinkhorn_iters,
        .hc_eps = c->hc_eps, .rms_eps = c->rms_norm_eps, .X = r->buf.X, .fn = hc->fn, .base = hc->base,
        .scale = hc->scale, .norm = norm, .pre = r->buf.pre, .post = r->buf.post, .comb = r->buf.comb, .y = x_of(r));
    return 0;
}

static int hc_out(struct eng__rank *r)
{
    RUN(hc_post, .n_tok = r->batch.n_tok, .hc = r->cfg->hc_mult, .d = r->cfg->hidden_size, .y = r->buf.y,
        .post = r->buf.post, .comb = r->buf.comb, .X = r->buf.X);
    return 0;
}

/* ---- section 5: attention ---- */

/* 5.1: queries; 5.2: raw entries. */
static int queries_and_entries(struct eng__rank *r, int layer)
{
    const struct mdl_config *c = r->cfg;
    const struct eng__layer *l = &r->w.layer[layer];
    int n = r->batch.n_tok;

    RUN(linear, .n = n, .factor = 1, .x = x_of(r), .w = l->wq_a, .y_dtype = KN_BF16, .y = r->buf.qr_raw);
    RUN(rmsnorm, .n = n, .k = c->q_lora_rank, .eps = c->rms_norm_eps, .x = r->buf.qr_raw, .weight = l->q_norm,
        .y = qr_of(r));
    RUN(linear, .n = n, .factor = 1, .x = qr_of(r), .w = l->wq_b, .y_dtype = KN_BF16, .y = r->buf.q);
    RUN(q_norm_rope, .n_tok = n, .n_head = c->num_attention_heads, .dim = c->head_dim, .rope = c->qk_rope_head_dim,
        .eps = c->rms_norm_eps, .cs = cs_of(r, l->kind), .q = r->buf.q);
    TAP("attn.q", KN_BF16, r->buf.q, n, c->num_attention_heads, c->head_dim);

    RUN(linear, .n = n, .factor = 1, .x = x_of(r), .w = l->wkv, .y_dtype = KN_BF16, .y = r->buf.kv_raw);
    RUN(kv_norm_rope, .n_tok = n, .kv = kv_shape(r), .eps = c->rms_norm_eps, .x = r->buf.kv_raw, .weight = l->kv_norm,
        .cs = cs_of(r, l->kind), .page = r->buf.fresh);
    if (r->tap)
        eng__tap_kv(r, layer, "attn.kv", r->buf.fresh, n);
    return 0;
}

/* 6: entries of one compressor, of dim values each. */
static int compress(struct eng__rank *r, int layer, const struct eng__compressor *m, int32_t dim, bool is_index)
{
    const struct mdl_config *c = r->cfg;
    const struct wrk_kv_layer *kv = &r->kv.layer[layer];
    int n = r->batch.n_tok;

    RUN(linear, .n = n, .factor = 1, .x = x_of(r), .w = m->wkv, .y_dtype = KN_F32, .y = r->buf.ck);
    RUN(linear, .n = n, .factor = 1, .x = x_of(r), .w = m->wgate, .y_dtype = KN_F32, .y = r->buf.cg);
    RUN(compress, .batch = &r->batch, .ratio = r->w.layer[layer].kind, .dim = dim, .rope = c->qk_rope_head_dim,
        .is_index = is_index, .eps = c->rms_norm_eps, .k = r->buf.ck, .g = r->buf.cg, .ape = m->ape, .norm = m->norm,
        .freq = r->w.freq[1], .tail = is_index ? kv->index_tail : kv->tail,
        .pool = is_index ? kv->index_pool : kv->pool, .page_bytes = is_index ? kv->index_page_bytes : kv->page_bytes);
    if (r->tap)
        eng__tap_entries(r, layer, is_index ? "index.kv" : "attn.compressed", is_index);
    return 0;
}

/* 7: the lightning indexer chooses the compressed entries that each row attends to. */
static int indexer(struct eng__rank *r, int layer)
{
    const struct mdl_config *c = r->cfg;
    const struct eng__layer *l = &r->w.layer[layer];
    const struct wrk_kv_layer *kv = &r->kv.layer[layer];
    int n = r->batch.n_tok;
    float factor = (float)(pow(c->index_head_dim, -0.5) * pow(c->index_n_heads, -0.5)); /* 128^-1/2 * 64^-1/2 */

    RUN(linear, .n = n, .factor = 1, .x = qr_of(r), .w = l->index_wq_b, .y_dtype = KN_BF16, .y = r->buf.iq_raw);
    RUN(index_query, .n_tok = n, .n_head = c->index_n_heads, .dim = c->index_head_dim, .rope = c->qk_rope_head_dim,
        .q = r->buf.iq_raw, .cs = cs_of(r, l->kind), .page = r->buf.iq);
    if (r->tap)
        eng__tap_index(r, layer, "index.q", r->buf.iq, n, c->index_n_heads);
    RUN(linear, .n = n, .factor = factor, .x = x_of(r), .w = l->index_proj, .y_dtype = KN_BF16, .y = r->buf.iw);
    TAP("index.w", KN_BF16, r->buf.iw, n, c->index_n_heads, 0);
    RUN(index_topk, .batch = &r->batch, .ratio = l->kind, .n_head = c->index_n_heads, .dim = c->index_head_dim,
        .top_k = c->index_topk, .q_page = r->buf.iq, .w = r->buf.iw, .pool = kv->index_pool,
        .page_bytes = kv->index_page_bytes, .choice = r->buf.choice, .score = r->tap_score,
        .score_stride = r->tap_score_stride);
    if (r->tap_score)
        TAP("index.scores", KN_F32, r->tap_score, n, r->tap_score_stride, 0);
    TAP("index.choice", KN_I32, r->buf.choice, n, c->index_topk, 0);
    return 0;
}

int eng__attn_output(struct eng__rank *r, int layer)
{
    const struct eng__layer *l = &r->w.layer[layer];
    struct kn_act mid = {r->buf.mid, r->buf.mid_q, r->buf.mid_s};
    int n = r->batch.n_tok;

    RUN(linear_group, .n = n, .n_group = r->cfg->o_groups, .x = r->buf.o, .w = l->wo_a, .y = mid);
    RUN(linear, .n = n, .factor = 1, .x = mid, .w = l->wo_b, .y_dtype = KN_BF16, .y = r->buf.y);
    TAP("attn.out", KN_BF16, r->buf.y, n, r->cfg->hidden_size, 0);
    return 0;
}

/* buf.x -> buf.y */
static int attention(struct eng__rank *r, int layer)
{
    const struct mdl_config *c = r->cfg;
    const struct eng__layer *l = &r->w.layer[layer];
    const struct wrk_kv_layer *kv = &r->kv.layer[layer];
    int rc;

    if ((rc = queries_and_entries(r, layer)))
        return rc;
    if (l->kind != MDL_WINDOW && (rc = compress(r, layer, &l->compressor, c->head_dim, false)))
        return rc;
    if (l->kind == MDL_CSA && ((rc = compress(r, layer, &l->index_compressor, c->index_head_dim, true)) ||
                               (rc = indexer(r, layer))))
        return rc;
    RUN(attend, .batch = &r->batch, .n_head = c->num_attention_heads, .window = c->sliding_window, .ratio = l->kind,
        .top_k = c->index_topk, .kv = kv_shape(r), .q = r->buf.q, .cs = cs_of(r, l->kind), .sink = l->sink,
        .fresh = r->buf.fresh, .ring = kv->ring, .ring_bytes = kv->ring_bytes, .pool = kv->pool,
        .page_bytes = kv->page_bytes, .choice = l->kind == MDL_CSA ? r->buf.choice : NULL, .o = r->buf.o);
    TAP("attn.o", KN_BF16, r->buf.o, r->batch.n_tok, c->num_attention_heads, c->head_dim);
    RUN(window_store, .batch = &r->batch, .window = c->sliding_window, .kv = kv_shape(r), .fresh = r->buf.fresh,
        .ring = kv->ring, .ring_bytes = kv->ring_bytes);
    return eng__attn_output(r, layer);
}

/* ---- section 8: mixture of experts ---- */

/* The FFN of a set of experts over rows that are sorted by expert (offset), or of one expert over all rows (NULL). */
static int experts(struct eng__rank *r, const struct kn_expert *expert, int n_expert, enum kn_dtype dtype,
                   const int32_t *offset, int n_row_max, struct kn_act x, const float *weight, uint16_t *y)
{
    const struct mdl_config *c = r->cfg;
    struct kn_act h = {dtype == KN_BF16 ? r->buf.h : NULL, r->buf.h_q, r->buf.h_s};

    RUN(moe_up, .n_row_max = n_row_max, .n_expert = n_expert, .d = c->hidden_size, .inter = c->moe_intermediate_size,
        .w_dtype = dtype, .limit = c->swiglu_limit, .expert = expert, .offset = offset, .x = x, .weight = weight,
        .h = h);
    RUN(moe_down, .n_row_max = n_row_max, .n_expert = n_expert, .d = c->hidden_size, .inter = c->moe_intermediate_size,
        .w_dtype = dtype, .expert = expert, .offset = offset, .h = h, .y = y);
    return 0;
}

static int route(struct eng__rank *r, int layer)
{
    const struct mdl_config *c = r->cfg;
    const struct eng__layer *l = &r->w.layer[layer];
    int n = r->batch.n_tok;

    RUN(linear, .n = n, .factor = 1, .x = x_of(r), .w = l->gate, .y_dtype = KN_F32, .y = r->buf.gate);
    RUN(moe_route, .n_tok = n, .n_expert = c->n_routed_experts, .top_k = c->num_experts_per_tok,
        .scale = c->routed_scaling_factor, .logit = r->buf.gate, .bias = l->gate_bias, .tid2eid = l->tid2eid,
        .tok = r->batch.tok, .id = r->buf.id, .weight = r->buf.weight);
    TAP("router.ids", KN_I32, r->buf.id, n, c->num_experts_per_tok, 0);
    TAP("router.weights", KN_F32, r->buf.weight, n, c->num_experts_per_tok, 0);
    return 0;
}

/* The rank's pairs, sorted by expert of the whole model. */
static struct kn_act pairs_of(const struct eng__rank *r, const struct eng__layer *l)
{
    return (struct kn_act){l->expert_dtype == KN_BF16 ? r->buf.gx : NULL, r->buf.gx_q, r->buf.gx_s};
}

/* The sorted pairs through their experts, gx -> ey. With several ranks each pair goes to its expert's owner and back
 * to its place (ep/ep.h). */
static int routed(struct eng__rank *r, int layer, struct err *err)
{
    const struct mdl_config *c = r->cfg;
    const struct eng__layer *l = &r->w.layer[layer];
    struct kn_act gx = pairs_of(r, l);
    int rc;

    if (!r->ep)
        return experts(r, l->expert, r->n_expert, l->expert_dtype, r->buf.offset,
                       r->batch.n_tok * c->num_experts_per_tok, gx, r->buf.gw, r->buf.ey);
    struct kn_act own = {gx.x ? r->buf.own_x : NULL, r->buf.own_q, r->buf.own_s};
    struct eng_ep_dispatch_args out = {.layer = layer, .d = c->hidden_size, .offset = r->buf.offset, .x = gx,
                                       .weight = r->buf.gw, .own_offset = r->buf.own_offset, .own_x = own,
                                       .own_weight = r->buf.own_w};
    struct eng_ep_combine_args back = {.layer = layer, .d = c->hidden_size, .own_y = r->buf.own_y, .y = r->buf.ey};
    if ((rc = r->ep->ops->dispatch(r->ep, &out, err)) ||
        (rc = experts(r, l->expert, r->n_expert, l->expert_dtype, r->buf.own_offset, r->n_own_row_max, own,
                      r->buf.own_w, r->buf.own_y)))
        return rc;
    return r->ep->ops->combine(r->ep, &back, err);
}

int eng__ffn(struct eng__rank *r, int layer, struct err *err)
{
    const struct mdl_config *c = r->cfg;
    const struct eng__layer *l = &r->w.layer[layer];
    int n = r->batch.n_tok, rc;

    if ((rc = route(r, layer)))
        return rc;
    RUN(moe_dispatch, .n_tok = n, .d = c->hidden_size, .top_k = c->num_experts_per_tok, .first = 0,
        .n_local = c->n_routed_experts, .x = x_of(r), .id = r->buf.id, .weight = r->buf.weight,
        .offset = r->buf.offset, .place = r->buf.place, .gx = pairs_of(r, l), .gw = r->buf.gw);
    if ((rc = experts(r, l->shared, 1, l->shared_dtype, NULL, n, x_of(r), NULL, r->buf.shared)) ||
        (rc = routed(r, layer, err)))
        return rc;
    TAP("ffn.shared", KN_BF16, r->buf.shared, n, c->hidden_size, 0);
    RUN(moe_combine, .n_tok = n, .d = c->hidden_size, .top_k = c->num_experts_per_tok, .id = r->buf.id,
        .place = r->buf.place, .y = r->buf.ey, .shared = r->buf.shared, .out = r->buf.y);
    TAP("ffn.out", KN_BF16, r->buf.y, n, c->hidden_size, 0);
    return 0;
}

/* ---- a layer, and the head ---- */

int eng__layer_run(struct eng__rank *r, int layer, struct err *err)
{
    const struct mdl_config *c = r->cfg;
    const struct eng__layer *l = &r->w.layer[layer];
    int n = r->batch.n_tok, rc;

    if ((rc = hc_in(r, &l->hc_attn, l->attn_norm)))
        return rc;
    TAP("hc_attn.pre", KN_F32, r->buf.pre, n, c->hc_mult, 0);
    TAP("hc_attn.post", KN_F32, r->buf.post, n, c->hc_mult, 0);
    TAP("hc_attn.comb", KN_F32, r->buf.comb, n, c->hc_mult, c->hc_mult);
    TAP("attn.in", KN_BF16, r->buf.x, n, c->hidden_size, 0);
    if ((rc = attention(r, layer)) || (rc = hc_out(r)) || (rc = hc_in(r, &l->hc_ffn, l->ffn_norm)))
        return rc;
    TAP("hc_ffn.pre", KN_F32, r->buf.pre, n, c->hc_mult, 0);
    TAP("hc_ffn.post", KN_F32, r->buf.post, n, c->hc_mult, 0);
    TAP("hc_ffn.comb", KN_F32, r->buf.comb, n, c->hc_mult, c->hc_mult);
    TAP("ffn.in", KN_BF16, r->buf.x, n, c->hidden_size, 0);
    if ((rc = eng__ffn(r, layer, err)) || (rc = hc_out(r)))
        return rc;
    TAP("out", KN_BF16, r->buf.X, n, c->hc_mult, c->hidden_size);
    return 0;
}

int eng__head(struct eng__rank *r, const int32_t *row, int n)
{
    const struct mdl_config *c = r->cfg;
    struct kn_act x = {.x = r->buf.head_x};

    RUN(hc_head, .n = n, .hc = c->hc_mult, .d = c->hidden_size, .hc_eps = c->hc_eps, .rms_eps = c->rms_norm_eps,
        .X = r->buf.X, .row = row, .fn = r->w.hc_head.fn, .base = r->w.hc_head.base, .scale = r->w.hc_head.scale,
        .norm = r->w.norm, .y = r->buf.head_x);
    RUN(linear, .n = n, .factor = 1, .x = x, .w = r->w.lm_head, .y_dtype = KN_F32, .y = r->buf.logits);
    return 0;
}
