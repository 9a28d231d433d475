/* Proves `score` and `layer` as commands: their exit codes, their files, and that chunks and one-token steps give the
 * same bytes. How: both are called with an argv on the golden tiny checkpoint, files go to a temporary folder. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "tests/golden/golden.h"
#include "tests/ops/compare.h"
#include "worker/tool/tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TOK = 40 };

static struct golden g;
static char dir[] = "/tmp/baton_tool_XXXXXX", tokens[128], input[128], out_a[128], out_b[128];

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static int group_setup(void **state)
{
    char text[TOK * 8 + 32] = "{\"tokens\": [";
    size_t n = strlen(text);

    (void)state;
    golden_open(&g, "tiny");
    assert_non_null(mkdtemp(dir));
    snprintf(tokens, sizeof tokens, "%s/tokens.json", dir);
    snprintf(input, sizeof input, "%s/in.safetensors", dir);
    snprintf(out_a, sizeof out_a, "%s/a.safetensors", dir);
    snprintf(out_b, sizeof out_b, "%s/b.safetensors", dir);
    for (int i = 0; i < TOK; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%d", i ? ", " : "", g.prompt[i]);
    snprintf(text + n, sizeof text - n, "]}");
    write_text(tokens, text);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    unlink(tokens);
    unlink(input);
    unlink(out_a);
    unlink(out_b);
    golden_close(&g);
    return rmdir(dir);
}

enum { WORDS_MAX = 24 };

/* Words end with NULL; the tool gets its own copies. */
static int run(int (*tool)(int, char **), const char *const *word)
{
    char *argv[WORDS_MAX] = {0};
    int argc = 0;

    for (; word[argc]; argc++)
        argv[argc] = mem_strdup(word[argc]);
    int rc = tool(argc, argv);
    while (argc > 0)
        mem_free(argv[--argc]);
    return rc;
}

#define RUN(tool, ...) run(tool, (const char *const[]){__VA_ARGS__, NULL})

static void same_tensors(const char *a, const char *b, size_t n_want)
{
    struct st_file *fa = NULL, *fb = NULL;
    struct err err = {0};

    assert_int_equal(st_open(a, &fa, &err), 0);
    assert_int_equal(st_open(b, &fb, &err), 0);
    assert_int_equal(st_n_tensor(fa), n_want);
    for (size_t i = 0; i < n_want; i++) {
        const struct mdl_tensor *x = st_at(fa, i), *y = st_find(fb, x->name);
        assert_non_null(y);
        assert_int_equal(x->n_bytes, y->n_bytes);
        assert_int_equal(compare_bits(x->data, y->data, x->n_bytes), x->n_bytes);
    }
    st_close(&fa);
    st_close(&fb);
}

static void test_score(void **state)
{
    struct st_file *f = NULL;
    struct err err = {0};

    (void)state;
    assert_int_equal(RUN(wrk_tool_score, "score", "--model", g.dir, "--tokens", tokens, "--out", out_a), 0);
    assert_int_equal(st_open(out_a, &f, &err), 0);
    const struct mdl_tensor *t = st_find(f, "logits");
    assert_true(t && t->dtype == MDL_F32 && t->n_dim == 2 && t->dim[0] == TOK && t->dim[1] == 1024);
    st_close(&f);
    assert_int_equal(RUN(wrk_tool_score, "score", "--model", g.dir, "--tokens", tokens, "--out", out_b, "--chunk", "7",
                         "--decode-from", "30", "--backend", "ref", "--ranks", "1"), 0);
    same_tensors(out_a, out_b, 1);
    assert_int_equal(
        RUN(wrk_tool_score, "score", "--model", g.dir, "--tokens", tokens, "--out", out_b, "--decode-from", "0"), 0);
    same_tensors(out_a, out_b, 1);
}

static void test_score_refuses(void **state)
{
    char bad[160];

    (void)state;
    assert_int_equal(RUN(wrk_tool_score, "score", "--help"), 0);
    assert_int_equal(RUN(wrk_tool_score, "score"), 2);
    assert_int_equal(RUN(wrk_tool_score, "score", "--model", g.dir, "--tokens", tokens, "--outt", out_b), 2);
    assert_int_equal(
        RUN(wrk_tool_score, "score", "--model", g.dir, "--tokens", tokens, "--out", out_b, "--chunk", "-1"), 2);
    assert_int_equal(RUN(wrk_tool_score, "score", "--model", "/nonexistent", "--tokens", tokens, "--out", out_b), 1);
    assert_int_equal(RUN(wrk_tool_score, "score", "--model", g.dir, "--tokens", "/nonexistent", "--out", out_b), 1);
    assert_int_equal(RUN(wrk_tool_score, "score", "--model", g.dir, "--tokens", dir, "--out", out_b), 1);
    assert_int_equal(
        RUN(wrk_tool_score, "score", "--model", g.dir, "--tokens", tokens, "--out", out_b, "--backend", "x"), 1);
    assert_int_equal(
        RUN(wrk_tool_score, "score", "--model", g.dir, "--tokens", tokens, "--out", out_b, "--ranks", "9999"), 2);
    assert_int_equal(RUN(wrk_tool_score, "score", "--model", g.dir, "--tokens", tokens, "--out", "/nonexistent/x"), 1);
    static const char *const texts[] = {"",          "{",    "{}",    "[]",     "{\"tokens\": 3}",
                                        "[1, 1024]", "[-1]", "[1.5]", "[\"a\"]"};
    snprintf(bad, sizeof bad, "%s/bad.json", dir);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        write_text(bad, texts[i]);
        assert_int_equal(RUN(wrk_tool_score, "score", "--model", g.dir, "--tokens", bad, "--out", out_b), 1);
    }
    unlink(bad);
}

