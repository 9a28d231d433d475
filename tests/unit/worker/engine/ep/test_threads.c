/* Proves the contract of ep.h on threads: rows of all ranks reach the owner of their expert in the written order and
 * their results come back to their places, with random loads (none at all, too), uneven shares and random delays;
 * a rank that stalls, fails or is out of step ends the call of every other one with a named reason, in time. */
#include "tests/unit/test.h"

#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "worker/engine/ep/threads.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

enum { RANKS = 5, EXPERTS = 7, D = KN_ACT_GROUP, PAIRS = 40, LAYERS = 60, DEADLINE_MS = 150 };

static uint64_t mix(uint64_t v)
{
    v = (v + 1) * 0x9e3779b97f4a7c15u;
    v ^= v >> 31;
    v *= 0xff51afd7ed558ccdu;
    return v ^ v >> 29;
}

static void nap(int64_t us)
{
    nanosleep(&(struct timespec){us / 1000000, us % 1000000 * 1000}, NULL);
}

/* One rank and what it works in. */
struct rank {
    struct eng_ep *ep;
    pthread_t thread;
    bool with_bf16;
    int32_t offset[EXPERTS + 1], own_offset[EXPERTS + 1];
    uint16_t x[PAIRS * D], own_x[RANKS * PAIRS * D], own_y[RANKS * PAIRS * D], y[PAIRS * D];
    uint8_t q[PAIRS * D], own_q[RANKS * PAIRS * D], s[PAIRS], own_s[RANKS * PAIRS];
    float weight[PAIRS], own_weight[RANKS * PAIRS];
    int rc, step;
    struct err err;
    int64_t ended_ms;
    int fault_at; /* the layer before which it does what the test says; -1: none */
};

/* What is in row i of a rank at a layer: everything is a function of these numbers. */
static uint16_t word_of(int layer, int rank, int i, int k)
{
    return (uint16_t)mix((uint64_t)layer << 40 | (uint64_t)rank << 32 | (uint64_t)i << 16 | (uint64_t)k);
}

static int load_of(int layer, int rank, int32_t expert, int n_ranks)
{
    uint64_t v = mix(mix((uint64_t)layer * 64 + (uint64_t)rank) + (uint64_t)expert);
    bool is_idle = mix((uint64_t)layer * 64 + (uint64_t)rank) % 3 == 0 && n_ranks > 1;
    return is_idle ? 0 : (int)(v % 5);
}

static void fill(struct rank *r, int layer)
{
    int at = 0;

    for (int32_t e = 0; e < EXPERTS; e++) {
        r->offset[e] = at;
        at += load_of(layer, r->ep->rank, e, r->ep->n_ranks);
    }
    r->offset[EXPERTS] = at;
    assert_true(at <= PAIRS);
    for (int i = 0; i < at; i++) {
        for (int k = 0; k < D; k++) {
            r->x[i * D + k] = word_of(layer, r->ep->rank, i, k);
            r->q[i * D + k] = (uint8_t)word_of(layer, r->ep->rank, i, k + D);
        }
        r->s[i] = (uint8_t)word_of(layer, r->ep->rank, i, 3 * D);
        r->weight[i] = word_of(layer, r->ep->rank, i, 4 * D);
    }
}

static struct eng_ep_dispatch_args dispatch_of(struct rank *r, int layer)
{
    bool b = r->with_bf16;
    return (struct eng_ep_dispatch_args){.layer = layer, .d = D, .offset = r->offset,
                                         .x = {b ? r->x : NULL, r->q, r->s}, .weight = r->weight,
                                         .own_offset = r->own_offset,
                                         .own_x = {b ? r->own_x : NULL, r->own_q, r->own_s},
                                         .own_weight = r->own_weight};
}

