#include "common/base/err.h"

#include <stdio.h>
#include <string.h>

static const char *const names[ERR_IDX_N] = {
    [ERR_IDX_OK] = "ERR_OK",
#define X(name, text) [ERR_IDX_##name] = "ERR_" #name,
    ERR_LIST(X)
#undef X
};

static const char *const texts[ERR_IDX_N] = {
    [ERR_IDX_OK] = "success",
#define X(name, text) [ERR_IDX_##name] = text,
    ERR_LIST(X)
#undef X
};

/* One line, whatever bytes came in: foreign names go into error texts, and those go into logs. */
static void keep_one_line(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
}

int err_setv(struct err *err, int code, const char *fmt, va_list ap)
{
    if (!err)
        return code;
    err->code = code;
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    keep_one_line(err->text);
    return code;
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    err_setv(err, code, fmt, ap);
    va_end(ap);
    return code;
}

int err_wrap(struct err *err, const char *fmt, ...)
{
    char context[ERR_TEXT_MAX], old[ERR_TEXT_MAX];
    va_list ap;

    if (!err)
        return ERR_STATE;
    va_start(ap, fmt);
    vsnprintf(context, sizeof context, fmt, ap);
    va_end(ap);
    memcpy(old, err->text, sizeof old);
    /* The reason matters more than the place: when both do not fit, the context is cut. */
    size_t room = sizeof err->text - 3;
    size_t n_old = strnlen(old, sizeof old - 1);
    size_t n_ctx = room > n_old ? room - n_old : 0;
    snprintf(err->text, sizeof err->text, "%.*s: %.*s", (int)n_ctx, context, (int)n_old, old);
    keep_one_line(err->text);
    return err->code;
}

const char *err_name(int code)
{
    int idx = -code;
    return idx >= 0 && idx < ERR_IDX_N ? names[idx] : "?";
}

const char *err_general(int code)
{
    int idx = -code;
    return idx >= 0 && idx < ERR_IDX_N ? texts[idx] : "?";
}
