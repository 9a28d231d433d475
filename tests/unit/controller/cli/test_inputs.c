/* Proves: words and files of --input become the members of one object, typed by the pipeline's inputs; what cannot
 * be read is named with its file and line. How: files in a temporary folder. */
#include "controller/cli/inputs.h"
#include "tests/unit/test.h"

#include "common/text/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/baton-inputs-XXXXXX";
static struct pipeline *plan;

static void put(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int setup(void **unused)
{
    static const char text[] = "pipeline: p\ninputs:\n  s: {type: string}\n  n: {type: integer}\n  l: {type: array}\n"
                               "steps:\n- {id: a, join: 1}\n";
    struct err err = {0};

    (void)unused;
    if (!mkdtemp(folder) || pipeline_parse(text, strlen(text), "p", "/", &plan, NULL, &err))
        return -1;
    put("o.json", "{\"s\": \"x\", \"n\": 3}");
    put("l.jsonl", "1\n\n{\"a\": 2}\n");
    put("bad.jsonl", "1\n{\n");
    put("t.txt", "caf\xc3\xa9 \xff\n");
    return 0;
}

static int teardown(void **unused)
{
    char command[128];
    (void)unused;
    pipeline_destroy(&plan);
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

/* The object that one argument makes, or the error. */
static int one(const char *form, const char *file, struct buf *out, struct err *err)
{
    char arg[256], path[128];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    snprintf(arg, sizeof arg, form, path);
    buf_clear(out);
    buf_add_char(out, '{');
    int rc = inputs_add(plan, arg, out, err);
    buf_add_char(out, '}');
    return rc;
}

static void test_forms(void **unused)
{
    struct buf out = {0};
    struct err err;

    (void)unused;
    assert_int_equal(one("s=12", "", &out, &err), 0);
    assert_string_equal(out.data, "{\"s\":\"12\"}");
    assert_int_equal(one("n=12", "", &out, &err), 0);
    assert_string_equal(out.data, "{\"n\":12}");
    assert_int_equal(one("l=@%s", "l.jsonl", &out, &err), 0);
    assert_string_equal(out.data, "{\"l\":[1,{\"a\":2}]}");
    assert_int_equal(one("%s", "o.json", &out, &err), 0);
    assert_string_equal(out.data, "{\"s\":\"x\",\"n\":3}");
    assert_int_equal(one("s=@%s", "t.txt", &out, &err), 0);
    assert_string_equal(out.data, "{\"s\":\"caf\xc3\xa9 \xef\xbf\xbd\\n\"}");
    buf_release(&out);
}

static void test_faults(void **unused)
{
    struct buf out = {0};
    struct err err;

    (void)unused;
    assert_int_equal(one("l=@%s", "bad.jsonl", &out, &err), ERR_FORMAT);
    assert_non_null(strstr(err.text, "bad.jsonl, line 2"));
    assert_int_equal(one("l=@%s", "none.json", &out, &err), ERR_MISSING);
    assert_int_equal(one("%s", "l.jsonl", &out, &err), ERR_FORMAT);
    assert_int_equal(one("n=abc", "", &out, &err), ERR_ARG);
    assert_int_equal(one("what=1", "", &out, &err), ERR_MISSING);
    buf_release(&out);
}

static void test_take(void **unused)
{
    char a[] = "run", b[] = "--input", c[] = "s=1", d[] = "f.yaml", e[] = "--input=n=2", f[] = "--json";
    char *argv[] = {a, b, c, d, e, f, b, NULL};
    const char *value[4];
    struct err err;
    int argc = 6, n;

    (void)unused;
    assert_int_equal(inputs_take(&argc, argv, value, 4, &n, &err), 0);
    assert_int_equal(n, 2);
    assert_string_equal(value[1], "n=2");
    assert_int_equal(argc, 3);
    assert_string_equal(argv[2], "--json");
    char *missing[] = {a, b, NULL}, *many[] = {a, e, e, NULL};
    argc = 2;
    assert_int_equal(inputs_take(&argc, missing, value, 4, &n, &err), ERR_ARG);
    argc = 3;
    assert_int_equal(inputs_take(&argc, many, value, 1, &n, &err), ERR_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_take),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
