/* Proves that a token's logits depend on the sequence's tokens alone, to the bit, whatever the scheduler, the cache and
 * the plan do around it. Random schedules on a small model that has every kind of layer: arrivals, cancels, priorities,
 * tenants, budgets of 1 to 96 rows, pools that hold hardly more than one sequence, preemptions, prefix hits of every
 * length, saved states that give way, epochs that end and come again with committed tokens, 1 and 2 threads, 1 to 4
 * ranks.
 *
 * How: every request of a fixed set is first run alone on a fresh engine without a cache, its prompt in one step; the
 * logits of each of its positions are remembered under a hash of the tokens before. eng_step is wrapped (linker):
 * each row of logits that comes out of a schedule must be, bit for bit, the one remembered for the same tokens; and
 * each token that is emitted the one of the run alone.
 *
 *   test_worker_sched_schedules [BACKEND [N_LIVES [FIRST_SEED]]]
 * One seed makes one life of an engine with several schedules; a failure prints it, N_LIVES 1 repeats it.
 */
#include "tests/unit/test.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/ds/prefix_key.h"
#include "common/mem/mem.h"
#include "kernels/include/ops.h"
#include "proto/codec/msg.h"
#include "worker/engine/engine.h"
#include "worker/sched/sched.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_TEXT = 3,
    N_FIRST = 40,             /* requests with prompts of their own */
    N_CASE = 64,              /* and those that go on where one of the others ended */
    TOK_MAX = 400,            /* prompt of a case at most */
    OUT_MAX = 16,
    CONTEXT = 448,
    SCHEDULES_A_LIFE = 8,
    SEQ_MAX = 6,
    MAP_SIZE = 1 << 13,
};

static const char *backend = "cpu";
static int n_lives = 150;
static uint64_t first_seed = 1;

/* ---- randomness, with its seed ---- */

static uint64_t life_seed, rng;

static int rnd(int n) /* 0..n-1 */
{
    uint64_t z = rng += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (int)((z ^ z >> 31) % (uint64_t)n);
}

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        print_error("seed %llu: test_worker_sched_schedules %s 1 %llu\n", (unsigned long long)life_seed, backend, \
                    (unsigned long long)life_seed);                                                \
        fail_msg(__VA_ARGS__);                                                                     \
    } while (0)

/* ---- what is expected ---- */

struct tcase {
    int32_t tok[TOK_MAX + OUT_MAX]; /* prompt, then the output of the run alone */
    int n_prompt, max_output, n_output;
    enum msg_finish finish;
    float temperature;
    uint64_t seed;
};
static struct tcase kase[N_CASE];

static struct {
    uint64_t tokens, logits; /* 0: empty */
} map[MAP_SIZE];
static bool is_recording, is_unchecked;
static int n_row_checked;
static int32_t n_vocab;

static uint64_t hash_of(const int32_t *v, int64_t n)
{
    return prefix_key_next(PREFIX_KEY_EMPTY, v, (int)n).lo;
}

static void see_logits(const int32_t *tok, int64_t n_tok, const float *logits)
{
    uint64_t key = hash_of(tok, n_tok), value = hash_of((const int32_t *)(const void *)logits, n_vocab);
    size_t i = key % MAP_SIZE;
    while (map[i].tokens && map[i].tokens != key)
        i = (i + 1) % MAP_SIZE;
    if (is_recording) {
        if (map[i].tokens && map[i].logits != value)
            FAIL("two runs alone differ after %d tokens", (int)n_tok);
        map[i].tokens = key;
        map[i].logits = value;
        return;
    }
    if (!map[i].tokens)
        FAIL("logits after %d tokens that no run alone has seen", (int)n_tok);
    if (map[i].logits != value)
        FAIL("the logits after %d tokens are not those of the run alone", (int)n_tok);
    n_row_checked++;
}

int __real_eng_step(struct eng *eng, const struct eng_plan *plan, struct err *err);
int __wrap_eng_step(struct eng *eng, const struct eng_plan *plan, struct err *err);

