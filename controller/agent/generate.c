/* A generation of a step: the same request that a client would make, submitted to the back by the controller itself. */
#include "controller/agent/agent_internal.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/mem/mem.h"

#include <stdio.h>
#include <string.h>

static int64_t loop_ms(struct agent *a)
{
    return (int64_t)uv_now(ctl_loop(a->ctl));
}

void agent__generate_read(struct agent_effect *e)
{
    e->read_rc = chat_request_read(&e->chat, &e->agent->rules, e->body.data, e->body.len, &e->error);
}

void agent__generate_release(struct agent_effect *e)
{
    if (e->kind != AGENT_ASK_generate)
        return;
    ASSERT(!e->req);
    stream_text_destroy(&e->text);
    message_release(&e->message);
    chat_request_release(&e->chat);
    buf_release(&e->body);
}

/* It cannot be submitted: the attempt failed. */
static void refuse(struct agent_effect *e, enum fault fault, const char *text)
{
    struct agent_outcome o = {.fault = fault, .text = text};

    if (!agent__has_room(e->agent)) { /* told as soon as there is room */
        e->outcome = o;
        e->outcome.text = arena_strdup(&e->arena, text);
        agent__effect_move(e, AGENT_EFFECT_ended);
        agent__effect_queue(e);
        return;
    }
    agent__effect_tell(e, &o);
    agent__effect_free(e);
}

/* ---- the answer ---- */

static void feed(struct agent_effect *e, struct ctl_choice *c, int64_t upto)
{
    if (upto <= e->n_fed)
        return;
    enum stream_text_end end = stream_text_feed(e->text, c->out.id + e->n_fed, upto - e->n_fed);
    e->n_fed = upto;
    if (end != STREAM_TEXT_OPEN)
        ctl_choice_stop(c);
}

static void on_arrived(void *arg, struct ctl_choice *c, int64_t first, int64_t n)
{
    struct agent_effect *e = arg;
    if (e->state == AGENT_EFFECT_running)
        feed(e, c, first + n);
}

/* All calls of the message are whole. */
static bool calls_are_whole(const struct message *m)
{
    for (int i = 0; i < m->n_call; i++)
        if (!m->call[i].complete)
            return false;
    return true;
}

/* The output is final: the step's outcome. Called in the turn that puts the end into the batch. */
static void conclude(struct agent_effect *e, struct ctl_choice *c)
{
    struct agent_outcome o = {0};
    struct buf message = {0};
    char prefix[STORE_ID_MAX + 8];

    if (e->state != AGENT_EFFECT_running)
        return;
    feed(e, c, c->out.n);
    stream_text_finish(e->text);
    o.usage = (struct store_usage){e->req->n_prompt, stream_text_n_tok(e->text), c->cached_tok,
                                   stream_text_n_reasoning(e->text)};
    c->reasoning_tok = o.usage.reasoning_tok;
    if (c->end == CTL_END_deadline) {
        o.fault = FAULT_timeout;
        o.text = "the generation took longer than its timeout_ms";
    } else if (c->end != CTL_END_stop && c->end != CTL_END_length) {
        o.fault = FAULT_generate;
        o.text = c->fail_text[0] ? c->fail_text : ctl_end_name(c->end);
    } else if (!calls_are_whole(&e->message)) {
        o.fault = FAULT_generate;
        o.text = "the output ends inside a tool call; allow more max_tokens";
    } else {
        snprintf(prefix, sizeof prefix, "call_%s_", e->request);
        message_add_openai(&e->message, prefix, &message);
        o.message = message.data;
        o.content = e->message.content.data ? e->message.content.data : "";
        o.n_content = e->message.content.len;
    }
    agent__effect_tell(e, &o);
    buf_release(&message);
}

static void on_ending(void *arg, struct ctl_choice *c)
{
    conclude(arg, c);
}

static void on_tokens(void *arg, struct ctl_choice *c, int64_t first, int64_t n)
{
    on_arrived(arg, c, first, n); /* of a recovered request: everything from index 0 */
}

static void on_end(void *arg, struct ctl_choice *c)
{
    struct agent_effect *e = arg;

    conclude(e, c); /* it never came into the store: refused */
    ctl_request_drop(&e->req);
    agent__effect_free(e);
}

static const struct ctl_request_events events = {
    .on_tokens = on_tokens, .on_end = on_end, .on_arrived = on_arrived, .on_ending = on_ending};

/* ---- to the back ---- */

