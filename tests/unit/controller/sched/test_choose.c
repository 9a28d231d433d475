/* Proves each rule for choosing a worker, one at a time and in their order of weight. How: three plain workers in
 * a list, one field changed per case.
 */
#include "tests/unit/test.h"

#include "common/base/check.h"
#include "controller/sched/choose.h"

#include <stdio.h>
#include <string.h>

static struct ctl_worker w[3];
static struct ctl_request req;
static struct ctl_choice choice;
static struct ctl_suspects suspects;
static struct ctl_prefix_keys keys;

static void reset(void)
{
    memset(w, 0, sizeof w);
    for (int i = 0; i < 3; i++) {
        w[i].epoch = (uint64_t)i + 1;
        w[i].hello.n_seq_max = 4;
        w[i].hello.context_max = 100;
        w[i].beat.kv_blocks_free = 10;
        snprintf(w[i].hello.domain, sizeof w[i].hello.domain, "zone-%d", i);
        snprintf(w[i].hello.numerics, sizeof w[i].hello.numerics, "h100");
        w[i].next = i < 2 ? &w[i + 1] : NULL;
    }
    req = (struct ctl_request){.n_prompt = 10, .max_output = 10};
    choice = (struct ctl_choice){.req = &req};
    suspects = (struct ctl_suspects){0};
}

/* Index of the worker chosen, or minus the verdict. */
static int chosen(void)
{
    struct ctl_worker *out = NULL;
    enum ctl_choose v = ctl_choose(w, &choice, &suspects, &keys, 1000, &out);
    return v == CTL_CHOOSE_found ? (int)(out - w) : -(int)v;
}

static void test_load(void **state)
{
    (void)state;
    reset();
    assert_int_equal(chosen(), 0); /* all equal: the oldest */
    w[0].n_running = 1;
    assert_int_equal(chosen(), 1);
    w[1].beat.kv_blocks_free = 3;
    assert_int_equal(chosen(), 2); /* more free blocks */
    w[2].n_running = 2;
    w[2].hello.n_seq_max = 100; /* 2 of 100 is less than 0 of 4? no: 0 is the least */
    assert_int_equal(chosen(), 1);
    w[1].n_running = 1;
    assert_int_equal(chosen(), 2); /* 2 of 100 before 1 of 4 */
}

static void tell(int i, const int32_t *tok, int n_block, bool is_stored)
{
    struct prefix_key k = PREFIX_KEY_EMPTY;
    for (int b = 0; b < n_block; b++) {
        k = prefix_key_next(k, tok + b * 128, 128);
        ctl_prefixes_apply(&w[i].prefixes, &(struct prefix_news){k.lo, is_stored}, 1, false);
    }
}

/* The longest prefix draws, but not into any queue: a full worker costs 2048 tokens. */
static void test_prefix(void **state)
{
    enum { N = 1100 };
    static int32_t tok[N], other[N];
    (void)state;
    reset();
    for (int i = 0; i < N; i++) {
        tok[i] = i * 7 % 100;
        other[i] = i * 5 % 100;
    }
    req = (struct ctl_request){.prompt = tok, .n_prompt = N, .max_output = 10};
    for (int i = 0; i < 3; i++)
        w[i].hello.context_max = 2000;
    tell(0, other, 8, true);
    tell(1, tok, 4, true);
    assert_int_equal(chosen(), 1);
    tell(2, tok, 8, true);
    assert_int_equal(chosen(), 2);
    w[2].n_running = 1; /* 512 tokens of load, as much as the longer prefix saves: more is free on neither, the older */
    assert_int_equal(chosen(), 1);
    w[1].n_running = 1;
    assert_int_equal(chosen(), 2);
    w[2].n_running = 3; /* the load wins: 1536 against 8 blocks */
    w[1].n_running = 2;
    assert_int_equal(chosen(), 0);
    w[0].n_running = 3;
    w[2].n_running = 3;
    w[1].n_running = 3;
    assert_int_equal(chosen(), 2);
    tell(2, tok, 8, false);
    assert_int_equal(chosen(), 1);
    snprintf(w[1].hello.numerics, sizeof w[1].hello.numerics, "other"); /* before exactness nothing counts */
    choice.out = (struct ctl_output){.id = other, .n = 1};
    snprintf(choice.numerics, sizeof choice.numerics, "h100");
    assert_int_equal(chosen(), 0);
    for (int i = 0; i < 3; i++)
        ctl_prefixes_release(&w[i].prefixes);
    ctl_prefix_keys_release(&keys);
}

