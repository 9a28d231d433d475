/* The writer half of safetensors.h. */
#include "common/base/check.h"
#include "common/mem/buf.h"
#include "common/mem/mem.h"
#include "common/text/json.h"
#include "worker/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Where a tensor goes in the file, and how much of it is there. */
struct slot {
    uint64_t at, n_bytes, n_put;
};

struct st_writer {
    char *path, *tmp_path;
    int fd;
    struct slot *slot;
    size_t n;
};

static void writer_free(struct st_writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
    mem_free(w->path);
    mem_free(w->tmp_path);
    mem_free(w->slot);
    mem_free(w);
}

void st_writer_abort(struct st_writer **w_p)
{
    struct st_writer *w = *w_p;

    if (!w)
        return;
    if (w->fd >= 0)
        unlink(w->tmp_path);
    writer_free(w);
    *w_p = NULL;
}

static int write_at(struct st_writer *w, const void *data, size_t n, uint64_t at, struct err *err)
{
    const char *p = data;

    while (n > 0) {
        ssize_t k = pwrite(w->fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_set(err, ERR_IO, "%s: cannot be written: %s", w->tmp_path,
                           k < 0 ? strerror(errno) : "no progress");
        p += k;
        n -= (size_t)k;
        at += (uint64_t)k;
    }
    return 0;
}

/* Places behind the header: widest element type first, so that every tensor is aligned; then as given. */
static uint64_t place(struct st_writer *w, const struct st_spec *spec)
{
    uint64_t at = 0;

    for (size_t i = 0; i < w->n; i++) {
        bool fits = mdl_shape_bytes(spec[i].dtype, spec[i].dim, spec[i].n_dim, &w->slot[i].n_bytes);
        ASSERT(fits);
    }
    for (size_t width = 8; width > 0; width /= 2) {
        for (size_t i = 0; i < w->n; i++) {
            if (mdl_dtype_bytes(spec[i].dtype) != width)
                continue;
            w->slot[i].at = at;
            at += w->slot[i].n_bytes;
        }
    }
    return at;
}

static void add_header(struct buf *out, const struct st_writer *w, const struct st_spec *spec)
{
    static const char space[8] = "        ";

    buf_add(out, "\0\0\0\0\0\0\0\0", 8); /* the length, filled in below */
    buf_add_char(out, '{');
    for (size_t i = 0; i < w->n; i++) {
        if (i > 0)
            buf_add_char(out, ',');
        json_add_str(out, spec[i].name, strlen(spec[i].name));
        buf_addf(out, ":{\"dtype\":\"%s\",\"shape\":[", mdl_dtype_name(spec[i].dtype));
        for (int d = 0; d < spec[i].n_dim; d++)
            buf_addf(out, "%s%lld", d ? "," : "", (long long)spec[i].dim[d]);
        buf_addf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)w->slot[i].at,
                 (unsigned long long)(w->slot[i].at + w->slot[i].n_bytes));
    }
    buf_add_char(out, '}');
    buf_add(out, space, (8 - out->len % 8) % 8);
    uint64_t len = out->len - 8;
    for (int i = 0; i < 8; i++)
        out->data[i] = (char)(unsigned char)(len >> 8 * i);
}

int st_writer_open(const char *path, const struct st_spec *spec, size_t n, struct st_writer **w_out, struct err *err)
{
    struct st_writer *w = mem_zalloc(sizeof *w);
    struct buf header = {0};
    int rc = 0;

    w->fd = -1;
    w->n = n;
    w->slot = mem_array(n + 1, sizeof *w->slot);
    w->path = mem_strdup(path);
    buf_addf(&header, "%s.tmp.%ld", path, (long)getpid());
    w->tmp_path = buf_take(&header, NULL);
    uint64_t data_bytes = place(w, spec);
    add_header(&header, w, spec);
    for (size_t i = 0; i < n; i++)
        w->slot[i].at += header.len;

    w->fd = open(w->tmp_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (w->fd < 0)
        rc = err_set(err, ERR_IO, "%s: cannot be created: %s", w->tmp_path, strerror(errno));
    else if (ftruncate(w->fd, (off_t)(header.len + data_bytes)) != 0)
        rc = err_set(err, ERR_IO, "%s: cannot be given %llu bytes: %s", w->tmp_path,
                     (unsigned long long)(header.len + data_bytes), strerror(errno));
    else
        rc = write_at(w, header.data, header.len, 0, err);
    buf_release(&header);
    if (rc) {
        st_writer_abort(&w);
        return rc;
    }
    *w_out = w;
    return 0;
}

int st_writer_put(struct st_writer *w, size_t i, const void *data, size_t n_bytes, struct err *err)
{
    ASSERT(i < w->n);
    struct slot *slot = &w->slot[i];
    ASSERT(n_bytes <= slot->n_bytes - slot->n_put);
    int rc = write_at(w, data, n_bytes, slot->at + slot->n_put, err);
    if (!rc)
        slot->n_put += n_bytes;
    return rc;
}

int st_writer_close(struct st_writer **w_p, struct err *err)
{
    struct st_writer *w = *w_p;
    int rc = 0;

    for (size_t i = 0; i < w->n; i++)
        ASSERT(w->slot[i].n_put == w->slot[i].n_bytes);
    int fd = w->fd;
    w->fd = -1;
    /* Some file systems report a full disk only here. */
    if (close(fd) != 0 && errno != EINTR)
        rc = err_set(err, ERR_IO, "%s: cannot be written: %s", w->tmp_path, strerror(errno));
    else if (rename(w->tmp_path, w->path) != 0)
        rc = err_set(err, ERR_IO, "%s: cannot be put in place: %s", w->path, strerror(errno));
    if (rc)
        unlink(w->tmp_path);
    writer_free(w);
    *w_p = NULL;
    return rc;
}

int st_write(const char *path, const struct st_spec *spec, const void *const *data, size_t n, struct err *err)
{
    struct st_writer *w;
    uint64_t n_bytes;

    int rc = st_writer_open(path, spec, n, &w, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < n; i++) {
        bool fits = mdl_shape_bytes(spec[i].dtype, spec[i].dim, spec[i].n_dim, &n_bytes);
        ASSERT(fits);
        rc = st_writer_put(w, i, data[i], (size_t)n_bytes, err);
        if (rc) {
            st_writer_abort(&w);
            return rc;
        }
    }
    return st_writer_close(&w, err);
}
