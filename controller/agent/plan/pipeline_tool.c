/* Tools, of a step and of an agent. */
#include "common/base/check.h"
#include "controller/agent/plan/doc.h"
#include "controller/agent/plan/pipeline_impl.h"

#include <string.h>
#include <strings.h>

static const int ok_code_default[] = {0}, retry_code_default[] = {75};

/* A list of whole numbers; the default when absent. */
static void read_codes(struct maker *m, const struct json *j, int min, int max, const int *fallback, int n_fallback,
                       const int **code, int *n_code)
{
    *code = fallback;
    *n_code = n_fallback;
    if (!j)
        return;
    if (j->kind != JSON_ARRAY || j->n > PIPELINE_CODES_MAX) {
        pipeline__fault(m, j, "%s must be a list of at most %d numbers", j->key, PIPELINE_CODES_MAX);
        return;
    }
    int *list = arena_array(m->arena, j->n + 1, sizeof *list), n = 0;
    for (const struct json *c = j->child; c; c = c->next) {
        int64_t v;
        if (!json_to_i64(c, &v) || v < min || v > max)
            pipeline__fault(m, c, "%s must be a list of numbers within %d and %d", j->key, min, max);
        else
            list[n++] = (int)v;
    }
    *code = list;
    *n_code = n;
}

static void check_overlap(struct maker *m, const struct json *j, const struct pipeline_tool *t)
{
    for (int i = 0; i < t->n_ok_code; i++)
        for (int k = 0; k < t->n_retry_code; k++)
            if (t->ok_code[i] == t->retry_code[k])
                pipeline__fault(m, j, "%d is both ok and retry", t->ok_code[i]);
}

static void read_command(struct maker *m, const struct json *tool, struct pipeline_tool *t)
{
    static const char *const code_keys[] = {"ok", "retry"};
    const struct json *j = json_get(tool, "command"), *codes = json_get(tool, "exit_codes");

    if (j->kind != JSON_ARRAY || j->n == 0 || j->n > PIPELINE_ARGV_MAX)
        pipeline__fault(m, j,
                        "command must be a list of 1 to %d texts: [\"program\", \"argument\"]; it never goes through "
                        "a shell",
                        PIPELINE_ARGV_MAX);
    for (const struct json *c = j->child; c; c = c->next)
        if (c->kind != JSON_STRING && c->kind != JSON_NUMBER && !json_is_bool(c))
            pipeline__fault(m, c, "an argument of a command must be a text, is %s", json_kind_name(c));
        else if (c->kind == JSON_STRING && strlen(c->text) != c->len)
            pipeline__fault(m, c, "an argument of a command has a NUL in it");
    if (j->child && j->child->kind == JSON_STRING && j->child->len == 0)
        pipeline__fault(m, j, "the name of the command is empty");
    t->command = pipeline__template(m, j, 1 << JSON_ARRAY, "a list of texts");
    t->stdin_value = pipeline__template(m, json_get(tool, "stdin"), 0, "");
    t->dir = pipeline__template(m, json_get(tool, "dir"), 1 << JSON_STRING, "a path");
    if (codes && !pipeline__object(m, codes, "exit_codes", code_keys, N_ELEM(code_keys)))
        codes = NULL;
    read_codes(m, json_get(codes, "ok"), 0, 255, ok_code_default, 1, &t->ok_code, &t->n_ok_code);
    read_codes(m, json_get(codes, "retry"), 0, 255, retry_code_default, 1, &t->retry_code, &t->n_retry_code);
    check_overlap(m, codes ? codes : j, t);
}

/* ---- http --------------------------------------------------------------------------------------------- */

static void check_url(struct maker *m, const struct json *j)
{
    if (!j || j->kind != JSON_STRING)
        return;
    if (strncasecmp(j->text, "http://", 7) != 0 && strncasecmp(j->text, "https://", 8) != 0 &&
        strncmp(j->text, "{{", 2) != 0)
        pipeline__fault(m, j, "url must begin with http:// or https://");
}

