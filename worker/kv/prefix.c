#include "worker/kv/prefix.h"

#include "common/base/check.h"
#include "common/mem/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)PREFIX_BLOCK_TOK == (int)KN_BLOCK_TOK, "keys are made of whole KV blocks");

enum { NONE = -1, ROOT = -1 };

/* A full block in the tree; its number is the block's. */
struct node {
    struct prefix_key key;
    int32_t parent; /* ROOT: the first block of a prefix */
    int32_t n_child, first_cut; /* cut points that end inside or at the end of the block after it */
    int32_t hash_next;
    bool is_cached;
    int32_t tok[KN_BLOCK_TOK];
};

/* Tokens of the node's prefix, then n_tail more; its state is saved. */
struct cut {
    int32_t node, next; /* next of the same node */
    int32_t n_tail;     /* NONE: not in use */
    int32_t tail[KN_BLOCK_TOK];
    uint64_t stamp; /* when it was last of use */
    bool is_pinned; /* it is being restored */
    bool is_step;   /* on the way through a long prompt */
};

struct wrk_prefix {
    int32_t n_saved, n_bucket; /* n_bucket: a power of two */
    struct node *node;         /* [n_block] */
    int32_t *bucket;           /* first node of each chain */
    struct cut *cut;           /* [n_saved] */
    uint8_t *saved;            /* [n_saved, saved_bytes] state slot, then block */
    size_t saved_bytes;
    int32_t first_root_cut;
    int32_t n_step; /* cut points that are steps */
    uint64_t now;   /* counts uses */

    struct prefix_news news[WRK_PREFIX_NEWS_MAX];
    int n_news;
    int32_t tell_next; /* telling all: next block to look at; NONE: not telling */
    bool has_lost_news;
    struct wrk_prefix_stats stats;
};

/* ---- memory ---- */

int wrk_prefix_init(struct wrk_kv *kv, int32_t n_saved, struct err *err)
{
    ASSERT(!kv->prefix && n_saved >= 0 && n_saved <= WRK_PREFIX_SAVED_MAX);
    if (n_saved == 0)
        return 0;
    struct wrk_prefix *p = mem_zalloc(sizeof *p);
    p->n_saved = n_saved;
    p->saved_bytes = (size_t)(kv->slot_bytes + kv->block_bytes);
    p->saved = calloc((size_t)n_saved, p->saved_bytes); /* pages that are never used are never touched */
    if (!p->saved) {
        mem_free(p);
        return err_set(err, ERR_MEM, "prefix cache: no memory for %" PRId32 " saved states of %" PRIu64 " KiB; give it "
                       "fewer", n_saved, (kv->slot_bytes + kv->block_bytes) >> 10);
    }
    for (p->n_bucket = 16; p->n_bucket < kv->n_block; p->n_bucket *= 2)
        ;
    p->node = mem_array((size_t)kv->n_block, sizeof *p->node);
    p->cut = mem_array((size_t)n_saved, sizeof *p->cut);
    p->bucket = mem_array((size_t)p->n_bucket, sizeof *p->bucket);
    for (int32_t i = 0; i < p->n_bucket; i++)
        p->bucket[i] = NONE;
    for (int32_t i = 0; i < n_saved; i++)
        p->cut[i].n_tail = NONE;
    p->first_root_cut = NONE;
    p->tell_next = NONE;
    p->stats.saved_bytes = (uint64_t)n_saved * p->saved_bytes;
    kv->prefix = p;
    return 0;
}

void wrk_prefix_release(struct wrk_kv *kv)
{
    struct wrk_prefix *p = kv->prefix;

    if (!p)
        return;
    free(p->saved);
    mem_free(p->node);
    mem_free(p->cut);
    mem_free(p->bucket);
    mem_free(p);
    kv->prefix = NULL;
}

const struct wrk_prefix_stats *wrk_prefix_stats(const struct wrk_kv *kv)
{
    static const struct wrk_prefix_stats none;
    return kv->prefix ? &kv->prefix->stats : &none;
}

bool wrk__prefix_has(const struct wrk_kv *kv, int32_t block)
{
    return kv->prefix && kv->prefix->node[block].is_cached;
}

