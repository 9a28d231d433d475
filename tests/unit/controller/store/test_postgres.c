/* Proves that the PostgreSQL store keeps the promises of store.h (suite.c); that a newer schema is refused; that the
 * loss of the session and a crash of the server are survived without loss or repeat; and that a standby takes over
 * from a leader that is dead or silent, while the old one can write nothing any more. How: a real server, private to
 * this program; sessions are ended by SQL.
 */
#include "tests/unit/controller/store/suite.h"

#include "common/base/clock.h"
#include "tests/unit/controller/store/cluster.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define END_OTHER_SESSIONS "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()" \
                           " AND application_name = 'baton-controller'"

static void test_newer_schema(void **state)
{
    (void)state;
    char url[512], want[64];
    struct rig r;
    struct err err;

    cluster_database(url, sizeof url);
    rig_init(&r, url);
    rig_start(&r);
    rig_close(&r);
    assert_true(cluster_sql(url, "INSERT INTO baton.schema_version(version) VALUES (7)"));
    rig_init(&r, url);
    assert_int_equal(rig_open(&r, &err), ERR_VERSION);
    snprintf(want, sizeof want, "has schema 7, this program knows up to %d", STORE_SCHEMA_VERSION);
    assert_non_null(strstr(err.text, want));
}

/* A database that a program of schema 1 wrote, as pg_dump wrote it down. */
static void test_migrates_version_1(void **state)
{
    (void)state;
    char url[512];
    static char sql[1 << 16];

    FILE *in = fopen(TEST_DATA("unit/controller/store/data/v1.sql"), "rb");
    assert_non_null(in);
    size_t n = fread(sql, 1, sizeof sql - 1, in);
    assert_true(n > 1000 && n < sizeof sql - 1);
    fclose(in);
    cluster_database(url, sizeof url);
    assert_true(cluster_sql(url, sql));
    suite_check_v1(url);
}

static void test_no_server(void **state)
{
    (void)state;
    struct rig r;
    struct err err;
    rig_init(&r, "postgresql://nobody:secret@127.0.0.1:1/nothing");
    assert_int_equal(rig_open(&r, &err), ERR_NET);
    assert_non_null(strstr(err.text, "unreachable: "));
    assert_null(strstr(err.text, "secret"));
}

static void test_lost_sessions(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct seen seen;

    cluster_database(url, sizeof url);
    rig_init(&r, url);
    rig_start(&r);
    assert_true(rig_wait(&r, put_accept(&r, "a", 1)));
    for (int i = 0; i < 10; i++) {
        uint64_t seq = put_tokens(&r, "a", 0, i, 1, STORE_LAZY);
        store_flush(r.store); /* the session dies before, during or after this commit */
        assert_true(cluster_sql(url, END_OTHER_SESSIONS));
        assert_true(rig_wait(&r, seq));
    }
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);
    suite_look(url, STORE_LOAD_all, &seen);
    assert_int_equal(seen.request[0].n_tok[0], 10);
}

static void test_crash_of_the_server(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct seen seen;

    cluster_database(url, sizeof url);
    rig_init(&r, url);
    rig_start(&r);
    put_accept(&r, "a", 1);
    assert_true(rig_wait(&r, put_tokens(&r, "a", 0, 0, 5, STORE_LAZY)));
    uint64_t seq = put_tokens(&r, "a", 0, 5, 5, STORE_LAZY);
    store_flush(r.store);
    assert_true(cluster_crash_and_restart());
    assert_true(rig_wait(&r, seq));
    assert_true(rig_wait(&r, put_tokens(&r, "a", 0, 10, 5, STORE_LAZY)));
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);
    suite_look(url, STORE_LOAD_all, &seen);
    assert_int_equal(seen.request[0].n_tok[0], 15);
}

/* More than one page of requests comes back, in order and with its tokens. */
static void test_load_in_pages(void **state)
{
    (void)state;
    enum { N = 200 };
    char url[512], id[32];
    struct rig r;
    struct err err;
    struct store_visitor none = {0};
    uint64_t seq = 0;

    cluster_database(url, sizeof url);
    rig_init(&r, url);
    rig_start(&r);
    for (int i = 0; i < N; i++) {
        snprintf(id, sizeof id, "r%03d", i);
        put_accept(&r, id, 2);
        seq = put_tokens(&r, id, 1, 0, 3, STORE_LAZY);
    }
    assert_true(rig_wait(&r, seq));
    rig_close(&r);
    rig_init(&r, url);
    assert_int_equal(rig_open(&r, &err), 0);
    assert_int_equal(store_load(r.store, STORE_LOAD_live, &none, NULL, &err), 0);
    rig_close(&r);
    assert_true(cluster_sql(url, "DELETE FROM baton.token WHERE request = 'r150'; INSERT INTO baton.token VALUES"
                                 " ('r150', 1, 1, 1, '\\x01000000', '')"));
    rig_init(&r, url);
    assert_int_equal(rig_open(&r, &err), 0);
    assert_int_equal(store_load(r.store, STORE_LOAD_all, &none, NULL, &err),
                     ERR_FORMAT); /* it got as far as that page */
    assert_non_null(strstr(err.text, "r150"));
    rig_close(&r);
}

