/* controller/stream/message.h - a whole message: the sum of what the parser gives out, and its JSON.
 * Owns:     its texts.
 * Lifetime: {0} is an empty message; message_release ends it.
 * Thread:   one at a time.
 * Limits:   those of the generated text.
 * Source:   spec/chat.md section 7 (the non-streamed message is the sum of the streamed deltas), spec/api.md 4.2.
 */
#ifndef CONTROLLER_STREAM_MESSAGE_H
#define CONTROLLER_STREAM_MESSAGE_H

#include "common/mem/buf.h"
#include "controller/stream/parse.h"

#include <stdbool.h>
#include <stddef.h>

struct message_call {
    struct buf name, arguments;
    bool complete; /* its invoke was closed; else arguments is the beginning of a JSON text */
};

struct message {
    struct buf reasoning, content;
    struct message_call *call;
    int n_call, cap_call;
};

void message_release(struct message *m);

/* Collects into a struct message: parse_new(opts, &message_events, &message). */
extern const struct parse_events message_events;

/* Rule 12. at_eos: the model or a stop string ended the generation, not the limit. "stop", "length" or "tool_calls". */
const char *message_finish_reason(const struct message *m, bool at_eos);

/* Append the message in the form of `expect` in tests/vectors/parse.jsonl, which `baton parse` prints:
 * {"reasoning_content", "content", "tool_calls": [{"name", "arguments", "complete"}], "finish_reason"}. */
void message_add(const struct message *m, bool at_eos, struct buf *out);

/* Append the message as OpenAI writes it: role, content (null where there is only something else), refusal,
 * reasoning_content and tool_calls where there are any. The id of call i is id_prefix followed by i, so that it
 * is the same after a failover if the prefix is made of the request's id ("call_<request>_"). */
void message_add_openai(const struct message *m, const char *id_prefix, struct buf *out);

/* Parse a whole text (valid UTF-8, without EOS) and append message_add's form. Returns 0, or ERR_FORMAT if the
 * text is not UTF-8. */
int parse_whole(const struct parse_opts *opts, const char *text, size_t n, bool at_eos, struct buf *message_json);

#endif
