/* controller/durable.h - the controller's store: opening, reading back, telling the ledger, closing.
 * Owns:     ctl->store, ctl->ledger, ctl->recovered.
 * Lifetime: inside ctl_open_with .. the end of ctl_close.
 * Thread:   the loop.
 * Limits:   the store's.
 */
#ifndef CONTROLLER_DURABLE_H
#define CONTROLLER_DURABLE_H

#include "controller/turn.h"

/* Open the store that the configuration names, read every live request back into ctl->recovered, start writing; make
 * the ledger. Blocks. Without a store only the ledger is made. */
int ctl__durable_open(struct ctl *ctl, struct err *err);

/* Give what was read back to the scheduler, then to its front. After both are open. */
void ctl__durable_restore(struct ctl *ctl);
void ctl__durable_recover(struct ctl *ctl);

/* Write what is left, then on_closed(ctl), at once if there is no store. */
void ctl__durable_close(struct ctl *ctl, void (*on_closed)(void *arg));

/* Free the ledger, and what was read back and never restored. */
void ctl__durable_release(struct ctl *ctl);

/* Append "store":{...} of the status. */
void ctl__durable_status(struct ctl *ctl, struct buf *out);

#endif
