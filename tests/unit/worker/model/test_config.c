/* Proves: config.json is read in both forms to the same values; every key that is missing, of the wrong kind, out of
 * range or in conflict with another is refused in one line that names file, key, value and what is allowed. Each
 * hostile row changes one key of a good config. */
#include "tests/unit/worker/model/build.h"

#include "common/base/check.h"
#include "tests/unit/test.h"
#include "worker/model/config.h"

#include <stdio.h>
#include <string.h>

static const struct row {
    const char *key, *value; /* NULL: the key is removed */
    int code;
    const char *say[3];
} rows[] = {
    {"hidden_size", NULL, ERR_MISSING, {"'hidden_size' is nothing", "a whole number"}},
    {"hidden_size", "\"128\"", ERR_FORMAT, {"'hidden_size' is string '128'"}},
    {"hidden_size", "128.5", ERR_FORMAT, {"'hidden_size' is number '128.5'", "a whole number"}},
    {"hidden_size", "null", ERR_FORMAT, {"'hidden_size' is null"}},
    {"hidden_size", "[128]", ERR_FORMAT, {"'hidden_size' is array"}},
    {"hidden_size", "0", ERR_RANGE, {"'hidden_size' is 0", "128 to 65536"}},
    {"hidden_size", "-128", ERR_RANGE, {"'hidden_size' is -128"}},
    {"hidden_size", "100", ERR_RANGE, {"'hidden_size' is 100"}},
    {"hidden_size", "192", ERR_RANGE, {"'hidden_size' is 192", "multiple of 128"}},
    {"hidden_size", "65664", ERR_RANGE, {"65664", "65536"}},
    {"hidden_size", "1e30", ERR_RANGE, {"'hidden_size' is 1e30"}},
    {"hidden_size", "99999999999999999999", ERR_RANGE, {"99999999999999999999"}},
    {"hidden_size", "4294967424", ERR_RANGE, {"4294967424"}}, /* 2^32 + 128 */
    {"vocab_size", "0", ERR_RANGE, {"'vocab_size' is 0", "1 to 16777216"}},
    {"vocab_size", "16777217", ERR_RANGE, {"16777217"}},
    {"num_hidden_layers", "0", ERR_RANGE, {"'num_hidden_layers' is 0", "1 to 256"}},
    {"num_hidden_layers", "257", ERR_RANGE, {"257", "256"}},
    {"num_hidden_layers", "6", ERR_FORMAT, {"'compress_ratios' has 5 values", "num_hidden_layers is 6"}},
    {"num_hidden_layers", NULL, ERR_MISSING, {"'num_hidden_layers'"}},
    {"num_nextn_predict_layers", "-1", ERR_RANGE, {"'num_nextn_predict_layers' is -1"}},
    {"num_attention_heads", "1025", ERR_RANGE, {"1025", "1024"}},
    {"num_attention_heads", "3", ERR_RANGE, {"'o_groups' is 2", "divisor of num_attention_heads (3)"}},
    {"head_dim", "5000", ERR_RANGE, {"5000", "4096"}},
    {"head_dim", "100", ERR_RANGE, {"100 - 64", "multiple of 64"}},
    {"head_dim", "64", ERR_RANGE, {"64 - 64", "multiple of 64"}},
    {"qk_rope_head_dim", NULL, ERR_MISSING, {"'qk_rope_head_dim'"}},
    {"qk_rope_head_dim", "0", ERR_RANGE, {"'qk_rope_head_dim' is 0"}},
    {"qk_rope_head_dim", "63", ERR_RANGE, {"63", "even"}},
    {"qk_rope_head_dim", "192", ERR_RANGE, {"128 - 192"}},
    {"qk_rope_head_dim", "32", ERR_RANGE, {"128 - 32"}},
    {"q_lora_rank", "64", ERR_RANGE, {"'q_lora_rank' is 64"}},
    {"q_lora_rank", "200", ERR_RANGE, {"200", "multiple of 128"}},
    {"o_lora_rank", "65", ERR_RANGE, {"2 * 65", "multiple of 128"}},
    {"o_groups", "0", ERR_RANGE, {"'o_groups' is 0"}},
    {"sliding_window", "0", ERR_RANGE, {"'sliding_window' is 0"}},
    {"sliding_window", "65537", ERR_RANGE, {"65537"}},
    {"index_n_heads", NULL, ERR_MISSING, {"'index_n_heads'"}},
    {"index_head_dim", "96", ERR_RANGE, {"'index_head_dim' is 96", "power of two"}},
    {"index_head_dim", "32", ERR_RANGE, {"'index_head_dim' is 32", "qk_rope_head_dim (64)"}},
    {"index_topk", "0", ERR_RANGE, {"'index_topk' is 0"}},
    {"n_routed_experts", "1", ERR_RANGE, {"'num_experts_per_tok' is 2", "n_routed_experts (1)"}},
    {"n_routed_experts", "4097", ERR_RANGE, {"4097"}},
    {"num_experts_per_tok", "65", ERR_RANGE, {"65", "64"}},
    {"n_shared_experts", "2", ERR_RANGE, {"'n_shared_experts' is 2"}},
    {"moe_intermediate_size", "129", ERR_RANGE, {"129", "multiple of 128"}},
    {"hc_mult", "0", ERR_RANGE, {"'hc_mult' is 0"}},
    {"hc_mult", "17", ERR_RANGE, {"17", "16"}},
    {"hc_sinkhorn_iters", "0", ERR_RANGE, {"'hc_sinkhorn_iters' is 0"}},
    {"max_position_embeddings", "67108865", ERR_RANGE, {"67108865"}},
    {"num_hash_layers", "5", ERR_RANGE, {"'num_hash_layers' is 5", "0 to 4"}},
    {"num_hash_layers", "-1", ERR_RANGE, {"'num_hash_layers' is -1"}},
    {"bos_token_id", "16", ERR_RANGE, {"'bos_token_id' is 16", "0 to 15"}},
    {"eos_token_id", "16", ERR_RANGE, {"'eos_token_id' is 16", "0 to 15"}},
    {"eos_token_id", "[1,99]", ERR_RANGE, {"'eos_token_id' holds 99"}},
    {"eos_token_id", "\"</s>\"", ERR_FORMAT, {"'eos_token_id' is string"}},
    {"hc_eps", "-1", ERR_RANGE, {"'hc_eps' is -1", "0 to 1"}},
    {"hc_eps", "1e999", ERR_RANGE, {"'hc_eps' is 1e999"}},
    {"hc_eps", "true", ERR_FORMAT, {"'hc_eps' is boolean", "a number"}},
    {"rms_norm_eps", NULL, ERR_MISSING, {"'rms_norm_eps'"}},
    {"routed_scaling_factor", "0", ERR_RANGE, {"'routed_scaling_factor' is 0"}},
    {"swiglu_limit", "-3", ERR_RANGE, {"'swiglu_limit' is -3"}},
    {"rope_theta", "1", ERR_RANGE, {"'rope_theta' is 1"}},
    {"compress_rope_theta", NULL, ERR_MISSING, {"'compress_rope_theta'"}},
    {"compress_rope_theta", "0", ERR_RANGE, {"'compress_rope_theta' is 0"}},
    {"rope_scaling", "7", ERR_FORMAT, {"'rope_scaling' is number"}},
    {"rope_scaling",
     "{\"type\":\"linear\",\"original_max_position_embeddings\":512}",
     ERR_UNSUPPORTED,
     {"linear", "yarn"}},
    {"rope_scaling",
     "{\"type\":\"yarn\",\"original_max_position_embeddings\":512}",
     ERR_MISSING,
     {"'rope_scaling.factor'"}},
    {"rope_scaling",
     "{\"type\":\"yarn\",\"original_max_position_embeddings\":-1}",
     ERR_RANGE,
     {"'rope_scaling.original_max_position_embeddings' is -1"}},
    {"rope_scaling",
     "{\"original_max_position_embeddings\":512,\"factor\":0.5,\"beta_fast\":32,\"beta_slow\":1}",
     ERR_RANGE,
     {"'rope_scaling.factor' is 0.5"}},
    {"rope_scaling",
     "{\"original_max_position_embeddings\":512,\"factor\":16,\"beta_fast\":1,\"beta_slow\":32}",
     ERR_RANGE,
     {"'rope_scaling.beta_fast' is 1", "beta_slow (32)"}},
    {"compress_ratios", NULL, ERR_MISSING, {"neither 'compress_ratios' nor 'layer_types'"}},
    {"compress_ratios", "{}", ERR_FORMAT, {"'compress_ratios' is object", "a list"}},
    {"compress_ratios", "[0,0,4]", ERR_FORMAT, {"'compress_ratios' has 3 values"}},
    {"compress_ratios", "[0,0,8,128]", ERR_RANGE, {"'compress_ratios' has 8 for layer 2", "0, 4 or 128"}},
    {"compress_ratios", "[0,\"4\",4,128]", ERR_RANGE, {"'compress_ratios' has 4 for layer 1"}},
    {"compress_ratios", "[0,0,4,null]", ERR_RANGE, {"null for layer 3"}},
    {"compress_ratios", "[0,0,4,128,4]", ERR_UNSUPPORTED, {"compressed layer at 4"}},
    {"scoring_func", "\"softmax\"", ERR_UNSUPPORTED, {"'scoring_func' is \"softmax\"", "only \"sqrtsoftplus\""}},
    {"norm_topk_prob", "false", ERR_UNSUPPORTED, {"'norm_topk_prob' is false"}},
    {"hidden_act", "\"gelu\"", ERR_UNSUPPORTED, {"'hidden_act' is \"gelu\""}},
    {"topk_method", "\"greedy\"", ERR_UNSUPPORTED, {"'topk_method'"}},
    {"num_key_value_heads", "2", ERR_UNSUPPORTED, {"'num_key_value_heads' is 2"}},
    {"attention_bias", "true", ERR_UNSUPPORTED, {"'attention_bias' is true"}},
    {"tie_word_embeddings", "true", ERR_UNSUPPORTED, {"'tie_word_embeddings' is true"}},
    {"model_type", "\"llama\"", ERR_UNSUPPORTED, {"'model_type' is \"llama\"", "deepseek_v4"}},
    {"quantization_config", "3", ERR_FORMAT, {"'quantization_config' is number"}},
    {"quantization_config",
     "{\"quant_method\":\"awq\"}",
     ERR_UNSUPPORTED,
     {"'quantization_config.quant_method' is \"awq\""}},
    {"quantization_config",
     "{\"weight_block_size\":[64,64]}",
     ERR_UNSUPPORTED,
     {"weight_block_size' is [64,64]", "[128,128]"}},
    {"quantization_config", "{\"scale_fmt\":\"float\"}", ERR_UNSUPPORTED, {"scale_fmt"}},
    {"compress_rates",
     "{\"compressed_sparse_attention\":8}",
     ERR_UNSUPPORTED,
     {"'compress_rates.compressed_sparse_attention' is 8"}},
};

