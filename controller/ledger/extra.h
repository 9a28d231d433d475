/* controller/ledger/extra.h - logprobs and alternatives of a row of tokens, and the numerics of the worker that made
 * them, as the bytes in the store's `extra`.
 * Owns:     nothing.
 * Thread:   any; a pure function of its input.
 * Limits:   n_top up to MSG_TOP_MAX; read bytes may be damaged.
 *
 * Version 1: one byte each version, n_top, length of the numerics id; that id (empty: as in the row before); then for
 * each token its logprob and n_top times id and logprob, little-endian, four bytes each. The numbers keep their bits: a
 * replayed answer is the answer, and a recovered request goes on exactly or says that it did not.
 */
#ifndef CONTROLLER_LEDGER_EXTRA_H
#define CONTROLLER_LEDGER_EXTRA_H

#include "common/base/err.h"
#include "common/mem/buf.h"
#include "controller/ledger/request.h"

enum { EXTRA_VERSION = 1 };

/* Append those of the tokens [first, first + n) of o. numerics: an id shorter than MSG_NAME_MAX, or "". */
void extra_encode(const struct ctl_output *o, int32_t n_top, const char *numerics, int64_t first, int64_t n,
                  struct buf *out);

/* Fill o->logprob and o->top at [first, first + n), for which there is room. data NULL: none were kept, the logprobs
 * are 0. numerics: "" if the row has none. ERR_FORMAT: damaged, or of another n_top; ERR_VERSION. */
int extra_decode(const void *data, size_t bytes, int32_t n_top, int64_t first, int64_t n, struct ctl_output *o,
                 char numerics[MSG_NAME_MAX], struct err *err);

#endif
