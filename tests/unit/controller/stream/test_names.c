/* Proves: names_add tells new names from known ones through growth, clearing and names with NUL or of no length. */
#include "controller/stream/names.h"
#include "tests/unit/test.h"

#include <stdio.h>

static void test_names(void **state)
{
    struct names s = {0};
    char name[16];
    (void)state;

    for (int round = 0; round < 3; round++) {
        for (int again = 0; again < 2; again++) {
            for (int i = 0; i < 1000; i++) {
                int n = snprintf(name, sizeof name, "n%d", i);
                assert_int_equal(names_add(&s, name, (size_t)n), !again);
            }
        }
        assert_int_equal(names_n(&s), 1000);
        names_clear(&s);
        assert_int_equal(names_n(&s), 0);
    }
    assert_true(names_add(&s, "", 0));
    assert_false(names_add(&s, "", 0));
    assert_true(names_add(&s, "a\0b", 3));
    assert_true(names_add(&s, "a\0c", 3));
    assert_false(names_add(&s, "a\0b", 3));
    names_clear(&s);
    assert_true(names_add(&s, "", 0));
    names_release(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
