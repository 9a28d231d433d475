/* Proves what happens to an accepted choice: dispatch within credits, each index once, the same output over losses,
 * stale and broken replies, retries and their budget, quarantine, deadlines, queue limit, cancel. How: a whole
 * controller on a real loop, scripted workers over tcp (tests/unit/controller/rig.h).
 */
#include "tests/unit/controller/rig.h"

#include "controller/sched/sched.h"

#include <stdio.h>
#include <string.h>

static struct rig rig;

static struct rig_worker *worker(int i)
{
    struct rig_worker *w = rig_worker_init(&rig, i);
    rig_worker_join(w);
    return w;
}

static struct rig_worker *manual_worker(int i)
{
    struct rig_worker *w = rig_worker_init(&rig, i);
    w->manual = true;
    rig_worker_join(w);
    return w;
}

static void test_one_request(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *w = worker(0);
    struct rig_req *r = rig_request(&rig, 2, 10, 5000);
    struct msg_bias bias[] = {{7, -3.5f}};
    r->req->sampling.bias = mem_dup(bias, sizeof bias);
    r->req->sampling.n_bias = 1;
    r->req->priority = 4;
    r->req->stop_id[0] = 11;
    r->req->n_stop_id = 1;
    r->req->min_output = 3;
    assert_int_equal(rig_submit(r, NULL), 0);
    rig_until(&rig, r->n_ended == 2);
    rig_assert_output(r, CTL_END_length, 10);
    assert_int_equal(w->n_generate, 2);
    assert_int_equal(w->last.n_tok, 3);
    assert_int_equal(w->last.n_committed, 0);
    assert_int_equal(w->last.attempt, 1);
    assert_int_equal(w->last.priority, 4);
    assert_int_equal(w->last.n_stop_id, 1);
    assert_int_equal(w->last.stop_id[0], 11);
    assert_int_equal(w->last.min_output, 3);
    assert_int_equal(w->last.sampling.n_bias, 1);
    assert_int_equal(w->last.sampling.seed, r->req->choice[1].seed); /* seed + index of the choice */
    assert_true(w->last.deadline_ms > 4000 && w->last.deadline_ms <= 5000);
    assert_int_equal(w->last_tok[2], 3);
    assert_string_equal(w->last.request, "req-1.1");
    assert_int_equal(r->req->choice[0].cached_tok, 2);
    assert_true(r->req->choice[0].exact);
    assert_int_equal(rig_counts(&rig)->tokens, 20);
    rig_close(&rig);
}

static void test_stale_repeat_gap(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *w = manual_worker(0);
    struct rig_req *r = rig_start(&rig, 1, 8);
    struct ctl_choice *c = &r->req->choice[0];
    rig_until(&rig, w->n_generate == 1);

    rig_worker_tokens(w, w->epoch, c->name, 1, c->seed, 0, 2);
    rig_worker_tokens(w, w->epoch, c->name, 1, c->seed, 0, 2);   /* repeated */
    rig_worker_tokens(w, w->epoch, c->name, 9, c->seed, 2, 1);   /* attempt that never was */
    rig_worker_tokens(w, w->epoch, "nobody.0", 1, c->seed, 2, 1); /* request that never was */
    rig_worker_tokens(w, w->epoch, c->name, 1, c->seed, 2, 1);
    rig_until(&rig, c->out.n == 3);
    assert_int_equal(rig_counts(&rig)->stale_tokens_dropped, 4);
    assert_int_equal(rig_counts(&rig)->violations, 0);

    /* A gap fails the attempt; the only worker gets it again, with what is committed. */
    rig_worker_tokens(w, w->epoch, c->name, 1, c->seed, 5, 1);
    rig_until(&rig, w->n_generate == 2);
    assert_int_equal(rig_counts(&rig)->violations, 1);
    assert_int_equal(w->n_cancel, 1);
    assert_int_equal(w->last.attempt, 2);
    assert_int_equal(w->last.n_committed, 3);
    assert_int_equal(w->last.n_tok, 6);
    assert_int_equal(r->heard[0].n_redispatch, 1);
    assert_int_equal(c->recomputed_tok, 3);

    /* What attempt 1 still says is void; more than was asked for, and an end that does not match, fail it too. */
    rig_worker_tokens(w, w->epoch, c->name, 1, c->seed, 3, 1);
    rig_worker_tokens(w, w->epoch, c->name, 2, c->seed, 3, 6);
    rig_until(&rig, w->n_generate == 3);
    assert_int_equal(c->out.n, 3);
    rig_worker_tokens(w, w->epoch, c->name, 3, c->seed, 3, 5);
    rig_worker_finished(w, c->name, 3, 7);
    rig_until(&rig, r->n_ended == 1); /* complete: a wrong count changes nothing any more */
    rig_assert_output(r, CTL_END_length, 8);
    assert_int_equal(rig_counts(&rig)->violations, 3);
    rig_close(&rig);
}

