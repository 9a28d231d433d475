/* controller/api/error.h - an error as a client sees it: status, type, code, param, message.
 * Owns:     nothing; struct api_error is a plain value.
 * Thread:   any.
 * Source:   spec/api.md section 3.
 */
#ifndef CONTROLLER_API_ERROR_H
#define CONTROLLER_API_ERROR_H

#include "common/base/err.h"
#include "common/mem/buf.h"

/* kind, HTTP status, type, code (NULL: null), seconds for Retry-After (0: none) */
#define API_ERROR_LIST(X)                                                                          \
    X(bad_request, 400, "invalid_request_error", NULL, 0)                                          \
    X(context_length, 400, "invalid_request_error", "context_length_exceeded", 0)                  \
    X(unknown_model, 404, "invalid_request_error", "model_not_found", 0)                           \
    X(unknown_path, 404, "invalid_request_error", NULL, 0)                                         \
    X(unknown_request, 404, "invalid_request_error", "not_found", 0)                               \
    X(conflict, 409, "conflict_error", NULL, 0)                                                    \
    X(canceled, 400, "invalid_request_error", "canceled", 0)                                        \
    X(method, 405, "invalid_request_error", NULL, 0)                                               \
    X(queue_full, 429, "rate_limit_error", "slow_down", 1)                                         \
    X(internal, 500, "server_error", NULL, 0)                                                      \
    X(quarantined, 500, "server_error", "quarantined", 0)                                          \
    X(overloaded, 503, "server_error", "server_is_overloaded", 2)                                  \
    X(deadline, 504, "server_error", "deadline_exceeded", 0)

enum api_error_kind {
#define X(name, status, type, code, retry) API_ERROR_##name,
    API_ERROR_LIST(X)
#undef X
        API_ERROR_N
};

enum { API_PARAM_MAX = 96 };

struct api_error {
    enum api_error_kind kind;
    char param[API_PARAM_MAX]; /* "messages[2].role"; "": null */
    char message[ERR_TEXT_MAX];
};

/* Fill *e; param may be NULL. Returns ERR_ARG, so that a checker can write `return api_error_set(...)`. */
int api_error_set(struct api_error *e, enum api_error_kind kind, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

int api_error_status(const struct api_error *e);
int api_error_retry_s(const struct api_error *e); /* 0: no Retry-After */

/* Append {"error":{...}} with all four keys. */
void api_error_add(const struct api_error *e, struct buf *out);

/* The same for a status that the HTTP server chose itself (408, 413, 431 ...). */
void api_error_add_status(int status, const char *message, struct buf *out);

#endif
