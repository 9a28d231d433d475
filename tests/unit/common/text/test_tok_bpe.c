/* Proves: the scan, the heap and the whole-word and memo short cuts give the same ids; a piece of two megabytes takes
 * seconds at most; the tables find what was put in and nothing else.
 * How: random pieces of all lengths over the tiny tokenizer, cut up by three ways; the clock for the long ones. */
#include "common/mem/mem.h"
#include "common/text/tok_impl.h"
#include "tests/unit/common/text/vectors.h"

#include <time.h>

static struct tok *tok;

static int open_tok(void **state)
{
    struct err err;

    (void)state;
    if (tok_open(TEST_DATA("tiny_tokenizer"), &tok, &err)) {
        print_error("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int close_tok(void **state)
{
    (void)state;
    tok_close(&tok);
    return 0;
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static bool same_ids(const struct tok_ids *a, const struct tok_ids *b)
{
    return a->n == b->n && memcmp(a->id, b->id, a->n * sizeof *a->id) == 0;
}

/* Straight from the definition: join the pair of lowest rank, leftmost first, until there is none. */
static void naive(const char *s, size_t n, struct tok_ids *ids)
{
    for (size_t i = 0; i < n; i++)
        tok_ids_add(ids, (int32_t)tok->byte_id[(unsigned char)s[i]]);
    for (;;) {
        size_t best = 0;
        uint32_t low = TOK_NONE;
        for (size_t i = 0; i + 1 < ids->n; i++) {
            uint32_t r = tok__merges_find(&tok->merges, (uint32_t)ids->id[i], (uint32_t)ids->id[i + 1]);
            if (r < low) {
                low = r;
                best = i;
            }
        }
        if (low == TOK_NONE)
            return;
        ids->id[best] = (int32_t)low;
        memmove(ids->id + best + 1, ids->id + best + 2, (ids->n - best - 2) * sizeof *ids->id);
        ids->n--;
    }
}

static void check_piece(const char *piece, size_t n, struct tok_scratch *scratch)
{
    struct tok_ids want = {0}, heap = {0}, scan = {0};

    naive(piece, n, &want);
    tok__bpe_heap(tok, scratch, piece, n, &heap);
    if (!same_ids(&want, &heap))
        fail_msg("heap: \"%.*s\"", (int)n, piece);
    if (n <= TOK_SHORT_MAX) {
        tok__bpe_short(tok, piece, n, &scan);
        if (!same_ids(&want, &scan))
            fail_msg("scan: \"%.*s\"", (int)n, piece);
    }
    tok_ids_release(&want);
    tok_ids_release(&heap);
    tok_ids_release(&scan);
}

static void test_ways_agree(void **state)
{
    static const char *const letters[] = {"etaoin srh", "a", " ", "=-*/", "\xE4\xB8\xAD\xE6\x96\x87", "ab\0\n\xFF"};
    struct tok_scratch scratch = {0};
    uint64_t seed = 7;
    char piece[200];

    (void)state;
    for (int round = 0; round < 6000; round++) {
        const char *from = letters[(size_t)round % 6];
        size_t n_from = round % 6 == 5 ? 5 : strlen(from); /* the last one holds a NUL */
        size_t n = 1 + next_random(&seed) % (round % 10 ? 40 : sizeof piece);
        for (size_t i = 0; i < n; i++)
            piece[i] = from[next_random(&seed) % n_from];
        check_piece(piece, n, &scratch);
    }
    for (int32_t id = 0; id < tok_n_vocab(tok); id++) { /* every entry, too: there the merges go all the way */
        size_t n;
        const char *s = tok_bytes(tok, id, &n);
        check_piece(s, n, &scratch);
    }
    tok__scratch_release(&scratch);
}

/* One call over many pieces, so that the memo is filled, overwritten and hit. */
static void test_short_cuts_agree(void **state)
{
    enum { N_PIECE = 20000, BYTES_MAX = 70 };
    char *text = mem_alloc((size_t)N_PIECE * BYTES_MAX);
    struct tok_scratch scratch = {0}, plain = {0};
    struct tok_ids got = {0}, want = {0};
    uint64_t seed = 3;
    size_t len = 0;

    (void)state;
    for (int k = 0; k < N_PIECE; k++) {
        char *piece = text + len;
        uint64_t word = next_random(&seed) % 500; /* 500 words come again and again, every tenth piece is new */
        size_t n = k % 10 ? 1 + word % BYTES_MAX : 1 + next_random(&seed) % BYTES_MAX;
        for (size_t i = 0; i < n; i++)
            piece[i] = (char)('a' + next_random(k % 10 ? &word : &seed) % 4);
        len += n;
        tok__piece(tok, &scratch, piece, n, &got);
        tok__bpe(tok, &plain, piece, n, &want);
    }
    assert_non_null(scratch.memo);
    assert_true(same_ids(&got, &want));
    tok__scratch_release(&scratch);
    tok__scratch_release(&plain);
    tok_ids_release(&got);
    tok_ids_release(&want);
    mem_free(text);
}

/* Processor time for a piece of two megabytes. Quadratic time would be hours; what a good run needs is 0.1 to 0.9 s,
 * and the machine may be busy or the build a sanitizer's. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { LIMIT_MS = 20000, HUGE_BYTES = 256 << 10 };
#else
enum { LIMIT_MS = 3000, HUGE_BYTES = 2 << 20 };
#endif

static void test_huge_piece(void **state)
{
    static const char *const unit[] = {"a", " ", "\xE4\xB8\xAD", "ab", "-=", "\n"};
    char *text = mem_alloc(HUGE_BYTES);

    (void)state;
    for (size_t k = 0; k < sizeof unit / sizeof unit[0]; k++) {
        struct tok_ids ids = {0};
        size_t n_unit = strlen(unit[k]), len = HUGE_BYTES / n_unit * n_unit, n_back = 0;
        for (size_t i = 0; i < len; i++)
            text[i] = unit[k][i % n_unit];
        clock_t start = clock(); /* processor time: other tests run beside this one */
        tok_encode(tok, text, len, NULL, 0, &ids);
        int64_t ms = (int64_t)(clock() - start) * 1000 / CLOCKS_PER_SEC;
        for (size_t i = 0; i < ids.n; i++) {
            size_t n;
            const char *s = tok_bytes(tok, ids.id[i], &n);
            assert_true(n_back + n <= len && memcmp(text + n_back, s, n) == 0);
            n_back += n;
        }
        assert_int_equal(n_back, len);
        if (ms >= LIMIT_MS)
            fail_msg("%d bytes of \"%s\" took %lld ms", HUGE_BYTES, unit[k], (long long)ms);
        tok_ids_release(&ids);
    }
    mem_free(text);
}

static void test_tables(void **state)
{
    struct tok_merges m;
    struct tok_words w;
    struct tok fake = {.bytes = (char *)(uintptr_t) "abcdefghijklmnopabc", .at = (size_t[]){0, 16, 19}};

    (void)state;
    tok__merges_init(&m, 3000);
    for (uint32_t i = 0; i < 3000; i++)
        tok__merges_add(&m, i * 7 % 1000, i, TOK_VOCAB_MAX - 1 - i);
    for (uint32_t i = 0; i < 3000; i++) {
        assert_int_equal(tok__merges_find(&m, i * 7 % 1000, i), TOK_VOCAB_MAX - 1 - i);
        assert_int_equal(tok__merges_find(&m, 1000, i), TOK_NONE);
    }
    mem_free(m.slot);

    tok__words_init(&w, 2);
    tok__words_add(&w, fake.bytes, 16, 0);
    tok__words_add(&w, fake.bytes + 16, 3, 1);
    assert_int_equal(tok__words_find(&w, &fake, "abcdefghijklmnop", 16), 0);
    assert_int_equal(tok__words_find(&w, &fake, "abc", 3), 1);
    assert_int_equal(tok__words_find(&w, &fake, "ab", 2), TOK_NONE);
    assert_int_equal(tok__words_find(&w, &fake, "abcdefghijklmnoq", 16), TOK_NONE);
    tok__words_remove(&w, "abc", 3, 1);
    assert_int_equal(tok__words_find(&w, &fake, "abc", 3), TOK_NONE);
    assert_int_equal(tok__words_find(&w, &fake, "abcdefghijklmnop", 16), 0);
    mem_free(w.slot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ways_agree),
        cmocka_unit_test(test_short_cuts_agree),
        cmocka_unit_test(test_huge_piece),
        cmocka_unit_test(test_tables),
    };
    return cmocka_run_group_tests(tests, open_tok, close_tok);
}
