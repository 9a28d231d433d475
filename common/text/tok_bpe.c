#include "common/base/check.h"
#include "common/mem/mem.h"
#include "common/text/tok_impl.h"

#include <string.h>

enum {
    POS_BITS = 40, /* heap entry: rank above, place in the piece below; lowest entry = lowest rank, then leftmost */
    HEAP_WAYS = 4,
    MEMO_BITS = 11,
    MEMO_BYTES_MAX = 64, /* longer pieces hardly ever come again */
    MEMO_MISS_MIN = 64,  /* a short text is done before the memo pays */
};
#define GOLDEN 0x9E3779B97F4A7C15u

void tok_ids_release(struct tok_ids *ids)
{
    mem_free(ids->id);
    *ids = (struct tok_ids){0};
}

int32_t *tok__ids_room(struct tok_ids *ids, size_t n)
{
    if (ids->cap - ids->n < n) {
        size_t cap = ids->cap + ids->cap / 2 + n + 16;
        ASSERT(cap < SIZE_MAX / sizeof *ids->id);
        ids->id = mem_realloc(ids->id, cap * sizeof *ids->id);
        ids->cap = cap;
    }
    return ids->id + ids->n;
}

void tok_ids_add(struct tok_ids *ids, int32_t id)
{
    *tok__ids_room(ids, 1) = id;
    ids->n++;
}

/* ---- merge table -------------------------------------------------------------------------------------- */

/* Slots are a power of two and at most half full. */
static int table_shift(uint32_t n)
{
    int shift = 64 - 4;
    while (((uint64_t)1 << (64 - shift)) < (uint64_t)n * 2)
        shift--;
    return shift;
}

static inline size_t merge_home(const struct tok_merges *m, uint64_t key)
{
    return (size_t)(key * GOLDEN >> m->shift);
}

void tok__merges_init(struct tok_merges *m, uint32_t n)
{
    m->shift = table_shift(n);
    m->n = 0;
    size_t slots = (size_t)1 << (64 - m->shift);
    m->slot = mem_array(slots, sizeof *m->slot);
    memset(m->slot, 0xFF, slots * sizeof *m->slot);
}

void tok__merges_add(struct tok_merges *m, uint32_t left, uint32_t right, uint32_t result)
{
    uint64_t key = (uint64_t)left << 20 | right;
    size_t mask = ((size_t)1 << (64 - m->shift)) - 1, i = merge_home(m, key);

    ASSERT(left < TOK_VOCAB_MAX && right < TOK_VOCAB_MAX && result < TOK_VOCAB_MAX && m->n < mask);
    while (m->slot[i] != UINT64_MAX)
        i = (i + 1) & mask;
    m->slot[i] = key << 24 | result;
    m->n++;
}

uint32_t tok__merges_find(const struct tok_merges *m, uint32_t left, uint32_t right)
{
    uint64_t key = (uint64_t)left << 20 | right;
    size_t mask = ((size_t)1 << (64 - m->shift)) - 1, i = merge_home(m, key);

    for (;; i = (i + 1) & mask) {
        uint64_t slot = m->slot[i];
        if (slot >> 24 == key)
            return (uint32_t)slot & (TOK_VOCAB_MAX - 1);
        if (slot == UINT64_MAX)
            return TOK_NONE;
    }
}

/* ---- whole words -------------------------------------------------------------------------------------- */

static inline uint64_t load32(const char *s)
{
    uint32_t v;
    memcpy(&v, s, 4);
    return v;
}

static inline uint64_t load64(const char *s)
{
    uint64_t v;
    memcpy(&v, s, 8);
    return v;
}

