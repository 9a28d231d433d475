/* Proves, for every store: runs and steps come back in the order in which they were written; what contradicts them is
 * refused; a batch is never split; queries answer what is there, and what has just been flushed. */
#include "tests/unit/controller/store/suite.h"

#include <stdio.h>
#include <string.h>

static void start(struct rig *r, char *url, size_t n)
{
    suite_fresh(url, n);
    rig_init(r, url);
    rig_start(r);
}

static void test_run_round_trip(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct seen seen;

    start(&r, url, sizeof url);
    put_accept(&r, "q", 1);
    assert_true(rig_wait_durable(&r, put_run(&r, "b", "t", NULL))); /* a run: durable when committed */
    put_run(&r, "a", "t", "key");
    put_step(&r, "a", "z", 1, "started", STORE_LAZY);
    put_step(&r, "b", "one[3].turn2", 1, "started", STORE_LAZY);
    put_step(&r, "a", "z", 1, "failed", STORE_LAZY);
    put_step(&r, "a", "b", 1, "started", STORE_LAZY);
    assert_true(rig_wait_durable(&r, put_step(&r, "a", "z", 2, "done", STORE_FULL)));
    rig_close(&r);
    rig_init(&r, url);
    rig_start(&r); /* the order holds over a restart */
    put_step(&r, "a", "b", 1, "done", STORE_LAZY);
    assert_true(rig_wait_durable(&r, put_run_end(&r, "a")));
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);

    suite_look(url, STORE_LOAD_all, &seen);
    assert_int_equal(seen.n, 1);
    assert_int_equal(seen.n_run, 2);
    assert_string_equal(seen.run[0].id, "a"); /* oldest first */
    assert_string_equal(seen.run[0].trace, "z/1/started z/1/failed b/1/started z/2/done b/1/done ");
    assert_true(seen.run[0].ended && !seen.run[1].ended);
    assert_string_equal(seen.run[1].trace, "one[3].turn2/1/started ");
    suite_look(url, STORE_LOAD_live, &seen);
    assert_int_equal(seen.n_run, 1);
    assert_string_equal(seen.run[0].id, "b");
}

static void expect_refused(struct rig *r, uint64_t seq, int n, enum store_kind kind, const char *id, const char *path)
{
    assert_true(rig_wait(r, seq));
    assert_int_equal(r->n_refused, n);
    assert_int_equal(r->refused.kind, kind);
    assert_string_equal(r->refused.request, id);
    assert_string_equal(r->refused.path, path);
}

static void test_run_contradictions(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct seen seen;

    start(&r, url, sizeof url);
    put_run(&r, "a", "t", "key");
    put_run(&r, "b", "other", "key");
    expect_refused(&r, put_run(&r, "a", "t", NULL), 1, STORE_run, "a", "");
    expect_refused(&r, put_run(&r, "c", "t", "key"), 2, STORE_run, "c", "");
    put_step(&r, "a", "s", 1, "started", STORE_LAZY);
    expect_refused(&r, put_step(&r, "a", "s", 1, "started", STORE_LAZY), 3, STORE_step, "a", "s");
    expect_refused(&r, put_step(&r, "nobody", "s", 1, "started", STORE_LAZY), 4, STORE_step, "nobody", "s");
    put_step(&r, "a", "s", 2, "started", STORE_LAZY);
    put_step(&r, "a", "s", 1, "done", STORE_FULL);
    expect_refused(&r, put_step(&r, "a", "s", 2, "done", STORE_FULL), 5, STORE_step, "a", "s"); /* done once */
    assert_int_equal(r.refused.choice, 2);
    assert_string_equal(r.refused.state, "done");
    put_step(&r, "b", "s", 2, "done", STORE_FULL); /* in another run it may be */
    put_step(&r, "a", "s", 2, "failed", STORE_LAZY);
    expect_refused(&r, put_run_end(&r, "nobody"), 6, STORE_run_end, "nobody", "");
    put_run_end(&r, "a");
    expect_refused(&r, put_run_end(&r, "a"), 7, STORE_run_end, "a", "");
    expect_refused(&r, put_step(&r, "a", "t", 1, "started", STORE_LAZY), 8, STORE_step, "a", "t"); /* after its end */
    put_prune_run(&r, "unknown");
    put_prune_run(&r, "a");
    put_run(&r, "a", "t", "key"); /* free again, and nothing is left of the old one */
    assert_true(rig_wait(&r, put_step(&r, "a", "s", 1, "done", STORE_FULL)));
    assert_int_equal(r.n_refused, 8);
    rig_close(&r);
    suite_look(url, STORE_LOAD_all, &seen);
    assert_int_equal(seen.n_run, 2);
    assert_string_equal(seen_find_run(&seen, "a")->trace, "s/1/done ");
    assert_string_equal(seen_find_run(&seen, "b")->trace, "s/2/done ");
    assert_false(seen_find_run(&seen, "a")->ended);
}

