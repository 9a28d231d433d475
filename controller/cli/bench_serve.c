/* controller/cli/bench_serve.c - `baton bench serve`: latency, throughput and stream correctness of any
 * OpenAI-compatible endpoint. One thread a connection, each asking again as soon as it was answered.
 *
 * What a correct stream is: every chunk of one id; finish_reason once; nothing after [DONE], which comes last; with
 * --numbers (workers of --engine sim) the text is "0 1 2 ...", each number once and in order.
 */
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "common/text/json.h"
#include "common/text/sse_reader.h"
#include "controller/cli/cli.h"
#include "controller/cli/client.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONCURRENCY_MAX = 512, REQUESTS_MAX = 1000000, MODELS_MS = 10000, ID_MAX = 128 };

/* How a request ended. */
#define CLASS_LIST(X)                                                         \
    X(whole)     /* as it should */                                           \
    X(refused)   /* an HTTP status other than 200 */                          \
    X(error)     /* an error event in the stream */                           \
    X(broken)    /* the connection ended before the answer did */             \
    X(malformed) /* not what the contract says: order of events, ids, JSON */ \
    X(wrong)     /* --numbers: a token is missing, doubled or out of place */
enum class {
#define X(name) CLASS_##name,
    CLASS_LIST(X)
#undef X
        CLASS_N
};

struct bench {
    const char *base, *model;
    int64_t n_conn, n_request, max_tokens, timeout_s;
    const char *prompt;
    bool stream, numbers;
    struct buf body;
    atomic_int_fast64_t n_started;
};

/* Microseconds, to be sorted. */
struct list {
    double *v;
    size_t n, cap;
};

struct asker {
    struct bench *b;
    pthread_t thread;
    int64_t count[CLASS_N], n_token, n_chunk;
    struct list latency, ttft, gap;
    struct err first_error;
};

/* One request. */
struct answer {
    struct asker *a;
    int64_t sent_ns, first_ns, last_ns; /* of pieces of output */
    int64_t max_gap_ns, n_piece, next_number;
    bool is_done, is_finished;
    enum class class;
    char id[ID_MAX];
    struct buf text; /* --numbers: content so far */
    struct sse_reader sse;
};

static void add(struct list *l, double v)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 256;
        l->v = mem_realloc(l->v, l->cap * sizeof *l->v);
    }
    l->v[l->n++] = v;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int fault(struct answer *r, enum class class, const char *what)
{
    if (r->class == CLASS_whole)
        r->class = class;
    if (!r->a->first_error.code)
        err_set(&r->a->first_error, ERR_FORMAT, "%s", what);
    return 0;
}

/* Every number of the text once and in order. */
static void check_numbers(struct answer *r)
{
    const char *p = r->text.data ? r->text.data : "";
    char *end;

    for (; *p; p = end) {
        long long v = strtoll(p, &end, 10);
        if (end == p) {
            if (p[strspn(p, " ")])
                fault(r, CLASS_wrong, "the text is not made of numbers");
            return;
        }
        if (v != r->next_number++) {
            fault(r, CLASS_wrong, "a number is missing, doubled or out of place");
            return;
        }
    }
}

static void note_output(struct answer *r)
{
    int64_t now = clock_mono_ns();

    if (r->n_piece++ == 0)
        r->first_ns = now;
    else if (now - r->last_ns > r->max_gap_ns)
        r->max_gap_ns = now - r->last_ns;
    r->last_ns = now;
}

static void take_choice(struct answer *r, const struct json *choice)
{
    static const char *const fields[] = {"content", "reasoning_content"};
    const struct json *delta = json_get(choice, r->a->b->stream ? "delta" : "message");
    const struct json *reason = json_get(choice, "finish_reason");

    for (size_t i = 0; i < N_ELEM(fields); i++) {
        const struct json *text = json_get(delta, fields[i]);
        if (!json_is(text, JSON_STRING) || text->len == 0)
            continue;
        note_output(r);
        if (i == 0 && r->a->b->numbers)
            buf_add(&r->text, text->text, text->len);
    }
    if (json_is(reason, JSON_STRING)) {
        if (r->is_finished)
            fault(r, CLASS_malformed, "finish_reason came twice");
        r->is_finished = true;
    }
}

