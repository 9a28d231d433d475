/* controller/cli/b64.h - base64 (RFC 4648, padded): bytes that are no text inside JSON lines.
 * Thread: any.
 */
#ifndef CONTROLLER_CLI_B64_H
#define CONTROLLER_CLI_B64_H

#include "common/base/err.h"
#include "common/mem/buf.h"

#include <stddef.h>

void b64_encode(const void *data, size_t n, struct buf *out);

/* Append the bytes of text[0..len). 0 or ERR_FORMAT (a foreign character, a length that is no multiple of 4, bits
 * left over; nothing appended). */
int b64_decode(const char *text, size_t len, struct buf *out, struct err *err);

#endif
