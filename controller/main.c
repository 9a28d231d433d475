/* baton-controller: the one process that holds every accepted request. Flags, signals, one line when it serves. */
#include "common/base/check.h"
#include "common/base/flags.h"
#include "common/base/log.h"
#include "controller/ctl.h"
#include "controller/prompt/profile.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

enum { EXIT_USAGE = 2, EXIT_FENCED = 3, LIMIT_NAME_MAX = 64 };

/* One row per limit: how it is called, where it is kept, what it means. */
static const struct limit_row {
    const char *name, *text;
    size_t offset;
    int64_t value;
} limit_rows[] = {
#define X(name, value, text) {#name, text, offsetof(struct ctl_limits, name), value},
    CTL_LIMIT_LIST(X)
#undef X
};

struct server {
    uv_loop_t loop;
    uv_signal_t term, intr;
    struct ctl *ctl; /* NULL once it is being closed */
    bool draining;
    int status; /* of the process, if serving ended by itself */
};

/* ---- flags ---- */

/* "queue_max=10" */
static int set_limit(struct ctl_limits *limit, const char *text, struct err *err)
{
    const char *names[N_ELEM(limit_rows)], *eq = strchr(text, '=');
    char name[LIMIT_NAME_MAX], *end;

    if (!eq || eq == text)
        return err_set(err, ERR_ARG, "--limit needs NAME=VALUE, got '%s'", text);
    snprintf(name, sizeof name, "%.*s", (int)(eq - text), text);
    for (size_t i = 0; i < N_ELEM(limit_rows); i++) {
        names[i] = limit_rows[i].name;
        if (strcmp(names[i], name) != 0)
            continue;
        long long v = strtoll(eq + 1, &end, 10);
        if (end == eq + 1 || *end || v < 0 || v > INT32_MAX)
            return err_set(err, ERR_ARG, "--limit %s needs a whole number from 0 to %d, got '%s'", name, INT32_MAX,
                           eq + 1);
        memcpy((char *)limit + limit_rows[i].offset, &(int64_t){v}, sizeof(int64_t));
        return 0;
    }
    const char *near = flags_nearest(name, names, N_ELEM(names));
    return err_set(err, ERR_ARG, "--limit: no limit is called %s%s%s%s; see --help", name,
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

/* Take every --limit out of argv, because the flag table keeps only the last value of a flag. */
static int take_limits(struct ctl_limits *limit, int *argc, char **argv, struct err *err)
{
    static const char flag[] = "--limit", flag_eq[] = "--limit=";
    int n = 1;

    for (int i = 1; i < *argc; i++) {
        const char *value = NULL;
        if (strncmp(argv[i], flag_eq, sizeof flag_eq - 1) == 0) {
            value = argv[i] + sizeof flag_eq - 1;
        } else if (strcmp(argv[i], flag) == 0) {
            if (i + 1 == *argc)
                return err_set(err, ERR_ARG, "--limit needs a value: NAME=VALUE");
            value = argv[++i];
        }
        if (!value) {
            argv[n++] = argv[i];
            continue;
        }
        int rc = set_limit(limit, value, err);
        if (rc)
            return rc;
    }
    *argc = n;
    return 0;
}

static void print_limits(void)
{
    printf("\nlimits (--limit NAME=VALUE), with their defaults:\n");
    for (size_t i = 0; i < N_ELEM(limit_rows); i++)
        printf("  %s=%" PRId64 "%*s%s\n", limit_rows[i].name, limit_rows[i].value,
               (int)(36 - strlen(limit_rows[i].name)) - snprintf(NULL, 0, "%" PRId64, limit_rows[i].value), "",
               limit_rows[i].text);
}

/* 0, FLAGS_HELP (done) or an error of usage. */
static int read_flags(int argc, char **argv, struct ctl_config *config, bool *die_with_parent, struct err *err)
{
    const char *profile = "auto", *level = "info", *limit = NULL, *engine = "model", *store = "off", *commit = "token";
    int64_t port = 8080;
    const struct flag flag[] = {
        {"model", FLAG_STR, &config->model_dir, "DIR", .help = "model directory; its tokenizer is used"},
        {"engine", FLAG_STR, &engine, "E",
         .help = "of the workers: model (default), or sim, which has a tokenizer of its own and needs no DIR"},
        {"model-name", FLAG_STR, &config->model_name, "N",
         .help = "the model's name for clients; default: the directory's, mock for sim without DIR"},
        {"host", FLAG_STR, &config->http_host, "H", .help = "address to serve HTTP on; default 127.0.0.1"},
        {"port", FLAG_I64, &port, "P", .help = "port to serve HTTP on, 0: any free one; default 8080", .max = 65535},
        {"workers", FLAG_STR, &config->worker_endpoint, "ENDPOINT",
         .help = "where workers connect; default tcp://127.0.0.1:* (any free port)"},
        {"native", FLAG_STR, &config->native_endpoint, "ENDPOINT",
         .help = "where native clients (libbaton) connect, as tcp://127.0.0.1:7070; default: nowhere"},
        {"native-key", FLAG_STR, &config->native_key_file, "FILE",
         .help = "CURVE key of that endpoint (made if there is none); needed when other machines may connect"},
        {"profile", FLAG_STR, &profile, "NAME",
         .help = "generation of the chat encoding: auto (default: by config.json), preview or 0731"},
        {"store", FLAG_STR, &store, "PATH|URL|off",
         .help = "what outlives this process: an SQLite file, or postgresql://...; default off"},
        {"commit", FLAG_STR, &commit, "POLICY",
         .help = "what is in the store before a client sees it: token (default), token-fsync, request, off"},
        {"standby", FLAG_BOOL, &config->standby, .help = "if another controller has the store, wait until it is gone"},
        {"log-level", FLAG_STR, &level, "L", .help = "error, warn, info (default) or debug"},
        {"die-with-parent", FLAG_BOOL, die_with_parent, .help = "stop when the parent process is gone"},
        {"limit", FLAG_STR, &limit, "NAME=VALUE", .help = "change a limit, see below; may be repeated"},
    };
    struct flags flags = {
        .usage = "baton-controller --model DIR|--engine sim [flags]",
        .about = "Accepts requests over HTTP and has workers generate for them.\n"
                 "Prints one line `ready http://HOST:PORT workers tcp://...` when it listens; SIGTERM stops it\n"
                 "gracefully, a second one at once. Status 3: the store was lost to another controller.",
        .flag = flag,
        .n_flag = N_ELEM(flag),
    };
    int rc = take_limits(&config->limit, &argc, argv, err);
    if (!rc)
        rc = flags_parse(&flags, argc, argv, err);
    if (rc == FLAGS_HELP)
        print_limits();
    if (rc)
        return rc;
    config->http_port = (int)port;
    config->sim = strcmp(engine, "sim") == 0;
    if (!config->sim && strcmp(engine, "model") != 0)
        return err_set(err, ERR_ARG, "--engine must be model or sim, got '%s'", engine);
    if (!config->sim && !config->model_dir)
        return err_set(err, ERR_ARG, "--model DIR is missing");
    config->store = strcmp(store, "off") == 0 ? NULL : store;
    if (!store[0])
        return err_set(err, ERR_ARG, "--store needs a path, a postgresql:// URL or off");
    if (ctl_commit_of(commit, &config->commit))
        return err_set(err, ERR_ARG, "--commit must be token, token-fsync, request or off, got '%s'", commit);
    if (log_init("controller", level))
        return err_set(err, ERR_ARG, "--log-level must be error, warn, info or debug, got '%s'", level);
    if (config->sim && strcmp(profile, "auto") == 0) /* there is no config.json to tell */
        profile = "preview";
    return chat_profile_choose(profile, config->model_dir, &config->profile, err);
}

/* ---- running ---- */

/* A connection is a descriptor: as many as the system lets us have. */
static void raise_open_files(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0)
            log_warn(main, "the limit of open files could not be raised");
    }
}

