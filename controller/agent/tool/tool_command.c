/* A command of a tool, under baton-exec. Pipes are real pipes, not socket pairs: /dev/stdin must work in a script. */
#include "common/base/check.h"
#include "common/mem/mem.h"
#include "controller/agent/tool/tool_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { END_IN, END_OUT, END_ERR, ENDS };

static struct tool_call *call_of(void *handle)
{
    return ((uv_handle_t *)handle)->data;
}

/* ---- the end ------------------------------------------------------------------------------------------ */

static bool has_code(const int *code, int n, int value)
{
    for (int i = 0; i < n; i++)
        if (code[i] == value)
            return true;
    return false;
}

/* The last line of stderr that is not empty, for the error text. */
static void last_words(const struct tool_command *c, char *out, size_t size)
{
    size_t n = c->n_tail < sizeof c->tail ? c->n_tail : sizeof c->tail, begin;
    char text[sizeof c->tail];

    for (size_t i = 0; i < n; i++)
        text[i] = c->tail[(c->n_tail - n + i) % sizeof c->tail];
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r' || text[n - 1] == ' '))
        n--;
    for (begin = n; begin > 0 && text[begin - 1] != '\n';)
        begin--;
    if (n - begin >= size)
        n = begin + size - 1;
    memcpy(out, text + begin, n - begin);
    out[n - begin] = '\0';
}

static void conclude(struct tool_call *call)
{
    struct tool_command *c = &call->command;
    char words[300] = "";
    const char *colon;
    int number = 0;

    last_words(c, words, sizeof words);
    colon = words[0] ? ": " : "";
    c->report[c->report_len] = '\0';
    if (sscanf(c->report, "exit %d", &number) == 1) {
        call->result.exit_code = number;
        if (has_code(call->req.ok_code, call->req.n_ok_code, number)) {
            if (call->result.fault == FAULT_none)
                tool__take_output(call);
        } else if (has_code(call->req.retry_code, call->req.n_retry_code, number)) {
            tool__fail(call, FAULT_busy, "%.100s: exit code %d%s%s", call->req.argv[0], number, colon, words);
        } else {
            tool__fail(call, FAULT_tool, "%.100s: exit code %d%s%s", call->req.argv[0], number, colon, words);
        }
    } else if (sscanf(c->report, "signal %d", &number) == 1) {
        call->result.exit_code = -number;
        tool__fail(call, FAULT_tool, "%.100s: ended by signal %d (%s)%s%s", call->req.argv[0], number,
                   strsignal(number), colon, words);
    } else if (sscanf(c->report, "noexec %d", &number) == 1) {
        tool__fail(call, FAULT_tool, "%.200s: cannot be started: %s", call->req.argv[0], strerror(number));
    } else {
        tool__fail(call, FAULT_tool, "%.100s: lost: baton-exec was killed", call->req.argv[0]);
    }
    tool__finish(call);
}

static void maybe_conclude(struct tool_call *call)
{
    if (call->command.exited && call->n_streams == 0 && call->state != TOOL_CLOSING)
        conclude(call);
}

static void close_one(void *handle)
{
    uv_handle_t *h = handle;

    if (h->data && !uv_is_closing(h))
        uv_close(h, tool__on_closed);
}

void tool__command_close(struct tool_call *call)
{
    struct tool_command *c = &call->command;

    close_one(&c->in);
    close_one(&c->out);
    close_one(&c->err);
    close_one(&c->life);
    close_one(&c->process);
}

void tool__command_stop(struct tool_call *call, enum tool_state how)
{
    struct tool_command *c = &call->command;

    if (c->exited) {
        if (how == TOOL_GIVEN_UP)
            conclude(call); /* something holds its output open: what came so far is what there is */
        return;
    }
    if (how == TOOL_ENDING) {
        uv_process_kill(&c->process, SIGTERM); /* passed on to the command */
    } else if (how == TOOL_GIVEN_UP) {
        uv_process_kill(&c->process, SIGKILL);
    } else if (!uv_is_closing((uv_handle_t *)&c->life)) {
        close_one(&c->life); /* baton-exec kills whatever is left */
        call->n_streams--;
    }
}

/* ---- streams ------------------------------------------------------------------------------------------ */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    static char chunk[1 << 16]; /* handed to on_read at once, one loop thread */

    (void)handle, (void)suggested;
    *buf = uv_buf_init(chunk, sizeof chunk);
}

static void take_stdout(struct tool_call *call, const char *data, size_t n)
{
    char text[96];

    if (call->result.fault != FAULT_none)
        return; /* on its way out: read on, so that nobody waits for us */
    if (call->out.len + n > (size_t)call->req.max_output_bytes) {
        snprintf(text, sizeof text, "more than max_output_bytes (%lld) on stdout",
                 (long long)call->req.max_output_bytes);
        tool__end(call, FAULT_output, text);
        return;
    }
    buf_add(&call->out, data, n);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct tool_call *call = call_of(stream);
    struct tool_command *c = &call->command;

    if (n < 0) {
        close_one(stream);
        call->n_streams--;
        maybe_conclude(call);
        return;
    }
    if (stream == (uv_stream_t *)&c->out) {
        take_stdout(call, buf->base, (size_t)n);
    } else if (stream == (uv_stream_t *)&c->err) {
        for (ssize_t i = 0; i < n; i++)
            c->tail[c->n_tail++ % sizeof c->tail] = buf->base[i];
    } else {
        for (ssize_t i = 0; i < n && c->report_len < sizeof c->report - 1; i++)
            c->report[c->report_len++] = buf->base[i];
    }
}

