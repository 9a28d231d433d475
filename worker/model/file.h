/* worker/model/file.h - a foreign regular file mapped read-only (inside the room only).
 * Owns:     the mapping.
 * Lifetime: mdl__map_open .. mdl__map_close.
 * Thread:   any.
 * Limits:   n_bytes_max of the call.
 */
#ifndef WORKER_MODEL_FILE_H
#define WORKER_MODEL_FILE_H

#include "common/base/err.h"

#include <stddef.h>
#include <stdint.h>

struct mdl__map {
    const void *data; /* NULL for an empty file */
    size_t n_bytes;
};

/* Map PATH. Anything but a regular file (a pipe would hang) is ERR_FORMAT, a longer file ERR_LIMIT, a missing one
 * ERR_MISSING. Error texts do not hold the path. */
int mdl__map_open(const char *path, uint64_t n_bytes_max, struct mdl__map *map, struct err *err);
void mdl__map_close(struct mdl__map *map);

#endif
