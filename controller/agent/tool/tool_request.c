/* Tool plus scope = request: all templates rendered, every value checked before anything is started. */
#include "common/base/check.h"
#include "common/text/jsonmake.h"
#include "controller/agent/tool/tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* The step's scope with env and args. */
struct tool_scope {
    const struct expr_scope *outer;
    const struct json *env, *args;
};

static const struct json *get(void *arg, const char *root, const char *step)
{
    struct tool_scope *s = arg;

    if (strcmp(root, "env") == 0)
        return s->env;
    if (strcmp(root, "args") == 0 && s->args)
        return s->args;
    return s->outer->get(s->outer->arg, root, step);
}

static const struct json *env_values(const struct pipeline_tool *tool, struct arena *arena)
{
    struct jsonmake m;

    jsonmake_begin(&m, arena, JSON_OBJECT);
    for (int i = 0; i < tool->n_env; i++) {
        const char *value = tool->env[i].value ? NULL : getenv(tool->env[i].name);
        if (value)
            jsonmake_put(&m, tool->env[i].name, jsonmake_cstr(arena, value));
    }
    return jsonmake_end(&m);
}

/* A text without NUL, of at most TOOL_ARG_MAX bytes, in the arena. */
static int text_of(const struct template *t, const struct expr_scope *scope, const char *what, struct arena *arena,
                   char **out, struct err *err)
{
    struct buf b = {0};
    int rc = template_render_text(t, scope, &b, err);

    if (rc)
        err_wrap(err, "%s", what);
    else if (b.len > TOOL_ARG_MAX)
        rc = err_set(err, ERR_LIMIT, "%s has more than %d bytes: hand it over on stdin", what, TOOL_ARG_MAX);
    else if (b.len && memchr(b.data, 0, b.len))
        rc = err_set(err, ERR_ARG, "%s has a NUL in it", what);
    else
        *out = arena_dup(arena, b.len ? b.data : "", b.len);
    buf_release(&b);
    return rc;
}

static void add_env(struct tool_request *r, int *n, const char *name, const char *value)
{
    struct buf b = {0};

    buf_addf(&b, "%s=", name);
    buf_add_str(&b, value);
    r->env[(*n)++] = arena_dup(&r->arena, b.data, b.len);
    buf_release(&b);
}

static int make_env(struct tool_request *r, const struct pipeline_tool *tool, const struct expr_scope *scope,
                    const struct tool_who *who, struct err *err)
{
    bool has_path = false;
    char attempt[16], *value;
    int n = 0, rc = 0;

    r->env = arena_array(&r->arena, (size_t)tool->n_env + 8, sizeof *r->env);
    for (int i = 0; i < tool->n_env && rc == 0; i++) {
        const struct pipeline_env *e = &tool->env[i];
        const char *own = getenv(e->name);
        if (e->value)
            rc = text_of(e->value, scope, e->name, &r->arena, &value, err);
        if (rc == 0 && (e->value || own))
            add_env(r, &n, e->name, e->value ? value : own);
        has_path = has_path || ((e->value || own) && strcmp(e->name, "PATH") == 0);
    }
    if (!has_path)
        add_env(r, &n, "PATH", getenv("PATH") ? getenv("PATH") : PATH_DEFAULT);
    snprintf(attempt, sizeof attempt, "%d", who->attempt);
    add_env(r, &n, "BATON_RUN", who->run);
    add_env(r, &n, "BATON_STEP", who->step);
    add_env(r, &n, "BATON_ATTEMPT", attempt);
    add_env(r, &n, "BATON_EFFECT_TOKEN", who->effect_token);
    return rc;
}

static int make_argv(struct tool_request *r, const struct template *command, const struct expr_scope *scope,
                     struct err *err)
{
    const struct json *list;
    int rc = template_render(command, scope, &r->arena, &list, err), n = 0;

    if (rc)
        return rc;
    if (list->kind != JSON_ARRAY || list->n == 0 || list->n > PIPELINE_ARGV_MAX)
        return err_set(err, ERR_ARG, "command must be a list of 1 to %d texts", PIPELINE_ARGV_MAX);
    r->argv = arena_array(&r->arena, list->n + 1, sizeof *r->argv);
    for (const struct json *c = list->child; c; c = c->next, n++) {
        if (c->kind == JSON_STRING || c->kind == JSON_NUMBER)
            r->argv[n] = arena_dup(&r->arena, c->text, c->len); /* the scope's values end before the request */
        else if (json_is_bool(c))
            r->argv[n] = arena_strdup(&r->arena, c->kind == JSON_TRUE ? "true" : "false");
        else
            return err_set(err, ERR_ARG, "argument %d of the command must be a text, is %s", n, json_kind_name(c));
        if (strlen(r->argv[n]) > TOOL_ARG_MAX)
            return err_set(err, ERR_LIMIT, "argument %d of the command has more than %d bytes: hand it over on stdin",
                           n, TOOL_ARG_MAX);
        if (c->kind == JSON_STRING && strlen(c->text) != c->len)
            return err_set(err, ERR_ARG, "argument %d of the command has a NUL in it", n);
    }
    if (!r->argv[0][0])
        return err_set(err, ERR_ARG, "the name of the command is empty");
    return 0;
}

