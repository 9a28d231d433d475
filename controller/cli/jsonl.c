#include "controller/cli/jsonl.h"

#include "common/text/utf8.h"
#include "controller/cli/b64.h"
#include "controller/cli/cli.h"

#include <string.h>

void jsonl_add_ids(struct buf *out, const struct tok_ids *ids)
{
    buf_add_char(out, '[');
    for (size_t i = 0; i < ids->n; i++) {
        if (i)
            buf_add(out, ", ", 2);
        buf_add_i64(out, ids->id[i]);
    }
    buf_add_char(out, ']');
}

void jsonl_add_text(struct buf *out, const char *s, size_t n)
{
    struct buf clean = {0};

    if (utf8_is_valid(s, n)) {
        json_add_str(out, s, n);
        return;
    }
    utf8_add_replaced(&clean, s, n);
    json_add_str(out, clean.data, clean.len);
    buf_release(&clean);
}

int jsonl_read_ids(const struct json *array, int32_t n_vocab, struct tok_ids *ids, struct err *err)
{
    int64_t id, i = 0;

    if (!json_is(array, JSON_ARRAY))
        return err_set(err, ERR_FORMAT, "a JSON list of token ids is needed, got %s", json_kind_name(array));
    for (const struct json *j = array->child; j; j = j->next, i++) {
        if (!json_to_i64(j, &id))
            return err_set(err, ERR_FORMAT, "entry %lld is no whole number", (long long)i);
        if (id < 0 || id >= n_vocab)
            return err_set(err, ERR_RANGE, "entry %lld: id %lld is outside the vocabulary 0..%d", (long long)i,
                           (long long)id, n_vocab - 1);
        tok_ids_add(ids, (int32_t)id);
    }
    return 0;
}

int jsonl_text(const struct json *in, struct arena *arena, const char **text, size_t *len, struct err *err)
{
    const struct json *plain = json_get(in, "text"), *coded = json_get(in, "bytes_b64");
    struct buf bytes = {0};

    if (json_is(plain, JSON_STRING)) {
        *text = plain->text;
        *len = plain->len;
        return 0;
    }
    if (!json_is(coded, JSON_STRING))
        return err_set(err, ERR_FORMAT, "neither a string `text` nor `bytes_b64`");
    int rc = b64_decode(coded->text, coded->len, &bytes, err);
    if (rc == 0) {
        *text = arena_dup(arena, bytes.len ? bytes.data : "", bytes.len);
        *len = bytes.len;
    }
    buf_release(&bytes);
    return rc;
}

static int answer_line(const struct buf *line, jsonl_line_fn fn, void *arg, struct arena *arena, struct buf *out,
                       struct err *err)
{
    const struct json *in;
    int rc = json_parse(line->data, line->len, 0, arena, &in, err);

    if (rc)
        return rc;
    if (!json_is(in, JSON_OBJECT))
        return err_set(err, ERR_FORMAT, "a line must be a JSON object, got %s", json_kind_name(in));
    return fn(arg, in, arena, out, err);
}

static bool is_blank(const struct buf *line)
{
    return line->len == 0 || strspn(line->data, " \t\r") == line->len;
}

int jsonl_run(const char *name, FILE *in, jsonl_line_fn fn, void *arg)
{
    struct buf line = {0}, out = {0};
    struct arena arena;
    struct err err = {0};
    int rc;

    arena_init(&arena);
    while ((rc = cli_read_line(in, CLI_LINE_MAX, &line, &err)) != 0) {
        if (rc == ERR_IO)
            break;
        if (rc > 0 && is_blank(&line))
            continue;
        arena_reset(&arena);
        buf_clear(&out);
        if (rc > 0)
            rc = answer_line(&line, fn, arg, &arena, &out, &err);
        if (rc < 0) {
            buf_clear(&out);
            buf_add_str(&out, "{\"error\": ");
            jsonl_add_text(&out, err.text, strlen(err.text));
            buf_add_char(&out, '}');
        }
        buf_add_char(&out, '\n');
        rc = cli_write(&out, &err);
        if (rc)
            break;
    }
    arena_release(&arena);
    buf_release(&line);
    buf_release(&out);
    return rc ? cli_fail(name, &err) : CLI_GOOD;
}
