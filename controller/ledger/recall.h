/* controller/ledger/recall.h - records of the store -> the request that they were made of.
 * Owns:     nothing; what is built is the caller's (ctl_request_destroy).
 * Thread:   the loop.
 * Limits:   those of request.h; records that do not fit are ERR_FORMAT with the request's id.
 *
 * A recalled request has everything committed marked as put and shown; its choices that have not ended are `queued`
 * (ctl_sched_restore() gives them to the queue).
 */
#ifndef CONTROLLER_LEDGER_RECALL_H
#define CONTROLLER_LEDGER_RECALL_H

#include "controller/ledger/request.h"
#include "controller/store/record.h"

/* In the order in which store_load() and store_fetch() give them. ERR_FORMAT, ERR_VERSION: *r_p is untouched, the
 * request is as it was.
 * now_ms: loop time; the wall-clock deadline of the record becomes one of the loop. */
int ctl_recall_request(const struct store_request *q, int64_t now_ms, struct ctl_request **r_p, struct err *err);
int ctl_recall_tokens(struct ctl_request *r, const struct store_tokens *t, struct err *err);
int ctl_recall_end(struct ctl_request *r, const struct store_end *e, struct err *err);

#endif
