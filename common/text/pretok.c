#include "common/text/pretok.h"

#include "common/base/check.h"
#include "common/text/charclass.h"

#include <stdbool.h>

const char *const pretok_pattern[PRETOK_N_STAGE] = {
    "\\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    /* One pattern on two lines. */
    ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"),
};

/* How one function does the work of three stages: stage 1 takes the numbers out, stage 2 the CJK runs, and stage 3 sees
 * only one stretch at a time: one CJK run, or one run of what is neither. So a character of another kind than the first
 * one is for stage 3 the same as the end of the text, and class_in() reports it as such. */
enum {
    CLASS_END = 1 << 8, /* no character: end of the text or of the stretch */
    CLASS_WORD = CHARCLASS_L | CHARCLASS_M,
    CLASS_PUNCT = CHARCLASS_P | CHARCLASS_S,
};

struct cursor {
    const unsigned char *end; /* of the text */
    unsigned kind;            /* CHARCLASS_CJK or 0 */
};

/* Class of the character at p (p < end, valid UTF-8), *n = its length. */
static inline unsigned class_at(const unsigned char *p, unsigned *n)
{
    uint32_t cp;

    if (p[0] < 0x80) {
        *n = 1;
        return charclass_page[0][p[0]]; /* the generator numbers pages as they come: ASCII is page 0 */
    }
    if (p[0] < 0xE0) {
        *n = 2;
        cp = (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
    } else if (p[0] < 0xF0) {
        *n = 3;
        cp = (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    } else {
        *n = 4;
        cp = (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
    }
    return charclass_of(cp);
}

/* Class of the character at p inside the stretch, or CLASS_END. */
static inline unsigned class_in(const struct cursor *c, const unsigned char *p, unsigned *n)
{
    if (p == c->end)
        return CLASS_END;
    unsigned k = class_at(p, n);
    return (k & CHARCLASS_N || (k & CHARCLASS_CJK) != c->kind) ? (unsigned)CLASS_END : k;
}

/* End of the run of characters whose class meets `set`. */
static inline const unsigned char *run_end(const struct cursor *c, const unsigned char *p, unsigned set)
{
    unsigned n;

    while (class_in(c, p, &n) & set)
        p += n;
    return p;
}

/* Numbers in groups of three from the left of their run. */
static const unsigned char *number_end(const struct cursor *c, const unsigned char *p)
{
    unsigned n;

    for (int i = 0; i < 3 && p < c->end && class_at(p, &n) & CHARCLASS_N; i++)
        p += n;
    return p;
}

/* p is at white space that no letter, mark or punctuation takes along. */
static const unsigned char *space_end(const struct cursor *c, const unsigned char *p)
{
    const unsigned char *start = p, *last = p, *line_end = NULL;
    unsigned n, k;

    while ((k = class_in(c, p, &n)) & CHARCLASS_SPACE) {
        last = p;
        p += n;
        if (k & CHARCLASS_NL)
            line_end = p;
    }
    if (line_end)
        return line_end;
    /* The look-ahead: what comes behind the run keeps the run's last character, unless that is all there is. */
    return k == CLASS_END || last == start ? p : last;
}

/* p is at a character that no alternative matches: such characters stand together up to one that begins a match. */
static const unsigned char *other_end(const struct cursor *c, const unsigned char *p)
{
    unsigned n = 0, next_n;

    for (class_at(p, &n);;) {
        p += n;
        if (class_in(c, p, &n) & ~(unsigned)CHARCLASS_CJK)
            return p;
        if (class_in(c, p + n, &next_n) & CLASS_WORD)
            return p;
    }
}

static inline bool is_ascii_letter(unsigned char b)
{
    return (unsigned char)((b | 0x20) - 'a') < 26;
}

size_t pretok_next(const char *text, size_t len, size_t at)
{
    const unsigned char *base = (const unsigned char *)text, *p = base + at, *q;
    struct cursor c = {.end = base + len};
    unsigned n, next_n;

    ASSERT(at < len);
    unsigned k = class_at(p, &n);
    if (k & CHARCLASS_N)
        return (size_t)(number_end(&c, p) - base);
    c.kind = k & CHARCLASS_CJK;
    q = p + n;
    if (k & CLASS_WORD)
        return (size_t)(run_end(&c, q, CLASS_WORD) - base);
    if (k & CLASS_PUNCT && n == 1 && q < c.end && is_ascii_letter(*q)) {
        while (q < c.end && is_ascii_letter(*q))
            q++;
        return (size_t)(q - base);
    }
    unsigned next = class_in(&c, q, &next_n);
    if (!(k & (CHARCLASS_NL | CLASS_PUNCT)) && next & CLASS_WORD)
        return (size_t)(run_end(&c, q, CLASS_WORD) - base);
    if (k & CLASS_PUNCT || (*p == ' ' && next & CLASS_PUNCT)) {
        q = run_end(&c, q, CLASS_PUNCT);
        return (size_t)(run_end(&c, q, CHARCLASS_NL) - base);
    }
    if (k & CHARCLASS_SPACE)
        return (size_t)(space_end(&c, p) - base);
    return (size_t)(other_end(&c, p) - base);
}
