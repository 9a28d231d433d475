/* Proves: what the writer writes the reader reads back, whatever the order of tensors and puts; a failing disk
 * leaves no file; every malformed header gives an error code and one line with the file, the tensor and the reason.
 * Hostile headers are rows of a table: header text, bytes of data behind it, and what the message must say. */
#include "tests/unit/worker/model/build.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "tests/unit/test.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- hostile headers ---------------------------------------------------------------------------------- */

/* One member of a header. */
#define T(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct row {
    const char *header;
    size_t n_data;
    int code;
    const char *say[3]; /* parts of the message besides the path */
} rows[] = {
    {"", 0, ERR_FORMAT, {"does not begin with '{'"}},
    {"    ", 0, ERR_FORMAT, {"does not begin with '{'"}},
    {"[]", 0, ERR_FORMAT, {"does not begin with '{'"}},
    {" {}", 0, ERR_FORMAT, {"does not begin with '{'"}},
    {"{", 0, ERR_FORMAT, {"header", "JSON line 1"}},
    {"{}x", 0, ERR_FORMAT, {"text after the value"}},
    {"{\"a\"}", 0, ERR_FORMAT, {"header", "':' is expected"}},
    {"{\"\xff\":1}", 0, ERR_FORMAT, {"not UTF-8"}},
    {"{\"a\":1}", 0, ERR_FORMAT, {"tensor 'a'", "number, an object"}},
    {"{\"a\":null}", 0, ERR_FORMAT, {"tensor 'a'", "null, an object"}},
    {"{\"a\":[]}", 0, ERR_FORMAT, {"tensor 'a'", "array, an object"}},
    {"{\"a\":{}}", 0, ERR_FORMAT, {"tensor 'a'", "dtype is nothing"}},
    {"{\"a\":{\"dtype\":7,\"shape\":[],\"data_offsets\":[0,4]}}", 4, ERR_FORMAT, {"tensor 'a'", "dtype is number"}},
    {"{" T("a", "F33", "[]", "[0,4]") "}", 4, ERR_UNSUPPORTED, {"tensor 'a'", "'F33'"}},
    {"{" T("a", "f32", "[]", "[0,4]") "}", 4, ERR_UNSUPPORTED, {"tensor 'a'", "'f32'"}},
    {"{" T("a", "F32\\u0000", "[]", "[0,4]") "}", 4, ERR_UNSUPPORTED, {"tensor 'a'"}},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, ERR_FORMAT, {"tensor 'a'", "shape is nothing"}},
    {"{" T("a", "F32", "4", "[0,4]") "}", 4, ERR_FORMAT, {"tensor 'a'", "shape is number"}},
    {"{" T("a", "F32", "[1.5]", "[0,4]") "}", 4, ERR_FORMAT, {"tensor 'a'", "dimension 0", "1.5"}},
    {"{" T("a", "F32", "[1,-1]", "[0,4]") "}", 4, ERR_FORMAT, {"tensor 'a'", "dimension 1", "-1"}},
    {"{" T("a", "F32", "[\"1\"]", "[0,4]") "}", 4, ERR_FORMAT, {"tensor 'a'", "string"}},
    {"{" T("a", "F32", "[1e300]", "[0,4]") "}", 4, ERR_FORMAT, {"tensor 'a'", "1e300"}},
    {"{" T("a", "F32", "[18446744073709551616]", "[0,4]") "}", 4, ERR_FORMAT, {"tensor 'a'", "dimension 0"}},
    {"{" T("a", "F32", "[4611686018427387905]", "[0,4]") "}", 4, ERR_FORMAT, {"tensor 'a'", "more bytes than"}},
    {"{" T("a", "I8", "[4294967296,4294967296]", "[0,0]") "}", 0, ERR_FORMAT, {"tensor 'a'", "more bytes than"}},
    {"{" T("a", "I8", "[4294967296,4294967296,0]", "[0,0]") "}", 0, ERR_FORMAT, {"tensor 'a'", "more bytes"}},
    {"{" T("a", "I8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, ERR_LIMIT, {"tensor 'a'", "9 dimensions"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 4, ERR_FORMAT, {"tensor 'a'", "data_offsets is not a pair"}},
    {"{" T("a", "F32", "[]", "[0]") "}", 4, ERR_FORMAT, {"tensor 'a'", "not a pair"}},
    {"{" T("a", "F32", "[]", "[0,4,8]") "}", 4, ERR_FORMAT, {"tensor 'a'", "not a pair"}},
    {"{" T("a", "F32", "[]", "[0,\"4\"]") "}", 4, ERR_FORMAT, {"tensor 'a'", "not a pair"}},
    {"{" T("a", "F32", "[]", "[-4,0]") "}", 4, ERR_FORMAT, {"tensor 'a'", "not a pair"}},
    {"{" T("a", "F32", "[]", "{\"0\":4}") "}", 4, ERR_FORMAT, {"tensor 'a'", "not a pair"}},
    {"{" T("a", "F32", "[]", "[0,99999999999999999999]") "}", 4, ERR_FORMAT, {"tensor 'a'", "not a pair"}},
    {"{" T("a", "F32", "[]", "[4,0]") "}", 4, ERR_FORMAT, {"tensor 'a'", "4..0 are reversed"}},
    {"{" T("a", "F32", "[]", "[0,4]") "}",
     3,
     ERR_FORMAT,
     {"tensor 'a'", "0..4 end behind the file's 3 bytes", "cut short"}},
    {"{" T("a", "F32", "[]", "[9223372036854775803,9223372036854775807]") "}",
     4,
     ERR_FORMAT,
     {"tensor 'a'", "end behind"}},
    {"{" T("a", "F32", "[2]", "[0,4]") "}", 4, ERR_FORMAT, {"tensor 'a'", "[2] of F32 needs 8 bytes", "hold 4"}},
    {"{" T("a", "F32", "[0]", "[0,4]") "}", 4, ERR_FORMAT, {"tensor 'a'", "needs 0 bytes"}},
    {"{" T("a", "I8", "[4]", "[0,4]") "," T("b", "I8", "[4]", "[2,6]") "}",
     6,
     ERR_FORMAT,
     {"tensor 'b'", "2..6 overlap tensor 'a'"}},
    {"{" T("a", "I8", "[4]", "[0,4]") "," T("b", "I8", "[4]", "[0,4]") "}",
     4,
     ERR_FORMAT,
     {"tensor 'b'", "overlap tensor 'a'"}},
    {"{" T("a", "I8", "[4]", "[1,5]") "}", 5, ERR_FORMAT, {"tensor 'a'", "hole behind 0"}},
    {"{" T("a", "I8", "[2]", "[0,2]") "," T("b", "I8", "[2]", "[3,5]") "}",
     5,
     ERR_FORMAT,
     {"tensor 'b'", "hole behind 2"}},
    {"{" T("a", "I8", "[4]", "[0,4]") "}", 5, ERR_FORMAT, {"1 bytes behind the last tensor"}},
    {"{}", 1, ERR_FORMAT, {"1 bytes behind the last tensor"}},
    {"{" T("a", "I8", "[4]", "[0,4]") "," T("a", "I8", "[4]", "[0,4]") "}", 4, ERR_FORMAT, {"'a' appears twice"}},
    {"{\"a\":{\"dtype\":\"I8\",\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
     4,
     ERR_FORMAT,
     {"'dtype' appears twice"}},
    {"{\"a\\u0000b\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, ERR_FORMAT, {"tensor 'a'", "NUL"}},
    {"{\"\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, ERR_LIMIT, {"0 bytes"}},
    {"{\"a\\nb\":1}", 0, ERR_FORMAT, {"tensor 'a?b'"}},
};

static size_t write_raw(struct build *b, const char *name, uint64_t header_len, const char *header, size_t n_data)
{
    struct buf file = {0};

    for (int i = 0; i < 8; i++)
        buf_add_char(&file, (char)(unsigned char)(header_len >> 8 * i));
    buf_add(&file, header, strlen(header));
    memset(buf_room(&file, n_data + 1), 0x5a, n_data);
    file.len += n_data;
    build_file(b, name, file.data, file.len);
    size_t n = file.len;
    buf_release(&file);
    return n;
}

static void check_refused(const char *path, int code, const char *const *say, const char *what)
{
    struct st_file *f = NULL;
    struct err err = {0};

    int rc = st_open(path, &f, &err);
    if (rc != code || !strstr(err.text, path) || strchr(err.text, '\n'))
        fail_msg("%s: code %s, text %s", what, err_name(rc), err.text);
    for (int i = 0; i < 3 && say[i]; i++)
        if (!strstr(err.text, say[i]))
            fail_msg("%s: '%s' is not in: %s", what, say[i], err.text);
    assert_null(f);
}

static void hostile_headers_are_refused(void **state)
{
    struct build b;

    build_init(&b);
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        write_raw(&b, "x.safetensors", strlen(rows[i].header), rows[i].header, rows[i].n_data);
        check_refused(build_path(&b, "x.safetensors"), rows[i].code, rows[i].say, rows[i].header);
    }
    build_release(&b);
    (void)state;
}

static void wrong_lengths_are_refused(void **state)
{
    static const struct {
        uint64_t header_len;
        const char *say;
    } lens[] = {
        {3, "cut short"},          {1u << 30, "cut short"},       {INT64_MAX, "cut short"},
        {UINT64_MAX, "cut short"}, {UINT64_MAX - 7, "cut short"},
    };
    struct build b;

    build_init(&b);
    for (size_t n = 0; n < 8; n++) {
        build_file(&b, "x.safetensors", "\2\0\0\0\0\0\0\0", n);
        check_refused(build_path(&b, "x.safetensors"), ERR_FORMAT, (const char *[3]){"too short"}, "a short file");
    }
    for (size_t i = 0; i < N_ELEM(lens); i++) {
        write_raw(&b, "x.safetensors", lens[i].header_len, "{}", 0);
        check_refused(build_path(&b, "x.safetensors"), ERR_FORMAT, (const char *[3]){lens[i].say}, "a long header");
    }
    /* A file that is as long as its huge header says, most of it a hole. */
    write_raw(&b, "x.safetensors", ST_HEADER_MAX + 1u, "{}", 0);
    assert_int_equal(truncate(build_path(&b, "x.safetensors"), (off_t)ST_HEADER_MAX + 100), 0);
    check_refused(build_path(&b, "x.safetensors"), ERR_LIMIT, (const char *[3]){"limit is 104857600"}, "a huge header");
    build_release(&b);
    (void)state;
}

static void headers_that_would_eat_memory_are_refused(void **state)
{
    struct build b;
    struct buf header = {0};

    build_init(&b);
    buf_add_str(&header, "{\"a\":[0");
    for (int i = 0; i <= ST_HEADER_VALUES_MAX; i++)
        buf_add(&header, ",0", 2);
    buf_add_str(&header, "]}");
    write_raw(&b, "x.safetensors", header.len, header.data, 0);
    check_refused(build_path(&b, "x.safetensors"), ERR_LIMIT, (const char *[3]){"more than 8388608 values"},
                  "many values");

    buf_clear(&header);
    buf_add_str(&header, "{\"a\":");
    for (int i = 0; i < 100000; i++)
        buf_add_char(&header, '[');
    write_raw(&b, "x.safetensors", header.len, header.data, 0);
    check_refused(build_path(&b, "x.safetensors"), ERR_FORMAT, (const char *[3]){"nested too deeply"}, "deep nesting");

    buf_clear(&header);
    buf_add_str(&header, "{\"");
    for (int i = 0; i <= MDL_NAME_MAX; i++)
        buf_add_char(&header, 'n');
    buf_add_str(&header, "\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}");
    write_raw(&b, "x.safetensors", header.len, header.data, 4);
    check_refused(build_path(&b, "x.safetensors"), ERR_LIMIT, (const char *[3]){"513 bytes, 1 to 512"}, "a long name");
    buf_release(&header);
    build_release(&b);
    (void)state;
}

static void what_is_no_file_is_refused(void **state)
{
    struct build b;

    build_init(&b);
    check_refused(build_path(&b, "none"), ERR_MISSING, (const char *[3]){"No such file"}, "no file");
    check_refused(b.dir, ERR_FORMAT, (const char *[3]){"not a regular file"}, "a folder");
    assert_int_equal(mkfifo(build_path(&b, "pipe"), 0600), 0);
    check_refused(build_path(&b, "pipe"), ERR_FORMAT, (const char *[3]){"not a regular file"},
                  "a pipe without a writer");
    build_release(&b);
    (void)state;
}

static void every_cut_of_a_good_file_is_refused(void **state)
{
    static const struct st_spec spec[] = {{"a", MDL_F32, 1, {3}}, {"b", MDL_I8, 2, {2, 3}}};
    static const char data[12] = {0};
    const void *ptr[] = {data, data};
    struct build b;
    struct arena arena = {0};
    struct err err;
    struct stat st;
    char bytes[512];

    build_init(&b);
    const char *path = build_path(&b, "x.safetensors");
    assert_int_equal(st_write(path, spec, ptr, 2, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_int_equal(n, st.st_size);
    for (size_t cut = 0; cut <= n; cut++) {
        struct mdl_tensor *t;
        size_t n_tensor;
        /* In memory of exactly that size, so that the address sanitizer sees a read behind the end. */
        char *copy = mem_dup(bytes, cut);
        char *exact = mem_realloc(copy, cut ? cut : 1);
        int rc = st_parse(exact, cut, &arena, &t, &n_tensor, &err);
        assert_int_equal(rc == 0, cut == n);
        mem_free(exact);
        arena_reset(&arena);
    }
    arena_release(&arena);
    build_release(&b);
    (void)state;
}

/* ---- good files --------------------------------------------------------------------------------------- */

static void good_oddities_are_read(void **state)
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\",\"b\":\"a,[{\\\"\"},"
                                 "\"z\":{\"dtype\":\"I16\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
                                 "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4],\"more\":1},"
                                 "\"m\":{\"dtype\":\"U8\",\"shape\":[1,3],\"data_offsets\":[4,7]}}   ";
    struct build b;
    struct st_file *f;
    struct err err;

    build_init(&b);
    write_raw(&b, "x.safetensors", strlen(header), header, 7);
    assert_int_equal(st_open(build_path(&b, "x.safetensors"), &f, &err), 0);
    assert_int_equal(st_n_tensor(f), 3);
    assert_int_equal(st_bytes(f), 7);
    assert_string_equal(st_at(f, 0)->name, "scalar");
    assert_int_equal(st_find(f, "scalar")->n_dim, 0);
    assert_int_equal(st_find(f, "z")->n_bytes, 0);
    assert_int_equal(st_find(f, "m")->dim[1], 3);
    assert_memory_equal(st_find(f, "m")->data, "\x5a\x5a\x5a", 3);
    assert_null(st_find(f, "__metadata__"));
    assert_null(st_find(f, ""));
    st_close(&f);
    assert_null(f);
    st_close(&f);

    write_raw(&b, "x.safetensors", 2, "{}", 0);
    assert_int_equal(st_open(build_path(&b, "x.safetensors"), &f, &err), 0);
    assert_int_equal(st_n_tensor(f), 0);
    st_close(&f);
    build_release(&b);
    (void)state;
}

static void written_is_read_back_and_aligned(void **state)
{
    static const struct st_spec spec[] = {
        {"bytes", MDL_U8, 1, {5}}, {"x", MDL_BF16, 2, {3, 1}}, {"quote\"d", MDL_F32, 1, {2}},
        {"i", MDL_I64, 1, {2}},    {"none", MDL_F32, 1, {0}},
    };
    static const char bytes[] = "\1\2\3\4\5", x[] = "abcdef";
    const float f32[] = {1.5f, -2};
    const int64_t i64[] = {-7, INT64_MAX};
    struct build b;
    struct st_writer *w;
    struct st_file *f;
    struct err err;

    build_init(&b);
    const char *path = build_path(&b, "y.safetensors");
    build_text(&b, "y.safetensors", "the old file");
    assert_int_equal(st_writer_open(path, spec, N_ELEM(spec), &w, &err), 0);
    assert_int_equal(st_writer_put(w, 3, i64, 8, &err), 0); /* in pieces, and not in order */
    assert_int_equal(st_writer_put(w, 0, bytes, 5, &err), 0);
    assert_int_equal(st_writer_put(w, 3, &i64[1], 8, &err), 0);
    assert_int_equal(st_writer_put(w, 2, f32, 8, &err), 0);
    assert_int_equal(st_writer_put(w, 1, x, 6, &err), 0);
    assert_int_equal(st_open(path, &f, &err), ERR_FORMAT); /* nothing is in place before the end */
    assert_int_equal(st_writer_close(&w, &err), 0);
    assert_null(w);
    assert_int_equal(st_open(path, &f, &err), 0);
    assert_int_equal(st_n_tensor(f), N_ELEM(spec));
    assert_memory_equal(st_find(f, "bytes")->data, bytes, 5);
    assert_memory_equal(st_find(f, "x")->data, x, 6);
    assert_memory_equal(st_find(f, "quote\"d")->data, f32, 8);
    assert_memory_equal(st_find(f, "i")->data, i64, 16);
    for (size_t i = 0; i < st_n_tensor(f); i++)
        assert_int_equal((uintptr_t)st_at(f, i)->data % mdl_dtype_bytes(st_at(f, i)->dtype), 0);
    st_close(&f);
    build_release(&b);
    (void)state;
}

static void count_files(struct build *b, const char *name, bool there)
{
    struct stat st;
    assert_int_equal(stat(build_path(b, name), &st) == 0, there);
}

/* A limit on the size of files stands for the full disk: the write fails in the same place. */
static void a_full_disk_is_reported_and_leaves_nothing(void **state)
{
    static const struct st_spec spec[] = {{"a", MDL_U8, 1, {100000}}};
    static unsigned char data[100000];
    const void *ptr[] = {data};
    struct rlimit old, small;
    struct build b;
    struct err err;
    char tmp[64];

    build_init(&b);
    snprintf(tmp, sizeof tmp, "z.safetensors.tmp.%ld", (long)getpid());
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){4096, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = st_write(build_path(&b, "z.safetensors"), spec, ptr, 1, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(rc, ERR_IO);
    assert_non_null(strstr(err.text, "z.safetensors"));
    count_files(&b, "z.safetensors", false);
    count_files(&b, tmp, false);

    assert_int_equal(st_write(build_path(&b, "no/z.safetensors"), spec, ptr, 1, &err), ERR_IO);
    assert_non_null(strstr(err.text, "cannot be created"));
    assert_int_equal(mkdir(build_path(&b, "d"), 0700), 0);
    assert_int_equal(st_write(build_path(&b, "d"), spec, ptr, 1, &err), ERR_IO);
    assert_non_null(strstr(err.text, "cannot be put in place"));
    snprintf(tmp, sizeof tmp, "d.tmp.%ld", (long)getpid());
    count_files(&b, tmp, false);
    build_release(&b);
    (void)state;
}

/* Who can write into the folder must not be able to direct the output elsewhere: a link under the name of the temporary
 * file is refused. */
static void a_planted_link_is_not_followed(void **state)
{
    static const struct st_spec spec[] = {{"a", MDL_U8, 1, {1}}};
    const void *ptr[] = {"x"};
    struct build b;
    struct err err;
    char tmp[64];

    build_init(&b);
    build_text(&b, "victim", "text");
    snprintf(tmp, sizeof tmp, "z.tmp.%ld", (long)getpid());
    assert_int_equal(symlink(build_path(&b, "victim"), build_path(&b, tmp)), 0);
    assert_int_equal(st_write(build_path(&b, "z"), spec, ptr, 1, &err), ERR_IO);
    count_files(&b, "victim", true);
    count_files(&b, "z", false);
    build_release(&b);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_headers_are_refused),
        cmocka_unit_test(wrong_lengths_are_refused),
        cmocka_unit_test(headers_that_would_eat_memory_are_refused),
        cmocka_unit_test(what_is_no_file_is_refused),
        cmocka_unit_test(every_cut_of_a_good_file_is_refused),
        cmocka_unit_test(good_oddities_are_read),
        cmocka_unit_test(written_is_read_back_and_aligned),
        cmocka_unit_test(a_full_disk_is_reported_and_leaves_nothing),
        cmocka_unit_test(a_planted_link_is_not_followed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
