/* Proves: the tensors of a model arrive under their names in C with the right shapes, kinds and bytes, in all layer
 * kinds and all stored types that are allowed; every missing or wrong tensor is refused in one line that says which,
 * what was found and what is needed. Each hostile row changes one tensor of a good checkpoint. */
#include "tests/unit/worker/model/build.h"

#include "common/base/check.h"
#include "tests/unit/test.h"
#include "worker/model/weights.h"

#include <stdio.h>
#include <string.h>

static int bind(struct build *b, struct mdl_ckpt **c, struct mdl_weights *w, struct err *err)
{
    build_write(b, 1, NULL);
    int rc = mdl_ckpt_open(b->dir, c, err);
    return rc ? rc : mdl_weights_bind(*c, w, err);
}

static void bind_good(struct build *b, struct mdl_ckpt **c, struct mdl_weights *w)
{
    struct err err;
    if (bind(b, c, w, &err) != 0)
        fail_msg("%s", err.text);
}

/* ---- good models -------------------------------------------------------------------------------------- */

static void check_matrix(const struct build *b, const char *name, const struct mdl_matrix *m, enum mdl_matrix_kind kind,
                         int64_t out, int64_t in)
{
    char scale[MDL_NAME_MAX];
    size_t i = build_find(b, name), n_bytes = b->n_bytes[i];

    assert_int_equal(m->kind, kind);
    assert_int_equal(m->out, out);
    assert_int_equal(m->in, in);
    assert_memory_equal(m->data, b->data[i], b->n_bytes[i]);
    if (kind == MDL_MATRIX_FP8 || kind == MDL_MATRIX_FP4) {
        snprintf(scale, sizeof scale, "%.*sscale", (int)strlen(name) - 6, name);
        i = build_find(b, scale);
        assert_memory_equal(m->scale, b->data[i], b->n_bytes[i]);
        n_bytes += b->n_bytes[i];
    } else {
        assert_null(m->scale);
    }
    assert_int_equal(mdl_matrix_bytes(m), n_bytes);
}

/* The floats are those of the file, BF16 widened. */
static void check_floats(const struct build *b, const char *name, const float *v)
{
    size_t i = build_find(b, name);

    assert_non_null(v);
    if (b->spec[i].dtype == MDL_F32) {
        assert_memory_equal(v, b->data[i], b->n_bytes[i]);
        return;
    }
    for (size_t k = 0; k < b->n_bytes[i] / 2; k++) {
        uint32_t bits;
        memcpy(&bits, &v[k], 4);
        assert_int_equal(bits, (uint32_t)(b->data[i][2 * k] | b->data[i][2 * k + 1] << 8) << 16);
    }
}

/* Members of a layer, written out a second time: name behind the prefix, place, shape, and the layers that have it. */
#define L(member) offsetof(struct mdl_layer, member)
enum { W = 1 << 0, C = 1 << 2, H = 1 << 3, ALL = W | 1 << 1 | C | H }; /* bits are numbers of layers */

