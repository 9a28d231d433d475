#include "common/base/rand.h"

#include "common/base/check.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

enum { STORE_BYTES = 256 }; /* getrandom never gives less than asked up to here */

static void fetch(void *out, size_t n)
{
    while (getrandom(out, n, 0) != (ssize_t)n)
        if (errno != EINTR)
            BUG("the system has no random bytes");
}

void rand_bytes(void *out, size_t n)
{
    static _Thread_local unsigned char store[STORE_BYTES];
    static _Thread_local size_t n_left;

    for (unsigned char *to = out; n > 0;) {
        if (n_left == 0) {
            fetch(store, sizeof store);
            n_left = sizeof store;
        }
        size_t take = n < n_left ? n : n_left;
        memcpy(to, store + sizeof store - n_left, take);
        memset(store + sizeof store - n_left, 0, take);
        n_left -= take;
        to += take;
        n -= take;
    }
}

void rand_hex(char *out, size_t n)
{
    static const char digit[] = "0123456789abcdef";

    /* The bytes lie in the second half: each is read before its own digits reach it. */
    rand_bytes(out + n, n);
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)out[n + i];
        out[2 * i] = digit[byte >> 4];
        out[2 * i + 1] = digit[byte & 15];
    }
    out[2 * n] = '\0';
}
