/* controller/cli/cli.h - the `baton` command: its subcommands and what they share.
 * Owns:     nothing.
 * Thread:   main.
 * Limits:   CLI_STDIN_MAX bytes of standard input, CLI_LINE_MAX bytes of one --jsonl line.
 *
 * Exit status of every subcommand: 0 good, 2 wrong usage, 1 anything else. Results go to stdout, errors to stderr as
 * one line "baton COMMAND: what, where, what to do". The engine is not linked here: commands that need it are run by
 * the sibling binary baton-worker (docs/adr/0001-command-line-without-engine.md).
 */
#ifndef CONTROLLER_CLI_CLI_H
#define CONTROLLER_CLI_CLI_H

#include "common/base/err.h"
#include "common/base/flags.h"
#include "common/mem/buf.h"

#include <stdio.h>

enum { CLI_GOOD = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

enum { CLI_STDIN_MAX = 1 << 29, CLI_LINE_MAX = 64 << 20, CLI_PATH_MAX = 4096 };

/* The subcommands that run in this process: words as typed, function, summary. argv[0] is the command's name. */
#define CLI_CMD_LIST(X)                                                                            \
    X("up", cli_up_main, "controller and local workers, supervised")                               \
    X("ps", cli_ps_main, "workers and load of a running controller")                               \
    X("run", cli_run_main, "an agent pipeline: run it and watch it")                               \
    X("runs list", cli_runs_list_main, "runs of pipelines, newest first")                          \
    X("runs show", cli_runs_show_main, "one run: its steps, results and usage")                    \
    X("runs tail", cli_runs_tail_main, "watch a run to its end")                                   \
    X("runs cancel", cli_runs_cancel_main, "end a run")                                            \
    X("runs retry", cli_runs_retry_main, "a new run from what a failed one had finished")          \
    X("runs fork", cli_runs_fork_main, "a new run from a step of an old one on")                   \
    X("runs approve", cli_runs_approve_main, "let a step that waits for an approval go on")        \
    X("bench serve", cli_bench_serve_main, "latency, throughput and stream correctness of an endpoint") \
    X("chat", cli_talk_main, "a conversation in the terminal")                                     \
    X("tokenize", cli_tokenize_main, "text to token ids, and back")                                \
    X("render", cli_render_main, "chat request to prompt and token ids")                           \
    X("parse", cli_parse_main, "model output to a message")

/* The subcommands that baton-worker runs: words as typed, name there, summary. */
#define CLI_WORKER_LIST(X)                                                                         \
    X("generate", "generate", "one generation in one process, no controller")                      \
    X("score", "score", "logits of given tokens, as a safetensors file")                           \
    X("layer", "layer", "one layer alone on given input, with its intermediates")                  \
    X("model info", "info", "configuration and size of a checkpoint")                              \
    X("bench engine", "bench", "speed of the engine alone, beside the machine's ceilings")

#define X(words, function, summary) int function(int argc, char **argv);
CLI_CMD_LIST(X)
#undef X

/* The whole program: what main does. */
int cli_run(int argc, char **argv);

/* flags_parse for the subcommand `name`. Returns -1 to go on, else the exit status (help shown, or the error said).
 */
int cli_flags(const char *name, struct flags *f, int argc, char **argv);

/* Print "baton NAME: text" to stderr. Returns CLI_FAILED. */
int cli_fail(const char *name, const struct err *err);

/* Path of another binary of this build: in the directory of /proc/self/exe. 0 or ERR_MISSING, ERR_IO. */
int cli_sibling(const char *program, char path[CLI_PATH_MAX], struct err *err);

/* Append all of f to out. 0, ERR_IO, ERR_LIMIT (more than max bytes). */
int cli_read_all(FILE *f, size_t max, struct buf *out, struct err *err);

/* Next line of f without its newline, into a cleared `line`. 1: a line; 0: end; ERR_LIMIT: longer than max, the rest
 * of it was skipped and the next call goes on behind it; ERR_IO. */
int cli_read_line(FILE *f, size_t max, struct buf *line, struct err *err);

/* Write all of b to stdout and flush. 0 or ERR_IO. */
int cli_write(const struct buf *b, struct err *err);

#endif
