#include "worker/model/weights.h"

#include "common/base/check.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- shapes: every dimension of section 2 as a formula of the config ----------------------------------- */

struct layer_view {
    const struct mdl_config *cfg;
    enum mdl_layer_kind kind;
    bool is_hash;
};

/* c is the config, r the compression ratio, w the compressor's width in heads (2: overlapping). */
#define DIM_LIST(X)                                                       \
    X(NONE, 1)                                                            \
    X(ONE, 1)                                                             \
    X(THREE, 3)                                                           \
    X(VOCAB, c->vocab_size)                                               \
    X(D, c->hidden_size)                                                  \
    X(HEADS, c->num_attention_heads)                                      \
    X(HEAD_DIM, c->head_dim)                                              \
    X(QUERY, (int64_t)c->num_attention_heads * c->head_dim)               \
    X(GROUP, (int64_t)c->num_attention_heads * c->head_dim / c->o_groups) \
    X(Q_LORA, c->q_lora_rank)                                             \
    X(O_LORA, (int64_t)c->o_groups * c->o_lora_rank)                      \
    X(RATIO, r)                                                           \
    X(COMPRESSED, w * c->head_dim)                                        \
    X(INDEX_HEADS, c->index_n_heads)                                      \
    X(INDEX_DIM, c->index_head_dim)                                       \
    X(INDEX_QUERY, (int64_t)c->index_n_heads * c->index_head_dim)         \
    X(INDEX_COMPRESSED, w * c->index_head_dim)                            \
    X(EXPERTS, c->n_routed_experts)                                       \
    X(TOP_K, c->num_experts_per_tok)                                      \
    X(INTER, c->moe_intermediate_size)                                    \
    X(HC, c->hc_mult)                                                     \
    X(HC_ROWS, (2 + (int64_t)c->hc_mult) * c->hc_mult)                    \
    X(HC_COLS, (int64_t)c->hc_mult * c->hidden_size)

enum dim {
#define X(name, formula) DIM_##name,
    DIM_LIST(X)
#undef X
};

static int64_t dim_value(enum dim dim, const struct layer_view *v)
{
    const struct mdl_config *c = v->cfg;
    int64_t r = v->kind, w = v->kind == MDL_CSA ? 2 : 1;

    switch (dim) {
#define X(name, formula) \
    case DIM_##name:     \
        return formula;
        DIM_LIST(X)
#undef X
    }
    BUG("no such dimension");
}

/* ---- the table: what a model consists of -------------------------------------------------------------- */

/* What a row becomes in C. Matrices differ in the kinds that are accepted (weights.h). */
enum form {
    QUANT,  /* quantized linear: FP8 or BF16 */
    EXPERT, /* routed expert: FP4, FP8 or BF16 */
    PLAIN,  /* BF16 or F32 */
    HALF,   /* BF16 only */
    FLOATS, /* const float *: F32, or BF16 widened */
    IDS,    /* const int32_t *, numbers of experts */
    FORMS_N,
};

static const unsigned kinds_of_form[FORMS_N] = {
    [QUANT] = 1u << MDL_MATRIX_FP8 | 1u << MDL_MATRIX_BF16,
    [EXPERT] = 1u << MDL_MATRIX_FP4 | 1u << MDL_MATRIX_FP8 | 1u << MDL_MATRIX_BF16,
    [PLAIN] = 1u << MDL_MATRIX_BF16 | 1u << MDL_MATRIX_F32,
    [HALF] = 1u << MDL_MATRIX_BF16,
};

static const char *const dtypes_of_form[FORMS_N] = {
    [QUANT] = "F8_E4M3 or BF16", [EXPERT] = "I8 (FP4), F8_E4M3 or BF16",
    [PLAIN] = "BF16 or F32",     [HALF] = "BF16",
    [FLOATS] = "F32 or BF16",    [IDS] = "I64 or I32",
};

/* When a layer has the row's tensor. */
enum when { ALWAYS, COMPRESSED, CSA, HASH, SCORE };

