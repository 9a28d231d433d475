#include "worker/tool/tool.h"

#include "common/base/clock.h"
#include "common/base/flags.h"
#include "common/mem/mem.h"
#include "worker/engine/engine.h"
#include "worker/model/checkpoint.h"
#include "worker/tool/ceiling.h"

#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct bench {
    const char *model, *backend;
    int64_t n_prompt, n_decode, n_batch, n_ranks, n_threads, chunk;
    bool is_json;
};

struct figures {
    double prefill_tps, decode_tps, read_gbps;
    double bytes_per_token, bytes_per_step;
    uint64_t rss_bytes, ceiling_threads;
    double ceiling_read_gbps, ceiling_fma_gflops;
    char numerics[ENG_NUMERICS_MAX];
};

/* Weight bytes that one decode step of n_batch tokens reads: all but the embedding and the experts that nobody chose.
 * How many of n_expert are chosen is the mean of a uniform choice (with one token: exactly num_experts_per_tok). */
static int step_bytes(const char *dir, int64_t n_batch, double *bytes, struct err *err)
{
    struct mdl_ckpt *ckpt = NULL;
    int rc = mdl_ckpt_open(dir, &ckpt, err);

    if (rc)
        return rc;
    const struct mdl_config *c = mdl_ckpt_config(ckpt);
    double share = (double)c->num_experts_per_tok / c->n_routed_experts;
    double used = 1 - pow(1 - share, (double)n_batch);
    *bytes = 0;
    for (size_t i = 0; i < mdl_ckpt_n_tensor(ckpt); i++) {
        const struct mdl_tensor *t = mdl_ckpt_at(ckpt, i);
        if (strncmp(t->name, "mtp.", 4) == 0 || strcmp(t->name, "embed.weight") == 0 || strstr(t->name, "tid2eid"))
            continue;
        *bytes += (double)t->n_bytes * (strstr(t->name, ".experts.") ? used : 1);
    }
    mdl_ckpt_close(&ckpt);
    return 0;
}

