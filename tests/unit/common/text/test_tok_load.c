/* Proves: a tokenizer.json that is broken, hostile or of another model is refused with one line that says what and
 * where, without a leak; changes that mean nothing are accepted.
 * How: rows of (text in the tiny file, what it is replaced by, code, words of the error text); each is written to a
 * folder of its own and opened. Then files cut at many places, files of other kinds, and tokenizer_config.json. */
#include "common/text/tok.h"
#include "tests/unit/common/text/vectors.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/test_tok_load_XXXXXX";
static struct arena arena;
static const char *tiny; /* the text of the tiny tokenizer.json */
static size_t tiny_len;

static void path_of(char *path, size_t n, const char *name)
{
    snprintf(path, n, "%s/%s", dir, name);
}

static void write_file(const char *name, const char *text, size_t len)
{
    char path[256];
    path_of(path, sizeof path, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static void remove_file(const char *name)
{
    char path[256];
    path_of(path, sizeof path, name);
    remove(path);
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    tiny = vec_file(&arena, TEST_DATA("tiny_tokenizer/tokenizer.json"), &tiny_len);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    remove_file("tokenizer.json");
    remove_file("tokenizer_config.json");
    arena_release(&arena);
    return rmdir(dir);
}

/* Open the folder and demand this outcome; words (may be NULL) must stand in the text. */
static void expect(int code, const char *words, const char *what)
{
    struct tok *tok = NULL;
    struct err err = {0};

    int rc = tok_open(dir, &tok, &err);
    if (rc != code)
        fail_msg("%s: %s (%s), not %s", what, err_name(rc), err.text, err_name(code));
    if (rc) {
        assert_null(tok);
        assert_int_equal(err.code, code);
        if (!strstr(err.text, dir) || strchr(err.text, '\n') || (words && !strstr(err.text, words)))
            fail_msg("%s: the text is \"%s\"", what, err.text);
    }
    tok_close(&tok);
}

static void replace_first(struct buf *out, const char *from, const char *to)
{
    const char *at = strstr(tiny, from);

    if (!at)
        fail_msg("%s is not in the tiny file", from);
    buf_add(out, tiny, (size_t)(at - tiny));
    buf_add_str(out, to);
    at += strlen(from);
    buf_add(out, at, (size_t)(tiny + tiny_len - at));
}

static const struct {
    const char *from, *to;
    int code;
    const char *words;
} rows[] = {
    /* nothing that matters */
    {"\"truncation\":", "\"unknown_member\":", 0, NULL},
    {"\"version\":", " \n \"version\" : ", 0, NULL},
    /* another pipeline */
    {"\"version\":\"1.0\"", "\"version\":\"2.0\"", ERR_UNSUPPORTED, "version"},
    {"\"truncation\":null", "\"truncation\":{}", ERR_UNSUPPORTED, "truncation"},
    {"\"padding\":null", "\"padding\":{}", ERR_UNSUPPORTED, "padding"},
    {"\"normalizers\":[]", "\"normalizers\":[{\"type\":\"NFC\"}]", ERR_UNSUPPORTED, "normalizer"},
    {"\"normalizer\":{\"type\":\"Sequence\"", "\"normalizer\":{\"type\":\"NFKC\"", ERR_UNSUPPORTED, "normalizer"},
    {"p{N}{1,3}", "p{N}{1,2}", ERR_UNSUPPORTED, "stage 1"},
    {"龥", "龦", ERR_UNSUPPORTED, "stage 2"},
    {"[A-Za-z]+|", "[A-Z]+|", ERR_UNSUPPORTED, "stage 3"},
    {"\"Isolated\"", "\"Removed\"", ERR_UNSUPPORTED, "stage 1"},
    {"\"invert\":false", "\"invert\":true", ERR_UNSUPPORTED, "stage 1"},
    {"\"use_regex\":false", "\"use_regex\":true", ERR_UNSUPPORTED, "stage 4"},
    {"\"pretokenizers\":[", "\"pretokenizers\":[{},", ERR_UNSUPPORTED, "pre_tokenizer"},
    {"\"pre_tokenizer\":", "\"x\":", ERR_UNSUPPORTED, "pre_tokenizer"},
    {"\"post_processor\":{\"type\":\"ByteLevel\"", "\"post_processor\":{\"type\":\"TemplateProcessing\"",
     ERR_UNSUPPORTED, "post_processor"},
    {"\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"WordPiece\"", ERR_UNSUPPORTED, "decoder"},
    {"\"decoder\":", "\"x\":", ERR_UNSUPPORTED, "decoder"},
    {"\"type\":\"BPE\"", "\"type\":\"Unigram\"", ERR_UNSUPPORTED, "model.type"},
    {"\"dropout\":null", "\"dropout\":0.1", ERR_UNSUPPORTED, "model.dropout"},
    {"\"unk_token\":null", "\"unk_token\":\"<unk>\"", ERR_UNSUPPORTED, "model.unk_token"},
    {"\"byte_fallback\":false", "\"byte_fallback\":true", ERR_UNSUPPORTED, "model.byte_fallback"},
    {"\"byte_fallback\":false", "\"ignore_merges\":true", ERR_UNSUPPORTED, "model.ignore_merges"},
    {"\"lstrip\":false", "\"lstrip\":true", ERR_UNSUPPORTED, "lstrip"},
    {"\"single_word\":false", "\"single_word\":1", ERR_UNSUPPORTED, "single_word"},
    /* missing or of the wrong kind */
    {"\"model\":", "\"x\":", ERR_FORMAT, "model"},
    {"\"vocab\":", "\"x\":", ERR_FORMAT, "vocab"},
    {"\"merges\":[", "\"merges\":null,\"x\":[", ERR_FORMAT, "merges"},
    {"\"added_tokens\":", "\"x\":", ERR_FORMAT, "added_tokens"},
    {"\"special\":", "\"x\":", ERR_FORMAT, "special"},
    {"\"normalized\":false", "\"normalized\":null", ERR_FORMAT, "normalized"},
    {"\"added_tokens\":[", "\"added_tokens\":[1,", ERR_FORMAT, "content"},
    {"\"added_tokens\":[", "\"added_tokens\":[{\"content\":\"\"},", ERR_FORMAT, "content"},
    /* ids */
    {"\"!\":3", "\"!\":-1", ERR_FORMAT, "id -1"},
    {"\"!\":3", "\"!\":4", ERR_FORMAT, "id 4 belongs"},
    {"\"!\":3", "\"!\":99999999999", ERR_FORMAT, "99999999999"},
    {"\"!\":3", "\"!\":1e400", ERR_FORMAT, "not an integer"},
    {"\"!\":3", "\"!\":\"3\"", ERR_FORMAT, "not an integer"},
    {"\"!\":3", "\"!\":3.5", ERR_FORMAT, "not an integer"},
    {"\"!\":3", "\"\\u4e2d\":3", ERR_FORMAT, "byte symbols"},
    {"\"!\":3", "\"\":3", ERR_FORMAT, "byte symbols"},
    {"\"!\":3", "\"!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!\":3", ERR_FORMAT, "byte 0x21"},
    {"\"!\":3,", "", ERR_FORMAT, "gaps"},
    {"\"!\":3", "\"!\":3,\"\\u0021\":3", ERR_FORMAT, "twice"},
    {"\"added_tokens\":[{\"id\":0", "\"added_tokens\":[{\"id\":4095", ERR_FORMAT, "two ids"},
    {"\"added_tokens\":[{\"id\":0", "\"added_tokens\":[{\"id\":3", ERR_FORMAT, "id 3 belongs"},
    {"\"added_tokens\":[{\"id\":0", "\"added_tokens\":[{\"id\":1", ERR_FORMAT, "id 1 belongs"},
    /* merges */
    {"\"merges\":[", "\"merges\":[\"Ġ Ġ\",", ERR_UNSUPPORTED, "merge 1"}, /* twice */
    {"\"merges\":[", "\"merges\":[\"zq zq\",", ERR_FORMAT, "merge 0 names a left part"},
    {"\"merges\":[", "\"merges\":[\"z zq\",", ERR_FORMAT, "merge 0 names a right part"},
    {"\"merges\":[", "\"merges\":[\"q z\",", ERR_FORMAT, "merge 0 names a result"},
    {"\"merges\":[", "\"merges\":[\"ab\",", ERR_FORMAT, "merge 0 is not two"},
    {"\"merges\":[", "\"merges\":[\" a\",", ERR_FORMAT, "merge 0 is not two"},
    {"\"merges\":[", "\"merges\":[\"a b c\",", ERR_FORMAT, "merge 0 is not made"},
    {"\"merges\":[", "\"merges\":[[\"a\"],", ERR_FORMAT, "merge 0 is not two"},
    {"\"merges\":[", "\"merges\":[[\"a\",1],", ERR_FORMAT, "merge 0 is not two"},
    {"\"merges\":[", "\"merges\":[17,", ERR_FORMAT, "merge 0 is not two"},
    {"\"merges\":[", "\"merges\":[\"t h\",", ERR_UNSUPPORTED, "merge 1"}, /* out of order */
    /* the end token */
    {"<｜end▁of▁sentence｜>", "<｜end▁of▁sentence!｜>", ERR_FORMAT, NULL},
};

/* The tiny file is spread over lines; the rows are written without white space. So take it out first. */
static void compact_tiny(void)
{
    const struct json *root;
    struct err err;
    struct buf b = {0};

    if (json_parse(tiny, tiny_len, 0, &arena, &root, &err))
        fail_msg("%s", err.text);
    json_add(&b, root);
    tiny = arena_dup(&arena, b.data, b.len);
    tiny_len = b.len;
    buf_release(&b);
}

static void test_rows(void **state)
{
    (void)state;
    compact_tiny();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf b = {0};
        char what[200];
        replace_first(&b, rows[i].from, rows[i].to);
        write_file("tokenizer.json", b.data, b.len);
        snprintf(what, sizeof what, "row %zu, %s", i, rows[i].to);
        expect(rows[i].code, rows[i].words, what);
        buf_release(&b);
    }
}

static void test_cut_files(void **state)
{
    (void)state;
    for (size_t len = 0; len < tiny_len; len += 1 + tiny_len / 60) {
        char what[40];
        write_file("tokenizer.json", tiny, len);
        snprintf(what, sizeof what, "cut at %zu", len);
        expect(ERR_FORMAT, NULL, what);
    }
}

static void test_other_kinds(void **state)
{
    static const char *const texts[] = {"null", "[]", "{}", "\"x\"", "\xff", "{\"model\":[]}"};
    char path[256];

    (void)state;
    remove_file("tokenizer.json");
    expect(ERR_MISSING, "unpack", "no file");
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct tok *tok = NULL;
        struct err err;
        write_file("tokenizer.json", texts[i], strlen(texts[i]));
        assert_int_not_equal(tok_open(dir, &tok, &err), 0);
        assert_null(tok);
    }
    assert_int_not_equal(tok_open(dir, &(struct tok *){NULL}, NULL), 0); /* err may be NULL */
    remove_file("tokenizer.json");
    path_of(path, sizeof path, "tokenizer.json");
    assert_int_equal(mkdir(path, 0700), 0);
    expect(ERR_IO, "regular file", "a folder");
    assert_int_equal(rmdir(path), 0);
    write_file("tokenizer.json", "", 0);
    assert_int_equal(truncate(path, TOK_FILE_MAX + 1), 0);
    expect(ERR_LIMIT, "bytes", "too large");
}

