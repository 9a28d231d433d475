/* Proves: an error body always has its four keys, is valid JSON and UTF-8 whatever the text, and the table of
 * spec/api.md section 3 holds. How: each kind once; texts with quotes, control characters and a cut character. */
#include "controller/api/error.h"
#include "common/base/check.h"
#include "common/text/json.h"
#include "tests/unit/test.h"

#include <string.h>

static const struct json *parse(const struct buf *b, struct arena *arena)
{
    const struct json *j;
    struct err err = {0};
    if (json_parse(b->data, b->len, JSON_NO_REPEATED_KEYS, arena, &j, &err) != 0)
        fail_msg("%s: %s", err.text, b->data);
    assert_int_equal(j->n, 1);
    const struct json *e = json_get(j, "error");
    assert_int_equal(e->n, 4);
    assert_non_null(json_get(e, "param"));
    assert_non_null(json_get(e, "code"));
    return e;
}

static void test_kinds(void **state)
{
    static const struct {
        enum api_error_kind kind;
        int status;
        const char *type, *code;
    } rows[] = {
        {API_ERROR_bad_request, 400, "invalid_request_error", NULL},
        {API_ERROR_context_length, 400, "invalid_request_error", "context_length_exceeded"},
        {API_ERROR_unknown_model, 404, "invalid_request_error", "model_not_found"},
        {API_ERROR_unknown_path, 404, "invalid_request_error", NULL},
        {API_ERROR_method, 405, "invalid_request_error", NULL},
        {API_ERROR_queue_full, 429, "rate_limit_error", "slow_down"},
        {API_ERROR_internal, 500, "server_error", NULL},
        {API_ERROR_overloaded, 503, "server_error", "server_is_overloaded"},
        {API_ERROR_deadline, 504, "server_error", "deadline_exceeded"},
    };
    (void)state;
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        struct arena arena = {0};
        struct buf b = {0};
        struct api_error e;
        assert_int_equal(api_error_set(&e, rows[i].kind, i % 2 ? "a.b[2]" : NULL, "no \"good\" %d\n\x01 \xE2\x82", 5),
                         ERR_ARG);
        assert_int_equal(api_error_status(&e), rows[i].status);
        assert_int_equal(api_error_retry_s(&e) > 0, rows[i].status == 429 || rows[i].status == 503);
        api_error_add(&e, &b);
        const struct json *j = parse(&b, &arena);
        assert_true(json_is_str(json_get(j, "type"), rows[i].type));
        assert_true(rows[i].code ? json_is_str(json_get(j, "code"), rows[i].code)
                                 : json_is(json_get(j, "code"), JSON_NULL));
        assert_true(i % 2 ? json_is_str(json_get(j, "param"), "a.b[2]") : json_is(json_get(j, "param"), JSON_NULL));
        assert_int_equal(strncmp(json_get(j, "message")->text, "no \"good\" 5?", 12), 0);
        buf_clear(&b);
        api_error_add_status(431, "too large", &b);
        assert_true(json_is_str(json_get(parse(&b, &arena), "type"), "invalid_request_error"));
        buf_release(&b);
        arena_release(&arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kinds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
