/* common/text/utf8.h - UTF-8: checking, decoding, and a decoder for streams that are cut anywhere.
 * Owns:     nothing; struct utf8_stream is a plain value.
 * Thread:   any.
 * Source:   Unicode 16 section 3.9 (maximal subparts), WHATWG Encoding; spec/tokenizer.md sections 5 and 7.
 */
#ifndef COMMON_TEXT_UTF8_H
#define COMMON_TEXT_UTF8_H

#include "common/mem/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { UTF8_BAD = -1, UTF8_SHORT = -2 };

/* Decode the character at s (n >= 1 bytes there). Returns its length 1..4 and sets *cp; or UTF8_BAD with
 * *cp = length of the maximal invalid part (>= 1); or UTF8_SHORT when the n bytes are a proper prefix of a
 * character (*cp = n). Surrogates, overlong forms and values above U+10FFFF are invalid. */
int utf8_decode(const char *s, size_t n, uint32_t *cp);

/* Append character cp (a scalar value) to out. */
void utf8_add(struct buf *out, uint32_t cp);

bool utf8_is_valid(const char *s, size_t n);

/* Append s to out with each maximal invalid part replaced by one U+FFFD. */
void utf8_add_replaced(struct buf *out, const char *s, size_t n);

/* Held bytes of a stream: at most 3. {0} is the start. */
struct utf8_stream {
    unsigned char held[4];
    int n_held;
};

/* Feed n bytes; append every complete character to out, U+FFFD as soon as a part is known to be invalid, and
 * keep an incomplete tail. */
void utf8_stream_feed(struct utf8_stream *st, const char *s, size_t n, struct buf *out);

/* End of the stream: what is held becomes one U+FFFD per maximal part. */
void utf8_stream_end(struct utf8_stream *st, struct buf *out);

#endif