static void take_object(struct answer *r, const struct json *root)
{
    const struct json *id = json_get(root, "id"), *choices = json_get(root, "choices");
    int64_t n_tok;

    if (json_get(root, "error")) {
        fault(r, CLASS_error, "an error event");
        return;
    }
    if (json_is(id, JSON_STRING) && !r->id[0])
        snprintf(r->id, sizeof r->id, "%s", id->text);
    else if (json_is(id, JSON_STRING) && strncmp(r->id, id->text, sizeof r->id - 1) != 0)
        fault(r, CLASS_malformed, "chunks of two ids in one stream");
    if (json_is(choices, JSON_ARRAY) && choices->n)
        take_choice(r, choices->child);
    const struct json *used = json_get(json_get(root, "usage"), "completion_tokens");
    if (json_is(used, JSON_NUMBER) && json_to_i64(used, &n_tok))
        r->a->n_token += n_tok;
}

static void take_text(struct answer *r, const char *text, size_t n)
{
    const struct json *root = NULL;
    struct arena arena = {0};

    if (json_parse(text, n, 0, &arena, &root, NULL) != 0)
        fault(r, CLASS_malformed, "an answer that is no JSON");
    else
        take_object(r, root);
    arena_release(&arena);
}

static int on_event(void *arg, const char *data, size_t n)
{
    struct answer *r = arg;

    r->a->n_chunk++;
    if (r->is_done)
        return fault(r, CLASS_malformed, "an event after [DONE]");
    if (n == 6 && memcmp(data, "[DONE]", 6) == 0)
        r->is_done = true;
    else
        take_text(r, data, n);
    return 0;
}

static int on_comment(void *arg, const char *text, size_t n)
{
    (void)arg, (void)text, (void)n;
    return 0;
}

static int on_data(void *arg, const char *data, size_t n)
{
    static const struct sse_reader_events events = {on_event, on_comment};
    struct answer *r = arg;
    return sse_reader_feed(&r->sse, data, n, &events, r);
}

/* The whole answer is there, or none comes. */
static void judge(struct answer *r, struct client_call *c, int rc, const struct err *err)
{
    struct bench *b = r->a->b;

    if (rc == 0 && c->status != 200) {
        char text[64];
        snprintf(text, sizeof text, "HTTP status %ld", c->status);
        fault(r, CLASS_refused, text);
        return;
    }
    if (rc) {
        fault(r, rc == ERR_LIMIT || rc == ERR_FORMAT ? CLASS_malformed : CLASS_broken, err->text);
        return;
    }
    if (!b->stream)
        take_text(r, c->out.data ? c->out.data : "", c->out.len);
    else if (!r->is_done && r->class == CLASS_whole)
        fault(r, CLASS_broken, "the stream ended without [DONE]");
    if (!r->is_finished && r->class == CLASS_whole)
        fault(r, CLASS_malformed, "no finish_reason came");
    if (b->numbers)
        check_numbers(r);
}

static void ask(struct asker *a, struct client_session *session)
{
    struct bench *b = a->b;
    struct answer r = {.a = a, .sent_ns = clock_mono_ns()};
    struct client_call c = {.session = session,
                            .base = b->base,
                            .path = "/v1/chat/completions",
                            .body = b->body.data,
                            .body_len = b->body.len,
                            .timeout_ms = (long)b->timeout_s * 1000,
                            .on_data = b->stream ? on_data : NULL,
                            .arg = &r};
    struct err err = {0};

    int rc = client_run(&c, &err);
    judge(&r, &c, rc, &err);
    a->count[r.class]++;
    if (r.class == CLASS_whole) {
        add(&a->latency, (double)(clock_mono_ns() - r.sent_ns) / 1e3);
        if (b->stream && r.n_piece)
            add(&a->ttft, (double)(r.first_ns - r.sent_ns) / 1e3);
        if (b->stream && r.n_piece > 1)
            add(&a->gap, (double)r.max_gap_ns / 1e3);
    }
    client_release(&c);
    sse_reader_release(&r.sse);
    buf_release(&r.text);
}

static void *asker_thread(void *arg)
{
    struct asker *a = arg;
    struct client_session *session = client_session_new();

    while (atomic_fetch_add(&a->b->n_started, 1) < a->b->n_request)
        ask(a, session);
    client_session_destroy(&session);
    return NULL;
}

/* ---- the report ---- */

static void join_list(struct list *to, struct list *from)
{
    for (size_t i = 0; i < from->n; i++)
        add(to, from->v[i]);
    mem_free(from->v);
    *from = (struct list){0};
}