struct row {
    const char *name; /* behind the prefix */
    size_t offset;    /* of the member it fills */
    enum form form;
    enum dim dim[2]; /* [out, in] or [n, NONE] */
    enum when when;
};

#define L(member) offsetof(struct mdl_layer, member)
static const struct row layer_rows[] = {
    {"attn_norm.weight", L(attn_norm), FLOATS, {DIM_D}, ALWAYS},
    {"ffn_norm.weight", L(ffn_norm), FLOATS, {DIM_D}, ALWAYS},
    {"hc_attn_fn", L(hc_attn.fn), PLAIN, {DIM_HC_ROWS, DIM_HC_COLS}, ALWAYS},
    {"hc_attn_base", L(hc_attn.base), FLOATS, {DIM_HC_ROWS}, ALWAYS},
    {"hc_attn_scale", L(hc_attn.scale), FLOATS, {DIM_THREE}, ALWAYS},
    {"hc_ffn_fn", L(hc_ffn.fn), PLAIN, {DIM_HC_ROWS, DIM_HC_COLS}, ALWAYS},
    {"hc_ffn_base", L(hc_ffn.base), FLOATS, {DIM_HC_ROWS}, ALWAYS},
    {"hc_ffn_scale", L(hc_ffn.scale), FLOATS, {DIM_THREE}, ALWAYS},
    {"attn.wq_a.weight", L(attn.wq_a), QUANT, {DIM_Q_LORA, DIM_D}, ALWAYS},
    {"attn.q_norm.weight", L(attn.q_norm), FLOATS, {DIM_Q_LORA}, ALWAYS},
    {"attn.wq_b.weight", L(attn.wq_b), QUANT, {DIM_QUERY, DIM_Q_LORA}, ALWAYS},
    {"attn.wkv.weight", L(attn.wkv), QUANT, {DIM_HEAD_DIM, DIM_D}, ALWAYS},
    {"attn.kv_norm.weight", L(attn.kv_norm), FLOATS, {DIM_HEAD_DIM}, ALWAYS},
    {"attn.wo_a.weight", L(attn.wo_a), QUANT, {DIM_O_LORA, DIM_GROUP}, ALWAYS},
    {"attn.wo_b.weight", L(attn.wo_b), QUANT, {DIM_D, DIM_O_LORA}, ALWAYS},
    {"attn.attn_sink", L(attn.sink), FLOATS, {DIM_HEADS}, ALWAYS},
    {"attn.compressor.wkv.weight", L(attn.compressor.wkv), PLAIN, {DIM_COMPRESSED, DIM_D}, COMPRESSED},
    {"attn.compressor.wgate.weight", L(attn.compressor.wgate), PLAIN, {DIM_COMPRESSED, DIM_D}, COMPRESSED},
    {"attn.compressor.ape", L(attn.compressor.ape), FLOATS, {DIM_RATIO, DIM_COMPRESSED}, COMPRESSED},
    {"attn.compressor.norm.weight", L(attn.compressor.norm), FLOATS, {DIM_HEAD_DIM}, COMPRESSED},
    {"attn.indexer.wq_b.weight", L(attn.indexer.wq_b), QUANT, {DIM_INDEX_QUERY, DIM_Q_LORA}, CSA},
    {"attn.indexer.weights_proj.weight", L(attn.indexer.weights_proj), HALF, {DIM_INDEX_HEADS, DIM_D}, CSA},
    {"attn.indexer.compressor.wkv.weight", L(attn.indexer.compressor.wkv), PLAIN, {DIM_INDEX_COMPRESSED, DIM_D}, CSA},
    {"attn.indexer.compressor.wgate.weight",
     L(attn.indexer.compressor.wgate),
     PLAIN,
     {DIM_INDEX_COMPRESSED, DIM_D},
     CSA},
    {"attn.indexer.compressor.ape", L(attn.indexer.compressor.ape), FLOATS, {DIM_RATIO, DIM_INDEX_COMPRESSED}, CSA},
    {"attn.indexer.compressor.norm.weight", L(attn.indexer.compressor.norm), FLOATS, {DIM_INDEX_DIM}, CSA},
    {"ffn.gate.weight", L(gate.weight), PLAIN, {DIM_EXPERTS, DIM_D}, ALWAYS},
    {"ffn.gate.bias", L(gate.bias), FLOATS, {DIM_EXPERTS}, SCORE},
    {"ffn.gate.tid2eid", L(gate.tid2eid), IDS, {DIM_VOCAB, DIM_TOP_K}, HASH},
    {"ffn.shared_experts.w1.weight", L(shared.w1), QUANT, {DIM_INTER, DIM_D}, ALWAYS},
    {"ffn.shared_experts.w3.weight", L(shared.w3), QUANT, {DIM_INTER, DIM_D}, ALWAYS},
    {"ffn.shared_experts.w2.weight", L(shared.w2), QUANT, {DIM_D, DIM_INTER}, ALWAYS},
};

