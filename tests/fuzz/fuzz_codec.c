/* Proves: no bytes crash the decoder or make it read outside them; what decodes can be encoded, and decoding that gives
 * the same bytes again. */
#include "common/base/check.h"
#include "common/mem/arena.h"
#include "common/mem/buf.h"
#include "proto/codec/msg.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct buf once = {0}, twice = {0};
    struct err err = {0};
    struct msg m;
    if (msg_decode(data, size, &arena, &m, &err) == 0) {
        ASSERT(msg_encode(&m, &once, &err) == 0);
        ASSERT(msg_decode(once.data, once.len, &arena, &m, &err) == 0);
        ASSERT(msg_encode(&m, &twice, &err) == 0);
        ASSERT(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    } else {
        ASSERT(err.text[0]);
    }
    buf_release(&once);
    buf_release(&twice);
    arena_release(&arena);
    return 0;
}
