/* controller/cli/up.h - `baton up`: one controller and its local workers, supervised.
 * Owns:     the child processes and a loop of its own.
 * Lifetime: up_run blocks until everything has ended.
 * Thread:   main; /health is asked on libuv's pool.
 * Limits:   UP_WORKERS_MAX workers; UP_START_MS for the controller to come up; UP_STOP_MS for a graceful stop, then
 *           SIGKILL; restarts wait CHILD_BACKOFF_MS..CHILD_BACKOFF_MS_MAX (child.h).
 *
 * stdout gets exactly one line, "ready http://HOST:PORT" (and " native ENDPOINT", where asked for), when the
 * controller answers and a worker is ready. All else, the children's lines included ("[w0] ..."), goes to stderr. A
 * controller that dies is started again on its ports, and goes on with what its store has. A worker that dies is
 * started again, unless its status says that another start would end the same way (usage, broken checkpoint, refused
 * by the controller): then its reason is shown, and when no worker is left `up` ends with 1.
 */
#ifndef CONTROLLER_CLI_UP_H
#define CONTROLLER_CLI_UP_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    UP_WORKERS_MAX = 64,
    UP_LIMITS_MAX = 64,   /* --limit flags */
    UP_POLL_MS = 100,     /* between two looks at /health until the first worker is ready */
    UP_START_MS = 120000,
    UP_STOP_MS = 12000,   /* more than the controller's stop_ms, which waits for running streams */
};

struct up_config {
    const char *model_dir; /* NULL only with engine sim, for which it is a name */
    const char *engine;    /* NULL, "model" or "sim" */
    const char *sim_tokens, *sim_ttft_us, *sim_itl_us; /* handed to the workers as they are; NULL */
    int64_t n_worker;
    const char *host;     /* of HTTP */
    int64_t port;         /* 0: any free one */
    const char *backend;  /* NULL: the worker's default; likewise below */
    int64_t n_rank;       /* 0 */
    int64_t n_thread;     /* 0 */
    int64_t n_seq_max;    /* 0 */
    int64_t kv_tok, context_max; /* 0 */
    const char *log_level;
    const char *model_name;
    const char *profile;
    const char *store;    /* path, postgresql:// URL or "off"; NULL: a file of this port, see up_store_path() */
    const char *commit;
    const char *native, *native_key; /* endpoint for native clients and the file of its key; NULL: none */
    const char *limit[UP_LIMITS_MAX]; /* "NAME=VALUE", handed to the controller */
    int64_t n_limit;
};

/* Where `baton up` keeps what has to outlive it, unless told: $XDG_STATE_HOME/baton/PORT.db, or ~/.local/state/...; the
 * folder is made. With port 0 nobody could find it again: a file of this process, which goes with it (*own).
 * ERR_MISSING: no home; ERR_IO: the folder cannot be made; ERR_LIMIT: the path is too long. */
int up_store_path(int64_t port, char *path, size_t size, bool *own, struct err *err);

/* Exit statuses of baton-worker after which another start would end the same way: an operator must change something
 * first. They are part of its command line (worker/exit.h, which this side of the tree does not include). */
#define UP_FINAL_LIST(X) X(usage, 2) X(checkpoint, 10) X(memory, 11) X(refused, 13) X(unsupported, 14)

bool up_is_final(int exit_status);

/* Run until SIGINT, SIGTERM or SIGHUP (returns 0 after a graceful stop) or until nothing is left to run (1). Errors
 * are printed to stderr. */
int up_run(const struct up_config *config);

#endif
