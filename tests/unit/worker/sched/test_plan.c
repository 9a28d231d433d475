/* Proves: each rule of the planner on small written-out cases, and on random ones that no budget is ever
 * overdrawn, that someone always advances, and that nobody of lower rank is admitted past somebody who waits. */
#include "tests/unit/test.h"
#include "worker/sched/plan.h"

#include <string.h>

static int order[64];

static struct wrk_plan_seq running(uint64_t arrival, int32_t priority, int64_t n_tok, int64_t n_done)
{
    return (struct wrk_plan_seq){.is_running = true,
                                 .priority = priority,
                                 .arrival = arrival,
                                 .n_tok = n_tok,
                                 .n_done = n_done,
                                 .n_block = wrk_plan_blocks(n_tok),
                                 .n_block_own = wrk_plan_blocks(n_tok)};
}

static struct wrk_plan_seq waiting(uint64_t arrival, int32_t priority, int64_t n_tok)
{
    return (struct wrk_plan_seq){.priority = priority, .arrival = arrival, .n_tok = n_tok};
}

static void test_blocks(void **state)
{
    (void)state;
    assert_int_equal(wrk_plan_blocks(0), 0);
    assert_int_equal(wrk_plan_blocks(1), 1);
    assert_int_equal(wrk_plan_blocks(128), 1);
    assert_int_equal(wrk_plan_blocks(129), 2);
}

/* Decode rows first, whatever the order; then prefill in order, cut at the budget. */
static void test_decode_before_prefill(void **state)
{
    struct wrk_plan_seq s[] = {running(0, 5, 500, 0), running(1, 0, 11, 10), running(2, 0, 300, 100),
                               running(3, 0, 21, 20)};
    struct wrk_plan_room room = {.n_row = 600, .n_rank = 1, .rank = {{0, 0}}};
    (void)state;
    assert_int_equal(wrk_plan_make(&room, s, 4, order), 600);
    assert_int_equal(s[1].n_row, 1);
    assert_int_equal(s[3].n_row, 1);
    assert_int_equal(s[0].n_row, 500);
    assert_int_equal(s[2].n_row, 98);
    room.n_row = 1; /* not even all decodes: the older one */
    assert_int_equal(wrk_plan_make(&room, s, 4, order), 1);
    assert_int_equal(s[1].n_row, 1);
    assert_int_equal(s[3].n_row, 0);
}

static void test_admission(void **state)
{
    struct wrk_plan_seq s[] = {waiting(0, 0, 100), waiting(1, 7, 300), waiting(2, 0, 10)};
    struct wrk_plan_room room = {.n_row = 350, .n_rank = 1, .rank = {{2, 6}}};
    (void)state;
    /* Priority first: 300 tokens take 3 blocks; then 100 tokens take 1 and need 2 to grow: 6 are just enough. */
    assert_int_equal(wrk_plan_make(&room, s, 3, order), 350);
    assert_int_equal(s[1].act, WRK_PLAN_ADMIT);
    assert_int_equal(s[1].n_row, 300);
    assert_int_equal(s[1].n_block_new, 3);
    assert_int_equal(s[0].act, WRK_PLAN_ADMIT);
    assert_int_equal(s[0].n_row, 50); /* the rest of its prompt in the next step */
    assert_int_equal(s[0].n_block_new, 1);
    assert_int_equal(s[2].act, WRK_PLAN_KEEP);
    room.rank[0].n_block_free = 5; /* no room to grow */
    wrk_plan_make(&room, s, 3, order);
    assert_int_equal(s[0].act, WRK_PLAN_KEEP);
    assert_int_equal(s[2].act, WRK_PLAN_KEEP); /* it would not fit either, and may not overtake */
    room = (struct wrk_plan_room){.n_row = 350, .n_rank = 1, .rank = {{2, 4}}};
    s[1].n_tok = 128 * 4; /* alone it may have the whole pool */
    assert_int_equal(wrk_plan_make(&room, s, 3, order), 350);
    assert_int_equal(s[1].n_block_new, 4);
    room.rank[0].n_block_free = 3; /* and who cannot be let in blocks those behind */
    assert_int_equal(wrk_plan_make(&room, s, 3, order), 0);
    room = (struct wrk_plan_room){.n_row = 350, .n_rank = 1, .rank = {{0, 40}}};
    assert_int_equal(wrk_plan_make(&room, s, 3, order), 0);
}

