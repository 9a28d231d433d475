/* Proves that a writer killed with SIGKILL at a random moment, again and again on the same file, loses nothing that it
 * was told is committed, and never leaves a batch in parts. How: a child process (this program again) writes one batch
 * after the other without waiting, each a token for every choice of a request and a step of a run, and prunes what its
 * predecessor left; it reports progress through a pipe. The parent kills it, reads the file, and starts the next.
 */
#include "tests/unit/controller/store/suite.h"

#include "common/base/clock.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KILLS = 200, CHOICES = 4, KILL_MS_MAX = 40 };

static char path[256];

static void names(int generation, char request[STORE_ID_MAX], char run[STORE_ID_MAX])
{
    snprintf(request, STORE_ID_MAX, "g%d", generation);
    snprintf(run, STORE_ID_MAX, "r%d", generation);
}

/* The child's main: write until killed. Batch 1 accepts, batch k + 1 has token k - 1 of each choice and step k - 1. */
static int child_main(int generation, int before)
{
    char request[STORE_ID_MAX], run[STORE_ID_MAX], old_request[STORE_ID_MAX], old_run[STORE_ID_MAX], step[32];
    struct rig r;
    uint64_t told = 0, first, seq;

    names(generation, request, run);
    names(before, old_request, old_run);
    rig_init(&r, path);
    r.config.limit.checkpoint_pages = 32;
    rig_start(&r);
    put_prune(&r, old_request);
    put_prune_run(&r, old_run);
    put_run(&r, run, "t", NULL);
    first = put_accept(&r, request, CHOICES);
    store_flush(r.store);
    for (int64_t i = 0;; i++) {
        for (int c = 0; c < CHOICES; c++)
            put_tokens(&r, request, c, i, 1, STORE_LAZY);
        snprintf(step, sizeof step, "s[%d]", (int)i);
        seq = put_step(&r, run, step, 1, "done", i % 16 ? STORE_LAZY : STORE_FULL);
        store_flush(r.store);
        do {
            uv_run(&r.loop, seq > r.committed + 20 ? UV_RUN_ONCE : UV_RUN_NOWAIT);
        } while (seq > r.committed + 20);
        if (r.committed >= first && r.committed > told) {
            told = r.committed;
            uint64_t batches = told - first + 1;
            if (write(1, &batches, sizeof batches) != sizeof batches)
                return 1;
        }
    }
}

/* Start a writer that prunes generation `before`, kill it after a while. Returns how many of its batches it knew to be
 * committed. */
static uint64_t kill_one(int generation, int before, unsigned *seed)
{
    char text[16], before_text[16];
    uint64_t batches = 0;
    int fd[2], status;

    snprintf(text, sizeof text, "%d", generation);
    snprintf(before_text, sizeof before_text, "%d", before);
    assert_int_equal(pipe(fd), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fd[1], 1);
        close(fd[0]);
        close(fd[1]);
        execl("/proc/self/exe", "test_kills", "child", path, text, before_text, (char *)NULL);
        _exit(9);
    }
    close(fd[1]);
    /* Every other one from the start of the process on, before it has even opened the file; the rest while it writes.
     */
    if (generation % 2)
        assert_int_equal(read(fd[0], &batches, sizeof batches), sizeof batches);
    *seed = *seed * 1103515245u + 12345u;
    usleep((*seed >> 8) % (KILL_MS_MAX * 1000));
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFSIGNALED(status))
        fail_msg("the writer ended by itself: %d", status);
    uint64_t n;
    while (read(fd[0], &n, sizeof n) == sizeof n)
        batches = n;
    close(fd[0]);
    return batches;
}

static void test_kills(void **state)
{
    (void)state;
    unsigned seed = 20;
    int64_t n_batch = 0, n_known = 0;
    int n_late = 0, before = 0;

    for (int g = 1; g <= KILLS; g++) {
        char request[STORE_ID_MAX], run[STORE_ID_MAX];
        struct seen seen;
        uint64_t known = kill_one(g, before, &seed);
        names(g, request, run);
        suite_look(path, STORE_LOAD_all, &seen); /* checks the file and that there is no gap */
        const struct seen_request *q = seen_find(&seen, request);
        const struct seen_run *d = seen_find_run(&seen, run);
        int64_t n = q ? q->n_tok[0] + 1 : 0; /* batches that are there */
        if ((uint64_t)n < known)
            fail_msg("kill %d: %d batches are there, %d were acknowledged", g, (int)n, (int)known);
        if (!q != !d || (q && seen.n != 1) || (d && seen.n_run != 1))
            fail_msg("kill %d: a batch is there in parts", g);
        for (int c = 0; q && c < CHOICES; c++)
            if (q->n_tok[c] != d->n_step)
                fail_msg("kill %d: choice %d has %d tokens, the run %d steps", g, c, (int)q->n_tok[c], d->n_step);
        n_batch += n;
        n_known += (int64_t)known;
        n_late += known > 0;
        if (q)
            before = g;
    }
    print_message("%d kills, %d of them while it wrote; %d batches acknowledged, %d there, none lost or in parts\n",
                  KILLS, n_late, (int)n_known, (int)n_batch);
    assert_true(n_late >= KILLS / 2);
}

static int set_up(void **state)
{
    (void)state;
    const char *memory = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(path, sizeof path, "%s/baton-kills-%ld.db", memory, (long)getpid());
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char wal[300];
    snprintf(wal, sizeof wal, "%s-wal", path);
    unlink(wal);
    unlink(path);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kills, set_up, tear_down),
    };
    if (argc == 5 && strcmp(argv[1], "child") == 0) {
        snprintf(path, sizeof path, "%s", argv[2]);
        return child_main(atoi(argv[3]), atoi(argv[4]));
    }
    return cmocka_run_group_tests_name("kills", tests, NULL, NULL);
}
