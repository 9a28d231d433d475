#include "controller/ledger/recall.h"

#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "controller/ledger/extra.h"
#include "controller/ledger/params.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int damaged(struct err *err, const char *id, const char *what)
{
    return err_set(err, ERR_FORMAT, "stored request %s: %s", id, what);
}

int ctl_recall_request(const struct store_request *q, int64_t now_ms, struct ctl_request **r_p, struct err *err)
{
    if (q->n_choice < 1 || q->n_choice > CTL_CHOICES_MAX || q->n_prompt < 1)
        return damaged(err, q->id, "an impossible number of choices or prompt tokens");
    struct ctl_request *r = ctl_request_new(q->n_choice);
    int rc = params_decode(q->params_version, q->params, q->params_bytes, r, err);
    if (!rc && (strlen(q->id) >= sizeof r->id || strlen(q->tenant) >= sizeof r->tenant ||
                strlen(q->path) >= sizeof r->path))
        rc = err_set(err, ERR_FORMAT, "a name is too long");
    if (rc) {
        ctl_request_destroy(&r);
        return err_wrap(err, "stored request %s", q->id);
    }
    snprintf(r->id, sizeof r->id, "%s", q->id);
    snprintf(r->tenant, sizeof r->tenant, "%s", q->tenant);
    snprintf(r->path, sizeof r->path, "%s", q->path);
    r->key = q->key ? mem_strdup(q->key) : NULL;
    memcpy(r->body_hash, q->body_hash, sizeof r->body_hash);
    r->prompt = mem_dup(q->prompt, (size_t)q->n_prompt * sizeof *r->prompt);
    r->n_prompt = q->n_prompt;
    r->sampling.seed = q->seed;
    r->created_ms = q->created_ms;
    r->deadline_ms = now_ms + (q->deadline_ms - clock_wall_ms());
    if (r->deadline_ms == 0)
        r->deadline_ms = -1; /* 0 would be "the default" */
    r->accepted = r->recovered = true;
    for (int i = 0; i < r->n_choice; i++)
        r->choice[i].seed = r->sampling.seed + (uint64_t)i;
    *r_p = r;
    return 0;
}

static struct ctl_choice *choice_of(struct ctl_request *r, int32_t choice)
{
    return choice >= 0 && choice < r->n_choice ? &r->choice[choice] : NULL;
}

int ctl_recall_tokens(struct ctl_request *r, const struct store_tokens *t, struct err *err)
{
    struct ctl_choice *c = choice_of(r, t->choice);
    char numerics[MSG_NAME_MAX];

    if (!c || t->n < 1 || t->first != c->out.n || t->n > r->max_output - c->out.n)
        return damaged(err, r->id, "a row of tokens does not fit");
    ctl_output_reserve(&c->out, t->n, r->sampling.n_top);
    int rc = extra_decode(t->extra, t->extra_bytes, r->sampling.n_top, c->out.n, t->n, &c->out, numerics, err);
    if (rc)
        return err_wrap(err, "stored request %s", r->id);
    memcpy(c->out.id + c->out.n, t->id, (size_t)t->n * sizeof *t->id);
    if (numerics[0]) {
        c->exact &= !c->numerics[0] || strcmp(numerics, c->numerics) == 0;
        memcpy(c->numerics, numerics, sizeof c->numerics);
        memcpy(c->numerics_put, numerics, sizeof c->numerics_put);
    }
    c->out.n += t->n;
    c->n_put = c->n_shown = c->out.n;
    c->n_dispatch = 1; /* at least; the next one is a re-dispatch */
    return 0;
}

int ctl_recall_end(struct ctl_request *r, const struct store_end *e, struct err *err)
{
    struct ctl_choice *c = choice_of(r, e->choice);
    enum ctl_end end = ctl_end_of(e->finish);
    int exact;

    if (!c || c->state == CTL_CHOICE_ended || end == CTL_END_none || e->n_tok != c->out.n)
        return damaged(err, r->id, "an end does not fit");
    ctl_choice_move(c, CTL_CHOICE_ended);
    c->end = end;
    c->cached_tok = e->usage.cached_tok;
    c->reasoning_tok = e->usage.reasoning_tok;
    c->end_put = c->told = true;
    r->n_live--;
    if (e->text && sscanf(e->text, "attempts=%d recomputed=%" SCNd64 " exact=%d", &c->n_dispatch, &c->recomputed_tok,
                          &exact) == 3)
        c->exact = exact;
    else if (e->text)
        snprintf(c->fail_text, sizeof c->fail_text, "%.*s", (int)sizeof c->fail_text - 1, e->text);
    return 0;
}
