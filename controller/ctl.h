/* controller/ctl.h - the controller as one object: its loop, its configuration, its rooms.
 * Owns:     all state of the controller; one thread (the loop) touches it.
 * Lifetime: ctl_open .. ctl_close(on_closed); a test may run several in one process, each on its own loop.
 * Thread:   the loop.
 * Limits:   struct ctl_config, all named in docs/LIMITS.md.
 */
#ifndef CONTROLLER_CTL_H
#define CONTROLLER_CTL_H

#include "common/base/err.h"
#include "common/text/tok.h"
#include "controller/ledger/ledger.h"
#include "controller/prompt/chat.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

/* name, type, default, unit and meaning. One list: defaults, --help, config file, docs/LIMITS.md check. */
#define CTL_LIMIT_LIST(X)                                                                          \
    X(http_conns_max, 4096, "connections open at once; more are closed at accept")                 \
    X(http_header_bytes_max, 65536, "bytes of request line and headers")                           \
    X(http_body_bytes_max, 33554432, "bytes of a request body")                                    \
    X(http_header_ms, 10000, "ms from the first byte of a request to the end of its headers")      \
    X(http_body_ms, 60000, "ms from the end of the headers to the end of the body")                \
    X(http_idle_ms, 120000, "ms a connection may stay idle between requests")                      \
    X(reader_ms, 60000, "ms for which a client may not read from its stream; then it is cut off and can come back") \
    X(detached_max, 4096, "generations that go on without a client; more are canceled when their client leaves") \
    X(idempotency_ms, 86400000, "ms for which an ended request is kept: for its Idempotency-Key, and to be read back") \
    X(kept_max, 100000, "requests in the store; of more, the oldest ended ones go before their time") \
    X(prune_ms, 10000, "ms between two looks for ended requests that are old") \
    X(prune_max, 256, "ended requests that go in one transaction")                                 \
    X(http_unsent_bytes_max, 4194304, "unsent bytes of one connection; a slower reader is cut off") \
    X(keepalive_ms, 5000, "ms without output after which a stream gets a comment line")            \
    X(queue_max, 1024, "choices waiting for a worker; more are refused with 429")                  \
    X(request_ms, 600000, "ms a request may take in all, unless it says deadline_ms")              \
    X(n_choices_max, 128, "choices of one request")                                                \
    X(workers_max, 256, "workers connected at once")                                               \
    X(heartbeat_ms, 250, "ms between heartbeats of a worker")                                      \
    X(lost_ms, 1000, "ms of silence after which a worker is given up")                             \
    X(suspect_ms, 180000, "ms for which a failure domain is used last after a loss or reclaim in it") \
    X(deaths_max, 2, "worker deaths under one choice, without a new token, before it is quarantined") \
    X(dispatch_max, 16, "attempts of one choice without a new token before it fails")              \
    X(retry_ms, 20, "ms of the first back-off after a worker said no; doubles, with full jitter")  \
    X(retry_ms_max, 2000, "ms of the longest back-off")                                            \
    X(native_clients_max, 256, "native clients connected at once; one more is refused")            \
    X(native_calls_max, 1024, "open calls of one native client; one more is refused")              \
    X(native_lost_ms, 5000, "ms of silence after which a native client is given up")               \
    X(tok_pool_bytes, 16384, "bytes of prompt text from which tokenizing goes to the thread pool") \
    X(run_live_max, 1024, "runs of pipelines under way")                                           \
    X(run_keep_ms, 604800000, "ms after its end for which a run is kept")                          \
    X(run_keep_max, 10000, "runs that are kept")                                                   \
    X(stop_ms, 10000, "ms a graceful stop waits for running streams")

struct ctl_limits {
#define X(name, value, text) int64_t name;
    CTL_LIMIT_LIST(X)
#undef X
};

struct ctl_config {
    const char *model_dir;      /* tokenizer and generation defaults */
    bool sim;                   /* for workers with --engine sim: their tokenizer; model_dir is only a name, if that */
    const char *model_name;     /* as clients see it; default: the directory's last part */
    const char *http_host;      /* "127.0.0.1" */
    int http_port;              /* 0: any free one */
    const char *worker_endpoint; /* "tcp://127.0.0.1:*": where workers connect */
    const char *native_endpoint; /* where native clients connect; NULL: nowhere */
    const char *native_key_file; /* CURVE key of that endpoint, made if there is none; NULL: no encryption */
    enum chat_profile profile;
    const char *store;      /* path of an SQLite file or postgresql://...; NULL: nothing is kept */
    enum ctl_commit commit; /* what a client waits for, see ledger/ledger.h */
    bool standby;           /* the store is another controller's: wait until it is not */
    struct ctl_limits limit;
};

struct ctl;

typedef void (*ctl_closed_fn)(void *arg);

/* This process may not go on: text says why (the store was lost to another controller). Called once, from the turn;
 * nothing was or will be sent. */
typedef void (*ctl_fatal_fn)(void *arg, const char *text);

void ctl_config_init(struct ctl_config *config); /* all defaults */

/* Bind both sockets, load the tokenizer, start serving. `config` is copied; its strings must outlive ctl. */
int ctl_open(uv_loop_t *loop, const struct ctl_config *config, struct ctl **ctl, struct err *err);

/* Stop serving now; on_closed(arg) when every handle is closed and everything is free. *ctl becomes NULL. */
void ctl_close(struct ctl **ctl, ctl_closed_fn on_closed, void *arg);

/* Graceful: /health answers 503, no new requests, running ones end or reach stop_ms, then on_drained(arg). */
void ctl_drain(struct ctl *ctl, ctl_closed_fn on_drained, void *arg);

void ctl_on_fatal(struct ctl *ctl, ctl_fatal_fn fn, void *arg);

int ctl_http_port(const struct ctl *ctl);               /* the port bound */
const char *ctl_worker_endpoint(const struct ctl *ctl); /* the endpoint bound, with its port */
const char *ctl_native_endpoint(const struct ctl *ctl); /* the same for native clients; NULL: none */

#endif