/* Of each routed expert, behind "ffn.experts.E.". */
static const struct row expert_rows[] = {
    {"w1.weight", offsetof(struct mdl_expert, w1), EXPERT, {DIM_INTER, DIM_D}, ALWAYS},
    {"w3.weight", offsetof(struct mdl_expert, w3), EXPERT, {DIM_INTER, DIM_D}, ALWAYS},
    {"w2.weight", offsetof(struct mdl_expert, w2), EXPERT, {DIM_D, DIM_INTER}, ALWAYS},
};

/* Of the model, and of an MTP layer behind its prefix. */
static const struct row head_rows[] = {
    {"norm.weight", offsetof(struct mdl_head, norm), FLOATS, {DIM_D}, ALWAYS},
    {"hc_head_fn", offsetof(struct mdl_head, hc.fn), PLAIN, {DIM_HC, DIM_HC_COLS}, ALWAYS},
    {"hc_head_base", offsetof(struct mdl_head, hc.base), FLOATS, {DIM_HC}, ALWAYS},
    {"hc_head_scale", offsetof(struct mdl_head, hc.scale), FLOATS, {DIM_ONE}, ALWAYS},
};

static const struct row model_rows[] = {
    {"embed.weight", offsetof(struct mdl_weights, embed), HALF, {DIM_VOCAB, DIM_D}, ALWAYS},
    {"head.weight", offsetof(struct mdl_weights, lm_head), PLAIN, {DIM_VOCAB, DIM_D}, ALWAYS},
};

static const struct row mtp_rows[] = {
    {"enorm.weight", offsetof(struct mdl_mtp, enorm), FLOATS, {DIM_D}, ALWAYS},
    {"hnorm.weight", offsetof(struct mdl_mtp, hnorm), FLOATS, {DIM_D}, ALWAYS},
    {"e_proj.weight", offsetof(struct mdl_mtp, e_proj), QUANT, {DIM_D, DIM_D}, ALWAYS},
    {"h_proj.weight", offsetof(struct mdl_mtp, h_proj), QUANT, {DIM_D, DIM_D}, ALWAYS},
};

static bool applies(enum when when, const struct layer_view *v)
{
    switch (when) {
    case ALWAYS:
        return true;
    case COMPRESSED:
        return v->kind != MDL_WINDOW;
    case CSA:
        return v->kind == MDL_CSA;
    case HASH:
        return v->is_hash;
    case SCORE:
        return !v->is_hash;
    }
    BUG("no such condition");
}

/* ---- one tensor --------------------------------------------------------------------------------------- */

/* What is being bound: for messages and for the memory of copies. */
struct binder {
    const struct mdl_ckpt *ckpt;
    struct mdl_weights *w;
    struct err *err;
};

static int refuse(const struct binder *b, const struct mdl_tensor *t, int code, const char *what)
{
    return err_set(b->err, code, "%s/%s: tensor '%s': %s", mdl_ckpt_dir(b->ckpt), mdl_ckpt_file(b->ckpt, t), t->name,
                   what);
}

