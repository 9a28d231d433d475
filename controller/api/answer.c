#include "controller/api/answer.h"

#include "common/text/json.h"
#include "common/text/utf8.h"

#include <math.h>
#include <string.h>

void answer_add_usage(const struct answer_usage *u, struct buf *out)
{
    buf_addf(out, "{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,", (long long)u->prompt_tok,
             (long long)u->completion_tok, (long long)(u->prompt_tok + u->completion_tok));
    buf_addf(out, "\"prompt_tokens_details\":{\"cached_tokens\":%lld},", (long long)u->cached_tok);
    buf_addf(out, "\"completion_tokens_details\":{\"reasoning_tokens\":%lld},", (long long)u->reasoning_tok);
    buf_addf(out, "\"prompt_cache_hit_tokens\":%lld,\"prompt_cache_miss_tokens\":%lld,", (long long)u->cached_tok,
             (long long)(u->prompt_tok - u->cached_tok));
    buf_addf(out, "\"baton\":{\"exact\":%s,\"redispatched\":%lld,\"recomputed_tokens\":%lld}}",
             u->exact ? "true" : "false", (long long)u->n_redispatched, (long long)u->recomputed_tok);
}

/* "token":..,"logprob":..,"bytes":[..]  A token that is no whole character has U+FFFD in `token`; `bytes` tells.
 * Special tokens have no text of their own. */
static void add_token(const struct tok *tok, int32_t id, float logprob, struct buf *out)
{
    struct buf text = {0};
    size_t n = 0;
    const char *bytes = tok_is_special(tok, id) ? "" : tok_bytes(tok, id, &n);

    if (bytes)
        utf8_add_replaced(&text, bytes, n);
    buf_add_str(out, "\"token\":");
    json_add_str(out, text.data ? text.data : "", text.len);
    /* JSON has no infinity: OpenAI uses -9999 for "never". Adding 0 makes -0 a plain 0. */
    buf_addf(out, ",\"logprob\":%.9g,\"bytes\":[", isfinite(logprob) ? (double)logprob + 0.0 : -9999.0);
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_add_char(out, ',');
        buf_add_i64(out, (unsigned char)bytes[i]);
    }
    buf_add_char(out, ']');
    buf_release(&text);
}

void answer_add_logprobs(const struct tok *tok, const struct ctl_output *o, int n_top, int64_t from, int64_t to,
                         struct buf *out)
{
    buf_add_str(out, "{\"content\":[");
    for (int64_t i = from; i < to; i++) {
        buf_add_str(out, i > from ? ",{" : "{");
        add_token(tok, o->id[i], o->logprob[i], out);
        buf_add_str(out, ",\"top_logprobs\":[");
        for (int k = 0; k < n_top && o->top[i * n_top + k].id >= 0; k++) {
            buf_add_str(out, k ? ",{" : "{");
            add_token(tok, o->top[i * n_top + k].id, o->top[i * n_top + k].logprob, out);
            buf_add_char(out, '}');
        }
        buf_add_str(out, "]}");
    }
    buf_add_str(out, "],\"refusal\":null}");
}

static void add_str_member(struct buf *out, const char *name, const char *value)
{
    if (!value)
        return;
    buf_addf(out, "\"%s\":", name);
    json_add_str(out, value, strlen(value));
    buf_add_char(out, ',');
}

void answer_add(const struct answer_names *names, const struct answer_choice *choice, int n_choice,
                const struct answer_usage *usage, struct buf *out)
{
    buf_add_char(out, '{');
    add_str_member(out, "id", names->id);
    buf_addf(out, "\"object\":\"chat.completion\",\"created\":%lld,", (long long)names->created_s);
    add_str_member(out, "model", names->model);
    add_str_member(out, "system_fingerprint", names->fingerprint);
    add_str_member(out, "service_tier", names->tier);
    buf_add_str(out, "\"choices\":[");
    for (int i = 0; i < n_choice; i++) {
        buf_addf(out, "%s{\"index\":%d,\"message\":", i ? "," : "", i);
        message_add_openai(choice[i].message, choice[i].call_prefix, out);
        buf_add_str(out, ",\"logprobs\":");
        if (choice[i].logprobs)
            buf_add(out, choice[i].logprobs->data, choice[i].logprobs->len);
        else
            buf_add_str(out, "null");
        buf_addf(out, ",\"finish_reason\":\"%s\"}", choice[i].finish_reason);
    }
    buf_add_str(out, "],\"usage\":");
    answer_add_usage(usage, out);
    buf_add_char(out, '}');
}