/* Up to 8 bytes: a number from which, with n, the bytes follow; more: a hash. Never reads outside s[0..n). */
static inline uint64_t word_key(const char *s, size_t n)
{
    if (n > 8) {
        uint64_t h = n;
        for (size_t i = 0; i + 8 < n; i += 8)
            h = ((h ^ load64(s + i)) * GOLDEN) ^ h >> 29;
        return ((h ^ h >> 32) ^ load64(s + n - 8)) * GOLDEN;
    }
    if (n == 8)
        return load64(s);
    if (n >= 4)
        return load32(s) | load32(s + n - 4) << 32;
    return (uint64_t)(unsigned char)s[0] | (uint64_t)(unsigned char)s[n / 2] << 8 |
           (uint64_t)(unsigned char)s[n - 1] << 16;
}

static inline size_t word_home(uint64_t key, size_t n, int shift)
{
    uint64_t h = (key + n) * GOLDEN;
    return (size_t)((h ^ h >> 32) * GOLDEN >> shift);
}

void tok__words_init(struct tok_words *w, uint32_t n)
{
    w->shift = table_shift(n);
    w->n = 0;
    w->slot = mem_array((size_t)1 << (64 - w->shift), sizeof *w->slot);
}

void tok__words_add(struct tok_words *w, const char *s, size_t n, uint32_t id)
{
    uint64_t key = word_key(s, n);
    size_t mask = ((size_t)1 << (64 - w->shift)) - 1, i = word_home(key, n, w->shift);

    ASSERT(n > 0 && n < UINT32_MAX && w->n < mask);
    while (w->slot[i].len)
        i = (i + 1) & mask;
    w->slot[i] = (struct tok_word){.key = key, .id = id, .len = (uint32_t)n};
    w->n++;
}

void tok__words_remove(struct tok_words *w, const char *s, size_t n, uint32_t id)
{
    size_t mask = ((size_t)1 << (64 - w->shift)) - 1, i = word_home(word_key(s, n), n, w->shift);

    while (w->slot[i].id != id || !w->slot[i].len) {
        ASSERT(w->slot[i].len);
        i = (i + 1) & mask;
    }
    w->slot[i].len = UINT32_MAX; /* equals no length, and is not empty either: others behind it are still found */
}

static inline uint32_t find_word(const struct tok *tok, const struct tok_words *w, const char *s, size_t n,
                                 uint64_t key)
{
    size_t mask = ((size_t)1 << (64 - w->shift)) - 1;

    for (size_t i = word_home(key, n, w->shift);; i = (i + 1) & mask) {
        const struct tok_word *slot = &w->slot[i];
        if (slot->key == key && slot->len == n && n < UINT32_MAX &&
            (n <= 8 || memcmp(tok->bytes + tok->at[slot->id], s, n) == 0))
            return slot->id;
        if (!slot->len)
            return TOK_NONE;
    }
}

uint32_t tok__words_find(const struct tok_words *w, const struct tok *tok, const char *s, size_t n)
{
    return n ? find_word(tok, w, s, n, word_key(s, n)) : TOK_NONE;
}

/* ---- BPE of one piece --------------------------------------------------------------------------------- */

void tok__scratch_release(struct tok_scratch *s)
{
    mem_free(s->heap);
    mem_free(s->node);
    mem_free(s->memo);
    *s = (struct tok_scratch){0};
}

static inline uint32_t byte_pair(const struct tok *tok, const char *s)
{
    return tok->byte_pair[(size_t)(unsigned char)s[0] << 8 | (unsigned char)s[1]];
}

/* Symbols keep their place; a joined one leaves a hole. rank[i] belongs to the pair that begins at i, TOK_NONE where
 * none begins; prev/next skip the holes. The lowest rank is searched by a scan: for such n faster than any heap. */
