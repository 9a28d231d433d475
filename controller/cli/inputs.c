#include "controller/cli/inputs.h"

#include "common/mem/file.h"
#include "common/text/json.h"
#include "common/text/utf8.h"

#include <stdio.h>
#include <string.h>

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Bytes of the name in "name=...", 0 if the word does not begin so. */
static size_t name_of(const char *arg)
{
    size_t n = strspn(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return arg[n] == '=' ? n : 0;
}

static void begin_member(struct buf *out, const char *name, size_t n)
{
    if (out->len && out->data[out->len - 1] != '{')
        buf_add_char(out, ',');
    json_add_str(out, name, n);
    buf_add_char(out, ':');
}

/* A string, made valid UTF-8. */
static void add_text(struct buf *out, const char *text, size_t n)
{
    struct buf whole = {0};
    utf8_add_replaced(&whole, text, n);
    json_add_str(out, whole.data ? whole.data : "", whole.len);
    buf_release(&whole);
}

static int add_lines(struct buf *out, const char *path, const struct buf *text, struct err *err)
{
    struct arena arena = {0};
    const struct json *value;
    int64_t n_line = 0, n = 0;
    int rc = 0;

    buf_add_char(out, '[');
    for (size_t at = 0; at < text->len && !rc;) {
        const char *line = text->data + at, *end = memchr(line, '\n', text->len - at);
        size_t len = end ? (size_t)(end - line) : text->len - at;
        at += len + 1;
        n_line++;
        if (strspn(line, " \t\r") >= len)
            continue;
        arena_reset(&arena);
        rc = json_parse(line, len, 0, &arena, &value, err);
        if (rc) {
            err_wrap(err, "%s, line %lld", path, (long long)n_line);
            break;
        }
        if (n++)
            buf_add_char(out, ',');
        json_add(out, value);
    }
    buf_add_char(out, ']');
    arena_release(&arena);
    return rc;
}

static int add_file(struct buf *out, const char *path, struct err *err)
{
    struct arena arena = {0};
    const struct json *value;
    struct buf text = {0};
    int rc = file_read(path, INPUTS_BYTES_MAX, &text, err);

    if (!rc && ends_with(path, ".jsonl")) {
        rc = add_lines(out, path, &text, err);
    } else if (!rc && ends_with(path, ".json")) {
        rc = json_parse(text.data ? text.data : "", text.len, 0, &arena, &value, err);
        if (rc)
            err_wrap(err, "%s", path);
        else
            json_add(out, value);
    } else if (!rc) {
        add_text(out, text.data ? text.data : "", text.len);
    }
    arena_release(&arena);
    buf_release(&text);
    return rc;
}

static int add_object(struct buf *out, const char *path, struct err *err)
{
    struct arena arena = {0};
    const struct json *value;
    struct buf text = {0};
    int rc = file_read(path, INPUTS_BYTES_MAX, &text, err);

    if (!rc) {
        rc = json_parse(text.data ? text.data : "", text.len, 0, &arena, &value, err);
        if (rc)
            err_wrap(err, "%s", path);
    }
    if (!rc && value->kind != JSON_OBJECT)
        rc = err_set(err, ERR_FORMAT, "%s: inputs have to be an object, not %s", path, json_kind_name(value));
    for (const struct json *m = rc ? NULL : value->child; m; m = m->next) {
        begin_member(out, m->key, m->key_len);
        json_add(out, m);
    }
    arena_release(&arena);
    buf_release(&text);
    return rc;
}

int inputs_add(const struct pipeline *plan, const char *arg, struct buf *out, struct err *err)
{
    size_t n = name_of(arg);
    char name[PIPELINE_ID_MAX + 1];
    struct arena arena = {0};
    const struct json *value;

    if (n == 0)
        return add_object(out, arg, err);
    const char *text = arg + n + 1;
    if (*text == '@') {
        begin_member(out, arg, n);
        return add_file(out, text + 1, err);
    }
    snprintf(name, sizeof name, "%.*s", (int)n, arg);
    int rc = pipeline_input_text(plan, name, text, strlen(text), &arena, &value, err);
    if (!rc) {
        begin_member(out, arg, n);
        json_add(out, value);
    }
    arena_release(&arena);
    return rc;
}

int inputs_take(int *argc, char **argv, const char **value, int max, int *n_value, struct err *err)
{
    int n = 1;

    *n_value = 0;
    for (int i = 1; i < *argc; i++) {
        const char *v = NULL;
        if (strncmp(argv[i], "--input=", 8) == 0)
            v = argv[i] + 8;
        else if (strcmp(argv[i], "--input") == 0 || strcmp(argv[i], "-i") == 0)
            v = i + 1 < *argc ? argv[++i] : NULL;
        else {
            argv[n++] = argv[i];
            continue;
        }
        if (!v)
            return err_set(err, ERR_ARG, "--input needs a value: NAME=TEXT, NAME=@FILE or FILE.json");
        if (*n_value == max)
            return err_set(err, ERR_ARG, "more than %d --input", max);
        value[(*n_value)++] = v;
    }
    *argc = n;
    return 0;
}
