/* Proves: what each operator, reference and filter gives, that a missing value is an error with its path unless it is
 * taken care of, that broken expressions name the column, and that limits hold. How: rows of expression and JSON
 * value or error text, over one fixed scope. */
#include "controller/agent/plan/expr.h"
#include "common/base/check.h"
#include "tests/unit/test.h"

#include <string.h>

static struct arena arena;
static const struct json *root;

static const char scope_text[] =
    "{\"inputs\":{\"n\":5,\"name\":\"Ada\",\"list\":[3,1,2],\"none\":null,\"empty\":[],\"big\":12345678901234567890,"
    "\"rows\":[{\"k\":\"a\",\"v\":1},{\"k\":\"b\"},{\"k\":\"a\",\"v\":2.5}],\"o\":{\"x y\":1,\"in\":2}},"
    "\"item\":\"caf\xC3\xA9\",\"index\":0}";

static const struct json *get(void *arg, const char *name, const char *step)
{
    (void)arg;
    if (strcmp(name, "steps") == 0) {
        assert_non_null(step);
        return strcmp(step, "a-1") == 0 ? json_get(root, "inputs") : NULL;
    }
    assert_null(step);
    return json_get(root, name);
}

static const struct expr_scope scope = {.get = get};

static int setup(void **state)
{
    struct err err;

    (void)state;
    return json_parse(scope_text, sizeof scope_text - 1, 0, &arena, &root, &err);
}

static int teardown(void **state)
{
    (void)state;
    arena_release(&arena);
    return 0;
}

static int eval(const char *text, struct buf *out, struct err *err)
{
    const struct expr *e;
    const struct json *v;
    int rc = expr_compile(text, strlen(text), &arena, &e, err);

    if (rc == 0)
        rc = expr_eval(e, &scope, &arena, &v, err);
    if (rc == 0)
        json_add(out, v);
    return rc;
}

static const struct {
    const char *expr, *value;
} value_rows[] = {
    {"inputs.n", "5"},
    {"1", "1"},
    {"-1.5e3", "-1.5e3"},
    {"'a\\'b\\n\\\\' ", "\"a'b\\n\\\\\""},
    {"[1, 'x', inputs.n, []]", "[1,\"x\",5,[]]"},
    {"inputs.list[0]", "3"},
    {"inputs.list[-1]", "2"},
    {"inputs.rows[1].k", "\"b\""},
    {"inputs.o['x y']", "1"},
    {"inputs.o.in", "2"},
    {"steps.a-1.n", "5"},
    {"inputs.n == 5.0", "true"},
    {"inputs.n != 5 or inputs.name == 'Ada'", "true"},
    {"inputs.n > 3 and inputs.n < 10", "true"},
    {"inputs.n >= 5 and not inputs.n <= 4", "true"},
    {"not (inputs.n == 5)", "false"},
    {"not inputs.n == 4 and true", "true"},
    {"true or inputs.nothing", "true"},  /* not looked at */
    {"false and inputs.nothing", "false"},
    {"'a' < 'b'", "true"},
    {"'a' < 'B'", "false"},
    {"2 in inputs.list", "true"},
    {"2.0 in [1, 2]", "true"},
    {"'x' not in ['a', 'b']", "true"},
    {"'da' in inputs.name", "true"},
    {"'' in ''", "true"},
    {"'x y' in inputs.o", "true"},
    {"inputs.o == inputs.o", "true"},
    {"inputs.list == [3, 1, 2]", "true"},
    {"inputs.none == null", "true"},
    {"inputs.none | default(7)", "7"},
    {"inputs.nothing.deep | default(inputs.n)", "5"},
    {"steps.later.output | default('x')", "\"x\""},
    {"inputs.n | default(7)", "5"},
    {"inputs.nothing | exists", "false"},
    {"inputs.none | exists", "false"},
    {"inputs.n | exists", "true"},
    {"inputs.empty | first | default(0)", "0"},
    {"inputs.o | json", "\"{\\\"x y\\\":1,\\\"in\\\":2}\""},
    {"'[1]' | parse", "[1]"},
    {"inputs.n | string", "\"5\""},
    {"'12' | number", "12"},
    {"item | length", "4"},
    {"inputs.list | length", "3"},
    {"inputs.o | length", "2"},
    {"inputs.list | first", "3"},
    {"inputs.list | last", "2"},
    {"inputs.o | keys", "[\"x y\",\"in\"]"},
    {"inputs.o | values", "[1,2]"},
    {"inputs.rows | pluck('v')", "[1,null,2.5]"},
    {"inputs.rows | pluck('v') | compact | sum", "3.5"},
    {"inputs.list | sum", "6"},
    {"[9223372036854775807, 1] | sum", "9.223372036854776e+18"},
    {"inputs.empty | sum", "0"},
    {"[[1], 2, [3, [4]]] | flatten", "[1,2,3,[4]]"},
    {"inputs.rows | pluck('k') | unique", "[\"a\",\"b\"]"},
    {"inputs.list | join(', ')", "\"3, 1, 2\""},
    {"inputs.list | join", "\"312\""},
    {"'a\\nb\\n\\nc' | lines", "[\"a\",\"b\",\"\",\"c\"]"},
    {"' a ' | trim", "\"a\""},
    {"'aZ\xC3\xA9' | upper", "\"AZ\xC3\xA9\""},
    {"'aZ' | lower", "\"az\""},
    {"item | truncate(3)", "\"caf\""},
    {"item | truncate(4)", "\"caf\xC3\xA9\""},
    {"(inputs.list | length) == 3 and inputs.list | length == 3", "true"},
    {"inputs.big", "12345678901234567890"},
};