/* However much a turn writes, it is one batch: it has one number, and its limit says no instead of splitting it. */
static void test_a_batch_is_never_split(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct err err;
    static char big[20000];
    int n = 0, rc;

    suite_fresh(url, sizeof url);
    rig_init(&r, url);
    r.config.limit.batch_bytes_max = 8192;
    rig_start(&r);
    memset(big, '1', sizeof big - 1);
    uint64_t seq = put_run(&r, "a", "t", NULL), first = seq;
    struct store_step t = {.run = "a", .path = "large", .state = "done", .result = big};
    assert_int_equal(store_step(r.store, &t, STORE_FULL, &seq, &err), 0); /* shuts nobody else out */
    assert_int_equal(seq, first);
    assert_true(store_is_full(r.store));
    t.path = "p";
    t.state = "s";
    t.result = NULL;
    while (!(rc = store_step(r.store, &t, STORE_LAZY, &seq, &err))) {
        assert_int_equal(seq, first);
        t.attempt = ++n;
    }
    assert_int_equal(rc, ERR_LIMIT);
    assert_true(n >= 8);
    store_flush(r.store);
    assert_false(store_is_full(r.store));
    assert_int_equal(store_step(r.store, &t, STORE_LAZY, &seq, &err), 0);
    assert_int_equal(seq, first + 1);
    assert_true(rig_wait(&r, seq));
    assert_int_equal(r.n_refused, 0);
    rig_close(&r);
}

static int fetch_id(struct rig *r, enum store_query_kind kind, const char *id, struct seen *seen)
{
    return rig_fetch(r, &(struct store_query){.kind = kind, .id = id}, seen, NULL, 0);
}

