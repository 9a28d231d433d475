#include "worker/engine/ep/threads.h"
#include "worker/engine/impl.h"

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/mem/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { ENG__KV_TOK_DEFAULT = 4096 }; /* tokens of cache per sequence if the caller does not say */

/* ---- open and close ---- */

/* The back end of the options, complete; ERR_UNSUPPORTED names what is missing. */
static int choose_backend(struct eng *e, const struct eng_opts *o, struct err *err)
{
    const struct kn_backend *b = kn_backend_find(o->backend);

    if (!b)
        return err_set(err, ERR_UNSUPPORTED, "back end %s is not built into this program; built in: %s", o->backend,
                       kn_backend_names());
    enum kn_op missing = kn_ops_missing(b->ops);
    if (missing != KN_OP_N)
        return err_set(err, ERR_UNSUPPORTED, "back end %s lacks the op %s and cannot run this model", b->name,
                       kn_op_name(missing));
    e->backend = b;
    return 0;
}

/* Ranks share the experts; whoever has none would only wait. */
static int check_ranks(const struct eng *e, const struct eng_opts *o, struct err *err)
{
    if (o->n_ranks < 1 || o->n_ranks > ENG_RANKS_MAX)
        return err_set(err, ERR_RANGE, "%d ranks were asked for, 1 to %d are possible", o->n_ranks, ENG_RANKS_MAX);
    if (o->n_ranks > e->cfg->n_routed_experts)
        return err_set(err, ERR_RANGE, "%d ranks were asked for, but the model has only %d experts to share",
                       o->n_ranks, e->cfg->n_routed_experts);
    return 0;
}

/* KV blocks of one rank. A sequence lives on one rank, so without a wish each has room for at least one. */
static int rank_blocks(const struct eng_opts *o, int64_t context, int64_t *n_block, struct err *err)
{
    int64_t usual = context < ENG__KV_TOK_DEFAULT ? context : ENG__KV_TOK_DEFAULT, kv_tokens = o->kv_tokens;

    if (kv_tokens == 0)
        kv_tokens = usual * (o->n_seq_max > o->n_ranks ? o->n_seq_max : o->n_ranks);
    if (kv_tokens < 1 || kv_tokens > (int64_t)INT32_MAX * KN_BLOCK_TOK)
        return err_set(err, ERR_RANGE, "a cache of %" PRId64 " tokens was asked for, 1 to %" PRId64 " is possible",
                       kv_tokens, (int64_t)INT32_MAX * KN_BLOCK_TOK);
    *n_block = (wrk_kv_blocks_of(kv_tokens) + o->n_ranks - 1) / o->n_ranks;
    return 0;
}

/* Limits of the options against those of the model -> caps. */
static int set_caps(struct eng *e, const struct eng_opts *o, struct err *err)
{
    const struct mdl_config *c = e->cfg;
    int64_t context = o->context_max ? o->context_max : c->max_position_embeddings, n_block = 0;
    int rc;

    if (context < 1 || context > c->max_position_embeddings)
        return err_set(err, ERR_RANGE, "a context of %" PRId64 " tokens was asked for, the model allows 1 to %d",
                       context, c->max_position_embeddings);
    if ((rc = check_ranks(e, o, err)) || (rc = rank_blocks(o, context, &n_block, err)))
        return rc;
    for (int i = 0; i < c->num_hidden_layers; i++)
        if (c->layer_kind[i] == MDL_CSA && c->index_head_dim < KN_INDEX_GROUP)
            return err_set(err, ERR_UNSUPPORTED, "index_head_dim is %d, the engine needs at least %d",
                           c->index_head_dim, KN_INDEX_GROUP);
    if (c->hc_mult > KN_HC_MAX || c->num_experts_per_tok > KN_TOPK_EXPERT_MAX)
        return err_set(err, ERR_UNSUPPORTED, "hc_mult %d or num_experts_per_tok %d is above the engine's %d and %d",
                       c->hc_mult, c->num_experts_per_tok, KN_HC_MAX, KN_TOPK_EXPERT_MAX);
    e->caps = (struct eng_caps){
        .n_ranks = o->n_ranks,
        .n_seq_max = (o->n_seq_max + o->n_ranks - 1) / o->n_ranks * o->n_ranks,
        .step_tok_max = o->step_tok_max,
        .context_max = context,
        .kv_blocks = n_block * o->n_ranks,
        .rank_kv_blocks = n_block,
        .rank_seq_max = (o->n_seq_max + o->n_ranks - 1) / o->n_ranks,
        .fingerprint = mdl_ckpt_fingerprint(e->ckpt),
        .weight_bytes = mdl_ckpt_bytes(e->ckpt),
    };
    snprintf(e->caps.numerics, sizeof e->caps.numerics, "%s", e->backend->numerics);
    return 0;
}

