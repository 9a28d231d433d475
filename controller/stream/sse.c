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

static void end(const struct sse *s, struct buf *out, const struct buf *logprobs, const char *reason)
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
    buf_add_str(out, s->usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
}

void sse_role(const struct sse *s, struct buf *out, int choice)
{
    begin(s, out, choice);
    buf_add_str(out, "\"role\":\"assistant\",\"content\":\"\"");
    end(s, out, NULL, NULL);
}

void sse_reasoning(const struct sse *s, struct buf *out, int choice, const char *text, size_t n,
                   const struct buf *logprobs)
{
    begin(s, out, choice);
    buf_add_str(out, "\"reasoning_content\":");
    json_add_str(out, text, n);
    end(s, out, logprobs, NULL);
}

void sse_content(const struct sse *s, struct buf *out, int choice, const char *text, size_t n,
                 const struct buf *logprobs)
{
    begin(s, out, choice);
    buf_add_str(out, "\"content\":");
    json_add_str(out, text, n);
    end(s, out, logprobs, NULL);
}

void sse_call(const struct sse *s, struct buf *out, int choice, int call, const char *id, const char *name, size_t n,
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

void sse_arguments(const struct sse *s, struct buf *out, int choice, int call, const char *json, size_t n,
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

void sse_finish(const struct sse *s, struct buf *out, int choice, const char *reason, const struct buf *logprobs)
{
    begin(s, out, choice);
    end(s, out, logprobs, reason);
}

void sse_usage(const struct sse *s, struct buf *out, const char *usage, size_t n)
{
    buf_add(out, s->head.data, s->head.len);
    buf_add_str(out, "\"choices\":[],\"usage\":");
    buf_add(out, usage, n);
    buf_add_str(out, "}\n\n");
}

void sse_error(struct buf *out, const char *json, size_t n)
{
    buf_add_str(out, "data: ");
    buf_add(out, json, n);
    buf_add_str(out, "\n\n");
}

void sse_done(struct buf *out)
{
    buf_add_str(out, "data: [DONE]\n\n");
}

void sse_comment(struct buf *out, const char *text)
{
    buf_add_str(out, ": ");
    buf_add_str(out, text);
    buf_add_str(out, "\n\n");
}
