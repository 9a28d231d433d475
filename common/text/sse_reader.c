#include "common/text/sse_reader.h"

#include <string.h>

static int end_event(struct sse_reader *s, const struct sse_reader_events *events, void *arg)
{
    int rc = 0;

    if (s->has_data)
        rc = events->on_data(arg, s->data.len ? s->data.data : "", s->data.len);
    s->has_data = false;
    buf_clear(&s->data);
    return rc;
}

static int end_line(struct sse_reader *s, const struct sse_reader_events *events, void *arg)
{
    const char *line = s->line.len ? s->line.data : "";
    size_t len = s->line.len;

    if (len == 0)
        return end_event(s, events, arg);
    const char *colon = memchr(line, ':', len);
    size_t name_len = colon ? (size_t)(colon - line) : len;
    const char *value = colon ? colon + 1 : line + len;
    size_t value_len = (size_t)(line + len - value);
    if (value_len && *value == ' ') {
        value++;
        value_len--;
    }
    if (name_len == 0)
        return events->on_comment(arg, value, value_len);
    if (name_len == 4 && memcmp(line, "data", 4) == 0) {
        if (s->has_data)
            buf_add_char(&s->data, '\n');
        buf_add(&s->data, value, value_len);
        s->has_data = true;
    }
    if (name_len == 2 && memcmp(line, "id", 2) == 0 && !memchr(value, 0, value_len)) {
        buf_clear(&s->id);
        buf_add(&s->id, value, value_len);
    }
    return 0;
}

int sse_reader_feed(struct sse_reader *s, const char *bytes, size_t n, const struct sse_reader_events *events,
                    void *arg)
{
    for (size_t i = 0; i < n; i++) {
        char c = bytes[i];
        bool after_cr = s->last_was_cr;
        s->last_was_cr = c == '\r';
        if (c == '\n' && after_cr)
            continue;
        if (c != '\n' && c != '\r') {
            if (s->line.len + s->data.len >= SSE_READER_EVENT_MAX)
                return ERR_LIMIT;
            buf_add_char(&s->line, c);
            continue;
        }
        int rc = end_line(s, events, arg);
        buf_clear(&s->line);
        if (rc)
            return rc;
    }
    return 0;
}

void sse_reader_release(struct sse_reader *s)
{
    buf_release(&s->line);
    buf_release(&s->data);
    buf_release(&s->id);
}
