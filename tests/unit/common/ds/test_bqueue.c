/* Proves: order, the limit and its two codes, what closing does to both sides, and that nothing is lost or doubled
 * between threads.
 * How: one thread for the rules; four producers against one consumer through a queue of three for the rest. */
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/ds/bqueue.h"
#include "tests/unit/test.h"

#include <pthread.h>

enum { N_PRODUCER = 4, N_EACH = 5000 };

static int item[8];

static void test_rules(void **state)
{
    void *got = NULL;
    (void)state;
    struct bqueue *q = bqueue_new(3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(bqueue_push(q, &item[i]), 0);
    assert_int_equal(bqueue_push(q, &item[3]), ERR_LIMIT);
    int64_t t0 = clock_mono_ns();
    assert_int_equal(bqueue_push_wait(q, &item[3], 30), ERR_TIMEOUT);
    assert_true(clock_mono_ns() - t0 >= 29 * 1000000);
    assert_int_equal(bqueue_pop(q, 0, &got), 0);
    assert_ptr_equal(got, &item[0]);
    assert_int_equal(bqueue_push_wait(q, &item[3], 1000), 0);
    for (int i = 1; i < 4; i++) {
        assert_int_equal((int)bqueue_len(q), 4 - i);
        assert_int_equal(bqueue_pop(q, -1, &got), 0);
        assert_ptr_equal(got, &item[i]);
    }
    assert_int_equal(bqueue_pop(q, 0, &got), ERR_TIMEOUT);
    t0 = clock_mono_ns();
    assert_int_equal(bqueue_pop(q, 1030, &got), ERR_TIMEOUT);
    assert_true(clock_mono_ns() - t0 >= 1029LL * 1000000);
    assert_int_equal(bqueue_push(q, &item[0]), 0);
    bqueue_close(q);
    assert_int_equal(bqueue_push(q, &item[1]), ERR_STATE);
    assert_int_equal(bqueue_pop(q, 0, &got), 0);
    assert_int_equal(bqueue_pop(q, -1, &got), ERR_STATE);
    bqueue_destroy(&q);
    assert_null(q);
    bqueue_destroy(&q);
}

struct producer {
    struct bqueue *q;
    int64_t value[N_EACH];
};

static struct producer producers[N_PRODUCER];

static void *produce(void *arg)
{
    struct producer *p = arg;
    for (int i = 0; i < N_EACH; i++) {
        p->value[i] = (p - producers) * N_EACH + i;
        if (bqueue_push_wait(p->q, &p->value[i], -1) != 0)
            return p;
    }
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t thread[N_PRODUCER];
    int64_t next[N_PRODUCER] = {0};
    struct bqueue *q = bqueue_new(3);
    (void)state;
    for (int i = 0; i < N_PRODUCER; i++) {
        producers[i].q = q;
        assert_int_equal(pthread_create(&thread[i], NULL, produce, &producers[i]), 0);
    }
    for (int n = 0; n < N_PRODUCER * N_EACH; n++) {
        void *got = NULL;
        assert_int_equal(bqueue_pop(q, 10000, &got), 0);
        int64_t v = *(int64_t *)got;
        assert_int_equal(v % N_EACH, next[v / N_EACH]++); /* each producer's items in its order */
    }
    for (int i = 0; i < N_PRODUCER; i++) {
        void *rc = &item;
        pthread_join(thread[i], &rc);
        assert_null(rc);
    }
    assert_int_equal((int)bqueue_len(q), 0);
    bqueue_destroy(&q);
}

static void *wait_then_pop(void *arg)
{
    void *got = NULL;
    return (void *)(intptr_t)bqueue_pop(arg, -1, &got);
}

static void test_close_wakes(void **state)
{
    pthread_t thread;
    void *rc = NULL;
    struct bqueue *q = bqueue_new(1);
    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, wait_then_pop, q), 0);
    bqueue_close(q);
    pthread_join(thread, &rc);
    assert_int_equal((intptr_t)rc, ERR_STATE);
    bqueue_destroy(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_close_wakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
