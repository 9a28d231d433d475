#include "common/base/check.h"
#include "common/mem/arena.h"
#include "common/mem/file.h"
#include "common/mem/mem.h"
#include "common/text/json.h"
#include "common/text/pretok.h"
#include "common/text/tok_impl.h"
#include "common/text/utf8.h"

#include <stdio.h>
#include <string.h>

enum { TOK_CONFIG_MAX = 1 << 20 };

static const char default_eos[] = "<｜end▁of▁sentence｜>";

/* One id while loading: its text as the file spells it. */
struct entry {
    const char *text;
    size_t len;
    bool in_vocab;
};

struct loader {
    struct tok *tok;
    const char *path;
    struct err *err;
    struct arena arena;
    const struct json *root, *model, *vocab, *merges, *added;
    struct entry *entry;   /* [n_id] */
    uint32_t n_id;         /* ids may be 0 .. n_id - 1; n_vocab once it is known that there is no gap */
    struct buf bytes;      /* what becomes tok->bytes */
};

static int fail(struct loader *ld, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int fail(struct loader *ld, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    err_setv(ld->err, code, fmt, ap);
    va_end(ap);
    err_wrap(ld->err, "%s", ld->path);
    return code;
}

static int unsupported(struct loader *ld, const char *what)
{
    return fail(ld, ERR_UNSUPPORTED, "%s is not that of DeepSeek-V4, the only tokenizer that this program knows", what);
}

/* ---- files -------------------------------------------------------------------------------------------- */

static char *join_path(const char *dir, const char *name)
{
    struct buf b = {0};
    size_t n = strlen(dir);

    buf_add(&b, dir, n);
    if (n && dir[n - 1] != '/')
        buf_add_char(&b, '/');
    buf_add_str(&b, name);
    return buf_take(&b, NULL);
}

/* ---- the pipeline must be V4's ------------------------------------------------------------------------ */

static bool is_nothing(const struct json *j)
{
    return !j || j->kind == JSON_NULL;
}

static bool is_false(const struct json *j)
{
    return !j || j->kind == JSON_FALSE;
}

static bool is_empty(const struct json *j)
{
    return is_nothing(j) || (j->kind == JSON_STRING && j->len == 0);
}

static bool is_type(const struct json *j, const char *type)
{
    return json_is_str(json_get(j, "type"), type);
}

static bool is_empty_sequence(const struct json *j)
{
    const struct json *list = json_get(j, "normalizers");
    return is_type(j, "Sequence") && json_is(list, JSON_ARRAY) && list->n == 0;
}

static int check_pre_tokenizer(struct loader *ld)
{
    static const char *const name[PRETOK_N_STAGE] = {"pre_tokenizer stage 1", "pre_tokenizer stage 2",
                                                     "pre_tokenizer stage 3"};
    const struct json *pre = json_get(ld->root, "pre_tokenizer"), *list = json_get(pre, "pretokenizers");

    if (!is_type(pre, "Sequence") || !json_is(list, JSON_ARRAY) || list->n != PRETOK_N_STAGE + 1)
        return unsupported(ld, "pre_tokenizer");
    const struct json *stage = list->child;
    for (int i = 0; i < PRETOK_N_STAGE; i++, stage = stage->next)
        if (!is_type(stage, "Split") || !json_is_str(json_get(stage, "behavior"), "Isolated") ||
            !is_false(json_get(stage, "invert")) ||
            !json_is_str(json_get(json_get(stage, "pattern"), "Regex"), pretok_pattern[i]))
            return unsupported(ld, name[i]);
    if (!is_type(stage, "ByteLevel") || !json_is(json_get(stage, "add_prefix_space"), JSON_FALSE) ||
        !json_is(json_get(stage, "use_regex"), JSON_FALSE))
        return unsupported(ld, "pre_tokenizer stage 4 (ByteLevel)");
    return 0;
}

static int check_model(struct loader *ld)
{
    static const struct {
        const char *name;
        bool (*is_ok)(const struct json *j);
    } rules[] = {
        {"dropout", is_nothing},
        {"unk_token", is_nothing},
        {"continuing_subword_prefix", is_empty},
        {"end_of_word_suffix", is_empty},
        {"fuse_unk", is_false},
        {"byte_fallback", is_false},
        {"ignore_merges", is_false},
    };

    if (!json_is(ld->model, JSON_OBJECT))
        return fail(ld, ERR_FORMAT, "\"model\" must be an object, it is %s", json_kind_name(ld->model));
    if (!is_type(ld->model, "BPE"))
        return unsupported(ld, "model.type");
    for (size_t i = 0; i < N_ELEM(rules); i++)
        if (!rules[i].is_ok(json_get(ld->model, rules[i].name)))
            return fail(ld, ERR_UNSUPPORTED, "model.%s is set, DeepSeek-V4 has none", rules[i].name);
    return 0;
}

static int check_pipeline(struct loader *ld)
{
    const struct json *norm = json_get(ld->root, "normalizer"), *post = json_get(ld->root, "post_processor");

    if (!json_is(ld->root, JSON_OBJECT))
        return fail(ld, ERR_FORMAT, "an object is expected, not %s", json_kind_name(ld->root));
    if (!json_is_str(json_get(ld->root, "version"), "1.0"))
        return fail(ld, ERR_UNSUPPORTED, "version is not \"1.0\"");
    if (!is_nothing(json_get(ld->root, "truncation")))
        return unsupported(ld, "truncation");
    if (!is_nothing(json_get(ld->root, "padding")))
        return unsupported(ld, "padding");
    if (!is_nothing(norm) && !is_empty_sequence(norm))
        return unsupported(ld, "normalizer");
    if (!is_nothing(post) && !is_type(post, "ByteLevel"))
        return unsupported(ld, "post_processor");
    if (!is_type(json_get(ld->root, "decoder"), "ByteLevel"))
        return unsupported(ld, "decoder");
    int rc = check_pre_tokenizer(ld);
    return rc ? rc : check_model(ld);
}

/* ---- ids and texts ------------------------------------------------------------------------------------ */

static int find_lists(struct loader *ld)
{
    ld->vocab = json_get(ld->model, "vocab");
    ld->merges = json_get(ld->model, "merges");
    ld->added = json_get(ld->root, "added_tokens");
    if (!json_is(ld->vocab, JSON_OBJECT))
        return fail(ld, ERR_FORMAT, "model.vocab must be an object, it is %s", json_kind_name(ld->vocab));
    if (!json_is(ld->merges, JSON_ARRAY))
        return fail(ld, ERR_FORMAT, "model.merges must be an array, it is %s", json_kind_name(ld->merges));
    if (!json_is(ld->added, JSON_ARRAY))
        return fail(ld, ERR_FORMAT, "added_tokens must be an array, it is %s", json_kind_name(ld->added));
    uint64_t n = (uint64_t)ld->vocab->n + ld->added->n;
    if (n > TOK_VOCAB_MAX)
        return fail(ld, ERR_FORMAT, "%llu entries, at most %d are supported", (unsigned long long)n, TOK_VOCAB_MAX);
    ld->n_id = (uint32_t)n;
    return 0;
}

static int read_id(struct loader *ld, const struct json *j, const char *text, int64_t *id)
{
    if (!json_to_i64(j, id))
        return fail(ld, ERR_FORMAT, "the id of \"%.60s\" is not an integer", text);
    if (*id < 0 || *id >= ld->n_id)
        return fail(ld, ERR_FORMAT, "id %lld of \"%.60s\" is not one of 0..%u", (long long)*id, text, ld->n_id - 1);
    return 0;
}

static int two_texts(struct loader *ld, int64_t id, const char *a, const char *b)
{
    return fail(ld, ERR_FORMAT, "id %lld belongs to \"%.60s\" and to \"%.60s\"", (long long)id, a, b);
}

static int read_vocab(struct loader *ld)
{
    for (const struct json *j = ld->vocab->child; j; j = j->next) {
        int64_t id;
        int rc = read_id(ld, j, j->key, &id);
        if (rc)
            return rc;
        struct entry *e = &ld->entry[id];
        if (e->text)
            return two_texts(ld, id, e->text, j->key);
        *e = (struct entry){.text = j->key, .len = j->key_len, .in_vocab = true};
        ld->tok->flag[id] = TOK_PRESENT;
    }
    return 0;
}

/* An added token may also stand in the vocabulary, then under the same id and text. */
static int read_added_token(struct loader *ld, const struct json *j)
{
    static const char *const unused[] = {"single_word", "lstrip", "rstrip"};
    const struct json *text = json_get(j, "content"), *special = json_get(j, "special"),
                      *normalized = json_get(j, "normalized");
    int64_t id;

    if (!json_is(text, JSON_STRING) || text->len == 0)
        return fail(ld, ERR_FORMAT, "an entry of added_tokens has no text in \"content\"");
    int rc = read_id(ld, json_get(j, "id"), text->text, &id);
    if (rc)
        return rc;
    if (!json_is_bool(special) || !json_is_bool(normalized))
        return fail(ld, ERR_FORMAT, "added token \"%.60s\" needs \"special\" and \"normalized\", true or false",
                    text->text);
    for (size_t i = 0; i < N_ELEM(unused); i++)
        if (!is_false(json_get(j, unused[i])))
            return fail(ld, ERR_UNSUPPORTED, "added token \"%.60s\" has \"%s\", DeepSeek-V4 has none", text->text,
                        unused[i]);
    struct entry *e = &ld->entry[id];
    bool same = e->text && e->len == text->len && memcmp(e->text, text->text, e->len) == 0;
    if (ld->tok->flag[id] & TOK_ADDED || (e->text && !same))
        return two_texts(ld, id, e->text, text->text);
    bool second = normalized->kind == JSON_TRUE;
    if (tok__trie_add(&ld->tok->pass[second], text->text, text->len, (int32_t)id) >= 0 ||
        tok__trie_find(&ld->tok->pass[!second], text->text, text->len) >= 0 ||
        (!e->text && json_get_n(ld->vocab, text->text, text->len)))
        return fail(ld, ERR_FORMAT, "added token \"%.60s\" has two ids", text->text);
    e->text = text->text;
    e->len = text->len;
    ld->tok->flag[id] |= TOK_PRESENT | TOK_ADDED | (special->kind == JSON_TRUE ? TOK_SPECIAL : 0);
    return 0;
}

static int read_ids(struct loader *ld)
{
    ld->entry = mem_array(ld->n_id, sizeof *ld->entry);
    ld->tok->flag = mem_zalloc(ld->n_id);
    int rc = read_vocab(ld);
    for (const struct json *j = ld->added->child; j && !rc; j = j->next)
        rc = read_added_token(ld, j);
    if (rc)
        return rc;
    uint32_t n = 0, n_present = 0;
    for (uint32_t id = 0; id < ld->n_id; id++)
        if (ld->entry[id].text) {
            n = id + 1;
            n_present++;
        }
    if (n != n_present || n == 0)
        return fail(ld, ERR_FORMAT, "ids have gaps: the highest is %d, but there are %u", (int)n - 1, n_present);
    ld->n_id = n;
    ld->tok->n_vocab = (int32_t)n;
    return 0;
}

/* ---- bytes -------------------------------------------------------------------------------------------- */

/* The byte that code point cp stands for, or -1 (spec/tokenizer.md section 3). */
static int symbol_byte(uint32_t cp)
{
    if ((cp >= 33 && cp <= 126) || (cp >= 161 && cp <= 172) || (cp >= 174 && cp <= 255))
        return (int)cp;
    if (cp < 256 || cp >= 256 + 68)
        return -1;
    uint32_t k = cp - 256; /* the other 68 in ascending order: 0..32, 127..160, 173 */
    return (int)(k <= 32 ? k : k <= 66 ? k - 33 + 127 : 173);
}

/* Append the bytes of a text of symbols; false (and bytes left half done) if a character is none. */
static bool add_symbols(struct buf *out, const char *s, size_t n)
{
    buf_room(out, n);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = utf8_decode(s + i, n - i, &cp), byte = len > 0 ? symbol_byte(cp) : -1;
        if (byte < 0)
            return false;
        out->data[out->len++] = (char)byte;
        i += (size_t)len;
    }
    return true;
}

