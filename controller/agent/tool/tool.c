#include "controller/agent/tool/tool.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "common/text/jsonmake.h"
#include "common/text/utf8.h"
#include "controller/agent/tool/tool_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- the end of a call -------------------------------------------------------------------------------- */

void tool__fail(struct tool_call *call, enum fault fault, const char *fmt, ...)
{
    struct err clean = {0};
    va_list ap;

    if (call->result.fault != FAULT_none)
        return;
    va_start(ap, fmt);
    err_setv(&clean, ERR_IO, fmt, ap);
    va_end(ap);
    call->result.ok = false;
    call->result.value = NULL;
    call->result.fault = fault;
    memcpy(call->result.text, clean.text, sizeof clean.text);
}

void tool__take_output(struct tool_call *call)
{
    const struct buf *out = &call->out;
    const char *data = out->len ? out->data : "";
    struct err why = {0};

    if (call->req.is_text) {
        struct buf clean = {0};
        utf8_add_replaced(&clean, data, out->len);
        call->result.value = jsonmake_str(&call->arena, clean.len ? clean.data : "", clean.len);
        buf_release(&clean);
    } else if (strspn(data, " \t\r\n") == out->len) {
        call->result.value = &jsonmake_null; /* a tool that has nothing to say */
    } else if (json_parse(data, out->len, 0, &call->arena, &call->result.value, &why) != 0) {
        tool__fail(call, FAULT_output, "the output is no JSON (returns: text takes any text): %s", why.text);
        return;
    }
    call->result.ok = true;
}

void tool__on_closed(uv_handle_t *handle)
{
    struct tool_call *call = handle->data;
    struct tool_runner *r = call->runner;

    ASSERT(call->n_open > 0);
    if (--call->n_open > 0)
        return;
    if (call->prev)
        call->prev->next = call->next;
    else
        r->first = call->next;
    if (call->next)
        call->next->prev = call->prev;
    r->n_call--;
    call->on_end(call->arg, &call->result);
    tool_request_release(&call->req);
    buf_release(&call->out);
    arena_release(&call->arena);
    mem_free(call);
    if (r->closing && r->n_call == 0)
        tool__http_close_all(r);
}

void tool__finish(struct tool_call *call)
{
    if (call->state == TOOL_CLOSING)
        return;
    call->state = TOOL_CLOSING;
    call->result.wall_ms = (clock_mono_ns() - call->started_ns) / 1000000;
    if (call->req.is_http)
        tool__http_close(call);
    else
        tool__command_close(call);
    uv_close((uv_handle_t *)&call->timer, tool__on_closed);
}

/* One step further down the road from asking to giving up. */
static void on_timer(uv_timer_t *timer)
{
    struct tool_call *call = timer->data;

    switch (call->state) {
    case TOOL_RUNNING:
        tool__end(call, FAULT_timeout, NULL);
        break;
    case TOOL_ENDING:
        call->state = TOOL_KILLED;
        tool__command_stop(call, TOOL_KILLED);
        uv_timer_start(timer, on_timer, TOOL_HARD_MS, 0);
        break;
    case TOOL_KILLED:
        call->state = TOOL_GIVEN_UP;
        uv_timer_start(timer, on_timer, TOOL_HARD_MS, 0);
        tool__command_stop(call, TOOL_GIVEN_UP);
        break;
    case TOOL_GIVEN_UP:
        tool__fail(call, FAULT_tool, "baton-exec cannot be killed");
        tool__finish(call);
        break;
    default:
        break;
    }
}

void tool__await_streams(struct tool_call *call)
{
    if (call->state > TOOL_ENDING)
        return;
    call->state = TOOL_KILLED;
    uv_timer_start(&call->timer, on_timer, TOOL_HARD_MS, 0);
}

