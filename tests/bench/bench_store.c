/* Measures the store: tokens, commits and three-step runs a second, on the file system of each directory given.
 *
 *   bench_store [--seconds S] [--only N] [--large ROWS DIR] [--url URL] DIR...
 *
 * A run is 8 rows: run, three times started and done, run_end. "stepwise": what a step has done is committed (and on
 * disk, FULL) before the next one starts, 4 commits a run. "grouped": steps that need nobody's answer are put in one
 * turn, 1 commit a run. c is how many runs go on at a time.
 */
#include "common/base/clock.h"
#include "common/base/log.h"
#include "controller/store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { SLOTS_MAX = 64 };

struct slot {
    char id[STORE_ID_MAX];
    int stage;     /* 0: not begun; 1..3: step that is under way */
    uint64_t wait; /* batch that has to be in before it goes on */
};

struct bench {
    uv_loop_t loop;
    struct store *store;
    struct slot slot[SLOTS_MAX];
    int n_slot;
    bool grouped, stop;
    uint64_t committed;
    int64_t n_run, n_refused;
    bool closed;
};

static void check(int rc, const struct err *err)
{
    if (rc) {
        fprintf(stderr, "bench_store: %s\n", err->text);
        exit(1);
    }
}

static void put_step(struct bench *b, struct slot *s, int k, const char *state)
{
    struct err err;
    char path[16];
    bool done = state[0] == 'd';
    snprintf(path, sizeof path, "step%d", k);
    struct store_step t = {.run = s->id, .path = path, .attempt = 1, .state = state,
                           .result = done ? "{\"value\":12345}" : NULL, .at_ms = clock_wall_ms()};
    check(store_step(b->store, &t, done ? STORE_FULL : STORE_LAZY, &s->wait, &err), &err);
}

static void put_run(struct bench *b, struct slot *s)
{
    struct err err;
    static int64_t n;
    /* Ids as random as real ones are. */
    uint64_t h = (uint64_t)(n + 1) * UINT64_C(0x9e3779b97f4a7c15);
    snprintf(s->id, sizeof s->id, "run_%016llx%08llx", (unsigned long long)(h ^ h >> 29), (unsigned long long)n++);
    struct store_run r = {.id = s->id, .tenant = "bench", .name = "noop", .input = "{\"n\":1}",
                          .pipeline = "{\"name\":\"noop\",\"steps\":[{\"id\":\"step1\",\"kind\":\"tool\",\"command\":"
                                      "[\"true\"]},{\"id\":\"step2\"},{\"id\":\"step3\"}]}",
                          .created_ms = clock_wall_ms(), .deadline_ms = clock_wall_ms() + 60000};
    check(store_run(b->store, &r, &s->wait, &err), &err);
}

static void put_end(struct bench *b, struct slot *s)
{
    struct err err;
    struct store_run_end e = {.run = s->id, .state = "done", .output = "{\"value\":12345}",
                              .ended_ms = clock_wall_ms()};
    check(store_run_end(b->store, &e, &s->wait, &err), &err);
}

/* One move of a run; its last batch is in. */
static void move_on(struct bench *b, struct slot *s)
{
    if (s->stage == 4) {
        b->n_run++;
        s->stage = 0;
        if (b->stop)
            return;
    }
    do {
        if (s->stage == 0)
            put_run(b, s);
        else
            put_step(b, s, s->stage, "done");
        if (++s->stage <= 3)
            put_step(b, s, s->stage, "started");
        else
            put_end(b, s);
    } while (b->grouped && s->stage < 4);
}

static void turn(struct bench *b)
{
    for (int i = 0; i < b->n_slot; i++)
        if (b->slot[i].wait <= b->committed && !(b->stop && b->slot[i].stage == 0))
            move_on(b, &b->slot[i]);
    store_flush(b->store);
}

static void on_progress(void *arg, uint64_t committed, uint64_t durable)
{
    struct bench *b = arg;
    (void)durable;
    b->committed = committed;
    if (b->n_slot)
        turn(b);
}

static void on_refused(void *arg, const struct store_refusal *r)
{
    (void)r;
    ((struct bench *)arg)->n_refused++;
}

static void on_state(void *arg, enum store_state state, enum store_fault fault, const char *text)
{
    (void)arg;
    (void)fault;
    if (state != STORE_STATE_ready)
        fprintf(stderr, "bench_store: %s\n", text);
}

