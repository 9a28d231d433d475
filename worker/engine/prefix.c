#include "worker/engine/impl.h"

#include "common/base/check.h"

struct eng_blocks eng_seq_blocks(const struct eng *e, const struct eng_seq *seq)
{
    const struct wrk_kv *kv = &e->rank[seq->rank].kv;
    return (struct eng_blocks){kv->slot_n_block[seq->slot], wrk_kv_blocks_own(kv, seq->slot)};
}

struct eng_hit eng_rank_prefix_find(const struct eng *e, int rank, const int32_t *tok, int64_t n_tok)
{
    struct wrk_prefix_hit h = wrk_prefix_find(&e->rank[rank].kv, tok, n_tok);
    return (struct eng_hit){h.n_tok, h.n_busy};
}

struct eng_hit eng_prefix_find(const struct eng *e, const int32_t *tok, int64_t n_tok)
{
    struct eng_hit best = eng_rank_prefix_find(e, 0, tok, n_tok);
    for (int i = 1; i < e->caps.n_ranks; i++) {
        struct eng_hit h = eng_rank_prefix_find(e, i, tok, n_tok);
        if (h.n_tok > best.n_tok)
            best = h;
    }
    return best;
}

uint64_t eng_prefix_version(const struct eng *e)
{
    uint64_t sum = 0;
    for (int i = 0; i < e->caps.n_ranks; i++)
        sum += e->rank[i].kv.version; /* each only grows */
    return sum;
}

int eng_seq_restore(struct eng *e, struct eng_seq *seq, const int32_t *tok, int64_t n_tok, struct err *err)
{
    struct wrk_kv *kv = &e->rank[seq->rank].kv;

    ASSERT(seq->len == 0 && seq->reserved == 0);
    if (e->is_poisoned)
        return 0;
    int64_t n = wrk_prefix_restore(kv, seq->slot, tok, n_tok);
    if (n < 0) {
        e->is_poisoned = true;
        return err_set(err, ERR_GPU, "a saved state could not be restored: %s", err_general((int)n));
    }
    seq->len = n;
    seq->reserved = (int64_t)kv->slot_n_block[seq->slot] * KN_BLOCK_TOK;
    if (seq->reserved > e->caps.context_max)
        seq->reserved = e->caps.context_max;
    seq->is_back = n > 0;
    return 0;
}

int eng_seq_save(struct eng *e, struct eng_seq *seq, const int32_t *tok, bool is_step, struct err *err)
{
    if (e->is_poisoned || seq->len == 0 || seq->is_back)
        return 0;
    int rc = wrk_prefix_save(&e->rank[seq->rank].kv, seq->slot, tok, seq->len, is_step);
    if (rc) {
        e->is_poisoned = true;
        return err_set(err, ERR_GPU, "a state could not be saved: %s", err_general(rc));
    }
    return 0;
}

int eng_prefix_news(struct eng *e, struct prefix_news *news, int n, bool *is_all)
{
    int k = 0;

    *is_all = e->must_tell_all;
    for (int i = 0; i < e->caps.n_ranks; i++)
        *is_all |= wrk_prefix_has_lost_news(&e->rank[i].kv);
    e->must_tell_all = false;
    for (int i = 0; *is_all && i < e->caps.n_ranks; i++)
        wrk_prefix_tell_all(&e->rank[i].kv);
    for (int i = 0; i < e->caps.n_ranks && k < n; i++)
        k += wrk_prefix_take_news(&e->rank[i].kv, news + k, n - k);
    return k;
}

void eng_prefix_tell_all(struct eng *e)
{
    e->must_tell_all = true;
}
