/* Proves: whatever the batch, the chunks, the preemptions and the try, each sequence's tokens are those of the sequence
 * alone; stop ids, limits, deadlines and cancels end a sequence where they should; what cannot be served is answered.
 * How: a fake engine whose logits are a hash of the tokens (fake_eng.h); fake_expect() computes each sequence alone. */
#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "tests/unit/test.h"
#include "tests/unit/worker/sched/fake_eng.h"
#include "worker/sched/sched.h"

#include <stdio.h>
#include <string.h>

enum { N_REQ = 64 };

/* What came out, by request number (requests are named "r<number>"). */
struct got {
    int32_t id[FAKE_OUT_MAX];
    int n;           /* committed ones included */
    int n_finished, n_failed;
    enum msg_finish finish;
    int32_t stop_id;
    int64_t n_output;
    enum msg_fail cls;
    char text[MSG_TEXT_MAX];
};

static struct got got[N_REQ];
static int emit_fails_after = -1;

static int emit(void *arg, const struct msg *m, struct err *err)
{
    (void)arg;
    if (emit_fails_after >= 0 && emit_fails_after-- == 0)
        return err_set(err, ERR_TIMEOUT, "nobody listens");
    const char *request = m->kind == MSG_tokens ? m->tokens.request
                          : m->kind == MSG_finished ? m->finished.request
                                                    : m->failed.request;
    int at = 0;
    assert_int_equal(sscanf(request, "r%d", &at), 1);
    struct got *g = &got[at];
    assert_true(g->n_finished + g->n_failed == 0); /* nothing after the end */
    struct buf wire = {0};
    assert_int_equal(msg_encode(m, &wire, err), 0); /* fit for the wire */
    buf_release(&wire);
    if (m->kind == MSG_tokens) {
        assert_int_equal(m->tokens.first_index, g->n); /* each index once, in order */
        assert_int_equal(m->tokens.epoch, 77);
        for (int i = 0; i < m->tokens.n; i++)
            g->id[g->n++] = m->tokens.token[i].id;
    } else if (m->kind == MSG_finished) {
        g->n_finished++;
        g->finish = m->finished.reason;
        g->stop_id = m->finished.stop_id;
        g->n_output = m->finished.n_output;
    } else {
        assert_int_equal(m->kind, MSG_failed);
        g->n_failed++;
        g->cls = m->failed.cls;
        memcpy(g->text, m->failed.text, sizeof g->text);
    }
    return 0;
}

struct bench {
    struct eng *eng;
    struct wrk_sched *s;
};

static struct bench bench_open(int n_seq_eng, int n_seq_max, int step_tok_max, int64_t context_max, int64_t kv_tokens)
{
    struct bench b;
    struct err err = {0};
    struct eng_opts eo = {
        .n_seq_max = n_seq_eng, .step_tok_max = step_tok_max, .context_max = context_max, .kv_tokens = kv_tokens};
    memset(got, 0, sizeof got);
    emit_fails_after = -1;
    fake.fail_after = fake.nan_after = -1;
    fake.n_step = 0;
    assert_int_equal(eng_open(&eo, &b.eng, &err), 0);
    assert_int_equal(
        wrk_sched_new(&(struct wrk_sched_opts){.eng = b.eng, .n_seq_max = n_seq_max, .emit = emit}, &b.s, &err),
        0);
    return b;
}

static void bench_close(struct bench *b)
{
    wrk_sched_destroy(&b->s);
    assert_null(b->s);
    assert_int_equal(fake.n_open, 0);
    eng_close(&b->eng);
}

static int32_t tok_of[N_REQ][8192];

static struct msg_generate request(int at, int n_prompt, int max_output)
{
    struct msg_generate g = {.epoch = 77, .attempt = 1, .n_tok = n_prompt, .tok = tok_of[at], .max_output = max_output};
    snprintf(g.request, sizeof g.request, "r%d", at);
    g.sampling =
        (struct msg_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = (uint64_t)at + 100};
    for (int i = 0; i < n_prompt; i++)
        tok_of[at][i] = (at * 31 + i * 7 + i * i) % FAKE_VOCAB;
    return g;
}

static void add(struct bench *b, const struct msg_generate *g)
{
    struct err err = {0};
    assert_int_equal(wrk_sched_add(b->s, g, clock_mono_ns(), &err), 0);
}

static int run_all(struct bench *b)
{
    struct err err = {0};
    int n = 0, rc;
    while (wrk_sched_n(b->s) > 0 && n < 100000) {
        rc = wrk_sched_step(b->s, clock_mono_ns(), &err);
        assert_true(rc > 0);
        n++;
    }
    assert_int_equal(wrk_sched_step(b->s, clock_mono_ns(), &err), 0);
    return n;
}

