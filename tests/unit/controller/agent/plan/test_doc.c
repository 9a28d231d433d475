/* Proves: YAML and JSON give the same tree; every node knows its line; what has two readings or is made to hurt is
 * refused with its line and what to write instead. How: rows of text and JSON, rows of text, line and reason. */
#include "controller/agent/plan/doc.h"
#include "common/base/check.h"
#include "tests/unit/test.h"

#include <string.h>

static void assert_doc(const char *text, const char *json)
{
    struct arena arena = {0};
    const struct json *root = NULL;
    struct err err = {0};
    struct buf out = {0};
    int line = 0;

    if (doc_parse(text, strlen(text), &arena, &root, &line, &err) != 0)
        fail_msg("%s\nline %d: %s", text, line, err.text);
    json_add(&out, root);
    assert_string_equal(out.data, json);
    buf_release(&out);
    arena_release(&arena);
}

static void test_values(void **state)
{
    static const struct {
        const char *text, *json;
    } rows[] = {
        {"a: 1\nb: [x, 'y', \"z\\n\"]\n", "{\"a\":1,\"b\":[\"x\",\"y\",\"z\\n\"]}"},
        {"- true\n- false\n- null\n- ~\n-\n- yes\n- 'true'\n- on\n",
         "[true,false,null,null,null,\"yes\",\"true\",\"on\"]"},
        {"- 1\n- -2.50\n- 1e3\n- '1'\n- 1.2.3\n- 2024-01-02\n- 1:30\n- a1\n- \"\"\n- .\n- e5\n",
         "[1,-2.50,1e3,\"1\",\"1.2.3\",\"2024-01-02\",\"1:30\",\"a1\",\"\",\".\",\"e5\"]"},
        {"a: |\n  one\n    two\n\n  three\nb: >-\n  folded\n  text\n",
         "{\"a\":\"one\\n  two\\n\\nthree\\n\",\"b\":\"folded text\"}"},
        {"# only a comment before\n{a: {b: []}, 'c d': {}}", "{\"a\":{\"b\":[]},\"c d\":{}}"},
        {"true: 1\nnull: 2\n3: 4\n", "{\"true\":1,\"null\":2,\"3\":4}"},
        {"{\"a\": \"\\ud83d\\ude00 \\/\", \"b\":\t[1, 2.0]}", "{\"a\":\"\xF0\x9F\x98\x80 /\",\"b\":[1,2.0]}"},
        {"a: ! 12\n", "{\"a\":\"12\"}"},
        {"---\na: 1\n...\n", "{\"a\":1}"},
        {"x: \"a\\0b\"\n", "{\"x\":\"a\\u0000b\"}"},
    };

    (void)state;
    for (size_t i = 0; i < N_ELEM(rows); i++)
        assert_doc(rows[i].text, rows[i].json);
}

static void assert_refused(const char *text, size_t len, int line, const char *part)
{
    struct arena arena = {0};
    const struct json *root = NULL;
    struct err err = {0};
    int at = 0;

    assert_int_not_equal(doc_parse(text, len, &arena, &root, &at, &err), 0);
    if (at != line || !strstr(err.text, part))
        fail_msg("%.200s\nline %d: %s", text, at, err.text);
    assert_null(root);
    arena_release(&arena);
}

