#include "worker/model/config.h"

#include "common/base/check.h"
#include "common/mem/arena.h"
#include "common/text/json.h"
#include "worker/model/file.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Where a value is in the file, for messages: "rope_scaling.factor" = at + key. */
struct place {
    const struct json *obj;
    const char *at; /* "" or "rope_scaling." */
};

static int wrong_kind(const struct place *p, const char *key, const struct json *j, const char *need, struct err *err)
{
    bool shown = json_is(j, JSON_NUMBER) || json_is(j, JSON_STRING);
    return err_set(err, j ? ERR_FORMAT : ERR_MISSING, "key '%s%s' is %s%s%.40s%s, %s is needed", p->at, key,
                   json_kind_name(j), shown ? " '" : "", shown ? j->text : "", shown ? "'" : "", need);
}

/* ---- numbers ------------------------------------------------------------------------------------------ */

enum need {
    NEEDED,
    OPTIONAL, /* absent or null: the default */
    FOR_CSA,  /* needed when a layer is CSA, else optional */
};

struct int_key {
    const char *name;
    size_t offset;
    int32_t min, max, multiple; /* multiple 0: any */
    enum need need;
    int32_t def;
};

#define KEY(field) #field, offsetof(struct mdl_config, field)

/* The multiples are those of section 2: inputs of quantized matmuls are whole blocks of 128. */
static const struct int_key int_keys[] = {
    {KEY(vocab_size), 1, MDL_VOCAB_MAX, 0, NEEDED, 0},
    {KEY(hidden_size), 128, MDL_HIDDEN_MAX, 128, NEEDED, 0},
    {KEY(num_hidden_layers), 1, MDL_LAYERS_MAX, 0, NEEDED, 0},
    {KEY(num_nextn_predict_layers), 0, MDL_LAYERS_MAX, 0, OPTIONAL, 0},
    {KEY(num_attention_heads), 1, MDL_HEADS_MAX, 0, NEEDED, 0},
    {KEY(head_dim), 1, MDL_HEAD_DIM_MAX, 0, NEEDED, 0},
    {KEY(q_lora_rank), 128, MDL_HIDDEN_MAX, 128, NEEDED, 0},
    {KEY(o_lora_rank), 1, MDL_HIDDEN_MAX, 0, NEEDED, 0},
    {KEY(o_groups), 1, MDL_HEADS_MAX, 0, NEEDED, 0},
    {KEY(sliding_window), 1, MDL_WINDOW_MAX, 0, NEEDED, 0},
    {KEY(index_n_heads), 1, MDL_HEADS_MAX, 0, FOR_CSA, 0},
    {KEY(index_head_dim), 32, MDL_HEAD_DIM_MAX, 0, FOR_CSA, 0},
    {KEY(index_topk), 1, MDL_INDEX_TOPK_MAX, 0, FOR_CSA, 0},
    {KEY(n_routed_experts), 1, MDL_EXPERTS_MAX, 0, NEEDED, 0},
    {KEY(num_experts_per_tok), 1, MDL_TOPK_EXPERTS_MAX, 0, NEEDED, 0},
    {KEY(n_shared_experts), 1, 1, 0, OPTIONAL, 1},
    {KEY(moe_intermediate_size), 128, MDL_HIDDEN_MAX, 128, NEEDED, 0},
    {KEY(hc_mult), 1, MDL_HC_MAX, 0, NEEDED, 0},
    {KEY(hc_sinkhorn_iters), 1, 1000, 0, NEEDED, 0},
    {KEY(max_position_embeddings), 1, MDL_CONTEXT_MAX, 0, NEEDED, 0},
    {KEY(bos_token_id), 0, MDL_VOCAB_MAX - 1, 0, OPTIONAL, -1},
};

static int get_i64(const struct place *p, const char *key, int64_t min, int64_t max, int64_t *v, struct err *err)
{
    const struct json *j = json_get(p->obj, key);
    double d;

    if (json_to_i64(j, v)) {
        if (*v >= min && *v <= max)
            return 0;
        return err_set(err, ERR_RANGE, "key '%s%s' is %" PRId64 ", %" PRId64 " to %" PRId64 " is allowed", p->at, key,
                       *v, min, max);
    }
    if (json_is(j, JSON_NUMBER) && !(json_to_double(j, &d) && fabs(d) < 9e15)) /* whole, but far outside */
        return err_set(err, ERR_RANGE, "key '%s%s' is %.40s, %" PRId64 " to %" PRId64 " is allowed", p->at, key,
                       j->text, min, max);
    return wrong_kind(p, key, j, "a whole number", err);
}

