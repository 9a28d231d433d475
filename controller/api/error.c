#include "controller/api/error.h"

#include "common/text/json.h"
#include "common/text/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    int status;
    const char *type, *code;
    int retry_s;
} kinds[] = {
#define X(name, status, type, code, retry) {status, type, code, retry},
    API_ERROR_LIST(X)
#undef X
};

int api_error_set(struct api_error *e, enum api_error_kind kind, const char *param, const char *fmt, ...)
{
    struct err err;
    va_list ap;

    *e = (struct api_error){.kind = kind};
    if (param)
        snprintf(e->param, sizeof e->param, "%s", param);
    va_start(ap, fmt);
    err_setv(&err, ERR_ARG, fmt, ap); /* makes control characters harmless */
    va_end(ap);
    memcpy(e->message, err.text, sizeof e->message);
    return ERR_ARG;
}

int api_error_status(const struct api_error *e)
{
    return kinds[e->kind].status;
}

int api_error_retry_s(const struct api_error *e)
{
    return kinds[e->kind].retry_s;
}

static void add_str(struct buf *out, const char *name, const char *value)
{
    buf_addf(out, "\"%s\":", name);
    if (value)
        json_add_str(out, value, strlen(value));
    else
        buf_add_str(out, "null");
}

/* `text` may have been cut inside a character: it becomes valid UTF-8 here. */
static void add(struct buf *out, const char *text, const char *type, const char *param, const char *code)
{
    struct buf message = {0};

    utf8_add_replaced(&message, text, strlen(text));
    buf_add_str(out, "{\"error\":{");
    add_str(out, "message", message.data ? message.data : "");
    buf_add_char(out, ',');
    add_str(out, "type", type);
    buf_add_char(out, ',');
    add_str(out, "param", param);
    buf_add_char(out, ',');
    add_str(out, "code", code);
    buf_add_str(out, "}}");
    buf_release(&message);
}

void api_error_add(const struct api_error *e, struct buf *out)
{
    add(out, e->message, kinds[e->kind].type, e->param[0] ? e->param : NULL, kinds[e->kind].code);
}

void api_error_add_status(int status, const char *message, struct buf *out)
{
    add(out, message, status >= 500 ? "server_error" : "invalid_request_error", NULL, NULL);
}
