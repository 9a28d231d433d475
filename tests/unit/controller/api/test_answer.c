/* Proves: usage and logprobs are valid JSON with the right numbers at their edges: no infinity, partial characters,
 * special tokens without text, absent alternatives. How: hand-made outputs of the tiny tokenizer, parsed again. */
#include "common/base/check.h"
#include "common/mem/arena.h"
#include "common/text/json.h"
#include "controller/api/answer.h"
#include "tests/unit/test.h"

#include <math.h>
#include <string.h>

static const struct json *parse(const struct buf *b, struct arena *arena)
{
    const struct json *j = NULL;
    struct err err = {0};
    if (json_parse(b->data, b->len, JSON_NO_REPEATED_KEYS, arena, &j, &err) != 0)
        fail_msg("%s: %s", err.text, b->data);
    return j;
}

static int64_t number(const struct json *obj, const char *name)
{
    int64_t v = -1;
    assert_true(json_to_i64(json_get(obj, name), &v));
    return v;
}

static void test_usage(void **state)
{
    struct answer_usage u = {10, 48, 38, 4, false, 2, 17};
    struct arena arena = {0};
    struct buf b = {0};
    (void)state;
    answer_add_usage(&u, &b);
    const struct json *j = parse(&b, &arena), *ours = json_get(j, "baton");
    assert_int_equal(number(j, "prompt_tokens"), 10);
    assert_int_equal(number(j, "completion_tokens"), 48);
    assert_int_equal(number(j, "total_tokens"), 58);
    assert_int_equal(number(json_get(j, "prompt_tokens_details"), "cached_tokens"), 4);
    assert_int_equal(number(json_get(j, "completion_tokens_details"), "reasoning_tokens"), 38);
    assert_int_equal(number(j, "prompt_cache_hit_tokens") + number(j, "prompt_cache_miss_tokens"), 10);
    assert_true(json_is(json_get(ours, "exact"), JSON_FALSE));
    assert_int_equal(number(ours, "redispatched"), 2);
    assert_int_equal(number(ours, "recomputed_tokens"), 17);
    buf_release(&b);
    arena_release(&arena);
}

static void test_logprobs(void **state)
{
    struct tok *tok = NULL;
    struct tok_ids ids = {0};
    struct arena arena = {0};
    struct buf b = {0};
    struct err err = {0};
    float logprob[16];
    struct msg_top top[32];
    double v;
    (void)state;

    assert_int_equal(tok_open(TEST_DATA("tiny_tokenizer"), &tok, &err), 0);
    tok_encode(tok, "\xF0\x9F\xA4\x96", 4, NULL, 0, &ids); /* an emoji: several tokens, none a whole character */
    assert_true(ids.n > 1 && ids.n < 15);
    tok_ids_add(&ids, 2); /* special */
    for (size_t i = 0; i < ids.n; i++) {
        logprob[i] = i == 0 ? -INFINITY : i == 1 ? -0.0f : -1.25f;
        top[2 * i] = (struct msg_top){ids.id[i], logprob[i]};
        top[2 * i + 1] = (struct msg_top){i == 1 ? 5 : -1, -3.0f};
    }
    struct ctl_output o = {ids.id, logprob, top, (int64_t)ids.n, (int64_t)ids.n};
    answer_add_logprobs(tok, &o, 2, 0, (int64_t)ids.n, &b);
    const struct json *list = json_get(parse(&b, &arena), "content");
    assert_int_equal(list->n, ids.n);
    char bytes[8];
    size_t n_byte = 0;
    for (uint32_t i = 0; i < list->n; i++) {
        const struct json *t = json_at(list, i);
        assert_true(json_to_double(json_get(t, "logprob"), &v));
        assert_true(v == (i == 0 ? -9999 : i == 1 ? 0 : -1.25));
        assert_int_equal(json_get(t, "top_logprobs")->n, i == 1 ? 2 : 1);
        assert_string_equal(json_get(t, "token")->text, i + 1 == list->n ? "" : "\xEF\xBF\xBD");
        for (const struct json *x = json_get(t, "bytes")->child; x; x = x->next) {
            int64_t byte;
            assert_true(json_to_i64(x, &byte) && n_byte < sizeof bytes);
            bytes[n_byte++] = (char)byte;
        }
    }
    assert_int_equal(n_byte, 4); /* `bytes` joined is the text */
    assert_memory_equal(bytes, "\xF0\x9F\xA4\x96", 4);
    buf_clear(&b);
    answer_add_logprobs(tok, &o, 0, 1, 1, &b);
    assert_string_equal(b.data, "{\"content\":[],\"refusal\":null}");
    buf_release(&b);
    arena_release(&arena);
    tok_ids_release(&ids);
    tok_close(&tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_usage), cmocka_unit_test(test_logprobs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