static bool is_absent(const struct json *j)
{
    return !j || j->kind == JSON_NULL;
}

static int read_int_keys(const struct json *root, bool has_csa, struct mdl_config *cfg, struct err *err)
{
    const struct place top = {root, ""};

    for (size_t i = 0; i < N_ELEM(int_keys); i++) {
        const struct int_key *k = &int_keys[i];
        int32_t *to = (int32_t *)(void *)((char *)cfg + k->offset);
        int64_t v;

        bool needed = k->need == NEEDED || (k->need == FOR_CSA && has_csa);
        if (!needed && is_absent(json_get(root, k->name))) {
            *to = k->def;
            continue;
        }
        int rc = get_i64(&top, k->name, k->min, k->max, &v, err);
        if (rc)
            return rc;
        if (k->multiple && v % k->multiple)
            return err_set(err, ERR_RANGE, "key '%s' is %" PRId64 ", a multiple of %d from %d to %d is needed", k->name,
                           v, k->multiple, k->min, k->max);
        *to = (int32_t)v;
    }
    return 0;
}

static int get_double(const struct place *p, const char *key, double min, double max, double *v, struct err *err)
{
    const struct json *j = json_get(p->obj, key);

    if (!json_is(j, JSON_NUMBER))
        return wrong_kind(p, key, j, "a number", err);
    if (!json_to_double(j, v) || !(*v >= min && *v <= max))
        return err_set(err, ERR_RANGE, "key '%s%s' is %.40s, %g to %g is allowed", p->at, key, j->text, min, max);
    return 0;
}

static const struct {
    const char *name;
    size_t offset;
    double min, max;
    enum need need;
} float_keys[] = {
    {KEY(hc_eps), 0, 1, NEEDED},
    {KEY(rms_norm_eps), 0, 1, NEEDED},
    {KEY(routed_scaling_factor), 1e-6, 1e6, NEEDED},
    {KEY(swiglu_limit), 0, 1e9, OPTIONAL},
};

static int read_float_keys(const struct json *root, struct mdl_config *cfg, struct err *err)
{
    const struct place top = {root, ""};

    for (size_t i = 0; i < N_ELEM(float_keys); i++) {
        double v = 0;
        if (float_keys[i].need == NEEDED || !is_absent(json_get(root, float_keys[i].name))) {
            int rc = get_double(&top, float_keys[i].name, float_keys[i].min, float_keys[i].max, &v, err);
            if (rc)
                return rc;
        }
        *(float *)(void *)((char *)cfg + float_keys[i].offset) = (float)v;
    }
    return 0;
}

/* A model that ends with one of several tokens lists them; the first is the one that is meant to be written. */
static int read_eos(const struct json *root, struct mdl_config *cfg, struct err *err)
{
    const struct place top = {root, ""};
    const struct json *j = json_get(root, "eos_token_id");
    int64_t v = -1;
    int rc = 0;

    if (json_is(j, JSON_ARRAY)) {
        for (const struct json *e = j->child; e; e = e->next) {
            int64_t id;
            if (!json_to_i64(e, &id) || id < 0 || id >= cfg->vocab_size)
                return err_set(err, ERR_RANGE, "key 'eos_token_id' holds %.40s, tokens are 0 to %d",
                               json_is(e, JSON_NUMBER) ? e->text : json_kind_name(e), cfg->vocab_size - 1);
            if (e == j->child)
                v = id;
        }
    } else if (!is_absent(j)) {
        rc = get_i64(&top, "eos_token_id", 0, cfg->vocab_size - 1, &v, err);
    }
    cfg->eos_token_id = (int32_t)v;
    return rc;
}

/* ---- what the engine does in one way only ------------------------------------------------------------- */

/* A key that, where it is given, must have this value (JSON text). */
struct fixed_key {
    const char *name, *value;
};

