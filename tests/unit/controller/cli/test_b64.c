/* Proves: the vectors of RFC 4648 section 10 both ways, all byte values, and that every malformed text is refused. */
#include "controller/cli/b64.h"
#include "tests/unit/test.h"

#include <string.h>

static void test_vectors(void **state)
{
    static const char *const pairs[][2] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}};
    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        struct buf out = {0}, back = {0};
        b64_encode(pairs[i][0], strlen(pairs[i][0]), &out);
        assert_int_equal(out.len, strlen(pairs[i][1]));
        assert_memory_equal(out.len ? out.data : "", pairs[i][1], out.len);
        assert_int_equal(b64_decode(pairs[i][1], strlen(pairs[i][1]), &back, NULL), 0);
        assert_int_equal(back.len, strlen(pairs[i][0]));
        assert_memory_equal(back.len ? back.data : "", pairs[i][0], back.len);
        buf_release(&out);
        buf_release(&back);
    }
}

static void test_all_bytes(void **state)
{
    unsigned char all[256];
    struct buf out = {0}, back = {0};

    (void)state;
    for (int i = 0; i < 256; i++)
        all[i] = (unsigned char)(i * 7);
    b64_encode(all, sizeof all, &out);
    assert_int_equal(b64_decode(out.data, out.len, &back, NULL), 0);
    assert_int_equal(back.len, sizeof all);
    assert_memory_equal(back.data, all, sizeof all);
    buf_release(&out);
    buf_release(&back);
}

static void test_malformed(void **state)
{
    static const char *const bad[] = {
        "Z", "Zg", "Zg=", "Zh==", "Zm9=", "Z===", "====", "Zg==Zg==", "Zm9\n", "Zm=v", "Zm9-"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct buf out = {0};
        struct err err = {0};
        buf_add_str(&out, "before");
        assert_int_equal(b64_decode(bad[i], strlen(bad[i]), &out, &err), ERR_FORMAT);
        assert_int_equal(out.len, 6);
        assert_true(err.text[0]);
        buf_release(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_all_bytes),
        cmocka_unit_test(test_malformed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
