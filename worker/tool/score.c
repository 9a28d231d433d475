#include "worker/tool/tool.h"

#include "common/base/flags.h"
#include "common/mem/mem.h"
#include "worker/engine/engine.h"
#include "worker/model/config.h"
#include "worker/model/safetensors.h"

#include <inttypes.h>
#include <stdio.h>

struct score {
    const char *model, *tokens, *out, *backend;
    int64_t n_ranks, n_threads, chunk, decode_from; /* chunk 0: largest; decode_from -1: never */
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Tokens of the step that begins at position p. */
static int64_t step_at(const struct score *s, int64_t p, int64_t n_tok, int64_t step_max)
{
    if (s->decode_from >= 0 && p >= s->decode_from)
        return 1;
    int64_t end = s->decode_from >= 0 ? min64(s->decode_from, n_tok) : n_tok;
    return min64(end - p, step_max);
}

/* All steps; the logits go to the file as they come. */
static int run_steps(struct eng *eng, const struct score *s, const int32_t *tok, int64_t n_tok, int64_t step_max,
                     struct st_writer *w, struct err *err)
{
    size_t n_vocab = (size_t)eng_config(eng)->vocab_size;
    float *logits = mem_alloc((size_t)step_max * n_vocab * sizeof *logits);
    struct eng_seq *seq = NULL;
    int rc = eng_seq_open(eng, &seq, err);

    if (rc == 0)
        rc = eng_seq_reserve(eng, seq, n_tok, err);
    for (int64_t p = 0; p < n_tok && rc == 0;) {
        int n = (int)step_at(s, p, n_tok, step_max);
        struct eng_item item = {.seq = seq, .tok = tok + p, .n_tok = n, .n_logit = n, .logits = logits};
        struct eng_plan plan = {&item, 1};
        if ((rc = eng_step(eng, &plan, err)) == 0)
            rc = st_writer_put(w, 0, logits, (size_t)n * n_vocab * sizeof *logits, err);
        p += n;
    }
    eng_seq_close(eng, &seq);
    mem_free(logits);
    return rc;
}

static int score(const struct score *s, struct err *err)
{
    struct mdl_config cfg;
    struct eng *eng = NULL;
    struct st_writer *w = NULL;
    int32_t *tok = NULL;
    int64_t n_tok = 0;
    int rc;

    if ((rc = mdl_config_load(s->model, &cfg, err)) ||
        (rc = wrk_tool_tokens_load(s->tokens, cfg.vocab_size, &tok, &n_tok, err)))
        goto out;
    /* Logits of one step lie in memory together: bound them to about 1 GiB. */
    int64_t step_max = min64(n_tok, min64(ENG_STEP_TOK_MAX, 1 + ((int64_t)1 << 28) / cfg.vocab_size));
    if (s->chunk)
        step_max = min64(step_max, s->chunk);
    struct eng_opts opts = {
        .model_dir = s->model,
        .backend = s->backend,
        .n_ranks = (int)s->n_ranks,
        .n_threads = (int)s->n_threads,
        .n_seq_max = 1,
        .step_tok_max = (int)step_max,
        .context_max = n_tok,
        .kv_tokens = n_tok * s->n_ranks, /* the sequence lives on one of them */
    };
    struct st_spec spec = {.name = "logits", .dtype = MDL_F32, .n_dim = 2, .dim = {n_tok, cfg.vocab_size}};
    if ((rc = eng_open(&opts, &eng, err)) || (rc = st_writer_open(s->out, &spec, 1, &w, err)) ||
        (rc = run_steps(eng, s, tok, n_tok, step_max, w, err)))
        goto out;
    rc = st_writer_close(&w, err);
out:
    if (w)
        st_writer_abort(&w);
    eng_close(&eng);
    mem_free(tok);
    return rc;
}

int wrk_tool_score(int argc, char **argv)
{
    struct score s = {.backend = "ref", .n_ranks = 1, .decode_from = -1};
    struct err err = {0};
    const struct flag flag[] = {
        {"model", FLAG_STR, &s.model, "DIR", .help = "checkpoint directory", .required = true},
        {"tokens", FLAG_STR, &s.tokens, "F.json", .help = "{\"tokens\": [...]}", .required = true},
        {"out", FLAG_STR, &s.out, "F.safetensors", .help = "where the logits go", .required = true},
        {"backend", FLAG_STR, &s.backend, "B", .help = "ref, cpu or cuda (default ref)"},
        {"ranks", FLAG_I64, &s.n_ranks, "N", .help = "ranks that share the experts (default 1)", .min = 1,
         .max = ENG_RANKS_MAX},
        {"threads", FLAG_I64, &s.n_threads, "N", .help = "threads of back end cpu (default: all cores)", .min = 1,
         .max = 256},
        {"chunk", FLAG_I64, &s.chunk, "N", .help = "tokens of a prefill step (0, the default: all)",
         .min = 0, .max = ENG_STEP_TOK_MAX},
        {"decode-from", FLAG_I64, &s.decode_from, "P", .help = "positions from P on by one-token steps",
         .min = 0, .max = INT32_MAX},
    };
    struct flags f = {.usage = "baton score --model DIR --tokens F.json --out F.safetensors [flags]",
                      .about = "Logits F32 [T, vocab] of every position, as tensor `logits`.",
                      .flag = flag, .n_flag = sizeof flag / sizeof flag[0]};

    int rc = flags_parse(&f, argc, argv, &err);
    if (rc == FLAGS_HELP)
        return 0;
    if (rc) {
        fprintf(stderr, "baton score: %s\n", err.text);
        return 2;
    }
    if (score(&s, &err) == 0)
        return 0;
    fprintf(stderr, "baton score: %s\n", err.text);
    return 1;
}
