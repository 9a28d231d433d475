#include "controller/cli/progress.h"

#include "common/mem/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void progress_release(struct progress *p)
{
    mem_free(p->row);
    *p = (struct progress){0};
}

static struct progress_row *row_of(struct progress *p, const char *name, size_t n)
{
    for (int i = 0; i < p->n; i++)
        if (strncmp(p->row[i].name, name, n) == 0 && p->row[i].name[n] == '\0')
            return &p->row[i];
    if (p->n == PROGRESS_ROWS_MAX || n >= PROGRESS_NAME_MAX)
        return NULL;
    if (!p->row)
        p->row = mem_array(PROGRESS_ROWS_MAX, sizeof *p->row);
    struct progress_row *r = &p->row[p->n++];
    memcpy(r->name, name, n);
    return r;
}

static int64_t number(const struct json *event, const char *name)
{
    int64_t v = 0;
    const struct json *j = json_get(event, name);
    return json_to_i64(j, &v) ? v : 0;
}

static const char *text(const struct json *event, const char *name)
{
    const struct json *j = json_get(event, name);
    return json_is(j, JSON_STRING) ? j->text : "";
}

static bool is_over(const char *state)
{
    return strcmp(state, "done") == 0 || strcmp(state, "failed") == 0 || strcmp(state, "skipped") == 0 ||
           strcmp(state, "canceled") == 0;
}

/* An event of the step itself. */
static void feed_step(struct progress_row *r, const struct json *event, const char *state)
{
    const struct json *items = json_get(json_get(event, "result"), "items");

    snprintf(r->state, sizeof r->state, "%s", state);
    if (strcmp(state, "started") == 0 && items)
        json_to_i64(items, &r->n_item);
    if (!r->begun_ms)
        r->begun_ms = number(event, "at_ms");
    if (is_over(state))
        r->over_ms = number(event, "at_ms");
    const char *why = text(event, "error");
    if (strcmp(state, "waiting") == 0)
        why = *text(json_get(event, "result"), "token") ? "for an approval" : "for its time";
    snprintf(r->note, sizeof r->note, "%s", strcmp(state, "done") == 0 ? "" : why);
}

void progress_feed(struct progress *p, const struct json *event)
{
    const char *path = text(event, "path"), *state = text(event, "state");
    size_t n = strcspn(path, ".[");

    if (strcmp(text(event, "type"), "step") != 0 || n == 0)
        return;
    struct progress_row *r = row_of(p, path, n);
    if (!r) {
        p->n_hidden++;
        return;
    }
    r->n_retry += strcmp(state, "retry") == 0 || strcmp(state, "invalid") == 0;
    r->output_tok += number(json_get(event, "usage"), "completion_tokens");
    if (path[n] == '\0') {
        feed_step(r, event, state);
        return;
    }
    const char *rest = path + n + 1 + strcspn(path + n + 1, ".[");
    if (path[n] == '.') { /* a turn of an agent loop, or a call in it */
        r->n_turn += *rest == '\0' && strcmp(state, "started") == 0;
        return;
    }
    if (*rest) /* inside an item */
        return;
    if (is_over(state)) {
        r->n_over++;
        r->n_failed += strcmp(state, "failed") == 0;
        r->n_live -= r->n_live > 0;
    } else if (strcmp(state, "started") == 0 && number(event, "attempt") <= 1) {
        r->n_live++;
    }
}

static void add_bar(struct buf *out, const struct progress_row *r)
{
    int64_t full = r->n_item ? r->n_over * PROGRESS_BAR / r->n_item : 0;

    full = full > PROGRESS_BAR ? PROGRESS_BAR : full;
    buf_add_str(out, " [");
    for (int i = 0; i < PROGRESS_BAR; i++)
        buf_add_char(out, i < full ? '#' : '.');
    buf_addf(out, "] %" PRId64 "/%" PRId64, r->n_over, r->n_item);
    if (r->n_failed)
        buf_addf(out, ", %" PRId64 " failed", r->n_failed);
}

static void add_row(struct buf *line, const struct progress_row *r, int64_t now_ms)
{
    int64_t ms = r->begun_ms ? (r->over_ms ? r->over_ms : now_ms) - r->begun_ms : 0;

    buf_addf(line, "%-20s %-9s %7.1f s", r->name, *r->state ? r->state : "running", (double)(ms > 0 ? ms : 0) / 1000);
    if (r->n_item)
        add_bar(line, r);
    if (r->n_turn)
        buf_addf(line, "  turn %" PRId64, r->n_turn);
    if (r->output_tok)
        buf_addf(line, "  %" PRId64 " tok", r->output_tok);
    if (r->n_retry)
        buf_addf(line, "  %" PRId64 " again", r->n_retry);
    if (*r->note)
        buf_addf(line, "  %s", r->note);
}

void progress_draw(struct progress *p, int64_t now_ms, int width, struct buf *out)
{
    struct buf line = {0};

    if (p->n_drawn)
        buf_addf(out, "\033[%dA", p->n_drawn);
    for (int i = 0; i < p->n; i++) {
        buf_clear(&line);
        add_row(&line, &p->row[i], now_ms);
        size_t n = line.len;
        if (width > 1 && n >= (size_t)width) /* a wrapped line would be two */
            n = (size_t)width - 1;
        while (n && n < line.len && ((unsigned char)line.data[n] & 0xc0) == 0x80)
            n--;
        buf_add(out, line.data, n);
        buf_add_str(out, "\033[K\n");
    }
    p->n_drawn = p->n;
    buf_release(&line);
}
