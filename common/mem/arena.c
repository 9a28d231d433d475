#include "common/mem/arena.h"

#include "common/base/check.h"
#include "common/mem/mem.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { ARENA_ALIGN = 16, ARENA_CHUNK_MIN = 4096, ARENA_CHUNK_MAX = 1 << 20 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t cap, used;
    bool is_lent; /* not ours to free */
    _Alignas(ARENA_ALIGN) unsigned char data[];
};

void arena_init(struct arena *a)
{
    *a = (struct arena){0};
}

void arena_init_in(struct arena *a, void *mem, size_t n)
{
    struct arena_chunk *c = mem;
    ASSERT((uintptr_t)mem % ARENA_ALIGN == 0 && n >= sizeof *c);
    *c = (struct arena_chunk){.cap = n - sizeof *c, .is_lent = true};
    *a = (struct arena){.chunk = c};
}

static void free_chunks(struct arena_chunk *c)
{
    while (c) {
        struct arena_chunk *next = c->next;
        if (!c->is_lent)
            mem_free(c);
        c = next;
    }
}

void arena_release(struct arena *a)
{
    free_chunks(a->chunk);
    *a = (struct arena){0};
}

void arena_reset(struct arena *a)
{
    if (!a->chunk)
        return;
    free_chunks(a->chunk->next);
    a->chunk->next = NULL;
    a->chunk->used = 0;
    a->used_bytes = 0;
}

void *arena_alloc(struct arena *a, size_t n)
{
    ASSERT(n <= SIZE_MAX / 2);
    n = (n + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    struct arena_chunk *c = a->chunk;
    if (!c || c->cap - c->used < n) {
        /* Chunks double, so that a large document costs few of them and a small request one. */
        size_t cap = c ? c->cap * 2 : 0;
        if (cap < ARENA_CHUNK_MIN)
            cap = ARENA_CHUNK_MIN;
        if (cap > ARENA_CHUNK_MAX)
            cap = ARENA_CHUNK_MAX;
        if (cap < n)
            cap = n;
        c = mem_alloc(sizeof *c + cap);
        *c = (struct arena_chunk){.next = a->chunk, .cap = cap};
        a->chunk = c;
    }
    void *p = c->data + c->used;
    c->used += n;
    a->used_bytes += n;
    return p;
}

void *arena_zalloc(struct arena *a, size_t n)
{
    return memset(arena_alloc(a, n), 0, n);
}

void *arena_array(struct arena *a, size_t n, size_t sz)
{
    ASSERT(sz == 0 || n <= SIZE_MAX / 2 / sz);
    return arena_zalloc(a, n * sz);
}

char *arena_dup(struct arena *a, const void *p, size_t n)
{
    char *copy = arena_alloc(a, n + 1);
    if (n)
        memcpy(copy, p, n);
    copy[n] = 0;
    return copy;
}

char *arena_strdup(struct arena *a, const char *s)
{
    return arena_dup(a, s, strlen(s));
}
