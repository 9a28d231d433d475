/* Proves that a record of each kind survives the way into cells and back, and that a cell of the wrong type or length
 * is seen. How: one filled record of each kind; each cell in turn is damaged. */
#include "tests/unit/test.h"

#include "controller/store/row.h"

#include <string.h>

static const int32_t prompt[] = {7, 8, 9};

static void fill(struct store_record *r, enum store_kind kind)
{
    static const struct store_usage usage = {1, 2, 3, 4};
    memset(r, 0, sizeof *r);
    r->kind = kind;
    switch (kind) {
    case STORE_accept:
        r->u.accept = (struct store_request){.id = "i", .tenant = "t", .path = "/p", .key = "k", .prompt = prompt,
                                             .n_prompt = 3, .params_version = 2, .params = "p", .params_bytes = 1,
                                             .seed = UINT64_MAX, .created_ms = 5, .deadline_ms = 6, .n_choice = 7};
        break;
    case STORE_tokens:
        r->u.tokens = (struct store_tokens){
            .request = "i", .choice = 1, .first = 2, .n = 3, .id = prompt, .extra = "e", .extra_bytes = 1};
        break;
    case STORE_end:
        r->u.end = (struct store_end){
            .request = "i", .choice = 1, .finish = "stop", .text = "x", .n_tok = 4, .usage = usage, .ended_ms = 9};
        break;
    case STORE_run:
        r->u.run = (struct store_run){.id = "i", .tenant = "t", .key = "k", .name = "n", .pipeline = "{}", .input = "1",
                                      .parent = "p", .created_ms = 5, .deadline_ms = 6};
        break;
    case STORE_step:
        r->u.step = (struct store_step){.run = "i", .path = "p", .attempt = 3, .state = "done", .result = "1",
                                        .request = "q", .error = "e", .usage = usage, .at_ms = 9};
        break;
    case STORE_run_end:
        r->u.run_end = (struct store_run_end){
            .run = "i", .state = "done", .output = "1", .error = "e", .usage = usage, .ended_ms = 9};
        break;
    case STORE_prune: r->u.prune = "i"; break;
    default: r->u.prune_run = "i";
    }
}

static void test_round_trip(void **state)
{
    (void)state;
    struct store_cell a[STORE_CELLS_MAX], b[STORE_CELLS_MAX];
    struct store_record r, back;

    for (int k = 0; k < STORE_KIND_N; k++) {
        fill(&r, (enum store_kind)k);
        int n = store__pack(&r, a);
        assert_int_equal(n, store__n_cells((enum store_kind)k));
        assert_true(store__unpack((enum store_kind)k, a, &back));
        assert_int_equal(store__pack(&back, b), n);
        for (int i = 0; i < n; i++) {
            assert_int_equal(a[i].type, b[i].type);
            assert_true(a[i].i == b[i].i && a[i].n == b[i].n);
            assert_memory_equal(a[i].n ? a[i].p : "", b[i].n ? b[i].p : "", a[i].n);
        }
    }
}

static void test_damage_is_seen(void **state)
{
    (void)state;
    struct store_cell a[STORE_CELLS_MAX];
    struct store_record r, back;

    for (int k = 0; k < STORE_KIND_N; k++) {
        fill(&r, (enum store_kind)k);
        int n = store__pack(&r, a);
        for (int i = 0; i < n; i++) {
            struct store_cell keep = a[i];
            a[i] = keep.type == STORE_CELL_i64 ? (struct store_cell){STORE_CELL_text, 0, "x", 1}
                                               : (struct store_cell){STORE_CELL_i64, 1, NULL, 0};
            assert_false(store__unpack((enum store_kind)k, a, &back));
            a[i] = keep;
        }
    }
    fill(&r, STORE_tokens);
    store__pack(&r, a);
    a[4].n = 8; /* two ids where three are said to be */
    assert_false(store__unpack(STORE_tokens, a, &back));
    a[4].n = 11;
    assert_false(store__unpack(STORE_tokens, a, &back));
    fill(&r, STORE_run);
    store__pack(&r, a);
    a[3].n = STORE_HASH_BYTES - 1;
    assert_false(store__unpack(STORE_run, a, &back));
    fill(&r, STORE_step);
    store__pack(&r, a);
    a[2].i = INT64_C(1) << 32; /* no int32 */
    assert_false(store__unpack(STORE_step, a, &back));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_damage_is_seen),
    };
    return cmocka_run_group_tests_name("row", tests, NULL, NULL);
}
