#include "worker/model/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int mdl__map_open(const char *path, uint64_t n_bytes_max, struct mdl__map *map, struct err *err)
{
    struct stat st;
    int rc = 0;
    void *data = NULL;

    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_MISSING : ERR_IO, "cannot be opened: %s", strerror(errno));
    if (fstat(fd, &st) != 0) {
        rc = err_set(err, ERR_IO, "cannot be examined: %s", strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = err_set(err, ERR_FORMAT, "is not a regular file");
        goto out;
    }
    if ((uint64_t)st.st_size > n_bytes_max) {
        rc = err_set(err, ERR_LIMIT, "has %lld bytes, the limit is %llu", (long long)st.st_size,
                     (unsigned long long)n_bytes_max);
        goto out;
    }
    if (st.st_size > 0) {
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            rc = err_set(err, ERR_IO, "cannot be mapped: %s", strerror(errno));
            goto out;
        }
    }
    *map = (struct mdl__map){data, (size_t)st.st_size};
out:
    close(fd);
    return rc;
}

void mdl__map_close(struct mdl__map *map)
{
    if (map->data)
        munmap((void *)map->data, map->n_bytes);
    *map = (struct mdl__map){0};
}
