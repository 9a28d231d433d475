/* Proves: what a handler sees of a request and does with its answer reaches the carrier as it was meant, whichever
 * carrier it is: header lines cannot be forged, a body is taken once, nobody is told of his own abort. How: a carrier
 * that notes what it is told. */
#include "controller/http/exchange.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <string.h>

struct told {
    char log[256];
};

static void note(const struct http_exchange *x, const char *what)
{
    struct told *t = x->owner;
    strncat(t->log, what, sizeof t->log - strlen(t->log) - 1);
}

static void told_reply(struct http_exchange *x, int status, const char *type, const void *body, size_t len)
{
    char line[128];
    snprintf(line, sizeof line, "reply %d %s %.*s;", status, type, (int)len, (const char *)body);
    note(x, line);
}

static void told_begin(struct http_exchange *x, int status, const char *type)
{
    char line[128];
    snprintf(line, sizeof line, "begin %d %s;", status, type);
    note(x, line);
}

static void told_write(struct http_exchange *x, const void *data, size_t n)
{
    char line[128];
    snprintf(line, sizeof line, "write %.*s;", (int)n, (const char *)data);
    note(x, line);
}

static void told_end(struct http_exchange *x)
{
    note(x, "end;");
}

static void told_cut(struct http_exchange *x)
{
    note(x, x->on_gone ? "cut, and the handler would be called;" : "cut;");
}

static size_t told_unsent(const struct http_exchange *x)
{
    note(x, "unsent;");
    return 42;
}

static const struct http_carrier carrier = {told_reply, told_begin, told_write, told_end, told_cut, told_unsent};

static void on_gone(void *arg)
{
    ++*(int *)arg;
}

static void test_request(void **state)
{
    struct told t = {0};
    struct http_exchange x = {.carrier = &carrier, .owner = &t};
    size_t len = 9;
    (void)state;
    x.head.method = "POST";
    x.head.path = "/v1/x";
    x.head.query = "a=1";
    x.head.n_field = 2;
    x.head.field[0] = (struct http_field){"Accept", "text/plain"};
    x.head.field[1] = (struct http_field){"X-Key", ""};
    assert_string_equal(http_method(&x), "POST");
    assert_string_equal(http_path(&x), "/v1/x");
    assert_string_equal(http_query(&x), "a=1");
    assert_string_equal(http_header(&x, "accept"), "text/plain");
    assert_string_equal(http_header(&x, "x-key"), "");
    assert_null(http_header(&x, "Accep"));
    assert_string_equal(http_body(&x, &len), "");
    assert_int_equal(len, 0);
    buf_add_str(&x.body, "abc");
    assert_memory_equal(http_body(&x, &len), "abc", 3);
    assert_int_equal(len, 3);
    struct buf taken = {.data = http_take_body(&x, &len)};
    assert_int_equal(len, 3);
    assert_int_equal(x.body.len, 0);
    buf_release(&taken);
    assert_string_equal(t.log, "");
}

static void test_answer(void **state)
{
    struct told t = {0};
    struct http_exchange x = {.carrier = &carrier, .owner = &t};
    (void)state;
    http_add_header(&x, "a", "1\r\nb: 2");
    http_add_header(&x, "c", "");
    assert_string_equal(x.extra.data, "a: 1  b: 2\r\nc: \r\n");
    http_reply(&x, 404, "text/plain", "no", 2);
    assert_true(x.begun);
    assert_string_equal(t.log, "reply 404 text/plain no;");
    buf_release(&x.extra);
}

static void test_stream(void **state)
{
    struct told t = {0};
    struct http_exchange x = {.carrier = &carrier, .owner = &t};
    int n_gone = 0;
    (void)state;
    http_on_gone(&x, on_gone, &n_gone);
    assert_true(x.on_gone == on_gone && x.gone_arg == &n_gone);
    http_stream_begin(&x, 200, "text/event-stream");
    http_stream_write(&x, "data", 4);
    assert_int_equal(http_unsent(&x), 42);
    http_stream_end(&x);
    assert_string_equal(t.log, "begin 200 text/event-stream;write data;unsent;end;");
    t.log[0] = 0;
    http_stream_abort(&x);
    assert_string_equal(t.log, "cut;");
    assert_int_equal(n_gone, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_request), cmocka_unit_test(test_answer),
                                       cmocka_unit_test(test_stream)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
