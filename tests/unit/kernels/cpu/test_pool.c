/* Proves that the pool runs every task of a job exactly once and that all are done when run comes back, for many
 * short jobs in a row, for more threads than cores, and after its threads have gone to sleep. How: tasks count
 * themselves in plain memory, which the caller reads after run (tsan sees a missing order). */
#include "tests/unit/test.h"

#include "kernels/cpu/pool.h"

#include <string.h>
#include <unistd.h>

enum { TASKS = 97, JOBS = 2000 };

struct job {
    int count[TASKS];
    void *scratch[TASKS];
};

static void task(void *arg, int64_t i, void *scratch)
{
    struct job *j = arg;
    j->count[i]++;
    j->scratch[i] = scratch;
    memset(scratch, (int)i, 64); /* nobody else's while the task runs */
}

static void run(struct kn__pool *pool, int n_task)
{
    struct job j;

    memset(&j, 0, sizeof j);
    kn__pool_run(pool, n_task, task, &j);
    for (int i = 0; i < TASKS; i++) {
        assert_int_equal(j.count[i], i < n_task);
        assert_true(i >= n_task || (j.scratch[i] && (uintptr_t)j.scratch[i] % 64 == 0));
    }
}

static void with(int n_threads)
{
    struct kn__pool *pool = NULL;

    assert_int_equal(kn__pool_open(n_threads, 1000, &pool), 0);
    assert_int_equal(kn__pool_threads(pool), n_threads);
    for (int i = 0; i < JOBS; i++)
        run(pool, i % (TASKS + 1));
    usleep(20000); /* its threads are asleep now */
    for (int i = 0; i < 3; i++)
        run(pool, TASKS);
    kn__pool_close(&pool);
    assert_null(pool);
}

static void test_threads(void **state)
{
    (void)state;
    with(1);
    with(2);
    with(7);
}

static void test_open_and_close(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++) { /* closed while its threads still start */
        struct kn__pool *pool = NULL;
        assert_int_equal(kn__pool_open(4, 0, &pool), 0);
        kn__pool_close(&pool);
    }
    assert_true(kn__pool_cores() >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_threads), cmocka_unit_test(test_open_and_close)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
