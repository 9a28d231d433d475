#include "controller/api/chat_request.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "controller/api/fields.h"
#include "controller/ledger/request.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* ---- fields that are more than one value ---- */

static int bad(struct api_error *e, const char *param, const char *text)
{
    return api_error_set(e, API_ERROR_bad_request, param, "%s", text);
}

static int read_model(const struct json *v, void *to, struct api_error *e)
{
    struct chat_request *r = to;

    if (v->kind != JSON_STRING)
        return api_error_set(e, API_ERROR_bad_request, "model", "model has to be a string, not %s", json_kind_name(v));
    if (!json_is_str(v, r->rules->model_name))
        return api_error_set(e, API_ERROR_unknown_model, "model", "model '%.100s' is not served here; %.100s is",
                             v->text, r->rules->model_name);
    return 0;
}

static int add_stop(struct chat_request *r, const struct json *v, struct api_error *e)
{
    if (v->kind != JSON_STRING)
        return bad(e, "stop", "stop has to be a string or a list of strings");
    if (v->len == 0)
        return bad(e, "stop", "a stop string must not be empty");
    if (v->len > STOP_BYTES_MAX)
        return api_error_set(e, API_ERROR_bad_request, "stop", "a stop string has %zu bytes, the limit is %d", v->len,
                             STOP_BYTES_MAX);
    if (r->stops.n == STOP_STRINGS_MAX)
        return api_error_set(e, API_ERROR_bad_request, "stop", "more than %d stop strings", STOP_STRINGS_MAX);
    stop_set_add(&r->stops, v->text, v->len);
    return 0;
}

static int read_stop(const struct json *v, void *to, struct api_error *e)
{
    if (v->kind != JSON_ARRAY)
        return add_stop(to, v, e);
    for (const struct json *s = v->child; s; s = s->next) {
        int rc = add_stop(to, s, e);
        if (rc)
            return rc;
    }
    return 0;
}

/* A token id as a key: decimal digits without a sign. -1: none of this vocabulary. */
static int32_t id_of(const char *key, size_t len, int32_t n_vocab)
{
    int64_t id = 0;

    if (len == 0 || len > 9 || strspn(key, "0123456789") < len)
        return -1;
    for (size_t i = 0; i < len; i++)
        id = id * 10 + (key[i] - '0');
    return id < n_vocab ? (int32_t)id : -1;
}

static int read_logit_bias(const struct json *v, void *to, struct api_error *e)
{
    struct chat_request *r = to;
    int32_t n_vocab = tok_n_vocab(r->rules->tok);
    double bias;

    if (v->kind != JSON_OBJECT)
        return bad(e, "logit_bias", "logit_bias has to be an object: token id -> bias");
    if (v->n > MSG_BIAS_MAX)
        return api_error_set(e, API_ERROR_bad_request, "logit_bias", "logit_bias has %u entries, the limit is %d", v->n,
                             MSG_BIAS_MAX);
    r->bias = mem_array(v->n ? v->n : 1, sizeof *r->bias);
    for (const struct json *m = v->child; m; m = m->next) {
        int32_t id = id_of(m->key, m->key_len, n_vocab);
        if (id < 0)
            return api_error_set(e, API_ERROR_bad_request, "logit_bias", "'%.40s' is no token id below %d", m->key,
                                 n_vocab);
        if (!json_to_double(m, &bias) || bias < -100 || bias > 100)
            return api_error_set(e, API_ERROR_bad_request, "logit_bias",
                                 "the bias of token %d has to be a number from -100 to 100", id);
        for (int32_t i = 0; i < r->n_bias; i++)
            if (r->bias[i].id == id) /* "7" and "07" */
                return api_error_set(e, API_ERROR_bad_request, "logit_bias", "token %d is named twice", id);
        r->bias[r->n_bias++] = (struct msg_bias){id, (float)bias};
    }
    return 0;
}

static int read_stop_token_ids(const struct json *v, void *to, struct api_error *e)
{
    struct chat_request *r = to;
    int64_t id;

    if (v->kind != JSON_ARRAY || v->n > MSG_STOP_IDS_MAX)
        return api_error_set(e, API_ERROR_bad_request, "stop_token_ids",
                             "stop_token_ids has to be a list of up to %d token ids", MSG_STOP_IDS_MAX);
    for (const struct json *j = v->child; j; j = j->next) {
        if (!json_to_i64(j, &id) || id < 0 || id >= tok_n_vocab(r->rules->tok))
            return api_error_set(e, API_ERROR_bad_request, "stop_token_ids",
                                 "a stop token id has to be an integer below %d", tok_n_vocab(r->rules->tok));
        r->stop_id[r->n_stop_id++] = (int32_t)id;
    }
    return 0;
}

static int read_stream_options(const struct json *v, void *to, struct api_error *e)
{
    struct chat_request *r = to;
    const struct json *u = json_get(v, "include_usage");

    if (v->kind != JSON_OBJECT)
        return bad(e, "stream_options", "stream_options has to be an object");
    if (u && u->kind != JSON_NULL && !json_is_bool(u))
        return bad(e, "stream_options.include_usage", "include_usage has to be true or false");
    r->has_stream_options = true;
    r->include_usage = json_is(u, JSON_TRUE);
    return 0;
}

