/* controller/cli/child.h - one child process on a loop: its start, its lines of output, its end.
 * Owns:     process handle and two pipes while it runs.
 * Lifetime: child_init .. the process ended (on_end) or never started; then it may be started again or forgotten.
 * Thread:   the loop's.
 * Limits:   CHILD_LINE_MAX bytes a line, longer ones are handed out in pieces.
 *
 * A child runs in a session of its own, so that Ctrl-C in the terminal reaches only the supervisor, which then stops
 * its children in order. That no child outlives a killed supervisor is the child's own doing (--die-with-parent).
 */
#ifndef CONTROLLER_CLI_CHILD_H
#define CONTROLLER_CLI_CHILD_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum {
    CHILD_NAME_MAX = 32,
    CHILD_LINE_MAX = 4096,
    CHILD_BACKOFF_MS = 100,       /* first wait before a dead child is started again; doubles */
    CHILD_BACKOFF_MS_MAX = 10000, /* longest wait */
    CHILD_HEALTHY_MS = 10000,     /* a child that lived so long starts with the first wait again */
};

struct child;

/* A line of stdout (fd 1) or stderr (fd 2), without its newline; a NUL stands behind it. */
typedef void (*child_line_fn)(struct child *c, int fd, const char *line, size_t n);

/* The process ended, all its output was handed out, its handles are closed: child_start may be called. */
typedef void (*child_end_fn)(struct child *c, int exit_status, int signal);

struct child_stream {
    uv_pipe_t pipe;
    struct child *child;
    int fd;
    size_t n;
    char line[CHILD_LINE_MAX + 1];
};

struct child {
    char name[CHILD_NAME_MAX];
    uv_loop_t *loop;
    child_line_fn on_line;
    child_end_fn on_end;
    void *arg;
    bool running;           /* from child_start until on_end */
    int n_open;             /* handles not yet closed */
    int exit_status, signal;
    int n_fail;             /* ends in a row without CHILD_HEALTHY_MS of life */
    uint64_t started_ms;    /* loop time */
    uv_process_t process;
    struct child_stream out, err;
};

void child_init(struct child *c, uv_loop_t *loop, const char *name, child_line_fn on_line, child_end_fn on_end,
                void *arg);

/* Run argv (NULL at its end; argv[0] is the path). 0, or ERR_IO: then on_end is NOT called, and the child may be
 * started again only after the loop ran (child_is_idle). */
int child_start(struct child *c, char **argv, struct err *err);

bool child_is_idle(const struct child *c); /* no process and no open handle */
int child_pid(const struct child *c);      /* 0 when none runs */
void child_kill(struct child *c, int signal); /* no-op when none runs */

/* How long to wait before the next start, counted from how the last life went; counts the end. */
int64_t child_backoff_ms(struct child *c, int64_t lived_ms);

#endif
