/* common/ds/prefix_key.h - a 128-bit name for a prefix of tokens, chained block by block.
 * Owns:     nothing; plain values.
 * Thread:   any.
 * Limits:   none. A key is a hint: who acts on an equal key compares the tokens themselves, too.
 *
 * The key of blocks 0..i is made from the key of blocks 0..i-1 and the tokens of block i, so equal keys mean (up to
 * collisions) equal tokens from the beginning. Worker and controller compute the same keys from the same tokens.
 */
#ifndef COMMON_DS_PREFIX_KEY_H
#define COMMON_DS_PREFIX_KEY_H

#include <stdbool.h>
#include <stdint.h>

enum { PREFIX_BLOCK_TOK = 128 }; /* tokens of one block */

struct prefix_key {
    uint64_t lo, hi; /* lo is never 0 for a key that prefix_key_next made */
};

/* The key of the empty prefix. */
#define PREFIX_KEY_EMPTY ((struct prefix_key){0, 0})

/* The key of a prefix whose last n tokens are tok and whose earlier ones have the key `before`. Murmur3 mixing over
 * little-endian pairs of ids; not meant against an adversary. */
struct prefix_key prefix_key_next(struct prefix_key before, const int32_t *tok, int n);

/* A cached prefix has come or gone: the low half of its key. */
struct prefix_news {
    uint64_t key;
    bool is_stored;
};

#endif
