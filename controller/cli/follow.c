#include "controller/cli/follow.h"

#include "common/base/clock.h"
#include "common/mem/mem.h"
#include "common/text/sse_reader.h"
#include "controller/cli/cli.h"
#include "controller/cli/client.h"
#include "controller/cli/progress.h"

#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { CALL_MS = 30000, WIDTH_DEFAULT = 80, TEXT_MAX = 256 };

struct watch {
    const struct follow *f;
    struct sse_reader sse;
    struct progress progress;
    struct arena arena;
    struct buf out;
    bool draws, ended;
    int64_t seq;      /* of the last event taken; -1: none */
    int64_t drawn_ms; /* monotonic */
    char *state;      /* out */
};

static volatile sig_atomic_t interrupted;

static void on_sigint(int number)
{
    (void)number;
    interrupted = 1;
    signal(SIGINT, SIG_DFL); /* the second one ends us */
}

static int64_t mono_ms(void)
{
    return clock_mono_ns() / 1000000;
}

static void draw(struct watch *w)
{
    struct winsize size = {0};

    if (!w->draws)
        return;
    int width = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : WIDTH_DEFAULT;
    buf_clear(&w->out);
    progress_draw(&w->progress, clock_wall_ms(), width, &w->out);
    if (w->out.len)
        fwrite(w->out.data, 1, w->out.len, stderr);
    w->drawn_ms = mono_ms();
}

static int on_data(void *arg, const char *data, size_t n)
{
    struct watch *w = arg;
    const struct json *event;
    struct err err;
    int64_t seq;

    arena_reset(&w->arena);
    if (json_parse(data, n, 0, &w->arena, &event, &err) != 0 || !json_to_i64(json_get(event, "seq"), &seq))
        return ERR_FORMAT;
    if (seq <= w->seq)
        return 0;
    w->seq = seq;
    if (!w->draws && !w->f->quiet) {
        buf_clear(&w->out);
        buf_add(&w->out, data, n);
        buf_add_char(&w->out, '\n');
        if (cli_write(&w->out, &err))
            return ERR_IO;
    }
    progress_feed(&w->progress, event);
    const struct json *state = json_get(event, "state");
    if (json_is_str(json_get(event, "type"), "run_end") && json_is(state, JSON_STRING)) {
        snprintf(w->state, 16, "%s", state->text);
        w->ended = true;
    }
    if (w->ended || mono_ms() - w->drawn_ms >= FOLLOW_DRAW_MS)
        draw(w);
    return 0;
}

static int on_comment(void *arg, const char *text, size_t n)
{
    (void)text, (void)n;
    draw(arg);
    return 0;
}

static int on_bytes(void *arg, const char *data, size_t n)
{
    static const struct sse_reader_events events = {on_data, on_comment};
    struct watch *w = arg;
    return sse_reader_feed(&w->sse, data, n, &events, w);
}

/* One connection. 0: the stream ended; w->ended tells whether the run did, too. */
static int watch_once(struct watch *w, struct err *err)
{
    char path[TEXT_MAX], last[TEXT_MAX];
    const char *header[] = {last, NULL};
    int64_t before = w->seq;

    snprintf(path, sizeof path, "/v1/runs/%s/events", w->f->run);
    snprintf(last, sizeof last, "Last-Event-ID: %s-%lld", w->f->run, (long long)w->seq);
    struct client_call call = {
        .base = w->f->base,
        .path = path,
        .header = w->seq >= 0 ? header : NULL,
        .on_data = on_bytes,
        .arg = w,
        .cancel = &interrupted,
    };
    int rc = client_run(&call, err);
    sse_reader_release(&w->sse);
    w->sse = (struct sse_reader){0};
    if (rc == 0 && call.status == 404)
        rc = err_set(err, ERR_MISSING, "no run is called %s at %s", w->f->run, w->f->base);
    else if (rc == 0 && call.status >= 500)
        rc = client_refused(&call, err);
    else if (rc == 0 && call.status != 200)
        rc = (client_refused(&call, err), err_set(err, ERR_ARG, "%s", (const char *)err->text));
    client_release(&call);
    return w->seq > before && rc == ERR_NET ? 0 : rc; /* progress: the time away begins anew */
}

static void say_how_to_go_on(const struct follow *f)
{
    fprintf(stderr, "\nbaton %s: the run goes on; `baton runs tail %s` watches it, `baton runs cancel %s` ends it\n",
            f->command, f->run, f->run);
}

static void sleep_ms(int64_t ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static int watch(struct watch *w, struct err *err)
{
    int64_t away_ms = mono_ms(), wait = FOLLOW_WAIT_MS;

    for (;;) {
        int rc = watch_once(w, err);
        if (w->ended)
            return 0;
        if (interrupted) {
            say_how_to_go_on(w->f);
            return err_set(err, ERR_CANCELED, "interrupted");
        }
        if (rc == 0) {
            away_ms = mono_ms();
            wait = FOLLOW_WAIT_MS;
        } else if ((rc != ERR_NET && rc != ERR_TIMEOUT) || mono_ms() - away_ms > FOLLOW_AWAY_MS) {
            return rc;
        }
        sleep_ms(wait);
        wait = wait * 2 > FOLLOW_WAIT_MS_MAX ? FOLLOW_WAIT_MS_MAX : wait * 2;
    }
}

int follow_run(const struct follow *f, char state[16], struct err *err)
{
    struct watch w = {.f = f, .seq = -1, .state = state, .drawn_ms = INT64_MIN / 2};
    struct sigaction act = {.sa_handler = on_sigint}, old;

    w.draws = !f->json && !f->quiet && isatty(STDERR_FILENO);
    interrupted = 0;
    sigaction(SIGINT, &act, &old);
    int rc = watch(&w, err);
    sigaction(SIGINT, &old, NULL);
    progress_release(&w.progress);
    sse_reader_release(&w.sse);
    arena_release(&w.arena);
    buf_release(&w.out);
    return rc;
}

int follow_call(const char *base, const char *path, const struct buf *body, const char *key, struct buf *out,
                struct err *err)
{
    char line[TEXT_MAX];
    const char *header[] = {line, NULL};

    snprintf(line, sizeof line, "Idempotency-Key: %s", key ? key : "");
    struct client_call call = {
        .base = base,
        .path = path,
        .body = body ? (body->data ? body->data : "") : NULL,
        .body_len = body ? body->len : 0,
        .header = key ? header : NULL,
        .timeout_ms = CALL_MS,
    };
    int rc = client_run(&call, err);
    if (rc == 0 && (call.status < 200 || call.status > 299))
        rc = client_refused(&call, err);
    if (rc == 0)
        buf_add(out, call.out.data ? call.out.data : "", call.out.len);
    client_release(&call);
    return rc;
}