static int find(const struct binder *b, const char *name, const struct mdl_tensor **t)
{
    *t = mdl_ckpt_find(b->ckpt, name);
    if (!*t)
        return err_set(b->err, ERR_MISSING, "%s: tensor '%s': is in no file, the config needs it",
                       mdl_ckpt_dir(b->ckpt), name);
    return 0;
}

static int check_shape(const struct binder *b, const struct mdl_tensor *t, const int64_t *need, int n_need)
{
    char found[MDL_SHAPE_TEXT_MAX], needed[MDL_SHAPE_TEXT_MAX], what[2 * MDL_SHAPE_TEXT_MAX + 64];

    if (t->n_dim != n_need || memcmp(t->dim, need, (size_t)n_need * sizeof *need) != 0) {
        snprintf(what, sizeof what, "%s has shape %s, %s is needed", mdl_dtype_name(t->dtype),
                 mdl_shape_text(t->dim, t->n_dim, found), mdl_shape_text(need, n_need, needed));
        return refuse(b, t, ERR_FORMAT, what);
    }
    if ((uintptr_t)t->data % mdl_dtype_bytes(t->dtype) != 0) {
        snprintf(what, sizeof what,
                 "its data are not aligned to %zu bytes; write the file again with a current library",
                 mdl_dtype_bytes(t->dtype));
        return refuse(b, t, ERR_FORMAT, what);
    }
    return 0;
}

static int refuse_dtype(const struct binder *b, const struct mdl_tensor *t, enum form form)
{
    char what[128];

    snprintf(what, sizeof what, "has dtype %s, %s is needed", mdl_dtype_name(t->dtype), dtypes_of_form[form]);
    return refuse(b, t, ERR_UNSUPPORTED, what);
}

static enum mdl_matrix_kind kind_of(enum mdl_dtype dtype)
{
    switch (dtype) {
    case MDL_BF16:
        return MDL_MATRIX_BF16;
    case MDL_F32:
        return MDL_MATRIX_F32;
    case MDL_F8_E4M3:
        return MDL_MATRIX_FP8;
    case MDL_I8: /* two E2M1 codes a byte */
        return MDL_MATRIX_FP4;
    default:
        return MDL_MATRIX_NONE;
    }
}

/* "x.weight" has its block scales in "x.scale". */
static int bind_scale(const struct binder *b, const char *name, struct mdl_matrix *m)
{
    const struct mdl_tensor *t;
    char scale_name[MDL_NAME_MAX + 1];
    int64_t need[2] = {m->out, m->in / 32};

    if (m->kind == MDL_MATRIX_FP8) {
        need[0] = (m->out + 127) / 128;
        need[1] = (m->in + 127) / 128;
    }
    snprintf(scale_name, sizeof scale_name, "%.*sscale", (int)(strlen(name) - strlen("weight")), name);
    int rc = find(b, scale_name, &t);
    if (rc)
        return rc;
    if (t->dtype != MDL_F8_E8M0 && t->dtype != MDL_U8) {
        char what[96];
        snprintf(what, sizeof what, "has dtype %s, F8_E8M0 is needed", mdl_dtype_name(t->dtype));
        return refuse(b, t, ERR_UNSUPPORTED, what);
    }
    m->scale = t->data;
    return check_shape(b, t, need, 2);
}

static int bind_matrix(const struct binder *b, const struct mdl_tensor *t, enum form form, const int64_t dim[2],
                       struct mdl_matrix *m)
{
    enum mdl_matrix_kind kind = kind_of(t->dtype);
    int64_t stored[2] = {dim[0], kind == MDL_MATRIX_FP4 ? dim[1] / 2 : dim[1]};

    if (!(kinds_of_form[form] >> kind & 1))
        return refuse_dtype(b, t, form);
    int rc = check_shape(b, t, stored, 2);
    if (rc)
        return rc;
    *m = (struct mdl_matrix){.kind = kind, .out = dim[0], .in = dim[1], .data = t->data};
    return kind == MDL_MATRIX_FP8 || kind == MDL_MATRIX_FP4 ? bind_scale(b, t->name, m) : 0;
}

