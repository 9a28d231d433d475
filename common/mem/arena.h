/* common/mem/arena.h - memory that ends all at once: a request's, a parsed document's.
 * Owns:     its chunks.
 * Lifetime: arena_init .. arena_release; {0} is a valid empty arena. Pointers live until reset or release.
 * Thread:   one at a time.
 * Limits:   none of its own; see mem/mem.h about failure.
 */
#ifndef COMMON_MEM_ARENA_H
#define COMMON_MEM_ARENA_H

#include <stddef.h>

struct arena_chunk;

struct arena {
    struct arena_chunk *chunk; /* newest first */
    size_t used_bytes;         /* handed out since init or reset */
};

void arena_init(struct arena *a);
/* The first n bytes come from mem (16-byte aligned, yours, it outlives the arena's use): for work that hardly ever
 * needs more. */
void arena_init_in(struct arena *a, void *mem, size_t n);
void arena_release(struct arena *a);
void arena_reset(struct arena *a); /* forget everything; one chunk is kept for the next use */

void *arena_alloc(struct arena *a, size_t n);            /* 16-byte aligned, uninitialised */
void *arena_zalloc(struct arena *a, size_t n);           /* zero */
void *arena_array(struct arena *a, size_t n, size_t sz); /* zero; overflow-checked */
char *arena_dup(struct arena *a, const void *p, size_t n); /* copy plus a NUL */
char *arena_strdup(struct arena *a, const char *s);

#endif
