/* Proves: n lines in are n lines out, a bad line gives an error and the next goes on, empty lines are skipped, the
 * last line needs no newline; ids outside the vocabulary are refused; text comes from `text` or `bytes_b64`.
 * How: jsonl_run on a file in memory with stdout sent to a temporary file. */
#include "controller/cli/jsonl.h"
#include "controller/cli/cli.h"
#include "tests/unit/test.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int echo_text(void *arg, const struct json *in, struct arena *arena, struct buf *out, struct err *err)
{
    const char *text;
    size_t len;

    (void)arg;
    buf_add_str(out, "{\"got\": "); /* must vanish when an error follows */
    int rc = jsonl_text(in, arena, &text, &len, err);
    if (rc)
        return rc;
    jsonl_add_text(out, text, len);
    buf_add_char(out, '}');
    return 0;
}

/* What jsonl_run prints for `input`. */
static char *printed(const char *input, char *text, size_t cap)
{
    char path[] = "/tmp/baton-test-XXXXXX";
    int fd = mkstemp(path), saved = dup(STDOUT_FILENO);
    FILE *in = fmemopen((void *)(uintptr_t)input, strlen(input), "r");

    assert_true(fd >= 0 && saved >= 0 && in);
    fflush(stdout);
    dup2(fd, STDOUT_FILENO);
    int status = jsonl_run("test", in, echo_text, NULL);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    fclose(in);
    assert_int_equal(status, CLI_GOOD);
    lseek(fd, 0, SEEK_SET);
    ssize_t n = read(fd, text, cap - 1);
    assert_true(n >= 0);
    text[n] = '\0';
    close(fd);
    unlink(path);
    return text;
}

static void test_lines(void **state)
{
    char out[2048];

    (void)state;
    assert_string_equal(
        printed("{\"text\": \"a\\nb\"}\n\n  \r\n{\"bytes_b64\": \"Zv9v\"}\n{\"text\": \"\"}", out, sizeof out),
        "{\"got\": \"a\\nb\"}\n{\"got\": \"f\xef\xbf\xbdo\"}\n{\"got\": \"\"}\n");
    printed("{\"text\": \n[1]\n{\"x\": 1}\n{\"bytes_b64\": \"?\"}\n{\"text\": \"z\"}\n", out, sizeof out);
    char *line = strtok(out, "\n");
    for (int i = 0; i < 4; i++) {
        assert_memory_equal(line, "{\"error\": \"", 11);
        line = strtok(NULL, "\n");
    }
    assert_string_equal(line, "{\"got\": \"z\"}");
    assert_null(strtok(NULL, "\n"));
}

static int ids_of(const char *text, struct tok_ids *ids)
{
    const struct json *root;
    struct arena arena;
    struct err err = {0};

    arena_init(&arena);
    assert_int_equal(json_parse(text, strlen(text), 0, &arena, &root, NULL), 0);
    int rc = jsonl_read_ids(root, 100, ids, &err);
    arena_release(&arena);
    return rc;
}

static void test_ids(void **state)
{
    struct tok_ids ids = {0};
    struct buf out = {0};

    (void)state;
    assert_int_equal(ids_of("[0, 99, 5]", &ids), 0);
    jsonl_add_ids(&out, &ids);
    assert_string_equal(out.data, "[0, 99, 5]");
    assert_int_equal(ids_of("[100]", &ids), ERR_RANGE);
    assert_int_equal(ids_of("[-1]", &ids), ERR_RANGE);
    assert_int_equal(ids_of("[1.5]", &ids), ERR_FORMAT);
    assert_int_equal(ids_of("[\"1\"]", &ids), ERR_FORMAT);
    assert_int_equal(ids_of("{}", &ids), ERR_FORMAT);
    tok_ids_release(&ids);
    buf_release(&out);
}

static void test_long_line(void **state)
{
    struct buf line = {0};
    char input[] = "0123456789\nok\n";
    FILE *in = fmemopen(input, strlen(input), "r");

    (void)state;
    assert_int_equal(cli_read_line(in, 4, &line, NULL), ERR_LIMIT);
    assert_int_equal(cli_read_line(in, 4, &line, NULL), 1);
    assert_string_equal(line.data, "ok");
    assert_int_equal(cli_read_line(in, 4, &line, NULL), 0);
    fclose(in);
    buf_release(&line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_long_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
