#include "worker/engine/impl.h"

#include "common/base/check.h"

#include <string.h>

/* The batch goes over in one upload: per row tok, row_seq, row_pos, logit_row (each n_tok); per sequence seq_slot,
 * seq_row, seq_n_tok, seq_pos (each n_item). */
int eng__batch_set(struct eng__rank *r, const struct eng_item *item, int n_item)
{
    int32_t n_tok = 0, n_seq = n_item, row = 0, pos_max = 0;

    ASSERT(n_seq >= 1 && n_seq <= r->kv.n_slot);
    for (int i = 0; i < n_seq; i++) {
        ASSERT(item[i].n_tok >= 1 && item[i].n_tok <= r->eng->caps.step_tok_max - n_tok);
        n_tok += item[i].n_tok;
    }
    int32_t *tok = r->input, *row_seq = tok + n_tok, *row_pos = row_seq + n_tok, *logit_row = row_pos + n_tok;
    int32_t *slot = logit_row + n_tok, *first = slot + n_seq, *count = first + n_seq, *pos = count + n_seq;
    int32_t *dev = r->buf.input;

    r->n_logit_row = 0;
    memset(logit_row, 0, (size_t)n_tok * sizeof *logit_row);
    for (int32_t i = 0; i < n_seq; i++) {
        const struct eng_item *it = &item[i];
        ASSERT(it->seq->slot >= 0 && it->seq->rank == r->number);
        ASSERT(it->seq->len + it->n_tok <= it->seq->reserved);
        ASSERT(it->n_logit >= 0 && it->n_logit <= it->n_tok);
        slot[i] = it->seq->slot;
        first[i] = row;
        count[i] = it->n_tok;
        pos[i] = (int32_t)it->seq->len;
        for (int32_t j = 0; j < it->n_tok; j++, row++) {
            ASSERT(it->tok[j] >= 0 && it->tok[j] < r->cfg->vocab_size);
            tok[row] = it->tok[j];
            row_seq[row] = i;
            row_pos[row] = pos[i] + j;
            if (j >= it->n_tok - it->n_logit)
                logit_row[r->n_logit_row++] = row;
        }
        if (pos[i] + it->n_tok - 1 > pos_max)
            pos_max = pos[i] + it->n_tok - 1;
    }
    r->logit_row = dev + (logit_row - tok);
    r->batch = (struct kn_batch){
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
        .block = r->kv.block,
        .block_stride = r->kv.block_stride,
    };
    return r->backend->device->copy_in(&r->ctx, r->buf.input, r->input,
                                       (size_t)(pos + n_seq - tok) * sizeof *r->input);
}

/* Logits of the wanted rows to the items' host buffers, a tile of rows at a time. */
static int put_logits(struct eng__rank *r)
{
    size_t n_vocab = (size_t)r->cfg->vocab_size;
    int item = 0, row = 0, rc; /* next row to hand out: number `row` of the item's logits */

    for (int at = 0; at < r->n_logit_row; at += ENG__LOGIT_ROWS) {
        int n = r->n_logit_row - at < ENG__LOGIT_ROWS ? r->n_logit_row - at : ENG__LOGIT_ROWS;
        if ((rc = eng__head(r, r->logit_row + at, n)))
            return rc;
        for (int i = 0; i < n; i++) {
            while (row == r->item[item].n_logit) {
                item++;
                row = 0;
            }
            float *to = r->item[item].logits + (size_t)row++ * n_vocab;
            rc = r->backend->device->copy_out(&r->ctx, to, r->buf.logits + (size_t)i * n_vocab, n_vocab * sizeof *to);
            if (rc)
                return rc;
        }
        if ((rc = r->backend->device->sync(&r->ctx))) /* the next tile overwrites buf.logits */
            return rc;
    }
    return r->n_logit_row ? 0 : r->backend->device->sync(&r->ctx);
}

static int run_layers(struct eng__rank *r, struct err *err)
{
    int rc = 0;

    for (int i = 0; i < r->cfg->num_hidden_layers && rc == 0; i++)
        rc = eng__layer_run(r, i, err);
    return rc;
}

int eng__rank_step(struct eng__rank *r, struct err *err)
{
    struct err why = {0};
    int rc;

    r->batch = (struct kn_batch){0};
    r->n_logit_row = 0;
    if (r->n_item > 0 &&
        ((rc = eng__batch_set(r, r->item, r->n_item)) || (rc = eng__rope_angles(r)) || (rc = eng__embed(r))))
        goto out;
    if ((rc = run_layers(r, &why)) || (rc = put_logits(r)))
        goto out;
    return 0;
out:
    if (why.code) /* another rank, or the exchange with it */
        return err_set(err, why.code, "%s", why.text);
    return err_set(err, rc == ERR_GPU ? rc : ERR_STATE, "a step of %d tokens failed on back end %s: %s",
                   r->batch.n_tok, r->backend->name, err_general(rc));
}
