/* controller/agent/tool/tool_impl.h - a call under way, shared by tool.c, tool_command.c and tool_http.c.
 * Owns:     struct tool_call its request, handles and result.
 * Thread:   the loop.
 */
#ifndef CONTROLLER_AGENT_TOOL_TOOL_IMPL_H
#define CONTROLLER_AGENT_TOOL_TOOL_IMPL_H

#include "controller/agent/tool/tool.h"

#include <curl/curl.h>

/* Life of a call. */
enum tool_state {
    TOOL_RUNNING,
    TOOL_ENDING, /* asked to end (SIGTERM): result.fault says why */
    TOOL_KILLED, /* told to be killed */
    TOOL_GIVEN_UP,
    TOOL_CLOSING, /* the result stands, handles close; then on_end */
};

struct tool_command {
    uv_process_t process;
    uv_pipe_t in, out, err, life;
    uv_write_t write;
    bool exited;
    char report[32]; /* what baton-exec says at the end */
    size_t report_len;
    char tail[TOOL_STDERR_MAX]; /* of stderr, a ring */
    size_t n_tail;              /* bytes seen */
};

struct tool_http {
    CURL *easy;
    struct curl_slist *header;
    char error[CURL_ERROR_SIZE];
    bool too_large;
};

struct tool_call {
    struct tool_runner *runner;
    struct tool_call *prev, *next;
    struct tool_request req;
    tool_end_fn on_end;
    void *arg;
    enum tool_state state;
    uv_timer_t timer;
    int64_t started_ns;
    int n_open; /* handles not closed yet */
    int n_streams; /* outputs not at their end */
    struct buf out;
    struct arena arena; /* of result.value */
    struct tool_result result;
    struct tool_command command;
    struct tool_http http;
};

struct tool_runner {
    uv_loop_t *loop;
    char exec_path[4096];
    struct tool_call *first;
    int n_call;
    bool closing;
    void (*on_closed)(void *arg);
    void *arg;
    int n_open; /* the runner's own handles */
    /* http: */
    CURLM *multi;
    uv_timer_t timer;
};

/* Begin. On a failure the result is set and tool__finish was called. */
void tool__command_start(struct tool_call *call);
void tool__http_start(struct tool_call *call);

/* SIGTERM, SIGKILL, nothing more to wait for; http: leave it at once. */
void tool__command_stop(struct tool_call *call, enum tool_state how);
void tool__http_stop(struct tool_call *call);

/* Close the handles of a command that are open. */
void tool__command_close(struct tool_call *call);
void tool__http_close(struct tool_call *call);

/* Each handle of a call is closed with this; data is the call. */
void tool__on_closed(uv_handle_t *handle);

/* Ask the call to end because of `fault`; the first reason stays. text: NULL, or what happened. */
void tool__end(struct tool_call *call, enum fault fault, const char *text);

/* The process is gone: its outputs end now, or after TOOL_HARD_MS the call ends without. */
void tool__await_streams(struct tool_call *call);

/* Set the result of a failure unless there is one. */
void tool__fail(struct tool_call *call, enum fault fault, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Take call->out as the output: JSON or text. */
void tool__take_output(struct tool_call *call);

/* The result stands: close everything, then tell it. */
void tool__finish(struct tool_call *call);

int tool__http_open(struct tool_runner *r, struct err *err);
void tool__http_close_all(struct tool_runner *r);
void tool__runner_on_closed(uv_handle_t *handle);

#endif
