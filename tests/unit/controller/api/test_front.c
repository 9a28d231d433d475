/* Proves: routes with and without /v1, 404, 405 with Allow, HEAD, CORS, request ids on every answer, errors of the
 * HTTP server in OpenAI form, models, health, live, status, draining. How: real HTTP against the front on a scripted
 * back. */
#include "common/base/check.h"
#include "tests/unit/controller/api/rig.h"
#include "tests/unit/test.h"

#include <string.h>
#include <unistd.h>

struct row {
    const char *method, *path, *headers, *body;
    int status;
    const char *in_body, *in_head;
};

static const struct row rows[] = {
    {"GET", "/v1/models", NULL, NULL, 200, "{\"object\":\"list\",\"data\":[{\"id\":\"org/tiny\",\"object\":\"model\"",
     NULL},
    {"GET", "/models?beta=true", NULL, NULL, 200, "\"max_model_len\":4096", "application/json"},
    {"GET", "/v1/models/org/tiny", NULL, NULL, 200, "{\"id\":\"org/tiny\"", NULL},
    {"GET", "/models/org%2Ftiny", NULL, NULL, 200, "\"owned_by\":\"baton\"", NULL},
    {"GET", "/v1/models/other", NULL, NULL, 404, "\"code\":\"model_not_found\"", NULL},
    {"GET", "/v1/models/", NULL, NULL, 404, "\"code\":null", NULL},
    {"GET", "/health", NULL, NULL, 200, "{\"status\":\"ok\"}", NULL},
    {"GET", "/v1/health", NULL, NULL, 200, "ok", NULL},
    {"GET", "/live", NULL, NULL, 200, "alive", NULL},
    {"GET", "/v1/status", NULL, NULL, 200, "\"workers\":[]", NULL},
    {"GET", "/nothing", NULL, NULL, 404, "unknown path: GET /nothing", NULL},
    {"GET", "/", NULL, NULL, 404, "\"param\":null", NULL},
    {"GET", "/v1", NULL, NULL, 404, "error", NULL},
    {"POST", "/v1/models", NULL, "{}", 405, "\"type\":\"invalid_request_error\"", "Allow: GET, HEAD, OPTIONS"},
    {"GET", "/v1/chat/completions", NULL, NULL, 405, "use POST", "Allow: POST, OPTIONS"},
    {"DELETE", "/health", NULL, NULL, 405, "error", "Allow: GET, HEAD, OPTIONS"},
    {"OPTIONS", "/v1/chat/completions",
     "Origin: http://a\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: "
     "authorization,x-a\r\n",
     NULL, 204, NULL, "Access-Control-Allow-Headers: authorization,x-a"},
    {"OPTIONS", "/nothing", NULL, NULL, 404, "error", NULL},
    {"GET", "/live", "Origin: http://localhost:3000\r\n", NULL, 200, NULL,
     "Access-Control-Allow-Origin: http://localhost:3000"},
    {"POST", "/v1/chat/completions", NULL, "{", 400, "\"code\":null", NULL},
    {"POST", "/v1/chat/completions", NULL, "{\"stream\":true}", 400, "\"param\":\"model\"", NULL},
    {"GET", "/live", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", NULL, 400,
     "{\"error\":{\"message\":", "close"},
    {"POST", "/v1/chat/completions", "Content-Length: 99999999\r\n", NULL, 413, "\"code\":null}}", "close"},
};

static void test_rows(void **state)
{
    struct rig *rig = rig_open(NULL);
    (void)state;
    for (size_t i = 0; i < N_ELEM(rows); i++) {
        const struct row *r = &rows[i];
        struct answer a;
        char id[80], other[80];
        int fd = rig_dial(rig);
        rig_send(fd, r->method, r->path, r->headers, r->body);
        rig_read(fd, &a);
        close(fd);
        if (a.status != r->status || (r->in_body && !strstr(a.body.data, r->in_body)) ||
            (r->in_head && !strstr(a.head.data, r->in_head)))
            fail_msg("%s %s: %s%s", r->method, r->path, a.head.data, a.body.data);
        assert_non_null(answer_header(&a, "x-request-id", id, sizeof id));
        assert_non_null(answer_header(&a, "request-id", other, sizeof other));
        assert_string_equal(id, other);
        assert_int_equal(strncmp(id, "req_", 4), 0);
        answer_release(&a);
    }
    rig_close(&rig);
}

/* Pages of other sites get no leave to read: neither by a suffix nor by another scheme. */
static void test_foreign_origins(void **state)
{
    static const char *const origins[] = {"http://evil.example", "http://localhost.evil.example", "null",
                                          "file://localhost", "http://127.0.0.1.evil.example"};
    struct rig *rig = rig_open(NULL);
    (void)state;
    for (size_t i = 0; i < N_ELEM(origins); i++) {
        struct answer a;
        char header[128];
        int fd = rig_dial(rig);
        snprintf(header, sizeof header, "Origin: %s\r\n", origins[i]);
        rig_send(fd, "GET", "/live", header, NULL);
        rig_read(fd, &a);
        close(fd);
        assert_int_equal(a.status, 200);
        assert_null(strstr(a.head.data, "Access-Control-Allow-Origin"));
        answer_release(&a);
    }
    rig_close(&rig);
}

static void test_head(void **state)
{
    struct rig *rig = rig_open(NULL);
    struct answer a;
    (void)state;
    rig_ask(rig, "HEAD", "/health", NULL, &a);
    assert_int_equal(a.status, 200);
    assert_non_null(strstr(a.head.data, "Content-Length: 15"));
    assert_string_equal(strstr(a.head.data, "\r\n\r\n"), "\r\n\r\n"); /* nothing behind the head */
    assert_true(a.complete);
    answer_release(&a);
    rig_close(&rig);
}

static void test_health(void **state)
{
    struct rig *rig = rig_open(NULL);
    struct answer a;
    (void)state;
    rig_set_context(rig, 0);
    rig_ask(rig, "GET", "/health", NULL, &a);
    assert_int_equal(a.status, 503);
    assert_string_equal(a.body.data, "{\"status\":\"no worker\"}");
    answer_release(&a);
    rig_ask(rig, "GET", "/v1/models", NULL, &a);
    assert_null(strstr(a.body.data, "max_model_len"));
    answer_release(&a);
    rig_set_context(rig, 4096);
    rig_drain(rig);
    do {
        rig_ask(rig, "GET", "/health", NULL, &a);
        bool drained = strcmp(a.body.data, "{\"status\":\"draining\"}") == 0;
        assert_true(!drained || a.status == 503);
        answer_release(&a);
        if (drained)
            break;
    } while (true);
    rig_ask(rig, "GET", "/live", NULL, &a);
    assert_int_equal(a.status, 200);
    answer_release(&a);
    rig_ask(rig, "POST", "/v1/chat/completions",
            "{\"model\":\"org/tiny\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", &a);
    assert_int_equal(a.status, 503);
    assert_non_null(strstr(a.body.data, "\"code\":\"server_is_overloaded\""));
    assert_non_null(strstr(a.head.data, "Retry-After: "));
    answer_release(&a);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_foreign_origins),
                                       cmocka_unit_test(test_head), cmocka_unit_test(test_health)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
