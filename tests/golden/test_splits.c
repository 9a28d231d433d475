/* Check D: the logits of a token are a function of its sequence's tokens, bit for bit: prefill in one go, in chunks
 * of any size, token by token, beside other sequences, in a slot and in blocks that others have used, with another
 * number of threads, with experts shared by 2, 3 or 4 ranks. How: each way is run and compared byte by byte with the
 * prefill in one go on one rank. */
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "tests/golden/golden.h"
#include "tests/ops/compare.h"

#include <string.h>

struct run {
    struct golden g;
    struct eng *eng;
    int n, n_vocab;
    float *want, *got; /* [n, n_vocab] */
};

enum { SEQS = 3 };

static void check(const struct run *r, const char *how, int arg, int from, int n)
{
    size_t row = (size_t)r->n_vocab * sizeof(float),
           at = compare_bits(r->got, r->want + (size_t)from * (size_t)r->n_vocab, (size_t)n * row);
    if (at < (size_t)n * row)
        fail_msg("%s %s %d: row %zu differs from the prefill in one go", r->g.name, how, arg, (size_t)from + at / row);
}

/* The first n tokens of the case, in one go. */
static void begin(struct run *r, const char *name, const char *backend, int n)
{
    struct eng_seq *seq = NULL;

    memset(r, 0, sizeof *r);
    golden_open(&r->g, name);
    r->n = n < r->g.n_prompt ? n : r->g.n_prompt;
    r->eng = golden_engine(&r->g, backend, SEQS, r->n, SEQS * r->n);
    r->n_vocab = eng_config(r->eng)->vocab_size;
    r->want = mem_array((size_t)r->n * (size_t)r->n_vocab, sizeof *r->want);
    r->got = mem_array((size_t)r->n * (size_t)r->n_vocab, sizeof *r->got);
    golden_prefill(r->eng, &seq, r->g.prompt, r->n, r->want, r->n);
    eng_seq_close(r->eng, &seq);
}

static void end(struct run *r)
{
    eng_close(&r->eng);
    mem_free(r->want);
    mem_free(r->got);
    golden_close(&r->g);
}

static void chunks(struct run *r, int chunk)
{
    struct eng_seq *seq = NULL;
    struct err err = {0};

    memset(r->got, 0xff, (size_t)r->n * (size_t)r->n_vocab * sizeof *r->got);
    assert_int_equal(eng_seq_open(r->eng, &seq, &err), 0);
    for (int p = 0; p < r->n; p += chunk) {
        int n = r->n - p < chunk ? r->n - p : chunk;
        golden_step(r->eng, seq, r->g.prompt + p, n, r->got + (size_t)p * (size_t)r->n_vocab, n);
    }
    eng_seq_close(r->eng, &seq);
    check(r, "chunks of", chunk, 0, r->n);
}

/* A part by prefill, the rest token by token; logits of the rest only, and of the last token of the prefill. */
static void prefill_then_decode(struct run *r, int n_prefill)
{
    struct eng_seq *seq = NULL;

    golden_prefill(r->eng, &seq, r->g.prompt, n_prefill, r->got, 1);
    check(r, "prefill of", n_prefill, n_prefill - 1, 1);
    for (int p = n_prefill; p < r->n; p++) {
        golden_step(r->eng, seq, r->g.prompt + p, 1, r->got, 1);
        check(r, "decode after", n_prefill, p, 1);
    }
    eng_seq_close(r->eng, &seq);
}

/* Three sequences in one plan, out of step: A is the prompt in chunks of 37, then single tokens; B is the prompt from
 * its middle on in chunks that grow; C is A again, 5 tokens behind, in chunks of 13. B is other text: its rows are
 * checked by A and C being right beside it. */