static void expect(const char *text, size_t len, int code, const char *const *say)
{
    struct mdl_config cfg = {.vocab_size = 77};
    struct err err = {0};

    int rc = mdl_config_parse(text, len, "dir/config.json", &cfg, &err);
    if (rc != code || strncmp(err.text, "dir/config.json: ", 17) != 0 || strchr(err.text, '\n'))
        fail_msg("%s (%s): %.*s", err_name(rc), err.text, (int)len, text);
    for (int i = 0; i < 3 && say[i]; i++)
        if (!strstr(err.text, say[i]))
            fail_msg("'%s' is not in: %s", say[i], err.text);
    assert_int_equal(cfg.vocab_size, 77); /* untouched */
}

static void hostile_values_are_refused(void **state)
{
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        struct build b;
        build_init(&b);
        build_config(&b, rows[i].key, rows[i].value);
        expect(b.config.data, b.config.len, rows[i].code, rows[i].say);
        build_release(&b);
    }
    (void)state;
}

static void hostile_texts_are_refused(void **state)
{
    static const struct {
        const char *text;
        int code;
        const char *say[3];
    } texts[] = {
        {"", ERR_FORMAT, {"the text ends here"}},
        {"[]", ERR_FORMAT, {"is array, an object is needed"}},
        {"{", ERR_FORMAT, {"JSON line 1"}},
        {"{}", ERR_MISSING, {"'num_hidden_layers' is nothing"}},
        {"{\"a\":1,\"a\":1}", ERR_FORMAT, {"'a' appears twice"}},
        {"{\"num_hidden_layers\":1,\"compress_ratios\":[0]}", ERR_MISSING, {"'vocab_size'"}},
    };

    for (size_t i = 0; i < N_ELEM(texts); i++)
        expect(texts[i].text, strlen(texts[i].text), texts[i].code, texts[i].say);
    expect("", (size_t)MDL_CONFIG_FILE_MAX + 1, ERR_LIMIT, (const char *[3]){"limit is 16777216"});
    (void)state;
}

