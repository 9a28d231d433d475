/* Proves that the SQLite store keeps the promises of store.h (suite.c), names what is wrong with a file, survives a
 * full disk, and that no failure, kill or power cut at ANY change of a file costs an acknowledged record or leaves a
 * gap. How: real files; for the last, a VFS whose n-th change goes wrong, for every n of a fixed scenario; kills and
 * power cuts hit a child process (this program again), which reports each acknowledgement through a pipe.
 */
#include "tests/unit/controller/store/suite.h"

#include "controller/store/sqlite.h"
#include "tests/unit/controller/store/faultvfs.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[128];
static int n_fresh;

static void fresh(char *url, size_t n)
{
    snprintf(url, n, "%s/%d.db", dir, n_fresh++);
}

static void remove_db(const char *path)
{
    static const char *const suffix[] = {"", "-wal", "-journal", ".synced", "-wal.synced", "-journal.synced"};
    char name[600];
    for (size_t i = 0; i < sizeof suffix / sizeof suffix[0]; i++) {
        snprintf(name, sizeof name, "%s%s", path, suffix[i]);
        unlink(name);
    }
}

/* Run SQL on a closed database, behind the store's back. */
static void sql(const char *path, const char *text)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, text, NULL, NULL, NULL))
        fail_msg("%s: %s", text, sqlite3_errmsg(db));
    sqlite3_close(db);
}

/* A store with request "a" of 3 tokens, closed again. */
static void make_db(char *path, size_t n)
{
    struct rig r;
    fresh(path, n);
    rig_init(&r, path);
    rig_start(&r);
    put_accept(&r, "a", 1);
    put_tokens(&r, "a", 0, 0, 2, STORE_LAZY);
    assert_true(rig_wait(&r, put_tokens(&r, "a", 0, 2, 1, STORE_LAZY)));
    rig_close(&r);
}

/* ---- what the file may be ---- */

