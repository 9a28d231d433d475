/* Proves: a command gets exactly its arguments, its JSON and its whitelisted environment; its end becomes the right
 * class of error; time and output limits hold; nothing of it is left behind, also when it hides or the controller is
 * killed; an HTTP call the same with statuses. How: real processes, and a small HTTP server on the same loop; at the
 * end of each test no child, no descriptor and no handle is left. */
#include "controller/agent/tool/tool.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/text/jsonmake.h"
#include "tests/unit/test.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct rig {
    uv_loop_t loop;
    struct tool_runner *runner;
    struct tool_call *call;
    int n_end;
    struct tool_result result; /* value is written to text */
    struct buf text;
    int n_fd;
    bool closed;
};

static int count_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    struct err err = {0};
    uv_process_t dummy;
    uv_pipe_t pipe;

    signal(SIGPIPE, SIG_IGN);
    unsetenv("http_proxy");
    uv_loop_init(&r->loop);
    /* libuv keeps descriptors from the first spawn and the first stream on; let them be there before counting. */
    uv_pipe_init(&r->loop, &pipe, 0);
    uv_close((uv_handle_t *)&pipe, NULL);
    uv_process_options_t none = {.file = "/nonexistent", .args = (char *[]){(char[]){"x"}, NULL}};
    assert_int_not_equal(uv_spawn(&r->loop, &dummy, &none), 0);
    uv_close((uv_handle_t *)&dummy, NULL);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    if (tool_runner_open(&r->runner, &r->loop, NULL, &err) != 0)
        fail_msg("%s", err.text);
    r->n_fd = count_fds();
    *state = r;
    return 0;
}

