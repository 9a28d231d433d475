/* controller/api/fields.h - the fields of a request as a table: name, kind, range, what we do with it.
 * Owns:     nothing.
 * Thread:   any.
 * Source:   spec/api.md sections 2 and 4.1: null is absence, unknown fields are ignored, a value out of range is 400.
 */
#ifndef CONTROLLER_API_FIELDS_H
#define CONTROLLER_API_FIELDS_H

#include "common/text/json.h"
#include "controller/api/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum api_kind {
    API_ANY,
    API_BOOL,  /* to: bool */
    API_INT,   /* to: int64_t, min..max */
    API_NUM,   /* to: double, min..max */
    API_STR,   /* to: const char *, NUL-terminated view into the request */
    API_READ   /* the row's read function decides */
};

enum api_treat {
    API_ACCEPT,  /* has its effect */
    API_PROMPT,  /* has its effect; the prompt's encoder checks it (controller/prompt) */
    API_IGNORE,  /* may be present, no effect */
    API_REFUSE   /* 400: to ignore it would change the meaning of the answer */
};

struct api_field {
    const char *name;
    enum api_kind kind;
    enum api_treat treat;
    double min, max;
    size_t offset; /* of the value in the struct given to api_fields_read */
    /* API_READ: check `value` (not null) and store. Returns 0 or ERR_ARG with e filled. */
    int (*read)(const struct json *value, void *to, struct api_error *e);
};

/* Go through the table in its order; absent fields keep what `to` has. 0, or ERR_ARG and *e at the first bad one. */
int api_fields_read(const struct json *request, const struct api_field *field, size_t n_field, void *to,
                    struct api_error *e);

#endif
