#include "common/text/tok_sim.h"

#include "common/base/check.h"
#include "common/text/json.h"
#include "common/text/pretok.h"

#include <stdio.h>
#include <string.h>

/* What the chat encoding and the stream parser look for. The order is the order of ids. */
static const char *const marker[] = {"<｜User｜>",           "<｜Assistant｜>", "<think>",  "</think>", "｜DSML｜",
                                     "<｜latest_reminder｜>", "<｜action｜>",    "<｜query｜>", "<｜authority｜>",
                                     "<｜domain｜>",          "<｜title｜>",     "<｜read_url｜>",
                                     "<｜fim▁begin｜>",       "<｜fim▁hole｜>",  "<｜fim▁end｜>"};

/* UTF-8 of the symbol that stands for a byte in vocabulary entries (spec/tokenizer.md section 3). */
static void add_symbol(struct buf *out, unsigned char byte)
{
    unsigned cp = byte;
    if (byte <= 32)
        cp = 256u + byte;
    else if (byte >= 127 && byte <= 160)
        cp = 256u + 33 + (byte - 127u);
    else if (byte == 173)
        cp = 256u + 67;
    if (cp < 0x80) {
        buf_add_char(out, (char)cp);
    } else {
        buf_add_char(out, (char)(0xC0 | cp >> 6));
        buf_add_char(out, (char)(0x80 | (cp & 0x3F)));
    }
}

static void add_entry(struct buf *out, const char *text, size_t n, int id)
{
    struct buf symbols = {0};

    for (size_t i = 0; i < n; i++)
        add_symbol(&symbols, (unsigned char)text[i]);
    json_add_str(out, symbols.data, symbols.len);
    buf_addf(out, ":%d,", id);
    buf_release(&symbols);
}

static void add_vocab(struct buf *out)
{
    char text[32];

    for (int b = 0; b < 256; b++) {
        text[0] = (char)b;
        add_entry(out, text, 1, TOK_SIM_BYTE + b);
    }
    for (int i = 0; i < TOK_SIM_NUMBERS; i++) {
        int n = snprintf(text, sizeof text, "%d ", i);
        add_entry(out, text, (size_t)n, TOK_SIM_NUMBER + i);
    }
    add_entry(out, "</think>0 ", 10, TOK_SIM_FIRST);
    out->len--; /* the last comma */
}

static void add_added(struct buf *out, const char *text, int id, bool is_special)
{
    buf_addf(out, "%s{\"id\":%d,\"content\":", id == TOK_SIM_BOS ? "" : ",", id);
    json_add_str(out, text, strlen(text));
    buf_addf(out, ",\"normalized\":%s,\"special\":%s}", is_special ? "false" : "true", is_special ? "true" : "false");
}

int tok_sim_open(struct tok **tok, struct err *err)
{
    struct buf json = {0};

    buf_add_str(&json, "{\"version\":\"1.0\",\"added_tokens\":[");
    add_added(&json, "<｜begin▁of▁sentence｜>", TOK_SIM_BOS, true);
    add_added(&json, "<｜end▁of▁sentence｜>", TOK_SIM_EOS, true);
    for (int i = 0; i < (int)N_ELEM(marker); i++)
        add_added(&json, marker[i], TOK_SIM_FIRST + 1 + i, false);
    buf_add_str(&json, "],\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[");
    for (int i = 0; i < PRETOK_N_STAGE; i++) {
        buf_add_str(&json, "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":");
        json_add_str(&json, pretok_pattern[i], strlen(pretok_pattern[i]));
        buf_add_str(&json, "}},");
    }
    buf_add_str(&json, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"
                       "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    add_vocab(&json);
    buf_add_str(&json, "}}}");
    int rc = tok_open_text(&json, "the tokenizer of --engine sim", tok, err);
    buf_release(&json);
    return rc;
}

void tok_sim_add_number(int64_t i, struct tok_ids *ids)
{
    char text[32];

    if (i >= 0 && i < TOK_SIM_NUMBERS) {
        tok_ids_add(ids, TOK_SIM_NUMBER + (int32_t)i);
        return;
    }
    int n = snprintf(text, sizeof text, "%lld ", (long long)i);
    for (int k = 0; k < n; k++)
        tok_ids_add(ids, TOK_SIM_BYTE + (unsigned char)text[k]);
}
