/* Proves the order of the waiting choices (resumed, then priority, then age) for every order of arrival, and that
 * removal anywhere keeps the links whole. How: all permutations of six choices go in and come out sorted.
 */
#include "tests/unit/test.h"

#include "common/base/check.h"
#include "controller/sched/queue.h"

#include <string.h>

enum { N = 6 };

static struct ctl_request high = {.priority = 5}, low = {.priority = -5};
static struct ctl_choice choice[N];

/* choice[i] belongs at place i. */
static void reset(void)
{
    static const struct {
        struct ctl_request *req;
        uint64_t order;
        bool resumed;
    } is[N] = {{&high, 9, true}, {&low, 3, true}, {&low, 4, true}, {&high, 7, false},
                {&high, 8, false}, {&low, 1, false}};
    memset(choice, 0, sizeof choice);
    for (int i = 0; i < N; i++) {
        choice[i].req = is[i].req;
        choice[i].order = is[i].order;
        choice[i].resumed = is[i].resumed;
    }
}

static void check_order(const struct ctl_queue *q)
{
    const struct ctl_choice *last = NULL;
    int64_t n = 0, n_fresh = 0;
    for (const struct ctl_choice *c = q->head; c; c = c->next) {
        assert_ptr_equal(c->prev, last);
        assert_true(!last || c > last);
        n++;
        n_fresh += !c->resumed;
        last = c;
    }
    assert_ptr_equal(q->tail, last);
    assert_int_equal(q->n, n);
    assert_int_equal(q->n_fresh, n_fresh);
}

static void test_every_arrival(void **state)
{
    (void)state;
    for (int code = 0; code < 720; code++) {
        struct ctl_queue q = {0};
        bool used[N] = {false};
        int left = code;
        reset();
        for (int i = N; i > 0; i--) { /* the code names the k-th unused one, i times */
            int k = left % i, at = 0;
            left /= i;
            while (used[at] || k-- > 0)
                at++;
            used[at] = true;
            ctl_queue_add(&q, &choice[at]);
            check_order(&q);
        }
        assert_int_equal(q.n, N);
        int first = code % N;
        for (int i = 0; i < N; i++) {
            ctl_queue_remove(&q, &choice[(first + i) % N]);
            check_order(&q);
        }
        assert_null(q.head);
    }
}

static void test_list(void **state)
{
    (void)state;
    struct ctl_choice *head = NULL;
    reset();
    for (int i = 0; i < 3; i++)
        ctl_list_add(&head, &choice[i]);
    ctl_list_remove(&head, &choice[1]);
    assert_ptr_equal(head, &choice[2]);
    assert_ptr_equal(head->next, &choice[0]);
    ctl_list_remove(&head, &choice[2]);
    ctl_list_remove(&head, &choice[0]);
    assert_null(head);
    assert_null(choice[0].prev);
    assert_null(choice[0].next);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_arrival), cmocka_unit_test(test_list)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
