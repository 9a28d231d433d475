/* controller/cli/talk.c - `baton chat`: a conversation in the terminal.
 * One line is one question. The answer streams in; Ctrl-C ends the answer, not the program. Works with a pipe as
 * stdin too: a line a question, answers on stdout, nothing else there.
 */
#include "common/base/check.h"
#include "common/text/json.h"
#include "common/text/sse_reader.h"
#include "controller/cli/cli.h"
#include "controller/cli/client.h"
#include "controller/cli/jsonl.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { QUESTION_MAX = 16 << 20 };

struct talk {
    const char *base, *model, *system;
    int64_t max_tokens;
    double temperature; /* < 0: the server's default */
    bool no_thinking;
    bool is_tty_in, is_tty_out;
    struct buf messages; /* JSON objects joined by ", " */
    struct buf answer;   /* content so far */
    bool in_reasoning;   /* reasoning was the last thing printed */
    bool done;           /* [DONE] came */
    bool cut_off;        /* finish_reason was length */
    struct err stream_err;
    struct sse_reader sse;
    struct arena arena;
};

static volatile sig_atomic_t interrupted;

static void on_sigint(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* Model output is a stranger's: on a terminal, control characters (C0 and C1) must not reach it. */
static void show(const struct talk *t, const char *text, size_t n)
{
    if (!t->is_tty_out) {
        fwrite(text, 1, n, stdout);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
            fputc('?', stdout);
        } else if (c == 0xc2 && i + 1 < n && (unsigned char)text[i + 1] < 0xa0) {
            fputc('?', stdout);
            i++;
        } else {
            fputc(c, stdout);
        }
    }
}

static void note(const char *text)
{
    fflush(stdout);
    fprintf(stderr, "\n[%s]\n", text);
}

/* Reasoning is shown dimmed on a terminal and left out of a pipe. */
static void show_reasoning(struct talk *t, const struct json *text)
{
    if (!json_is(text, JSON_STRING) || text->len == 0 || !t->is_tty_out)
        return;
    if (!t->in_reasoning)
        fputs("\033[2m", stdout);
    t->in_reasoning = true;
    show(t, text->text, text->len);
}

static void end_reasoning(struct talk *t)
{
    if (t->in_reasoning)
        fputs("\033[0m\n", stdout);
    t->in_reasoning = false;
}

static int on_data(void *arg, const char *data, size_t n)
{
    struct talk *t = arg;
    const struct json *root;

    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
        t->done = true;
        return 0;
    }
    arena_reset(&t->arena);
    int rc = json_parse(data, n, 0, &t->arena, &root, &t->stream_err);
    if (rc)
        return rc;
    const struct json *error = json_get(root, "error");
    if (error) {
        const struct json *message = json_get(error, "message");
        return err_set(&t->stream_err, ERR_NET, "%s",
                       json_is(message, JSON_STRING) ? message->text : "the server ended the answer");
    }
    const struct json *choice = json_at(json_get(root, "choices"), 0), *delta = json_get(choice, "delta");
    show_reasoning(t, json_get(delta, "reasoning_content"));
    const struct json *content = json_get(delta, "content");
    if (json_is(content, JSON_STRING) && content->len) {
        end_reasoning(t);
        show(t, content->text, content->len);
        buf_add(&t->answer, content->text, content->len);
    }
    t->cut_off = t->cut_off || json_is_str(json_get(choice, "finish_reason"), "length");
    fflush(stdout);
    return 0;
}

static int on_comment(void *arg, const char *text, size_t n)
{
    (void)arg;
    if (n >= 10 && memcmp(text, "redispatch", 10) == 0)
        note("a worker was lost; the answer goes on with another");
    return 0;
}

static int on_bytes(void *arg, const char *data, size_t n)
{
    static const struct sse_reader_events events = {on_data, on_comment};
    struct talk *t = arg;

    return sse_reader_feed(&t->sse, data, n, &events, t);
}

static void add_message(struct buf *messages, const char *role, const char *text, size_t n)
{
    if (messages->len)
        buf_add_str(messages, ", ");
    buf_addf(messages, "{\"role\": \"%s\", \"content\": ", role);
    jsonl_add_text(messages, text, n);
    buf_add_char(messages, '}');
}

static void add_request(const struct talk *t, struct buf *body)
{
    buf_add_str(body, "{\"model\": ");
    jsonl_add_text(body, t->model, strlen(t->model));
    buf_add_str(body, ", \"stream\": true, \"messages\": [");
    buf_add(body, t->messages.data, t->messages.len);
    buf_add_char(body, ']');
    if (t->max_tokens > 0)
        buf_addf(body, ", \"max_tokens\": %lld", (long long)t->max_tokens);
    if (t->temperature >= 0)
        buf_addf(body, ", \"temperature\": %.6g", t->temperature);
    if (t->no_thinking)
        buf_add_str(body, ", \"thinking\": {\"type\": \"disabled\"}");
    buf_add_char(body, '}');
}

/* Send the conversation, show the answer. What the error text says was not yet shown. */
static int stream_answer(struct talk *t, struct err *err)
{
    struct buf body = {0};

    add_request(t, &body);
    struct client_call call = {.base = t->base, .path = "/v1/chat/completions", .body = body.data,
                               .body_len = body.len, .on_data = on_bytes, .arg = t, .cancel = &interrupted};
    int rc = client_run(&call, err);
    if (t->stream_err.code)
        rc = err_set(err, t->stream_err.code, "%s", t->stream_err.text);
    else if (rc == 0 && call.status != 200)
        rc = client_refused(&call, err);
    else if (rc == 0 && !t->done)
        rc = err_set(err, ERR_NET, "the answer broke off; is the controller still there?");
    client_release(&call);
    buf_release(&body);
    return rc;
}

