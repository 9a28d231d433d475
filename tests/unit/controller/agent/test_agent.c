/* Proves: the room in a real controller with a real store: a run of no effects is one transaction; a tool begins after
 * its started row is committed and its result is there after the controller was closed in the middle; limits and inputs
 * are refused; keys find their run; everything closes cleanly. How: a controller without HTTP and workers on a loop of
 * the test's, SQLite in a temporary folder. */
#include "controller/agent/agent.h"
#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "common/text/json.h"
#include "controller/store/store.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WAIT_MS = 20000 };

struct box {
    uv_loop_t loop;
    struct ctl *ctl;
    char store[128], log[128];
    bool closed;
    int n_told, rc;
};

/* A front that has nothing to do. */
static int front_open(struct ctl *ctl, struct ctl_front **front, struct err *err)
{
    (void)ctl, (void)err;
    *front = mem_alloc(1);
    return 0;
}
static void front_turn(struct ctl_front *front)
{
    (void)front;
}
static int front_port(const struct ctl_front *front)
{
    (void)front;
    return 0;
}
static bool front_idle(const struct ctl_front *front)
{
    (void)front;
    return true;
}
static void front_close(struct ctl_front **front, void (*on_closed)(void *arg), void *arg)
{
    mem_free(*front);
    *front = NULL;
    on_closed(arg);
}
static const struct ctl_front_ops front_ops = {.open = front_open, .turn = front_turn, .drain = front_turn,
                                               .port = front_port, .idle = front_idle, .close = front_close};

static void box_start(struct box *b)
{
    const struct ctl_parts parts = {.front = &front_ops, .agent = &agent_ops};
    struct ctl_config config;
    struct err err = {0};

    assert_int_equal(uv_loop_init(&b->loop), 0);
    ctl_config_init(&config);
    config.store = b->store;
    config.limit.run_live_max = 3;
    if (ctl_open_with(&b->loop, &config, &parts, &b->ctl, &err))
        fail_msg("%s", err.text);
}

static void on_box_closed(void *arg)
{
    ((struct box *)arg)->closed = true;
}

static void box_stop(struct box *b)
{
    b->closed = false;
    ctl_close(&b->ctl, on_box_closed, b);
    uv_run(&b->loop, UV_RUN_DEFAULT);
    assert_true(b->closed);
    assert_int_equal(uv_loop_close(&b->loop), 0);
}

static void until(struct box *b, bool (*cond)(struct box *))
{
    for (uint64_t end = uv_hrtime() / 1000000 + WAIT_MS; !cond(b);) {
        if (uv_hrtime() / 1000000 > end)
            fail_msg("not in time");
        uv_run(&b->loop, UV_RUN_NOWAIT);
        usleep(500);
    }
}

static bool no_run(struct box *b)
{
    return agent_n_live(ctl_agent(b->ctl)) == 0;
}

static bool is_told(struct box *b)
{
    return b->n_told > 0;
}

static bool log_is_there(struct box *b)
{
    return access(b->log, F_OK) == 0;
}

static void on_told(void *arg, int rc)
{
    struct box *b = arg;
    b->n_told++;
    b->rc = rc;
}

static int create(struct box *b, const char *text, const char *key, struct agent_live **live, struct err *err)
{
    struct agent *a = ctl_agent(b->ctl);
    struct agent_plan *plan;

    if (agent_plan_get(a, text, strlen(text), "/tmp", &plan, NULL, err))
        fail_msg("%s", err->text);
    int rc = agent_create(a, &(struct agent_new){.tenant = "-", .key = key, .plan = plan}, live, err);
    agent_plan_drop(a, &plan);
    return rc;
}

static void test_transaction(void **state)
{
    static const char text[] = "pipeline: p\nsteps:\n- {id: a, join: 1}\n- {id: b, join: '{{ steps.a.output }}'}\n";
    struct box *b = *state;
    struct agent_live *live;
    struct store_status st;
    struct err err = {0};

    box_start(b);
    store_status(ctl_store(b->ctl), &st);
    uint64_t before = st.n_commit;
    assert_int_equal(create(b, text, "k", &live, &err), 0);
    assert_int_equal(agent_live_run(live)->end, AGENT_RUN_done);
    assert_ptr_equal(agent_find_key(ctl_agent(b->ctl), "-", "k"), live);
    assert_null(agent_find_key(ctl_agent(b->ctl), "x", "k"));
    assert_ptr_equal(agent_find(ctl_agent(b->ctl), agent_live_id(live)), live);
    b->n_told = 0;
    agent_on_end(ctl_agent(b->ctl), live, on_told, b);
    until(b, is_told);
    assert_int_equal(b->rc, 0);
    until(b, no_run);
    store_status(ctl_store(b->ctl), &st);
    assert_int_equal(st.n_commit - before, 1);
    assert_int_equal(st.n_refused, 0);
    box_stop(b);
}

