/* The header of a safetensors file, as a file of strangers: whatever it says, what is accepted lies inside the file. */
#include "common/base/check.h"
#include "tests/fuzz/fuzz.h"
#include "worker/model/names.h"
#include "worker/model/safetensors.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct mdl_tensor *tensor;
    size_t n;
    struct err err = {0};

    int rc = st_parse(data, size, &arena, &tensor, &n, &err);
    if (rc) {
        ASSERT(err.text[0] && !strchr(err.text, '\n') && err.code == rc);
    } else {
        const uint8_t *at = NULL;
        for (size_t i = 0; i < n; i++) {
            const struct mdl_tensor *t = &tensor[i];
            const uint8_t *p = t->data;
            char official[MDL_NAME_MAX + 1], shape[MDL_SHAPE_TEXT_MAX];
            uint64_t n_bytes;

            ASSERT(p >= data && p + t->n_bytes <= data + size);
            ASSERT(!at || p == at); /* without holes or overlaps */
            at = p + t->n_bytes;
            ASSERT(mdl_shape_bytes(t->dtype, t->dim, t->n_dim, &n_bytes) && n_bytes == t->n_bytes);
            mdl_shape_text(t->dim, t->n_dim, shape);
            if (mdl_name_official(t->name, official))
                ASSERT(strlen(official) <= MDL_NAME_MAX);
        }
        ASSERT(!at || at == data + size);
    }
    arena_release(&arena);
    return 0;
}
