#include "worker/model/tensor.h"

#include "common/base/check.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t n_bytes;
} dtypes[MDL_DTYPE_N] = {
#define X(name, bytes) [MDL_##name] = {#name, bytes},
    MDL_DTYPE_LIST(X)
#undef X
};

const char *mdl_dtype_name(enum mdl_dtype dtype)
{
    ASSERT((unsigned)dtype < MDL_DTYPE_N);
    return dtypes[dtype].name;
}

size_t mdl_dtype_bytes(enum mdl_dtype dtype)
{
    ASSERT((unsigned)dtype < MDL_DTYPE_N);
    return dtypes[dtype].n_bytes;
}

bool mdl_dtype_parse(const char *name, size_t len, enum mdl_dtype *dtype)
{
    for (size_t i = 0; i < N_ELEM(dtypes); i++) {
        if (strlen(dtypes[i].name) == len && memcmp(dtypes[i].name, name, len) == 0) {
            *dtype = (enum mdl_dtype)i;
            return true;
        }
    }
    return false;
}

bool mdl_shape_bytes(enum mdl_dtype dtype, const int64_t *dim, int n_dim, uint64_t *n_bytes)
{
    int64_t n = (int64_t)mdl_dtype_bytes(dtype);

    for (int i = 0; i < n_dim; i++)
        if (dim[i] < 0 || __builtin_mul_overflow(n, dim[i], &n))
            return false;
    *n_bytes = (uint64_t)n;
    return true;
}

const char *mdl_shape_text(const int64_t *dim, int n_dim, char text[MDL_SHAPE_TEXT_MAX])
{
    size_t at = 1;

    strcpy(text, "[");
    for (int i = 0; i < n_dim && at < MDL_SHAPE_TEXT_MAX - 24; i++)
        at += (size_t)snprintf(text + at, MDL_SHAPE_TEXT_MAX - at, "%s%" PRId64, i ? ", " : "", dim[i]);
    snprintf(text + at, MDL_SHAPE_TEXT_MAX - at, "]");
    return text;
}
