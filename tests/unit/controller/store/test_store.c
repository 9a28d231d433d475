/* Proves what the store's thread and queue do when the database does not: nothing is acknowledged, the queue pushes
 * back at its limits and frees itself, everything comes in once the cause is gone, closing never hangs. How: SQLite
 * behind the VFS that fails on demand; and, if the environment names a directory (STORE_BENCH_DIR), the time of
 * 100000 appends there.
 */
#include "tests/unit/controller/store/suite.h"

#include "common/base/clock.h"
#include "tests/unit/controller/store/faultvfs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[128];

static int set_up(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/baton-store-%ld.db", (long)getpid());
    faultvfs_register();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char wal[160];
    faultvfs_heal();
    snprintf(wal, sizeof wal, "%s-wal", path);
    unlink(wal);
    unlink(path);
    return 0;
}

/* A started store with request "a", whose next commits fail. */
static void broken(struct rig *r, int64_t queue_max)
{
    rig_init(r, path);
    r->config.vfs = "fault";
    r->config.limit.queue_max = queue_max;
    r->config.limit.batch_bytes_max = 4096;
    r->config.limit.retry_ms_max = 40;
    r->config.limit.sync_ms = 20;
    rig_start(r);
    assert_true(rig_wait_durable(r, put_accept(r, "a", 1)));
    faultvfs_plan(FAULT_ERROR, 0, INT64_MAX);
}

static void test_pushes_back_and_recovers(void **state)
{
    (void)state;
    struct rig r;
    struct err err;
    struct seen seen;
    struct store_status st;
    int32_t tok[64] = {0};
    int64_t n = 0;
    int rc;

    broken(&r, 4);
    uint64_t safe = r.committed;
    for (;;) { /* 64 tokens at a time, a turn each, until it says stop */
        for (int i = 0; i < 64; i++)
            tok[i] = suite_token("a", 0, n + i);
        struct store_tokens t = {.request = "a", .first = n, .n = 64, .id = tok, .extra = "x\0y", .extra_bytes = 3};
        bool warned = store_is_full(r.store);
        if ((rc = store_tokens(r.store, &t, STORE_LAZY, NULL, &err))) {
            assert_true(warned); /* it said so in time */
            break;
        }
        n += 64;
        store_flush(r.store);
        uv_run(&r.loop, UV_RUN_NOWAIT);
        assert_true(n < 100000);
    }
    assert_int_equal(rc, ERR_LIMIT);
    assert_true(rig_wait_state(&r, STORE_STATE_failing));
    assert_true(store_is_full(r.store));
    struct store_tokens t = {.request = "a", .first = n, .n = 64, .id = tok};
    assert_int_equal(store_tokens(r.store, &t, STORE_LAZY, NULL, &err), ERR_LIMIT);
    store_status(r.store, &st);
    assert_int_equal(st.n_queued, 4);
    assert_int_equal(st.committed, safe);
    assert_true(st.fault == STORE_FAULT_io || st.fault == STORE_FAULT_disk_full);
    assert_int_equal(r.committed, safe);

    faultvfs_heal();
    assert_true(rig_wait_state(&r, STORE_STATE_ready));
    assert_true(rig_wait(&r, safe + 5)); /* the four, and the full one behind them that nobody flushes again */
    assert_false(store_is_full(r.store));
    assert_true(rig_wait_durable(&r, put_end(&r, "a", 0, n)));
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);
    rig_init(&r, path);
    assert_int_equal(rig_open(&r, &err), 0);
    assert_int_equal(seen_load(r.store, STORE_LOAD_all, &seen, &err), 0);
    assert_int_equal(seen.request[0].n_tok[0], n);
    rig_close(&r);
}

static void test_close_while_failing(void **state)
{
    (void)state;
    struct rig r;
    struct err err;
    struct seen seen;

    broken(&r, 4);
    put_tokens(&r, "a", 0, 0, 1, STORE_FULL);
    assert_true(rig_wait_state(&r, STORE_STATE_failing));
    put_tokens(&r, "a", 0, 1, 1, STORE_FULL);
    int64_t t0 = clock_mono_ns();
    rig_close(&r); /* what was never acknowledged may go */
    assert_true(clock_mono_ns() - t0 < INT64_C(5000000000));
    faultvfs_heal();
    rig_init(&r, path);
    assert_int_equal(rig_open(&r, &err), 0);
    assert_int_equal(seen_load(r.store, STORE_LOAD_all, &seen, &err), 0);
    assert_non_null(seen_find(&seen, "a"));
    rig_close(&r);
}

/* A sync that fails while nothing is written shows, holds `durable` back, and heals. */
static void test_failing_sync(void **state)
{
    (void)state;
    struct rig r;

    broken(&r, 4);
    faultvfs_heal();
    r.n_failing = 0;
    uint64_t seq = put_tokens(&r, "a", 0, 0, 1, STORE_LAZY);
    store_flush(r.store);
    while (r.committed < seq)
        uv_run(&r.loop, UV_RUN_ONCE);
    faultvfs_plan(FAULT_ERROR, 0, 3);
    assert_true(rig_wait_durable(&r, seq));
    assert_true(rig_wait_state(&r, STORE_STATE_ready));
    rig_close(&r);
}

static void test_opened_but_never_started(void **state)
{
    (void)state;
    struct rig r;
    struct err err;
    struct seen seen;
    rig_init(&r, path);
    assert_int_equal(rig_open(&r, &err), 0);
    assert_int_equal(seen_load(r.store, STORE_LOAD_all, &seen, &err), 0);
    assert_int_equal(seen.n, 0);
    rig_close(&r);
    assert_string_equal(store_state_name(STORE_STATE_fenced), "fenced");
    assert_string_equal(store_state_name((enum store_state)99), "?");
}

static void test_bench_appends(void **state)
{
    (void)state;
    enum { N = 100000, STREAMS = 16 };
    const char *where = getenv("STORE_BENCH_DIR");
    struct rig r;
    struct store_status st;
    char file[256];
    uint64_t seq = 0;

    if (!where) {
        print_message("skipped: STORE_BENCH_DIR is not set\n");
        skip();
    }
    if (strstr(where, "://"))
        snprintf(file, sizeof file, "%s", where);
    else
        snprintf(file, sizeof file, "%s/bench-%ld.db", where, (long)getpid());
    rig_init(&r, file);
    rig_start(&r);
    for (int k = 0; k < STREAMS; k++)
        seq = put_accept(&r, (char[]){(char)('a' + k), 0}, 1);
    assert_true(rig_wait(&r, seq));
    int64_t t0 = clock_mono_ns();
    for (int i = 0; i < N; i++) {
        seq = put_tokens(&r, (char[]){(char)('a' + i % STREAMS), 0}, 0, i / STREAMS, 1, STORE_LAZY);
        if (i % STREAMS == STREAMS - 1) {
            store_flush(r.store);
            uv_run(&r.loop, UV_RUN_NOWAIT);
            while (store_is_full(r.store)) /* what the loop does: take no more in until there is progress */
                uv_run(&r.loop, UV_RUN_ONCE);
        }
    }
    assert_true(rig_wait(&r, seq));
    double s = (double)(clock_mono_ns() - t0) / 1e9;
    store_status(r.store, &st);
    print_message("%d appends of one token in %.2f s: %.0f a second, %d commits, slowest %.1f ms\n", N, s, N / s,
                  (int)st.n_commit, (double)st.commit_ns_max / 1e6);
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);
    unlink(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pushes_back_and_recovers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_close_while_failing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_failing_sync, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_opened_but_never_started, set_up, tear_down),
        cmocka_unit_test(test_bench_appends),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