static int read_bytes(struct loader *ld)
{
    struct tok *tok = ld->tok;

    tok->at = mem_array((size_t)ld->n_id + 1, sizeof *tok->at);
    for (uint32_t id = 0; id < ld->n_id; id++) {
        const struct entry *e = &ld->entry[id];
        tok->at[id] = ld->bytes.len;
        if (tok->flag[id] & TOK_ADDED)
            buf_add(&ld->bytes, e->text, e->len);
        else if (e->len == 0 || !add_symbols(&ld->bytes, e->text, e->len))
            return fail(ld, ERR_FORMAT, "vocabulary entry %u \"%.60s\" is not made of byte symbols", id, e->text);
    }
    tok->at[ld->n_id] = ld->bytes.len;
    tok->bytes = buf_take(&ld->bytes, NULL);
    for (int b = 0; b < TOK_N_BYTE; b++)
        tok->byte_id[b] = TOK_NONE;
    tok__words_init(&tok->words, ld->n_id);
    for (uint32_t id = 0; id < ld->n_id; id++) {
        size_t n = tok->at[id + 1] - tok->at[id];
        if (tok->flag[id] & TOK_ADDED)
            continue;
        tok__words_add(&tok->words, tok->bytes + tok->at[id], n, id);
        if (n == 1)
            tok->byte_id[(unsigned char)tok->bytes[tok->at[id]]] = id;
    }
    for (int b = 0; b < TOK_N_BYTE; b++)
        if (tok->byte_id[b] == TOK_NONE)
            return fail(ld, ERR_FORMAT, "the vocabulary has no symbol for byte 0x%02X", (unsigned)b);
    return 0;
}

