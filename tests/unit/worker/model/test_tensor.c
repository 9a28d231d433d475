/* Proves: element types by name and width, byte counts of shapes with every overflow refused, shapes as text. By
 * tables. */
#include "common/base/check.h"
#include "tests/unit/test.h"
#include "worker/model/tensor.h"

#include <string.h>

static void names_and_widths_agree(void **state)
{
    static const struct {
        const char *name;
        enum mdl_dtype dtype;
        size_t n_bytes;
    } rows[] = {{"F64", MDL_F64, 8},         {"F32", MDL_F32, 4},         {"BF16", MDL_BF16, 2},
                {"F8_E4M3", MDL_F8_E4M3, 1}, {"F8_E8M0", MDL_F8_E8M0, 1}, {"F8_E5M2", MDL_F8_E5M2, 1},
                {"I64", MDL_I64, 8},         {"U16", MDL_U16, 2},         {"BOOL", MDL_BOOL, 1}};
    enum mdl_dtype d;

    for (size_t i = 0; i < N_ELEM(rows); i++) {
        assert_true(mdl_dtype_parse(rows[i].name, strlen(rows[i].name), &d));
        assert_int_equal(d, rows[i].dtype);
        assert_string_equal(mdl_dtype_name(d), rows[i].name);
        assert_int_equal(mdl_dtype_bytes(d), rows[i].n_bytes);
    }
    assert_false(mdl_dtype_parse("F3", 2, &d));
    assert_false(mdl_dtype_parse("F32x", 4, &d));
    assert_false(mdl_dtype_parse("", 0, &d));
    (void)state;
}

static void byte_counts_do_not_overflow(void **state)
{
    static const struct {
        enum mdl_dtype dtype;
        int n_dim;
        int64_t dim[3];
        int64_t n_bytes; /* -1: refused */
    } rows[] = {
        {MDL_F32, 0, {0}, 4},
        {MDL_F32, 1, {0}, 0},
        {MDL_BF16, 2, {3, 5}, 30},
        {MDL_I8, 3, {2, 3, 4}, 24},
        {MDL_I8, 1, {-1}, -1},
        {MDL_I8, 2, {-1, -1}, -1},
        {MDL_I8, 1, {INT64_MAX}, INT64_MAX},
        {MDL_BF16, 1, {INT64_MAX}, -1},
        {MDL_I8, 2, {INT64_MAX, 2}, -1},
        {MDL_I8, 2, {1LL << 32, 1LL << 32}, -1},
        {MDL_F32, 3, {1LL << 31, 1LL << 31, 4}, -1},
    };
    uint64_t n;

    for (size_t i = 0; i < N_ELEM(rows); i++) {
        bool ok = mdl_shape_bytes(rows[i].dtype, rows[i].dim, rows[i].n_dim, &n);
        assert_int_equal(ok, rows[i].n_bytes >= 0);
        if (ok)
            assert_int_equal(n, rows[i].n_bytes);
    }
    (void)state;
}

static void shapes_as_text(void **state)
{
    char text[MDL_SHAPE_TEXT_MAX];
    const int64_t two[] = {1024, 4096};
    const int64_t wide[] = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};

    assert_string_equal(mdl_shape_text(two, 0, text), "[]");
    assert_string_equal(mdl_shape_text(two, 1, text), "[1024]");
    assert_string_equal(mdl_shape_text(two, 2, text), "[1024, 4096]");
    assert_true(strlen(mdl_shape_text(wide, 8, text)) < sizeof text);
    assert_int_equal(text[strlen(text) - 1], ']');
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_widths_agree),
        cmocka_unit_test(byte_counts_do_not_overflow),
        cmocka_unit_test(shapes_as_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