/* Are the rows of the rank's experts those of all ranks, in order, and all of each? Their results are made here. */
static bool serve(struct rank *r, int layer)
{
    int n = r->ep->n_ranks, at = 0;
    int32_t first = eng_ep_first(EXPERTS, n, r->ep->rank), end = eng_ep_first(EXPERTS, n, r->ep->rank + 1);

    for (int32_t e = first; e < end; e++) {
        if (r->own_offset[e - first] != at)
            return false;
        for (int from = 0; from < n; from++) {
            int i = 0;
            for (int32_t before = 0; before < e; before++)
                i += load_of(layer, from, before, n);
            for (int k = load_of(layer, from, e, n); k > 0; k--, i++, at++) {
                for (int j = 0; j < D; j++) {
                    if ((r->with_bf16 && r->own_x[at * D + j] != word_of(layer, from, i, j)) ||
                        r->own_q[at * D + j] != (uint8_t)word_of(layer, from, i, j + D))
                        return false;
                    r->own_y[at * D + j] = (uint16_t)(word_of(layer, from, i, j) + e);
                }
                if (r->own_s[at] != (uint8_t)word_of(layer, from, i, 3 * D) ||
                    r->own_weight[at] != word_of(layer, from, i, 4 * D))
                    return false;
            }
        }
    }
    return r->own_offset[end - first] == at;
}

static bool is_back(const struct rank *r, int layer)
{
    for (int32_t e = 0; e < EXPERTS; e++)
        for (int i = r->offset[e]; i < r->offset[e + 1]; i++)
            for (int j = 0; j < D; j++)
                if (r->y[i * D + j] != (uint16_t)(word_of(layer, r->ep->rank, i, j) + e))
                    return false;
    return true;
}

static void *good_main(void *arg)
{
    struct rank *r = arg;

    r->rc = r->ep->ops->barrier(r->ep, &r->err);
    for (int layer = 0; layer < LAYERS && r->rc == 0; layer++) {
        struct eng_ep_combine_args back = {.layer = layer, .d = D, .own_y = r->own_y, .y = r->y};
        fill(r, layer);
        if (mix((uint64_t)layer * 77 + (uint64_t)r->ep->rank) % 4 == 0)
            nap((int64_t)(mix((uint64_t)layer) % 300));
        struct eng_ep_dispatch_args out = dispatch_of(r, layer);
        memset(r->y, 0xa5, sizeof r->y);
        if ((r->rc = r->ep->ops->dispatch(r->ep, &out, &r->err)))
            break;
        if (!serve(r, layer))
            r->rc = err_set(&r->err, ERR_STATE, "layer %d: rank %d has other rows", layer, r->ep->rank);
        else if ((r->rc = r->ep->ops->combine(r->ep, &back, &r->err)) == 0 && !is_back(r, layer))
            r->rc = err_set(&r->err, ERR_STATE, "layer %d: rank %d got other results", layer, r->ep->rank);
        if (r->rc)
            r->ep->ops->give_up(r->ep, &r->err);
    }
    return NULL;
}

static struct rank *begin(int n, int deadline_ms, struct eng_ep *end[ENG_RANKS_MAX])
{
    struct eng_ep_opts o = {n, EXPERTS, deadline_ms};
    struct rank *r = mem_array((size_t)n, sizeof *r);
    struct err err = {0};

    memset(r, 0, (size_t)n * sizeof *r);
    assert_int_equal(eng_ep_threads.open(&o, end, &err), 0);
    for (int i = 0; i < n; i++) {
        r[i].ep = end[i];
        r[i].fault_at = -1;
    }
    return r;
}

static void run(struct rank *r, int n, void *(*main_of)(void *))
{
    for (int i = 0; i < n; i++)
        assert_int_equal(pthread_create(&r[i].thread, NULL, main_of, &r[i]), 0);
    for (int i = 0; i < n; i++)
        pthread_join(r[i].thread, NULL);
}

static void test_values(void **state)
{
    (void)state;
    for (int n = 1; n <= RANKS; n++)
        for (int with_bf16 = 0; with_bf16 < 2; with_bf16++) {
            struct eng_ep *end[ENG_RANKS_MAX] = {0};
            struct rank *r = begin(n, 10000, end);
            for (int i = 0; i < n; i++)
                r[i].with_bf16 = with_bf16;
            run(r, n, good_main);
            for (int i = 0; i < n; i++)
                if (r[i].rc)
                    fail_msg("%d ranks: %s", n, r[i].err.text);
            eng_ep_threads.close(end);
            assert_null(end[0]);
            mem_free(r);
        }
}

