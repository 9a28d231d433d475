/* Proves: no bytes crash the decoder of native clients' messages or make it read outside them; what decodes can be
 * encoded, and decoding that gives the same bytes again. */
#include "common/base/check.h"
#include "common/mem/arena.h"
#include "common/mem/buf.h"
#include "proto/codec/native.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct buf once = {0}, twice = {0};
    struct err err = {0};
    struct nat_msg m;
    if (nat_decode(data, size, &arena, &m, &err) == 0) {
        ASSERT(nat_encode(&m, &once, &err) == 0);
        ASSERT(nat_decode(once.data, once.len, &arena, &m, &err) == 0);
        ASSERT(nat_encode(&m, &twice, &err) == 0);
        ASSERT(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    } else {
        ASSERT(err.text[0]);
    }
    buf_release(&once);
    buf_release(&twice);
    arena_release(&arena);
    return 0;
}
