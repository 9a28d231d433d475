/* controller/stream/text.h - the way of one choice's output: committed token ids -> bytes -> whole UTF-8 -> reasoning,
 * content and tool calls -> stop strings -> events.
 * Owns:     the decoder's held bytes, the parser, the held text of the stop search.
 * Lifetime: stream_text_new .. stream_text_destroy; tok, stops and the tools in opts must outlive it.
 * Thread:   one.
 * Limits:   held text: that of the parser and of the stop search; the caller bounds the number of tokens.
 * Source:   spec/tokenizer.md section 7, spec/chat.md section 7, spec/api.md 4.1 and 4.3.
 *
 * A pure function of the tokens: however they are cut into feeds, the joined events and all counts are the same,
 * because tokens go through one by one. Stop strings are searched in reasoning and in content, each for itself;
 * markup and tool arguments are not searched (so a stop string cannot cut a tool call in two, and the newlines in
 * front of one are no match).
 */
#ifndef CONTROLLER_STREAM_TEXT_H
#define CONTROLLER_STREAM_TEXT_H

#include "common/text/tok.h"
#include "controller/stream/parse.h"
#include "controller/stream/stop.h"

#include <stdbool.h>
#include <stdint.h>

struct stream_text;

struct stream_text_opts {
    const struct tok *tok;
    const struct stop_set *stops;
    struct parse_opts parse;
    bool ignore_eos; /* special ids make no text and do not end the output */
    int n_call_max;  /* the output ends before a further tool call; 0: any number */
};

/* Why no more tokens are wanted. */
enum stream_text_end {
    STREAM_TEXT_OPEN,
    STREAM_TEXT_STOP,   /* a stop string is complete, or a call more than n_call_max began */
    STREAM_TEXT_SPECIAL /* an id came that must not reach a client (rule 14): the output ends before it */
};

struct stream_text *stream_text_new(const struct stream_text_opts *opts, const struct parse_events *events, void *arg);
void stream_text_destroy(struct stream_text **t);

/* Feed committed tokens; events are called. Returns why it ended, STREAM_TEXT_OPEN while it goes on. Tokens behind the
 * end are ignored. */
enum stream_text_end stream_text_feed(struct stream_text *t, const int32_t *id, int64_t n);

/* The generation is over (in whatever way): what is held goes out. */
void stream_text_finish(struct stream_text *t);

/* Tokens that count as output so far, the one being fed included: those behind the end do not, nor does a special id
 * that ended it. */
int64_t stream_text_n_tok(const struct stream_text *t);
/* Of those, the tokens of the reasoning (without </think>). */
int64_t stream_text_n_reasoning(const struct stream_text *t);
int stream_text_n_call_complete(const struct stream_text *t);

#endif
