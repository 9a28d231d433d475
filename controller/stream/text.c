#include "controller/stream/text.h"

#include "common/base/check.h"
#include "common/mem/mem.h"
#include "common/text/utf8.h"

/* Which text the stop search is in; a match does not reach from one into the other. */
enum text_kind { KIND_NONE, KIND_REASONING, KIND_CONTENT };

struct stream_text {
    struct stream_text_opts opts;
    const struct parse_events *events;
    void *arg;
    struct utf8_stream utf8;
    struct parse *parse;
    struct stop_search search;
    enum text_kind kind;
    enum stream_text_end end;
    bool finished;
    bool reasoning; /* for the count: are we in the reasoning? */
    int32_t think_end, user, assistant, eos;
    int64_t n_tok, n_reasoning;
    int n_call_complete; /* not the parser's count: what comes behind a stop string does not */
    struct buf text, out; /* scratch */
};

/* ---- from the parser ---- */

static void give(struct stream_text *t, const struct buf *b)
{
    if (b->len == 0)
        return;
    if (t->kind == KIND_REASONING)
        t->events->on_reasoning(t->arg, b->data, b->len);
    else
        t->events->on_content(t->arg, b->data, b->len);
}

/* Leave the kind of text we were in: what was held as a possible stop string is text after all. */
static void set_kind(struct stream_text *t, enum text_kind kind)
{
    if (t->kind == kind)
        return;
    if (t->kind != KIND_NONE) {
        buf_clear(&t->out);
        stop_search_flush(&t->search, &t->out);
        give(t, &t->out);
    }
    t->kind = kind;
}

static void on_text(struct stream_text *t, enum text_kind kind, const char *text, size_t n)
{
    if (t->end == STREAM_TEXT_STOP)
        return;
    set_kind(t, kind);
    buf_clear(&t->out);
    bool stop = stop_search_feed(&t->search, t->opts.stops, text, n, &t->out);
    give(t, &t->out);
    if (stop)
        t->end = STREAM_TEXT_STOP;
}

static void on_reasoning(void *arg, const char *text, size_t n)
{
    struct stream_text *t = arg;
    t->reasoning = true;
    on_text(t, KIND_REASONING, text, n);
}

static void on_content(void *arg, const char *text, size_t n)
{
    struct stream_text *t = arg;
    t->reasoning = false;
    on_text(t, KIND_CONTENT, text, n);
}

static void on_call(void *arg, int call, const char *name, size_t n)
{
    struct stream_text *t = arg;
    t->reasoning = false;
    if (t->end == STREAM_TEXT_STOP)
        return;
    set_kind(t, KIND_NONE);
    if (t->opts.n_call_max > 0 && call >= t->opts.n_call_max) {
        t->end = STREAM_TEXT_STOP;
        return;
    }
    t->events->on_call(t->arg, call, name, n);
}

static void on_arguments(void *arg, int call, const char *json, size_t n)
{
    struct stream_text *t = arg;
    if (t->end != STREAM_TEXT_STOP)
        t->events->on_arguments(t->arg, call, json, n);
}

static void on_call_end(void *arg, int call, bool complete)
{
    struct stream_text *t = arg;
    if (t->end == STREAM_TEXT_STOP)
        return;
    t->n_call_complete += complete;
    t->events->on_call_end(t->arg, call, complete);
}

static const struct parse_events from_parser = {
    .on_reasoning = on_reasoning,
    .on_content = on_content,
    .on_call = on_call,
    .on_arguments = on_arguments,
    .on_call_end = on_call_end,
};

/* ---- tokens ---- */

struct stream_text *stream_text_new(const struct stream_text_opts *opts, const struct parse_events *events, void *arg)
{
    struct stream_text *t = mem_zalloc(sizeof *t);

    t->opts = *opts;
    t->events = events;
    t->arg = arg;
    t->parse = parse_new(&opts->parse, &from_parser, t);
    t->reasoning = opts->parse.in_reasoning;
    t->think_end = tok_find(opts->tok, "</think>");
    t->user = tok_find(opts->tok, "<｜User｜>");
    t->assistant = tok_find(opts->tok, "<｜Assistant｜>");
    t->eos = tok_eos(opts->tok);
    return t;
}

void stream_text_destroy(struct stream_text **t_p)
{
    struct stream_text *t = *t_p;

    if (!t)
        return;
    *t_p = NULL;
    parse_destroy(&t->parse);
    stop_search_release(&t->search);
    buf_release(&t->text);
    buf_release(&t->out);
    mem_free(t);
}

/* Rule 14; EOS itself comes only if the client asked not to end there. */
static bool is_hidden(const struct stream_text *t, int32_t id)
{
    return id == t->eos || id == t->user || id == t->assistant || tok_is_special(t->opts.tok, id);
}

static void feed_one(struct stream_text *t, int32_t id)
{
    size_t n;
    const char *bytes = tok_bytes(t->opts.tok, id, &n);

    if (!bytes || is_hidden(t, id)) {
        if (!t->opts.ignore_eos) {
            t->end = STREAM_TEXT_SPECIAL;
            return;
        }
        t->n_tok++;
        t->n_reasoning += t->reasoning;
        return;
    }
    t->n_tok++;
    buf_clear(&t->text);
    utf8_stream_feed(&t->utf8, bytes, n, &t->text);
    if (t->text.len)
        parse_feed(t->parse, t->text.data, t->text.len);
    if (id == t->think_end)
        t->reasoning = false;
    else if (t->reasoning)
        t->n_reasoning++;
}

enum stream_text_end stream_text_feed(struct stream_text *t, const int32_t *id, int64_t n)
{
    ASSERT(!t->finished);
    for (int64_t i = 0; i < n && t->end == STREAM_TEXT_OPEN; i++)
        feed_one(t, id[i]);
    return t->end;
}

void stream_text_finish(struct stream_text *t)
{
    if (t->finished)
        return;
    t->finished = true;
    buf_clear(&t->text);
    utf8_stream_end(&t->utf8, &t->text);
    if (t->text.len)
        parse_feed(t->parse, t->text.data, t->text.len);
    parse_end(t->parse);
    if (t->end != STREAM_TEXT_STOP)
        set_kind(t, KIND_NONE);
}

int64_t stream_text_n_tok(const struct stream_text *t)
{
    return t->n_tok;
}

int64_t stream_text_n_reasoning(const struct stream_text *t)
{
    return t->n_reasoning;
}

int stream_text_n_call_complete(const struct stream_text *t)
{
    return t->n_call_complete;
}
