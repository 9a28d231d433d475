/* Proves: the compiled-in table is vectors/char_classes.json, for every code point; the two extra bits are what the
 * header says. How: the sets are expanded from the JSON and compared with charclass_of(). */
#include "common/mem/mem.h"
#include "common/text/charclass.h"
#include "tests/unit/common/text/vectors.h"

enum { N_CP = CHARCLASS_CP_MAX + 1 };

static void add_ranges(uint8_t *want, const struct json *ranges, unsigned bit)
{
    assert_true(json_is(ranges, JSON_ARRAY) && ranges->n > 0);
    for (const struct json *r = ranges->child; r; r = r->next) {
        int64_t lo, hi;
        assert_true(json_to_i64(json_at(r, 0), &lo) && json_to_i64(json_at(r, 1), &hi));
        assert_true(lo >= 0 && lo <= hi && hi < N_CP);
        for (int64_t cp = lo; cp <= hi; cp++)
            want[cp] |= (uint8_t)bit;
    }
}

static void test_every_code_point(void **state)
{
    static const struct {
        const char *name;
        unsigned bit;
    } sets[] = {{"L", CHARCLASS_L}, {"M", CHARCLASS_M}, {"N", CHARCLASS_N},
                {"P", CHARCLASS_P}, {"S", CHARCLASS_S}, {"space", CHARCLASS_SPACE}};
    enum { EXCLUSIVE = CHARCLASS_L | CHARCLASS_M | CHARCLASS_N | CHARCLASS_P | CHARCLASS_S };
    struct arena a = {0};
    size_t len;
    const struct json *root;
    struct err err;
    const char *file = vec_file(&a, TEST_DATA("vectors/char_classes.json"), &len);
    uint8_t *want = mem_zalloc(N_CP);

    (void)state;
    assert_int_equal(json_parse(file, len, 0, &a, &root, &err), 0);
    assert_int_equal(root->n, sizeof sets / sizeof sets[0]);
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
        add_ranges(want, json_get(root, sets[i].name), sets[i].bit);
    for (uint32_t cp = 0; cp < N_CP; cp++) {
        unsigned cls = want[cp];
        if ((cp >= 0x4E00 && cp <= 0x9FA5) || (cp >= 0x3040 && cp <= 0x30FF))
            cls |= CHARCLASS_CJK;
        if (cp == '\r' || cp == '\n')
            cls |= CHARCLASS_NL;
        if (charclass_of(cp) != cls)
            fail_msg("U+%04X is %02X, not %02X", cp, charclass_of(cp), cls);
        unsigned general = cls & EXCLUSIVE;
        if (general & (general - 1))
            fail_msg("U+%04X is in two sets", cp);
    }
    mem_free(want);
    arena_release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_code_point)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
