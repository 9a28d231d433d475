/* Proves: baton-worker as a process, with the real engine: what it serves is what `generate` prints; work that a
 * SIGKILL interrupted goes on elsewhere with the same tokens, at any token; SIGTERM, twice SIGTERM, the end of the
 * parent; every named exit status and its one line.
 * How: fork and exec of the program that was built, a ROUTER here as its controller, the tiny golden checkpoint. */
#include "common/mem/mem.h"
#include "common/text/json.h"
#include "tests/unit/worker/link/router.h"
#include "worker/exit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const char worker_path[] = BATON_BINARY_DIR "/bin/baton-worker";
static const char model[] = BATON_BINARY_DIR "/golden/tiny";

enum { N_PROMPT = 12, N_OUTPUT = 24, ARGS_MAX = 32 };

static const int32_t prompt[N_PROMPT] = {0, 17, 5, 99, 3, 3, 250, 64, 31, 7, 120, 9};

struct process {
    pid_t pid;
    int out; /* its stdout and stderr */
};

/* Run the worker with args (NULL at the end), output into a pipe. */
static struct process spawn(const char *const *args)
{
    int fd[2];
    struct process p;
    char *argv[ARGS_MAX] = {(char *)(uintptr_t)worker_path};
    for (int i = 0; args[i]; i++)
        argv[i + 1] = (char *)(uintptr_t)args[i];
    assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
    p.pid = fork();
    assert_true(p.pid >= 0);
    if (p.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(fd[1], 1);
        dup2(fd[1], 2);
        execv(argv[0], argv);
        _exit(99);
    }
    close(fd[1]);
    p.out = fd[0];
    return p;
}

static void read_all(struct process *p, struct buf *text)
{
    ssize_t n;
    while ((n = read(p->out, buf_room(text, 4096), 4096)) > 0 || (n < 0 && errno == EINTR))
        text->len += n > 0 ? (size_t)n : 0;
    buf_add(text, "", 0);
    close(p->out);
}