/* The scheduler gives pointers into the sequence's own tokens, so those before the step lie in front of them. */
int __wrap_eng_step(struct eng *eng, const struct eng_plan *plan, struct err *err)
{
    int n_row = 0;
    int rc = __real_eng_step(eng, plan, err);
    for (int i = 0; i < plan->n_item && !rc; i++) {
        const struct eng_item *it = &plan->item[i];
        int64_t len = eng_seq_len(it->seq);
        n_row += it->n_tok;
        if (it->n_logit && !is_unchecked)
            see_logits(it->tok + it->n_tok - len, len, it->logits);
    }
    if (n_row > eng_caps(eng)->step_tok_max)
        FAIL("a step of %d rows", n_row);
    return rc;
}

/* For the test that is not about logits: tokens of the streams, and of the long one. */
static int n_beside, n_big;
static int count_tokens(void *arg, const struct msg *m, struct err *err)
{
    (void)arg, (void)err;
    if (m->kind == MSG_tokens && strcmp(m->tokens.request, "big") == 0)
        n_big++;
    else if (m->kind == MSG_tokens)
        n_beside++;
    return 0;
}

/* ---- requests under way ---- */

struct under_way {
    const struct tcase *c; /* NULL: the place is free */
    char name[MSG_NAME_MAX];
    uint32_t attempt;
    int n_out;
    bool is_canceled;
};
static struct under_way now[SEQ_MAX];
static int n_now, n_done;
static uint64_t n_cached, n_preempted;

static struct under_way *find(const char *name, uint32_t attempt)
{
    for (int i = 0; i < SEQ_MAX; i++)
        if (now[i].c && strcmp(now[i].name, name) == 0 && now[i].attempt == attempt)
            return &now[i];
    FAIL("a message for %s attempt %u, which is not under way", name, (unsigned)attempt);
    return NULL;
}

static void leave(struct under_way *u)
{
    u->c = NULL;
    n_now--;
    n_done++;
}

static int emit(void *arg, const struct msg *m, struct err *err)
{
    (void)arg, (void)err;
    if (m->kind == MSG_tokens) {
        struct under_way *u = find(m->tokens.request, m->tokens.attempt);
        if (m->tokens.first_index != u->n_out || u->n_out >= u->c->n_output)
            FAIL("%s: index %d, expected %d of %d", u->name, (int)m->tokens.first_index, u->n_out, u->c->n_output);
        if (m->tokens.token[0].id != u->c->tok[u->c->n_prompt + u->n_out])
            FAIL("%s: another token at index %d", u->name, u->n_out);
        u->n_out++;
    } else if (m->kind == MSG_finished) {
        struct under_way *u = find(m->finished.request, m->finished.attempt);
        if (u->n_out != u->c->n_output || m->finished.reason != u->c->finish || m->finished.n_output != u->n_out)
            FAIL("%s: finished after %d of %d", u->name, u->n_out, u->c->n_output);
        if (m->finished.cached_tok > u->c->n_prompt)
            FAIL("%s: %d of %d prompt tokens cached", u->name, (int)m->finished.cached_tok, u->c->n_prompt);
        n_cached += (uint64_t)m->finished.cached_tok;
        leave(u);
    } else {
        struct under_way *u = find(m->failed.request, m->failed.attempt);
        if (!u->is_canceled || m->failed.cls != MSG_FAIL_canceled)
            FAIL("%s failed: %s", u->name, m->failed.text);
        leave(u);
    }
    return 0;
}

static void send(struct wrk_sched *s, struct under_way *u)
{
    static int32_t tok[TOK_MAX + OUT_MAX];
    struct err err = {0};
    struct msg_generate g = {.epoch = 1, .attempt = ++u->attempt, .tok = tok, .n_committed = u->n_out};
    g.n_tok = u->c->n_prompt + u->n_out;
    g.max_output = u->c->max_output;
    g.priority = rnd(4) == 0 ? rnd(3) : 0;
    g.sampling = (struct msg_sampling){
        .temperature = u->c->temperature, .top_p = 1, .repetition_penalty = 1, .seed = u->c->seed};
    snprintf(g.request, sizeof g.request, "%s", u->name);
    snprintf(g.tenant, sizeof g.tenant, "%.*s", rnd(2), "other");
    memcpy(tok, u->c->tok, (size_t)g.n_tok * sizeof *tok);
    if (wrk_sched_add(s, &g, clock_mono_ns(), &err))
        FAIL("%s", err.text);
}