/* ---- news ---- */

static void tell(struct wrk_prefix *p, uint64_t key, bool is_stored)
{
    if (p->tell_next != NONE || p->n_news == WRK_PREFIX_NEWS_MAX)
        p->has_lost_news = true; /* what was told of everything is not true any more; or nobody listens */
    else
        p->news[p->n_news++] = (struct prefix_news){key, is_stored};
}

bool wrk_prefix_has_lost_news(const struct wrk_kv *kv)
{
    return kv->prefix && kv->prefix->has_lost_news;
}

void wrk_prefix_tell_all(struct wrk_kv *kv)
{
    if (!kv->prefix)
        return;
    kv->prefix->tell_next = 0;
    kv->prefix->has_lost_news = false;
    kv->prefix->n_news = 0;
}

int wrk_prefix_take_news(struct wrk_kv *kv, struct prefix_news *news, int n)
{
    struct wrk_prefix *p = kv->prefix;
    int k = 0;

    if (!p)
        return 0;
    if (p->tell_next == NONE) {
        k = n < p->n_news ? n : p->n_news;
        memcpy(news, p->news, (size_t)k * sizeof *news);
        p->n_news -= k;
        memmove(p->news, p->news + k, (size_t)p->n_news * sizeof *news);
        return k;
    }
    for (; p->tell_next < kv->n_block && k < n; p->tell_next++)
        if (p->node[p->tell_next].is_cached)
            news[k++] = (struct prefix_news){p->node[p->tell_next].key.lo, true};
    if (p->tell_next == kv->n_block)
        p->tell_next = NONE;
    return k;
}

/* ---- the tree ---- */

static int32_t *bucket_of(struct wrk_prefix *p, struct prefix_key key)
{
    return &p->bucket[key.lo & (uint64_t)(p->n_bucket - 1)];
}

static int32_t find_child(const struct wrk_prefix *p, int32_t parent, struct prefix_key key, const int32_t *tok)
{
    int32_t b = p->bucket[key.lo & (uint64_t)(p->n_bucket - 1)];
    for (; b != NONE; b = p->node[b].hash_next) {
        const struct node *n = &p->node[b];
        if (n->parent == parent && n->key.lo == key.lo && n->key.hi == key.hi &&
            memcmp(n->tok, tok, sizeof n->tok) == 0)
            return b;
    }
    return NONE;
}

static void node_add(struct wrk_kv *kv, int32_t b, int32_t parent, struct prefix_key key, const int32_t *tok)
{
    struct wrk_prefix *p = kv->prefix;
    struct node *n = &p->node[b];
    int32_t *head = bucket_of(p, key);

    ASSERT(!n->is_cached && kv->block_n_list[b] > 0);
    *n = (struct node){.key = key, .parent = parent, .first_cut = NONE, .hash_next = *head, .is_cached = true};
    memcpy(n->tok, tok, sizeof n->tok);
    *head = b;
    if (parent != ROOT)
        p->node[parent].n_child++;
    tell(p, key.lo, true);
}

/* Take the node out, and those above it that then serve no cut point any more. */
static void node_drop(struct wrk_kv *kv, int32_t b)
{
    struct wrk_prefix *p = kv->prefix;

    while (b != ROOT && p->node[b].n_child == 0 && p->node[b].first_cut == NONE) {
        struct node *n = &p->node[b];
        int32_t *at = bucket_of(p, n->key), parent = n->parent;
        while (*at != b)
            at = &p->node[*at].hash_next;
        *at = n->hash_next;
        n->is_cached = false;
        tell(p, n->key.lo, false);
        if (kv->block_n_list[b] == 0) {
            kv->n_idle_block--;
            kv->free_block[kv->n_free_block++] = b;
        }
        if (parent != ROOT)
            p->node[parent].n_child--;
        b = parent;
    }
}

static int32_t *first_cut_of(struct wrk_prefix *p, int32_t node)
{
    return node == ROOT ? &p->first_root_cut : &p->node[node].first_cut;
}

