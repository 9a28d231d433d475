/* controller/agent/plan/generate.h - chat requests of generate and agent steps, and reading their answers.
 * Owns:     nothing; values lie in the caller's arena.
 * Thread:   any.
 * Limits:   those of template.h; the chat request is checked again by api/.
 */
#ifndef CONTROLLER_AGENT_PLAN_GENERATE_H
#define CONTROLLER_AGENT_PLAN_GENERATE_H

#include "controller/agent/plan/pipeline.h"

/* The first messages of a step, rendered: a list of {"role", "content"}. A step with `output` gets the schema told in
 * the last message. Errors of template_render. */
int generate_messages(const struct pipeline_step *step, const struct expr_scope *scope, struct arena *arena,
                      const struct json **messages, struct err *err);

/* The body of POST /v1/chat/completions with these messages: options of the step, and for an agent its tools. */
int generate_body(const struct pipeline_step *step, const struct expr_scope *scope, const struct json *messages,
                  struct buf *out, struct err *err);

/* The messages and one more: {"role": role, "content": text}. */
const struct json *generate_append(const struct json *messages, const char *role, const char *text, size_t len,
                                   struct arena *arena);

/* The messages after an assistant's turn with tool calls: `message` (role assistant, content, tool_calls) as it came,
 * then in order of calls {"role": "tool", "tool_call_id", "content": JSON or text}. result: [n_result], as the
 * calls. */
const struct json *generate_append_calls(const struct json *messages, const struct json *message,
                                         const struct json *const *result, int n_result, struct arena *arena);

/* The step's output out of the answer's content. Without `output`: the text. With it: the JSON in the text (a fence of
 * ``` around it is taken off), checked. 0 and *value; ERR_FORMAT (no JSON; fault output) or ERR_RANGE (unfit; fault
 * schema): report gets what is wrong, to be told to the model by generate_repair. */
int generate_output(const struct pipeline_step *step, const char *content, size_t len, struct arena *arena,
                    const struct json **value, struct buf *report);

/* The messages and the two that ask for a repair: the assistant's content, and a user message with the report. */
const struct json *generate_repair(const struct json *messages, const char *content, size_t len,
                                   const struct buf *report, struct arena *arena);

#endif
