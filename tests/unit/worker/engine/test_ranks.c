/* Proves what a step does when a rank stalls or fails: eng_step returns in time with the rank and the place in its
 * text, the engine is poisoned, and it can be closed once the rank is back. How: the seam of eng_opts is filled by the
 * threads' one with a fault planted into it. Also: where sequences go, and that memory is the sum over ranks. */
#include "tests/unit/test.h"

#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "tests/golden/golden.h"
#include "worker/engine/ep/threads.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

enum { DEADLINE_MS = 300, RANKS = 4 };

/* ---- the seam with a fault ---- */

static struct {
    int rank, layer; /* where; rank -1: nowhere */
    bool at_combine, must_fail;
    atomic_bool is_released; /* a stall lasts until then */
} plant;

static const struct eng_ep_ops *inner;

static int happen(const struct eng_ep *ep, int32_t layer, bool at_combine, struct err *err)
{
    if (plant.rank >= 0 && (plant.rank != ep->rank || plant.layer != layer || plant.at_combine != at_combine))
        return 0;
    if (plant.rank == -1)
        return 0;
    if (plant.must_fail)
        return err_set(err, ERR_GPU, "the fan is on fire");
    while (!atomic_load(&plant.is_released))
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    return 0;
}

static int dispatch(struct eng_ep *ep, const struct eng_ep_dispatch_args *a, struct err *err)
{
    int rc = happen(ep, a->layer, false, err);
    return rc ? rc : inner->dispatch(ep, a, err);
}

static int combine(struct eng_ep *ep, const struct eng_ep_combine_args *a, struct err *err)
{
    int rc = happen(ep, a->layer, true, err);
    return rc ? rc : inner->combine(ep, a, err);
}

static int barrier(struct eng_ep *ep, struct err *err)
{
    return inner->barrier(ep, err);
}

static void stop(struct eng_ep *ep, const struct err *why)
{
    inner->give_up(ep, why);
}

static int state_of(struct eng_ep *ep, struct err *why)
{
    return inner->state(ep, why);
}

static const struct eng_ep_ops with_fault = {dispatch, combine, barrier, stop, state_of};

static int open_faulty(const struct eng_ep_opts *opts, struct eng_ep *end[ENG_RANKS_MAX], struct err *err)
{
    int rc = eng_ep_threads.open(opts, end, err);
    inner = end[0]->ops;
    for (int i = 0; i < opts->n_ranks; i++)
        end[i]->ops = &with_fault;
    return rc;
}

static void close_faulty(struct eng_ep *end[ENG_RANKS_MAX])
{
    eng_ep_threads.close(end);
}

static const struct eng_ep_provider faulty = {"faulty", open_faulty, close_faulty};

/* ---- */

static struct eng *open_engine(const struct golden *g, int n_ranks, int n_seq)
{
    struct eng_opts o = {.model_dir = g->dir, .backend = "ref", .n_ranks = n_ranks, .n_seq_max = n_seq,
                         .step_tok_max = 16, .context_max = 256, .kv_tokens = 1024,
                         .rank_deadline_ms = DEADLINE_MS, .ep = &faulty};
    struct eng *eng = NULL;
    struct err err = {0};

    if (eng_open(&o, &eng, &err))
        fail_msg("%s", err.text);
    return eng;
}

/* A step with a fault planted: it must end with this text, within these times. */
static void check_fault(int code, const char *text, int64_t min_ms, int64_t max_ms)
{
    struct golden g;
    struct eng_seq *seq = NULL;
    struct err err = {0};

    golden_open(&g, "tiny");
    struct eng *eng = open_engine(&g, RANKS, 2);
    atomic_store(&plant.is_released, false);
    assert_int_equal(eng_seq_open(eng, &seq, &err), 0);
    assert_int_equal(eng_seq_reserve(eng, seq, 16, &err), 0);
    struct eng_item item = {.seq = seq, .tok = g.prompt, .n_tok = 8};
    struct eng_plan plan = {&item, 1};
    int64_t t0 = clock_mono_ns();
    assert_int_equal(eng_step(eng, &plan, &err), code);
    int64_t ms = (clock_mono_ns() - t0) / 1000000;
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
    if (ms < min_ms || ms > max_ms)
        fail_msg("it took %d ms", (int)ms);
    assert_int_equal(eng_is_rank_lost(eng), !plant.must_fail);
    assert_int_equal(eng_seq_len(seq), 0);
    assert_int_equal(eng_step(eng, &plan, &err), ERR_STATE);
    atomic_store(&plant.is_released, true);
    eng_seq_close(eng, &seq);
    eng_close(&eng);
    golden_close(&g);
}

