/* Any bytes through the tiny tokenizer: decoding gives the text back with U+FFFD for what is no UTF-8, no added token
 * starts inside a guard span, and an id is an id. The first two bytes of the input place the span. */
#include "common/base/check.h"
#include "common/text/tok.h"
#include "common/text/utf8.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tok *tok; /* opened once, for the life of the process */

/* The tokenizer lies beside the folder of this file. */
static void open_tok(void)
{
    static const char here[] = __FILE__;
    const char *slash = strrchr(here, '/');
    struct buf dir = {0};
    struct err err;

    buf_addf(&dir, "%.*s/../tiny_tokenizer", slash ? (int)(slash - here) : 1, slash ? here : ".");
    if (tok_open(dir.data, &tok, &err)) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    buf_release(&dir);
}

static void check(const char *text, size_t len, const struct tok_span *guard, size_t n_guard)
{
    struct tok_ids ids = {0};
    struct buf want = {0}, got = {0};
    bool valid = utf8_is_valid(text, len);

    tok_encode(tok, text, len, guard, n_guard, &ids);
    utf8_add_replaced(&want, text, len);
    for (size_t i = 0; i < ids.n; i++) {
        size_t n, at = got.len;
        const char *s = tok_bytes(tok, ids.id[i], &n);
        ASSERT(s && n > 0);
        for (size_t k = 0; valid && k < n_guard; k++)
            ASSERT(!tok_is_added(tok, ids.id[i]) || at < guard[k].begin || at >= guard[k].end);
        buf_add(&got, s, n);
    }
    ASSERT(got.len == want.len);
    ASSERT(got.len == 0 || memcmp(got.data, want.data, got.len) == 0);
    buf_release(&want);
    buf_release(&got);
    tok_ids_release(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!tok)
        open_tok();
    if (size < 2)
        return 0;
    /* A copy of its own length, so that a sanitizer sees each byte read too far. */
    size_t len = size - 2;
    char *text = malloc(len ? len : 1);
    ASSERT(text);
    memcpy(text, data + 2, len);
    size_t begin = len * data[0] / 256, end = begin + (len - begin) * data[1] / 255;
    struct tok_span guard[2] = {{begin, end}, {end, len}};
    check(text, len, NULL, 0);
    check(text, len, guard, 1);
    check(text, len, guard, 2);
    free(text);
    return 0;
}
