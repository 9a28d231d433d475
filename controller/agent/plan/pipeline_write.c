/* The canonical text of a plan: the format of docs/pipelines.md, with every default written out. */
#include "common/base/check.h"
#include "controller/agent/plan/pipeline_impl.h"

#include <string.h>

/* An object under construction; members come in the order of writing. */
struct writer {
    struct buf *out;
    bool first;
};

static void key(struct writer *w, const char *name)
{
    if (!w->first)
        buf_add_char(w->out, ',');
    w->first = false;
    json_add_str(w->out, name, strlen(name));
    buf_add_char(w->out, ':');
}

static struct writer begin(struct buf *out)
{
    buf_add_char(out, '{');
    return (struct writer){.out = out, .first = true};
}

static void end(struct writer *w)
{
    buf_add_char(w->out, '}');
}

static void text(struct writer *w, const char *name, const char *value)
{
    key(w, name);
    json_add_str(w->out, value, strlen(value));
}

static void whole(struct writer *w, const char *name, int64_t value)
{
    key(w, name);
    buf_add_i64(w->out, value);
}

/* Nothing for NULL. */
static void value(struct writer *w, const char *name, const struct json *j)
{
    if (!j)
        return;
    key(w, name);
    json_add(w->out, j);
}

static void template(struct writer *w, const char *name, const struct template *t)
{
    value(w, name, t ? template_source(t) : NULL);
}

static void description(struct writer *w, const char *value)
{
    if (value[0])
        text(w, "description", value);
}

static void codes(struct writer *w, const char *name, const int *code, int n)
{
    key(w, name);
    buf_add_char(w->out, '[');
    for (int i = 0; i < n; i++)
        buf_addf(w->out, "%s%d", i ? "," : "", code[i]);
    buf_add_char(w->out, ']');
}

/* base: the plan's entries, which a tool's list begins with: not written again. */
static void env(struct writer *w, const struct pipeline_env *e, int n, const struct pipeline_env *base, int n_base)
{
    const char *join = "";

    key(w, "env");
    buf_add_char(w->out, '[');
    for (int i = 0; i < n; i++) {
        struct buf entry = {0};
        if (i < n_base && e[i].name == base[i].name && e[i].value == base[i].value)
            continue;
        buf_add_str(&entry, e[i].name);
        if (e[i].value) {
            const struct json *source = template_source(e[i].value);
            buf_add_char(&entry, '=');
            buf_add(&entry, source->text, source->len);
        }
        buf_add_str(w->out, join);
        join = ",";
        json_add_str(w->out, entry.data, entry.len);
        buf_release(&entry);
    }
    buf_add_char(w->out, ']');
}

/* ---- kinds -------------------------------------------------------------------------------------------- */

static void http(struct writer *w, const struct pipeline_http *h)
{
    struct writer in, headers;

    key(w, "http");
    in = begin(w->out);
    text(&in, "method", h->method);
    template(&in, "url", h->url);
    key(&in, "headers");
    headers = begin(w->out);
    for (int i = 0; i < h->n_header; i++)
        template(&headers, h->header[i].name, h->header[i].value);
    end(&headers);
    template(&in, "body", h->body);
    whole(&in, "max_redirects", h->max_redirects);
    end(&in);
}

static void tool(struct buf *out, const struct pipeline *p, const struct pipeline_tool *t)
{
    struct writer w = begin(out), in;

    if (t->name) {
        text(&w, "name", t->name);
        description(&w, t->description);
        value(&w, "parameters", t->parameters_json);
    }
    if (t->http)
        http(&w, t->http);
    template(&w, "command", t->command);
    if (t->command) {
        template(&w, "stdin", t->stdin_value);
        template(&w, "dir", t->dir);
        env(&w, t->env, t->n_env, p->env, p->n_env);
    }
    key(&w, t->http ? "statuses" : "exit_codes");
    in = begin(out);
    codes(&in, "ok", t->ok_code, t->n_ok_code);
    codes(&in, "retry", t->retry_code, t->n_retry_code);
    end(&in);
    text(&w, "returns", t->is_text ? "text" : "json");
    whole(&w, "max_output_bytes", t->max_output_bytes);
    if (t->name)
        whole(&w, "timeout_ms", t->timeout_ms);
    end(&w);
}

static void generate(struct writer *w, const struct pipeline_generate *g)
{
    template(w, "messages", g->messages);
    for (const struct json *c = template_source(g->options)->child; c; c = c->next)
        value(w, c->key, c);
}

static void steps(struct writer *w, const struct pipeline *p, const struct pipeline_steps *list);

static void map(struct buf *out, const struct pipeline *p, const struct pipeline_map *m)
{
    static const char *const source[] = {"over", "jsonl", "files"};
    struct writer w = begin(out);

    template(&w, source[m->source], m->items);
    text(&w, "as", m->as);
    whole(&w, "max_parallel", m->max_parallel);
    steps(&w, p, &m->steps);
    template(&w, "result", m->result);
    end(&w);
}

