#include "worker/model/safetensors.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "common/text/json.h"
#include "worker/model/file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Longer names are cut in messages, so that the reason behind them is not. */
#define NAME_FMT "tensor '%.160s'"

enum { LENGTH_BYTES = 8 };

/* A tensor while the file is checked: where its bytes are said to be. */
struct entry {
    struct mdl_tensor tensor;
    uint64_t begin, end;
};

struct st_file {
    struct mdl__map map;
    struct arena arena;
    struct mdl_tensor *tensor; /* in the order of their data */
    struct mdl_tensor **by_name;
    size_t n;
    uint64_t n_bytes;
};

/* ---- header ------------------------------------------------------------------------------------------- */

/* Upper bound of the values in a JSON text, without parsing: what stands behind '{', '[' and ','. */
static bool has_too_many_values(const char *text, size_t len)
{
    size_t n = 0;
    bool in_string = false;

    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string)
            n += c == ',' || c == '[' || c == '{';
    }
    return n > ST_HEADER_VALUES_MAX;
}

static int read_shape(const struct json *shape, struct mdl_tensor *t, struct err *err)
{
    if (!json_is(shape, JSON_ARRAY))
        return err_set(err, ERR_FORMAT, NAME_FMT ": shape is %s, an array is needed", t->name, json_kind_name(shape));
    if (shape->n > MDL_DIMS_MAX)
        return err_set(err, ERR_LIMIT, NAME_FMT ": shape has %u dimensions, the limit is %d", t->name, shape->n,
                       MDL_DIMS_MAX);
    for (const struct json *j = shape->child; j; j = j->next) {
        int64_t v;
        if (!json_to_i64(j, &v) || v < 0)
            return err_set(err, ERR_FORMAT, NAME_FMT ": dimension %d of the shape is %.40s, not a size", t->name,
                           t->n_dim, json_is(j, JSON_NUMBER) ? j->text : json_kind_name(j));
        t->dim[t->n_dim++] = v;
    }
    return 0;
}

static int read_offsets(const struct json *offsets, struct entry *e, uint64_t data_bytes, struct err *err)
{
    const char *name = e->tensor.name;
    int64_t v[2];

    if (!json_is(offsets, JSON_ARRAY) || offsets->n != 2 || !json_to_i64(json_at(offsets, 0), &v[0]) ||
        !json_to_i64(json_at(offsets, 1), &v[1]) || v[0] < 0 || v[1] < 0)
        return err_set(err, ERR_FORMAT, NAME_FMT ": data_offsets is not a pair of sizes", name);
    e->begin = (uint64_t)v[0];
    e->end = (uint64_t)v[1];
    if (e->begin > e->end)
        return err_set(err, ERR_FORMAT, NAME_FMT ": data_offsets %" PRIu64 "..%" PRIu64 " are reversed", name, e->begin,
                       e->end);
    if (e->end > data_bytes)
        return err_set(err, ERR_FORMAT,
                       NAME_FMT ": data_offsets %" PRIu64 "..%" PRIu64 " end behind the file's %" PRIu64
                                " bytes of data; the file is cut short or the header is wrong",
                       name, e->begin, e->end, data_bytes);
    return 0;
}

