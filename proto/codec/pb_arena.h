/* proto/codec/pb_arena.h - protobuf-c allocates from an arena up to a limit: a hostile message costs no more, and
 * nothing is freed one by one.
 * Owns:     nothing.
 * Thread:   one.
 */
#ifndef PROTO_CODEC_PB_ARENA_H
#define PROTO_CODEC_PB_ARENA_H

#include "common/mem/arena.h"

#include <protobuf-c/protobuf-c.h>

struct pb_arena {
    struct arena *arena;
    size_t left; /* bytes that may still be taken */
};

static inline void *pb_arena_alloc(void *data, size_t n)
{
    struct pb_arena *pa = data;
    if (n > pa->left)
        return NULL;
    pa->left -= n;
    return arena_alloc(pa->arena, n);
}

static inline void pb_arena_free(void *data, void *p)
{
    (void)data, (void)p;
}

static inline ProtobufCAllocator pb_arena_allocator(struct pb_arena *pa)
{
    return (ProtobufCAllocator){.alloc = pb_arena_alloc, .free = pb_arena_free, .allocator_data = pa};
}

#endif
