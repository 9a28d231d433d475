/* worker/engine/engine.h - the model as a machine: plans in, logits out.
 * Owns:     checkpoint, weights, KV blocks, state slots, workspace; all memory is taken in eng_open.
 * Lifetime: eng_open .. eng_close; sequences must be closed first.
 * Thread:   one (the engine thread). eng_caps and eng_config are constant and may be read by any.
 * Limits:   the eng_opts; a step allocates nothing, blocks on nothing, reads no environment.
 * Source:   spec/model.md sections 3-8; exactness rules of docs/ARCHITECTURE.md.
 *
 * Exactness: the logits of a token depend on the sequence's tokens alone: never on what else is in the plan, on
 * how prefill is cut, on prefill against decode, on the number of ranks. Bits, per back end.
 */
#ifndef WORKER_ENGINE_ENGINE_H
#define WORKER_ENGINE_ENGINE_H

#include "common/base/err.h"
#include "common/ds/prefix_key.h"
#include "worker/model/config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ENG_SEQ_MAX = 1024,
    ENG_STEP_TOK_MAX = 8192,
    ENG_NUMERICS_MAX = 64,
    ENG_RANKS_MAX = 64,
    ENG_SAVED_MAX = 65536,
    ENG_RANK_DEADLINE_MS = 10000, /* without a sign of life of a rank that the others wait for */
};

struct eng;
struct eng_seq;
struct eng_ep_provider;

struct eng_opts {
    const char *model_dir;
    const char *backend; /* "ref", "cpu", "cuda"; one that is not built in: ERR_UNSUPPORTED, named */
    int n_ranks;         /* 1..ENG_RANKS_MAX, at most the model's experts, which the ranks share */
    int n_threads;       /* host threads of back end cpu, over all ranks, at least one each; 0: all that the process
                            may run on. Never changes a bit */
    int n_seq_max;       /* state slots: sequences open at once, 1..ENG_SEQ_MAX; rounded up to a multiple of n_ranks */
    int step_tok_max;    /* rows of one plan, 1..ENG_STEP_TOK_MAX */
    int64_t context_max; /* tokens of one sequence; 0: the model's max_position_embeddings */
    int64_t kv_tokens;   /* tokens of KV cache over all sequences and ranks, in equal shares of whole blocks;
                            0: n_seq_max (at least n_ranks) * min(context, 4096) */
    int rank_deadline_ms; /* 0: ENG_RANK_DEADLINE_MS */
    const struct eng_ep_provider *ep; /* how ranks exchange rows; NULL: what the back end needs (ep/ep.h) */
    int n_saved;         /* cut points of the prefix cache, 0..ENG_SAVED_MAX; 0: there is none */
};

struct eng_caps {
    int n_ranks, n_seq_max, step_tok_max;
    int64_t context_max;
    int64_t kv_blocks;      /* blocks of 128 tokens, of all ranks */
    int64_t rank_kv_blocks; /* of one rank: a sequence lives on one */
    int rank_seq_max;       /* sequences of one rank, n_seq_max / n_ranks */
    uint64_t fingerprint;  /* mdl_ckpt_fingerprint */
    uint64_t weight_bytes, kv_bytes, state_bytes, workspace_bytes, saved_bytes; /* the named sums of the memory plan */
    uint64_t block_bytes, slot_bytes; /* of one KV block; of one sequence beside its blocks (spec section 10) */
    char numerics[ENG_NUMERICS_MAX]; /* numerics id: "ref/scalar/1": equal id = equal bits */
};

int eng_open(const struct eng_opts *opts, struct eng **eng, struct err *err);

/* A rank that does not come back from a failed step keeps what it uses: then all memory is left to the end of the
 * process, which should come soon. */
void eng_close(struct eng **eng);
const struct mdl_config *eng_config(const struct eng *eng);
const struct eng_caps *eng_caps(const struct eng *eng);
int64_t eng_kv_blocks_free(const struct eng *eng); /* that sequences can still have: cached, idle ones included */
int64_t eng_rank_blocks_free(const struct eng *eng, int rank);

