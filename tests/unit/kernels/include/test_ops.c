/* Proves the op list: names in order, the reference table is complete, a missing slot is found and named, back ends are
 * found by name only. */
#include "tests/unit/test.h"

#include "kernels/include/ops.h"

#include <string.h>

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(kn_op_name(KN_OP_rope_angles), "rope_angles");
    assert_string_equal(kn_op_name(KN_OP_hc_head), "hc_head");
    assert_string_equal(kn_op_name(KN_OP_N), "?");
    assert_int_equal(KN_OP_N, sizeof(struct kn_ops) / sizeof(int (*)(void)));
}

static void test_missing(void **state)
{
    const struct kn_backend *ref = kn_backend_find("ref");
    struct kn_ops ops;

    (void)state;
    assert_non_null(ref);
    assert_int_equal(kn_ops_missing(ref->ops), KN_OP_N);
    ops = *ref->ops;
    ops.attend = NULL;
    assert_int_equal(kn_ops_missing(&ops), KN_OP_attend);
    ops = *ref->ops;
    ops.hc_head = NULL;
    assert_int_equal(kn_ops_missing(&ops), KN_OP_hc_head);
}

static void test_find(void **state)
{
    (void)state;
    assert_null(kn_backend_find("re"));
    assert_null(kn_backend_find(""));
    assert_string_equal(kn_backend_find("ref")->name, "ref");
    assert_true(strstr(kn_backend_names(), "ref") == kn_backend_names());
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names), cmocka_unit_test(test_missing),
                                       cmocka_unit_test(test_find)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