void tok__bpe_short(const struct tok *tok, const char *piece, size_t n, struct tok_ids *ids)
{
    uint32_t id[TOK_SHORT_MAX + 1], rank[TOK_SHORT_MAX + 1];
    uint8_t prev[TOK_SHORT_MAX + 1], next[TOK_SHORT_MAX + 1];

    ASSERT(n > 0 && n <= TOK_SHORT_MAX);
    for (size_t i = 0; i < n; i++) {
        id[i] = tok->byte_id[(unsigned char)piece[i]];
        prev[i] = (uint8_t)(i - 1);
        next[i] = (uint8_t)(i + 1);
        rank[i] = i + 1 < n ? byte_pair(tok, piece + i) : TOK_NONE;
    }
    for (;;) {
        size_t best = 0;
        uint32_t low = rank[0];
        for (size_t i = 1; i < n; i++) {
            best = rank[i] < low ? i : best;
            low = rank[i] < low ? rank[i] : low;
        }
        if (low == TOK_NONE)
            break;
        size_t gone = next[best], after = next[gone];
        id[best] = low;
        rank[gone] = TOK_NONE;
        next[best] = (uint8_t)after;
        rank[best] = TOK_NONE;
        if (after < n) {
            prev[after] = (uint8_t)best;
            rank[best] = tok__merges_find(&tok->merges, low, id[after]);
        }
        if (best > 0)
            rank[prev[best]] = tok__merges_find(&tok->merges, id[prev[best]], low);
    }
    int32_t *out = tok__ids_room(ids, n);
    size_t k = 0;
    for (size_t i = 0; i < n; i = next[i])
        out[k++] = (int32_t)id[i];
    ids->n += k;
}

/* A heap of HEAP_WAYS children per entry: half the levels of a binary one, and one cache line per level. */
static void sift_down(uint64_t *heap, size_t n, size_t i)
{
    uint64_t v = heap[i];

    for (;;) {
        size_t first = HEAP_WAYS * i + 1, end = first + HEAP_WAYS < n ? first + HEAP_WAYS : n, c = first;
        if (first >= n)
            break;
        for (size_t k = first + 1; k < end; k++)
            c = heap[k] < heap[c] ? k : c;
        if (heap[c] >= v)
            break;
        heap[i] = heap[c];
        i = c;
    }
    heap[i] = v;
}

static void sift_up(uint64_t *heap, size_t i)
{
    uint64_t v = heap[i];

    while (i > 0 && heap[(i - 1) / HEAP_WAYS] > v) {
        heap[i] = heap[(i - 1) / HEAP_WAYS];
        i = (i - 1) / HEAP_WAYS;
    }
    heap[i] = v;
}

static void grow_scratch(struct tok_scratch *s, size_t n)
{
    if (s->cap >= n)
        return;
    ASSERT(n < (size_t)1 << POS_BITS);
    s->cap = n + n / 2;
    mem_free(s->heap);
    mem_free(s->node);
    s->heap = mem_array(s->cap, 2 * sizeof *s->heap); /* one entry per place and one per merge, at most */
    s->node = mem_array(s->cap, sizeof *s->node);
}

/* Fill nodes and heap from the single bytes; returns the number of heap entries. */
static size_t start_heap(const struct tok *tok, struct tok_scratch *s, const char *piece, size_t n)
{
    size_t n_heap = 0;

    for (size_t i = 0; i < n; i++) {
        s->node[i] = (struct tok_node){.prev = i - 1, .next = i + 1, .id = tok->byte_id[(unsigned char)piece[i]]};
        uint32_t rank = i + 1 < n ? byte_pair(tok, piece + i) : TOK_NONE;
        if (rank != TOK_NONE)
            s->heap[n_heap++] = (uint64_t)rank << POS_BITS | i;
    }
    for (size_t i = (n_heap + HEAP_WAYS - 1) / HEAP_WAYS; i-- > 0;)
        sift_down(s->heap, n_heap, i);
    return n_heap;
}

