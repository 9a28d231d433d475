/* controller/cli/runs.c - `baton runs`: list, show, tail, cancel, retry, fork, approve. */
#include "common/base/check.h"
#include "common/text/json.h"
#include "controller/cli/cli.h"
#include "controller/cli/client.h"
#include "controller/cli/follow.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

enum { RUNS_PATH_MAX = 512 };

struct runs {
    const char *name; /* "runs list" */
    const char *base;
    bool json;
};

static const char *text(const struct json *j, const char *name)
{
    const struct json *v = json_get(j, name);
    return json_is(v, JSON_STRING) || json_is(v, JSON_NUMBER) ? v->text : "-";
}

static int64_t number(const struct json *j, const char *name)
{
    int64_t v = 0;
    return json_to_i64(json_get(j, name), &v) ? v : 0;
}

/* Milliseconds since 1970 as local time. */
static const char *when(int64_t ms, char out[32])
{
    time_t s = (time_t)(ms / 1000);
    struct tm tm;

    if (ms <= 0 || !localtime_r(&s, &tm) || !strftime(out, 32, "%Y-%m-%d %H:%M:%S", &tm))
        snprintf(out, 32, "-");
    return out;
}

static void add_list(struct buf *out, const struct json *root)
{
    const struct json *data = json_get(root, "data");
    char at[32];

    buf_addf(out, "%-30s %-9s %-20s %-24s %10s\n", "RUN", "STATE", "CREATED", "PIPELINE", "TOKENS");
    for (const struct json *r = data ? data->child : NULL; r; r = r->next)
        buf_addf(out, "%-30s %-9s %-20s %-24s %10" PRId64 "\n", text(r, "id"), text(r, "state"),
                 when(number(r, "created_ms"), at), text(r, "name"),
                 number(json_get(r, "usage"), "completion_tokens"));
    if (json_is(json_get(root, "has_more"), JSON_TRUE))
        buf_add_str(out, "there are more: --limit N, --before RUN\n");
}

static void add_show(struct buf *out, const struct json *run)
{
    const struct json *steps = json_get(run, "steps"), *output = json_get(run, "output");
    char at[32];

    buf_addf(out, "run %s  %s  %s\n", text(run, "id"), text(run, "name"), text(run, "state"));
    buf_addf(out, "created %s\n", when(number(run, "created_ms"), at));
    if (number(run, "ended_ms"))
        buf_addf(out, "ended   %s\n", when(number(run, "ended_ms"), at));
    if (json_is(json_get(run, "error"), JSON_STRING))
        buf_addf(out, "error   %s\n", text(run, "error"));
    for (const struct json *s = steps ? steps->child : NULL; s; s = s->next) {
        const struct json *error = json_get(s, "error"), *result = json_get(s, "result");
        buf_addf(out, "  %-28s %-9s attempt %s", text(s, "path"), text(s, "state"), text(s, "attempt"));
        if (json_is(error, JSON_STRING))
            buf_addf(out, "  %s", error->text);
        if (json_is_str(json_get(s, "state"), "waiting") && json_is(json_get(result, "token"), JSON_STRING))
            buf_addf(out, "  baton runs approve %s --step %s --token %s", text(run, "id"), text(s, "path"),
                     text(result, "token"));
        buf_add_char(out, '\n');
    }
    if (output && output->kind != JSON_NULL) {
        buf_add_str(out, "output  ");
        json_add(out, output);
        buf_add_char(out, '\n');
    }
}

/* Do one call and print its answer, by `add` or as JSON. */
static int show(const struct runs *r, const char *path, const struct buf *body,
                void (*add)(struct buf *, const struct json *))
{
    struct arena arena = {0};
    const struct json *root;
    struct buf answer = {0}, out = {0};
    struct err err = {0};
    int rc = follow_call(r->base, path, body, NULL, &answer, &err);

    if (!rc)
        rc = json_parse(answer.data ? answer.data : "", answer.len, 0, &arena, &root, &err);
    if (!rc) {
        if (r->json || !add) {
            json_add(&out, root);
            buf_add_char(&out, '\n');
        } else {
            add(&out, root);
        }
        rc = cli_write(&out, &err);
    }
    arena_release(&arena);
    buf_release(&answer);
    buf_release(&out);
    return rc ? cli_fail(r->name, &err) : CLI_GOOD;
}

