/* Proves the life of a controller: opening fails without a trace, closing in the middle of everything ends every
 * handle and frees everything (the sanitizer looks), several live in one process, and the status JSON has what
 * `baton ps` shows. How: real loops; scripted workers.
 */
#include "tests/unit/controller/rig.h"

#include <string.h>

static struct rig rig, other;

static void test_defaults(void **state)
{
    (void)state;
    struct ctl_config c;
    ctl_config_init(&c);
    assert_int_equal(c.limit.lost_ms, 1000);
    assert_int_equal(c.limit.queue_max, 1024);
    assert_string_equal(c.http_host, "127.0.0.1");
    assert_null(c.model_dir);
}

static int front_open_fails(struct ctl *ctl, struct ctl_front **front, struct err *err)
{
    (void)ctl, (void)front;
    return err_set(err, ERR_NET, "port 80 is in use");
}

static void on_closed(void *arg)
{
    *(bool *)arg = true;
}

static void test_open_fails_without_a_trace(void **state)
{
    (void)state;
    static const struct ctl_front_ops ops = {.open = front_open_fails};
    const struct ctl_parts parts = {.front = &ops};
    struct ctl_config config;
    struct ctl *ctl = NULL;
    struct err err;
    uv_loop_t loop;

    assert_int_equal(uv_loop_init(&loop), 0);
    ctl_config_init(&config);
    assert_int_equal(ctl_open_with(&loop, &config, &parts, &ctl, &err), ERR_NET);
    assert_string_equal(err.text, "port 80 is in use");
    assert_null(ctl);
    config.worker_endpoint = "tcp://nowhere";
    assert_int_equal(ctl_open_with(&loop, &config, &parts, &ctl, &err), ERR_NET);
    config.limit.lost_ms = config.limit.heartbeat_ms;
    assert_int_equal(ctl_open_with(&loop, &config, &parts, &ctl, &err), ERR_ARG);
    assert_non_null(strstr(err.text, "lost_ms"));
    config.limit.lost_ms = 1000;
    config.limit.queue_max = -1;
    assert_int_equal(ctl_open_with(&loop, &config, &parts, &ctl, &err), ERR_ARG);
    assert_non_null(strstr(err.text, "queue_max"));
    assert_null(ctl);
    uv_run(&loop, UV_RUN_DEFAULT); /* what was opened closes */
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void test_close_in_the_middle(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    for (int i = 0; i < 2; i++)
        rig_worker_join(rig_worker_init(&rig, i));
    struct rig_req *r = rig_start(&rig, 40, 500); /* some run, some wait */
    rig_until(&rig, r->heard[0].n_tok >= 3);
    rig_worker_kill(&rig.worker[0]); /* a loss that is not noticed yet */
    rig_start(&rig, 3, 5);           /* not dispatched yet */
    rig_close(&rig);
    assert_null(r->req);
}

static void test_close_at_once(void **state)
{
    (void)state;
    bool closed = false;
    rig_init(&rig);
    rig_open(&rig);
    ctl_close(&rig.ctl, on_closed, &closed);
    ctl_close(&rig.ctl, on_closed, &closed); /* again: nothing */
    rig_until(&rig, closed);
    rig.closed = true;
    rig_close(&rig);
}

static void test_two_in_one_process(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_init(&other);
    rig_open(&rig);
    rig_open(&other);
    assert_string_not_equal(ctl_worker_endpoint(rig.ctl), ctl_worker_endpoint(other.ctl));
    rig_worker_join(rig_worker_init(&other, 0));
    assert_true(ctl_is_ready(other.ctl));
    assert_false(ctl_is_ready(rig.ctl));
    rig_close(&rig);
    struct rig_req *r = rig_start(&other, 1, 5);
    rig_until(&other, r->n_ended == 1);
    rig_close(&other);
}

static double number(const struct json *root, const char *group, const char *name)
{
    double v = -1;
    const struct json *j = json_get(json_get(root, group), name);
    if (!json_to_double(j, &v))
        fail_msg("%s.%s is %s", group, name, json_kind_name(j));
    return v;
}

static void test_status(void **state)
{
    (void)state;
    static const char *const worker_numbers[] = {"pid",       "epoch",          "running", "waiting", "kv_blocks",
                                                 "kv_blocks_free", "kv_free", "last_heartbeat_ms", "tokens_total"};
    struct buf out = {0};
    struct arena arena = {0};
    const struct json *root;
    struct err err;
    double v;

    rig_init(&rig);
    rig.config.model_name = NULL;
    rig.config.model_dir = "/models/Deep\"Seek//";
    rig_open(&rig);
    struct rig_worker *w = rig_worker_init(&rig, 0);
    w->manual = true;
    w->hello.n_seq_max = 1;
    rig_worker_join(w);
    struct rig_req *r = rig_start(&rig, 3, 5);
    rig_until(&rig, w->n_generate == 1);
    rig_worker_tokens(w, w->epoch, "req-1.0", 1, r->req->choice[0].seed, 0, 2);
    rig_until(&rig, r->heard[0].n_tok == 2);

    ctl_status_json(rig.ctl, &out);
    assert_int_equal(json_parse(out.data, out.len, JSON_NO_REPEATED_KEYS, &arena, &root, &err), 0);
    assert_true(number(root, "controller", "pid") > 0);
    assert_true(number(root, "controller", "uptime_ms") >= 0);
    assert_true(number(root, "controller", "queue") == 2);
    assert_true(json_is_str(json_get(json_get(root, "controller"), "model"), "Deep\"Seek"));
    assert_true(json_is(json_get(json_get(root, "controller"), "version"), JSON_STRING));
    assert_true(number(root, "streams", "running") == 1);
    assert_true(number(root, "streams", "queued") == 2);
    assert_true(number(root, "counters", "tokens") == 2);
    assert_true(number(root, "counters", "failovers") == 0);
    const struct json *jw = json_at(json_get(root, "workers"), 0);
    assert_true(json_is_str(json_get(jw, "state"), "ready"));
    assert_true(json_is_str(json_get(jw, "domain"), "d0"));
    for (size_t i = 0; i < N_ELEM(worker_numbers); i++)
        assert_true(json_to_double(json_get(jw, worker_numbers[i]), &v));
    buf_release(&out);
    arena_release(&arena);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),      cmocka_unit_test(test_open_fails_without_a_trace),
        cmocka_unit_test(test_close_in_the_middle), cmocka_unit_test(test_close_at_once),
        cmocka_unit_test(test_two_in_one_process),  cmocka_unit_test(test_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