static void test_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEM(value_rows); i++) {
        struct buf out = {0};
        struct err err = {0};
        if (eval(value_rows[i].expr, &out, &err) != 0)
            fail_msg("%s: %s", value_rows[i].expr, err.text);
        if (strcmp(out.data, value_rows[i].value) != 0)
            fail_msg("%s: %s", value_rows[i].expr, out.data);
        buf_release(&out);
    }
}

static void test_errors(void **state)
{
    static const struct {
        const char *expr;
        int code;
        const char *part;
    } rows[] = {
        {"", ERR_FORMAT, "empty"},
        {"inputs.", ERR_FORMAT, "column 8"},
        {"inputs.n ==", ERR_FORMAT, "value is missing"},
        {"inputs.n = 5", ERR_FORMAT, "equality is =="},
        {"inputs.n === 5", ERR_FORMAT, "equality is =="},
        {"a && b", ERR_FORMAT, "no such operator"},
        {"1 + 1", ERR_FORMAT, "no such operator"},
        {"1 < 2 < 3", ERR_FORMAT, "chained"},
        {"(1", ERR_FORMAT, ") is missing"},
        {"[1, 2", ERR_FORMAT, "]"},
        {"[1 2]", ERR_FORMAT, "comma"},
        {"'abc", ERR_FORMAT, "does not end"},
        {"'\\x'", ERR_FORMAT, "column 2"},
        {"a b", ERR_FORMAT, "column 3"},
        {"a | lenght", ERR_FORMAT, "did you mean length?"},
        {"a | length(1)", ERR_FORMAT, "takes no argument"},
        {"a | default", ERR_FORMAT, "takes one argument"},
        {"a | default(1, 2)", ERR_FORMAT, ") is missing"},
        {"a |", ERR_FORMAT, "name of a filter"},
        {"steps", ERR_FORMAT, "id of a step"},
        {"steps[0]", ERR_FORMAT, "id of a step"},
        {"a[b]", ERR_FORMAT, "whole number"},
        {"a[1.5]", ERR_FORMAT, "whole number"},
        {"01", ERR_FORMAT, "as in JSON"},
        {"\xff", ERR_FORMAT, "UTF-8"},
        {"#", ERR_FORMAT, "column 1"},
        {"not", ERR_FORMAT, "value is missing"},
        {"and", ERR_FORMAT, "value is missing"},
        {"1 not 2", ERR_FORMAT, "not in"},
        {"inputs.nothing", ERR_MISSING, "there is no inputs.nothing"},
        {"inputs.name.first", ERR_MISSING, "there is no inputs.name.first: what stands before is of kind string"},
        {"inputs.list[3]", ERR_MISSING, "there is no inputs.list[3]"},
        {"inputs.list[-4]", ERR_MISSING, "inputs.list[-4]"},
        {"steps.later.output", ERR_MISSING, "there is no steps.later"},
        {"nothing", ERR_MISSING, "there is no nothing"},
        {"inputs.empty | last", ERR_MISSING, "empty"},
        {"inputs.n and true", ERR_ARG, "true or false"},
        {"not inputs.name", ERR_ARG, "true or false"},
        {"1 < 'a'", ERR_ARG, "number and string"},
        {"1 in 2", ERR_ARG, "in"},
        {"inputs.n | length", ERR_ARG, "length needs"},
        {"inputs.name | sum", ERR_ARG, "sum needs"},
        {"['a'] | sum", ERR_ARG, "sum needs"},
        {"'x' | number", ERR_ARG, "number"},
        {"'{' | parse", ERR_ARG, "parse"},
        {"[[]] | join", ERR_ARG, "string needs"},
        {"item | truncate(-1)", ERR_ARG, "truncate"},
    };

    (void)state;
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        struct buf out = {0};
        struct err err = {0};
        int rc = eval(rows[i].expr, &out, &err);
        if (rc != rows[i].code || !strstr(err.text, rows[i].part))
            fail_msg("%s: %d %s %s", rows[i].expr, rc, err.text, out.len ? out.data : "");
        buf_release(&out);
    }
}

