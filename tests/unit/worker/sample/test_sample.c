/* Proves: greedy choice and its ties; that drawn tokens have the frequencies of softmax; that filters, penalties
 * and biases do what a brute-force twin with full sorting does; log probabilities; refusal of NaN; and that the
 * token depends on (logits, settings, tokens, seed, position) alone.
 * How: fixed seeds; the twin below is written for reading and uses the C library's exp. */
#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "tests/unit/test.h"
#include "worker/sample/noise.h"
#include "worker/sample/sample.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB_MAX = 129280 };

static float logit[VOCAB_MAX];
static void *scratch;

static struct msg_sampling plain(float temperature, uint64_t seed)
{
    return (struct msg_sampling){.temperature = temperature, .top_p = 1, .repetition_penalty = 1, .seed = seed};
}

static struct msg_token sampled(int n, const struct msg_sampling *how, const int32_t *tok, int64_t n_tok,
                                int64_t n_prompt)
{
    struct wrk_sample_in in = {
        .logits = logit, .n_vocab = n, .how = how, .tok = tok, .n_tok = n_tok, .n_prompt = n_prompt};
    struct msg_token out;
    struct err err = {0};
    memset(&out, 0x5a, sizeof out);
    assert_int_equal(wrk_sample(&in, scratch, &out, &err), 0);
    assert_true(out.id >= 0 && out.id < n);
    return out;
}

/* Position without tokens: they only matter for penalties. */
static int32_t sampled_at(int n, const struct msg_sampling *how, int64_t position)
{
    return sampled(n, how, NULL, position, position).id;
}

/* A fixed sequence of numbers for test data, apart from the code under test. */
static uint64_t lcg = 1;
static double rnd(void)
{
    lcg = lcg * 6364136223846793005u + 1442695040888963407u;
    return (double)(lcg >> 11) * 0x1p-53;
}

static void fill_logits(int n, double spread, bool with_ties)
{
    for (int i = 0; i < n; i++) {
        double v = (rnd() + rnd() + rnd() - 1.5) * spread;
        logit[i] = with_ties ? (float)(floor(v * 2) / 2) : (float)v;
    }
}

static void test_argmax(void **state)
{
    struct msg_sampling how = plain(0, 1), k1 = plain(1, 1);
    (void)state;
    k1.top_k = 1;
    fill_logits(1000, 3, false);
    logit[17] = logit[400] = logit[999] = 50;
    assert_int_equal(sampled_at(1000, &how, 0), 17);
    assert_int_equal(sampled_at(1000, &k1, 3), 17);
    logit[0] = 50;
    assert_int_equal(sampled_at(1000, &how, 0), 0);
    assert_int_equal(sampled_at(1, &how, 0), 0);
    for (int i = 0; i < 1000; i++)
        logit[i] = -INFINITY;
    logit[3] = -1000;
    assert_int_equal(sampled_at(1000, &how, 0), 3);
    k1.top_k = 0;
    assert_int_equal(sampled_at(1000, &k1, 0), 3);
    /* A temperature next to nothing is nearly greedy, not a division by zero. */
    k1.temperature = 1e-38f;
    logit[700] = -999;
    assert_int_equal(sampled_at(1000, &k1, 0), 700);
}

/* Counts of 200,000 positions against softmax: chi-square with n - 1 degrees of freedom, 0.9999. */
static void frequencies(float temperature, double bound)
{
    enum { N = 16, DRAWS = 200000 };
    struct msg_sampling how = plain(temperature, 42);
    int count[N] = {0};
    double p[N], sum = 0, chi2 = 0;
    for (int i = 0; i < N; i++)
        sum += p[i] = exp((double)logit[i] / (double)temperature);
    for (int d = 0; d < DRAWS; d++)
        count[sampled_at(N, &how, d)]++;
    for (int i = 0; i < N; i++) {
        double want = DRAWS * p[i] / sum;
        chi2 += (count[i] - want) * (count[i] - want) / want;
    }
    assert_true(chi2 < bound && chi2 > 2);
}

static void test_frequencies(void **state)
{
    (void)state;
    fill_logits(16, 1.5, false);
    frequencies(1, 44);
    frequencies(0.6f, 44);
    frequencies(2, 44);
}

