/* controller/cli/follow.h - a run of a pipeline watched to its end, over lost connections and restarts of the server.
 * Owns:     nothing between calls.
 * Thread:   main.
 * Limits:   FOLLOW_AWAY_MS without the server; FOLLOW_WAIT_MS_MAX between two tries.
 * Source:   docs/openapi.json: GET /v1/runs/{id}/events.
 *
 * On a terminal (stderr) the steps are drawn as lines that change; else, or with json, each event is one JSON line on
 * stdout. The first Ctrl-C ends the watching and says how to go on; the run is not touched. A second one ends the
 * process.
 */
#ifndef CONTROLLER_CLI_FOLLOW_H
#define CONTROLLER_CLI_FOLLOW_H

#include "common/base/err.h"
#include "common/mem/buf.h"

#include <stdbool.h>
#include <stdint.h>

enum { FOLLOW_AWAY_MS = 60000, FOLLOW_WAIT_MS = 100, FOLLOW_WAIT_MS_MAX = 2000, FOLLOW_DRAW_MS = 100 };

struct follow {
    const char *base; /* of the server */
    const char *run;  /* id */
    const char *command; /* for errors: "run" */
    bool json;
    bool quiet;       /* nothing is drawn and no event printed */
};

/* To the end of the run. 0 and its state in `state` ("done", "failed", "canceled"); ERR_CANCELED after Ctrl-C (what to
 * do has been said); ERR_NET, ERR_TIMEOUT: the server was away for too long; ERR_MISSING: no such run. */
int follow_run(const struct follow *f, char state[16], struct err *err);

/* One call and its JSON answer, parsed by the caller. POST if body is not NULL. 0 with a 2xx answer's body in out;
 * else err has what the server said, or why it did not. */
int follow_call(const char *base, const char *path, const struct buf *body, const char *key, struct buf *out,
                struct err *err);

#endif
