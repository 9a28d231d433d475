#include "controller/cli/up.h"

#include "common/base/check.h"
#include "common/mem/arena.h"
#include "controller/cli/child.h"
#include "controller/cli/cli.h"
#include "controller/cli/client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

enum { ARGS_MAX = 40 + 2 * UP_LIMITS_MAX, ADDRESS_MAX = 256, HEALTH_MS = 2000 };

enum { N_SIGNAL = 3 };
static const int stop_signals[N_SIGNAL] = {SIGINT, SIGTERM, SIGHUP};

/* A child with what restarts it. */
struct ward {
    struct up *up;
    struct child child;
    uv_timer_t again;
    bool given_up;                  /* another start would end the same way */
    char last[CHILD_LINE_MAX + 1];  /* last line it wrote to stderr: why it ended */
};

struct up {
    const struct up_config *config;
    uv_loop_t loop;
    char controller_path[CLI_PATH_MAX], worker_path[CLI_PATH_MAX];
    struct ward controller, worker[UP_WORKERS_MAX];
    char url[ADDRESS_MAX];          /* "http://HOST:PORT", empty until the controller said it */
    char endpoint[ADDRESS_MAX];     /* where workers connect */
    char native[ADDRESS_MAX];       /* of native clients; empty: none, or not said yet */
    char store[CLI_PATH_MAX];       /* where the controller keeps what it may not lose */
    bool store_own;                 /* a file of this process alone: removed at the end */
    uv_timer_t poll, limit;
    uv_signal_t signal[N_SIGNAL];
    uv_work_t health;
    bool health_running, health_good;
    bool ready_said, stopping, killing;
    int status;                     /* what up_run returns */
};

static void stop(struct up *u, int status);

bool up_is_final(int exit_status)
{
    switch (exit_status) {
#define X(name, status) case status:
        UP_FINAL_LIST(X)
#undef X
        return true;
    default:
        return false;
    }
}