static void cut_drop(struct wrk_kv *kv, struct cut *c)
{
    struct wrk_prefix *p = kv->prefix;
    int32_t *at = first_cut_of(p, c->node);

    while (&p->cut[*at] != c)
        at = &p->cut[*at].next;
    *at = c->next;
    c->n_tail = NONE;
    p->n_step -= c->is_step;
    p->stats.n_given_up++;
    kv->version++;
    node_drop(kv, c->node);
}

void wrk_prefix_clear(struct wrk_kv *kv)
{
    for (int32_t i = 0; kv->prefix && i < kv->prefix->n_saved; i++)
        if (kv->prefix->cut[i].n_tail != NONE)
            cut_drop(kv, &kv->prefix->cut[i]);
}

bool wrk__prefix_give_block(struct wrk_kv *kv)
{
    struct wrk_prefix *p = kv->prefix;
    const int32_t n_free = kv->n_free_block;

    while (p && kv->n_free_block == n_free) {
        struct cut *oldest = NULL;
        for (int32_t i = 0; i < p->n_saved; i++) {
            struct cut *c = &p->cut[i];
            if (c->n_tail == NONE || c->is_pinned || c->node == ROOT || p->node[c->node].n_child > 0 ||
                kv->block_n_list[c->node] > 0)
                continue; /* without it no block would be free */
            if (!oldest || c->stamp < oldest->stamp)
                oldest = c;
        }
        if (!oldest)
            return false;
        cut_drop(kv, oldest);
    }
    return p != NULL;
}

/* ---- copies of state and last block ---- */

/* One layer's part of slot and block: each of them to or from host memory at *at, which moves on. */
struct copy {
    const struct wrk_kv *kv;
    uint8_t *at;
    bool is_save;
    int rc;
};

static void copy_part(struct copy *c, void *dev, size_t bytes)
{
    const struct kn_device *d = c->kv->backend->device;
    if (!c->rc && bytes)
        c->rc = c->is_save ? d->copy_out(c->kv->ctx, c->at, dev, bytes) : d->copy_in(c->kv->ctx, dev, c->at, bytes);
    c->at += bytes;
}

/* block NONE: the state only. */
static int copy_state(const struct wrk_kv *kv, uint8_t *host, int32_t slot, int32_t block, bool is_save)
{
    struct copy c = {.kv = kv, .at = host, .is_save = is_save};

    for (int32_t i = 0; i < kv->n_layer; i++) {
        const struct wrk_kv_layer *l = &kv->layer[i];
        copy_part(&c, l->ring + (size_t)slot * l->ring_bytes, l->ring_bytes);
        if (l->tail)
            copy_part(&c, (uint8_t *)l->tail + (size_t)slot * l->tail_bytes, l->tail_bytes);
        if (l->index_tail)
            copy_part(&c, (uint8_t *)l->index_tail + (size_t)slot * l->index_tail_bytes, l->index_tail_bytes);
    }
    ASSERT(c.rc || c.at == host + kv->slot_bytes);
    for (int32_t i = 0; i < kv->n_layer && block != NONE; i++) {
        const struct wrk_kv_layer *l = &kv->layer[i];
        if (l->pool)
            copy_part(&c, l->pool + (size_t)block * l->page_bytes, l->page_bytes);
        if (l->index_pool)
            copy_part(&c, l->index_pool + (size_t)block * l->index_page_bytes, l->index_page_bytes);
    }
    if (!c.rc && is_save)
        c.rc = kv->backend->device->sync(kv->ctx);
    return c.rc;
}

/* ---- find and restore ---- */

struct found {
    int32_t cut; /* NONE: nothing */
    int64_t n_tok, n_use; /* its tokens; those that its taker has (less by the step back) */
    int64_t n_busy;
};

/* Cut point c of a node after `before` tokens of tok: how many tokens of tok[n_tok] it serves, 0: none. */
static int64_t serves(const struct cut *c, int64_t before, const int32_t *tok, int64_t n_tok)
{
    int64_t n = before + c->n_tail;

    if (n > n_tok || (n == n_tok && c->n_tail == 0) ||
        memcmp(c->tail, tok + before, (size_t)c->n_tail * sizeof *tok) != 0)
        return 0;
    return n < n_tok ? n : n - 1;
}

