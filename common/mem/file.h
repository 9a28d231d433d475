/* common/mem/file.h - a whole file in memory, within a limit.
 * Owns:     nothing; the bytes lie in the caller's buffer.
 * Thread:   any.
 * Limits:   n_bytes_max of the call.
 */
#ifndef COMMON_MEM_FILE_H
#define COMMON_MEM_FILE_H

#include "common/base/err.h"
#include "common/mem/buf.h"

#include <stddef.h>

/* Append the regular file `path` to out. 0; ERR_MISSING (no such file), ERR_IO (not readable, not a regular file: a
 * pipe would hang), ERR_LIMIT (more than n_bytes_max). The text names path and reason. On error out is unchanged. */
int file_read(const char *path, size_t n_bytes_max, struct buf *out, struct err *err);

#endif
