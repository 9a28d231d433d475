/* Proves: event ids come back as they were written, for one choice and many; what is no id, or of another request, or
 * of another number of choices is told apart. How: round trips and a list of bad ones.
 */
#include "tests/unit/test.h"

#include "common/base/check.h"
#include "common/base/err.h"
#include "controller/api/event_id.h"

#include <string.h>

static const char hex[25] = "0123456789abcdef01234567";

static void test_round_trip(void **state)
{
    (void)state;
    char text[EVENT_ID_MAX] = "";
    int64_t at[CTL_CHOICES_MAX + 1] = {0}, got[CTL_CHOICES_MAX + 1];

    at[0] = 41;
    at[1] = 1; /* with one choice the tail counts on */
    assert_int_equal(event_id_write(hex, at, 1, text), 27);
    assert_string_equal(text, "0123456789abcdef01234567-42");
    assert_int_equal(event_id_read(text, hex, 1, got), 0);
    assert_true(got[0] == 42 && got[1] == 0);
    for (int n = 2; n <= CTL_CHOICES_MAX; n += 63) {
        for (int i = 0; i <= n; i++)
            at[i] = i * INT64_C(7777777777);
        assert_in_range(event_id_write(hex, at, n, text), 30, EVENT_ID_MAX - 1);
        assert_int_equal(event_id_read(text, hex, n, got), 0);
        assert_memory_equal(at, got, (size_t)(n + 1) * sizeof *at);
        assert_int_equal(event_id_read(text, hex, n + 1, got), ERR_FORMAT);
        assert_int_equal(event_id_read(text, hex, 1, got), ERR_FORMAT);
    }
}

static void test_bad_ones(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "x", "0123456789abcdef01234567", "0123456789abcdef01234567-",
                                      "0123456789abcdef01234567-x", "0123456789abcdef01234567-1 ",
                                      "0123456789abcdef01234567-1234567890123456", "0123456789ABCDEF01234567-1",
                                      "0123456789abcdef01234567--1"};
    int64_t at[2];
    for (size_t i = 0; i < N_ELEM(bad); i++)
        assert_int_equal(event_id_read(bad[i], hex, 1, at), ERR_FORMAT);
    assert_int_equal(event_id_read("1123456789abcdef01234567-1", hex, 1, at), ERR_MISSING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_bad_ones)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
