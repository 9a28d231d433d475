/* common/text/tok_impl.h - what the files tok*.c share; nobody else includes it (tests of these files do).
 * Owns:     struct tok owns every table below.
 * Thread:   the tables do not change after tok_open; struct tok_scratch belongs to one call.
 */
#ifndef COMMON_TEXT_TOK_IMPL_H
#define COMMON_TEXT_TOK_IMPL_H

#include "common/text/tok.h"

enum {
    TOK_VOCAB_MAX = 1 << 20, /* two ids and a result share 64 bits in the merge table */
    TOK_N_BYTE = 256,
};
#define TOK_NONE UINT32_MAX /* no id; an enum constant would not fit an int */

enum tok_id_flags {
    TOK_ADDED = 1 << 0,   /* stands in added_tokens */
    TOK_SPECIAL = 1 << 1, /* special: true */
    TOK_PRESENT = 1 << 2, /* only while loading */
};

/* (left id, right id) -> id of the joined entry, which is the rank of the merge, too. Open addressing; a slot holds
 * left:20 right:20 result:24, all ones = empty. */
struct tok_merges {
    uint64_t *slot;
    int shift; /* 64 - log2(slots) */
    uint32_t n;
};

/* Bytes -> id. Open addressing; len 0 = empty. Up to 8 bytes the key is the bytes themselves, else a hash. */
struct tok_word {
    uint64_t key;
    uint32_t id, len;
};
struct tok_words {
    struct tok_word *slot;
    int shift;
    uint32_t n;
};

/* One pass's added tokens as a trie over bytes; children of a node are a list. */
struct tok_trie_node {
    int32_t id; /* -1: no token ends here */
    uint32_t child, sibling; /* index, 0 = none (node 0 is nobody's child) */
    unsigned char byte;
};
struct tok_trie {
    struct tok_trie_node *node;
    uint32_t n, cap;
    uint32_t root[TOK_N_BYTE]; /* node of a token's first byte, 0 = none */
    unsigned char is_first[TOK_N_BYTE];
};

struct tok {
    int32_t n_vocab, eos;
    char *bytes; /* of all ids, one after the other */
    size_t *at;  /* [n_vocab + 1] offsets into bytes */
    unsigned char *flag; /* [n_vocab] enum tok_id_flags */
    uint32_t byte_id[TOK_N_BYTE];
    uint32_t *byte_pair; /* [256 * 256] merge of two single bytes or TOK_NONE */
    struct tok_merges merges;
    struct tok_words words; /* entries that BPE makes of their own bytes: a piece found here is done */
    struct tok_trie pass[2]; /* added tokens: normalized false, then true */
};

/* ---- tok_bpe.c */

void tok__merges_init(struct tok_merges *m, uint32_t n);
void tok__merges_add(struct tok_merges *m, uint32_t left, uint32_t right, uint32_t result);
uint32_t tok__merges_find(const struct tok_merges *m, uint32_t left, uint32_t right); /* or TOK_NONE */

void tok__words_init(struct tok_words *w, uint32_t n);
/* s[0..n) is the text of id in tok->bytes. Adding expects that the word is not there yet, removing that it is. */
void tok__words_add(struct tok_words *w, const char *s, size_t n, uint32_t id);
void tok__words_remove(struct tok_words *w, const char *s, size_t n, uint32_t id);
uint32_t tok__words_find(const struct tok_words *w, const struct tok *tok, const char *s, size_t n); /* or TOK_NONE */

/* Working memory of one tok_encode call; {0} is empty. */
struct tok_node {
    size_t prev, next;
    uint32_t id;
};
struct tok_memo;
struct tok_scratch {
    uint64_t *heap;
    struct tok_node *node;
    size_t cap; /* of heap and node, in bytes of piece */
    struct tok_memo *memo; /* pieces met before in this call; NULL while it would not pay */
    uint32_t n_miss;
};
void tok__scratch_release(struct tok_scratch *s);

/* Append the ids of one piece (n >= 1 bytes). tok__bpe never takes a whole entry as a short cut; tok__piece does where
 * that is the same, and remembers: during one call text and ids must not be moved or dropped. */
void tok__bpe(const struct tok *tok, struct tok_scratch *s, const char *piece, size_t n, struct tok_ids *ids);
void tok__piece(const struct tok *tok, struct tok_scratch *s, const char *piece, size_t n, struct tok_ids *ids);
/* The two ways behind tok__bpe, for any n: quadratic without memory for n <= TOK_SHORT_MAX, and a heap. */
enum { TOK_SHORT_MAX = 64 };
void tok__bpe_short(const struct tok *tok, const char *piece, size_t n, struct tok_ids *ids);
void tok__bpe_heap(const struct tok *tok, struct tok_scratch *s, const char *piece, size_t n, struct tok_ids *ids);

/* Room for n more ids; returns where they go, the caller adds to ids->n. */
int32_t *tok__ids_room(struct tok_ids *ids, size_t n);

/* ---- tok_added.c */

/* Returns the id that stood there before, or -1. n >= 1. */
int32_t tok__trie_add(struct tok_trie *t, const char *s, size_t n, int32_t id);
int32_t tok__trie_find(const struct tok_trie *t, const char *s, size_t n); /* whole string, or -1 */
void tok__trie_release(struct tok_trie *t);

/* Guard spans with a place in them that only moves forward. */
struct tok_guard {
    const struct tok_span *span;
    size_t n, i;
};
struct tok_match {
    size_t begin, end;
    int32_t id;
};
/* Leftmost, longest token that starts in text[from..to), ends at or before to, and does not start in a guard span. */
bool tok__trie_next(const struct tok_trie *t, struct tok_guard *g, const char *text, size_t from, size_t to,
                    struct tok_match *m);

#endif
