/* worker/main.c - the program baton-worker: serves a controller, or runs one of the engine's commands.
 * Threads: main waits for signals; one loads the engine and ends; then the link's and the engine's (worker/link).
 */
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/flags.h"
#include "common/base/log.h"
#include "common/text/tok_sim.h"
#include "worker/engine/engine.h"
#include "worker/exit.h"
#include "worker/link/serve.h"
#include "worker/sim/sim.h"
#include "worker/tool/generate.h"
#include "worker/tool/info.h"
#include "worker/tool/tool.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { DRAIN_MS = 30000, STOP_MS = 2000, STEP_TOK = 256, SEQS = 8 };

/* --engine sim: as many sequences as the wire allows, times in microseconds, and a timer that is kept to them. */
enum {
    SIM_SEQS = MSG_SEQ_MAX,
    SIM_TOKENS = 16,
    SIM_CONTEXT = 1 << 20,
    SIM_KV_TOKENS = 1 << 24,
    SIM_US_MAX = 1 << 30,
    SIM_SLACK_NS = 1000,
};

#define COMMAND_LIST(X)                                                                            \
    X("score", wrk_tool_score)                                                                     \
    X("layer", wrk_tool_layer)                                                                     \
    X("generate", wrk_tool_generate)                                                               \
    X("info", wrk_tool_info)                                                                       \
    X("bench", wrk_tool_bench)

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} command[] = {
#define X(name, run) {name, run},
    COMMAND_LIST(X)
#undef X
};

struct args {
    const char *engine, *model, *connect, *name, *backend, *domain, *log_level;
    struct wrk_sim_opts sim;
    int64_t n_ranks, rank_deadline_ms, n_threads, n_seq, kv_tokens, context, step_tok, n_saved, drain_ms;
    bool die_with_parent;
    char name_default[64];
};

static int complain(enum wrk_exit status, const struct err *err)
{
    fprintf(stderr, "baton-worker: %s\n", err->text);
    return (int)status;
}

/* What the table of flags cannot say. */
static int check_args(struct args *a, struct err *err)
{
    char host[40] = "worker";
    bool is_sim = strcmp(a->engine, "sim") == 0;

    if (!is_sim && strcmp(a->engine, "model") != 0)
        return err_set(err, ERR_ARG, "--engine is model or sim, not '%s'", a->engine);
    if (!is_sim && !a->model)
        return err_set(err, ERR_ARG, "--model DIR is missing");
    if (!a->n_seq)
        a->n_seq = is_sim ? SIM_SEQS : SEQS;
    if (!is_sim && a->n_seq > ENG_SEQ_MAX)
        return err_set(err, ERR_ARG, "--max-seqs is %d, at most %d with --engine model", (int)a->n_seq, ENG_SEQ_MAX);
    if (log_init("worker", a->log_level))
        return err_set(err, ERR_ARG, "--log-level is error, warn, info or debug, not '%s'", a->log_level);
    if (!a->name) {
        gethostname(host, sizeof host - 1); /* a longer one is cut; the pid makes it unique on this host */
        snprintf(a->name_default, sizeof a->name_default, "%.39s-%ld", host, (long)getpid());
        a->name = a->name_default;
    }
    return 0;
}