/* The pool is dry and a decode needs a block: the youngest of the lowest priority gives its own. */
static void test_preempt_for_block(void **state)
{
    struct wrk_plan_seq s[] = {running(0, 0, 129, 128), running(1, 1, 11, 10), running(2, 0, 11, 10),
                               waiting(3, 9, 900)};
    struct wrk_plan_room room = {.n_row = 100, .n_rank = 1, .rank = {{1, 0}}};
    (void)state;
    s[0].n_block = s[0].n_block_own = 1;
    assert_int_equal(wrk_plan_make(&room, s, 3, order), 2);
    assert_int_equal(s[2].act, WRK_PLAN_PREEMPT);
    assert_int_equal(s[2].n_row, 0);
    assert_int_equal(s[0].n_row, 1);
    assert_int_equal(s[0].n_block_new, 1);
    assert_int_equal(s[1].n_row, 1);
    /* The last in the order is the one in need: it goes itself. */
    s[0].arrival = 5;
    assert_int_equal(wrk_plan_make(&room, s, 3, order), 2);
    assert_int_equal(s[0].act, WRK_PLAN_PREEMPT);
    assert_int_equal(s[2].act, WRK_PLAN_KEEP);
    /* And nobody is admitted into the blocks that were just given back. */
    s[3] = waiting(6, -1, 1);
    s[1].n_block = s[1].n_block_own = 30;
    wrk_plan_make(&room, s, 4, order);
    assert_int_equal(s[3].act, WRK_PLAN_KEEP);
}

static void test_preempt_for_priority(void **state)
{
    struct wrk_plan_seq s[] = {running(0, 0, 11, 10), running(1, 2, 11, 10), waiting(2, 1, 20)};
    struct wrk_plan_room room = {.n_row = 100, .n_rank = 1, .rank = {{0, 50}}};
    (void)state;
    assert_int_equal(wrk_plan_make(&room, s, 3, order), 21);
    assert_int_equal(s[0].act, WRK_PLAN_PREEMPT);
    assert_int_equal(s[1].n_row, 1);
    assert_int_equal(s[2].act, WRK_PLAN_ADMIT);
    assert_int_equal(s[2].n_row, 20);
    s[2].priority = 0; /* equals wait */
    assert_int_equal(wrk_plan_make(&room, s, 3, order), 2);
    assert_int_equal(s[0].act, WRK_PLAN_KEEP);
    s[2].priority = 1;
    s[2].n_tok = 128 * 60; /* nobody is thrown out when that would not help */
    assert_int_equal(wrk_plan_make(&room, s, 3, order), 2);
    assert_int_equal(s[0].act, WRK_PLAN_KEEP);
}

static struct wrk_plan_seq running_on(int rank, uint64_t arrival, int32_t priority, int64_t n_tok, int64_t n_done)
{
    struct wrk_plan_seq s = running(arrival, priority, n_tok, n_done);
    s.rank = rank;
    return s;
}

/* Where a waiting sequence goes: what the cache has, then blocks, then company; who fits nowhere is not overtaken. */
static void test_home(void **state)
{
    static const struct wrk_plan_hit hit[3] = {{0, 0}, {130, 1}, {128, 1}};
    struct wrk_plan_seq s[] = {waiting(0, 0, 300), waiting(1, 0, 100), running_on(2, 2, 0, 11, 10)};
    struct wrk_plan_room room = {.n_row = 1000, .n_rank = 3, .rank = {{1, 9}, {1, 6}, {1, 9}}};
    (void)state;
    s[0].hit = hit;
    wrk_plan_make(&room, s, 3, order);
    assert_true(s[0].act == WRK_PLAN_ADMIT && s[0].rank == 1 && s[0].n_done == 130 && s[0].n_row == 170);
    assert_int_equal(s[0].n_block_new, 2); /* the third is there and busy */
    assert_true(s[1].act == WRK_PLAN_ADMIT && s[1].rank == 0 && s[1].n_row == 100); /* as 2 has company */
    room.rank[1].n_slot_free = 0;
    s[0].n_done = 0;
    wrk_plan_make(&room, s, 3, order);
    assert_true(s[0].act == WRK_PLAN_ADMIT && s[0].rank == 2 && s[0].n_done == 128);
    room.rank[0] = room.rank[1] = room.rank[2];
    for (int i = 0; i < 3; i++)
        room.rank[i].n_block_free = 1; /* two for it together, but not on one */
    s[0] = waiting(0, 0, 129);
    wrk_plan_make(&room, s, 3, order);
    assert_true(s[0].act == WRK_PLAN_KEEP && s[1].act == WRK_PLAN_KEEP);
}