static int read_seed(const struct json *v, void *to, struct api_error *e)
{
    struct chat_request *r = to;

    if (!json_to_i64(v, &r->seed))
        return bad(e, "seed", "seed has to be an integer of 64 bits");
    r->has_seed = true;
    return 0;
}

static int read_response_format(const struct json *v, void *to, struct api_error *e)
{
    const struct json *type = json_get(v, "type");
    (void)to;

    if (json_is_str(type, "json_object") || json_is_str(type, "json_schema"))
        return api_error_set(e, API_ERROR_bad_request, "response_format",
                             "response_format %s is not supported yet: output cannot be forced to a form here",
                             type->text);
    if (!json_is_str(type, "text"))
        return bad(e, "response_format.type", "response_format.type has to be text, json_object or json_schema");
    return 0;
}

static int read_tool_choice(const struct json *v, void *to, struct api_error *e)
{
    const struct json *type = json_get(v, "type");
    (void)to;

    if (json_is_str(v, "none") || json_is_str(v, "auto"))
        return 0;
    if (json_is_str(v, "required") || json_is_str(type, "function") || json_is_str(type, "allowed_tools"))
        return api_error_set(e, API_ERROR_bad_request, "tool_choice",
                             "tool_choice %s is not supported yet: a call cannot be forced here",
                             v->kind == JSON_STRING ? "required" : type->text);
    return bad(e, "tool_choice", "tool_choice has to be none, auto, required, a function or allowed_tools");
}

static int read_service_tier(const struct json *v, void *to, struct api_error *e)
{
    static const struct {
        const char *name, *echo;
        int priority; /* lower goes first */
    } tiers[] = {{"auto", "default", 0}, {"default", "default", 0}, {"scale", "default", 0},
                 {"priority", "priority", -100}, {"flex", "flex", 100}};
    struct chat_request *r = to;

    for (size_t i = 0; i < N_ELEM(tiers); i++) {
        if (json_is_str(v, tiers[i].name)) {
            r->service_tier = tiers[i].echo;
            r->tier_priority = tiers[i].priority;
            return 0;
        }
    }
    return bad(e, "service_tier", "service_tier has to be auto, default, priority or flex");
}

static int read_modalities(const struct json *v, void *to, struct api_error *e)
{
    (void)to;
    if (v->kind == JSON_ARRAY && v->n == 1 && json_is_str(v->child, "text"))
        return 0;
    return bad(e, "modalities", "only [\"text\"] is supported");
}

/* ---- spec/api.md 4.1 as data ---- */

#define AT(member) offsetof(struct chat_request, member)

#define ACCEPT(name, kind, lo, hi) {#name, kind, API_ACCEPT, lo, hi, AT(name), NULL}
#define READ(name)                 {#name, API_READ, API_ACCEPT, 0, 0, 0, read_##name}
#define PROMPT(name)               {#name, API_ANY, API_PROMPT, 0, 0, 0, NULL}
#define IGNORE(name)               {#name, API_ANY, API_IGNORE, 0, 0, 0, NULL}
#define REFUSE(name)               {#name, API_ANY, API_REFUSE, 0, 0, 0, NULL}

static const struct api_field fields[] = {
    READ(model),
    PROMPT(messages),
    PROMPT(tools),
    PROMPT(thinking),
    PROMPT(reasoning_effort),
    PROMPT(chat_template_kwargs),
    PROMPT(continue_final_message),
    ACCEPT(max_completion_tokens, API_INT, 1, 1e9),
    ACCEPT(max_tokens, API_INT, 1, 1e9),
    ACCEPT(temperature, API_NUM, 0, 2),
    ACCEPT(top_p, API_NUM, 0, 1),
    ACCEPT(presence_penalty, API_NUM, -2, 2),
    ACCEPT(frequency_penalty, API_NUM, -2, 2),
    READ(seed),
    ACCEPT(n, API_INT, 1, 128),
    READ(stop),
    ACCEPT(logprobs, API_BOOL, 0, 0),
    ACCEPT(top_logprobs, API_INT, 0, MSG_TOP_MAX),
    READ(logit_bias),
    READ(response_format),
    READ(tool_choice),
    ACCEPT(parallel_tool_calls, API_BOOL, 0, 0),
    ACCEPT(stream, API_BOOL, 0, 0),
    READ(stream_options),
    READ(service_tier),
    READ(modalities),
    REFUSE(audio),
    REFUSE(web_search_options),
    REFUSE(functions),
    REFUSE(function_call),
    IGNORE(metadata),
    IGNORE(user),
    IGNORE(safety_identifier),
    IGNORE(prompt_cache_key),
    ACCEPT(store, API_BOOL, 0, 0),
    IGNORE(prediction),
    IGNORE(verbosity),
    IGNORE(prompt_cache_retention),
    IGNORE(moderation),
    ACCEPT(priority, API_INT, -1e6, 1e6),
    ACCEPT(deadline_ms, API_INT, 1, 86400000),
    ACCEPT(ignore_eos, API_BOOL, 0, 0),
    ACCEPT(min_tokens, API_INT, 0, 1e9),
    ACCEPT(top_k, API_INT, -1, 1e9),
    ACCEPT(min_p, API_NUM, 0, 1),
    ACCEPT(repetition_penalty, API_NUM, 0.01, 100),
    READ(stop_token_ids),
};

