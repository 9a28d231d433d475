/* controller/prompt/chat.h - the chat encoding of DeepSeek-V4: messages -> prompt text.
 * Owns:     nothing; results lie in the caller's struct.
 * Lifetime: chat_prompt_release ends a result.
 * Thread:   any (pure functions).
 * Limits:   CHAT_MESSAGES_MAX messages, CHAT_TOOLS_MAX tools; the caller bounds the body.
 * Source:   spec/chat.md; vectors tests/vectors/chat.jsonl (all levels).
 */
#ifndef CONTROLLER_PROMPT_CHAT_H
#define CONTROLLER_PROMPT_CHAT_H

#include "common/base/err.h"
#include "common/mem/buf.h"
#include "common/text/json.h"
#include "common/text/tok.h"

#include <stdbool.h>

enum { CHAT_MESSAGES_MAX = 65536, CHAT_TOOLS_MAX = 1024, CHAT_PARAM_MAX = 96 };

/* Which generation of the encoder a checkpoint needs (spec/chat.md section 6). */
enum chat_profile { CHAT_PREVIEW, CHAT_0731 };

/* A rendered prompt and what the rest of the way has to know about it. */
struct chat_prompt {
    struct buf text;
    struct tok_span *guard; /* client text: no added token may start here (section 9) */
    size_t n_guard, cap_guard;
    bool in_reasoning;      /* the prompt ended in <think>: the parser starts in state R */
    bool tools_on;          /* tools were offered: the parser reads tool calls (rules 4-10) */
};
void chat_prompt_release(struct chat_prompt *p);

/* Where in the request an error lies ("messages[2].role"), for the `param` of an API error. "" if nowhere. */
struct chat_fault {
    struct err err;
    char param[CHAT_PARAM_MAX];
};

/* Level `api`: the body of POST /v1/chat/completions. 0 or ERR_ARG with fault filled. */
int chat_render_api(const struct json *request, enum chat_profile profile, struct chat_prompt *out,
                    struct chat_fault *fault);

/* Level `encoder`: an object with messages, context, thinking, effort, drop_thinking, add_bos as in chat.jsonl.
 * No guards. */
int chat_render_encoder(const struct json *input, enum chat_profile profile, struct chat_prompt *out,
                        struct chat_fault *fault);

/* Level `completion`: body of POST /v1/completions with a text prompt and perhaps a suffix (section 8 rule 11). */
int chat_render_completion(const struct json *request, struct chat_prompt *out, struct chat_fault *fault);

#endif
