/* controller/api/state.h - what the front needs to answer a generation again, as it is kept with the request
 * (ctl_request.front_state): JSON, so that a later version can add to it.
 * Owns:     struct api_state its model name; what it read goes into the caller's chat_request.
 * Thread:   any.
 * Limits:   those of the request it was made of; read text may be damaged.
 */
#ifndef CONTROLLER_API_STATE_H
#define CONTROLLER_API_STATE_H

#include "controller/api/chat_request.h"

enum { API_STATE_VERSION = 1, API_TIER_MAX = 16, API_FINGERPRINT_MAX = 16 };

struct api_state {
    char hex[25];                          /* the name of the request: ids of answer, calls and events */
    char fingerprint[API_FINGERPRINT_MAX]; /* "": unknown when it was accepted */
    char tier[API_TIER_MAX];
    char *model;                           /* owned */
    bool stream, include_usage;            /* as first asked */
};

void api_state_release(struct api_state *s);

/* Append the JSON of s and of r: n, logprobs, stop strings, what the parser of the output needs. */
void api_state_add(const struct api_state *s, const struct chat_request *r, struct buf *out);

/* Fill *s (zero) and *r (fresh from chat_request_init). ERR_FORMAT, ERR_VERSION; on error both are to be released. */
int api_state_read(const void *text, size_t n, struct api_state *s, struct chat_request *r, struct err *err);

#endif
