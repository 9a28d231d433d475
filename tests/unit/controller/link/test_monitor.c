/* Proves that the monitor tells open connections from ended ones when descriptors are used again, and what link.c
 * relies on: after a message was received, all ends of connections before it have been reported. How: connections over
 * tcp one after the other; the kernel gives each the descriptor of the one before.
 */
#include "tests/unit/test.h"

#include "common/base/clock.h"
#include "controller/link/monitor.h"

#include <time.h>
#include <zmq.h>

enum { ROUNDS = 50 };

static int n_gone, last_gone;

static void on_gone(void *arg, int fd)
{
    (void)arg;
    n_gone++;
    last_gone = fd;
}

/* Receive one message of two frames, waiting; its descriptor. */
static int receive_fd(void *router)
{
    zmq_msg_t m;
    char id[256];
    assert_true(zmq_recv(router, id, sizeof id, 0) >= 0);
    zmq_msg_init(&m);
    assert_true(zmq_msg_recv(&m, router, 0) >= 0);
    int fd = zmq_msg_get(&m, ZMQ_SRCFD);
    zmq_msg_close(&m);
    return fd;
}

static void *dealer(void *ctx, const char *endpoint)
{
    int none = 0;
    void *s = zmq_socket(ctx, ZMQ_DEALER);
    zmq_setsockopt(s, ZMQ_LINGER, &none, sizeof none);
    assert_int_equal(zmq_connect(s, endpoint), 0);
    assert_int_equal(zmq_send(s, "hello", 5, 0), 5);
    return s;
}

static void wait_gone(struct ctl_monitor *m, int n)
{
    int64_t end = clock_mono_ns() + 10 * INT64_C(1000000000);
    while (n_gone < n && clock_mono_ns() < end) {
        ctl_monitor_read(m, on_gone, NULL);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_int_equal(n_gone, n);
}

static void test_descriptors_used_again(void **state)
{
    (void)state;
    struct ctl_monitor m;
    struct err err;
    char endpoint[256];
    size_t n = sizeof endpoint;
    int none = 0, n_same = 0, last_fd = -1;
    void *ctx = zmq_ctx_new(), *router = zmq_socket(ctx, ZMQ_ROUTER);
    zmq_setsockopt(router, ZMQ_LINGER, &none, sizeof none);
    assert_int_equal(ctl_monitor_open(ctx, router, &m, &err), 0);
    assert_int_equal(zmq_bind(router, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, endpoint, &n), 0);

    n_gone = 0;
    for (int i = 0; i < ROUNDS; i++) {
        /* A peer of its own context: its end closes the connection for good. */
        void *peer_ctx = zmq_ctx_new(), *peer = dealer(peer_ctx, endpoint);
        int fd = receive_fd(router);
        assert_true(fd >= 0);
        /* The end of the one before, perhaps under the same descriptor, comes in this reading or earlier. */
        ctl_monitor_read(&m, on_gone, NULL);
        assert_true(ctl_monitor_is_open(&m, fd));
        assert_true(n_gone >= i - 1 || fd != last_fd);
        n_same += fd == last_fd;
        zmq_close(peer);
        zmq_ctx_term(peer_ctx);
        if (i % 2) { /* every second time the end is seen before the next one comes */
            wait_gone(&m, i + 1);
            assert_int_equal(last_gone, fd);
            assert_false(ctl_monitor_is_open(&m, fd));
        }
        last_fd = fd;
    }
    wait_gone(&m, ROUNDS);
    assert_true(n_same > 0); /* else this test has not tested what it says */
    assert_false(ctl_monitor_is_open(&m, -1));
    assert_false(ctl_monitor_is_open(&m, 1 << 30));
    ctl_monitor_close(&m);
    zmq_close(router);
    zmq_ctx_term(ctx);
}

static void test_taken_address(void **state)
{
    (void)state;
    struct ctl_monitor a, b;
    struct err err;
    int none = 0;
    void *ctx = zmq_ctx_new(), *one = zmq_socket(ctx, ZMQ_ROUTER), *two = zmq_socket(ctx, ZMQ_ROUTER);
    zmq_setsockopt(one, ZMQ_LINGER, &none, sizeof none);
    zmq_setsockopt(two, ZMQ_LINGER, &none, sizeof none);
    assert_int_equal(ctl_monitor_open(ctx, one, &a, &err), 0);
    assert_int_equal(ctl_monitor_open(ctx, two, &b, &err), ERR_NET);
    ctl_monitor_close(&b); /* harmless after a failed open */
    ctl_monitor_close(&a);
    zmq_close(one);
    zmq_close(two);
    zmq_ctx_term(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_descriptors_used_again),
                                       cmocka_unit_test(test_taken_address)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
