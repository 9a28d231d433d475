/* Proves: events and comments come out the same for every way of cutting the bytes and for LF, CR and CRLF; a
 * callback's error ends the stream; an endless event meets the limit. */
#include "common/text/sse_reader.h"
#include "tests/unit/test.h"

#include <stdlib.h>
#include <string.h>

static int log_data(void *arg, const char *data, size_t n)
{
    buf_addf(arg, "D(%.*s)", (int)n, data);
    return 0;
}

static int log_comment(void *arg, const char *text, size_t n)
{
    buf_addf(arg, "C(%.*s)", (int)n, text);
    return 0;
}

static const struct sse_reader_events events = {log_data, log_comment};

static void test_every_cut(void **state)
{
    static const char *const forms[] = {
        ": keep-alive\n\ndata: {\"a\":1}\n\nevent: x\nid: 7\ndata:one\ndata:  two\ndata\n\n:\ndata: [DONE]\n\n",
        ": keep-alive\r\n\r\ndata: {\"a\":1}\r\n\r\nevent: x\r\nid: 7\r\ndata:one\r\ndata:  two\r\ndata\r\n\r\n:\r\n"
        "data: [DONE]\r\n\r\n",
        ": keep-alive\r\rdata: {\"a\":1}\r\revent: x\rid: 7\rdata:one\rdata:  two\rdata\r\r:\rdata: [DONE]\r\r",
    };
    (void)state;
    for (size_t f = 0; f < 3; f++) {
        size_t n = strlen(forms[f]);
        for (size_t cut = 0; cut <= n; cut++) {
            struct sse_reader s = {0};
            struct buf out = {0};
            assert_int_equal(sse_reader_feed(&s, forms[f], cut, &events, &out), 0);
            assert_int_equal(sse_reader_feed(&s, forms[f] + cut, n - cut, &events, &out), 0);
            assert_string_equal(out.data, "C(keep-alive)D({\"a\":1})D(one\n two\n)C()D([DONE])");
            assert_string_equal(s.id.data, "7");
            sse_reader_release(&s);
            buf_release(&out);
        }
    }
}

static int refuse(void *arg, const char *data, size_t n)
{
    (void)arg, (void)data, (void)n;
    return ERR_CANCELED;
}

static void test_callback_ends(void **state)
{
    static const struct sse_reader_events refusing = {refuse, log_comment};
    struct sse_reader s = {0};
    struct buf out = {0};

    (void)state;
    assert_int_equal(sse_reader_feed(&s, "data: x\n\n: never\n", 17, &refusing, &out), ERR_CANCELED);
    assert_int_equal(out.len, 0);
    sse_reader_release(&s);
    buf_release(&out);
}

static void test_limit(void **state)
{
    struct sse_reader s = {0};
    struct buf out = {0};
    char *chunk = malloc(1 << 20);
    int rc = 0, n = 0;

    (void)state;
    memset(chunk, 'x', 1 << 20);
    while (rc == 0 && n++ < 64)
        rc = sse_reader_feed(&s, chunk, 1 << 20, &events, &out);
    assert_int_equal(rc, ERR_LIMIT);
    assert_int_equal(n, (SSE_READER_EVENT_MAX >> 20) + 1);
    free(chunk);
    sse_reader_release(&s);
    buf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_callback_ends),
        cmocka_unit_test(test_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
