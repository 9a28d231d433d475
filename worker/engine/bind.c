#include "worker/engine/impl.h"
#include "worker/engine/rope.h"

#include "common/base/check.h"
#include "common/mem/mem.h"

/* Maps matrices until the first error; then nothing more is done. */
struct binder {
    struct eng__rank *r;
    struct err *err;
    int rc;
};

static enum kn_dtype dtype_of(enum mdl_matrix_kind kind)
{
    switch (kind) {
    case MDL_MATRIX_BF16:
        return KN_BF16;
    case MDL_MATRIX_F32:
        return KN_F32;
    case MDL_MATRIX_FP8:
        return KN_FP8;
    case MDL_MATRIX_FP4:
        return KN_FP4;
    case MDL_MATRIX_NONE:
        break;
    }
    BUG("a matrix that is not there");
}

static struct kn_mat map(struct binder *b, const struct kn_mat *host)
{
    struct kn_mat dev = {0};

    if (b->rc == 0)
        b->rc = b->r->backend->device->map_weights(&b->r->ctx, host, &dev);
    if (b->rc < 0 && b->err->code == 0)
        err_set(b->err, b->rc, "back end %s: no memory for the weights", b->r->backend->name);
    return dev;
}

static struct kn_mat matrix(struct binder *b, const struct mdl_matrix *m)
{
    struct kn_mat host = {dtype_of(m->kind), (int32_t)m->out, (int32_t)m->in, m->data, m->scale};
    return map(b, &host);
}

static const void *table(struct binder *b, enum kn_dtype dtype, const void *data, int64_t n_out, int64_t n_in)
{
    struct kn_mat host = {dtype, (int32_t)n_out, (int32_t)n_in, data, NULL};
    return data ? map(b, &host).data : NULL;
}

static const float *vector(struct binder *b, const float *data, int64_t n)
{
    return table(b, KN_F32, data, 1, n);
}

static struct eng__hc hc(struct binder *b, const struct mdl_hc *h)
{
    struct eng__hc out = {.fn = matrix(b, &h->fn)};
    out.base = vector(b, h->base, h->fn.out);
    out.scale = vector(b, h->scale, h->fn.out == b->r->cfg->hc_mult ? 1 : 3);
    return out;
}

static struct eng__compressor compressor(struct binder *b, const struct mdl_compressor *m, enum mdl_layer_kind kind,
                                         int32_t dim)
{
    struct eng__compressor out = {.wkv = matrix(b, &m->wkv), .wgate = matrix(b, &m->wgate)};
    out.ape = table(b, KN_F32, m->ape, kind, m->wkv.out);
    out.norm = vector(b, m->norm, dim);
    return out;
}

static struct kn_expert expert(struct binder *b, const struct mdl_expert *m)
{
    return (struct kn_expert){.w1 = matrix(b, &m->w1), .w3 = matrix(b, &m->w3), .w2 = matrix(b, &m->w2)};
}

static bool is_all_of(const struct mdl_expert *m, enum mdl_matrix_kind kind)
{
    return m->w1.kind == kind && m->w3.kind == kind && m->w2.kind == kind;
}

static void attention(struct binder *b, const struct mdl_layer *m, struct eng__layer *l)
{
    const struct mdl_config *c = b->r->cfg;
    const struct mdl_attn *a = &m->attn;

    l->wq_a = matrix(b, &a->wq_a);
    l->wq_b = matrix(b, &a->wq_b);
    l->wkv = matrix(b, &a->wkv);
    l->wo_a = matrix(b, &a->wo_a);
    l->wo_b = matrix(b, &a->wo_b);
    l->q_norm = vector(b, a->q_norm, c->q_lora_rank);
    l->kv_norm = vector(b, a->kv_norm, c->head_dim);
    l->sink = vector(b, a->sink, c->num_attention_heads);
    if (m->kind != MDL_WINDOW)
        l->compressor = compressor(b, &a->compressor, m->kind, c->head_dim);
    if (m->kind == MDL_CSA) {
        l->index_compressor = compressor(b, &a->indexer.compressor, m->kind, c->index_head_dim);
        l->index_wq_b = matrix(b, &a->indexer.wq_b);
        l->index_proj = matrix(b, &a->indexer.weights_proj);
    }
}

