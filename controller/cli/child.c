#include "controller/cli/child.h"

#include "common/base/check.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void child_init(struct child *c, uv_loop_t *loop, const char *name, child_line_fn on_line, child_end_fn on_end,
                void *arg)
{
    memset(c, 0, sizeof *c);
    snprintf(c->name, sizeof c->name, "%s", name);
    c->loop = loop;
    c->on_line = on_line;
    c->on_end = on_end;
    c->arg = arg;
    c->out.child = c->err.child = c;
    c->out.fd = STDOUT_FILENO;
    c->err.fd = STDERR_FILENO;
}

bool child_is_idle(const struct child *c)
{
    return !c->running && c->n_open == 0;
}

int child_pid(const struct child *c)
{
    return c->running && uv_is_active((const uv_handle_t *)&c->process) ? c->process.pid : 0;
}

void child_kill(struct child *c, int signal)
{
    if (child_pid(c))
        uv_process_kill(&c->process, signal);
}

int64_t child_backoff_ms(struct child *c, int64_t lived_ms)
{
    int64_t wait_ms = CHILD_BACKOFF_MS;

    if (lived_ms >= CHILD_HEALTHY_MS)
        c->n_fail = 0;
    for (int i = 0; i < c->n_fail && wait_ms < CHILD_BACKOFF_MS_MAX; i++)
        wait_ms *= 2;
    c->n_fail++;
    return wait_ms < CHILD_BACKOFF_MS_MAX ? wait_ms : CHILD_BACKOFF_MS_MAX;
}

static void give_line(struct child_stream *s)
{
    s->line[s->n] = '\0';
    s->child->on_line(s->child, s->fd, s->line, s->n);
    s->n = 0;
}

static void feed(struct child_stream *s, const char *data, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (data[i] == '\n') {
            give_line(s);
            continue;
        }
        s->line[s->n++] = data[i];
        if (s->n == CHILD_LINE_MAX)
            give_line(s);
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct child *c = handle->data;

    ASSERT(c->n_open > 0);
    if (--c->n_open == 0 && c->running) {
        c->running = false;
        c->on_end(c, c->exit_status, c->signal);
    }
}

static void close_stream(struct child_stream *s)
{
    if (!uv_is_closing((uv_handle_t *)&s->pipe))
        uv_close((uv_handle_t *)&s->pipe, on_closed);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    static char chunk[1 << 16]; /* handed to on_read at once, one loop thread */

    (void)handle, (void)suggested;
    *buf = uv_buf_init(chunk, sizeof chunk);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct child_stream *s = CONTAINER_OF(stream, struct child_stream, pipe);

    if (n > 0)
        feed(s, buf->base, (size_t)n);
    else if (n < 0)
        close_stream(s);
}

/* What the dead child had still written. Waiting for end-of-file instead would wait for its own children. */
static void drain(struct child_stream *s)
{
    char chunk[4096];
    uv_os_fd_t fd;
    ssize_t n;

    if (!uv_is_closing((uv_handle_t *)&s->pipe) && uv_fileno((uv_handle_t *)&s->pipe, &fd) == 0) {
        while ((n = read(fd, chunk, sizeof chunk)) > 0 || (n < 0 && errno == EINTR))
            feed(s, chunk, n > 0 ? (size_t)n : 0);
    }
    if (s->n)
        give_line(s);
    close_stream(s);
}

static void on_exit(uv_process_t *process, int64_t status, int signal)
{
    struct child *c = process->data;

    c->exit_status = (int)status;
    c->signal = signal;
    drain(&c->out);
    drain(&c->err);
    uv_close((uv_handle_t *)process, on_closed);
}

int child_start(struct child *c, char **argv, struct err *err)
{
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_IGNORE},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&c->out.pipe},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&c->err.pipe},
    };
    uv_process_options_t options = {.exit_cb = on_exit, .file = argv[0], .args = argv, .stdio = stdio,
                                    .stdio_count = 3, .flags = UV_PROCESS_DETACHED};

    ASSERT(child_is_idle(c));
    uv_pipe_init(c->loop, &c->out.pipe, 0);
    uv_pipe_init(c->loop, &c->err.pipe, 0);
    c->out.pipe.data = c->err.pipe.data = c->process.data = c;
    c->out.n = c->err.n = 0;
    c->n_open = 3;
    int rc = uv_spawn(c->loop, &c->process, &options);
    if (rc == 0) {
        c->running = true;
        c->started_ms = uv_now(c->loop);
        uv_read_start((uv_stream_t *)&c->out.pipe, on_alloc, on_read);
        uv_read_start((uv_stream_t *)&c->err.pipe, on_alloc, on_read);
        return 0;
    }
    uv_close((uv_handle_t *)&c->process, on_closed);
    uv_close((uv_handle_t *)&c->out.pipe, on_closed);
    uv_close((uv_handle_t *)&c->err.pipe, on_closed);
    return err_set(err, ERR_IO, "cannot run %s: %s", argv[0], uv_strerror(rc));
}
