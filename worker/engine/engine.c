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
    e->ops = b->ops;
    if (o->n_ranks != 1)
        return err_set(err, ERR_UNSUPPORTED, "%d ranks: this engine runs on one rank; use --ranks 1", o->n_ranks);
    e->ctx = (struct kn_ctx){.rank = 0, .n_ranks = 1, .n_threads = o->n_threads};
    return 0;
}

/* Limits of the options against those of the model -> caps. */
static int set_caps(struct eng *e, const struct eng_opts *o, struct err *err)
{
    const struct mdl_config *c = e->cfg;
    int64_t context = o->context_max ? o->context_max : c->max_position_embeddings;
    int64_t kv_tokens = o->kv_tokens;

    if (context < 1 || context > c->max_position_embeddings)
        return err_set(err, ERR_RANGE, "a context of %" PRId64 " tokens was asked for, the model allows 1 to %d",
                       context, c->max_position_embeddings);
    if (kv_tokens == 0)
        kv_tokens = (int64_t)o->n_seq_max * (context < ENG__KV_TOK_DEFAULT ? context : ENG__KV_TOK_DEFAULT);
    if (kv_tokens < 1 || kv_tokens > (int64_t)INT32_MAX * KN_BLOCK_TOK)
        return err_set(err, ERR_RANGE, "a cache of %" PRId64 " tokens was asked for, 1 to %" PRId64 " is possible",
                       kv_tokens, (int64_t)INT32_MAX * KN_BLOCK_TOK);
    for (int i = 0; i < c->num_hidden_layers; i++)
        if (c->layer_kind[i] == MDL_CSA && c->index_head_dim < KN_INDEX_GROUP)
            return err_set(err, ERR_UNSUPPORTED, "index_head_dim is %d, the engine needs at least %d",
                           c->index_head_dim, KN_INDEX_GROUP);
    if (c->hc_mult > KN_HC_MAX || c->num_experts_per_tok > KN_TOPK_EXPERT_MAX)
        return err_set(err, ERR_UNSUPPORTED, "hc_mult %d or num_experts_per_tok %d is above the engine's %d and %d",
                       c->hc_mult, c->num_experts_per_tok, KN_HC_MAX, KN_TOPK_EXPERT_MAX);
    e->caps = (struct eng_caps){
        .n_ranks = o->n_ranks,
        .n_seq_max = o->n_seq_max,
        .step_tok_max = o->step_tok_max,
        .context_max = context,
        .kv_blocks = wrk_kv_blocks_of(kv_tokens),
        .fingerprint = mdl_ckpt_fingerprint(e->ckpt),
        .weight_bytes = mdl_ckpt_bytes(e->ckpt),
    };
    snprintf(e->caps.numerics, sizeof e->caps.numerics, "%s", e->backend->numerics);
    return 0;
}