static void parse_good(struct build *b, struct mdl_config *cfg)
{
    struct err err;
    if (mdl_config_parse(b->config.data, b->config.len, "x", cfg, &err) != 0)
        fail_msg("%s", err.text);
}

static void published_form(void **state)
{
    struct build b;
    struct mdl_config c;

    build_init(&b);
    parse_good(&b, &c);
    assert_int_equal(c.vocab_size, 16);
    assert_int_equal(c.hidden_size, 128);
    assert_int_equal(c.num_nextn_predict_layers, 1);
    assert_int_equal(c.qk_rope_head_dim, 64);
    assert_int_equal(c.num_hash_layers, 1);
    assert_int_equal(c.layer_kind[1], MDL_WINDOW);
    assert_int_equal(c.layer_kind[2], MDL_CSA);
    assert_int_equal(c.layer_kind[3], MDL_HCA);
    assert_int_equal(c.eos_token_id, 1);
    assert_float_equal(c.hc_eps, 1e-6f, 0);
    assert_float_equal(c.swiglu_limit, 10, 0);
    assert_true(c.yarn.on);
    assert_float_equal(c.yarn.factor, 16, 0);
    assert_int_equal(c.yarn.original_max_position_embeddings, 512);
    assert_float_equal(c.compress_rope_theta, 160000, 0);
    /* CSA: 64 + 1 + 128 and 32 + 2 bytes per 4 tokens; HCA: 193 per 128. */
    assert_float_equal(mdl_kv_bytes_per_token(&c), (193 + 34) / 4.0 + 193 / 128.0, 1e-9);
    build_release(&b);
    (void)state;
}