static void test_loss_moves_on(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *a = manual_worker(0);
    struct rig_req *r = rig_start(&rig, 1, 20);
    struct ctl_choice *c = &r->req->choice[0];
    rig_until(&rig, a->n_generate == 1);
    rig_worker_tokens(a, a->epoch, c->name, 1, c->seed, 0, 5);
    rig_until(&rig, c->out.n == 5);
    struct rig_worker *b = worker(1);

    /* The end of the connection is enough: long before lost_ms the other one has it, with all that is committed. */
    int64_t at = rig_now(&rig);
    rig_worker_tokens(a, a->epoch, c->name, 1, c->seed, 5, 1); /* its last words may count or not */
    rig_worker_kill(a);
    rig_until(&rig, b->n_generate == 1);
    assert_true(rig_now(&rig) - at < rig.config.limit.lost_ms);
    assert_true(b->last.n_committed == 5 || b->last.n_committed == 6);
    assert_int_equal(b->last.n_tok, 3 + b->last.n_committed);
    assert_int_equal(b->last.attempt, 2);
    rig_until(&rig, r->n_ended == 1);
    rig_assert_output(r, CTL_END_length, 20);
    assert_int_equal(r->heard[0].n_redispatch, 1);
    assert_int_equal(c->n_dispatch, 2);
    assert_int_equal(c->recomputed_tok, b->last.n_committed);
    assert_true(c->exact);
    assert_int_equal(rig_counts(&rig)->lost, 1);
    assert_int_equal(rig_counts(&rig)->failovers, 1);
    assert_int_equal(rig_counts(&rig)->redispatched, 1);
    rig_close(&rig);
}

/* All tokens were there, only the end was not: nothing is left to generate. */
static void test_loss_after_the_last_token(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *a = manual_worker(0), *b = manual_worker(1);
    struct rig_req *r = rig_start(&rig, 1, 4);
    struct ctl_choice *c = &r->req->choice[0];
    rig_until(&rig, a->n_generate + b->n_generate == 1);
    struct rig_worker *w = a->n_generate ? a : b;
    rig_worker_tokens(w, w->epoch, c->name, 1, c->seed, 0, 4);
    rig_until(&rig, c->out.n == 4);
    rig_worker_kill(w);
    rig_until(&rig, r->n_ended == 1);
    rig_assert_output(r, CTL_END_length, 4);
    assert_int_equal(a->n_generate + b->n_generate, 1);
    assert_int_equal(r->heard[0].n_redispatch, 0);
    rig_close(&rig);
}

static void test_other_numerics_is_told(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *a = manual_worker(0), *b = rig_worker_init(&rig, 1);
    struct rig_req *r = rig_start(&rig, 1, 6);
    struct ctl_choice *c = &r->req->choice[0];
    rig_until(&rig, a->n_generate == 1);
    rig_worker_tokens(a, a->epoch, c->name, 1, c->seed, 0, 1);
    rig_until(&rig, c->out.n == 1);
    snprintf(b->hello.numerics, sizeof b->hello.numerics, "cpu-avx2");
    rig_worker_join(b);
    rig_worker_kill(a);
    rig_until(&rig, r->n_ended == 1);
    rig_assert_output(r, CTL_END_length, 6);
    assert_false(c->exact);
    rig_close(&rig);
}

