#include "worker/tool/generate.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/flags.h"
#include "common/mem/mem.h"
#include "common/text/json.h"
#include "common/text/tok.h"
#include "common/text/utf8.h"
#include "worker/engine/engine.h"
#include "worker/model/config.h"
#include "worker/sched/sched.h"
#include "worker/tool/tool.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { GENERATE_STEP_TOK = 512 }; /* rows of one step: bounds the workspace, changes no token */

struct generate {
    const char *model, *prompt, *tokens, *backend;
    double temperature, top_p;
    int64_t max_tokens, seed, n_ranks, n_threads;
    bool ignore_eos, json;
    /* the run */
    struct tok *tok;       /* NULL: ids only */
    int32_t *in;           /* prompt ids */
    int64_t n_in;
    struct tok_ids out;
    struct utf8_stream utf8;
    struct buf text;       /* all of the output, whole characters */
    size_t n_shown;        /* bytes of it that are on stdout already */
    bool is_finished;
    enum msg_finish reason;
    struct err failed;     /* code 0: it did not fail */
    int64_t load_ns, prefill_ns, decode_ns;
};

static void show(struct generate *g)
{
    if (g->json || g->n_shown == g->text.len)
        return;
    fwrite(g->text.data + g->n_shown, 1, g->text.len - g->n_shown, stdout);
    fflush(stdout);
    g->n_shown = g->text.len;
}

/* Without a tokenizer the ids themselves are the text for people. */
static void add_id(struct generate *g, int32_t id)
{
    size_t n = 0;
    const char *bytes = g->tok ? tok_bytes(g->tok, id, &n) : NULL;
    if (bytes)
        utf8_stream_feed(&g->utf8, bytes, n, &g->text);
    else if (!g->tok && !g->json)
        buf_addf(&g->text, "%s%" PRId32, g->out.n ? " " : "", id);
    tok_ids_add(&g->out, id);
    show(g);
}

static int emit(void *arg, const struct msg *m, struct err *err)
{
    struct generate *g = arg;
    (void)err;
    if (m->kind == MSG_tokens) {
        for (int32_t i = 0; i < m->tokens.n; i++)
            add_id(g, m->tokens.token[i].id);
    } else if (m->kind == MSG_finished) {
        g->is_finished = true;
        g->reason = m->finished.reason;
    } else {
        ASSERT(m->kind == MSG_failed);
        err_set(&g->failed, ERR_ARG, "%s", m->failed.text);
    }
    return 0;
}

/* The ids to continue: --tokens as they are, --prompt with BOS in front and added tokens allowed in it. */
static int load_prompt(struct generate *g, const struct mdl_config *cfg, struct err *err)
{
    int rc = tok_open(g->model, &g->tok, err);
    if (g->tokens) {
        if (rc == ERR_MISSING) /* not needed here: the output has no text then */
            rc = 0;
        return rc ? rc : wrk_tool_tokens_load(g->tokens, cfg->vocab_size, &g->in, &g->n_in, err);
    }
    if (rc)
        return rc;
    struct tok_ids ids = {0};
    tok_ids_add(&ids, cfg->bos_token_id);
    tok_encode(g->tok, g->prompt, strlen(g->prompt), NULL, 0, &ids);
    for (size_t i = 0; i < ids.n && !rc; i++)
        if (ids.id[i] < 0 || ids.id[i] >= cfg->vocab_size)
            rc = err_set(err, ERR_RANGE,
                         "%s: the prompt has token id %d, the model only %d ids: tokenizer and checkpoint do not "
                         "belong together",
                         g->model, (int)ids.id[i], (int)cfg->vocab_size);
    g->in = mem_dup(ids.id, ids.n * sizeof *ids.id);
    g->n_in = (int64_t)ids.n;
    tok_ids_release(&ids);
    return rc;
}

