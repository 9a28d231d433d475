/* Proves that contexts are long: a prompt of N tokens (65,536, or as the argument says, to 1,048,576) goes in by
 * chunks and is decoded at its end on a tiny model with a CSA and an HCA layer. Scratch is as large as for 8,192
 * tokens; memory grows by the formula of spec section 10, within 5 %. At the end index_topk and attend are held
 * against the oracle
 * (`ref`) on the same cache: how: the back end's table is wrapped, the two ops run twice and are compared; the choice
 * is held against a sort of all scores, too. Needle: on a model of one CSA layer the last logits do not change by a
 * bit when far tokens change that no chosen entry covers, and do change when those of a chosen one do.
 *
 * Times (2 shared cores with AVX2, AMD, 2026-11-24): 16k tokens 4 s of prefill, 64k 40 s. It grows with the square: a
 * million is a matter of hours there, so it is in the tree only with -DBATON_LONG=ON, label `long`. */
#include "tests/unit/test.h"

#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "kernels/include/ops.h"
#include "worker/engine/engine.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEP = 2048, N_DECODE = 4, TOPK_MAX = 64, N_FAR = 4096, REF_WORKSPACE = 1 << 22, SHORT = 8192 };

static int64_t n_tok = 65536;

/* ---- the table with the oracle beside it ---- */

const struct kn_backend *__real_kn_backend_find(const char *name);
const struct kn_backend *__wrap_kn_backend_find(const char *name);

static struct {
    const struct kn_ops *cpu, *ref;
    bool is_on;
    struct kn_ctx ref_ctx;
    int n_topk, n_attend;        /* rows that were compared */
    int32_t choice[TOPK_MAX];    /* of the last row */
    int n_far;                   /* of all rows: chosen entries outside the last N_FAR tokens */
    double worst;                /* relative difference of attention */
} oracle;

static const float *sort_score;

static int by_score(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    if (sort_score[x] != sort_score[y])
        return sort_score[x] < sort_score[y] ? 1 : -1;
    return (x > y) - (x < y);
}

