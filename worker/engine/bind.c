#include "worker/engine/impl.h"
#include "worker/engine/rope.h"

#include "common/base/check.h"
#include "common/mem/mem.h"

/* Maps matrices until the first error; then nothing more is done. */
struct binder {
    struct eng *e;
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
        b->rc = b->e->backend->device->map_weights(&b->e->ctx, host, &dev);
    if (b->rc < 0 && b->err->code == 0)
        err_set(b->err, b->rc, "back end %s: no memory for the weights", b->e->backend->name);
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
    out.scale = vector(b, h->scale, h->fn.out == b->e->cfg->hc_mult ? 1 : 3);
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
    const struct mdl_config *c = b->e->cfg;
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

/* Routed experts of the layer and the shared one go to out [n_routed_experts + 1] (host; the caller uploads it). */
static void ffn(struct binder *b, int layer, const struct mdl_layer *m, struct eng__layer *l, struct kn_expert *out)
{
    const struct mdl_config *c = b->e->cfg;

    l->gate = matrix(b, &m->gate.weight);
    l->gate_bias = vector(b, m->gate.bias, c->n_routed_experts);
    l->tid2eid = table(b, KN_I32, m->gate.tid2eid, c->vocab_size, c->num_experts_per_tok);
    for (int32_t i = 0; i <= c->n_routed_experts; i++) {
        const struct mdl_expert *x = i < c->n_routed_experts ? &m->expert[i] : &m->shared;
        enum mdl_matrix_kind kind = i < c->n_routed_experts ? m->expert[0].w1.kind : m->shared.w1.kind;
        if (!is_all_of(x, kind) && b->rc == 0)
            b->rc = err_set(b->err, ERR_UNSUPPORTED, "layers.%d: expert matrices of different kinds in one layer; "
                            "all must be %s like w1 of the first", layer, mdl_matrix_kind_name(kind));
        out[i] = expert(b, x);
    }
    l->expert_dtype = dtype_of(m->expert[0].w1.kind);
    l->shared_dtype = dtype_of(m->shared.w1.kind);
}

/* Rotary frequencies of both layer kinds, in one upload. */
static int frequencies(struct eng *e)
{
    const struct kn_device *dev = e->backend->device;
    size_t n = (size_t)e->cfg->qk_rope_head_dim / 2;
    float *host = mem_array(2 * n, sizeof *host);
    void *mem = NULL;

    eng__rope_freqs(e->cfg, false, host);
    eng__rope_freqs(e->cfg, true, host + n);
    int rc = dev->alloc(&e->ctx, 2 * n * sizeof *host, &mem);
    if (rc == 0) {
        e->w.freq_mem = mem;
        e->w.freq[0] = e->w.freq_mem;
        e->w.freq[1] = e->w.freq_mem + n;
        rc = dev->copy_in(&e->ctx, mem, host, 2 * n * sizeof *host);
    }
    mem_free(host);
    return rc;
}

int eng__weights_bind(struct eng *e, const struct mdl_weights *w, struct err *err)
{
    const struct kn_device *dev = e->backend->device;
    struct err why = {0};
    struct binder b = {e, &why, 0};
    size_t per_layer = (size_t)e->cfg->n_routed_experts + 1, n_layer = (size_t)e->cfg->num_hidden_layers;
    struct kn_expert *expert = mem_array(per_layer * n_layer, sizeof *expert);
    void *mem = NULL;

    e->w.embed = matrix(&b, &w->embed);
    e->w.lm_head = matrix(&b, &w->lm_head);
    e->w.hc_head = hc(&b, &w->head.hc);
    e->w.norm = vector(&b, w->head.norm, e->cfg->hidden_size);
    e->w.layer = mem_array(n_layer, sizeof *e->w.layer);
    if (b.rc == 0 && (b.rc = dev->alloc(&e->ctx, per_layer * n_layer * sizeof *expert, &mem)) == 0)
        e->w.expert = mem;
    for (size_t i = 0; i < n_layer && b.rc == 0; i++) {
        const struct mdl_layer *m = &w->layer[i];
        struct eng__layer *l = &e->w.layer[i];
        l->kind = m->kind;
        l->hc_attn = hc(&b, &m->hc_attn);
        l->hc_ffn = hc(&b, &m->hc_ffn);
        l->attn_norm = vector(&b, m->attn_norm, e->cfg->hidden_size);
        l->ffn_norm = vector(&b, m->ffn_norm, e->cfg->hidden_size);
        attention(&b, m, l);
        ffn(&b, (int)i, m, l, expert + i * per_layer);
        l->expert = e->w.expert + i * per_layer;
        l->shared = l->expert + per_layer - 1;
    }
    if (b.rc == 0)
        b.rc = dev->copy_in(&e->ctx, e->w.expert, expert, per_layer * n_layer * sizeof *expert);
    if (b.rc == 0)
        b.rc = frequencies(e);
    mem_free(expert);
    if (b.rc && why.code == 0)
        return err_set(err, b.rc, "back end %s: no memory for the tables of the weights", e->backend->name);
    if (b.rc)
        return err_set(err, b.rc, "%s", why.text);
    return 0;
}

void eng__weights_release(struct eng *e)
{
    e->backend->device->release(&e->ctx, e->w.freq_mem);
    e->backend->device->release(&e->ctx, e->w.expert);
    mem_free(e->w.layer);
    e->w = (struct eng__weights){0};
}
