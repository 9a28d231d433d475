/* Proves: no bytes in the store's `params` and `extra` columns crash their readers; what can be read is written as the
 * same bytes again, and what the front kept of it as the same text. */
#include "common/base/check.h"
#include "common/mem/mem.h"
#include "controller/api/state.h"
#include "controller/ledger/extra.h"
#include "controller/ledger/params.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_state(const struct ctl_request *r)
{
    struct api_state s = {0}, again = {0};
    struct chat_request q, p;
    struct buf once = {0}, twice = {0};
    struct err err = {0};

    chat_request_init(&q);
    chat_request_init(&p);
    if (api_state_read(r->front_state ? r->front_state : "", r->front_bytes, &s, &q, &err) == 0) {
        api_state_add(&s, &q, &once);
        ASSERT(api_state_read(once.data, once.len, &again, &p, &err) == 0);
        api_state_add(&again, &p, &twice);
        ASSERT(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    } else {
        ASSERT(err.text[0]);
    }
    api_state_release(&s);
    api_state_release(&again);
    chat_request_release(&q);
    chat_request_release(&p);
    buf_release(&once);
    buf_release(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ctl_request *r = ctl_request_new(1);
    struct ctl_output *o = &r->choice[0].out;
    char numerics[MSG_NAME_MAX];
    struct buf again = {0};
    struct err err = {0};

    if (params_decode(PARAMS_VERSION, data, size, r, &err) == 0) {
        params_encode(r, &again);
        ASSERT(again.len == size && memcmp(again.data, data, size) == 0);
        read_state(r);
    } else {
        ASSERT(err.text[0]);
    }
    ctl_output_reserve(o, 4, 2);
    (void)extra_decode(data, size, size % 3 ? 2 : 0, 0, (int64_t)(size % 5), o, numerics, &err);
    buf_release(&again);
    ctl_request_destroy(&r);
    return 0;
}