static void test_no_worker_waits_until_one_joins(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_req *r = rig_start(&rig, 1, 5);
    rig_run_ms(&rig, 100);
    assert_int_equal(r->n_ended, 0);
    worker(0);
    rig_until(&rig, r->n_ended == 1);
    rig_assert_output(r, CTL_END_length, 5);
    rig_close(&rig);
}

static void test_deadlines(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    int64_t start = rig_now(&rig);
    struct rig_req *none = rig_request(&rig, 2, 5, 150);
    assert_int_equal(rig_submit(none, NULL), 0);
    rig_until(&rig, none->n_ended == 2);
    int64_t took = none->heard[0].ended_at_ms - start;
    assert_true(took >= 150 && took < 1000);
    rig_assert_output(none, CTL_END_deadline, 0);
    assert_non_null(strstr(none->req->choice[0].fail_text, "no worker"));

    struct rig_worker *w = manual_worker(0);
    struct rig_req *late = rig_request(&rig, 1, 5, 150);
    assert_int_equal(rig_submit(late, NULL), 0);
    rig_until(&rig, w->n_generate == 1);
    rig_worker_tokens(w, w->epoch, "req-2.0", 1, late->req->choice[0].seed, 0, 2);
    rig_until(&rig, late->n_ended == 1);
    rig_assert_output(late, CTL_END_deadline, 2);
    rig_until(&rig, w->n_cancel == 1);
    assert_string_equal(w->canceled, "req-2.0");
    rig_close(&rig);
}

static void test_quarantine_after_two_deaths(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    for (int i = 0; i < 3; i++) {
        struct rig_worker *w = rig_worker_init(&rig, i);
        w->dies_on_generate = true;
        rig_worker_join(w);
    }
    struct rig_req *r = rig_start(&rig, 1, 5);
    rig_until(&rig, r->n_ended == 1);
    rig_assert_output(r, CTL_END_quarantined, 0);
    assert_int_equal(r->req->choice[0].n_death, 2);
    assert_non_null(strstr(r->req->choice[0].fail_text, "2 workers died"));
    assert_int_equal(rig_counts(&rig)->quarantined, 1);
    int n_alive = 0;
    for (int i = 0; i < 3; i++)
        n_alive += rig.worker[i].socket != NULL;
    assert_int_equal(n_alive, 1); /* the third was spared */
    rig_close(&rig);
}

/* Two losses in a row are no proof against the many that were there both times: all of them end well. */
static void test_company_is_not_blamed(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *a = manual_worker(0);
    struct rig_req *r = rig_start(&rig, 6, 5);
    rig_until(&rig, a->n_generate == 6);
    struct rig_worker *b = manual_worker(1);
    rig_worker_kill(a);
    rig_until(&rig, b->n_generate == 6);
    struct rig_worker *c = worker(2);
    rig_worker_kill(b);
    rig_until(&rig, r->n_ended == 6);
    rig_assert_output(r, CTL_END_length, 5);
    assert_int_equal(c->n_generate, 6);
    assert_int_equal(rig_counts(&rig)->quarantined, 0);
    rig_close(&rig);
}