/* The leader is silent (its beats are an hour apart here): a standby ends its session, and it is fenced. */
static void test_silent_leader_is_fenced(void **state)
{
    (void)state;
    char url[512];
    struct rig old, new;
    struct seen seen;
    struct err err;

    cluster_database(url, sizeof url);
    rig_init(&old, url);
    old.config.limit.beat_ms = 3600000;
    rig_start(&old);
    put_accept(&old, "a", 1);
    uint64_t seq = put_tokens(&old, "a", 0, 0, 2, STORE_LAZY);
    assert_true(rig_wait(&old, seq));

    rig_init(&new, url);
    new.config.limit.lease_ms = 300;
    int64_t t0 = clock_mono_ns();
    int n_try = 0;
    while (rig_open(&new, &err)) {
        assert_int_equal(err.code, ERR_BUSY);
        assert_true(n_try++ < 100);
        usleep(50000);
    }
    assert_true(n_try > 0); /* a fresh sign of life was respected */
    print_message("taken over after %d ms\n", (int)((clock_mono_ns() - t0) / 1000000));
    assert_int_equal(store_start(new.store, &err), 0);
    assert_true(rig_wait(&new, put_tokens(&new, "a", 0, 2, 1, STORE_LAZY)));

    put_tokens(&old, "a", 0, 2, 7, STORE_LAZY); /* the old leader wakes up */
    assert_true(rig_wait_state(&old, STORE_STATE_fenced));
    assert_int_equal(old.fault, STORE_FAULT_fenced);
    assert_int_equal(old.committed, seq);
    struct store_tokens t = {.request = "a", .first = 2, .n = 1, .id = (int32_t[]){1}};
    assert_int_equal(store_tokens(old.store, &t, STORE_LAZY, NULL, &err), ERR_STATE);
    rig_close(&old);

    assert_true(rig_wait(&new, put_tokens(&new, "a", 0, 3, 1, STORE_LAZY)));
    assert_int_equal(new.n_refused, 0);
    rig_close(&new);
    suite_look(url, STORE_LOAD_all, &seen);
    assert_int_equal(seen.request[0].n_tok[0], 4);
}

/* The epoch alone fences: the old session lives and is in order, only the row has moved on. */
static void test_epoch_fences_a_live_session(void **state)
{
    (void)state;
    char url[512];
    struct rig r;

    cluster_database(url, sizeof url);
    rig_init(&r, url);
    r.config.limit.beat_ms = 3600000;
    rig_start(&r);
    assert_true(rig_wait(&r, put_accept(&r, "a", 1)));
    assert_true(cluster_sql(url, "UPDATE baton.leader SET epoch = epoch + 1, batch = 0, holder = 'other'"));
    uint64_t seq = put_tokens(&r, "a", 0, 0, 1, STORE_FULL);
    assert_true(rig_wait_state(&r, STORE_STATE_fenced));
    assert_true(r.committed < seq);
    assert_non_null(strstr(r.text, "fenced: "));
    rig_close(&r);

    rig_init(&r, url); /* and the beat finds out by itself */
    r.config.limit.beat_ms = 20;
    rig_start(&r);
    assert_true(cluster_sql(url, "UPDATE baton.leader SET epoch = epoch + 1"));
    assert_true(rig_wait_state(&r, STORE_STATE_fenced));
    rig_close(&r);
}

/* What the leading child says through its pipe. */
struct word {
    char what;       /* L: leads; t: n tokens are acknowledged; F: fenced */
    int64_t n;
    uint64_t epoch;
};

static void say(char what, int64_t n, uint64_t epoch)
{
    struct word w;
    memset(&w, 0, sizeof w);
    w.what = what;
    w.n = n;
    w.epoch = epoch;
    if (write(1, &w, sizeof w) != sizeof w)
        abort();
}

/* The child's main: lead, and write a token at a time until it is killed or fenced. */
static int child_main(const char *url)
{
    struct rig r;
    struct store_status st;

    rig_init(&r, url);
    rig_start(&r);
    store_status(r.store, &st);
    if (!rig_wait(&r, put_accept(&r, "a", 1)))
        return 1;
    say('L', 0, st.epoch);
    for (int64_t i = 0;; i++) {
        uint64_t seq = put_tokens(&r, "a", 0, i, 1, STORE_LAZY);
        store_flush(r.store);
        while (r.committed < seq && r.state != STORE_STATE_fenced)
            uv_run(&r.loop, UV_RUN_ONCE);
        if (r.state == STORE_STATE_fenced)
            break;
        say('t', i + 1, st.epoch);
        usleep(2000);
    }
    say('F', 0, st.epoch);
    rig_close(&r);
    return 3;
}

/* Another process that leads and writes; *fd is its pipe. */
static pid_t start_leader(const char *url, int *fd_p, uint64_t *epoch)
{
    struct word w;
    int fd[2];

    assert_int_equal(pipe(fd), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fd[1], 1);
        close(fd[0]);
        close(fd[1]);
        execl("/proc/self/exe", "test_postgres", "child", url, (char *)NULL);
        _exit(9);
    }
    close(fd[1]);
    assert_int_equal(read(fd[0], &w, sizeof w), sizeof w);
    assert_int_equal(w.what, 'L');
    *epoch = w.epoch;
    *fd_p = fd[0];
    return pid;
}