static void test_queries(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct seen seen;
    struct err err;

    start(&r, url, sizeof url);
    put_accept(&r, "a", 2);
    put_accept(&r, "b", 1);
    put_tokens(&r, "a", 1, 0, 7, STORE_LAZY);
    put_tokens(&r, "b", 0, 0, 3, STORE_LAZY);
    put_end(&r, "a", 1, 7);
    put_run(&r, "x\"\\,{", "t", "key"); /* no id breaks a statement */
    put_step(&r, "x\"\\,{", "s", 1, "done", STORE_FULL);
    put_run_end(&r, "x\"\\,{");
    store_flush(r.store); /* the answer sees it without waiting */
    assert_int_equal(fetch_id(&r, STORE_QUERY_request, "a", &seen), 0);
    assert_int_equal(seen.n, 1);
    assert_true(seen.request[0].n_tok[1] == 7 && seen.request[0].ended[1] && !seen.request[0].ended[0]);
    assert_int_equal(fetch_id(&r, STORE_QUERY_request, "nobody", &seen), 0);
    assert_int_equal(seen.n + seen.n_run, 0);
    assert_int_equal(fetch_id(&r, STORE_QUERY_request, "no utf8 \xff", &seen), 0);
    assert_int_equal(seen.n, 0);
    assert_int_equal(fetch_id(&r, STORE_QUERY_run, "x\"\\,{", &seen), 0);
    assert_int_equal(seen.n_run, 1);
    assert_string_equal(seen.run[0].trace, "s/1/done ");
    assert_true(seen.run[0].ended);
    struct store_query q = {.kind = STORE_QUERY_run_key, .tenant = "t", .key = "key"};
    assert_int_equal(rig_fetch(&r, &q, &seen, NULL, 0), 0);
    assert_int_equal(seen.n_run, 1);
    q.tenant = "other";
    assert_int_equal(rig_fetch(&r, &q, &seen, NULL, 0), 0);
    assert_int_equal(seen.n_run, 0);

    struct store_request a = {.id = "c", .tenant = "tenant-ü", .path = "/v1/chat/completions", .key = "k1",
                              .prompt = (int32_t[5]){0}, .n_prompt = 5, .params_version = 3, .params = "\0p\xff",
                              .params_bytes = 3, .seed = UINT64_C(0xfedcba9876543210), .created_ms = 1000 + 'c',
                              .deadline_ms = 2000 + 'c', .n_choice = 1};
    int32_t prompt[5];
    for (int i = 0; i < 5; i++)
        prompt[i] = suite_token("c", 99, i);
    a.prompt = prompt;
    memset(a.body_hash, 'c', sizeof a.body_hash);
    assert_int_equal(store_accept(r.store, &a, NULL, &err), 0);
    store_flush(r.store);
    q = (struct store_query){
        .kind = STORE_QUERY_request_key, .tenant = "tenant-ü", .path = "/v1/chat/completions", .key = "k1"};
    assert_int_equal(rig_fetch(&r, &q, &seen, NULL, 0), 0);
    assert_int_equal(seen.n, 1);
    assert_string_equal(seen.request[0].id, "c");
    q.path = "/v1/completions";
    assert_int_equal(rig_fetch(&r, &q, &seen, NULL, 0), 0);
    assert_int_equal(seen.n, 0);
    q.path = NULL;
    assert_int_equal(rig_fetch(&r, &q, &seen, NULL, 0), ERR_ARG);
    assert_int_equal(fetch_id(&r, STORE_QUERY_runs, NULL, &seen), ERR_ARG); /* no limit */
    rig_close(&r);
}

/* The ids of the runs of an answer, in order. */
static const char *list(struct rig *r, const char *before, const char *tenant, int limit)
{
    static char out[SEEN_MAX * 4];
    struct seen seen;
    struct store_query q = {.kind = STORE_QUERY_runs, .id = before, .tenant = tenant, .limit = limit};

    assert_int_equal(rig_fetch(r, &q, &seen, NULL, 0), 0);
    out[0] = 0;
    for (int i = 0; i < seen.n_run; i++) {
        strcat(out, seen.run[i].id);
        strcat(out, seen.run[i].ended ? "+ " : " ");
    }
    return out;
}

static void test_list_of_runs(void **state)
{
    (void)state;
    char url[512];
    struct rig r;

    start(&r, url, sizeof url);
    for (char c = 'a'; c <= 'g'; c++)
        put_run(&r, (char[]){c, 0}, c % 2 ? "odd" : "even", NULL);
    put_step(&r, "c", "s", 1, "started", STORE_LAZY);
    put_run_end(&r, "c");
    store_flush(r.store);
    assert_string_equal(list(&r, NULL, NULL, 100), "g f e d c+ b a ");
    assert_string_equal(list(&r, NULL, NULL, 2), "g f ");
    assert_string_equal(list(&r, "f", NULL, 3), "e d c+ ");
    assert_string_equal(list(&r, "e", "odd", 5), "c+ a ");
    assert_string_equal(list(&r, NULL, "even", 5), "f d b ");
    assert_string_equal(list(&r, "a", NULL, 5), "");
    assert_string_equal(list(&r, "nobody", NULL, 5), "");
    rig_close(&r);
}

static const char *old(struct rig *r, enum store_query_kind kind, int64_t before_ms, int64_t keep, int limit)
{
    static char ids[512];
    struct store_query q = {.kind = kind, .limit = limit, .ended_before_ms = before_ms, .keep = keep};
    assert_int_equal(rig_fetch(r, &q, NULL, ids, sizeof ids), 0);
    return ids;
}

