#include "common/base/check.h"
#include "common/mem/mem.h"
#include "common/text/pretok.h"
#include "common/text/tok_impl.h"
#include "common/text/utf8.h"

#include <string.h>

enum { RESERVE_BYTES_MAX = 2048 };

static const char replacement[] = "\xEF\xBF\xBD";

/* One call of tok_encode. Each pass has its own place in the guard spans. */
struct encode {
    const struct tok *tok;
    const char *text; /* valid UTF-8 */
    struct tok_guard guard[2];
    struct tok_scratch scratch;
    struct tok_ids *ids;
};

static void encode_plain(struct encode *e, size_t from, size_t to)
{
    const char *s = e->text + from;
    size_t n = to - from;

    for (size_t i = 0; i < n;) {
        size_t end = pretok_next(s, n, i);
        tok__piece(e->tok, &e->scratch, s + i, end - i, e->ids);
        i = end;
    }
}

/* Cut the added tokens of this pass out of text[from..to); what lies between goes to the next pass. */
static void encode_pass(struct encode *e, int pass, size_t from, size_t to)
{
    struct tok_match m;

    while (from < to) {
        bool found = tok__trie_next(&e->tok->pass[pass], &e->guard[pass], e->text, from, to, &m);
        size_t end = found ? m.begin : to;
        if (pass == 0)
            encode_pass(e, 1, from, end);
        else
            encode_plain(e, from, end);
        if (!found)
            return;
        tok_ids_add(e->ids, m.id);
        from = m.end;
    }
}

/* Offsets of the text as given, turned into offsets of the text with replacements, in ascending order. */
struct remap {
    struct tok_span *span;
    size_t n, i; /* i: offsets done, two per span */
};

/* From here on offsets up to `old` are `now`. */
static void remap_to(struct remap *r, size_t old, size_t now)
{
    for (; r->i < 2 * r->n; r->i++) {
        size_t *at = r->i % 2 ? &r->span[r->i / 2].end : &r->span[r->i / 2].begin;
        if (*at > old)
            return;
        *at = now;
    }
}

/* Append text to out with each maximal invalid part replaced by U+FFFD, and move the spans along. An offset inside a
 * character moves to its end: a start there is no start of a token anyway. */
static void replace_invalid(const char *text, size_t len, struct buf *out, struct remap *r)
{
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int n = utf8_decode(text + i, len - i, &cp);
        remap_to(r, i, out->len);
        if (n > 0) {
            buf_add(out, text + i, (size_t)n);
            i += (size_t)n;
        } else {
            buf_add(out, replacement, sizeof replacement - 1);
            i += cp; /* UTF8_BAD and UTF8_SHORT: length of the invalid part */
        }
    }
    remap_to(r, SIZE_MAX, out->len);
}

void tok_encode(const struct tok *tok, const char *text, size_t len, const struct tok_span *guard, size_t n_guard,
                struct tok_ids *ids)
{
    struct encode e = {.tok = tok, .text = text, .ids = ids};
    struct buf clean = {0};
    struct tok_span *moved = NULL;

    if (len == 0)
        return;
    if (len <= RESERVE_BYTES_MAX) /* a short text is cheaper in one piece than by growing */
        tok__ids_room(ids, len);
    if (!utf8_is_valid(text, len)) {
        moved = mem_array(n_guard, sizeof *moved);
        if (n_guard)
            memcpy(moved, guard, n_guard * sizeof *moved);
        replace_invalid(text, len, &clean, &(struct remap){.span = moved, .n = n_guard});
        e.text = clean.data;
        len = clean.len;
        guard = moved;
    }
    e.guard[0] = e.guard[1] = (struct tok_guard){.span = guard, .n = n_guard};
    encode_pass(&e, 0, 0, len);
    tok__scratch_release(&e.scratch);
    mem_free(moved);
    buf_release(&clean);
}

const char *tok_bytes(const struct tok *tok, int32_t id, size_t *len)
{
    if (id < 0 || id >= tok->n_vocab)
        return NULL;
    *len = tok->at[id + 1] - tok->at[id];
    return tok->bytes + tok->at[id];
}

int32_t tok_n_vocab(const struct tok *tok)
{
    return tok->n_vocab;
}

int32_t tok_find(const struct tok *tok, const char *added)
{
    int32_t id = tok__trie_find(&tok->pass[0], added, strlen(added));
    return id >= 0 ? id : tok__trie_find(&tok->pass[1], added, strlen(added));
}

bool tok_is_special(const struct tok *tok, int32_t id)
{
    return id >= 0 && id < tok->n_vocab && tok->flag[id] & TOK_SPECIAL;
}

bool tok_is_added(const struct tok *tok, int32_t id)
{
    return id >= 0 && id < tok->n_vocab && tok->flag[id] & TOK_ADDED;
}

int32_t tok_eos(const struct tok *tok)
{
    return tok->eos;
}
