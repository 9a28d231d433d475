/* controller/cli/progress.h - how far a run of a pipeline is: its events summed up, and drawn as a few lines.
 * Owns:     a row for each step of the pipeline that has been heard of.
 * Lifetime: {0} is the start; progress_release ends it.
 * Thread:   one.
 * Limits:   PROGRESS_ROWS_MAX rows are kept; steps beyond are counted in the last line only.
 * Source:   the events of GET /v1/runs/{id}/events, docs/openapi.json.
 */
#ifndef CONTROLLER_CLI_PROGRESS_H
#define CONTROLLER_CLI_PROGRESS_H

#include "common/mem/buf.h"
#include "common/text/json.h"

#include <stdint.h>

enum { PROGRESS_ROWS_MAX = 64, PROGRESS_NAME_MAX = 64, PROGRESS_BAR = 24 };

struct progress_row {
    char name[PROGRESS_NAME_MAX];
    char state[16];
    char note[80];               /* last error, or what a wait waits for */
    int64_t n_item;              /* of a map; 0: none, or not known yet */
    int64_t n_over, n_failed, n_live;
    int64_t n_retry, n_turn;
    int64_t output_tok;
    int64_t begun_ms, over_ms;   /* wall clock; 0: not yet */
};

struct progress {
    struct progress_row *row;    /* [n] in the order of their first events */
    int n;
    int64_t n_hidden;            /* events of steps that have no row */
    int n_drawn;                 /* lines on the terminal, to be drawn over */
};

void progress_release(struct progress *p);

/* Take in one event. What is no event of a step is left alone. */
void progress_feed(struct progress *p, const struct json *event);

/* Append what a terminal of `width` columns has to get to show the rows in place of what was drawn before. */
void progress_draw(struct progress *p, int64_t now_ms, int width, struct buf *out);

#endif
