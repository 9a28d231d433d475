/* controller/api/event_id.h - the `id:` of a stream's event: which request, and how many of its events came before.
 * Owns:     nothing.
 * Thread:   any.
 * Limits:   EVENT_ID_MAX bytes, enough for CTL_CHOICES_MAX choices.
 *
 * One choice: "<24 hex digits>-<n>", n = 1, 2, 3 ... over all events. Several choices, whose events mix as they come:
 * "<24 hex digits>-<n0>.<n1>...<tail>", the events of each choice so far and, last, those behind all choices (usage,
 * [DONE]). Either way the id alone says what a client has seen; the events themselves are made again from the tokens.
 */
#ifndef CONTROLLER_API_EVENT_ID_H
#define CONTROLLER_API_EVENT_ID_H

#include "controller/ledger/request.h"

#include <stddef.h>
#include <stdint.h>

enum { EVENT_ID_MAX = 32 + 21 * (CTL_CHOICES_MAX + 1) };

/* at[0 .. n_choice]: events of each choice, then the tail. Returns the length; out has EVENT_ID_MAX bytes. */
size_t event_id_write(const char hex[25], const int64_t *at, int n_choice, char *out);

/* The way back. With one choice at[0] is the number and at[1] 0. ERR_MISSING: of another request; ERR_FORMAT: no id of
 * ours, or of another number of choices. */
int event_id_read(const char *text, const char hex[25], int n_choice, int64_t *at);

#endif