void tok__bpe_heap(const struct tok *tok, struct tok_scratch *s, const char *piece, size_t n, struct tok_ids *ids)
{
    grow_scratch(s, n);
    struct tok_node *node = s->node;
    uint64_t *heap = s->heap;
    size_t n_heap = start_heap(tok, s, piece, n), n_left = n;

    while (n_heap > 0) {
        uint64_t top = heap[0];
        heap[0] = heap[--n_heap];
        if (n_heap)
            sift_down(heap, n_heap, 0);
        uint32_t rank = (uint32_t)(top >> POS_BITS);
        size_t at = (size_t)(top & (((uint64_t)1 << POS_BITS) - 1)), gone = node[at].next;
        /* An entry is old when its place was joined away, or when either side has grown since: a rank belongs to one
         * pair of ids only, so asking the table again tells. */
        if (node[at].id == TOK_NONE || gone >= n ||
            tok__merges_find(&tok->merges, node[at].id, node[gone].id) != rank)
            continue;
        size_t after = node[gone].next;
        node[at].id = rank;
        node[at].next = after;
        node[gone].id = TOK_NONE;
        n_left--;
        if (after < n) {
            node[after].prev = at;
            uint32_t r = tok__merges_find(&tok->merges, rank, node[after].id);
            if (r != TOK_NONE) {
                heap[n_heap] = (uint64_t)r << POS_BITS | at;
                sift_up(heap, n_heap++);
            }
        }
        if (at > 0) {
            size_t before = node[at].prev;
            uint32_t r = tok__merges_find(&tok->merges, node[before].id, rank);
            if (r != TOK_NONE) {
                heap[n_heap] = (uint64_t)r << POS_BITS | before;
                sift_up(heap, n_heap++);
            }
        }
    }
    int32_t *out = tok__ids_room(ids, n_left);
    for (size_t i = 0; i < n; i = node[i].next)
        *out++ = (int32_t)node[i].id;
    ids->n += n_left;
}

void tok__bpe(const struct tok *tok, struct tok_scratch *s, const char *piece, size_t n, struct tok_ids *ids)
{
    if (n <= TOK_SHORT_MAX)
        tok__bpe_short(tok, piece, n, ids);
    else
        tok__bpe_heap(tok, s, piece, n, ids);
}

/* ---- pieces ------------------------------------------------------------------------------------------- */

/* One piece met before in this call: where it stands in the text, and where its ids stand among those appended. */
struct tok_memo {
    uint64_t key;
    const char *piece;
    size_t ids_at;
    uint32_t len, n_id; /* len 0: empty */
};

/* Pieces that are no entry of the vocabulary: words of several tokens, which come again and again in one text. The memo
 * has a fixed size; a newer piece takes the place of an older one. */
static void memo_piece(const struct tok *tok, struct tok_scratch *s, const char *piece, size_t n, uint64_t key,
                       struct tok_ids *ids)
{
    if (!s->memo) {
        if (s->n_miss++ < MEMO_MISS_MIN) {
            tok__bpe(tok, s, piece, n, ids);
            return;
        }
        s->memo = mem_array((size_t)1 << MEMO_BITS, sizeof *s->memo);
    }
    struct tok_memo *m = &s->memo[word_home(key, n, 64 - MEMO_BITS)];
    if (m->key == key && m->len == n && (n <= 8 || memcmp(m->piece, piece, n) == 0)) {
        int32_t *out = tok__ids_room(ids, m->n_id);
        memcpy(out, ids->id + m->ids_at, m->n_id * sizeof *out);
        ids->n += m->n_id;
        return;
    }
    size_t at = ids->n;
    tok__bpe(tok, s, piece, n, ids);
    *m = (struct tok_memo){
        .key = key, .piece = piece, .ids_at = at, .len = (uint32_t)n, .n_id = (uint32_t)(ids->n - at)};
}

void tok__piece(const struct tok *tok, struct tok_scratch *s, const char *piece, size_t n, struct tok_ids *ids)
{
    uint64_t key = word_key(piece, n);
    uint32_t id = find_word(tok, &tok->words, piece, n, key);

    if (id != TOK_NONE)
        tok_ids_add(ids, (int32_t)id);
    else if (n <= MEMO_BYTES_MAX)
        memo_piece(tok, s, piece, n, key, ids);
    else
        tok__bpe(tok, s, piece, n, ids);
}