/* Who lacks a block is helped by its own rank's last only; a higher priority takes a place where that is possible. */
static void test_preempt_on_rank(void **state)
{
    struct wrk_plan_seq s[] = {running_on(0, 0, 0, 129, 128), running_on(0, 1, 0, 11, 10),
                               running_on(1, 2, -1, 11, 10), running_on(1, 3, 0, 11, 10)};
    struct wrk_plan_room room = {.n_row = 100, .n_rank = 2, .rank = {{0, 0}, {0, 5}}};
    (void)state;
    s[0].n_block = s[0].n_block_own = 1;
    assert_int_equal(wrk_plan_make(&room, s, 4, order), 3);
    assert_int_equal(s[1].act, WRK_PLAN_PREEMPT);
    assert_true(s[0].n_row == 1 && s[0].n_block_new == 1 && s[2].n_row == 1 && s[3].n_row == 1);
    s[0] = waiting(9, 2, 500); /* 4 blocks and 2 to grow: only rank 1 can give them, from -1 and then from 0 */
    assert_int_equal(wrk_plan_make(&room, s, 4, order), 100);
    assert_true(s[0].act == WRK_PLAN_ADMIT && s[0].rank == 1 && s[0].n_row == 98);
    assert_true(s[1].act == WRK_PLAN_KEEP && s[2].act == WRK_PLAN_PREEMPT && s[3].act == WRK_PLAN_KEEP);
}

/* Prefill rows in equal shares to the ranks that have any to do. */
static void test_prefill_shares(void **state)
{
    struct wrk_plan_seq s[] = {running_on(0, 0, 0, 900, 0), running_on(0, 1, 0, 900, 0), running_on(2, 2, 0, 900, 0),
                               running_on(1, 3, 0, 11, 10)};
    struct wrk_plan_room room = {.n_row = 101, .n_rank = 3, .rank = {{0, 0}}};
    (void)state;
    assert_int_equal(wrk_plan_make(&room, s, 4, order), 101);
    assert_true(s[0].n_row == 50 && s[1].n_row == 0 && s[2].n_row == 50 && s[3].n_row == 1);
    s[2].n_tok = s[0].n_tok = 20; /* what one rank does not need of its share is not given to the other's second */
    assert_int_equal(wrk_plan_make(&room, s, 4, order), 71);
    assert_true(s[0].n_row == 20 && s[1].n_row == 30 && s[2].n_row == 20);
}

/* 100,000 tokens of prefill beside 16 streams: each step has a row for every stream, and the prefill only what is left
 * of the budget. So a stream waits for one step of at most the budget between two tokens, never for the prefill. */
static void test_long_prefill_beside_streams(void **state)
{
    enum { STREAMS = 16, BUDGET = 256, LONG = 100000, CUT = 1024 };
    struct wrk_plan_seq s[STREAMS + 1];
    struct wrk_plan_room room = {.n_row = BUDGET, .cut_tok = CUT, .n_rank = 1, .rank = {{0, 100000}}};
    int n_step = 0;
    (void)state;
    for (int i = 0; i < STREAMS; i++)
        s[i] = running((uint64_t)i + 1, 0, 50 + i, 49 + i);
    s[STREAMS] = running(0, 0, LONG, 0); /* it came first, and is of no less priority */
    while (s[STREAMS].n_done < LONG) {
        int64_t before = s[STREAMS].n_done, room_left = BUDGET - STREAMS, to_cut = CUT - before % CUT;
        int total = wrk_plan_make(&room, s, STREAMS + 1, order);
        for (int i = 0; i < STREAMS; i++) {
            assert_int_equal(s[i].n_row, 1);
            s[i].n_tok++;
            s[i].n_done++;
            s[i].n_block += s[i].n_block_new;
        }
        assert_int_equal(total, STREAMS + s[STREAMS].n_row);
        int64_t most = room_left < to_cut ? room_left : to_cut;
        assert_int_equal(s[STREAMS].n_row, most < LONG - before ? most : LONG - before);
        s[STREAMS].n_done += s[STREAMS].n_row;
        n_step++;
    }
    assert_true(n_step <= LONG / (BUDGET - STREAMS) + LONG / CUT + 2); /* and it is not starved either */
}

