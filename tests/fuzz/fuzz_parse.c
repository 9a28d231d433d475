/* Output of a model, cut anywhere: the pieces give the same message as the whole, and the arguments of a complete call
 * are a JSON object. Byte 0 chooses options, byte 1 the cuts; in the text, bytes that UTF-8 does not know stand for
 * the markers, so that mutations reach them. */
#include "common/base/check.h"
#include "common/mem/arena.h"
#include "common/mem/buf.h"
#include "common/text/json.h"
#include "common/text/utf8.h"
#include "controller/stream/message.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#define D "｜DSML｜"

static const char *const markers[] = {
    "<think>",
    "</think>",
    "\n\n<" D "tool_calls>\n",
    "</" D "tool_calls>",
    "<" D "invoke name=\"bash\">\n",
    "</" D "invoke>\n",
    "<" D "parameter name=\"arguments\" string=\"",
    "<" D "parameter name=\"",
    "</" D "parameter>\n",
    "<" D "function_calls>",
    "\" string=\"false\">",
};
enum { MARKER_BYTE = 0xF5 }; /* 0xF5-0xFF never occur in UTF-8 */

static const char tools_text[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"bash\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"command\":{},\"timeout\":{}}}}}]";

static void expand(const uint8_t *data, size_t size, struct buf *text)
{
    struct buf raw = {0};

    buf_add(&raw, "", 0);
    for (size_t i = 0; i < size; i++) {
        if (data[i] >= MARKER_BYTE)
            buf_add_str(&raw, markers[data[i] - MARKER_BYTE]);
        else
            buf_add_char(&raw, (char)data[i]);
    }
    utf8_add_replaced(text, raw.data, raw.len);
    buf_release(&raw);
}

/* Feed text in pieces of 1 to `most` bytes, moved to the next character; 0: in one piece. */
static void run(const struct parse_opts *opts, const struct buf *text, unsigned most, struct message *m)
{
    unsigned seed = most;

    struct parse *p = parse_new(opts, &message_events, m);
    for (size_t at = 0, end; at < text->len; at = end) {
        seed = seed * 1103515245u + 12345u;
        end = most ? at + 1 + (seed >> 16) % most : text->len;
        while (end < text->len && ((unsigned char)text->data[end] & 0xC0) == 0x80)
            end++;
        if (end > text->len)
            end = text->len;
        size_t n = end - at;
        char *piece = malloc(n);
        ASSERT(piece);
        memcpy(piece, text->data + at, n);
        parse_feed(p, piece, n);
        free(piece);
    }
    parse_end(p);
    int n_complete = 0;
    for (int i = 0; i < m->n_call; i++)
        n_complete += m->call[i].complete;
    ASSERT(n_complete == parse_n_complete(p));
    parse_destroy(&p);
}

static void check_arguments(const struct message_call *call, struct arena *arena)
{
    const struct json *root;
    struct err err;

    if (!call->complete)
        return;
    /* A value at the depth limit is one deeper in the object around it. */
    if (json_parse(call->arguments.data, call->arguments.len, 0, arena, &root, &err))
        ASSERT(strstr(err.text, "nested too deeply"));
    else
        ASSERT(root->kind == JSON_OBJECT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct parse_opts opts;
    struct arena arena = {0};
    struct buf text = {0}, a = {0}, b = {0};
    struct message whole = {0}, pieces = {0};
    struct err err;

    if (size < 2)
        return 0;
    opts = (struct parse_opts){.in_reasoning = data[0] & 1, .tools_on = data[0] & 2};
    if (data[0] & 4)
        ASSERT(json_parse(tools_text, sizeof tools_text - 1, 0, &arena, &opts.tools, &err) == 0);
    expand(data + 2, size - 2, &text);
    run(&opts, &text, 0, &whole);
    run(&opts, &text, 1 + data[1], &pieces);
    message_add(&whole, true, &a);
    message_add(&pieces, true, &b);
    ASSERT(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
    ASSERT(utf8_is_valid(a.data, a.len));
    for (int i = 0; i < whole.n_call; i++)
        check_arguments(&whole.call[i], &arena);
    message_release(&whole);
    message_release(&pieces);
    buf_release(&text);
    buf_release(&a);
    buf_release(&b);
    arena_release(&arena);
    return 0;
}
