/* Batches of every size from 1 to 64 on 1, 2 and 4 ranks: the logits of a token are those of its sequence alone, in one
 * go, on one rank. How: 64 sequences take turns in steps of 1..64 of them, one to three tokens each, the sizes in an
 * order without pattern; rows are compared byte by byte. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "tests/golden/golden.h"
#include "tests/ops/compare.h"

#include <string.h>

enum { SEQS = 64, STEPS = 64, LEN = 80 };

struct run {
    struct golden g;
    struct eng *eng;
    size_t n_vocab;
    int n_seq, len;
    int32_t tok[SEQS][LEN];
    float *want, *got; /* [n_seq, len, n_vocab]; [SEQS * 3, n_vocab] */
};

static void begin(struct run *r, const char *name, const char *backend, int n_seq, int len)
{
    memset(r, 0, sizeof *r);
    golden_open(&r->g, name);
    r->n_seq = n_seq;
    r->len = len;
    r->eng = golden_engine(&r->g, backend, 1, len, len);
    r->n_vocab = (size_t)eng_config(r->eng)->vocab_size;
    r->want = mem_array((size_t)n_seq * (size_t)len * r->n_vocab, sizeof *r->want);
    r->got = mem_array(SEQS * 3 * r->n_vocab, sizeof *r->got);
    for (int i = 0; i < n_seq; i++) {
        struct eng_seq *seq = NULL;
        for (int k = 0; k < len; k++)
            r->tok[i][k] = r->g.prompt[(i * 37 + k * (1 + i % 3)) % r->g.n_prompt];
        golden_prefill(r->eng, &seq, r->tok[i], len, r->want + (size_t)(i * len) * r->n_vocab, len);
        eng_seq_close(r->eng, &seq);
    }
    eng_close(&r->eng);
}

static void end(struct run *r)
{
    mem_free(r->want);
    mem_free(r->got);
    golden_close(&r->g);
}

/* The n sequences with the fewest tokens so far, from a different one on in each step. */
static int choose(const struct run *r, const int *at, int step, int n, int *chosen)
{
    int found = 0;

    for (int level = 0; level < r->len && found < n; level++)
        for (int k = 0; k < r->n_seq && found < n; k++) {
            int i = (k * 5 + step) % r->n_seq; /* 5 and the number of sequences have no common divisor */
            if (at[i] == level)
                chosen[found++] = i;
        }
    return found;
}

static void batches(struct run *r, const char *backend, int n_ranks)
{
    struct eng_seq *seq[SEQS] = {0};
    struct err err = {0};
    int at[SEQS] = {0}, chosen[SEQS];

    r->eng = golden_engine_ranks(&r->g, backend, n_ranks, 2, r->n_seq, r->len, 3 * r->n_seq);
    for (int i = 0; i < r->n_seq; i++)
        assert_int_equal(eng_seq_open(r->eng, &seq[i], &err), 0);
    for (int step = 0; step < STEPS; step++) {
        struct eng_item item[SEQS];
        int n = choose(r, at, step, step * 29 % r->n_seq + 1, chosen);
        for (int k = 0; k < n; k++) {
            int i = chosen[k], left = r->len - at[i], n_tok = 1 + (step + i) % 3;
            n_tok = n_tok < left ? n_tok : left;
            item[k] = (struct eng_item){seq[i], r->tok[i] + at[i], n_tok, n_tok, r->got + (size_t)(3 * k) * r->n_vocab};
            assert_int_equal(eng_seq_reserve(r->eng, seq[i], n_tok, &err), 0);
        }
        struct eng_plan plan = {item, n};
        if (eng_step(r->eng, &plan, &err))
            fail_msg("%s", err.text);
        for (int k = 0; k < n; k++) {
            int i = chosen[k];
            size_t bytes = (size_t)item[k].n_tok * r->n_vocab * sizeof *r->got;
            const float *want = r->want + (size_t)(i * r->len + at[i]) * r->n_vocab;
            if (compare_bits(item[k].logits, want, bytes) < bytes)
                fail_msg("%s, %s, %d ranks, a batch of %d: sequence %d differs from position %d on", r->g.name, backend,
                         n_ranks, n, i, at[i]);
            at[i] += item[k].n_tok;
        }
    }
    for (int i = 0; i < r->n_seq; i++)
        eng_seq_close(r->eng, &seq[i]);
    eng_close(&r->eng);
}

static void each_backend(const char *name, int n_seq_ref, int len)
{
    struct run *r = mem_alloc(sizeof *r);

    for (const char *const *b = golden_backends(); *b; b++) {
        begin(r, name, *b, strcmp(*b, "ref") == 0 ? n_seq_ref : SEQS, len);
        for (int n_ranks = 1; n_ranks <= 4; n_ranks *= 2)
            batches(r, *b, n_ranks);
        end(r);
    }
    mem_free(r);
}

static void test_tiny(void **state)
{
    (void)state;
    each_backend("tiny", 64, LEN);
}

static void test_fp8experts(void **state)
{
    (void)state;
    each_backend("fp8experts", 16, LEN);
}

static void test_flashlike(void **state)
{
    (void)state;
    each_backend("flashlike", 8, LEN);
}

static void test_mtp(void **state)
{
    (void)state;
    each_backend("mtp", 16, LEN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiny),
        cmocka_unit_test(test_fp8experts),
        cmocka_unit_test(test_flashlike),
        cmocka_unit_test(test_mtp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
