/* controller/store/batch.h - the writes of one turn of the loop, in their order.
 * Owns:     copies of everything it was given.
 * Lifetime: store_batch_new .. store_batch_destroy.
 * Thread:   one at a time: the loop fills it, the store's thread commits and frees it.
 * Limits:   those of record.h per record; bytes are counted, the store bounds them.
 */
#ifndef CONTROLLER_STORE_BATCH_H
#define CONTROLLER_STORE_BATCH_H

#include "common/base/err.h"
#include "common/mem/arena.h"
#include "controller/store/record.h"

#include <stdbool.h>

struct store_batch {
    uint64_t seq;
    struct store_record *record; /* [n] */
    size_t n, cap;
    size_t bytes;         /* of all copies: what counts against the limits */
    size_t bytes_largest; /* of the largest record: it may exceed them, and shuts nobody else out */
    bool full;            /* holds a record of class STORE_FULL */
    struct arena arena;
};

struct store_batch *store_batch_new(uint64_t seq);
void store_batch_destroy(struct store_batch **b_p);

/* Check and copy one record to the end. 0; ERR_RANGE: outside the limits of record.h; ERR_FORMAT: a name is not
 * UTF-8. On error the batch has not changed. A text that is not UTF-8 has its bad bytes replaced. */
int store_batch_add(struct store_batch *b, const struct store_record *r, enum store_class cls, struct err *err);

/* The same without checks, for records that come out of a database. */
void store__batch_copy(struct store_batch *b, const struct store_record *r);

#endif