static const struct fixed_key fixed_keys[] = {
    {"scoring_func", "\"sqrtsoftplus\""},
    {"norm_topk_prob", "true"},
    {"hidden_act", "\"silu\""},
    {"topk_method", "\"noaux_tc\""},
    {"num_key_value_heads", "1"},
    {"attention_bias", "false"},
    {"mlp_bias", "false"},
    {"tie_word_embeddings", "false"},
    {"model_type", "\"deepseek_v4\""},
};

static const struct fixed_key fixed_quant_keys[] = {
    {"quant_method", "\"fp8\""},
    {"fmt", "\"e4m3\""},
    {"scale_fmt", "\"ue8m0\""},
    {"activation_scheme", "\"dynamic\""},
    {"weight_block_size", "[128,128]"},
};

static int check_fixed(const struct place *p, const struct fixed_key *key, size_t n, struct err *err)
{
    struct buf text = {0};
    int rc = 0;

    for (size_t i = 0; i < n && !rc; i++) {
        const struct json *j = json_get(p->obj, key[i].name);
        if (is_absent(j))
            continue;
        buf_clear(&text);
        json_add(&text, j);
        if (strcmp(text.data, key[i].value) != 0)
            rc = err_set(err, ERR_UNSUPPORTED, "key '%s%s' is %.60s, only %s is supported", p->at, key[i].name,
                         text.data, key[i].value);
    }
    buf_release(&text);
    return rc;
}

static int check_supported(const struct json *root, struct err *err)
{
    const struct place top = {root, ""};
    const struct place quant = {json_get(root, "quantization_config"), "quantization_config."};

    int rc = check_fixed(&top, fixed_keys, N_ELEM(fixed_keys), err);
    if (rc || is_absent(quant.obj))
        return rc;
    if (quant.obj->kind != JSON_OBJECT)
        return wrong_kind(&top, "quantization_config", quant.obj, "an object", err);
    return check_fixed(&quant, fixed_quant_keys, N_ELEM(fixed_quant_keys), err);
}

/* ---- layers ------------------------------------------------------------------------------------------- */

static bool layer_kind_of(const struct json *j, bool by_name, enum mdl_layer_kind *kind)
{
    static const struct {
        const char *name;
        enum mdl_layer_kind kind;
    } kinds[] = {{"sliding_attention", MDL_WINDOW},
                 {"compressed_sparse_attention", MDL_CSA},
                 {"heavily_compressed_attention", MDL_HCA}};
    int64_t ratio = -1;

    if (!by_name && !json_to_i64(j, &ratio))
        return false;
    for (size_t i = 0; i < N_ELEM(kinds); i++) {
        if (by_name ? json_is_str(j, kinds[i].name) : ratio == (int64_t)kinds[i].kind) {
            *kind = kinds[i].kind;
            return true;
        }
    }
    return false;
}

/* compress_ratios (one per layer, then one per MTP layer) or, as transformers saves it, layer_types. */
static int read_layer_kinds(const struct json *root, struct mdl_config *cfg, struct err *err)
{
    const struct place top = {root, ""};
    bool by_name = is_absent(json_get(root, "compress_ratios"));
    const char *key = by_name ? "layer_types" : "compress_ratios";
    const struct json *list = json_get(root, key);
    int64_t n_layer;
    uint32_t i = 0;

    int rc = get_i64(&top, "num_hidden_layers", 1, MDL_LAYERS_MAX, &n_layer, err);
    if (rc)
        return rc;
    if (is_absent(list))
        return err_set(err, ERR_MISSING, "neither 'compress_ratios' nor 'layer_types' is there");
    if (list->kind != JSON_ARRAY)
        return wrong_kind(&top, key, list, "a list", err);
    if (list->n < (uint64_t)n_layer)
        return err_set(err, ERR_FORMAT, "key '%s' has %u values, num_hidden_layers is %" PRId64, key, list->n, n_layer);
    for (const struct json *j = list->child; j; j = j->next, i++) {
        enum mdl_layer_kind kind;
        if (!layer_kind_of(j, by_name, &kind))
            return err_set(err, ERR_RANGE, "key '%s' has %.60s for layer %u, %s is allowed", key,
                           j->text ? j->text : json_kind_name(j), i,
                           by_name ? "sliding_attention, compressed_sparse_attention or heavily_compressed_attention"
                                   : "0, 4 or 128");
        if (i < (uint64_t)n_layer)
            cfg->layer_kind[i] = kind;
        else if (kind != MDL_WINDOW)
            return err_set(err, ERR_UNSUPPORTED, "key '%s' has a compressed layer at %u, behind the %" PRId64 " layers",
                           key, i, n_layer);
    }
    return 0;
}