/* The culprit among six is found; its five neighbours end well, and it costs no more workers than it must. */
static void test_culprit_in_company(void **state)
{
    (void)state;
    rig_init(&rig);
    rig.config.limit.lost_ms = 2000; /* what is tested is the socket's end */
    rig_open(&rig);
    struct rig_worker *w[4];
    for (int i = 0; i < 4; i++) {
        w[i] = rig_worker_init(&rig, i);
        w[i]->manual = true;
        w[i]->hello.n_seq_max = 6;
        if (i < 2)
            rig_worker_join(w[i]);
    }
    struct rig_req *r = rig_start(&rig, 6, 3);
    rig_until(&rig, w[0]->n_generate + w[1]->n_generate == 6);
    rig_worker_kill(w[0]);
    rig_until(&rig, w[1]->n_generate == 6);
    rig_worker_kill(w[1]); /* three of them have two deaths now, in company */
    rig_worker_join(w[2]);
    rig_until(&rig, w[2]->n_generate >= 1);
    /* From here on the workers serve, but die as soon as they are given the poisoned one. */
    for (int i = 2; i < 4; i++) {
        if (i == 3)
            rig_worker_join(w[i]);
        int64_t done = rig_now(&rig) + RIG_WAIT_MS;
        while (r->n_ended < 6 && rig_now(&rig) < done) {
            struct ctl_choice *p = &r->req->choice[3];
            if (p->state == CTL_CHOICE_running && strcmp(p->worker->hello.worker, w[i]->hello.worker) == 0) {
                rig_worker_kill(w[i]);
                break;
            }
            for (int k = 0; k < 6; k++) {
                struct ctl_choice *c = &r->req->choice[k];
                if (k == 3 || c->state != CTL_CHOICE_running || c->out.n || !c->worker || c->worker->gone)
                    continue;
                rig_worker_tokens(w[i], w[i]->epoch, c->name, c->attempt, c->seed, 0, 3);
                rig_worker_finished(w[i], c->name, c->attempt, 3);
            }
            rig_run_ms(&rig, 10);
        }
    }
    worker(4); /* for those who were waiting for their turn on probation */
    rig_until(&rig, r->n_ended == 6);
    for (int k = 0; k < 6; k++)
        assert_int_equal(r->heard[k].end, k == 3 ? CTL_END_quarantined : CTL_END_length);
    assert_true(r->req->choice[3].n_death <= 3);
    rig_close(&rig);
}

static void test_queue_full(void **state)
{
    (void)state;
    struct err err;
    rig_init(&rig);
    rig.config.limit.queue_max = 3;
    rig_open(&rig);
    struct rig_req *a = rig_start(&rig, 2, 5);
    assert_int_equal(rig_submit(rig_request(&rig, 2, 5, 0), &err), ERR_LIMIT);
    assert_non_null(strstr(err.text, "queue_max"));
    struct rig_req *b = rig_start(&rig, 1, 5);
    worker(0);
    rig_until(&rig, a->n_ended == 2 && b->n_ended == 1);
    rig_start(&rig, 3, 5); /* there is room again */
    rig_close(&rig);
}

static void test_requests_that_cannot_be(void **state)
{
    (void)state;
    struct err err;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_req *before = rig_start(&rig, 1, 5000); /* no worker yet: nobody knows that it is too long */
    worker(0);
    rig_until(&rig, before->n_ended == 1);
    rig_assert_output(before, CTL_END_invalid, 0);
    assert_non_null(strstr(before->req->choice[0].fail_text, "4096"));
    assert_int_equal(rig_submit(rig_request(&rig, 1, 4094, 0), &err), ERR_ARG);
    assert_int_equal(rig_submit(rig_request(&rig, 1, 0, 0), &err), ERR_ARG);
    struct rig_req *twice = rig_request(&rig, 1, 5, 0), *once = rig_start(&rig, 1, 5);
    memcpy(twice->req->id, once->req->id, sizeof once->req->id);
    assert_int_equal(rig_submit(twice, &err), ERR_ARG);
    assert_non_null(strstr(err.text, "in use"));
    struct rig_req *name = rig_request(&rig, 1, 5, 0);
    memset(name->req->id, 'x', sizeof name->req->id - 1);
    assert_int_equal(rig_submit(name, &err), ERR_ARG);
    struct rig_req *unsayable = rig_start(&rig, 1, 5);
    unsayable->req->sampling.top_p = 7; /* outside the wire's limits: found when it is to be sent */
    rig_until(&rig, unsayable->n_ended == 1 && once->n_ended == 1);
    rig_assert_output(unsayable, CTL_END_invalid, 0);
    assert_non_null(strstr(unsayable->req->choice[0].fail_text, "top_p"));
    rig_close(&rig);
}