/* Chunks end at the border where a state is saved, not behind it. */
static void test_cut_borders(void **state)
{
    static const struct wrk_plan_hit hit = {100, 0};
    struct wrk_plan_seq s[] = {running(0, 0, 700, 0), running(1, 0, 700, 250), waiting(2, 0, 700)};
    struct wrk_plan_room room = {.n_row = 1000, .cut_tok = 256, .n_rank = 1, .rank = {{1, 100}}};
    (void)state;
    s[2].hit = &hit;
    wrk_plan_make(&room, s, 3, order);
    assert_int_equal(s[0].n_row, 512); /* past one border, up to the last one it reaches */
    assert_int_equal(s[1].n_row, 262);
    assert_int_equal(s[2].n_row, 156); /* from what the cache has on */
    s[0].n_done = 512;
    wrk_plan_make(&room, s, 1, order);
    assert_int_equal(s[0].n_row, 188); /* the end of the prompt is a cut point anyway */
    s[0].cut_at = 640;
    wrk_plan_make(&room, s, 1, order);
    assert_int_equal(s[0].n_row, 128);
    s[0].n_done = 640;
    wrk_plan_make(&room, s, 1, order);
    assert_int_equal(s[0].n_row, 60);
}

/* Among equal priorities the tenant that was served least comes first; priority comes before that. */
static void test_shares(void **state)
{
    struct wrk_plan_seq s[] = {running(0, 0, 500, 0), running(1, 0, 500, 0), waiting(2, 0, 100), waiting(3, 0, 100)};
    struct wrk_plan_room room = {.n_row = 300, .n_rank = 1, .rank = {{1, 100}}};
    (void)state;
    s[0].share = 1000;
    s[1].share = 20;
    s[2].share = 1000;
    s[3].share = 20;
    wrk_plan_make(&room, s, 4, order);
    assert_true(s[0].n_row == 0 && s[1].n_row == 300);
    s[1].n_tok = 11;
    wrk_plan_make(&room, s, 4, order);
    assert_true(s[1].n_row == 11 && s[0].n_row == 289);
    room.n_row = 1000;
    wrk_plan_make(&room, s, 4, order);
    assert_true(s[2].act == WRK_PLAN_KEEP && s[3].act == WRK_PLAN_ADMIT);
    s[2].priority = 1;
    wrk_plan_make(&room, s, 4, order);
    assert_true(s[2].act == WRK_PLAN_ADMIT && s[3].act == WRK_PLAN_KEEP);
    /* Loss does not ask who was served: the oldest must come to its end. */
    s[0] = running(0, 0, 129, 128);
    s[0].n_block = s[0].n_block_own = 1;
    s[0].share = 1000;
    s[1] = running(1, 0, 11, 10);
    room.rank[0].n_block_free = 0;
    wrk_plan_make(&room, s, 2, order);
    assert_true(s[1].act == WRK_PLAN_PREEMPT && s[0].n_row == 1);
}

/* Blocks that a running sequence holds cost a second one nothing, unless that sequence may just have lost them. */
static void test_busy_blocks(void **state)
{
    static const struct wrk_plan_hit hit = {384, 3};
    struct wrk_plan_seq s[] = {running(0, 0, 513, 512), waiting(1, 0, 500)};
    struct wrk_plan_room room = {.n_row = 300, .n_rank = 1, .rank = {{1, 3}}};
    (void)state;
    s[1].hit = &hit;
    s[0].n_block = s[0].n_block_own = 5;
    wrk_plan_make(&room, s, 2, order);
    assert_true(s[1].act == WRK_PLAN_ADMIT && s[1].n_block_new == 1 && s[1].n_row == 116);
    s[0].n_block_own = 2; /* the other three are shared, and stay when it goes */
    s[1] = waiting(1, 1, 500);
    s[1].hit = &hit;
    room.rank[0] = (__typeof__(room.rank[0])){0, 1};
    wrk_plan_make(&room, s, 2, order); /* with 1 + 2 blocks it does not fit: nobody goes */
    assert_true(s[0].act == WRK_PLAN_KEEP && s[1].act == WRK_PLAN_KEEP);
    room.rank[0].n_block_free = 2;
    wrk_plan_make(&room, s, 2, order);
    assert_true(s[0].act == WRK_PLAN_PREEMPT && s[1].act == WRK_PLAN_ADMIT && s[1].n_block_new == 4);
}