static int check_compress_rates(const struct json *root, struct err *err)
{
    static const struct fixed_key rates[] = {{"compressed_sparse_attention", "4"},
                                             {"heavily_compressed_attention", "128"}};
    const struct place p = {json_get(root, "compress_rates"), "compress_rates."};

    return check_fixed(&p, rates, N_ELEM(rates), err);
}

/* num_hash_layers, or mlp_layer_types: hash_moe for the first layers, moe for the others. */
static int read_hash_layers(const struct json *root, struct mdl_config *cfg, struct err *err)
{
    const struct place top = {root, ""};
    const struct json *list = json_get(root, "mlp_layer_types");
    int64_t n = 0;
    int32_t i = 0;
    int rc = 0;

    if (!is_absent(json_get(root, "num_hash_layers"))) {
        rc = get_i64(&top, "num_hash_layers", 0, cfg->num_hidden_layers, &n, err);
    } else if (!is_absent(list)) {
        if (list->kind != JSON_ARRAY || list->n < (uint32_t)cfg->num_hidden_layers)
            return err_set(err, ERR_FORMAT, "key 'mlp_layer_types' is not a list of num_hidden_layers (%d) values",
                           cfg->num_hidden_layers);
        for (const struct json *j = list->child; j && i < cfg->num_hidden_layers; j = j->next, i++) {
            if (json_is_str(j, "hash_moe") && n == i)
                n++;
            else if (!json_is_str(j, "moe"))
                return err_set(
                    err, ERR_UNSUPPORTED,
                    "key 'mlp_layer_types' has %.40s for layer %d; hash_moe for the first layers, then moe is "
                    "supported",
                    j->text ? j->text : json_kind_name(j), i);
        }
    }
    cfg->num_hash_layers = (int32_t)n;
    return rc;
}

/* ---- rotary positions --------------------------------------------------------------------------------- */

static bool has_kind(const struct mdl_config *cfg, enum mdl_layer_kind a, enum mdl_layer_kind b)
{
    for (int i = 0; i < cfg->num_hidden_layers; i++)
        if (cfg->layer_kind[i] == a || cfg->layer_kind[i] == b)
            return true;
    return false;
}

static int read_yarn(const struct place *p, struct mdl_config *cfg, struct err *err)
{
    if (is_absent(p->obj))
        return 0;
    if (p->obj->kind != JSON_OBJECT)
        return err_set(err, ERR_FORMAT, "key '%.*s' is %s, an object is needed", (int)strlen(p->at) - 1, p->at,
                       json_kind_name(p->obj));
    const struct json *type = json_get(p->obj, "rope_type");
    if (is_absent(type))
        type = json_get(p->obj, "type");
    if (json_is_str(type, "default") || is_absent(json_get(p->obj, "original_max_position_embeddings")))
        return 0; /* plain positions */
    if (!is_absent(type) && !json_is_str(type, "yarn"))
        return err_set(err, ERR_UNSUPPORTED, "key '%srope_type' is %.40s, only yarn is supported", p->at,
                       type->text ? type->text : json_kind_name(type));
    int rc = get_i64(p, "original_max_position_embeddings", 0, MDL_CONTEXT_MAX,
                     &cfg->yarn.original_max_position_embeddings, err);
    if (rc || cfg->yarn.original_max_position_embeddings == 0)
        return rc;
    cfg->yarn.on = true;
    rc = get_double(p, "factor", 1, 1e6, &cfg->yarn.factor, err);
    if (!rc)
        rc = get_double(p, "beta_fast", 1e-3, 1e6, &cfg->yarn.beta_fast, err);
    if (!rc)
        rc = get_double(p, "beta_slow", 1e-3, 1e6, &cfg->yarn.beta_slow, err);
    if (!rc && cfg->yarn.beta_fast < cfg->yarn.beta_slow)
        rc = err_set(err, ERR_RANGE, "key '%sbeta_fast' is %g, at least beta_slow (%g) is needed", p->at,
                     cfg->yarn.beta_fast, cfg->yarn.beta_slow);
    return rc;
}

