#include "controller/api/state.h"

#include "common/mem/mem.h"

#include <stdio.h>
#include <string.h>

void api_state_release(struct api_state *s)
{
    mem_free(s->model);
    *s = (struct api_state){0};
}

static void add_str(struct buf *out, const char *name, const char *value)
{
    buf_addf(out, ",\"%s\":", name);
    json_add_str(out, value, strlen(value));
}

static void add_flag(struct buf *out, const char *name, bool value)
{
    buf_addf(out, ",\"%s\":%s", name, value ? "true" : "false");
}

void api_state_add(const struct api_state *s, const struct chat_request *r, struct buf *out)
{
    buf_addf(out, "{\"v\":%d", API_STATE_VERSION);
    add_str(out, "hex", s->hex);
    add_str(out, "fingerprint", s->fingerprint);
    add_str(out, "tier", s->tier);
    add_str(out, "model", s->model);
    add_flag(out, "stream", s->stream);
    add_flag(out, "include_usage", s->include_usage);
    buf_addf(out, ",\"n\":%lld,\"top_logprobs\":%lld", (long long)r->n, (long long)r->top_logprobs);
    add_flag(out, "logprobs", r->logprobs);
    add_flag(out, "parallel_tool_calls", r->parallel_tool_calls);
    add_flag(out, "ignore_eos", r->ignore_eos);
    add_flag(out, "in_reasoning", r->in_reasoning);
    add_flag(out, "tools_on", r->tools_on);
    buf_add_str(out, ",\"stop\":[");
    for (int i = 0; i < r->stops.n; i++) {
        if (i)
            buf_add_char(out, ',');
        json_add_str(out, r->stops.string[i].text, r->stops.string[i].n);
    }
    buf_add_char(out, ']');
    if (r->tools) {
        buf_add_str(out, ",\"tools\":");
        json_add(out, r->tools);
    }
    buf_add_char(out, '}');
}

static int copy_str(const struct json *j, char *to, size_t size)
{
    if (!json_is(j, JSON_STRING) || j->len >= size || strlen(j->text) != j->len)
        return ERR_FORMAT;
    memcpy(to, j->text, j->len + 1);
    return 0;
}

static bool flag(const struct json *root, const char *name)
{
    return json_is(json_get(root, name), JSON_TRUE);
}

static int read_stops(const struct json *list, struct chat_request *r)
{
    for (const struct json *s = list ? list->child : NULL; s; s = s->next) {
        if (s->kind != JSON_STRING || s->len == 0 || s->len > STOP_BYTES_MAX || r->stops.n == STOP_STRINGS_MAX)
            return ERR_FORMAT;
        stop_set_add(&r->stops, s->text, s->len);
    }
    return 0;
}

static int read_root(const struct json *root, struct api_state *s, struct chat_request *r)
{
    const struct json *model = json_get(root, "model"), *tools = json_get(root, "tools");

    if (copy_str(json_get(root, "hex"), s->hex, sizeof s->hex) || strlen(s->hex) != sizeof s->hex - 1 ||
        copy_str(json_get(root, "fingerprint"), s->fingerprint, sizeof s->fingerprint) ||
        copy_str(json_get(root, "tier"), s->tier, sizeof s->tier) || !json_is(model, JSON_STRING) ||
        !json_to_i64(json_get(root, "n"), &r->n) || r->n < 1 || r->n > 128 ||
        !json_to_i64(json_get(root, "top_logprobs"), &r->top_logprobs) || r->top_logprobs < 0 ||
        r->top_logprobs > MSG_TOP_MAX || (tools && tools->kind != JSON_ARRAY) ||
        read_stops(json_get(root, "stop"), r))
        return ERR_FORMAT;
    s->model = mem_strdup(model->text);
    s->stream = flag(root, "stream");
    s->include_usage = flag(root, "include_usage");
    r->logprobs = flag(root, "logprobs");
    r->parallel_tool_calls = flag(root, "parallel_tool_calls");
    r->ignore_eos = flag(root, "ignore_eos");
    r->in_reasoning = flag(root, "in_reasoning");
    r->tools_on = flag(root, "tools_on");
    r->tools = tools;
    return 0;
}

int api_state_read(const void *text, size_t n, struct api_state *s, struct chat_request *r, struct err *err)
{
    const struct json *root;
    int64_t v;

    int rc = json_parse(text, n, 0, &r->arena, &root, err);
    if (rc)
        return err_wrap(err, "the kept state");
    if (!json_to_i64(json_get(root, "v"), &v))
        return err_set(err, ERR_FORMAT, "the kept state has no version");
    if (v != API_STATE_VERSION)
        return err_set(err, ERR_VERSION, "the kept state has version %lld, this program knows %d", (long long)v,
                       API_STATE_VERSION);
    if (read_root(root, s, r))
        return err_set(err, ERR_FORMAT, "the kept state is damaged");
    if (!r->tools)
        arena_release(&r->arena);
    return 0;
}