/* ---- merges ------------------------------------------------------------------------------------------- */

/* Put the bytes of left and right, one after the other, into b; *n_left = length of the left part. */
static int read_merge(struct loader *ld, const struct json *j, uint32_t k, struct buf *b, size_t *n_left)
{
    struct json left = {.kind = JSON_STRING}, right = {.kind = JSON_STRING};

    if (json_is(j, JSON_STRING)) { /* "left right" */
        const char *space = memchr(j->text, ' ', j->len);
        left.text = j->text;
        left.len = space ? (size_t)(space - j->text) : 0;
        right.text = space ? space + 1 : j->text;
        right.len = space ? j->len - left.len - 1 : 0;
    } else if (json_is(j, JSON_ARRAY) && j->n == 2) { /* ["left", "right"], as newer files have it */
        left = *j->child;
        right = *j->child->next;
    }
    buf_clear(b);
    if (left.kind != JSON_STRING || right.kind != JSON_STRING || !left.len || !right.len)
        return fail(ld, ERR_FORMAT, "merge %u is not two symbols", k);
    bool ok = add_symbols(b, left.text, left.len);
    *n_left = b->len;
    if (!ok || !add_symbols(b, right.text, right.len))
        return fail(ld, ERR_FORMAT, "merge %u is not made of byte symbols", k);
    return 0;
}