static void test_stall(void **state)
{
    (void)state;
    plant.must_fail = false;
    plant.rank = 2, plant.layer = 3, plant.at_combine = false;
    check_fault(ERR_STATE, "rank 2 did not arrive at dispatch of layer 3 within 300 ms", DEADLINE_MS, 2000);
    plant.rank = 0, plant.layer = 6, plant.at_combine = true;
    check_fault(ERR_STATE, "rank 0 did not arrive at combine of layer 6 within 300 ms", DEADLINE_MS, 2000);
    plant.rank = -2; /* everybody, at the first place */
    check_fault(ERR_STATE, "rank 0 is not back from the step within 300 ms, and no other has got on", DEADLINE_MS,
                3000);
}

static void test_failure(void **state)
{
    (void)state;
    plant.must_fail = true;
    plant.rank = 3, plant.layer = 0, plant.at_combine = true;
    check_fault(ERR_GPU, "rank 3: the fan is on fire", 0, DEADLINE_MS);
    plant.rank = 1, plant.layer = 5, plant.at_combine = false;
    check_fault(ERR_GPU, "rank 1: the fan is on fire", 0, DEADLINE_MS);
}

/* Room for 5 sequences on 2 ranks becomes room for 3 on each; one goes where most blocks are free. */
static void test_placement(void **state)
{
    struct golden g;
    struct eng_seq *seq[6] = {0}, *more = NULL;
    struct err err = {0};
    int n_on[2] = {0};

    (void)state;
    plant.rank = -1;
    golden_open(&g, "tiny");
    struct eng *one = open_engine(&g, 1, 5), *eng = open_engine(&g, 2, 5);
    const struct eng_caps *caps = eng_caps(eng);
    assert_int_equal(caps->n_ranks, 2);
    assert_int_equal(caps->kv_blocks, 8);
    assert_int_equal(caps->rank_kv_blocks, 4);
    assert_int_equal(caps->rank_seq_max, 3);
    assert_int_equal(caps->n_seq_max, 6);
    assert_string_equal(caps->numerics, eng_caps(one)->numerics);
    assert_true(caps->state_bytes * 5 == eng_caps(one)->state_bytes * 6);
    assert_int_equal(eng_seq_open(eng, &seq[0], &err), 0);
    assert_int_equal(eng_seq_rank(seq[0]), 0);
    assert_int_equal(eng_seq_reserve(eng, seq[0], 129, &err), 0);
    assert_int_equal(eng_rank_blocks_free(eng, 0), 2);
    assert_int_equal(eng_kv_blocks_free(eng), 6);
    assert_int_equal(eng_seq_open(eng, &seq[1], &err), 0);
    assert_int_equal(eng_seq_rank(seq[1]), 1); /* 4 blocks are free there */
    assert_int_equal(eng_seq_open_on(eng, 0, &seq[2], &err), 0);
    assert_int_equal(eng_seq_reserve(eng, seq[2], 256, &err), 0);
    assert_int_equal(eng_seq_reserve(eng, seq[0], 257, &err), ERR_LIMIT); /* the context */
    assert_int_equal(eng_rank_blocks_free(eng, 0), 0);
    assert_int_equal(eng_seq_open_on(eng, 0, &seq[3], &err), 0);
    assert_int_equal(eng_seq_reserve(eng, seq[3], 1, &err), ERR_LIMIT); /* the rank's pool, though rank 1 has blocks */
    assert_int_equal(eng_seq_open_on(eng, 0, &more, &err), ERR_LIMIT);
    assert_int_equal(eng_seq_open(eng, &seq[4], &err), 0);
    assert_int_equal(eng_seq_open(eng, &seq[5], &err), 0);
    assert_int_equal(eng_seq_open(eng, &more, &err), ERR_LIMIT);
    for (int i = 0; i < 6; i++) {
        n_on[eng_seq_rank(seq[i])]++;
        eng_seq_close(eng, &seq[i]);
    }
    assert_true(n_on[0] == 3 && n_on[1] == 3);
    assert_int_equal(eng_kv_blocks_free(eng), 8);
    eng_close(&eng);
    eng_close(&one);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_placement),
        cmocka_unit_test(test_stall),
        cmocka_unit_test(test_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