static int read_entry(const struct json *j, uint64_t data_bytes, struct arena *arena, struct entry *e, struct err *err)
{
    struct mdl_tensor *t = &e->tensor;
    uint64_t need;
    char shape[MDL_SHAPE_TEXT_MAX];

    *e = (struct entry){0};
    if (memchr(j->key, 0, j->key_len))
        return err_set(err, ERR_FORMAT, NAME_FMT ": the name holds a NUL byte", j->key);
    if (j->key_len == 0 || j->key_len > MDL_NAME_MAX)
        return err_set(err, ERR_LIMIT, NAME_FMT ": the name has %zu bytes, 1 to %d are allowed", j->key, j->key_len,
                       MDL_NAME_MAX);
    t->name = arena_dup(arena, j->key, j->key_len);
    if (j->kind != JSON_OBJECT)
        return err_set(err, ERR_FORMAT, NAME_FMT ": its entry is %s, an object is needed", t->name, json_kind_name(j));
    const struct json *dtype = json_get(j, "dtype");
    if (!json_is(dtype, JSON_STRING))
        return err_set(err, ERR_FORMAT, NAME_FMT ": dtype is %s, a string is needed", t->name, json_kind_name(dtype));
    if (!mdl_dtype_parse(dtype->text, dtype->len, &t->dtype))
        return err_set(err, ERR_UNSUPPORTED, NAME_FMT ": dtype '%.40s' is not known", t->name, dtype->text);
    int rc = read_shape(json_get(j, "shape"), t, err);
    if (rc)
        return rc;
    rc = read_offsets(json_get(j, "data_offsets"), e, data_bytes, err);
    if (rc)
        return rc;
    if (!mdl_shape_bytes(t->dtype, t->dim, t->n_dim, &need))
        return err_set(err, ERR_FORMAT, NAME_FMT ": %s of %s has more bytes than can be counted", t->name,
                       mdl_shape_text(t->dim, t->n_dim, shape), mdl_dtype_name(t->dtype));
    if (need != e->end - e->begin)
        return err_set(err, ERR_FORMAT,
                       NAME_FMT ": %s of %s needs %" PRIu64 " bytes, data_offsets %" PRIu64 "..%" PRIu64
                                " hold %" PRIu64,
                       t->name, mdl_shape_text(t->dim, t->n_dim, shape), mdl_dtype_name(t->dtype), need, e->begin,
                       e->end, e->end - e->begin);
    t->n_bytes = (size_t)need;
    return 0;
}

static int by_place(const void *va, const void *vb)
{
    const struct entry *a = va, *b = vb;

    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end)
        return a->end < b->end ? -1 : 1;
    return strcmp(a->tensor.name, b->tensor.name);
}

/* The data must be covered by the tensors once: sorted by place, each begins where the one before ended. */
static int check_cover(const struct entry *e, size_t n, uint64_t data_bytes, struct err *err)
{
    uint64_t at = 0;

    for (size_t i = 0; i < n; i++) {
        if (e[i].begin < at)
            return err_set(err, ERR_FORMAT,
                           NAME_FMT ": data_offsets %" PRIu64 "..%" PRIu64
                                    " overlap tensor '%.100s', which ends at %" PRIu64,
                           e[i].tensor.name, e[i].begin, e[i].end, e[i - 1].tensor.name, at);
        if (e[i].begin > at)
            return err_set(err, ERR_FORMAT,
                           NAME_FMT ": data begin at %" PRIu64 " and leave a hole behind %" PRIu64
                                    ", which the format forbids",
                           e[i].tensor.name, e[i].begin, at);
        at = e[i].end;
    }
    if (at != data_bytes)
        return err_set(err, ERR_FORMAT, "%" PRIu64 " bytes behind the last tensor belong to none", data_bytes - at);
    return 0;
}

/* Entries of the header as tensors in the order of their data. */
static int read_entries(const struct json *root, const unsigned char *data, uint64_t data_bytes, struct arena *arena,
                        struct mdl_tensor **tensor, size_t *n_tensor, struct err *err)
{
    if (root->n > ST_TENSORS_MAX)
        return err_set(err, ERR_LIMIT, "%u tensors, the limit is %d", root->n, ST_TENSORS_MAX);
    struct entry *entry = mem_array((size_t)root->n + 1, sizeof *entry);
    size_t n = 0;
    int rc = 0;
    for (const struct json *j = root->child; j; j = j->next) {
        if (j->key_len == 12 && memcmp(j->key, "__metadata__", 12) == 0)
            continue;
        rc = read_entry(j, data_bytes, arena, &entry[n++], err);
        if (rc)
            goto out;
    }
    qsort(entry, n, sizeof *entry, by_place);
    rc = check_cover(entry, n, data_bytes, err);
    if (rc)
        goto out;
    *tensor = arena_array(arena, n + 1, sizeof **tensor);
    *n_tensor = n;
    for (size_t i = 0; i < n; i++) {
        (*tensor)[i] = entry[i].tensor;
        (*tensor)[i].data = data + entry[i].begin;
    }
out:
    mem_free(entry);
    return rc;
}

