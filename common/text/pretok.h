/* common/text/pretok.h - cut text into the pieces that BPE works on: the three Split stages of DeepSeek-V4's
 * tokenizer.json, matched by hand in one pass.
 * Owns:     nothing.
 * Thread:   any.
 * Limits:   none; time is linear in the text.
 * Source:   spec/tokenizer.md section 2; vectors tests/vectors/pretok.jsonl.
 */
#ifndef COMMON_TEXT_PRETOK_H
#define COMMON_TEXT_PRETOK_H

#include <stddef.h>

/* End (offset behind the last byte) of the piece that begins at byte `at`.
 *   text[0..len)  valid UTF-8 without added tokens; its ends are the ends of a stretch between added tokens
 *   at            0 or what an earlier call returned; at < len
 * The result is > at and <= len: pieces cover the text without a gap. */
size_t pretok_next(const char *text, size_t len, size_t at);

/* The three patterns that pretok_next stands for, as tokenizer.json spells them. */
enum { PRETOK_N_STAGE = 3 };
extern const char *const pretok_pattern[PRETOK_N_STAGE];

#endif
