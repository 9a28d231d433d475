/* controller/link/prefixes.h - which prefixes a worker has in its cache, as far as it told: a bounded set of keys.
 * Owns:     its table.
 * Lifetime: of the worker's stay; {0} is empty.
 * Thread:   the loop.
 * Limits:   CTL_PREFIXES_MAX keys: further ones are not remembered, and the routing knows a shorter prefix.
 *
 * Keys are low halves of common/ds/prefix_key.h, one per full block of a prefix. A worker with several ranks may have
 * the same one several times: each coming and going is counted. Only a hint: nothing goes wrong when it is wrong.
 */
#ifndef CONTROLLER_LINK_PREFIXES_H
#define CONTROLLER_LINK_PREFIXES_H

#include "common/ds/prefix_key.h"

#include <stddef.h>

enum { CTL_PREFIXES_MAX = 65536 };

struct ctl_prefixes {
    struct ctl_prefixes_item {
        uint64_t key; /* 0: empty */
        uint32_t n;
    } *item;        /* [cap], cap a power of two or 0; linear probing */
    size_t cap, n;
};

void ctl_prefixes_release(struct ctl_prefixes *p); /* repeatable */

/* What happened, in its order; is_all: everything told before is void. */
void ctl_prefixes_apply(struct ctl_prefixes *p, const struct prefix_news *news, int n, bool is_all);

bool ctl_prefixes_has(const struct ctl_prefixes *p, uint64_t key);

/* How many of the blocks with these keys, from the first on, the worker has. A worker that has a block has those before
 * it, so that a search by halves finds the border. */
int64_t ctl_prefixes_match(const struct ctl_prefixes *p, const uint64_t *key, int64_t n);

#endif
