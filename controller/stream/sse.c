#include "controller/stream/sse.h"

#include "common/text/json.h"

#include <string.h>

static void add_str_member(struct buf *out, const char *name, const char *value)
{
    if (!value)
        return;
    buf_addf(out, "\"%s\":", name);
    json_add_str(out, value, strlen(value));
    buf_add_char(out, ',');
}

void sse_init(struct sse *s, const struct sse_names *names)
{
    *s = (struct sse){.usage = names->include_usage};
    buf_add_str(&s->head, "data: {");
    add_str_member(&s->head, "id", names->id);
    buf_addf(&s->head, "\"object\":\"chat.completion.chunk\",\"created\":%lld,", (long long)names->created_s);
    add_str_member(&s->head, "model", names->model);
    add_str_member(&s->head, "system_fingerprint", names->fingerprint);
    add_str_member(&s->head, "service_tier", names->tier);
}

void sse_release(struct sse *s)
{
    buf_release(&s->head);
}

static void begin(const struct sse *s, struct buf *out, int choice)
{
    buf_add(out, s->head.data, s->head.len);
    buf_add_str(out, "\"choices\":[{\"index\":");
    buf_add_i64(out, choice);
    buf_add_str(out, ",\"delta\":{");
}

/* The end of an event. The id stands behind the data: whoever has read it has the data. */
static void end_event(struct sse *s, struct buf *out)
{
    buf_add_char(out, '\n');
    if (s->id) {
        buf_add_str(out, "id: ");
        buf_add_str(out, s->id);
        buf_add_char(out, '\n');
    }
    if (s->retry_ms)
        buf_addf(out, "retry: %d\n", s->retry_ms);
    s->retry_ms = 0;
    buf_add_char(out, '\n');
}

static void end(struct sse *s, struct buf *out, const struct buf *logprobs, const char *reason)
{
    buf_add_str(out, "},\"logprobs\":");
    if (logprobs && logprobs->len)
        buf_add(out, logprobs->data, logprobs->len);
    else
        buf_add_str(out, "null");
    buf_add_str(out, ",\"finish_reason\":");
    if (reason)
        json_add_str(out, reason, strlen(reason));
    else
        buf_add_str(out, "null");
    buf_add_str(out, s->usage ? "}],\"usage\":null}" : "}]}");
    end_event(s, out);
}

void sse_role(struct sse *s, struct buf *out, int choice)
{
    begin(s, out, choice);
    buf_add_str(out, "\"role\":\"assistant\",\"content\":\"\"");
    end(s, out, NULL, NULL);
}

void sse_reasoning(struct sse *s, struct buf *out, int choice, const char *text, size_t n,
                   const struct buf *logprobs)
{
    begin(s, out, choice);
    buf_add_str(out, "\"reasoning_content\":");
    json_add_str(out, text, n);
    end(s, out, logprobs, NULL);
}

void sse_content(struct sse *s, struct buf *out, int choice, const char *text, size_t n,
                 const struct buf *logprobs)
{
    begin(s, out, choice);
    buf_add_str(out, "\"content\":");
    json_add_str(out, text, n);
    end(s, out, logprobs, NULL);
}

void sse_call(struct sse *s, struct buf *out, int choice, int call, const char *id, const char *name, size_t n,
              const struct buf *logprobs)
{
    begin(s, out, choice);
    buf_add_str(out, "\"tool_calls\":[{\"index\":");
    buf_add_i64(out, call);
    buf_add_str(out, ",\"id\":");
    json_add_str(out, id, strlen(id));
    buf_add_str(out, ",\"type\":\"function\",\"function\":{\"name\":");
    json_add_str(out, name, n);
    buf_add_str(out, ",\"arguments\":\"\"}}]");
    end(s, out, logprobs, NULL);
}

void sse_arguments(struct sse *s, struct buf *out, int choice, int call, const char *json, size_t n,
                   const struct buf *logprobs)
{
    begin(s, out, choice);
    buf_add_str(out, "\"tool_calls\":[{\"index\":");
    buf_add_i64(out, call);
    buf_add_str(out, ",\"function\":{\"arguments\":");
    json_add_str(out, json, n);
    buf_add_str(out, "}}]");
    end(s, out, logprobs, NULL);
}

void sse_finish(struct sse *s, struct buf *out, int choice, const char *reason, const struct buf *logprobs)
{
    begin(s, out, choice);
    end(s, out, logprobs, reason);
}

void sse_usage(struct sse *s, struct buf *out, const char *usage, size_t n)
{
    buf_add(out, s->head.data, s->head.len);
    buf_add_str(out, "\"choices\":[],\"usage\":");
    buf_add(out, usage, n);
    buf_add_char(out, '}');
    end_event(s, out);
}

void sse_error(struct buf *out, const char *json, size_t n)
{
    buf_add_str(out, "data: ");
    buf_add(out, json, n);
    buf_add_str(out, "\n\n");
}

void sse_done(struct sse *s, struct buf *out)
{
    buf_add_str(out, "data: [DONE]");
    end_event(s, out);
}

void sse_comment(struct buf *out, const char *text)
{
    buf_add_str(out, ": ");
    buf_add_str(out, text);
    buf_add_char(out, '\n');
}
