/* Proves the prefix cache as a data structure, on a cache without a model: what a slot or block held is what its taker
 * gets; blocks are shared, counted and come back; the least recently used cut point gives way, leaves first; steps
 * take at most their half; nothing is handed out whose tokens differ though the keys are equal (all keys collide in one
 * of the tests); the news add up to what is there; no memory is an error. */
#include "tests/unit/test.h"

#include "common/base/err.h"
#include "worker/kv/prefix.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS = 4, STRIDE = 8 };

static bool do_all_collide;
struct prefix_key __real_prefix_key_next(struct prefix_key before, const int32_t *tok, int n);
struct prefix_key __wrap_prefix_key_next(struct prefix_key before, const int32_t *tok, int n);
struct prefix_key __wrap_prefix_key_next(struct prefix_key before, const int32_t *tok, int n)
{
    return do_all_collide ? (struct prefix_key){1, 1} : __real_prefix_key_next(before, tok, n);
}

static struct mdl_config config(void)
{
    struct mdl_config c = {.num_hidden_layers = 3, .head_dim = 128, .qk_rope_head_dim = 64, .sliding_window = 4,
                           .index_head_dim = 64};
    c.layer_kind[0] = MDL_WINDOW;
    c.layer_kind[1] = MDL_CSA;
    c.layer_kind[2] = MDL_HCA;
    return c;
}

static struct wrk_kv kv;
static struct kn_ctx ctx;
static int32_t text[6][STRIDE * 128]; /* text 1 begins like text 0 for 200 tokens, text 2 for 128 */

static void open_cache(int n_block, int n_saved)
{
    static struct mdl_config c;
    struct err err = {0};
    c = config();
    ctx = (struct kn_ctx){.n_ranks = 1};
    do_all_collide = false;
    for (int t = 0; t < 6; t++)
        for (int i = 0; i < STRIDE * 128; i++)
            text[t][i] = t * 1000 + i;
    memcpy(text[1], text[0], 200 * sizeof(int32_t));
    memcpy(text[2], text[0], 128 * sizeof(int32_t));
    assert_int_equal(wrk_kv_init(&kv, kn_backend_find("ref"), &ctx, &c, SLOTS, n_block,
                                 n_block < STRIDE ? n_block : STRIDE, &err),
                     0);
    assert_int_equal(wrk_prefix_init(&kv, n_saved, &err), 0);
}

/* The parts of a slot or block, filled with a byte or checked for it. */
static void touch(uint8_t *p, size_t n, int byte, bool check)
{
    for (size_t i = 0; check && i < n; i++)
        if (p[i] != byte)
            fail_msg("byte %zu of %zu is %d, not %d", i, n, p[i], byte);
    if (!check)
        memset(p, byte, n);
}

static void touch_slot(int32_t slot, int byte, bool check)
{
    for (int i = 0; i < kv.n_layer; i++) {
        struct wrk_kv_layer *l = &kv.layer[i];
        touch(l->ring + (size_t)slot * l->ring_bytes, l->ring_bytes, byte, check);
        if (l->tail)
            touch((uint8_t *)l->tail + (size_t)slot * l->tail_bytes, l->tail_bytes, byte, check);
        if (l->index_tail)
            touch((uint8_t *)l->index_tail + (size_t)slot * l->index_tail_bytes, l->index_tail_bytes, byte, check);
    }
}

static void touch_block(int32_t block, int byte, bool check)
{
    for (int i = 0; i < kv.n_layer; i++) {
        struct wrk_kv_layer *l = &kv.layer[i];
        if (l->pool)
            touch(l->pool + (size_t)block * l->page_bytes, l->page_bytes, byte, check);
        if (l->index_pool)
            touch(l->index_pool + (size_t)block * l->index_page_bytes, l->index_page_bytes, byte, check);
    }
}

static int32_t block_of(int32_t slot, int i)
{
    int32_t at = slot * kv.block_stride + i;
    assert_int_equal(kv.host_block[at], kv.block[at]); /* ref: the device is the host */
    return kv.block[at];
}

