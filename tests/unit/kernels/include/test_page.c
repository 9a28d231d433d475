/* Proves where the parts of a cache page lie: planes one behind the other, no overlap, the published bytes per entry;
 * and that an entry written by hand is read back as the formula says. */
#include "tests/unit/test.h"

#include "kernels/include/page.h"

#include <stdlib.h>
#include <string.h>

static void test_layout(void **state)
{
    struct kn_kv_shape flash = {512, 64};

    (void)state;
    assert_int_equal(kn_kv_rope_offset(flash, 32), 32 * 448);
    assert_int_equal(kn_kv_scale_offset(flash, 32), 32 * (448 + 128));
    assert_int_equal(kn_kv_scale_stride(flash), 8); /* 7 scales, padded */
    assert_int_equal(kn_kv_page_bytes(flash, 32), 32 * (448 + 128 + 8));
    assert_int_equal(kn_kv_page_bytes(flash, 1), 640); /* 584 on a boundary of 64 */
    assert_int_equal(kn_kv_page_bytes(flash, 0), 0);
    assert_int_equal(kn_index_scale_offset(128, 32), 32 * 64);
    assert_int_equal(kn_index_page_bytes(128, 32), 32 * 68);
}

static void test_read(void **state)
{
    struct kn_kv_shape shape = {192, 64};
    enum { N = 3 };
    uint8_t *page = aligned_alloc(64, kn_kv_page_bytes(shape, N));
    double x[192];

    (void)state;
    memset(page, 0xff, kn_kv_page_bytes(shape, N));
    memset(page + 1 * 128, 0x38, 128); /* 1.0 */
    uint8_t *scale = page + kn_kv_scale_offset(shape, N) + 1 * kn_kv_scale_stride(shape);
    scale[0] = 126; /* 1/2 */
    scale[1] = 130; /* 8 */
    uint16_t *rope = (uint16_t *)(void *)(page + kn_kv_rope_offset(shape, N)) + 1 * 64;
    for (int i = 0; i < 64; i++)
        rope[i] = kn_f32_bf16((float)i);
    kn_kv_get(page, shape, N, 1, x);
    for (int i = 0; i < 192; i++)
        assert_true(x[i] == (i < 64 ? 0.5 : i < 128 ? 8 : i - 128));
    free(page);

    uint8_t index[256] = {0};
    index[1 * 16] = 0x7a;                             /* entry 1: -1, then 6: the low nibble first */
    index[kn_index_scale_offset(32, 2) + 1] = 128;    /* 2 */
    kn_index_get(index, 32, 2, 1, x);
    assert_true(x[0] == -2 && x[1] == 12 && x[2] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_layout), cmocka_unit_test(test_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
