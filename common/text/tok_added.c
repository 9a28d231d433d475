#include "common/base/check.h"
#include "common/mem/mem.h"
#include "common/text/tok_impl.h"

#include <string.h>

static uint32_t add_node(struct tok_trie *t, unsigned char byte)
{
    if (t->n + 1 >= t->cap) {
        t->cap = t->cap ? t->cap * 2 : 256;
        t->node = mem_realloc(t->node, t->cap * sizeof *t->node);
    }
    if (t->n == 0)
        t->node[t->n++] = (struct tok_trie_node){.id = -1};
    t->node[t->n] = (struct tok_trie_node){.id = -1, .byte = byte};
    return t->n++;
}

static uint32_t find_child(const struct tok_trie *t, uint32_t node, unsigned char byte)
{
    uint32_t c = t->node[node].child;
    while (c && t->node[c].byte != byte)
        c = t->node[c].sibling;
    return c;
}

int32_t tok__trie_add(struct tok_trie *t, const char *text, size_t n, int32_t id)
{
    const unsigned char *s = (const unsigned char *)text;

    ASSERT(n > 0);
    if (!t->root[s[0]]) {
        t->root[s[0]] = add_node(t, s[0]);
        t->is_first[s[0]] = 1;
    }
    uint32_t at = t->root[s[0]];
    for (size_t i = 1; i < n; i++) {
        uint32_t c = find_child(t, at, s[i]);
        if (!c) {
            c = add_node(t, s[i]);
            t->node[c].sibling = t->node[at].child;
            t->node[at].child = c;
        }
        at = c;
    }
    int32_t old = t->node[at].id;
    t->node[at].id = id;
    return old;
}

int32_t tok__trie_find(const struct tok_trie *t, const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    uint32_t at = n ? t->root[s[0]] : 0;

    for (size_t i = 1; at && i < n; i++)
        at = find_child(t, at, s[i]);
    return at ? t->node[at].id : -1;
}

void tok__trie_release(struct tok_trie *t)
{
    mem_free(t->node);
    *t = (struct tok_trie){0};
}

/* Longest token at s, within n >= 1 bytes: its length, 0 = none. */
static size_t longest(const struct tok_trie *t, const unsigned char *s, size_t n, int32_t *id)
{
    size_t best = 0;
    uint32_t at = t->root[s[0]];

    for (size_t i = 1;; i++) {
        if (t->node[at].id >= 0) {
            best = i;
            *id = t->node[at].id;
        }
        if (i == n || !(at = find_child(t, at, s[i])))
            return best;
    }
}

/* Where starts are forbidden next: *begin..*end, both SIZE_MAX when nowhere. `at` never falls. */
static void next_guard(struct tok_guard *g, size_t at, size_t *begin, size_t *end)
{
    while (g->i < g->n && g->span[g->i].end <= at)
        g->i++;
    *begin = g->i < g->n ? g->span[g->i].begin : SIZE_MAX;
    *end = g->i < g->n ? g->span[g->i].end : SIZE_MAX;
}

bool tok__trie_next(const struct tok_trie *t, struct tok_guard *g, const char *text, size_t from, size_t to,
                    struct tok_match *m)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t begin, end;

    for (size_t i = from; i < to; i = end) {
        next_guard(g, i, &begin, &end);
        size_t stop = begin < to ? begin : to;
        for (; i < stop; i++) {
            if (!t->is_first[s[i]])
                continue;
            size_t n = longest(t, s + i, to - i, &m->id);
            if (n) {
                m->begin = i;
                m->end = i + n;
                return true;
            }
        }
        if (stop == to)
            return false;
    }
    return false;
}
