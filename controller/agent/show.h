/* controller/agent/show.h - runs and their events as JSON, made of what the store keeps: the same text whether the run
 * lives or was read back.
 * Owns:     nothing.
 * Thread:   any.
 * Limits:   AGENT_EVENT_RESULT_MAX bytes of a result in an event; longer ones are told by their size.
 * Source:   docs/openapi.json.
 */
#ifndef CONTROLLER_AGENT_SHOW_H
#define CONTROLLER_AGENT_SHOW_H

#include "common/mem/buf.h"
#include "controller/agent/state.h"
#include "controller/store/record.h"

enum { AGENT_EVENT_RESULT_MAX = 2048 };

/* Events of a run: number 0 is its beginning, then its rows 1, 2, ..., then its end. One JSON object each. */
void agent_show_begin(const struct store_run *run, struct buf *out);
void agent_show_step(const char *run, int64_t seq, const struct store_step *step, struct buf *out);
void agent_show_end(const struct store_run_end *end, int64_t seq, struct buf *out);

/* Which steps an answer has. */
enum agent_show_steps { AGENT_SHOW_none, AGENT_SHOW_top, AGENT_SHOW_all };

/* One run as an object. record: its run, its steps in their order, perhaps its end (as store_fetch gives them). 0, or
 * ERR_FORMAT: the rows contradict each other. */
int agent_show_run(const struct store_record *record, size_t n, enum agent_show_steps steps, struct buf *out,
                   struct err *err);

/* Runs and their ends (as the query `runs` gives them) as {"object": "list", "data": [...], "has_more"}; limit: at most
 * so many are shown. */
void agent_show_list(const struct store_record *record, size_t n, int64_t limit, struct buf *out);

/* A row of the store, and back: views. ERR_FORMAT: no such state. */
int agent_row_of(const struct store_step *step, struct agent_row *row, struct err *err);
void agent_row_to(const struct agent_row *row, const char *run, struct store_step *step);

#endif
