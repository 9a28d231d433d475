/* controller/cli/parse.c - `baton parse`: the text that a model gave, as the message a client would get. */
#include "common/base/check.h"
#include "common/text/utf8.h"
#include "controller/cli/cli.h"
#include "controller/cli/jsonl.h"
#include "controller/stream/message.h"

#include <string.h>
#include <sys/stat.h>

/* Parse a whole text and append its message. Bytes that are no UTF-8 become U+FFFD, as in a stream. */
static void parse_text(const struct parse_opts *opts, const char *text, size_t len, bool cut_off, struct buf *out)
{
    struct buf clean = {0};

    utf8_add_replaced(&clean, text, len);
    int rc = parse_whole(opts, clean.len ? clean.data : "", clean.len, !cut_off, out);
    ASSERT(rc == 0);
    buf_release(&clean);
}

/* {"name": ["property", ...]} as a list of OpenAI tools with such schemas; a list is taken as it is. */
static int tools_of(const struct json *given, struct arena *arena, const struct json **tools, struct err *err)
{
    struct buf text = {0};

    *tools = given;
    if (!given || given->kind == JSON_ARRAY || given->kind == JSON_NULL)
        return 0;
    if (given->kind != JSON_OBJECT)
        return err_set(err, ERR_FORMAT, "tools must be an object or a list, got %s", json_kind_name(given));
    buf_add_char(&text, '[');
    for (const struct json *t = given->child; t; t = t->next) {
        buf_add_str(&text, text.len > 1 ? ", " : "");
        buf_add_str(&text, "{\"type\": \"function\", \"function\": {\"name\": ");
        json_add_str(&text, t->key, t->key_len);
        buf_add_str(&text, ", \"parameters\": {\"type\": \"object\", \"properties\": {");
        const struct json *p = t->kind == JSON_ARRAY ? t->child : NULL;
        for (bool first = true; p; p = p->next) {
            if (p->kind != JSON_STRING)
                continue;
            buf_add_str(&text, first ? "" : ", ");
            json_add_str(&text, p->text, p->len);
            buf_add_str(&text, ": {}");
            first = false;
        }
        buf_add_str(&text, "}}}}");
    }
    buf_add_char(&text, ']');
    int rc = json_parse(text.data, text.len, 0, arena, tools, err);
    buf_release(&text);
    return rc;
}

static int parse_line(void *arg, const struct json *in, struct arena *arena, struct buf *out, struct err *err)
{
    struct parse_opts opts = {.in_reasoning = json_is_str(json_get(in, "mode"), "thinking"),
                              .tools_on = !json_is(json_get(in, "no_tools"), JSON_TRUE)};
    const char *text;
    size_t len;
    int rc = jsonl_text(in, arena, &text, &len, err);

    (void)arg;
    if (rc == 0)
        rc = tools_of(json_get(in, "tools"), arena, &opts.tools, err);
    if (rc == 0)
        parse_text(&opts, text, len, json_is_str(json_get(in, "end"), "length"), out);
    return rc;
}

/* Whether the prompt of a whole text ended in <think>: then the text closes what it did not open. */
static bool begins_in_reasoning(const char *mode, const struct buf *text)
{
    if (strcmp(mode, "auto") != 0)
        return strcmp(mode, "thinking") == 0;
    return text->len && memmem(text->data, text->len, "</think>", 8);
}

static int check_args(const char *model, const char *mode, const char *end)
{
    struct err err = {0};
    struct stat st;

    if (strcmp(mode, "auto") != 0 && strcmp(mode, "chat") != 0 && strcmp(mode, "thinking") != 0)
        err_set(&err, ERR_ARG, "--mode %s: auto, chat or thinking", mode);
    else if (strcmp(end, "eos") != 0 && strcmp(end, "length") != 0)
        err_set(&err, ERR_ARG, "--end %s: eos or length", end);
    if (err.code) {
        cli_fail("parse", &err);
        return CLI_USAGE;
    }
    if (model && (stat(model, &st) != 0 || !S_ISDIR(st.st_mode))) {
        err_set(&err, ERR_MISSING, "--model %s is no directory", model);
        return cli_fail("parse", &err);
    }
    return CLI_GOOD;
}

int cli_parse_main(int argc, char **argv)
{
    const char *model = NULL, *mode = "auto", *end = "eos";
    bool no_tools = false, jsonl = false;
    const struct flag flag[] = {
        {"model", FLAG_STR, &model, "DIR", .help = "directory of the model; the format is V4's in any case"},
        {"mode", FLAG_STR, &mode, "MODE",
         .help = "how the prompt ended: thinking, chat, or auto: by a </think> in the text"},
        {"end", FLAG_STR, &end, "HOW", .help = "how generation ended: eos (the default) or length"},
        {"no-tools", FLAG_BOOL, &no_tools, NULL, .help = "no tools were offered: tool calls are text"},
        {"jsonl", FLAG_BOOL, &jsonl, NULL,
         .help = "one {\"text\", \"mode\", \"end\", \"tools\", \"no_tools\"} a line in"},
    };
    struct flags f = {
        .usage = "baton parse --model DIR [--mode MODE] [--end HOW] [--no-tools] [--jsonl] < TEXT",
        .about = "Model output on stdin becomes a message: reasoning_content, content, tool_calls, finish_reason.",
        .flag = flag,
        .n_flag = N_ELEM(flag),
    };
    struct buf in = {0}, out = {0};
    struct err err = {0};
    int status = cli_flags("parse", &f, argc, argv);

    if (status >= 0)
        return status;
    status = check_args(model, mode, end);
    if (status)
        return status;
    if (jsonl)
        return jsonl_run("parse", stdin, parse_line, NULL);
    int rc = cli_read_all(stdin, CLI_STDIN_MAX, &in, &err);
    if (rc == 0) {
        struct parse_opts opts = {.in_reasoning = begins_in_reasoning(mode, &in), .tools_on = !no_tools};
        parse_text(&opts, in.len ? in.data : "", in.len, strcmp(end, "length") == 0, &out);
        buf_add_char(&out, '\n');
        rc = cli_write(&out, &err);
    }
    buf_release(&in);
    buf_release(&out);
    return rc ? cli_fail("parse", &err) : CLI_GOOD;
}