/* Block tables, caches, buffers: all the memory that steps work in. */
static int take_memory(struct eng *e, const struct eng_opts *o, struct err *err)
{
    int64_t stride = wrk_kv_blocks_of(e->caps.context_max);
    int32_t n_block = (int32_t)e->caps.kv_blocks, n_seq = e->caps.n_seq_max;
    int rc;

    if (stride > n_block)
        stride = n_block;
    if ((rc = wrk_kv_init(&e->kv, e->backend, &e->ctx, e->cfg, n_seq, n_block, (int32_t)stride, err)) ||
        (rc = wrk_prefix_init(&e->kv, o->n_saved, err)) || (rc = eng__buffers_init(e, err)))
        return rc;
    e->caps.saved_bytes = wrk_prefix_stats(&e->kv)->saved_bytes;
    e->caps.block_bytes = e->kv.block_bytes;
    e->caps.slot_bytes = e->kv.slot_bytes;
    e->caps.kv_bytes = e->kv.pool_bytes + e->kv.table_bytes;
    e->caps.state_bytes = e->kv.state_bytes;
    e->input = mem_array(4 * (size_t)e->caps.step_tok_max + 4 * (size_t)n_seq, sizeof *e->input);
    e->seq = mem_array((size_t)n_seq, sizeof *e->seq);
    for (int32_t i = 0; i < n_seq; i++)
        e->seq[i].slot = -1;
    log_info(engine,
             "opened: backend=%s numerics=%s weight_mib=%" PRIu64 " kv_mib=%" PRIu64 " kv_blocks=%" PRId64
             " state_mib=%" PRIu64 " sequences=%d workspace_mib=%" PRIu64 " step_tokens=%d context=%" PRId64
             " saved_mib=%" PRIu64 " saved=%d block_bytes=%" PRIu64 " slot_bytes=%" PRIu64,
             e->backend->name, e->caps.numerics, e->caps.weight_bytes >> 20, e->caps.kv_bytes >> 20,
             e->caps.kv_blocks, e->caps.state_bytes >> 20, n_seq, e->caps.workspace_bytes >> 20, e->caps.step_tok_max,
             e->caps.context_max, e->caps.saved_bytes >> 20, o->n_saved, e->caps.block_bytes, e->caps.slot_bytes);
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
    if ((rc = set_caps(e, o, err)) || (rc = mdl_weights_bind(e->ckpt, &e->host, err)))
        goto out;
    if ((rc = e->backend->device->open(&e->ctx, err)))
        goto out;
    e->is_device_open = true;
    if ((rc = eng__weights_bind(e, &e->host, err)) || (rc = take_memory(e, o, err)))
        goto out;
    *out = e;
    return 0;
out:
    eng_close(&e);
    return rc;
}

void eng_close(struct eng **eng)
{
    struct eng *e = *eng;

    if (!e)
        return;
    for (int i = 0; e->seq && i < e->caps.n_seq_max; i++)
        ASSERT(e->seq[i].slot < 0);
    wrk_kv_release(&e->kv);
    if (e->is_device_open) {
        e->backend->device->release(&e->ctx, e->buf.mem);
        eng__weights_release(e);
        e->backend->device->close(&e->ctx);
    }
    mem_free(e->seq);
    mem_free(e->input);
    mdl_weights_release(&e->host);
    mdl_ckpt_close(&e->ckpt);
    mem_free(e);
    *eng = NULL;
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
    return wrk_kv_blocks_left(&e->kv);
}

/* ---- sequences ---- */

int eng_seq_open(struct eng *e, struct eng_seq **seq, struct err *err)
{
    int32_t slot = wrk_kv_slot_take(&e->kv);

    if (slot < 0)
        return err_set(err, ERR_LIMIT, "all %d sequences of the engine are in use", e->caps.n_seq_max);
    e->seq[slot] = (struct eng_seq){.slot = slot};
    *seq = &e->seq[slot];
    return 0;
}

void eng_seq_close(struct eng *e, struct eng_seq **seq)
{
    if (!*seq)
        return;
    wrk_kv_slot_give(&e->kv, (*seq)->slot);
    (*seq)->slot = -1;
    *seq = NULL;
}

int64_t eng_seq_len(const struct eng_seq *seq)
{
    return seq->len;
}

int eng_seq_reserve(struct eng *e, struct eng_seq *seq, int64_t n_tok, struct err *err)
{
    int64_t want = seq->len + n_tok;

    ASSERT(n_tok >= 0);
    if (n_tok > e->caps.context_max || want > e->caps.context_max)
        return err_set(err, ERR_LIMIT, "%" PRId64 " more tokens after %" PRId64 " exceed the context of %" PRId64,
                       n_tok, seq->len, e->caps.context_max);
    int rc = wrk_kv_reserve(&e->kv, seq->slot, want);
    if (rc == ERR_LIMIT)
        return err_set(err, rc, "no KV blocks for %" PRId64 " more tokens: %d of %d blocks are free", n_tok,
                       wrk_kv_blocks_left(&e->kv), e->kv.n_block);
    if (rc)
        return err_set(err, rc, "the block table could not be written");
    if (want > seq->reserved)
        seq->reserved = want;
    return 0;
}

