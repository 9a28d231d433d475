/* Answers that every endpoint shares: ids, headers, errors. */
#include "controller/api/internal.h"

#include "common/base/check.h"
#include "common/base/rand.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

void api__make_id(char hex[25])
{
    rand_hex(hex, 12);
}

/* A page in a browser may read our answers only if it comes from this machine: there are no keys, and anything else
 * would let every web site that a user opens talk to the server on his loopback address. */
bool api__is_local_origin(const char *origin)
{
    static const char *const local[] = {"http://localhost", "https://localhost", "http://127.0.0.1",
                                        "https://127.0.0.1", "http://[::1]",     "https://[::1]"};

    for (size_t i = 0; i < N_ELEM(local); i++) {
        size_t n = strlen(local[i]);
        if (strncasecmp(origin, local[i], n) == 0 && (origin[n] == 0 || origin[n] == ':'))
            return true;
    }
    return false;
}

void api__add_common(struct http_exchange *x, const char *request_id)
{
    const char *origin = http_header(x, "Origin");

    http_add_header(x, "x-request-id", request_id);
    http_add_header(x, "request-id", request_id);
    if (origin && api__is_local_origin(origin)) {
        http_add_header(x, "Access-Control-Allow-Origin", origin);
        http_add_header(x, "Vary", "Origin");
        http_add_header(x, "Access-Control-Expose-Headers", "x-request-id, request-id, retry-after");
    }
}

void api__reply_json(struct http_exchange *x, int status, const struct buf *body)
{
    http_reply(x, status, "application/json; charset=utf-8", body->data, body->len);
}

void api__reply_error(struct http_exchange *x, const struct api_error *e)
{
    struct buf body = {0};
    char retry[16];

    if (api_error_retry_s(e)) {
        snprintf(retry, sizeof retry, "%d", api_error_retry_s(e));
        http_add_header(x, "Retry-After", retry);
    }
    /* To try again would only kill more workers, or bring the same answer. */
    if (e->kind == API_ERROR_canceled || e->kind == API_ERROR_quarantined || e->kind == API_ERROR_conflict)
        http_add_header(x, "x-should-retry", "false");
    api_error_add(e, &body);
    api__reply_json(x, api_error_status(e), &body);
    buf_release(&body);
}