static struct found find(const struct wrk_kv *kv, const int32_t *tok, int64_t n_tok)
{
    const struct wrk_prefix *p = kv->prefix;
    struct found f = {.cut = NONE};
    struct prefix_key key = PREFIX_KEY_EMPTY;
    int32_t node = ROOT;
    int64_t n_busy = 0;

    for (int64_t before = 0; p; before += KN_BLOCK_TOK) {
        int32_t i = node == ROOT ? p->first_root_cut : p->node[node].first_cut;
        for (; i != NONE; i = p->cut[i].next) {
            int64_t n = serves(&p->cut[i], before, tok, n_tok);
            if (n > f.n_use)
                f = (struct found){.cut = i, .n_tok = before + p->cut[i].n_tail, .n_use = n, .n_busy = n_busy};
        }
        if (n_tok - before < KN_BLOCK_TOK)
            break;
        key = prefix_key_next(key, tok + before, KN_BLOCK_TOK);
        node = find_child(p, node, key, tok + before);
        if (node == NONE)
            break;
        n_busy += kv->block_n_list[node] > 0;
    }
    return f;
}

struct wrk_prefix_hit wrk_prefix_find(const struct wrk_kv *kv, const int32_t *tok, int64_t n_tok)
{
    struct found f = find(kv, tok, n_tok);
    return (struct wrk_prefix_hit){.n_tok = f.n_use, .n_busy = f.n_busy};
}

/* Write entries from..to of the slot's list to the device. */
static int table_write(struct wrk_kv *kv, int32_t slot, int64_t from, int64_t to)
{
    size_t at = (size_t)slot * (size_t)kv->block_stride + (size_t)from;
    return to == from ? 0 : kv->backend->device->copy_in(kv->ctx, kv->block + at, kv->host_block + at,
                                                         (size_t)(to - from) * sizeof *kv->block);
}

int64_t wrk_prefix_restore(struct wrk_kv *kv, int32_t slot, const int32_t *tok, int64_t n_tok)
{
    struct wrk_prefix *p = kv->prefix;
    struct found f = find(kv, tok, n_tok);

    ASSERT(kv->slot_n_block[slot] == 0);
    if (f.cut == NONE)
        return 0;
    struct cut *c = &p->cut[f.cut];
    int64_t n_full = f.n_tok / KN_BLOCK_TOK;
    int32_t *list = kv->host_block + (size_t)slot * (size_t)kv->block_stride, node = c->node;
    for (int64_t i = n_full - 1; i >= 0; i--, node = p->node[node].parent) {
        list[i] = node;
        wrk__kv_list_add(kv, node);
    }
    ASSERT(node == ROOT);
    kv->slot_n_block[slot] = (int32_t)n_full;
    c->is_pinned = true; /* the block of the copy must not come from what is copied */
    int rc = table_write(kv, slot, 0, n_full);
    if (!rc)
        rc = wrk_kv_reserve(kv, slot, f.n_tok);
    if (!rc)
        rc = copy_state(kv, p->saved + (size_t)f.cut * p->saved_bytes, slot, c->n_tail ? list[n_full] : NONE, false);
    c->is_pinned = false;
    if (rc) {
        while (kv->slot_n_block[slot] > 0)
            wrk__kv_list_remove(kv, list[--kv->slot_n_block[slot]]);
        return rc == ERR_LIMIT ? 0 : rc;
    }
    c->stamp = ++p->now;
    p->stats.n_restored++;
    p->stats.n_restored_tok += (uint64_t)f.n_use;
    return f.n_use;
}

/* ---- save ---- */

/* The cut point of exactly these tokens, or NULL. */
static struct cut *find_exact(const struct wrk_kv *kv, const int32_t *tok, int64_t n_tok)
{
    struct wrk_prefix *p = kv->prefix;
    struct prefix_key key = PREFIX_KEY_EMPTY;
    int64_t n_full = n_tok / KN_BLOCK_TOK, n_tail = n_tok % KN_BLOCK_TOK;
    int32_t node = ROOT;

