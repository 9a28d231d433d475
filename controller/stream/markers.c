#include "controller/stream/markers.h"

#include "common/base/check.h"

#include <string.h>

#define DSML "｜DSML｜"

struct spelling {
    enum marker marker;
    unsigned char len;
    const char *text;
};

#define SPELL(marker, text)            \
    {                                  \
        marker, sizeof(text) - 1, text \
    }

static const struct spelling spellings[] = {
    SPELL(MARK_THINK, "<think>"),
    SPELL(MARK_THINK_END, "</think>"),
    SPELL(MARK_BLOCK, "<" DSML "tool_calls>"),
    SPELL(MARK_BLOCK, "<" DSML "function_calls>"),
    SPELL(MARK_INVOKE, "<" DSML "invoke name=\""),
    SPELL(MARK_PARAM, "<" DSML "parameter name=\""),
    SPELL(MARK_BLOCK_END, "</" DSML "tool_calls>"),
    SPELL(MARK_BLOCK_END, "</" DSML "function_calls>"),
    SPELL(MARK_INVOKE_END, "</" DSML "invoke>"),
    SPELL(MARK_PARAM_END, "</" DSML "parameter>"),
};

static enum marker_found match_plain(const char *text, size_t len, int set, enum marker *which, size_t *n)
{
    enum marker_found found = MARK_NONE;

    for (size_t i = 0; i < N_ELEM(spellings); i++) {
        const struct spelling *s = &spellings[i];
        if (!(s->marker & set))
            continue;
        size_t common = len < s->len ? len : s->len;
        if (memcmp(text, s->text, common) != 0)
            continue;
        if (common < s->len) {
            found = MARK_MAYBE;
            continue;
        }
        *which = s->marker;
        *n = s->len;
        return MARK_FOUND;
    }
    return found;
}

enum marker_found marker_match(const char *text, size_t len, int set, enum marker *which, size_t *n)
{
    ASSERT(len > 0);
    if (text[0] != '\n')
        return match_plain(text, len, set, which, n);
    if (!(set & MARK_NEWLINES))
        return MARK_NONE;
    if (len >= 2 && text[1] != '\n')
        return MARK_NONE;
    if (len <= 2)
        return MARK_MAYBE;
    enum marker_found found = match_plain(text + 2, len - 2, set & (MARK_BLOCK | MARK_INVOKE), which, n);
    if (found == MARK_FOUND)
        *n += 2;
    return found;
}

/* The next byte at which a marker can begin. */
static size_t next_start(const char *text, size_t len, size_t from, int set)
{
    size_t i = from;
    while (i < len && text[i] != '<' && !(text[i] == '\n' && set & MARK_NEWLINES))
        i++;
    return i;
}

enum marker_found marker_find(const char *text, size_t len, int set, size_t *at, enum marker *which, size_t *n)
{
    size_t i = next_start(text, len, 0, set);

    while (i < len) {
        enum marker_found found = marker_match(text + i, len - i, set, which, n);
        if (found != MARK_NONE) {
            *at = i;
            return found;
        }
        i = next_start(text, len, i + 1, set);
    }
    *at = len;
    return MARK_NONE;
}

int marker_is_dsml(const char *text, size_t len)
{
    return memmem(text, len, "<" DSML, sizeof("<" DSML) - 1) || memmem(text, len, "</" DSML, sizeof("</" DSML) - 1);
}