static double quantile(const struct list *l, double q)
{
    return l->n ? l->v[(size_t)((double)(l->n - 1) * q)] : 0;
}

static void add_list(struct buf *out, const char *name, struct list *l, bool json)
{
    if (l->n)
        qsort(l->v, l->n, sizeof *l->v, compare);
    const double p50 = quantile(l, 0.5), p90 = quantile(l, 0.9), p99 = quantile(l, 0.99), max = quantile(l, 1);
    if (json && l->n)
        buf_addf(out, ",\"%s\":{\"n\":%zu,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"max\":%.1f}", name, l->n, p50, p90,
                 p99, max);
    else if (json)
        buf_addf(out, ",\"%s\":null", name);
    else if (l->n)
        buf_addf(out, "%-14s p50 %.0f  p90 %.0f  p99 %.0f  max %.0f\n", name, p50, p90, p99, max);
}

static void add_classes(struct buf *out, const struct asker *sum, bool json)
{
    static const char *const name[CLASS_N] = {
#define X(n) #n,
        CLASS_LIST(X)
#undef X
    };
    for (int i = 0; i < CLASS_N; i++)
        if (json)
            buf_addf(out, ",\"%s\":%lld", name[i], (long long)sum->count[i]);
        else if (sum->count[i])
            buf_addf(out, "%-14s %lld\n", name[i], (long long)sum->count[i]);
}

static void compose(struct buf *out, const struct bench *b, struct asker *sum, double seconds, bool json)
{
    double rps = (double)sum->count[CLASS_whole] / seconds, tps = (double)sum->n_token / seconds;

    if (json)
        buf_addf(
            out,
            "{\"url\":\"%s\",\"concurrency\":%lld,\"requests\":%lld,\"stream\":%s,\"elapsed_s\":%.3f,\"rps\":%.1f,"
            "\"tokens\":%lld,\"tokens_per_s\":%.1f,\"chunks\":%lld",
            b->base, (long long)b->n_conn, (long long)b->n_request, b->stream ? "true" : "false", seconds, rps,
            (long long)sum->n_token, tps, (long long)sum->n_chunk);
    else
        buf_addf(out, "%lld requests, %lld at once, %.2f s: %.1f requests/s, %.1f tokens/s\n",
                 (long long)b->n_request, (long long)b->n_conn, seconds, rps, tps);
    add_classes(out, sum, json);
    add_list(out, "latency_us", &sum->latency, json);
    add_list(out, "ttft_us", &sum->ttft, json);
    add_list(out, "max_gap_us", &sum->gap, json);
    if (!json) {
        if (sum->first_error.code)
            buf_addf(out, "first error    %s\n", sum->first_error.text);
        return;
    }
    buf_add_str(out, ",\"first_error\":");
    if (sum->first_error.code)
        json_add_str(out, sum->first_error.text, strlen(sum->first_error.text));
    else
        buf_add_str(out, "null");
    buf_add_str(out, "}\n");
}

/* ---- the command ---- */

/* The endpoint's first model, when the command line names none. */
static int find_model(struct bench *b, struct buf *name, struct err *err)
{
    struct client_call c = {.base = b->base, .path = "/v1/models", .timeout_ms = MODELS_MS};
    const struct json *root = NULL, *id = NULL;
    struct arena arena = {0};

    int rc = client_run(&c, err);
    if (rc == 0 && c.status != 200)
        rc = client_refused(&c, err);
    if (rc == 0 && json_parse(c.out.data ? c.out.data : "", c.out.len, 0, &arena, &root, NULL) == 0) {
        const struct json *list = json_get(root, "data");
        id = json_is(list, JSON_ARRAY) ? json_get(list->child, "id") : NULL;
    }
    if (rc == 0 && !json_is(id, JSON_STRING))
        rc = err_set(err, ERR_FORMAT, "%s/v1/models names no model; give --model", b->base);
    if (rc == 0)
        buf_add(name, id->text, id->len);
    arena_release(&arena);
    client_release(&c);
    return rc;
}

static void make_body(struct bench *b, const char *model)
{
    struct buf *out = &b->body;

    buf_add_str(out, "{\"model\":");
    json_add_str(out, model, strlen(model));
    buf_add_str(out, ",\"messages\":[{\"role\":\"user\",\"content\":");
    json_add_str(out, b->prompt, strlen(b->prompt));
    buf_addf(out, "}],\"max_tokens\":%lld,\"stream\":%s}", (long long)b->max_tokens,
             b->stream ? "true,\"stream_options\":{\"include_usage\":true}" : "false");
}

