/* Proves: events of a run add up to one row for each step, maps count their items, a redraw covers what was drawn
 * before, no line is wider than the terminal, and what is no event of a step changes nothing. How: events by hand. */
#include "controller/cli/progress.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <string.h>

static void feed(struct progress *p, const char *text)
{
    struct arena arena = {0};
    const struct json *event;
    struct err err;

    assert_int_equal(json_parse(text, strlen(text), 0, &arena, &event, &err), 0);
    progress_feed(p, event);
    arena_release(&arena);
}

static void test_rows(void **unused)
{
    struct progress p = {0};
    struct buf out = {0};

    (void)unused;
    feed(&p, "{\"type\":\"run\",\"state\":\"running\"}");
    feed(&p, "{\"type\":\"step\",\"path\":\"m\",\"state\":\"started\",\"at_ms\":1000,\"result\":{\"items\":4}}");
    feed(&p, "{\"type\":\"step\",\"path\":\"m[0].x\",\"state\":\"done\",\"usage\":{\"completion_tokens\":7}}");
    feed(&p, "{\"type\":\"step\",\"path\":\"m[0]\",\"state\":\"done\"}");
    feed(&p, "{\"type\":\"step\",\"path\":\"m[1]\",\"state\":\"failed\"}");
    feed(&p, "{\"type\":\"step\",\"path\":\"m[2].x\",\"state\":\"retry\"}");
    feed(&p, "{\"type\":\"step\",\"path\":\"ask\",\"state\":\"started\",\"at_ms\":1500}");
    feed(&p, "{\"type\":\"step\",\"path\":\"ask.turn1\",\"state\":\"started\"}");
    feed(&p, "{\"type\":\"step\",\"path\":\"ask.turn1.call0\",\"state\":\"started\"}");
    feed(&p, "{\"type\":\"step\",\"path\":\"may\",\"state\":\"waiting\",\"result\":{\"token\":\"x\"}}");
    feed(&p, "{\"type\":\"step\",\"state\":\"done\"}");
    feed(&p, "[]");
    assert_int_equal(p.n, 3);
    assert_int_equal(p.row[0].n_item, 4);
    assert_int_equal(p.row[0].n_over, 2);
    assert_int_equal(p.row[0].n_failed, 1);
    assert_int_equal(p.row[0].n_retry, 1);
    assert_int_equal(p.row[0].output_tok, 7);
    assert_int_equal(p.row[1].n_turn, 1);
    assert_string_equal(p.row[2].note, "for an approval");
    progress_draw(&p, 3000, 200, &out);
    assert_non_null(strstr(out.data, "2/4, 1 failed"));
    assert_null(strstr(out.data, "\033[3A"));
    buf_clear(&out);
    progress_draw(&p, 3000, 40, &out);
    assert_int_equal(strncmp(out.data, "\033[3A", 4), 0);
    for (const char *at = out.data + 4, *end; (end = strstr(at, "\033[K\n")); at = end + 4)
        assert_true(end - at < 40);
    buf_release(&out);
    progress_release(&p);
}

static void test_limit(void **unused)
{
    struct progress p = {0};
    char text[128];

    (void)unused;
    for (int i = 0; i < PROGRESS_ROWS_MAX + 5; i++) {
        snprintf(text, sizeof text, "{\"type\":\"step\",\"path\":\"s%d\",\"state\":\"done\"}", i);
        feed(&p, text);
    }
    assert_int_equal(p.n, PROGRESS_ROWS_MAX);
    assert_int_equal(p.n_hidden, 5);
    progress_release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
