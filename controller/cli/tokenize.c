/* controller/cli/tokenize.c - `baton tokenize`: text to token ids, and ids to bytes. */
#include "common/base/check.h"
#include "controller/cli/b64.h"
#include "controller/cli/cli.h"
#include "controller/cli/jsonl.h"

static int encode_line(void *arg, const struct json *in, struct arena *arena, struct buf *out, struct err *err)
{
    const struct tok *tok = arg;
    struct tok_ids ids = {0};
    const char *text;
    size_t len;
    int rc = jsonl_text(in, arena, &text, &len, err);

    if (rc)
        return rc;
    tok_encode(tok, text, len, NULL, 0, &ids);
    buf_add_str(out, "{\"tokens\": ");
    jsonl_add_ids(out, &ids);
    buf_add_char(out, '}');
    tok_ids_release(&ids);
    return 0;
}

static int add_bytes(const struct tok *tok, const struct json *list, struct buf *bytes, struct err *err)
{
    struct tok_ids ids = {0};
    int rc = jsonl_read_ids(list, tok_n_vocab(tok), &ids, err);

    for (size_t i = 0; rc == 0 && i < ids.n; i++) {
        size_t len;
        const char *s = tok_bytes(tok, ids.id[i], &len);
        if (s)
            buf_add(bytes, s, len);
        else
            rc = err_set(err, ERR_RANGE, "entry %zu: id %d has no token", i, ids.id[i]);
    }
    tok_ids_release(&ids);
    return rc;
}

/* The list of ids in a line or document: `ids`, `tokens`, or the value itself. */
static const struct json *find_ids(const struct json *in)
{
    const struct json *ids = json_get(in, "ids");

    if (!ids)
        ids = json_get(in, "tokens");
    return ids ? ids : in;
}

static int decode_line(void *arg, const struct json *in, struct arena *arena, struct buf *out, struct err *err)
{
    struct buf bytes = {0};
    int rc = add_bytes(arg, find_ids(in), &bytes, err);

    (void)arena;
    if (rc == 0) {
        buf_add_str(out, "{\"text\": ");
        jsonl_add_text(out, bytes.len ? bytes.data : "", bytes.len);
        buf_add_str(out, ", \"bytes_b64\": \"");
        b64_encode(bytes.data, bytes.len, out);
        buf_add_str(out, "\"}");
    }
    buf_release(&bytes);
    return rc;
}

static int encode_all(const struct tok *tok, const struct buf *in, struct buf *out)
{
    struct tok_ids ids = {0};

    tok_encode(tok, in->len ? in->data : "", in->len, NULL, 0, &ids);
    jsonl_add_ids(out, &ids);
    buf_add_char(out, '\n');
    tok_ids_release(&ids);
    return 0;
}

static int decode_all(const struct tok *tok, const struct buf *in, struct buf *out, struct err *err)
{
    const struct json *root;
    struct arena arena;

    arena_init(&arena);
    int rc = json_parse(in->len ? in->data : "", in->len, 0, &arena, &root, err);
    if (rc == 0)
        rc = add_bytes(tok, find_ids(root), out, err);
    arena_release(&arena);
    return rc;
}

int cli_tokenize_main(int argc, char **argv)
{
    const char *model = NULL;
    bool decode = false, jsonl = false;
    const struct flag flag[] = {
        {"model", FLAG_STR, &model, "DIR", .help = "directory with tokenizer.json", .required = true},
        {"decode", FLAG_BOOL, &decode, NULL, .help = "the other way: JSON list of ids on stdin, bytes on stdout"},
        {"jsonl", FLAG_BOOL, &jsonl, NULL,
         .help = "one {\"text\"} or {\"bytes_b64\"} a line in, {\"tokens\"} a line out"},
    };
    struct flags f = {
        .usage = "baton tokenize --model DIR [--decode] [--jsonl] < INPUT",
        .about = "Text on stdin becomes a JSON list of token ids; no BOS is added, added tokens are recognised.\n"
                 "With --decode --jsonl: {\"ids\"} a line in, {\"text\", \"bytes_b64\"} a line out.",
        .flag = flag,
        .n_flag = N_ELEM(flag),
    };
    struct buf in = {0}, out = {0};
    struct err err = {0};
    struct tok *tok = NULL;
    int status = cli_flags("tokenize", &f, argc, argv);

    if (status >= 0)
        return status;
    int rc = tok_open(model, &tok, &err);
    if (rc == 0 && jsonl) {
        status = jsonl_run("tokenize", stdin, decode ? decode_line : encode_line, tok);
        tok_close(&tok);
        return status;
    }
    if (rc == 0)
        rc = cli_read_all(stdin, CLI_STDIN_MAX, &in, &err);
    if (rc == 0)
        rc = decode ? decode_all(tok, &in, &out, &err) : encode_all(tok, &in, &out);
    if (rc == 0)
        rc = cli_write(&out, &err);
    tok_close(&tok);
    buf_release(&in);
    buf_release(&out);
    return rc ? cli_fail("tokenize", &err) : CLI_GOOD;
}
