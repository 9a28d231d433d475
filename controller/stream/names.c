#include "controller/stream/names.h"

#include "common/mem/mem.h"

#include <string.h>

enum { CAP_MIN = 16 };

static uint32_t hash_of(const char *s, size_t n)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 16777619u;
    return h ^ h >> 15;
}

void names_release(struct names *s)
{
    buf_release(&s->text);
    mem_free(s->slot);
    *s = (struct names){0};
}

void names_clear(struct names *s)
{
    if (s->n == 0)
        return;
    /* A call with many names must not make all later ones pay for clearing its table. */
    if (s->cap > CAP_MIN) {
        names_release(s);
        return;
    }
    memset(s->slot, 0, s->cap * sizeof *s->slot);
    buf_clear(&s->text);
    s->n = 0;
}

static struct name_slot *find(const struct names *s, uint32_t hash, const char *name, size_t len)
{
    size_t i = hash & (s->cap - 1);
    for (;; i = (i + 1) & (s->cap - 1)) {
        struct name_slot *slot = &s->slot[i];
        if (!slot->used)
            return slot;
        if (slot->hash == hash && slot->len == len && memcmp(s->text.data + slot->begin, name, len) == 0)
            return slot;
    }
}

static void grow(struct names *s)
{
    struct name_slot *old = s->slot;
    size_t n_old = s->cap;

    s->cap = n_old ? n_old * 2 : CAP_MIN;
    s->slot = mem_array(s->cap, sizeof *s->slot);
    for (size_t i = 0; i < n_old; i++)
        if (old[i].used)
            *find(s, old[i].hash, s->text.data + old[i].begin, old[i].len) = old[i];
    mem_free(old);
}

bool names_add(struct names *s, const char *name, size_t len)
{
    if (s->n * 2 >= s->cap)
        grow(s);
    uint32_t hash = hash_of(name, len);
    struct name_slot *slot = find(s, hash, name, len);
    if (slot->used)
        return false;
    *slot = (struct name_slot){.hash = hash, .begin = s->text.len, .len = len, .used = true};
    buf_add(&s->text, name, len);
    s->n++;
    return true;
}
