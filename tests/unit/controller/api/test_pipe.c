/* Proves: without a store every path of /v1/runs says so with 503 and what to do, methods that are not there are
 * 405 with those that are, and unknown paths stay 404. What the paths do is proved by tests/e2e/runs.py against
 * real processes. How: the front in the rig, whose controller has no agent. */
#include "controller/api/pipe.h"
#include "tests/unit/controller/api/rig.h"
#include "tests/unit/test.h"

#include <string.h>

static void test_without_a_store(void **unused)
{
    static const struct {
        const char *method, *path;
    } calls[] = {
        {"POST", "/v1/runs"},          {"GET", "/v1/runs"},           {"GET", "/runs"},
        {"GET", "/v1/runs/run_1"},     {"GET", "/v1/runs/run_1/events"}, {"POST", "/v1/runs/run_1/cancel"},
        {"POST", "/v1/runs/run_1/approve"},
    };
    struct rig *rig = rig_open(NULL);

    (void)unused;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        struct answer a = {0};
        rig_ask(rig, calls[i].method, calls[i].path, strcmp(calls[i].method, "POST") == 0 ? "{}" : NULL, &a);
        assert_int_equal(a.status, 503);
        assert_non_null(strstr(a.body.data, "--store"));
        answer_release(&a);
    }
    rig_close(&rig);
}

static void test_methods(void **unused)
{
    struct rig *rig = rig_open(NULL);
    struct answer a = {0};
    char allow[128];

    (void)unused;
    rig_ask(rig, "DELETE", "/v1/runs", NULL, &a);
    assert_int_equal(a.status, 405);
    assert_string_equal(answer_header(&a, "Allow", allow, sizeof allow), "POST, GET, HEAD, OPTIONS");
    answer_release(&a);
    rig_ask(rig, "GET", "/v1/runes", NULL, &a);
    assert_int_equal(a.status, 404);
    answer_release(&a);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_a_store),
        cmocka_unit_test(test_methods),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