static void test_cancel_reaches_the_worker(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *w = worker(0);
    w->tick_ms = 20;
    w->hello.n_seq_max = 1;
    rig_worker_join(w); /* again, with one credit */
    struct rig_req *r = rig_start(&rig, 1, 1000), *next = rig_start(&rig, 1, 2);
    rig_until(&rig, r->heard[0].n_tok >= 2);
    int64_t events = rig.events;
    ctl_request_drop(&r->req);
    assert_null(r->req);
    rig_until(&rig, w->n_cancel == 1);
    assert_string_equal(w->canceled, "req-1.0");
    rig_until(&rig, next->n_ended == 1); /* the credit was free at once */
    rig_assert_output(next, CTL_END_length, 2);
    assert_false(r->heard[0].ended); /* no events after the drop */
    assert_true(rig.events - events <= 3);

    /* A stop string: the front ends the choice from within on_tokens. */
    struct rig_req *s = rig_request(&rig, 1, 1000, 0);
    s->finish_at = 3;
    assert_int_equal(rig_submit(s, NULL), 0);
    rig_until(&rig, w->n_cancel == 2);
    assert_int_equal(s->heard[0].n_tok, 3);
    assert_int_equal(s->req->choice[0].end, CTL_END_stop);
    assert_int_equal(s->req->n_live, 0);
    ctl_choice_finish(&s->req->choice[0], CTL_END_canceled); /* no-op: it has ended */
    assert_int_equal(s->req->choice[0].end, CTL_END_stop);
    struct rig_req *queued = rig_start(&rig, 3, 5);
    ctl_request_drop(&queued->req); /* before it was sent */
    rig_run_ms(&rig, 50);
    assert_int_equal(w->n_generate, 3);
    rig_close(&rig);
}

static void test_failures(void **state)
{
    (void)state;
    rig_init(&rig);
    rig.config.limit.dispatch_max = 3;
    rig.config.limit.retry_ms = 5;
    rig_open(&rig);
    struct rig_worker *a = manual_worker(0), *b = manual_worker(1);

    /* The worker's fault: the other one gets it. */
    struct rig_req *r = rig_start(&rig, 1, 4);
    struct ctl_choice *c = &r->req->choice[0];
    rig_until(&rig, a->n_generate == 1);
    rig_worker_failed(a, c->name, 1, MSG_FAIL_worker, "step failed");
    rig_until(&rig, b->n_generate == 1);
    assert_int_equal(r->heard[0].n_redispatch, 1);
    rig_worker_failed(a, c->name, 1, MSG_FAIL_worker, "said twice"); /* stale */
    rig_worker_failed(b, c->name, 2, MSG_FAIL_overload, "full");
    rig_until(&rig, a->n_generate == 2);
    rig_worker_failed(a, c->name, 3, MSG_FAIL_worker, "step failed again");
    rig_until(&rig, r->n_ended == 1);
    rig_assert_output(r, CTL_END_failed, 0);
    assert_non_null(strstr(c->fail_text, "step failed again"));
    assert_int_equal(c->n_dispatch, 3);

    /* The client's fault: nobody else is asked. */
    struct rig_req *bad = rig_start(&rig, 1, 4);
    rig_until(&rig, a->n_generate + b->n_generate == 4);
    struct rig_worker *w = a->n_generate == 3 ? a : b;
    rig_worker_failed(w, "req-2.0", 1, MSG_FAIL_client, "token 5 is not in the vocabulary");
    rig_until(&rig, bad->n_ended == 1);
    rig_assert_output(bad, CTL_END_invalid, 0);
    assert_string_equal(bad->req->choice[0].fail_text, "token 5 is not in the vocabulary");
    rig_close(&rig);
}