static struct ctl_request *make_request(struct agent_effect *e, int64_t max_output)
{
    struct chat_request *r = &e->chat;
    struct ctl_request *q = ctl_request_new(1);

    snprintf(q->id, sizeof q->id, "%s", e->request);
    /* Without a seed of the plan's one that is a function of the request's name: the same after a restart. */
    chat_request_give(r, r->has_seed ? (uint64_t)r->seed : fnv1a_str(e->request), q);
    q->max_output = max_output;
    q->origin = CTL_ORIGIN_agent;
    q->keep = true;
    snprintf(q->tenant, sizeof q->tenant, "%s", e->live->tenant);
    snprintf(q->path, sizeof q->path, "/v1/runs");
    q->events = &events;
    q->arg = e;
    return q;
}

/* Loop time by which it must have ended: the attempt's time, counted from its started row, and the run's. */
static int64_t deadline_of(struct agent_effect *e)
{
    int64_t until = e->live->run.deadline_ms;

    if (e->timeout_ms && e->node->attempt_ms + e->timeout_ms < until)
        until = e->node->attempt_ms + e->timeout_ms;
    int64_t left = until - clock_wall_ms();
    return loop_ms(e->agent) + (left > 1 ? left : 1);
}

static void make_text(struct agent_effect *e)
{
    struct chat_request *r = &e->chat;
    struct stream_text_opts o = {
        .tok = e->agent->rules.tok,
        .stops = &r->stops,
        .parse = {r->in_reasoning, r->tools_on, r->tools},
        .ignore_eos = r->ignore_eos,
        .n_call_max = r->parallel_tool_calls ? 0 : 1,
    };
    e->text = stream_text_new(&o, &message_events, &e->message);
}

/* Tokens that may come, 0: not known yet, -1: refused. */
static int64_t max_output_of(struct agent_effect *e)
{
    int64_t context = ctl_context_max(e->agent->ctl), n_prompt = (int64_t)e->chat.prompt.n;
    int64_t max = chat_request_max_tokens(&e->chat);
    char text[160];

    if (context == 0)
        return max;
    if (n_prompt + (max ? max : 1) > context) {
        snprintf(text, sizeof text, "the prompt has %lld tokens and %lld more are allowed: the context has %lld tokens",
                 (long long)n_prompt, (long long)max, (long long)context);
        refuse(e, FAULT_client, text);
        return -1;
    }
    return max ? max : context - n_prompt;
}

static void hold(struct agent_effect *e)
{
    struct agent *a = e->agent;

    agent__effect_queue(e);
    if (!a->held_at_ms)
        a->held_at_ms = loop_ms(a) + AGENT_HELD_MS;
}

static void submit(struct agent_effect *e)
{
    struct agent *a = e->agent;
    struct err err = {0};
    int64_t max = max_output_of(e);

    if (max < 0)
        return;
    if (max == 0 || a->draining || !agent__has_room(a) || ctl_store_fault(a->ctl)) {
        hold(e);
        return;
    }
    struct ctl_request *q = make_request(e, max), *plain = q;
    q->deadline_ms = deadline_of(e);
    int rc = ctl_request_submit(a->ctl, &q, &err);
    if (rc == 0) {
        e->req = plain;
        make_text(e);
        agent__effect_move(e, AGENT_EFFECT_running);
        return;
    }
    /* Its parts are wanted again for the next try. */
    e->chat.prompt = (struct tok_ids){.id = q->prompt, .n = (size_t)q->n_prompt, .cap = (size_t)q->n_prompt};
    e->chat.bias = (struct msg_bias *)(uintptr_t)q->sampling.bias;
    q->prompt = NULL;
    q->sampling.bias = NULL;
    ctl_request_destroy(&q);
    if (rc == ERR_STATE)
        hold(e);
    else
        refuse(e, rc == ERR_LIMIT ? FAULT_busy : FAULT_client, err.text);
}

void agent__generate_start(struct agent_effect *e)
{
    struct ctl_request *q = ctl_request_find(e->agent->ctl, e->request);

    if (!e->has_read) {
        agent__generate_read(e);
        e->has_read = true;
    }
    if (e->read_rc) {
        refuse(e, FAULT_client, e->error.message);
    } else if (q && q->recovered && !q->events) { /* of the process before us: it went on by itself */
        e->req = q;
        make_text(e);
        agent__effect_move(e, AGENT_EFFECT_running);
        ctl_request_attach(q, &events, e);
    } else {
        submit(e);
    }
}