/* A sequence of the first n tokens of text t whose parts hold t, saved and closed. */
static int32_t compute(int t, int n)
{
    int32_t slot = wrk_kv_slot_take(&kv);
    assert_true(slot >= 0);
    assert_int_equal(wrk_kv_reserve(&kv, slot, n), 0);
    touch_slot(slot, 10 + t, false);
    for (int i = 0; i < (n + 127) / 128; i++)
        touch_block(block_of(slot, i), 10 + t, false);
    return slot;
}

static void save(int32_t slot, int t, int n)
{
    assert_int_equal(wrk_prefix_save(&kv, slot, text[t], n, false), 0);
}

static void keep(int t, int n)
{
    int32_t slot = compute(t, n);
    save(slot, t, n);
    wrk_kv_slot_give(&kv, slot);
}

static int64_t found(int t, int n)
{
    return wrk_prefix_find(&kv, text[t], n).n_tok;
}

static void close_cache(void)
{
    int32_t n_block = kv.n_block;
    assert_int_equal(wrk_kv_blocks_left(&kv), n_block);
    wrk_prefix_clear(&kv);
    assert_int_equal(kv.n_free_block, n_block);
    assert_int_equal(kv.n_idle_block, 0);
    wrk_kv_release(&kv);
}

static void test_restore(void **state)
{
    (void)state;
    open_cache(10, 4);
    keep(0, 300);
    assert_int_equal(kv.n_idle_block, 2); /* the third is a copy beside the state */
    assert_int_equal(found(0, 1000), 300);
    assert_int_equal(found(0, 301), 300);
    assert_int_equal(found(0, 300), 299); /* one step back: its logits are wanted */
    assert_int_equal(found(0, 299), 0);
    assert_int_equal(found(1, 1000), 0); /* the first 200 are alike, but there is no cut point */
    int32_t a = wrk_kv_slot_take(&kv), b = wrk_kv_slot_take(&kv);
    assert_int_equal(wrk_prefix_restore(&kv, a, text[0], 400), 300);
    assert_int_equal(wrk_prefix_restore(&kv, b, text[0], 300), 299);
    touch_slot(a, 10, true);
    touch_slot(b, 10, true);
    for (int i = 0; i < 3; i++)
        touch_block(block_of(a, i), 10, true);
    touch_block(block_of(b, 2), 10, true);
    assert_int_equal(block_of(a, 0), block_of(b, 0));
    assert_int_equal(block_of(a, 1), block_of(b, 1));
    assert_int_not_equal(block_of(a, 2), block_of(b, 2)); /* each writes into its own */
    assert_int_equal(kv.n_idle_block, 0);
    assert_int_equal(wrk_kv_blocks_left(&kv), 6);
    assert_int_equal(wrk_kv_blocks_own(&kv, a), 1);
    assert_int_equal(wrk_prefix_find(&kv, text[0], 400).n_busy, 2);
    wrk_kv_slot_give(&kv, a);
    assert_int_equal(wrk_kv_blocks_own(&kv, b), 3);
    wrk_kv_slot_give(&kv, b);
    close_cache();
}

static void test_whole_blocks(void **state)
{
    (void)state;
    open_cache(10, 4);
    keep(0, 256);
    assert_int_equal(found(0, 256), 0); /* the last token would be written into a shared block */
    assert_int_equal(found(0, 257), 256);
    keep(0, 128);
    assert_int_equal(found(0, 256), 128);
    assert_int_equal(found(2, 300), 128);
    keep(0, 5);
    assert_int_equal(found(0, 127), 5);
    assert_int_equal(found(0, 5), 4);
    assert_int_equal(found(0, 1), 0);
    keep(3, 1);
    assert_int_equal(found(3, 1), 0);
    assert_int_equal(found(3, 2), 1);
    close_cache();
}

/* Two compute the same: one copy of the full blocks is kept, and the second's list is turned to it. */
static void test_twice_the_same(void **state)
{
    (void)state;
    open_cache(10, 4);
    int32_t a = compute(0, 260), b = compute(0, 260);
    save(a, 0, 260);
    int32_t first = block_of(a, 0), spare = block_of(b, 0);
    assert_int_not_equal(first, spare);
    wrk_prefix_save(&kv, b, text[0], 130, false);
    assert_int_equal(block_of(b, 0), first);
    assert_int_not_equal(block_of(b, 1), block_of(a, 1));
    assert_int_equal(wrk_kv_blocks_left(&kv), 10 - 6 + 1);
    save(b, 0, 260); /* known: only used again */
    assert_int_equal(wrk_prefix_stats(&kv)->n_saved, 2);
    wrk_kv_slot_give(&kv, a);
    wrk_kv_slot_give(&kv, b);
    assert_int_equal(kv.n_idle_block, 2);
    close_cache();
}