    for (int64_t i = 0; i < n_full; i++) {
        key = prefix_key_next(key, tok + i * KN_BLOCK_TOK, KN_BLOCK_TOK);
        node = find_child(p, node, key, tok + i * KN_BLOCK_TOK);
        if (node == NONE)
            return NULL;
    }
    for (int32_t i = *first_cut_of(p, node); i != NONE; i = p->cut[i].next)
        if (p->cut[i].n_tail == n_tail &&
            memcmp(p->cut[i].tail, tok + n_full * KN_BLOCK_TOK, (size_t)n_tail * sizeof *tok) == 0)
            return &p->cut[i];
    return NULL;
}

/* A cut point that is not in use; the least recently used one is given up for it, of the steps if those have their
 * share and this is another. */
static int32_t take_cut(struct wrk_kv *kv, bool is_step)
{
    struct wrk_prefix *p = kv->prefix;
    bool only_steps = is_step && p->n_step > 0 && p->n_step >= p->n_saved / 2;
    int32_t oldest = NONE;

    for (int32_t i = 0; i < p->n_saved; i++) {
        const struct cut *c = &p->cut[i];
        if (c->n_tail == NONE && !only_steps)
            return i;
        if (c->n_tail == NONE || (only_steps && !c->is_step))
            continue;
        if (oldest == NONE || c->stamp < p->cut[oldest].stamp)
            oldest = i;
    }
    cut_drop(kv, &p->cut[oldest]);
    return oldest;
}

/* The nodes of the slot's full blocks, made where there are none; the last one's number. */
static int32_t grow_tree(struct wrk_kv *kv, int32_t slot, const int32_t *tok, int64_t n_full, int *rc)
{
    int32_t *list = kv->host_block + (size_t)slot * (size_t)kv->block_stride, node = ROOT;
    struct prefix_key key = PREFIX_KEY_EMPTY;

    for (int64_t i = 0; i < n_full; i++, tok += KN_BLOCK_TOK) {
        int32_t parent = node;
        key = prefix_key_next(key, tok, KN_BLOCK_TOK);
        node = find_child(kv->prefix, parent, key, tok);
        if (node == NONE) {
            node = list[i];
            node_add(kv, node, parent, key, tok);
        } else if (node != list[i]) { /* computed twice, with the same bits: one of them is enough */
            int32_t spare = list[i];
            list[i] = node;
            wrk__kv_list_add(kv, node);
            wrk__kv_list_remove(kv, spare);
            if (!*rc)
                *rc = table_write(kv, slot, i, i + 1);
        }
    }
    return node;
}

int wrk_prefix_save(struct wrk_kv *kv, int32_t slot, const int32_t *tok, int64_t n_tok, bool is_step)
{
    struct wrk_prefix *p = kv->prefix;
    const int32_t *list = kv->host_block + (size_t)slot * (size_t)kv->block_stride;
    int64_t n_full = n_tok / KN_BLOCK_TOK;
    int rc = 0;

    if (!p)
        return 0;
    ASSERT(n_tok >= 1 && wrk_kv_blocks_of(n_tok) <= kv->slot_n_block[slot]);
    struct cut *c = find_exact(kv, tok, n_tok);
    if (c) {
        c->stamp = ++p->now;
        p->n_step -= c->is_step && !is_step;
        c->is_step &= is_step;
        return 0;
    }
    int32_t at = take_cut(kv, is_step), n_tail = (int32_t)(n_tok % KN_BLOCK_TOK);
    rc = copy_state(kv, p->saved + (size_t)at * p->saved_bytes, slot, n_tail ? list[n_full] : NONE, true);
    if (rc)
        return rc;
    c = &p->cut[at];
    int32_t node = grow_tree(kv, slot, tok, n_full, &rc), *head = first_cut_of(p, node);
    *c = (struct cut){.node = node, .next = *head, .n_tail = n_tail, .stamp = ++p->now,
                      .is_step = is_step};
    p->n_step += is_step;
    memcpy(c->tail, tok + n_full * KN_BLOCK_TOK, (size_t)n_tail * sizeof *tok);
    *head = at;
    p->stats.n_saved++;
    kv->version++;
    return rc;
}