int st_parse(const void *bytes, size_t n_bytes, struct arena *arena, struct mdl_tensor **tensor, size_t *n_tensor,
             struct err *err)
{
    const unsigned char *p = bytes;
    uint64_t header_bytes = 0;

    if (n_bytes < LENGTH_BYTES)
        return err_set(err, ERR_FORMAT, "has %zu bytes, too short for a safetensors file", n_bytes);
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        header_bytes = header_bytes << 8 | p[i];
    if (header_bytes > n_bytes - LENGTH_BYTES)
        return err_set(err, ERR_FORMAT,
                       "header is said to have %" PRIu64 " bytes, the file has %zu: cut short, or no safetensors file",
                       header_bytes, n_bytes);
    if (header_bytes > ST_HEADER_MAX)
        return err_set(err, ERR_LIMIT, "header has %" PRIu64 " bytes, the limit is %d", header_bytes, ST_HEADER_MAX);
    const char *text = (const char *)p + LENGTH_BYTES;
    if (header_bytes == 0 || text[0] != '{')
        return err_set(err, ERR_FORMAT, "header does not begin with '{': no safetensors file");
    if (has_too_many_values(text, header_bytes))
        return err_set(err, ERR_LIMIT, "header has more than %d values", ST_HEADER_VALUES_MAX);

    struct arena tree = {0};
    const struct json *root;
    int rc = json_parse(text, header_bytes, JSON_NO_REPEATED_KEYS, &tree, &root, err);
    if (rc)
        err_wrap(err, "header");
    else
        rc = read_entries(root, (const unsigned char *)text + header_bytes, n_bytes - LENGTH_BYTES - header_bytes,
                          arena, tensor, n_tensor, err);
    arena_release(&tree);
    return rc;
}

/* ---- reader ------------------------------------------------------------------------------------------- */

static int by_name(const void *va, const void *vb)
{
    const struct mdl_tensor *const *a = va, *const *b = vb;
    return strcmp((*a)->name, (*b)->name);
}

int st_open(const char *path, struct st_file **f_out, struct err *err)
{
    struct st_file *f = mem_zalloc(sizeof *f);

    int rc = mdl__map_open(path, INT64_MAX, &f->map, err);
    if (!rc)
        rc = st_parse(f->map.data, f->map.n_bytes, &f->arena, &f->tensor, &f->n, err);
    if (rc) {
        err_wrap(err, "%s", path);
        st_close(&f);
        return rc;
    }
    f->by_name = arena_array(&f->arena, f->n + 1, sizeof(struct mdl_tensor *));
    for (size_t i = 0; i < f->n; i++) {
        f->by_name[i] = &f->tensor[i];
        f->n_bytes += f->tensor[i].n_bytes;
    }
    qsort(f->by_name, f->n, sizeof(struct mdl_tensor *), by_name);
    *f_out = f;
    return 0;
}

void st_close(struct st_file **f_p)
{
    struct st_file *f = *f_p;

    if (!f)
        return;
    mdl__map_close(&f->map);
    arena_release(&f->arena);
    mem_free(f);
    *f_p = NULL;
}

size_t st_n_tensor(const struct st_file *f)
{
    return f->n;
}

const struct mdl_tensor *st_at(const struct st_file *f, size_t i)
{
    ASSERT(i < f->n);
    return &f->tensor[i];
}

const struct mdl_tensor *st_find(const struct st_file *f, const char *name)
{
    const struct mdl_tensor key = {.name = name}, *key_p = &key;
    struct mdl_tensor **at = bsearch(&key_p, f->by_name, f->n, sizeof(struct mdl_tensor *), by_name);
    return at ? *at : NULL;
}

uint64_t st_bytes(const struct st_file *f)
{
    return f->n_bytes;
}
