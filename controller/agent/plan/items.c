#include "controller/agent/plan/items.h"

#include "common/base/check.h"
#include "common/mem/file.h"
#include "common/text/jsonmake.h"
#include "common/text/utf8.h"

#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* dir/path, or path if it is absolute. */
static void join_path(struct buf *out, const char *dir, const char *path)
{
    if (path[0] != '/')
        buf_addf(out, "%s/", dir);
    buf_add_str(out, path);
}

static int check_path(const struct json *value, const char *what, struct err *err)
{
    if (!json_is(value, JSON_STRING))
        return err_set(err, ERR_ARG, "%s must be a text, is %s", what, json_kind_name(value));
    if (value->len == 0 || strlen(value->text) != value->len)
        return err_set(err, ERR_ARG, "%s is empty or has a NUL in it", what);
    if (value->len > ITEMS_PATTERN_MAX)
        return err_set(err, ERR_LIMIT, "%s has more than %d bytes", what, ITEMS_PATTERN_MAX);
    return 0;
}

/* ---- JSONL -------------------------------------------------------------------------------------------- */

static bool is_blank(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\r'))
        p++;
    return p == end;
}

static int read_lines(const struct buf *text, const char *path, struct arena *arena, struct jsonmake *m,
                      struct err *err)
{
    const char *p = text->data, *end = p + text->len;
    int line = 1;

    for (; p < end; line++) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        const char *line_end = stop ? stop : end;
        const struct json *item;
        struct err why = {0};
        if (!is_blank(p, line_end)) {
            if (json_parse(p, (size_t)(line_end - p), 0, arena, &item, &why) != 0)
                return err_set(err, ERR_FORMAT, "%.200s:%d: %s", path, line, why.text);
            if (jsonmake_end(m)->n == ITEMS_MAX)
                return err_set(err, ERR_LIMIT, "%.200s: more than %d items", path, ITEMS_MAX);
            jsonmake_add(m, item);
        }
        p = stop ? stop + 1 : end;
    }
    return 0;
}

static int read_jsonl(const struct json *value, const char *dir, struct arena *arena, const struct json **list,
                      struct err *err)
{
    struct buf path = {0}, text = {0};
    struct jsonmake m;
    int rc = check_path(value, "jsonl", err);

    if (rc)
        return rc;
    join_path(&path, dir, value->text);
    jsonmake_begin(&m, arena, JSON_ARRAY);
    rc = file_read(path.data, ITEMS_FILE_BYTES_MAX, &text, err);
    if (rc == 0 && text.len)
        rc = read_lines(&text, path.data, arena, &m, err);
    if (rc == 0)
        *list = jsonmake_end(&m);
    buf_release(&path);
    buf_release(&text);
    return rc;
}

/* ---- files -------------------------------------------------------------------------------------------- */

static bool is_file(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* path: as matched; shown from `skip` bytes on, which is the plan's folder for relative patterns. */
static int add_file(struct jsonmake *m, const char *path, size_t skip, struct err *err)
{
    const char *shown = path + skip, *slash = strrchr(shown, '/'), *name = slash ? slash + 1 : shown;
    const char *dot = strrchr(name, '.');
    struct jsonmake file;

    if (!utf8_is_valid(shown, strlen(shown)))
        return err_set(err, ERR_FORMAT, "the name of a file is no UTF-8: %.200s", shown);
    if (jsonmake_end(m)->n == ITEMS_MAX)
        return err_set(err, ERR_LIMIT, "files: more than %d items", ITEMS_MAX);
    jsonmake_begin(&file, m->arena, JSON_OBJECT);
    jsonmake_put(&file, "path", jsonmake_cstr(m->arena, shown));
    jsonmake_put(&file, "name", jsonmake_cstr(m->arena, name));
    jsonmake_put(&file, "stem", jsonmake_str(m->arena, name, dot && dot > name ? (size_t)(dot - name) : strlen(name)));
    jsonmake_add(m, jsonmake_end(&file));
    return 0;
}

/* The plan's folder is no pattern, whatever stands in its name. */
static void escape_dir(struct buf *out, const char *dir)
{
    for (; *dir; dir++) {
        if (strchr("*?[]\\", *dir))
            buf_add_char(out, '\\');
        buf_add_char(out, *dir);
    }
    buf_add_char(out, '/');
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int read_files(const struct json *value, const char *dir, struct arena *arena, const struct json **list,
                      struct err *err)
{
    struct buf pattern = {0};
    struct jsonmake m;
    glob_t found = {0};
    size_t skip = 0;
    int rc = check_path(value, "files", err);

    if (rc)
        return rc;
    if (value->text[0] != '/') {
        escape_dir(&pattern, dir);
        skip = strlen(dir) + 1;
    }
    buf_add(&pattern, value->text, value->len);
    jsonmake_begin(&m, arena, JSON_ARRAY);
    switch (glob(pattern.data, GLOB_NOSORT, NULL, &found)) {
    case 0:
        qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, by_bytes);
        for (size_t i = 0; i < found.gl_pathc && rc == 0; i++)
            if (is_file(found.gl_pathv[i]))
                rc = add_file(&m, found.gl_pathv[i], skip, err);
        break;
    case GLOB_NOMATCH:
        break;
    default:
        rc = err_set(err, ERR_IO, "files: %.300s cannot be searched", value->text);
    }
    globfree(&found);
    buf_release(&pattern);
    if (rc == 0)
        *list = jsonmake_end(&m);
    return rc;
}

int items_make(enum pipeline_source source, const struct json *value, const char *dir, struct arena *arena,
               const struct json **list, struct err *err)
{
    if (source == PIPELINE_JSONL)
        return read_jsonl(value, dir, arena, list, err);
    if (source == PIPELINE_FILES)
        return read_files(value, dir, arena, list, err);
    if (!json_is(value, JSON_ARRAY))
        return err_set(err, ERR_ARG, "over must be a list, is %s", json_kind_name(value));
    if (value->n > ITEMS_MAX)
        return err_set(err, ERR_LIMIT, "over: more than %d items", ITEMS_MAX);
    *list = value;
    return 0;
}
