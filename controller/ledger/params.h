/* controller/ledger/params.h - what was asked for, as the bytes in the store's `params` column: everything of a
 * request that is not a column of its own, so that any later process can go on with it.
 * Owns:     nothing; params_decode fills a request that the caller owns.
 * Thread:   any; a pure function of its input.
 * Limits:   PARAMS_FRONT_BYTES_MAX; the MSG_*_MAX of the fields, checked when reading: the bytes may be damaged.
 *
 * Version 1: little-endian, in the order of the code, nothing optional. A change of any kind is a new version, and
 * the old reader stays for as long as rows of it may be there (retention says how long that is).
 */
#ifndef CONTROLLER_LEDGER_PARAMS_H
#define CONTROLLER_LEDGER_PARAMS_H

#include "common/base/err.h"
#include "common/mem/buf.h"
#include "controller/ledger/request.h"

enum {
    PARAMS_VERSION = 1,
    PARAMS_FRONT_BYTES_MAX = 64 << 20, /* of front_state: tools and stop strings */
};

/* Append version 1 of r: sampling without the seed, limits, stop ids, priority, origin, front_state. */
void params_encode(const struct ctl_request *r, struct buf *out);

/* Fill those fields of *r, which comes fresh from ctl_request_new(). ERR_VERSION: newer than this program; ERR_FORMAT:
 * damaged. On error what was filled is freed with the request. */
int params_decode(int32_t version, const void *data, size_t n, struct ctl_request *r, struct err *err);

#endif