/* False if the parent has gone before the kernel could be asked to tell. */
static bool follow_parent(pid_t parent)
{
    return prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == parent;
}

static void close_all(struct server *s)
{
    if (!s->ctl)
        return;
    ctl_close(&s->ctl, NULL, NULL);
    /* From here on a signal has its usual effect: it ends the process. */
    uv_close((uv_handle_t *)&s->term, NULL);
    uv_close((uv_handle_t *)&s->intr, NULL);
}

static void on_drained(void *arg)
{
    close_all(arg);
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct server *s = signal->data;

    log_info(main, "signal %d: %s", number, s->draining ? "stopping at once" : "stopping gracefully");
    if (s->draining) {
        close_all(s);
        return;
    }
    s->draining = true;
    ctl_drain(s->ctl, on_drained, s);
}

static void on_fatal(void *arg, const char *text)
{
    struct server *s = arg;

    fprintf(stderr, "baton-controller: stops at once: %s\n", text);
    s->status = EXIT_FENCED;
    close_all(s);
}

static int start_signals(struct server *s)
{
    uv_signal_init(&s->loop, &s->term);
    uv_signal_init(&s->loop, &s->intr);
    s->term.data = s->intr.data = s;
    int rc = uv_signal_start(&s->term, on_signal, SIGTERM);
    return rc ? rc : uv_signal_start(&s->intr, on_signal, SIGINT);
}

