/* One call: from the messages of its answer to the events that the user reads. */
#include "proto/client/internal.h"

#include "common/base/err.h"
#include "common/mem/mem.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- the queue ---- */

void baton__item_free(struct item *i)
{
    if (!i)
        return;
    mem_free(i->id);
    mem_free(i->data);
    mem_free(i);
}

static void push(struct baton_call *c, enum baton_event_kind kind, int code, const char *id, const char *data,
                 size_t len)
{
    struct item *i = mem_zalloc(sizeof *i);

    *i = (struct item){.kind = kind, .code = code, .status = c->status, .id = mem_strdup(id),
                       .data = mem_dup(data, len), .len = len};
    if (c->last)
        c->last->next = i;
    else
        c->first = i;
    c->last = i;
    c->queued_bytes += len;
    pthread_cond_broadcast(&c->cond);
}

void baton__call_end(struct baton_call *c, int code, const char *text)
{
    if (c->state == CALL_DONE)
        return;
    push(c, BATON_END, code, "", text, strlen(text));
    c->state = CALL_DONE;
}

void baton__call_unlink(struct baton_call *c)
{
    if (c->prev)
        c->prev->next = c->next;
    else
        c->b->calls = c->next;
    if (c->next)
        c->next->prev = c->prev;
}

void baton__call_free(struct baton_call *c)
{
    while (c->first) {
        struct item *next = c->first->next;
        baton__item_free(c->first);
        c->first = next;
    }
    baton__item_free(c->held);
    mem_free(c->method);
    mem_free(c->path);
    mem_free(c->body);
    mem_free(c->key);
    buf_release(&c->last_id);
    buf_release(&c->reply);
    sse_reader_release(&c->sse);
    pthread_cond_destroy(&c->cond);
    mem_free(c);
}

/* ---- the answer ---- */

/* Forget what came of an answer that is not complete. Events that were queued stay: the next answer begins behind
 * them. */
static void forget_answer(struct baton_call *c)
{
    c->status = 0;
    c->seq = 0;
    c->is_stream = false;
    buf_clear(&c->reply);
    sse_reader_release(&c->sse);
    c->sse = (struct sse_reader){0};
}

void baton__call_again(struct baton_call *c, int64_t now_ms, int64_t ms)
{
    if (c->state == CALL_DONE)
        return;
    forget_answer(c);
    c->state = CALL_ASK;
    c->ask_at_ms = now_ms + ms;
}

/* It was cut off, not by the line: wait a little longer each time. */
static void again_later(struct baton_call *c, int64_t now_ms)
{
    int64_t ms = c->ask_ms ? c->ask_ms : CLIENT_ASK_MS;

    baton__call_again(c, now_ms, ms);
    c->ask_ms = 2 * ms > CLIENT_ASK_MS_MAX ? CLIENT_ASK_MS_MAX : 2 * ms;
}

static const char *field(const struct nat_head *m, const char *name)
{
    for (size_t i = 0; i < m->n_field; i++)
        if (strcasecmp(m->field[i].name, name) == 0)
            return m->field[i].value;
    return "";
}

void baton__call_head(struct baton_call *c, const struct nat_head *m, int64_t now_ms)
{
    c->contact_ms = now_ms;
    c->status = m->status;
    c->is_stream = strncmp(field(m, "Content-Type"), "text/event-stream", 17) == 0;
    snprintf(c->request_id, sizeof c->request_id, "%s", field(m, "x-request-id"));
}

static int on_event(void *arg, const char *data, size_t n)
{
    struct baton_call *c = arg;
    const char *id = c->sse.id.len ? c->sse.id.data : "";

    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) /* the end of a chat stream; BATON_END says so too */
        return 0;
    if (c->sse.id.len) {
        buf_clear(&c->last_id);
        buf_add(&c->last_id, id, c->sse.id.len);
    }
    push(c, BATON_EVENT, 0, id, data, n);
    c->ask_ms = 0;
    return 0;
}

static int on_comment(void *arg, const char *text, size_t n)
{
    (void)arg, (void)text, (void)n; /* keep-alive: contact_ms has it */
    return 0;
}

static const struct sse_reader_events sse_events = {on_event, on_comment};

void baton__call_data(struct baton_call *c, const struct nat_data *m, int64_t now_ms)
{
    c->contact_ms = now_ms;
    if (!c->status || m->seq != c->seq) { /* something was lost on the way */
        baton__call_again(c, now_ms, 0);
        return;
    }
    c->seq++;
    if (c->is_stream) {
        if (sse_reader_feed(&c->sse, m->data, m->n, &sse_events, c))
            baton__call_end(c, BATON_E_REFUSED, "an event of the stream is larger than 16 MiB");
        return;
    }
    if (c->reply.len + m->n > CLIENT_REPLY_BYTES_MAX) {
        baton__call_end(c, BATON_E_REFUSED, "the answer is larger than 64 MiB");
        return;
    }
    buf_add(&c->reply, m->data, m->n);
}

void baton__call_finish(struct baton_call *c, const struct nat_end *m, int64_t now_ms)
{
    c->contact_ms = now_ms;
    if (!c->status || m->n_data != c->seq) {
        baton__call_again(c, now_ms, 0);
        return;
    }
    /* Cut off (a slow reader, a controller that stops), or not served just now: it says "try later". */
    if (!m->complete || (c->status == 503 && c->ask_ms)) {
        again_later(c, now_ms);
        return;
    }
    if (!c->is_stream)
        push(c, BATON_REPLY, 0, "", c->reply.len ? c->reply.data : "", c->reply.len);
    push(c, BATON_END, 0, "", "", 0);
    c->state = CALL_DONE;
}

void baton__call_refused(struct baton_call *c, const char *text)
{
    char line[BATON_TEXT_MAX];

    snprintf(line, sizeof line, "the controller refuses the call: %s", text);
    baton__call_end(c, BATON_E_REFUSED, line);
}