static const struct {
    const char *name;
    size_t offset;
    enum mdl_matrix_kind kind; /* NONE: floats */
    int64_t out, in;
    int layers;
} members[] = {
    {"attn.wq_a.weight", L(attn.wq_a), MDL_MATRIX_FP8, 128, 128, ALL},
    {"attn.wq_b.weight", L(attn.wq_b), MDL_MATRIX_FP8, 256, 128, ALL},
    {"attn.wkv.weight", L(attn.wkv), MDL_MATRIX_FP8, 128, 128, ALL},
    {"attn.wo_a.weight", L(attn.wo_a), MDL_MATRIX_FP8, 128, 128, ALL},
    {"attn.wo_b.weight", L(attn.wo_b), MDL_MATRIX_FP8, 128, 128, ALL},
    {"attn.q_norm.weight", L(attn.q_norm), MDL_MATRIX_NONE, 0, 0, ALL},
    {"attn.kv_norm.weight", L(attn.kv_norm), MDL_MATRIX_NONE, 0, 0, ALL},
    {"attn.attn_sink", L(attn.sink), MDL_MATRIX_NONE, 0, 0, ALL},
    {"attn_norm.weight", L(attn_norm), MDL_MATRIX_NONE, 0, 0, ALL},
    {"ffn_norm.weight", L(ffn_norm), MDL_MATRIX_NONE, 0, 0, ALL},
    {"hc_attn_fn", L(hc_attn.fn), MDL_MATRIX_F32, 8, 256, ALL},
    {"hc_attn_base", L(hc_attn.base), MDL_MATRIX_NONE, 0, 0, ALL},
    {"hc_attn_scale", L(hc_attn.scale), MDL_MATRIX_NONE, 0, 0, ALL},
    {"hc_ffn_fn", L(hc_ffn.fn), MDL_MATRIX_F32, 8, 256, ALL},
    {"hc_ffn_base", L(hc_ffn.base), MDL_MATRIX_NONE, 0, 0, ALL},
    {"hc_ffn_scale", L(hc_ffn.scale), MDL_MATRIX_NONE, 0, 0, ALL},
    {"ffn.gate.weight", L(gate.weight), MDL_MATRIX_BF16, 3, 128, ALL},
    {"ffn.gate.bias", L(gate.bias), MDL_MATRIX_NONE, 0, 0, ALL & ~W},
    {"ffn.shared_experts.w1.weight", L(shared.w1), MDL_MATRIX_FP8, 128, 128, ALL},
    {"ffn.shared_experts.w2.weight", L(shared.w2), MDL_MATRIX_FP8, 128, 128, ALL},
    {"ffn.shared_experts.w3.weight", L(shared.w3), MDL_MATRIX_FP8, 128, 128, ALL},
    {"attn.compressor.wkv.weight", L(attn.compressor.wkv), MDL_MATRIX_BF16, 256, 128, C},
    {"attn.compressor.wgate.weight", L(attn.compressor.wgate), MDL_MATRIX_BF16, 256, 128, C},
    {"attn.compressor.wkv.weight", L(attn.compressor.wkv), MDL_MATRIX_BF16, 128, 128, H},
    {"attn.compressor.wgate.weight", L(attn.compressor.wgate), MDL_MATRIX_BF16, 128, 128, H},
    {"attn.compressor.ape", L(attn.compressor.ape), MDL_MATRIX_NONE, 0, 0, C | H},
    {"attn.compressor.norm.weight", L(attn.compressor.norm), MDL_MATRIX_NONE, 0, 0, C | H},
    {"attn.indexer.wq_b.weight", L(attn.indexer.wq_b), MDL_MATRIX_FP8, 192, 128, C},
    {"attn.indexer.weights_proj.weight", L(attn.indexer.weights_proj), MDL_MATRIX_BF16, 3, 128, C},
    {"attn.indexer.compressor.wkv.weight", L(attn.indexer.compressor.wkv), MDL_MATRIX_BF16, 128, 128, C},
    {"attn.indexer.compressor.wgate.weight", L(attn.indexer.compressor.wgate), MDL_MATRIX_BF16, 128, 128, C},
    {"attn.indexer.compressor.ape", L(attn.indexer.compressor.ape), MDL_MATRIX_NONE, 0, 0, C},
    {"attn.indexer.compressor.norm.weight", L(attn.indexer.compressor.norm), MDL_MATRIX_NONE, 0, 0, C},
};

static void check_layer(const struct build *b, const char *prefix, const struct mdl_layer *l, int bit)
{
    char name[MDL_NAME_MAX];

    for (size_t i = 0; i < N_ELEM(members); i++) {
        const void *member = (const char *)l + members[i].offset;
        snprintf(name, sizeof name, "%s%s", prefix, members[i].name);
        if (!(members[i].layers & bit))
            continue;
        if (members[i].kind == MDL_MATRIX_NONE)
            check_floats(b, name, *(const float *const *)member);
        else
            check_matrix(b, name, member, members[i].kind, members[i].out, members[i].in);
    }
    for (int e = 0; e < BUILD_EXPERTS; e++) {
        const struct mdl_matrix *w[] = {&l->expert[e].w1, &l->expert[e].w2, &l->expert[e].w3};
        for (int k = 0; k < 3; k++) {
            snprintf(name, sizeof name, "%sffn.experts.%d.w%d.weight", prefix, e, k + 1);
            check_matrix(b, name, w[k], MDL_MATRIX_FP4, 128, 128);
        }
    }
}

