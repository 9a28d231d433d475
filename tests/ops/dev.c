#include "tests/ops/dev.h"

#include "tests/unit/test.h"

#include "common/mem/mem.h"
#include "kernels/include/num.h"

#include <string.h>

enum { BAND = 64, BAND_BYTE = 0xa5, POISON = 0xff };

void dev_open(struct dev *d, const struct kn_backend *backend, const struct kn_limits *limits)
{
    struct err err = {0};

    memset(d, 0, sizeof *d);
    d->backend = backend;
    d->ops = backend->ops;
    d->ctx.n_ranks = 1;
    if (backend->device->open(&d->ctx, &err))
        fail_msg("%s", err.text);
    d->ctx.workspace_bytes = backend->workspace_bytes(limits);
    assert_int_equal(backend->device->alloc(&d->ctx, d->ctx.workspace_bytes, &d->ctx.workspace), 0);
}

static char *fetch(struct dev *d, int i)
{
    size_t total = d->part[i].bytes + 2 * BAND;
    char *host = mem_alloc(total);

    assert_int_equal(d->backend->device->copy_out(&d->ctx, host, d->part[i].base, total), 0);
    assert_int_equal(d->backend->device->sync(&d->ctx), 0);
    for (size_t k = 0; k < BAND; k++)
        if ((unsigned char)host[k] != BAND_BYTE || (unsigned char)host[BAND + d->part[i].bytes + k] != BAND_BYTE)
            fail_msg("an op wrote outside of allocation %d of %zu bytes", i, d->part[i].bytes);
    return host;
}

void dev_close(struct dev *d)
{
    for (int i = 0; i < d->n_part; i++) {
        mem_free(fetch(d, i));
        d->backend->device->release(&d->ctx, d->part[i].base);
    }
    d->backend->device->release(&d->ctx, d->ctx.workspace);
    d->backend->device->close(&d->ctx);
}

static void *put(struct dev *d, const void *host, size_t bytes)
{
    unsigned char *image = mem_alloc(bytes + 2 * BAND);
    void *base = NULL;

    assert_true(d->n_part < DEV_PARTS_MAX);
    memset(image, BAND_BYTE, bytes + 2 * BAND);
    if (host)
        memcpy(image + BAND, host, bytes);
    else
        memset(image + BAND, POISON, bytes);
    assert_int_equal(d->backend->device->alloc(&d->ctx, bytes + 2 * BAND, &base), 0);
    assert_int_equal(d->backend->device->copy_in(&d->ctx, base, image, bytes + 2 * BAND), 0);
    mem_free(image);
    d->part[d->n_part].base = base;
    d->part[d->n_part++].bytes = bytes;
    return (char *)base + BAND;
}

void *dev_in(struct dev *d, const void *host, size_t bytes)
{
    return put(d, host, bytes);
}

void *dev_new(struct dev *d, size_t bytes)
{
    return put(d, NULL, bytes);
}

void *dev_out(struct dev *d, const void *dev)
{
    for (int i = 0; i < d->n_part; i++)
        if (d->part[i].base + BAND == (const char *)dev) {
            char *host = fetch(d, i);
            memmove(host, host + BAND, d->part[i].bytes);
            return host;
        }
    fail_msg("not an allocation of this test");
    return NULL;
}

bool dev_is_untouched(struct dev *d, const void *dev)
{
    unsigned char *host = dev_out(d, dev);
    size_t n = 0, i = 0;

    for (int k = 0; k < d->n_part; k++)
        if (d->part[k].base + BAND == (const char *)dev)
            n = d->part[k].bytes;
    while (i < n && host[i] == POISON)
        i++;
    mem_free(host);
    return i == n;
}

const struct kn_backend *dev_backend(int i)
{
    static const char *const names[] = {"ref", "cpu", "cuda"};

    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        const struct kn_backend *b = kn_backend_find(names[k]);
        if (b && i-- == 0)
            return b;
    }
    return NULL;
}

uint32_t rng_u32(struct rng *r)
{
    r->s = r->s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(r->s >> 33);
}

float rng_normal(struct rng *r)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += rng_u32(r) / 2147483648.0;
    return (float)sum;
}

void rng_f32(struct rng *r, float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = scale * rng_normal(r);
}

void rng_bf16(struct rng *r, uint16_t *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = kn_f32_bf16(scale * rng_normal(r));
}
