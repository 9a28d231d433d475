#include "common/mem/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_ROOM = 65536 };

/* The file may change while it is read: what counts is what comes, within the limit. */
static int read_all(int fd, const char *path, size_t n_bytes_max, struct buf *out, struct err *err)
{
    size_t start = out->len;
    ssize_t n;

    do {
        n = read(fd, buf_room(out, FILE_ROOM), FILE_ROOM);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
        out->len += (size_t)n;
        if (out->len - start > n_bytes_max)
            return err_set(err, ERR_LIMIT, "%s: more than the %zu bytes that are read of it", path, n_bytes_max);
    } while (n != 0);
    buf_add(out, "", 0);
    return 0;
}

int file_read(const char *path, size_t n_bytes_max, struct buf *out, struct err *err)
{
    struct stat st;
    size_t start = out->len;
    /* Without O_NONBLOCK, opening a pipe that nobody writes would hang before it can be refused. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc;

    if (fd < 0)
        return err_set(err, errno == ENOENT || errno == ENOTDIR ? ERR_MISSING : ERR_IO, "%s: %s", path,
                       strerror(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        rc = err_set(err, ERR_IO, "%s: not a regular file", path);
    else if ((uint64_t)st.st_size > n_bytes_max)
        rc = err_set(err, ERR_LIMIT, "%s: more than the %zu bytes that are read of it", path, n_bytes_max);
    else
        rc = read_all(fd, path, n_bytes_max, out, err);
    close(fd);
    if (rc)
        out->len = start;
    return rc;
}
