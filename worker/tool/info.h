/* worker/tool/info.h - `baton model info DIR [--json]`: what a checkpoint holds.
 * Owns:     nothing.
 * Thread:   main.
 */
#ifndef WORKER_TOOL_INFO_H
#define WORKER_TOOL_INFO_H

#include "common/base/err.h"
#include "common/mem/buf.h"
#include "worker/model/weights.h"

/* The command: argv[0] is its name ("info"), the rest flags and the directory. Prints a table or one JSON object to
 * stdout. Returns the exit status: 0; 1 when the directory is no complete checkpoint (one line on stderr says why);
 * 2 for wrong usage. */
int wrk_tool_info(int argc, char **argv);

/* The two forms of the output, appended to out. */
void wrk_info_table(const struct mdl_ckpt *ckpt, const struct mdl_weights *w, struct buf *out);
void wrk_info_json(const struct mdl_ckpt *ckpt, const struct mdl_weights *w, struct buf *out);

#endif