static int by_number(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* One row: cpu's choice is that of all its scores, and the oracle would have chosen the same, up to near ties. */
static void check_choice(const float *score, const float *ref_score, int32_t n, const int32_t *choice, int top_k)
{
    int32_t *order = mem_array((size_t)n, sizeof *order);
    int k = n < top_k ? n : top_k;
    float top = 0;

    for (int32_t i = 0; i < n; i++) {
        order[i] = i;
        top = fmaxf(top, fabsf(ref_score[i]));
    }
    for (int32_t i = 0; i < n; i++)
        if (!(fabsf(score[i] - ref_score[i]) <= 1e-5f * top))
            fail_msg("score of entry %d is %g, the oracle's %g", i, (double)score[i], (double)ref_score[i]);
    sort_score = score;
    qsort(order, (size_t)n, sizeof *order, by_score);
    float least = ref_score[order[k - 1]] - 2e-5f * top;
    qsort(order, (size_t)k, sizeof *order, by_number);
    for (int i = 0; i < top_k; i++) {
        assert_int_equal(choice[i], i < k ? order[i] : -1);
        assert_true(i >= k || ref_score[choice[i]] >= least);
        oracle.n_far += i < k && choice[i] < n - N_FAR / 4;
    }
    mem_free(order);
}

static int checked_topk(struct kn_ctx *ctx, const struct kn_index_topk_args *a)
{
    struct kn_index_topk_args mine = *a, other = *a;
    int32_t n_max = (a->batch->pos_max + 1) / a->ratio, n_row = a->batch->n_tok;

    if (!oracle.is_on)
        return oracle.cpu->index_topk(ctx, a);
    mine.score_stride = other.score_stride = n_max;
    mine.score = mem_array((size_t)n_row * (size_t)n_max, sizeof *mine.score);
    other.score = mem_array((size_t)n_row * (size_t)n_max, sizeof *other.score);
    other.choice = mem_array((size_t)n_row * (size_t)a->top_k, sizeof *other.choice);
    int rc = oracle.cpu->index_topk(ctx, &mine);
    assert_int_equal(rc, 0);
    assert_int_equal(oracle.ref->index_topk(&oracle.ref_ctx, &other), 0);
    for (int32_t r = 0; r < n_row; r++, oracle.n_topk++)
        check_choice(mine.score + (size_t)r * (size_t)n_max, other.score + (size_t)r * (size_t)n_max,
                     (a->batch->row_pos[r] + 1) / a->ratio, a->choice + r * a->top_k, a->top_k);
    memcpy(oracle.choice, a->choice + (n_row - 1) * a->top_k, (size_t)a->top_k * sizeof *a->choice);
    mem_free(mine.score);
    mem_free(other.score);
    mem_free(other.choice);
    return rc;
}

static int checked_attend(struct kn_ctx *ctx, const struct kn_attend_args *a)
{
    struct kn_attend_args other = *a;
    size_t n = (size_t)a->batch->n_tok * (size_t)a->n_head * (size_t)a->kv.dim;
    double diff = 0, size = 0;

    if (!oracle.is_on)
        return oracle.cpu->attend(ctx, a);
    other.o = mem_array(n, sizeof *other.o);
    int rc = oracle.cpu->attend(ctx, a);
    assert_int_equal(rc, 0);
    assert_int_equal(oracle.ref->attend(&oracle.ref_ctx, &other), 0);
    for (size_t i = 0; i < n; i++) {
        double x = kn_bf16_f32(a->o[i]), y = kn_bf16_f32(other.o[i]);
        diff += (x - y) * (x - y);
        size += y * y;
    }
    double rel = sqrt(diff / size);
    if (!(size > 0 && rel <= 4e-3)) /* BF16 has 8 bits: one step is 4e-3 of a value */
        fail_msg("attention differs by %g", rel);
    oracle.worst = rel > oracle.worst ? rel : oracle.worst;
    oracle.n_attend += a->batch->n_tok;
    mem_free(other.o);
    return rc;
}

const struct kn_backend *__wrap_kn_backend_find(const char *name)
{
    static struct kn_ops ops;
    static struct kn_backend backend;
    const struct kn_backend *cpu = __real_kn_backend_find(name), *ref = __real_kn_backend_find("ref");

    if (!cpu || strcmp(name, "cpu") != 0)
        return cpu;
    oracle.cpu = cpu->ops;
    oracle.ref = ref->ops;
    ops = *cpu->ops;
    ops.index_topk = checked_topk;
    ops.attend = checked_attend;
    backend = *cpu;
    backend.ops = &ops;
    return &backend;
}

/* ---- engines and tokens ---- */

static struct eng *engine(const char *model, int64_t context, int64_t kv_tokens)
{
    char dir[1024];
    struct eng *eng = NULL;
    struct err err = {0};

    snprintf(dir, sizeof dir, BATON_BINARY_DIR "/%s_model", model);
    struct eng_opts o = {.model_dir = dir, .backend = "cpu", .n_ranks = 1, .n_seq_max = 1, .step_tok_max = STEP,
                         .context_max = context, .kv_tokens = kv_tokens};
    if (eng_open(&o, &eng, &err))
        fail_msg("%s", err.text);
    return eng;
}

static void fill(int32_t *tok, int64_t n, int n_vocab)
{
    uint64_t z = 7;

    for (int64_t i = 0; i < n; i++) {
        z = z * 6364136223846793005u + 1442695040888963407u;
        tok[i] = (int32_t)((z >> 33) % (uint64_t)n_vocab);
    }
}

/* Tokens from..to in steps of at most STEP; logits of the last one. */
static void feed(struct eng *eng, struct eng_seq *seq, const int32_t *tok, int64_t from, int64_t to, float *logits)
{
    struct err err = {0};

    for (int64_t p = from; p < to; p += STEP) {
        int n = (int)(to - p < STEP ? to - p : STEP);
        bool is_last = logits && p + n == to;
        struct eng_item item = {seq, tok + p, n, is_last, is_last ? logits : NULL};
        struct eng_plan plan = {&item, 1};
        if (eng_seq_reserve(eng, seq, n, &err) || eng_step(eng, &plan, &err))
            fail_msg("%s", err.text);
    }
}

static int64_t resident(void)
{
    long total = 0, pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld %ld", &total, &pages), 2);
    fclose(f);
    return (int64_t)pages * sysconf(_SC_PAGESIZE);
}

static bool setup(void)
{
    if (!__real_kn_backend_find("cpu")) {
        print_message("back end cpu is not built in: not tested\n");
        return false;
    }
    if (!oracle.ref_ctx.workspace)
        oracle.ref_ctx = (struct kn_ctx){.workspace = aligned_alloc(KN_PAGE_ALIGN, REF_WORKSPACE),
                                         .workspace_bytes = REF_WORKSPACE, .n_ranks = 1};
    oracle.is_on = false;
    oracle.n_topk = oracle.n_attend = oracle.n_far = 0;
    return true;
}

/* ---- the tests ---- */

/* Of n tokens, by spec section 10 with the shapes of long.json: a CSA entry and its indexer entry every 4, an HCA entry
 * every 128. Entry: 64 E4M3, 32 BF16, scales in 8 bytes; indexer entry: 32 FP4, one scale. */
static int64_t formula(int64_t n)
{
    int64_t entry = 64 + 2 * 32 + 8, index = 16 + 1;
    return n / 4 * (entry + index) + n / 128 * entry;
}

static void test_long(void **state)
{
    struct eng_seq *seq = NULL;
    struct err err = {0};

    (void)state;
    if (!setup())
        skip();
    struct eng *eng = engine("long", SHORT, SHORT);
    uint64_t workspace_bytes = eng_caps(eng)->workspace_bytes;
    int n_vocab = eng_config(eng)->vocab_size;
    eng_close(&eng);
    eng = engine("long", n_tok, n_tok);
    assert_int_equal(eng_caps(eng)->workspace_bytes, workspace_bytes);
    int32_t *tok = mem_array((size_t)n_tok, sizeof *tok);
    float *logits = mem_array((size_t)n_vocab, sizeof *logits);
    fill(tok, n_tok, n_vocab);
    /* Once through all that is used by any step, so that only the cache grows from here on. */
    assert_int_equal(eng_seq_open(eng, &seq, &err), 0);
    feed(eng, seq, tok, 0, SHORT, logits);
    eng_seq_close(eng, &seq);
    int64_t before = resident(), t0 = clock_mono_ns();
    assert_int_equal(eng_seq_open(eng, &seq, &err), 0);
    feed(eng, seq, tok, 0, n_tok - N_DECODE, NULL);
    int64_t t1 = clock_mono_ns(), grown = resident() - before, expected = formula(n_tok) - formula(SHORT);
    if (n_tok >= 1 << 19 && !(grown >= expected * 95 / 100 && grown <= expected * 105 / 100))
        fail_msg("memory has grown by %lld bytes, %lld by the formula", (long long)grown, (long long)expected);
    assert_true((int64_t)eng_caps(eng)->kv_bytes >= formula(n_tok) &&
                (int64_t)eng_caps(eng)->kv_bytes <= formula(n_tok) * 105 / 100);
    oracle.is_on = true;
    for (int64_t p = n_tok - N_DECODE; p < n_tok; p++) {
        feed(eng, seq, tok, p, p + 1, logits);
        for (int i = 0; i < n_vocab; i++)
            assert_true(isfinite(logits[i]));
    }
    assert_int_equal(oracle.n_topk, N_DECODE);
    assert_int_equal(oracle.n_attend, 2 * N_DECODE);
    assert_true(oracle.n_far > 0);
    print_message("%lld tokens: prefill %.1f s, memory +%.2f MB (formula %.2f), decode of %d with the oracle %.1f s, "
                  "%d of %d chosen entries are far, attention within %.1e\n",
                  (long long)n_tok, (double)(t1 - t0) * 1e-9, (double)grown * 1e-6, (double)expected * 1e-6, N_DECODE,
                  (double)(clock_mono_ns() - t1) * 1e-9, oracle.n_far, N_DECODE * TOPK_MAX, oracle.worst);
    eng_seq_close(eng, &seq);
    eng_close(&eng);
    mem_free(tok);
    mem_free(logits);
}

/* Logits of the last token; the entries that it chose are in oracle.choice. */
static void run_to_end(struct eng *eng, const int32_t *tok, int64_t n, float *logits)
{
    struct eng_seq *seq = NULL;
    struct err err = {0};

    assert_int_equal(eng_seq_open(eng, &seq, &err), 0);
    oracle.is_on = false;
    feed(eng, seq, tok, 0, n - 1, NULL);
    oracle.is_on = true;
    feed(eng, seq, tok, n - 1, n, logits);
    eng_seq_close(eng, &seq);
}

static bool is_chosen(const int32_t *choice, int32_t entry)
{
    for (int i = 0; i < TOPK_MAX; i++)
        if (choice[i] == entry)
            return true;
    return false;
}

/* Other tokens in the block of an entry: entry and entry+1 are made from it. */
static void disturb(int32_t *tok, int32_t entry, int n_vocab)
{
    for (int i = 0; i < 4; i++)
        tok[4 * entry + i] = (tok[4 * entry + i] + 1 + i) % n_vocab;
}

static void test_needle(void **state)
{
    const int64_t n = 16384; /* where it is at home: in the middle of the context, not among the first by a tie at 0 */
    int32_t first[TOPK_MAX], hay = (int32_t)n / 8, needle = -1, last_hay = hay + 200;

    (void)state;
    if (!setup())
        skip();
    struct eng *eng = engine("needle", n, n);
    int n_vocab = eng_config(eng)->vocab_size;
    size_t bytes = (size_t)n_vocab * sizeof(float);
    int32_t *tok = mem_array((size_t)n, sizeof *tok);
    float *want = mem_alloc(bytes), *got = mem_alloc(bytes);
    fill(tok, n, n_vocab);
    run_to_end(eng, tok, n, want);
    memcpy(first, oracle.choice, sizeof first);
    for (int i = 0; i < TOPK_MAX && needle < 0; i++)
        if (first[i] >= 2 * TOPK_MAX && first[i] < (n - N_FAR) / 4)
            needle = first[i];
    assert_true(needle > 0);
    /* Hay: neither of the two entries is chosen, before or after. */
    do {
        fill(tok, n, n_vocab);
        for (hay++; is_chosen(first, hay) || is_chosen(first, hay + 1); hay++)
            ;
        disturb(tok, hay, n_vocab);
        run_to_end(eng, tok, n, got);
    } while (memcmp(first, oracle.choice, sizeof first) != 0 && hay < last_hay);
    assert_memory_equal(first, oracle.choice, sizeof first);
    assert_memory_equal(got, want, bytes);
    fill(tok, n, n_vocab);
    disturb(tok, needle, n_vocab);
    run_to_end(eng, tok, n, got);
    assert_memory_not_equal(got, want, bytes);
    print_message("needle: entry %d of %lld\n", needle, (long long)n / 4);
    eng_close(&eng);
    mem_free(tok);
    mem_free(want);
    mem_free(got);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_long), cmocka_unit_test(test_needle)};

    if (argc > 1)
        n_tok = strtoll(argv[1], NULL, 10);
    if (n_tok < 2 * SHORT || n_tok > 1 << 20) {
        fprintf(stderr, "tokens: %d to %d\n", 2 * SHORT, 1 << 20);
        return 2;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