static int read_merges(struct loader *ld)
{
    struct tok *tok = ld->tok;
    struct buf b = {0};
    uint32_t k = 0;
    int64_t last = -1;
    int rc = 0;

    if (ld->merges->n >= ld->n_id) {
        rc = fail(ld, ERR_FORMAT, "%u merges, but only %u ids", ld->merges->n, ld->n_id);
        goto out;
    }
    tok__merges_init(&tok->merges, ld->merges->n);
    for (const struct json *j = ld->merges->child; j; j = j->next, k++) {
        size_t n_left = 0;
        rc = read_merge(ld, j, k, &b, &n_left);
        if (rc)
            goto out;
        uint32_t left = tok__words_find(&tok->words, tok, b.data, n_left);
        uint32_t right = tok__words_find(&tok->words, tok, b.data + n_left, b.len - n_left);
        uint32_t result = tok__words_find(&tok->words, tok, b.data, b.len);
        if (left == TOK_NONE || right == TOK_NONE || result == TOK_NONE) {
            rc = fail(ld, ERR_FORMAT, "merge %u names %s that is not in the vocabulary", k,
                      left == TOK_NONE ? "a left part" : right == TOK_NONE ? "a right part" : "a result");
            goto out;
        }
        /* The tables use the id as the rank; this also keeps out a merge that stands twice. */
        if (result <= last) {
            rc = fail(ld, ERR_UNSUPPORTED, "merge %u gives id %u: ids must ascend with the merges, as in DeepSeek-V4",
                      k, result);
            goto out;
        }
        last = result;
        tok__merges_add(&tok->merges, left, right, result);
    }
out:
    buf_release(&b);
    return rc;
}

static void make_byte_pairs(struct tok *tok)
{
    tok->byte_pair = mem_array((size_t)TOK_N_BYTE * TOK_N_BYTE, sizeof *tok->byte_pair);
    for (size_t l = 0; l < TOK_N_BYTE; l++)
        for (size_t r = 0; r < TOK_N_BYTE; r++)
            tok->byte_pair[l << 8 | r] = tok__merges_find(&tok->merges, tok->byte_id[l], tok->byte_id[r]);
}

/* A piece that equals an entry is that entry's id only if the merges lead there: found out once, here. Until now the
 * words were all entries made of byte symbols. */
static void check_words(struct tok *tok)
{
    struct tok_scratch scratch = {0};
    struct tok_ids ids = {0};

    for (int32_t id = 0; id < tok->n_vocab; id++) {
        const char *s = tok->bytes + tok->at[id];
        size_t n = tok->at[id + 1] - tok->at[id];
        if (tok->flag[id] & TOK_ADDED)
            continue;
        ids.n = 0;
        tok__bpe(tok, &scratch, s, n, &ids);
        if (ids.n != 1 || ids.id[0] != id)
            tok__words_remove(&tok->words, s, n, (uint32_t)id);
    }
    tok__scratch_release(&scratch);
    tok_ids_release(&ids);
}

