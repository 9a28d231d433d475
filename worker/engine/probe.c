#include "worker/engine/impl.h"

#include "common/base/check.h"
#include "common/mem/mem.h"

void eng_tap_set(struct eng *e, const struct eng_tap *tap)
{
    ASSERT(e->caps.n_ranks == 1);
    e->rank[0].tap = tap;
}

/* ---- device tensor -> observer ---- */

static void show(struct eng__rank *r, int layer, struct eng_tensor t)
{
    t.n_dim = t.dim[1] == 0 ? 1 : t.dim[2] == 0 ? 2 : 3;
    r->tap->on_tensor(r->tap->arg, layer, &t);
}

/* Bytes of the device as a host copy (mem_free); queued work is finished first. */
static void *fetch(struct eng__rank *r, const void *dev, size_t bytes)
{
    void *host = mem_alloc(bytes + 1);
    if (r->backend->device->copy_out(&r->ctx, host, dev, bytes) || r->backend->device->sync(&r->ctx))
        BUG("a probe could not read the device");
    return host;
}

void eng__tap(struct eng__rank *r, int layer, const char *name, enum kn_dtype dtype, const void *dev, int64_t d0,
              int64_t d1, int64_t d2)
{
    size_t bytes = (size_t)d0 * (size_t)(d1 ? d1 : 1) * (size_t)(d2 ? d2 : 1) * (dtype == KN_BF16 ? 2 : 4);
    enum mdl_dtype shown = dtype == KN_BF16 ? MDL_BF16 : dtype == KN_F32 ? MDL_F32 : MDL_I32;
    void *host = fetch(r, dev, bytes);

    ASSERT(dtype == KN_BF16 || dtype == KN_F32 || dtype == KN_I32);
    show(r, layer, (struct eng_tensor){.name = name, .dtype = shown, .dim = {d0, d1, d2}, .data = host});
    mem_free(host);
}

static void to_bf16(const double *x, int32_t n, uint16_t *out)
{
    for (int32_t i = 0; i < n; i++)
        out[i] = kn_f32_bf16((float)x[i]);
}

void eng__tap_kv(struct eng__rank *r, int layer, const char *name, const uint8_t *page, int64_t n)
{
    struct kn_kv_shape shape = {r->cfg->head_dim, r->cfg->qk_rope_head_dim};
    uint8_t *host = fetch(r, page, kn_kv_page_bytes(shape, n));
    uint16_t *out = mem_array((size_t)(n * shape.dim), sizeof *out);
    double *x = mem_array((size_t)shape.dim, sizeof *x);

    for (int64_t i = 0; i < n; i++) {
        kn_kv_get(host, shape, n, i, x);
        to_bf16(x, shape.dim, out + i * shape.dim);
    }
    show(r, layer, (struct eng_tensor){.name = name, .dtype = MDL_BF16, .dim = {n, shape.dim, 0}, .data = out});
    mem_free(x);
    mem_free(out);
    mem_free(host);
}

void eng__tap_index(struct eng__rank *r, int layer, const char *name, const uint8_t *page, int64_t n_row,
                    int64_t n_head)
{
    int32_t dim = r->cfg->index_head_dim;
    int64_t n = n_row * n_head;
    uint8_t *host = fetch(r, page, kn_index_page_bytes(dim, n));
    uint16_t *out = mem_array((size_t)(n * dim), sizeof *out);
    double *x = mem_array((size_t)dim, sizeof *x);

    for (int64_t i = 0; i < n; i++) {
        kn_index_get(host, dim, n, i, x);
        to_bf16(x, dim, out + i * dim);
    }
    show(r, layer, (struct eng_tensor){.name = name, .dtype = MDL_BF16, .dim = {n_row, n_head, dim}, .data = out});
    mem_free(x);
    mem_free(out);
    mem_free(host);
}

void eng__tap_entries(struct eng__rank *r, int layer, const char *name, bool is_index)
{
    const struct wrk_kv_layer *kv = &r->kv.layer[layer];
    struct kn_kv_shape shape = {r->cfg->head_dim, r->cfg->qk_rope_head_dim};
    int32_t ratio = r->w.layer[layer].kind, per_page = KN_BLOCK_TOK / ratio;
    int32_t dim = is_index ? r->cfg->index_head_dim : r->cfg->head_dim;
    size_t page_bytes = is_index ? kv->index_page_bytes : kv->page_bytes;
    const uint8_t *pool = is_index ? kv->index_pool : kv->pool;
    /* Probes run one sequence; its numbers are on the host. */
    int32_t slot = r->input[4 * r->batch.n_tok];
    int64_t n = (r->batch.pos_max + 1) / ratio;
    uint16_t *out = mem_array((size_t)(n * dim) + 1, sizeof *out);
    double *x = mem_array((size_t)dim, sizeof *x);
    uint8_t *page = NULL;

    ASSERT(r->batch.n_seq == 1);
    for (int64_t i = 0; i < n; i++) {
        if (i % per_page == 0) {
            int64_t block = r->kv.host_block[(int64_t)slot * r->kv.block_stride + i / per_page];
            mem_free(page);
            page = fetch(r, pool + (size_t)block * page_bytes, page_bytes);
        }
        if (is_index)
            kn_index_get(page, dim, per_page, i % per_page, x);
        else
            kn_kv_get(page, shape, per_page, i % per_page, x);
        to_bf16(x, dim, out + i * dim);
    }
    show(r, layer, (struct eng_tensor){.name = name, .dtype = MDL_BF16, .dim = {n, dim, 0}, .data = out});
    mem_free(page);
    mem_free(x);
    mem_free(out);
}