static int bind_floats(const struct binder *b, const struct mdl_tensor *t, const int64_t *dim, int n_dim,
                       const float **to)
{
    if (t->dtype != MDL_F32 && t->dtype != MDL_BF16)
        return refuse_dtype(b, t, FLOATS);
    int rc = check_shape(b, t, dim, n_dim);
    if (rc)
        return rc;
    if (t->dtype == MDL_F32) {
        *to = t->data;
        return 0;
    }
    size_t n = t->n_bytes / 2;
    const uint16_t *from = t->data;
    float *copy = arena_array(&b->w->arena, n, sizeof *copy);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)from[i] << 16; /* a BF16 is the upper half of an F32 */
        memcpy(&copy[i], &bits, sizeof bits);
    }
    *to = copy;
    return 0;
}

/* Expert numbers become indices of arrays: every one is checked here, in the copy that will be used. */
static int bind_ids(const struct binder *b, const struct mdl_tensor *t, const int64_t dim[2], const int32_t **to)
{
    int32_t n_expert = b->w->cfg->n_routed_experts;
    char what[128];

    if (t->dtype != MDL_I64 && t->dtype != MDL_I32)
        return refuse_dtype(b, t, IDS);
    int rc = check_shape(b, t, dim, 2);
    if (rc)
        return rc;
    size_t n = (size_t)(dim[0] * dim[1]);
    if (n > MDL_IDS_MAX) {
        snprintf(what, sizeof what, "has %zu expert numbers, the limit is %d", n, MDL_IDS_MAX);
        return refuse(b, t, ERR_LIMIT, what);
    }
    int32_t *copy = arena_array(&b->w->arena, n, sizeof *copy);
    for (size_t i = 0; i < n; i++) {
        int64_t v = t->dtype == MDL_I64 ? ((const int64_t *)t->data)[i] : ((const int32_t *)t->data)[i];
        if (v < 0 || v >= n_expert) {
            snprintf(what, sizeof what, "token %zu has expert %" PRId64 ", 0 to %d is allowed", i / (size_t)dim[1], v,
                     n_expert - 1);
            return refuse(b, t, ERR_RANGE, what);
        }
        copy[i] = (int32_t)v;
    }
    *to = copy;
    return 0;
}

/* ---- rows, layers, model ------------------------------------------------------------------------------ */

/* Fill the members of *to that the rows name, from the tensors "<prefix><row name>". */
static int bind_rows(const struct binder *b, const char *prefix, const struct row *row, size_t n,
                     const struct layer_view *v, void *to)
{
    char name[MDL_NAME_MAX + 1];

    for (size_t i = 0; i < n; i++) {
        const struct mdl_tensor *t;
        void *member = (char *)to + row[i].offset;
        int64_t dim[2] = {dim_value(row[i].dim[0], v), dim_value(row[i].dim[1], v)};

        if (!applies(row[i].when, v))
            continue;
        snprintf(name, sizeof name, "%s%s", prefix, row[i].name);
        int rc = find(b, name, &t);
        if (rc)
            return rc;
        if (row[i].form == FLOATS)
            rc = bind_floats(b, t, dim, row[i].dim[1] == DIM_NONE ? 1 : 2, member);
        else if (row[i].form == IDS)
            rc = bind_ids(b, t, dim, member);
        else
            rc = bind_matrix(b, t, row[i].form, dim, member);
        if (rc)
            return rc;
    }
    return 0;
}

static int bind_layer(const struct binder *b, const char *prefix, const struct layer_view *v, struct mdl_layer *layer)
{
    char expert_prefix[64];
    int n_expert = v->cfg->n_routed_experts;

    layer->kind = v->kind;
    layer->is_hash = v->is_hash;
    int rc = bind_rows(b, prefix, layer_rows, N_ELEM(layer_rows), v, layer);
    if (rc)
        return rc;
    layer->expert = arena_array(&b->w->arena, (size_t)n_expert, sizeof *layer->expert);
    for (int e = 0; e < n_expert; e++) {
        snprintf(expert_prefix, sizeof expert_prefix, "%sffn.experts.%d.", prefix, e);
        rc = bind_rows(b, expert_prefix, expert_rows, N_ELEM(expert_rows), v, &layer->expert[e]);
        if (rc)
            return rc;
    }
    return 0;
}