/* One line to stderr, in one write so that lines do not mix. */
static void say(const char *who, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(const char *who, const char *fmt, ...)
{
    char line[CHILD_LINE_MAX + 64];
    va_list ap;

    int n = snprintf(line, sizeof line, "%s", who);
    va_start(ap, fmt);
    int more = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    size_t len = (size_t)n + (more > 0 ? (size_t)more : 0);
    if (len > sizeof line - 2)
        len = sizeof line - 2;
    line[len] = '\n';
    ssize_t unused = write(STDERR_FILENO, line, len + 1); /* nowhere else to complain */
    (void)unused;
}

/* ---- the arguments of the children ---- */

struct args {
    struct arena arena; /* the strings; needed until the child runs */
    char *arg[ARGS_MAX + 1];
    int n;
};

static void add(struct args *a, const char *text)
{
    ASSERT(a->n < ARGS_MAX);
    a->arg[a->n++] = arena_strdup(&a->arena, text);
    a->arg[a->n] = NULL;
}

static void add_text(struct args *a, const char *flag, const char *value)
{
    if (value) {
        add(a, flag);
        add(a, value);
    }
}

static void add_number(struct args *a, const char *flag, int64_t value)
{
    char text[24];

    snprintf(text, sizeof text, "%lld", (long long)value);
    add_text(a, flag, text);
}

/* Port of the URL that the first controller got: a restarted one must get it again. */
static int64_t port_now(const struct up *u)
{
    const char *colon = strrchr(u->url, ':');

    return colon ? strtol(colon + 1, NULL, 10) : u->config->port;
}

static int start_controller(struct up *u, struct err *err)
{
    const struct up_config *c = u->config;
    struct args a = {0};

    add(&a, u->controller_path);
    add_text(&a, "--model", c->model_dir);
    add_text(&a, "--engine", c->engine);
    add_text(&a, "--model-name", c->model_name);
    add_text(&a, "--profile", c->profile);
    add_text(&a, "--host", c->host);
    add_number(&a, "--port", port_now(u));
    add_text(&a, "--workers", u->endpoint[0] ? u->endpoint : "tcp://127.0.0.1:*");
    add_text(&a, "--store", u->store);
    add_text(&a, "--commit", c->commit);
    add_text(&a, "--native", u->native[0] ? u->native : c->native);
    add_text(&a, "--native-key", c->native_key);
    for (int64_t i = 0; i < c->n_limit; i++)
        add_text(&a, "--limit", c->limit[i]);
    add_text(&a, "--log-level", c->log_level);
    add(&a, "--die-with-parent");
    int rc = child_start(&u->controller.child, a.arg, err);
    arena_release(&a.arena);
    return rc;
}

static int start_worker(struct up *u, struct ward *w, struct err *err)
{
    const struct up_config *c = u->config;
    struct args a = {0};

    add(&a, u->worker_path);
    add_text(&a, "--model", c->model_dir);
    add_text(&a, "--engine", c->engine);
    add_text(&a, "--sim-tokens", c->sim_tokens);
    add_text(&a, "--sim-ttft-us", c->sim_ttft_us);
    add_text(&a, "--sim-itl-us", c->sim_itl_us);
    add_text(&a, "--connect", u->endpoint);
    add_text(&a, "--name", w->child.name);
    add_text(&a, "--backend", c->backend);
    if (c->n_rank)
        add_number(&a, "--ranks", c->n_rank);
    if (c->n_thread)
        add_number(&a, "--threads", c->n_thread);
    if (c->n_seq_max)
        add_number(&a, "--max-seqs", c->n_seq_max);
    if (c->kv_tok)
        add_number(&a, "--kv-tokens", c->kv_tok);
    if (c->context_max)
        add_number(&a, "--max-context", c->context_max);
    add_text(&a, "--log-level", c->log_level);
    add(&a, "--die-with-parent");
    int rc = child_start(&w->child, a.arg, err);
    arena_release(&a.arena);
    return rc;
}

static void start(struct ward *w)
{
    struct up *u = w->up;
    struct err err = {0};

    w->last[0] = '\0';
    int rc = w == &u->controller ? start_controller(u, &err) : start_worker(u, w, &err);
    if (rc == 0)
        return;
    say("baton up: ", "%s", err.text);
    stop(u, CLI_FAILED);
}

/* ---- readiness ---- */

static void on_health_work(uv_work_t *work)
{
    struct up *u = work->data;
    struct client_call call = {.base = u->url, .path = "/health", .timeout_ms = HEALTH_MS};
    struct err err = {0};

    u->health_good = client_run(&call, &err) == 0 && call.status == 200;
    client_release(&call);
}

static void on_health_done(uv_work_t *work, int status)
{
    struct up *u = work->data;

    u->health_running = false;
    if (status || !u->health_good || u->stopping || u->ready_said)
        return;
    u->ready_said = true;
    uv_timer_stop(&u->poll);
    printf("ready %s%s%s\n", u->url, u->native[0] ? " native " : "", u->native);
    if (fflush(stdout) != 0)
        say("baton up: ", "cannot write to stdout: %s", strerror(errno));
}

static void on_poll(uv_timer_t *timer)
{
    struct up *u = timer->data;

    if (u->health_running || !child_pid(&u->controller.child))
        return;
    u->health.data = u;
    if (uv_queue_work(&u->loop, &u->health, on_health_work, on_health_done) == 0)
        u->health_running = true;
}

static void on_limit(uv_timer_t *timer)
{
    struct up *u = timer->data;

    if (u->stopping) {
        say("baton up: ", "still running after %d ms: killed", UP_STOP_MS);
        u->killing = true;
        child_kill(&u->controller.child, SIGKILL);
        for (int64_t i = 0; i < u->config->n_worker; i++)
            child_kill(&u->worker[i].child, SIGKILL);
        return;
    }
    say("baton up: ", "the controller did not come up within %d ms", UP_START_MS);
    stop(u, CLI_FAILED);
}

/* "ready http://HOST:PORT workers tcp://... [native tcp://...]" on the controller's stdout: where it can be reached. */
static bool read_ready(struct up *u, const char *line)
{
    char url[ADDRESS_MAX], endpoint[ADDRESS_MAX], native[ADDRESS_MAX] = "";

    if (sscanf(line, "ready %255s workers %255s native %255s", url, endpoint, native) < 2)
        return false;
    bool first = !u->url[0];
    strcpy(u->url, url);
    strcpy(u->endpoint, endpoint);
    strcpy(u->native, native); /* with its port: a restarted controller must get it again */
    if (!first || u->stopping)
        return true;
    uv_timer_stop(&u->limit);
    uv_timer_start(&u->poll, on_poll, UP_POLL_MS, UP_POLL_MS);
    for (int64_t i = 0; i < u->config->n_worker && !u->stopping; i++)
        start(&u->worker[i]);
    return true;
}

static void on_line(struct child *c, int fd, const char *line, size_t n)
{
    struct ward *w = c->arg;
    char who[CHILD_NAME_MAX + 4];

    if (w == &w->up->controller && fd == STDOUT_FILENO && read_ready(w->up, line))
        return;
    if (fd == STDERR_FILENO && n)
        memcpy(w->last, line, n + 1);
    snprintf(who, sizeof who, "[%s] ", c->name);
    say(who, "%s", line);
}

/* ---- ends and restarts ---- */

static void on_again(uv_timer_t *timer)
{
    struct ward *w = timer->data;

    if (!w->up->stopping)
        start(w);
}

static void describe_end(char *text, size_t cap, int exit_status, int signal)
{
    if (signal)
        snprintf(text, cap, "killed by signal %d (%s)", signal, strsignal(signal));
    else
        snprintf(text, cap, "ended with status %d", exit_status);
}

static bool any_worker_left(const struct up *u)
{
    for (int64_t i = 0; i < u->config->n_worker; i++)
        if (!u->worker[i].given_up)
            return true;
    return false;
}

/* Close what keeps the loop running once no child is left. */
static void finish(struct up *u)
{
    if (child_pid(&u->controller.child) || u->controller.child.running)
        return;
    for (int64_t i = 0; i < u->config->n_worker; i++)
        if (u->worker[i].child.running)
            return;
    uv_handle_t *handles[] = {(uv_handle_t *)&u->poll, (uv_handle_t *)&u->limit, (uv_handle_t *)&u->controller.again};
    for (size_t i = 0; i < N_ELEM(handles); i++)
        if (!uv_is_closing(handles[i]))
            uv_close(handles[i], NULL);
    for (int64_t i = 0; i < u->config->n_worker; i++)
        if (!uv_is_closing((uv_handle_t *)&u->worker[i].again))
            uv_close((uv_handle_t *)&u->worker[i].again, NULL);
    for (int i = 0; i < N_SIGNAL; i++)
        if (!uv_is_closing((uv_handle_t *)&u->signal[i]))
            uv_close((uv_handle_t *)&u->signal[i], NULL);
}

static void term_workers(struct up *u)
{
    for (int64_t i = 0; i < u->config->n_worker; i++)
        child_kill(&u->worker[i].child, SIGTERM);
}

/* Begin the end: first the controller, which lets running streams finish, then the workers. */
static void stop(struct up *u, int status)
{
    if (u->stopping)
        return;
    u->stopping = true;
    u->status = status;
    uv_timer_stop(&u->poll);
    uv_timer_start(&u->limit, on_limit, UP_STOP_MS, 0);
    if (child_pid(&u->controller.child))
        child_kill(&u->controller.child, SIGTERM);
    else
        term_workers(u);
    finish(u);
}

static void on_controller_end(struct up *u, const char *how)
{
    struct ward *w = &u->controller;

    if (u->stopping) {
        term_workers(u);
        finish(u);
        return;
    }
    if (!u->url[0]) {
        say("baton up: ", "the controller %s before it was ready", how);
        stop(u, CLI_FAILED);
        return;
    }
    int64_t wait_ms = child_backoff_ms(&w->child, (int64_t)(uv_now(&u->loop) - w->child.started_ms));
    if (w->child.n_fail <= 1)
        wait_ms = 0; /* clients wait for it; only one that keeps dying has to be slowed down */
    say("baton up: ", "the controller %s; started again in %lld ms", how, (long long)wait_ms);
    uv_timer_start(&w->again, on_again, (uint64_t)wait_ms, 0);
}

static void on_worker_end(struct up *u, struct ward *w, int exit_status, int signal, const char *how)
{
    if (u->stopping) {
        finish(u);
        return;
    }
    if (!signal && up_is_final(exit_status)) {
        w->given_up = true;
        say("baton up: ", "%s %s and is not started again: %s", w->child.name, how,
            w->last[0] ? w->last : "no reason given");
        if (!any_worker_left(u)) {
            say("baton up: ", "no worker is left");
            stop(u, CLI_FAILED);
        }
        return;
    }
    int64_t wait_ms = child_backoff_ms(&w->child, (int64_t)(uv_now(&u->loop) - w->child.started_ms));
    say("baton up: ", "%s %s; started again in %lld ms", w->child.name, how, (long long)wait_ms);
    uv_timer_start(&w->again, on_again, (uint64_t)wait_ms, 0);
}

static void on_end(struct child *c, int exit_status, int signal)
{
    struct ward *w = c->arg;
    struct up *u = w->up;
    char how[96];

    describe_end(how, sizeof how, exit_status, signal);
    if (w == &u->controller)
        on_controller_end(u, how);
    else
        on_worker_end(u, w, exit_status, signal, how);
}

static void on_signal(uv_signal_t *handle, int signal)
{
    struct up *u = handle->data;

    if (!u->stopping) {
        say("baton up: ", "%s: stopping", strsignal(signal));
        stop(u, CLI_GOOD);
        return;
    }
    if (u->killing)
        return;
    u->killing = true;
    child_kill(&u->controller.child, SIGKILL);
    for (int64_t i = 0; i < u->config->n_worker; i++)
        child_kill(&u->worker[i].child, SIGKILL);
}

/* ---- start ---- */

static int check_model(const char *dir, struct err *err)
{
    static const char *const files[] = {"config.json", "tokenizer.json"};
    char path[CLI_PATH_MAX];
    struct stat st;

    if (stat(dir, &st) != 0)
        return err_set(err, ERR_MISSING, "--model %s: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return err_set(err, ERR_ARG, "--model %s is no directory", dir);
    for (size_t i = 0; i < N_ELEM(files); i++) {
        int n = snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        if (n < 0 || (size_t)n >= sizeof path)
            return err_set(err, ERR_LIMIT, "--model: the path is too long");
        if (access(path, R_OK) != 0)
            return err_set(err, ERR_MISSING, "--model %s has no readable %s: %s", dir, files[i], strerror(errno));
    }
    return 0;
}

/* Try the port before anything is started: the usual mistake, a second `baton up`, then costs one clear line. */
static int check_port(uv_loop_t *loop, const char *host, int port, struct err *err)
{
    struct sockaddr_storage addr;
    uv_tcp_t tcp;
    int rc = uv_ip4_addr(host, port, (struct sockaddr_in *)&addr);

    if (rc)
        rc = uv_ip6_addr(host, port, (struct sockaddr_in6 *)&addr);
    if (rc)
        return err_set(err, ERR_ARG, "--host %s is no IP address", host);
    uv_tcp_init(loop, &tcp);
    rc = uv_tcp_bind(&tcp, (struct sockaddr *)&addr, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&tcp, 1, NULL);
    uv_close((uv_handle_t *)&tcp, NULL);
    uv_run(loop, UV_RUN_DEFAULT);
    if (rc == UV_EADDRINUSE)
        return err_set(err, ERR_BUSY, "port %d of %s is in use (another baton up?); choose another with --port", port,
                       host);
    if (rc)
        return err_set(err, ERR_NET, "cannot listen on %s port %d: %s", host, port, uv_strerror(rc));
    return 0;
}

/* mkdir -p, for this user alone. */
static int make_folders(char *path, struct err *err)
{
    for (char *p = path + 1;; p++) {
        if (*p && *p != '/')
            continue;
        char end = *p;
        *p = 0;
        int rc = mkdir(path, 0700) != 0 && errno != EEXIST;
        if (rc)
            return err_set(err, ERR_IO, "cannot make the folder %s for the store: %s; choose another with --store",
                           path, strerror(errno));
        *p = end;
        if (!end)
            return 0;
    }
}

int up_store_path(int64_t port, char *path, size_t size, bool *own, struct err *err)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n;

    *own = port == 0;
    if (state && state[0] == '/')
        n = snprintf(path, size, "%s/baton", state);
    else if (home && home[0] == '/')
        n = snprintf(path, size, "%s/.local/state/baton", home);
    else
        return err_set(
            err, ERR_MISSING,
            "neither XDG_STATE_HOME nor HOME says where to keep the store; give --store PATH, or --store off");
    if (n < 0 || (size_t)n + 32 >= size)
        return err_set(err, ERR_LIMIT, "the path of the store is too long; give --store PATH");
    int rc = make_folders(path, err);
    if (rc)
        return rc;
    if (port)
        snprintf(path + n, size - (size_t)n, "/%d.db", (int)port);
    else
        snprintf(path + n, size - (size_t)n, "/up-%ld.db", (long)getpid());
    return 0;
}

/* SQLite's log and index go with the file. */
static void remove_store(const struct up *u)
{
    static const char *const tail[] = {"", "-wal", "-shm", "-journal"};
    char path[CLI_PATH_MAX + 16];

    for (size_t i = 0; i < N_ELEM(tail) && u->store_own; i++) {
        snprintf(path, sizeof path, "%s%s", u->store, tail[i]);
        unlink(path);
    }
}

static int choose_store(struct up *u, struct err *err)
{
    const char *given = u->config->store;

    if (!given)
        return up_store_path(u->config->port, u->store, sizeof u->store, &u->store_own, err);
    if (!given[0] || strlen(given) >= sizeof u->store)
        return err_set(err, ERR_ARG, "--store needs a path, a postgresql:// URL or off");
    strcpy(u->store, given);
    return 0;
}

/* A URL may hold a password. */
static void say_store(const struct up *u)
{
    bool url = strstr(u->store, "://") != NULL;
    say("baton up: ", "store: %s%s", url ? "PostgreSQL" : u->store,
        u->store_own ? " (port 0: only for this run; give --store to keep it)" : "");
}

static void init(struct up *u)
{
    char name[CHILD_NAME_MAX];

    uv_timer_init(&u->loop, &u->poll);
    uv_timer_init(&u->loop, &u->limit);
    u->poll.data = u->limit.data = u;
    u->controller.up = u;
    child_init(&u->controller.child, &u->loop, "controller", on_line, on_end, &u->controller);
    uv_timer_init(&u->loop, &u->controller.again);
    u->controller.again.data = &u->controller;
    for (int i = 0; i < (int)u->config->n_worker; i++) {
        struct ward *w = &u->worker[i];
        snprintf(name, sizeof name, "w%d", i);
        w->up = u;
        child_init(&w->child, &u->loop, name, on_line, on_end, w);
        uv_timer_init(&u->loop, &w->again);
        w->again.data = w;
    }
    for (int i = 0; i < N_SIGNAL; i++) {
        uv_signal_init(&u->loop, &u->signal[i]);
        u->signal[i].data = u;
        uv_signal_start(&u->signal[i], on_signal, stop_signals[i]);
    }
}

static bool up_is_sim(const struct up_config *config)
{
    return config->engine && strcmp(config->engine, "sim") == 0;
}

int up_run(const struct up_config *config)
{
    struct up *u = calloc(1, sizeof *u);
    struct err err = {0};

    ASSERT(u && config->n_worker >= 1 && config->n_worker <= UP_WORKERS_MAX);
    u->config = config;
    uv_loop_init(&u->loop);
    int rc = cli_sibling("baton-controller", u->controller_path, &err);
    if (rc == 0)
        rc = cli_sibling("baton-worker", u->worker_path, &err);
    if (rc == 0 && !up_is_sim(config))
        rc = check_model(config->model_dir, &err);
    if (rc == 0)
        rc = check_port(&u->loop, config->host, (int)config->port, &err);
    if (rc == 0)
        rc = choose_store(u, &err);
    if (rc == 0) {
        signal(SIGPIPE, SIG_IGN);
        init(u);
        say_store(u);
        uv_timer_start(&u->limit, on_limit, UP_START_MS, 0);
        start(&u->controller);
        uv_run(&u->loop, UV_RUN_DEFAULT);
        rc = u->status;
        remove_store(u);
    } else {
        rc = cli_fail("up", &err);
    }
    int busy = uv_loop_close(&u->loop);
    ASSERT(busy == 0);
    free(u);
    return rc;
}

/* Take every --limit out of argv: the flag table keeps only the last value of a flag. The controller checks them. */
static int take_limits(struct up_config *c, int *argc, char **argv, struct err *err)
{
    int n = 1;

    for (int i = 1; i < *argc; i++) {
        bool eq = strncmp(argv[i], "--limit=", 8) == 0, word = strcmp(argv[i], "--limit") == 0;
        if (!eq && !(word && i + 1 < *argc)) {
            argv[n++] = argv[i];
            continue;
        }
        if (c->n_limit == UP_LIMITS_MAX)
            return err_set(err, ERR_ARG, "more than %d --limit flags", UP_LIMITS_MAX);
        c->limit[c->n_limit++] = eq ? argv[i] + 8 : argv[++i];
    }
    argv[n] = NULL;
    *argc = n;
    return 0;
}

/* What the table of flags cannot say. */
static int check_config(const struct up_config *c, struct err *err)
{
    if (c->engine && strcmp(c->engine, "sim") != 0 && strcmp(c->engine, "model") != 0)
        return err_set(err, ERR_ARG, "--engine is model or sim, not '%s'", c->engine);
    if (!up_is_sim(c) && !c->model_dir)
        return err_set(err, ERR_ARG, "--model DIR is missing");
    if (c->native_key && !c->native)
        return err_set(err, ERR_ARG, "--native-key is for --native ENDPOINT, which is missing");
    return 0;
}

/* False if the parent has gone before the kernel could be asked to tell. */
static bool follow_parent(void)
{
    pid_t parent = getppid();
    return prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == parent;
}

int cli_up_main(int argc, char **argv)
{
    struct up_config c = {.n_worker = 1, .host = "127.0.0.1", .port = 8080};
    bool die_with_parent = false;
    const char *limit = NULL;
    const struct flag flag[] = {
        {"model", FLAG_STR, &c.model_dir, "DIR",
         .help = "checkpoint with config.json and tokenizer.json"},
        {"engine", FLAG_STR, &c.engine, "E",
         .help = "of the workers: model (default), or sim: no model, output and times known in advance"},
        {"sim-tokens", FLAG_STR, &c.sim_tokens, "N", .help = "sim: tokens of output; default 16"},
        {"sim-ttft-us", FLAG_STR, &c.sim_ttft_us, "N", .help = "sim: time to the first token; default 0"},
        {"sim-itl-us", FLAG_STR, &c.sim_itl_us, "N", .help = "sim: time between tokens; default 0"},
        {"workers", FLAG_I64, &c.n_worker, "N",
         .help = "workers on this machine, default 1", .min = 1, .max = UP_WORKERS_MAX},
        {"backend", FLAG_STR, &c.backend, "B", .help = "engine of the workers: ref, cpu or cuda"},
        {"ranks", FLAG_I64, &c.n_rank, "N", .help = "ranks of each worker, which share its experts",
         .min = 1, .max = 64},
        {"threads", FLAG_I64, &c.n_thread, "N", .help = "threads of each worker; default: all cores", .min = 1,
         .max = 256},
        {"max-seqs", FLAG_I64, &c.n_seq_max, "N",
         .help = "sequences that a worker takes at once", .min = 1, .max = 65536},
        {"kv-tokens", FLAG_I64, &c.kv_tok, "N",
         .help = "tokens of cache of each worker over all its sequences", .min = 1, .max = INT64_C(1) << 40},
        {"max-context", FLAG_I64, &c.context_max, "N",
         .help = "tokens of one sequence; default: the model's", .min = 1, .max = 1 << 26},
        {"host", FLAG_STR, &c.host, "H", .help = "address for HTTP, default 127.0.0.1"},
        {"port", FLAG_I64, &c.port, "P",
         .help = "port for HTTP, default 8080; 0: any free one", .min = 0, .max = 65535},
        {"model-name", FLAG_STR, &c.model_name, "M", .help = "name that clients use; default: last part of DIR"},
        {"profile", FLAG_STR, &c.profile, "NAME", .help = "generation of the chat encoding: auto, preview or 0731"},
        {"store", FLAG_STR, &c.store, "PATH|URL|off",
         .help = "what outlives a crash: an SQLite file or postgresql://...; default: a file of this port in "
                 "$XDG_STATE_HOME/baton"},
        {"commit", FLAG_STR, &c.commit, "POLICY",
         .help = "what is in the store before a client sees it: token (default), token-fsync, request, off"},
        {"native", FLAG_STR, &c.native, "ENDPOINT",
         .help = "where native clients (libbaton) connect, as tcp://127.0.0.1:7070; default: nowhere"},
        {"native-key", FLAG_STR, &c.native_key, "FILE",
         .help = "CURVE key of that endpoint, made if there is none; needed to listen to other machines"},
        {"limit", FLAG_STR, &limit, "NAME=VALUE",
         .help = "a limit of the controller (baton-controller --help lists them); may be repeated"},
        {"log-level", FLAG_STR, &c.log_level, "L", .help = "error, warn, info or debug"},
        {"die-with-parent", FLAG_BOOL, &die_with_parent, NULL,
         .help = "end when the process that started this one ends"},
    };
    struct flags f = {
        .usage = "baton up --model DIR|--engine sim [--workers N] [--backend B] [--ranks N] [--port P] [flags]",
        .about = "Start a controller and N workers, start again what dies, stop all with Ctrl-C.\n"
                 "Prints one line `ready http://HOST:PORT` when requests can be served.",
        .flag = flag,
        .n_flag = N_ELEM(flag),
    };
    struct err err;
    if (take_limits(&c, &argc, argv, &err)) {
        cli_fail("up", &err);
        return CLI_USAGE;
    }
    int status = cli_flags("up", &f, argc, argv);

    if (status >= 0)
        return status;
    if (check_config(&c, &err)) {
        cli_fail("up", &err);
        return CLI_USAGE;
    }
    return die_with_parent && !follow_parent() ? CLI_FAILED : up_run(&c);
}
