/* Check B: every layer of every case. How: rows 0..7 of a layer's golden output depend only on rows 0..7 of the
 * output of the layer before (layer 0: the embedding, once per stream); they are fed as an 8-token prefill. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "tests/golden/golden.h"
#include "tests/ops/compare.h"
#include "worker/model/checkpoint.h"

#include <string.h>

enum { ROWS = 8 };

/* The embedding of the first tokens, once per stream. */
static void embed(const struct golden *g, const struct mdl_config *c, uint16_t *x)
{
    struct mdl_ckpt *ckpt = NULL;
    struct err err = {0};
    size_t d = (size_t)c->hidden_size;

    if (mdl_ckpt_open(g->dir, &ckpt, &err))
        fail_msg("%s", err.text);
    const struct mdl_tensor *t = mdl_ckpt_find(ckpt, "embed.weight");
    assert_true(t && t->dtype == MDL_BF16);
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < c->hc_mult; j++, x += d)
            memcpy(x, (const char *)t->data + (size_t)g->prompt[r] * d * 2, d * 2);
    mdl_ckpt_close(&ckpt);
}

static void all_layers(const char *name)
{
    struct golden g;

    golden_open(&g, name);
    for (const char *const *b = golden_backends(); *b; b++) {
        struct eng *eng = golden_engine(&g, *b, 1, ROWS, ROWS);
        const struct mdl_config *c = eng_config(eng);
        size_t n = (size_t)ROWS * (size_t)c->hc_mult * (size_t)c->hidden_size;
        uint16_t *x = mem_array(n, sizeof *x);
        for (int layer = 0; layer < c->num_hidden_layers; layer++) {
            const struct mdl_tensor *want = golden_get(&g, MDL_BF16, "layers.%d.out", layer);
            struct err err = {0};
            if (layer == 0)
                embed(&g, c, x);
            else
                memcpy(x, golden_get(&g, MDL_BF16, "layers.%d.out", layer - 1)->data, n * sizeof *x);
            if (eng_layer_alone(eng, layer, x, g.prompt, ROWS, &err))
                fail_msg("%s", err.text);
            struct compare r = compare_bf16(x, want->data, n);
            print_message("%s %s layer %d: rel %.1e\n", name, *b, layer, r.rel);
            assert_true(compare_rel_ok(&r, 1e-2));
        }
        mem_free(x);
        eng_close(&eng);
    }
    golden_close(&g);
}

static void test_tiny(void **state)
{
    (void)state;
    all_layers("tiny");
}

static void test_flashlike(void **state)
{
    (void)state;
    all_layers("flashlike");
}

static void test_fp8experts(void **state)
{
    (void)state;
    all_layers("fp8experts");
}

static void test_mtp(void **state)
{
    (void)state;
    all_layers("mtp");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiny),
        cmocka_unit_test(test_flashlike),
        cmocka_unit_test(test_fp8experts),
        cmocka_unit_test(test_mtp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
