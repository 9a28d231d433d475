/* Check C: the whole model, statistically (FP8 rounding makes correct programs differ by percents;
 * tests/golden/README.md has the measured noise). How: prefill of the prompt, then 48 one-token steps fed with the
 * golden tokens; the distribution of the logit differences, the agreement of the argmax, and its certainty where the
 * margin is large. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "tests/golden/golden.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Noise of two correct programs: README, "Noise". */
static const struct noise {
    const char *name;
    double mean_abs, median, p90, argmax;
} prefill_noise[] = {{"tiny", 0.167, 0.043, 0.092, 0.907},
                     {"flashlike", 0.052, 0.015, 0.023, 0.970},
                     {"fp8experts", 0.066, 0.014, 0.035, 0.947},
                     {"mtp", 0.056, 0.013, 0.031, 0.973}},
  greedy_noise[] = {{"tiny", 0.187, 0.048, 0.093, 0.854},
                    {"flashlike", 0.054, 0.015, 0.024, 0.958},
                    {"fp8experts", 0.070, 0.016, 0.037, 0.958},
                    {"mtp", 0.056, 0.015, 0.024, 0.958}};

static const double MARGIN_CERTAIN = 2.0;

/* What rows of logits measured. */
struct measure {
    double abs_sum, *rel;
    int64_t n_value;
    int n_row, n_rel, n_agree;
};

/* Largest and second largest of n. */
static double margin_of(const float *x, int n)
{
    int best = golden_argmax(x, n);
    double second = -INFINITY;
    for (int i = 0; i < n; i++)
        if (i != best && x[i] > second)
            second = x[i];
    return x[best] - second;
}

static void note_argmax(struct measure *m, bool agrees, double margin)
{
    m->n_row++;
    m->n_agree += agrees;
    if (!agrees && margin > MARGIN_CERTAIN)
        fail_msg("row %d: another argmax though the golden margin is %g", m->n_row - 1, margin);
}

/* A row with all golden logits. */
static void add_full(struct measure *m, const float *got, const float *want, int n)
{
    double mean = 0, diff2 = 0, dev2 = 0;

    for (int i = 0; i < n; i++)
        mean += (double)want[i] / n;
    for (int i = 0; i < n; i++) {
        double d = (double)got[i] - want[i];
        assert_true(isfinite(got[i]));
        diff2 += d * d;
        dev2 += (want[i] - mean) * (want[i] - mean);
        m->abs_sum += fabs(d);
    }
    m->n_value += n;
    m->rel[m->n_rel++] = sqrt(diff2 / dev2);
    note_argmax(m, golden_argmax(got, n) == golden_argmax(want, n), margin_of(want, n));
}

/* A row of which the 32 largest golden logits are known. */
static void add_top(struct measure *m, const float *got, int n, const int32_t *id, const float *value, int k)
{
    for (int i = 0; i < k; i++) {
        assert_true(isfinite(got[id[i]]));
        m->abs_sum += fabs((double)got[id[i]] - value[i]);
    }
    m->n_value += k;
    note_argmax(m, golden_argmax(got, n) == id[0], value[0] - value[1]);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void verdict(const char *what, struct measure *m, const struct noise *noise, double factor)
{
    double mean = m->abs_sum / (double)m->n_value, agree = (double)m->n_agree / m->n_row, median = 0, p90 = 0;

    if (m->n_rel) {
        qsort(m->rel, (size_t)m->n_rel, sizeof *m->rel, by_value);
        median = m->rel[m->n_rel / 2];
        p90 = m->rel[m->n_rel * 9 / 10];
    }
    print_message("%s %s: mean %.3f rel %.4f / %.4f (%d rows), argmax %.3f of %d rows\n", noise->name, what, mean,
                  median, p90, m->n_rel, agree, m->n_row);
    assert_true(mean <= factor * noise->mean_abs);
    assert_true(median <= factor * noise->median);
    assert_true(p90 <= factor * noise->p90);
    assert_true(agree >= 1 - 1.6 * (1 - noise->argmax) - 0.02);
}

/* tiny has all logits of all rows; the others the 32 largest of each, and all of the last 16. */
static void measure_prefill(const struct golden *g, const float *logits, int n_vocab, struct measure *m)
{
    const struct mdl_tensor *all = golden_find(g, "prefill.logits");

    if (all) {
        for (int r = 0; r < g->n_prompt; r++)
            add_full(m, logits + (size_t)r * (size_t)n_vocab, (const float *)all->data + (size_t)r * (size_t)n_vocab,
                     n_vocab);
        return;
    }
    const struct mdl_tensor *id = golden_get(g, MDL_I32, "prefill.top_ids");
    const struct mdl_tensor *value = golden_get(g, MDL_F32, "prefill.top_values");
    int k = (int)id->dim[1];
    assert_int_equal(id->dim[0], g->n_prompt);
    for (int r = 0; r < g->n_prompt; r++)
        add_top(m, logits + (size_t)r * (size_t)n_vocab, n_vocab, (const int32_t *)id->data + r * k,
                (const float *)value->data + r * k, k);
}

static void whole_model(const char *name, const struct noise *prefill, const struct noise *greedy)
{
    struct golden g;

    golden_open(&g, name);
    const struct mdl_tensor *tok = golden_get(&g, MDL_I32, "greedy.tokens");
    const struct mdl_tensor *want = golden_get(&g, MDL_F32, "greedy.logits");
    int n_greedy = (int)tok->dim[0], n_vocab = (int)want->dim[1];
    float *logits = mem_array((size_t)g.n_prompt * (size_t)n_vocab, sizeof *logits);
    double *rel = mem_array((size_t)g.n_prompt, sizeof *rel);
    for (const char *const *b = golden_backends(); *b; b++) {
        struct eng *eng = golden_engine(&g, *b, 1, g.n_prompt + n_greedy, g.n_prompt);
        struct eng_seq *seq = NULL;
        struct measure m = {.rel = rel}, mg = {.rel = rel};
        golden_prefill(eng, &seq, g.prompt, g.n_prompt, logits, g.n_prompt);
        measure_prefill(&g, logits, n_vocab, &m);
        verdict("prefill", &m, prefill, 1.4);
        for (int i = 0; i < n_greedy; i++) {
            golden_step(eng, seq, (const int32_t *)tok->data + i, 1, logits, 1);
            add_full(&mg, logits, (const float *)want->data + (size_t)i * (size_t)n_vocab, n_vocab);
        }
        verdict("greedy rows", &mg, greedy, 1.8);
        eng_seq_close(eng, &seq);
        eng_close(&eng);
    }
    mem_free(rel);
    mem_free(logits);
    golden_close(&g);
}

#define CASE(i)                                                                                     \
    static void test_##i(void **state)                                                              \
    {                                                                                               \
        (void)state;                                                                                \
        whole_model(prefill_noise[i].name, &prefill_noise[i], &greedy_noise[i]);                    \
    }
CASE(0)
CASE(1)
CASE(2)
CASE(3)
#undef CASE

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"tiny", test_0, NULL, NULL, NULL},
        {"flashlike", test_1, NULL, NULL, NULL},
        {"fp8experts", test_2, NULL, NULL, NULL},
        {"mtp", test_3, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
