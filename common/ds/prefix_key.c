#include "common/ds/prefix_key.h"

static uint64_t rotl(uint64_t x, int r)
{
    return x << r | x >> (64 - r);
}

static uint64_t finish(uint64_t k)
{
    k ^= k >> 33;
    k *= 0xff51afd7ed558ccdu;
    k ^= k >> 33;
    k *= 0xc4ceb9fe1a85ec53u;
    return k ^ k >> 33;
}

static uint64_t pair(const int32_t *tok, int n, int i)
{
    uint64_t lo = i < n ? (uint32_t)tok[i] : 0, hi = i + 1 < n ? (uint32_t)tok[i + 1] : 0;
    return lo | hi << 32;
}

struct prefix_key prefix_key_next(struct prefix_key before, const int32_t *tok, int n)
{
    const uint64_t c1 = 0x87c37b91114253d5u, c2 = 0x4cf5ad432745937fu;
    uint64_t h1 = before.lo, h2 = before.hi;

    for (int i = 0; i < n; i += 4) {
        uint64_t k1 = pair(tok, n, i), k2 = pair(tok, n, i + 2);
        h1 ^= rotl(k1 * c1, 31) * c2;
        h1 = (rotl(h1, 27) + h2) * 5 + 0x52dce729;
        h2 ^= rotl(k2 * c2, 33) * c1;
        h2 = (rotl(h2, 31) + h1) * 5 + 0x38495ab5;
    }
    h1 ^= (uint64_t)n; /* a short block is not the same block with zeros behind it */
    h2 ^= (uint64_t)n;
    h1 += h2;
    h2 += h1;
    h1 = finish(h1);
    h2 = finish(h2);
    h1 += h2;
    h2 += h1;
    return (struct prefix_key){h1 ? h1 : 1, h2};
}
