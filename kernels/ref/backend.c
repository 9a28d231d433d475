#include "kernels/ref/ref.h"

#include <stdlib.h>
#include <string.h>

extern const struct kn_ops kn_ops_ref;
extern const struct kn_backend kn_backend_ref;

const struct kn_ops kn_ops_ref = {
#define X(name) .name = kn__ref_##name,
    KN_OP_LIST(X)
#undef X
};

/* Ranks need nothing from each other here: no op is collective. */
static int ref_open(struct kn_ctx *ctx, struct err *err)
{
    (void)err;
    ctx->stream = NULL;
    return 0;
}

static void ref_close(struct kn_ctx *ctx)
{
    (void)ctx;
}

/* calloc, because the kernel gives zero pages only when they are touched; the true start stands in front of what is
 * handed out. */
static int ref_alloc(struct kn_ctx *ctx, size_t bytes, void **p)
{
    (void)ctx;
    if (bytes > SIZE_MAX / 2)
        return ERR_MEM;
    char *raw = calloc(1, bytes + 2 * KN_PAGE_ALIGN);
    if (!raw)
        return ERR_MEM;
    char *at = raw + KN_PAGE_ALIGN + (KN_PAGE_ALIGN - (uintptr_t)raw % KN_PAGE_ALIGN) % KN_PAGE_ALIGN;
    memcpy(at - sizeof raw, &raw, sizeof raw);
    *p = at;
    return 0;
}

static void ref_release(struct kn_ctx *ctx, void *p)
{
    char *raw;

    (void)ctx;
    if (!p)
        return;
    memcpy(&raw, (char *)p - sizeof raw, sizeof raw);
    free(raw);
}

static int ref_copy(struct kn_ctx *ctx, void *to, const void *from, size_t bytes)
{
    (void)ctx;
    if (bytes)
        memcpy(to, from, bytes);
    return 0;
}

static int ref_sync(struct kn_ctx *ctx)
{
    (void)ctx;
    return 0;
}

static int ref_map_weights(struct kn_ctx *ctx, const struct kn_mat *host, struct kn_mat *dev)
{
    (void)ctx;
    *dev = *host;
    return 0;
}

static const struct kn_device ref_device = {
    .open = ref_open,
    .close = ref_close,
    .alloc = ref_alloc,
    .release = ref_release,
    .copy_in = ref_copy,
    .copy_out = ref_copy,
    .sync = ref_sync,
    .map_weights = ref_map_weights,
};

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Of every op what it takes with kn__take, each rounded up to a page; the largest counts. */
static size_t ref_workspace_bytes(const struct kn_limits *l)
{
    size_t dim = (size_t)l->dim, n_head = (size_t)l->n_head, index_dim = (size_t)l->index_dim;
    size_t slack = 16 * KN_PAGE_ALIGN;
    size_t row = (size_t)(l->n_in > l->n_out ? l->n_in : l->n_out);
    size_t gemm = kn__gemm_bytes(l->n_in, l->n_out) + (KN__TILE + 2) * row * sizeof(float); /* a tile beside it */
    size_t attend = (2 * KN_ATTN_GROUP * dim + n_head * (2 * dim + 2) + 2 * dim) * sizeof(double);
    size_t index = KN_INDEX_CHUNK * sizeof(float) + ((size_t)l->index_n_head + 2) * index_dim * sizeof(double) +
                   (size_t)l->top_k * (sizeof(float) + sizeof(int32_t));
    size_t compress = (dim + index_dim) * (2 * sizeof(double) + sizeof(uint16_t)) + dim * sizeof(float);
    return slack + max_size(max_size(gemm, attend), max_size(index, compress));
}

const struct kn_backend kn_backend_ref = {
    .name = "ref",
    .numerics = "ref/f64/1",
    .ops = &kn_ops_ref,
    .device = &ref_device,
    .workspace_bytes = ref_workspace_bytes,
};