/* Wait for its end, at most ROUTER_WAIT_MS. Returns the exit status; 1000 + the signal if one killed it. */
static int wait_end(pid_t pid)
{
    int status = 0;
    for (int i = 0; i < ROUTER_WAIT_MS / 10; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
        usleep(10000);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    fail_msg("pid %d did not end", (int)pid);
    return -1;
}

static int run(const char *const *args, struct buf *text)
{
    struct process p = spawn(args);
    read_all(&p, text);
    return wait_end(p.pid);
}

static struct process serve(const struct router *r, const char *name)
{
    const char *const args[] = {"--model", model, "--connect", r->endpoint, "--name", name, "--max-context", "4096",
                                "--max-seqs", "4", "--log-level", "warn", "--die-with-parent", NULL};
    return spawn(args);
}

static struct msg request(uint64_t epoch, uint32_t attempt, const int32_t *tok, int n_committed, int n_output)
{
    struct msg m = {.kind = MSG_generate,
                    .generate = {.epoch = epoch, .request = "r", .attempt = attempt, .n_tok = N_PROMPT + n_committed,
                                 .n_committed = n_committed, .tok = tok, .max_output = n_output, .ignore_eos = true}};
    m.generate.sampling = (struct msg_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 11};
    return m;
}

/* Tokens of one attempt until n are there in all, each index once and in order. */
static void collect(struct router *r, uint32_t attempt, int32_t *id, int *n, int until)
{
    while (*n < until) {
        const struct msg_tokens *m = &router_expect(r, MSG_tokens)->tokens;
        if (m->attempt != attempt)
            continue;
        assert_int_equal(m->first_index, *n);
        for (int i = 0; i < m->n; i++)
            id[(*n)++] = m->token[i].id;
    }
}

static int32_t want[N_OUTPUT]; /* by `generate` */

static void test_generate(void **state)
{
    char path[] = "/tmp/baton-wire-XXXXXX";
    struct buf text = {0}, ids = {0};
    struct arena arena = {0};
    const struct json *root = NULL;
    struct err err = {0};
    (void)state;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    buf_add_str(&ids, "{\"tokens\": [");
    for (int i = 0; i < N_PROMPT; i++)
        buf_addf(&ids, "%s%d", i ? ", " : "", (int)prompt[i]);
    buf_add_str(&ids, "]}");
    assert_int_equal(write(fd, ids.data, ids.len), (int)ids.len);
    close(fd);
    const char *const args[] = {"generate", "--model", model, "--tokens", path, "--max-tokens", "24", "--seed", "11",
                                "--ignore-eos", "--json", NULL};
    assert_int_equal(run(args, &text), 0);
    unlink(path);
    assert_int_equal(json_parse(text.data, text.len, 0, &arena, &root, &err), 0);
    const struct json *tok = json_get(root, "tokens");
    assert_true(json_is(tok, JSON_ARRAY));
    assert_int_equal(tok->n, N_OUTPUT);
    assert_true(json_is(json_get(root, "text"), JSON_NULL)); /* no tokenizer in this checkpoint */
    assert_true(json_is_str(json_get(root, "finish_reason"), "length"));
    assert_true(json_is(json_get(root, "timings"), JSON_OBJECT));
    int n = 0, differ = 0;
    for (const struct json *j = tok->child; j; j = j->next) {
        int64_t v;
        assert_true(json_to_i64(j, &v));
        want[n++] = (int32_t)v;
        differ += want[n - 1] != want[0];
    }
    assert_true(differ > 0); /* else equal tokens below would prove little */
    arena_release(&arena);
    buf_release(&text);
    buf_release(&ids);
}

static void test_served_equals_generated(void **state)
{
    int32_t id[N_OUTPUT];
    int n = 0;
    struct router r;
    (void)state;
    router_open(&r, "tcp://127.0.0.1:*");
    struct process p = serve(&r, "w");
    const struct msg_hello *h = &router_expect(&r, MSG_hello)->hello;
    assert_int_equal(h->pid, p.pid);
    assert_true(h->fingerprint != 0);
    assert_int_equal(h->context_max, 4096);
    router_welcome(&r, 1, 100);
    struct msg g = request(1, 1, prompt, 0, N_OUTPUT);
    router_send(&r, &g);
    collect(&r, 1, id, &n, N_OUTPUT);
    assert_memory_equal(id, want, sizeof want);
    assert_int_equal(router_expect(&r, MSG_finished)->finished.n_output, N_OUTPUT);
    /* Nothing runs: SIGTERM ends it with Bye. */
    kill(p.pid, SIGTERM);
    router_expect(&r, MSG_bye);
    assert_int_equal(wait_end(p.pid), WRK_EXIT_ok);
    close(p.out);
    router_close(&r);
}

/* SIGKILL after k tokens, prompt and committed tokens to a fresh process: the rest is what it would have been. */
static void test_killed_and_resumed(void **state)
{
    int32_t id[N_OUTPUT], tok[N_PROMPT + N_OUTPUT];
    struct router r;
    (void)state;
    router_open(&r, "tcp://127.0.0.1:*");
    struct process p = serve(&r, "w0");
    router_expect(&r, MSG_hello);
    router_welcome(&r, 1, 100);
    for (int k = 1; k <= N_OUTPUT; k += 6) {
        char name[16];
        int n = 0;
        uint64_t epoch = (uint64_t)k;
        struct msg g = request(epoch, 1, prompt, 0, 4000);
        router_send(&r, &g);
        collect(&r, 1, id, &n, k);
        kill(p.pid, SIGKILL);
        assert_int_equal(wait_end(p.pid), 1000 + SIGKILL);
        close(p.out);
        memcpy(tok, prompt, sizeof prompt);
        memcpy(tok + N_PROMPT, id, (size_t)k * sizeof *id);
        snprintf(name, sizeof name, "w%d", k);
        p = serve(&r, name);
        router_expect(&r, MSG_hello);
        epoch = (uint64_t)k + 6;
        router_welcome(&r, epoch, 100);
        g = request(epoch, 2, tok, k, N_OUTPUT);
        router_send(&r, &g);
        collect(&r, 2, id, &n, N_OUTPUT);
        assert_memory_equal(id, want, sizeof want);
    }
    kill(p.pid, SIGKILL);
    assert_int_equal(wait_end(p.pid), 1000 + SIGKILL);
    close(p.out);
    router_close(&r);
}

static void test_sigterm_while_running(void **state)
{
    int32_t id[N_OUTPUT];
    struct router r;
    (void)state;
    for (int n_signal = 1; n_signal <= 2; n_signal++) {
        int n = 0;
        router_open(&r, "tcp://127.0.0.1:*");
        struct process p = serve(&r, "w");
        router_expect(&r, MSG_hello);
        router_welcome(&r, 1, 100);
        struct msg g = request(1, 1, prompt, 0, n_signal == 1 ? N_OUTPUT : 4000);
        router_send(&r, &g);
        collect(&r, 1, id, &n, 1);
        kill(p.pid, SIGTERM);
        if (n_signal == 1) { /* finishes what runs */
            collect(&r, 1, id, &n, N_OUTPUT);
            assert_memory_equal(id, want, sizeof want);
            router_expect(&r, MSG_finished);
        } else { /* the second one does not wait */
            while (!router_expect(&r, MSG_heartbeat)->heartbeat.draining)
                ;
            kill(p.pid, SIGTERM);
        }
        router_expect(&r, MSG_bye);
        assert_int_equal(wait_end(p.pid), WRK_EXIT_ok);
        close(p.out);
        router_close(&r);
    }
}

static void test_die_with_parent(void **state)
{
    struct router r;
    (void)state;
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); /* the orphan is then ours to wait for */
    router_open(&r, "tcp://127.0.0.1:*");
    pid_t parent = fork();
    if (parent == 0) {
        serve(&r, "w");
        pause();
        _exit(0);
    }
    pid_t pid = (pid_t)router_expect(&r, MSG_hello)->hello.pid;
    router_welcome(&r, 1, 50);
    router_expect(&r, MSG_heartbeat);
    kill(parent, SIGKILL);
    assert_int_equal(wait_end(parent), 1000 + SIGKILL);
    assert_int_equal(wait_end(pid), 1000 + SIGKILL);
    router_close(&r);
}

