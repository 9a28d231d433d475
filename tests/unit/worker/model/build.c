#include "tests/unit/worker/model/build.h"

#include "common/mem/mem.h"
#include "common/text/json.h"
#include "tests/unit/test.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char config_text[] =
    "{\"model_type\":\"deepseek_v4\",\"vocab_size\":16,\"hidden_size\":128,\"num_hidden_layers\":4,"
    "\"num_nextn_predict_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":128,"
    "\"qk_rope_head_dim\":64,\"q_lora_rank\":128,\"o_lora_rank\":64,\"o_groups\":2,\"sliding_window\":8,"
    "\"compress_ratios\":[0,0,4,128,0],\"index_n_heads\":3,\"index_head_dim\":64,\"index_topk\":5,"
    "\"n_routed_experts\":3,\"num_experts_per_tok\":2,\"n_shared_experts\":1,\"moe_intermediate_size\":128,"
    "\"num_hash_layers\":1,\"scoring_func\":\"sqrtsoftplus\",\"routed_scaling_factor\":1.5,\"norm_topk_prob\":true,"
    "\"swiglu_limit\":10.0,\"hc_mult\":2,\"hc_sinkhorn_iters\":20,\"hc_eps\":1e-06,\"rms_norm_eps\":1e-06,"
    "\"hidden_act\":\"silu\",\"rope_theta\":10000,\"compress_rope_theta\":160000,\"rope_scaling\":{\"type\":\"yarn\","
    "\"factor\":16,\"beta_fast\":32,\"beta_slow\":1,\"original_max_position_embeddings\":512},"
    "\"max_position_embeddings\":32768,\"bos_token_id\":0,\"eos_token_id\":1,\"tie_word_embeddings\":false,"
    "\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"scale_fmt\":\"ue8m0\","
    "\"activation_scheme\":\"dynamic\",\"weight_block_size\":[128,128]}}";

/* ---- tensors ------------------------------------------------------------------------------------------ */

/* Bytes that depend on the name, so that a mixed-up tensor is seen; token tables hold valid expert numbers. */
static void fill(struct build *b, size_t i)
{
    uint64_t x = 88172645463325252u;

    for (const char *s = b->spec[i].name; *s; s++)
        x = (x ^ (unsigned char)*s) * 1099511628211u;
    for (size_t k = 0; k < b->n_bytes[i]; k++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        b->data[i][k] = (unsigned char)(x >> 24);
    }
    if (b->spec[i].dtype != MDL_I64 && b->spec[i].dtype != MDL_I32)
        return;
    size_t width = mdl_dtype_bytes(b->spec[i].dtype);
    memset(b->data[i], 0, b->n_bytes[i]);
    for (size_t k = 0; k < b->n_bytes[i]; k += width)
        b->data[i][k] = (unsigned char)(k / width % BUILD_EXPERTS);
}

static void set(struct build *b, size_t i, enum mdl_dtype dtype, int64_t d0, int64_t d1)
{
    uint64_t n_bytes;

    b->spec[i].dtype = dtype;
    b->spec[i].n_dim = d1 ? 2 : 1;
    b->spec[i].dim[0] = d0;
    b->spec[i].dim[1] = d1;
    assert_true(mdl_shape_bytes(dtype, b->spec[i].dim, b->spec[i].n_dim, &n_bytes));
    b->n_bytes[i] = (size_t)n_bytes;
    b->data[i] = arena_zalloc(&b->arena, (size_t)n_bytes);
    fill(b, i);
}

void build_shape(struct build *b, const char *name, enum mdl_dtype dtype, int64_t d0, int64_t d1)
{
    set(b, build_find(b, name), dtype, d0, d1);
}

void build_add(struct build *b, const char *name, enum mdl_dtype dtype, int64_t d0, int64_t d1)
{
    int layer = 0;

    assert_true(b->n < BUILD_TENSORS_MAX);
    b->spec[b->n].name = arena_strdup(&b->arena, name);
    if (sscanf(name, "layers.%d.", &layer) != 1)
        layer = 0;
    b->shard[b->n] = layer;
    set(b, b->n++, dtype, d0, d1); /* by number: a test may add a name that is there already */
}

size_t build_find(const struct build *b, const char *name)
{
    for (size_t i = 0; i < b->n; i++)
        if (strcmp(b->spec[i].name, name) == 0)
            return i;
    fail_msg("the builder has no tensor %s", name);
    return 0;
}

