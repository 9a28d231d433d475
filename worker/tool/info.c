#include "worker/tool/info.h"

#include "common/base/check.h"
#include "common/base/flags.h"
#include "common/text/json.h"
#include "common/text/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- what is counted ---------------------------------------------------------------------------------- */

/* Part of the model -> text that a tensor's official name holds; the first row that fits counts. */
#define PART_LIST(X)                                    \
    X(speculative, "speculative heads", "mtp.")         \
    X(embedding, "embedding", "embed.")                 \
    X(experts, "routed experts", ".ffn.experts.")       \
    X(shared, "shared experts", ".ffn.shared_experts.") \
    X(router, "router", ".ffn.gate.")                   \
    X(indexer, "indexers", ".indexer.")                 \
    X(compressor, "compressors", ".compressor.")        \
    X(attention, "attention", ".attn.")                 \
    X(hc, "hyper-connections", "hc_")                   \
    X(norms, "norms", "norm.weight")                    \
    X(head, "head", "head.weight")                      \
    X(other, "other", "")

enum part {
#define X(key, label, text) PART_##key,
    PART_LIST(X)
#undef X
        PART_N
};

static const struct {
    const char *key, *label, *text;
} parts[PART_N] = {
#define X(key, label, text) {#key, label, text},
    PART_LIST(X)
#undef X
};

struct tally {
    size_t n;
    uint64_t n_bytes;
};

struct info {
    struct tally part[PART_N], dtype[MDL_DTYPE_N];
    int n_window, n_csa, n_hca;
};

static enum part part_of(const char *name)
{
    /* The speculative layers have all the other parts inside: they go by the beginning alone. */
    for (int p = strncmp(name, parts[0].text, strlen(parts[0].text)) == 0 ? 0 : 1; p < PART_N; p++)
        if (p == 0 || strstr(name, parts[p].text))
            return (enum part)p;
    return PART_other;
}

static void count(const struct mdl_ckpt *ckpt, struct info *info)
{
    const struct mdl_config *c = mdl_ckpt_config(ckpt);

    *info = (struct info){0};
    for (size_t i = 0; i < mdl_ckpt_n_tensor(ckpt); i++) {
        const struct mdl_tensor *t = mdl_ckpt_at(ckpt, i);
        struct tally *to[] = {&info->part[part_of(t->name)], &info->dtype[t->dtype]};
        for (size_t k = 0; k < N_ELEM(to); k++) {
            to[k]->n++;
            to[k]->n_bytes += t->n_bytes;
        }
    }
    for (int i = 0; i < c->num_hidden_layers; i++) {
        info->n_window += c->layer_kind[i] == MDL_WINDOW;
        info->n_csa += c->layer_kind[i] == MDL_CSA;
        info->n_hca += c->layer_kind[i] == MDL_HCA;
    }
}

/* ---- configuration as rows ---------------------------------------------------------------------------- */

#define CONFIG_LIST(X)                                                                                                 \
    X(vocab_size)                                                                                                      \
    X(hidden_size) X(num_hidden_layers) X(num_nextn_predict_layers) X(num_attention_heads) X(head_dim)                 \
        X(qk_rope_head_dim) X(q_lora_rank) X(o_lora_rank) X(o_groups) X(sliding_window) X(index_n_heads)               \
            X(index_head_dim) X(index_topk) X(n_routed_experts) X(num_experts_per_tok) X(n_shared_experts)             \
                X(moe_intermediate_size) X(num_hash_layers) X(hc_mult) X(hc_sinkhorn_iters) X(max_position_embeddings) \
                    X(bos_token_id) X(eos_token_id) X(hc_eps) X(rms_norm_eps) X(routed_scaling_factor) X(swiglu_limit) \
                        X(rope_theta) X(compress_rope_theta)

struct config_row {
    const char *name;
    double value;
};

/* Fills row[], returns how many. */
static size_t config_rows(const struct mdl_config *c, struct config_row row[40])
{
    size_t n = 0;
#define X(key) row[n++] = (struct config_row){#key, (double)c->key};
    CONFIG_LIST(X)
#undef X
    if (c->yarn.on) {
        row[n++] = (struct config_row){"yarn_factor", c->yarn.factor};
        row[n++] = (struct config_row){"yarn_beta_fast", c->yarn.beta_fast};
        row[n++] = (struct config_row){"yarn_beta_slow", c->yarn.beta_slow};
        row[n++] = (struct config_row){"yarn_original_max_position_embeddings",
                                       (double)c->yarn.original_max_position_embeddings};
    }
    ASSERT(n <= 40);
    return n;
}

