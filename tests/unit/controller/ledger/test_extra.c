/* Proves: logprobs and alternatives keep their bits through the store, -inf and NaN included; rows without them,
 * damaged and newer ones are told apart. How: round trips with 0 and 3 alternatives; every truncation.
 */
#include "tests/unit/test.h"

#include "controller/ledger/extra.h"

#include <math.h>
#include <string.h>

static struct ctl_request *with_tokens(int32_t n_top)
{
    struct ctl_request *r = ctl_request_new(1);
    struct ctl_output *o = &r->choice[0].out;
    r->sampling.n_top = n_top;
    ctl_output_reserve(o, 5, n_top);
    for (int i = 0; i < 5; i++) {
        o->id[i] = i;
        o->logprob[i] = i == 1 ? -INFINITY : i == 2 ? NAN : -0.1f * (float)i;
        for (int k = 0; k < n_top; k++)
            o->top[i * n_top + k] = (struct msg_top){k == 2 ? -1 : i + k, -0.3f * (float)k};
    }
    o->n = 5;
    return r;
}

static void test_round_trip(void **state)
{
    (void)state;
    for (int32_t n_top = 0; n_top <= 3; n_top += 3) {
        struct ctl_request *a = with_tokens(n_top), *b = with_tokens(n_top);
        struct ctl_output *o = &b->choice[0].out;
        struct buf x = {0};
        char numerics[MSG_NAME_MAX];
        struct err err;
        extra_encode(&a->choice[0].out, n_top, "ref/f64/1", 1, 4, &x);
        memset(o->logprob, 0xee, 5 * sizeof *o->logprob);
        assert_int_equal(extra_decode(x.data, x.len, n_top, 1, 4, o, numerics, &err), 0);
        assert_string_equal(numerics, "ref/f64/1");
        assert_memory_equal(o->logprob + 1, a->choice[0].out.logprob + 1, 4 * sizeof *o->logprob);
        if (n_top)
            assert_memory_equal(o->top + n_top, a->choice[0].out.top + n_top, 4 * 3 * sizeof *o->top);
        for (size_t n = 1; n < x.len; n++)
            assert_int_equal(extra_decode(x.data, n, n_top, 1, 4, o, numerics, &err), ERR_FORMAT);
        assert_int_equal(extra_decode(x.data, x.len, n_top ? 2 : 1, 1, 4, o, numerics, &err), ERR_FORMAT);
        x.data[0] = EXTRA_VERSION + 1;
        assert_int_equal(extra_decode(x.data, x.len, n_top, 1, 4, o, numerics, &err), ERR_VERSION);
        assert_int_equal(extra_decode(NULL, 0, n_top, 1, 4, o, numerics, &err), 0);
        assert_true(o->logprob[1] == 0.0f && numerics[0] == 0);
        buf_release(&x);
        ctl_request_destroy(&a);
        ctl_request_destroy(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
