/* HTTP calls: one libcurl multi handle on the loop. libcurl tells which sockets to watch and when to call it again. */
#include "common/base/check.h"
#include "common/mem/mem.h"
#include "controller/agent/tool/tool_impl.h"

#include <string.h>

enum { RETRY_AFTER_S_MAX = 86400 };

/* One socket that libcurl wants watched. */
struct watch {
    uv_poll_t poll;
    curl_socket_t socket;
    struct tool_runner *runner;
};

/* ---- results ------------------------------------------------------------------------------------------ */

static bool has_code(const int *code, int n, long value)
{
    for (int i = 0; i < n; i++)
        if (code[i] == value)
            return true;
    return false;
}

static void conclude_status(struct tool_call *call, long status)
{
    curl_off_t after = 0;
    enum fault fault = FAULT_client;

    call->result.exit_code = (int)status;
    if ((status >= 200 && status < 300) || has_code(call->req.ok_code, call->req.n_ok_code, status)) {
        tool__take_output(call);
        return;
    }
    if (curl_easy_getinfo(call->http.easy, CURLINFO_RETRY_AFTER, &after) == CURLE_OK && after > 0)
        call->result.after_ms = (after < RETRY_AFTER_S_MAX ? (int64_t)after : RETRY_AFTER_S_MAX) * 1000;
    if (status == 429 || status == 503 || has_code(call->req.retry_code, call->req.n_retry_code, status))
        fault = FAULT_busy;
    else if (status == 408)
        fault = FAULT_timeout;
    else if (status >= 500)
        fault = FAULT_server;
    size_t n = call->out.len < 200 ? call->out.len : 200;
    tool__fail(call, fault, "%s %.120s: HTTP %ld%s%.*s", call->req.method, call->req.url, status, n ? ": " : "", (int)n,
               n ? call->out.data : "");
}

static void conclude(struct tool_call *call, CURLcode code)
{
    struct tool_http *h = &call->http;
    long status = 0;

    curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &status);
    if (call->result.fault != FAULT_none)
        ; /* the reason is there: canceled */
    else if (h->too_large)
        tool__fail(call, FAULT_output, "%s %.120s: more than max_output_bytes (%lld)", call->req.method, call->req.url,
                   (long long)call->req.max_output_bytes);
    else if (code == CURLE_OK)
        conclude_status(call, status);
    else /* a time-out of libcurl is that of connecting: the whole is timed by the call */
        tool__fail(call, code == CURLE_TOO_MANY_REDIRECTS || code == CURLE_UNSUPPORTED_PROTOCOL ||
                                 code == CURLE_URL_MALFORMAT ? FAULT_client : FAULT_network,
                   "%s %.120s: %s", call->req.method, call->req.url, h->error[0] ? h->error : curl_easy_strerror(code));
    tool__finish(call);
}

/* libcurl may be told to let go of a call anywhere but inside its own callbacks. */
void tool__http_close(struct tool_call *call)
{
    struct tool_http *h = &call->http;

    if (h->easy) {
        curl_multi_remove_handle(call->runner->multi, h->easy);
        curl_easy_cleanup(h->easy);
    }
    curl_slist_free_all(h->header);
    h->easy = NULL;
    h->header = NULL;
}

void tool__http_stop(struct tool_call *call)
{
    tool__finish(call);
}

static void take_ended(struct tool_runner *r)
{
    CURLMsg *msg;
    int left;

    while ((msg = curl_multi_info_read(r->multi, &left))) {
        struct tool_call *call = NULL;
        if (msg->msg != CURLMSG_DONE)
            continue;
        CURLcode code = msg->data.result; /* the message ends with its handle */
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        conclude(call, code);
    }
}

/* ---- libcurl on the loop ------------------------------------------------------------------------------ */

static void on_watch_closed(uv_handle_t *handle)
{
    struct watch *w = CONTAINER_OF((uv_poll_t *)handle, struct watch, poll);

    mem_free(w);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct watch *w = CONTAINER_OF(poll, struct watch, poll);
    struct tool_runner *r = w->runner;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0, running;

    flags |= events & UV_READABLE ? CURL_CSELECT_IN : 0;
    flags |= events & UV_WRITABLE ? CURL_CSELECT_OUT : 0;
    curl_multi_socket_action(r->multi, w->socket, flags, &running);
    take_ended(r);
}