/* ---- engines ---- */

static struct eng *engine(int n_seq, int step_tok, int64_t kv_tok, int n_saved, int n_threads, int n_ranks)
{
    struct eng *eng = NULL;
    struct err err = {0};
    struct eng_opts o = {.model_dir = BATON_BINARY_DIR "/small_model", .backend = backend, .n_ranks = n_ranks,
                         .n_threads = n_threads, .n_seq_max = n_seq, .step_tok_max = step_tok, .context_max = CONTEXT,
                         .kv_tokens = kv_tok, .n_saved = n_saved};
    if (eng_open(&o, &eng, &err))
        FAIL("%s", err.text);
    return eng;
}

static struct wrk_sched *scheduler(struct eng *eng, int64_t cut_tok)
{
    struct wrk_sched *s = NULL;
    struct err err = {0};
    if (wrk_sched_new(&(struct wrk_sched_opts){.eng = eng, .n_seq_max = SEQ_MAX, .cut_tok = cut_tok, .emit = emit}, &s,
                      &err))
        FAIL("%s", err.text);
    return s;
}

static void step(struct wrk_sched *s)
{
    struct err err = {0};
    if (wrk_sched_step(s, clock_mono_ns(), &err) < 0)
        FAIL("%s", err.text);
}

/* ---- the runs alone ---- */

/* Emit of a run alone: it writes down what the others must give. */
static int record(void *arg, const struct msg *m, struct err *err)
{
    struct tcase *c = arg;
    (void)err;
    if (m->kind == MSG_tokens)
        c->tok[c->n_prompt + c->n_output++] = m->tokens.token[0].id;
    else if (m->kind == MSG_finished)
        c->finish = m->finished.reason;
    else
        FAIL("a run alone failed: %s", m->failed.text);
    return 0;
}

static void run_alone(struct tcase *c)
{
    struct eng *eng = engine(1, TOK_MAX, CONTEXT, 0, 1, 1);
    struct wrk_sched *s = NULL;
    struct err err = {0};
    struct msg_generate g = {.epoch = 1, .attempt = 1, .request = "alone", .tok = c->tok, .n_tok = c->n_prompt,
                             .max_output = c->max_output};
    g.sampling =
        (struct msg_sampling){.temperature = c->temperature, .top_p = 1, .repetition_penalty = 1, .seed = c->seed};
    n_vocab = eng_config(eng)->vocab_size;
    if (wrk_sched_new(&(struct wrk_sched_opts){.eng = eng, .n_seq_max = 1, .emit = record, .arg = c}, &s, &err) ||
        wrk_sched_add(s, &g, clock_mono_ns(), &err))
        FAIL("%s", err.text);
    while (wrk_sched_n(s) > 0)
        step(s);
    wrk_sched_destroy(&s);
    eng_close(&eng);
}

static int prompt_length(void)
{
    static const int border[] = {1, 3, 4, 5, 8, 16, 17, 31, 127, 128, 129, 132, 255, 256, 257, 260};
    return rnd(4) == 0 ? border[rnd((int)(sizeof border / sizeof *border))] : 2 + rnd(rnd(8) == 0 ? 280 : 50);
}

static void make_cases(void)
{
    static int32_t text[N_TEXT][TOK_MAX];
    rng = 77;
    for (int t = 0; t < N_TEXT; t++)
        for (int i = 0; i < TOK_MAX; i++)
            text[t][i] = 2 + rnd(60); /* 1 ends a text */
    is_recording = true;
    for (int i = 0; i < N_CASE; i++) {
        struct tcase *c = &kase[i];
        const struct tcase *from = &kase[rnd(N_FIRST)];
        *c = (struct tcase){.max_output = 1 + rnd(OUT_MAX), .temperature = (float)rnd(2), .seed = (uint64_t)rnd(4)};
        c->n_prompt = prompt_length();
        memcpy(c->tok, text[rnd(N_TEXT)], sizeof *text);
        if (i >= N_FIRST) { /* the next turn of a conversation, or the same again with another end */
            int n = from->n_prompt + (rnd(3) ? from->n_output : 0), more = rnd(3) ? 1 + rnd(30) : 0;
            c->n_prompt = n + more > TOK_MAX ? TOK_MAX : n + more;
            memcpy(c->tok, from->tok, (size_t)(n > TOK_MAX ? TOK_MAX : n) * sizeof *c->tok);
        }
        run_alone(c);
    }
    is_recording = false;
}

