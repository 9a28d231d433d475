/* Bytes of an HTTP client, cut anywhere: scanner and reader come to the same status, fields and body as with the
 * whole, and the body is never longer than its limit by more than one read. Byte 0 chooses the size of the pieces. */
#include "common/base/check.h"
#include "common/mem/buf.h"
#include "common/mem/mem.h"
#include "controller/http/parser.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

enum { BODY_MAX = 2000 };

struct result {
    int status; /* of the head; 0 good, -1 no end yet */
    int n_field;
    enum http_body body_state;
    struct buf body;
};

static void run(const char *data, size_t n, size_t piece, struct result *r)
{
    struct http_reader *reader = http_reader_new();
    struct http_head *head = mem_zalloc(sizeof *head);
    struct buf in = {0}, bytes = {0};
    struct err err = {0};
    size_t pos = 0, start = 0, end = 0, used, fed = 0;
    enum http_scan scan = HTTP_SCAN_MORE;

    *r = (struct result){.status = -1, .body_state = HTTP_BODY_DONE};
    while (scan == HTTP_SCAN_MORE && fed < n) {
        size_t take = piece < n - fed ? piece : n - fed;
        buf_add(&in, data + fed, take);
        fed += take;
        scan = http_head_scan(in.data, in.len, &pos, &start, &end);
    }
    if (scan == HTTP_SCAN_BAD)
        r->status = 400;
    if (scan == HTTP_SCAN_DONE) {
        ASSERT(end <= in.len && start < end);
        buf_add(&bytes, in.data + start, end - start);
        buf_drop(&in, end);
        r->status = http_reader_head(reader, bytes.data, bytes.len, head, &err);
        for (int i = 0; r->status == 0 && i < head->n_field; i++)
            ASSERT(strlen(head->field[i].name) > 0 && strlen(head->field[i].value) <= bytes.len);
        r->n_field = r->status ? 0 : head->n_field;
        r->body_state = r->status == 0 && head->has_body ? HTTP_BODY_MORE : HTTP_BODY_DONE;
    }
    while (r->body_state == HTTP_BODY_MORE && (in.len || fed < n) && r->body.len <= BODY_MAX) {
        if (!in.len) {
            size_t take = piece < n - fed ? piece : n - fed;
            buf_add(&in, data + fed, take);
            fed += take;
        }
        r->body_state = http_reader_body(reader, in.data, in.len, &used, &r->body, BODY_MAX, &err);
        ASSERT(used <= in.len && (r->body_state != HTTP_BODY_MORE || used == in.len));
        buf_drop(&in, used);
    }
    buf_release(&in);
    buf_release(&bytes);
    mem_free(head);
    http_reader_destroy(&reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct result whole, cut;

    if (size < 1)
        return 0;
    run((const char *)data + 1, size - 1, size, &whole);
    run((const char *)data + 1, size - 1, 1 + data[0] % 64, &cut);
    ASSERT(whole.status == cut.status && whole.n_field == cut.n_field);
    /* A broken body may have given some of its bytes before; a body over the limit stops at another place. */
    if (whole.body.len <= BODY_MAX && cut.body.len <= BODY_MAX) {
        ASSERT(whole.body_state == cut.body_state);
        if (whole.body_state != HTTP_BODY_BAD)
            ASSERT(whole.body.len == cut.body.len &&
                   (cut.body.len == 0 || memcmp(whole.body.data, cut.body.data, cut.body.len) == 0));
    }
    buf_release(&whole.body);
    buf_release(&cut.body);
    return 0;
}
