/* Proves the cache storage: the layers' parts do not overlap and are as large as the plan says, slots and blocks are
 * handed out once and come back, a reservation takes all it needs or nothing, and no memory is an error without a
 * leak. */
#include "tests/unit/test.h"

#include "worker/kv/kv.h"

#include <string.h>

static struct mdl_config config(void)
{
    struct mdl_config c = {.num_hidden_layers = 3, .head_dim = 128, .qk_rope_head_dim = 64, .sliding_window = 32,
                           .index_head_dim = 128};
    c.layer_kind[0] = MDL_WINDOW;
    c.layer_kind[1] = MDL_CSA;
    c.layer_kind[2] = MDL_HCA;
    return c;
}

static void open_kv(struct wrk_kv *kv, struct kn_ctx *ctx, const struct mdl_config *c, int n_slot, int n_block,
                    int stride)
{
    struct err err = {0};

    *ctx = (struct kn_ctx){.n_ranks = 1};
    if (wrk_kv_init(kv, kn_backend_find("ref"), ctx, c, n_slot, n_block, stride, &err))
        fail_msg("%s", err.text);
}

static void test_layout(void **state)
{
    enum { SLOTS = 3, BLOCKS = 5 };
    struct mdl_config c = config();
    struct kn_ctx ctx;
    struct wrk_kv kv;
    size_t ring = kn_kv_page_bytes((struct kn_kv_shape){128, 64}, 32);

    (void)state;
    open_kv(&kv, &ctx, &c, SLOTS, BLOCKS, 2);
    assert_null(kv.layer[0].pool);
    assert_null(kv.layer[2].index_pool);
    assert_int_equal(kv.layer[1].page_bytes, kn_kv_page_bytes((struct kn_kv_shape){128, 64}, 32));
    assert_int_equal(kv.layer[1].index_page_bytes, kn_index_page_bytes(128, 32));
    assert_int_equal(kv.layer[2].page_bytes, kn_kv_page_bytes((struct kn_kv_shape){128, 64}, 1));
    assert_int_equal(kv.pool_bytes,
                     BLOCKS * (kv.layer[1].page_bytes + kv.layer[1].index_page_bytes + kv.layer[2].page_bytes));
    size_t csa_tail = 2 * 8 * 256 * 4, hca_tail = 2 * 128 * 128 * 4;
    assert_int_equal(kv.state_bytes, SLOTS * (3 * ring + 2 * csa_tail + hca_tail));
    assert_int_equal(kv.table_bytes, SLOTS * 2 * 4);
    /* Every part written full with its own byte: nothing is overwritten (and asan sees the ends). */
    struct {
        void *p;
        size_t n;
    } part[] = {{kv.layer[0].ring, SLOTS * ring}, {kv.layer[1].ring, SLOTS * ring}, {kv.layer[2].ring, SLOTS * ring},
                {kv.layer[1].tail, SLOTS * csa_tail}, {kv.layer[1].index_tail, SLOTS * csa_tail},
                {kv.layer[2].tail, SLOTS * hca_tail}, {kv.layer[1].pool, BLOCKS * kv.layer[1].page_bytes},
                {kv.layer[1].index_pool, BLOCKS * kv.layer[1].index_page_bytes},
                {kv.layer[2].pool, BLOCKS * kv.layer[2].page_bytes}};
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        assert_int_equal((uintptr_t)part[i].p % KN_PAGE_ALIGN, 0);
        memset(part[i].p, (int)i + 1, part[i].n);
    }
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++)
        for (size_t k = 0; k < part[i].n; k++)
            if (((unsigned char *)part[i].p)[k] != i + 1)
                fail_msg("part %zu is overwritten at %zu", i, k);
    wrk_kv_release(&kv);
    wrk_kv_release(&kv);
}

/* spec/model.md section 10, with the numbers of Flash: per 4 tokens 448+7+128 bytes and 64+4 of its indexer in 21
 * layers, per 128 tokens one entry of 448+7+128 in 20 layers, 128 raw entries in each layer; section 6: k and g of 2*4
 * and of 128 tokens in F32. The one difference: an entry's 7 scales lie in 8 bytes. */
