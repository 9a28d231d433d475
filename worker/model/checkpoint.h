/* worker/model/checkpoint.h - a checkpoint directory: config, shards mapped read-only, tensors by official name.
 * Owns:     the mappings; tensor data are views into them.
 * Lifetime: mdl_ckpt_open .. mdl_ckpt_close; views end with it.
 * Thread:   any, once open (nothing is changed).
 * Limits:   MDL_SHARDS_MAX files, MDL_HEADER_MAX bytes of header each, MDL_TENSORS_MAX tensors, MDL_INDEX_MAX bytes of
 *           index file.
 * Source:   spec/model.md section 2 (names, spellings, dtypes).
 *
 * This is a wall: the files come from strangers. Nothing of a header is believed before it was checked, every
 * refusal is one line that names file, tensor and reason, and nothing is half open afterwards.
 */
#ifndef WORKER_MODEL_CHECKPOINT_H
#define WORKER_MODEL_CHECKPOINT_H

#include "common/base/err.h"
#include "worker/model/config.h"
#include "worker/model/safetensors.h"
#include "worker/model/tensor.h"

#include <stddef.h>
#include <stdint.h>

enum {
    MDL_SHARDS_MAX = 4096,
    MDL_HEADER_MAX = ST_HEADER_MAX,
    MDL_TENSORS_MAX = ST_TENSORS_MAX,
    MDL_INDEX_MAX = 100 << 20,
};

struct mdl_ckpt;

/* Open DIR: config.json and the tensors of, in this order of choice,
 *   - the shards that model.safetensors.index.json names (each must hold the tensors it is said to hold);
 *   - model.safetensors;
 *   - all of NAME-00001-of-0000N.safetensors (one NAME; none may be missing);
 *   - all *.safetensors.
 * Checks every header (lengths, offsets, overlaps, dtype and shape against byte count, repeated names, also two
 * spellings of one name), the index file where there is one, and that no shard is missing. Which tensors the MODEL
 * needs, with which shapes, is checked by mdl_weights_bind (weights.h). */
int mdl_ckpt_open(const char *dir, struct mdl_ckpt **ckpt, struct err *err);
void mdl_ckpt_close(struct mdl_ckpt **ckpt);

const struct mdl_config *mdl_ckpt_config(const struct mdl_ckpt *ckpt);

/* Tensor by official name, or NULL. */
const struct mdl_tensor *mdl_ckpt_find(const struct mdl_ckpt *ckpt, const char *name);

size_t mdl_ckpt_n_tensor(const struct mdl_ckpt *ckpt);
const struct mdl_tensor *mdl_ckpt_at(const struct mdl_ckpt *ckpt, size_t i); /* in name order */
uint64_t mdl_ckpt_bytes(const struct mdl_ckpt *ckpt);                      /* sum of tensor bytes */

/* 64-bit fingerprint of configuration, of every tensor's name, dtype and shape, and of a sample of the bytes (of every
 * tensor but the experts, and of one expert tensor in 64): equal for equal models, whatever the sharding or spelling.
 * Workers of one service must have the same. It tells models apart; it is no checksum. Reads some 3,000 pages of Flash,
 * so ask once and keep it. */
uint64_t mdl_ckpt_fingerprint(const struct mdl_ckpt *ckpt);

/* The directory as it was given, and the name of the file that holds a tensor of this checkpoint; for messages. */
const char *mdl_ckpt_dir(const struct mdl_ckpt *ckpt);
const char *mdl_ckpt_file(const struct mdl_ckpt *ckpt, const struct mdl_tensor *t);
size_t mdl_ckpt_n_file(const struct mdl_ckpt *ckpt);

#endif
