/* controller/stream/sse.h - the events of a streamed chat completion, written straight into a buffer.
 * Owns:     struct sse its precomputed beginning of a chunk.
 * Lifetime: sse_init .. sse_release.
 * Thread:   one.
 * Limits:   none; the caller bounds what it gathers.
 * Source:   spec/api.md 4.3; WHATWG server-sent events.
 *
 * All texts are whole UTF-8. `logprobs` is JSON made by the caller ("{\"content\":[..]}"), NULL or empty for none.
 */
#ifndef CONTROLLER_STREAM_SSE_H
#define CONTROLLER_STREAM_SSE_H

#include "common/mem/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sse {
    struct buf head; /* `data: {"id":..,` up to the choices, the same in every chunk */
    bool usage;      /* stream_options.include_usage: every chunk has the key */
    const char *id;  /* of the next event, lent; NULL: none */
    int retry_ms;    /* > 0: the next event also says how long a client waits before it comes back; then 0 again */
};

/* Names as they go out; fingerprint and tier may be NULL (then the key is left out). */
struct sse_names {
    const char *id, *model, *fingerprint, *tier;
    int64_t created_s;
    bool include_usage;
};

void sse_init(struct sse *s, const struct sse_names *names);
void sse_release(struct sse *s);

/* First chunk of a choice. */
void sse_role(struct sse *s, struct buf *out, int choice);

/* A piece of reasoning or content. */
void sse_reasoning(struct sse *s, struct buf *out, int choice, const char *text, size_t n,
                   const struct buf *logprobs);
void sse_content(struct sse *s, struct buf *out, int choice, const char *text, size_t n,
                 const struct buf *logprobs);

/* A tool call begins (id and name), and a piece of its arguments. */
void sse_call(struct sse *s, struct buf *out, int choice, int call, const char *id, const char *name, size_t n,
              const struct buf *logprobs);
void sse_arguments(struct sse *s, struct buf *out, int choice, int call, const char *json, size_t n,
                   const struct buf *logprobs);

/* Last chunk of a choice. */
void sse_finish(struct sse *s, struct buf *out, int choice, const char *reason, const struct buf *logprobs);

/* The chunk without choices; usage is a JSON object. */
void sse_usage(struct sse *s, struct buf *out, const char *usage, size_t n);

/* An error body as an event; then nothing more follows, no [DONE] either. */
void sse_error(struct buf *out, const char *json, size_t n);
void sse_done(struct sse *s, struct buf *out);

/* One line, without an empty line behind it: well-known clients take that for an event without data once an id was
 * sent. */
void sse_comment(struct buf *out, const char *text);

#endif