/* After a failover the prefix is prompt and output, and a block may lie in both. */
static void test_prefix_with_output(void **state)
{
    static int32_t tok[300];
    (void)state;
    reset();
    for (int i = 0; i < 300; i++)
        tok[i] = i * 7 % 100;
    req = (struct ctl_request){.prompt = tok, .n_prompt = 200, .max_output = 500};
    choice.out = (struct ctl_output){.id = tok + 200, .n = 100};
    for (int i = 0; i < 3; i++) {
        w[i].hello.context_max = 2000;
        snprintf(choice.numerics, sizeof choice.numerics, "h100");
    }
    tell(0, tok, 1, true);
    tell(2, tok, 2, true);
    assert_int_equal(chosen(), 2);
    for (int i = 0; i < 3; i++)
        ctl_prefixes_release(&w[i].prefixes);
    ctl_prefix_keys_release(&keys);
}

static void test_cannot(void **state)
{
    (void)state;
    reset();
    w[0].state = CTL_WORKER_draining;
    w[1].gone = "gone";
    assert_int_equal(chosen(), 2);
    w[2].n_running = 4;
    assert_int_equal(chosen(), -CTL_CHOOSE_no_credit);
    w[2].n_running = 0;
    w[2].hello.context_max = 19;
    assert_int_equal(chosen(), -CTL_CHOOSE_wait); /* the draining one has the context: it may come back */
    w[0].state = CTL_WORKER_lost;
    assert_int_equal(chosen(), -CTL_CHOOSE_too_long);
    w[2].state = CTL_WORKER_lost;
    assert_int_equal(chosen(), -CTL_CHOOSE_no_credit); /* nobody there: nobody can say that it is too long */
}

static void test_avoids_who_failed(void **state)
{
    (void)state;
    reset();
    choice.avoid_epoch = 1;
    w[1].n_running = w[2].n_running = 3;
    assert_int_equal(chosen(), 1);
    w[1].n_running = w[2].n_running = 4;
    assert_int_equal(chosen(), -CTL_CHOOSE_wait); /* another one will be free */
    w[1].state = CTL_WORKER_lost;
    w[2].state = CTL_WORKER_draining;
    assert_int_equal(chosen(), 0); /* the only one */
}

static void test_numerics_then_suspicion_then_load(void **state)
{
    (void)state;
    reset();
    ctl_suspects_add(&suspects, "zone-0", 2000);
    ctl_suspects_add(&suspects, "zone-1", 2000);
    w[2].n_running = 3;
    assert_int_equal(chosen(), 2); /* loaded, but not suspect */
    snprintf(choice.numerics, sizeof choice.numerics, "h100");
    snprintf(w[2].hello.numerics, sizeof w[2].hello.numerics, "avx2");
    assert_int_equal(chosen(), 2); /* nothing committed yet: any numerics */
    choice.out.n = 1;
    assert_int_equal(chosen(), 0); /* exactness before suspicion */
    w[0].n_running = w[1].n_running = 4;
    assert_int_equal(chosen(), 2); /* better inexact than not */
}

static void test_probation_is_isolated(void **state)
{
    (void)state;
    reset();
    struct ctl_choice other = {.probation = true, .n_try = 1}, proven = {0}, unproven = {.n_try = 1};
    choice.probation = true;
    w[0].running = &other;
    w[1].running = &proven;
    w[2].running = &unproven;
    w[0].n_running = w[1].n_running = w[2].n_running = 1;
    assert_int_equal(chosen(), 1);
    w[1].state = CTL_WORKER_lost;
    assert_int_equal(chosen(), -CTL_CHOOSE_wait);
    choice.probation = false; /* and nobody joins one that is on probation */
    assert_int_equal(chosen(), 2);
    w[2].state = CTL_WORKER_lost;
    assert_int_equal(chosen(), -CTL_CHOOSE_wait);
}

static void test_suspects(void **state)
{
    (void)state;
    char name[MSG_NAME_MAX];
    reset();
    ctl_suspects_add(&suspects, "", 9999);
    assert_false(ctl_suspects_has(&suspects, "", 0)); /* no domain, no neighbours */
    ctl_suspects_add(&suspects, "a", 100);
    assert_true(ctl_suspects_has(&suspects, "a", 99));
    assert_false(ctl_suspects_has(&suspects, "a", 100));
    ctl_suspects_add(&suspects, "a", 300); /* again: longer, and no second place */
    assert_true(ctl_suspects_has(&suspects, "a", 299));
    for (int i = 0; i < SUSPECTS_MAX - 1; i++) {
        snprintf(name, sizeof name, "b%d", i);
        ctl_suspects_add(&suspects, name, 400 + i);
    }
    assert_true(ctl_suspects_has(&suspects, "a", 200));
    ctl_suspects_add(&suspects, "c", 500); /* full: the one that is trusted first gives way */
    assert_false(ctl_suspects_has(&suspects, "a", 200));
    assert_true(ctl_suspects_has(&suspects, "b0", 200));
    assert_true(ctl_suspects_has(&suspects, "c", 200));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_prefix), cmocka_unit_test(test_prefix_with_output),
        cmocka_unit_test(test_cannot),
        cmocka_unit_test(test_avoids_who_failed),
        cmocka_unit_test(test_numerics_then_suspicion_then_load),
        cmocka_unit_test(test_probation_is_isolated),
        cmocka_unit_test(test_suspects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
