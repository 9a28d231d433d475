/* common/base/err.h - error codes of the whole program, and the text that goes with one.
 * Owns:     nothing; struct err is a plain value of fixed size, no allocation.
 * Thread:   any; each struct err belongs to one thread.
 * Limits:   ERR_TEXT_MAX bytes of text, longer text is cut.
 *
 * Three classes of error (docs/STYLE.md 5.5): our own mistake is ASSERT (base/check.h) and aborts; the
 * world's mistakes are the negative codes below; a device that cannot be trusted any more ends the process.
 */
#ifndef COMMON_BASE_ERR_H
#define COMMON_BASE_ERR_H

#include <stdarg.h>

/* One list: enum, names and texts. A new code is a new line here and nowhere else. */
#define ERR_LIST(X)                                                                                \
    X(ARG, "invalid argument")                                                                     \
    X(FORMAT, "malformed input")                                                                   \
    X(RANGE, "value out of range")                                                                 \
    X(MISSING, "not found")                                                                        \
    X(UNSUPPORTED, "not supported")                                                                \
    X(IO, "input/output failed")                                                                   \
    X(MEM, "out of memory")                                                                        \
    X(LIMIT, "limit reached")                                                                      \
    X(BUSY, "busy")                                                                                \
    X(TIMEOUT, "time limit passed")                                                                \
    X(CANCELED, "canceled")                                                                        \
    X(VERSION, "version mismatch")                                                                 \
    X(STATE, "not possible in this state")                                                         \
    X(NET, "network failed")                                                                       \
    X(GPU, "device failed")

enum err_idx {
    ERR_IDX_OK,
#define X(name, text) ERR_IDX_##name,
    ERR_LIST(X)
#undef X
        ERR_IDX_N
};

/* What functions return: 0 good, negative one of these. */
enum err_code {
    ERR_OK = 0,
#define X(name, text) ERR_##name = -ERR_IDX_##name,
    ERR_LIST(X)
#undef X
};

enum { ERR_TEXT_MAX = 512 };

/* Text of one error: what is wrong, where, and what to do, in one line without a full stop. */
struct err {
    int code; /* enum err_code */
    char text[ERR_TEXT_MAX];
};

/* Fill *err (may be NULL) with code and formatted text; control characters become '?', so that the text of
 * a hostile file name stays one line. Returns code, so that a caller can write `return err_set(...)`. */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int err_setv(struct err *err, int code, const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));

/* Put "context: " in front of the text that *err already has. Returns err->code. */
int err_wrap(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Name of a code ("ERR_IO") and its general text; "?" for a number that is none. */
const char *err_name(int code);
const char *err_general(int code);

#endif