/* The MTP layer is there when its e_proj is: transformers saves models without, whatever their config says, and the
 * DSpark layers of the 0731 release have the same prefix but no e_proj. */
static int bind_mtp(const struct binder *b)
{
    const struct layer_view v = {b->w->cfg, MDL_WINDOW, false};

    if (v.cfg->num_nextn_predict_layers == 0 || !mdl_ckpt_find(b->ckpt, "mtp.0.e_proj.weight"))
        return 0;
    struct mdl_mtp *m = b->w->mtp = arena_zalloc(&b->w->arena, sizeof *b->w->mtp);
    int rc = bind_layer(b, "mtp.0.", &v, &m->layer);
    if (!rc)
        rc = bind_rows(b, "mtp.0.", mtp_rows, N_ELEM(mtp_rows), &v, m);
    if (!rc)
        rc = bind_rows(b, "mtp.0.", head_rows, N_ELEM(head_rows), &v, &m->head);
    return rc;
}

static int bind_model(const struct binder *b)
{
    const struct mdl_config *cfg = b->w->cfg;
    struct layer_view v = {cfg, MDL_WINDOW, false};
    char prefix[32];

    int rc = bind_rows(b, "", model_rows, N_ELEM(model_rows), &v, b->w);
    if (!rc)
        rc = bind_rows(b, "", head_rows, N_ELEM(head_rows), &v, &b->w->head);
    if (rc)
        return rc;
    b->w->layer = arena_array(&b->w->arena, (size_t)cfg->num_hidden_layers, sizeof *b->w->layer);
    for (int i = 0; i < cfg->num_hidden_layers; i++) {
        snprintf(prefix, sizeof prefix, "layers.%d.", i);
        v.kind = cfg->layer_kind[i];
        v.is_hash = i < cfg->num_hash_layers;
        rc = bind_layer(b, prefix, &v, &b->w->layer[i]);
        if (rc)
            return rc;
    }
    return bind_mtp(b);
}

int mdl_weights_bind(const struct mdl_ckpt *ckpt, struct mdl_weights *w, struct err *err)
{
    const struct binder b = {ckpt, w, err};

    *w = (struct mdl_weights){.cfg = mdl_ckpt_config(ckpt)};
    int rc = bind_model(&b);
    if (rc)
        mdl_weights_release(w);
    return rc;
}

void mdl_weights_release(struct mdl_weights *w)
{
    arena_release(&w->arena);
    *w = (struct mdl_weights){0};
}

const char *mdl_matrix_kind_name(enum mdl_matrix_kind kind)
{
    static const char *const names[] = {
        [MDL_MATRIX_NONE] = "none", [MDL_MATRIX_BF16] = "bf16", [MDL_MATRIX_F32] = "f32",
        [MDL_MATRIX_FP8] = "fp8",   [MDL_MATRIX_FP4] = "fp4",
    };
    ASSERT((unsigned)kind < N_ELEM(names));
    return names[kind];
}

size_t mdl_matrix_bytes(const struct mdl_matrix *m)
{
    size_t n = (size_t)m->out * (size_t)m->in, out = (size_t)m->out, in = (size_t)m->in;

    switch (m->kind) {
    case MDL_MATRIX_NONE:
        return 0;
    case MDL_MATRIX_BF16:
        return n * 2;
    case MDL_MATRIX_F32:
        return n * 4;
    case MDL_MATRIX_FP8:
        return n + (out + 127) / 128 * ((in + 127) / 128);
    case MDL_MATRIX_FP4:
        return n / 2 + out * (in / 32);
    }
    BUG("no such kind");
}