/* ---- the end token ------------------------------------------------------------------------------------ */

/* Text of eos_token in tokenizer_config.json; *eos stays as it is if there is no such file or member. */
static int read_config(struct loader *ld, const char *path, const struct json **eos)
{
    const struct json *root;
    struct buf text = {0};
    struct err err;
    int rc = file_read(path, TOK_CONFIG_MAX, &text, &err);

    if (rc == ERR_MISSING) {
        rc = 0;
        goto out;
    }
    if (!rc && (rc = json_parse(text.data ? text.data : "", text.len, 0, &ld->arena, &root, &err)))
        err_wrap(&err, "%s", path);
    if (rc) {
        err_set(ld->err, err.code, "%s", err.text);
        goto out;
    }
    const struct json *j = json_get(root, "eos_token");
    if (is_nothing(j))
        goto out;
    *eos = j->kind == JSON_OBJECT ? json_get(j, "content") : j;
    if (!json_is(*eos, JSON_STRING))
        rc = err_set(ld->err, ERR_FORMAT, "%s: eos_token is %s, not a text", path, json_kind_name(*eos));
out:
    buf_release(&text);
    return rc;
}

static int find_eos(struct loader *ld, const char *dir)
{
    const struct json fallback = {.kind = JSON_STRING, .text = default_eos, .len = sizeof default_eos - 1};
    const struct json *eos = &fallback;
    char *path = dir ? join_path(dir, "tokenizer_config.json") : NULL;
    int rc = path ? read_config(ld, path, &eos) : 0;

    mem_free(path);
    if (rc)
        return rc;
    for (int pass = 0; pass < 2; pass++) {
        int32_t id = tok__trie_find(&ld->tok->pass[pass], eos->text, eos->len);
        if (id >= 0) {
            ld->tok->eos = id;
            return 0;
        }
    }
    return fail(ld, ERR_FORMAT, "the end token \"%.60s\" is not among added_tokens", eos->text);
}

/* ---- open and close ----------------------------------------------------------------------------------- */

static int load(struct loader *ld, const char *dir, const struct buf *text)
{
    int rc = json_parse(text->data ? text->data : "", text->len, JSON_NO_REPEATED_KEYS, &ld->arena, &ld->root, ld->err);

    if (rc) {
        err_wrap(ld->err, "%s", ld->path);
        return rc;
    }
    ld->model = json_get(ld->root, "model");
    if ((rc = check_pipeline(ld)) || (rc = find_lists(ld)) || (rc = read_ids(ld)) || (rc = read_bytes(ld)) ||
        (rc = read_merges(ld)) || (rc = find_eos(ld, dir)))
        return rc;
    make_byte_pairs(ld->tok);
    check_words(ld->tok);
    return 0;
}

static int open_text(const struct buf *text, const char *path, const char *dir, struct tok **tok, struct err *err)
{
    struct err local;
    struct loader ld = {.tok = mem_zalloc(sizeof *ld.tok), .path = path, .err = err ? err : &local};

    int rc = load(&ld, dir, text);
    if (rc)
        tok_close(&ld.tok);
    else
        *tok = ld.tok;
    mem_free(ld.entry);
    buf_release(&ld.bytes);
    arena_release(&ld.arena);
    return rc;
}

int tok_open(const char *dir, struct tok **tok, struct err *err)
{
    struct err local;
    char *path = join_path(dir, "tokenizer.json");
    struct buf text = {0};

    int rc = file_read(path, TOK_FILE_MAX, &text, err ? err : &local);
    if (rc == ERR_MISSING)
        err_set(err, rc, "%s: not found; it comes with the model (unpack tokenizer.json.gz first)", path);
    if (!rc)
        rc = open_text(&text, path, dir, tok, err);
    buf_release(&text);
    mem_free(path);
    return rc;
}

int tok_open_text(const struct buf *json, const char *name, struct tok **tok, struct err *err)
{
    return open_text(json, name, NULL, tok, err);
}

void tok_close(struct tok **tok_p)
{
    struct tok *tok = *tok_p;

    if (!tok)
        return;
    mem_free(tok->bytes);
    mem_free(tok->at);
    mem_free(tok->flag);
    mem_free(tok->byte_pair);
    mem_free(tok->merges.slot);
    mem_free(tok->words.slot);
    tok__trie_release(&tok->pass[0]);
    tok__trie_release(&tok->pass[1]);
    mem_free(tok);
    *tok_p = NULL;
}
