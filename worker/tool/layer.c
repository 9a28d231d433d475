#include "worker/tool/tool.h"

#include "common/base/flags.h"
#include "common/mem/arena.h"
#include "common/mem/mem.h"
#include "worker/engine/engine.h"
#include "worker/engine/probe.h"
#include "worker/model/safetensors.h"

#include <stdio.h>
#include <string.h>

enum { TENSORS_MAX = 32 }; /* named intermediates of a layer and its output */

struct layer {
    const char *model, *input, *out, *backend;
    int64_t layer, n_ranks, n_threads;
};

/* What the observer was shown, to be written when the layer is done. */
struct seen {
    struct arena arena;
    struct st_spec spec[TENSORS_MAX];
    const void *data[TENSORS_MAX];
    size_t n;
};

static void keep(struct seen *s, const char *name, enum mdl_dtype dtype, const int64_t *dim, int n_dim,
                 const void *data)
{
    struct st_spec *spec = &s->spec[s->n];
    uint64_t n_bytes = 0;

    if (s->n == TENSORS_MAX || !mdl_shape_bytes(dtype, dim, n_dim, &n_bytes))
        return;
    *spec = (struct st_spec){.name = arena_strdup(&s->arena, name), .dtype = dtype, .n_dim = n_dim};
    memcpy(spec->dim, dim, (size_t)n_dim * sizeof *dim);
    s->data[s->n++] = arena_dup(&s->arena, data, (size_t)n_bytes);
}

static void on_tensor(void *arg, int layer, const struct eng_tensor *t)
{
    (void)layer;
    if (strcmp(t->name, "out") != 0) /* that is `x`, written last */
        keep(arg, t->name, t->dtype, t->dim, t->n_dim, t->data);
}

/* Row i of a token list that is I32 or I64. */
static int64_t token_at(const struct mdl_tensor *t, int64_t i)
{
    int32_t v32;
    int64_t v64;

    if (t->dtype == MDL_I32) {
        memcpy(&v32, (const char *)t->data + (size_t)i * sizeof v32, sizeof v32);
        return v32;
    }
    memcpy(&v64, (const char *)t->data + (size_t)i * sizeof v64, sizeof v64);
    return v64;
}

/* Check x and tokens of the input and copy them: *x, *tok (mem_free). */
static int read_input(const struct layer *l, const struct mdl_config *cfg, uint16_t **x, int32_t **tok, int *n_tok,
                      struct err *err)
{
    struct st_file *f = NULL;
    int rc = st_open(l->input, &f, err);

    if (rc)
        return rc;
    const struct mdl_tensor *tx = st_find(f, "x"), *tt = st_find(f, "tokens");
    if (!tx || tx->dtype != MDL_BF16 || tx->n_dim != 3 || tx->dim[0] < 1 || tx->dim[0] > ENG_STEP_TOK_MAX ||
        tx->dim[1] != cfg->hc_mult || tx->dim[2] != cfg->hidden_size) {
        rc = err_set(err, ERR_FORMAT, "%s: tensor x must be BF16 [1 to %d, %d, %d]", l->input, ENG_STEP_TOK_MAX,
                     cfg->hc_mult, cfg->hidden_size);
        goto out;
    }
    bool is_hash = l->layer < cfg->num_hash_layers;
    if (tt ? (tt->dtype != MDL_I32 && tt->dtype != MDL_I64) || tt->n_dim != 1 || tt->dim[0] != tx->dim[0] : is_hash) {
        rc = err_set(err, ERR_FORMAT, "%s: tensor tokens must be I32 [%d], one for each row of x", l->input,
                     (int)tx->dim[0]);
        goto out;
    }
    for (int64_t i = 0; tt && i < tt->dim[0]; i++)
        if (token_at(tt, i) < 0 || token_at(tt, i) >= cfg->vocab_size) {
            rc = err_set(err, ERR_RANGE, "%s: tokens[%d] is no id from 0 to %d", l->input, (int)i, cfg->vocab_size - 1);
            goto out;
        }
    *n_tok = (int)tx->dim[0];
    *tok = mem_array((size_t)*n_tok, sizeof **tok);
    for (int i = 0; tt && i < *n_tok; i++)
        (*tok)[i] = (int32_t)token_at(tt, i);
    *x = mem_dup(tx->data, tx->n_bytes);
out:
    st_close(&f);
    return rc;
}

