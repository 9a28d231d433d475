/* worker/model/safetensors.h - one safetensors file: a checked reader over a mapping, and a writer.
 * Owns:     the mapping (reader), the temporary file (writer).
 * Lifetime: st_open .. st_close; tensors and their data are views that end with it.
 * Thread:   any, once open (nothing is changed). A writer belongs to one thread.
 * Limits:   ST_HEADER_MAX bytes and ST_HEADER_VALUES_MAX JSON values of header, ST_TENSORS_MAX tensors.
 * Source:   safetensors format: u64 little-endian header length, JSON header, data without holes.
 *
 * The reader refuses what the official library refuses (holes, overlaps, bytes behind the last tensor, repeated
 * names) and says which tensor. Error texts start with the path. A file that another program cuts while it is mapped
 * ends the process (SIGBUS), as with every mapped file: replace a model by renaming, never in place.
 */
#ifndef WORKER_MODEL_SAFETENSORS_H
#define WORKER_MODEL_SAFETENSORS_H

#include "common/base/err.h"
#include "common/mem/arena.h"
#include "worker/model/tensor.h"

#include <stddef.h>
#include <stdint.h>

enum {
    ST_HEADER_MAX = 100 << 20,
    ST_TENSORS_MAX = 1 << 20,
    /* A value of the parsed header takes up to 48 times its text: "0," repeated would make 5 GB of 100 MiB. A tensor
     * takes 4 values and one per dimension, so this is enough for a million of them. */
    ST_HEADER_VALUES_MAX = 8 << 20,
};

struct st_file;

/* Map PATH and check everything. ERR_IO, ERR_FORMAT, ERR_LIMIT, ERR_UNSUPPORTED (dtype). */
int st_open(const char *path, struct st_file **f, struct err *err);
void st_close(struct st_file **f);

size_t st_n_tensor(const struct st_file *f);
const struct mdl_tensor *st_at(const struct st_file *f, size_t i); /* in the order of their data */
const struct mdl_tensor *st_find(const struct st_file *f, const char *name);
uint64_t st_bytes(const struct st_file *f); /* of tensor data */

/* The same over bytes in memory (what the fuzz target calls): the tensors, in the order of their data, in the arena,
 * with data pointing into `bytes`. */
int st_parse(const void *bytes, size_t n_bytes, struct arena *arena, struct mdl_tensor **tensor, size_t *n_tensor,
             struct err *err);

/* What is to be written; the widest element types go first in the file, so that all data are aligned. */
struct st_spec {
    const char *name;
    enum mdl_dtype dtype;
    int n_dim;
    int64_t dim[MDL_DIMS_MAX];
};

struct st_writer;

/* Start writing n tensors to a temporary file beside PATH. The specs are lent for the call; names must differ. */
int st_writer_open(const char *path, const struct st_spec *spec, size_t n, struct st_writer **w, struct err *err);

/* The next n_bytes of tensor i (index into the specs); tensors may be filled in any order and in pieces.
 * ERR_IO (for example a full disk); the writer can then only be aborted. */
int st_writer_put(struct st_writer *w, size_t i, const void *data, size_t n_bytes, struct err *err);

/* Rename the temporary file to PATH; every tensor must be full (ASSERT). Takes *w: also on error it is gone, and so is
 * the temporary file. */
int st_writer_close(struct st_writer **w, struct err *err);

/* Give up: remove the temporary file. NULL allowed. */
void st_writer_abort(struct st_writer **w);

/* All of it for tensors that lie in memory: data[i] belongs to spec[i]. */
int st_write(const char *path, const struct st_spec *spec, const void *const *data, size_t n, struct err *err);

#endif
