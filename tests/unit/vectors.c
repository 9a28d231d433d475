#include "tests/unit/vectors.h"

#include "tests/unit/test.h"

#include <stdlib.h>
#include <string.h>

void vectors_open(struct vectors *v, const char *path)
{
    *v = (struct vectors){.path = path, .file = fopen(path, "rb")};
    if (!v->file)
        fail_msg("%s: cannot be read", path);
}

const struct json *vectors_next(struct vectors *v)
{
    const struct json *line;
    struct err err;

    arena_reset(&v->arena);
    ssize_t n = getline(&v->text, &v->cap, v->file);
    if (n < 0) {
        if (v->n_line == 0)
            fail_msg("%s: no line in it", v->path);
        fclose(v->file);
        free(v->text);
        arena_release(&v->arena);
        return NULL;
    }
    v->n_line++;
    if (json_parse(v->text, (size_t)n, 0, &v->arena, &line, &err))
        fail_msg("%s line %d: %s", v->path, v->n_line, err.text);
    return line;
}

const char *vectors_str(const struct json *line, const char *name, size_t *len)
{
    const struct json *j = json_get(line, name);

    if (!json_is(j, JSON_STRING))
        fail_msg("vector without a string \"%s\"", name);
    if (len)
        *len = j->len;
    return j->text;
}

void vectors_read(const char *path, struct buf *out)
{
    FILE *file = fopen(path, "rb");
    size_t n;

    if (!file)
        fail_msg("%s: cannot be read", path);
    while ((n = fread(buf_room(out, 65536), 1, 65536, file)) > 0)
        out->len += n;
    buf_add(out, "", 0);
    fclose(file);
}

const struct json *vectors_file(const char *path, struct arena *arena)
{
    const struct json *root;
    struct buf text = {0};
    struct err err;

    vectors_read(path, &text);
    if (json_parse(text.data, text.len, 0, arena, &root, &err))
        fail_msg("%s: %s", path, err.text);
    buf_release(&text);
    return root;
}
