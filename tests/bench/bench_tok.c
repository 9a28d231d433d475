/* tests/bench/bench_tok.c - how fast the tokenizer loads and encodes, one thread, median of some runs.
 *
 *     build/bin/bench_tok --tokenizer build/v4_tokenizer [--texts DIR] [--runs N]
 *
 * One JSON object per line on stdout. The texts are made from files of the tree, about 1 MB each, the same on every
 * machine; with --texts they are written to DIR, where bench_tok_hf.py reads them to measure the Hugging Face package.
 */
#include "common/base/clock.h"
#include "common/base/flags.h"
#include "common/mem/arena.h"
#include "common/mem/mem.h"
#include "common/text/json.h"
#include "common/text/tok.h"
#include "common/text/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES = 1000000, RUNS_MAX = 101 };

static void die(const char *what)
{
    fprintf(stderr, "bench_tok: %s\n", what);
    exit(1);
}

static void add_file(struct buf *out, const char *name)
{
    struct buf path = {0};
    size_t got;

    buf_addf(&path, "%s/%s", BATON_SOURCE_DIR, name);
    FILE *f = fopen(path.data, "rb");
    if (!f)
        die(path.data);
    while ((got = fread(buf_room(out, 1 << 16), 1, 1 << 16, f)) > 0)
        out->len += got;
    fclose(f);
    buf_release(&path);
}

/* The same number on every machine. */
static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Fill up to TEXT_BYTES with lines of `from` in random order. */
static void add_lines(struct buf *out, const struct buf *from)
{
    uint64_t seed = 1;

    while (out->len < TEXT_BYTES) {
        size_t at = next_random(&seed) % from->len;
        while (at > 0 && from->data[at - 1] != '\n')
            at--;
        const char *end = memchr(from->data + at, '\n', from->len - at);
        buf_add(out, from->data + at, end ? (size_t)(end + 1 - (from->data + at)) : from->len - at);
    }
}

static void make_from_files(struct buf *out, const char *const *name)
{
    struct buf all = {0};

    for (; *name; name++)
        add_file(&all, *name);
    add_lines(out, &all);
    buf_release(&all);
}

static void make_english(struct buf *out)
{
    static const char *const names[] = {"docs/STYLE.md", "docs/spec/tokenizer.md", "docs/spec/model.md",
                                        "docs/spec/chat.md", "docs/spec/api.md", NULL};
    make_from_files(out, names);
}

static void make_code(struct buf *out)
{
    static const char *const names[] = {"common/text/json.c",    "common/text/tok_bpe.c", "common/text/tok_load.c",
                                        "common/base/flags.c",   "common/text/utf8.c",    "common/mem/arena.c",
                                        "common/text/tok.h",     "common/mem/buf.h",      "common/base/err.h",
                                        "cmake/baton.cmake",     "common/text/pretok.c",  "controller/ctl.h",
                                        "tests/bench/bench_tok.c", NULL};
    make_from_files(out, names);
}

static void make_json(struct buf *out)
{
    static const char *const names[] = {"tests/vectors/chat.jsonl", "tests/vectors/parse.jsonl", NULL};
    make_from_files(out, names);
}

