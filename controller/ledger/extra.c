#include "controller/ledger/extra.h"

#include "common/base/check.h"
#include "controller/ledger/bytes.h"

void extra_encode(const struct ctl_output *o, int32_t n_top, const char *numerics, int64_t first, int64_t n,
                  struct buf *out)
{
    size_t len = strlen(numerics);

    ASSERT(len < MSG_NAME_MAX);
    bytes_add(out, EXTRA_VERSION, 1);
    bytes_add(out, (uint32_t)n_top, 1);
    bytes_add(out, len, 1);
    buf_add(out, numerics, len);
    for (int64_t i = first; i < first + n; i++) {
        bytes_add_f32(out, o->logprob[i]);
        for (int32_t k = 0; k < n_top; k++) {
            bytes_add(out, (uint32_t)o->top[i * n_top + k].id, 4);
            bytes_add_f32(out, o->top[i * n_top + k].logprob);
        }
    }
}

int extra_decode(const void *data, size_t bytes, int32_t n_top, int64_t first, int64_t n, struct ctl_output *o,
                 char numerics[MSG_NAME_MAX], struct err *err)
{
    struct bytes_in in = {.at = data, .n = bytes};

    numerics[0] = 0;
    if (!data || !bytes) {
        for (int64_t i = first; i < first + n; i++) {
            o->logprob[i] = 0;
            for (int32_t k = 0; k < n_top; k++)
                o->top[i * n_top + k] = (struct msg_top){.id = -1};
        }
        return 0;
    }
    uint64_t version = bytes_take(&in, 1), got_top = bytes_take(&in, 1);
    size_t len = (size_t)bytes_take(&in, 1);
    if (version != EXTRA_VERSION)
        return err_set(err, ERR_VERSION, "stored logprobs have version %d, this program knows %d", (int)version,
                       EXTRA_VERSION);
    if (got_top != (uint64_t)n_top || len >= MSG_NAME_MAX || in.n != len + (size_t)n * 4 * (1 + 2 * (size_t)n_top))
        return err_set(err, ERR_FORMAT, "stored logprobs are damaged: %zu bytes for %lld tokens", bytes, (long long)n);
    memcpy(numerics, in.at, len);
    numerics[len] = 0;
    in.at += len;
    in.n -= len;
    for (int64_t i = first; i < first + n; i++) {
        o->logprob[i] = bytes_take_f32(&in);
        for (int32_t k = 0; k < n_top; k++) {
            o->top[i * n_top + k].id = (int32_t)bytes_take(&in, 4);
            o->top[i * n_top + k].logprob = bytes_take_f32(&in);
        }
    }
    return 0;
}