static void expect_open(const char *path, int code, const char *text)
{
    struct rig r;
    struct err err;
    rig_init(&r, path);
    int rc = rig_open(&r, &err);
    assert_int_equal(rc, code);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static void test_newer_schema(void **state)
{
    (void)state;
    char path[512], want[64];
    make_db(path, sizeof path);
    snprintf(want, sizeof want, "has schema 7, this program knows up to %d", STORE_SCHEMA_VERSION);
    sql(path, "PRAGMA user_version=7");
    expect_open(path, ERR_VERSION, want);
}

/* A file that a program of schema 1 wrote. */
static void test_migrates_version_1(void **state)
{
    (void)state;
    char path[512];
    static char block[1 << 17];

    fresh(path, sizeof path);
    FILE *in = fopen(TEST_DATA("unit/controller/store/data/v1.db"), "rb"), *out = fopen(path, "wb");
    assert_true(in && out);
    size_t n = fread(block, 1, sizeof block, in);
    assert_true(n >= 32768 && n < sizeof block);
    assert_int_equal(fwrite(block, 1, n, out), n);
    fclose(in);
    fclose(out);
    suite_check_v1(path);
}

static void test_foreign_and_damaged_files(void **state)
{
    (void)state;
    char path[512];
    struct rig r;
    struct err err;
    struct seen seen;

    fresh(path, sizeof path);
    sql(path, "CREATE TABLE mine(x)");
    expect_open(path, ERR_FORMAT, "corrupt: ");

    fresh(path, sizeof path);
    FILE *f = fopen(path, "w");
    for (int i = 0; i < 1000; i++)
        fputs("this is no database\n", f);
    fclose(f);
    expect_open(path, ERR_FORMAT, "corrupt: ");

    make_db(path, sizeof path); /* each page but the first is overwritten in its head */
    int fd = open(path, O_WRONLY);
    struct stat st;
    fstat(fd, &st);
    for (off_t at = 4096; at < st.st_size; at += 4096)
        assert_int_equal(pwrite(fd, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, at), 8);
    close(fd);
    expect_open(path, ERR_FORMAT, "corrupt: ");

    make_db(path, sizeof path); /* rows that contradict each other */
    sql(path, "DELETE FROM token WHERE first = 0");
    rig_init(&r, path);
    assert_int_equal(rig_open(&r, &err), 0);
    assert_int_equal(seen_load(r.store, STORE_LOAD_all, &seen, &err), ERR_FORMAT);
    assert_non_null(strstr(err.text, "a gap in the tokens"));
    rig_close(&r);

    make_db(path, sizeof path);
    sql(path, "UPDATE token SET ids = x'010203' WHERE first = 0");
    rig_init(&r, path);
    assert_int_equal(rig_open(&r, &err), 0);
    assert_int_equal(seen_load(r.store, STORE_LOAD_all, &seen, &err), ERR_FORMAT);
    rig_close(&r);
}

static void test_read_only(void **state)
{
    (void)state;
    char path[512];
    make_db(path, sizeof path);
    chmod(path, 0444);
    bool root = geteuid() == 0; /* who may write everything */
    if (root)
        assert_int_equal(seteuid(65534), 0);
    expect_open(path, ERR_IO, "read_only: ");
    if (root)
        assert_int_equal(seteuid(0), 0);
}

static void test_no_such_directory(void **state)
{
    (void)state;
    expect_open("/nowhere/at/all.db", ERR_IO, "/nowhere/at/all.db");
}

static void test_file_is_private(void **state)
{
    (void)state;
    char path[512];
    struct stat st;
    make_db(path, sizeof path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

/* ---- what a statement costs ---- */

/* Rows of sql, one line each, into out. */
static void lines_of(sqlite3 *db, const char *sql_text, int column, char *out, size_t n)
{
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_prepare_v2(db, sql_text, -1, &st, NULL), SQLITE_OK);
    out[0] = 0;
    while (sqlite3_step(st) == SQLITE_ROW)
        snprintf(out + strlen(out), n - strlen(out), "%s\n", (const char *)sqlite3_column_text(st, column));
    sqlite3_finalize(st);
}

/* No statement but the whole load walks through a table that grows: each finds its rows by an index. */
static void test_statements_use_indexes(void **state)
{
    (void)state;
    static const struct {
        const char *name, *sql;
    } statement[] = {
#define X(statement_name, text) {#statement_name, text},
        SQ_STATEMENT_LIST(X)
#undef X
    };
    /* Who may walk, and through what: a table of what lives, the one row of the leader, an index in its order. */
    static const char *const may[][2] = {
        {"load_request", "SCAN r USING INDEX request_age"}, {"load_run", "SCAN r USING INDEX run_age"},
        {"load_live", "SCAN l"},                            {"load_live_run", "SCAN l"},
        {"leader", "SCAN leader"},                          {"mark", "SCAN leader"},
        {"nth_request", "SCAN request USING COVERING INDEX request_age"},
        {"nth_run", "SCAN run USING COVERING INDEX run_age"},
    };
    char path[512], explain[2048], plan[4096];
    sqlite3 *db;
    int n_search = 0;

    make_db(path, sizeof path);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    for (size_t i = 0; i < sizeof statement / sizeof statement[0]; i++) {
        const char *allowed = "?";
        for (size_t k = 0; k < sizeof may / sizeof may[0]; k++)
            if (strcmp(may[k][0], statement[i].name) == 0)
                allowed = may[k][1];
        snprintf(explain, sizeof explain, "EXPLAIN QUERY PLAN %s", statement[i].sql);
        lines_of(db, explain, 3, plan, sizeof plan);
        for (char *line = strtok(plan, "\n"); line; line = strtok(NULL, "\n")) {
            n_search += strncmp(line, "SEARCH", 6) == 0;
            bool sorts_few = !strncmp(statement[i].name, "load_live", 9) || !strcmp(statement[i].name, "steps_of");
            if ((strstr(line, "SCAN") && strcmp(line, allowed) != 0 && strcmp(line, "SCAN CONSTANT ROW") != 0) ||
                (strstr(line, "TEMP B-TREE") && !sorts_few))
                fail_msg("%s: %s", statement[i].name, line);
        }
    }
    sqlite3_close(db);
    assert_true(n_search > 20);
}

/* ---- a disk that is full for a while ---- */

/* Write until it fails, then make room by make_room() and see that everything comes in. */
static void fill_up(const char *path, void (*make_room)(void *), void *arg)
{
    struct rig r;
    struct seen seen;
    int64_t n = 0;
    uint64_t seq, acknowledged;

    rig_init(&r, path);
    r.config.limit.retry_ms_max = 50;
    rig_start(&r);
    assert_true(rig_wait(&r, put_accept(&r, "a", 1)));
    do {
        seq = put_tokens(&r, "a", 0, n, 256, STORE_LAZY);
        n += 256;
        store_flush(r.store);
        for (int i = 0; i < 50 && r.committed < seq && !r.n_failing; i++) {
            uv_run(&r.loop, UV_RUN_NOWAIT);
            usleep(100);
        }
    } while (!r.n_failing && n < 4000000);
    assert_int_equal(r.n_failing, 1);
    assert_int_equal(r.fault, STORE_FAULT_disk_full);
    assert_non_null(strstr(r.text, "disk_full: "));
    acknowledged = r.committed;
    assert_true(acknowledged < seq);
    for (int i = 0; i < 20; i++) { /* it stays so, and nothing more is acknowledged */
        uv_run(&r.loop, UV_RUN_NOWAIT);
        usleep(5000);
    }
    assert_int_equal(r.committed, acknowledged);
    assert_int_equal(r.state, STORE_STATE_failing);
    make_room(arg);
    assert_true(rig_wait_durable(&r, put_tokens(&r, "a", 0, n, 1, STORE_FULL)));
    assert_true(rig_wait_state(&r, STORE_STATE_ready));
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);
    suite_look(path, STORE_LOAD_all, &seen);
    assert_int_equal(seen.request[0].n_tok[0], n + 1);
}

static void raise_limit(void *arg)
{
    assert_int_equal(setrlimit(RLIMIT_FSIZE, arg), 0);
}

static void test_file_size_limit(void **state)
{
    (void)state;
    char path[512];
    struct rlimit old, small;

    fresh(path, sizeof path);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 1 << 19;
    setrlimit(RLIMIT_FSIZE, &small);
    fill_up(path, raise_limit, &old);
}

static void remove_file(void *arg)
{
    assert_int_equal(unlink(arg), 0);
}

static void test_full_disk(void **state)
{
    (void)state;
    char at[256], path[512], ballast[512];
    static char block[1 << 20];

    snprintf(at, sizeof at, "%s/disk", dir);
    mkdir(at, 0700);
    if (mount("tmpfs", at, "tmpfs", 0, "size=4m")) {
        print_message("skipped: no tmpfs can be mounted here (%s)\n", strerror(errno));
        skip();
    }
    snprintf(path, sizeof path, "%s/x.db", at);
    snprintf(ballast, sizeof ballast, "%s/ballast", at);
    int fd = open(ballast, O_CREAT | O_WRONLY, 0600);
    for (int i = 0; i < 3; i++)
        assert_int_equal(write(fd, block, sizeof block), sizeof block);
    close(fd);
    fill_up(path, remove_file, ballast);
    assert_int_equal(umount(at), 0);
}

/* ---- every change goes wrong once ---- */

/* Requests "a", "b", "c" and run "d". */
enum { N_PROMISE = 4, RUN = 3 };

/* What the scenario has been promised; of a run, n_tok counts steps. */
struct promise {
    bool accepted, ended, pruning;
    int64_t n_tok, n_tok_durable;
};

typedef void (*report_fn)(void *arg, char what, char id, int64_t n);

static void tell(report_fn report, void *arg, char what, const char *id, int64_t n)
{
    report(arg, what, id[0], n);
}

static uint64_t put_nth_step(struct rig *r, int64_t i, enum store_class cls)
{
    char path[32];
    snprintf(path, sizeof path, "p[%d]", (int)i);
    return put_step(r, "d", path, 1, i % 2 ? "done" : "started", cls);
}

/* The fixed scenario: each step waits for its acknowledgement, so that the changes of the files are the same each
 * time. */
static void scenario(struct rig *r, report_fn report, void *arg)
{
    assert_true(rig_wait_durable(r, put_accept(r, "a", 1)));
    tell(report, arg, 'a', "a", 0);
    for (int i = 0; i < 4; i++) {
        assert_true(rig_wait(r, put_tokens(r, "a", 0, 3 * i, 3, STORE_LAZY)));
        tell(report, arg, 't', "a", 3 * i + 3);
    }
    put_tokens(r, "a", 0, 12, 200, STORE_LAZY);
    put_run(r, "d", "t", "key");
    assert_true(rig_wait_durable(r, put_accept(r, "b", 1)));
    tell(report, arg, 't', "a", 212);
    tell(report, arg, 'a', "d", 0);
    tell(report, arg, 'a', "b", 0);
    for (int i = 0; i < 3; i++) { /* a step and its tokens: one batch */
        put_nth_step(r, i, STORE_LAZY);
        assert_true(rig_wait(r, put_tokens(r, "b", 0, 256 * i, 256, STORE_LAZY)));
        tell(report, arg, 't', "d", i + 1);
        tell(report, arg, 't', "b", 256 * i + 256);
    }
    assert_true(rig_wait_durable(r, put_end(r, "a", 0, 212)));
    tell(report, arg, 'e', "a", 0);
    tell(report, arg, 'p', "a", 0);
    assert_true(rig_wait(r, put_prune(r, "a")));
    assert_true(rig_wait_durable(r, put_accept(r, "c", 1)));
    tell(report, arg, 'a', "c", 0);
    assert_true(rig_wait(r, put_tokens(r, "c", 0, 0, 250, STORE_LAZY)));
    tell(report, arg, 't', "c", 250);
    assert_true(rig_wait_durable(r, put_nth_step(r, 3, STORE_FULL)));
    tell(report, arg, 'T', "d", 4);
    assert_true(rig_wait_durable(r, put_tokens(r, "b", 0, 768, 1, STORE_FULL)));
    tell(report, arg, 'T', "b", 769);
    assert_true(rig_wait_durable(r, put_run_end(r, "d")));
    tell(report, arg, 'e', "d", 0);
    tell(report, arg, 'p', "d", 0);
    assert_true(rig_wait(r, put_prune_run(r, "d")));
    assert_true(rig_wait_durable(r, put_tokens(r, "c", 0, 250, 1, STORE_FULL)));
    tell(report, arg, 'T', "c", 251);
    assert_int_equal(r->n_refused, 0);
}

static void note(struct promise p[N_PROMISE], char what, char id, int64_t n)
{
    struct promise *to = &p[id - 'a'];
    if (what == 't' || what == 'T')
        to->n_tok = n;
    if (what == 'a')
        to->accepted = true;
    if (what == 'e')
        to->ended = true;
    if (what == 'p')
        to->pruning = true;
    if (what == 'a' || what == 'e' || what == 'T') /* FULL: everything before it is durable, too */
        for (int i = 0; i < N_PROMISE; i++)
            p[i].n_tok_durable = p[i].n_tok;
}

static void note_here(void *arg, char what, char id, int64_t n)
{
    note(arg, what, id, n);
}

/* What is there is what some number of batches made, from the first on: no later one without an earlier one, none in
 * parts. */
static void verify_prefix(const struct seen *seen, int64_t at)
{
    const struct seen_request *a = seen_find(seen, "a"), *b = seen_find(seen, "b"), *c = seen_find(seen, "c");
    const struct seen_run *d = seen_find_run(seen, "d");
    int64_t n_b = b ? b->n_tok[0] : -1, n_c = c ? c->n_tok[0] : -1;
    bool pruned_d = !d && n_c == 251;
    int n_step = d ? d->n_step : pruned_d ? 4 : -1;
    const bool fact[] = {
        a || b,         (a && a->n_tok[0] == 212) || b,       b && (d || pruned_d), n_b >= 256, n_b >= 512, n_b >= 768,
        !a || a->ended[0], !a,                                c != NULL,            n_c >= 250, n_step >= 4, n_b == 769,
        !d || d->ended, !d,                                   n_c == 251,
    };
    size_t n = sizeof fact / sizeof fact[0], i = 0;

    if (!a && !b && !c && !d)
        return; /* nothing at all */
    while (i < n && fact[i])
        i++;
    size_t first = i;
    if (i < 3)
        return; /* b and d are not there: `!d` and so on mean nothing yet */
    for (; i < n; i++)
        if (fact[i])
            fail_msg("change %d: batch %d is there without batch %d", (int)at, (int)i, (int)first);
    if ((d || pruned_d) && (n_b < 768 ? n_b / 256 : 3) != (n_step < 3 ? n_step : 3))
        fail_msg("change %d: %d steps and %d tokens of one batch each", (int)at, n_step, (int)n_b);
    for (int k = 0; d && k < d->n_step; k++) { /* in order */
        char want[32];
        snprintf(want, sizeof want, "p[%d]/1/%s ", k, k % 2 ? "done" : "started");
        if (!strstr(d->trace, want))
            fail_msg("change %d: the steps are %s", (int)at, d->trace);
    }
}

/* Every promise is kept, and the store goes on. */
static void verify(const char *path, const struct promise p[N_PROMISE], bool power, int64_t at)
{
    struct rig r;
    struct seen seen;
    struct err err;

    rig_init(&r, path);
    if (rig_open(&r, &err) || seen_load(r.store, STORE_LOAD_all, &seen, &err)) /* the opening checks the whole file */
        fail_msg("change %d: %s", (int)at, err.text);
    for (int i = 0; i < N_PROMISE; i++) {
        const char id[] = {(char)('a' + i), 0};
        const struct seen_request *s = seen_find(&seen, id);
        const struct seen_run *run = seen_find_run(&seen, id);
        int64_t want = power ? p[i].n_tok_durable : p[i].n_tok;
        int64_t got = i == RUN ? (run ? run->n_step : -1) : s ? s->n_tok[0] : -1;
        bool ended = i == RUN ? run && run->ended : s && s->ended[0];
        if (p[i].accepted && !p[i].pruning && (got < want || (p[i].ended && !ended)))
            fail_msg("change %d: %s has %d tokens or steps of %d, ended=%d of %d", (int)at, id, (int)got, (int)want,
                     ended, p[i].ended);
    }
    verify_prefix(&seen, at);
    assert_int_equal(store_start(r.store, &err), 0);
    assert_true(rig_wait_durable(&r, put_accept(&r, "z", 1)));
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);
}

