/* Proves that a prefix-cache hit gives the bits of a run without one: for cut points at every kind of border (window,
 * compression groups, KV blocks), for the same prompt again (one row instead of all), while the sequence that computed
 * the prefix goes on beside it, and under different continuations. And that a state that stands one token further than
 * its sequence is never kept as that sequence's. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "tests/golden/golden.h"
#include "tests/ops/compare.h"

#include <string.h>

enum { N = 330, SEQS = 3 };

struct run {
    struct golden g;
    struct eng *eng;
    int n_vocab, n_saved;
    float *want, *got; /* [N, n_vocab] */
};

static void open_engine(struct run *r, const char *backend, int n_saved)
{
    struct err err = {0};
    struct eng_opts o = {.model_dir = r->g.dir, .backend = backend, .n_ranks = 1, .n_seq_max = SEQS,
                         .step_tok_max = N, .context_max = N + 100, .kv_tokens = SEQS * (N + 128), .n_saved = n_saved};
    eng_close(&r->eng);
    if (eng_open(&o, &r->eng, &err))
        fail_msg("%s", err.text);
}

static void begin(struct run *r, const char *name, const char *backend)
{
    struct eng_seq *seq = NULL;
    memset(r, 0, sizeof *r);
    golden_open(&r->g, name);
    assert_true(r->g.n_prompt >= N);
    open_engine(r, backend, 0);
    assert_int_equal(eng_caps(r->eng)->saved_bytes, 0);
    r->n_vocab = eng_config(r->eng)->vocab_size;
    r->want = mem_array((size_t)N * (size_t)r->n_vocab, sizeof *r->want);
    r->got = mem_array((size_t)N * (size_t)r->n_vocab, sizeof *r->got);
    golden_prefill(r->eng, &seq, r->g.prompt, N, r->want, N);
    eng_seq_close(r->eng, &seq);
    open_engine(r, backend, 1);
}

static void end(struct run *r)
{
    eng_close(&r->eng);
    mem_free(r->want);
    mem_free(r->got);
    golden_close(&r->g);
}

/* Rows from.. of the solo run against r->got. */
static void check(struct run *r, const char *what, int cut, int from, int n)
{
    size_t row = (size_t)r->n_vocab * sizeof *r->want, bytes = (size_t)n * row;
    size_t at = compare_bits(r->got, r->want + (size_t)from * (size_t)r->n_vocab, bytes);
    if (at < bytes)
        fail_msg("%s, cut at %d: the logits of token %zu differ from the run without a cache", what, cut,
                 (size_t)from + at / row);
}

static struct eng_seq *restored(struct run *r, const int32_t *tok, int n, int64_t want_len)
{
    struct eng_seq *seq = NULL;
    struct err err = {0};
    assert_int_equal(eng_prefix_find(r->eng, tok, n).n_tok, want_len);
    assert_int_equal(eng_seq_open(r->eng, &seq, &err), 0);
    assert_int_equal(eng_seq_restore(r->eng, seq, tok, n, &err), 0);
    assert_int_equal(eng_seq_len(seq), want_len);
    return seq;
}

static void save(struct run *r, struct eng_seq *seq)
{
    struct err err = {0};
    assert_int_equal(eng_seq_save(r->eng, seq, r->g.prompt, false, &err), 0);
}

/* Compute and keep the first `cut` tokens, then take them over for the whole prompt and for themselves. */
static void one_cut(struct run *r, int cut)
{
    struct eng_seq *a = NULL;
    int again = cut % 128 ? cut - 1 : 0; /* into a full block nothing is written, not even the same */

    golden_prefill(r->eng, &a, r->g.prompt, cut, NULL, 0);
    save(r, a);
    eng_seq_close(r->eng, &a);
    struct eng_seq *b = restored(r, r->g.prompt, N, cut);
    golden_step(r->eng, b, r->g.prompt + cut, N - cut, r->got, N - cut);
    check(r, "prefill of the rest", cut, cut, N - cut);
    eng_seq_close(r->eng, &b);

    b = restored(r, r->g.prompt, cut, again);
    save(r, b); /* its state is that of `cut` tokens: not kept as one of `again` */
    assert_int_equal(eng_prefix_find(r->eng, r->g.prompt, N).n_tok, cut);
    assert_int_equal(eng_prefix_find(r->eng, r->g.prompt, cut - 1).n_tok, 0);
    golden_step(r->eng, b, r->g.prompt + again, cut - again, r->got, 1);
    check(r, "the same prompt again", cut, cut - 1, 1);
    for (int p = cut; p < cut + 9 && p < N; p++) {
        golden_step(r->eng, b, r->g.prompt + p, 1, r->got, 1);
        check(r, "decode after the same prompt", cut, p, 1);
    }
    eng_seq_close(r->eng, &b);
    assert_int_equal(eng_kv_blocks_free(r->eng), eng_caps(r->eng)->kv_blocks);
}

/* A goes on while B and C take its prefix over and go other ways, all in the same steps. */
static void beside_each_other(struct run *r, int cut)
{
    struct eng_seq *seq[SEQS] = {0};
    struct err err = {0};
    size_t row = (size_t)r->n_vocab;
    int n = N - cut - 20;
    int32_t *other = mem_dup(r->g.prompt, N * sizeof *other);
    float *alone = mem_array((size_t)n * row, sizeof *alone), *got[SEQS];

    for (int i = cut; i < N; i++)
        other[i] = r->g.prompt[N - 1 - (i - cut)];
    golden_prefill(r->eng, &seq[0], other, cut + n, alone, n);
    eng_seq_close(r->eng, &seq[0]);
    golden_prefill(r->eng, &seq[0], r->g.prompt, cut, NULL, 0);
    save(r, seq[0]);
    seq[1] = restored(r, other, N, cut);
    seq[2] = restored(r, r->g.prompt, N, cut);
    for (int i = 0; i < SEQS; i++)
        got[i] = mem_array((size_t)n * row, sizeof *got[i]);
    for (int p = 0, k; p < n; p += k) {
        k = n - p < 23 ? n - p : 1 + p % 23;
        struct eng_item item[SEQS];
        for (int i = 0; i < SEQS; i++) {
            assert_int_equal(eng_seq_reserve(r->eng, seq[i], k, &err), 0);
            item[i] = (struct eng_item){seq[i], (i == 1 ? other : r->g.prompt) + cut + p, k, k,
                                        got[i] + (size_t)p * row};
        }
        struct eng_plan plan = {item, SEQS};
        if (eng_step(r->eng, &plan, &err))
            fail_msg("%s", err.text);
    }
    for (int i = 0; i < SEQS; i++) {
        const float *want = i == 1 ? alone : r->want + (size_t)cut * row;
        assert_int_equal(compare_bits(got[i], want, (size_t)n * row * sizeof *want), (size_t)n * row * sizeof *want);
        eng_seq_close(r->eng, &seq[i]);
        mem_free(got[i]);
    }
    mem_free(alone);
    mem_free(other);
}

static void test_tiny(void **state)
{
    static const int cuts[] = {1, 3, 4, 5, 8, 31, 32, 33, 127, 128, 129, 131, 132, 200, 255, 256, 257, 300, 329};
    struct run r;

    (void)state;
    for (const char *const *b = golden_backends(); *b; b++) {
        begin(&r, "tiny", *b);
        for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i += strcmp(*b, "ref") == 0 ? 5 : 1)
            one_cut(&r, cuts[i]);
        beside_each_other(&r, 130);
        beside_each_other(&r, 128);
        end(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tiny)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