static void test_flash_by_formula(void **state)
{
    struct mdl_config c = {.num_hidden_layers = 43, .head_dim = 512, .qk_rope_head_dim = 64, .sliding_window = 128,
                           .index_head_dim = 128};
    enum { CSA = 21, HCA = 20, ENTRY = 448 + 7 + 128, KEY = 64 + 4, PAD = 1 };
    struct kn_ctx ctx;
    struct wrk_kv kv;

    (void)state;
    for (int i = 0; i < 43; i++) /* 0, 0, then 4 and 128 in turn */
        c.layer_kind[i] = i < 2 ? MDL_WINDOW : i % 2 == 0 ? MDL_CSA : MDL_HCA;
    open_kv(&kv, &ctx, &c, 2, 3, 3);
    uint64_t block = CSA * 32 * (ENTRY + PAD + KEY) + HCA * (ENTRY + PAD);
    uint64_t align = CSA * 2 * 63 + HCA * 63; /* pages begin at multiples of 64 bytes */
    assert_true(kv.block_bytes >= block && kv.block_bytes <= block + align);
    assert_int_equal(kv.pool_bytes, 3 * kv.block_bytes);
    double per_tok = (double)kv.block_bytes / 128, formula = CSA * (ENTRY + KEY) / 4.0 + HCA * ENTRY / 128.0;
    assert_true(per_tok > formula && per_tok < formula * 1.01); /* 3,509 bytes a token */
    assert_true(formula > 3500 && formula < 3520);
    uint64_t ring = 43ull * 128 * (ENTRY + PAD);
    uint64_t tail = 4ull * (CSA * (2 * 8 * 2 * 512 + 2 * 8 * 2 * 128) + HCA * 2 * 128 * 512);
    assert_int_equal(kv.slot_bytes, ring + tail);
    assert_int_equal(kv.state_bytes, 2 * (ring + tail));
    wrk_kv_release(&kv);
}

static void test_slots_and_blocks(void **state)
{
    enum { SLOTS = 2, BLOCKS = 4, STRIDE = 3 };
    struct mdl_config c = config();
    struct kn_ctx ctx;
    struct wrk_kv kv;
    int seen[BLOCKS] = {0};

    (void)state;
    open_kv(&kv, &ctx, &c, SLOTS, BLOCKS, STRIDE);
    int32_t a = wrk_kv_slot_take(&kv), b = wrk_kv_slot_take(&kv);
    assert_true(a >= 0 && b >= 0 && a != b);
    assert_int_equal(wrk_kv_slot_take(&kv), ERR_LIMIT);
    assert_int_equal(wrk_kv_reserve(&kv, a, 0), 0);
    assert_int_equal(kv.n_free_block, BLOCKS);
    assert_int_equal(wrk_kv_reserve(&kv, a, 1), 0);
    assert_int_equal(wrk_kv_reserve(&kv, a, 128), 0);
    assert_int_equal(kv.n_free_block, BLOCKS - 1);
    assert_int_equal(wrk_kv_reserve(&kv, a, 129), 0);
    assert_int_equal(wrk_kv_reserve(&kv, b, 257), ERR_LIMIT); /* three blocks, two are free: nothing is taken */
    assert_int_equal(kv.n_free_block, 2);
    assert_int_equal(kv.slot_n_block[b], 0);
    assert_int_equal(wrk_kv_reserve(&kv, b, 256), 0);
    for (int i = 0; i < 2; i++) {
        seen[kv.block[a * STRIDE + i]]++;
        seen[kv.block[b * STRIDE + i]]++;
    }
    for (int i = 0; i < BLOCKS; i++)
        assert_int_equal(seen[i], 1);
    wrk_kv_slot_give(&kv, a);
    assert_int_equal(kv.n_free_block, 2);
    assert_int_equal(wrk_kv_reserve(&kv, b, 3 * 128 + 1), ERR_LIMIT); /* over the stride though blocks are free */
    assert_int_equal(wrk_kv_reserve(&kv, b, INT64_MAX), ERR_LIMIT);
    assert_int_equal(wrk_kv_slot_take(&kv), a);
    wrk_kv_slot_give(&kv, a);
    wrk_kv_slot_give(&kv, b);
    assert_int_equal(kv.n_free_block, BLOCKS);
    wrk_kv_release(&kv);
}

/* The reference device, whose allocation number fail_at fails. */
static int n_alloc, fail_at, n_held;

static int alloc_or_fail(struct kn_ctx *ctx, size_t bytes, void **p)
{
    if (n_alloc++ == fail_at)
        return ERR_MEM;
    n_held++;
    return kn_backend_find("ref")->device->alloc(ctx, bytes, p);
}

static void release_counted(struct kn_ctx *ctx, void *p)
{
    n_held -= p != NULL;
    kn_backend_find("ref")->device->release(ctx, p);
}

static void test_no_memory(void **state)
{
    struct mdl_config c = config();
    struct kn_device device = *kn_backend_find("ref")->device;
    struct kn_backend backend = *kn_backend_find("ref");
    struct kn_ctx ctx = {.n_ranks = 1};
    struct wrk_kv kv;

    (void)state;
    device.alloc = alloc_or_fail;
    device.release = release_counted;
    backend.device = &device;
    for (fail_at = 0; fail_at < 4; fail_at++) {
        struct err err = {0};
        n_alloc = n_held = 0;
        int rc = wrk_kv_init(&kv, &backend, &ctx, &c, 2, 4, 2, &err);
        if (rc == 0)
            break;
        assert_int_equal(rc, ERR_MEM);
        assert_non_null(strstr(err.text, "KV cache"));
        assert_int_equal(n_held, 0);
        wrk_kv_release(&kv);
    }
    assert_int_equal(fail_at, 3);
    wrk_kv_release(&kv);
    assert_int_equal(n_held, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_layout), cmocka_unit_test(test_flash_by_formula),
                                       cmocka_unit_test(test_slots_and_blocks),
                                       cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