/* One question and its answer. A question that got no answer is taken back, so that the next one stands alone. */
static int ask(struct talk *t, const char *question, size_t n)
{
    size_t before = t->messages.len;
    struct err err = {0};

    add_message(&t->messages, "user", question, n);
    buf_clear(&t->answer);
    sse_reader_release(&t->sse);
    t->sse = (struct sse_reader){0};
    t->stream_err = (struct err){0};
    t->done = t->cut_off = t->in_reasoning = false;
    interrupted = 0;
    int rc = stream_answer(t, &err);
    end_reasoning(t);
    printf("\n");
    fflush(stdout);
    if (rc == ERR_CANCELED)
        note("canceled");
    else if (rc)
        cli_fail("chat", &err);
    else if (t->cut_off)
        note("cut off: the limit of tokens is reached");
    if ((rc == 0 || rc == ERR_CANCELED) && t->answer.len) {
        add_message(&t->messages, "assistant", t->answer.data, t->answer.len);
    } else if (t->messages.len) {
        t->messages.len = before;
        t->messages.data[before] = '\0';
    }
    interrupted = 0;
    return rc == ERR_CANCELED ? 0 : rc;
}

static void begin(struct talk *t)
{
    buf_clear(&t->messages);
    if (t->system)
        add_message(&t->messages, "system", t->system, strlen(t->system));
}

/* Read questions until the end of stdin or /quit. Returns an exit status: failed if an answer failed. */
static int converse(struct talk *t)
{
    struct buf line = {0};
    struct err err = {0};
    int rc, status = CLI_GOOD;

    begin(t);
    for (;;) {
        if (t->is_tty_in) {
            fputs("> ", stdout);
            fflush(stdout);
        }
        rc = cli_read_line(stdin, QUESTION_MAX, &line, &err);
        if (rc == ERR_IO && interrupted && t->is_tty_in) {
            interrupted = 0;
            clearerr(stdin);
            note("/quit or Ctrl-D ends");
            continue;
        }
        if (rc < 0)
            status = cli_fail("chat", &err);
        if (rc == 0 || rc == ERR_IO)
            break;
        if (rc < 0 || line.len == 0)
            continue;
        if (strcmp(line.data, "/quit") == 0)
            break;
        if (strcmp(line.data, "/reset") == 0) {
            begin(t);
            note("a new conversation");
        } else if (ask(t, line.data, line.len)) {
            status = CLI_FAILED;
        }
    }
    buf_release(&line);
    return status;
}

/* The first model that the server lists, copied into the buffer. */
static int first_model(const char *base, struct buf *name, struct err *err)
{
    struct client_call call = {.base = base, .path = "/v1/models", .timeout_ms = 10000};
    const struct json *root = NULL;
    struct arena arena;

    arena_init(&arena);
    int rc = client_run(&call, err);
    if (rc == 0 && call.status != 200)
        rc = client_refused(&call, err);
    if (rc == 0)
        rc = json_parse(call.out.len ? call.out.data : "", call.out.len, 0, &arena, &root, err);
    if (rc == 0) {
        const struct json *id = json_get(json_at(json_get(root, "data"), 0), "id");
        if (json_is(id, JSON_STRING))
            buf_add(name, id->text, id->len);
        else
            rc = err_set(err, ERR_MISSING, "%s lists no model", base);
    }
    arena_release(&arena);
    client_release(&call);
    return rc;
}

int cli_talk_main(int argc, char **argv)
{
    const char *url = NULL;
    struct talk t = {.temperature = -1};
    const struct flag flag[] = {
        {"url", FLAG_STR, &url, "U", .help = "the controller; default BATON_URL, else " CLIENT_URL_DEFAULT},
        {"model", FLAG_STR, &t.model, "M", .help = "name of the model; default: the first that the server lists"},
        {"system", FLAG_STR, &t.system, "TEXT", .help = "system message of the conversation"},
        {"max-tokens", FLAG_I64, &t.max_tokens, "N",
         .help = "tokens of one answer at most", .min = 1, .max = 1 << 24},
        {"temperature", FLAG_F64, &t.temperature, "T",
         .help = "0 (greedy) .. 2; default: the server's", .min = 0, .max = 2},
        {"no-thinking", FLAG_BOOL, &t.no_thinking, NULL, .help = "answer without reasoning first"},
    };
    struct flags f = {
        .usage = "baton chat [--url U] [--model M] [flags]",
        .about = "A conversation: one line is one question. /reset begins anew, /quit ends, Ctrl-C ends an answer.",
        .flag = flag,
        .n_flag = N_ELEM(flag),
    };
    struct sigaction act = {.sa_handler = on_sigint}; /* no SA_RESTART: reading a line must return */
    struct buf model = {0};
    struct err err = {0};
    int status = cli_flags("chat", &f, argc, argv);

    if (status >= 0)
        return status;
    t.base = client_base(url);
    t.is_tty_in = isatty(STDIN_FILENO);
    t.is_tty_out = isatty(STDOUT_FILENO);
    if (!t.model && first_model(t.base, &model, &err)) {
        status = cli_fail("chat", &err);
        goto out;
    }
    if (!t.model)
        t.model = model.data;
    sigaction(SIGINT, &act, NULL);
    status = converse(&t);
out:
    sse_reader_release(&t.sse);
    arena_release(&t.arena);
    buf_release(&t.messages);
    buf_release(&t.answer);
    buf_release(&model);
    return status;
}