static void on_closed(void *arg)
{
    ((struct bench *)arg)->closed = true;
}

static void on_tick(uv_timer_t *t)
{
    (void)t;
}

static void open_bench(struct bench *b, const char *url)
{
    static const struct store_events events = {on_progress, on_refused, on_state};
    struct store_config c;
    struct err err;

    memset(b, 0, sizeof *b);
    store_config_init(&c);
    c.url = url;
    uv_loop_init(&b->loop);
    check(store_open(&b->loop, &c, &events, b, &b->store, &err), &err);
    check(store_start(b->store, &err), &err);
}

static double cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void close_bench(struct bench *b, const char *what, const char *unit, int64_t n, double s, double cpu)
{
    struct store_status st;
    store_status(b->store, &st);
    printf("  %-44s %9.0f %s/s  %8.0f commits/s  %6.1f us CPU each  slowest commit %.1f ms%s\n", what, (double)n / s, unit,
           (double)st.n_commit / s, cpu * 1e6 / (double)n, (double)st.commit_ns_max / 1e6,
           b->n_refused ? "  REFUSED SOME" : "");
    fflush(stdout);
    if (b->n_refused)
        exit(1);
    store_close(&b->store, on_closed, b);
    uv_run(&b->loop, UV_RUN_DEFAULT);
    uv_loop_close(&b->loop);
}

static void bench_runs(const char *url, int c, bool grouped, double seconds)
{
    struct bench b;
    char what[96];

    open_bench(&b, url);
    b.n_slot = c;
    b.grouped = grouped;
    double cpu0 = cpu_s();
    int64_t t0 = clock_mono_ns(), end = t0 + (int64_t)(seconds * 1e9);
    turn(&b);
    for (;;) {
        uv_run(&b.loop, UV_RUN_ONCE);
        b.stop = clock_mono_ns() >= end;
        bool idle = b.stop;
        for (int i = 0; i < c; i++)
            idle &= b.slot[i].stage == 0;
        if (idle)
            break;
    }
    double s = (double)(clock_mono_ns() - t0) / 1e9;
    snprintf(what, sizeof what, "three-step runs, %s, c=%d", grouped ? "grouped" : "stepwise", c);
    close_bench(&b, what, "runs", b.n_run, s, cpu_s() - cpu0);
}

/* `streams` choices of one request each get a token a turn; wait: each turn waits for its commit. */
static void bench_tokens(const char *url, int streams, enum store_class cls, bool wait, double seconds)
{
    struct bench b;
    struct err err;
    char id[STORE_ID_MAX], what[96];
    uint64_t seq = 0;
    uv_timer_t timer;

    open_bench(&b, url);
    uv_timer_init(&b.loop, &timer); /* keeps UV_RUN_ONCE from sleeping for ever */
    uv_timer_start(&timer, on_tick, 50, 50);
    int64_t run = clock_wall_ms();
    for (int k = 0; k < streams; k++) {
        snprintf(id, sizeof id, "chatcmpl-%lld-%d", (long long)run, k);
        struct store_request q = {.id = id, .tenant = "bench", .path = "/v1/chat/completions", .n_choice = 1,
                                  .created_ms = run, .prompt = (int32_t[]){1, 2, 3}, .n_prompt = 3};
        check(store_accept(b.store, &q, &seq, &err), &err);
    }
    store_flush(b.store);
    double cpu0 = cpu_s();
    int64_t n = 0, t0 = clock_mono_ns(), end = t0 + (int64_t)(seconds * 1e9);
    for (int64_t i = 0; clock_mono_ns() < end; i++) {
        for (int k = 0; k < streams; k++) {
            int32_t tok = (int32_t)(i % 129280);
            snprintf(id, sizeof id, "chatcmpl-%lld-%d", (long long)run, k);
            struct store_tokens t = {.request = id, .first = i, .n = 1, .id = &tok};
            check(store_tokens(b.store, &t, cls, &seq, &err), &err);
            n++;
        }
        store_flush(b.store);
        uv_run(&b.loop, UV_RUN_NOWAIT);
        while (wait ? b.committed < seq : b.committed + 32 < seq)
            uv_run(&b.loop, UV_RUN_ONCE);
    }
    while (b.committed < seq)
        uv_run(&b.loop, UV_RUN_ONCE);
    double s = (double)(clock_mono_ns() - t0) / 1e9;
    uv_close((uv_handle_t *)&timer, NULL);
    snprintf(what, sizeof what, "tokens, %d streams, %s%s", streams, cls == STORE_FULL ? "FULL" : "LAZY",
             wait ? ", each turn waits" : "");
    close_bench(&b, what, "tokens", n, s, cpu_s() - cpu0);
}

