#include "controller/stream/stop.h"

#include "common/base/check.h"
#include "common/mem/mem.h"

#include <string.h>

void stop_set_add(struct stop_set *set, const char *text, size_t n)
{
    ASSERT(set->n < STOP_STRINGS_MAX && n >= 1 && n <= STOP_BYTES_MAX);
    struct stop_string *s = &set->string[set->n++];
    s->text = mem_dup(text, n);
    s->n = (uint32_t)n;
    s->fail = mem_array(n, sizeof *s->fail);
    for (uint32_t i = 1, k = 0; i < n; i++) {
        while (k > 0 && text[i] != text[k])
            k = s->fail[k - 1];
        if (text[i] == text[k])
            k++;
        s->fail[i] = k;
    }
}

void stop_set_release(struct stop_set *set)
{
    for (int i = 0; i < set->n; i++) {
        mem_free(set->string[i].text);
        mem_free(set->string[i].fail);
    }
    set->n = 0;
}

/* One byte more: the longest string that ends with it, or 0. */
static uint32_t advance(struct stop_search *s, const struct stop_set *set, char c)
{
    uint32_t match = 0;

    for (int i = 0; i < set->n; i++) {
        const struct stop_string *t = &set->string[i];
        uint32_t k = s->at[i];
        while (k > 0 && t->text[k] != c)
            k = t->fail[k - 1];
        if (t->text[k] == c)
            k++;
        if (k == t->n) {
            match = k > match ? k : match;
            k = t->fail[k - 1];
        }
        s->at[i] = k;
    }
    return match;
}

bool stop_search_feed(struct stop_search *s, const struct stop_set *set, const char *text, size_t n, struct buf *out)
{
    size_t keep = 0;

    if (set->n == 0) {
        buf_add(out, text, n);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t match = advance(s, set, text[i]);
        if (!match)
            continue;
        buf_add(&s->held, text, i + 1);
        buf_add(out, s->held.data, s->held.len - match);
        buf_clear(&s->held);
        memset(s->at, 0, sizeof s->at);
        return true;
    }
    for (int i = 0; i < set->n; i++)
        keep = s->at[i] > keep ? s->at[i] : keep;
    if (keep <= n) { /* the usual case: nothing of the older text is still open */
        buf_add(out, s->held.data, s->held.len);
        buf_clear(&s->held);
        buf_add(out, text, n - keep);
        buf_add(&s->held, text + n - keep, keep);
    } else {
        buf_add(&s->held, text, n);
        buf_add(out, s->held.data, s->held.len - keep);
        buf_drop(&s->held, s->held.len - keep);
    }
    return false;
}

void stop_search_flush(struct stop_search *s, struct buf *out)
{
    buf_add(out, s->held.data, s->held.len);
    buf_clear(&s->held);
    memset(s->at, 0, sizeof s->at);
}

void stop_search_release(struct stop_search *s)
{
    buf_release(&s->held);
}
