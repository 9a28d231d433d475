#include "controller/durable.h"

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/mem/mem.h"
#include "common/text/json.h"
#include "controller/ledger/recall.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    STANDBY_MS = 200,              /* between two tries of a standby to become the leader */
    EPOCHS_PER_START = 1000000,    /* worker epochs of one life: those of the next begin behind them */
};

/* ---- what the store tells ---- */

static void on_progress(void *arg, uint64_t committed, uint64_t durable)
{
    struct ctl *ctl = arg;

    (void)durable;
    ctl_ledger_on_progress(ctl->ledger, committed);
    ctl_wake(ctl);
}

static void on_refused(void *arg, const struct store_refusal *r)
{
    struct ctl *ctl = arg;
    ctl_ledger_on_refused(ctl->ledger, r);
}

static void on_state(void *arg, enum store_state state, enum store_fault fault, const char *text)
{
    struct ctl *ctl = arg;

    ctl->store_state = state;
    ctl->store_fault = fault;
    snprintf(ctl->store_text, sizeof ctl->store_text, "%s", text);
    ctl_ledger_on_state(ctl->ledger, state, fault);
    ctl_wake(ctl);
}

static const struct store_events store_events = {on_progress, on_refused, on_state};

/* ---- reading back ---- */

struct reading {
    struct ctl *ctl;
    struct err *err;
    struct ctl_request *r; /* the one being read */
    int64_t n_tok;
};

static int on_request(void *arg, const struct store_request *q)
{
    struct reading *k = arg;
    struct ctl *ctl = k->ctl;

    int rc = ctl_recall_request(q, (int64_t)uv_now(ctl->loop), &k->r, k->err);
    if (rc)
        return rc;
    k->r->ctl = ctl;
    if (ctl->n_recovered == ctl->cap_recovered) {
        ctl->cap_recovered = ctl->cap_recovered ? 2 * ctl->cap_recovered : 64;
        ctl->recovered = mem_realloc(ctl->recovered, ctl->cap_recovered * sizeof(struct ctl_request *));
    }
    ctl->recovered[ctl->n_recovered++] = k->r;
    return 0;
}

static int on_tokens(void *arg, const struct store_tokens *t)
{
    struct reading *k = arg;
    k->n_tok += t->n;
    return ctl_recall_tokens(k->r, t, k->err);
}

static int on_end(void *arg, const struct store_end *e)
{
    struct reading *k = arg;
    return ctl_recall_end(k->r, e, k->err);
}

static int read_back(struct ctl *ctl, struct err *err)
{
    struct reading k = {.ctl = ctl, .err = err};
    const struct store_visitor v = {.on_request = on_request, .on_tokens = on_tokens, .on_end = on_end};

    int rc = store_load(ctl->store, STORE_LOAD_live, &v, &k, err);
    if (rc)
        return rc;
    if (ctl->n_recovered)
        log_info(ledger, "%zu requests with %" PRId64 " tokens go on from the store", ctl->n_recovered, k.n_tok);
    return 0;
}

/* ---- life ---- */

static void wake(void *arg)
{
    ctl_wake(arg);
}

static void on_idle_request(void *arg, struct ctl_request *r)
{
    struct ctl *ctl = arg;
    ctl_sched_idle(ctl->sched, r);
}

static void on_refused_request(void *arg, struct ctl_request *r, const char *text)
{
    struct ctl *ctl = arg;
    ctl_sched_refused(ctl->sched, r, text);
}

static int open_store(struct ctl *ctl, struct err *err)
{
    struct store_config c;
    int rc;

    store_config_init(&c);
    c.url = ctl->config.store;
    for (bool said = false; (rc = store_open(ctl->loop, &c, &store_events, ctl, &ctl->store, err)) == ERR_BUSY;) {
        if (!ctl->config.standby)
            return rc;
        if (!said)
            log_info(store, "standing by: %s", err->text);
        said = true;
        uv_sleep(STANDBY_MS);
    }
    return rc;
}

int ctl__durable_open(struct ctl *ctl, struct err *err)
{
    struct store_status st;
    int rc = 0;

    if (ctl->config.store) {
        rc = open_store(ctl, err);
        if (!rc)
            rc = read_back(ctl, err);
        if (!rc)
            rc = store_start(ctl->store, err);
        if (rc)
            return rc;
        store_status(ctl->store, &st);
        ctl->epoch_base = st.epoch * EPOCHS_PER_START;
    }
    struct ctl_ledger_opts opts = {
        .store = ctl->store,
        .commit = ctl->config.commit,
        .wake = wake,
        .on_idle = on_idle_request,
        .on_refused = on_refused_request,
        .arg = ctl,
    };
    ctl->ledger = ctl_ledger_new(&opts);
    return 0;
}

void ctl__durable_restore(struct ctl *ctl)
{
    for (size_t i = 0; i < ctl->n_recovered; i++)
        ctl_sched_restore(ctl->sched, ctl->recovered[i]);
    ctl->restored = true;
}

void ctl__durable_recover(struct ctl *ctl)
{
    for (size_t i = 0; i < ctl->n_recovered; i++) {
        struct ctl_request *r = ctl->recovered[i];
        if (r->origin == CTL_ORIGIN_api && ctl->parts.front->recover)
            ctl->parts.front->recover(ctl->front, r);
    }
    ctl_sched_settle(ctl->sched);
    mem_free(ctl->recovered);
    ctl->recovered = NULL;
    ctl->n_recovered = ctl->cap_recovered = 0;
}

void ctl__durable_close(struct ctl *ctl, void (*on_closed)(void *arg))
{
    if (!ctl->store) {
        on_closed(ctl);
        return;
    }
    if (ctl->ledger && ctl->store_state != STORE_STATE_fenced)
        ctl_ledger_put(ctl->ledger);
    store_close(&ctl->store, on_closed, ctl);
}

void ctl__durable_release(struct ctl *ctl)
{
    for (size_t i = 0; i < ctl->n_recovered && !ctl->restored; i++)
        ctl_request_destroy(&ctl->recovered[i]);
    mem_free(ctl->recovered);
    ctl_ledger_destroy(&ctl->ledger);
}

void ctl__durable_status(struct ctl *ctl, struct buf *out)
{
    struct store_status st;

    if (!ctl->store) {
        buf_add_str(out, "\"store\":{\"kind\":\"off\"}");
        return;
    }
    store_status(ctl->store, &st);
    bool pg = strncmp(ctl->config.store, "postgres", 8) == 0;
    buf_addf(out,
             "\"store\":{\"kind\":\"%s\",\"commit\":\"%s\",\"state\":\"%s\",\"fault\":\"%s\",\"epoch\":%" PRIu64
             ",\"waiting\":%" PRId64 ",\"commits\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"refused\":%" PRIu64,
             pg ? "postgresql" : "sqlite", ctl_commit_name(ctl->config.commit), store_state_name(st.state),
             store_fault_name(st.fault), st.epoch, ctl_ledger_n_waiting(ctl->ledger), st.n_commit, st.n_failed,
             st.n_refused);
    buf_add_str(out, ",\"text\":");
    json_add_str(out, st.text, strlen(st.text));
    buf_add_char(out, '}');
}

/* ---- for the rooms ---- */

struct store *ctl_store(struct ctl *ctl)
{
    return ctl->store;
}

const char *ctl_store_fault(struct ctl *ctl)
{
    return ctl->store && ctl->store_state != STORE_STATE_ready ? store_fault_name(ctl->store_fault) : NULL;
}
