#include "worker/model/names.h"

#include "common/base/check.h"

#include <string.h>

enum where { ANYWHERE, AT_START, AT_END };

/* Applied in this order, each to the result of those before: every place where `from` stands becomes `to`. The
 * order matters where one rule's text holds another's (the compressor's gate_proj before the experts'). */
static const struct rule {
    enum where where;
    const char *from, *to;
} rules[] = {
    {AT_START, "model.", ""},
    {ANYWHERE, ".self_attn.", ".attn."},
    {ANYWHERE, ".mlp.", ".ffn."},
    {ANYWHERE, "compressor.indexer.scorer.", "indexer."},
    {ANYWHERE, "compressor.indexer.q_b_proj", "indexer.wq_b"},
    {ANYWHERE, "compressor.indexer.", "indexer.compressor."},
    {ANYWHERE, "compressor.kv_norm", "compressor.norm"},
    {ANYWHERE, "compressor.gate_proj", "compressor.wgate"},
    {ANYWHERE, "kv_proj", "wkv"},
    {ANYWHERE, ".q_a_proj", ".wq_a"},
    {ANYWHERE, ".q_b_proj", ".wq_b"},
    {ANYWHERE, ".o_a_proj", ".wo_a"},
    {ANYWHERE, ".o_b_proj", ".wo_b"},
    {ANYWHERE, "q_a_norm", "q_norm"},
    {ANYWHERE, ".attn.norm.", ".attn.kv_norm."}, /* as transformers 5.24 saves it; compressors keep their norm */
    {ANYWHERE, "position_bias", "ape"},
    {AT_END, ".sinks", ".attn_sink"},
    {ANYWHERE, ".attn_hc.", ".hc_attn_"},
    {ANYWHERE, ".ffn_hc.", ".hc_ffn_"},
    {AT_START, "hc_head.hc_", "hc_head_"},
    {ANYWHERE, "input_layernorm", "attn_norm"},
    {ANYWHERE, "post_attention_layernorm", "ffn_norm"},
    {ANYWHERE, ".gate_proj.", ".w1."},
    {ANYWHERE, ".up_proj.", ".w3."},
    {ANYWHERE, ".down_proj.", ".w2."},
    {AT_END, "weight_scale_inv", "scale"},
    {AT_END, "weight_scale", "scale"},
    {ANYWHERE, "e_score_correction_bias", "bias"},
    {AT_START, "embed_tokens", "embed"},
    {AT_START, "lm_head", "head"},
};

/* Replace text[at .. at+n_from) by rule->to; false if the result is too long. */
static bool replace(char *text, size_t at, size_t n_from, const char *to)
{
    size_t n = strlen(text), n_to = strlen(to);

    if (n - n_from + n_to > MDL_NAME_MAX)
        return false;
    memmove(text + at + n_to, text + at + n_from, n - at - n_from + 1);
    memcpy(text + at, to, n_to);
    return true;
}

static bool apply(const struct rule *r, char *text)
{
    size_t n = strlen(text), n_from = strlen(r->from);

    if (r->where == AT_START)
        return strncmp(text, r->from, n_from) != 0 || replace(text, 0, n_from, r->to);
    if (r->where == AT_END)
        return n < n_from || strcmp(text + n - n_from, r->from) != 0 || replace(text, n - n_from, n_from, r->to);
    for (char *p = text; (p = strstr(p, r->from)); p += strlen(r->to))
        if (!replace(text, (size_t)(p - text), n_from, r->to))
            return false;
    return true;
}

bool mdl_name_official(const char *name, char out[MDL_NAME_MAX + 1])
{
    size_t n = strlen(name);

    if (n > MDL_NAME_MAX)
        return false;
    memcpy(out, name, n + 1);
    for (size_t i = 0; i < N_ELEM(rules); i++)
        if (!apply(&rules[i], out))
            return false;
    return true;
}
