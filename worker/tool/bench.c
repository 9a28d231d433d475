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
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { REPEAT_MAX = 99 };

struct bench {
    const char *model, *backend;
    int64_t n_prompt, n_decode, n_batch, n_ranks, n_threads, chunk, n_repeat;
    bool is_json;
};

/* A figure of every repeat. */
struct series {
    double v[REPEAT_MAX];
    int n;
};

struct figures {
    struct series prefill_tps, decode_tps, read, fma; /* read, fma: the machine's ceilings, GB/s and GFLOP/s */
    double bytes_per_step;                            /* weights that a decode step reads */
    double decode_flop, prefill_flop;                 /* operations of a token in matrices; prefill: without the head */
    double open_s, first_s;                           /* engine open; and the first token of a prompt of up to 32 */
    uint64_t rss_bytes, weight_bytes, kv_bytes, n_threads;
    char numerics[ENG_NUMERICS_MAX];
};

static void add(struct series *s, double v)
{
    s->v[s->n++] = v;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts; the middle one. */
static double median(struct series *s)
{
    qsort(s->v, (size_t)s->n, sizeof s->v[0], by_value);
    return s->v[s->n / 2];
}

/* Is it a matrix that multiplies activations (not a table, not a scale)? FP4 lies two to an I8. */
static double weights_of(const struct mdl_tensor *t)
{
    size_t len = strlen(t->name);

    if (t->n_dim != 2 || t->dtype == MDL_F8_E8M0 || strstr(t->name, ".ape") ||
        (len > 6 && strcmp(t->name + len - 6, ".scale") == 0))
        return 0;
    return (double)t->n_bytes / (double)mdl_dtype_bytes(t->dtype) * (t->dtype == MDL_I8 ? 2 : 1);
}

/* From the shapes: weight bytes that one decode step of n_batch tokens reads, which is all but the embedding and the
 * experts that nobody chose (how many are chosen is the mean of a uniform choice; with one token exactly
 * num_experts_per_tok), and operations of a token. Attention's own are not counted. */
static int count(const char *dir, int64_t n_batch, struct figures *f, struct err *err)
{
    struct mdl_ckpt *ckpt = NULL;
    int rc = mdl_ckpt_open(dir, &ckpt, err);

    if (rc)
        return rc;
    const struct mdl_config *c = mdl_ckpt_config(ckpt);
    double share = (double)c->num_experts_per_tok / c->n_routed_experts;
    double used = 1 - pow(1 - share, (double)n_batch);
    for (size_t i = 0; i < mdl_ckpt_n_tensor(ckpt); i++) {
        const struct mdl_tensor *t = mdl_ckpt_at(ckpt, i);
        bool is_expert = strstr(t->name, ".experts.") != NULL;
        double flop = 2 * weights_of(t) * (is_expert ? share : 1);
        if (strncmp(t->name, "mtp.", 4) == 0 || strcmp(t->name, "embed.weight") == 0 || strstr(t->name, "tid2eid"))
            continue;
        f->bytes_per_step += (double)t->n_bytes * (is_expert ? used : 1);
        f->decode_flop += flop;
        f->prefill_flop += strcmp(t->name, "head.weight") == 0 ? 0 : flop;
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

static int open_all(struct eng *eng, const struct bench *b, struct eng_seq **seq, struct err *err)
{
    int rc = 0;
    for (int64_t i = 0; i < b->n_batch && rc == 0; i++)
        rc = eng_seq_open(eng, &seq[i], err);
    return rc;
}

static void close_all(struct eng *eng, const struct bench *b, struct eng_seq **seq)
{
    for (int64_t i = 0; i < b->n_batch; i++)
        eng_seq_close(eng, &seq[i]);
}

/* One repeat: ceilings, prefill, decode. */
static int once(struct eng *eng, const struct bench *b, struct eng_seq **seq, float *logits, struct figures *f,
                struct err *err)
{
    int rc;

    add(&f->read, wrk_ceiling_read((int)f->n_threads) * 1e-9);
    add(&f->fma, wrk_ceiling_fma((int)f->n_threads) * 1e-9);
    if ((rc = open_all(eng, b, seq, err)))
        return rc;
    int64_t t0 = clock_mono_ns();
    if ((rc = prefill(eng, b, seq, logits, err)))
        return rc;
    int64_t t1 = clock_mono_ns();
    if ((rc = decode(eng, b, seq, logits, err)))
        return rc;
    int64_t t2 = clock_mono_ns();
    add(&f->prefill_tps, (double)(b->n_batch * b->n_prompt) / ((double)(t1 - t0) * 1e-9));
    add(&f->decode_tps, (double)(b->n_batch * b->n_decode) / ((double)(t2 - t1) * 1e-9));
    close_all(eng, b, seq);
    return 0;
}

static int measure(struct eng *eng, const struct bench *b, struct figures *f, int64_t t_start, struct err *err)
{
    struct eng_seq **seq = mem_zalloc((size_t)b->n_batch * sizeof(struct eng_seq *));
    float *logits = mem_array((size_t)b->n_batch, (size_t)eng_config(eng)->vocab_size * sizeof *logits);
    struct bench first = *b, warm = *b;
    int rc;

    /* A short prompt: how long until the first token. Then all once: pages of the weights that nobody read yet. */
    first.n_batch = 1;
    first.n_prompt = first.chunk = b->n_prompt < 32 ? b->n_prompt : 32;
    if ((rc = open_all(eng, &first, seq, err)) || (rc = prefill(eng, &first, seq, logits, err)))
        goto out;
    f->first_s = (double)(clock_mono_ns() - t_start) * 1e-9;
    close_all(eng, &first, seq);
    warm.n_decode = 1;
    if ((rc = open_all(eng, b, seq, err)) || (rc = prefill(eng, &warm, seq, logits, err)) ||
        (rc = decode(eng, &warm, seq, logits, err)))
        goto out;
    close_all(eng, b, seq);
    for (int64_t i = 0; i < b->n_repeat && rc == 0; i++)
        rc = once(eng, b, seq, logits, f, err);
    f->rss_bytes = rss();
    f->weight_bytes = eng_caps(eng)->weight_bytes;
    f->kv_bytes = eng_caps(eng)->kv_bytes + eng_caps(eng)->state_bytes;
    snprintf(f->numerics, sizeof f->numerics, "%s", eng_caps(eng)->numerics);
out:
    close_all(eng, b, seq);
    mem_free(seq);
    mem_free(logits);
    return rc;
}

static int bench(const struct bench *b, struct figures *f, struct err *err)
{
    struct eng *eng = NULL;
    int64_t len = b->n_prompt + b->n_decode + 1, t_start = clock_mono_ns();
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
    int rc = eng_open(&opts, &eng, err);

    if (rc)
        return rc;
    f->open_s = (double)(clock_mono_ns() - t_start) * 1e-9;
    f->n_threads = b->n_threads ? (uint64_t)b->n_threads
                                : sched_getaffinity(0, sizeof set, &set) == 0 ? (uint64_t)CPU_COUNT(&set) : 1;
    if ((rc = measure(eng, b, f, t_start, err)) == 0)
        rc = count(b->model, b->n_batch, f, err);
    eng_close(&eng);
    return rc;
}

static void print_json(const struct bench *b, struct figures *f)
{
    double prefill = median(&f->prefill_tps), decode = median(&f->decode_tps);

    printf("{\"backend\": \"%s\", \"numerics\": \"%s\", \"ranks\": %" PRId64 ", \"threads\": %" PRIu64
           ", \"prompt\": %" PRId64
           ", \"decode\": %" PRId64 ", \"batch\": %" PRId64 ", \"repeat\": %" PRId64,
           b->backend, f->numerics, b->n_ranks, f->n_threads, b->n_prompt, b->n_decode, b->n_batch, b->n_repeat);
    printf(", \"prefill_tps\": %.2f, \"decode_tps\": %.2f, \"bytes_per_token\": %.0f, \"read_gbps\": %.2f, "
           "\"rss_bytes\": %" PRIu64,
           prefill, decode, f->bytes_per_step / (double)b->n_batch,
           f->bytes_per_step * decode / (double)b->n_batch * 1e-9, f->rss_bytes);
    printf(", \"prefill_tps_range\": [%.2f, %.2f], \"decode_tps_range\": [%.2f, %.2f]", f->prefill_tps.v[0],
           f->prefill_tps.v[f->prefill_tps.n - 1], f->decode_tps.v[0], f->decode_tps.v[f->decode_tps.n - 1]);
    printf(", \"prefill_gflops\": %.1f, \"decode_gflops\": %.1f, \"ceiling_read_gbps\": %.2f, "
           "\"ceiling_fma_gflops\": %.1f",
           f->prefill_flop * prefill * 1e-9, f->decode_flop * decode * 1e-9, median(&f->read), median(&f->fma));
    printf(", \"open_s\": %.3f, \"first_token_s\": %.3f, \"weight_bytes\": %" PRIu64 ", \"kv_bytes\": %" PRIu64 "}\n",
           f->open_s, f->first_s, f->weight_bytes, f->kv_bytes);
}

static void print_text(const struct bench *b, struct figures *f)
{
    double prefill = median(&f->prefill_tps), decode = median(&f->decode_tps), read = median(&f->read),
           fma = median(&f->fma), gbps = f->bytes_per_step * decode / (double)b->n_batch * 1e-9;

    printf("back end     %s (%s), %" PRId64 " ranks, %" PRIu64 " threads, median of %" PRId64 "\n", b->backend,
           f->numerics, b->n_ranks, f->n_threads, b->n_repeat);
    printf("the machine  reads %.2f GB/s, %.1f GFLOP/s f32 (FMA in registers)\n", read, fma);
    printf("prefill      %.2f tokens/s (%.2f .. %.2f; %" PRId64 " sequences of %" PRId64
           "), %.1f GFLOP/s in matrices, %.0f %%\n",
           prefill, f->prefill_tps.v[0], f->prefill_tps.v[f->prefill_tps.n - 1], b->n_batch, b->n_prompt,
           f->prefill_flop * prefill * 1e-9, 100 * f->prefill_flop * prefill * 1e-9 / fma);
    printf("decode       %.2f tokens/s (%.2f .. %.2f; %" PRId64 " at a time, %" PRId64
           " steps), %.2f GB/s of weights, %.0f %%, %.1f GFLOP/s, %.0f %%\n",
           decode, f->decode_tps.v[0], f->decode_tps.v[f->decode_tps.n - 1], b->n_batch, b->n_decode, gbps,
           100 * gbps / read, f->decode_flop * decode * 1e-9, 100 * f->decode_flop * decode * 1e-9 / fma);
    printf("weights      %.1f MB a token, %.1f MB a step\n", f->bytes_per_step / (double)b->n_batch * 1e-6,
           f->bytes_per_step * 1e-6);
    printf("start        open %.3f s, first token after %.3f s\n", f->open_s, f->first_s);
    printf("memory       %.1f MB resident, of it %.1f MB mapped weights, %.1f MB KV and state\n",
           (double)f->rss_bytes * 1e-6, (double)f->weight_bytes * 1e-6, (double)f->kv_bytes * 1e-6);
}

int wrk_tool_bench(int argc, char **argv)
{
    struct bench b = {.backend = "ref", .n_prompt = 512, .n_decode = 64, .n_batch = 1, .n_ranks = 1,
                      .n_repeat = 5};
    static struct figures figures;
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
        {"repeat", FLAG_I64, &b.n_repeat, "N", .help = "times that all is measured (default 5): medians are given",
         .min = 1, .max = REPEAT_MAX},
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
    if (b.is_json)
        print_json(&b, &figures);
    else
        print_text(&b, &figures);
    return 0;
}