static uint32_t lcg = 5;
static int rnd(int n)
{
    lcg = lcg * 1664525u + 1013904223u;
    return (int)((lcg >> 8) % (uint32_t)n);
}

static void check_random(struct wrk_plan_room room, const struct wrk_plan_seq *s, int n, int total)
{
    int rows = 0, n_running = 0, n_active = 0;
    for (int i = 0; i < n; i++) {
        rows += s[i].n_row;
        n_active += s[i].n_row > 0;
        n_running += s[i].is_running;
        assert_true(s[i].n_row >= 0 && s[i].n_row <= s[i].n_tok - s[i].n_done);
        assert_true(s[i].rank >= 0 && s[i].rank < room.n_rank);
        if (s[i].act == WRK_PLAN_PREEMPT) {
            assert_true(s[i].is_running && s[i].n_row == 0 && s[i].n_block_new == 0);
            room.rank[s[i].rank].n_block_free += s[i].n_block;
            room.rank[s[i].rank].n_slot_free++;
        } else if (s[i].act == WRK_PLAN_ADMIT) {
            assert_true(!s[i].is_running && s[i].n_row > 0);
            room.rank[s[i].rank].n_slot_free--;
        } else if (!s[i].is_running) {
            assert_int_equal(s[i].n_row, 0);
        }
        room.rank[s[i].rank].n_block_free -= s[i].n_block_new;
        assert_true((s[i].n_block + s[i].n_block_new) * WRK_BLOCK_TOK >= s[i].n_done + s[i].n_row || s[i].n_row == 0);
        for (int k = 0; k < n; k++) /* nobody overtakes */
            if (s[i].act == WRK_PLAN_ADMIT && !s[k].is_running && s[k].act != WRK_PLAN_ADMIT)
                assert_true(s[i].priority > s[k].priority ||
                            (s[i].priority == s[k].priority && s[i].arrival < s[k].arrival));
    }
    assert_int_equal(rows, total);
    assert_true(rows <= room.n_row);
    for (int r = 0; r < room.n_rank; r++)
        assert_true(room.rank[r].n_slot_free >= 0 && room.rank[r].n_block_free >= 0);
    assert_true(n_active > 0 || n_running == 0);
}

static void test_random(void **state)
{
    (void)state;
    for (int round = 0; round < 20000; round++) {
        struct wrk_plan_seq s[12];
        struct wrk_plan_room room = {.n_row = 1 + rnd(600), .n_rank = 1 + rnd(3)};
        int n = 1 + rnd(12), n_running[3] = {0};
        int64_t held[3] = {0};
        bool is_possible = true;
        for (int i = 0; i < n; i++) {
            int64_t n_tok = 1 + rnd(700);
            int r = rnd(room.n_rank);
            if (rnd(2)) {
                int64_t n_done = rnd(2) ? n_tok - 1 : rnd((int)n_tok);
                s[i] = running_on(r, (uint64_t)(i * 7 % 13), rnd(3), n_tok, n_done);
                s[i].n_block = s[i].n_block_own = wrk_plan_blocks(n_done) + rnd(2);
                held[r] += s[i].n_block;
                n_running[r]++;
            } else {
                s[i] = waiting((uint64_t)(i * 7 % 13), rnd(3), n_tok);
            }
        }
        /* Pools that hold at least the largest sequence, as the caller promises. */
        for (int r = 0; r < room.n_rank; r++) {
            int64_t pool = 6 + rnd(20);
            room.rank[r].n_slot_free = rnd(4);
            room.rank[r].n_block_free = pool > held[r] ? pool - held[r] : 0;
            is_possible &= n_running[r] != 1 || held[r] <= pool;
        }
        if (is_possible)
            check_random(room, s, n, wrk_plan_make(&room, s, n, order));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_decode_before_prefill),
        cmocka_unit_test(test_admission),
        cmocka_unit_test(test_preempt_for_block),
        cmocka_unit_test(test_preempt_for_priority),
        cmocka_unit_test(test_home),
        cmocka_unit_test(test_preempt_on_rank),
        cmocka_unit_test(test_prefill_shares),
        cmocka_unit_test(test_long_prefill_beside_streams),
        cmocka_unit_test(test_cut_borders),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_busy_blocks),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