void build_drop(struct build *b, const char *name)
{
    size_t i = build_find(b, name);

    b->n--;
    memmove(&b->spec[i], &b->spec[i + 1], (b->n - i) * sizeof b->spec[0]);
    memmove(&b->data[i], &b->data[i + 1], (b->n - i) * sizeof b->data[0]);
    memmove(&b->n_bytes[i], &b->n_bytes[i + 1], (b->n - i) * sizeof b->n_bytes[0]);
    memmove(&b->shard[i], &b->shard[i + 1], (b->n - i) * sizeof b->shard[0]);
}

static void add_in(struct build *b, const char *prefix, const char *name, enum mdl_dtype dtype, int64_t d0, int64_t d1)
{
    char full[MDL_NAME_MAX];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    build_add(b, full, dtype, d0, d1);
}

static void add_fp8(struct build *b, const char *prefix, const char *name, int64_t out, int64_t in)
{
    char full[MDL_NAME_MAX];

    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    build_add(b, full, MDL_F8_E4M3, out, in);
    snprintf(full, sizeof full, "%s%s.scale", prefix, name);
    build_add(b, full, MDL_F8_E8M0, (out + 127) / 128, (in + 127) / 128);
}

static void add_fp4(struct build *b, const char *prefix, const char *name, int64_t out, int64_t in)
{
    char full[MDL_NAME_MAX];

    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    build_add(b, full, MDL_I8, out, in / 2);
    snprintf(full, sizeof full, "%s%s.scale", prefix, name);
    build_add(b, full, MDL_F8_E8M0, out, in / 32);
}

static void add_layer(struct build *b, const char *p, int ratio, bool is_hash)
{
    add_fp8(b, p, "attn.wq_a", 128, 128);
    add_in(b, p, "attn.q_norm.weight", MDL_BF16, 128, 0);
    add_fp8(b, p, "attn.wq_b", 256, 128);
    add_fp8(b, p, "attn.wkv", 128, 128);
    add_in(b, p, "attn.kv_norm.weight", MDL_BF16, 128, 0);
    add_fp8(b, p, "attn.wo_a", 128, 128); /* 2 groups of [64, 2*128/2] */
    add_fp8(b, p, "attn.wo_b", 128, 128);
    add_in(b, p, "attn.attn_sink", MDL_F32, 2, 0);
    if (ratio) {
        int wide = ratio == 4 ? 256 : 128;
        add_in(b, p, "attn.compressor.wkv.weight", MDL_BF16, wide, 128);
        add_in(b, p, "attn.compressor.wgate.weight", MDL_BF16, wide, 128);
        add_in(b, p, "attn.compressor.ape", MDL_F32, ratio, wide);
        add_in(b, p, "attn.compressor.norm.weight", MDL_BF16, 128, 0);
    }
    if (ratio == 4) {
        add_fp8(b, p, "attn.indexer.wq_b", 192, 128); /* the last block of rows is partial */
        add_in(b, p, "attn.indexer.weights_proj.weight", MDL_BF16, 3, 128);
        add_in(b, p, "attn.indexer.compressor.wkv.weight", MDL_BF16, 128, 128);
        add_in(b, p, "attn.indexer.compressor.wgate.weight", MDL_BF16, 128, 128);
        add_in(b, p, "attn.indexer.compressor.ape", MDL_F32, 4, 128);
        add_in(b, p, "attn.indexer.compressor.norm.weight", MDL_BF16, 64, 0);
    }
    add_in(b, p, "attn_norm.weight", MDL_BF16, 128, 0);
    add_in(b, p, "ffn_norm.weight", MDL_BF16, 128, 0);
    for (int s = 0; s < 2; s++) {
        add_in(b, p, s ? "hc_ffn_fn" : "hc_attn_fn", MDL_F32, 8, 256);
        add_in(b, p, s ? "hc_ffn_base" : "hc_attn_base", MDL_F32, 8, 0);
        add_in(b, p, s ? "hc_ffn_scale" : "hc_attn_scale", MDL_F32, 3, 0);
    }
    add_in(b, p, "ffn.gate.weight", MDL_BF16, 3, 128);
    if (is_hash)
        add_in(b, p, "ffn.gate.tid2eid", MDL_I64, 16, 2);
    else
        add_in(b, p, "ffn.gate.bias", MDL_F32, 3, 0);
    for (int e = 0; e < BUILD_EXPERTS; e++) {
        for (int w = 1; w <= 3; w++) {
            char name[64];
            snprintf(name, sizeof name, "ffn.experts.%d.w%d", e, w);
            add_fp4(b, p, name, 128, 128);
        }
    }
    add_fp8(b, p, "ffn.shared_experts.w1", 128, 128);
    add_fp8(b, p, "ffn.shared_experts.w2", 128, 128);
    add_fp8(b, p, "ffn.shared_experts.w3", 128, 128);
}