struct eng_blocks eng_seq_blocks(const struct eng *e, const struct eng_seq *seq)
{
    return (struct eng_blocks){e->kv.slot_n_block[seq->slot], wrk_kv_blocks_own(&e->kv, seq->slot)};
}

/* ---- the prefix cache ---- */

struct eng_hit eng_prefix_find(const struct eng *e, const int32_t *tok, int64_t n_tok)
{
    struct wrk_prefix_hit h = wrk_prefix_find(&e->kv, tok, n_tok);
    return (struct eng_hit){h.n_tok, h.n_busy};
}

uint64_t eng_prefix_version(const struct eng *e)
{
    return e->kv.version;
}

int eng_seq_restore(struct eng *e, struct eng_seq *seq, const int32_t *tok, int64_t n_tok, struct err *err)
{
    ASSERT(seq->len == 0 && seq->reserved == 0);
    if (e->is_poisoned)
        return 0;
    int64_t n = wrk_prefix_restore(&e->kv, seq->slot, tok, n_tok);
    if (n < 0) {
        e->is_poisoned = true;
        return err_set(err, ERR_GPU, "a saved state could not be restored: %s", err_general((int)n));
    }
    seq->len = n;
    seq->reserved = n ? (int64_t)e->kv.slot_n_block[seq->slot] * KN_BLOCK_TOK : 0;
    if (seq->reserved > e->caps.context_max)
        seq->reserved = e->caps.context_max;
    seq->is_back = n > 0;
    return 0;
}

int eng_seq_save(struct eng *e, struct eng_seq *seq, const int32_t *tok, bool is_step, struct err *err)
{
    if (e->is_poisoned || seq->len == 0 || seq->is_back)
        return 0;
    int rc = wrk_prefix_save(&e->kv, seq->slot, tok, seq->len, is_step);
    if (rc) {
        e->is_poisoned = true;
        return err_set(err, ERR_GPU, "a state could not be saved: %s", err_general(rc));
    }
    return 0;
}

int eng_prefix_news(struct eng *e, struct prefix_news *news, int n, bool *is_all)
{
    return wrk_prefix_take_news(&e->kv, news, n, is_all);
}

void eng_prefix_tell_all(struct eng *e)
{
    wrk_prefix_tell_all(&e->kv);
}

/* ---- steps ---- */

/* The batch goes over in one upload: per row tok, row_seq, row_pos, logit_row (each n_tok); per sequence seq_slot,
 * seq_row, seq_n_tok, seq_pos (each n_item). */