static void on_closed(void *arg)
{
    ((struct rig *)arg)->closed = true;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    tool_runner_close(&r->runner, on_closed, r);
    assert_null(r->runner);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    assert_true(r->closed);
    assert_int_equal(uv_loop_close(&r->loop), 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child, no zombie */
    assert_int_equal(errno, ECHILD);
    buf_release(&r->text);
    free(r);
    return 0;
}

static void on_end(void *arg, const struct tool_result *result)
{
    struct rig *r = arg;

    r->n_end++;
    r->result = *result;
    r->result.value = NULL;
    r->call = NULL;
    buf_clear(&r->text);
    if (result->value)
        json_add(&r->text, result->value);
    assert_int_equal(result->ok, result->value != NULL);
    assert_int_equal(result->ok, result->fault == FAULT_none);
}

static const struct json *inputs;

static const struct json *get(void *arg, const char *root, const char *step)
{
    (void)arg, (void)step;
    return strcmp(root, "inputs") == 0 ? inputs : NULL;
}

static const struct tool_who who = {"run_1", "a[3].b", 2, "run_1/a[3].b"};

/* Start the tool of a step, given as YAML flow text. The plan is kept: requests point into it. */
static struct pipeline *plan;

static int start(struct rig *r, const char *tool, const char *more)
{
    struct expr_scope scope = {.get = get};
    struct tool_request req;
    struct buf text = {0};
    struct err err = {0};

    pipeline_destroy(&plan);
    buf_addf(&text, "pipeline: t\ninputs: {x: {}}\nsteps:\n  - {id: a, tool: {%s}%s}\n", tool, more);
    if (pipeline_parse(text.data, text.len, "t", "/tmp", &plan, NULL, &err) != 0)
        fail_msg("%s", err.text);
    buf_release(&text);
    int rc = tool_request_make(&req, &plan->steps.step[0].u.tool, &scope, plan->dir, NULL, &who, &err);
    if (rc) {
        snprintf(r->result.text, sizeof r->result.text, "%s", err.text);
        return rc;
    }
    assert_int_equal(tool_start(r->runner, &req, on_end, r, &r->call, &err), 0);
    assert_null(req.argv);
    return 0;
}

static void run(struct rig *r, const char *tool, const char *more)
{
    int before = r->n_end;

    assert_int_equal(start(r, tool, more), 0);
    while (r->n_end == before)
        uv_run(&r->loop, UV_RUN_ONCE);
    assert_int_equal(r->n_end, before + 1);
    assert_int_equal(tool_runner_n(r->runner), 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
}

static void assert_gives(struct rig *r, const char *tool, const char *value)
{
    run(r, tool, "");
    if (!r->result.ok)
        fail_msg("%s: %s: %s", tool, fault_name(r->result.fault), r->result.text);
    assert_string_equal(r->text.data, value);
}

static void assert_fails(struct rig *r, const char *tool, const char *more, enum fault fault, const char *part)
{
    run(r, tool, more);
    assert_false(r->result.ok);
    if (r->result.fault != fault || !strstr(r->result.text, part))
        fail_msg("%s: %s: %s", tool, fault_name(r->result.fault), r->result.text);
}

/* ---- commands ----------------------------------------------------------------------------------------- */

static void test_command(void **state)
{
    struct rig *r = *state;
    struct arena arena = {0};
    struct jsonmake m;

    /* What a shell would split, expand or run arrives as it is. */
    jsonmake_begin(&m, &arena, JSON_OBJECT);
    jsonmake_put(&m, "x", jsonmake_cstr(&arena, "a b; $(touch /tmp/no) `id` * \"q\" 'p' \xC3\xA9\n"));
    inputs = jsonmake_end(&m);
    assert_gives(r, "command: [printf, '%s|', '{{ inputs.x }}', '{{ inputs.x | length }}', ''], returns: text",
                 "\"a b; $(touch /tmp/no) `id` * \\\"q\\\" 'p' \xC3\xA9\\n|39||\"");
    assert_int_equal(r->result.exit_code, 0);
    assert_gives(r, "command: [cat], stdin: {a: [1, 2.50, '{{ inputs.x | truncate(3) }}']}",
                 "{\"a\":[1,2.50,\"a b\"]}");
    assert_gives(r, "command: [cat, /dev/stdin], stdin: {a: 1}", "{\"a\":1}"); /* a real pipe */
    assert_gives(r, "command: [cat]", "null");                                /* no stdin, no output */
    assert_gives(r, "command: [pwd], returns: text", "\"/tmp\\n\"");
    assert_gives(r, "command: [pwd], dir: /usr/bin, returns: text", "\"/usr/bin\\n\"");
    assert_gives(r, "command: [sh, -c, 'exit 3'], exit_codes: {ok: [3]}", "null");
    assert_gives(r, "command: [printf, '\\377x'], returns: text", "\"\xEF\xBF\xBDx\"");
    inputs = NULL;
    arena_release(&arena);
}

static void test_environment(void **state)
{
    struct rig *r = *state;

    setenv("TOOL_TEST_PASSED", "p", 1);
    setenv("TOOL_TEST_SECRET", "s", 1);
    setenv("PATH", "/usr/bin:/bin", 1);
    assert_gives(r, "command: [env], env: [TOOL_TEST_PASSED, 'OWN=o {{ env.TOOL_TEST_PASSED }}', TOOL_TEST_ABSENT], "
                    "returns: text",
                 "\"TOOL_TEST_PASSED=p\\nOWN=o p\\nPATH=/usr/bin:/bin\\nBATON_RUN=run_1\\nBATON_STEP=a[3].b\\n"
                 "BATON_ATTEMPT=2\\nBATON_EFFECT_TOKEN=run_1/a[3].b\\n\"");
}

static void test_failures(void **state)
{
    struct rig *r = *state;

    assert_fails(r, "command: [sh, -c, 'echo one >&2; echo two words >&2; exit 7']", "", FAULT_tool,
                 "exit code 7: two words");
    assert_int_equal(r->result.exit_code, 7);
    assert_fails(r, "command: [sh, -c, 'exit 75']", "", FAULT_busy, "exit code 75");
    assert_fails(r, "command: [sh, -c, 'exit 4'], exit_codes: {retry: [4, 5]}", "", FAULT_busy, "exit code 4");
    assert_fails(r, "command: [sh, -c, 'kill -SEGV $$']", "", FAULT_tool, "signal 11");
    assert_int_equal(r->result.exit_code, -11);
    assert_fails(r, "command: [no-such-command-here]", "", FAULT_tool, "No such file");
    assert_fails(r, "command: [/etc/passwd]", "", FAULT_tool, "ermission denied");
    assert_fails(r, "command: [true], dir: no/such/folder", "", FAULT_tool, "/tmp/no/such/folder");
    assert_fails(r, "command: [echo, hello]", "", FAULT_output, "no JSON");
    assert_fails(r, "command: [sh, -c, 'exit 125']", "", FAULT_tool, "exit code 125");
    /* A tool that does not read its input, larger than any pipe, is no error by that. */
    struct arena arena = {0};
    struct buf big = {0};
    struct jsonmake m;
    while (big.len < 1 << 20)
        buf_add_str(&big, "0123456789abcdef");
    jsonmake_begin(&m, &arena, JSON_OBJECT);
    jsonmake_put(&m, "x", jsonmake_str(&arena, big.data, big.len));
    inputs = jsonmake_end(&m);
    assert_gives(r, "command: [true], stdin: '{{ inputs.x }}'", "null");
    assert_gives(r, "command: [wc, -c], stdin: '{{ inputs.x }}'", "1048578");
    assert_int_equal(start(r, "command: [echo, '{{ inputs.x }}']", ""), ERR_LIMIT);
    inputs = NULL;
    arena_release(&arena);
    buf_release(&big);
    assert_int_equal(start(r, "command: [echo, '{{ inputs.x }}']", ""), ERR_MISSING);
    assert_int_equal(count_fds(), r->n_fd);
}

static void test_limits(void **state)
{
    struct rig *r = *state;
    int64_t begin = clock_mono_ns();

    assert_fails(r, "command: [sh, -c, 'yes']", "", FAULT_output, "more than max_output_bytes (1048576)");
    assert_fails(r, "command: [sleep, '100']", ", timeout_ms: 50", FAULT_timeout, "timeout_ms (50)");
    assert_true(clock_mono_ns() - begin < (int64_t)10e9);
    /* Deaf to SIGTERM: killed after the grace. */
    begin = clock_mono_ns();
    assert_fails(r, "command: [sh, -c, 'trap \"\" TERM; while :; do sleep 0.05; done']", ", timeout_ms: 50",
                 FAULT_timeout, "timeout_ms");
    assert_true(clock_mono_ns() - begin >= TOOL_GRACE_MS * 1000000ll);
    /* Long stderr is kept to its end only. */
    assert_fails(r, "command: [sh, -c, 'seq 1 100000 >&2; exit 1']", "", FAULT_tool, "exit code 1: 100000");
    /* Exactly the limit is not over it. */
    assert_gives(r, "command: [printf, '1234'], max_output_bytes: 4", "1234");
    assert_fails(r, "command: [printf, '12345'], max_output_bytes: 4", "", FAULT_output, "max_output_bytes (4)");
}

static void test_cancel(void **state)
{
    struct rig *r = *state;

    assert_int_equal(start(r, "command: [sleep, '100']", ""), 0);
    uv_run(&r->loop, UV_RUN_NOWAIT);
    struct tool_call *call = r->call;
    tool_cancel(call);
    tool_cancel(call);
    assert_int_equal(r->n_end, 0); /* never from inside */
    while (!r->n_end)
        uv_run(&r->loop, UV_RUN_ONCE);
    assert_int_equal(r->result.fault, FAULT_canceled);
    /* What is under way at close is ended by teardown. */
    assert_int_equal(start(r, "command: [sleep, '100']", ""), 0);
}

static bool is_alive(int pid)
{
    char path[64], text[256] = "";

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return false;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    char *state = n ? strrchr(text, ')') : NULL;
    return state && state[2] != 'Z';
}

static int read_pid(const char *path)
{
    int pid = 0;

    for (int i = 0; i < 1000 && pid == 0; i++) {
        FILE *f = fopen(path, "r");
        if (f && fscanf(f, "%d\n", &pid) != 1)
            pid = 0;
        if (f)
            fclose(f);
        usleep(10000);
    }
    return pid;
}

static bool dies(int pid)
{
    for (int i = 0; i < 500 && is_alive(pid); i++)
        usleep(10000);
    return !is_alive(pid);
}

/* A daemon that left the group, and one in the background that holds the output open. */
static void test_nothing_left(void **state)
{
    struct rig *r = *state;
    char dir[] = "/tmp/tool_test_XXXXXX", tool[512], path[64];

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/pid", dir);
    snprintf(tool, sizeof tool, "command: [sh, -c, 'setsid sh -c \"echo \\$\\$ > %s; exec sleep 1000\" & "
                                "sleep 1000 & while ! [ -s %s ]; do sleep 0.01; done; echo 1']", path, path);
    assert_gives(r, tool, "1");
    int pid = read_pid(path);
    assert_true(pid > 0);
    assert_false(is_alive(pid));
    unlink(path);
    rmdir(dir);
}

static void test_dies_with_controller(void **state)
{
    char dir[] = "/tmp/tool_test_XXXXXX", tool[512], path[64];
    int pid, status;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/pid", dir);
    snprintf(tool, sizeof tool,
             "command: [sh, -c, 'trap \"\" TERM; setsid sh -c \"echo \\$\\$ > %s; exec sleep 1000\" & "
             "sleep 1000']",
             path);
    fflush(NULL);
    pid_t controller = fork();
    if (controller == 0) {
        struct rig r = {0};
        uv_loop_init(&r.loop);
        if (tool_runner_open(&r.runner, &r.loop, NULL, NULL) != 0 || start(&r, tool, "") != 0)
            _exit(1);
        uv_run(&r.loop, UV_RUN_DEFAULT);
        _exit(2);
    }
    pid = read_pid(path);
    assert_true(pid > 0 && is_alive(pid));
    kill(controller, SIGKILL);
    assert_int_equal(waitpid(controller, &status, 0), controller);
    assert_true(WIFSIGNALED(status));
    assert_true(dies(pid));
    unlink(path);
    rmdir(dir);
}

static void test_many(void **state)
{
    struct rig *r = *state;
    int n = 0;

    for (int i = 0; i < 40; i++) {
        struct expr_scope scope = {.get = get};
        struct tool_request req;
        struct err err = {0};
        if (i == 0) {
            assert_int_equal(start(r, "command: [echo, '7']", ""), 0);
            continue;
        }
        assert_int_equal(tool_request_make(&req, &plan->steps.step[0].u.tool, &scope, "/tmp", NULL, &who, &err), 0);
        assert_int_equal(tool_start(r->runner, &req, on_end, r, NULL, &err), 0);
    }
    assert_int_equal(tool_runner_n(r->runner), 40);
    while (r->n_end < 40) {
        uv_run(&r->loop, UV_RUN_ONCE);
        if (r->n_end > n) {
            n = r->n_end;
            assert_true(r->result.ok);
        }
    }
    uv_run(&r->loop, UV_RUN_NOWAIT);
    assert_int_equal(count_fds(), r->n_fd);
}

/* ---- HTTP --------------------------------------------------------------------------------------------- */

struct server {
    uv_tcp_t listener;
    int port, n_client;
    struct buf request; /* the last one */
};

struct client {
    uv_tcp_t tcp;
    uv_write_t write;
    struct server *server;
    struct buf in;
};

static struct server server;

static void on_client_closed(uv_handle_t *h)
{
    struct client *c = h->data;

    buf_release(&c->in);
    free(c);
}

static void on_answered(uv_write_t *w, int status)
{
    struct client *c = w->data;

    (void)status;
    if (!uv_is_closing((uv_handle_t *)&c->tcp))
        uv_close((uv_handle_t *)&c->tcp, on_client_closed);
}

static const char *answer_to(const char *request)
{
    static char redirect[256];

    if (strstr(request, " /echo "))
        return "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"ok\": [true]}";
    if (strstr(request, " /busy "))
        return "HTTP/1.1 503 Wait\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nlate";
    if (strstr(request, " /broken "))
        return "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n";
    if (strstr(request, " /text "))
        return "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    if (strstr(request, " /cut "))
        return "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello";
    if (strstr(request, " /long "))
        return "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n0123456789012345678901234567890123456789";
    if (strstr(request, " /away ")) {
        snprintf(redirect, sizeof redirect, "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/text\r\n"
                                            "Content-Length: 0\r\n\r\n", server.port);
        return redirect;
    }
    if (strstr(request, " /file "))
        return "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n";
    if (strstr(request, " /hang "))
        return NULL;
    return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
}

static void on_request(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
    struct client *c = s->data;

    if (n < 0) {
        if (!uv_is_closing((uv_handle_t *)s))
            uv_close((uv_handle_t *)s, on_client_closed);
        return;
    }
    buf_add(&c->in, b->base, (size_t)n);
    const char *end = strstr(c->in.data, "\r\n\r\n"), *length = strstr(c->in.data, "Content-Length: ");
    if (!end || (length && c->in.len < (size_t)(end + 4 - c->in.data) + (size_t)atoi(length + 16)))
        return;
    buf_clear(&c->server->request);
    buf_add(&c->server->request, c->in.data, c->in.len);
    const char *answer = answer_to(c->in.data);
    if (!answer)
        return;
    uv_buf_t out = uv_buf_init((char *)answer, (unsigned)strlen(answer));
    c->write.data = c;
    uv_write(&c->write, s, &out, 1, on_answered);
}

static void on_alloc(uv_handle_t *h, size_t n, uv_buf_t *b)
{
    static char chunk[65536];

    (void)h, (void)n;
    *b = uv_buf_init(chunk, sizeof chunk);
}

static void on_connection(uv_stream_t *s, int status)
{
    struct client *c = calloc(1, sizeof *c);

    assert_int_equal(status, 0);
    c->server = s->data;
    c->tcp.data = c;
    uv_tcp_init(s->loop, &c->tcp);
    assert_int_equal(uv_accept(s, (uv_stream_t *)&c->tcp), 0);
    c->server->n_client++;
    uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_request);
}

static void open_server(struct rig *r)
{
    struct sockaddr_in addr;
    int len = sizeof addr;

    memset(&server, 0, sizeof server);
    uv_tcp_init(&r->loop, &server.listener);
    server.listener.data = &server;
    uv_ip4_addr("127.0.0.1", 0, &addr);
    assert_int_equal(uv_tcp_bind(&server.listener, (struct sockaddr *)&addr, 0), 0);
    assert_int_equal(uv_listen((uv_stream_t *)&server.listener, 16, on_connection), 0);
    uv_tcp_getsockname(&server.listener, (struct sockaddr *)&addr, &len);
    server.port = ntohs(addr.sin_port);
}

static const char *http(const char *path, const char *more)
{
    static char text[512];

    snprintf(text, sizeof text, "http: {url: 'http://127.0.0.1:%d%s'%s", server.port, path, more);
    return text;
}

static void test_http(void **state)
{
    struct rig *r = *state;

    open_server(r);
    setenv("TOOL_TEST_SECRET", "s3", 1);
    assert_gives(r, http("/echo", ", body: {a: 1}, headers: {X-One: 'two'}}"), "{\"ok\":[true]}");
    assert_int_equal(r->result.exit_code, 200);
    assert_non_null(strstr(server.request.data, "POST /echo HTTP/1.1\r\n"));
    assert_non_null(strstr(server.request.data, "Idempotency-Key: run_1/a[3].b\r\n"));
    assert_non_null(strstr(server.request.data, "X-One: two\r\n"));
    assert_non_null(strstr(server.request.data, "Content-Type: application/json\r\n"));
    assert_non_null(strstr(server.request.data, "\r\n\r\n{\"a\":1}"));
    assert_gives(r, http("/echo", "}"), "{\"ok\":[true]}");
    assert_non_null(strstr(server.request.data, "GET /echo HTTP/1.1\r\n"));
    assert_null(strstr(server.request.data, "Content-Type"));
    assert_gives(r, http("/text", "}, returns: text"), "\"hello\"");
    assert_fails(r, http("/text", "}"), "", FAULT_output, "no JSON");
    assert_fails(r, http("/busy", "}"), "", FAULT_busy, "HTTP 503: late");
    assert_int_equal(r->result.after_ms, 7000);
    assert_fails(r, http("/broken", "}"), "", FAULT_server, "HTTP 500");
    assert_fails(r, http("/nowhere", "}"), "", FAULT_client, "HTTP 404");
    assert_fails(r, http("/nowhere", "}, statuses: {retry: [404]}"), "", FAULT_busy, "HTTP 404");
    assert_gives(r, http("/nowhere", "}, statuses: {ok: [404]}"), "null");
    assert_fails(r, http("/cut", "}"), "", FAULT_network, "/cut");
    assert_fails(r, http("/long", "}, max_output_bytes: 30"), "", FAULT_output, "max_output_bytes (30)");
    assert_fails(r, http("/away", "}"), "", FAULT_client, "HTTP 302");
    assert_gives(r, http("/away", ", max_redirects: 1}, returns: text"), "\"hello\"");
    assert_fails(r, http("/file", ", max_redirects: 1}, returns: text"), "", FAULT_client, "/file");
    assert_fails(r, http("/hang", "}"), ", timeout_ms: 100", FAULT_timeout, "timeout_ms");
    assert_fails(r, "http: {url: 'http://127.0.0.1:1/'}", "", FAULT_network, "127.0.0.1:1");
    assert_int_equal(start(r, http("/hang", "}"), ""), 0);
    uv_run(&r->loop, UV_RUN_NOWAIT);
    tool_cancel(r->call);
    uv_run(&r->loop, UV_RUN_NOWAIT);
    assert_int_equal(r->result.fault, FAULT_canceled);
    assert_int_equal(start(r, http("/hang", "}"), ""), 0); /* left to teardown */
    uv_run(&r->loop, UV_RUN_NOWAIT);
    uv_close((uv_handle_t *)&server.listener, NULL);
    buf_release(&server.request);
}

/* The same request can be made for an agent's tool: arguments are the input. */
static void test_request(void **state)
{
    static const char text[] = "pipeline: t\nsteps:\n  - id: a\n    agent:\n      prompt: x\n      tools:\n"
                               "        - {name: get, parameters: {type: object}, command: [cat, '{{ args.f }}']}\n"
                               "        - {name: put, parameters: {type: object}, http: {method: POST, "
                               "url: 'http://h/{{ args.f }}', headers: {H: 'a{{ args.f }}'}}}\n";
    struct expr_scope scope = {.get = get};
    struct tool_request req;
    struct arena arena = {0};
    struct pipeline *p = NULL;
    struct jsonmake m;
    struct err err = {0};

    (void)state;
    assert_int_equal(pipeline_parse(text, sizeof text - 1, "t", "/d", &p, NULL, &err), 0);
    const struct pipeline_tool *tool = p->steps.step[0].u.agent.tool;
    jsonmake_begin(&m, &arena, JSON_OBJECT);
    jsonmake_put(&m, "f", jsonmake_cstr(&arena, "-x"));
    assert_int_equal(tool_request_make(&req, &tool[0], &scope, p->dir, jsonmake_end(&m), &who, &err), 0);
    assert_string_equal(req.argv[1], "-x");
    assert_null(req.argv[2]);
    assert_string_equal(req.input, "{\"f\":\"-x\"}");
    assert_string_equal(req.dir, "/d");
    tool_request_release(&req);
    assert_int_equal(tool_request_make(&req, &tool[1], &scope, p->dir, jsonmake_end(&m), &who, &err), 0);
    assert_string_equal(req.url, "http://h/-x");
    assert_string_equal(req.header[0], "H: a-x");
    tool_request_release(&req);
    jsonmake_begin(&m, &arena, JSON_OBJECT);
    jsonmake_put(&m, "f", jsonmake_cstr(&arena, "x\r\nEvil: 1"));
    assert_int_equal(tool_request_make(&req, &tool[1], &scope, p->dir, jsonmake_end(&m), &who, &err), ERR_ARG);
    jsonmake_begin(&m, &arena, JSON_OBJECT);
    jsonmake_put(&m, "f", jsonmake_str(&arena, "a\0b", 3));
    assert_int_equal(tool_request_make(&req, &tool[0], &scope, p->dir, jsonmake_end(&m), &who, &err), ERR_ARG);
    pipeline_destroy(&p);
    arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_command, setup, teardown),
        cmocka_unit_test_setup_teardown(test_environment, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_left, setup, teardown),
        cmocka_unit_test(test_dies_with_controller),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_http, setup, teardown),
        cmocka_unit_test(test_request),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);

    pipeline_destroy(&plan);
    return rc;
}
