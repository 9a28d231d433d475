/* Proves: every spelling that a checkpoint may have leads to the official name: all tensors of a model with every
 * kind of layer, in the four spellings (tensor_names.tsv), and rows for what is special. */
#include "common/base/check.h"
#include "tests/unit/test.h"
#include "worker/model/names.h"

#include <stdio.h>
#include <string.h>

static void check(const char *name, const char *official)
{
    char out[MDL_NAME_MAX + 1];

    assert_true(mdl_name_official(name, out));
    if (strcmp(out, official) != 0)
        fail_msg("%s became %s, not %s", name, out, official);
}

static void all_spellings_of_a_model(void **state)
{
    char line[2048];
    int n = 0, n_changed = 0;

    FILE *f = fopen(TEST_DATA("unit/worker/model/tensor_names.tsv"), "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        char *save = NULL, *official = strtok_r(line, "\t\n", &save);
        if (line[0] == '#')
            continue;
        check(official, official);
        for (char *s = strtok_r(NULL, "\t\n", &save); s; s = strtok_r(NULL, "\t\n", &save)) {
            check(s, official);
            n_changed += strcmp(s, official) != 0;
        }
        n++;
    }
    fclose(f);
    assert_int_equal(n, 195);
    assert_true(n_changed > 400);
    (void)state;
}

static void special_rows(void **state)
{
    static const char *const rows[][2] = {
        {"model.layers.0.attn.norm.weight", "layers.0.attn.kv_norm.weight"},
        {"mtp.0.attn.norm.weight", "mtp.0.attn.kv_norm.weight"},
        {"layers.0.attn.compressor.norm.weight", "layers.0.attn.compressor.norm.weight"},
        {"layers.0.attn_norm.weight", "layers.0.attn_norm.weight"},
        {"model.norm.weight", "norm.weight"},
        {"model.model.norm.weight", "model.norm.weight"},
        {"layers.0.model.x", "layers.0.model.x"},
        {"lm_head.weight", "head.weight"},
        {"model.layers.0.self_attn.q_b_proj.weight_scale", "layers.0.attn.wq_b.scale"},
        {"model.layers.0.self_attn.sinks", "layers.0.attn.attn_sink"},
        {"model.layers.0.self_attn.sinks.x", "layers.0.attn.sinks.x"},
        {"model.hc_head.hc_base", "hc_head_base"},
        {"layers.0.mlp.shared_experts.gate_proj.weight_scale_inv", "layers.0.ffn.shared_experts.w1.scale"},
        {"layers.0.mlp.gate.e_score_correction_bias", "layers.0.ffn.gate.bias"},
        {"layers.2.self_attn.compressor.indexer.gate_proj.weight", "layers.2.attn.indexer.compressor.wgate.weight"},
        {"layers.2.self_attn.compressor.indexer.position_bias", "layers.2.attn.indexer.compressor.ape"},
        {"layers.2.self_attn.compressor.indexer.kv_norm.weight", "layers.2.attn.indexer.compressor.norm.weight"},
        {"something.else", "something.else"},
        {"weight_scale", "scale"},
        {"model.", ""},
        {"", ""},
    };

    for (size_t i = 0; i < N_ELEM(rows); i++)
        check(rows[i][0], rows[i][1]);
    (void)state;
}

static void long_names_are_refused(void **state)
{
    char name[2 * MDL_NAME_MAX], out[MDL_NAME_MAX + 1];

    memset(name, 'a', sizeof name);
    name[MDL_NAME_MAX] = 0;
    assert_true(mdl_name_official(name, out));
    assert_string_equal(name, out);
    name[MDL_NAME_MAX] = 'a';
    name[MDL_NAME_MAX + 1] = 0;
    assert_false(mdl_name_official(name, out));

    /* Rules that lengthen: the result does not fit, though the name does. */
    name[0] = 0;
    while (strlen(name) + strlen(".attn.norm.") <= MDL_NAME_MAX)
        strcat(name, ".attn.norm.");
    assert_false(mdl_name_official(name, out));
    memset(name, 'a', MDL_NAME_MAX);
    strcpy(name + MDL_NAME_MAX - strlen(".sinks"), ".sinks");
    assert_false(mdl_name_official(name, out));
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_spellings_of_a_model),
        cmocka_unit_test(special_rows),
        cmocka_unit_test(long_names_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