/* The form that transformers saves gives the same values. */
static void saved_form(void **state)
{
    static const char *const gone[] = {"compress_ratios", "num_hash_layers",     "rope_scaling",
                                       "rope_theta",      "compress_rope_theta", "qk_rope_head_dim"};
    struct build b;
    struct mdl_config old, c;

    build_init(&b);
    parse_good(&b, &old);
    for (size_t i = 0; i < N_ELEM(gone); i++)
        build_config(&b, gone[i], NULL);
    build_config(&b, "layer_types",
                 "[\"sliding_attention\",\"sliding_attention\",\"compressed_sparse_attention\","
                 "\"heavily_compressed_attention\"]");
    build_config(&b, "mlp_layer_types", "[\"hash_moe\",\"moe\",\"moe\",\"moe\"]");
    build_config(&b, "compress_rates", "{\"compressed_sparse_attention\":4,\"heavily_compressed_attention\":128}");
    build_config(
        &b, "rope_parameters",
        "{\"main\":{\"rope_type\":\"default\",\"rope_theta\":10000,\"partial_rotary_factor\":0.5},"
        "\"compress\":{\"rope_type\":\"yarn\",\"rope_theta\":160000.0,\"partial_rotary_factor\":0.5,\"factor\":16,"
        "\"beta_fast\":32,\"beta_slow\":1,\"original_max_position_embeddings\":512,\"attention_factor\":1.0}}");
    parse_good(&b, &c);
    assert_memory_equal(&c, &old, sizeof c);

    build_config(&b, "mlp_layer_types", "[\"moe\",\"hash_moe\",\"moe\",\"moe\"]");
    expect(b.config.data, b.config.len, ERR_UNSUPPORTED,
           (const char *[3]){"'mlp_layer_types' has hash_moe for layer 1"});
    build_config(&b, "mlp_layer_types", "[\"moe\"]");
    expect(b.config.data, b.config.len, ERR_FORMAT, (const char *[3]){"'mlp_layer_types'"});
    build_config(&b, "mlp_layer_types", NULL);
    build_config(&b, "layer_types", "[\"sliding_attention\",\"full_attention\",\"sliding_attention\",\"x\"]");
    expect(b.config.data, b.config.len, ERR_RANGE, (const char *[3]){"'layer_types' has full_attention for layer 1"});
    build_release(&b);
    (void)state;
}