static void every_member_is_filled(void **state)
{
    static const enum mdl_layer_kind kinds[] = {MDL_WINDOW, MDL_WINDOW, MDL_CSA, MDL_HCA};
    struct build b;
    struct mdl_ckpt *c;
    struct mdl_weights w;
    char prefix[32];

    build_init(&b);
    bind_good(&b, &c, &w);
    check_matrix(&b, "embed.weight", &w.embed, MDL_MATRIX_BF16, 16, 128);
    check_matrix(&b, "head.weight", &w.lm_head, MDL_MATRIX_BF16, 16, 128);
    check_floats(&b, "norm.weight", w.head.norm);
    check_matrix(&b, "hc_head_fn", &w.head.hc.fn, MDL_MATRIX_F32, 2, 256);
    check_floats(&b, "hc_head_base", w.head.hc.base);
    check_floats(&b, "hc_head_scale", w.head.hc.scale);
    for (int i = 0; i < BUILD_LAYERS; i++) {
        snprintf(prefix, sizeof prefix, "layers.%d.", i);
        assert_int_equal(w.layer[i].kind, kinds[i]);
        assert_int_equal(w.layer[i].is_hash, i == 0);
        check_layer(&b, prefix, &w.layer[i], 1 << i);
    }
    for (int i = 0; i < 32; i++)
        assert_int_equal(w.layer[0].gate.tid2eid[i], i % BUILD_EXPERTS);
    assert_null(w.layer[0].gate.bias);
    assert_null(w.layer[1].gate.tid2eid);
    assert_null(w.layer[1].attn.compressor.ape);
    assert_int_equal(w.layer[1].attn.compressor.wkv.kind, MDL_MATRIX_NONE);
    assert_int_equal(mdl_matrix_bytes(&w.layer[1].attn.compressor.wkv), 0);
    assert_int_equal(w.layer[3].attn.indexer.wq_b.kind, MDL_MATRIX_NONE);

    assert_non_null(w.mtp);
    check_layer(&b, "mtp.0.", &w.mtp->layer, 1 << 1);
    assert_int_equal(w.mtp->layer.kind, MDL_WINDOW);
    check_matrix(&b, "mtp.0.e_proj.weight", &w.mtp->e_proj, MDL_MATRIX_FP8, 128, 128);
    check_matrix(&b, "mtp.0.h_proj.weight", &w.mtp->h_proj, MDL_MATRIX_FP8, 128, 128);
    check_floats(&b, "mtp.0.enorm.weight", w.mtp->enorm);
    check_floats(&b, "mtp.0.hnorm.weight", w.mtp->hnorm);
    check_floats(&b, "mtp.0.norm.weight", w.mtp->head.norm);
    check_matrix(&b, "mtp.0.hc_head_fn", &w.mtp->head.hc.fn, MDL_MATRIX_F32, 2, 256);
    check_floats(&b, "mtp.0.hc_head_base", w.mtp->head.hc.base);
    check_floats(&b, "mtp.0.hc_head_scale", w.mtp->head.hc.scale);
    mdl_weights_release(&w);
    mdl_weights_release(&w);
    mdl_ckpt_close(&c);
    build_release(&b);
    (void)state;
}

static void fp8_scale(struct build *b, const char *name)
{
    char full[MDL_NAME_MAX];
    snprintf(full, sizeof full, "%s.weight", name);
    build_shape(b, full, MDL_F8_E4M3, 128, 128);
    snprintf(full, sizeof full, "%s.scale", name);
    build_shape(b, full, MDL_F8_E8M0, 1, 1);
}