static void add_line(struct buf *out, const struct json *run)
{
    buf_addf(out, "run %s  %s\n", text(run, "id"), text(run, "state"));
}

/* The flags that most of them have; `more` come behind. Returns as cli_flags. */
static int read_flags(struct runs *r, const char *usage, const char *about, int n_word, const struct flag *more,
                      size_t n_more, int argc, char **argv, const char **word)
{
    const char *url = NULL;
    struct flag flag[8] = {
        {"url", FLAG_STR, &url, "U", .help = "the controller; default BATON_URL, else " CLIENT_URL_DEFAULT},
        {"json", FLAG_BOOL, &r->json, NULL, .help = "the answer as JSON"},
    };
    ASSERT(n_more <= N_ELEM(flag) - 2);
    if (n_more)
        memcpy(flag + 2, more, n_more * sizeof *more);
    struct flags f = {
        .usage = usage,
        .about = about,
        .flag = flag,
        .n_flag = 2 + n_more,
        .n_word_min = n_word,
        .n_word_max = n_word,
    };
    int status = cli_flags(r->name, &f, argc, argv);
    r->base = client_base(url);
    if (n_word)
        *word = f.word[0];
    if (status < 0 && n_word && strspn(*word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") !=
                                    strlen(*word)) {
        fprintf(stderr, "baton %s: '%s' is no id of a run\n", r->name, *word);
        return CLI_USAGE;
    }
    return status;
}

int cli_runs_list_main(int argc, char **argv)
{
    struct runs r = {.name = "runs list"};
    const char *before = NULL, *word = NULL;
    int64_t limit = 20;
    const struct flag more[] = {
        {"limit", FLAG_I64, &limit, "N", .help = "so many at most; default 20", .min = 1, .max = 100},
        {"before", FLAG_STR, &before, "RUN", .help = "those older than this one"},
    };
    char path[RUNS_PATH_MAX];
    int status = read_flags(&r, "baton runs list [--limit N] [--before RUN] [--url U] [--json]",
                            "Runs of pipelines, newest first.", 0, more, N_ELEM(more), argc, argv, &word);
    if (status >= 0)
        return status;
    snprintf(path, sizeof path, "/v1/runs?limit=%" PRId64 "%s%.64s", limit, before ? "&before=" : "",
             before ? before : "");
    return show(&r, path, NULL, add_list);
}

int cli_runs_show_main(int argc, char **argv)
{
    struct runs r = {.name = "runs show"};
    const char *word = NULL;
    bool all = false;
    const struct flag more[] = {
        {"all", FLAG_BOOL, &all, NULL, .help = "also the items of maps and the turns of agents"},
    };
    char path[RUNS_PATH_MAX];
    int status = read_flags(&r, "baton runs show RUN [--all] [--url U] [--json]",
                            "State, steps, results and usage of one run.", 1, more, N_ELEM(more), argc, argv, &word);
    if (status >= 0)
        return status;
    snprintf(path, sizeof path, "/v1/runs/%.64s?steps=%s", word, all ? "all" : "top");
    return show(&r, path, NULL, add_show);
}

int cli_runs_tail_main(int argc, char **argv)
{
    struct runs r = {.name = "runs tail"};
    const char *word = NULL;
    struct err err = {0};
    char state[16] = "";
    int status = read_flags(&r, "baton runs tail RUN [--url U] [--json]",
                            "Watch a run from its beginning to its end. Exit status 0: it is done.", 1, NULL, 0, argc,
                            argv, &word);
    if (status >= 0)
        return status;
    struct follow f = {.base = r.base, .run = word, .command = r.name, .json = r.json};
    int rc = follow_run(&f, state, &err);
    if (rc == ERR_CANCELED)
        return CLI_FAILED;
    if (!rc && strcmp(state, "done") != 0)
        rc = err_set(&err, ERR_STATE, "run %s ended as %s", word, state);
    return rc ? cli_fail(r.name, &err) : CLI_GOOD;
}

int cli_runs_cancel_main(int argc, char **argv)
{
    struct runs r = {.name = "runs cancel"};
    const char *word = NULL;
    char path[RUNS_PATH_MAX];
    struct buf body = {0};
    int status = read_flags(&r, "baton runs cancel RUN [--url U] [--json]",
                            "End a run: its tools are killed, its generations are canceled.", 1, NULL, 0, argc, argv,
                            &word);
    if (status >= 0)
        return status;
    snprintf(path, sizeof path, "/v1/runs/%.64s/cancel", word);
    return show(&r, path, &body, add_line);
}

int cli_runs_retry_main(int argc, char **argv)
{
    struct runs r = {.name = "runs retry"};
    const char *word = NULL;
    char path[RUNS_PATH_MAX];
    struct buf body = {0};
    int status = read_flags(&r, "baton runs retry RUN [--url U] [--json]",
                            "A new run that takes over what a failed or canceled one had finished.", 1, NULL, 0, argc,
                            argv, &word);
    if (status >= 0)
        return status;
    snprintf(path, sizeof path, "/v1/runs/%.64s/retry", word);
    return show(&r, path, &body, add_line);
}

int cli_runs_fork_main(int argc, char **argv)
{
    struct runs r = {.name = "runs fork"};
    const char *word = NULL, *from = NULL;
    const struct flag more[] = {
        {"from", FLAG_STR, &from, "STEP", .help = "the first step to run anew", .required = true},
    };
    char path[RUNS_PATH_MAX];
    struct buf body = {0};
    int status = read_flags(&r, "baton runs fork RUN --from STEP [--url U] [--json]",
                            "A new run that takes over the results of the steps before STEP.", 1, more, N_ELEM(more),
                            argc, argv, &word);
    if (status >= 0)
        return status;
    snprintf(path, sizeof path, "/v1/runs/%.64s/fork", word);
    buf_add_str(&body, "{\"from_step\":");
    json_add_str(&body, from, strlen(from));
    buf_add_char(&body, '}');
    status = show(&r, path, &body, add_line);
    buf_release(&body);
    return status;
}

int cli_runs_approve_main(int argc, char **argv)
{
    struct runs r = {.name = "runs approve"};
    const char *word = NULL, *step = NULL, *token = NULL, *comment = NULL;
    bool reject = false;
    const struct flag more[] = {
        {"step", FLAG_STR, &step, "PATH", .help = "the step that waits; needed where several wait"},
        {"token", FLAG_STR, &token, "TOKEN", .help = "the step's token, see `baton runs show`", .required = true},
        {"comment", FLAG_STR, &comment, "TEXT", .help = "kept in the step's result"},
        {"reject", FLAG_BOOL, &reject, NULL, .help = "say no: the step fails"},
    };
    char path[RUNS_PATH_MAX];
    struct buf body = {0};
    int status = read_flags(&r, "baton runs approve RUN --token TOKEN [--step PATH] [--reject] [--comment TEXT]",
                            "Let a step that waits for an approval go on.", 1, more, N_ELEM(more), argc, argv, &word);
    if (status >= 0)
        return status;
    snprintf(path, sizeof path, "/v1/runs/%.64s/approve", word);
    buf_addf(&body, "{\"approved\":%s,\"token\":", reject ? "false" : "true");
    json_add_str(&body, token, strlen(token));
    if (step) {
        buf_add_str(&body, ",\"step\":");
        json_add_str(&body, step, strlen(step));
    }
    if (comment) {
        buf_add_str(&body, ",\"comment\":");
        json_add_str(&body, comment, strlen(comment));
    }
    buf_add_char(&body, '}');
    status = show(&r, path, &body, add_line);
    buf_release(&body);
    return status;
}
