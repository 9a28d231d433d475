#include "tests/unit/worker/sched/fake_eng.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "worker/sample/sample.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { BLOCK = 128 };

struct fake_knobs fake = {.fail_after = -1, .nan_after = -1};

struct eng {
    struct eng_caps caps;
    struct mdl_config cfg;
    int64_t n_block_free[ENG_RANKS_MAX]; /* of each rank */
    int n_slot_free[ENG_RANKS_MAX];
    uint64_t step; /* stamps sequences: at most once a plan */
};

struct eng_seq {
    uint64_t hash, step;
    int64_t len, n_block;
    int rank;
};

int eng_open(const struct eng_opts *opts, struct eng **eng, struct err *err)
{
    (void)err;
    struct eng *e = mem_zalloc(sizeof *e);
    int n = opts->n_ranks ? opts->n_ranks : 1, n_seq = (opts->n_seq_max + n - 1) / n;
    int64_t n_block = ((opts->kv_tokens + BLOCK - 1) / BLOCK + n - 1) / n;
    e->caps = (struct eng_caps){.n_ranks = n,
                                .n_seq_max = n_seq * n,
                                .rank_seq_max = n_seq,
                                .step_tok_max = opts->step_tok_max,
                                .context_max = opts->context_max,
                                .kv_blocks = n_block * n,
                                .rank_kv_blocks = n_block,
                                .fingerprint = 0xfa4e};
    snprintf(e->caps.numerics, sizeof e->caps.numerics, "fake/hash/1");
    e->cfg.vocab_size = FAKE_VOCAB;
    e->cfg.eos_token_id = FAKE_EOS;
    for (int i = 0; i < n; i++) {
        e->n_block_free[i] = n_block;
        e->n_slot_free[i] = n_seq;
    }
    *eng = e;
    return 0;
}

void eng_close(struct eng **eng)
{
    for (int i = 0; *eng && i < (*eng)->caps.n_ranks; i++) {
        ASSERT((*eng)->n_slot_free[i] == (*eng)->caps.rank_seq_max);
        ASSERT((*eng)->n_block_free[i] == (*eng)->caps.rank_kv_blocks);
    }
    mem_free(*eng);
    *eng = NULL;
}

const struct mdl_config *eng_config(const struct eng *eng)
{
    return &eng->cfg;
}

const struct eng_caps *eng_caps(const struct eng *eng)
{
    return &eng->caps;
}

int64_t eng_kv_blocks_free(const struct eng *eng)
{
    int64_t n = 0;
    for (int i = 0; i < eng->caps.n_ranks; i++)
        n += eng->n_block_free[i];
    return n;
}

int64_t eng_rank_blocks_free(const struct eng *eng, int rank)
{
    return eng->n_block_free[rank];
}

bool eng_is_rank_lost(const struct eng *eng)
{
    (void)eng;
    return atomic_load(&fake.is_rank_lost);
}

int eng_seq_rank(const struct eng_seq *seq)
{
    return seq->rank;
}

int eng_seq_open(struct eng *eng, struct eng_seq **seq, struct err *err)
{
    return eng_seq_open_on(eng, 0, seq, err);
}

int eng_seq_open_on(struct eng *eng, int rank, struct eng_seq **seq, struct err *err)
{
    ASSERT(rank >= 0 && rank < eng->caps.n_ranks);
    if (eng->n_slot_free[rank] == 0)
        return err_set(err, ERR_LIMIT, "no slot");
    eng->n_slot_free[rank]--;
    atomic_fetch_add(&fake.n_open, 1);
    *seq = mem_zalloc(sizeof **seq);
    (*seq)->hash = 0x9e3779b97f4a7c15u;
    (*seq)->rank = rank;
    return 0;
}

void eng_seq_close(struct eng *eng, struct eng_seq **seq)
{
    eng->n_slot_free[(*seq)->rank]++;
    eng->n_block_free[(*seq)->rank] += (*seq)->n_block;
    atomic_fetch_sub(&fake.n_open, 1);
    mem_free(*seq);
    *seq = NULL;
}

int64_t eng_seq_len(const struct eng_seq *seq)
{
    return seq->len;
}

int eng_seq_reserve(struct eng *eng, struct eng_seq *seq, int64_t n_tok, struct err *err)
{
    if (seq->len + n_tok > eng->caps.context_max)
        return err_set(err, ERR_LIMIT, "the context is too small");
    int64_t need = (seq->len + n_tok + BLOCK - 1) / BLOCK - seq->n_block;
    if (need > eng->n_block_free[seq->rank])
        return err_set(err, ERR_LIMIT, "the pool is too small");
    if (need > 0) {
        seq->n_block += need;
        eng->n_block_free[seq->rank] -= need;
    }
    return 0;
}

/* The fake has no prefix cache: the real one is tested in test_schedules.c. */

struct eng_blocks eng_seq_blocks(const struct eng *eng, const struct eng_seq *seq)
{
    (void)eng;
    return (struct eng_blocks){seq->n_block, seq->n_block};
}

struct eng_hit eng_rank_prefix_find(const struct eng *eng, int rank, const int32_t *tok, int64_t n_tok)
{
    (void)eng, (void)rank, (void)tok, (void)n_tok;
    return (struct eng_hit){0};
}