/* ---- schedules ---- */

static void arrive(struct wrk_sched *s, int *n_named)
{
    for (int i = 0; i < SEQ_MAX; i++)
        if (!now[i].c) {
            now[i] = (struct under_way){.c = &kase[rnd(N_CASE)]};
            snprintf(now[i].name, sizeof now[i].name, "r%d", (*n_named)++);
            if (rnd(4) == 0) /* it comes from a worker that was lost */
                now[i].n_out = rnd(now[i].c->n_output + 1);
            if (now[i].n_out == now[i].c->max_output)
                now[i].n_out = 0; /* that one would have been over */
            n_now++;
            send(s, &now[i]);
            return;
        }
}

static void cancel_one(struct wrk_sched *s)
{
    struct under_way *u = &now[rnd(SEQ_MAX)];
    struct err err = {0};
    if (!u->c)
        return;
    u->is_canceled = true;
    if (wrk_sched_cancel(s, u->name, u->attempt, &err))
        FAIL("%s", err.text);
}

/* All is dropped, as when the epoch is over, and comes again with what the clients have. */
static void begin_again(struct wrk_sched *s)
{
    wrk_sched_drop(s);
    for (int i = 0; i < SEQ_MAX; i++)
        if (now[i].c)
            send(s, &now[i]);
}

static void run_schedule(struct eng *eng)
{
    static const int64_t cuts[] = {128, 256, 1024};
    struct wrk_sched *s = scheduler(eng, cuts[rnd(3)]);
    int n_left = 2 + rnd(3), n_named = 0, arrival = rnd(3) == 0 ? 1 : 1 + rnd(8), n_step = 0;

    memset(now, 0, sizeof now);
    n_now = 0;
    while (n_left > 0 || n_now > 0) {
        if (n_left > 0 && (n_now == 0 || rnd(arrival) == 0)) {
            arrive(s, &n_named);
            n_left--;
        }
        if (rnd(60) == 0)
            cancel_one(s);
        if (rnd(120) == 0)
            begin_again(s);
        step(s);
        if (++n_step > 20000)
            FAIL("no end after %d steps", n_step);
    }
    if (wrk_sched_n(s) != 0)
        FAIL("%d sequences are left", wrk_sched_n(s));
    n_preempted += wrk_sched_stats(s)->n_preempted;
    wrk_sched_destroy(&s);
}

static void run_life(uint64_t seed)
{
    static const int steps[] = {1, 2, 5, 16, 33, 64, 96};
    life_seed = rng = seed;
    int64_t biggest = (TOK_MAX + OUT_MAX + 127) / 128;
    int n_ranks = rnd(6) ? 1 : 1 << (1 + rnd(2)), n_seq = n_ranks > 1 ? 2 + rnd(5) : 1 + rnd(4);
    struct eng *eng = engine(n_seq, steps[rnd(7)], n_ranks * 128 * (biggest + rnd(rnd(2) ? 3 : 12)),
                             rnd(4) ? rnd(8) : 0, rnd(8) ? 1 : 2, n_ranks);
    int64_t n_block = eng_kv_blocks_free(eng);
    for (int i = 0; i < SCHEDULES_A_LIFE; i++) {
        run_schedule(eng);
        if (eng_kv_blocks_free(eng) != n_block) /* nothing is lost: cached blocks count as free */
            FAIL("%d blocks of %d are left", (int)eng_kv_blocks_free(eng), (int)n_block);
    }
    eng_close(&eng);
}

