/* Proves: items come from a list, the lines of a file or the files of a pattern, in one order, relative to the plan's
 * folder; what cannot be read says which file and line. How: a folder with awkward names under /tmp. */
#include "controller/agent/plan/items.h"
#include "common/base/check.h"
#include "common/text/jsonmake.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];

static const char *const files[] = {"b.txt", "a.txt", "A b's.txt", ".hidden.txt", "noend", "rows.jsonl", "bad.jsonl"};

static void write_file(const char *name, const char *text)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int setup(void **state)
{
    char path[256];

    (void)state;
    strcpy(dir, "/tmp/items[1]*XXXXXX"); /* the folder's own name is no pattern */
    if (!mkdtemp(dir))
        return -1;
    for (size_t i = 0; i < N_ELEM(files); i++)
        write_file(files[i], "x");
    write_file("rows.jsonl", "{\"a\": 1}\n\n  \n[2]\r\n\"last\"");
    write_file("bad.jsonl", "1\n2\n{x\n");
    snprintf(path, sizeof path, "%s/sub.txt", dir);
    return mkdir(path, 0777);
}

static int teardown(void **state)
{
    char path[256];

    (void)state;
    for (size_t i = 0; i < N_ELEM(files); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/sub.txt", dir);
    rmdir(path);
    return rmdir(dir);
}

static void assert_items(enum pipeline_source source, const char *value, int code, const char *want)
{
    struct arena arena = {0};
    const struct json *list = NULL;
    struct buf out = {0};
    struct err err = {0};
    int rc = items_make(source, jsonmake_cstr(&arena, value), dir, &arena, &list, &err);

    if (rc == 0)
        json_add(&out, list);
    else
        buf_add_str(&out, err.text);
    if (rc != code || (rc ? !strstr(out.data, want) : strcmp(out.data, want) != 0))
        fail_msg("%s: %d: %s", value, rc, out.data);
    buf_release(&out);
    arena_release(&arena);
}

static void test_files(void **state)
{
    char text[256], want[512];

    (void)state;
    assert_items(PIPELINE_FILES, "*.txt", 0,
                 "[{\"path\":\"A b's.txt\",\"name\":\"A b's.txt\",\"stem\":\"A b's\"},"
                 "{\"path\":\"a.txt\",\"name\":\"a.txt\",\"stem\":\"a\"},{\"path\":\"b.txt\",\"name\":\"b.txt\","
                 "\"stem\":\"b\"}]");
    assert_items(PIPELINE_FILES, "noen[d]", 0, "[{\"path\":\"noend\",\"name\":\"noend\",\"stem\":\"noend\"}]");
    assert_items(PIPELINE_FILES, "noend", 0, "[{\"path\":\"noend\",\"name\":\"noend\",\"stem\":\"noend\"}]");
    assert_items(PIPELINE_FILES, "*.nothing", 0, "[]");
    assert_items(PIPELINE_FILES, "", ERR_ARG, "empty");
    snprintf(text, sizeof text, "/tmp/items?1?[*]%s/noend", dir + 14);
    snprintf(want, sizeof want, "[{\"path\":\"%s/noend\",\"name\":\"noend\",\"stem\":\"noend\"}]", dir);
    assert_items(PIPELINE_FILES, text, 0, want);
}

static void test_jsonl(void **state)
{
    (void)state;
    assert_items(PIPELINE_JSONL, "rows.jsonl", 0, "[{\"a\":1},[2],\"last\"]");
    assert_items(PIPELINE_JSONL, "bad.jsonl", ERR_FORMAT, "bad.jsonl:3: ");
    assert_items(PIPELINE_JSONL, "none.jsonl", ERR_MISSING, "none.jsonl");
    assert_items(PIPELINE_JSONL, "sub.txt", ERR_IO, "sub.txt");
}

static void test_over(void **state)
{
    struct arena arena = {0};
    const struct json *list = NULL;
    struct jsonmake m;
    struct err err = {0};

    (void)state;
    assert_items(PIPELINE_OVER, "text", ERR_ARG, "over must be a list, is string");
    jsonmake_begin(&m, &arena, JSON_ARRAY);
    for (int i = 0; i < ITEMS_MAX; i++)
        jsonmake_add(&m, &jsonmake_null);
    assert_int_equal(items_make(PIPELINE_OVER, jsonmake_end(&m), dir, &arena, &list, &err), 0);
    assert_ptr_equal(list, jsonmake_end(&m));
    jsonmake_add(&m, &jsonmake_null);
    assert_int_equal(items_make(PIPELINE_OVER, jsonmake_end(&m), dir, &arena, &list, &err), ERR_LIMIT);
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_jsonl),
        cmocka_unit_test(test_over),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
