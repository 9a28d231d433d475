/* common/text/tok.h - the tokenizer of DeepSeek-V4: text -> token ids and back, from tokenizer.json.
 * Owns:     the tables read from the file; immutable after tok_open, so any thread may use it at once.
 * Lifetime: tok_open .. tok_close.
 * Thread:   any (encode uses scratch of its own per call).
 * Limits:   TOK_FILE_MAX bytes of file, 2^20 ids; text of any length, O(n log n).
 * Source:   spec/tokenizer.md; vectors tests/vectors/{tokenizer,tiny_tokenizer,pretok,detok,tiny_detok}.jsonl.
 */
#ifndef COMMON_TEXT_TOK_H
#define COMMON_TEXT_TOK_H

#include "common/base/err.h"
#include "common/mem/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TOK_FILE_MAX = 64 << 20 };

struct tok;

/* A growing list of token ids. {0} is empty. */
struct tok_ids {
    int32_t *id;
    size_t n, cap;
};
void tok_ids_release(struct tok_ids *ids);
void tok_ids_add(struct tok_ids *ids, int32_t id);

/* Half-open byte range of the text in which no added token may START (text of clients, spec/chat.md 9). */
struct tok_span {
    size_t begin, end;
};

/* Read DIR/tokenizer.json (or tokenizer.json.gz is NOT read: unpack first). Everything is checked; an error
 * names the file and the reason. Returns 0 and *tok (yours), ERR_MISSING, ERR_IO, ERR_LIMIT, ERR_FORMAT,
 * ERR_UNSUPPORTED (a pipeline that is not V4's). */
int tok_open(const char *dir, struct tok **tok, struct err *err);

/* The same from the text of such a file, `name` in messages; the end token is <｜end▁of▁sentence｜>. */
int tok_open_text(const struct buf *json, const char *name, struct tok **tok, struct err *err);
void tok_close(struct tok **tok);

/* Append the ids of text[0..len) to ids. Invalid UTF-8 is replaced as in spec/tokenizer.md 5 first (guard spans
 * then refer to the text as given). guard: n_guard spans, ascending, not overlapping; NULL for none. */
void tok_encode(const struct tok *tok, const char *text, size_t len, const struct tok_span *guard,
                size_t n_guard, struct tok_ids *ids);

/* Raw bytes of one id: a view that lives as long as tok; NULL for an id outside the vocabulary. */
const char *tok_bytes(const struct tok *tok, int32_t id, size_t *len);

int32_t tok_n_vocab(const struct tok *tok);           /* ids are 0 .. n-1 */
int32_t tok_find(const struct tok *tok, const char *added); /* id of an added token by its text, or -1 */
bool tok_is_special(const struct tok *tok, int32_t id);     /* `special: true` of the file */
bool tok_is_added(const struct tok *tok, int32_t id);
/* Id of tokenizer_config.json's eos_token; of <｜end▁of▁sentence｜> without that file or member. */
int32_t tok_eos(const struct tok *tok);

#endif
