/* controller/api/chat_request.h - the body of POST /v1/chat/completions -> everything a generation needs.
 * Owns:     struct chat_request its stop strings, biases, prompt tokens and (for tools) the parsed body.
 * Lifetime: chat_request_init .. chat_request_release.
 * Thread:   any; chat_request_read is a pure function of its input and may run on the thread pool.
 * Limits:   the body by the HTTP server; JSON depth, messages, tools, stop strings, biases by named constants.
 * Source:   spec/api.md 4.1; the table in chat_request.c.
 */
#ifndef CONTROLLER_API_CHAT_REQUEST_H
#define CONTROLLER_API_CHAT_REQUEST_H

#include "common/mem/arena.h"
#include "common/text/json.h"
#include "common/text/tok.h"
#include "controller/api/body_hash.h"
#include "controller/api/error.h"
#include "controller/prompt/chat.h"
#include "controller/stream/stop.h"
#include "proto/codec/msg.h"

#include <stdbool.h>
#include <stdint.h>

/* What the reading needs to know of the server; constant. */
struct chat_request_rules {
    const struct tok *tok;
    const char *model_name;
    enum chat_profile profile;
    int64_t n_choices_max;
};

struct ctl_request;

struct chat_request {
    /* as the client said, or the default */
    int64_t max_completion_tokens, max_tokens; /* 0: absent */
    double temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty;
    int64_t top_k; /* 0: off */
    bool has_seed;
    int64_t seed;
    int64_t n;
    bool logprobs;
    int64_t top_logprobs;
    bool stream, has_stream_options, include_usage;
    bool parallel_tool_calls;
    int64_t priority; /* as vLLM: lower goes first */
    int64_t tier_priority;
    const char *service_tier; /* what is echoed; a static string */
    int64_t deadline_ms;      /* from arrival; 0: the configured default */
    bool ignore_eos;
    int64_t min_tokens;
    bool store; /* keep it: a client that hangs up does not cancel it */
    /* made from it */
    struct stop_set stops;
    struct msg_bias *bias; /* [n_bias] */
    int32_t n_bias;
    int32_t stop_id[MSG_STOP_IDS_MAX];
    int32_t n_stop_id;
    struct tok_ids prompt;
    bool want_hash; /* set before reading: body_hash is wanted */
    uint8_t body_hash[BODY_HASH_BYTES];
    bool in_reasoning, tools_on;
    const struct json *tools; /* in arena; NULL if none are on */
    struct arena arena;
    const struct chat_request_rules *rules; /* while reading */
};

void chat_request_init(struct chat_request *r);
void chat_request_release(struct chat_request *r);

/* Read, check, render and tokenize body[0..len). 0, or ERR_ARG and *e. */
int chat_request_read(struct chat_request *r, const struct chat_request_rules *rules, const char *body, size_t len,
                      struct api_error *e);

/* Move prompt and biases into q and set what both agree about: sampling with this seed, least output, stop ids,
 * priority. The caller sets the rest: names, max_output, n_top, deadline, events. */
void chat_request_give(struct chat_request *r, uint64_t seed, struct ctl_request *q);

/* Tokens the client allows, 0 if it did not say. */
int64_t chat_request_max_tokens(const struct chat_request *r);

#endif