void tool__end(struct tool_call *call, enum fault fault, const char *text)
{
    if (call->state != TOOL_RUNNING)
        return;
    call->state = TOOL_ENDING;
    if (text)
        tool__fail(call, fault, "%s", text);
    else
        tool__fail(call, fault, "took longer than timeout_ms (%lld)", (long long)call->req.timeout_ms);
    if (call->req.is_http) {
        tool__http_stop(call);
        return;
    }
    uv_timer_start(&call->timer, on_timer, TOOL_GRACE_MS, 0);
    tool__command_stop(call, TOOL_ENDING);
}

/* ---- calls -------------------------------------------------------------------------------------------- */

int tool_start(struct tool_runner *r, struct tool_request *req, tool_end_fn on_end, void *arg, struct tool_call **out,
               struct err *err)
{
    if (r->closing)
        return err_set(err, ERR_STATE, "tools: closing");
    if (r->n_call == TOOL_CALLS_MAX)
        return err_set(err, ERR_BUSY, "tools: %d calls are under way", TOOL_CALLS_MAX);
    struct tool_call *call = mem_zalloc(sizeof *call);
    call->runner = r;
    call->req = *req;
    memset(req, 0, sizeof *req);
    call->on_end = on_end;
    call->arg = arg;
    call->started_ns = clock_mono_ns();
    call->result.exit_code = call->req.is_http ? 0 : -1000;
    call->next = r->first;
    if (r->first)
        r->first->prev = call;
    r->first = call;
    r->n_call++;
    uv_timer_init(r->loop, &call->timer);
    call->timer.data = call;
    call->n_open = 1;
    if (out)
        *out = call;
    uv_timer_start(&call->timer, on_timer, (uint64_t)call->req.timeout_ms, 0);
    if (call->req.is_http)
        tool__http_start(call);
    else
        tool__command_start(call);
    return 0;
}

void tool_cancel(struct tool_call *call)
{
    tool__end(call, FAULT_canceled, "canceled");
}

/* ---- the runner --------------------------------------------------------------------------------------- */

static int find_exec(struct tool_runner *r, const char *exec_path, struct err *err)
{
    if (exec_path) {
        snprintf(r->exec_path, sizeof r->exec_path, "%s", exec_path);
    } else {
        ssize_t n = readlink("/proc/self/exe", r->exec_path, sizeof r->exec_path - sizeof "baton-exec" - 1);
        char *slash = n > 0 ? memrchr(r->exec_path, '/', (size_t)n) : NULL;
        if (!slash)
            return err_set(err, ERR_MISSING, "tools: the folder of this program cannot be found in /proc/self/exe");
        memcpy(slash + 1, "baton-exec", sizeof "baton-exec");
    }
    if (access(r->exec_path, X_OK) != 0)
        return err_set(err, ERR_MISSING, "tools: %s is not there: it belongs beside baton-controller", r->exec_path);
    return 0;
}

int tool_runner_open(struct tool_runner **out, uv_loop_t *loop, const char *exec_path, struct err *err)
{
    struct tool_runner *r = mem_zalloc(sizeof *r);
    int rc;

    r->loop = loop;
    rc = find_exec(r, exec_path, err);
    if (rc == 0)
        rc = tool__http_open(r, err);
    if (rc)
        mem_free(r);
    else
        *out = r;
    return rc;
}

void tool__runner_on_closed(uv_handle_t *handle)
{
    struct tool_runner *r = handle->data;
    void (*on_closed)(void *arg) = r->on_closed;
    void *arg = r->arg;

    mem_free(r);
    if (on_closed)
        on_closed(arg);
}

void tool_runner_close(struct tool_runner **r_p, void (*on_closed)(void *arg), void *arg)
{
    struct tool_runner *r = *r_p;

    *r_p = NULL;
    r->closing = true;
    r->on_closed = on_closed;
    r->arg = arg;
    for (struct tool_call *call = r->first, *next; call; call = next) {
        next = call->next;
        tool_cancel(call);
    }
    if (r->n_call == 0)
        tool__http_close_all(r);
}

int tool_runner_n(const struct tool_runner *r)
{
    return r->n_call;
}