/* Other types that exports have; FP8 experts go by their dtype, whatever the config says. */
static void other_stored_types(void **state)
{
    struct build b;
    struct mdl_ckpt *c;
    struct mdl_weights w;

    build_init(&b);
    build_config(&b, "expert_dtype", "\"fp4\"");
    fp8_scale(&b, "layers.1.ffn.experts.0.w1");
    build_shape(&b, "layers.1.ffn.experts.0.w2.weight", MDL_BF16, 128, 128);
    build_shape(&b, "layers.1.attn.wq_a.weight", MDL_BF16, 128, 128);
    build_drop(&b, "layers.1.attn.wq_a.scale");
    build_shape(&b, "layers.1.attn.wq_b.scale", MDL_U8, 2, 1);
    build_shape(&b, "layers.1.hc_attn_fn", MDL_BF16, 8, 256);
    build_shape(&b, "layers.1.hc_attn_base", MDL_BF16, 8, 0);
    build_shape(&b, "layers.1.attn.q_norm.weight", MDL_F32, 128, 0);
    build_shape(&b, "layers.1.ffn.gate.weight", MDL_F32, 3, 128);
    build_shape(&b, "layers.0.ffn.gate.tid2eid", MDL_I32, 16, 2);
    build_shape(&b, "head.weight", MDL_F32, 16, 128);
    bind_good(&b, &c, &w);
    const struct mdl_layer *l = &w.layer[1];
    check_matrix(&b, "layers.1.ffn.experts.0.w1.weight", &l->expert[0].w1, MDL_MATRIX_FP8, 128, 128);
    check_matrix(&b, "layers.1.ffn.experts.0.w2.weight", &l->expert[0].w2, MDL_MATRIX_BF16, 128, 128);
    check_matrix(&b, "layers.1.ffn.experts.0.w3.weight", &l->expert[0].w3, MDL_MATRIX_FP4, 128, 128);
    check_matrix(&b, "layers.1.attn.wq_a.weight", &l->attn.wq_a, MDL_MATRIX_BF16, 128, 128);
    check_matrix(&b, "layers.1.attn.wq_b.weight", &l->attn.wq_b, MDL_MATRIX_FP8, 256, 128);
    check_matrix(&b, "layers.1.hc_attn_fn", &l->hc_attn.fn, MDL_MATRIX_BF16, 8, 256);
    check_floats(&b, "layers.1.hc_attn_base", l->hc_attn.base);
    check_floats(&b, "layers.1.attn.q_norm.weight", l->attn.q_norm);
    check_matrix(&b, "layers.1.ffn.gate.weight", &l->gate.weight, MDL_MATRIX_F32, 3, 128);
    check_matrix(&b, "head.weight", &w.lm_head, MDL_MATRIX_F32, 16, 128);
    assert_int_equal(w.layer[0].gate.tid2eid[31], 31 % BUILD_EXPERTS);
    mdl_weights_release(&w);
    mdl_ckpt_close(&c);
    build_release(&b);
    (void)state;
}

/* MTP is bound when config and files have it; DSpark's layers (no e_proj) and unknown tensors are let be. */
static void mtp_is_optional(void **state)
{
    struct build b;
    struct mdl_ckpt *c;
    struct mdl_weights w;

    build_init(&b);
    build_drop(&b, "mtp.0.e_proj.weight");
    build_add(&b, "mtp.0.main_proj.weight", MDL_F8_E4M3, 128, 384);
    build_add(&b, "mtp.2.markov_head.markov_w1.weight", MDL_BF16, 16, 8);
    build_add(&b, "surprise", MDL_F64, 3, 0);
    bind_good(&b, &c, &w);
    assert_null(w.mtp);
    mdl_weights_release(&w);
    mdl_ckpt_close(&c);
    build_release(&b);

    build_init(&b);
    build_config(&b, "num_nextn_predict_layers", "0");
    bind_good(&b, &c, &w);
    assert_null(w.mtp);
    mdl_weights_release(&w);
    mdl_ckpt_close(&c);
    build_release(&b);
    (void)state;
}

