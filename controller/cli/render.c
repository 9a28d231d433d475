/* controller/cli/render.c - `baton render`: what a model is fed for a chat request. */
#include "common/base/check.h"
#include "controller/cli/cli.h"
#include "controller/cli/jsonl.h"
#include "controller/prompt/profile.h"

#include <string.h>

struct render {
    const char *model;
    struct tok *tok;
    enum chat_profile profile; /* of lines that name none */
};

/* Render `in` at a level ("api", "encoder", "completion"); api and completion read the request body `body`. */
static int render_level(const struct json *level, const struct json *in, const struct json *body,
                        enum chat_profile profile, struct chat_prompt *prompt, struct err *err)
{
    struct chat_fault fault = {0};
    int rc;

    if (!level || json_is_str(level, "api"))
        rc = chat_render_api(body, profile, prompt, &fault);
    else if (json_is_str(level, "encoder"))
        rc = chat_render_encoder(in, profile, prompt, &fault);
    else if (json_is_str(level, "completion"))
        rc = chat_render_completion(body, prompt, &fault);
    else
        return err_set(err, ERR_ARG, "unknown level: api, encoder or completion");
    if (rc == 0)
        return 0;
    if (fault.param[0] && strncmp(fault.err.text, fault.param, strlen(fault.param)) != 0)
        return err_set(err, rc, "%s: %s", fault.param, fault.err.text);
    return err_set(err, rc, "%s", fault.err.text);
}

static void add_prompt(const struct tok *tok, const struct chat_prompt *prompt, struct buf *out)
{
    struct tok_ids ids = {0};
    const char *text = prompt->text.len ? prompt->text.data : "";

    tok_encode(tok, text, prompt->text.len, prompt->guard, prompt->n_guard, &ids);
    buf_add_str(out, "{\"prompt\": ");
    jsonl_add_text(out, text, prompt->text.len);
    buf_add_str(out, ", \"tokens\": ");
    jsonl_add_ids(out, &ids);
    buf_add_char(out, '}');
    tok_ids_release(&ids);
}

static int render_line(void *arg, const struct json *in, struct arena *arena, struct buf *out, struct err *err)
{
    const struct render *r = arg;
    const struct json *profile_name = json_get(in, "profile"), *body = json_get(in, "request");
    enum chat_profile profile = r->profile;
    struct chat_prompt prompt = {0};
    int rc;

    (void)arena;
    if (json_is(profile_name, JSON_STRING)) {
        rc = chat_profile_choose(profile_name->text, r->model, &profile, err);
        if (rc)
            return rc;
    }
    rc = render_level(json_get(in, "level"), in, body ? body : in, profile, &prompt, err);
    if (rc == 0)
        add_prompt(r->tok, &prompt, out);
    chat_prompt_release(&prompt);
    return rc;
}

static int render_all(const struct render *r, const struct buf *in, struct buf *out, struct err *err)
{
    struct chat_prompt prompt = {0};
    const struct json *root;
    struct arena arena;

    arena_init(&arena);
    int rc = json_parse(in->len ? in->data : "", in->len, 0, &arena, &root, err);
    if (rc == 0)
        rc = render_level(NULL, root, root, r->profile, &prompt, err);
    if (rc == 0) {
        add_prompt(r->tok, &prompt, out);
        buf_add_char(out, '\n');
    }
    chat_prompt_release(&prompt);
    arena_release(&arena);
    return rc;
}

int cli_render_main(int argc, char **argv)
{
    const char *model = NULL, *profile = "auto";
    bool jsonl = false;
    const struct flag flag[] = {
        {"model", FLAG_STR, &model, "DIR", .help = "directory with tokenizer.json", .required = true},
        {"profile", FLAG_STR, &profile, "NAME",
         .help = "generation of the encoder: auto (default: by config.json), preview or 0731"},
        {"jsonl", FLAG_BOOL, &jsonl, NULL,
         .help = "one {\"level\", \"request\", ...} a line in, {\"prompt\", \"tokens\"} out"},
    };
    struct flags f = {
        .usage = "baton render --model DIR [--profile NAME] [--jsonl] < REQUEST.json",
        .about = "The body of a chat completion request on stdin becomes {\"prompt\": \"...\", \"tokens\": [...]}.",
        .flag = flag,
        .n_flag = N_ELEM(flag),
    };
    struct render r = {.profile = CHAT_0731};
    struct buf in = {0}, out = {0};
    struct err err = {0};
    int status = cli_flags("render", &f, argc, argv);

    if (status >= 0)
        return status;
    r.model = model;
    int rc = chat_profile_choose(profile, model, &r.profile, &err);
    if (rc) {
        cli_fail("render", &err);
        return rc == ERR_ARG ? CLI_USAGE : CLI_FAILED;
    }
    rc = tok_open(model, &r.tok, &err);
    if (rc == 0 && jsonl) {
        status = jsonl_run("render", stdin, render_line, &r);
        tok_close(&r.tok);
        return status;
    }
    if (rc == 0)
        rc = cli_read_all(stdin, CLI_STDIN_MAX, &in, &err);
    if (rc == 0)
        rc = render_all(&r, &in, &out, &err);
    if (rc == 0)
        rc = cli_write(&out, &err);
    tok_close(&r.tok);
    buf_release(&in);
    buf_release(&out);
    return rc ? cli_fail("render", &err) : CLI_GOOD;
}
