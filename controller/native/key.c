/* The CURVE key pair of a file. */
#include "controller/native/native.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

/* Write a new pair's secret key. O_EXCL: two processes that start together do not both think that theirs is it. */
static int make_file(const char *path, char public_key[NATIVE_KEY_CHARS], char secret_key[NATIVE_KEY_CHARS],
                     struct err *err)
{
    char line[NATIVE_KEY_CHARS + 1];

    if (zmq_curve_keypair(public_key, secret_key) != 0)
        return err_set(err, ERR_UNSUPPORTED, "this libzmq has no CURVE: %s", zmq_strerror(zmq_errno()));
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, ERR_IO, "%s: cannot be made: %s", path, strerror(errno));
    snprintf(line, sizeof line, "%s\n", secret_key);
    bool ok = write(fd, line, strlen(line)) == (ssize_t)strlen(line) && fsync(fd) == 0;
    int e = errno;
    if (close(fd) != 0)
        ok = false;
    if (ok)
        return 0;
    unlink(path);
    return err_set(err, ERR_IO, "%s: cannot be written: %s", path, strerror(e));
}

int native_key_file(const char *path, char public_key[NATIVE_KEY_CHARS], char secret_key[NATIVE_KEY_CHARS],
                    struct err *err)
{
    struct stat st;
    char line[NATIVE_KEY_CHARS + 1] = "";

    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return make_file(path, public_key, secret_key, err);
    if (fd < 0)
        return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    ssize_t n = read(fd, line, sizeof line - 1);
    int rc = fstat(fd, &st);
    close(fd);
    if (n < 0 || rc != 0)
        return err_set(err, ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
    if (st.st_mode & 077)
        return err_set(err, ERR_STATE, "%s: others may read this secret key; run chmod 600 on it", path);
    line[strcspn(line, "\r\n")] = 0;
    if (strlen(line) != NATIVE_KEY_CHARS - 1 || zmq_curve_public(public_key, line) != 0)
        return err_set(err, ERR_FORMAT, "%s: the first line is no CURVE key of 40 Z85 characters", path);
    memcpy(secret_key, line, NATIVE_KEY_CHARS);
    return 0;
}