static void expect(const struct msg_generate *g, int64_t context_max)
{
    static int32_t want[FAKE_OUT_MAX];
    enum msg_finish finish;
    int at = 0;
    sscanf(g->request, "r%d", &at);
    int n = fake_expect(g, context_max, want, &finish);
    assert_int_equal(got[at].n, n);
    assert_memory_equal(got[at].id + g->n_committed, want + g->n_committed,
                        (size_t)(n - g->n_committed) * sizeof *want);
    assert_int_equal(got[at].n_finished, 1);
    assert_int_equal(got[at].finish, finish);
    assert_int_equal(got[at].n_output, n);
    assert_int_equal(got[at].stop_id >= 0, finish == MSG_FINISH_stop);
}

/* Many at once, small budgets, a pool so small that sequences are preempted again and again. */
static void test_batch_is_exact(void **state)
{
    struct msg_generate g[24];
    (void)state;
    for (int variant = 0; variant < 3; variant++) {
        const int64_t pool = variant == 0 ? 100000 : 128 * 9;
        struct bench b = bench_open(variant == 2 ? 3 : 8, 24, variant == 1 ? 5 : 64, 1000, pool);
        for (int i = 0; i < 24; i++) {
            g[i] = request(i, 1 + (i * 53) % 300, 250);
            g[i].priority = i % 3;
            g[i].ignore_eos = i % 2; /* long ones: they must grow over block borders */
            if (i % 4 == 1)
                g[i].sampling.frequency_penalty = 0.5f;
            if (i % 4 == 2)
                g[i].sampling.temperature = 0;
            add(&b, &g[i]);
        }
        run_all(&b);
        for (int i = 0; i < 24; i++)
            expect(&g[i], 1000);
        if (variant > 0)
            assert_true(wrk_sched_stats(b.s)->n_preempted > 0);
        bench_close(&b);
    }
}

/* A sequence that comes with committed output goes on as if it had never left, from any point. */
static void test_resume(void **state)
{
    static int32_t want[FAKE_OUT_MAX], whole[2000];
    enum msg_finish finish;
    (void)state;
    struct msg_generate first = request(0, 40, 60);
    first.ignore_eos = true;
    first.sampling.presence_penalty = 1; /* counts output only: committed tokens must not become prompt */
    first.sampling.frequency_penalty = 0.3f;
    int n = fake_expect(&first, 1000, want, &finish);
    assert_int_equal(n, 60);
    memcpy(whole, first.tok, 40 * sizeof *whole);
    memcpy(whole + 40, want, 60 * sizeof *whole);
    for (int k = 0; k <= 60; k++) {
        struct bench b = bench_open(2, 4, 16, 1000, 4000);
        struct msg_generate g = first;
        g.tok = whole;
        g.n_tok = 40 + k;
        g.n_committed = k;
        got[0].n = k;
        add(&b, &g);
        run_all(&b);
        assert_int_equal(got[0].n, 60);
        assert_memory_equal(got[0].id + k, want + k, (size_t)(60 - k) * sizeof *want);
        assert_int_equal(got[0].n_finished, 1);
        assert_int_equal(got[0].n_output, 60);
        bench_close(&b);
    }
}

static void test_stop_rules(void **state)
{
    static int32_t want[FAKE_OUT_MAX];
    enum msg_finish finish;
    (void)state;
    struct bench b = bench_open(8, 16, 64, 1000, 100000);
    struct msg_generate g[6];
    for (int i = 0; i < 6; i++)
        g[i] = request(i, 10, 200);
    g[0].ignore_eos = true;
    int n = fake_expect(&g[0], 1000, want, &finish);
    assert_int_equal(n, 200); /* eos is a token like others */
    g[1].n_stop_id = 2;
    g[1].stop_id[0] = 5;
    g[1].stop_id[1] = 9;
    g[2].min_output = 120;
    g[3].n_stop_id = 1;
    g[3].stop_id[0] = FAKE_EOS; /* ignore_eos wins over the list */
    g[3].ignore_eos = true;
    g[4].max_output = 1;
    g[5].min_output = 50;
    g[5].n_stop_id = 3;
    g[5].stop_id[0] = 2;
    g[5].stop_id[1] = 3;
    g[5].stop_id[2] = 4;
    for (int i = 0; i < 6; i++)
        add(&b, &g[i]);
    run_all(&b);
    for (int i = 0; i < 6; i++)
        if (i != 3)
            expect(&g[i], 1000);
    assert_int_equal(got[3].n, 200);
    assert_int_equal(got[3].finish, MSG_FINISH_length);
    assert_int_equal(got[1].finish, MSG_FINISH_stop);
    assert_true(got[1].stop_id == 5 || got[1].stop_id == 9 || got[1].stop_id == FAKE_EOS);
    assert_true(got[2].n >= 120);
    assert_true(got[5].n >= 50);
    for (int i = 0; i < 50; i++)
        assert_true(got[5].id[i] < 1 || got[5].id[i] > 4);
    assert_int_equal(got[4].n, 1);
    bench_close(&b);
}