static void test_schedules(void **state)
{
    (void)state;
    if (!kn_backend_find(backend)) {
        print_message("back end %s is not built in: not tested\n", backend);
        skip();
    }
    int64_t t0 = clock_mono_ns();
    make_cases();
    for (int i = 0; i < n_lives; i++)
        run_life(first_seed + (uint64_t)i);
    print_message("%s: %d schedules, %d sequences, %d rows of logits equal, %llu prompt tokens from the cache, "
                  "%llu preemptions, %.1f s\n",
                  backend, n_lives * SCHEDULES_A_LIFE, n_done, n_row_checked, (unsigned long long)n_cached,
                  (unsigned long long)n_preempted, (double)(clock_mono_ns() - t0) / 1e9);
    if (n_lives >= 50) /* what this test is about did happen */
        assert_true(n_cached > 5000 && n_preempted > 20);
}

/* A long prefill beside 16 streams on the model: while it lasts, every step has a row of each stream, so that the time
 * between two tokens is that of one step. The times are printed beside those of the parts alone. */
static void test_streams_beside_prefill(void **state)
{
    enum { STREAMS = 16, LONG = 3000, BUDGET = 64 };
    static int32_t tok[LONG];
    struct eng_opts o = {.model_dir = BATON_BINARY_DIR "/small_model", .backend = backend, .n_ranks = 1,
                         .n_threads = 1, .n_seq_max = STREAMS + 1, .step_tok_max = BUDGET, .context_max = 4000,
                         .kv_tokens = 16 * 4000, .n_saved = 4};
    struct msg_generate g = {.epoch = 1, .attempt = 1, .tok = tok, .max_output = 300, .ignore_eos = true};
    struct eng *eng = NULL;
    struct wrk_sched *s = NULL;
    struct err err = {0};
    double ms[3] = {0}; /* mean of a step: streams alone, beside the prefill, prefill alone */
    int n[3] = {0};
    (void)state;
    if (n_lives > 0 && first_seed != 1)
        skip(); /* once is enough */
    g.sampling = (struct msg_sampling){.top_p = 1, .repetition_penalty = 1};
    for (int i = 0; i < LONG; i++)
        tok[i] = 2 + i * 13 % 60;
    assert_int_equal(eng_open(&o, &eng, &err), 0);
    n_beside = 0;
    assert_int_equal(wrk_sched_new(&(struct wrk_sched_opts){.eng = eng, .n_seq_max = STREAMS + 1, .emit = count_tokens},
                                   &s, &err), 0);
    is_unchecked = true;
    for (int i = 0; i < STREAMS; i++) {
        snprintf(g.request, sizeof g.request, "s%d", i);
        g.n_tok = 8 + i;
        assert_int_equal(wrk_sched_add(s, &g, clock_mono_ns(), &err), 0);
    }
    while (n_beside < STREAMS)
        step(s);
    for (int phase = 0; phase < 3; phase++) {
        if (phase == 1) {
            snprintf(g.request, sizeof g.request, "big");
            g.n_tok = LONG;
            assert_int_equal(wrk_sched_add(s, &g, clock_mono_ns(), &err), 0);
        }
        if (phase == 2) { /* the same length again, alone; other text, so that the cache has nothing */
            wrk_sched_drop(s);
            tok[0] = 1;
            assert_int_equal(wrk_sched_add(s, &g, clock_mono_ns(), &err), 0);
        }
        n_big = 0;
        while (phase == 0 ? n[0] < 20 : n_big == 0) {
            int before = n_beside;
            int64_t t0 = clock_mono_ns();
            step(s);
            ms[phase] += (double)(clock_mono_ns() - t0) / 1e6;
            n[phase]++;
            if (phase < 2)
                assert_int_equal(n_beside - before, STREAMS);
        }
    }
    assert_true(n[1] <= LONG / (BUDGET - STREAMS) + LONG / WRK_SCHED_CUT_TOK + 3);
    print_message("%s, 16 streams, ms a step: %.2f alone, %.2f beside prefill (48 rows); 64 rows of it alone: %.2f\n",
                  backend, ms[0] / n[0], ms[1] / n[1], ms[2] / n[2]);
    is_unchecked = false;
    wrk_sched_drop(s);
    wrk_sched_destroy(&s);
    eng_close(&eng);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_schedules),
                                       cmocka_unit_test(test_streams_beside_prefill)};
    log_init("test", "error");
    if (argc > 1)
        backend = argv[1];
    if (argc > 2)
        n_lives = atoi(argv[2]);
    if (argc > 3)
        first_seed = strtoull(argv[3], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
