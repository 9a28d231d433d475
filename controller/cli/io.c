/* controller/cli/io.c - what the subcommands share: flags, errors, standard input and output, sibling binaries. */
#include "controller/cli/cli.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

int cli_fail(const char *name, const struct err *err)
{
    fprintf(stderr, "baton %s: %s\n", name, err->text);
    return CLI_FAILED;
}

int cli_flags(const char *name, struct flags *f, int argc, char **argv)
{
    struct err err = {0};
    int rc = flags_parse(f, argc, argv, &err);

    if (rc == FLAGS_HELP)
        return CLI_GOOD;
    if (rc) {
        cli_fail(name, &err);
        return CLI_USAGE;
    }
    return -1;
}

int cli_sibling(const char *program, char path[CLI_PATH_MAX], struct err *err)
{
    ssize_t n = readlink("/proc/self/exe", path, CLI_PATH_MAX - 1);

    if (n < 0)
        return err_set(err, ERR_IO, "cannot read /proc/self/exe: %s", strerror(errno));
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    size_t dir_len = slash ? (size_t)(slash + 1 - path) : 0;
    if (dir_len + strlen(program) >= CLI_PATH_MAX)
        return err_set(err, ERR_LIMIT, "path of %s is too long", program);
    strcpy(path + dir_len, program);
    if (access(path, X_OK) != 0)
        return err_set(err, ERR_MISSING, "%s is not there (%s); it is installed beside baton", path, strerror(errno));
    return 0;
}

int cli_read_all(FILE *f, size_t max, struct buf *out, struct err *err)
{
    for (;;) {
        size_t n = fread(buf_room(out, 1 << 16), 1, 1 << 16, f);
        out->len += n;
        if (out->len > max)
            return err_set(err, ERR_LIMIT, "input is longer than %zu bytes", max);
        if (n == 0)
            break;
    }
    if (ferror(f))
        return err_set(err, ERR_IO, "cannot read input: %s", strerror(errno));
    return 0;
}

int cli_read_line(FILE *f, size_t max, struct buf *line, struct err *err)
{
    size_t n_dropped = 0;
    int c;

    buf_clear(line);
    while ((c = getc_unlocked(f)) != EOF && c != '\n') {
        if (line->len < max)
            buf_add_char(line, (char)c);
        else
            n_dropped++;
    }
    if (c == EOF && ferror(f))
        return err_set(err, ERR_IO, "cannot read input: %s", strerror(errno));
    if (n_dropped)
        return err_set(err, ERR_LIMIT, "line of %zu bytes is longer than %zu", max + n_dropped, max);
    return c == EOF && line->len == 0 ? 0 : 1;
}

int cli_write(const struct buf *b, struct err *err)
{
    if ((b->len && fwrite(b->data, 1, b->len, stdout) != b->len) || fflush(stdout) != 0)
        return err_set(err, ERR_IO, "cannot write to stdout: %s", strerror(errno));
    return 0;
}