/* ---- hostile tensors ---------------------------------------------------------------------------------- */

static const struct row {
    const char *name;
    int dtype; /* enum mdl_dtype, or -1: the tensor is dropped */
    int64_t d0, d1;
    int code;
    const char *say[2];
} rows[] = {
    {"embed.weight", -1, 0, 0, ERR_MISSING, {"is in no file"}},
    {"embed.weight", MDL_BF16, 15, 128, ERR_FORMAT, {"BF16 has shape [15, 128], [16, 128] is needed"}},
    {"embed.weight", MDL_BF16, 128, 16, ERR_FORMAT, {"[128, 16]"}},
    {"embed.weight", MDL_BF16, 2048, 0, ERR_FORMAT, {"[2048], [16, 128] is needed"}},
    {"embed.weight", MDL_F32, 16, 128, ERR_UNSUPPORTED, {"has dtype F32, BF16 is needed"}},
    {"head.weight", -1, 0, 0, ERR_MISSING, {"is in no file"}},
    {"head.weight", MDL_F16, 16, 128, ERR_UNSUPPORTED, {"has dtype F16, BF16 or F32 is needed"}},
    {"norm.weight", MDL_BF16, 129, 0, ERR_FORMAT, {"[129], [128]"}},
    {"norm.weight", MDL_BF16, 1, 128, ERR_FORMAT, {"[1, 128], [128]"}},
    {"norm.weight", MDL_F16, 128, 0, ERR_UNSUPPORTED, {"F16, F32 or BF16 is needed"}},
    {"hc_head_scale", MDL_F32, 3, 0, ERR_FORMAT, {"[3], [1]"}},
    {"hc_head_fn", MDL_F32, 2, 255, ERR_FORMAT, {"[2, 255], [2, 256]"}},
    {"layers.0.attn.wq_a.weight", MDL_F8_E4M3, 128, 127, ERR_FORMAT, {"F8_E4M3 has shape [128, 127]"}},
    {"layers.0.attn.wq_a.weight", MDL_I8, 128, 64, ERR_UNSUPPORTED, {"has dtype I8, F8_E4M3 or BF16 is needed"}},
    {"layers.0.attn.wq_a.weight", MDL_F8_E5M2, 128, 128, ERR_UNSUPPORTED, {"F8_E5M2"}},
    {"layers.0.attn.wq_a.weight", MDL_F32, 128, 128, ERR_UNSUPPORTED, {"F32"}},
    {"layers.0.attn.wq_a.scale", -1, 0, 0, ERR_MISSING, {"is in no file"}},
    {"layers.0.attn.wq_a.scale", MDL_F8_E8M0, 2, 1, ERR_FORMAT, {"[2, 1], [1, 1] is needed"}},
    {"layers.0.attn.wq_a.scale", MDL_F32, 1, 1, ERR_UNSUPPORTED, {"has dtype F32, F8_E8M0 is needed"}},
    {"layers.0.attn.attn_sink", MDL_F32, 3, 0, ERR_FORMAT, {"[3], [2]"}},
    {"layers.0.attn.attn_sink", -1, 0, 0, ERR_MISSING, {"is in no file"}},
    {"layers.0.ffn.gate.tid2eid", -1, 0, 0, ERR_MISSING, {"is in no file"}},
    {"layers.0.ffn.gate.tid2eid", MDL_I64, 15, 2, ERR_FORMAT, {"[15, 2], [16, 2]"}},
    {"layers.0.ffn.gate.tid2eid", MDL_F32, 16, 2, ERR_UNSUPPORTED, {"F32, I64 or I32 is needed"}},
    {"layers.1.ffn.gate.bias", -1, 0, 0, ERR_MISSING, {"is in no file"}},
    {"layers.1.ffn.gate.weight", MDL_BF16, 4, 128, ERR_FORMAT, {"[4, 128], [3, 128]"}},
    {"layers.1.ffn.experts.1.w2.weight", -1, 0, 0, ERR_MISSING, {"is in no file"}},
    {"layers.1.ffn.experts.1.w2.weight",
     MDL_I8,
     128,
     128,
     ERR_FORMAT,
     {"I8 has shape [128, 128], [128, 64] is needed"}},
    {"layers.1.ffn.experts.1.w2.weight",
     MDL_F8_E4M3,
     128,
     128,
     ERR_FORMAT,
     {"[128, 4], [1, 1] is needed"}}, /* FP4's scale */
    {"layers.1.ffn.experts.1.w2.weight", MDL_U8, 128, 64, ERR_UNSUPPORTED, {"U8, I8 (FP4), F8_E4M3 or BF16"}},
    {"layers.1.ffn.experts.1.w2.scale", MDL_F8_E8M0, 128, 3, ERR_FORMAT, {"[128, 3], [128, 4]"}},
    {"layers.1.ffn.shared_experts.w1.weight", MDL_I8, 128, 64, ERR_UNSUPPORTED, {"I8"}},
    {"layers.2.attn.compressor.wkv.weight", MDL_BF16, 128, 128, ERR_FORMAT, {"[128, 128], [256, 128]"}},
    {"layers.2.attn.compressor.ape", MDL_F32, 128, 128, ERR_FORMAT, {"[128, 128], [4, 256]"}},
    {"layers.2.attn.indexer.weights_proj.weight", MDL_F32, 3, 128, ERR_UNSUPPORTED, {"F32, BF16 is needed"}},
    {"layers.2.attn.indexer.compressor.norm.weight", -1, 0, 0, ERR_MISSING, {"is in no file"}},
    {"layers.2.attn.indexer.wq_b.scale", MDL_F8_E8M0, 1, 1, ERR_FORMAT, {"[1, 1], [2, 1]"}},
    {"layers.3.attn.compressor.ape", MDL_F32, 4, 128, ERR_FORMAT, {"[4, 128], [128, 128]"}},
    {"mtp.0.h_proj.weight", -1, 0, 0, ERR_MISSING, {"is in no file"}},
    {"mtp.0.enorm.weight", MDL_BF16, 64, 0, ERR_FORMAT, {"[64], [128]"}},
    {"mtp.0.norm.weight", -1, 0, 0, ERR_MISSING, {"is in no file"}},
};