static void write_input(enum mdl_dtype x_dtype, int64_t n_tok, bool has_tokens)
{
    const struct mdl_tensor *in = golden_get(&g, MDL_BF16, "layers.2.in");
    struct st_spec spec[] = {{"x", x_dtype, 3, {TOK, 4, 256}}, {"tokens", MDL_I32, 1, {n_tok}}};
    float *wide = mem_array((size_t)golden_row(in) * TOK, sizeof *wide);
    const void *data[] = {x_dtype == MDL_BF16 ? in->data : wide, g.prompt};
    struct err err = {0};

    if (st_write(input, spec, data, has_tokens ? 2 : 1, &err))
        fail_msg("%s", err.text);
    mem_free(wide);
}

static void test_layer(void **state)
{
    static const char *const names[] = {
        "x",           "attn.in",      "attn.q",       "attn.kv",      "attn.compressed", "index.q",
        "index.kv",    "index.w",      "index.scores", "index.choice", "attn.o",          "attn.out",
        "hc_attn.pre", "hc_attn.post", "hc_attn.comb", "hc_ffn.pre",   "hc_ffn.post",     "hc_ffn.comb",
        "ffn.in",      "router.ids",   "ffn.out",      "ffn.shared",   "router.weights"};
    struct st_file *f = NULL;
    struct err err = {0};

    (void)state;
    write_input(MDL_BF16, TOK, true);
    assert_int_equal(RUN(wrk_tool_layer, "layer", "--model", g.dir, "--layer", "2", "--input", input, "--out", out_a),
                     0);
    assert_int_equal(st_open(out_a, &f, &err), 0);
    assert_int_equal(st_n_tensor(f), sizeof names / sizeof names[0]);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!st_find(f, names[i]))
            fail_msg("layer wrote no %s", names[i]);
    /* The first rows do not see the later ones, so they are those of the whole golden run. */
    const struct mdl_tensor *x = st_find(f, "x"), *next = golden_get(&g, MDL_BF16, "layers.3.in");
    assert_true(x->dtype == MDL_BF16 && x->n_dim == 3 && x->dim[0] == TOK && x->dim[1] == 4 && x->dim[2] == 256);
    struct compare c = compare_bf16(x->data, next->data, x->n_bytes / 2);
    assert_true(compare_rel_ok(&c, 8e-3));
    const struct mdl_tensor *scores = st_find(f, "index.scores");
    assert_true(scores->dtype == MDL_F32 && scores->dim[0] == TOK && scores->dim[1] == TOK / 4);
    st_close(&f);
    write_input(MDL_BF16, TOK, false); /* layer 2 routes by score */
    assert_int_equal(RUN(wrk_tool_layer, "layer", "--model", g.dir, "--layer", "2", "--input", input, "--out", out_b),
                     0);
    same_tensors(out_a, out_b, sizeof names / sizeof names[0]);
}

static void test_layer_refuses(void **state)
{
    (void)state;
    assert_int_equal(RUN(wrk_tool_layer, "layer", "--help"), 0);
    assert_int_equal(RUN(wrk_tool_layer, "layer", "--model", g.dir, "--layer", "x", "--input", input, "--out", out_b),
                     2);
    write_input(MDL_BF16, TOK, false);
    assert_int_equal(RUN(wrk_tool_layer, "layer", "--model", g.dir, "--layer", "7", "--input", input, "--out", out_b),
                     1);
    assert_int_equal(RUN(wrk_tool_layer, "layer", "--model", g.dir, "--layer", "1", "--input", input, "--out", out_b),
                     1);
    write_input(MDL_BF16, TOK - 1, true);
    assert_int_equal(RUN(wrk_tool_layer, "layer", "--model", g.dir, "--layer", "2", "--input", input, "--out", out_b),
                     1);
    write_input(MDL_F32, TOK, true);
    assert_int_equal(RUN(wrk_tool_layer, "layer", "--model", g.dir, "--layer", "2", "--input", input, "--out", out_b),
                     1);
    write_text(input, "not a tensor file");
    assert_int_equal(RUN(wrk_tool_layer, "layer", "--model", g.dir, "--layer", "2", "--input", input, "--out", out_b),
                     1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_score),
        cmocka_unit_test(test_score_refuses),
        cmocka_unit_test(test_layer),
        cmocka_unit_test(test_layer_refuses),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