/* 0, FLAGS_HELP or ERR_ARG. */
static int parse_args(struct args *a, int argc, char **argv, struct err *err)
{
    const struct flag flag[] = {
        {.name = "model", .kind = FLAG_STR, .to = &a->model, .value = "DIR",
         .help = "checkpoint directory"},
        {.name = "engine", .kind = FLAG_STR, .to = &a->engine, .value = "E",
         .help = "model (default), or sim: no model, output and times known in advance (worker/sim/sim.h)"},
        {.name = "connect", .kind = FLAG_STR, .to = &a->connect, .value = "tcp://HOST:PORT",
         .help = "the controller's door for workers", .required = true},
        {.name = "name", .kind = FLAG_STR, .to = &a->name, .value = "NAME",
         .help = "of this worker (default HOST-PID)"},
        {.name = "backend", .kind = FLAG_STR, .to = &a->backend, .value = "B",
         .help = "ref, cpu or cuda (default ref)"},
        {.name = "ranks", .kind = FLAG_I64, .to = &a->n_ranks, .value = "N",
         .help = "ranks that share the experts (default 1)", .min = 1,
         .max = ENG_RANKS_MAX},
        {.name = "rank-deadline-ms", .kind = FLAG_I64, .to = &a->rank_deadline_ms, .value = "N",
         .help = "a rank that shows no sign of life for so long ends this worker (default 10000)", .min = 1,
         .max = 3600 * 1000},
        {.name = "threads", .kind = FLAG_I64, .to = &a->n_threads, .value = "N",
         .help = "threads of back end cpu (default: all cores)", .min = 1, .max = 256},
        {.name = "max-seqs", .kind = FLAG_I64, .to = &a->n_seq, .value = "N",
         .help = "sequences at once (default 8; 4096 with --engine sim)", .min = 1, .max = MSG_SEQ_MAX},
        {.name = "kv-tokens", .kind = FLAG_I64, .to = &a->kv_tokens, .value = "N",
         .help = "tokens of cache over all sequences (default: 4096 a sequence)", .min = 0, .max = (int64_t)1 << 38},
        {.name = "max-context", .kind = FLAG_I64, .to = &a->context, .value = "N",
         .help = "tokens of one sequence (default: the model's)", .min = 0, .max = MDL_CONTEXT_MAX},
        {.name = "step-tokens", .kind = FLAG_I64, .to = &a->step_tok, .value = "N",
         .help = "tokens of one step over all sequences (default 256)", .min = 1, .max = ENG_STEP_TOK_MAX},
        {.name = "saved-states", .kind = FLAG_I64, .to = &a->n_saved, .value = "N",
         .help = "states that the prefix cache keeps, 0: no cache (default: twice --max-seqs)", .min = 0,
         .max = ENG_SAVED_MAX},
        {.name = "domain", .kind = FLAG_STR, .to = &a->domain, .value = "D",
         .help = "failure domain: provider/region/zone/type"},
        {.name = "drain-ms", .kind = FLAG_I64, .to = &a->drain_ms, .value = "N",
         .help = "time to finish work after SIGTERM (default 30000)", .min = 0, .max = 3600 * 1000},
        {.name = "sim-tokens", .kind = FLAG_I64, .to = &a->sim.n_tok, .value = "N",
         .help = "sim: tokens of output where the prompt names none (default 16)", .min = 1, .max = SIM_CONTEXT},
        {.name = "sim-ttft-us", .kind = FLAG_I64, .to = &a->sim.ttft_us, .value = "N",
         .help = "sim: time to the first token (default 0)", .min = 0, .max = SIM_US_MAX},
        {.name = "sim-itl-us", .kind = FLAG_I64, .to = &a->sim.itl_us, .value = "N",
         .help = "sim: time between tokens (default 0: as fast as it goes)", .min = 0, .max = SIM_US_MAX},
        {.name = "sim-log", .kind = FLAG_STR, .to = &a->sim.log_path, .value = "FILE",
         .help = "sim: write when each token was handed out"},
        {.name = "log-level", .kind = FLAG_STR, .to = &a->log_level, .value = "L",
         .help = "error, warn, info or debug"},
        {.name = "die-with-parent", .kind = FLAG_BOOL, .to = &a->die_with_parent,
         .help = "end when the parent process does"},
    };
    struct flags f = {.usage = "baton-worker --model DIR|--engine sim --connect tcp://HOST:PORT [flags] | baton-worker "
                               "score|layer|generate|info|bench ...",
                      .about = "Serves a controller with one model. SIGTERM: finish what runs and leave; a second\n"
                               "one: at once.",
                      .flag = flag,
                      .n_flag = N_ELEM(flag)};
    int rc = flags_parse(&f, argc, argv, err);
    return rc ? rc : check_args(a, err);
}

/* ---- loading: on a thread of its own, so that a signal ends even a long load at once ---- */