int eng__batch_set(struct eng *e, const struct eng_plan *plan)
{
    int32_t n_tok = 0, n_seq = plan->n_item, row = 0, pos_max = 0;

    ASSERT(n_seq >= 1 && n_seq <= e->caps.n_seq_max);
    for (int i = 0; i < n_seq; i++) {
        ASSERT(plan->item[i].n_tok >= 1 && plan->item[i].n_tok <= e->caps.step_tok_max - n_tok);
        n_tok += plan->item[i].n_tok;
    }
    int32_t *tok = e->input, *row_seq = tok + n_tok, *row_pos = row_seq + n_tok, *logit_row = row_pos + n_tok;
    int32_t *slot = logit_row + n_tok, *first = slot + n_seq, *count = first + n_seq, *pos = count + n_seq;
    int32_t *dev = e->buf.input;

    e->n_logit_row = 0;
    memset(logit_row, 0, (size_t)n_tok * sizeof *logit_row);
    for (int32_t i = 0; i < n_seq; i++) {
        const struct eng_item *it = &plan->item[i];
        ASSERT(it->seq->slot >= 0);
        ASSERT(it->seq->len + it->n_tok <= it->seq->reserved);
        ASSERT(it->n_logit >= 0 && it->n_logit <= it->n_tok);
        slot[i] = it->seq->slot;
        first[i] = row;
        count[i] = it->n_tok;
        pos[i] = (int32_t)it->seq->len;
        for (int32_t j = 0; j < it->n_tok; j++, row++) {
            ASSERT(it->tok[j] >= 0 && it->tok[j] < e->cfg->vocab_size);
            tok[row] = it->tok[j];
            row_seq[row] = i;
            row_pos[row] = pos[i] + j;
            if (j >= it->n_tok - it->n_logit)
                logit_row[e->n_logit_row++] = row;
        }
        if (pos[i] + it->n_tok - 1 > pos_max)
            pos_max = pos[i] + it->n_tok - 1;
    }
    e->logit_row = dev + (logit_row - tok);
    e->batch = (struct kn_batch){
        .n_tok = n_tok,
        .n_seq = n_seq,
        .pos_max = pos_max,
        .tok = dev,
        .row_seq = dev + (row_seq - tok),
        .row_pos = dev + (row_pos - tok),
        .seq_slot = dev + (slot - tok),
        .seq_row = dev + (first - tok),
        .seq_n_tok = dev + (count - tok),
        .seq_pos = dev + (pos - tok),
        .block = e->kv.block,
        .block_stride = e->kv.block_stride,
    };
    return e->backend->device->copy_in(&e->ctx, e->buf.input, e->input,
                                       (size_t)(pos + n_seq - tok) * sizeof *e->input);
}

/* Logits of the wanted rows to the items' host buffers, a tile of rows at a time. */
static int put_logits(struct eng *e, const struct eng_plan *plan)
{
    size_t n_vocab = (size_t)e->cfg->vocab_size;
    int item = 0, row = 0, rc; /* next row to hand out: number `row` of the item's logits */

    for (int at = 0; at < e->n_logit_row; at += ENG__LOGIT_ROWS) {
        int n = e->n_logit_row - at < ENG__LOGIT_ROWS ? e->n_logit_row - at : ENG__LOGIT_ROWS;
        if ((rc = eng__head(e, e->logit_row + at, n)))
            return rc;
        for (int i = 0; i < n; i++) {
            while (row == plan->item[item].n_logit) {
                item++;
                row = 0;
            }
            float *to = plan->item[item].logits + (size_t)row++ * n_vocab;
            rc = e->backend->device->copy_out(&e->ctx, to, e->buf.logits + (size_t)i * n_vocab, n_vocab * sizeof *to);
            if (rc)
                return rc;
        }
        if ((rc = e->backend->device->sync(&e->ctx))) /* the next tile overwrites buf.logits */
            return rc;
    }
    return e->n_logit_row ? 0 : e->backend->device->sync(&e->ctx);
}

int eng_step(struct eng *e, const struct eng_plan *plan, struct err *err)
{
    int rc;

    if (e->is_poisoned)
        return err_set(err, ERR_STATE, "an earlier step failed; this engine cannot go on");
    if (plan->n_item == 0)
        return 0;
    if ((rc = eng__batch_set(e, plan)) || (rc = eng__rope_angles(e)) || (rc = eng__embed(e)))
        goto out;
    for (int i = 0; i < e->cfg->num_hidden_layers; i++)
        if ((rc = eng__layer_run(e, i)))
            goto out;
    if ((rc = put_logits(e, plan)))
        goto out;
    for (int i = 0; i < plan->n_item; i++) {
        plan->item[i].seq->len += plan->item[i].n_tok;
        plan->item[i].seq->is_back = false;
    }
    return 0;
out:
    e->is_poisoned = true;
    return err_set(err, rc == ERR_GPU ? rc : ERR_STATE, "a step of %d tokens failed on back end %s: %s", e->batch.n_tok,
                   e->backend->name, err_general(rc));
}
