/* controller/agent/tool/tool.h - runs one tool of a pipeline, a command or an HTTP call, on the loop.
 * Owns:     the runner its HTTP handles and every call under way; a request its arena.
 * Lifetime: tool_runner_open .. on_closed of tool_runner_close. A call: tool_start .. on_end, which comes exactly once,
 *           never from inside tool_start or tool_cancel.
 * Thread:   the loop.
 * Limits:   TOOL_CALLS_MAX calls at once; TOOL_STDERR_MAX bytes of stderr kept (the last ones); TOOL_STDIN_MAX; output
 *           and time by the request; TOOL_GRACE_MS between SIGTERM and SIGKILL; TOOL_HARD_MS after that the call ends
 *           even if a process cannot be killed; TOOL_CONNECT_MS for a connection.
 *
 * A command runs under baton-exec (tool/exec/main.c), which starts it in a process group of its own and ends all of it,
 * whatever it started: when the command has ended, when the time is over, and when the controller dies, however
 * that happens. No shell is in between; an argument is never split or expanded.
 */
#ifndef CONTROLLER_AGENT_TOOL_TOOL_H
#define CONTROLLER_AGENT_TOOL_TOOL_H

#include "controller/agent/plan/fault.h"
#include "controller/agent/plan/pipeline.h"

#include <uv.h>

enum {
    TOOL_CALLS_MAX = 256,
    TOOL_STDERR_MAX = 4096,
    TOOL_STDIN_MAX = 64 << 20,
    TOOL_ARG_MAX = 128 << 10, /* bytes of one argument; the kernel takes no longer one */
    TOOL_GRACE_MS = 2000,
    TOOL_TEXT_MAX = ERR_TEXT_MAX,
    TOOL_HARD_MS = 2000,
    TOOL_CONNECT_MS = 10000,
};

/* Who calls: given to commands as BATON_RUN, BATON_STEP, BATON_ATTEMPT and BATON_EFFECT_TOKEN, to HTTP as the header
 * Idempotency-Key. The effect token is the same for every attempt of a step: a tool that remembers the tokens
 * it has seen takes effect once. */
struct tool_who {
    const char *run;
    const char *step; /* path: "extract[12].read" */
    int attempt;      /* 1.. */
    const char *effect_token;
};

/* One call, all templates rendered: plain data. */
struct tool_request {
    struct arena arena;
    bool is_http;
    bool is_text;
    int64_t timeout_ms, max_output_bytes;
    const int *ok_code, *retry_code; /* [n_...], point into the plan */
    int n_ok_code, n_retry_code;
    /* command: */
    char **argv; /* NULL at the end */
    char **env;  /* "NAME=value", NULL at the end: all there is */
    const char *dir;
    const char *input; /* bytes for stdin; NULL: none (stdin is /dev/null) */
    size_t input_len;
    /* http (body is `input`): */
    const char *method, *url;
    char **header; /* "Name: value", NULL at the end */
    int max_redirects;
};

/* How a call ended. Lies in the runner until on_end has returned. */
struct tool_result {
    bool ok;
    const struct json *value; /* ok: the output (JSON, or a string); else NULL */
    enum fault fault;         /* not ok: the class */
    char text[TOOL_TEXT_MAX]; /* not ok: one line: what happened, last line of stderr or of the answer */
    int64_t after_ms;         /* Retry-After of an HTTP answer, 0: none */
    int exit_code;            /* command: its exit code, -signal, or -1000 if it did not run; HTTP: status, 0: none */
    int64_t wall_ms;
};

/* Render a tool's templates into a request.
 *   scope     of the step; for an agent's tool it knows "args" as well. "env" is answered here, by the environment
 *   dir       the plan's
 *   args      arguments of an agent's call (they are stdin or body unless the tool says other), NULL in a tool step
 * 0 and *out (tool_request_release); errors of template_render, ERR_ARG (argument is no text, has a NUL, is too long;
 * URL is no http or https; a header has a line break), ERR_LIMIT. All of them mean FAULT_template. */
int tool_request_make(struct tool_request *out, const struct pipeline_tool *tool, const struct expr_scope *scope,
                      const char *dir, const struct json *args, const struct tool_who *who, struct err *err);
void tool_request_release(struct tool_request *r);

struct tool_runner;
struct tool_call;

typedef void (*tool_end_fn)(void *arg, const struct tool_result *result);

/* exec_path: the baton-exec binary, NULL: beside this program. 0, or ERR_MISSING (no baton-exec), ERR_MEM. SIGPIPE must
 * be ignored by the process. */
int tool_runner_open(struct tool_runner **out, uv_loop_t *loop, const char *exec_path, struct err *err);

/* End all calls (their on_end comes, with FAULT_canceled) and give everything back. */
void tool_runner_close(struct tool_runner **r, void (*on_closed)(void *arg), void *arg);

int tool_runner_n(const struct tool_runner *r); /* calls under way */

/* Start a call; the request is taken (*req is empty then) on success. 0 and *call (may be NULL), valid until on_end;
 * ERR_BUSY: TOOL_CALLS_MAX are under way. Whatever else goes wrong is told by on_end. */
int tool_start(struct tool_runner *r, struct tool_request *req, tool_end_fn on_end, void *arg, struct tool_call **call,
               struct err *err);

/* End it: SIGTERM, SIGKILL after TOOL_GRACE_MS; HTTP at once. on_end comes with FAULT_canceled. Repeatable. */
void tool_cancel(struct tool_call *call);

#endif
