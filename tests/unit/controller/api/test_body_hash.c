/* Proves: the hash of a body does not see white space, the order of members, and how the answer is wanted; it sees
 * everything else. A tenant's name is a hash of its key. How: pairs of bodies; the known SHA-256 of "{}".
 */
#include "tests/unit/test.h"

#include "common/base/check.h"
#include "controller/api/body_hash.h"

#include <string.h>

static void hash(const char *text, uint8_t out[BODY_HASH_BYTES])
{
    struct arena arena = {0};
    const struct json *j;
    struct err err;
    assert_int_equal(json_parse(text, strlen(text), 0, &arena, &j, &err), 0);
    body_hash(j, out);
    arena_release(&arena);
}

static bool same(const char *a, const char *b)
{
    uint8_t x[BODY_HASH_BYTES], y[BODY_HASH_BYTES];
    hash(a, x);
    hash(b, y);
    return memcmp(x, y, sizeof x) == 0;
}

static void test_same(void **state)
{
    (void)state;
    static const uint8_t empty[] = {0x44, 0x13, 0x6f, 0xa3, 0x55, 0xb3, 0x67, 0x8a};
    uint8_t x[BODY_HASH_BYTES];
    hash("{}", x);
    assert_memory_equal(x, empty, sizeof empty);
    assert_true(same("{\"a\":1,\"b\":{\"c\":[1,2],\"d\":null}}", " { \"b\" : {\"d\":null, \"c\":[1, 2]} , \"a\":1 }"));
    assert_true(same("{\"a\":1,\"stream\":true,\"stream_options\":{\"include_usage\":true}}", "{\"a\":1}"));
    assert_true(same("{\"ab\":1,\"a\":2}", "{\"a\":2,\"ab\":1}"));
    assert_true(same("{\"a\":\"\\u0041\"}", "{\"a\":\"A\"}"));
}

static void test_other(void **state)
{
    (void)state;
    static const char *const pair[][2] = {
        {"{\"a\":1}", "{\"a\":2}"},
        {"{\"a\":[1,2]}", "{\"a\":[2,1]}"},
        {"{\"a\":\"1\"}", "{\"a\":1}"},
        {"{\"a\":{\"stream\":true}}", "{\"a\":{\"stream\":false}}"}, /* only at the top is it a manner */
        {"{\"a\":{}}", "{\"a\":[]}"},
        {"{\"a\":1,\"b\":1}", "{\"a\":1}"},
    };
    for (size_t i = 0; i < N_ELEM(pair); i++)
        assert_false(same(pair[i][0], pair[i][1]));
}

static void test_tenant(void **state)
{
    (void)state;
    char a[TENANT_NAME_MAX], b[TENANT_NAME_MAX];
    body_tenant(NULL, a);
    assert_string_equal(a, "-");
    body_tenant("Bearer one", a);
    body_tenant("Bearer two", b);
    assert_int_equal(strlen(a), TENANT_NAME_MAX - 1);
    assert_string_not_equal(a, b);
    assert_null(strstr(a, "one"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same), cmocka_unit_test(test_other),
                                       cmocka_unit_test(test_tenant)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