static void expect(struct build *b, const char *what, const char *name, int code, const char *const *say, size_t n_say)
{
    struct mdl_ckpt *c = NULL;
    struct mdl_weights w;
    struct err err = {0};
    char quoted[MDL_NAME_MAX];

    memset(&w, 0xa5, sizeof w);
    int rc = bind(b, &c, &w, &err);
    snprintf(quoted, sizeof quoted, "tensor '%s'", name);
    if (rc != code || !strstr(err.text, quoted) || strncmp(err.text, b->dir, strlen(b->dir)) != 0 ||
        strchr(err.text, '\n'))
        fail_msg("%s: code %s, text %s", what, err_name(rc), err.text);
    if (code != ERR_MISSING && !strstr(err.text, "/model.safetensors: "))
        fail_msg("%s: the file is not named: %s", what, err.text);
    for (size_t i = 0; i < n_say && say[i]; i++)
        if (!strstr(err.text, say[i]))
            fail_msg("%s: '%s' is not in: %s", what, say[i], err.text);
    assert_null(w.layer);
    assert_null(w.arena.chunk);
    mdl_weights_release(&w);
    mdl_ckpt_close(&c);
}

static void hostile_tensors_are_refused(void **state)
{
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        struct build b;
        char what[MDL_NAME_MAX], name[MDL_NAME_MAX];

        build_init(&b);
        if (rows[i].dtype < 0)
            build_drop(&b, rows[i].name);
        else
            build_shape(&b, rows[i].name, (enum mdl_dtype)rows[i].dtype, rows[i].d0, rows[i].d1);
        snprintf(what, sizeof what, "row %zu, %s", i, rows[i].name);
        /* An expert that is FP8 by its dtype has the wrong scales: the scale is what is named. */
        snprintf(name, sizeof name, "%s", rows[i].name);
        if (strstr(rows[i].say[0], "[128, 4], [1, 1]"))
            strcpy(strstr(name, ".weight"), ".scale");
        expect(&b, what, name, rows[i].code, rows[i].say, 2);
        build_release(&b);
    }
    (void)state;
}

