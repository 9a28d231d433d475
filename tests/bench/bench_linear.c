/* bench_linear [N_OUT N_IN [THREADS [BACKEND]]]: the op `linear` alone, per weight format and number of rows, on
 * weights that are too many for the caches. Prints GB/s of weights read and GFLOP/s, the best of some passes each. */
#include "common/base/clock.h"
#include "kernels/include/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_MAX = 256, PASSES = 5 };

static const size_t weight_bytes = (size_t)192 << 20;

struct bench {
    const struct kn_backend *backend;
    struct kn_ctx ctx;
    int32_t n_out, n_in;
    uint8_t *data, *scale, *x, *x_s;
    float *y;
};

static const char *const names[] = {[KN_BF16] = "bf16", [KN_F32] = "f32", [KN_FP8] = "fp8", [KN_FP4] = "fp4"};

static size_t bytes_of(enum kn_dtype dtype, size_t n)
{
    return dtype == KN_FP4 ? n / 2 : dtype == KN_FP8 ? n : dtype == KN_BF16 ? 2 * n : 4 * n;
}

/* Seconds of one pass over all matrices that fit into the weights. */
static double pass(struct bench *b, enum kn_dtype dtype, int rows, size_t n_mat)
{
    size_t mat = bytes_of(dtype, (size_t)b->n_out * (size_t)b->n_in);
    int64_t t0 = clock_mono_ns();

    for (size_t i = 0; i < n_mat; i++) {
        struct kn_mat w = {dtype, b->n_out, b->n_in, b->data + i * mat, b->scale};
        struct kn_act x = {(uint16_t *)(void *)b->x, b->x, b->x_s};
        int rc = b->backend->ops->linear(&b->ctx, &(struct kn_linear_args){.n = rows, .factor = 1, .x = x, .w = w,
                                                                           .y_dtype = KN_F32, .y = b->y});
        if (rc) {
            fprintf(stderr, "bench_linear: %s\n", err_name(rc));
            exit(1);
        }
    }
    return (double)(clock_mono_ns() - t0) * 1e-9;
}

static void measure(struct bench *b, enum kn_dtype dtype, int rows)
{
    double n_weight = (double)b->n_out * b->n_in, least = 1e9;
    size_t mat = bytes_of(dtype, (size_t)b->n_out * (size_t)b->n_in), n_mat = weight_bytes / mat;

    while (n_mat > 1 && n_weight * 2 * rows * (double)n_mat > 4e10)
        n_mat /= 2;
    for (int i = 0; i < PASSES; i++) {
        double s = pass(b, dtype, rows, n_mat);
        least = s < least ? s : least;
    }
    printf("%-5s %4d rows  %7.2f GB/s  %7.1f GFLOP/s\n", names[dtype], rows, (double)mat * (double)n_mat / least * 1e-9,
           n_weight * 2 * rows * (double)n_mat / least * 1e-9);
}

int main(int argc, char **argv)
{
    struct bench b = {.n_out = argc > 2 ? atoi(argv[1]) : 2048, .n_in = argc > 2 ? atoi(argv[2]) : 2048};
    struct err err = {0};
    struct kn_limits limits = {.n_tok = ROWS_MAX, .n_in = b.n_in, .n_out = b.n_out, .dim = 128, .d = b.n_in};

    b.backend = kn_backend_find(argc > 4 ? argv[4] : "cpu");
    b.ctx = (struct kn_ctx){.n_ranks = 1, .n_threads = argc > 3 ? atoi(argv[3]) : 0};
    if (!b.backend || b.n_in % 128 || b.n_out < 1 || b.backend->device->open(&b.ctx, &err)) {
        fprintf(stderr, "bench_linear: %s\n", b.backend ? err.text : "no such back end");
        return 1;
    }
    b.ctx.workspace_bytes = b.backend->workspace_bytes(&limits);
    b.ctx.workspace = aligned_alloc(64, (b.ctx.workspace_bytes + 63) / 64 * 64);
    b.data = aligned_alloc(4096, weight_bytes);
    b.scale = malloc((size_t)b.n_out * (size_t)b.n_in / 32);
    b.x = malloc((size_t)ROWS_MAX * (size_t)b.n_in * 2);
    b.x_s = malloc((size_t)ROWS_MAX * (size_t)b.n_in / 128);
    b.y = malloc((size_t)ROWS_MAX * (size_t)b.n_out * sizeof *b.y);
    if (!b.ctx.workspace || !b.data || !b.scale || !b.x || !b.x_s || !b.y)
        return 1;
    memset(b.scale, 120, (size_t)b.n_out * (size_t)b.n_in / 32); /* codes that are numbers in every format */
    memset(b.x, 0x35, (size_t)ROWS_MAX * (size_t)b.n_in * 2);
    memset(b.x_s, 120, (size_t)ROWS_MAX * (size_t)b.n_in / 128);
    for (size_t i = 0; i < weight_bytes; i++)
        b.data[i] = (uint8_t)((i * 2654435761u >> 13 & 0xb3) | 8);
    for (int rows = 1; rows <= ROWS_MAX; rows = rows < 4 ? rows + 1 : rows * 2 - rows / 2 * (rows == 4 || rows == 6))
        for (enum kn_dtype d = KN_BF16; d <= KN_FP4; d++)
            measure(&b, d, rows);
    return 0;
}
