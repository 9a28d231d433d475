/* common/text/charclass.h - the class of a code point, as the regex engine of the real tokenizer sees it (Unicode 16).
 * The tables are compiled in, so that two hosts can never cut one text differently.
 * Owns:     constant tables.
 * Thread:   any.
 * Source:   spec/tokenizer.md section 2, tests/vectors/char_classes.json, turned into charclass.c by gen_charclass.py.
 */
#ifndef COMMON_TEXT_CHARCLASS_H
#define COMMON_TEXT_CHARCLASS_H

#include "common/base/check.h"

#include <stdint.h>

enum charclass {
    CHARCLASS_L = 1 << 0, /* letter: at most one of L, M, N, P, S is set; none for what is unassigned, control ... */
    CHARCLASS_M = 1 << 1, /* mark */
    CHARCLASS_N = 1 << 2, /* digit or other number */
    CHARCLASS_P = 1 << 3, /* punctuation */
    CHARCLASS_S = 1 << 4, /* symbol */
    CHARCLASS_SPACE = 1 << 5, /* \s */
    CHARCLASS_CJK = 1 << 6,   /* U+4E00..9FA5, U+3040..30FF: stage 2 of the pre-tokenizer; never N or SPACE */
    CHARCLASS_NL = 1 << 7,    /* CR or LF */
};

enum { CHARCLASS_CP_MAX = 0x10FFFF, CHARCLASS_PAGE = 128, CHARCLASS_N_PAGE = (CHARCLASS_CP_MAX + 1) / CHARCLASS_PAGE };

extern const uint8_t charclass_page_of[CHARCLASS_N_PAGE];
extern const uint8_t charclass_page[][CHARCLASS_PAGE];

/* Classes of cp (a set of enum charclass); cp <= CHARCLASS_CP_MAX. */
static inline unsigned charclass_of(uint32_t cp)
{
    ASSERT(cp <= CHARCLASS_CP_MAX);
    return charclass_page[charclass_page_of[cp / CHARCLASS_PAGE]][cp % CHARCLASS_PAGE];
}

#endif