/* Transformers keeps the rotary part of a head as a fraction. */
static int read_rope_dim(const struct json *root, const struct json *main_rope, struct mdl_config *cfg, struct err *err)
{
    const struct place top = {root, ""};
    struct place p = top;
    int64_t v;
    double part;

    if (!is_absent(json_get(root, "qk_rope_head_dim")) || (is_absent(json_get(root, "partial_rotary_factor")) &&
                                                           is_absent(json_get(main_rope, "partial_rotary_factor")))) {
        int rc = get_i64(&top, "qk_rope_head_dim", 2, MDL_HEAD_DIM_MAX, &v, err);
        cfg->qk_rope_head_dim = rc ? 0 : (int32_t)v;
        return rc;
    }
    if (is_absent(json_get(root, "partial_rotary_factor")))
        p = (struct place){main_rope, "rope_parameters.main."};
    int rc = get_double(&p, "partial_rotary_factor", 0, 1, &part, err);
    if (rc)
        return rc;
    cfg->qk_rope_head_dim = (int32_t)floor(cfg->head_dim * part + 1e-6);
    return 0;
}

/* Thetas and YaRN from rope_theta, compress_rope_theta and rope_scaling, or from the two parts of rope_parameters. */
static int read_rope(const struct json *root, struct mdl_config *cfg, struct err *err)
{
    const struct json *nested = json_get(root, "rope_parameters");
    struct place main = {json_get(nested, "main"), "rope_parameters.main."};
    struct place compress = {json_get(nested, "compress"), "rope_parameters.compress."};
    struct place theta = {root, ""}, compress_theta = {root, ""};
    const struct place scaling = {json_get(root, "rope_scaling"), "rope_scaling."};
    const char *compress_key = "compress_rope_theta";

    int rc = read_rope_dim(root, main.obj, cfg, err);
    if (rc)
        return rc;
    if (!is_absent(json_get(main.obj, "rope_theta")))
        theta = main;
    if (!is_absent(json_get(compress.obj, "rope_theta"))) {
        compress_theta = compress;
        compress_key = "rope_theta";
    }
    rc = get_double(&theta, "rope_theta", 1.001, 1e12, &cfg->rope_theta, err);
    if (rc || !has_kind(cfg, MDL_CSA, MDL_HCA))
        return rc;
    rc = get_double(&compress_theta, compress_key, 1.001, 1e12, &cfg->compress_rope_theta, err);
    if (rc)
        return rc;
    return read_yarn(is_absent(compress.obj) ? &scaling : &compress, cfg, err);
}

/* ---- rules between keys ------------------------------------------------------------------------------- */

static int check_rules(const struct mdl_config *c, bool has_csa, struct err *err)
{
    int64_t o_width = (int64_t)c->o_groups * c->o_lora_rank;

    if (o_width % 128)
        return err_set(err, ERR_RANGE, "o_groups * o_lora_rank is %d * %d, a multiple of 128 is needed", c->o_groups,
                       c->o_lora_rank);
    if (o_width > INT32_MAX / 4 || (int64_t)c->num_attention_heads * c->head_dim > INT32_MAX / 4)
        return err_set(err, ERR_RANGE,
                       "o_groups * o_lora_rank (%" PRId64 ") or num_attention_heads * head_dim is too large", o_width);
    if (c->num_attention_heads % c->o_groups)
        return err_set(err, ERR_RANGE, "key 'o_groups' is %d, a divisor of num_attention_heads (%d) is needed",
                       c->o_groups, c->num_attention_heads);
    if (c->qk_rope_head_dim < 2 || c->qk_rope_head_dim % 2)
        return err_set(err, ERR_RANGE, "key 'qk_rope_head_dim' is %d, an even number from 2 is needed",
                       c->qk_rope_head_dim);
    if (c->head_dim - c->qk_rope_head_dim < 64 || (c->head_dim - c->qk_rope_head_dim) % 64)
        return err_set(err, ERR_RANGE, "head_dim - qk_rope_head_dim is %d - %d, a multiple of 64 from 64 is needed",
                       c->head_dim, c->qk_rope_head_dim);
    if (c->num_experts_per_tok > c->n_routed_experts)
        return err_set(err, ERR_RANGE, "key 'num_experts_per_tok' is %d, at most n_routed_experts (%d) is allowed",
                       c->num_experts_per_tok, c->n_routed_experts);
    if (c->bos_token_id >= c->vocab_size)
        return err_set(err, ERR_RANGE, "key 'bos_token_id' is %d, tokens are 0 to %d", c->bos_token_id,
                       c->vocab_size - 1);
    if (!has_csa)
        return 0;
    if (c->index_head_dim & (c->index_head_dim - 1))
        return err_set(err, ERR_RANGE, "key 'index_head_dim' is %d, a power of two is needed", c->index_head_dim);
    if (c->index_head_dim < c->qk_rope_head_dim)
        return err_set(err, ERR_RANGE, "key 'index_head_dim' is %d, at least qk_rope_head_dim (%d) is needed",
                       c->index_head_dim, c->qk_rope_head_dim);
    return 0;
}

