/* tests/unit/controller/api/rig.h - the front against a scripted back: real HTTP, the tiny tokenizer, no worker.
 * Owns:     the loop thread, the fake struct ctl (rig.c implements controller/ctl_internal.h and the back's half of
 *           ledger/request.h by link-time substitution), the client sockets.
 * Lifetime: rig_open .. rig_close, which checks that the loop closes cleanly and no request is left.
 * Thread:   the front runs on a thread of its own; scripts are handed over under a lock.
 */
#ifndef TESTS_UNIT_CONTROLLER_API_RIG_H
#define TESTS_UNIT_CONTROLLER_API_RIG_H

#include "common/mem/arena.h"
#include "common/mem/buf.h"
#include "common/text/json.h"
#include "controller/ctl_internal.h"
#include "controller/ledger/request.h"

#include <stdbool.h>
#include <stdint.h>

/* What the fake back does with the next requests. Choice i gets text[i % n_text]. */
struct script {
    const char *text[4];
    int n_text;
    int batch;          /* tokens per turn and choice; 0: random, 1..5 */
    enum ctl_end end;   /* after the tokens; CTL_END_none: never */
    const char *fail_text;
    int submit_rc;      /* not 0: refuse */
    int64_t stall_ms;   /* before the first token */
    int redispatch_at;  /* a worker loss before token number so-and-so; 0: none */
    int32_t raw_id;     /* > 0: this id at the end of the text */
    int64_t repeat;     /* the text so many times; 0: once */
};

struct rig;

struct rig *rig_open(void (*configure)(struct ctl_config *config));
void rig_close(struct rig **rig);
void rig_script(struct rig *rig, const struct script *script);
void rig_set_context(struct rig *rig, int64_t context_max);
void rig_drain(struct rig *rig);
int64_t rig_n_dropped(struct rig *rig);   /* requests the front has dropped */
int64_t rig_n_submitted(struct rig *rig);
int64_t rig_n_finished(struct rig *rig);  /* choices the front has finished */
struct ctl_request *
rig_last(struct rig *rig); /* copy of the scalars of the last submitted request; no pointers inside are valid */
const struct tok *rig_tok(void);

/* ---- the client ---- */

struct answer {
    int status;
    struct buf head, body; /* body: chunks undone */
    bool complete;         /* the body has its proper end */
};
void answer_release(struct answer *a);
const char *answer_header(const struct answer *a, const char *name, char *out, size_t size); /* NULL: absent */

int rig_dial(const struct rig *rig);
void rig_send(int fd, const char *method, const char *path, const char *headers, const char *body);
void rig_read(int fd, struct answer *a); /* one whole answer */
/* Read what comes until the text `until` is in the raw bytes; false if the connection ended before. */
bool rig_read_until(int fd, struct buf *raw, const char *until);
/* All three. */
void rig_ask(const struct rig *rig, const char *method, const char *path, const char *body, struct answer *a);

#endif