/* Block tables, caches, buffers: all the memory that a rank's steps work in. */
static int take_memory(struct eng__rank *r, int n_saved, struct err *err)
{
    struct eng_caps *caps = &r->eng->caps;
    int64_t stride = wrk_kv_blocks_of(caps->context_max);
    int32_t n_block = (int32_t)caps->rank_kv_blocks, n_slot = caps->rank_seq_max;
    int rc;

    if (stride > n_block)
        stride = n_block;
    if ((rc = wrk_kv_init(&r->kv, r->backend, &r->ctx, r->cfg, n_slot, n_block, (int32_t)stride, err)) ||
        (rc = wrk_prefix_init(&r->kv, n_saved, err)) || (rc = eng__buffers_init(r, err)))
        return rc;
    caps->saved_bytes += wrk_prefix_stats(&r->kv)->saved_bytes;
    caps->block_bytes = r->kv.block_bytes;
    caps->slot_bytes = r->kv.slot_bytes;
    caps->kv_bytes += r->kv.pool_bytes + r->kv.table_bytes;
    caps->state_bytes += r->kv.state_bytes;
    caps->workspace_bytes += r->workspace_bytes;
    r->input = mem_array(4 * (size_t)caps->step_tok_max + 4 * (size_t)n_slot, sizeof *r->input);
    r->item = mem_array((size_t)n_slot, sizeof *r->item);
    r->seq = mem_array((size_t)n_slot, sizeof *r->seq);
    for (int32_t i = 0; i < n_slot; i++)
        r->seq[i] = (struct eng_seq){.slot = -1, .rank = r->number};
    return 0;
}

static int open_rank(struct eng *e, int number, const struct eng_opts *o, struct err *err)
{
    struct eng__rank *r = &e->rank[number];
    int n = e->caps.n_ranks, rc;

    *r = (struct eng__rank){.eng = e, .number = number, .backend = e->backend, .ops = e->backend->ops, .cfg = e->cfg,
                            .ctx = {.rank = number, .n_ranks = n, .n_threads = o->n_threads}};
    r->expert_first = eng_ep_first(e->cfg->n_routed_experts, n, number);
    r->n_expert = eng_ep_first(e->cfg->n_routed_experts, n, number + 1) - r->expert_first;
    if ((rc = e->backend->device->open(&r->ctx, err)))
        return rc;
    r->is_device_open = true;
    if ((rc = eng__weights_bind(r, &e->host, err)))
        return rc;
    return take_memory(r, (o->n_saved + n - 1) / n, err);
}

static int open_ranks(struct eng *e, const struct eng_opts *o, struct err *err)
{
    int rc = 0;

    e->rank = mem_array((size_t)o->n_ranks, sizeof *e->rank);
    for (int i = 0; i < o->n_ranks && rc == 0; i++)
        rc = open_rank(e, i, o, err);
    if (rc == 0 && o->n_ranks > 1) {
        e->ep = o->ep ? o->ep : &eng_ep_threads;
        e->rank_deadline_ms = o->rank_deadline_ms ? o->rank_deadline_ms : ENG_RANK_DEADLINE_MS;
        struct eng_ep_opts eo = {o->n_ranks, e->cfg->n_routed_experts, e->rank_deadline_ms};
        if ((rc = e->ep->open(&eo, e->end, err)) == 0)
            rc = eng__group_start(e, err);
    }
    if (rc)
        return rc;
    log_info(engine,
             "opened: backend=%s numerics=%s ranks=%d weight_mib=%" PRIu64 " kv_mib=%" PRIu64 " kv_blocks=%" PRId64
             " state_mib=%" PRIu64 " sequences=%d workspace_mib=%" PRIu64 " step_tokens=%d context=%" PRId64
             " saved_mib=%" PRIu64 " saved=%d block_bytes=%" PRIu64 " slot_bytes=%" PRIu64,
             e->backend->name, e->caps.numerics, e->caps.n_ranks, e->caps.weight_bytes >> 20, e->caps.kv_bytes >> 20,
             e->caps.kv_blocks, e->caps.state_bytes >> 20, e->caps.n_seq_max, e->caps.workspace_bytes >> 20,
             e->caps.step_tok_max, e->caps.context_max, e->caps.saved_bytes >> 20, o->n_saved, e->caps.block_bytes,
             e->caps.slot_bytes);
    return 0;
}

