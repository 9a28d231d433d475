#include "controller/link/prefixes.h"

#include "common/mem/mem.h"

enum { CAP_MIN = 64 };

void ctl_prefixes_release(struct ctl_prefixes *p)
{
    mem_free(p->item);
    *p = (struct ctl_prefixes){0};
}

static size_t place_of(const struct ctl_prefixes *p, uint64_t key)
{
    size_t i = (size_t)(key * 0x9e3779b97f4a7c15u >> 32) & (p->cap - 1);
    while (p->item[i].key && p->item[i].key != key)
        i = (i + 1) & (p->cap - 1);
    return i;
}

/* At most half full, so that every search ends soon. */
static void grow(struct ctl_prefixes *p)
{
    struct ctl_prefixes old = *p;
    if (2 * (p->n + 1) <= p->cap)
        return;
    p->cap = old.cap ? 2 * old.cap : CAP_MIN;
    p->item = mem_array(p->cap, sizeof *p->item);
    for (size_t i = 0; i < old.cap; i++)
        if (old.item[i].key)
            p->item[place_of(p, old.item[i].key)] = old.item[i];
    mem_free(old.item);
}

static void add(struct ctl_prefixes *p, uint64_t key)
{
    if (p->n == CTL_PREFIXES_MAX && !ctl_prefixes_has(p, key))
        return;
    grow(p);
    struct ctl_prefixes_item *it = &p->item[place_of(p, key)];
    if (!it->key) {
        it->key = key;
        p->n++;
    }
    it->n++;
}

/* Take the key out and move up those behind it that would not be found any more. */
static void take_out(struct ctl_prefixes *p, size_t i)
{
    p->item[i] = (struct ctl_prefixes_item){0};
    p->n--;
    for (size_t k = (i + 1) & (p->cap - 1); p->item[k].key; k = (k + 1) & (p->cap - 1)) {
        struct ctl_prefixes_item it = p->item[k];
        p->item[k] = (struct ctl_prefixes_item){0};
        p->item[place_of(p, it.key)] = it;
    }
}

void ctl_prefixes_apply(struct ctl_prefixes *p, const struct prefix_news *news, int n, bool is_all)
{
    if (is_all)
        ctl_prefixes_release(p);
    for (int i = 0; i < n; i++) {
        if (news[i].key == 0)
            continue; /* no worker of ours makes it */
        if (news[i].is_stored) {
            add(p, news[i].key);
        } else if (ctl_prefixes_has(p, news[i].key)) {
            size_t at = place_of(p, news[i].key);
            if (--p->item[at].n == 0)
                take_out(p, at);
        }
    }
}

bool ctl_prefixes_has(const struct ctl_prefixes *p, uint64_t key)
{
    return p->n > 0 && key && p->item[place_of(p, key)].key == key;
}

int64_t ctl_prefixes_match(const struct ctl_prefixes *p, const uint64_t *key, int64_t n)
{
    int64_t has = 0, lacks = n + 1; /* blocks 0..has-1 are there, block lacks-1 is not */
    if (p->n == 0)
        return 0;
    while (lacks - has > 1) {
        int64_t mid = has + (lacks - has) / 2;
        if (ctl_prefixes_has(p, key[mid - 1]))
            has = mid;
        else
            lacks = mid;
    }
    return has;
}