/* Whole numbers in full; of the others, which came from float32, as many digits as tell it: 1e-06 and not
 * 9.9999999747524271e-07. */
static void add_number(struct buf *out, double v)
{
    char text[32];
    double back = 0;

    if (v == floor(v) && fabs(v) < 1e15) {
        buf_addf(out, "%.0f", v);
        return;
    }
    snprintf(text, sizeof text, "%.7g", v);
    sscanf(text, "%lf", &back);
    buf_addf(out, (float)back == (float)v ? "%.7g" : "%.17g", v);
}

/* ---- output ------------------------------------------------------------------------------------------- */

static const char *size_text(uint64_t n, char text[32])
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)n;
    size_t u = 0;

    while (v >= 1024 && u + 1 < N_ELEM(unit)) {
        v /= 1024;
        u++;
    }
    snprintf(text, 32, u ? "%.1f %s" : "%.0f %s", v, unit[u]);
    return text;
}

static const char *layer_letters(const struct mdl_config *c, char text[MDL_LAYERS_MAX + 1])
{
    for (int i = 0; i < c->num_hidden_layers; i++)
        text[i] = c->layer_kind[i] == MDL_WINDOW ? 'w' : c->layer_kind[i] == MDL_CSA ? 'c' : 'h';
    text[c->num_hidden_layers] = 0;
    return text;
}

static void add_tally(struct buf *out, const char *label, const struct tally *t, uint64_t all)
{
    char size[32];

    if (t->n == 0)
        return;
    buf_addf(out, "  %-20s %8zu tensors %12s %6.2f%%\n", label, t->n, size_text(t->n_bytes, size),
             all ? 100.0 * (double)t->n_bytes / (double)all : 0.0);
}

void wrk_info_table(const struct mdl_ckpt *ckpt, const struct mdl_weights *w, struct buf *out)
{
    const struct mdl_config *c = mdl_ckpt_config(ckpt);
    struct info info;
    struct config_row row[40];
    char size[32], letters[MDL_LAYERS_MAX + 1];
    uint64_t all = mdl_ckpt_bytes(ckpt);
    double kv = mdl_kv_bytes_per_token(c);

    count(ckpt, &info);
    buf_addf(out, "model        %s\n", mdl_ckpt_dir(ckpt));
    buf_addf(out, "files        %zu with %zu tensors, %s\n", mdl_ckpt_n_file(ckpt), mdl_ckpt_n_tensor(ckpt),
             size_text(all, size));
    buf_addf(out, "layers       %d: %d window, %d CSA, %d HCA (%s); the first %d route by token id\n",
             c->num_hidden_layers, info.n_window, info.n_csa, info.n_hca, layer_letters(c, letters),
             c->num_hash_layers);
    buf_addf(out, "experts      %d of %d per token and a shared one; stored as %s\n", c->num_experts_per_tok,
             c->n_routed_experts, mdl_matrix_kind_name(w->layer[0].expert[0].w1.kind));
    buf_addf(out, "speculative  %s\n", w->mtp ? "one MTP layer" : info.part[PART_speculative].n ? "not used" : "none");
    buf_addf(out, "cache        %.1f bytes per token of context, %s for %d tokens\n", kv,
             size_text((uint64_t)(kv * c->max_position_embeddings), size), c->max_position_embeddings);
    buf_addf(out, "fingerprint  %016" PRIx64 "\n\nby part\n", mdl_ckpt_fingerprint(ckpt));
    for (int i = 0; i < PART_N; i++)
        add_tally(out, parts[i].label, &info.part[i], all);
    buf_add_str(out, "\nby dtype\n");
    for (int i = 0; i < MDL_DTYPE_N; i++)
        add_tally(out, mdl_dtype_name((enum mdl_dtype)i), &info.dtype[i], all);
    buf_add_str(out, "\nconfiguration\n");
    size_t n = config_rows(c, row);
    for (size_t i = 0; i < n; i++) {
        buf_addf(out, "  %-38s ", row[i].name);
        add_number(out, row[i].value);
        buf_add_char(out, '\n');
    }
}

