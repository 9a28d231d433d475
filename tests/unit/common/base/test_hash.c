/* Proves: the hash is FNV-1a of 64 bits (vectors of its authors), and may be computed in pieces. Fingerprints of
 * checkpoints and ids of generations are made from it: another one would be another format. */
#include "common/base/hash.h"
#include "tests/unit/test.h"

static void test_vectors(void **state)
{
    (void)state;
    assert_true(fnv1a_str("") == UINT64_C(0xcbf29ce484222325));
    assert_true(fnv1a_str("a") == UINT64_C(0xaf63dc4c8601ec8c));
    assert_true(fnv1a_str("foobar") == UINT64_C(0x85944171f73967e8));
}

static void test_pieces(void **state)
{
    (void)state;
    assert_true(fnv1a(fnv1a(FNV1A_START, "foo", 3), "bar", 3) == fnv1a_str("foobar"));
    assert_true(fnv1a(FNV1A_START, "\xff\x00", 2) != fnv1a_str("\xff"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors), cmocka_unit_test(test_pieces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
