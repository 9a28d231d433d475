/* controller/cli/ps.c - `baton ps`: what a running controller says of itself and its workers. */
#include "common/base/check.h"
#include "common/text/json.h"
#include "controller/cli/cli.h"
#include "controller/cli/client.h"

#include <string.h>

enum { STATUS_MS = 10000 };

/* A member as text for a table: strings and numbers as they are, anything else "-". The view lives as long as j. */
static const char *cell(const struct json *j, const char *name)
{
    const struct json *v = json_get(j, name);

    if (json_is(v, JSON_STRING) || json_is(v, JSON_NUMBER))
        return v->text;
    return json_is_bool(v) ? (v->kind == JSON_TRUE ? "yes" : "no") : "-";
}

static void add_workers(struct buf *out, const struct json *workers)
{
    if (!json_is(workers, JSON_ARRAY) || workers->n == 0) {
        buf_add_str(out, "no workers\n");
        return;
    }
    buf_addf(out, "%-16s %8s %6s %-9s %8s %8s %8s %9s %9s\n", "WORKER", "PID", "EPOCH", "STATE", "ASSIGNED",
             "RUNNING", "WAITING", "KV FREE", "KV BLOCKS");
    for (const struct json *w = workers->child; w; w = w->next)
        buf_addf(out, "%-16s %8s %6s %-9s %8s %8s %8s %9s %9s\n", cell(w, "name"), cell(w, "pid"), cell(w, "epoch"),
                 cell(w, "state"), cell(w, "assigned"), cell(w, "running"), cell(w, "waiting"),
                 cell(w, "kv_blocks_free"), cell(w, "kv_blocks"));
}

/* "title: a=1 b=2" of the numbers in an object, in its order. */
static void add_numbers(struct buf *out, const char *title, const struct json *object)
{
    if (!json_is(object, JSON_OBJECT))
        return;
    buf_addf(out, "%s:", title);
    for (const struct json *v = object->child; v; v = v->next)
        if (v->kind == JSON_NUMBER || v->kind == JSON_STRING)
            buf_addf(out, " %s=%s", v->key, v->text);
    buf_add_char(out, '\n');
}

static void add_text(struct buf *out, const struct json *root)
{
    add_numbers(out, "controller", json_get(root, "controller"));
    add_workers(out, json_get(root, "workers"));
    for (const struct json *v = root->child; v; v = v->next)
        if (v->kind == JSON_OBJECT && strcmp(v->key, "controller") != 0)
            add_numbers(out, v->key, v);
}

int cli_ps_main(int argc, char **argv)
{
    const char *url = NULL;
    bool json = false;
    const struct flag flag[] = {
        {"url", FLAG_STR, &url, "U", .help = "the controller; default BATON_URL, else " CLIENT_URL_DEFAULT},
        {"json", FLAG_BOOL, &json, NULL, .help = "everything as one JSON object"},
    };
    struct flags f = {
        .usage = "baton ps [--url U] [--json]",
        .about = "State, epoch and load of every worker of a running controller.",
        .flag = flag,
        .n_flag = N_ELEM(flag),
    };
    const struct json *root;
    struct arena arena;
    struct buf out = {0};
    struct err err = {0};
    int status = cli_flags("ps", &f, argc, argv);

    if (status >= 0)
        return status;
    struct client_call call = {.base = client_base(url), .path = "/v1/status", .timeout_ms = STATUS_MS};
    arena_init(&arena);
    int rc = client_run(&call, &err);
    if (rc == 0 && call.status != 200)
        rc = client_refused(&call, &err);
    if (rc == 0)
        rc = json_parse(call.out.len ? call.out.data : "", call.out.len, 0, &arena, &root, &err);
    if (rc == 0 && !json_is(root, JSON_OBJECT))
        rc = err_set(&err, ERR_FORMAT, "%s answers with %s, not an object", call.base, json_kind_name(root));
    if (rc == 0) {
        if (json) {
            json_add(&out, root);
            buf_add_char(&out, '\n');
        } else {
            add_text(&out, root);
        }
        rc = cli_write(&out, &err);
    }
    arena_release(&arena);
    client_release(&call);
    buf_release(&out);
    return rc ? cli_fail("ps", &err) : CLI_GOOD;
}
