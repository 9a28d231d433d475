/* common/mem/buf.h - a growing run of bytes; the text type of the program (bytes and length, NUL allowed).
 * Owns:     its memory; data stays valid until the next call that may grow it.
 * Lifetime: buf_init .. buf_release; {0} is a valid empty buffer.
 * Thread:   one at a time.
 * Limits:   none of its own: whoever fills it from outside checks a named limit first.
 * The byte behind the last is always NUL once something was added, so that data may be handed to C strings.
 */
#ifndef COMMON_MEM_BUF_H
#define COMMON_MEM_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data; /* NULL while nothing was added */
    size_t len, cap;
};

void buf_init(struct buf *b);
void buf_release(struct buf *b);
void buf_clear(struct buf *b); /* length 0, memory kept */

/* Room for n more bytes (plus the NUL); returns where they go. The caller then adds to b->len. */
char *buf_room(struct buf *b, size_t n);

void buf_add(struct buf *b, const void *data, size_t n);
void buf_add_str(struct buf *b, const char *s);
void buf_add_char(struct buf *b, char c);
void buf_add_i64(struct buf *b, int64_t v);
void buf_addf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Drop the first n bytes (n <= len); what is left moves to the front. */
void buf_drop(struct buf *b, size_t n);

/* The bytes as a string of their own (yours, mem_free); the buffer is empty afterwards. */
char *buf_take(struct buf *b, size_t *len);

#endif