static void test_limits(void **state)
{
    const struct expr *e;
    struct buf b = {0};
    struct err err = {0};

    (void)state;
    for (int i = 0; i < 1000; i++)
        buf_add_char(&b, '(');
    assert_int_equal(expr_compile(b.data, b.len, &arena, &e, &err), ERR_LIMIT);
    buf_clear(&b);
    for (int i = 0; i < 1000; i++)
        buf_add_str(&b, "not ");
    assert_int_equal(expr_compile(b.data, b.len, &arena, &e, &err), ERR_LIMIT);
    buf_clear(&b);
    buf_add_str(&b, "a");
    for (int i = 0; i < 600; i++)
        buf_add_str(&b, "|json");
    assert_int_equal(expr_compile(b.data, b.len, &arena, &e, &err), ERR_LIMIT);
    buf_clear(&b);
    for (int i = 0; i <= EXPR_BYTES_MAX; i++)
        buf_add_char(&b, '1');
    assert_int_equal(expr_compile(b.data, b.len, &arena, &e, &err), ERR_LIMIT);
    /* Quadratic work ends. */
    buf_clear(&b);
    buf_add_str(&b, "'x'");
    struct buf out = {0}, list = {0};
    buf_add_str(&list, "{\"inputs\":{\"l\":[0");
    for (int i = 1; i < 5000; i++)
        buf_addf(&list, ",%d", i);
    buf_add_str(&list, "]}}");
    const struct json *before = root;
    assert_int_equal(json_parse(list.data, list.len, 0, &arena, &root, &err), 0);
    assert_int_equal(eval("inputs.l | unique", &out, &err), ERR_LIMIT);
    root = before;
    buf_release(&out);
    buf_release(&list);
    buf_release(&b);
}

static int on_ref(void *arg, const char *name, const char *const *part, int n, bool optional)
{
    struct buf *b = arg;

    buf_addf(b, "%s", name);
    for (int i = 0; i < n; i++)
        buf_addf(b, ".%s", part[i]);
    buf_add_str(b, optional ? "? " : " ");
    return 0;
}

static void test_refs(void **state)
{
    static const char text[] =
        "steps.a.output.x[0].y == item and [inputs.b, inputs.c | json | default(inputs.d)] in run";
    const struct expr *e;
    struct buf b = {0};
    struct err err;

    (void)state;
    assert_int_equal(expr_compile(text, sizeof text - 1, &arena, &e, &err), 0);
    assert_int_equal(expr_refs(e, on_ref, &b), 0);
    assert_string_equal(b.data, "steps.a.output.x item inputs.b inputs.c? inputs.d run ");
    buf_release(&b);
}

static void test_condition(void **state)
{
    const struct expr *e;
    struct err err = {0};
    bool yes = false;

    (void)state;
    assert_int_equal(expr_compile("inputs.n == 5", 13, &arena, &e, &err), 0);
    assert_int_equal(expr_test(e, &scope, &yes, &err), 0);
    assert_true(yes);
    assert_int_equal(expr_compile("inputs.n", 8, &arena, &e, &err), 0);
    assert_int_equal(expr_test(e, &scope, &yes, &err), ERR_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values), cmocka_unit_test(test_errors),    cmocka_unit_test(test_limits),
        cmocka_unit_test(test_refs),   cmocka_unit_test(test_condition),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