struct load {
    struct eng_opts opts;
    struct eng *eng;
    struct err err;
    int rc, done_fd;
};

static void *load_thread(void *arg)
{
    struct load *l = arg;
    uint64_t one = 1;
    l->rc = eng_open(&l->opts, &l->eng, &l->err);
    ssize_t n = write(l->done_fd, &one, sizeof one);
    (void)n;
    return NULL;
}

static enum wrk_exit status_of_load(int rc)
{
    switch (rc) {
    case ERR_GPU: return WRK_EXIT_device;
    case ERR_MEM: return WRK_EXIT_memory;
    case ERR_UNSUPPORTED: return WRK_EXIT_unsupported;
    default: return WRK_EXIT_checkpoint;
    }
}

/* Wait for fd or a signal. 1: fd; 0: a signal was taken; -1: the time passed. */
static int wait_for(int fd, int signal_fd, int64_t timeout_ms)
{
    struct pollfd p[] = {{.fd = fd, .events = POLLIN}, {.fd = signal_fd, .events = POLLIN}};
    const int64_t until = timeout_ms < 0 ? INT64_MAX : clock_mono_ns() + timeout_ms * 1000000;
    for (;;) {
        int64_t left_ms = timeout_ms < 0 ? -1 : (until - clock_mono_ns() + 999999) / 1000000;
        int n = poll(p, N_ELEM(p), left_ms < -1 ? 0 : (int)left_ms);
        if (n < 0 && errno == EINTR)
            continue;
        if (p[0].revents)
            return 1;
        if (p[1].revents) {
            struct signalfd_siginfo info;
            ssize_t got = read(signal_fd, &info, sizeof info);
            (void)got;
            return 0;
        }
        if (n == 0)
            return -1;
    }
}

/* 0 and l->eng; or the exit status, and the reason is said. */
static int load(struct load *l, int signal_fd)
{
    pthread_t thread;
    const int64_t t0 = clock_mono_ns();
    l->done_fd = eventfd(0, EFD_CLOEXEC);
    int e = l->done_fd < 0 ? errno : pthread_create(&thread, NULL, load_thread, l);
    if (e) {
        err_set(&l->err, ERR_IO, "no thread to load the model: %s", strerror(e));
        return complain(WRK_EXIT_failed, &l->err);
    }
    if (wait_for(l->done_fd, signal_fd, -1) == 0) {
        log_info(main, "asked to end while loading");
        _exit(WRK_EXIT_ok);
    }
    pthread_join(thread, NULL);
    close(l->done_fd);
    if (l->rc)
        return complain(status_of_load(l->rc), &l->err);
    log_info(main, "model %s loaded in %.1f s", l->opts.model_dir, (double)(clock_mono_ns() - t0) / 1e9);
    return 0;
}

/* ---- serving ---- */

/* Until it ended by itself, or: first signal drains, the second or the end of drain_ms stops. */
static void watch(struct wrk_serve *serve, int signal_fd, int64_t drain_ms)
{
    int fd = wrk_serve_done_fd(serve);
    if (wait_for(fd, signal_fd, -1) == 1)
        return;
    log_info(main, "asked to end: finishing what runs, at most %d ms", (int)drain_ms);
    wrk_serve_drain(serve);
    int got = wait_for(fd, signal_fd, drain_ms);
    if (got == 1)
        return;
    log_info(main, "%s: ending now, what runs goes on elsewhere", got == 0 ? "asked again" : "the time is over");
    wrk_serve_stop(serve);
    wait_for(fd, -1, STOP_MS);
    if (!wrk_serve_await(serve, STOP_MS)) /* Bye is said, and the step that still runs is nobody's any more */
        _exit(WRK_EXIT_ok);
}