static bool is_header_name(const struct json *j)
{
    return j->key_len > 0 && strspn(j->key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") ==
                                 j->key_len;
}

static void read_headers(struct maker *m, const struct json *j, struct pipeline_http *http)
{
    static const char *const own[] = {"Content-Length", "Transfer-Encoding", "Host", "Idempotency-Key"};

    if (!j)
        return;
    if (j->kind != JSON_OBJECT || j->n > PIPELINE_HEADERS_MAX) {
        pipeline__fault(m, j, "headers must be an object of at most %d texts", PIPELINE_HEADERS_MAX);
        return;
    }
    struct pipeline_header *list = arena_array(m->arena, j->n + 1, sizeof *list);
    for (const struct json *c = j->child; c; c = c->next) {
        if (!is_header_name(c))
            pipeline__fault(m, c, "'%.64s' is no name of a header", c->key);
        for (size_t i = 0; i < N_ELEM(own); i++)
            if (strcasecmp(c->key, own[i]) == 0)
                pipeline__fault(m, c, "the header %s is set by the controller", own[i]);
        list[http->n_header].name = c->key;
        list[http->n_header++].value = pipeline__template(m, c, 1 << JSON_STRING, "a text");
    }
    http->header = list;
}

static void read_http(struct maker *m, const struct json *tool, struct pipeline_tool *t)
{
    static const char *const keys[] = {"method", "url", "headers", "body", "max_redirects"};
    static const char *const methods[] = {"GET", "POST", "PUT", "PATCH", "DELETE"};
    static const char *const code_keys[] = {"ok", "retry"};
    const struct json *j = json_get(tool, "http"), *codes = json_get(tool, "statuses");
    struct pipeline_http *http = arena_zalloc(m->arena, sizeof *http);

    t->http = http;
    http->method = "GET";
    if (!pipeline__object(m, j, "http", keys, N_ELEM(keys)))
        return;
    http->body = pipeline__template(m, json_get(j, "body"), 0, "");
    http->method = methods[pipeline__choice(m, j, "method", methods, N_ELEM(methods), http->body ? 1 : 0)];
    if (http->body && strcmp(http->method, "GET") == 0)
        pipeline__fault(m, json_get(j, "method"), "GET has no body");
    http->url = pipeline__template(m, json_get(j, "url"), 1 << JSON_STRING, "a text");
    if (!json_get(j, "url"))
        pipeline__fault(m, j, "http needs a url");
    check_url(m, json_get(j, "url"));
    read_headers(m, json_get(j, "headers"), http);
    http->max_redirects = (int)pipeline__int(m, j, "max_redirects", 0, PIPELINE_REDIRECTS_MAX, 0);
    if (codes && !pipeline__object(m, codes, "statuses", code_keys, N_ELEM(code_keys)))
        codes = NULL;
    read_codes(m, json_get(codes, "ok"), 200, 599, NULL, 0, &t->ok_code, &t->n_ok_code);
    read_codes(m, json_get(codes, "retry"), 300, 599, NULL, 0, &t->retry_code, &t->n_retry_code);
    check_overlap(m, codes ? codes : j, t);
}

/* ---- both --------------------------------------------------------------------------------------------- */

static void read_of_agent(struct maker *m, const struct json *j, struct pipeline_tool *t)
{
    const struct json *parameters = json_get(j, "parameters");

    t->name = pipeline__text(m, j, "name", PIPELINE_ID_MAX, "");
    t->description = pipeline__text(m, j, "description", 4096, "");
    if (!pipeline__is_id(t->name, strlen(t->name)))
        pipeline__fault(m, json_get(j, "name") ? json_get(j, "name") : j,
                        "a tool needs a name of letters, digits, _ and -, at most %d", PIPELINE_ID_MAX);
    if (!parameters) {
        pipeline__fault(m, j, "a tool needs parameters: the JSON schema of its arguments ({type: object} for none)");
        return;
    }
    if (!json_is_str(json_get(parameters, "type"), "object"))
        pipeline__fault(m, parameters, "parameters must be a schema with type: object");
    t->parameters_json = parameters;
    t->parameters = pipeline__schema(m, parameters);
}

void pipeline__tool(struct maker *m, const struct json *j, bool of_agent, struct pipeline_tool *out)
{
    static const char *const keys[] = {"command", "stdin", "dir", "env", "exit_codes", "http", "statuses", "returns",
                                       "max_output_bytes", "name", "description", "parameters", "timeout_ms"};
    static const char *const command_keys[] = {"stdin", "dir", "env", "exit_codes"};
    static const char *const returns[] = {"json", "text"};
    const struct json *command = json_get(j, "command"), *http = json_get(j, "http");

    memset(out, 0, sizeof *out);
    out->timeout_ms = PIPELINE_TOOL_MS_DEFAULT;
    out->max_output_bytes = PIPELINE_OUTPUT_BYTES_DEFAULT;
    if (!pipeline__object(m, j, "a tool", keys, of_agent ? N_ELEM(keys) : N_ELEM(keys) - 4))
        return;
    out->is_text = pipeline__choice(m, j, "returns", returns, 2, 0) == 1;
    out->max_output_bytes = pipeline__int(m, j, "max_output_bytes", 1, PIPELINE_OUTPUT_BYTES_MAX,
                                          PIPELINE_OUTPUT_BYTES_DEFAULT);
    out->timeout_ms = pipeline__int(m, j, "timeout_ms", 1, PIPELINE_MS_MAX, PIPELINE_TOOL_MS_DEFAULT);
    if (of_agent)
        read_of_agent(m, j, out);
    if (!command == !http) {
        pipeline__fault(m, j, "a tool needs either command or http");
        return;
    }
    if (command) {
        pipeline__env(m, json_get(j, "env"), m->plan->pub.env, m->plan->pub.n_env, &out->env, &out->n_env);
        read_command(m, j, out);
        if (json_get(j, "statuses"))
            pipeline__fault(m, json_get(j, "statuses"), "statuses belong to http; a command has exit_codes");
        return;
    }
    for (size_t i = 0; i < N_ELEM(command_keys); i++)
        if (json_get(j, command_keys[i]))
            pipeline__fault(m, json_get(j, command_keys[i]), "%s belongs to a command, not to http", command_keys[i]);
    out->env = m->plan->pub.env; /* what {{ env.NAME }} may name */
    out->n_env = m->plan->pub.n_env;
    read_http(m, j, out);
}
