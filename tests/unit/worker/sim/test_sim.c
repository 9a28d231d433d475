/* Proves: what --engine sim says is known in advance: token i is the number i, as many as the prompt or the flags ask
 * for, at the times asked for; a sequence that goes on begins behind its committed tokens, at every index; and the
 * faults do what they say. The clock is the test's. */
#include "common/base/check.h"
#include "common/text/tok_sim.h"
#include "tests/unit/test.h"
#include "worker/sim/sim.h"

#include <string.h>

enum { GOT_MAX = 256, MS = 1000000 };

struct bench {
    struct wrk_sim_opts o;
    struct tok *tok;
    void *machine;
    int64_t now_ns;
    struct tok_ids prompt;
    /* what was emitted */
    int32_t id[GOT_MAX];
    int64_t index[GOT_MAX], at_ns[GOT_MAX];
    int n;
    struct msg last; /* Finished or Failed */
    int n_end;
};

static int emit(void *arg, const struct msg *m, struct err *err)
{
    struct bench *b = arg;
    (void)err;
    if (m->kind == MSG_tokens) {
        assert_int_equal(m->tokens.n, 1);
        assert_in_range(b->n, 0, GOT_MAX - 1);
        b->id[b->n] = m->tokens.token[0].id;
        b->index[b->n] = m->tokens.first_index;
        b->at_ns[b->n++] = b->now_ns;
        return 0;
    }
    b->last = *m;
    b->n_end++;
    return 0;
}

static void open_it(struct bench *b, int n_seq_max)
{
    struct err err = {0};
    memset(b, 0, sizeof *b);
    assert_int_equal(tok_sim_open(&b->tok, &err), 0);
    b->o = (struct wrk_sim_opts){.tok = b->tok, .name = "w0", .n_tok = 5, .kv_tokens = 12800, .context_max = 1000};
    assert_int_equal(wrk_sim_machine.open(&b->o, n_seq_max, emit, b, &b->machine, &err), 0);
}

static void close_it(struct bench *b)
{
    wrk_sim_machine.destroy(&b->machine);
    assert_null(b->machine);
    tok_ids_release(&b->prompt);
    tok_close(&b->tok);
}

static void add(struct bench *b, const char *name, const char *prompt, int64_t n_committed, int64_t max_output)
{
    struct msg_generate g = {.epoch = 1, .attempt = 1, .max_output = max_output, .n_committed = n_committed};
    struct err err;
    strcpy(g.request, name);
    b->prompt.n = 0;
    tok_encode(b->tok, prompt, strlen(prompt), NULL, 0, &b->prompt);
    for (int64_t i = 0; i < n_committed; i++)
        tok_sim_add_number(i, &b->prompt);
    g.tok = b->prompt.id;
    g.n_tok = (int64_t)b->prompt.n;
    assert_int_equal(wrk_sim_machine.add(b->machine, &g, b->now_ns, &err), 0);
}

/* Step at each time that the machine asks for, until it has nothing to do. */
static void run(struct bench *b)
{
    struct err err;
    for (int i = 0; i < 10000; i++) {
        int64_t due = wrk_sim_machine.due_ns(b->machine);
        if (due == INT64_MAX)
            return;
        b->now_ns = due > b->now_ns ? due : b->now_ns;
        assert_true(wrk_sim_machine.step(b->machine, b->now_ns, &err) >= 0);
    }
    fail_msg("it does not end");
}

static void numbers_in_order_and_in_time(void **state)
{
    struct bench b;
    (void)state;
    open_it(&b, 4);
    add(&b, "a", "x [[id=3,n=4,ttft_us=5000,itl_us=2000]] y", 0, 100);
    assert_int_equal(wrk_sim_machine.due_ns(b.machine), 5 * MS);
    run(&b);
    assert_int_equal(b.n, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(b.id[i], TOK_SIM_NUMBER + i);
        assert_int_equal(b.index[i], i);
        assert_int_equal(b.at_ns[i], (5 + 2 * i) * MS);
    }
    assert_int_equal(b.last.kind, MSG_finished);
    assert_int_equal(b.last.finished.reason, MSG_FINISH_stop);
    assert_int_equal(b.last.finished.n_output, 4);
    close_it(&b);
}