/* Exit status. backend: what Hello says of it. */
static int serve(const struct args *a, int signal_fd, const struct wrk_machine_ops *machine, void *from,
                 const char *backend)
{
    struct wrk_serve *v = NULL;
    struct err err = {0};
    const struct wrk_serve_opts so = {.machine = machine,
                                      .from = from,
                                      .endpoint = a->connect,
                                      .name = a->name,
                                      .backend = backend,
                                      .domain = a->domain,
                                      .n_seq_max = (int)a->n_seq};
    int rc = wrk_serve_start(&so, &v, &err);
    if (rc)
        return complain(rc == ERR_ARG ? WRK_EXIT_usage : rc == ERR_MEM ? WRK_EXIT_memory : WRK_EXIT_failed, &err);
    watch(v, signal_fd, a->drain_ms);
    enum wrk_exit end = wrk_serve_join(&v, &err);
    return end == WRK_EXIT_ok ? 0 : complain(end, &err);
}

static int serve_model(const struct args *a, int signal_fd)
{
    struct load l = {.opts = {.model_dir = a->model,
                              .backend = a->backend,
                              .n_ranks = (int)a->n_ranks,
                              .rank_deadline_ms = (int)a->rank_deadline_ms,
                              .n_threads = (int)a->n_threads,
                              .n_seq_max = (int)a->n_seq,
                              .step_tok_max = (int)a->step_tok,
                              .context_max = a->context,
                              .kv_tokens = a->kv_tokens,
                              .n_saved = (int)(a->n_saved < 0 ? 2 * a->n_seq : a->n_saved)}};
    int status = load(&l, signal_fd);
    if (!status)
        status = serve(a, signal_fd, &wrk_sched_machine, l.eng, a->backend);
    eng_close(&l.eng);
    return status;
}

static int serve_sim(const struct args *a, int signal_fd)
{
    struct wrk_sim_opts sim = a->sim;
    struct tok *tok = NULL;
    struct err err = {0};

    if (tok_sim_open(&tok, &err))
        return complain(WRK_EXIT_failed, &err);
    sim.tok = tok;
    sim.name = a->name;
    sim.kv_tokens = a->kv_tokens ? a->kv_tokens : SIM_KV_TOKENS;
    sim.context_max = a->context ? a->context : SIM_CONTEXT;
    prctl(PR_SET_TIMERSLACK, SIM_SLACK_NS); /* threads that start later inherit it */
    int status = serve(a, signal_fd, &wrk_sim_machine, &sim, "sim");
    tok_close(&tok);
    return status;
}

/* Signals are taken from a descriptor by main; every thread that starts later has them blocked. */
static int open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC);
}

int main(int argc, char **argv)
{
    struct args a = {.engine = "model", .backend = "ref", .domain = "", .n_ranks = 1, .step_tok = STEP_TOK,
                     .n_saved = -1, .drain_ms = DRAIN_MS, .sim = {.n_tok = SIM_TOKENS}};
    struct err err = {0};
    const pid_t parent = getppid();
    if (argc > 1 && argv[1][0] != '-') {
        const char *names[N_ELEM(command)];
        for (size_t i = 0; i < N_ELEM(command); i++) {
            if (strcmp(command[i].name, argv[1]) == 0) {
                log_init("worker", "warn"); /* stderr is for errors */
                return command[i].run(argc - 1, argv + 1);
            }
            names[i] = command[i].name;
        }
        const char *near = flags_nearest(argv[1], names, N_ELEM(names));
        err_set(&err, ERR_ARG, "there is no command '%s'%s%s%s; see --help", argv[1], near ? ", did you mean '" : "",
                near ? near : "", near ? "'" : "");
        return complain(WRK_EXIT_usage, &err);
    }
    int rc = parse_args(&a, argc, argv, &err);
    if (rc == FLAGS_HELP)
        return WRK_EXIT_ok;
    if (rc)
        return complain(WRK_EXIT_usage, &err);
    if (a.die_with_parent) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) /* it died before the line above */
            return WRK_EXIT_ok;
    }
    int signal_fd = open_signals();
    if (signal_fd < 0) {
        err_set(&err, ERR_IO, "no descriptor for signals: %s", strerror(errno));
        return complain(WRK_EXIT_failed, &err);
    }
    int status = strcmp(a.engine, "sim") == 0 ? serve_sim(&a, signal_fd) : serve_model(&a, signal_fd);
    close(signal_fd);
    return status;
}
