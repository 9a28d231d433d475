/* controller/stream/parse.h - the model's text -> reasoning, content, tool calls; eager and incremental.
 * Owns:     the held-back text; bounded by the text of one parameter (rule 7) or call (rules 8, 9).
 * Lifetime: parse_new .. parse_destroy.
 * Thread:   one.
 * Limits:   the text fed in all; the caller bounds generated tokens.
 * Source:   spec/chat.md section 7, rules 1-14; vectors tests/vectors/parse.jsonl.
 *
 * The pieces given out, joined, are the whole message, for every way of cutting the input.
 */
#ifndef CONTROLLER_STREAM_PARSE_H
#define CONTROLLER_STREAM_PARSE_H

#include "common/text/json.h"

#include <stdbool.h>
#include <stddef.h>

struct parse;

/* What comes out, in order. Texts are views valid during the call. call is 0, 1, ... */
struct parse_events {
    void (*on_reasoning)(void *arg, const char *text, size_t n);
    void (*on_content)(void *arg, const char *text, size_t n);
    void (*on_call)(void *arg, int call, const char *name, size_t n); /* name complete, arguments follow */
    void (*on_arguments)(void *arg, int call, const char *json, size_t n);
    void (*on_call_end)(void *arg, int call, bool complete);
};

struct parse_opts {
    bool in_reasoning; /* chat_prompt.in_reasoning */
    bool tools_on;     /* chat_prompt.tools_on; false: rules 4-10 off */
    /* Array of {"type":"function","function":{...}} for rule 9, may be NULL; must outlive the parser. */
    const struct json *tools;
};

struct parse *parse_new(const struct parse_opts *opts, const struct parse_events *events, void *arg);
void parse_destroy(struct parse **p);

/* Feed whole UTF-8 characters. */
void parse_feed(struct parse *p, const char *text, size_t n);

/* The generation ended (EOS, limit, stop string): give out or drop what is held (rule 11). */
void parse_end(struct parse *p);

/* Calls that were closed, after parse_end: decides finish_reason tool_calls (rule 12). */
int parse_n_complete(const struct parse *p);

#endif
