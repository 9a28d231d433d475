/* tests/unit/worker/model/build.h - small valid checkpoints in a temporary folder, for tests that then break one thing.
 * Owns:     the folder and everything in it; removed by build_release.
 * Lifetime: build_init .. build_release.
 * Thread:   the test's.
 * Limits:   BUILD_TENSORS_MAX tensors.
 *
 * The list of tensors is written out here by hand, from spec/model.md section 2, and shares no code with
 * worker/model/weights.c: the two must agree.
 */
#ifndef TESTS_UNIT_WORKER_MODEL_BUILD_H
#define TESTS_UNIT_WORKER_MODEL_BUILD_H

#include "common/mem/arena.h"
#include "common/mem/buf.h"
#include "worker/model/safetensors.h"

#include <stddef.h>
#include <stdint.h>

enum { BUILD_TENSORS_MAX = 512, BUILD_PATH_MAX = 512 };

/* Model of build_init: 4 layers (window hash, window score, CSA, HCA), one MTP layer, 3 FP4 experts. */
enum {
    BUILD_D = 128,
    BUILD_VOCAB = 16,
    BUILD_HEADS = 2,
    BUILD_HEAD_DIM = 128,
    BUILD_EXPERTS = 3,
    BUILD_LAYERS = 4,
};

struct build {
    char dir[BUILD_PATH_MAX];
    struct buf config; /* text of config.json */
    struct st_spec spec[BUILD_TENSORS_MAX];
    unsigned char *data[BUILD_TENSORS_MAX];
    size_t n_bytes[BUILD_TENSORS_MAX];
    int shard[BUILD_TENSORS_MAX]; /* layer number, 0 for the rest: used when there are several shards */
    size_t n;
    struct arena arena;
};

void build_init(struct build *b);    /* the model above, in memory; an empty folder */
void build_release(struct build *b); /* folder and memory */

size_t build_find(const struct build *b, const char *name); /* index; fails the test when absent */
void build_add(struct build *b, const char *name, enum mdl_dtype dtype, int64_t d0, int64_t d1); /* d1 0: a vector */
void build_drop(struct build *b, const char *name);
void build_shape(struct build *b, const char *name, enum mdl_dtype dtype, int64_t d0, int64_t d1); /* fresh bytes */

/* Replace the value of a config key ("hidden_size") by JSON text; NULL removes the key, an unknown key is added. */
void build_config(struct build *b, const char *key, const char *value);

/* Files of the folder. */
const char *build_path(struct build *b, const char *name); /* in the arena */
void build_file(struct build *b, const char *name, const void *data, size_t n);
void build_text(struct build *b, const char *name, const char *text);

/* Write config.json and the tensors: one model.safetensors (n_shard 1, no index), or n_shard numbered shards with
 * model.safetensors.index.json. `rename`, where given, spells the names as the writer of the files would. */
typedef const char *(*build_rename_fn)(struct build *b, const char *official);
void build_write(struct build *b, int n_shard, build_rename_fn rename);

#endif
