/* worker/model/checkpoint.h - a checkpoint directory: config, shards mapped read-only, tensors by official name.
 * Owns:     the mappings; tensor data are views into them.
 * Lifetime: mdl_ckpt_open .. mdl_ckpt_close; views end with it.
 * Thread:   any, once open (nothing is changed).
 * Limits:   MDL_SHARDS_MAX files, MDL_HEADER_MAX bytes of header each, MDL_TENSORS_MAX tensors.
 * Source:   spec/model.md section 2 (names, spellings, dtypes).
 *
 * This is a wall: the files come from strangers. Nothing of a header is believed before it was checked, every
 * refusal is one line that names file, tensor and reason, and nothing is half open afterwards.
 */
#ifndef WORKER_MODEL_CHECKPOINT_H
#define WORKER_MODEL_CHECKPOINT_H

#include "common/base/err.h"
#include "worker/model/config.h"

#include <stddef.h>
#include <stdint.h>

enum { MDL_SHARDS_MAX = 4096, MDL_HEADER_MAX = 100 << 20, MDL_TENSORS_MAX = 1 << 20, MDL_DIMS_MAX = 8 };

/* dtype name in the safetensors header, bytes per element */
#define MDL_DTYPE_LIST(X)                                                                          \
    X(F64, 8) X(F32, 4) X(F16, 2) X(BF16, 2) X(F8_E4M3, 1) X(F8_E8M0, 1) X(I64, 8) X(I32, 4) X(I16, 2) \
    X(I8, 1) X(U8, 1) X(BOOL, 1)

enum mdl_dtype {
#define X(name, bytes) MDL_##name,
    MDL_DTYPE_LIST(X)
#undef X
        MDL_DTYPE_N
};

/* One tensor as it lies in its file. */
struct mdl_tensor {
    const char *name; /* official spelling */
    enum mdl_dtype dtype;
    int n_dim;
    int64_t dim[MDL_DIMS_MAX];
    const void *data; /* n_bytes, mapped; alignment is the file's (elements may be unaligned) */
    size_t n_bytes;
};

struct mdl_ckpt;

/* Open DIR. Checks every header (lengths, offsets, overlaps, dtype and shape against byte count, repeated names,
 * also two spellings of one name), the index file where there is one, and that no shard is missing. Which tensors the MODEL
 * needs, with which shapes, is checked by mdl_weights_bind (weights.h). */
int mdl_ckpt_open(const char *dir, struct mdl_ckpt **ckpt, struct err *err);
void mdl_ckpt_close(struct mdl_ckpt **ckpt);

const struct mdl_config *mdl_ckpt_config(const struct mdl_ckpt *ckpt);

/* Tensor by official name, or NULL. */
const struct mdl_tensor *mdl_ckpt_find(const struct mdl_ckpt *ckpt, const char *name);

size_t mdl_ckpt_n_tensor(const struct mdl_ckpt *ckpt);
const struct mdl_tensor *mdl_ckpt_at(const struct mdl_ckpt *ckpt, size_t i); /* in name order */
uint64_t mdl_ckpt_bytes(const struct mdl_ckpt *ckpt);                      /* sum of tensor bytes */

/* 64-bit fingerprint of configuration and of every tensor's name, dtype, shape and a sample of its bytes: equal for
 * equal models, whatever the sharding or spelling. Workers of one service must have the same. */
uint64_t mdl_ckpt_fingerprint(const struct mdl_ckpt *ckpt);

const char *mdl_dtype_name(enum mdl_dtype dtype);

#endif