static void test_least_recent_gives_way(void **state)
{
    (void)state;
    open_cache(20, 3);
    keep(0, 140);
    keep(3, 140);
    keep(4, 140);
    assert_int_equal(found(0, 200), 140);
    int32_t s = wrk_kv_slot_take(&kv); /* 0 is of use again */
    assert_int_equal(wrk_prefix_restore(&kv, s, text[0], 200), 140);
    wrk_kv_slot_give(&kv, s);
    keep(5, 140);
    assert_int_equal(found(3, 200), 0);
    assert_int_equal(found(0, 200), 140);
    assert_int_equal(found(4, 200), 140);
    assert_int_equal(wrk_prefix_stats(&kv)->n_given_up, 1);
    close_cache();
}

/* The pool is dry: idle blocks are given up from the leaves on, the oldest leaf first, busy ones not at all. */
static void test_blocks_are_given_up(void **state)
{
    (void)state;
    open_cache(6, 8);
    keep(0, 128);
    keep(0, 384);
    keep(3, 256); /* 5 blocks are idle */
    assert_int_equal(kv.n_free_block, 1);
    int32_t busy = wrk_kv_slot_take(&kv), s = wrk_kv_slot_take(&kv);
    assert_int_equal(wrk_prefix_restore(&kv, busy, text[0], 200), 128);
    assert_int_equal(wrk_kv_reserve(&kv, s, 2 * 128), 0);
    assert_int_equal(found(0, 400), 128); /* the oldest leaf: the end of text 0 */
    assert_int_equal(found(3, 400), 256);
    assert_int_equal(wrk_kv_reserve(&kv, s, 6 * 128), ERR_LIMIT); /* 5 are all there are beside the busy one */
    assert_int_equal(found(3, 400), 256);                        /* nothing was given up for nothing */
    assert_int_equal(wrk_kv_reserve(&kv, s, 5 * 128), 0);
    assert_int_equal(found(3, 400), 0);
    assert_int_equal(found(0, 400), 128);
    wrk_kv_slot_give(&kv, busy);
    wrk_kv_slot_give(&kv, s);
    close_cache();
}

/* A restore that needs the last free block for its copy does not give up what it is restoring. */
static void test_restore_in_a_full_pool(void **state)
{
    (void)state;
    open_cache(3, 4);
    keep(0, 200);
    keep(3, 256);
    int32_t s = wrk_kv_slot_take(&kv);
    assert_int_equal(wrk_prefix_restore(&kv, s, text[0], 300), 200);
    touch_block(block_of(s, 1), 10, true);
    assert_int_equal(found(0, 300), 200);
    assert_int_equal(found(3, 300), 0);
    wrk_kv_slot_give(&kv, s);
    s = compute(3, 256);
    int32_t t = wrk_kv_slot_take(&kv);
    assert_int_equal(wrk_prefix_restore(&kv, t, text[0], 300), 0); /* no block for the copy: no hit, nothing held */
    assert_int_equal(kv.slot_n_block[t], 0);
    wrk_kv_slot_give(&kv, t);
    wrk_kv_slot_give(&kv, s);
    close_cache();
}

static void test_steps_take_half(void **state)
{
    (void)state;
    open_cache(40, 4);
    keep(3, 100);
    keep(4, 100);
    int32_t s = compute(0, 1000);
    for (int n = 128; n <= 896; n += 128)
        assert_int_equal(wrk_prefix_save(&kv, s, text[0], n, true), 0);
    assert_int_equal(found(3, 101), 100);
    assert_int_equal(found(4, 101), 100);
    assert_int_equal(found(0, 1000), 896);
    assert_int_equal(found(0, 800), 768);
    assert_int_equal(found(0, 700), 0);
    wrk_kv_slot_give(&kv, s);
    close_cache();
}