/* ---- parts of the model alone ---- */

/* A step of one new sequence is under way: e->batch is set, the sequence is open. */
static int begin(struct eng *e, const int32_t *tok, int n_tok, struct eng_seq **seq, struct err *err)
{
    int rc;

    ASSERT(n_tok >= 1);
    ASSERT(n_tok <= e->caps.step_tok_max);
    if (e->caps.n_ranks != 1)
        return err_set(err, ERR_UNSUPPORTED, "parts of the model alone run on one rank, not on %d", e->caps.n_ranks);
    if ((rc = eng_seq_open(e, seq, err)))
        return rc;
    if ((rc = eng_seq_reserve(e, *seq, n_tok, err)) == 0) {
        struct eng_item item = {.seq = *seq, .tok = tok, .n_tok = n_tok};
        rc = eng__batch_set(&e->rank[0], &item, 1);
        if (rc == 0)
            rc = eng__rope_angles(&e->rank[0]);
        if (rc)
            err_set(err, rc, "the step could not be prepared");
    }
    if (rc)
        eng_seq_close(e, seq);
    return rc;
}

static int copy_back(struct eng__rank *r, void *host, const void *dev, size_t bytes)
{
    int rc = r->backend->device->copy_out(&r->ctx, host, dev, bytes);
    return rc ? rc : r->backend->device->sync(&r->ctx);
}

int eng_layer_alone(struct eng *e, int layer, uint16_t *x, const int32_t *tok, int n_tok, struct err *err)
{
    const struct kn_device *dev = e->backend->device;
    size_t bytes = (size_t)n_tok * (size_t)e->cfg->hc_mult * (size_t)e->cfg->hidden_size * sizeof *x;
    int32_t n_entry = n_tok / MDL_CSA;
    struct eng__rank *r = &e->rank[0];
    struct eng_seq *seq = NULL;
    void *score = NULL;
    int rc;

    ASSERT(layer >= 0);
    ASSERT(layer < e->cfg->num_hidden_layers);
    if ((rc = begin(e, tok, n_tok, &seq, err)))
        return rc;
    if (r->tap && r->w.layer[layer].kind == MDL_CSA && n_entry > 0) {
        if ((rc = dev->alloc(&r->ctx, (size_t)n_tok * (size_t)n_entry * sizeof(float), &score)))
            goto out;
        r->tap_score = score;
        r->tap_score_stride = n_entry;
    }
    if ((rc = dev->copy_in(&r->ctx, r->buf.X, x, bytes)) || (rc = eng__layer_run(r, layer, err)))
        goto out;
    rc = copy_back(r, x, r->buf.X, bytes);
out:
    if (rc)
        err_set(err, rc, "layer %d failed on back end %s", layer, e->backend->name);
    dev->release(&r->ctx, score);
    r->tap_score = NULL;
    r->tap_score_stride = 0;
    eng_seq_close(e, &seq);
    return rc;
}

int eng_ffn_alone(struct eng *e, int layer, uint16_t *x, const int32_t *tok, int n_tok, struct err *err)
{
    size_t bytes = (size_t)n_tok * (size_t)e->cfg->hidden_size * sizeof *x;
    struct eng__rank *r = &e->rank[0];
    struct kn_act_quant_args quant = {n_tok, e->cfg->hidden_size, {r->buf.x, r->buf.x_q, r->buf.x_s}};
    struct eng_seq *seq = NULL;
    int rc;

    if ((rc = begin(e, tok, n_tok, &seq, err)))
        return rc;
    if ((rc = r->backend->device->copy_in(&r->ctx, r->buf.x, x, bytes)) || (rc = r->ops->act_quant(&r->ctx, &quant)) ||
        (rc = eng__ffn(r, layer, err)) || (rc = copy_back(r, x, r->buf.y, bytes)))
        err_set(err, rc, "the FFN of layer %d failed on back end %s", layer, e->backend->name);
    eng_seq_close(e, &seq);
    return rc;
}

int eng_attn_output_alone(struct eng *e, int layer, const uint16_t *o, int n_tok, uint16_t *y, struct err *err)
{
    const struct mdl_config *c = e->cfg;
    size_t o_bytes = (size_t)n_tok * (size_t)c->num_attention_heads * (size_t)c->head_dim * sizeof *o;
    int32_t *tok = mem_array((size_t)n_tok, sizeof *tok); /* the projection does not look at them */
    struct eng__rank *r = &e->rank[0];
    struct eng_seq *seq = NULL;
    int rc = begin(e, tok, n_tok, &seq, err);

    mem_free(tok);
    if (rc)
        return rc;
    if ((rc = r->backend->device->copy_in(&r->ctx, r->buf.o, o, o_bytes)) || (rc = eng__attn_output(r, layer)) ||
        (rc = copy_back(r, y, r->buf.y, (size_t)n_tok * (size_t)c->hidden_size * sizeof *y)))
        err_set(err, rc, "the attention output of layer %d failed on back end %s", layer, e->backend->name);
    eng_seq_close(e, &seq);
    return rc;
}
