/* Proves: a table of fields reads each kind into its place, keeps defaults for absent and null, goes in its own
 * order, and names the first bad field with its range. How: one table with a row of every kind. */
#include "common/base/check.h"
#include "common/mem/arena.h"
#include "controller/api/fields.h"
#include "tests/unit/test.h"

#include <string.h>

struct values {
    bool flag;
    int64_t count;
    double share;
    const char *name;
    int n_read;
};

static int read_odd(const struct json *value, void *to, struct api_error *e)
{
    struct values *v = to;
    v->n_read++;
    return json_is_str(value, "odd") ? 0 : api_error_set(e, API_ERROR_bad_request, "odd.inner", "not odd");
}

static const struct api_field table[] = {
    {"flag", API_BOOL, API_ACCEPT, 0, 0, offsetof(struct values, flag), NULL},
    {"count", API_INT, API_ACCEPT, -5, 9e18, offsetof(struct values, count), NULL},
    {"share", API_NUM, API_ACCEPT, 0, 1, offsetof(struct values, share), NULL},
    {"name", API_STR, API_ACCEPT, 0, 0, offsetof(struct values, name), NULL},
    {"odd", API_READ, API_ACCEPT, 0, 0, 0, read_odd},
    {"other", API_ANY, API_PROMPT, 0, 0, 0, NULL},
    {"noise", API_ANY, API_IGNORE, 0, 0, 0, NULL},
    {"never", API_ANY, API_REFUSE, 0, 0, 0, NULL},
};

static int read(const char *text, struct values *v, struct api_error *e)
{
    struct arena arena = {0};
    const struct json *j;
    assert_int_equal(json_parse(text, strlen(text), 0, &arena, &j, NULL), 0);
    *v = (struct values){true, 7, 0.5, "default", 0};
    int rc = api_fields_read(j, table, N_ELEM(table), v, e);
    bool same = !v->name || strcmp(v->name, "default") == 0;
    if (!same)
        assert_string_equal(v->name, "n\xC3\xA9");
    v->name = same ? "default" : "read"; /* the view ends with the arena */
    arena_release(&arena);
    return rc;
}

static void test_good(void **state)
{
    struct values v;
    struct api_error e;
    (void)state;
    assert_int_equal(
        read("{\"flag\":false,\"count\":-5,\"share\":1e-1,\"name\":\"n\\u00e9\",\"odd\":\"odd\"}", &v, &e), 0);
    assert_true(!v.flag && v.count == -5 && v.share == 0.1 && v.n_read == 1);
    assert_string_equal(v.name, "read");
    assert_int_equal(
        read("{\"flag\":null,\"count\":null,\"odd\":null,\"never\":null,\"noise\":{},\"other\":5,\"x\":1}", &v, &e),
        0);
    assert_true(v.flag && v.count == 7 && v.share == 0.5 && v.n_read == 0);
    assert_int_equal(read("{\"count\":10.0}", &v, &e), 0); /* a whole number, however it is spelled */
    assert_int_equal(v.count, 10);
}

static void test_bad(void **state)
{
    static const struct {
        const char *text, *param, *message;
    } rows[] = {
        {"{\"flag\":1}", "flag", "flag has to be true or false, not number"},
        {"{\"count\":1.5}", "count", "integer"},
        {"{\"count\":\"1\"}", "count", "count has to be an integer, not string"},
        {"{\"count\":-6}", "count", "from -5 to"},
        {"{\"share\":1.0001}", "share", "share is 1.0001, it has to be from 0 to 1"},
        {"{\"share\":null,\"name\":5}", "name", "name has to be a string, not number"},
        {"{\"odd\":1}", "odd.inner", "not odd"},
        {"{\"never\":false}", "never", "not supported"},
        {"{\"never\":1,\"flag\":1}", "flag", "true or false"}, /* the table's order, not the body's */
    };
    (void)state;
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        struct values v;
        struct api_error e = {0};
        assert_int_equal(read(rows[i].text, &v, &e), ERR_ARG);
        assert_string_equal(e.param, rows[i].param);
        if (!strstr(e.message, rows[i].message))
            fail_msg("%s: %s", rows[i].text, e.message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_good), cmocka_unit_test(test_bad)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