/* ---- a large file: N requests that have ended, half of them pruned ---- */

static void wait_for(struct bench *b, uint64_t seq)
{
    store_flush(b->store);
    while (b->committed < seq)
        uv_run(&b->loop, UV_RUN_ONCE);
}

static void fill(struct bench *b, int64_t n)
{
    struct err err;
    uint64_t seq = 0;
    int32_t tok[64] = {0};

    for (int64_t i = 0; i < n; i++) {
        char id[STORE_ID_MAX];
        uint64_t h = (uint64_t)(i + 1) * UINT64_C(0x9e3779b97f4a7c15);
        snprintf(id, sizeof id, "chatcmpl-%016llx%08llx", (unsigned long long)(h ^ h >> 29), (unsigned long long)i);
        struct store_request q = {.id = id, .tenant = "bench", .path = "/v1/chat/completions", .n_choice = 1,
                                  .created_ms = i, .prompt = tok, .n_prompt = 64, .params = tok, .params_bytes = 64};
        struct store_tokens t = {.request = id, .n = 64, .id = tok};
        struct store_end e = {.request = id, .finish = "stop", .n_tok = 64, .ended_ms = i + 1};
        check(store_accept(b->store, &q, &seq, &err), &err);
        check(store_tokens(b->store, &t, STORE_LAZY, &seq, &err), &err);
        if (i % (n / 10) != 5) /* ten of them live */
            check(store_end(b->store, &e, &seq, &err), &err);
        if (i % 200 == 199) {
            store_flush(b->store);
            while (b->committed + 8 < seq)
                uv_run(&b->loop, UV_RUN_ONCE);
        }
    }
    wait_for(b, seq);
}

struct pruning {
    struct bench *b;
    int64_t n;
    uint64_t seq;
    bool answered;
};

static void on_old(void *arg, const struct store_fetched *f)
{
    struct pruning *p = arg;
    struct err err;
    check(f->rc, &f->err);
    p->n += (int64_t)f->n;
    for (size_t i = 0; i < f->n; i++)
        check(store_put(p->b->store, &f->record[i], STORE_LAZY, &p->seq, &err), &err);
    p->answered = true;
}

static double ms_since(int64_t t0)
{
    return (double)(clock_mono_ns() - t0) / 1e6;
}

/* Keep half: ids in hundreds, each hundred a transaction. */
static void prune_half(struct bench *b, int64_t n)
{
    struct pruning p = {.b = b};
    struct err err;
    double query_ms = 0, commit_ms = 0;
    int64_t t_all = clock_mono_ns(), before, n_turn = 0;

    do {
        struct store_query y = {.kind = STORE_QUERY_old_requests, .limit = 100, .ended_before_ms = n / 2, .keep = -1};
        before = p.n;
        p.answered = false;
        int64_t t0 = clock_mono_ns();
        check(store_fetch(b->store, &y, on_old, &p, &err), &err);
        while (!p.answered)
            uv_run(&b->loop, UV_RUN_ONCE);
        query_ms += ms_since(t0);
        t0 = clock_mono_ns();
        wait_for(b, p.seq);
        commit_ms += ms_since(t0);
        n_turn++;
    } while (p.n > before);
    printf("  pruned %lld in %.1f s: a query for 100 takes %.2f ms, their transaction %.2f ms\n", (long long)p.n,
           ms_since(t_all) / 1e3, query_ms / (double)n_turn, commit_ms / (double)n_turn);
}

static void time_keep(struct bench *b, int64_t keep)
{
    struct pruning p = {.b = b};
    struct err err;
    struct store_query y = {.kind = STORE_QUERY_old_requests, .limit = 1, .ended_before_ms = INT64_MIN, .keep = keep};
    int64_t t0 = clock_mono_ns();
    check(store_fetch(b->store, &y, on_old, &p, &err), &err);
    while (!p.answered)
        uv_run(&b->loop, UV_RUN_ONCE);
    printf("  a query for what is beyond the %lld newest: %.1f ms\n", (long long)keep, ms_since(t0));
    wait_for(b, p.seq);
}

