/* common/base/check.h - assertions that stay in every build, and small macros used everywhere.
 * Thread:   any.
 * An ASSERT states one fact that only a mistake of ours can break; it has no side effects. Anything that a
 * file, a peer or a user can cause is an error code (base/err.h), never an ASSERT.
 */
#ifndef COMMON_BASE_CHECK_H
#define COMMON_BASE_CHECK_H

#include <stddef.h>

#define ASSERT(cond) ((cond) ? (void)0 : check_failed(#cond, __FILE__, __LINE__, __func__))
#define BUG(what)    check_failed(what, __FILE__, __LINE__, __func__)

#define N_ELEM(array) (sizeof(array) / sizeof((array)[0]))

/* The struct that holds `member` at `ptr`. */
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* Print place and condition to stderr, abort. */
void check_failed(const char *what, const char *file, int line, const char *func)
    __attribute__((noreturn, cold));

#endif
