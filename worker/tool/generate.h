/* worker/tool/generate.h - `baton generate`: one generation in this process, through the same scheduler and
 * sampler that serve.
 * Owns:     nothing beyond the call.
 * Thread:   main.
 */
#ifndef WORKER_TOOL_GENERATE_H
#define WORKER_TOOL_GENERATE_H

/* generate --model DIR (--prompt TEXT | --tokens F.json) --max-tokens N [--temperature T --top-p P --seed S
 * --backend B --ranks N] [--json]. A --prompt is raw text with BOS in front (spec/chat.md 8.11). JSON out: tokens,
 * text (null without a tokenizer), finish_reason, timings. Returns the exit status: 0; 2 usage; 1 else, with one
 * line on stderr. */
int wrk_tool_generate(int argc, char **argv);

#endif