static void open_faulty(struct rig *r, const char *path)
{
    faultvfs_register();
    rig_init(r, path);
    r->config.vfs = "fault";
    r->config.limit.checkpoint_pages = 4; /* so that the scenario has some */
    r->config.limit.sync_ms = 3600000;    /* nothing happens by the clock */
    r->config.limit.retry_ms = 1;
    r->config.limit.retry_ms_max = 2;
}

static void fail_each(int64_t n_fail)
{
    char path[512];
    struct rig r;
    struct err err;
    int64_t at, n_change;

    fresh(path, sizeof path);
    open_faulty(&r, path); /* registers it */
    for (at = 0;; at++) {
        struct promise p[N_PROMISE] = {0};
        remove_db(path);
        faultvfs_plan(FAULT_ERROR, at, n_fail);
        int n_try = 0;
        do {
            open_faulty(&r, path);
        } while (rig_open(&r, &err) && n_try++ < 20);
        assert_true(n_try < 20);
        assert_int_equal(store_start(r.store, &err), 0);
        scenario(&r, note_here, p);
        rig_close(&r);
        n_change = faultvfs_changes();
        faultvfs_heal();
        verify(path, p, false, at);
        if (n_change <= at)
            break;
    }
    assert_true(at > 50);
    print_message("%d changes failed, %d in a row each\n", (int)at, (int)n_fail);
}