/* Try until it leads. Returns the ms it took. */
static int64_t stand_by(struct rig *r, const char *url)
{
    struct err err;
    int64_t t0 = clock_mono_ns();

    rig_init(r, url);
    while (rig_open(r, &err)) {
        assert_int_equal(err.code, ERR_BUSY);
        assert_true(clock_mono_ns() - t0 < INT64_C(20000000000));
        usleep(20000);
    }
    return (clock_mono_ns() - t0) / 1000000;
}

/* What the leader before has been told is there, and the new one can go on. */
static void go_on(struct rig *r, uint64_t epoch, int64_t n_acknowledged, int64_t *n)
{
    struct seen seen;
    struct store_status st;
    struct err err;

    store_status(r->store, &st);
    assert_int_equal(st.epoch, epoch + 1);
    assert_int_equal(seen_load(r->store, STORE_LOAD_all, &seen, &err), 0);
    assert_int_equal(seen.n, 1);
    *n = seen.request[0].n_tok[0];
    assert_true(*n >= n_acknowledged);
    assert_int_equal(store_start(r->store, &err), 0);
    assert_true(rig_wait(r, put_tokens(r, "a", 0, *n, 9, STORE_LAZY)));
    assert_int_equal(r->n_refused, 0);
}

static void test_take_over_after_sigkill(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct err err;
    struct word w;
    uint64_t epoch;
    int64_t n_acknowledged = 0, n;
    int fd;

    cluster_database(url, sizeof url);
    pid_t pid = start_leader(url, &fd, &epoch);
    rig_init(&r, url);
    assert_int_equal(rig_open(&r, &err), ERR_BUSY);
    kill(pid, SIGKILL);
    int64_t ms = stand_by(&r, url);
    waitpid(pid, NULL, 0);
    while (read(fd, &w, sizeof w) == sizeof w)
        n_acknowledged = w.n;
    close(fd);
    print_message("leads %d ms after the SIGKILL, %d tokens acknowledged before\n", (int)ms, (int)n_acknowledged);
    assert_true(ms < 5000 && n_acknowledged > 0);
    go_on(&r, epoch, n_acknowledged, &n);
    rig_close(&r);
}

/* A leader that is stopped for longer than its lease: the standby leads, and when the old one wakes in the middle of
 * its work, it is told `fenced` and none of what it wanted to write is there. */
static void test_take_over_after_sigstop(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct word w = {0}, last = {0};
    struct seen seen;
    uint64_t epoch;
    int64_t n_acknowledged = 0, n;
    int fd, status;

    cluster_database(url, sizeof url);
    pid_t pid = start_leader(url, &fd, &epoch);
    for (int i = 0; i < 5; i++)
        assert_int_equal(read(fd, &w, sizeof w), sizeof w);
    kill(pid, SIGSTOP);
    int64_t ms = stand_by(&r, url);
    print_message("leads %d ms after the SIGSTOP\n", (int)ms);
    assert_true(ms >= 2000 && ms < 9000); /* the lease is 4000, its last sign of life up to 1000 old */
    n_acknowledged = w.n;
    go_on(&r, epoch, n_acknowledged, &n);
    kill(pid, SIGCONT);
    while (read(fd, &w, sizeof w) == sizeof w) {
        if (w.what == 't')
            assert_true(w.n <= n); /* acknowledged before the stop, read late */
        last = w;
    }
    close(fd);
    assert_int_equal(last.what, 'F');
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    assert_true(rig_wait(&r, put_tokens(&r, "a", 0, n + 9, 1, STORE_LAZY)));
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);
    suite_look(url, STORE_LOAD_all, &seen);
    assert_int_equal(seen.request[0].n_tok[0], n + 10);
}

static int tear_down(void **state)
{
    (void)state;
    cluster_stop();
    return 0;
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest own[] = {
        cmocka_unit_test(test_newer_schema),
        cmocka_unit_test(test_migrates_version_1),
        cmocka_unit_test(test_no_server),
        cmocka_unit_test(test_lost_sessions),
        cmocka_unit_test(test_crash_of_the_server),
        cmocka_unit_test(test_load_in_pages),
        cmocka_unit_test(test_silent_leader_is_fenced),
        cmocka_unit_test(test_epoch_fences_a_live_session),
        cmocka_unit_test(test_take_over_after_sigkill),
        cmocka_unit_test(test_take_over_after_sigstop),
    };
    if (argc == 3 && strcmp(argv[1], "child") == 0)
        return child_main(argv[2]);
    const char *why = cluster_start();
    if (why) {
        cluster_stop();
        fprintf(stderr, "skipped: %s\n", why);
        return 77;
    }
    suite_fresh = cluster_database;
    return suite_run_group("postgres", own, sizeof own / sizeof own[0], NULL, tear_down);
}