int eng_open(const struct eng_opts *o, struct eng **out, struct err *err)
{
    struct eng *e;
    int rc;

    if (o->n_seq_max < 1 || o->n_seq_max > ENG_SEQ_MAX)
        return err_set(err, ERR_RANGE, "%d sequences were asked for, 1 to %d are possible", o->n_seq_max, ENG_SEQ_MAX);
    if (o->step_tok_max < 1 || o->step_tok_max > ENG_STEP_TOK_MAX)
        return err_set(err, ERR_RANGE, "steps of %d tokens were asked for, 1 to %d are possible", o->step_tok_max,
                       ENG_STEP_TOK_MAX);
    if (o->n_saved < 0 || o->n_saved > ENG_SAVED_MAX)
        return err_set(err, ERR_RANGE, "%d saved states were asked for, 0 to %d are possible", o->n_saved,
                       ENG_SAVED_MAX);
    e = mem_zalloc(sizeof *e);
    if ((rc = choose_backend(e, o, err)) || (rc = mdl_ckpt_open(o->model_dir, &e->ckpt, err)))
        goto out;
    e->cfg = mdl_ckpt_config(e->ckpt);
    if ((rc = set_caps(e, o, err)) || (rc = mdl_weights_bind(e->ckpt, &e->host, err)) ||
        (rc = open_ranks(e, o, err)))
        goto out;
    *out = e;
    return 0;
out:
    eng_close(&e);
    return rc;
}

static void close_rank(struct eng__rank *r)
{
    for (int i = 0; r->seq && i < r->kv.n_slot; i++)
        ASSERT(r->seq[i].slot < 0 || r->eng->is_stuck);
    wrk_kv_release(&r->kv);
    if (r->is_device_open) {
        r->backend->device->release(&r->ctx, r->buf.mem);
        eng__weights_release(r);
        r->backend->device->close(&r->ctx);
    }
    mem_free(r->seq);
    mem_free(r->item);
    mem_free(r->input);
}

void eng_close(struct eng **eng)
{
    struct eng *e = *eng;

    *eng = NULL;
    if (!e)
        return;
    if (!eng__group_stop(e)) {
        log_error(engine, "a rank does not come back: its memory is left to the end of the process");
        return;
    }
    if (e->ep)
        e->ep->close(e->end);
    for (int i = 0; e->rank && i < e->caps.n_ranks; i++)
        close_rank(&e->rank[i]);
    mem_free(e->rank);
    mdl_weights_release(&e->host);
    mdl_ckpt_close(&e->ckpt);
    mem_free(e);
}

const struct mdl_config *eng_config(const struct eng *e)
{
    return e->cfg;
}

const struct eng_caps *eng_caps(const struct eng *e)
{
    return &e->caps;
}

int64_t eng_kv_blocks_free(const struct eng *e)
{
    int64_t n = 0;

    for (int i = 0; i < e->caps.n_ranks; i++)
        n += eng_rank_blocks_free(e, i);
    return n;
}

int64_t eng_rank_blocks_free(const struct eng *e, int rank)
{
    return wrk_kv_blocks_left(&e->rank[rank].kv);
}

/* ---- sequences ---- */

/* The rank with the most free blocks among those with a slot; equal ones by fewer sequences, then by number. */
static int choose_rank(const struct eng *e)
{
    int best = -1;

    for (int i = 0; i < e->caps.n_ranks; i++) {
        const struct eng__rank *r = &e->rank[i], *b = best < 0 ? NULL : &e->rank[best];
        if (r->n_seq_open == e->caps.rank_seq_max)
            continue;
        if (!b || r->kv.n_free_block > b->kv.n_free_block ||
            (r->kv.n_free_block == b->kv.n_free_block && r->n_seq_open < b->n_seq_open))
            best = i;
    }
    return best;
}

int eng_seq_open(struct eng *e, struct eng_seq **seq, struct err *err)
{
    int rank = choose_rank(e);
    return eng_seq_open_on(e, rank < 0 ? 0 : rank, seq, err);
}

int eng_seq_open_on(struct eng *e, int rank, struct eng_seq **seq, struct err *err)
{
    ASSERT(rank >= 0 && rank < e->caps.n_ranks);
    int32_t slot = wrk_kv_slot_take(&e->rank[rank].kv);
    if (slot < 0)
        return err_set(err, ERR_LIMIT, "all %d sequences of %s are in use", e->caps.rank_seq_max,
                       e->caps.n_ranks > 1 ? "the rank" : "the engine");
    struct eng__rank *r = &e->rank[rank];
    r->seq[slot] = (struct eng_seq){.slot = slot, .rank = rank};
    r->n_seq_open++;
    *seq = &r->seq[slot];
    return 0;
}

void eng_seq_close(struct eng *e, struct eng_seq **seq)
{
    if (!*seq)
        return;
    if (e->is_stuck) { /* a rank may still be at it */
        *seq = NULL;
        return;
    }
    struct eng__rank *r = &e->rank[(*seq)->rank];
    wrk_kv_slot_give(&r->kv, (*seq)->slot);
    r->n_seq_open--;
    (*seq)->slot = -1;
    *seq = NULL;
}

int eng_seq_rank(const struct eng_seq *seq)
{
    return seq->rank;
}