static void beside_others(struct run *r)
{
    struct eng_seq *seq[SEQS] = {0};
    struct err err = {0};
    size_t row = (size_t)r->n_vocab;
    int at[SEQS] = {0, r->n / 2, 0}, first[SEQS] = {0, r->n / 2, 0};
    float *got_b = mem_array((size_t)r->n * row, sizeof *got_b), *got_c = mem_array((size_t)r->n * row, sizeof *got_c);

    for (int i = 0; i < SEQS; i++)
        assert_int_equal(eng_seq_open(r->eng, &seq[i], &err), 0);
    for (int step = 0; at[0] < r->n || at[1] < r->n || at[2] < r->n; step++) {
        int want[SEQS] = {at[0] < r->n / 2 ? 37 : 1, 1 + step % 50, step == 0 ? 0 : 13};
        float *to[SEQS] = {r->got + (size_t)at[0] * row, got_b + (size_t)(at[1] - first[1]) * row,
                           got_c + (size_t)at[2] * row};
        struct eng_item item[SEQS];
        int n_item = 0;
        for (int k = 0; k < SEQS; k++) {
            int i = (k + step) % SEQS; /* the order in the plan changes, too */
            int n = r->n - at[i] < want[i] ? r->n - at[i] : want[i];
            if (n == 0)
                continue;
            assert_int_equal(eng_seq_reserve(r->eng, seq[i], n, &err), 0);
            item[n_item++] = (struct eng_item){seq[i], r->g.prompt + at[i], n, n, to[i]};
            at[i] += n;
        }
        struct eng_plan plan = {item, n_item};
        if (n_item && eng_step(r->eng, &plan, &err))
            fail_msg("%s", err.text);
    }
    check(r, "beside others: A", 0, 0, r->n);
    memcpy(r->got, got_c, (size_t)r->n * row * sizeof *got_c);
    check(r, "beside others: C", 0, 0, r->n);
    for (int i = 0; i < SEQS; i++)
        eng_seq_close(r->eng, &seq[i]);
    /* B alone, in one go. */
    golden_prefill(r->eng, &seq[1], r->g.prompt + first[1], r->n - first[1], r->got, r->n - first[1]);
    assert_int_equal(compare_bits(r->got, got_b, (size_t)(r->n - first[1]) * row * sizeof *got_b),
                     (size_t)(r->n - first[1]) * row * sizeof *got_b);
    eng_seq_close(r->eng, &seq[1]);
    mem_free(got_b);
    mem_free(got_c);
}

/* The engine anew, with other numbers of ranks and threads (a back end without threads is the same again): the bits of
 * before, of one sequence (all ranks but one have no rows) and of several. */
static void cut_anew(struct run *r, const char *backend, int n_ranks, int n_threads)
{
    eng_close(&r->eng);
    r->eng = golden_engine_ranks(&r->g, backend, n_ranks, n_threads, SEQS, r->n, SEQS * r->n);
    chunks(r, 97);
    if (n_ranks > 1)
        beside_others(r);
}

static void test_tiny(void **state)
{
    static const int sizes[] = {1, 7, 128, 129, 333};
    struct run r;

    (void)state;
    for (const char *const *b = golden_backends(); *b; b++) {
        begin(&r, "tiny", *b, 420);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            chunks(&r, sizes[i]);
        prefill_then_decode(&r, 383);
        beside_others(&r);
        for (int n = 1; n <= 3 && strcmp(*b, "cpu") == 0; n++)
            cut_anew(&r, *b, 1, n);
        cut_anew(&r, *b, 2, 2);
        cut_anew(&r, *b, 3, 1); /* of the 8 experts 2, 3 and 3 */
        cut_anew(&r, *b, 4, 5);
        end(&r);
    }
}

static void some(const char *name, int n)
{
    struct run r;

    for (const char *const *b = golden_backends(); *b; b++) {
        begin(&r, name, *b, n);
        chunks(&r, 61);
        prefill_then_decode(&r, n - 20);
        if (strcmp(*b, "cpu") == 0)
            cut_anew(&r, *b, 1, 1); /* before: all cores */
        beside_others(&r);
        cut_anew(&r, *b, 2, 2);
        cut_anew(&r, *b, 4, 0);
        end(&r);
    }
}

static void test_flashlike(void **state)
{
    (void)state;
    some("flashlike", 180); /* over the window of 128 and one HCA block; 45 CSA entries for a top-32 */
}

static void test_fp8experts(void **state)
{
    (void)state;
    some("fp8experts", 160);
}

static void test_mtp(void **state)
{
    (void)state;
    some("mtp", 140);
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