static int run_steps(struct generate *g, struct wrk_sched *s, struct err *err)
{
    struct msg_generate m = {.request = "generate",
                             .attempt = 1,
                             .n_tok = g->n_in,
                             .tok = g->in,
                             .max_output = g->max_tokens,
                             .ignore_eos = g->ignore_eos};
    m.sampling = (struct msg_sampling){.temperature = (float)g->temperature,
                                       .top_p = (float)g->top_p,
                                       .repetition_penalty = 1,
                                       .seed = (uint64_t)g->seed};
    int rc = wrk_sched_add(s, &m, clock_mono_ns(), err);
    while (rc >= 0 && wrk_sched_n(s) > 0) {
        const bool is_prefill = g->out.n == 0;
        int64_t t0 = clock_mono_ns();
        rc = wrk_sched_step(s, t0, err);
        *(is_prefill ? &g->prefill_ns : &g->decode_ns) += clock_mono_ns() - t0;
    }
    if (rc < 0)
        return rc;
    if (g->failed.code) {
        *err = g->failed;
        return err->code;
    }
    ASSERT(g->is_finished);
    utf8_stream_end(&g->utf8, &g->text);
    show(g);
    return 0;
}

static double per_second(int64_t n, int64_t ns)
{
    return ns > 0 ? (double)n * 1e9 / (double)ns : 0;
}

static void print_json(const struct generate *g)
{
    struct buf b = {0};
    const int64_t n_decode = (int64_t)g->out.n > 0 ? (int64_t)g->out.n - 1 : 0; /* the first came with the prefill */
    buf_add_str(&b, "{\"tokens\":[");
    for (size_t i = 0; i < g->out.n; i++)
        buf_addf(&b, "%s%" PRId32, i ? "," : "", g->out.id[i]);
    buf_add_str(&b, "],\"text\":");
    if (g->tok)
        json_add_str(&b, g->text.data ? g->text.data : "", g->text.len);
    else
        buf_add_str(&b, "null");
    buf_addf(&b, ",\"finish_reason\":\"%s\",\"prompt_tokens\":%" PRId64,
             g->reason == MSG_FINISH_stop ? "stop" : "length", g->n_in);
    buf_addf(&b, ",\"timings\":{\"load_ms\":%.3f,\"prefill_ms\":%.3f,\"decode_ms\":%.3f", (double)g->load_ns / 1e6,
             (double)g->prefill_ns / 1e6, (double)g->decode_ns / 1e6);
    buf_addf(&b, ",\"prefill_tps\":%.3f,\"decode_tps\":%.3f}}\n", per_second(g->n_in, g->prefill_ns),
             per_second(n_decode, g->decode_ns));
    fwrite(b.data, 1, b.len, stdout);
    buf_release(&b);
}

static int generate(struct generate *g, struct err *err)
{
    struct mdl_config cfg;
    struct eng *eng = NULL;
    struct wrk_sched *s = NULL;
    int rc = mdl_config_load(g->model, &cfg, err);
    if (!rc)
        rc = load_prompt(g, &cfg, err);
    if (rc)
        goto out;
    if (g->n_in >= cfg.max_position_embeddings) {
        rc = err_set(err, ERR_RANGE, "the prompt has %" PRId64 " tokens, the model's context is %d", g->n_in,
                     (int)cfg.max_position_embeddings);
        goto out;
    }
    int64_t context = g->n_in + g->max_tokens;
    if (context > cfg.max_position_embeddings)
        context = cfg.max_position_embeddings;
    const struct eng_opts eo = {.model_dir = g->model,
                                .backend = g->backend,
                                .n_ranks = (int)g->n_ranks,
                                .n_threads = (int)g->n_threads,
                                .n_seq_max = 1,
                                .step_tok_max = g->n_in < GENERATE_STEP_TOK ? (int)g->n_in : GENERATE_STEP_TOK,
                                .context_max = context,
                                .kv_tokens = context * g->n_ranks}; /* it lives on one of them */
    int64_t t0 = clock_mono_ns();
    if ((rc = eng_open(&eo, &eng, err)))
        goto out;
    g->load_ns = clock_mono_ns() - t0;
    const struct wrk_sched_opts so = {.eng = eng, .n_seq_max = 1, .emit = emit, .arg = g};
    if ((rc = wrk_sched_new(&so, &s, err)))
        goto out;
    rc = run_steps(g, s, err);
    if (!rc && g->json)
        print_json(g);
    else if (!rc)
        printf("\n");
    if (!rc && fflush(stdout) != 0)
        rc = err_set(err, ERR_IO, "standard output cannot be written");
out:
    wrk_sched_destroy(&s);
    eng_close(&eng);
    tok_close(&g->tok);
    tok_ids_release(&g->out);
    buf_release(&g->text);
    mem_free(g->in);
    return rc;
}