/* What no single field can tell. */
static int check_together(const struct chat_request *r, const struct json *body, struct api_error *e)
{
    int64_t max = chat_request_max_tokens(r);

    if (!json_get(body, "model") || json_is(json_get(body, "model"), JSON_NULL))
        return bad(e, "model", "model is missing");
    if (!json_get(body, "messages"))
        return bad(e, "messages", "messages is missing");
    if (r->top_logprobs > 0 && !r->logprobs)
        return bad(e, "top_logprobs", "top_logprobs needs logprobs to be true");
    if (r->has_stream_options && !r->stream)
        return bad(e, "stream_options", "stream_options is only for stream: true");
    if (r->n > r->rules->n_choices_max)
        return api_error_set(e, API_ERROR_bad_request, "n", "n is %lld, this server's limit is %lld", (long long)r->n,
                             (long long)r->rules->n_choices_max);
    if (max && r->min_tokens > max)
        return bad(e, "min_tokens", "min_tokens is larger than the limit on tokens");
    return 0;
}

/* ---- the whole ---- */

void chat_request_init(struct chat_request *r)
{
    *r = (struct chat_request){
        .temperature = 1,
        .top_p = 1,
        .repetition_penalty = 1,
        .n = 1,
        .parallel_tool_calls = true,
        .service_tier = "default",
    };
}

void chat_request_release(struct chat_request *r)
{
    stop_set_release(&r->stops);
    mem_free(r->bias);
    tok_ids_release(&r->prompt);
    arena_release(&r->arena);
    *r = (struct chat_request){0};
}

int64_t chat_request_max_tokens(const struct chat_request *r)
{
    return r->max_completion_tokens ? r->max_completion_tokens : r->max_tokens;
}

static int render(struct chat_request *r, const struct json *body, struct api_error *e)
{
    struct chat_prompt prompt = {0};
    struct chat_fault fault = {0};

    if (chat_render_api(body, r->rules->profile, &prompt, &fault) != 0)
        return api_error_set(e, API_ERROR_bad_request, fault.param, "%s", fault.err.text);
    tok_encode(r->rules->tok, prompt.text.data, prompt.text.len, prompt.guard, prompt.n_guard, &r->prompt);
    r->in_reasoning = prompt.in_reasoning;
    r->tools_on = prompt.tools_on;
    r->tools = prompt.tools_on ? json_get(body, "tools") : NULL;
    chat_prompt_release(&prompt);
    return 0;
}

int chat_request_read(struct chat_request *r, const struct chat_request_rules *rules, const char *text, size_t len,
                      struct api_error *e)
{
    const struct json *body;
    struct err err = {0};
    int rc;

    r->rules = rules;
    if (json_parse(text, len, 0, &r->arena, &body, &err) != 0)
        return api_error_set(e, API_ERROR_bad_request, NULL, "the body is no JSON: %s", err.text);
    if (body->kind != JSON_OBJECT)
        return api_error_set(e, API_ERROR_bad_request, NULL, "the body has to be a JSON object, not %s",
                             json_kind_name(body));
    if ((rc = api_fields_read(body, fields, N_ELEM(fields), r, e)) || (rc = check_together(r, body, e)) ||
        (rc = render(r, body, e)))
        return rc;
    if (r->want_hash)
        body_hash(body, r->body_hash);
    if (r->top_k < 0)
        r->top_k = 0;
    if (!r->tools) /* nothing points into the body any more */
        arena_release(&r->arena);
    r->rules = NULL;
    return 0;
}

void chat_request_give(struct chat_request *r, uint64_t seed, struct ctl_request *q)
{
    q->prompt = r->prompt.id;
    q->n_prompt = (int64_t)r->prompt.n;
    r->prompt = (struct tok_ids){0};
    q->sampling = (struct msg_sampling){
        .temperature = (float)r->temperature,
        .top_p = (float)r->top_p,
        .min_p = (float)r->min_p,
        .top_k = (int32_t)r->top_k,
        .presence_penalty = (float)r->presence_penalty,
        .frequency_penalty = (float)r->frequency_penalty,
        .repetition_penalty = (float)r->repetition_penalty,
        .seed = seed,
        .n_bias = r->n_bias,
        .bias = r->bias,
    };
    r->bias = NULL;
    q->min_output = r->min_tokens;
    q->ignore_eos = r->ignore_eos;
    q->n_stop_id = r->n_stop_id;
    memcpy(q->stop_id, r->stop_id, sizeof q->stop_id);
    q->priority = (int32_t)-(r->priority + r->tier_priority); /* ours: higher goes first */
}