/* ---- the twin ---- */

static double *twin_w;
static int twin_order(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    if (twin_w[x] != twin_w[y])
        return twin_w[x] > twin_w[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

/* Tokens that stay, and the token drawn from them. *close: the draw or a cut fell within rounding of a border. */
static int32_t twin(int n, const struct msg_sampling *how, const int32_t *tok, int64_t n_tok, int64_t n_prompt,
                    bool *close)
{
    double *l = mem_array((size_t)n, sizeof *l), max = -INFINITY, sum = 0, mark, acc = 0;
    int32_t *order = mem_array((size_t)n, sizeof *order), keep = 0, id = -1;
    twin_w = mem_array((size_t)n, sizeof *twin_w);
    for (int i = 0; i < n; i++) {
        float v = logit[i];
        int out_count = 0, all_count = 0;
        for (int b = 0; b < how->n_bias; b++)
            if (how->bias[b].id == i)
                v += how->bias[b].bias;
        for (int64_t t = 0; t < n_tok && tok; t++) {
            all_count += tok[t] == i;
            out_count += tok[t] == i && t >= n_prompt;
        }
        if (all_count)
            v = v > 0 ? v / how->repetition_penalty : v * how->repetition_penalty;
        if (out_count)
            v -= how->frequency_penalty * (float)out_count + how->presence_penalty;
        l[i] = (double)v;
        max = fmax(max, l[i]);
    }
    for (int i = 0; i < n; i++) {
        twin_w[i] = exp((l[i] - max) / (double)how->temperature);
        order[i] = i;
    }
    qsort(order, (size_t)n, sizeof *order, twin_order);
    keep = how->top_k > 0 && how->top_k < n ? how->top_k : n;
    while (keep > 1 && twin_w[order[keep - 1]] < (double)how->min_p)
        keep--;
    for (int i = 0; i < keep; i++)
        sum += twin_w[order[i]];
    mark = (double)how->top_p * sum;
    for (int i = 0; i < keep && how->top_p < 1; i++) {
        acc += twin_w[order[i]];
        *close |= fabs(acc - mark) < 1e-9 * sum;
        if (acc >= mark)
            keep = i + 1;
    }
    bool *kept = mem_array((size_t)n, sizeof *kept);
    sum = acc = 0;
    for (int i = 0; i < keep; i++) {
        kept[order[i]] = true;
        sum += twin_w[order[i]];
    }
    mark = wrk_noise_uniform(how->seed, (uint64_t)n_tok) * sum;
    for (int i = 0; i < n && id < 0; i++) {
        if (!kept[i])
            continue;
        acc += twin_w[i];
        *close |= fabs(acc - mark) < 1e-9 * sum;
        if (acc > mark)
            id = i;
    }
    mem_free(kept);
    mem_free(twin_w);
    mem_free(order);
    mem_free(l);
    return id;
}

static void test_twin(void **state)
{
    static const int sizes[] = {1, 2, 3, 7, 50, 500};
    struct msg_bias bias[3];
    int32_t tok[40];
    int n_close = 0, n_round = 0;
    (void)state;
    for (int round = 0; round < 6000; round++) {
        int n = sizes[round % 6];
        fill_logits(n, 1 + 6 * rnd(), round % 3 == 0);
        struct msg_sampling how = plain((float)(0.1 + 2 * rnd()), (uint64_t)round * 77);
        if (round & 1)
            how.top_p = rnd() < 0.1 ? 0 : (float)rnd();
        if (round & 2)
            how.top_k = 2 + (int)(rnd() * n * 1.2);
        if (round & 4)
            how.min_p = rnd() < 0.1 ? 1 : (float)(0.5 * rnd());
        if (round & 8) {
            how.presence_penalty = (float)(4 * rnd() - 2);
            how.frequency_penalty = (float)(4 * rnd() - 2);
        }
        if (round & 16)
            how.repetition_penalty = (float)(0.5 + rnd());
        if (round & 32) {
            how.n_bias = 3;
            how.bias = bias;
            for (int b = 0; b < 3; b++)
                bias[b] = (struct msg_bias){.id = (int)(rnd() * n), .bias = (float)(10 * rnd() - 5)};
        }
        for (int t = 0; t < 40; t++)
            tok[t] = (int)(rnd() * n);
        bool close = false;
        int32_t want = twin(n, &how, tok, 40, 15, &close), got = sampled(n, &how, tok, 40, 15).id;
        n_close += close;
        n_round++;
        if (!close)
            assert_int_equal(got, want);
    }
    assert_true(n_close < n_round / 20); /* the comparison was not waved through */
}

static void test_penalties(void **state)
{
    struct msg_sampling how = plain(0, 1);
    const int32_t tok[] = {5, 5, 6, 2, 2, 2};
    (void)state;
    for (int i = 0; i < 10; i++)
        logit[i] = 1;
    logit[2] = 4; /* generated three times */
    logit[5] = 3; /* in the prompt only */
    assert_int_equal(sampled(10, &how, tok, 6, 3).id, 2);
    how.frequency_penalty = 0.5f; /* 4 - 1.5 < 3 */
    assert_int_equal(sampled(10, &how, tok, 6, 3).id, 5);
    how.frequency_penalty = 0;
    how.presence_penalty = 1.5f; /* 4 - 1.5 < 3 */
    assert_int_equal(sampled(10, &how, tok, 6, 3).id, 5);
    how.presence_penalty = 0;
    how.repetition_penalty = 5; /* both seen: 0.8 and 0.6 lose to the lowest id not seen */
    assert_int_equal(sampled(10, &how, tok, 6, 3).id, 0);
    for (int i = 0; i < 10; i++)
        logit[i] = -1 - (i == 2 || i == 5 || i == 6);
    how.repetition_penalty = 0.1f; /* negative logits: below 1 favours what was seen, prompt included */
    assert_int_equal(sampled(10, &how, tok, 6, 3).id, 2);
}

static void test_bias(void **state)
{
    struct msg_bias bias[2] = {{.id = 3, .bias = 100}, {.id = 0, .bias = -100}};
    struct msg_sampling how = plain(1, 9), greedy = plain(0, 9);
    (void)state;
    fill_logits(50, 2, false);
    how.n_bias = greedy.n_bias = 1;
    how.bias = greedy.bias = bias;
    assert_int_equal(sampled_at(50, &greedy, 0), 3);
    for (int p = 0; p < 200; p++)
        assert_int_equal(sampled_at(50, &how, p), 3);
    how.n_bias = greedy.n_bias = 1;
    how.bias = greedy.bias = bias + 1;
    logit[0] = 5;
    assert_int_not_equal(sampled_at(50, &greedy, 0), 0);
    for (int p = 0; p < 200; p++)
        assert_int_not_equal(sampled_at(50, &how, p), 0);
    /* The reported probability is the model's, before the bias. */
    struct msg_token t = sampled(50, &how, NULL, 0, 0);
    how.n_bias = 0;
    how.n_top = 20;
    struct msg_token raw = sampled(50, &how, NULL, 0, 0);
    for (int i = 0; i < 20; i++)
        if (raw.top[i].id == t.id)
            assert_true(raw.top[i].logprob == t.logprob);
}

static void test_logprobs(void **state)
{
    struct msg_sampling how = plain(0.5f, 3);
    double sum = 0;
    (void)state;
    fill_logits(300, 4, true);
    how.n_top = 20;
    how.top_k = 3;
    for (int i = 0; i < 300; i++)
        sum += exp((double)logit[i]);
    for (int p = 0; p < 50; p++) {
        struct msg_token t = sampled(300, &how, NULL, p, p);
        assert_float_equal(t.logprob, (double)logit[t.id] - log(sum), 1e-5);
        assert_int_equal(t.n_top, 20);
        for (int i = 0; i < 20; i++) {
            const struct msg_top *a = &t.top[i], *b = &t.top[i + (i < 19)];
            assert_float_equal(a->logprob, (double)logit[a->id] - log(sum), 1e-5);
            assert_true(i == 19 || logit[a->id] > logit[b->id] || (logit[a->id] == logit[b->id] && a->id < b->id));
        }
        for (int id = 0, better = 0; id < 300; id++) {
            better += logit[id] > logit[t.top[19].id];
            assert_true(better <= 19);
        }
    }
    how.n_top = 0;
    assert_int_equal(sampled(300, &how, NULL, 0, 0).n_top, 0);
    how.n_top = 5; /* a vocabulary smaller than what is asked for */
    assert_int_equal(sampled(3, &how, NULL, 0, 0).n_top, 3);
}

static void test_broken_logits(void **state)
{
    const float bad[] = {NAN, -NAN, INFINITY};
    struct msg_sampling how = plain(1, 1);
    (void)state;
    for (int kind = 0; kind < 3; kind++)
        for (int at = 0; at < 9; at += 4)
            for (int greedy = 0; greedy < 2; greedy++) {
                struct wrk_sample_in in = {.logits = logit, .n_vocab = 9, .how = &how};
                struct msg_token out = {.id = 77};
                struct err err = {0};
                fill_logits(9, 1, false);
                logit[at] = bad[kind];
                how.temperature = (float)!greedy;
                assert_int_equal(wrk_sample(&in, scratch, &out, &err), ERR_STATE);
                assert_int_equal(out.id, 77);
                assert_non_null(strstr(err.text, "token"));
            }
    for (int i = 0; i < 9; i++)
        logit[i] = -INFINITY;
    struct wrk_sample_in in = {.logits = logit, .n_vocab = 9, .how = &how};
    struct msg_token out;
    struct err err = {0};
    assert_int_equal(wrk_sample(&in, scratch, &out, &err), ERR_STATE);
}

/* The same (seed, position) gives the same token whatever was asked before, in whatever order, in dirty scratch. */
static void test_no_state(void **state)
{
    enum { N = 400 };
    struct msg_sampling how = plain(1, 1234567890123456789u), other = plain(1.3f, 5);
    int32_t forward[N], differ = 0;
    (void)state;
    fill_logits(200, 3, false);
    how.top_p = 0.95f;
    for (int p = 0; p < N; p++)
        forward[p] = sampled_at(200, &how, p);
    for (int p = N - 1; p >= 0; p--) {
        memset(scratch, 0xff, wrk_sample_scratch_bytes(200));
        (void)sampled_at(150, &other, p * 3);
        assert_int_equal(sampled_at(200, &how, p), forward[p]);
    }
    how.seed++;
    for (int p = 0; p < N; p++)
        differ += sampled_at(200, &how, p) != forward[p];
    assert_true(differ > N / 2);
}

/* Not a benchmark: a full sort a token or something quadratic would not get through. */
static void test_large_vocab(void **state)
{
    struct msg_sampling how = plain(1, 1), filtered = plain(0.8f, 1);
    (void)state;
    fill_logits(VOCAB_MAX, 8, false);
    filtered.top_p = 0.95f;
    filtered.top_k = 50000;
    int64_t t0 = clock_mono_ns();
    for (int p = 0; p < 20; p++)
        (void)sampled_at(VOCAB_MAX, &how, p);
    int64_t t1 = clock_mono_ns();
    for (int p = 0; p < 20; p++)
        (void)sampled_at(VOCAB_MAX, &filtered, p);
    int64_t t2 = clock_mono_ns();
    print_message("vocabulary of %d: %.2f ms a token, %.2f ms with top_k and top_p\n", VOCAB_MAX,
                  (double)(t1 - t0) / 20e6, (double)(t2 - t1) / 20e6);
    assert_true(t2 - t0 < 20LL * 1000000000);
    /* Equal logits everywhere: the cuts fall on ids. */
    for (int i = 0; i < VOCAB_MAX; i++)
        logit[i] = 0.25f;
    filtered.top_p = 0.5f;
    filtered.top_k = 10;
    for (int p = 0; p < 20; p++)
        assert_true(sampled_at(VOCAB_MAX, &filtered, p) < 5);
}

static int setup(void **state)
{
    (void)state;
    scratch = mem_alloc(wrk_sample_scratch_bytes(VOCAB_MAX));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mem_free(scratch);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_argmax),        cmocka_unit_test(test_frequencies), cmocka_unit_test(test_twin),
        cmocka_unit_test(test_penalties),     cmocka_unit_test(test_bias),        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_broken_logits), cmocka_unit_test(test_no_state),    cmocka_unit_test(test_large_vocab),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