int wrk_tool_generate(int argc, char **argv)
{
    struct generate g = {.backend = "ref", .temperature = 1, .top_p = 1, .n_ranks = 1};
    struct err err = {0};
    const struct flag flag[] = {
        {.name = "model", .kind = FLAG_STR, .to = &g.model, .value = "DIR",
         .help = "checkpoint directory", .required = true},
        {.name = "prompt", .kind = FLAG_STR, .to = &g.prompt, .value = "TEXT",
         .help = "raw text; BOS is put in front"},
        {.name = "tokens", .kind = FLAG_STR, .to = &g.tokens, .value = "F.json",
         .help = "{\"tokens\": [...]} instead"},
        {.name = "max-tokens", .kind = FLAG_I64, .to = &g.max_tokens, .value = "N",
         .help = "tokens of output at most",
         .min = 1, .max = MSG_TOKENS_MAX, .required = true},
        {.name = "temperature", .kind = FLAG_F64, .to = &g.temperature, .value = "T",
         .help = "0: greedy (default 1)",
         .min = 0, .max = 1000},
        {.name = "top-p", .kind = FLAG_F64, .to = &g.top_p, .value = "P",
         .help = "nucleus, 0 to 1 (default 1)",
         .min = 0, .max = 1},
        {.name = "seed", .kind = FLAG_I64, .to = &g.seed, .value = "S", .help = "of the noise (default 0)"},
        {.name = "backend", .kind = FLAG_STR, .to = &g.backend, .value = "B",
         .help = "ref, cpu or cuda (default ref)"},
        {.name = "threads", .kind = FLAG_I64, .to = &g.n_threads, .value = "N",
         .help = "threads of back end cpu (default: all cores)", .min = 1, .max = 256},
        {.name = "ranks", .kind = FLAG_I64, .to = &g.n_ranks, .value = "N",
         .help = "ranks that share the experts (default 1)", .min = 1,
         .max = ENG_RANKS_MAX},
        {.name = "ignore-eos", .kind = FLAG_BOOL, .to = &g.ignore_eos, .help = "do not stop at the end of text"},
        {.name = "json", .kind = FLAG_BOOL, .to = &g.json, .help = "one JSON object on stdout"},
    };
    struct flags f = {.usage = "baton generate --model DIR (--prompt TEXT | --tokens F.json) --max-tokens N [flags]",
                      .about = "One generation in this process, without a controller.",
                      .flag = flag,
                      .n_flag = N_ELEM(flag)};

    int rc = flags_parse(&f, argc, argv, &err);
    if (rc == FLAGS_HELP)
        return 0;
    if (!rc && (g.prompt != NULL) == (g.tokens != NULL))
        rc = err_set(&err, ERR_ARG, "give either --prompt TEXT or --tokens F.json");
    if (rc) {
        fprintf(stderr, "baton generate: %s\n", err.text);
        return 2;
    }
    if (generate(&g, &err) == 0)
        return 0;
    fprintf(stderr, "baton generate: %s\n", err.text);
    return 1;
}
