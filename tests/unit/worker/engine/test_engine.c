/* Proves the contract of engine.h at its edges: options that are refused, with one clear line; sequences and blocks
 * at their limits; a step without logits. The numbers are proved in tests/golden. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "tests/golden/golden.h"

#include <math.h>
#include <string.h>

static const struct eng_opts good = {
    .backend = "ref", .n_ranks = 1, .n_seq_max = 2, .step_tok_max = 16, .context_max = 300, .kv_tokens = 384};

static void refused(struct eng_opts o, int code, const char *text)
{
    struct golden g;
    struct eng *eng = NULL;
    struct err err = {0};

    golden_open(&g, "tiny");
    if (!o.model_dir)
        o.model_dir = g.dir;
    assert_int_equal(eng_open(&o, &eng, &err), code);
    assert_null(eng);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
    golden_close(&g);
}

static void test_options(void **state)
{
    struct eng_opts o;

    (void)state;
    o = good, o.backend = "tpu";
    refused(o, ERR_UNSUPPORTED, "tpu");
    o = good, o.n_ranks = 0;
    refused(o, ERR_RANGE, "0 ranks");
    o = good, o.n_ranks = ENG_RANKS_MAX + 1;
    refused(o, ERR_RANGE, "65 ranks");
    o = good, o.n_ranks = 9;
    refused(o, ERR_RANGE, "8 experts");
    o = good, o.n_seq_max = 0;
    refused(o, ERR_RANGE, "0 sequences");
    o = good, o.n_seq_max = ENG_SEQ_MAX + 1;
    refused(o, ERR_RANGE, "sequences");
    o = good, o.step_tok_max = ENG_STEP_TOK_MAX + 1;
    refused(o, ERR_RANGE, "steps");
    o = good, o.context_max = 32769;
    refused(o, ERR_RANGE, "32769");
    o = good, o.kv_tokens = INT64_MAX;
    refused(o, ERR_RANGE, "cache");
    o = good, o.model_dir = "/nonexistent";
    refused(o, ERR_MISSING, "/nonexistent");
}

static void test_limits(void **state)
{
    struct golden g;
    struct eng_seq *a = NULL, *b = NULL, *c = NULL;
    struct err err = {0};

    (void)state;
    golden_open(&g, "tiny");
    struct eng_opts o = good;
    struct eng *eng = NULL;
    o.model_dir = g.dir;
    assert_int_equal(eng_open(&o, &eng, &err), 0);
    const struct eng_caps *caps = eng_caps(eng);
    assert_int_equal(caps->kv_blocks, 3);
    assert_int_equal(caps->context_max, 300);
    assert_string_equal(caps->numerics, "ref/f64/1");
    assert_true(caps->weight_bytes > 9000000 && caps->kv_bytes > 0 && caps->state_bytes > 0 &&
                caps->workspace_bytes > 0);
    assert_int_equal(eng_seq_open(eng, &a, &err), 0);
    assert_int_equal(eng_seq_open(eng, &b, &err), 0);
    assert_int_equal(eng_seq_open(eng, &c, &err), ERR_LIMIT);
    assert_null(c);
    assert_int_equal(eng_seq_reserve(eng, a, 301, &err), ERR_LIMIT); /* the context */
    assert_int_equal(eng_seq_reserve(eng, a, INT64_MAX, &err), ERR_LIMIT);
    assert_int_equal(eng_kv_blocks_free(eng), 3);
    assert_int_equal(eng_seq_reserve(eng, a, 257, &err), 0);
    assert_int_equal(eng_kv_blocks_free(eng), 0);
    assert_int_equal(eng_seq_reserve(eng, b, 1, &err), ERR_LIMIT); /* the pool */
    assert_true(strstr(err.text, "0 of 3 blocks"));
    eng_seq_close(eng, &a);
    assert_null(a);
    assert_int_equal(eng_kv_blocks_free(eng), 3);
    assert_int_equal(eng_seq_reserve(eng, b, 1, &err), 0);
    eng_seq_close(eng, &b);
    eng_close(&eng);
    eng_close(&eng);
    golden_close(&g);
}

static void test_step_without_logits(void **state)
{
    struct golden g;
    struct eng *eng;
    struct eng_seq *seq = NULL;
    struct err err = {0};
    struct eng_plan nothing = {NULL, 0};

    (void)state;
    golden_open(&g, "tiny");
    eng = golden_engine(&g, "ref", 1, 64, 16);
    int n_vocab = eng_config(eng)->vocab_size;
    float *logits = mem_array((size_t)n_vocab * 2, sizeof *logits);
    assert_int_equal(eng_step(eng, &nothing, &err), 0);
    golden_prefill(eng, &seq, g.prompt, 9, NULL, 0);
    assert_int_equal(eng_seq_len(seq), 9);
    logits[n_vocab] = -12345; /* only what was asked for is written */
    golden_step(eng, seq, g.prompt + 9, 7, logits, 1);
    assert_int_equal(eng_seq_len(seq), 16);
    assert_true(isfinite(logits[0]) && isfinite(logits[n_vocab - 1]) && logits[n_vocab] == -12345);
    eng_seq_close(eng, &seq);
    eng_close(&eng);
    mem_free(logits);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_step_without_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