static void ends_with(const char *const *args, int status, const char *part)
{
    struct buf text = {0};
    int got = run(args, &text);
    if (got != status || !strstr(text.data, part))
        fail_msg("status %d, wanted %d with '%s': %s", got, status, part, text.data);
    buf_release(&text);
}

static void test_exit_statuses(void **state)
{
    struct router r;
    struct buf text = {0};
    (void)state;
    ends_with((const char *const[]){"--help", NULL}, WRK_EXIT_ok, "--connect");
    ends_with((const char *const[]){"--modle", "x", NULL}, WRK_EXIT_usage, "did you mean --model");
    ends_with((const char *const[]){"scroe", NULL}, WRK_EXIT_usage, "did you mean 'score'");
    ends_with((const char *const[]){"--model", model, NULL}, WRK_EXIT_usage, "--connect");
    ends_with((const char *const[]){"--model", model, "--connect", "nowhere", NULL}, WRK_EXIT_usage, "nowhere");
    ends_with((const char *const[]){"--model", model, "--connect", "tcp://127.0.0.1:9", "--log-level", "loud", NULL},
              WRK_EXIT_usage, "loud");
    ends_with((const char *const[]){"--model", "/nonexistent", "--connect", "tcp://127.0.0.1:9", NULL},
              WRK_EXIT_checkpoint, "/nonexistent");
    ends_with((const char *const[]){"--model", model, "--connect", "tcp://127.0.0.1:9", "--backend", "abacus", NULL},
              WRK_EXIT_unsupported, "abacus");
    ends_with((const char *const[]){"generate", "--model", model, "--max-tokens", "1", NULL}, WRK_EXIT_usage,
              "--prompt");
    ends_with((const char *const[]){"generate", "--model", model, "--max-tokens", "1", "--prompt", "x", NULL},
              WRK_EXIT_failed, "tokenizer.json");

    router_open(&r, "tcp://127.0.0.1:*");
    struct process p = serve(&r, "w");
    router_expect(&r, MSG_hello);
    router_refuse(&r, MSG_REFUSE_model, "another model is served here");
    read_all(&p, &text);
    assert_int_equal(wait_end(p.pid), WRK_EXIT_refused);
    assert_non_null(strstr(text.data, "another model is served here"));
    buf_release(&text);
    router_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generate),           cmocka_unit_test(test_served_equals_generated),
        cmocka_unit_test(test_killed_and_resumed), cmocka_unit_test(test_sigterm_while_running),
        cmocka_unit_test(test_die_with_parent),    cmocka_unit_test(test_exit_statuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