/* Keys that only CSA layers need may be absent without such layers, and optional keys have their defaults. */
static void absent_keys(void **state)
{
    static const char *const gone[] = {"index_n_heads",       "index_head_dim",      "index_topk",
                                       "compress_rope_theta", "rope_scaling",        "swiglu_limit",
                                       "bos_token_id",        "eos_token_id",        "num_nextn_predict_layers",
                                       "n_shared_experts",    "quantization_config", "scoring_func"};
    struct build b;
    struct mdl_config c;

    build_init(&b);
    build_config(&b, "compress_ratios", "[0,0,0,0]");
    build_config(&b, "num_hash_layers", "null");
    for (size_t i = 0; i < N_ELEM(gone); i++)
        build_config(&b, gone[i], NULL);
    parse_good(&b, &c);
    assert_int_equal(c.num_hash_layers, 0);
    assert_int_equal(c.num_nextn_predict_layers, 0);
    assert_int_equal(c.n_shared_experts, 1);
    assert_int_equal(c.bos_token_id, -1);
    assert_int_equal(c.eos_token_id, -1);
    assert_float_equal(c.swiglu_limit, 0, 0);
    assert_false(c.yarn.on);
    assert_float_equal(mdl_kv_bytes_per_token(&c), 0, 0);
    build_config(&b, "eos_token_id", "[3,1]");
    build_config(&b, "swiglu_limit", "null");
    parse_good(&b, &c);
    assert_int_equal(c.eos_token_id, 3);
    build_release(&b);
    (void)state;
}

/* Section 10: about 3.5 KB per token for Flash. */
static void flash_costs_3509_bytes_a_token(void **state)
{
    struct mdl_config c = {.num_hidden_layers = 43, .head_dim = 512, .qk_rope_head_dim = 64, .index_head_dim = 128};

    for (int i = 2; i < 43; i++)
        c.layer_kind[i] = i % 2 ? MDL_HCA : MDL_CSA;
    assert_float_equal(mdl_kv_bytes_per_token(&c), 21 * (583 + 68) / 4.0 + 20 * 583 / 128.0, 1e-9);
    (void)state;
}

static void load_names_the_file(void **state)
{
    struct build b;
    struct mdl_config c;
    struct err err;

    build_init(&b);
    assert_int_equal(mdl_config_load(b.dir, &c, &err), ERR_MISSING);
    assert_non_null(strstr(err.text, build_path(&b, "config.json")));
    build_text(&b, "config.json", "");
    assert_int_equal(mdl_config_load(b.dir, &c, &err), ERR_FORMAT);
    assert_non_null(strstr(err.text, build_path(&b, "config.json")));
    build_file(&b, "config.json", b.config.data, b.config.len);
    assert_int_equal(mdl_config_load(b.dir, &c, &err), 0);
    build_release(&b);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_values_are_refused),
        cmocka_unit_test(hostile_texts_are_refused),
        cmocka_unit_test(published_form),
        cmocka_unit_test(saved_form),
        cmocka_unit_test(absent_keys),
        cmocka_unit_test(flash_costs_3509_bytes_a_token),
        cmocka_unit_test(load_names_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