/* The budget is for attempts that bring nothing: a stream that moves on survives more losses than dispatch_max. */
static void test_progress_renews_the_budget(void **state)
{
    (void)state;
    rig_init(&rig);
    rig.config.limit.dispatch_max = 2;
    rig_open(&rig);
    struct rig_req *r = rig_start(&rig, 1, 8);
    struct ctl_choice *c = &r->req->choice[0];
    for (int i = 0; i < 8; i++) {
        struct rig_worker *w = manual_worker(i % 2);
        rig_until(&rig, w->n_generate == 1);
        assert_int_equal(w->last.n_committed, i);
        rig_worker_tokens(w, w->epoch, c->name, c->attempt, c->seed, i, 1);
        rig_until(&rig, c->out.n == i + 1);
        rig_worker_kill(w);
    }
    rig_until(&rig, r->n_ended == 1);
    rig_assert_output(r, CTL_END_length, 8);
    assert_int_equal(c->n_dispatch, 8);
    rig_close(&rig);
}

static void test_credits_and_priority(void **state)
{
    (void)state;
    rig_init(&rig);
    rig_open(&rig);
    struct rig_worker *w = rig_worker_init(&rig, 0);
    w->manual = true;
    w->hello.n_seq_max = 2;
    rig_worker_join(w);
    rig_start(&rig, 2, 3);
    rig_until(&rig, w->n_generate == 2);
    struct rig_req *low = rig_start(&rig, 1, 3), *high = rig_request(&rig, 1, 3, 0);
    high->req->priority = 1;
    assert_int_equal(rig_submit(high, NULL), 0);
    rig_run_ms(&rig, 100);
    assert_int_equal(w->n_generate, 2); /* no more than its credits */
    rig_worker_failed(w, "req-1.0", 1, MSG_FAIL_client, "no");
    rig_until(&rig, w->n_generate == 3);
    assert_string_equal(w->last.request, high->req->choice[0].name);
    rig_worker_failed(w, "req-1.1", 1, MSG_FAIL_client, "no");
    rig_until(&rig, w->n_generate == 4);
    assert_string_equal(w->last.request, low->req->choice[0].name);
    rig_close(&rig);
}

/* The promise as a whole: 64 choices on 3 workers, two of them die in the middle, one comes back. */
static void test_64_choices_two_losses(void **state)
{
    (void)state;
    enum { N = 64, TOK = 40 };
    rig_init(&rig);
    rig.config.limit.lost_ms = 2000;
    rig_open(&rig);
    for (int i = 0; i < 3; i++)
        worker(i);
    struct rig_req *r[N];
    for (int i = 0; i < N; i++)
        r[i] = rig_start(&rig, 1, TOK);
    rig_until(&rig, rig_counts(&rig)->tokens > N * TOK / 6);
    rig_worker_kill(&rig.worker[0]);
    rig_run_ms(&rig, 15);
    rig_worker_kill(&rig.worker[1]);
    rig_run_ms(&rig, 30);
    worker(0);
    int n_moved = 0;
    for (int i = 0; i < N; i++)
        rig_until(&rig, r[i]->n_ended == 1);
    for (int i = 0; i < N; i++) {
        rig_assert_output(r[i], CTL_END_length, TOK);
        n_moved += r[i]->heard[0].n_redispatch > 0;
    }
    assert_true(n_moved >= 8); /* at least what was on the first worker */
    assert_int_equal(rig_counts(&rig)->tokens, N * TOK);
    assert_int_equal(rig_counts(&rig)->lost, 2);
    assert_int_equal(rig_counts(&rig)->violations, 0);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_request),
        cmocka_unit_test(test_stale_repeat_gap),
        cmocka_unit_test(test_loss_moves_on),
        cmocka_unit_test(test_loss_after_the_last_token),
        cmocka_unit_test(test_other_numerics_is_told),
        cmocka_unit_test(test_no_worker_waits_until_one_joins),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_quarantine_after_two_deaths),
        cmocka_unit_test(test_company_is_not_blamed),
        cmocka_unit_test(test_culprit_in_company),
        cmocka_unit_test(test_queue_full),
        cmocka_unit_test(test_requests_that_cannot_be),
        cmocka_unit_test(test_cancel_reaches_the_worker),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_progress_renews_the_budget),
        cmocka_unit_test(test_credits_and_priority),
        cmocka_unit_test(test_64_choices_two_losses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