/* JSON for stdin or body: the template's value, else the arguments, else nothing. */
static int make_input(struct tool_request *r, const struct template *t, const struct json *args,
                      const struct expr_scope *scope, struct err *err)
{
    const struct json *v = args;
    struct buf b = {0};

    if (t) {
        int rc = template_render(t, scope, &r->arena, &v, err);
        if (rc)
            return rc;
    }
    if (!v)
        return 0;
    json_add(&b, v);
    int rc = b.len > TOOL_STDIN_MAX ? err_set(err, ERR_LIMIT, "input of more than %d bytes", TOOL_STDIN_MAX) : 0;
    r->input = rc ? NULL : arena_dup(&r->arena, b.data, b.len);
    r->input_len = b.len;
    buf_release(&b);
    return rc;
}

static int make_command(struct tool_request *r, const struct pipeline_tool *tool, const struct expr_scope *scope,
                        const char *dir, const struct json *args, const struct tool_who *who, struct err *err)
{
    char *below = NULL;
    int rc = make_argv(r, tool->command, scope, err);

    if (rc == 0)
        rc = make_env(r, tool, scope, who, err);
    if (rc == 0)
        rc = make_input(r, tool->stdin_value, args, scope, err);
    if (rc == 0 && tool->dir)
        rc = text_of(tool->dir, scope, "dir", &r->arena, &below, err);
    if (rc)
        return rc;
    struct buf path = {0};
    if (!below || below[0] != '/')
        buf_addf(&path, "%s%s", dir, below && below[0] ? "/" : "");
    buf_add_str(&path, below ? below : "");
    r->dir = arena_dup(&r->arena, path.data, path.len);
    buf_release(&path);
    return 0;
}

/* ---- http --------------------------------------------------------------------------------------------- */

static int add_header(struct tool_request *r, int *n, const char *name, const char *value, struct err *err)
{
    struct buf b = {0};

    for (const char *p = value; *p; p++)
        if ((unsigned char)*p < 0x20 && *p != '\t')
            return err_set(err, ERR_ARG, "header %s has a line break or another control character in it", name);
    buf_addf(&b, "%s: ", name);
    buf_add_str(&b, value);
    r->header[(*n)++] = arena_dup(&r->arena, b.data, b.len);
    buf_release(&b);
    return 0;
}

static int make_headers(struct tool_request *r, const struct pipeline_http *h, const struct expr_scope *scope,
                        const struct tool_who *who, struct err *err)
{
    bool has_type = false, has_accept = false;
    char *value;
    int n = 0, rc = 0;

    r->header = arena_array(&r->arena, (size_t)h->n_header + 4, sizeof *r->header);
    for (int i = 0; i < h->n_header && rc == 0; i++) {
        const char *name = h->header[i].name;
        rc = text_of(h->header[i].value, scope, name, &r->arena, &value, err);
        if (rc == 0)
            rc = add_header(r, &n, name, value, err);
        has_type = has_type || strcasecmp(name, "Content-Type") == 0;
        has_accept = has_accept || strcasecmp(name, "Accept") == 0;
    }
    if (rc == 0 && r->input && !has_type)
        rc = add_header(r, &n, "Content-Type", "application/json", err);
    if (rc == 0 && !has_accept && !r->is_text)
        rc = add_header(r, &n, "Accept", "application/json", err);
    return rc ? rc : add_header(r, &n, "Idempotency-Key", who->effect_token, err);
}

static int make_http(struct tool_request *r, const struct pipeline_http *h, const struct expr_scope *scope,
                     const struct json *args, const struct tool_who *who, struct err *err)
{
    bool takes_body = strcmp(h->method, "GET") != 0 && strcmp(h->method, "DELETE") != 0;
    char *url;
    int rc = text_of(h->url, scope, "url", &r->arena, &url, err);

    if (rc)
        return rc;
    if (strncasecmp(url, "http://", 7) != 0 && strncasecmp(url, "https://", 8) != 0)
        return err_set(err, ERR_ARG, "url must begin with http:// or https://: %.100s", url);
    for (const char *p = url; *p; p++)
        if ((unsigned char)*p <= 0x20 || (unsigned char)*p == 0x7f)
            return err_set(err, ERR_ARG, "url has a space or a control character in it: %.100s", url);
    r->is_http = true;
    r->method = h->method;
    r->url = url;
    r->max_redirects = h->max_redirects;
    rc = make_input(r, h->body, takes_body ? args : NULL, scope, err);
    return rc ? rc : make_headers(r, h, scope, who, err);
}

int tool_request_make(struct tool_request *out, const struct pipeline_tool *tool, const struct expr_scope *scope,
                      const char *dir, const struct json *args, const struct tool_who *who, struct err *err)
{
    struct tool_request r = {0};
    struct err why = {0};

    struct tool_scope inner = {.outer = scope, .env = env_values(tool, &r.arena), .args = args};
    struct expr_scope own = {.get = get, .arg = &inner};
    r.is_text = tool->is_text;
    r.timeout_ms = tool->timeout_ms;
    r.max_output_bytes = tool->max_output_bytes;
    r.ok_code = tool->ok_code;
    r.n_ok_code = tool->n_ok_code;
    r.retry_code = tool->retry_code;
    r.n_retry_code = tool->n_retry_code;
    int rc = tool->http ? make_http(&r, tool->http, &own, args, who, &why)
                        : make_command(&r, tool, &own, dir, args, who, &why);
    if (rc == 0) {
        *out = r;
    } else {
        tool_request_release(&r);
        if (err)
            *err = why;
    }
    return rc;
}

void tool_request_release(struct tool_request *r)
{
    arena_release(&r->arena);
    memset(r, 0, sizeof *r);
}