/* Every single tensor of the model is needed (those of the MTP layer, too, once its e_proj is there). */
static void no_tensor_may_be_missing(void **state)
{
    struct build all;

    build_init(&all);
    for (size_t i = 0; i < all.n; i++) {
        struct build b;
        if (strcmp(all.spec[i].name, "mtp.0.e_proj.weight") == 0)
            continue;
        /* The experts are many and alike: those of one layer stand for all. */
        if (strstr(all.spec[i].name, "experts.") && strncmp(all.spec[i].name, "layers.1.", 9) != 0)
            continue;
        build_init(&b);
        build_drop(&b, all.spec[i].name);
        expect(&b, "dropped", all.spec[i].name, ERR_MISSING, (const char *[1]){"the config needs it"}, 1);
        build_release(&b);
    }
    build_release(&all);
    (void)state;
}

static void expert_numbers_are_checked(void **state)
{
    static const struct {
        int64_t value;
        const char *say;
    } values[] = {
        {3, "token 15 has expert 3, 0 to 2 is allowed"},
        {-1, "token 15 has expert -1"},
        {INT64_MIN, "expert -9223372036854775808"},
        {1LL << 32, "expert 4294967296"}, /* 0 when cut to 32 bits */
    };

    for (size_t i = 0; i < N_ELEM(values); i++) {
        struct build b;
        build_init(&b);
        size_t k = build_find(&b, "layers.0.ffn.gate.tid2eid");
        memcpy(b.data[k] + b.n_bytes[k] - 8, &values[i].value, 8);
        expect(&b, values[i].say, "layers.0.ffn.gate.tid2eid", ERR_RANGE, &values[i].say, 1);
        build_release(&b);
    }
    (void)state;
}

/* A header of odd length in front shifts all data by a byte: legal in the format, of no use to a kernel. */
static void unaligned_data_are_refused(void **state)
{
    static const struct st_spec spec[] = {{"embed.weight", MDL_BF16, 2, {16, 128}}};
    static const char zero[16 * 128 * 2];
    const void *data[] = {zero};
    struct build b;
    struct mdl_ckpt *c = NULL;
    struct mdl_weights w;
    struct err err;
    char bytes[8192] = {0};

    build_init(&b);
    build_file(&b, "config.json", b.config.data, b.config.len);
    assert_int_equal(st_write(build_path(&b, "model.safetensors"), spec, data, 1, &err), 0);
    FILE *f = fopen(build_path(&b, "model.safetensors"), "rb");
    size_t n = fread(bytes, 1, sizeof bytes, f), n_header = (unsigned char)bytes[0];
    fclose(f);
    memmove(bytes + 8 + n_header + 1, bytes + 8 + n_header, n - 8 - n_header);
    bytes[8 + n_header] = ' ';
    bytes[0]++;
    build_file(&b, "model.safetensors", bytes, n + 1);
    assert_int_equal(mdl_ckpt_open(b.dir, &c, &err), 0);
    assert_int_equal(mdl_weights_bind(c, &w, &err), ERR_FORMAT);
    assert_non_null(strstr(err.text, "tensor 'embed.weight': its data are not aligned to 2 bytes"));
    mdl_ckpt_close(&c);
    build_release(&b);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_member_is_filled),
        cmocka_unit_test(other_stored_types),
        cmocka_unit_test(mtp_is_optional),
        cmocka_unit_test(hostile_tensors_are_refused),
        cmocka_unit_test(no_tensor_may_be_missing),
        cmocka_unit_test(expert_numbers_are_checked),
        cmocka_unit_test(unaligned_data_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