/* A tool need not read what it is given: a broken pipe is no error. */
static void on_written(uv_write_t *write, int status)
{
    struct tool_call *call = write->data;

    (void)status;
    close_one(&call->command.in);
}

static void on_exit(uv_process_t *process, int64_t status, int signal)
{
    struct tool_call *call = call_of(process);

    (void)status, (void)signal; /* those of baton-exec; the command's are in its report */
    call->command.exited = true;
    if (call->state == TOOL_CLOSING)
        return;
    /* Nothing of the command lives on, so its outputs end now; should something hold them open, the clock decides. */
    tool__await_streams(call);
    maybe_conclude(call);
}

/* ---- start -------------------------------------------------------------------------------------------- */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static int open_end(struct tool_call *call, uv_pipe_t *pipe, int *fd)
{
    int rc = uv_pipe_init(call->runner->loop, pipe, 0);

    if (rc)
        return rc;
    pipe->data = call;
    call->n_open++;
    rc = uv_pipe_open(pipe, *fd); /* makes it non-blocking */
    if (rc == 0)
        *fd = -1; /* the handle's now */
    return rc;
}

/* The three pipes: ours[i] becomes a handle, theirs[i] goes to the command. */
static int open_pipes(struct tool_call *call, int ours[ENDS], int theirs[ENDS])
{
    struct tool_command *c = &call->command;
    uv_pipe_t *handle[ENDS] = {&c->in, &c->out, &c->err};

    for (int i = call->req.input ? END_IN : END_OUT; i < ENDS; i++) {
        int fd[2];
        if (pipe2(fd, O_CLOEXEC) != 0)
            return -errno;
        ours[i] = fd[i == END_IN];
        theirs[i] = fd[i != END_IN];
        int rc = open_end(call, handle[i], &ours[i]);
        if (rc)
            return rc;
    }
    return 0;
}

static int spawn(struct tool_call *call, const int theirs[ENDS])
{
    struct tool_command *c = &call->command;
    static char name[] = "baton-exec";
    char *argv[PIPELINE_ARGV_MAX + 2];
    uv_stdio_container_t stdio[ENDS + 1];
    int n = 0;

    argv[n++] = name;
    for (char **a = call->req.argv; *a; a++)
        argv[n++] = *a;
    argv[n] = NULL;
    for (int i = 0; i < ENDS; i++) {
        stdio[i].flags = theirs[i] >= 0 ? UV_INHERIT_FD : UV_IGNORE;
        stdio[i].data.fd = theirs[i];
    }
    int rc = uv_pipe_init(call->runner->loop, &c->life, 0);
    if (rc)
        return rc;
    c->life.data = call;
    call->n_open++;
    stdio[ENDS].flags = UV_CREATE_PIPE | UV_READABLE_PIPE | UV_WRITABLE_PIPE;
    stdio[ENDS].data.stream = (uv_stream_t *)&c->life;
    uv_process_options_t options = {
        .exit_cb = on_exit,
        .file = call->runner->exec_path,
        .args = argv,
        .env = call->req.env,
        .cwd = call->req.dir,
        .flags = UV_PROCESS_DETACHED,
        .stdio_count = ENDS + 1,
        .stdio = stdio,
    };
    rc = uv_spawn(call->runner->loop, &c->process, &options);
    c->process.data = call; /* a handle also when it failed */
    call->n_open++;
    return rc;
}

static void start_streams(struct tool_call *call)
{
    struct tool_command *c = &call->command;
    uv_stream_t *in[] = {(uv_stream_t *)&c->out, (uv_stream_t *)&c->err, (uv_stream_t *)&c->life};

    for (size_t i = 0; i < N_ELEM(in); i++) {
        int rc = uv_read_start(in[i], on_alloc, on_read);
        ASSERT(rc == 0);
        call->n_streams++;
    }
    if (!call->req.input)
        return;
    uv_buf_t data = uv_buf_init((char *)call->req.input, (unsigned)call->req.input_len);
    c->write.data = call;
    if (uv_write(&c->write, (uv_stream_t *)&c->in, &data, 1, on_written) != 0)
        close_one(&c->in);
}

void tool__command_start(struct tool_call *call)
{
    int ours[ENDS] = {-1, -1, -1}, theirs[ENDS] = {-1, -1, -1};
    int rc = open_pipes(call, ours, theirs);

    if (rc == 0)
        rc = spawn(call, theirs);
    for (int i = 0; i < ENDS; i++) {
        close_fd(&ours[i]);
        close_fd(&theirs[i]);
    }
    if (rc == 0) {
        start_streams(call);
        return;
    }
    call->command.exited = true;
    tool__fail(call, FAULT_tool, "%.100s: cannot be started in %.200s: %s", call->req.argv[0], call->req.dir,
               uv_strerror(rc));
    tool__finish(call);
}
