/* Proves: whole contents, the limit to the byte, and that what is no regular file is refused at once (a pipe without
 * a writer must not hang). Real files in a temporary folder. */
#include "common/mem/file.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/baton_file_XXXXXX", path[64], fifo[64];

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/f", dir);
    snprintf(fifo, sizeof fifo, "%s/p", dir);
    FILE *f = fopen(path, "wb");
    for (int i = 0; i < 100000; i++)
        fputc(i % 251, f);
    return fclose(f) || mkfifo(fifo, 0600);
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path);
    unlink(fifo);
    return rmdir(dir);
}

static void test_whole(void **state)
{
    struct buf b = {0};
    struct err err;
    (void)state;
    buf_add_str(&b, "head");
    assert_int_equal(file_read(path, 100000, &b, &err), 0);
    assert_int_equal(b.len, 100004);
    assert_memory_equal(b.data, "head", 4);
    for (int i = 0; i < 100000; i++)
        assert_int_equal((unsigned char)b.data[4 + i], i % 251);
    assert_int_equal(b.data[b.len], 0);
    buf_release(&b);
}

static void test_refused(void **state)
{
    const struct {
        const char *path;
        size_t max;
        int code;
        const char *text;
    } rows[] = {
        {path, 99999, ERR_LIMIT, "99999 bytes"},
        {dir, 10, ERR_IO, "not a regular file"},
        {fifo, 10, ERR_IO, "not a regular file"},
        {"/tmp/no/such/file", 10, ERR_MISSING, "/tmp/no/such/file: No such file"},
        {"/proc/self/maps", 1, ERR_LIMIT, "1 bytes"},
    };
    struct err err;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf b = {0};
        buf_add_str(&b, "kept");
        assert_int_equal(file_read(rows[i].path, rows[i].max, &b, &err), rows[i].code);
        assert_non_null(strstr(err.text, rows[i].text));
        assert_int_equal(b.len, 4);
        buf_release(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