static void on_timer(uv_timer_t *timer)
{
    struct tool_runner *r = timer->data;
    int running;

    curl_multi_socket_action(r->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    take_ended(r);
}

static int on_curl_timer(CURLM *multi, long ms, void *arg)
{
    struct tool_runner *r = arg;

    (void)multi;
    if (uv_is_closing((uv_handle_t *)&r->timer))
        return 0;
    if (ms < 0)
        uv_timer_stop(&r->timer);
    else
        uv_timer_start(&r->timer, on_timer, (uint64_t)ms, 0); /* 0: at the next turn, never from within libcurl */
    return 0;
}

static int on_curl_socket(CURL *easy, curl_socket_t socket, int what, void *arg, void *watch)
{
    struct tool_runner *r = arg;
    struct watch *w = watch;
    int events = 0;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            curl_multi_assign(r->multi, socket, NULL);
            uv_poll_stop(&w->poll);
            uv_close((uv_handle_t *)&w->poll, on_watch_closed);
        }
        return 0;
    }
    if (!w) {
        w = mem_zalloc(sizeof *w);
        if (uv_poll_init_socket(r->loop, &w->poll, socket) != 0) {
            mem_free(w);
            return -1;
        }
        w->socket = socket;
        w->runner = r;
        curl_multi_assign(r->multi, socket, w);
    }
    events |= what != CURL_POLL_IN ? UV_WRITABLE : 0;
    events |= what != CURL_POLL_OUT ? UV_READABLE : 0;
    uv_poll_start(&w->poll, events, on_poll);
    return 0;
}

int tool__http_open(struct tool_runner *r, struct err *err)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || !(r->multi = curl_multi_init()))
        return err_set(err, ERR_MEM, "tools: libcurl cannot be initialised");
    curl_multi_setopt(r->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    curl_multi_setopt(r->multi, CURLMOPT_SOCKETDATA, r);
    curl_multi_setopt(r->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
    curl_multi_setopt(r->multi, CURLMOPT_TIMERDATA, r);
    uv_timer_init(r->loop, &r->timer);
    r->timer.data = r;
    return 0;
}

void tool__http_close_all(struct tool_runner *r)
{
    if (uv_is_closing((uv_handle_t *)&r->timer))
        return;
    curl_multi_cleanup(r->multi); /* closes idle connections; their watches close before the timer does */
    r->multi = NULL;
    uv_close((uv_handle_t *)&r->timer, tool__runner_on_closed);
}

/* ---- a call ------------------------------------------------------------------------------------------- */

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
    struct tool_call *call = arg;

    n *= size;
    if (call->out.len + n > (size_t)call->req.max_output_bytes) {
        call->http.too_large = true;
        return 0;
    }
    buf_add(&call->out, data, n);
    return n;
}

static void set_protocols(CURL *easy)
{
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
    curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

static void set_body(struct tool_call *call)
{
    CURL *easy = call->http.easy;
    const struct tool_request *req = &call->req;

    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, req->method);
    if (req->input || strcmp(req->method, "GET") != 0) {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, req->input ? req->input : "");
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)req->input_len);
    }
    if (!req->input) /* libcurl would name a form */
        call->http.header = curl_slist_append(call->http.header, "Content-Type:");
    for (char **h = req->header; *h; h++)
        call->http.header = curl_slist_append(call->http.header, *h);
    call->http.header = curl_slist_append(call->http.header, "Expect:");
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->http.header);
}

void tool__http_start(struct tool_call *call)
{
    struct tool_http *h = &call->http;
    CURL *easy = curl_easy_init();

    h->easy = easy;
    if (!easy) {
        tool__fail(call, FAULT_network, "libcurl has no handle");
        tool__finish(call);
        return;
    }
    curl_easy_setopt(easy, CURLOPT_PRIVATE, (char *)call);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, h->error);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "baton");
    curl_easy_setopt(easy, CURLOPT_URL, call->req.url);
    set_protocols(easy);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, call->req.max_redirects > 0 ? 1L : 0L);
    curl_easy_setopt(easy, CURLOPT_MAXREDIRS, (long)call->req.max_redirects);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)TOOL_CONNECT_MS);
    curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "");
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    set_body(call);
    CURLMcode code = curl_multi_add_handle(call->runner->multi, easy);
    if (code != CURLM_OK) {
        tool__fail(call, FAULT_network, "libcurl: %s", curl_multi_strerror(code));
        tool__finish(call);
    }
}
