/* controller/ctl_internal.h - what the rooms of the controller may ask of the whole; and the seam to the front.
 * Owns:     see ctl.h.
 * Thread:   the loop.
 *
 * The front (HTTP, later native clients) comes in through struct ctl_front_ops, so that the back can be run and
 * tested without it. controller/api/front.h has the real one; ctl_open() passes it.
 */
#ifndef CONTROLLER_CTL_INTERNAL_H
#define CONTROLLER_CTL_INTERNAL_H

#include "common/mem/buf.h"
#include "controller/ctl.h"
#include "controller/ledger/count.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct ctl_front;
struct ctl_request;
struct store;

/* Same meaning as the functions ctl_front_* of controller/api/front.h. */
struct ctl_front_ops {
    int (*open)(struct ctl *ctl, struct ctl_front **front, struct err *err);
    /* Once per turn, after replies and their events, before dispatch: take marked requests, submit, flush output. */
    void (*turn)(struct ctl_front *front);
    /* A request of origin api was read back from the store: attach to it. NULL: never asked. */
    void (*recover)(struct ctl_front *front, struct ctl_request *req);
    void (*drain)(struct ctl_front *front); /* no new requests; health says so */
    int (*port)(const struct ctl_front *front);
    bool (*idle)(const struct ctl_front *front); /* nothing running and nothing unsent */
    /* Drops all its requests at once; on_closed when its handles are closed and it is free. */
    void (*close)(struct ctl_front **front, void (*on_closed)(void *arg), void *arg);
};

/* What ctl_open puts together and a test may put together otherwise. */
struct ctl_parts {
    const struct ctl_front_ops *front;
    struct tok *tok;                      /* taken on success; may be NULL in a test of the back */
    void (*tok_close)(struct tok **tok);  /* ends it; NULL if tok is NULL */
    int32_t n_vocab;                      /* ids of the tokenizer: a worker must have at least these; 0: any */
};

/* As ctl_open, with the parts given. */
int ctl_open_with(uv_loop_t *loop, const struct ctl_config *config, const struct ctl_parts *parts, struct ctl **ctl,
                  struct err *err);

uv_loop_t *ctl_loop(struct ctl *ctl);
const struct ctl_config *ctl_config_of(struct ctl *ctl);
const struct tok *ctl_tok(struct ctl *ctl);

/* Make sure that a turn runs before the loop sleeps. Cheap, may be called at any time, also inside a turn (then one
 * more turn follows). */
void ctl_wake(struct ctl *ctl);

bool ctl_is_ready(struct ctl *ctl); /* at least one ready worker, and not draining */
bool ctl_is_draining(struct ctl *ctl);

/* The store, for rooms that keep something themselves; NULL: none. Records put in one turn are one transaction. */
struct store *ctl_store(struct ctl *ctl);
/* Why the store cannot commit: the name of the fault; NULL: it can, or there is none. */
const char *ctl_store_fault(struct ctl *ctl);

/* The longest context of any worker now; with none connected, of the last ones; 0 while none ever was. */
int64_t ctl_context_max(struct ctl *ctl);
uint64_t ctl_fingerprint(struct ctl *ctl); /* of the model the workers have; 0 while none ever joined */
const struct ctl_counts *ctl_counts_of(struct ctl *ctl);

/* Append the JSON that `baton ps --json` prints: controller, workers, streams, counters. */
void ctl_status_json(struct ctl *ctl, struct buf *out);

#endif