static void length_is_bounded(void **state)
{
    struct bench b;
    (void)state;
    open_it(&b, 4);
    add(&b, "a", "no options", 0, 100); /* the flags' 5 */
    run(&b);
    assert_int_equal(b.n, 5);
    add(&b, "b", "[[n=50]]", 0, 3); /* the request's own limit */
    run(&b);
    assert_int_equal(b.n, 8);
    assert_int_equal(b.last.finished.reason, MSG_FINISH_length);
    assert_int_equal(b.last.finished.stop_id, -1);
    close_it(&b);
}

static void goes_on_at_every_index(void **state)
{
    (void)state;
    for (int64_t k = 0; k < 12; k++) {
        struct bench b;
        open_it(&b, 4);
        add(&b, "a", "[[n=12]] <think>", k, 12);
        run(&b);
        assert_int_equal(b.n, 12 - k);
        for (int i = 0; i < b.n; i++) {
            assert_int_equal(b.index[i], k + i);
            assert_int_equal(b.id[i], k + i == 0 ? TOK_SIM_FIRST : TOK_SIM_NUMBER + k + i);
        }
        assert_int_equal(b.last.finished.n_output, 12);
        close_it(&b);
    }
}

static void floods_are_shared(void **state)
{
    struct bench b;
    struct err err;
    (void)state;
    open_it(&b, 4);
    add(&b, "a", "[[n=9]]", 0, 9);
    add(&b, "b", "[[n=9]]", 0, 9);
    b.now_ns = 1;
    assert_int_equal(wrk_sim_machine.step(b.machine, b.now_ns, &err), 2);
    assert_int_equal(b.n, 2); /* one each, though both are always due */
    assert_int_equal(b.id[0], b.id[1]);
    run(&b);
    assert_int_equal(b.n, 18);
    close_it(&b);
}

static void faults_come_where_told(void **state)
{
    struct bench b;
    struct err err;
    (void)state;
    open_it(&b, 2);
    add(&b, "cut", "[[n=9,cut_at=3]]", 0, 9);
    run(&b);
    assert_int_equal(b.n, 3);
    assert_int_equal(b.last.failed.cls, MSG_FAIL_worker);
    add(&b, "other", "[[n=9,cut_at=3,fw=w1]]", 0, 9); /* not for this worker */
    run(&b);
    assert_int_equal(b.n, 12);
    add(&b, "bad", "[[n=3,bad_at=1]]", 0, 9);
    run(&b);
    assert_int_equal(b.index[13], 2); /* one was left out, once */
    assert_int_equal(b.index[14], 2);
    add(&b, "stall", "[[n=9,stall_at=0]]", 0, 9);
    run(&b);
    assert_int_equal(wrk_sim_machine.n(b.machine), 1);
    assert_int_equal(wrk_sim_machine.cancel(b.machine, "stall", 2, &err), 0); /* another attempt: nothing */
    assert_int_equal(wrk_sim_machine.n(b.machine), 1);
    assert_int_equal(wrk_sim_machine.cancel(b.machine, "stall", 1, &err), 0);
    assert_int_equal(wrk_sim_machine.n(b.machine), 0);
    assert_int_equal(b.last.failed.cls, MSG_FAIL_canceled);
    close_it(&b);
}

static void refuses_what_it_cannot_hold(void **state)
{
    struct bench b;
    struct msg_heartbeat beat;
    (void)state;
    open_it(&b, 1);
    add(&b, "a", "[[n=2,itl_us=1000]]", 0, 9);
    wrk_sim_machine.beat(b.machine, &beat);
    assert_int_equal(beat.running, 1);
    assert_int_equal(beat.kv_blocks, 100);
    assert_int_equal(beat.kv_blocks_free, 99);
    add(&b, "b", "x", 0, 9);
    assert_int_equal(b.last.failed.cls, MSG_FAIL_overload);
    wrk_sim_machine.drop(b.machine);
    wrk_sim_machine.beat(b.machine, &beat);
    assert_int_equal(beat.kv_blocks_free, 100);
    assert_int_equal(wrk_sim_machine.n(b.machine), 0);
    assert_int_equal(b.n_end, 1); /* dropped without a word */
    close_it(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_in_order_and_in_time), cmocka_unit_test(length_is_bounded),
        cmocka_unit_test(goes_on_at_every_index),       cmocka_unit_test(floods_are_shared),
        cmocka_unit_test(faults_come_where_told),       cmocka_unit_test(refuses_what_it_cannot_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