static int read_config(const struct json *root, struct mdl_config *cfg, struct err *err)
{
    if (root->kind != JSON_OBJECT)
        return err_set(err, ERR_FORMAT, "is %s, an object is needed", json_kind_name(root));
    int rc = check_supported(root, err);
    if (!rc)
        rc = read_layer_kinds(root, cfg, err);
    if (rc)
        return rc;
    /* The kinds decide which keys are needed; read_layer_kinds has checked the number of layers. */
    int64_t n_layer = 0;
    json_to_i64(json_get(root, "num_hidden_layers"), &n_layer);
    cfg->num_hidden_layers = (int32_t)n_layer;
    bool has_csa = has_kind(cfg, MDL_CSA, MDL_CSA);
    rc = read_int_keys(root, has_csa, cfg, err);
    if (!rc)
        rc = read_float_keys(root, cfg, err);
    if (!rc)
        rc = read_eos(root, cfg, err);
    if (!rc)
        rc = check_compress_rates(root, err);
    if (!rc)
        rc = read_hash_layers(root, cfg, err);
    if (!rc)
        rc = read_rope(root, cfg, err);
    if (!rc)
        rc = check_rules(cfg, has_csa, err);
    return rc;
}

int mdl_config_parse(const char *text, size_t len, const char *name, struct mdl_config *cfg, struct err *err)
{
    struct arena tree = {0};
    const struct json *root;
    struct mdl_config c = {0};
    int rc;

    if (len > MDL_CONFIG_FILE_MAX)
        rc = err_set(err, ERR_LIMIT, "has %zu bytes, the limit is %d", len, MDL_CONFIG_FILE_MAX);
    else
        rc = json_parse(text, len, JSON_NO_REPEATED_KEYS, &tree, &root, err);
    if (!rc)
        rc = read_config(root, &c, err);
    arena_release(&tree);
    if (rc) {
        err_wrap(err, "%s", name);
        return rc;
    }
    *cfg = c;
    return 0;
}

int mdl_config_load(const char *dir, struct mdl_config *cfg, struct err *err)
{
    char path[PATH_MAX];
    struct mdl__map map;

    if (snprintf(path, sizeof path, "%s/config.json", dir) >= (int)sizeof path)
        return err_set(err, ERR_ARG, "%.100s...: the path is too long", dir);
    int rc = mdl__map_open(path, MDL_CONFIG_FILE_MAX, &map, err);
    if (rc) {
        err_wrap(err, "%s", path);
        return rc;
    }
    rc = mdl_config_parse(map.data ? map.data : "", map.n_bytes, path, cfg, err);
    mdl__map_close(&map);
    return rc;
}

double mdl_kv_bytes_per_token(const struct mdl_config *c)
{
    int nope = c->head_dim - c->qk_rope_head_dim;
    double entry = nope + nope / 64 + 2.0 * c->qk_rope_head_dim;   /* E4M3, scales, BF16 */
    double index = c->index_head_dim / 2 + c->index_head_dim / 32; /* FP4, scales */
    double sum = 0;

    for (int i = 0; i < c->num_hidden_layers; i++) {
        if (c->layer_kind[i] == MDL_CSA)
            sum += (entry + index) / MDL_CSA;
        else if (c->layer_kind[i] == MDL_HCA)
            sum += entry / MDL_HCA;
    }
    return sum;
}