uint64_t eng_prefix_version(const struct eng *eng)
{
    (void)eng;
    return 0;
}

int eng_seq_restore(struct eng *eng, struct eng_seq *seq, const int32_t *tok, int64_t n_tok, struct err *err)
{
    (void)eng, (void)tok, (void)n_tok, (void)err;
    ASSERT(seq->len == 0 && seq->n_block == 0);
    return 0;
}

int eng_seq_save(struct eng *eng, struct eng_seq *seq, const int32_t *tok, bool is_step, struct err *err)
{
    (void)eng, (void)seq, (void)tok, (void)is_step, (void)err;
    return 0;
}

int eng_prefix_news(struct eng *eng, struct prefix_news *news, int n, bool *is_all)
{
    (void)eng, (void)news, (void)n;
    *is_all = false;
    return 0;
}

void eng_prefix_tell_all(struct eng *eng)
{
    (void)eng;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0xff51afd7ed558ccdu;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53u;
    return h ^ h >> 29;
}

static void fill_logits(uint64_t hash, float *logits)
{
    for (int32_t id = 0; id < FAKE_VOCAB; id++)
        logits[id] = (float)(mix(hash, (uint64_t)id) >> 40) * 0x1p-24f * 6;
    logits[FAKE_EOS] -= 1.5f; /* outputs of some tens of tokens */
}

int eng_step(struct eng *eng, const struct eng_plan *plan, struct err *err)
{
    int n_row = 0, n_done = atomic_fetch_add(&fake.n_step, 1), ms = atomic_load(&fake.step_ms);
    if (ms > 0)
        nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
    if (atomic_load(&fake.fail_after) >= 0 && n_done >= atomic_load(&fake.fail_after))
        return err_set(err, ERR_GPU, "the fake device fell off the bus");
    eng->step++;
    for (int i = 0; i < plan->n_item; i++) {
        const struct eng_item *it = &plan->item[i];
        ASSERT(it->seq->step != eng->step);
        it->seq->step = eng->step;
        ASSERT(it->n_tok >= 1 && it->n_logit >= 0 && it->n_logit <= 1 && (it->logits != NULL) == (it->n_logit > 0));
        for (int t = 0; t < it->n_tok; t++) {
            ASSERT(it->tok[t] >= 0 && it->tok[t] < FAKE_VOCAB);
            it->seq->hash = mix(it->seq->hash, (uint64_t)it->tok[t] + 1);
        }
        it->seq->len += it->n_tok;
        ASSERT(it->seq->len <= it->seq->n_block * BLOCK && it->seq->len <= eng->caps.context_max);
        n_row += it->n_tok;
        if (!it->n_logit)
            continue;
        fill_logits(it->seq->hash, it->logits);
        if (atomic_load(&fake.nan_after) >= 0 && n_done >= atomic_load(&fake.nan_after))
            it->logits[3] = NAN;
    }
    ASSERT(n_row <= eng->caps.step_tok_max);
    return 0;
}

int fake_expect(const struct msg_generate *g, int64_t context_max, int32_t out[FAKE_OUT_MAX], enum msg_finish *finish)
{
    int64_t n_prompt = g->n_tok - g->n_committed, n_tok = g->n_tok, max = g->max_output;
    int32_t *tok = mem_array((size_t)context_max + 1, sizeof *tok);
    void *scratch = mem_alloc(wrk_sample_scratch_bytes(FAKE_VOCAB));
    float logits[FAKE_VOCAB];
    if (max > context_max - n_prompt)
        max = context_max - n_prompt;
    memcpy(tok, g->tok, (size_t)n_tok * sizeof *tok);
    *finish = MSG_FINISH_length;
    while (n_tok - n_prompt < max) {
        uint64_t hash = 0x9e3779b97f4a7c15u;
        bool is_stop = false;
        for (int64_t i = 0; i < n_tok; i++)
            hash = mix(hash, (uint64_t)tok[i] + 1);
        fill_logits(hash, logits);
        if (n_tok - n_prompt < g->min_output) {
            logits[FAKE_EOS] = g->ignore_eos ? logits[FAKE_EOS] : -INFINITY;
            for (int32_t i = 0; i < g->n_stop_id; i++)
                logits[g->stop_id[i]] = -INFINITY;
        }
        struct wrk_sample_in in = {.logits = logits,
                                   .n_vocab = FAKE_VOCAB,
                                   .how = &g->sampling,
                                   .tok = tok,
                                   .n_tok = n_tok,
                                   .n_prompt = n_prompt};
        struct msg_token t;
        struct err err;
        int rc = wrk_sample(&in, scratch, &t, &err);
        ASSERT(rc == 0);
        is_stop = t.id == FAKE_EOS && !g->ignore_eos;
        for (int32_t i = 0; i < g->n_stop_id; i++)
            is_stop |= g->stop_id[i] == t.id;
        if (is_stop) {
            *finish = MSG_FINISH_stop;
            break;
        }
        tok[n_tok++] = t.id;
    }
    int n = (int)(n_tok - n_prompt);
    ASSERT(n <= FAKE_OUT_MAX);
    memcpy(out, tok + n_prompt, (size_t)n * sizeof *out);
    mem_free(scratch);
    mem_free(tok);
    return n;
}
