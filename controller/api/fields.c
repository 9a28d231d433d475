#include "controller/api/fields.h"

#include "common/base/check.h"

static int bad_kind(const struct api_field *f, const char *want, const struct json *v, struct api_error *e)
{
    return api_error_set(e, API_ERROR_bad_request, f->name, "%s has to be %s, not %s", f->name, want,
                         json_kind_name(v));
}

static int bad_range(const struct api_field *f, const struct json *v, struct api_error *e)
{
    return api_error_set(e, API_ERROR_bad_request, f->name, "%s is %.40s, it has to be from %.15g to %.15g", f->name,
                         v->text, f->min, f->max);
}

static int read_number(const struct api_field *f, const struct json *v, void *to, struct api_error *e)
{
    int64_t i;
    double d;

    if (v->kind != JSON_NUMBER)
        return bad_kind(f, f->kind == API_INT ? "an integer" : "a number", v, e);
    if (!json_to_double(v, &d) || d < f->min || d > f->max)
        return bad_range(f, v, e);
    if (f->kind == API_NUM) {
        *(double *)to = d;
        return 0;
    }
    if (!json_to_i64(v, &i))
        return api_error_set(e, API_ERROR_bad_request, f->name, "%s is %.40s, it has to be an integer of 64 bits",
                             f->name, v->text);
    *(int64_t *)to = i;
    return 0;
}

static int read_field(const struct api_field *f, const struct json *v, void *base, struct api_error *e)
{
    void *to = (char *)base + f->offset;

    switch (f->kind) {
    case API_ANY:
        return 0;
    case API_BOOL:
        if (!json_is_bool(v))
            return bad_kind(f, "true or false", v, e);
        *(bool *)to = v->kind == JSON_TRUE;
        return 0;
    case API_INT:
    case API_NUM:
        return read_number(f, v, to, e);
    case API_STR:
        if (v->kind != JSON_STRING)
            return bad_kind(f, "a string", v, e);
        *(const char **)to = v->text;
        return 0;
    case API_READ:
        return f->read(v, base, e);
    }
    BUG("a kind that is none");
}

int api_fields_read(const struct json *request, const struct api_field *field, size_t n_field, void *to,
                    struct api_error *e)
{
    for (size_t i = 0; i < n_field; i++) {
        const struct api_field *f = &field[i];
        const struct json *v = json_get(request, f->name);
        if (!v || v->kind == JSON_NULL || f->treat == API_IGNORE || f->treat == API_PROMPT)
            continue;
        if (f->treat == API_REFUSE)
            return api_error_set(e, API_ERROR_bad_request, f->name, "%s is not supported", f->name);
        int rc = read_field(f, v, to, e);
        if (rc)
            return rc;
    }
    return 0;
}