static void test_fail_each_change(void **state)
{
    (void)state;
    fail_each(1);
}

static void test_fail_many_changes(void **state)
{
    (void)state;
    fail_each(7);
}

struct report {
    char what, id;
    int64_t n;
};

static void report_to_parent(void *arg, char what, char id, int64_t n)
{
    struct report m;
    memset(&m, 0, sizeof m);
    m.what = what;
    m.id = id;
    m.n = n;
    if (write(*(int *)arg, &m, sizeof m) != sizeof m)
        abort();
}

/* The child's main: argv = program child PATH MODE AT FD. */
static int child_main(char **argv)
{
    struct rig r;
    int fd = atoi(argv[5]);

    open_faulty(&r, argv[2]);
    faultvfs_plan((enum fault_mode)atoi(argv[3]), atoll(argv[4]), 1);
    rig_start(&r);
    scenario(&r, report_to_parent, &fd);
    rig_close(&r);
    return 0;
}

/* True: the child was killed; p has what it was promised. */
static bool run_child(const char *path, enum fault_mode mode, int64_t at, struct promise p[N_PROMISE])
{
    char mode_text[16], at_text[32], fd_text[16];
    struct report m;
    int fd[2], status;

    assert_int_equal(pipe(fd), 0);
    snprintf(mode_text, sizeof mode_text, "%d", (int)mode);
    snprintf(at_text, sizeof at_text, "%lld", (long long)at);
    snprintf(fd_text, sizeof fd_text, "%d", fd[1]);
    pid_t pid = fork();
    if (pid == 0) {
        close(fd[0]);
        execl("/proc/self/exe", "test_sqlite", "child", path, mode_text, at_text, fd_text, (char *)NULL);
        _exit(9);
    }
    close(fd[1]);
    while (read(fd[0], &m, sizeof m) == sizeof m)
        note(p, m.what, m.id, m.n);
    close(fd[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return true;
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return false;
}

static void kill_each(enum fault_mode mode)
{
    char path[512];
    bool killed = true;
    int64_t at;

    fresh(path, sizeof path);
    for (at = 0; killed; at++) {
        struct promise p[N_PROMISE] = {0};
        remove_db(path);
        killed = run_child(path, mode, at, p);
        if (mode == FAULT_POWER && killed)
            faultvfs_power_cut(path);
        verify(path, p, mode == FAULT_POWER, at);
    }
    assert_true(at > 50);
    print_message("killed at each of %d changes\n", (int)at - 1);
}

static void test_kill_at_each_change(void **state)
{
    (void)state;
    kill_each(FAULT_KILL);
}

static void test_power_cut_at_each_change(void **state)
{
    (void)state;
    kill_each(FAULT_POWER);
}

static int set_up(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR"), *memory = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    /* In memory, because the tests make thousands of syncs; what a sync keeps is up to the VFS "fault", not the disk.
     */
    snprintf(dir, sizeof dir, "%.90s/baton-store-XXXXXX", base ? base : memory);
    if (!mkdtemp(dir))
        return -1;
    return chmod(dir, 0755);
}

static int tear_down(void **state)
{
    (void)state;
    char path[512];
    for (int i = 0; i < n_fresh; i++) {
        snprintf(path, sizeof path, "%s/%d.db", dir, i);
        remove_db(path);
    }
    snprintf(path, sizeof path, "%s/disk", dir);
    umount(path); /* if a test failed half-way */
    rmdir(path);
    return rmdir(dir);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest own[] = {
        cmocka_unit_test(test_newer_schema),
        cmocka_unit_test(test_migrates_version_1),
        cmocka_unit_test(test_foreign_and_damaged_files),
        cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_no_such_directory),
        cmocka_unit_test(test_file_is_private),
        cmocka_unit_test(test_statements_use_indexes),
        cmocka_unit_test(test_file_size_limit),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_fail_each_change),
        cmocka_unit_test(test_fail_many_changes),
        cmocka_unit_test(test_kill_at_each_change),
        cmocka_unit_test(test_power_cut_at_each_change),
    };
    if (argc == 6 && strcmp(argv[1], "child") == 0)
        return child_main(argv);
    suite_fresh = fresh;
    return suite_run_group("sqlite", own, sizeof own / sizeof own[0], set_up, tear_down);
}