static void test_what_may_be_pruned(void **state)
{
    (void)state;
    const enum store_query_kind REQ = STORE_QUERY_old_requests, RUN = STORE_QUERY_old_runs;
    char url[512];
    struct rig r;

    start(&r, url, sizeof url);
    for (char c = 'a'; c <= 'f'; c++) { /* created at 1000 + c; runs end at 5000 + c, requests at 77 */
        put_accept(&r, (char[]){c, 0}, 2);
        put_run(&r, (char[]){c, 0}, "t", NULL);
        if (c == 'b')
            continue; /* lives */
        put_end(&r, (char[]){c, 0}, 0, 0);
        if (c != 'e') /* half ended is not ended */
            put_end(&r, (char[]){c, 0}, 1, 0);
        put_run_end(&r, (char[]){c, 0});
    }
    store_flush(r.store);
    assert_string_equal(old(&r, RUN, INT64_MIN, -1, 100), "");
    assert_string_equal(old(&r, RUN, 5000 + 'a', -1, 100), "");       /* created before, but not ended before */
    assert_string_equal(old(&r, RUN, 5000 + 'e', -1, 100), "a c d "); /* ended before */
    assert_string_equal(old(&r, RUN, 5000 + 'e', -1, 2), "a c ");     /* oldest first */
    assert_string_equal(old(&r, RUN, INT64_MIN, 2, 100), "a c d ");   /* e, f are kept; b lives */
    assert_string_equal(old(&r, RUN, INT64_MIN, 0, 100), "a c d e f ");
    assert_string_equal(old(&r, RUN, INT64_MIN, 6, 100), "");
    assert_string_equal(old(&r, RUN, 5000 + 'c', 4, 100), "a ");
    assert_string_equal(old(&r, REQ, INT64_MIN, 3, 100), "a c ");
    assert_string_equal(old(&r, REQ, 1000000, -1, 100), "a c d f ");
    assert_string_equal(old(&r, REQ, 77, -1, 100), ""); /* not strictly before */
    assert_true(rig_wait(&r, (put_prune_run(&r, "c"), put_prune(&r, "c"))));
    assert_string_equal(old(&r, RUN, INT64_MIN, 1, 100), "a d e ");
    assert_string_equal(old(&r, REQ, INT64_MIN, 1, 100), "a d ");
    rig_close(&r);
}

static void count_answer(void *arg, const struct store_fetched *f)
{
    int *n = arg;
    n[f->rc == 0 ? 0 : f->rc == ERR_CANCELED ? 1 : 2]++;
}

/* Each question is answered exactly once, also when the store is closed over it; and there is a limit. */
static void test_every_question_is_answered(void **state)
{
    (void)state;
    char url[512];
    struct rig r;
    struct err err;
    int n[3] = {0}, asked = 0, rc;
    struct store_query q = {.kind = STORE_QUERY_request, .id = "a"};

    suite_fresh(url, sizeof url);
    rig_init(&r, url);
    r.config.limit.fetch_max = 16;
    rig_start(&r);
    put_accept(&r, "a", 1);
    store_flush(r.store);
    while (!(rc = store_fetch(r.store, &q, count_answer, n, &err)))
        asked++;
    assert_int_equal(rc, ERR_LIMIT);
    assert_int_equal(asked, 16);
    rig_close(&r);
    assert_int_equal(n[0] + n[1], asked);
}

const struct CMUnitTest suite_run_tests[] = {
    cmocka_unit_test(test_run_round_trip),
    cmocka_unit_test(test_run_contradictions),
    cmocka_unit_test(test_a_batch_is_never_split),
    cmocka_unit_test(test_queries),
    cmocka_unit_test(test_list_of_runs),
    cmocka_unit_test(test_what_may_be_pruned),
    cmocka_unit_test(test_every_question_is_answered),
};
const size_t suite_n_run_test = sizeof suite_run_tests / sizeof suite_run_tests[0];