static void test_context_ends(void **state)
{
    (void)state;
    struct bench b = bench_open(4, 8, 64, 100, 128);
    struct msg_generate g = request(0, 90, 500), too_long = request(1, 100, 5), moved = request(2, 101, 90);
    g.ignore_eos = true;
    moved.n_committed = 60;
    add(&b, &g);
    add(&b, &too_long);
    add(&b, &moved);
    run_all(&b);
    expect(&g, 100);
    assert_int_equal(got[0].n, 10);
    assert_int_equal(got[0].finish, MSG_FINISH_length);
    assert_int_equal(got[1].n_failed, 1);
    assert_int_equal(got[1].cls, MSG_FAIL_client);
    assert_non_null(strstr(got[1].text, "100"));
    assert_int_equal(got[2].cls, MSG_FAIL_worker);
    bench_close(&b);
    /* The pool is smaller than the context: then it is the limit, and no sequence waits for ever. */
    b = bench_open(4, 8, 64, 1000, 256);
    assert_int_equal(wrk_sched_context_max(b.eng), 256);
    g = request(0, 200, 500);
    g.ignore_eos = true;
    add(&b, &g);
    run_all(&b);
    expect(&g, 256);
    assert_int_equal(got[0].n, 56);
    bench_close(&b);
}

static void test_refusals(void **state)
{
    struct msg_bias bias = {.id = FAKE_VOCAB, .bias = 1};
    (void)state;
    struct bench b = bench_open(2, 3, 64, 1000, 1000);
    struct msg_generate g[9];
    for (int i = 0; i < 9; i++)
        g[i] = request(i, 10, 5);
    tok_of[0][3] = FAKE_VOCAB;
    g[1].sampling.bias = &bias;
    g[1].sampling.n_bias = 1;
    g[2].n_stop_id = 1;
    g[2].stop_id[0] = FAKE_VOCAB;
    for (int i = 0; i < 3; i++) {
        add(&b, &g[i]);
        assert_int_equal(got[i].n_failed, 1);
        assert_int_equal(got[i].cls, MSG_FAIL_client);
        assert_non_null(strstr(got[i].text, "64"));
    }
    for (int i = 3; i < 7; i++)
        add(&b, &g[i]);
    assert_int_equal(got[6].n_failed, 1); /* three are in */
    assert_int_equal(got[6].cls, MSG_FAIL_overload);
    add(&b, &g[5]); /* twice the same: ignored, not failed */
    assert_int_equal(got[5].n_failed, 0);
    assert_int_equal(wrk_sched_n(b.s), 3);
    run_all(&b);
    for (int i = 3; i < 6; i++)
        expect(&g[i], 1000);
    bench_close(&b);
}

static void test_cancel_deadline_drop(void **state)
{
    struct err err = {0};
    (void)state;
    struct bench b = bench_open(2, 8, 64, 1000, 2000);
    struct msg_generate g[4];
    for (int i = 0; i < 4; i++) {
        g[i] = request(i, 10, 100);
        g[i].ignore_eos = true;
    }
    g[1].deadline_ms = 1000;
    int64_t t0 = clock_mono_ns();
    for (int i = 0; i < 4; i++)
        assert_int_equal(wrk_sched_add(b.s, &g[i], t0, &err), 0);
    for (int i = 0; i < 5; i++)
        assert_true(wrk_sched_step(b.s, t0, &err) > 0);
    assert_int_equal(wrk_sched_stats(b.s)->n_running, 2);
    assert_int_equal(wrk_sched_stats(b.s)->n_waiting, 2);
    assert_int_equal(got[0].n, 5);
    assert_int_equal(wrk_sched_cancel(b.s, "r0", 2, &err), 0); /* another attempt: not ours */
    assert_int_equal(wrk_sched_n(b.s), 4);
    assert_int_equal(wrk_sched_cancel(b.s, "r0", 1, &err), 0); /* running */
    assert_int_equal(wrk_sched_cancel(b.s, "r3", 1, &err), 0); /* waiting */
    assert_int_equal(wrk_sched_cancel(b.s, "r9", 1, &err), 0); /* unknown */
    assert_int_equal(got[0].cls, MSG_FAIL_canceled);
    assert_int_equal(got[3].cls, MSG_FAIL_canceled);
    assert_true(wrk_sched_step(b.s, t0 + 999 * 1000000LL, &err) > 0);
    assert_int_equal(got[1].n_failed, 0);
    assert_true(wrk_sched_step(b.s, t0 + 1000 * 1000000LL, &err) > 0);
    assert_int_equal(got[1].n_failed, 1);
    assert_int_equal(got[1].cls, MSG_FAIL_deadline);
    assert_int_equal(wrk_sched_n(b.s), 1);
    wrk_sched_drop(b.s);
    assert_int_equal(wrk_sched_n(b.s), 0);
    assert_int_equal(got[2].n_finished + got[2].n_failed, 0);
    assert_int_equal(wrk_sched_step(b.s, t0, &err), 0);
    bench_close(&b);
}