static void test_shares(void **state)
{
    (void)state;
    for (int n = 1; n <= 8; n++)
        for (int32_t n_expert = n; n_expert < 40; n_expert++)
            for (int q = 0; q < n; q++)
                for (int32_t e = eng_ep_first(n_expert, n, q); e < eng_ep_first(n_expert, n, q + 1); e++)
                    assert_int_equal(eng_ep_owner(n_expert, n, e), q);
}

/* ---- faults: rank 2 does something at layer 3 ---- */

static void (*fault)(struct rank *r);

static void *faulty_main(void *arg)
{
    struct rank *r = arg;

    for (int layer = 0; layer < 6 && r->rc == 0; layer++) {
        struct eng_ep_combine_args back = {.layer = layer, .d = D, .own_y = r->own_y, .y = r->y};
        if (layer == r->fault_at)
            fault(r);
        fill(r, layer);
        struct eng_ep_dispatch_args out = dispatch_of(r, layer + r->step);
        if ((r->rc = r->ep->ops->dispatch(r->ep, &out, &r->err)) == 0)
            r->rc = r->ep->ops->combine(r->ep, &back, &r->err);
    }
    r->ended_ms = clock_mono_ns() / 1000000;
    return NULL;
}

/* All ranks end with this code and text; those without the fault within max_ms from the start. */
static void check_fault(void (*what)(struct rank *), int code, const char *text, int64_t min_ms, int64_t max_ms)
{
    struct eng_ep *end[ENG_RANKS_MAX] = {0};
    struct rank *r = begin(4, DEADLINE_MS, end);
    int64_t t0 = clock_mono_ns() / 1000000;
    struct err why = {0};

    fault = what;
    r[2].fault_at = 3;
    run(r, 4, faulty_main);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(r[i].rc, code);
        if (text && !strstr(r[i].err.text, text))
            fail_msg("rank %d says '%s', not '%s'", i, r[i].err.text, text);
        if (i != 2 && (r[i].ended_ms - t0 > max_ms || r[i].ended_ms - t0 < min_ms))
            fail_msg("rank %d ended after %d ms", i, (int)(r[i].ended_ms - t0));
    }
    assert_int_equal(end[0]->ops->state(end[0], code ? &why : NULL), code);
    assert_int_equal(end[1]->ops->barrier(end[1], &why), code ? code : ERR_TIMEOUT); /* it stays ended */
    eng_ep_threads.close(end);
    mem_free(r);
}

static void stall(struct rank *r)
{
    (void)r;
    nap(4 * DEADLINE_MS * 1000);
}

static void beat(struct rank *r)
{
    for (int i = 0; i < 40; i++) {
        nap(DEADLINE_MS * 1000 / 10);
        atomic_fetch_add(&r->ep->beat, 1);
    }
}

static void give_up(struct rank *r)
{
    struct err why = {0};
    err_set(&why, ERR_GPU, "rank %d: the fan is on fire", r->ep->rank);
    r->ep->ops->give_up(r->ep, &why);
}

static void lose_step(struct rank *r)
{
    r->step = 1;
}

static void test_stall(void **state)
{
    (void)state;
    check_fault(stall, ERR_TIMEOUT, "rank 2 did not arrive at dispatch of layer 3 within 150 ms", DEADLINE_MS,
                3 * DEADLINE_MS);
}

static void test_slow_but_alive(void **state)
{
    (void)state;
    check_fault(beat, 0, NULL, 3 * DEADLINE_MS, 60000);
}

static void test_failure(void **state)
{
    (void)state;
    check_fault(give_up, ERR_GPU, "rank 2: the fan is on fire", 0, DEADLINE_MS);
}

static void test_out_of_step(void **state)
{
    (void)state;
    check_fault(lose_step, ERR_STATE, "layer 4", 0, DEADLINE_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares),       cmocka_unit_test(test_values), cmocka_unit_test(test_stall),
        cmocka_unit_test(test_slow_but_alive), cmocka_unit_test(test_failure), cmocka_unit_test(test_out_of_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