static void test_config(void **state)
{
    static const struct {
        const char *text;
        int code;
        int32_t eos;
    } configs[] = {
        {"{}", 0, 1},
        {"{\"eos_token\":null}", 0, 1},
        {"{\"eos_token\":\"<｜begin▁of▁sentence｜>\"}", 0, 0},
        {"{\"eos_token\":{\"content\":\"<｜▁pad▁｜>\"}}", 0, 2},
        {"{\"eos_token\":{}}", ERR_FORMAT, 0},
        {"{\"eos_token\":5}", ERR_FORMAT, 0},
        {"{\"eos_token\":\"the\"}", ERR_FORMAT, 0},
        {"{", ERR_FORMAT, 0},
        {"", ERR_FORMAT, 0},
    };

    (void)state;
    write_file("tokenizer.json", tiny, tiny_len);
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        struct tok *tok = NULL;
        struct err err;
        write_file("tokenizer_config.json", configs[i].text, strlen(configs[i].text));
        int rc = tok_open(dir, &tok, &err);
        if (rc != configs[i].code)
            fail_msg("%s: %s", configs[i].text, rc ? err.text : "opened");
        if (!rc)
            assert_int_equal(tok_eos(tok), configs[i].eos);
        tok_close(&tok);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_cut_files),
        cmocka_unit_test(test_other_kinds),
        cmocka_unit_test(test_config),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