static void test_limits(void **state)
{
    static const char wait[] = "pipeline: p\nsteps:\n- {id: a, wait: {ms: 60000}}\n";
    struct box *b = *state;
    struct agent_live *live;
    struct err err = {0};

    box_start(b);
    assert_int_equal(create(b, "pipeline: p\ninputs: {n: {type: integer}}\nsteps:\n- {id: a, join: 1}\n", NULL, &live,
                            &err), ERR_ARG);
    for (int i = 0; i < 3; i++)
        assert_int_equal(create(b, wait, NULL, &live, &err), 0);
    assert_int_equal(create(b, wait, NULL, &live, &err), ERR_LIMIT);
    b->n_told = 0;
    agent_cancel(ctl_agent(b->ctl), live, "enough");
    agent_on_end(ctl_agent(b->ctl), live, on_told, b);
    until(b, is_told);
    assert_int_equal(create(b, wait, NULL, &live, &err), 0);
    b->n_told = 0;
    agent_after(ctl_agent(b->ctl), on_told, b);
    until(b, is_told);
    b->n_told = 0;
    agent_on_end(ctl_agent(b->ctl), live, on_told, b);
    box_stop(b); /* whoever waits is told that it ends */
    assert_int_equal(b->n_told, 1);
    assert_int_equal(b->rc, ERR_CANCELED);
    box_start(b);
    assert_int_equal(agent_n_live(ctl_agent(b->ctl)), 3);
    for (struct agent_live *l = NULL; (l = agent_next(ctl_agent(b->ctl), l));)
        agent_cancel(ctl_agent(b->ctl), l, "enough");
    until(b, no_run);
    box_stop(b);
}

/* Closed while its tool runs: the next process runs it again under the same token. */
static void test_tool_over_a_stop(void **state)
{
    struct box *b = *state;
    struct agent_live *live;
    struct err err = {0};
    char text[512], line[256], token[STORE_ID_MAX + STORE_PATH_MAX], path[64] = "a";

    snprintf(text, sizeof text,
             "pipeline: p\nsteps:\n- id: a\n  tool: {command: [/bin/sh, -c, 'echo $BATON_EFFECT_TOKEN >> %s; "
             "[ $(/usr/bin/wc -l < %s) -gt 1 ] || /bin/sleep 30; echo 5']}\n", b->log, b->log);
    box_start(b);
    assert_int_equal(create(b, text, NULL, &live, &err), 0);
    agent_effect_token(agent_live_id(live), path, token);
    assert_int_equal(agent_n_effect(ctl_agent(b->ctl)), 1);
    until(b, log_is_there);
    box_stop(b);
    box_start(b);
    assert_int_equal(agent_n_live(ctl_agent(b->ctl)), 1);
    until(b, no_run);
    box_stop(b);
    FILE *f = fopen(b->log, "r");
    assert_non_null(f);
    for (int i = 0; i < 2; i++) {
        assert_non_null(fgets(line, sizeof line, f));
        line[strcspn(line, "\n")] = '\0';
        assert_string_equal(line, token);
    }
    assert_null(fgets(line, sizeof line, f));
    fclose(f);
}

static int setup(void **state)
{
    static struct box b;
    char folder[] = "/tmp/baton-agent-XXXXXX";

    signal(SIGPIPE, SIG_IGN);
    if (!mkdtemp(folder))
        return -1;
    b = (struct box){0};
    snprintf(b.store, sizeof b.store, "%s/store.db", folder);
    snprintf(b.log, sizeof b.log, "%s/log", folder);
    *state = &b;
    return 0;
}

static int teardown(void **state)
{
    struct box *b = *state;
    char command[256];

    snprintf(command, sizeof command, "rm -r $(dirname %s)", b->store);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_transaction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tool_over_a_stop, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
