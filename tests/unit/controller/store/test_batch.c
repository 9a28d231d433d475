/* Proves that a batch owns what it was given, counts its bytes, knows its class, and refuses what is outside the
 * limits without changing. How: records whose sources are overwritten afterwards; each limit at its edge and one
 * beyond.
 */
#include "tests/unit/test.h"

#include "controller/store/batch.h"

#include <stdlib.h>
#include <string.h>

static int add_end(struct store_batch *b, const char *id, const char *text, int choice, enum store_class cls)
{
    struct err err;
    struct store_record r = {.kind = STORE_end,
                             .u.end = {.request = id, .finish = "stop", .text = text, .choice = choice, .n_tok = 1}};
    return store_batch_add(b, &r, cls, &err);
}

static void test_owns_copies(void **state)
{
    (void)state;
    char id[] = "req-1", key[] = "k";
    int32_t prompt[] = {1, 2, 3};
    struct err err;
    struct store_batch *b = store_batch_new(7);
    struct store_record r = {
        .kind = STORE_accept,
        .u.accept = {
            .id = id, .tenant = "t", .path = "/p", .key = key, .prompt = prompt, .n_prompt = 3, .n_choice = 1}};
    assert_int_equal(store_batch_add(b, &r, STORE_LAZY, &err), 0);
    assert_false(b->full);
    memset(id, 'x', 5);
    memset(key, 'x', 1);
    memset(prompt, 0, sizeof prompt);
    r.kind = STORE_tokens;
    r.u.tokens = (struct store_tokens){.request = "req-1", .n = 3, .id = prompt};
    assert_int_equal(store_batch_add(b, &r, STORE_FULL, &err), 0);
    assert_true(b->full && b->seq == 7 && b->n == 2);
    const struct store_request *q = &b->record[0].u.accept;
    assert_string_equal(q->id, "req-1");
    assert_string_equal(q->key, "k");
    assert_memory_equal(q->prompt, ((int32_t[]){1, 2, 3}), sizeof prompt);
    assert_non_null(q->params); /* empty is not NULL */
    assert_non_null(b->record[1].u.tokens.extra);
    assert_true(b->bytes >= 2 * sizeof prompt + 2 * sizeof(struct store_record));
    store_batch_destroy(&b);
    assert_null(b);
    store_batch_destroy(&b);
}

static void test_limits(void **state)
{
    (void)state;
    char id[STORE_ID_MAX + 1], text[2 * STORE_TEXT_MAX];
    struct err err;
    struct store_batch *b = store_batch_new(1);

    memset(id, 'i', sizeof id);
    id[STORE_ID_MAX] = 0;
    assert_int_equal(add_end(b, id, NULL, 0, STORE_LAZY), ERR_RANGE);
    assert_int_equal(add_end(b, "", NULL, 0, STORE_LAZY), ERR_RANGE);
    assert_int_equal(add_end(b, "a\x80", NULL, 0, STORE_LAZY), ERR_FORMAT);
    assert_int_equal(add_end(b, "a", NULL, -1, STORE_LAZY), ERR_RANGE);
    assert_int_equal(add_end(b, "a", NULL, STORE_CHOICES_MAX, STORE_LAZY), ERR_RANGE);
    struct store_record r = {.kind = STORE_tokens, .u.tokens = {.request = "a", .n = 0, .id = (int32_t[]){1}}};
    assert_int_equal(store_batch_add(b, &r, STORE_LAZY, &err), ERR_RANGE);
    r.u.tokens.n = 1;
    r.u.tokens.first = -1;
    assert_int_equal(store_batch_add(b, &r, STORE_LAZY, &err), ERR_RANGE);
    r = (struct store_record){.kind = STORE_accept, .u.accept = {.id = "a", .tenant = "t", .path = "/", .n_choice = 1}};
    r.u.accept.n_prompt = STORE_TOKENS_MAX + 1;
    assert_int_equal(store_batch_add(b, &r, STORE_LAZY, &err), ERR_RANGE);
    assert_true(b->n == 0 && b->bytes == 0 && !b->full); /* nothing has changed */

    /* A text is cut at a whole character, bad bytes become '?'. */
    assert_int_equal(add_end(b, id + 1, NULL, STORE_CHOICES_MAX - 1, STORE_LAZY), 0);
    assert_string_equal(b->record[0].u.end.text, "");
    for (size_t i = 0; i + 2 < sizeof text; i += 2)
        memcpy(text + i, "\xc3\xa9", 3);
    assert_int_equal(add_end(b, "a", text, 0, STORE_LAZY), 0);
    size_t n = strlen(b->record[1].u.end.text);
    assert_true(n % 2 == 0 && n >= STORE_TEXT_MAX - 3 && n < STORE_TEXT_MAX);
    assert_int_equal(add_end(b, "a", "x\xff\xc3", 0, STORE_LAZY), 0);
    assert_string_equal(b->record[2].u.end.text, "x??");
    store_batch_destroy(&b);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(store_kind_name(STORE_accept), "accept");
    assert_string_equal(store_kind_name((enum store_kind)99), "?");
    assert_string_equal(store_fault_name(STORE_FAULT_disk_full), "disk_full");
    assert_string_equal(store_fault_name((enum store_fault)99), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_owns_copies),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests_name("batch", tests, NULL, NULL);
}