static uint64_t rss(void)
{
    unsigned long total, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    if (f) {
        if (fscanf(f, "%lu %lu", &total, &resident) != 2)
            resident = 0;
        fclose(f);
    }
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int32_t token_of(int64_t seq, int64_t pos, int32_t n_vocab)
{
    uint64_t z = ((uint64_t)seq << 32 | (uint64_t)pos) *
                 0x9e3779b97f4a7c15u; /* any tokens: speed does not depend on them */
    return (int32_t)((z >> 33) % (uint64_t)n_vocab);
}

/* One step of prefill: of each of the n sequences from i0 on its tokens p .. p+n_tok. */
static int prefill_step(struct eng *eng, const struct bench *b, struct eng_seq **seq, int64_t i0, int n, int64_t p,
                        int n_tok, int32_t *tok, float *logits, struct err *err)
{
    int32_t n_vocab = eng_config(eng)->vocab_size;
    struct eng_item item[ENG_RANKS_MAX];
    struct eng_plan plan = {item, n};
    bool is_last = p + n_tok == b->n_prompt;

    for (int i = 0; i < n; i++, tok += n_tok) {
        for (int k = 0; k < n_tok; k++)
            tok[k] = token_of(i0 + i, p + k, n_vocab);
        item[i] = (struct eng_item){seq[i0 + i], tok, n_tok, is_last,
                                    is_last ? logits + (i0 + i) * (int64_t)n_vocab : NULL};
        int rc = eng_seq_reserve(eng, seq[i0 + i], n_tok, err);
        if (rc)
            return rc;
    }
    return eng_step(eng, &plan, err);
}

/* n_prompt tokens into each sequence, in steps of `chunk`; as many sequences side by side as there are ranks. */
static int prefill(struct eng *eng, const struct bench *b, struct eng_seq **seq, float *logits, struct err *err)
{
    int32_t *tok = mem_array((size_t)b->chunk + ENG_RANKS_MAX, sizeof *tok);
    int rc = 0;

    for (int64_t i = 0, n; i < b->n_batch && rc == 0; i += n) {
        n = b->n_batch - i < b->n_ranks ? b->n_batch - i : b->n_ranks;
        int64_t chunk = b->chunk / n > 0 ? b->chunk / n : 1;
        for (int64_t p = 0; p < b->n_prompt && rc == 0; p += chunk) {
            int64_t left = b->n_prompt - p;
            rc = prefill_step(eng, b, seq, i, (int)n, p, (int)(left < chunk ? left : chunk), tok, logits, err);
        }
    }
    mem_free(tok);
    return rc;
}

/* n_decode steps, each of one token of every sequence, with logits. */
static int decode(struct eng *eng, const struct bench *b, struct eng_seq **seq, float *logits, struct err *err)
{
    size_t n_vocab = (size_t)eng_config(eng)->vocab_size;
    struct eng_item *item = mem_array((size_t)b->n_batch, sizeof *item);
    int32_t *tok = mem_array((size_t)b->n_batch, sizeof *tok);
    int rc = 0;

    for (int64_t s = 0; s < b->n_decode && rc == 0; s++) {
        for (int64_t i = 0; i < b->n_batch && rc == 0; i++) {
            tok[i] = token_of(i, b->n_prompt + s, (int32_t)n_vocab);
            item[i] = (struct eng_item){seq[i], &tok[i], 1, 1, logits + (size_t)i * n_vocab};
            rc = eng_seq_reserve(eng, seq[i], 1, err);
        }
        struct eng_plan plan = {item, (int)b->n_batch};
        if (rc == 0)
            rc = eng_step(eng, &plan, err);
    }
    mem_free(tok);
    mem_free(item);
    return rc;
}

static int measure(struct eng *eng, const struct bench *b, struct figures *f, struct err *err)
{
    struct eng_seq **seq = mem_array((size_t)b->n_batch, sizeof(struct eng_seq *));
    float *logits = mem_array((size_t)b->n_batch, (size_t)eng_config(eng)->vocab_size * sizeof *logits);
    int rc = 0;

    for (int64_t i = 0; i < b->n_batch; i++)
        seq[i] = NULL;
    /* Once through the weights first: they come from the disk, or their pages are not mapped yet. */
    struct bench warm = *b;
    warm.n_batch = 1;
    warm.n_prompt = b->n_prompt < 32 ? b->n_prompt : 32;
    warm.chunk = warm.n_prompt;
    if ((rc = eng_seq_open(eng, &seq[0], err)) || (rc = prefill(eng, &warm, seq, logits, err)))
        goto out;
    eng_seq_close(eng, &seq[0]);
    for (int64_t i = 0; i < b->n_batch; i++)
        if ((rc = eng_seq_open(eng, &seq[i], err)))
            goto out;
    int64_t t0 = clock_mono_ns();
    if ((rc = prefill(eng, b, seq, logits, err)))
        goto out;
    int64_t t1 = clock_mono_ns();
    if ((rc = decode(eng, b, seq, logits, err)))
        goto out;
    int64_t t2 = clock_mono_ns();
    f->prefill_tps = (double)(b->n_batch * b->n_prompt) / ((double)(t1 - t0) * 1e-9);
    f->decode_tps = (double)(b->n_batch * b->n_decode) / ((double)(t2 - t1) * 1e-9);
    f->read_gbps = f->bytes_per_step * (double)b->n_decode / (double)(t2 - t1);
    f->rss_bytes = rss();
    snprintf(f->numerics, sizeof f->numerics, "%s", eng_caps(eng)->numerics);
out:
    for (int64_t i = 0; i < b->n_batch; i++)
        eng_seq_close(eng, &seq[i]);
    mem_free(seq);
    mem_free(logits);
    return rc;
}

static int bench(const struct bench *b, struct figures *f, struct err *err)
{
    struct eng *eng = NULL;
    int64_t len = b->n_prompt + b->n_decode;
    struct eng_opts opts = {
        .model_dir = b->model,
        .backend = b->backend,
        .n_ranks = (int)b->n_ranks,
        .n_threads = (int)b->n_threads,
        .n_seq_max = (int)b->n_batch,
        .step_tok_max = (int)(b->chunk > b->n_batch ? b->chunk : b->n_batch),
        .context_max = len,
        .kv_tokens = (b->n_batch + b->n_ranks) * (len + 128),
    };
    cpu_set_t set;
    int rc;

    if ((rc = step_bytes(b->model, b->n_batch, &f->bytes_per_step, err)) || (rc = eng_open(&opts, &eng, err)))
        return rc;
    f->bytes_per_token = f->bytes_per_step / (double)b->n_batch;
    f->ceiling_threads = b->n_threads ? (uint64_t)b->n_threads
                                      : sched_getaffinity(0, sizeof set, &set) == 0 ? (uint64_t)CPU_COUNT(&set) : 1;
    f->ceiling_read_gbps = wrk_ceiling_read((int)f->ceiling_threads) * 1e-9;
    f->ceiling_fma_gflops = wrk_ceiling_fma((int)f->ceiling_threads) * 1e-9;
    rc = measure(eng, b, f, err);
    eng_close(&eng);
    return rc;
}

static void print(const struct bench *b, const struct figures *f)
{
    if (b->is_json) {
        printf("{\"backend\": \"%s\", \"numerics\": \"%s\", \"ranks\": %" PRId64 ", \"threads\": %" PRIu64
               ", \"prompt\": %" PRId64 ", \"decode\": %" PRId64 ", \"batch\": %" PRId64
               ", \"prefill_tps\": %.2f, \"decode_tps\": %.2f, \"bytes_per_token\": %.0f, \"read_gbps\": %.2f, "
               "\"rss_bytes\": %" PRIu64 ", \"ceiling_read_gbps\": %.2f, \"ceiling_fma_gflops\": %.1f}\n",
               b->backend, f->numerics, b->n_ranks, f->ceiling_threads, b->n_prompt, b->n_decode, b->n_batch,
               f->prefill_tps, f->decode_tps, f->bytes_per_token, f->read_gbps, f->rss_bytes, f->ceiling_read_gbps,
               f->ceiling_fma_gflops);
        return;
    }
    printf("back end     %s (%s), %" PRId64 " ranks, %" PRIu64 " threads\n", b->backend, f->numerics, b->n_ranks,
           f->ceiling_threads);
    printf("prefill      %.2f tokens/s (%" PRId64 " sequences of %" PRId64 ")\n", f->prefill_tps, b->n_batch,
           b->n_prompt);
    printf("decode       %.2f tokens/s (%" PRId64 " at a time, %" PRId64 " steps)\n", f->decode_tps, b->n_batch,
           b->n_decode);
    printf("weights      %.1f MB a token, %.2f GB/s\n", f->bytes_per_token * 1e-6, f->read_gbps);
    printf("memory       %.1f MB resident\n", (double)f->rss_bytes * 1e-6);
    printf("the machine  reads %.2f GB/s, %.1f GFLOP/s f32\n", f->ceiling_read_gbps, f->ceiling_fma_gflops);
}

int wrk_tool_bench(int argc, char **argv)
{
    struct bench b = {.backend = "ref", .n_prompt = 512, .n_decode = 64, .n_batch = 1, .n_ranks = 1};
    struct figures figures = {0};
    struct err err = {0};
    const struct flag flag[] = {
        {"model", FLAG_STR, &b.model, "DIR", .help = "checkpoint directory", .required = true},
        {"prompt", FLAG_I64, &b.n_prompt, "N", .help = "tokens of each prompt (default 512)", .min = 1,
         .max = 1 << 20},
        {"decode", FLAG_I64, &b.n_decode, "N", .help = "decode steps (default 64)", .min = 1, .max = 1 << 20},
        {"batch", FLAG_I64, &b.n_batch, "B", .help = "sequences (default 1)", .min = 1, .max = ENG_SEQ_MAX},
        {"chunk", FLAG_I64, &b.chunk, "N", .help = "tokens of a prefill step (default: up to 512)", .min = 1,
         .max = ENG_STEP_TOK_MAX},
        {"backend", FLAG_STR, &b.backend, "B", .help = "ref, cpu or cuda (default ref)"},
        {"ranks", FLAG_I64, &b.n_ranks, "N", .help = "ranks that share the experts (default 1)", .min = 1,
         .max = ENG_RANKS_MAX},
        {"threads", FLAG_I64, &b.n_threads, "N", .help = "threads of back end cpu (default: all cores)", .min = 1,
         .max = 256},
        {.name = "json", .kind = FLAG_BOOL, .to = &b.is_json, .help = "one JSON object on stdout"},
    };
    struct flags f = {.usage = "baton bench engine --model DIR [flags]",
                      .about = "Speed of the engine alone, beside what this machine reads and computes at best.",
                      .flag = flag, .n_flag = sizeof flag / sizeof flag[0]};

    int rc = flags_parse(&f, argc, argv, &err);
    if (rc == FLAGS_HELP)
        return 0;
    if (rc) {
        fprintf(stderr, "baton bench engine: %s\n", err.text);
        return 2;
    }
    if (b.chunk == 0)
        b.chunk = b.n_prompt < 512 ? b.n_prompt : 512;
    if (bench(&b, &figures, &err)) {
        fprintf(stderr, "baton bench engine: %s\n", err.text);
        return 1;
    }
    print(&b, &figures);
    return 0;
}