/* The rank's routed experts of the layer and the shared one go to out [n_expert + 1] (host; the caller uploads it). */
static void ffn(struct binder *b, int layer, const struct mdl_layer *m, struct eng__layer *l, struct kn_expert *out)
{
    const struct mdl_config *c = b->r->cfg;

    l->gate = matrix(b, &m->gate.weight);
    l->gate_bias = vector(b, m->gate.bias, c->n_routed_experts);
    l->tid2eid = table(b, KN_I32, m->gate.tid2eid, c->vocab_size, c->num_experts_per_tok);
    for (int32_t i = 0; i <= c->n_routed_experts; i++) {
        const struct mdl_expert *x = i < c->n_routed_experts ? &m->expert[i] : &m->shared;
        enum mdl_matrix_kind kind = i < c->n_routed_experts ? m->expert[0].w1.kind : m->shared.w1.kind;
        if (!is_all_of(x, kind) && b->rc == 0)
            b->rc = err_set(b->err, ERR_UNSUPPORTED, "layers.%d: expert matrices of different kinds in one layer; "
                            "all must be %s like w1 of the first", layer, mdl_matrix_kind_name(kind));
        if (i >= b->r->expert_first && i < b->r->expert_first + b->r->n_expert)
            out[i - b->r->expert_first] = expert(b, x);
    }
    out[b->r->n_expert] = expert(b, &m->shared);
    l->expert_dtype = dtype_of(m->expert[0].w1.kind);
    l->shared_dtype = dtype_of(m->shared.w1.kind);
}

/* Rotary frequencies of both layer kinds, in one upload. */
static int frequencies(struct eng__rank *r)
{
    const struct kn_device *dev = r->backend->device;
    size_t n = (size_t)r->cfg->qk_rope_head_dim / 2;
    float *host = mem_array(2 * n, sizeof *host);
    void *mem = NULL;

    eng__rope_freqs(r->cfg, false, host);
    eng__rope_freqs(r->cfg, true, host + n);
    int rc = dev->alloc(&r->ctx, 2 * n * sizeof *host, &mem);
    if (rc == 0) {
        r->w.freq_mem = mem;
        r->w.freq[0] = r->w.freq_mem;
        r->w.freq[1] = r->w.freq_mem + n;
        rc = dev->copy_in(&r->ctx, mem, host, 2 * n * sizeof *host);
    }
    mem_free(host);
    return rc;
}

int eng__weights_bind(struct eng__rank *r, const struct mdl_weights *w, struct err *err)
{
    const struct kn_device *dev = r->backend->device;
    struct err why = {0};
    struct binder b = {r, &why, 0};
    size_t per_layer = (size_t)r->n_expert + 1, n_layer = (size_t)r->cfg->num_hidden_layers;
    struct kn_expert *expert = mem_array(per_layer * n_layer, sizeof *expert);
    void *mem = NULL;

    r->w.embed = matrix(&b, &w->embed);
    r->w.lm_head = matrix(&b, &w->lm_head);
    r->w.hc_head = hc(&b, &w->head.hc);
    r->w.norm = vector(&b, w->head.norm, r->cfg->hidden_size);
    r->w.layer = mem_array(n_layer, sizeof *r->w.layer);
    if (b.rc == 0 && (b.rc = dev->alloc(&r->ctx, per_layer * n_layer * sizeof *expert, &mem)) == 0)
        r->w.expert = mem;
    for (size_t i = 0; i < n_layer && b.rc == 0; i++) {
        const struct mdl_layer *m = &w->layer[i];
        struct eng__layer *l = &r->w.layer[i];
        l->kind = m->kind;
        l->hc_attn = hc(&b, &m->hc_attn);
        l->hc_ffn = hc(&b, &m->hc_ffn);
        l->attn_norm = vector(&b, m->attn_norm, r->cfg->hidden_size);
        l->ffn_norm = vector(&b, m->ffn_norm, r->cfg->hidden_size);
        attention(&b, m, l);
        ffn(&b, (int)i, m, l, expert + i * per_layer);
        l->expert = r->w.expert + i * per_layer;
        l->shared = l->expert + per_layer - 1;
    }
    if (b.rc == 0)
        b.rc = dev->copy_in(&r->ctx, r->w.expert, expert, per_layer * n_layer * sizeof *expert);
    if (b.rc == 0)
        b.rc = frequencies(r);
    mem_free(expert);
    if (b.rc && why.code == 0)
        return err_set(err, b.rc, "back end %s: no memory for the tables of the weights", r->backend->name);
    if (b.rc)
        return err_set(err, b.rc, "%s", why.text);
    return 0;
}

void eng__weights_release(struct eng__rank *r)
{
    r->backend->device->release(&r->ctx, r->w.freq_mem);
    r->backend->device->release(&r->ctx, r->w.expert);
    mem_free(r->w.layer);
    r->w = (struct eng__weights){0};
}
