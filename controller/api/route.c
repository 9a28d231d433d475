/* Path and method -> handler. One table; the same paths with and without /v1. */
#include "controller/api/internal.h"

#include "common/base/check.h"
#include "common/text/utf8.h"

#include <stdio.h>
#include <string.h>

static const struct route {
    const char *method, *path; /* a path that ends in '/' is the beginning of longer ones */
    api_handler_fn handler;
} routes[] = {
    {"POST", "/chat/completions", api__post_chat},
    {"GET", "/chat/completions/", api__get_chat},
    {"POST", "/requests/", api__post_request},
    {"POST", "/runs", api__post_runs},
    {"GET", "/runs", api__get_runs},
    {"GET", "/runs/", api__get_run},
    {"POST", "/runs/", api__post_run},
    {"GET", "/models", api__get_models},
    {"GET", "/models/", api__get_model},
    {"GET", "/health", api__get_health},
    {"GET", "/live", api__get_live},
    {"GET", "/status", api__get_status},
};

static bool is_path(const struct route *r, const char *path, const char **rest)
{
    size_t n = strlen(r->path);

    *rest = "";
    if (r->path[n - 1] != '/')
        return strcmp(path, r->path) == 0;
    *rest = path + n;
    return strncmp(path, r->path, n) == 0 && path[n];
}

static int hex_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* out has room for the whole path; what is no %XX stays as it is. */
static void decode(const char *in, char *out)
{
    while (*in) {
        int hi = in[0] == '%' ? hex_of(in[1]) : -1, lo = hi >= 0 ? hex_of(in[2]) : -1;
        if (lo >= 0 && hi * 16 + lo != 0) {
            *out++ = (char)(hi * 16 + lo);
            in += 3;
        } else {
            *out++ = *in++;
        }
    }
    *out = 0;
}

/* "GET, HEAD, POST, OPTIONS": the methods of this path; "" if the path is unknown. */
static void methods_of(const char *path, char allow[64])
{
    const char *rest;

    size_t n = 0;

    allow[0] = 0;
    for (size_t i = 0; i < N_ELEM(routes); i++)
        if (is_path(&routes[i], path, &rest) && n < 48)
            n += (size_t)snprintf(allow + n, 64 - n, "%s, ",
                                  strcmp(routes[i].method, "GET") == 0 ? "GET, HEAD" : routes[i].method);
    if (n)
        snprintf(allow + n, 64 - n, "OPTIONS");
}

static void answer_options(struct http_exchange *x, const char *allow)
{
    const char *wanted = http_header(x, "Access-Control-Request-Headers");

    http_add_header(x, "Allow", allow);
    http_add_header(x, "Access-Control-Allow-Methods", allow);
    http_add_header(x, "Access-Control-Allow-Headers", wanted ? wanted : "*");
    http_add_header(x, "Access-Control-Max-Age", "86400");
    http_reply(x, 204, NULL, NULL, 0);
}

void api__route(struct ctl_front *f, struct http_exchange *x)
{
    const char *path = http_path(x), *method = http_method(x), *rest;
    char hex[25], id[API_ID_MAX], allow[64], text[HTTP_PATH_MAX + 1];
    struct api_error e;

    api__make_id(hex);
    snprintf(id, sizeof id, "req_%s", hex);
    api__add_common(x, id);
    if (strncmp(path, "/v1/", 4) == 0)
        path += 3;
    if (strcmp(method, "HEAD") == 0)
        method = "GET";
    for (size_t i = 0; i < N_ELEM(routes); i++) {
        if (strcmp(method, routes[i].method) == 0 && is_path(&routes[i], path, &rest)) {
            decode(rest, text);
            routes[i].handler(&(struct api_call){f, x, text, hex});
            return;
        }
    }
    methods_of(path, allow);
    if (!allow[0]) {
        api_error_set(&e, API_ERROR_unknown_path, NULL, "unknown path: %s %.200s", http_method(x), http_path(x));
    } else if (strcmp(method, "OPTIONS") == 0) {
        answer_options(x, allow);
        return;
    } else {
        http_add_header(x, "Allow", allow);
        api_error_set(&e, API_ERROR_method, NULL, "method %s is not for %.200s, use %s", http_method(x), http_path(x),
                      allow);
    }
    api__reply_error(x, &e);
}