static void reopen(struct bench *b, const char *path)
{
    struct store_config c;
    struct err err;
    static const struct store_visitor none = {0};
    static const struct store_events events = {on_progress, on_refused, on_state};
    int64_t t0 = clock_mono_ns();

    store_config_init(&c);
    c.url = path;
    memset(b, 0, sizeof *b);
    uv_loop_init(&b->loop);
    check(store_open(&b->loop, &c, &events, b, &b->store, &err), &err);
    double open_ms = ms_since(t0);
    t0 = clock_mono_ns();
    check(store_load(b->store, STORE_LOAD_live, &none, NULL, &err), &err);
    printf("  opened in %.1f ms, what lives read in %.1f ms\n", open_ms, ms_since(t0));
    check(store_start(b->store, &err), &err);
}

static void close_quietly(struct bench *b)
{
    store_close(&b->store, on_closed, b);
    uv_run(&b->loop, UV_RUN_DEFAULT);
    uv_loop_close(&b->loop);
}

static void bench_large(const char *dir, int64_t n)
{
    char path[512], wal[520];
    struct bench b;

    snprintf(path, sizeof path, "%s/bench-store-%ld.db", dir, (long)getpid());
    snprintf(wal, sizeof wal, "%s-wal", path);
    printf("%s, %lld requests of 64 + 64 tokens\n", dir, (long long)n);
    open_bench(&b, path);
    int64_t t0 = clock_mono_ns();
    fill(&b, n);
    printf("  written in %.1f s\n", ms_since(t0) / 1e3);
    close_quietly(&b);
    reopen(&b, path);
    time_keep(&b, n / 2);
    prune_half(&b, n);
    close_quietly(&b);
    reopen(&b, path);
    close_quietly(&b);
    bench_tokens(path, 32, STORE_LAZY, false, 1);
    bench_runs(path, 16, true, 1);
    unlink(path);
    unlink(wal);
}

static int only = -1; /* --only N: the N-th measurement alone, for a profiler */

static void bench_all(const char *where, const char *url, double seconds)
{
    printf("%s\n", where);
    for (int i = 0; i < 8; i++) {
        if (only >= 0 && i != only)
            continue;
        switch (i) {
        case 0: bench_tokens(url, 32, STORE_LAZY, false, seconds); break;
        case 1: bench_tokens(url, 1, STORE_LAZY, true, seconds); break;
        case 2: bench_tokens(url, 32, STORE_LAZY, true, seconds); break;
        case 3: bench_tokens(url, 32, STORE_FULL, true, seconds); break;
        case 4: bench_runs(url, 1, true, seconds); break;
        case 5: bench_runs(url, 1, false, seconds); break;
        case 6: bench_runs(url, 16, true, seconds); break;
        default: bench_runs(url, 16, false, seconds);
        }
    }
}

static void bench_dir(const char *dir, double seconds)
{
    char path[512], wal[520];
    snprintf(path, sizeof path, "%s/bench-store-%ld.db", dir, (long)getpid());
    snprintf(wal, sizeof wal, "%s-wal", path);
    bench_all(dir, path, seconds);
    unlink(path);
    unlink(wal);
}

int main(int argc, char **argv)
{
    double seconds = 2;
    int i = 1, n = 0;

    log_init("bench_store", "warn");
    for (; i < argc; i++) {
        if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc)
            seconds = atof(argv[++i]);
        else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = atoi(argv[++i]);
        else if (strcmp(argv[i], "--large") == 0 && i + 2 < argc)
            bench_large(argv[i + 2], atoll(argv[i + 1])), i += 2, n++;
        else if (strcmp(argv[i], "--url") == 0 && i + 1 < argc)
            bench_all("postgresql", argv[++i], seconds), n++;
        else
            bench_dir(argv[i], seconds), n++;
    }
    if (!n) {
        fprintf(stderr, "usage: bench_store [--seconds S] [--only N] [--large ROWS DIR] [--url URL] DIR...\n");
        return 2;
    }
    return 0;
}
