#include "controller/stream/message.h"

#include "common/base/check.h"
#include "common/base/err.h"
#include "common/mem/mem.h"
#include "common/text/json.h"
#include "common/text/utf8.h"

void message_release(struct message *m)
{
    for (int i = 0; i < m->n_call; i++) {
        buf_release(&m->call[i].name);
        buf_release(&m->call[i].arguments);
    }
    mem_free(m->call);
    buf_release(&m->reasoning);
    buf_release(&m->content);
    *m = (struct message){0};
}

static void on_reasoning(void *arg, const char *text, size_t n)
{
    struct message *m = arg;
    buf_add(&m->reasoning, text, n);
}

static void on_content(void *arg, const char *text, size_t n)
{
    struct message *m = arg;
    buf_add(&m->content, text, n);
}

static void on_call(void *arg, int call, const char *name, size_t n)
{
    struct message *m = arg;

    ASSERT(call == m->n_call);
    if (m->n_call == m->cap_call) {
        m->cap_call = m->cap_call ? m->cap_call * 2 : 4;
        m->call = mem_realloc(m->call, (size_t)m->cap_call * sizeof *m->call);
    }
    m->call[m->n_call] = (struct message_call){0};
    buf_add(&m->call[m->n_call++].name, name, n);
}

static void on_arguments(void *arg, int call, const char *json, size_t n)
{
    struct message *m = arg;
    ASSERT(call == m->n_call - 1);
    buf_add(&m->call[call].arguments, json, n);
}

static void on_call_end(void *arg, int call, bool complete)
{
    struct message *m = arg;
    ASSERT(call == m->n_call - 1);
    m->call[call].complete = complete;
}

const struct parse_events message_events = {
    .on_reasoning = on_reasoning,
    .on_content = on_content,
    .on_call = on_call,
    .on_arguments = on_arguments,
    .on_call_end = on_call_end,
};

const char *message_finish_reason(const struct message *m, bool at_eos)
{
    if (!at_eos)
        return "length";
    for (int i = 0; i < m->n_call; i++)
        if (m->call[i].complete)
            return "tool_calls";
    return "stop";
}

static void add_string(struct buf *out, const struct buf *text)
{
    json_add_str(out, text->data ? text->data : "", text->len);
}

/* `, "name": "text"` */
static void add_member(struct buf *out, const char *name, const struct buf *text)
{
    buf_addf(out, ", \"%s\": ", name);
    add_string(out, text);
}

void message_add(const struct message *m, bool at_eos, struct buf *out)
{
    buf_add_str(out, "{\"reasoning_content\": ");
    add_string(out, &m->reasoning);
    add_member(out, "content", &m->content);
    buf_add_str(out, ", \"tool_calls\": [");
    for (int i = 0; i < m->n_call; i++) {
        buf_add_str(out, i ? ", {\"name\": " : "{\"name\": ");
        add_string(out, &m->call[i].name);
        add_member(out, "arguments", &m->call[i].arguments);
        buf_addf(out, ", \"complete\": %s}", m->call[i].complete ? "true" : "false");
    }
    buf_addf(out, "], \"finish_reason\": \"%s\"}", message_finish_reason(m, at_eos));
}

void message_add_openai(const struct message *m, const char *id_prefix, struct buf *out)
{
    struct buf id = {0};

    buf_add_str(out, "{\"role\": \"assistant\", \"content\": ");
    if (m->content.len == 0 && (m->n_call || m->reasoning.len))
        buf_add_str(out, "null");
    else
        add_string(out, &m->content);
    buf_add_str(out, ", \"refusal\": null");
    if (m->reasoning.len)
        add_member(out, "reasoning_content", &m->reasoning);
    for (int i = 0; i < m->n_call; i++) {
        buf_clear(&id);
        buf_add_str(&id, id_prefix);
        buf_add_i64(&id, i);
        buf_add_str(out, i ? ", {\"id\": " : ", \"tool_calls\": [{\"id\": ");
        add_string(out, &id);
        buf_add_str(out, ", \"type\": \"function\", \"function\": {\"name\": ");
        add_string(out, &m->call[i].name);
        add_member(out, "arguments", &m->call[i].arguments);
        buf_add_str(out, "}}");
    }
    buf_add_str(out, m->n_call ? "]}" : "}");
    buf_release(&id);
}

int parse_whole(const struct parse_opts *opts, const char *text, size_t n, bool at_eos, struct buf *message_json)
{
    struct message m = {0};

    if (n && !utf8_is_valid(text, n))
        return ERR_FORMAT;
    struct parse *p = parse_new(opts, &message_events, &m);
    parse_feed(p, text, n);
    parse_end(p);
    message_add(&m, at_eos, message_json);
    parse_destroy(&p);
    message_release(&m);
    return 0;
}
