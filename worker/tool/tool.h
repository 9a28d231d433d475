/* worker/tool/tool.h - commands that run the engine in their own process: score, layer, bench engine.
 * Owns:     nothing beyond the call.
 * Thread:   main.
 * Limits:   those of engine.h; score takes prompts up to the model's context, layer up to ENG_STEP_TOK_MAX rows.
 *
 * argv[0] is the command's name ("score"). Returns the exit status: 0 good, 2 usage, 1 else with one line on stderr.
 */
#ifndef WORKER_TOOL_TOOL_H
#define WORKER_TOOL_TOOL_H

#include "common/base/err.h"

#include <stdint.h>

/* score --model DIR --tokens F.json --out F.safetensors [--backend B] [--ranks N] [--chunk N] [--decode-from P]
 * [--threads N] Writes tensor `logits` F32 [T, vocab]. Prefill in steps of N tokens (0: as large as possible);
 * positions from P on by one-token steps. */
int wrk_tool_score(int argc, char **argv);

/* layer --model DIR --layer N --input F.safetensors --out F.safetensors [--backend B] [--threads N]
 * One layer alone on an empty cache: `x` BF16 [T, hc, d] and `tokens` I32 or I64 [T] in; `x` (the output) and the named
 * intermediates out: attn.in, attn.q, attn.kv, attn.compressed, index.q, index.kv, index.w, index.scores,
 * index.choice, attn.o, attn.out, hc_attn.* and hc_ffn.* (pre, post, comb), ffn.in, router.ids, router.weights,
 * ffn.shared, ffn.out. `tokens` may be missing for layers that route by score. */
int wrk_tool_layer(int argc, char **argv);

/* bench --model DIR [--prompt N] [--decode N] [--batch B] [--chunk N] [--backend B] [--ranks N] [--threads N] [--json]
 * B sequences of N prompt tokens, then decode steps of all of them. Out: prefill_tps, decode_tps (tokens per second),
 * bytes_per_token (weights read per decoded token, from the shapes), read_gbps (those, as achieved), rss_bytes, and the
 * machine's ceilings, measured in the same run. */
int wrk_tool_bench(int argc, char **argv);

enum { WRK_TOOL_TOKENS_MAX = 1 << 26, WRK_TOOL_TOKENS_FILE_MAX = 1 << 30 };

/* Token ids of a JSON file: {"tokens": [...]} or a plain list, each 0 <= id < n_vocab, at least one. *tok is yours
 * (mem_free). Errors name the file. */
int wrk_tool_tokens_load(const char *path, int32_t n_vocab, int32_t **tok, int64_t *n, struct err *err);

#endif
