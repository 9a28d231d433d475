/* The tokenizer of --engine sim: it passes every check that a model's file has to pass, says each number in one id,
 * knows the markers of the chat encoding, and takes any text apart and together again. */
#include "common/text/tok_sim.h"

#include "common/base/check.h"
#include "tests/unit/test.h"

#include <stdio.h>
#include <string.h>

static struct tok *open_it(void)
{
    struct tok *tok = NULL;
    struct err err = {0};
    if (tok_sim_open(&tok, &err) != 0)
        fail_msg("%s", err.text);
    return tok;
}

static void assert_text(const struct tok *tok, const struct tok_ids *ids, const char *text, size_t len)
{
    struct buf got = {0};
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *bytes = tok_bytes(tok, ids->id[i], &n);
        assert_non_null(bytes);
        buf_add(&got, bytes, n);
    }
    assert_int_equal(got.len, len);
    assert_memory_equal(got.data, text, len);
    buf_release(&got);
}

static void numbers_are_one_token(void **state)
{
    static const int64_t number[] = {0, 1, 9, 10, 999, 1000, TOK_SIM_NUMBERS - 1};
    struct tok *tok = open_it();
    (void)state;
    for (size_t i = 0; i < N_ELEM(number); i++) {
        struct tok_ids ids = {0};
        char text[32];
        int n = snprintf(text, sizeof text, "%lld ", (long long)number[i]);
        tok_sim_add_number(number[i], &ids);
        assert_int_equal(ids.n, 1);
        assert_text(tok, &ids, text, (size_t)n);
        tok_ids_release(&ids);
    }
    struct tok_ids ids = {0};
    tok_sim_add_number(TOK_SIM_NUMBERS, &ids);
    assert_int_equal(ids.n, 5);
    assert_text(tok, &ids, "4096 ", 5);
    tok_ids_release(&ids);
    tok_close(&tok);
}

static void markers_are_there(void **state)
{
    static const char *const want[] = {"<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜"};
    struct tok *tok = open_it();
    size_t n;
    (void)state;
    for (size_t i = 0; i < N_ELEM(want); i++) {
        struct tok_ids ids = {0};
        int32_t id = tok_find(tok, want[i]);
        assert_true(id > 0);
        tok_encode(tok, want[i], strlen(want[i]), NULL, 0, &ids);
        assert_int_equal(ids.n, 1);
        assert_int_equal(ids.id[0], id);
        tok_ids_release(&ids);
    }
    assert_int_equal(tok_eos(tok), TOK_SIM_EOS);
    assert_true(tok_is_special(tok, TOK_SIM_EOS));
    const char *first = tok_bytes(tok, TOK_SIM_FIRST, &n);
    assert_int_equal(n, 10);
    assert_memory_equal(first, "</think>0 ", 10);
    tok_close(&tok);
}

static void any_text_comes_back(void **state)
{
    struct tok *tok = open_it();
    struct tok_ids ids = {0};
    struct buf text = {0};
    (void)state;
    buf_add_str(&text, "[[id=7,n=20,itl_us=2000]] äöü € \xF0\x9F\x98\x80\r\n\t");
    for (int c = 1; c < 128; c++)
        buf_add_char(&text, (char)c);
    tok_encode(tok, text.data, text.len, NULL, 0, &ids);
    assert_int_equal(ids.n, text.len); /* one a byte */
    assert_text(tok, &ids, text.data, text.len);
    tok_ids_release(&ids);
    buf_release(&text);
    tok_close(&tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_one_token),
        cmocka_unit_test(markers_are_there),
        cmocka_unit_test(any_text_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