static void add_head(struct build *b, const char *p)
{
    add_in(b, p, "norm.weight", MDL_BF16, 128, 0);
    add_in(b, p, "hc_head_fn", MDL_F32, 2, 256);
    add_in(b, p, "hc_head_base", MDL_F32, 2, 0);
    add_in(b, p, "hc_head_scale", MDL_F32, 1, 0);
}

void build_init(struct build *b)
{
    const char *tmp = getenv("TMPDIR");

    *b = (struct build){0};
    snprintf(b->dir, sizeof b->dir, "%s/baton-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(b->dir));
    buf_add_str(&b->config, config_text);
    build_add(b, "embed.weight", MDL_BF16, 16, 128);
    build_add(b, "head.weight", MDL_BF16, 16, 128);
    add_head(b, "");
    add_layer(b, "layers.0.", 0, true);
    add_layer(b, "layers.1.", 0, false);
    add_layer(b, "layers.2.", 4, false);
    add_layer(b, "layers.3.", 128, false);
    add_layer(b, "mtp.0.", 0, false);
    add_in(b, "mtp.0.", "enorm.weight", MDL_BF16, 128, 0);
    add_in(b, "mtp.0.", "hnorm.weight", MDL_BF16, 128, 0);
    add_fp8(b, "mtp.0.", "e_proj", 128, 128);
    add_fp8(b, "mtp.0.", "h_proj", 128, 128);
    add_head(b, "mtp.0.");
}

void build_release(struct build *b)
{
    char path[2 * BUILD_PATH_MAX];
    struct dirent *e;

    DIR *d = opendir(b->dir);
    while (d && (e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", b->dir, e->d_name);
        if (unlink(path) != 0)
            rmdir(path);
    }
    if (d)
        closedir(d);
    rmdir(b->dir);
    buf_release(&b->config);
    arena_release(&b->arena);
}

/* ---- config and files --------------------------------------------------------------------------------- */

void build_config(struct build *b, const char *key, const char *value)
{
    struct arena tree = {0};
    struct buf out = {0};
    const struct json *root;
    bool done = false;

    assert_int_equal(json_parse(b->config.data, b->config.len, 0, &tree, &root, NULL), 0);
    for (const struct json *j = root->child; j; j = j->next) {
        bool mine = strcmp(j->key, key) == 0;
        done = done || mine;
        if (mine && !value)
            continue;
        buf_add_str(&out, out.len ? "," : "{");
        json_add_str(&out, j->key, j->key_len);
        buf_add_char(&out, ':');
        if (mine)
            buf_add_str(&out, value);
        else
            json_add(&out, j);
    }
    if (!done && value)
        buf_addf(&out, ",\"%s\":%s", key, value);
    buf_add_char(&out, '}');
    buf_release(&b->config);
    b->config = out;
    arena_release(&tree);
}

const char *build_path(struct build *b, const char *name)
{
    char path[2 * BUILD_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", b->dir, name);
    return arena_strdup(&b->arena, path);
}

void build_file(struct build *b, const char *name, const void *data, size_t n)
{
    FILE *f = fopen(build_path(b, name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

void build_text(struct build *b, const char *name, const char *text)
{
    build_file(b, name, text, strlen(text));
}

void build_write(struct build *b, int n_shard, build_rename_fn rename)
{
    struct st_spec spec[BUILD_TENSORS_MAX];
    const void *data[BUILD_TENSORS_MAX];
    struct buf index = {0};
    char file[64];
    struct err err;

    build_file(b, "config.json", b->config.data, b->config.len);
    for (int s = 0; s < n_shard; s++) {
        size_t n = 0;
        snprintf(file, sizeof file, "model-%05d-of-%05d.safetensors", s + 1, n_shard);
        for (size_t i = 0; i < b->n; i++) {
            if (b->shard[i] % n_shard != s)
                continue;
            spec[n] = b->spec[i];
            data[n] = b->data[i];
            if (rename)
                spec[n].name = rename(b, spec[n].name);
            buf_addf(&index, "%s\"%s\":\"%s\"", index.len ? "," : "{\"metadata\":{},\"weight_map\":{", spec[n].name,
                     file);
            n++;
        }
        if (st_write(build_path(b, n_shard == 1 ? "model.safetensors" : file), spec, data, n, &err) != 0)
            fail_msg("%s", err.text);
    }
    buf_add_str(&index, "}}");
    if (n_shard > 1)
        build_file(b, "model.safetensors.index.json", index.data, index.len);
    buf_release(&index);
}
