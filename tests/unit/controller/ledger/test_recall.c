/* Proves: a request built from the store's records is the request that was put: names, seeds, tokens, what is exact,
 * ends and how they came about; records that do not fit are refused and change nothing. How: records by hand.
 */
#include "tests/unit/test.h"

#include "common/base/clock.h"
#include "controller/ledger/extra.h"
#include "controller/ledger/params.h"
#include "controller/ledger/recall.h"

#include <string.h>

static const int32_t prompt[] = {4, 5, 6}, ids[] = {10, 11, 12, 13};
static struct buf params;

static struct store_request record(void)
{
    return (struct store_request){.id = "chatcmpl-1",
                                  .tenant = "t",
                                  .path = "/v1/x",
                                  .key = "k",
                                  .body_hash = {1, 2, 3},
                                  .prompt = prompt,
                                  .n_prompt = 3,
                                  .params_version = PARAMS_VERSION,
                                  .params = params.data,
                                  .params_bytes = params.len,
                                  .seed = 77,
                                  .created_ms = 1000,
                                  .deadline_ms = clock_wall_ms() + 5000,
                                  .n_choice = 2};
}

static int setup(void **state)
{
    (void)state;
    struct ctl_request *r = ctl_request_new(2);
    r->max_output = 4;
    params_encode(r, &params);
    ctl_request_destroy(&r);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    buf_release(&params);
    return 0;
}

static int add(struct ctl_request *r, int32_t choice, int64_t first, int32_t n, const char *numerics)
{
    struct ctl_request *from = ctl_request_new(1);
    struct buf x = {0};
    struct err err;
    ctl_output_reserve(&from->choice[0].out, 8, 0);
    for (int i = 0; i < 8; i++)
        from->choice[0].out.logprob[i] = -1.0f - (float)i;
    extra_encode(&from->choice[0].out, 0, numerics, first, n, &x);
    const struct store_tokens t = {"chatcmpl-1", choice, first, n, ids, x.data, x.len};
    int rc = ctl_recall_tokens(r, &t, &err);
    buf_release(&x);
    ctl_request_destroy(&from);
    return rc;
}

static void test_whole(void **state)
{
    (void)state;
    struct store_request q = record();
    struct ctl_request *r = NULL;
    struct err err;

    assert_int_equal(ctl_recall_request(&q, 100, &r, &err), 0);
    assert_true(r->recovered && r->accepted && r->n_live == 2 && r->n_prompt == 3);
    assert_string_equal(r->key, "k");
    assert_in_range(r->deadline_ms, 4900, 5100);
    assert_true(r->choice[1].seed == 78);
    assert_int_equal(add(r, 0, 0, 2, "a/1"), 0);
    assert_int_equal(add(r, 0, 2, 2, ""), 0);
    assert_int_equal(add(r, 1, 0, 1, "a/1"), 0);
    assert_int_equal(add(r, 1, 1, 1, "b/1"), 0);
    assert_true(r->choice[0].exact && !r->choice[1].exact);
    assert_string_equal(r->choice[1].numerics, "b/1");
    assert_true(r->choice[0].out.n == 4 && r->choice[0].n_shown == 4 && r->choice[0].n_put == 4);
    assert_true(r->choice[0].out.logprob[3] == -4.0f && r->choice[0].out.id[2] == ids[0]);
    const struct store_end e = {"chatcmpl-1", 0, "length", "attempts=3 recomputed=9 exact=0", 4, {3, 4, 2, 1}, 5};
    assert_int_equal(ctl_recall_end(r, &e, &err), 0);
    assert_true(r->n_live == 1 && r->choice[0].end == CTL_END_length && r->choice[0].told);
    assert_true(r->choice[0].n_dispatch == 3 && r->choice[0].recomputed_tok == 9 && !r->choice[0].exact);
    assert_int_equal(r->choice[0].cached_tok, 2);
    const struct store_end failed = {"chatcmpl-1", 1, "failed", "no luck", 2, {0}, 5};
    assert_int_equal(ctl_recall_end(r, &failed, &err), 0);
    assert_string_equal(r->choice[1].fail_text, "no luck");
    assert_int_equal(ctl_recall_end(r, &failed, &err), ERR_FORMAT); /* twice */
    ctl_request_destroy(&r);
}

static void test_refuses(void **state)
{
    (void)state;
    struct store_request q = record();
    struct ctl_request *r = NULL;
    struct err err;

    q.n_choice = 0;
    assert_int_equal(ctl_recall_request(&q, 0, &r, &err), ERR_FORMAT);
    q.n_choice = 2;
    q.params_version = 99;
    assert_int_equal(ctl_recall_request(&q, 0, &r, &err), ERR_VERSION);
    assert_non_null(strstr(err.text, "chatcmpl-1"));
    assert_null(r);
    q = record();
    assert_int_equal(ctl_recall_request(&q, 0, &r, &err), 0);
    assert_int_equal(add(r, 0, 1, 1, ""), ERR_FORMAT); /* a gap */
    assert_int_equal(add(r, 2, 0, 1, ""), ERR_FORMAT); /* no such choice */
    assert_int_equal(add(r, 0, 0, 4, ""), 0);
    assert_int_equal(add(r, 0, 4, 1, ""), ERR_FORMAT); /* more than asked for */
    const struct store_end odd = {"chatcmpl-1", 0, "weary", NULL, 4, {0}, 5};
    assert_int_equal(ctl_recall_end(r, &odd, &err), ERR_FORMAT);
    const struct store_end early = {"chatcmpl-1", 0, "stop", NULL, 3, {0}, 5};
    assert_int_equal(ctl_recall_end(r, &early, &err), ERR_FORMAT);
    assert_int_equal(r->n_live, 2);
    ctl_request_destroy(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole), cmocka_unit_test(test_refuses)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