/* Runs of two to five characters out of the Chinese and Japanese lines of the vectors, in random order. */
static void make_cjk(struct buf *out)
{
    struct buf lines = {0}, all = {0};
    struct arena arena = {0};
    uint64_t seed = 1;

    add_file(&lines, "tests/vectors/tokenizer.jsonl");
    for (size_t at = 0; at < lines.len;) {
        const struct json *j;
        char *end = memchr(lines.data + at, '\n', lines.len - at);
        size_t n = end ? (size_t)(end - (lines.data + at)) : lines.len - at;
        if (json_parse(lines.data + at, n, 0, &arena, &j, NULL))
            die("tests/vectors/tokenizer.jsonl is not JSON");
        const struct json *group = json_get(j, "group"), *text = json_get(j, "text");
        if (text && (json_is_str(group, "lang/zh") || json_is_str(group, "lang/zht") || json_is_str(group, "lang/ja")))
            buf_add(&all, text->text, text->len);
        at += n + 1;
    }
    while (out->len < TEXT_BYTES) {
        size_t at = next_random(&seed) % all.len;
        while (((unsigned char)all.data[at] & 0xC0) == 0x80)
            at--;
        for (uint32_t n = 2 + next_random(&seed) % 4; n > 0 && at < all.len; n--) {
            uint32_t cp;
            int len = utf8_decode(all.data + at, all.len - at, &cp);
            buf_add(out, all.data + at, (size_t)len);
            at += (size_t)len;
        }
    }
    arena_release(&arena);
    buf_release(&lines);
    buf_release(&all);
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static int64_t median(int64_t *v, int64_t n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

static void write_text(const char *dir, const char *name, const struct buf *text)
{
    struct buf path = {0};

    buf_addf(&path, "%s/%s.txt", dir, name);
    FILE *f = fopen(path.data, "wb");
    if (!f || fwrite(text->data, 1, text->len, f) != text->len || fclose(f))
        die(path.data);
    buf_release(&path);
}

static void bench_text(const struct tok *tok, const char *name, const struct buf *text, int64_t n_run)
{
    int64_t ns[RUNS_MAX];
    size_t n_id = 0;

    for (int64_t i = 0; i < n_run; i++) {
        struct tok_ids ids = {0};
        int64_t start = clock_mono_ns();
        tok_encode(tok, text->data, text->len, NULL, 0, &ids);
        ns[i] = clock_mono_ns() - start;
        n_id = ids.n;
        tok_ids_release(&ids);
    }
    int64_t mid = median(ns, n_run);
    printf("{\"bench\":\"tok_encode\",\"text\":\"%s\",\"bytes\":%zu,\"tokens\":%zu,\"ms\":%.3f,\"mb_s\":%.1f}\n", name,
           text->len, n_id, (double)mid / 1e6, (double)text->len * 1e3 / (double)mid);
    fflush(stdout);
}

static struct tok *bench_open(const char *dir, int64_t n_run)
{
    int64_t ns[RUNS_MAX];
    struct tok *tok = NULL;
    struct err err;

    for (int64_t i = 0; i < n_run; i++) {
        tok_close(&tok);
        int64_t start = clock_mono_ns();
        if (tok_open(dir, &tok, &err))
            die(err.text);
        ns[i] = clock_mono_ns() - start;
    }
    printf("{\"bench\":\"tok_open\",\"ms\":%.1f}\n", (double)median(ns, n_run) / 1e6);
    return tok;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*make)(struct buf *out);
    } texts[] = {{"english", make_english}, {"code", make_code}, {"json", make_json}, {"cjk", make_cjk}};
    const char *dir = NULL, *texts_dir = NULL;
    int64_t n_run = 5;
    struct err err;
    const struct flag list[] = {
        {.name = "tokenizer", .kind = FLAG_STR, .to = &dir, .value = "DIR", .help = "folder with tokenizer.json",
         .required = true},
        {.name = "texts", .kind = FLAG_STR, .to = &texts_dir, .value = "DIR", .help = "write the texts there"},
        {.name = "runs", .kind = FLAG_I64, .to = &n_run, .value = "N", .help = "runs, of which the median counts",
         .min = 1, .max = RUNS_MAX},
    };
    struct flags flags = {.usage = "bench_tok --tokenizer DIR [flags]", .about = "Measure the tokenizer.", .flag = list,
                          .n_flag = sizeof list / sizeof list[0]};

    int rc = flags_parse(&flags, argc, argv, &err);
    if (rc == FLAGS_HELP)
        return 0;
    if (rc) {
        fprintf(stderr, "bench_tok: %s\n", err.text);
        return 2;
    }
    struct tok *tok = bench_open(dir, n_run);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct buf text = {0};
        texts[i].make(&text);
        if (texts_dir)
            write_text(texts_dir, texts[i].name, &text);
        bench_text(tok, texts[i].name, &text, n_run);
        buf_release(&text);
    }
    tok_close(&tok);
    return 0;
}
