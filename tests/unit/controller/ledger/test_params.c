/* Proves: what the store keeps of a request comes back as it was, and damaged or newer bytes are refused by name. How:
 * round trip of a full and of an empty request; every truncation; each count out of its range.
 */
#include "tests/unit/test.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "controller/ledger/params.h"

#include <string.h>

static struct ctl_request *full(void)
{
    struct ctl_request *r = ctl_request_new(1);
    struct msg_bias *bias = mem_array(2, sizeof *bias);
    bias[0] = (struct msg_bias){7, -1.5f};
    bias[1] = (struct msg_bias){9, 100.0f};
    r->sampling = (struct msg_sampling){0.7f, 0.9f, 0.05f, 40, 0.5f, -0.5f, 1.1f, 0, 3, 2, bias};
    r->max_output = 100;
    r->min_output = 4;
    r->ignore_eos = r->keep = true;
    r->n_stop_id = 2;
    r->stop_id[0] = 5;
    r->stop_id[1] = 6;
    r->priority = -3;
    r->origin = CTL_ORIGIN_agent;
    r->front_state = mem_dup("{\"a\":1}", 7);
    r->front_bytes = 7;
    return r;
}

static void test_round_trip(void **state)
{
    (void)state;
    struct ctl_request *r = full(), *q = ctl_request_new(1);
    struct buf once = {0}, twice = {0};
    struct err err;

    params_encode(r, &once);
    assert_int_equal(params_decode(PARAMS_VERSION, once.data, once.len, q, &err), 0);
    assert_true(q->sampling.temperature == 0.7f && q->sampling.frequency_penalty == -0.5f);
    assert_int_equal(q->sampling.n_top, 3);
    assert_memory_equal(q->sampling.bias, r->sampling.bias, 2 * sizeof *r->sampling.bias);
    assert_int_equal(q->max_output, 100);
    assert_true(q->ignore_eos && q->keep && q->priority == -3 && q->origin == CTL_ORIGIN_agent);
    assert_int_equal(q->stop_id[1], 6);
    assert_string_equal(q->front_state, "{\"a\":1}");
    params_encode(q, &twice);
    assert_int_equal(once.len, twice.len);
    assert_memory_equal(once.data, twice.data, once.len);
    ctl_request_destroy(&r);
    ctl_request_destroy(&q);
    buf_release(&once);
    buf_release(&twice);
}

static void refuse(const void *data, size_t n, int32_t version, int code)
{
    struct ctl_request *q = ctl_request_new(1);
    struct err err;
    assert_int_equal(params_decode(version, data, n, q, &err), code);
    ctl_request_destroy(&q);
}

static void test_refuses_damage(void **state)
{
    (void)state;
    struct ctl_request *r = full();
    struct buf b = {0};
    static const size_t counts[] = {12, 28, 32, 52}; /* top_k, n_top, n_bias, max_output behind two biases */

    params_encode(r, &b);
    for (size_t n = 0; n < b.len; n++)
        refuse(b.data, n, PARAMS_VERSION, ERR_FORMAT);
    refuse(b.data, b.len, PARAMS_VERSION + 1, ERR_VERSION);
    for (size_t i = 0; i < N_ELEM(counts); i++) {
        char *copy = mem_dup(b.data, b.len);
        memset(copy + counts[i], 0xff, 4);
        memset(copy + counts[i] + 4, 0xff, i == 3 ? 4 : 0);
        refuse(copy, b.len, PARAMS_VERSION, ERR_FORMAT);
        mem_free(copy);
    }
    char *copy = mem_dup(b.data, b.len);
    memcpy(copy, &(float){(float)(1e308 * 10)}, 4);
    refuse(copy, b.len, PARAMS_VERSION, ERR_FORMAT);
    mem_free(copy);
    ctl_request_destroy(&r);
    buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refuses_damage)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
