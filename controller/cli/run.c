/* controller/cli/run.c - `baton run`: a pipeline file and its inputs to a run of the controller, watched to its end. */
#include "common/base/check.h"
#include "common/base/rand.h"
#include "common/text/json.h"
#include "controller/agent/plan/pipeline.h"
#include "controller/cli/cli.h"
#include "controller/cli/client.h"
#include "controller/cli/follow.h"
#include "controller/cli/inputs.h"

#include <string.h>
#include <unistd.h>

enum { PATH_MAX_TEXT = 256, KEY_BYTES = 16 };

/* The run's output: a string as it is, anything else as JSON. */
static int print_output(const char *base, const char *id, struct err *err)
{
    char path[PATH_MAX_TEXT];
    struct arena arena = {0};
    const struct json *run;
    struct buf body = {0}, out = {0};

    snprintf(path, sizeof path, "/v1/runs/%s?steps=none", id);
    int rc = follow_call(base, path, NULL, NULL, &body, err);
    if (!rc)
        rc = json_parse(body.data, body.len, 0, &arena, &run, err);
    const struct json *output = rc ? NULL : json_get(run, "output"), *error = rc ? NULL : json_get(run, "error");
    if (json_is(error, JSON_STRING))
        fprintf(stderr, "baton run: %s: %s\n", id, error->text);
    if (json_is(output, JSON_STRING))
        buf_add(&out, output->text, output->len);
    else if (output && output->kind != JSON_NULL)
        json_add(&out, output);
    if (out.len) {
        buf_add_char(&out, '\n');
        rc = cli_write(&out, err);
    }
    arena_release(&arena);
    buf_release(&body);
    buf_release(&out);
    return rc;
}

/* Create the run. Its key is random: a lost answer is asked for again and gives the same run. */
static int create(const char *base, const struct buf *body, struct buf *id, struct err *err)
{
    char key[2 * KEY_BYTES + 1];
    struct arena arena = {0};
    const struct json *run;
    struct buf answer = {0};

    rand_hex(key, KEY_BYTES);
    int rc = follow_call(base, "/v1/runs", body, key, &answer, err);
    if (rc == ERR_TIMEOUT)
        rc = follow_call(base, "/v1/runs", body, key, &answer, err);
    if (!rc)
        rc = json_parse(answer.data ? answer.data : "", answer.len, 0, &arena, &run, err);
    if (!rc) {
        const struct json *name = json_get(run, "id");
        if (json_is(name, JSON_STRING))
            buf_add(id, name->text, name->len);
        else
            rc = err_set(err, ERR_FORMAT, "%s answers without the id of a run", base);
    }
    arena_release(&arena);
    buf_release(&answer);
    return rc;
}

/* The canonical text goes out: it has the file's folder in it, and every default. */
static void add_body(const struct pipeline *plan, const struct buf *inputs, struct buf *body)
{
    size_t n;
    const char *text = pipeline_canonical(plan, &n);

    buf_add_str(body, "{\"pipeline\":");
    json_add_str(body, text, n);
    buf_add_str(body, ",\"inputs\":");
    buf_add(body, inputs->data, inputs->len);
    buf_add_char(body, '}');
}

static int start(const char *url, const struct pipeline *plan, const struct buf *inputs, bool json, struct err *err)
{
    struct buf body = {0}, id = {0};
    char state[16] = "";

    add_body(plan, inputs, &body);
    int rc = create(url, &body, &id, err);
    buf_release(&body);
    if (!rc) {
        bool draws = !json && isatty(STDERR_FILENO);
        if (draws)
            fprintf(stderr, "run %s\n", id.data);
        struct follow f = {.base = url, .run = id.data, .command = "run", .json = json};
        rc = follow_run(&f, state, err);
        if (!rc && draws)
            rc = print_output(url, id.data, err);
    }
    if (!rc && strcmp(state, "done") != 0)
        rc = err_set(err, ERR_STATE, "run %s ended as %s", id.data, state);
    buf_release(&id);
    return rc;
}

static int run_file(const char *path, const char *const *value, int n_value, const char *url, bool json,
                    struct err *err)
{
    struct pipeline *plan = NULL;
    const struct json *given, *full;
    struct arena arena = {0};
    struct buf inputs = {0};
    int rc = pipeline_load(path, &plan, NULL, err);

    buf_add_char(&inputs, '{');
    for (int i = 0; i < n_value && !rc; i++)
        rc = inputs_add(plan, value[i], &inputs, err);
    buf_add_char(&inputs, '}');
    if (!rc)
        rc = json_parse(inputs.data, inputs.len, 0, &arena, &given, err);
    if (!rc)
        rc = pipeline_inputs(plan, given, &arena, &full, err);
    if (!rc)
        rc = start(url, plan, &inputs, json, err);
    arena_release(&arena);
    buf_release(&inputs);
    pipeline_destroy(&plan);
    return rc;
}

int cli_run_main(int argc, char **argv)
{
    const char *url = NULL, *input = NULL;
    bool json = false, only_check = false;
    const struct flag flag[] = {
        {"input", FLAG_STR, &input, "INPUT",
         .help = "NAME=TEXT, NAME=@FILE (.json, .jsonl or text) or FILE.json; may be repeated"},
        {"url", FLAG_STR, &url, "U", .help = "the controller; default BATON_URL, else " CLIENT_URL_DEFAULT},
        {"json", FLAG_BOOL, &json, NULL, .help = "each event as one JSON line, also on a terminal"},
        {"check", FLAG_BOOL, &only_check, NULL, .help = "check the file and run nothing"},
    };
    struct flags f = {
        .usage = "baton run PIPELINE.yaml [--input INPUT]... [--url U] [--json] [--check]",
        .about = "Run an agent pipeline and watch it. Exit status 0: the run is done. Ctrl-C leaves it running.",
        .flag = flag,
        .n_flag = N_ELEM(flag),
        .n_word_min = 1,
        .n_word_max = 1,
    };
    const char *value[INPUTS_MAX];
    struct err err = {0};
    int n_value, rc = inputs_take(&argc, argv, value, INPUTS_MAX, &n_value, &err);

    if (rc) {
        cli_fail("run", &err);
        return CLI_USAGE;
    }
    int status = cli_flags("run", &f, argc, argv);
    if (status >= 0)
        return status;
    if (only_check)
        return pipeline_check_file(f.word[0], json) ? CLI_FAILED : CLI_GOOD;
    rc = run_file(f.word[0], value, n_value, client_base(url), json, &err);
    return rc == ERR_CANCELED ? CLI_FAILED : rc ? cli_fail("run", &err) : CLI_GOOD;
}