/* The same on the whole scheduler: while 100,000 tokens are prefilled, each of 16 streams gets one token in every
 * step. */
static void test_streams_beside_prefill(void **state)
{
    enum { STREAMS = 16, LONG = 100000, BUDGET = 256 };
    static int32_t tok[LONG];
    struct err err = {0};
    struct msg_generate g[STREAMS], big = request(STREAMS, 1, 3);
    (void)state;
    struct bench b = bench_open(STREAMS + 1, STREAMS + 1, BUDGET, LONG + 100, 2 * LONG);
    for (int i = 0; i < STREAMS; i++) {
        g[i] = request(i, 5 + i, 2000);
        g[i].ignore_eos = true;
        add(&b, &g[i]);
    }
    for (int i = 0; i < LONG; i++)
        tok[i] = i * 13 % FAKE_VOCAB;
    for (int i = 0; i < 3; i++)
        assert_true(wrk_sched_step(b.s, clock_mono_ns(), &err) > 0);
    big.tok = tok;
    big.n_tok = LONG;
    big.ignore_eos = true;
    big.priority = 0;
    add(&b, &big);
    int n_step = 0;
    while (got[STREAMS].n == 0) {
        int before[STREAMS];
        for (int i = 0; i < STREAMS; i++)
            before[i] = got[i].n;
        int rows = wrk_sched_step(b.s, clock_mono_ns(), &err);
        assert_true(rows > 0 && rows <= BUDGET);
        for (int i = 0; i < STREAMS; i++)
            assert_int_equal(got[i].n, before[i] + 1);
        n_step++;
    }
    assert_true(n_step <= LONG / (BUDGET - STREAMS) + LONG / WRK_SCHED_CUT_TOK + 3);
    assert_int_equal(wrk_sched_stats(b.s)->n_preempted, 0);
    wrk_sched_drop(b.s);
    bench_close(&b);
}

/* Steps until the first token of a request that comes after five of 320 tokens each, by the rows of one tenant or of
 * two. */
static int steps_to_first(const char *tenant_of_last)
{
    struct err err = {0};
    struct bench b = bench_open(6, 6, 32, 1000, 100000);
    int n = 0;
    for (int i = 0; i < 6; i++) {
        struct msg_generate g = request(i, 320, 5);
        g.ignore_eos = true;
        snprintf(g.tenant, sizeof g.tenant, "%s", i < 5 ? "busy" : tenant_of_last);
        add(&b, &g);
    }
    for (; got[5].n == 0; n++)
        assert_true(wrk_sched_step(b.s, clock_mono_ns(), &err) > 0);
    run_all(&b);
    bench_close(&b);
    return n;
}

static void test_tenants_share(void **state)
{
    (void)state;
    assert_true(steps_to_first("busy") >= 50);  /* behind 1600 rows, 32 a step */
    assert_true(steps_to_first("other") <= 22); /* half of the rows are its own until it is done */
}

static void test_broken_engine(void **state)
{
    struct err err = {0};
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        struct bench b = bench_open(2, 8, 64, 1000, 2000);
        struct msg_generate g = request(0, 10, 100);
        g.ignore_eos = true;
        add(&b, &g);
        if (kind == 0)
            fake.fail_after = 3;
        if (kind == 1)
            fake.nan_after = 3;
        if (kind == 2)
            emit_fails_after = 3;
        int rc = 0, n = 0;
        while ((rc = wrk_sched_step(b.s, clock_mono_ns(), &err)) > 0)
            n++;
        assert_int_equal(n, 3);
        assert_int_equal(rc, kind == 0 ? ERR_GPU : kind == 1 ? ERR_STATE : ERR_TIMEOUT);
        assert_true(err.text[0] != 0);
        assert_int_equal(got[0].n, 3); /* and no fourth token */
        bench_close(&b);
    }
    fake.fail_after = fake.nan_after = -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_is_exact), cmocka_unit_test(test_resume),
        cmocka_unit_test(test_stop_rules),     cmocka_unit_test(test_context_ends),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_cancel_deadline_drop),
        cmocka_unit_test(test_streams_beside_prefill), cmocka_unit_test(test_tenants_share),
        cmocka_unit_test(test_broken_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