/* A new, empty sequence: takes a state slot of the rank, or of the rank with the most free blocks. ERR_LIMIT when
 * none is free. */
int eng_seq_open_on(struct eng *eng, int rank, struct eng_seq **seq, struct err *err);
int eng_seq_open(struct eng *eng, struct eng_seq **seq, struct err *err);
void eng_seq_close(struct eng *eng, struct eng_seq **seq); /* gives slot and blocks back */
int64_t eng_seq_len(const struct eng_seq *seq);            /* tokens so far */
int eng_seq_rank(const struct eng_seq *seq);               /* where it lives */

/* Make sure that n_tok more tokens fit: takes KV blocks. ERR_LIMIT (nothing taken) when the rank's pool or the
 * context is too small. A plan may hold only reserved tokens. */
int eng_seq_reserve(struct eng *eng, struct eng_seq *seq, int64_t n_tok, struct err *err);

/* KV blocks that a sequence holds, and how many of them would be free without it. */
struct eng_blocks {
    int64_t n, n_own;
};
struct eng_blocks eng_seq_blocks(const struct eng *eng, const struct eng_seq *seq);

/* ---- the prefix cache (worker/kv/prefix.h): never changes a bit, only saves work ---- */

/* What eng_seq_restore would find for tok[n_tok] now: tokens, and of their blocks those that open sequences hold. */
struct eng_hit {
    int64_t n_tok, n_block_busy;
};
struct eng_hit eng_rank_prefix_find(const struct eng *eng, int rank, const int32_t *tok, int64_t n_tok);
struct eng_hit eng_prefix_find(const struct eng *eng, const int32_t *tok, int64_t n_tok); /* the best of all ranks */

/* Changes whenever eng_prefix_find may answer differently. */
uint64_t eng_prefix_version(const struct eng *eng);

/* Take the longest saved prefix of tok[n_tok] over into a sequence that is empty and has nothing reserved: at most
 * n_tok-1 tokens, so that the next step gives the logits of the last. 0 and eng_seq_len tells how many, maybe none;
 * ERR_GPU: the engine is poisoned. */
int eng_seq_restore(struct eng *eng, struct eng_seq *seq, const int32_t *tok, int64_t n_tok, struct err *err);

/* Keep the sequence's state after its tokens, which are tok[eng_seq_len], for others that begin with them; is_step as
 * in worker/kv/prefix.h. Does nothing without a cache, for an empty sequence, or when the engine is poisoned. 0,
 * ERR_GPU: it is now. */
int eng_seq_save(struct eng *eng, struct eng_seq *seq, const int32_t *tok, bool is_step, struct err *err);

/* Full blocks of prefixes that came or went since the last call: low halves of their keys (common/ds/prefix_key.h). Up
 * to n are put into news; call again until less than n come. *is_all: forget the earlier ones, all are told anew. */
int eng_prefix_news(struct eng *eng, struct prefix_news *news, int n, bool *is_all);
void eng_prefix_tell_all(struct eng *eng); /* the next news begin with *is_all */

/* ---- steps ---- */

/* One sequence's part of a step: its next n_tok tokens (prefill chunk or one decode token). */
struct eng_item {
    struct eng_seq *seq;
    const int32_t *tok; /* [n_tok], each 0 <= id < vocab_size: checked by the caller */
    int n_tok;
    int n_logit;   /* logits are wanted for the last n_logit of them, 0..n_tok */
    float *logits; /* [n_logit, vocab_size] f32 on the host, filled when eng_step returns; NULL if n_logit is 0 */
};

struct eng_plan {
    const struct eng_item *item;
    int n_item; /* a sequence appears at most once; the sum of n_tok is at most step_tok_max */
};

/* Run the plan, on all ranks at once. 0, or ERR_GPU / ERR_STATE after which the engine is poisoned and the process
 * should end with a named status. A rank that dies or shows no sign of life for rank_deadline_ms ends the step, too:
 * ERR_STATE with its number and place in err, and eng_is_rank_lost tells it apart. */
int eng_step(struct eng *eng, const struct eng_plan *plan, struct err *err);
bool eng_is_rank_lost(const struct eng *eng);

#endif