static void test_equal_keys(void **state)
{
    (void)state;
    open_cache(20, 6);
    do_all_collide = true;
    keep(0, 260);
    keep(1, 260);
    keep(2, 260);
    keep(3, 260);
    for (int t = 0; t < 4; t++) {
        int32_t s = wrk_kv_slot_take(&kv);
        assert_int_equal(wrk_prefix_restore(&kv, s, text[t], 300), 260);
        touch_slot(s, 10 + t, true);
        touch_block(block_of(s, 1), 10 + t, true);
        wrk_kv_slot_give(&kv, s);
    }
    assert_int_equal(found(4, 300), 0);
    assert_int_equal(kv.n_idle_block, 1 + 1 + 1 + 1 + 2); /* texts 0, 1 and 2 share the first */
    close_cache();
}

/* As the engine does it. */
static int take_news(struct prefix_news *news, int n, bool *is_all)
{
    *is_all = wrk_prefix_has_lost_news(&kv);
    if (*is_all)
        wrk_prefix_tell_all(&kv);
    return wrk_prefix_take_news(&kv, news, n);
}

/* What a listener believes after each piece of news is what is there. */
static void test_news(void **state)
{
    static struct prefix_news news[8];
    uint64_t known[64];
    int n_known = 0;
    (void)state;
    open_cache(12, 4);
    for (int round = 0; round < 40; round++) {
        bool is_all;
        int n;
        keep(round * 7 % 6, 100 + round * 61 % 700);
        if (round == 20) {
            wrk_prefix_tell_all(&kv);
            n_known = 0;
        }
        do {
            n = take_news(news, 8, &is_all);
            assert_false(is_all);
            for (int i = 0; i < n; i++) {
                int at = 0;
                while (at < n_known && known[at] != news[i].key)
                    at++;
                assert_int_equal(at == n_known, news[i].is_stored); /* comes once, goes once */
                if (news[i].is_stored)
                    known[n_known++] = news[i].key;
                else
                    known[at] = known[--n_known];
            }
        } while (n == 8);
        assert_int_equal(n_known, kv.n_idle_block);
        struct prefix_key k = PREFIX_KEY_EMPTY;
        int t = round * 7 % 6, len = 100 + round * 61 % 700;
        for (int i = 0; i + 128 <= len; i += 128) {
            k = prefix_key_next(k, text[t] + i, 128);
            int at = 0;
            while (at < n_known && known[at] != k.lo)
                at++;
            assert_true(at < n_known);
        }
    }
    close_cache();
}

/* Nobody listens: the list of changes is bounded, and the listener who comes then is told everything. */
static void test_news_overflow(void **state)
{
    static struct prefix_news news[64];
    bool is_all;
    (void)state;
    open_cache(12, 1);
    for (int i = 0; i < WRK_PREFIX_NEWS_MAX; i++)
        keep(i % 2 ? 3 : 4, 300);
    assert_int_equal(take_news(news, 64, &is_all), 2);
    assert_true(is_all);
    assert_true(news[0].is_stored && news[1].is_stored);
    assert_int_equal(take_news(news, 64, &is_all), 0);
    assert_false(is_all);
    close_cache();
}

/* Under a sanitizer too, an allocation that is too large is an error and not the end. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}

static void test_no_memory(void **state)
{
    struct err err = {0};
    (void)state;
    open_cache(4, 0);
    assert_null(kv.prefix);
    keep(0, 300); /* without a cache nothing is kept */
    assert_int_equal(found(0, 400), 0);
    kv.slot_bytes = (uint64_t)1 << 50; /* a machine that is too small */
    assert_int_equal(wrk_prefix_init(&kv, 1000, &err), ERR_MEM);
    assert_non_null(strstr(err.text, "1000 saved states"));
    assert_null(kv.prefix);
    wrk_kv_release(&kv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restore),
        cmocka_unit_test(test_whole_blocks),
        cmocka_unit_test(test_twice_the_same),
        cmocka_unit_test(test_least_recent_gives_way),
        cmocka_unit_test(test_blocks_are_given_up),
        cmocka_unit_test(test_restore_in_a_full_pool),
        cmocka_unit_test(test_steps_take_half),
        cmocka_unit_test(test_equal_keys),
        cmocka_unit_test(test_news),
        cmocka_unit_test(test_news_overflow),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
