/* controller/api/answer.h - the JSON of a chat completion: usage, logprobs, the whole answer.
 * Owns:     nothing.
 * Thread:   the loop.
 * Source:   spec/api.md 4.2.
 */
#ifndef CONTROLLER_API_ANSWER_H
#define CONTROLLER_API_ANSWER_H

#include "common/mem/buf.h"
#include "common/text/tok.h"
#include "controller/ledger/request.h"
#include "controller/stream/message.h"

struct answer_usage {
    int64_t prompt_tok, completion_tok, reasoning_tok, cached_tok;
    bool exact; /* ours: all attempts ran on workers of the same numerics */
    int64_t n_redispatched, recomputed_tok;
};

/* Append the usage object, with our addition "baton": {"exact", "redispatched", "recomputed_tokens"}. */
void answer_add_usage(const struct answer_usage *u, struct buf *out);

/* Append {"content":[...],"refusal":null} for the tokens [from, to) of a choice. All generated tokens have an entry,
 * those of the reasoning too. top_logprobs has n_top entries each. */
void answer_add_logprobs(const struct tok *tok, const struct ctl_output *o, int n_top, int64_t from, int64_t to,
                         struct buf *out);

struct answer_choice {
    const struct message *message;
    const char *call_prefix;     /* see message_add_openai */
    const struct buf *logprobs;  /* NULL: null */
    const char *finish_reason;
};

struct answer_names {
    const char *id, *model, *fingerprint, *tier;
    int64_t created_s;
};

/* Append the object chat.completion. fingerprint may be NULL. */
void answer_add(const struct answer_names *names, const struct answer_choice *choice, int n_choice,
                const struct answer_usage *usage, struct buf *out);

#endif