static void wait(struct buf *out, const struct pipeline_wait *x)
{
    struct writer w = begin(out);

    template(&w, "ms", x->timer_ms);
    template(&w, "approval", x->approval);
    if (x->approval) {
        template(&w, "show", x->show);
        text(&w, "on_reject", x->reject_continues ? "continue" : "fail");
    }
    end(&w);
}

static void agent(struct buf *out, const struct pipeline *p, const struct pipeline_agent *a)
{
    struct writer w = begin(out);

    generate(&w, &a->generate);
    key(&w, "tools");
    buf_add_char(out, '[');
    for (int i = 0; i < a->n_tool; i++) {
        buf_add_str(out, i ? "," : "");
        tool(out, p, &a->tool[i]);
    }
    buf_add_char(out, ']');
    whole(&w, "max_turns", a->max_turns);
    end(&w);
}

static void kind(struct writer *w, const struct pipeline *p, const struct pipeline_step *s)
{
    struct writer in;

    key(w, pipeline_kind_name(s->kind));
    switch (s->kind) {
    case PIPELINE_generate:
        in = begin(w->out);
        generate(&in, &s->u.generate);
        end(&in);
        break;
    case PIPELINE_tool:
        tool(w->out, p, &s->u.tool);
        break;
    case PIPELINE_map:
        map(w->out, p, &s->u.map);
        break;
    case PIPELINE_join:
        json_add(w->out, template_source(s->u.join));
        break;
    case PIPELINE_wait:
        wait(w->out, &s->u.wait);
        break;
    default:
        agent(w->out, p, &s->u.agent);
    }
}

/* ---- a step, the whole -------------------------------------------------------------------------------- */

static void retry(struct writer *w, const struct backoff *b)
{
    struct writer in;
    const char *join = "";

    key(w, "retry");
    in = begin(w->out);
    whole(&in, "max", b->max);
    whole(&in, "base_ms", b->base_ms);
    whole(&in, "max_ms", b->max_ms);
    key(&in, "on");
    buf_add_char(w->out, '[');
    for (int f = FAULT_none + 1; f < FAULT_N; f++)
        if (fault_in(b->on, (enum fault)f)) {
            buf_addf(w->out, "%s\"%s\"", join, fault_name((enum fault)f));
            join = ",";
        }
    buf_add_char(w->out, ']');
    end(&in);
}

static void step(struct buf *out, const struct pipeline *p, const struct pipeline_steps *list,
                 const struct pipeline_step *s)
{
    bool asks_model = s->kind == PIPELINE_generate || s->kind == PIPELINE_agent;
    struct writer w = begin(out);

    text(&w, "id", s->id);
    description(&w, s->description);
    key(&w, "needs");
    buf_add_char(out, '[');
    for (int i = 0; i < s->n_need; i++) {
        buf_add_str(out, i ? "," : "");
        json_add_str(out, list->step[s->need[i]].id, strlen(list->step[s->need[i]].id));
    }
    buf_add_char(out, ']');
    if (s->when)
        text(&w, "when", s->when_text);
    if (asks_model || s->kind == PIPELINE_tool)
        retry(&w, &s->retry);
    whole(&w, "timeout_ms", s->timeout_ms);
    text(&w, "on_error", s->on_error_continue ? "continue" : "fail");
    if (s->output)
        value(&w, "output", schema_source(s->output));
    if (asks_model && s->output)
        whole(&w, "repair", s->repair);
    kind(&w, p, s);
    end(&w);
}

static void steps(struct writer *w, const struct pipeline *p, const struct pipeline_steps *list)
{
    key(w, "steps");
    buf_add_char(w->out, '[');
    for (int i = 0; i < list->n; i++) {
        buf_add_str(w->out, i ? "," : "");
        step(w->out, p, list, &list->step[i]);
    }
    buf_add_char(w->out, ']');
}

void pipeline__write(const struct pipeline *p, struct buf *out)
{
    struct writer w = begin(out), in;

    text(&w, "pipeline", p->name);
    description(&w, p->description);
    text(&w, "dir", p->dir);
    env(&w, p->env, p->n_env, NULL, 0);
    key(&w, "inputs");
    in = begin(out);
    for (int i = 0; i < p->n_input; i++)
        value(&in, p->input[i].name, p->input[i].source);
    end(&in);
    key(&w, "limits");
    in = begin(out);
    whole(&in, "deadline_ms", p->deadline_ms);
    whole(&in, "max_retries", p->max_retries);
    whole(&in, "max_parallel", p->max_parallel);
    end(&in);
    steps(&w, p, &p->steps);
    template(&w, "result", p->result);
    end(&w);
}