static void say_ready(const struct server *s, const struct ctl_config *config)
{
    bool v6 = strchr(config->http_host, ':') != NULL;
    const char *native = ctl_native_endpoint(s->ctl);
    printf("ready http://%s%s%s:%d workers %s%s%s\n", v6 ? "[" : "", config->http_host, v6 ? "]" : "",
           ctl_http_port(s->ctl), ctl_worker_endpoint(s->ctl), native ? " native " : "", native ? native : "");
    fflush(stdout);
}

static int serve(const struct ctl_config *config, int *status, struct err *err)
{
    struct server s = {0};

    int rc = uv_loop_init(&s.loop);
    if (rc)
        return err_set(err, ERR_IO, "no event loop: %s", uv_strerror(rc));
    rc = ctl_open(&s.loop, config, &s.ctl, err);
    if (!rc) {
        int uv = start_signals(&s);
        if (uv) {
            rc = err_set(err, ERR_IO, "signals cannot be watched: %s", uv_strerror(uv));
            close_all(&s);
        } else {
            ctl_on_fatal(s.ctl, on_fatal, &s);
            say_ready(&s, config);
        }
    }
    uv_run(&s.loop, UV_RUN_DEFAULT); /* until everything is closed, also what a failed open began */
    if (uv_loop_close(&s.loop) != 0)
        log_error(main, "handles are left on the loop");
    *status = s.status;
    return rc;
}

int main(int argc, char **argv)
{
    struct ctl_config config;
    struct err err;
    bool die_with_parent = false;
    int status = EXIT_SUCCESS;
    pid_t parent = getppid();

    ctl_config_init(&config);
    int rc = read_flags(argc, argv, &config, &die_with_parent, &err);
    if (rc == FLAGS_HELP)
        return EXIT_SUCCESS;
    if (rc) {
        fprintf(stderr, "baton-controller: %s\n", err.text);
        return EXIT_USAGE;
    }
    if (die_with_parent && !follow_parent(parent))
        return EXIT_SUCCESS;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is an error of a write, like a full disk */
    raise_open_files();
    rc = serve(&config, &status, &err);
    if (rc)
        fprintf(stderr, "baton-controller: %s\n", err.text);
    return rc == ERR_ARG ? EXIT_USAGE : rc ? EXIT_FAILURE : status;
}