int64_t eng_seq_len(const struct eng_seq *seq)
{
    return seq->len;
}

int eng_seq_reserve(struct eng *e, struct eng_seq *seq, int64_t n_tok, struct err *err)
{
    struct eng__rank *r = &e->rank[seq->rank];
    int64_t want = seq->len + n_tok;

    ASSERT(n_tok >= 0);
    if (n_tok > e->caps.context_max || want > e->caps.context_max)
        return err_set(err, ERR_LIMIT, "%" PRId64 " more tokens after %" PRId64 " exceed the context of %" PRId64,
                       n_tok, seq->len, e->caps.context_max);
    int rc = wrk_kv_reserve(&r->kv, seq->slot, want);
    if (rc == ERR_LIMIT)
        return err_set(err, rc, "no KV blocks for %" PRId64 " more tokens: %d of %d blocks are free", n_tok,
                       wrk_kv_blocks_left(&r->kv), r->kv.n_block);
    if (rc)
        return err_set(err, rc, "the block table could not be written");
    if (want > seq->reserved)
        seq->reserved = want;
    return 0;
}

struct eng_blocks eng_seq_blocks(const struct eng *e, const struct eng_seq *seq)
{
    return (struct eng_blocks){e->rank[seq->rank].kv.slot_n_block[seq->slot],
                               wrk_kv_blocks_own(&e->rank[seq->rank].kv, seq->slot)};
}

/* ---- the prefix cache ---- */

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
        best = h.n_tok > best.n_tok ? h : best;
    }
    return best;
}

uint64_t eng_prefix_version(const struct eng *e)
{
    uint64_t sum = 0; /* each only counts up */

    for (int i = 0; i < e->caps.n_ranks; i++)
        sum += e->rank[i].kv.version;
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
    seq->reserved = n ? (int64_t)kv->slot_n_block[seq->slot] * KN_BLOCK_TOK : 0;
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

/* The ranks' news one after the other. When one of them begins anew, all do, rank 0 first, so that "forget the earlier
 * ones" stands before all of them. */
int eng_prefix_news(struct eng *e, struct prefix_news *news, int n, bool *is_all)
{
    int got = 0;

    *is_all = false;
    for (int i = 0; i < e->caps.n_ranks && got < n; i++) {
        bool is_anew = false;
        got += wrk_prefix_take_news(&e->rank[i].kv, news + got, n - got, &is_anew);
        if (!is_anew)
            continue;
        if (i == 0) {
            *is_all = true;
            e->n_rank_anew = 1;
            for (int k = 1; k < e->caps.n_ranks; k++)
                wrk_prefix_tell_all(&e->rank[k].kv);
        } else if (e->n_rank_anew == i) {
            e->n_rank_anew++;
        } else {
            eng_prefix_tell_all(e);
            return 0;
        }
    }
    return got;
}

void eng_prefix_tell_all(struct eng *e)
{
    wrk_prefix_tell_all(&e->rank[0].kv); /* the others follow it */
}

/* ---- steps ---- */

/* Each item goes to the rank that its sequence lives on; the ranks without items take part in the experts' work. */
static void share_out(struct eng *e, const struct eng_plan *plan)
{
    int32_t n_tok = 0;

    ASSERT(plan->n_item <= e->caps.n_seq_max);
    for (int i = 0; i < e->caps.n_ranks; i++)
        e->rank[i].n_item = 0;
    for (int i = 0; i < plan->n_item; i++) {
        const struct eng_item *it = &plan->item[i];
        struct eng__rank *r = &e->rank[it->seq->rank];
        ASSERT(it->seq->slot >= 0 && r->n_item < e->caps.rank_seq_max);
        ASSERT(it->n_tok >= 1 && it->n_tok <= e->caps.step_tok_max - n_tok);
        r->item[r->n_item++] = *it;
        n_tok += it->n_tok;
    }
    for (int i = 0; i < e->caps.n_ranks; i++)
        e->rank[i].n_own_row_max = n_tok * e->cfg->num_experts_per_tok;
}

int eng_step(struct eng *e, const struct eng_plan *plan, struct err *err)
{
    int rc;

    if (e->is_poisoned)
        return err_set(err, ERR_STATE, "an earlier step failed; this engine cannot go on");
    if (plan->n_item == 0)
        return 0;
    share_out(e, plan);
    rc = e->group ? eng__group_step(e, err) : eng__rank_step(&e->rank[0], err);
    if (rc) {
        e->is_poisoned = true;
        return rc;
    }
    for (int i = 0; i < plan->n_item; i++) {
        plan->item[i].seq->len += plan->item[i].n_tok;
        plan->item[i].seq->is_back = false;
    }
    return 0;
}

bool eng_is_rank_lost(const struct eng *e)
{
    return e->is_rank_lost;
}