static int run_layer(const struct layer *l, struct err *err)
{
    struct mdl_config cfg;
    struct seen seen = {0};
    struct eng *eng = NULL;
    uint16_t *x = NULL;
    int32_t *tok = NULL;
    int n_tok = 0, rc;

    if (l->n_ranks != 1)
        return err_set(err, ERR_UNSUPPORTED, "a layer alone runs on one rank, not on %d; leave --ranks out",
                       (int)l->n_ranks);
    if ((rc = mdl_config_load(l->model, &cfg, err)))
        return rc;
    if (l->layer >= cfg.num_hidden_layers)
        return err_set(err, ERR_RANGE, "%s has layers 0 to %d, not %d", l->model, cfg.num_hidden_layers - 1,
                       (int)l->layer);
    if ((rc = read_input(l, &cfg, &x, &tok, &n_tok, err)))
        goto out;
    struct eng_opts opts = {
        .model_dir = l->model,
        .backend = l->backend,
        .n_ranks = 1,
        .n_threads = (int)l->n_threads,
        .n_seq_max = 1,
        .step_tok_max = n_tok,
        .context_max = n_tok,
        .kv_tokens = n_tok,
    };
    struct eng_tap tap = {&seen, on_tensor};
    if ((rc = eng_open(&opts, &eng, err)))
        goto out;
    eng_tap_set(eng, &tap);
    if ((rc = eng_layer_alone(eng, (int)l->layer, x, tok, n_tok, err)))
        goto out;
    int64_t dim[] = {n_tok, cfg.hc_mult, cfg.hidden_size};
    keep(&seen, "x", MDL_BF16, dim, 3, x);
    rc = st_write(l->out, seen.spec, seen.data, seen.n, err);
out:
    eng_close(&eng);
    arena_release(&seen.arena);
    mem_free(tok);
    mem_free(x);
    return rc;
}

int wrk_tool_layer(int argc, char **argv)
{
    struct layer l = {.backend = "ref", .n_ranks = 1};
    struct err err = {0};
    const struct flag flag[] = {
        {"model", FLAG_STR, &l.model, "DIR", .help = "checkpoint directory", .required = true},
        {"layer", FLAG_I64, &l.layer, "N", .help = "layer number", .min = 0, .max = MDL_LAYERS_MAX - 1,
         .required = true},
        {"input", FLAG_STR, &l.input, "F.safetensors", .help = "x BF16 [T, hc, d] and tokens I32 [T]",
         .required = true},
        {"out", FLAG_STR, &l.out, "F.safetensors", .help = "where the results go", .required = true},
        {"backend", FLAG_STR, &l.backend, "B", .help = "ref, cpu or cuda (default ref)"},
        {"ranks", FLAG_I64, &l.n_ranks, "N", .help = "a layer runs on 1 rank", .min = 1, .max = ENG_RANKS_MAX},
        {"threads", FLAG_I64, &l.n_threads, "N", .help = "threads of back end cpu (default: all cores)", .min = 1,
         .max = 256},
    };
    struct flags f = {.usage = "baton layer --model DIR --layer N --input F.safetensors --out F.safetensors [flags]",
                      .about = "One layer alone on an empty cache: its output `x` and every named intermediate.",
                      .flag = flag, .n_flag = sizeof flag / sizeof flag[0]};

    int rc = flags_parse(&f, argc, argv, &err);
    if (rc == FLAGS_HELP)
        return 0;
    if (rc) {
        fprintf(stderr, "baton layer: %s\n", err.text);
        return 2;
    }
    if (run_layer(&l, &err) == 0)
        return 0;
    fprintf(stderr, "baton layer: %s\n", err.text);
    return 1;
}
