/* Proves: a string that is one expression keeps the type, others become text; null and missing are errors; errors name
 * the string at fault; references are found. How: rows of value and result over one scope. */
#include "controller/agent/plan/template.h"
#include "common/base/check.h"
#include "tests/unit/test.h"

#include <string.h>

static struct arena arena;
static const struct json *root;

static const struct json *get(void *arg, const char *name, const char *step)
{
    (void)arg;
    return json_get(root, step ? step : name);
}

static const struct expr_scope scope = {.get = get};

static const struct json *parse(const char *text)
{
    const struct json *j = NULL;
    struct err err = {0};

    if (json_parse(text, strlen(text), 0, &arena, &j, &err) != 0)
        fail_msg("%s: %s", text, err.text);
    return j;
}

static void test_render(void **state)
{
    static const struct {
        const char *value, *result; /* result NULL: an error */
    } rows[] = {
        {"\"{{ n }}\"", "5"},
        {"\"  {{ list }}\\n\"", "[1,\"x\"]"},
        {"\"n={{ n }}, {{ list }} {{ yes }}{{ text }}\"", "\"n=5, [1,\\\"x\\\"] truehi \\\"there\\\"\""},
        {"\"{{ n }}{{ n }}\"", "\"55\""},
        {"\"{{ none }}\"", "null"},
        {"\"x{{ none }}\"", NULL},
        {"\"x{{ none | default('') }}\"", "\"x\""},
        {"\"{{ nothing }}\"", NULL},
        {"\"{{ '{{' }} and {{ \\\"}}\\\" }}\"", "\"{{ and }}\""},
        {"\"plain } } text {\"", "\"plain } } text {\""},
        {"{\"a\":[\"{{ n }}\",{\"b\":\"{{ text }}!\"}],\"c\":null,\"{{ n }}\":1.50}",
         "{\"a\":[5,{\"b\":\"hi \\\"there\\\"!\"}],\"c\":null,\"{{ n }}\":1.50}"},
        {"\"{{steps.list[1]}}\"", "\"x\""},
        {"12", "12"},
        {"\"\"", "\"\""},
    };

    (void)state;
    root = parse("{\"n\":5,\"list\":[1,\"x\"],\"yes\":true,\"text\":\"hi \\\"there\\\"\",\"none\":null}");
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        const struct template *t;
        const struct json *v;
        struct buf out = {0};
        struct err err = {0};
        assert_int_equal(template_compile(parse(rows[i].value), &arena, &t, NULL, &err), 0);
        int rc = template_render(t, &scope, &arena, &v, &err);
        assert_int_equal(rc == 0, rows[i].result != NULL);
        if (rc == 0) {
            json_add(&out, v);
            assert_string_equal(out.data, rows[i].result);
        } else {
            assert_true(err.text[0]);
        }
        buf_release(&out);
    }
    arena_release(&arena);
}

static void test_text(void **state)
{
    const struct template *t;
    struct buf out = {0};
    struct err err = {0};

    (void)state;
    root = parse("{\"n\":5,\"none\":null}");
    buf_add_str(&out, "before ");
    assert_int_equal(template_compile(parse("\"{{ n }}\""), &arena, &t, NULL, &err), 0);
    assert_int_equal(template_render_text(t, &scope, &out, &err), 0);
    assert_string_equal(out.data, "before 5");
    assert_int_equal(template_compile(parse("\"abc {{ none }}\""), &arena, &t, NULL, &err), 0);
    assert_int_equal(template_render_text(t, &scope, &out, &err), ERR_MISSING);
    assert_string_equal(out.data, "before 5"); /* nothing half done */
    buf_release(&out);
    arena_release(&arena);
}

static void test_broken(void **state)
{
    const struct json *value = parse("{\"a\":\"fine {{ n }}\",\"b\":[\"{{ n\"]}"), *where = NULL;
    const struct template *t = NULL;
    struct err err = {0};

    (void)state;
    assert_int_equal(template_compile(value, &arena, &t, &where, &err), ERR_FORMAT);
    assert_ptr_equal(where, json_get(value, "b")->child);
    assert_non_null(strstr(err.text, "without }}"));
    value = parse("\"{{ n + 1 }}\"");
    assert_int_equal(template_compile(value, &arena, &t, &where, &err), ERR_FORMAT);
    assert_string_equal(err.text, "{{ n + 1 }}: column 4: no such operator: and, or, not, ==, !=, <, <=, >, >=, in, | "
                                  "filter");
    struct buf b = {0};
    buf_add_char(&b, '"');
    for (int i = 0; i <= TEMPLATE_PARTS_MAX; i++)
        buf_add_str(&b, "{{n}}");
    buf_add_char(&b, '"');
    assert_int_equal(template_compile(parse(b.data), &arena, &t, &where, &err), ERR_LIMIT);
    assert_null(t);
    buf_release(&b);
    arena_release(&arena);
}

static int on_ref(void *arg, const struct json *where, const char *name, const char *const *part, int n, bool optional)
{
    (void)optional;
    buf_addf(arg, "%s.%s@%s ", name, n ? part[0] : "", where->key ? where->key : "-");
    return 0;
}

static void test_refs(void **state)
{
    const struct template *t;
    struct buf b = {0};
    struct err err;

    (void)state;
    assert_int_equal(
        template_compile(parse("{\"a\":\"{{ steps.x.output }} {{ inputs.y }}\",\"b\":[\"{{ item }}\"],\"c\":\"d\"}"),
                         &arena, &t, NULL, &err),
        0);
    assert_int_equal(template_refs(t, on_ref, &b), 0);
    assert_string_equal(b.data, "steps.x@a inputs.y@a item.@- ");
    assert_false(template_is_literal(t));
    assert_int_equal(template_compile(parse("[\"a\"]"), &arena, &t, NULL, &err), 0);
    assert_true(template_is_literal(t));
    buf_release(&b);
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_render),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_refs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