static void add_json_tally(struct buf *out, const char *key, const struct tally *t, bool *first)
{
    if (t->n == 0)
        return;
    buf_addf(out, "%s\"%s\":{\"tensors\":%zu,\"bytes\":%" PRIu64 "}", *first ? "" : ",", key, t->n, t->n_bytes);
    *first = false;
}

void wrk_info_json(const struct mdl_ckpt *ckpt, const struct mdl_weights *w, struct buf *out)
{
    static const struct {
        enum mdl_layer_kind kind;
        const char *name;
    } kinds[] = {{MDL_WINDOW, "window"}, {MDL_CSA, "csa"}, {MDL_HCA, "hca"}};
    const struct mdl_config *c = mdl_ckpt_config(ckpt);
    const char *dir = mdl_ckpt_dir(ckpt);
    struct info info;
    struct config_row row[40];
    bool first = true;

    count(ckpt, &info);
    buf_add_str(out, "{\"model\":");
    if (utf8_is_valid(dir, strlen(dir)))
        json_add_str(out, dir, strlen(dir));
    else
        buf_add_str(out, "null"); /* a path need not be text */
    buf_addf(out, ",\"fingerprint\":\"%016" PRIx64 "\",\"files\":%zu,\"tensors\":%zu,\"bytes\":%" PRIu64,
             mdl_ckpt_fingerprint(ckpt), mdl_ckpt_n_file(ckpt), mdl_ckpt_n_tensor(ckpt), mdl_ckpt_bytes(ckpt));
    buf_addf(out, ",\"kv_bytes_per_token\":%.3f,\"expert_kind\":\"%s\",\"mtp\":%s,\"layers\":[",
             mdl_kv_bytes_per_token(c), mdl_matrix_kind_name(w->layer[0].expert[0].w1.kind), w->mtp ? "true" : "false");
    for (int i = 0; i < c->num_hidden_layers; i++)
        for (size_t k = 0; k < N_ELEM(kinds); k++)
            if (kinds[k].kind == c->layer_kind[i])
                buf_addf(out, "%s\"%s\"", i ? "," : "", kinds[k].name);
    buf_add_str(out, "],\"by_part\":{");
    for (int i = 0; i < PART_N; i++)
        add_json_tally(out, parts[i].key, &info.part[i], &first);
    buf_add_str(out, "},\"by_dtype\":{");
    first = true;
    for (int i = 0; i < MDL_DTYPE_N; i++)
        add_json_tally(out, mdl_dtype_name((enum mdl_dtype)i), &info.dtype[i], &first);
    buf_add_str(out, "},\"config\":{");
    size_t n = config_rows(c, row);
    for (size_t i = 0; i < n; i++) {
        buf_addf(out, "%s\"%s\":", i ? "," : "", row[i].name);
        add_number(out, row[i].value);
    }
    buf_add_str(out, "}}\n");
}

int wrk_tool_info(int argc, char **argv)
{
    bool json = false;
    const struct flag flag[] = {
        {.name = "json", .kind = FLAG_BOOL, .to = &json, .help = "one JSON object instead of the table"}};
    struct flags flags = {.usage = "baton model info DIR [--json]",
                          .about =
                              "Checks a checkpoint and says what it holds: configuration, layers, bytes, fingerprint.",
                          .flag = flag,
                          .n_flag = N_ELEM(flag),
                          .n_word_min = 1,
                          .n_word_max = 1};
    struct mdl_ckpt *ckpt = NULL;
    struct mdl_weights w = {0};
    struct buf out = {0};
    struct err err;
    int status = 0;

    int rc = flags_parse(&flags, argc, argv, &err);
    if (rc == FLAGS_HELP)
        return 0;
    if (rc) {
        fprintf(stderr, "baton model info: %s\n", err.text);
        return 2;
    }
    rc = mdl_ckpt_open(flags.word[0], &ckpt, &err);
    if (!rc)
        rc = mdl_weights_bind(ckpt, &w, &err);
    if (rc) {
        fprintf(stderr, "baton model info: %s\n", err.text);
        status = 1;
        goto out;
    }
    if (json)
        wrk_info_json(ckpt, &w, &out);
    else
        wrk_info_table(ckpt, &w, &out);
    if (fwrite(out.data, 1, out.len, stdout) != out.len || fflush(stdout) != 0) {
        perror("baton model info: the output cannot be written");
        status = 1;
    }
out:
    buf_release(&out);
    mdl_weights_release(&w);
    mdl_ckpt_close(&ckpt);
    return status;
}
