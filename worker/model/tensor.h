/* worker/model/tensor.h - element types of a checkpoint and one tensor as it lies in its file.
 * Owns:     nothing.
 * Lifetime: a plain value; name and data live as long as what gave them (safetensors.h, checkpoint.h).
 * Thread:   any.
 * Limits:   MDL_DIMS_MAX dimensions, MDL_NAME_MAX bytes of name.
 * Source:   safetensors format; spec/model.md section 2.
 */
#ifndef WORKER_MODEL_TENSOR_H
#define WORKER_MODEL_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MDL_DIMS_MAX = 8, MDL_NAME_MAX = 512, MDL_SHAPE_TEXT_MAX = 192 };

/* dtype name in the safetensors header, bytes per element. Types narrower than a byte (F4, F6) are not read: the
 * published FP4 experts are I8. */
#define MDL_DTYPE_LIST(X)                                                                                      \
    X(F64, 8)                                                                                                  \
    X(F32, 4) X(F16, 2) X(BF16, 2) X(F8_E4M3, 1) X(F8_E8M0, 1) X(I64, 8) X(I32, 4) X(I16, 2) X(I8, 1) X(U8, 1) \
        X(BOOL, 1) X(F8_E5M2, 1) X(U16, 2) X(U32, 4) X(U64, 8)

enum mdl_dtype {
#define X(name, bytes) MDL_##name,
    MDL_DTYPE_LIST(X)
#undef X
        MDL_DTYPE_N
};

/* One tensor as it lies in its file. */
struct mdl_tensor {
    const char *name; /* official spelling where it comes from a checkpoint, the file's own from safetensors.h */
    enum mdl_dtype dtype;
    int n_dim;
    int64_t dim[MDL_DIMS_MAX];
    const void *data; /* n_bytes, mapped; alignment is the file's (elements may be unaligned) */
    size_t n_bytes;
};

const char *mdl_dtype_name(enum mdl_dtype dtype);
size_t mdl_dtype_bytes(enum mdl_dtype dtype);
bool mdl_dtype_parse(const char *name, size_t len, enum mdl_dtype *dtype); /* false: no such name */

/* Bytes of a tensor of this shape in *n_bytes; false if a dimension is negative or the product overflows. */
bool mdl_shape_bytes(enum mdl_dtype dtype, const int64_t *dim, int n_dim, uint64_t *n_bytes);

/* "[1024, 4096]" into text; returns text. For messages. */
const char *mdl_shape_text(const int64_t *dim, int n_dim, char text[MDL_SHAPE_TEXT_MAX]);

#endif