static void test_refused(void **state)
{
    static const struct {
        const char *text;
        int line;
        const char *part;
    } rows[] = {
        {"", 1, "nothing is there"},
        {"# nothing\n", 2, "nothing is there"},
        {"a: &x [1]\nb: *x\n", 1, "anchors"},
        {"a: 1\nb: *x\n", 2, "aliases"},
        {"a: 1\n<<: {b: 1}\n", 2, "merge"},
        {"a: 1\nb: 2\na: 3\n", 3, "'a' is there already, on line 1"},
        {"a: !!python/object x\n", 1, "tags"},
        {"a: !!str 1\n", 1, "tags"},
        {"a: 1\n---\nb: 1\n", 2, "second document"},
        {"a:\n  - 0x10\n", 2, "0x10"},
        {"a: 007\n", 1, "007"},
        {"a: 1_000\n", 1, "1_000"},
        {"a: +5\n", 1, "+5"},
        {"a: .inf\n", 1, ".inf"},
        {"a: .5\n", 1, ".5"},
        {"a: 5.\n", 1, "5."},
        {"a: 0o17\n", 1, "0o17"},
        {"a: {{ x }}\n", 1, "must be quoted"},
        {"a: 1\n\tb: 2\n", 2, "YAML"},
        {"a: [1, 2\nb: 3\n", 2, "YAML"},
        {"a: 1\n  b: 2\n", 2, "YAML"},
        {"{\"a\": 1, \"a\": 2}", 1, "'a' is there already"},
        {"a: \"\xff\"\n", 1, "UTF-8"},
    };

    (void)state;
    for (size_t i = 0; i < N_ELEM(rows); i++)
        assert_refused(rows[i].text, strlen(rows[i].text), rows[i].line, rows[i].part);
}

static void test_limits(void **state)
{
    struct buf b = {0};

    (void)state;
    for (int i = 0; i < 2000; i++)
        buf_add_char(&b, '[');
    assert_refused(b.data, b.len, 1, "levels");
    for (int i = 0; i < 2000; i++)
        buf_add_char(&b, ']');
    assert_refused(b.data, b.len, 1, "levels");
    buf_clear(&b);
    for (int i = 0; i <= DOC_DEPTH_MAX; i++)
        buf_add_char(&b, '[');
    for (int i = 0; i <= DOC_DEPTH_MAX; i++)
        buf_add_char(&b, ']'); /* valid JSON: read the other way */
    assert_refused(b.data, b.len, 1, "levels");
    buf_clear(&b);
    for (int i = 0; i <= DOC_NODES_MAX; i++)
        buf_add_str(&b, "- 1\n");
    assert_refused(b.data, b.len, DOC_NODES_MAX, "values");
    buf_clear(&b);
    for (int i = 0; i <= DOC_MEMBERS_MAX; i++)
        buf_addf(&b, "k%d: 1\n", i);
    assert_refused(b.data, b.len, DOC_MEMBERS_MAX + 1, "members");
    buf_clear(&b);
    memset(buf_room(&b, DOC_BYTES_MAX + 1), ' ', DOC_BYTES_MAX + 1);
    assert_refused(b.data, DOC_BYTES_MAX + 1, 1, "larger");
    buf_release(&b);
}

static void assert_lines(const char *text)
{
    struct arena arena = {0};
    const struct json *root, *b, *list;
    struct err err;
    int line;

    assert_int_equal(doc_parse(text, strlen(text), &arena, &root, &line, &err), 0);
    b = json_get(root, "b");
    list = json_get(b, "list");
    assert_int_equal(doc_line(json_get(root, "a")), 2);
    assert_int_equal(doc_line(b), 3);
    assert_int_equal(doc_line(list), 4);
    assert_int_equal(doc_line(json_at(list, 0)), 5);
    assert_int_equal(doc_line(json_at(list, 1)), 6);
    assert_int_equal(doc_line(json_get(json_at(list, 1), "y")), 7);
    assert_int_equal(doc_line(json_get(root, "z")), 8);
    arena_release(&arena);
}

static void test_lines(void **state)
{
    (void)state;
    assert_lines("# one\na: 1\nb:\n  list:\n    - x\n    - x: 1\n      y: 2\nz: 3\n");
    assert_lines("{\n\"a\": [1, \"\\\"]\", true],\n\"b\": {\n\"list\": [\n\"[\\\\\",\n{\"x\": 1,\n\"y\": {}}], "
                 "\"q\": 1e5},\n\"z\": 1}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