static int run(struct bench *b, bool json)
{
    struct asker *asker = mem_array((size_t)b->n_conn, sizeof *asker), sum = {0};
    struct buf out = {0};
    struct err err = {0};
    int n = 0, rc = 0;
    /* The first handle of libcurl must be made before there are threads. */
    struct client_session *first = client_session_new();
    int64_t began = clock_mono_ns();

    for (; n < b->n_conn && !rc; n++) {
        asker[n].b = b;
        int e = pthread_create(&asker[n].thread, NULL, asker_thread, &asker[n]);
        if (e) {
            rc = err_set(&err, ERR_IO, "no thread for connection %d: %s", n, strerror(e));
            atomic_store(&b->n_started, b->n_request);
            break;
        }
    }
    for (int i = 0; i < n; i++) {
        struct asker *a = &asker[i];
        pthread_join(a->thread, NULL);
        for (int k = 0; k < CLASS_N; k++)
            sum.count[k] += a->count[k];
        sum.n_token += a->n_token;
        sum.n_chunk += a->n_chunk;
        join_list(&sum.latency, &a->latency);
        join_list(&sum.ttft, &a->ttft);
        join_list(&sum.gap, &a->gap);
        if (!sum.first_error.code)
            sum.first_error = a->first_error;
    }
    if (!rc) {
        compose(&out, b, &sum, (double)(clock_mono_ns() - began) / 1e9, json);
        rc = cli_write(&out, &err);
    }
    bool all_whole = sum.count[CLASS_whole] == b->n_request;
    mem_free(sum.latency.v);
    mem_free(sum.ttft.v);
    mem_free(sum.gap.v);
    mem_free(asker);
    client_session_destroy(&first);
    buf_release(&out);
    return rc ? cli_fail("bench serve", &err) : all_whole ? CLI_GOOD : CLI_FAILED;
}

int cli_bench_serve_main(int argc, char **argv)
{
    struct bench b = {
        .n_conn = 8, .n_request = 100, .max_tokens = 64, .timeout_s = 600, .prompt = "Tell me about rivers."};
    const char *url = NULL;
    bool json = false;
    const struct flag flag[] = {
        {"url", FLAG_STR, &url, "U", .help = "endpoint; default BATON_URL or " CLIENT_URL_DEFAULT},
        {"concurrency", FLAG_I64, &b.n_conn, "N", .help = "requests at once; default 8", .min = 1,
         .max = CONCURRENCY_MAX},
        {"requests", FLAG_I64, &b.n_request, "N", .help = "in all; default 100", .min = 1, .max = REQUESTS_MAX},
        {"stream", FLAG_BOOL, &b.stream, .help = "ask for streams and check them event by event"},
        {"model", FLAG_STR, &b.model, "M", .help = "default: the first that the endpoint lists"},
        {"prompt", FLAG_STR, &b.prompt, "TEXT", .help = "of every request"},
        {"max-tokens", FLAG_I64, &b.max_tokens, "N", .help = "of output; default 64", .min = 1, .max = 1 << 24},
        {"timeout", FLAG_I64, &b.timeout_s, "S", .help = "seconds a request may take; default 600", .min = 1,
         .max = 86400},
        {"numbers", FLAG_BOOL, &b.numbers, .help = "the output must be 0 1 2 ..., as of workers with --engine sim"},
        {"json", FLAG_BOOL, &json, .help = "one JSON object on stdout"},
    };
    struct flags f = {
        .usage = "baton bench serve --url U --concurrency N --requests N [--stream] [--json] [flags]",
        .about = "Ask a running OpenAI-compatible endpoint and say how fast and how correct it answers.\n"
                 "Exit status 1 unless every request ended as it should.",
        .flag = flag,
        .n_flag = N_ELEM(flag),
    };
    struct buf model = {0};
    struct err err = {0};
    int status = cli_flags("bench serve", &f, argc, argv);

    if (status >= 0)
        return status;
    b.base = client_base(url);
    if (b.n_conn > b.n_request)
        b.n_conn = b.n_request;
    if (!b.model && find_model(&b, &model, &err) != 0) {
        buf_release(&model);
        return cli_fail("bench serve", &err);
    }
    make_body(&b, b.model ? b.model : model.data);
    status = run(&b, json);
    buf_release(&b.body);
    buf_release(&model);
    return status;
}
